"""The data sets that have a name here: where their rows come from.

Some come with scikit-learn or with this package; the large ones are downloaded, for
nothing is ever made up. All keep their own units: pixels 0..255, digits 0..16.
"""

import math
import operator
from collections.abc import Callable
from functools import partial
from importlib.resources import as_file, files
from typing import Any, NamedTuple

import numpy as np

from train.data.download import fetch
from train.data.formats import read_cifar, read_idx
from train.data.tables import Rows, read_npz
from zoo.base import UsageError

DIGITS = tuple("0123456789")
GARMENTS = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
THINGS = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
# What is known of a data set before it is downloaded: shape and classes.
PUBLISHED = {
    "mnist": ((28, 28, 1), DIGITS),
    "fashion_mnist": ((28, 28, 1), GARMENTS),
    "cifar10": ((32, 32, 3), THINGS),
}


def bundled(name: str) -> Rows:
    """One of scikit-learn's small tables."""
    from sklearn import datasets  # a second to import: only when asked for

    if name == "diabetes":
        found = datasets.load_diabetes(scaled=False)
        return Rows(found.data, found.target)
    found = getattr(datasets, f"load_{name}")()
    x = found.images[..., None] if name == "digits" else found.data
    return Rows(x, found.target, tuple(map(str, found.target_names)))


def packaged(name: str) -> Rows:
    """One of the sets that come with this package.

    mnist5k: 5,000 digits of MNIST, 500 of a class. japanese_vowels: the vowels "ae" as
    spoken by nine men, 12 cepstral coefficients in each of 7 to 29 frames.
    """
    with as_file(files("train.data.files") / f"{name}.npz") as path:
        return read_npz(path)


def truth_table(rule: Callable[[int, int], int]) -> Rows:
    """A function of two bits, as the four rows a single neuron learns from."""
    x = [(a, b) for a in (0, 1) for b in (0, 1)]
    y = [rule(a, b) for a, b in x]
    return Rows(np.array(x), np.array(y), ("0", "1"), plain=True)


def published_idx(name: str) -> Rows:
    """A data set in MNIST's format, downloaded if it is not on this computer."""

    def part(prefix: str) -> tuple[np.ndarray, np.ndarray]:
        x = read_idx(fetch(name, f"{prefix}-images-idx3-ubyte.gz"), 3)
        y = read_idx(fetch(name, f"{prefix}-labels-idx1-ubyte.gz"), 1)
        return check_published(name, x[..., None], y)

    return Rows(*part("train"), PUBLISHED[name][1], part("t10k"))


def cifar10() -> Rows:
    """CIFAR-10, downloaded if it is not on this computer."""
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    batches = read_cifar(
        fetch("cifar10", "cifar-10-binary.tar.gz"),
        [f"cifar-10-batches-bin/{name}.bin" for name in names],
    )
    x, y = (np.concatenate(arrays) for arrays in zip(*batches[:-1], strict=True))
    test = check_published("cifar10", *batches[-1])
    return Rows(*check_published("cifar10", x, y), THINGS, test)


def check_published(
    name: str, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """x and y themselves, once they are what PUBLISHED says. Raises UsageError."""
    shape, classes = PUBLISHED[name]
    if x.shape != (len(y), *shape) or not len(y) or y.max() >= len(classes):
        raise UsageError(
            f"expected {len(y)} images of shape {shape} and labels below "
            f"{len(classes)} in the files of {name}, found shape {x.shape} and labels "
            f"up to {y.max(initial=0)}"
        )
    return x, y


class Series(NamedTuple):
    """A table of a series in time, and how it is forecast unless told otherwise."""

    read: Callable[[], Any]  # -> pandas.DataFrame
    time: str
    target: str
    window: int
    horizon: int


def sunspots() -> Any:
    """The yearly number of sunspots, 1700 to 2008: cycles of about eleven years."""
    import pandas as pd

    with as_file(files("train.data.files") / "sunspots.csv") as path:
        return pd.read_csv(path)


WAVES = (1.9 * math.cos(math.pi / 6), -(0.95**2))


def waves(steps: int = 3000, seed: int = 0) -> Any:
    """An autoregression: x_t = a x_{t-1} + b x_{t-2} + e_t, e ~ N(0, 1).

    (a, b) is WAVES. Its waves of about twelve steps drift in phase and height, and the
    best forecast is known: the mean of what follows two steps, whose squared error h
    steps ahead is the sum of the squares of the first h impulse responses (Box &
    Jenkins, "Time series analysis: forecasting and control", 1970).
    """
    import pandas as pd

    noise = np.random.default_rng(seed).normal(size=steps + 200)
    x = np.zeros(steps + 200)
    for t in range(2, len(x)):
        x[t] = WAVES[0] * x[t - 1] + WAVES[1] * x[t - 2] + noise[t]
    return pd.DataFrame({"step": np.arange(steps), "height": x[200:]})


SERIES: dict[str, Series] = {
    "sunspots": Series(sunspots, "year", "sunspots", 22, 5),
    "waves": Series(waves, "step", "height", 12, 6),
}
NAMES: dict[str, Callable[[], Rows]] = {
    "diabetes": partial(bundled, "diabetes"),
    "breast_cancer": partial(bundled, "breast_cancer"),
    "wine": partial(bundled, "wine"),
    "iris": partial(bundled, "iris"),
    "digits": partial(bundled, "digits"),
    "mnist5k": partial(packaged, "mnist5k"),
    "japanese_vowels": partial(packaged, "japanese_vowels"),
    "mnist": partial(published_idx, "mnist"),
    "fashion_mnist": partial(published_idx, "fashion_mnist"),
    "cifar10": cifar10,
    "and": partial(truth_table, operator.and_),
    "or": partial(truth_table, operator.or_),
    "xor": partial(truth_table, operator.xor),
}
