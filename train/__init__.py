"""Training: one pure step for every model of `zoo`, and what runs it."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from train.recipes.saved import Loaded


def load(path: str | os.PathLike[str]) -> "Loaded":
    """A trained model, of a run's directory or a file of weights, as functions.

    Reads, and never writes. Raises UsageError where there is none.
    """
    from train.recipes import saved  # the step alone needs none of it

    return saved.load(path)
