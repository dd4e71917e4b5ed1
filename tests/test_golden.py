"""Every model against an independent implementation: forward, gradient, five steps.

The reference ran in PyTorch, in float64 (tests/golden/make_golden.py). Here the models
run twice, from the same weights on the same batches: in float32, as they are used, and
in float64, where the errors fall to 1e-14. So what is left in float32 is rounding, and
not a formula that is only nearly the same. `python -m tests.golden.table` prints all.
"""

import functools
import itertools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from tests.golden import generative
from train import step
from train.optim import optimizer
from zoo import cnn, graph, linear, mlp, rnn, supervised
from zoo.attention import MultiHead
from zoo.base import Task
from zoo.gan import Players
from zoo.transformer import Block

GOLDEN = Path(__file__).parent / "golden"
STEPS = 5
OPTIMIZERS = ("sgd", "momentum", "rmsprop", "adam")


class Case(NamedTuple):
    model: Any  # .apply(variables, x) -> outputs
    task: Task
    idle: tuple[str, ...] = ()  # parameters without effect, see `determined`


def _case(model, *idle):
    return Case(model, supervised.task(model, supervised.classes), idle)


def _mlp(name):
    return _case(mlp.MLP(4, widths=(7, 5), activation=mlp.ACTIVATIONS[name]))


def _recurrent(cell, layers, bidirectional):
    return _case(rnn.Classifier(4, rnn.RNN(cell, 4, layers, bidirectional)))


class Rows(nn.Module):
    """A layer of a Transformer, its outputs as one row: [B, T, D] -> [B, T D].

    With a memory, that is the second half of x.
    """

    block: nn.Module

    def __call__(self, x, *, train=False):
        memory = None
        if getattr(self.block, "cross", False):
            x, memory = jnp.split(x, 2, 1)
        return self.block(x, memory=memory)[0].reshape(len(x), -1)


def _rows(block, *idle):
    """A key's bias is the same in all scores of a query."""
    model = Rows(block)
    idle = [f"block/{name}/bias" for name in idle]
    return Case(model, supervised.task(model, supervised.regression), tuple(idle))


# who sends to whom in the graph of tests/golden/make_golden.py
EDGES = ((1, 0), (4, 0), (0, 1), (2, 1), (0, 2), (1, 2), (3, 2), (0, 3), (4, 3))


class OnGraph(nn.Module):
    """A model of graphs whose edges are all the same, x [B, 5, D]."""

    model: nn.Module

    def __call__(self, x, *, train=False):
        edges = jnp.tile(jnp.array(EDGES)[None], (len(x), 1, 1))
        return self.model(x, edges, train=train)


def _graph(*layers):
    network = graph.Network(layers, jnp.tanh)
    return _case(OnGraph(graph.Classifier(4, network, "sum")))


CASES = {
    "linear_regression": Case(linear.Linear(3), linear.regression(outputs=3)),
    "logistic_regression": Case(linear.Linear(1), linear.logistic()),
    "softmax_regression": Case(linear.Linear(4), linear.softmax(4)),
    **{f"mlp_{name}": _mlp(name) for name in mlp.ACTIVATIONS},
    "mlp_batch_norm": _case(
        mlp.MLP(4, widths=(7, 5), activation=nn.tanh, batch_norm=True),
        "Dense_0/bias",
        "Dense_1/bias",
    ),
    "cnn_1d": _case(cnn.CNN(4, channels=(4, 6), widths=(8,), rank=1)),
    "cnn_2d": _case(cnn.CNN(4, channels=(3, 5), widths=(8,))),
    "resnet_cifar": _case(cnn.resnet_cifar(8, 5, width=2)),
    "resnet_bottleneck": _case(
        cnn.ResNet(5, depths=(1, 1), width=2, bottleneck=True, imagenet=True)
    ),
    **{
        name: _recurrent(cell, layers, bidirectional)
        for name, cell, layers, bidirectional in (
            ("elman", rnn.ELMAN, 1, False),
            ("gru", rnn.GRU, 1, False),
            ("gru_deep", rnn.GRU, 2, True),
            ("lstm", rnn.LSTM, 1, False),
            ("lstm_deep", rnn.LSTM, 2, True),
        )
    },
    "multi_head": _rows(MultiHead(6, 2), "key"),
    "transformer_encoder": _rows(Block(6, 2, causal=True), "attention/key"),
    "transformer_decoder": _rows(
        Block(6, 2, causal=True, cross=True), "attention/key", "cross_attention/key"
    ),
    "gcn": _graph(graph.GCN(4), graph.GCN(5)),
    "gat": _graph(graph.GAT(4, heads=2), graph.GAT(6, heads=2)),
    **{name: Case(*case) for name, case in generative.CASES.items()},
}

