"""What a model is to a trainer: three pure functions.

Batches are dicts of arrays: "x", "y", optionally "length" [B] (entries of a sequence
that are no padding) and "mask" [B] or [B, T] (0 drops an example, or an entry).
Shapes: B batch, T time.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Batch = dict[str, jax.Array]
Number = float | jax.Array
"""A number, or an array [] that may be traced: see `concrete`."""


class UsageError(ValueError):
    """What the caller gave cannot be right; says what was expected and what found."""


class Mean(NamedTuple):
    """A mean kept as (total, count), so that `a + b` merges two batches exactly."""

    total: jax.Array
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count

    @classmethod
    def of(cls, values: jax.Array, mask: jax.Array | None = None) -> "Mean":
        """Values [B, ...] -> their mean over what mask [B], or [B, T], keeps.

        What is dropped may be NaN. Sums are float32 at least: bfloat16 counts to 256.
        """
        values = values.astype(jnp.promote_types(values.dtype, "float32"))
        if mask is None:
            return cls(jnp.sum(values), jnp.asarray(values.size, values.dtype))
        mask = jnp.broadcast_to(_beside(mask, values), values.shape)
        weight = mask.astype(values.dtype)
        return cls(jnp.sum(jnp.where(mask != 0, values * weight, 0)), jnp.sum(weight))

    def __add__(self, other: "Mean") -> "Mean":  # type: ignore[override]
        return Mean(self.total + other.total, self.count + other.count)

    def value(self) -> jax.Array:
        """The mean itself; NaN, without a gradient, where nothing was counted."""
        some = self.count != 0
        return jnp.where(some, self.total / jnp.where(some, self.count, 1), jnp.nan)


def means(values: dict[str, jax.Array], mask: jax.Array | None) -> dict[str, Mean]:
    """Values [B] or [B, T] by name -> Means by name; a mask drops what is padding."""
    return {name: Mean.of(value, mask) for name, value in values.items()}


def masked(batch: Batch, state: Any = None) -> Batch:
    """The batch with zeros wherever its mask drops an example, or an entry of "y".

    What padding holds, NaN too, then reaches neither a value nor a gradient. Raises
    UsageError where a model's `state` is of batch norm: it would have zeros in it.
    """
    if "mask" not in batch:
        return dict(batch)
    if "batch_stats" in str(jax.tree.structure(state)):
        raise UsageError("expected no mask in training: the model has batch norm")
    mask = batch["mask"] != 0
    some = mask.reshape(mask.shape[0], -1).any(1)

    def clean(name, array):
        entries = name == "y" and array.shape[: mask.ndim] == mask.shape
        kept = mask if entries else some
        return jnp.where(_beside(kept, array), array, jnp.zeros((), array.dtype))

    return {k: a if k == "mask" else clean(k, a) for k, a in batch.items()}


def _beside(mask, values):
    """A mask with axes of one entry more, to stand beside values."""
    return mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim))


class Aux(NamedTuple):
    """What a loss reports beside its value."""

    metrics: dict[str, Mean]
    state: Any  # the model's own variables after this batch


class Task(NamedTuple):
    """A model and its objective as pure functions; all that training needs to know.

    init(key, batch) -> (params, state): `params` is what the optimizer changes,
    `state` what the model itself changes (batch statistics), {} if nothing.
    loss(params, state, batch, key, *, train) -> (scalar, Aux). `key` is consumed.
    predict(params, state, batch) -> predictions, without randomness; "y" is not read.
    classes(params, state, batch) -> how many classes "y" has, from shapes alone; None
    where "y" is no label.
    """

    init: Callable[..., tuple[Any, Any]]
    loss: Callable[..., tuple[jax.Array, Aux]]
    predict: Callable[..., jax.Array] | None = None
    classes: Callable[..., int | None] | None = None


def is_weight(params: Any) -> Any:
    """Which parameters weight decay and penalties shrink: a tree of True and False.

    Those with two or more axes whose name says no bias, scale or peephole: the vectors
    of layers that a scan has stacked have two axes too.
    """

    def weighs(path, leaf):
        name = str(getattr(path[-1], "key", path[-1])) if path else ""
        return leaf.ndim > 1 and not name.endswith(("bias", "scale", "peephole"))

    return jax.tree_util.tree_map_with_path(weighs, params)


def concrete(value: Any) -> bool:
    """Whether Python may look at a number: inside `jit` or `vmap` it may be traced."""
    return not isinstance(value, jax.core.Tracer)


def is_zero(value: Any) -> bool:
    """Whether a strength is 0 for certain, so that what it scales may be left out."""
    return concrete(value) and bool(value == 0)


def count_parameters(params: Any) -> int:
    """The number of scalars in a tree of arrays or of their shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def check_int(name: str, value: Any, low: int, high: int = 2**31 - 1) -> int:
    """The value, an integer in [low, high]. Raises UsageError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise UsageError(f"expected a whole number for {name}, found {value!r}")
    if not low <= value <= high:
        raise UsageError(f"expected {name} between {low} and {high}, found {value}")
    return int(value)


def check_inputs(x: jax.Array, axes: str | None = None) -> jax.Array:
    """x itself, once its dtype is floating and it has the named axes ("B H W C").

    Raises UsageError: JAX would compute on, with raw pixels 0..255 as if they were
    scaled, or with an image's width as if it were its channels.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise UsageError(
            f"expected floating-point inputs, found {x.dtype}: "
            "scale integer data first (pixels: x / 255)"
        )
    if axes is not None and x.ndim != len(axes.split()):
        grey = x.ndim == len(axes.split()) - 1
        hint = ": a single channel needs an axis of its own, x[..., None]"
        raise UsageError(
            f"expected inputs [{', '.join(axes.split())}], found shape {x.shape}"
            + hint * grey
        )
    return x
