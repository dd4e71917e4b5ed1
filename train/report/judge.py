"""A classifier that judges generated images: what they show, and how real they look.

Trained on the real images of the same data, in the same units. Its accuracy on real
test images is stated beside every figure.
Shapes: N examples, F features, K classes, H height, W width, C channels.
"""

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train import loop, optim, step
from train.data import Data, download
from train.disk import origin
from train.disk.files import whole
from train.evaluate import evaluate
from train.report import Measured, metrics
from train.report.measure import tested
from train.source import examples, shapes
from zoo import cnn, supervised
from zoo.base import UsageError
from zoo.checks import understood

BATCH = 500


class Judge(NamedTuple):
    """A CNN that knows the classes of a data set."""

    network: cnn.CNN
    variables: Any
    accuracy: float  # on real test images

    def look(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images [N, H, W, C] -> (features [N, F], probabilities [N, K]).

        Raises UsageError for none, and for others.
        """
        if np.ndim(x) != 4 or not len(x):
            raise UsageError(f"expected images [N, H, W, C], found {np.shape(x)}")
        parts = [x[i : i + BATCH] for i in range(0, len(x), BATCH)]
        with understood("images", {"x": parts[0]}):
            seen = [
                _look(self.network, self.variables, jnp.asarray(part)) for part in parts
            ]
        features, p = (np.concatenate(both) for both in zip(*seen, strict=True))
        return features, p


class _Lesson(NamedTuple):
    """All that a judge follows from."""

    network: cnn.CNN
    task: Any
    optimizer: Any
    source: Any
    steps: int


def _lesson(data):
    schema, rows = data.schema, data.train
    if not schema.image or not schema.classes:
        raise UsageError(f"expected images with classes, found {schema.name}")
    build = cnn.two_conv if min(schema.shape[:2]) >= 10 else cnn.one_conv
    network = build(len(schema.classes))
    task = supervised.task(network, supervised.classes)
    size = min(64, len(rows["x"]))
    steps = -(-20 * min(len(rows["x"]), 20_000) // size)
    rate = optim.schedule("warmup_cosine", 2e-3, steps)
    source = examples({name: rows[name] for name in ("x", "y")}, size)
    return _Lesson(network, task, optim.optimizer("adamw", rate), source, steps)


def train(data: Data, seed: int = 0) -> Judge:
    """`cnn.two_conv`, for small images `cnn.one_conv`: twenty times through the images.

    Raises UsageError for data that are no images of classes, and KeyboardInterrupt
    where the training was ended: half a judge would judge wrongly.
    """
    lesson = _lesson(data)
    return _judge(data, lesson, _taught(lesson, seed))


def kept(data: Data, seed: int = 0) -> Judge:
    """The judge that `train` gives, from the user's cache where it is there.

    A file is of one data set, training, version of JAX and kind of device. One that is
    damaged is made anew, and where none can be written none is. Raises as `train`.
    """
    lesson = _lesson(data)
    path = download.cache() / "judges" / f"{_name(lesson, seed)}.safetensors"
    params = _read(path)
    if params is None:
        params = _taught(lesson, seed)
        with contextlib.suppress(OSError):  # no home to write to, a full disk
            _write(path, params)
    return _judge(data, lesson, params)


def _taught(lesson, seed):
    fit = loop.fit(
        lesson.task,
        lesson.optimizer,
        lesson.source,
        steps=lesson.steps,
        seed=seed,
        progress=False,
    )
    if fit.ended == "interrupted":
        raise KeyboardInterrupt
    return fit.trained.params


def _judge(data, lesson, params):
    test, trained = tested(data), step.Trained(params, {})
    rows = {name: test[name] for name in ("x", "y")}
    accuracy = evaluate(lesson.task, trained, rows)["accuracy"]
    return Judge(lesson.network, {"params": params}, accuracy)


def _name(lesson, seed):
    """A hash of all that the parameters follow from: another wants another training."""
    task, optimizer, source, steps = lesson[1:]
    like = shapes(source.arrays)
    update = step.make_step(task, optimizer)

    def begin(arrays):
        batch = source.batch(arrays, jnp.uint32(seed), jnp.int32(0))
        return step.init(task, optimizer, seed, batch)

    def run(state, arrays):
        return update(state, source.batch(arrays, state.seed, state.step))

    program = [origin.text(begin, (like,))]
    program += [origin.text(run, (jax.eval_shape(begin, like), like))]
    about = [program, seed, steps, origin.checksums(source.arrays)]
    about += [jax.__version__, jax.default_backend()]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


def _leaves(params) -> Iterator[tuple[str, np.ndarray]]:
    for module, own in params.items():
        yield from ((f"{module}/{name}", np.asarray(a)) for name, a in own.items())


def _write(path: Path, params: Any) -> None:
    from safetensors.numpy import save

    arrays = dict(_leaves(params))
    sums = {"checksums": json.dumps(origin.checksums(arrays))}
    with whole(path) as part:
        part.write_bytes(save(arrays, sums))


def _read(path: Path) -> Any:
    """Parameters as they were written, None where there are none, or damaged ones."""
    from safetensors import SafetensorError, safe_open

    params: dict[str, dict[str, jax.Array]] = {}
    try:
        with safe_open(path, "np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}
            sums = json.loads((file.metadata() or {})["checksums"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    if sums != origin.checksums(arrays):
        return None
    for path_, array in arrays.items():
        module, name = path_.split("/")
        params.setdefault(module, {})[name] = jnp.asarray(array)
    return params


def verdict(
    judge: Judge, data: Data, images: np.ndarray, labels: np.ndarray | None = None
) -> Measured:
    """What the judge says of generated images [N, H, W, C], beside real ones.

    "frechet": their distance from the test images in the space of the judge's features;
    "frechet_real", that of training images, and "frechet_noise", that of noise, are the
    ends of the scale. All three are of as many images, the most that there are of each:
    fewer are farther away. "confident": the share that it knows with p > 0.9; "rarest":
    the share of the rarest class; "agreement": the share of `labels` [N] that it finds,
    where given. A failure: all of one class, or no better than noise.
    """
    schema = data.schema
    test = tested(data)["x"]
    draw = np.random.default_rng(0)
    n = min(len(images), len(test), len(data.train["x"]))
    real = data.train["x"][draw.permutation(len(data.train["x"]))[:n]]
    low, high = test.min(), test.max()
    noise = draw.uniform(low, high, (n, *test.shape[1:])).astype(np.float32)
    wanted = judge.look(test)[0]
    features, p = judge.look(images)
    found = p.argmax(-1)
    shares = np.bincount(found, minlength=len(schema.classes)) / len(found)
    scores: dict[str, Any] = {
        "frechet": metrics.frechet(features[:n], wanted),
        "frechet_real": metrics.frechet(judge.look(real)[0], wanted),
        "frechet_noise": metrics.frechet(judge.look(noise)[0], wanted),
        "confident": float((p.max(-1) > 0.9).mean()),
        "rarest": float(shares.min()),
        "judge_accuracy": judge.accuracy,
    }
    if labels is not None:
        scores["agreement"] = float((found == labels).mean())
    failure = None
    if scores["frechet"] > scores["frechet_noise"]:
        failure = "the images are farther from real ones than noise is"
    if shares.max() > 0.9:
        common = schema.classes[int(shares.argmax())]
        failure = (
            f"the generator collapsed: {shares.max():.0%} of its images are {common!r}"
        )
    return Measured(scores, failure)


@functools.partial(jax.jit, static_argnums=0)
def _look(network, variables, x):
    def hidden(module, name):
        return module.name == "Dense_0"

    logits, kept = network.apply(
        variables, x, capture_intermediates=hidden, mutable=["intermediates"]
    )
    features = kept["intermediates"]["Dense_0"]["__call__"][0]
    return jax.nn.relu(features), jax.nn.softmax(logits)
