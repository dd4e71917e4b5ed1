"""Training: one pure step for every model of `zoo`, and what runs it."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from train.recipes.saved import Loaded
    from train.report.summary import Summary
    from zoo.base import Task


def load(path: str | os.PathLike[str]) -> "Loaded":
    """A trained model, of a run's directory or a file of weights, as functions.

    Reads, and never writes. Raises UsageError where there is none.
    """
    from train.recipes import saved  # the step alone needs none of it

    return saved.load(path)


def summary(task: "Task", batch: Mapping[str, Any]) -> "Summary":
    """Layers, output shapes, parameters and operations of a task; print it.

    `batch` is {"x": [B, ...], ...}, or the shapes of one. Raises UsageError.
    """
    from train.report import summary

    return summary.summary(task, batch)
