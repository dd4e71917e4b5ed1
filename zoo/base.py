"""What a model is to a trainer: three pure functions.

Batches are dicts of arrays: "x", "y", optionally "length" [B] (entries of a sequence
that are no padding) and "mask" [B] or [B, T] (0 drops an example, or an entry).
Shapes: B batch, T time.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Batch = dict[str, jax.Array]


class UsageError(ValueError):
    """What the caller gave cannot be right; says what was expected and what found."""


class Mean(NamedTuple):
    """A mean kept as (total, count), so that `a + b` merges two batches exactly."""

    total: jax.Array
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count

    @classmethod
    def of(cls, values: jax.Array, mask: jax.Array | None = None) -> "Mean":
        """Values [B, ...] -> their mean over what mask [B], or [B, T], keeps."""
        if mask is None:
            return cls(jnp.sum(values), jnp.asarray(values.size, values.dtype))
        more = (1,) * (values.ndim - mask.ndim)
        mask = mask.astype(values.dtype).reshape(mask.shape + more)
        mask = jnp.broadcast_to(mask, values.shape)
        return cls(jnp.sum(values * mask), jnp.sum(mask))

    def __add__(self, other: "Mean") -> "Mean":  # type: ignore[override]
        return Mean(self.total + other.total, self.count + other.count)

    def value(self) -> jax.Array:
        """The mean itself; 0 where every example was masked."""
        return self.total / jnp.where(self.count == 0, 1, self.count)


def means(values: dict[str, jax.Array], mask: jax.Array | None) -> dict[str, Mean]:
    """Values [B] or [B, T] by name -> Means by name; a mask drops what is padding."""
    return {name: Mean.of(value, mask) for name, value in values.items()}


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
    """

    init: Callable[..., tuple[Any, Any]]
    loss: Callable[..., tuple[jax.Array, Aux]]
    predict: Callable[..., jax.Array] | None = None


def count_parameters(params: Any) -> int:
    """The number of scalars in a tree of arrays or of their shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


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
