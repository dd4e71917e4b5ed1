"""What a recipe gives, and what recipes share.

Times in the docstrings are for two CPU cores.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import optax
from flax import linen as nn

from train import optim
from train.augment import Augment
from train.data import Data
from train.step import State
from zoo import supervised
from zoo.base import Task

Source = str | Data


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

    measure(recipe, state, directory) -> metrics, where they are not those of a
    classification or regression; with a directory it leaves pictures or samples there.
    """

    model: str  # a few words for `zoo list`
    task: Task
    optimizer: optax.GradientTransformation
    data: Data
    steps: int
    batch_size: int | None  # None: the full batch
    goal: Goal | None = None
    augment: Augment | None = None
    measure: Callable[["Recipe", State, Path | None], dict[str, Any]] | None = None
    network: nn.Module | None = None  # where more is done with it than its task knows


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


def fitted(
    build: Callable[[int], nn.Module], rows: Data, inputs: tuple[str, ...] = ("x",)
) -> Task:
    """A class for each output, or one output for a quantity."""
    if rows.schema.regression:
        return supervised.task(build(1), supervised.regression, inputs=inputs)
    model = build(len(rows.schema.classes))
    return supervised.task(model, supervised.classes, inputs=inputs)
