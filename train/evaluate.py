"""A task over a whole data set, in batches of one compiled size."""

import functools
import operator
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from train import programs
from train.step import State, Trained
from zoo.base import Batch, Mean, Task, UsageError, masked

# A stream of keys beside those of the training, which are numbered below 2^31 + 2.
EVALUATION = 2**31 + 2


def row_key(seed: int | jax.Array, row: jax.Array) -> jax.Array:
    """The key of all that is drawn to evaluate a row of the data set."""
    key = jax.random.fold_in(jax.random.key(seed), EVALUATION)
    return jax.random.fold_in(key, row)


def make_eval(task: Task) -> Callable[..., dict[str, Mean]]:
    """evaluate(trained, batch, seed=0) -> metrics, in evaluation mode: pure.

    Each example is a batch by itself, whose noise follows from the seed and its number
    in the data set, batch["row"] [B] (in the batch, where there is none): whatever else
    is in the batch, and wherever it stands, its numbers are the same.
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

    What a model draws follows from `seed` and the number of the row alone.
    """
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
    UsageError for a task that predicts nothing.
    """
    if task.predict is None:
        raise UsageError("this task has no predictions")
    inputs = x if isinstance(x, dict) else {"x": x}
    inputs = {k: v for k, v in inputs.items() if k not in ("y", "mask")}
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
    size = min(size, n)
    data = {name: np.asarray(a) for name, a in data.items()}
    data.setdefault("mask", np.ones(n, np.float32))
    for start in range(0, n, size):
        part = {name: a[start : start + size] for name, a in data.items()}
        fill = size - len(part["x"])
        yield {
            name: np.pad(a, [(0, fill)] + [(0, 0)] * (a.ndim - 1))
            for name, a in part.items()
        }
