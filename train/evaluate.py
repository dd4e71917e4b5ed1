"""A task over a whole data set, in batches of one compiled size."""

import functools
import operator
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from train import mesh as programs
from train.check import check_data, check_task
from train.source import stream
from train.step import State, Trained
from zoo.base import Batch, Mean, Task, UsageError, check_int, masked


def row_key(seed: int | jax.Array, row: jax.Array) -> jax.Array:
    """The key of all that is drawn to evaluate a row of the data set."""
    return stream(seed, "evaluation", row)


def make_eval(task: Task) -> Callable[..., dict[str, Mean]]:
    """evaluate(trained, batch, seed=0) -> metrics, in evaluation mode: pure.

    Each example is a batch by itself, whose noise follows from the seed and its number
    in the data set, `batch["row"]` [B] (in the batch, where there is none): whatever
    else is in the batch, and wherever it stands, its numbers are the same.
    """

    def evaluate(
        trained: Trained | State, batch: Batch, seed: int | jax.Array = 0
    ) -> dict[str, Mean]:
        examples = masked(batch)
        rows = examples.pop("row", jnp.arange(batch["x"].shape[0]))

        def alone(row, example):
            one = jax.tree.map(lambda a: a[None], example)
            key = row_key(seed, row)
            _, aux = task.loss(trained.params, trained.model, one, key, train=False)
            return aux.metrics

        each = jax.vmap(alone)(rows, examples)
        return jax.tree.map(lambda a: a.sum(0), each)

    return evaluate


def evaluate(
    task: Task,
    trained: Trained | State,
    data: dict[str, np.ndarray],
    *,
    batch_size: int = 500,
    seed: int = 0,
) -> dict[str, float]:
    """Metrics over all of {"x": [N, ...], "y": ...}, the ragged last batch included.

    What a model draws follows from `seed` and the number of the row alone. Raises
    UsageError as `train.check.check_data` does.
    """
    check_int("seed", seed, 0, 2**32 - 1)
    check_data(task, trained, data)
    return measured(task, trained, data, batch_size=batch_size, seed=seed)


def measured(
    task: Task,
    trained: Trained | State,
    data: dict[str, np.ndarray],
    *,
    batch_size: int = 500,
    seed: int = 0,
) -> dict[str, float]:
    """`evaluate`, of data that are known to be right."""
    data = {"row": np.arange(len(data["x"]), dtype=np.int32), **data}
    what = Trained(trained.params, trained.model)
    totals = [
        programs.call(task.loss, make_eval(task), what, batch, np.uint32(seed))
        for batch in _batches(data, batch_size)
    ]
    merged = {name: [metrics[name] for metrics in totals] for name in totals[0]}
    return {
        name: float(functools.reduce(operator.add, parts).value())
        for name, parts in merged.items()
    }


def predict(
    task: Task,
    trained: Trained | State,
    x: np.ndarray | dict[str, np.ndarray],
    *,
    batch_size: int = 500,
) -> np.ndarray:
    """The task's predictions for x [N, ...]: probabilities [N, K] or values [N, ...].

    A dict {"x": ..., "length": [N]} where the model reads more than x. Raises
    UsageError for a task that predicts nothing, and as `train.check.check_data` does.
    """
    check_task(task)
    if task.predict is None:
        raise UsageError("expected a task with predictions, found one that has none")
    inputs = x if isinstance(x, dict) else {"x": x}
    inputs = {k: v for k, v in inputs.items() if k not in ("y", "mask")}
    check_data(task, trained, inputs, "inputs", predicting=True)
    parts = []
    for batch in _batches(inputs, batch_size):
        keep = batch.pop("mask") > 0
        args = (trained.params, trained.model, batch)
        found = programs.call(task.predict, task.predict, *args)
        parts.append(np.asarray(found)[keep])
    return np.concatenate(parts)


def _batches(data, size) -> Iterator[dict[str, np.ndarray]]:
    """Batches of one size, the last filled with zeros that "mask" drops."""
    n = len(data["x"])
    size = min(check_int("batch_size", size, 1), n)
    data = {name: np.asarray(a) for name, a in data.items()}
    data.setdefault("mask", np.ones(n, np.float32))
    for start in range(0, n, size):
        part = {name: a[start : start + size] for name, a in data.items()}
        fill = size - len(part["x"])
        yield {
            name: np.pad(a, [(0, fill)] + [(0, 0)] * (a.ndim - 1))
            for name, a in part.items()
        }