# Largest error of an array over the largest entry of its reference. Measured on x86-64:
# float32 2e-7 (forward), 2e-5 (gradient), 1e-5 (steps; 1e-6 of it is Adam's 1 - b2^t);
# float64 5e-16, 2e-14, 3e-14.
TOLERANCE = {
    np.float32: {"forward": 1e-5, "gradient": 1e-4, "step": 1e-4},
    np.float64: {"forward": 1e-13, "gradient": 1e-12, "step": 1e-12},
}


class Error(NamedTuple):
    """Of the worst array: largest error, and that over the reference's largest entry.

    Both are maxima over arrays, not always of the same one.
    """

    absolute: float
    relative: float


def error(found: dict, expected: dict) -> Error:
    """Compare {name: array} with its reference."""
    assert found.keys() == expected.keys()
    errors = [Error(0.0, 0.0)]
    for name, array in expected.items():
        assert np.shape(found[name]) == array.shape, name
        largest = np.abs(np.asarray(found[name], np.float64) - array).max()
        errors.append(Error(float(largest), float(largest / np.abs(array).max())))
    return worst(errors)


def worst(errors) -> Error:
    """The largest of each; a NaN where one is, which Python's max would pass over."""
    return Error(*(float(np.max(column)) for column in zip(*errors, strict=True)))


def compare(column: str, found: Error, dtype) -> None:
    """Raise AssertionError, "COLUMN is off by ...", unless within the tolerance."""
    tolerance = TOLERANCE[dtype].get(column, TOLERANCE[dtype]["step"])
    assert found.relative < tolerance, f"{column} is off by {found.relative:.0e}"


@functools.cache
def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def tree(name: str, kind: str) -> dict[str, np.ndarray]:
    """The arrays before training by path; kind is "weights" or "stats"."""
    arrays, kind = golden(name), f"{kind}/"
    return {k.removeprefix(kind): v for k, v in arrays.items() if k.startswith(kind)}


def reference(name: str, key: str, kind: str) -> dict[str, np.ndarray]:
    """The vector `key`, cut into arrays of the shapes of a tree before training."""
    vector, arrays = golden(name)[key], tree(name, kind)
    assert vector.size == sum(v.size for v in arrays.values())
    pieces = np.split(vector, np.cumsum([v.size for v in arrays.values()]))
    return {
        k: piece.reshape(v.shape)
        for (k, v), piece in zip(arrays.items(), pieces, strict=False)
    }


def start(name: str, dtype):
    """(params, state) and the batches of a case, in a precision."""
    params, stats = (
        unflatten_dict(
            {k: jnp.asarray(v.astype(dtype)) for k, v in tree(name, kind).items()},
            sep="/",
        )
        for kind in ("weights", "stats")
    )
    x, y = golden(name)["x"], golden(name)["y"]
    y = y.astype(dtype) if np.issubdtype(y.dtype, np.floating) else y
    x = x.astype(dtype)
    batches = [{"x": jnp.asarray(x[t]), "y": jnp.asarray(y[t])} for t in range(STEPS)]
    return params, {"batch_stats": stats} if stats else {}, batches


def flat(tree) -> dict:
    return flatten_dict(tree, sep="/")


def determined(name: str, rule: str, arrays: dict) -> dict:
    """The arrays without those that rounding decides.

    Batch norm subtracts the mean, so the bias of the layer before it changes nothing
    but the running mean, and its gradient is zero. Rounding leaves some 1e-9 of it, and
    RMSprop and Adam divide that by its own size: the bias, and with it the running
    mean, walk at random. They are compared after SGD and momentum.
    """
    idle = CASES[name].idle
    if not idle or rule in ("sgd", "momentum"):
        return arrays
    return {k: v for k, v in arrays.items() if k not in idle and "/mean" not in k}


@functools.cache
def compiler_options() -> dict:
    """Compiling takes all the time here: no optimization, where this jax knows how."""
    options = {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
        "xla_cpu_use_fusion_emitters": False,  # jax 0.10
    }
    for name, value in list(options.items()):
        try:
            jax.jit(lambda: 0, compiler_options={name: value})()
        except jax.errors.JaxRuntimeError:
            del options[name]
    return options


def compiled(function):
    return jax.jit(function, compiler_options=compiler_options())


@functools.cache
def once(name: str, dtype) -> tuple[Error, Error]:
    """The errors of the forward pass and of the gradient, on one batch.

    Forward: outputs, predictions and loss in evaluation; loss in training. Raises
    AssertionError where the gradient of an idle parameter is not zero.
    """
    model, task, idle = CASES[name]
    params, state, (batch, *_) = start(name, dtype)

    @compiled
    def evaluate(params, state):
        key = jax.random.key(0)
        loss = jax.value_and_grad(task.loss, has_aux=True)
        (value, _), grad = loss(params, state, batch, key, train=True)
        return grad, {
            "outputs": model.apply({"params": params, **state}, batch["x"]),
            "predictions": task.predict(params, state, batch),
            "eval_loss": task.loss(params, state, batch, key, train=False)[0],
            "loss": value,
        }

    grad, found = evaluate(params, state)
    assert {v.dtype for v in found.values()} == {np.dtype(dtype)}
    forward = error(found, {k: golden(name)[k] for k in found})

    grad, expected = flat(grad), reference(name, "grad", "weights")
    size = max(np.abs(g).max() for g in expected.values())
    for path in idle:  # zero, but for rounding
        left = np.abs(grad.pop(path)).max()
        assert left < 4 * np.finfo(dtype).eps * size, f"idle is not {path}: {left:.0e}"
        assert np.abs(expected.pop(path)).max() < 1e-15
    return forward, error(grad, expected)


