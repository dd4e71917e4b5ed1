"""Wrong calls, one table for every model: what is wrong with rows, numbers, arguments.

A row of ROWS is (what is wrong, what the error must say, the rows so changed, or None
where a model has nothing of the kind); one of CALLS (what is wrong, what the error must
say, the call).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train import evaluate, many, optim
from train.loop import fit
from train.report.judge import Judge
from train.report.samples import translate as told
from train.source import examples, full, rows, windows
from zoo import (
    autoencoder,
    belief,
    cnn,
    gan,
    language,
    mixture,
    mlp,
    recurrent_vae,
    seq2seq,
    supervised,
    transformer,
    vae,
)
from zoo.base import UsageError


class Model(NamedTuple):
    """A model as the table sees it."""

    task: Any
    trained: Any
    rows: dict[str, np.ndarray]
    classes: int | None  # of labels; None where "y" is none
    read: frozenset[str]  # what the loss reads


def outcome(call: Callable[[], Any]) -> tuple[str, str]:
    """("told", "raw" or "silent", what was said)."""
    try:
        call()
    except UsageError as error:
        return "told", str(error)
    except Exception as error:
        return "raw", f"{type(error).__name__}: {error}"
    return "silent", ""


def changed(name: str, change: Callable[[np.ndarray], Any], when: Any = None):
    """rows with an array changed, where the model reads it and `when` is true of it."""

    def make(model):
        if name not in model.rows or name not in model.read:
            return None
        array = model.rows[name]
        if when is not None and not when(array, model):
            return None
        return model.rows | {name: change(array)}

    return make


def put(value):
    """An array whose third row (or last) begins with the value."""

    def change(array):
        array = array.copy()
        array[min(2, len(array) - 1)].flat[0] = value
        return array

    def scalar(array):
        array = array.copy()
        array[min(2, len(array) - 1)] = value
        return array

    return lambda array: scalar(array) if array.ndim == 1 else change(array)


def real(array, model):
    return array.dtype.kind == "f"


def whole(array, model):
    return array.dtype.kind in "iu"


def label(array, model):
    return whole(array, model) and model.classes is not None


def label_each(array, model):
    return label(array, model) and array.ndim == 1


def binary(array, model):
    return label(array, model) and model.classes == 2


def sequence(array, model):
    return "length" in model.rows


def masked(change, name="mask"):
    def make(model):
        if "mask" in model.rows:
            return None
        n = len(model.rows["x"])
        return model.rows | {name: change(np.ones(n, np.float32))}

    return make


def without(name, says=None):
    def make(model):
        if name not in model.read:
            return None
        return {k: a for k, a in model.rows.items() if k != name}

    return make


def graph(change, when=None):
    return changed("edges", change, when)


def alone(array, model):
    """An edge past a length is padding."""
    return "length" not in model.rows


# of what every model reads
INPUTS = [
    ("no x", "x", without("x")),
    ("rows in a list", "dict", lambda m: list(m.rows.values())),
    ("rows that are x alone", "dict", lambda m: m.rows["x"]),
    ("no rows", "empty", lambda m: {k: a[:0] for k, a in m.rows.items()}),
    ("x is None", "x", changed("x", lambda a: None)),
    ("x a number", "x", changed("x", lambda a: 3.0)),
    ("x of strings", "numbers.*x", changed("x", lambda a: a.astype(str))),
    ("x of objects", "numbers.*x", changed("x", lambda a: a.astype(object))),
    ("x complex", "numbers.*x", changed("x", lambda a: a.astype(complex))),
    ("x of dates", "numbers.*x", changed("x", lambda a: np.zeros(a.shape, "M8[D]"))),
    (
        "x big-endian",
        "byte order",
        changed("x", lambda a: a.astype(a.dtype.newbyteorder(">"))),
    ),
    ("a NaN in x", "NaN.*x", changed("x", put(np.nan), real)),
    ("an infinity in x", "NaN.*x", changed("x", put(-np.inf), real)),
    ("fewer x than y", "entries", changed("x", lambda a: a[:-1])),
    (
        "one more of the last axis of x",
        "x",
        changed("x", lambda a: np.concatenate([a, a[..., :1]], -1), real),
    ),
    ("x with an axis more", "x", changed("x", lambda a: a[:, None], sequence)),
    (
        "numbers where x is tokens",
        "integer|read",
        changed("x", lambda a: a + 0.5, whole),
    ),
    ("a token of -1", "-1", changed("x", put(-1), whole)),
    ("a token of 10^6", "1000000", changed("x", put(10**6), whole)),
    ("whole numbers for x", "float|read", changed("x", lambda a: a.astype(int), real)),
    ("a length of 0", "length.*found 0", changed("length", put(0))),
    ("a length of -3", "length.*found -3", changed("length", put(-3))),
    ("a length of 999", "length.*found 999", changed("length", put(999))),
    ("lengths of 2.0", "whole.*length", changed("length", lambda a: a * 1.0)),
    ("lengths [N, 1]", "length.*shape", changed("length", lambda a: a[:, None])),
    ("fewer lengths", "length", changed("length", lambda a: a[:-1])),
    ("no length", "length", without("length")),
    ("no edges", "edges", without("edges")),
    ("an edge to node -1", "node.*-1", graph(put(-1))),
    ("an edge to node 999", "node.*999", graph(put(999), alone)),
    ("edges of three", "edges", graph(lambda a: np.concatenate([a, a[..., :1]], -1))),
    ("real edges", "edges", graph(lambda a: a * 1.0)),
    ("graphs without an axis", "edges", graph(lambda a: a[:, 0])),
]
# of what a loss reads beside it
TARGETS = [
    ("no y", "y", without("y")),
    ("y a number", "y", changed("y", lambda a: 3)),
    ("y of strings", "numbers.*y", changed("y", lambda a: a.astype(str))),
    ("y of objects", "numbers.*y", changed("y", lambda a: a.astype(object))),
    (
        "y big-endian",
        "byte order",
        changed("y", lambda a: a.astype(a.dtype.newbyteorder(">"))),
    ),
    ("a NaN in y", "NaN.*y", changed("y", put(np.nan), real)),
    ("fewer y than x", "entries", changed("y", lambda a: a[:-1])),
    ("more y than x", "entries", changed("y", lambda a: np.concatenate([a, a]))),
    ("a label of -1", "found -1", changed("y", put(-1), label)),
    ("a label past the last", "labels", changed("y", put(10**6), label)),
    ("labels of -1 and 1", "found -1", changed("y", lambda a: 2 * a - 1, binary)),
    (
        "real labels of -1 and 1",
        "found -1|integer class labels",
        changed("y", lambda a: 2.0 * a - 1, binary),
    ),
    ("half labels", "y|label", changed("y", lambda a: a + 0.5, label_each)),
    ("labels [N, 1]", "y|label", changed("y", lambda a: a[:, None], label_each)),
    (
        "labels one-hot",
        "y|label",
        changed("y", lambda a: np.eye(int(a.max()) + 1)[a], label_each),
    ),
    (
        "targets [N, 1, 1]",
        "targets|y",
        changed("y", lambda a: a[..., None, None], real),
    ),
    ("no length of a target", "length", without("length")),
    ("a mask of -1", "mask.*found -1", masked(put(-1.0))),
    ("a mask of 7", "mask.*found 7", masked(put(7.0))),
    ("a mask of zeros", "mask.*no", masked(np.zeros_like)),
    ("a mask of NaN", "mask", masked(put(np.nan))),
    ("a mask of strings", "numbers.*mask", masked(lambda a: a.astype(str))),
    ("fewer masks", "mask", masked(lambda a: a[:-1])),
    ("masks [N, 1, 1, 1, 1, 1]", "mask", masked(lambda a: a.reshape(-1, *[1] * 5))),
    ("a mask misspelt", "maks.*mask", masked(lambda a: a, "maks")),
    (
        "a length misspelt",
        "length",
        lambda m: (
            {{"length": "lenght"}.get(k, k): a for k, a in m.rows.items()}
            if "length" in m.read
            else None
        ),
    ),
]
ROWS = INPUTS + TARGETS


# Calls that are no model's own -------------------------------------------------------

RNG = np.random.default_rng(0)
FLOWERS = {
    "x": RNG.normal(size=(12, 4)).astype(np.float32),
    "y": np.arange(12, dtype=np.int32) % 3,
}
NET = mlp.MLP(3, widths=(4,))
TASK = supervised.task(NET, supervised.classes)
SGD = optim.optimizer("sgd", 0.1)
TEXT = transformer.LanguageModel(11, width=8, layers=1, heads=2)


def fitted(**changes: Any) -> Any:
    asked = {"task": TASK, "optimizer": SGD, "source": examples(FLOWERS, 4), "steps": 1}
    return fit(**asked | {"progress": False} | changes)


@functools.cache
def trained():
    return evaluate.Trained(*jax.jit(TASK.init)(jax.random.key(0), FLOWERS))


def evaluated(rows=FLOWERS, task=TASK, what=None, **more):
    return evaluate.evaluate(task, what or trained(), rows, **more)


def predicted(x, task=TASK, what=None, **more):
    return evaluate.predict(task, what or trained(), x, **more)


def swept(rows=FLOWERS, make=lambda rate: (TASK, optim.optimizer("sgd", rate)), **more):
    axes = {"rate": [0.1, 0.2]}
    source = examples(rows, 4)
    return many.sweep(make, source, 1, **{"axes": axes, "progress": False} | more)


def made(network, x=FLOWERS["x"]):
    return jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=True), x)


def lost(task, rows=FLOWERS):
    key = jax.random.key(0)
    state = jax.eval_shape(task.init, key, rows)
    return jax.eval_shape(lambda *a: task.loss(*a, train=True), *state, rows, key)


@functools.cache
def fresh():
    args = jax.random.key(0), jnp.ones((1, 1), int)
    return jax.jit(TEXT.init)(*args)


def written(prompt=((1, 2),), length=3, **more):
    key, prompt = jax.random.key(0), jnp.asarray(prompt)
    return language.generate(TEXT, fresh(), key, prompt, length, **more)


SPEAKERS = (
    seq2seq.Recurrent(7, 9, features=4, width=4),
    transformer.EncoderDecoder(7, 9, width=4, layers=1, heads=1),
)


def translated(source=((3, 5, 0),), length=4, model=SPEAKERS[0], **more):
    return seq2seq.translate(model, {}, jnp.asarray(source), length, **more)


def drawn(model=None, n=3, labels=None, classes=0):
    model = model or vae.dense((8,), 2, (3,), classes=classes)
    y = None if labels is None else jnp.array(labels)
    if isinstance(model, gan.Generator):
        return gan.generate(model, {"generator": {}}, {}, jax.random.key(0), n, y)
    return vae.generate(model, {}, jax.random.key(0), n, y)


def dreamt(layers=2, n=3, turns=1):
    parts = [{}] * layers
    return belief.generate(belief.stack(8, (4, 3)), parts, jax.random.key(0), n, turns)


def looked(x):
    return Judge(cnn.one_conv(3), {}, 1.0).look(x)


MAKER = gan.dense((8,), 2, (3,), classes=4).generator
NAN = np.float32("nan")
GREY = {"x": RNG.uniform(size=(7, 7, 7)).astype(np.float32)}
NARROW = autoencoder.task(mlp.MLP(7, (3,)))
PIXELS = {"x": RNG.uniform(size=(6, 8)).astype(np.float32)}
BLACK = vae.task(vae.dense((8,), 2, (3,)))

CALLS = [
    ("fit: an optimizer by name", "optimizer", lambda: fitted(optimizer="adam")),
    ("fit: no optimizer", "optimizer", lambda: fitted(optimizer=None)),
    ("fit: a network for a task", "Task", lambda: fitted(task=NET)),
    ("fit: arrays for a source", "Source", lambda: fitted(source=FLOWERS)),
    ("fit: 0 steps", "steps", lambda: fitted(steps=0)),
    ("fit: 1.5 steps", "steps", lambda: fitted(steps=1.5)),
    ("fit: steps a text", "steps", lambda: fitted(steps="10")),
    ("fit: seed -1", "seed", lambda: fitted(seed=-1)),
    ("fit: seed 2^40", "seed", lambda: fitted(seed=2**40)),
    ("fit: seed 0.5", "seed", lambda: fitted(seed=0.5)),
    ("fit: accumulate 0", "accumulate", lambda: fitted(accumulate=0)),
    ("fit: microbatch 3 of 4", "microbatch", lambda: fitted(microbatch=3)),
    ("fit: microbatch 0", "microbatch", lambda: fitted(microbatch=0)),
    ("fit: ema 2", "decay", lambda: fitted(ema=2)),
    ("fit: ema a text", "decay", lambda: fitted(ema="0.9")),
    ("fit: patience alone", "patience", lambda: fitted(patience=3)),
    ("fit: patience 0", "patience", lambda: fitted(patience=0, evaluation=FLOWERS)),
    ("fit: log_every 0", "log_every", lambda: fitted(log_every=0)),
    ("fit: eval_every 0", "eval_every", lambda: fitted(eval_every=0)),
    ("fit: save_seconds -1", "save_seconds", lambda: fitted(save_seconds=-1)),
    ("fit: a callback that is none", "callback", lambda: fitted(callbacks=(3,))),
    ("fit: one callback, no list", "callback", lambda: fitted(callbacks=print)),
    ("fit: a mesh of a number", "mesh", lambda: fitted(mesh=2)),
    ("fit: resume without a folder", "checkpoints", lambda: fitted(resume=True)),
    ("fit: checkpoints a number", "checkpoints", lambda: fitted(checkpoints=5)),
    ("fit: evaluation in a list", "dict", lambda: fitted(evaluation=[1])),
    (
        "fit: labels of the evaluation",
        "found 9 in example 0",
        lambda: fitted(evaluation=FLOWERS | {"y": np.full(12, 9)}),
    ),
    ("fit: init of another", "init", lambda: fitted(init={"a": np.ones(3)})),
    (
        "fit: init is NaN",
        "NaN",
        lambda: fitted(init=jax.tree.map(lambda a: a * NAN, trained().params)),
    ),
    ("source: lists", "array", lambda: examples({"x": [[1.0]], "y": [0]}, 1)),
    ("source: 0 a step", "size", lambda: examples(FLOWERS, 0)),
    ("source: 4.0 a step", "size", lambda: examples(FLOWERS, 4.0)),
    ("source: 13 of 12", "12", lambda: fitted(source=examples(FLOWERS, 13))),
    ("source: row 12 of 12", "12 rows", lambda: rows(FLOWERS, [12], 1)),
    ("source: row -1", "12 rows", lambda: rows(FLOWERS, [-1], 1)),
    ("source: no index", "index", lambda: rows(FLOWERS, [], 1)),
    ("source: a window of 0", "length", lambda: windows(np.arange(9), 0, 2)),
    ("source: a window of all", "tokens", lambda: windows(np.arange(9), 9, 2)),
    ("source: strings", "numbers.*x", lambda: full({"x": np.array(["a"])})),
    ("evaluate: batch_size 0", "batch_size", lambda: evaluated(batch_size=0)),
    ("evaluate: batch_size -1", "batch_size", lambda: evaluated(batch_size=-1)),
    ("evaluate: batch_size 2.5", "batch_size", lambda: evaluated(batch_size=2.5)),
    ("evaluate: seed -1", "seed", lambda: evaluated(seed=-1)),
    ("evaluate: a network", "Task", lambda: evaluated(task=NET)),
    ("evaluate: params alone", "Trained", lambda: evaluated(what=trained().params)),
    (
        "evaluate: another model's",
        "parameters",
        lambda: evaluated(task=supervised.task(mlp.MLP(3, (5,)), supervised.classes)),
    ),
    ("predict: batch_size 0", "batch_size", lambda: predicted(FLOWERS, batch_size=0)),
    ("predict: NaN", "NaN.*x", lambda: predicted(FLOWERS["x"] * NAN)),
    ("predict: 5 features of 4", "x", lambda: predicted(np.ones((2, 5), "f4"))),
    ("predict: no axis", "x", lambda: predicted(3.0)),
    ("predict: nothing", "empty", lambda: predicted(FLOWERS["x"][:0])),
    ("predict: strings", "numbers.*x", lambda: predicted(np.array([["a"] * 4]))),
    ("predict: no predictions", "predictions", lambda: predicted(PIXELS, task=BLACK)),
    ("sweep: labels", "found 9", lambda: swept(FLOWERS | {"y": np.full(12, 9)})),
    ("sweep: strings", "numbers", lambda: swept(FLOWERS | {"y": np.array(["a"] * 12)})),
    ("sweep: a rate of 0", "rate", lambda: swept(axes={"rate": [0.0]})),
    ("sweep: an unknown axis", "rat", lambda: swept(axes={"rat": [0.1]})),
    ("sweep: no seeds", "seed", lambda: swept(seeds=0)),
    ("sweep: seed -1", "seed", lambda: swept(seeds=[-1])),
    (
        "sweep: an optimizer by name",
        "optimizer",
        lambda: swept(make=lambda rate: (TASK, "adam")),
    ),
    ("optimizer: unknown", "adam", lambda: optim.optimizer("adma", 0.1)),
    ("optimizer: no rate", "rate", lambda: optim.optimizer("adam")),
    ("optimizer: a rate of -1", "rate", lambda: optim.optimizer("adam", -1)),
    ("optimizer: a rate of NaN", "rate", lambda: optim.optimizer("adam", NAN)),
    ("optimizer: a rate of text", "rate", lambda: optim.optimizer("adam", "0.1")),
    (
        "optimizer: decay -1",
        "decay",
        lambda: optim.optimizer("adam", 0.1, weight_decay=-1),
    ),
    ("optimizer: clip 0", "clip", lambda: optim.optimizer("adam", 0.1, clip=0)),
    ("optimizer: clip NaN", "clip", lambda: optim.optimizer("adam", 0.1, clip=NAN)),
    ("optimizer: betas", "betas", lambda: optim.optimizer("adam", 0.1, betas=(1, 2))),
    (
        "optimizer: one beta",
        "betas",
        lambda: optim.optimizer("adam", 0.1, betas=(0.9,)),
    ),
    ("schedule: unknown", "cosine", lambda: optim.schedule("cosin", 0.1, 9)),
    ("schedule: 0 steps", "steps", lambda: optim.schedule("cosine", 0.1, 0)),
    ("schedule: a peak of -1", "rate", lambda: optim.schedule("cosine", -1, 9)),
    (
        "schedule: warmup 5",
        "warmup",
        lambda: optim.schedule("warmup_cosine", 0.1, 9, warmup=5),
    ),
    ("model: 0 outputs", "outputs.*found 0", lambda: made(mlp.MLP(0))),
    ("model: -1 outputs", "outputs.*found -1", lambda: made(mlp.MLP(-1))),
    ("model: a width of 0", "width.*found 0", lambda: made(mlp.MLP(3, (0,)))),
    ("model: dropout 1.5", "dropout", lambda: made(mlp.MLP(3, dropout=1.5))),
    ("model: dropout -0.1", "dropout", lambda: made(mlp.MLP(3, dropout=-0.1))),
    ("model: dropout NaN", "dropout", lambda: made(mlp.MLP(3, dropout=float("nan")))),
    (
        "task: l2 of -1",
        "l2",
        lambda: supervised.task(NET, supervised.classes, l2=-1.0),
    ),
    (
        "task: l1 of NaN",
        "l1",
        lambda: supervised.task(NET, supervised.classes, l1=float("nan")),
    ),
    ("task: smoothing 1", "smoothing", lambda: supervised.smoothed(1.0)),
    ("task: beta -1", "beta", lambda: vae.task(vae.dense((8,), 2), beta=-1.0)),
    ("task: anneal -1", "anneal", lambda: vae.task(vae.dense((8,), 2), anneal=-1)),
    ("task: noise -1", "noise", lambda: autoencoder.task(NET, noise=-1.0)),
    (
        "task: a likelihood unknown",
        "likelihood",
        lambda: lost(vae.task(vae.dense((8,), 2, likelihood="normal")), PIXELS),
    ),
    ("autoencoder: x that broadcasts", r"shape", lambda: lost(NARROW, GREY)),
    (
        "VAE: pixels of 2",
        r"\[0, 1\]",
        lambda: fitted(task=BLACK, source=full({"x": 2 + PIXELS["x"]})),
    ),
    (
        "VAE: pixels of -1",
        r"\[0, 1\]",
        lambda: fitted(task=BLACK, source=full({"x": -PIXELS["x"]})),
    ),
    ("generate: token 50 of 11", "50", lambda: written([[1, 50]])),
    ("generate: token -1", "-1", lambda: written([[1, -1]])),
    ("generate: real tokens", "integer", lambda: written([[1.0, 2.0]])),
    ("generate: a prompt [P]", r"\[B, T\]", lambda: written([1, 2])),
    ("generate: no prompt", "prompt", lambda: written(np.zeros((1, 0), int))),
    ("generate: no token", "length", lambda: written(length=0)),
    (
        "generate: prompt_length 5 of 2",
        "prompt_length.*5",
        lambda: written(prompt_length=jnp.array([5])),
    ),
    (
        "generate: prompt_length 0",
        "prompt_length.*0",
        lambda: written(prompt_length=jnp.array([0])),
    ),
    (
        "generate: prompt_length of two",
        "prompt_length",
        lambda: written(prompt_length=jnp.array([1, 2])),
    ),
    ("generate: a temperature of -1", "temperature", lambda: written(temperature=-1.0)),
    ("generate: top_k 12 of 11", "top_k", lambda: written(top_k=12)),
    ("generate: top_p 0", "top_p", lambda: written(top_p=0.0)),
    ("generate: stop 11 of 11", "stop", lambda: written(stop=11)),
    ("generate: a length of 2.5", "length.*2.5", lambda: written(length=2.5)),
    (
        "generate: another model's",
        "parameters cannot read the prompt",
        lambda: language.generate(
            TEXT, {"params": {}}, jax.random.key(0), jnp.ones((1, 2), int), 3
        ),
    ),
    ("translate: token 50 of 7", "0 to 6, found 50", lambda: translated([[3, 50]])),
    ("translate: token -1", "found -1", lambda: translated([[3, -1]])),
    (
        "translate: token 7 of 7, by the other",
        "0 to 6, found 7",
        lambda: translated([[3, 7]], model=SPEAKERS[1]),
    ),
    ("translate: real tokens", "integer", lambda: translated([[1.0, 2.0]])),
    ("translate: a source [S]", r"\[B, S\]", lambda: translated([1, 2])),
    ("translate: no source", "some tokens", lambda: translated(np.zeros((0, 3), int))),
    ("translate: no token", "some tokens", lambda: translated(np.zeros((2, 0), int))),
    ("translate: padding alone", "row 1", lambda: translated([[3, 5], [0, 0]])),
    ("translate: padding before", "padding.*row 0", lambda: translated([[0, 5]])),
    ("translate: padding within", "padding.*row 0", lambda: translated([[3, 0, 5]])),
    ("translate: a length of 0", "length.*found 0", lambda: translated(length=0)),
    ("translate: a length of 2.5", "length.*2.5", lambda: translated(length=2.5)),
    ("translate: 0 beams", "beams.*found 0", lambda: translated(beams=0)),
    ("translate: another model's", "cannot read the source", translated),
    (
        "translate: one text, no list",
        "list of texts.*'abc'",
        lambda: told(SPEAKERS[0], None, trained(), "abc"),
    ),
    ("translate: no text", "list", lambda: told(SPEAKERS[0], None, trained(), [])),
    ("draw: no image", "n between.*found 0", lambda: drawn(n=0)),
    ("draw: -1 images", "n between.*found -1", lambda: drawn(MAKER, n=-1)),
    ("draw: no labels", "labels", lambda: drawn(classes=4)),
    ("draw: labels of none", "without classes", lambda: drawn(labels=[0, 1, 2])),
    ("draw: 2 labels of 3", "label for each", lambda: drawn(MAKER, labels=[0, 1])),
    ("draw: label 4 of 4", "found 4", lambda: drawn(MAKER, labels=[0, 1, 4])),
    ("draw: label -1", "found -1", lambda: drawn(classes=4, labels=[0, 1, -1])),
    ("draw: no dream", "n between.*found 0", lambda: dreamt(n=0)),
    ("draw: -1 turns", "turns between.*found -1", lambda: dreamt(turns=-1)),
    ("draw: one layer of two", "2 machines, found 1", lambda: dreamt(layers=1)),
    (
        "draw: no component",
        "n between.*found 0",
        lambda: mixture.generate(mixture.BernoulliMixture(2), {}, jax.random.key(0), 0),
    ),
    (
        "draw: a text of no token",
        "length between.*found 0",
        lambda: recurrent_vae.generate(
            recurrent_vae.RecurrentVAE(5), {}, jax.random.key(0), 2, 0
        ),
    ),
    (
        "draw: a line of no step",
        "steps between.*found 0",
        lambda: vae.interpolate(vae.dense((8,), 2), {}, PIXELS["x"], PIXELS["x"], 0),
    ),
    ("look: at nothing", "N, H, W, C", lambda: looked(np.zeros((0, 8, 8, 1), "f4"))),
    ("look: at one image", "N, H, W, C", lambda: looked(np.zeros((8, 8, 1), "f4"))),
    ("look: without weights", "read the images", lambda: looked(np.ones((2, 8, 8, 1)))),
]
