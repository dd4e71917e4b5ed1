"""Checks on the host, before tracing: JAX itself is silent about most of these.

An index out of range is clamped, a label out of range gives a finite loss, a NaN can
vanish in a max, (N, 1) minus (N,) is (N, N).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zoo.base import Task, UsageError


def arrays(data: dict[str, Any], what: str = "data") -> int:
    """The number of examples in {"x": [N, ...], "y": [N, ...]}.

    Raises UsageError for missing, empty or unequal arrays and for NaN or infinity; but
    what "mask" [N] or [N, T] leaves out may be anything.
    """
    if not isinstance(data, dict) or "x" not in data:
        found = sorted(data) if isinstance(data, dict) else type(data).__name__
        raise UsageError(f'expected {what} as a dict with "x", found {found}')
    n = len(data["x"]) if np.ndim(data["x"]) else 0
    if n == 0:
        raise UsageError(f"the {what} is empty: x has shape {np.shape(data['x'])}")
    for name, array in data.items():
        if np.ndim(array) == 0 or len(array) != n:
            raise UsageError(
                f"expected {n} entries in {name!r} as in 'x', found {np.shape(array)}"
            )
    for name, array in data.items():
        wrong = ~np.isfinite(np.asarray(array))
        if name != "mask" and "mask" in data:
            wrong &= _counted(np.asarray(data["mask"]) != 0, wrong.shape)
        bad = np.argwhere(wrong)
        if len(bad):
            raise UsageError(
                f"the {what} has {len(bad)} NaN or infinite values in {name!r}, the "
                f"first in example {bad[0][0]}"
            )
    return n


def _counted(mask, shape):
    """Which entries of an array [N, ...] a mask [N, ...] counts, of its rank; where
    their axes are not the same, all of a row of which it counts one."""
    if mask.shape != shape[: mask.ndim]:
        mask = mask.reshape(len(mask), -1).any(1)
    return mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim))


def labels(task: Task, params: Any, state: Any, data: dict[str, Any]) -> None:
    """Raise UsageError where an integer label is none of the task's classes.

    What a mask drops is not looked at, and nothing past a sequence's length. Also
    traces the loss once without running it, so that shapes that do not fit are reported
    before anything is compiled.
    """
    one = {
        name: jax.ShapeDtypeStruct(
            (1, *np.shape(a)[1:]), jax.dtypes.canonicalize_dtype(a.dtype)
        )
        for name, a in data.items()
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    jax.eval_shape(lambda *a: task.loss(*a, train=False), params, state, one, key)
    y = np.asarray(data["y"]) if "y" in data else None
    if task.classes is None or y is None or not np.issubdtype(y.dtype, np.integer):
        return
    classes = task.classes(params, state, one)
    if classes is None or (0 <= y.min() and y.max() < classes):
        return
    wrong = np.argwhere(((y < 0) | (y >= classes)) & _counts(data, y))
    if len(wrong):
        raise UsageError(
            f"expected labels 0 to {classes - 1} for a model with {classes} classes, "
            f"found {y[tuple(wrong[0])]} in example {wrong[0][0]}"
        )


def _counts(data, y):
    """Which labels [N] or [N, T] a loss counts."""
    mask = np.asarray(data.get("mask", np.ones(len(y)))) != 0
    if y.ndim > 1 and "length" in data:
        length = np.asarray(data["length"]).reshape(-1, 1)
        mask = mask.reshape(len(y), -1) & (np.arange(y.shape[1]) < length)
    return mask.reshape(mask.shape + (1,) * (y.ndim - mask.ndim))


def tokens(task: Task, params: Any, state: Any, data: dict[str, Any]) -> None:
    """Raise UsageError where an integer in "x" has no embedding in the model.

    Flax gives NaN for a token past the end of a table, and the last for -1.
    """
    x = np.asarray(data["x"])
    if not np.issubdtype(x.dtype, np.integer):
        return
    rows = x.reshape(len(x), -1)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    tables = [len(leaf) for path, leaf in leaves if "'embedding'" in str(path[-1])]
    most, at = rows.max(), int(rows.max(1).argmax())
    known = rows.min() >= 0 and most < min(tables, default=0)
    if not known and rows.min() >= 0:  # which table it is, the model knows
        one = {name: jnp.asarray(a[at : at + 1]) for name, a in data.items()}
        loss = jax.jit(task.loss, static_argnames="train")
        value, _ = loss(params, state, one, jax.random.key(0), train=False)
        known = bool(jnp.isfinite(value))
    if not known:
        wrong, at = (
            (most, at) if rows.min() >= 0 else (rows.min(), rows.min(1).argmin())
        )
        raise UsageError(
            f"expected tokens of the model's vocabulary, found {wrong} in example {at}"
        )


def whole(name: str, value: Any, low: int, high: int = 2**31 - 1) -> int:
    """The value, an integer in [low, high]. Raises UsageError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise UsageError(f"expected a whole number for {name}, found {value!r}")
    if not low <= value <= high:
        raise UsageError(f"expected {name} between {low} and {high}, found {value}")
    return int(value)
