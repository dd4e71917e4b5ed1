"""What a recipe gives, and what recipes share.

Times in the docstrings are for two CPU cores.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optax
from flax import linen as nn

from train import data as sets
from train import optim
from train.data import Data, Split
from train.data.augment import Augment
from train.step import Trained
from zoo import supervised
from zoo.base import Task, UsageError

Source = str | Data | Split


class Goal(NamedTuple):
    """The score that a recipe should reach on its own data."""

    metric: str
    score: float
    at_most: bool = False  # as for a loss; else at least

    def reached(self, value: float) -> bool:
        """Whether a measured value is as good, to four digits."""
        value = round(value, 4)
        return value <= self.score if self.at_most else value >= self.score

    def __str__(self) -> str:
        return f"{self.metric} {'<=' if self.at_most else '>='} {self.score}"


class Recipe(NamedTuple):
    """Everything that a training needs, and the score that it should reach.

    measure(recipe, trained, directory) -> metrics, where they are not those of a
    classification or regression; with a directory it leaves pictures or samples there.
    A "failure" among the metrics is a sentence: the run has not succeeded.
    draw(recipe, trained, seed, n, label) -> images [n, H, W, C] in [0, 1], or n texts:
    of a model that generates.
    """

    model: str  # a few words for `zoo list`
    task: Task
    optimizer: optax.GradientTransformation
    data: Data
    steps: int
    batch_size: int | None  # None: the full batch
    goal: Goal | None = None
    augment: Augment | None = None
    measure: Callable[["Recipe", Trained, Path | None], dict[str, Any]] | None = None
    network: Any = None  # the module, where more is done with it than its task knows
    draw: Callable[..., np.ndarray | list[str]] | None = None
    draws_rows: bool = False  # what becomes of test examples: the data must be there
    writes: bool = False  # text that goes on
    translates: bool = False  # one sequence into another
    accumulate: int = 1  # batches that a step reads, for one update by all
    ema: float | None = None  # decay of a moving average to predict with
    stoppable: bool = True  # its loss on rows not trained on says how good it is


def scheduled(
    optimizer: optim.Name,
    schedule: optim.ScheduleName,
    learning_rate: float,
    steps: int,
    **options: Any,
) -> optax.GradientTransformation:
    """An optimizer whose rate follows a schedule over all of the steps."""
    rate = optim.schedule(schedule, learning_rate, steps)
    return optim.optimizer(optimizer, rate, **options)


def images_of(data: Source, holdout: float | None, target: str | None = None) -> Data:
    """A data set of images [H, W, C]. Raises UsageError for another."""
    rows = sets.load(data, target=target, holdout=holdout)
    if not rows.schema.image:
        raise UsageError(
            f"expected images [H, W, C], found examples of shape {rows.schema.shape} "
            f"in {rows.schema.name}"
        )
    return rows


def labels_for(classes: int, n: int, label: int | None) -> np.ndarray | None:
    """n times the label, or each of the classes in turn; None without classes.

    Raises UsageError where a model without classes is asked for one.
    """
    if not classes:
        if label is not None:
            raise UsageError("expected no label: the model is not conditional")
        return None
    return np.arange(n) % classes if label is None else np.full(n, label)


def fitted(
    build: Callable[[int], nn.Module], rows: Data, inputs: tuple[str, ...] = ("x",)
) -> Task:
    """A class for each output, or one output for a quantity."""
    if rows.schema.regression:
        return supervised.task(build(1), supervised.regression, inputs=inputs)
    model = build(len(rows.schema.classes))
    return supervised.task(model, supervised.classes, inputs=inputs)
