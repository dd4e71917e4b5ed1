"""A task over a whole data set, in batches of one compiled size; and checks of data.

JAX itself is silent about most of what the checks find: an index out of range is
clamped, a label out of range gives a finite loss, a NaN can vanish in a max.
"""

import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train import mesh as programs
from train.source import Source, batch_shapes, count_rows, stream
from train.step import State, Trained
from zoo.base import Batch, Mean, Number, Task, UsageError, check_int, masked
from zoo.checks import check_ids
from zoo.edges import check_edges


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


# Checks on the host ------------------------------------------------------------------


def check_rows(
    data: dict[str, Any],
    what: str = "data",
    at: Callable[[int], str] = "example {}".format,
) -> int:
    """The number of examples in {"x": [N, ...], "y": [N, ...]}.

    Raises UsageError for missing, empty or unequal arrays and for NaN or infinity; but
    what "mask" [N] or [N, T] leaves out may be anything. at(i) names the i-th.
    """
    n = count_rows(data, what)
    for name, array in data.items():
        wrong = ~np.isfinite(np.asarray(array))
        if name != "mask" and "mask" in data:
            wrong &= _counted(np.asarray(data["mask"]) != 0, wrong.shape)
        bad = np.argwhere(wrong)
        if len(bad):
            raise UsageError(
                f"the {what} has {len(bad)} NaN or infinite values in {name!r}, the "
                f"first in {at(bad[0][0])}"
            )
    return n


def checks(task, trained, batch, what):
    """check(rows, at), which raises UsageError for values that cannot be right."""
    params, model = trained.params, trained.model
    _check_fits(task, params, model, batch)

    def check(rows, at="example {}".format):
        check_rows(rows, what, at)
        _check_labels(task, params, model, batch, rows, at)
        _check_tokens(task, params, model, batch, rows, at)
        _check_edges(rows)

    return check


def _counted(mask, shape):
    """Which entries of an array [N, ...] a mask [N, ...] counts, of its rank; where
    their axes are not the same, all of a row of which it counts one."""
    if mask.shape != shape[: mask.ndim]:
        mask = mask.reshape(len(mask), -1).any(1)
    return mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim))


def check_numbers(
    source: Source,
    steps: int,
    accumulate: int,
    ema: Number | None,
    mesh: jax.sharding.Mesh | None,
) -> None:
    """Raise UsageError for numbers that cannot be right, or do not fit each other."""
    if not isinstance(source, Source):
        raise UsageError(
            f"expected a Source, found {type(source).__name__}: source.examples("
            "arrays, size) of train.source makes one of arrays"
        )
    check_int("steps", steps, 1)
    check_int("accumulate", accumulate, 1)
    if ema is not None and not 0 < ema < 1:
        raise UsageError(f"expected an averaging decay in (0, 1), found {ema}")
    if source.rows is not None and source.size > source.rows:
        raise UsageError(
            f"a step of {source.size} examples is larger than the {source.rows} "
            "training examples"
        )
    devices = 1 if mesh is None else mesh.size
    for size in {a.shape[0] for a in jax.tree.leaves(batch_shapes(source))}:
        if size % (accumulate * devices):
            parts = f"{accumulate} parts over " * (accumulate > 1)
            raise UsageError(
                f"a batch of {size} does not divide into {parts}{devices} devices"
            )


def _check_edges(data):
    """Raise UsageError for edges of graphs that name no node: JAX would clamp them."""
    if "edges" in data and "x" in data:
        edges = np.asarray(data["edges"])
        real = np.asarray(data.get("edge_mask", np.ones(edges.shape[:-1]))) != 0
        if "length" in data:
            inside = edges < np.asarray(data["length"]).reshape(-1, 1, 1)
            real &= inside.all(-1)
        check_edges(edges, np.shape(data["x"])[1], real)


def _check_fits(task, params, state, batch):
    """Trace the loss of shapes without running it: raises what the model raises."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    jax.eval_shape(lambda *a: task.loss(*a, train=False), params, state, batch, key)


def _check_labels(task, params, state, batch, data, at):
    """Raise UsageError where an integer label is none of the task's classes.

    `batch` supplies the shapes that the task sees. What a mask drops is not looked at,
    and nothing past a sequence's length. at(i) names the i-th example.
    """
    y = np.asarray(data["y"]) if "y" in data else None
    if task.classes is None or y is None or not np.issubdtype(y.dtype, np.integer):
        return
    classes = task.classes(params, state, batch)
    if classes is None or (0 <= y.min() and y.max() < classes):
        return
    wrong = np.argwhere(((y < 0) | (y >= classes)) & _counts(data, y))
    if len(wrong):
        raise UsageError(
            f"expected labels 0 to {classes - 1} for a model with {classes} classes, "
            f"found {y[tuple(wrong[0])]} in {at(wrong[0][0])}"
        )


def _counts(data, y):
    """Which labels [N] or [N, T] a loss counts."""
    mask = np.asarray(data.get("mask", np.ones(len(y)))) != 0
    if y.ndim > 1 and "length" in data:
        length = np.asarray(data["length"]).reshape(-1, 1)
        mask = mask.reshape(len(y), -1) & (np.arange(y.shape[1]) < length)
    return mask.reshape(mask.shape + (1,) * (y.ndim - mask.ndim))


def _made(leaf):
    """An array; zeros for one of which the shape alone is known, as of a sweep."""
    known = not isinstance(leaf, jax.ShapeDtypeStruct)
    return leaf if known else jnp.zeros(leaf.shape, leaf.dtype)


def _check_tokens(task, params, state, batch, data, at):
    """Raise UsageError where an integer in "x" has no embedding in the model.

    `batch` supplies the shapes that the task sees, at(i) names the i-th example. Flax
    gives NaN for a token past the end of a table, and the last for -1.
    """
    x = np.asarray(data.get("x", 0))
    if "x" not in data or not np.issubdtype(x.dtype, np.integer):
        return
    if task.ids is not None:
        check_ids(x, task.ids, at=at)
        return
    rows = x.reshape(len(x), -1)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    tables = [len(leaf) for path, leaf in leaves if "'embedding'" in str(path[-1])]
    most, first = rows.max(), int(rows.max(1).argmax())
    known = rows.min() >= 0 and most < min(tables, default=0)
    if not known and rows.min() >= 0:  # which table it is, the model knows
        one = {k: jnp.zeros((1, *a.shape[1:]), a.dtype) for k, a in batch.items()}
        one |= {k: jnp.asarray(a[first : first + 1]) for k, a in data.items()}
        loss = jax.jit(task.loss, static_argnames="train")
        params, state = jax.tree.map(_made, (params, state))
        value, _ = loss(params, state, one, jax.random.key(0), train=False)
        known = bool(jnp.isfinite(value))
    if not known:
        least = rows.min(), rows.min(1).argmin()
        wrong, first = (most, first) if rows.min() >= 0 else least
        raise UsageError(
            f"expected tokens of the model's vocabulary, found {wrong} in {at(first)}"
        )
