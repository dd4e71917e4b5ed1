"""A task over a whole data set, in batches of one compiled size."""

import functools
import operator
from collections.abc import Iterator

import jax
import numpy as np

from train.step import State, make_eval
from zoo.base import Task, UsageError


def evaluate(
    task: Task, state: State, data: dict[str, np.ndarray], *, batch_size: int = 500
) -> dict[str, float]:
    """Metrics over all of {"x": [N, ...], "y": ...}, the ragged last batch included."""
    totals = [
        _evaluate(task, state, batch | {"mask": (batch.get("mask", keep).T * keep).T})
        for batch, keep in _batches(data, batch_size)
    ]
    merged = {name: [metrics[name] for metrics in totals] for name in totals[0]}
    return {
        name: float(functools.reduce(operator.add, parts).value())
        for name, parts in merged.items()
    }


def predict(
    task: Task,
    state: State,
    x: np.ndarray | dict[str, np.ndarray],
    *,
    batch_size: int = 500,
) -> np.ndarray:
    """The task's predictions for x [N, ...]: probabilities [N, K] or values [N, ...].

    A dict {"x": ..., "length": [N]} where the model reads more than x. Raises
    UsageError for a task that predicts nothing.
    """
    if task.predict is None:
        raise UsageError("this task has no predictions")
    inputs = (
        {k: v for k, v in x.items() if k != "y"} if isinstance(x, dict) else {"x": x}
    )
    parts = [
        np.asarray(_predict(task, state, batch))[keep > 0]
        for batch, keep in _batches(inputs, batch_size)
    ]
    return np.concatenate(parts)


def _batches(data, size) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Batches of one size, the last filled with zeros, and 1 for real examples [B]."""
    n = len(data["x"])
    size = min(size, n)
    for start in range(0, n, size):
        part = {name: np.asarray(a[start : start + size]) for name, a in data.items()}
        count = len(part["x"])
        fill = {
            name: np.pad(a, [(0, size - count)] + [(0, 0)] * (a.ndim - 1))
            for name, a in part.items()
        }
        yield fill, (np.arange(size) < count).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(task, state, batch):
    return make_eval(task)(state, batch)


@functools.partial(jax.jit, static_argnums=0)
def _predict(task, state, batch):
    return task.predict(state.params, state.model, batch)
