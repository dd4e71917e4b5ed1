"""Which learning rate to begin with: one training whose rate grows at each step.

The range test of Smith, "Cyclical learning rates for training neural networks", 2017,
arXiv:1506.01186, section 3.3. Shapes: L steps.
"""

from collections.abc import Callable
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np

from train.loop import training
from train.source import Source
from zoo.base import Task, UsageError, check_int


class Rates(NamedTuple):
    """What a range test has seen."""

    rates: np.ndarray  # [L], the last that was tried before each loss
    losses: np.ndarray  # [L], of the batches
    smooth: np.ndarray  # [L], the same without the noise of batches
    least: float | None  # the rate where it is lowest; None where the loss never fell

    @property
    def suggestion(self) -> float | None:
        """A quarter of that rate, as Smith has it: the recipes' own within 2."""
        return None if self.least is None else self.least / 4


def range_test(
    task: Task,
    make: Callable[[Any], Any],
    source: Source,
    *,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 200,
    seed: int = 0,
    accumulate: int = 1,
) -> Rates:
    """Train while the rate of `make(schedule)`, an optimizer, grows from low to high.

    It ends before `high` where the loss has risen well above where it began. Losses
    are smoothed by a Gaussian over steps. Raises UsageError for a range that is none,
    and where nothing could be trained.
    """
    if not 0 < low < high < np.inf:
        raise UsageError(f"expected learning rates 0 < low < high, found {low}, {high}")
    check_int("steps", steps, 10)
    growth = (high / low) ** (1 / (steps - 1))
    optimizer = make(lambda t: low * growth**t)
    more: dict[str, Any] = {"steps": steps, "seed": seed, "accumulate": accumulate}
    losses: list[float] = []
    with closing(training(task, optimizer, source, log_every=1, **more)) as run:
        for _, record in run:
            if record is not None and "skipped" in record:
                break
            losses += [] if record is None else [record["loss"]]
            if _risen(losses):
                break
    if len(losses) < 3:
        raise UsageError(f"the training diverged at a rate of {low}: expected a lower")
    # a step's loss is that before its update: the rate before has led to it
    rates = low * growth ** np.arange(len(losses) - 1)
    seen = np.array(losses[1:])
    smooth = _smoothed(seen, max(1.0, steps / 40))
    i = int(smooth.argmin())
    fell = smooth[0] - smooth[i] > np.std(seen[: i + 1] - smooth[: i + 1])
    return Rates(rates, seen, smooth, float(rates[i]) if i and fell else None)


def _risen(losses, newest=5):
    """Whether the last ones are as far above the first as that was above the least."""
    if len(losses) < 2 * newest:
        return False
    first, now = np.mean(losses[:newest]), np.mean(losses[-newest:])
    return now > first + max(first - np.min(losses), 0.5 * abs(first))


def _smoothed(values, deviation):
    """Means weighted by a Gaussian over steps; at the ends of what there is."""
    apart = np.arange(len(values))
    weights = np.exp(-0.5 * ((apart[:, None] - apart) / deviation) ** 2)
    return weights @ values / weights.sum(1)
