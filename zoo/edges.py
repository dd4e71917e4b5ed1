"""The edges of graphs as lists: who sends to whom, sums and softmax over who comes in.

Shapes: B graphs, N nodes, E edges, F edges of both directions, H heads.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from zoo.base import UsageError, concrete, float32
from zoo.types import Array, Lengths, Raw


class Edges(NamedTuple):
    """Who sends to whom, and which of them are no padding."""

    source: Int[Array, "B E"]
    target: Int[Array, "B E"]
    real: Bool[Array, "B E"]


def edges_of(
    edges: Raw,
    nodes: Any,
    length: Lengths | None = None,
    edge_mask: Shaped[Array, "B E"] | None = None,
) -> Edges:
    """The edges of graphs of so many `nodes`: those of padding are 0 -> 0, not real.

    Raises UsageError as `check_edges` does.
    """
    real = jnp.ones(edges.shape[:2], bool) if edge_mask is None else edge_mask != 0
    if length is not None:
        real &= (edges < length.reshape(-1, 1, 1)).all(-1)
    if concrete(edges) and concrete(real):
        check_edges(edges, nodes, real)
    else:
        check_edges(edges, nodes)
    ends = jnp.where(real[..., None], edges, 0)
    return Edges(ends[..., 0], ends[..., 1], real)


def check_edges(edges: Any, nodes: Any, real: Any = True) -> None:
    """Raise UsageError unless edges [..., E, 2] are integers that name nodes.

    The latter is seen of numbers alone, not of what is traced: JAX would clamp them.
    """
    if np.ndim(edges) < 2 or np.shape(edges)[-1] != 2:
        raise UsageError(f"expected edges [..., E, 2], found shape {np.shape(edges)}")
    if not jnp.issubdtype(edges.dtype, jnp.integer):
        raise UsageError(f"expected integer edges, pairs of nodes, found {edges.dtype}")
    if not concrete(edges):
        return
    ends = np.asarray(edges)
    wrong = ends[((ends < 0) | (ends >= nodes)) & np.asarray(real)[..., None]]
    if wrong.size:
        raise UsageError(
            f"expected edges between nodes 0 to {nodes - 1}, found node {wrong[0]}"
        )


def undirected(edges: Any) -> Int[np.ndarray, "F 2"]:
    """Each edge in both directions, and each once: [E, 2] -> [F, 2], on the host."""
    edges = np.asarray(edges)
    return np.unique(np.concatenate([edges, edges[:, ::-1]]), axis=0)


def with_loops(edges: Edges, nodes: Any) -> Edges:
    """The edges, and one from each node to itself, as the last N."""
    own = jnp.broadcast_to(jnp.arange(nodes)[None], (edges.source.shape[0], nodes))
    source, target = (jnp.concatenate([end, own], 1) for end in edges[:2])
    return Edges(source, target, jnp.concatenate([edges.real, own >= 0], 1))


def at(h: Shaped[Array, "B N *D"], index: Int[Array, "B E"]) -> Shaped[Array, "B E *D"]:
    """What the nodes of an index have."""
    return jax.vmap(lambda h, i: h[i])(h, index)


def total(
    values: Float[Array, "B E *D"], edges: Edges, nodes: Any
) -> Float[Array, "..."]:
    """The sum of the values of the edges into each node: [B, N, *D].

    Added up in float32 at least: bfloat16 counts to 256.
    """

    def one(values, target):
        whole = float32(values)
        zero = jnp.zeros((nodes, *values.shape[1:]), whole.dtype)
        return zero.at[target].add(whole).astype(values.dtype)

    real = edges.real.reshape(edges.real.shape + (1,) * (values.ndim - 2))
    return jax.vmap(one)(jnp.where(real, values, 0), edges.target)


def softmax(
    scores: Float[Array, "B E H"], edges: Edges, nodes: Any
) -> Float[Array, "B E H"]:
    """Weights that sum to one over the edges into a node; zero for what is padding."""

    def largest(scores, target):
        low = jnp.full((nodes, *scores.shape[1:]), -jnp.inf, scores.dtype)
        return low.at[target].max(scores)

    real, dtype = edges.real[..., None], scores.dtype
    scores = jnp.where(real, float32(scores), -jnp.inf)
    most = jax.vmap(largest)(jax.lax.stop_gradient(scores), edges.target)
    most = at(jnp.where(jnp.isfinite(most), most, 0), edges.target)
    exp = jnp.where(real, jnp.exp(jnp.where(real, scores - most, 0)), 0)
    sums = at(total(exp, edges, nodes), edges.target)
    return (exp / jnp.where(sums > 0, sums, 1)).astype(dtype)
