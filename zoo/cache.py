"""What a Transformer has read: keys and values, so that the next token costs one step.

A cache is a tree whose leaves have the batch as axis 0, but for the scalar `position`.
Shapes: B batch, L layers, H heads, K entries of a memory, S source time, W width,
D = W / H.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from zoo.base import UsageError, concrete
from zoo.types import Array, Size


class KeyValue(NamedTuple):
    """Keys and values of some entries, ready for attention."""

    key: Float[Array, "B H K D"]
    value: Float[Array, "B H K D"]


class Memory(NamedTuple):
    """A source as the decoder sees it."""

    layers: KeyValue  # [B, L, H, S, W / H]
    real: Bool[Array, "B S"]  # False where it is padding


class Cache(NamedTuple):
    """What a decoder has read, and of an encoder-decoder the source."""

    layers: KeyValue  # [B, L, H, room, W / H]
    position: Int[Array, ""]  # the tokens read
    memory: Memory | None = None


def empty(
    model,
    batch: Size,
    length: Size,
    *,
    kv_heads: int | None = None,
    memory: Memory | None = None,
) -> Cache:
    """The cache of a model's layers before the first token, with room for `length`."""
    heads, size = kv_heads or model.heads, model.width // model.heads
    zeros = jnp.zeros((batch, model.layers, heads, length, size), model.dtype)
    return Cache(KeyValue(zeros, zeros), jnp.int32(0), memory)


def write(cache: KeyValue, new: KeyValue, start: Int[Array, ""]) -> KeyValue:
    """The cache with new entries from `start` on: [B, H, K, D], [B, H, t, D]."""
    return jax.tree.map(
        lambda old, x: jax.lax.dynamic_update_slice_in_dim(
            old, x.astype(old.dtype), start, axis=2
        ),
        cache,
        new,
    )


def check_room(tokens: Int[Array, "B t"], cache: Cache) -> Cache:
    """The cache itself, once the tokens fit behind what it holds.

    Raises UsageError: a write past the end would move to where it fits, over older
    entries. Inside a compiled function, which does not know the position, only where
    they never would fit.
    """
    known = concrete(cache.position)
    free = cache.layers.key.shape[3] - (int(cache.position) if known else 0)
    if tokens.shape[1] > free:
        raise UsageError(
            f"expected at most {free} more tokens in the cache, found {tokens.shape[1]}"
        )
    return cache