class Steps(NamedTuple):
    """The errors of five steps: parameters and statistics after them, losses."""

    weights: Error
    statistics: Error
    losses: Error


def steps(name: str, rule: str, dtype, opt=None) -> Steps:
    """The errors of five steps of an optimizer.

    `opt` is the rule of that name, where optimizers have none. The reference's running
    variance is the biased one already.
    """
    task = CASES[name].task
    params, state, batches = start(name, dtype)
    opt = opt or optimizer(rule, float(golden(name)[f"{rule}/rate"]))
    update = compiled(step.make_step(task, opt))
    now = step.State(jnp.int32(0), params, state, opt.init(params), jnp.uint32(0))
    losses = []
    for batch in batches:
        now, metrics = update(now, batch)
        losses.append(metrics["loss"].value())
    assert now.step == STEPS

    def arrays(tree, kind):
        pair = flat(tree), reference(name, f"{rule}/{kind}", kind)
        return error(*(determined(name, rule, a) for a in pair))

    stats = now.model.get("batch_stats", {})
    expected = dict(enumerate(golden(name)[f"{rule}/losses"]))
    return Steps(
        arrays(now.params, "weights"),
        arrays(stats, "stats"),
        error(dict(enumerate(losses)), expected),
    )


def compare_steps(rule: str, found: Steps, dtype) -> None:
    """Raise AssertionError, as `compare` does."""
    compare(rule, found.weights, dtype)
    compare("statistics", found.statistics, dtype)
    compare("forward", found.losses, dtype)


def precision(dtype):
    return jax.enable_x64(dtype == np.float64)


LONG = ("resnet_bottleneck", "penalty_conv", "vae_conv", "gru_deep", "lstm_deep")
LONG += ("resnet_cifar", "dcgan", "vae_dense", "transformer_decoder", "cnn_1d")


def _runs():
    """Every optimizer in both precisions.

    An optimizer is the same for every model: the regressions run all, the others in
    float32 Adam, or plain descent where Adam leaves something undetermined; a release
    runs all.
    """
    for name, dtype in itertools.product(CASES, (np.float32, np.float64)):
        one = "sgd" if CASES[name].idle else "adam"
        for rule in OPTIMIZERS:
            # statistics of batch norm are seen by steps alone, a cast by float64's
            both = dtype == np.float32 or name == "mlp_batch_norm"
            quick = "regression" in name or (rule == one and both)
            marks = [] if quick else [pytest.mark.slow, pytest.mark.long]
            if quick and name in LONG:
                marks = [pytest.mark.contract]
            label = f"{name}-{rule}-{dtype.__name__}"
            yield pytest.param(name, rule, dtype, id=label, marks=marks)


NAMES = pytest.mark.parametrize("name", CASES)
PRECISIONS = pytest.mark.parametrize(
    "dtype", [np.float32, np.float64], ids=["float32", "float64"]
)
# float64 sees more; in float32, quick are the regressions and the losses of the steps
BOTH = pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(
            name,
            dtype,
            id=f"{name}-{dtype.__name__}",
            marks=[pytest.mark.contract]
            * (dtype == np.float32 and "regression" not in name),
        )
        for dtype in (np.float32, np.float64)
        for name in CASES
    ],
)


@BOTH
def test_forward(name, dtype):
    with precision(dtype):
        compare("forward", once(name, dtype)[0], dtype)


@BOTH
def test_gradient(name, dtype):
    with precision(dtype):
        compare("gradient", once(name, dtype)[1], dtype)


@pytest.mark.parametrize(("name", "rule", "dtype"), list(_runs()))
def test_steps(name, rule, dtype):
    with precision(dtype):
        compare_steps(rule, steps(name, rule, dtype), dtype)


@PRECISIONS
def test_each_player_has_its_own_optimizer(dtype):
    with precision(dtype):
        rates = dict(zip(Players._fields, golden("dcgan")["players/rate"], strict=True))
        adams = {name: optax.adam(float(rate), b1=0.5) for name, rate in rates.items()}
        opt = optax.partition(adams, {name: name for name in rates})
        compare_steps("players", steps("dcgan", "players", dtype, opt), dtype)


@NAMES
def test_tree_is_the_reference(name):
    """The weights compared are all the weights: same paths, same shapes."""
    _, task, _ = CASES[name]
    params, state, (batch, *_) = start(name, np.float32)
    made = jax.eval_shape(task.init, jax.random.key(0), batch)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, (params, state))
