"""Hopfield networks: memories as the minima of an energy, recalled by descent.

Classical: Hopfield, "Neural networks and physical systems with emergent collective
computational abilities", PNAS 79, 1982. Capacity: Amit, Gutfreund & Sompolinsky,
Physical Review Letters 55, 1985 (0.138 D memories of D units). Modern: Ramsauer et al.,
"Hopfield networks is all you need", 2021, arXiv:2008.02217.

Pure functions: what is stored is all there is to learn.
Shapes: B states, N memories, D units.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, PRNGKeyArray, Shaped

from zoo.base import UsageError, check_int, concrete
from zoo.checks import check_inputs
from zoo.types import Array, Number

# Classical: units of -1 and 1 ---------------------------------------------------------


def store(memories: Shaped[Array, "N D"]) -> Float[Array, "D D"]:
    """Hebb's rule: W = sum_n x_n x_n^T / D, with no unit bound to itself.

    Raises UsageError for integers, and, where they may be looked at, for other
    numbers than -1 and 1.
    """
    x = check_inputs(memories, "N D")
    if concrete(x) and not (jnp.abs(x) == 1).all():
        raise UsageError("expected memories of -1 and 1, found others")
    w = x.T @ x / x.shape[1]
    return w * (1 - jnp.eye(x.shape[1], dtype=w.dtype))


def energy(weights: Float[Array, "D D"], x: Float[Array, "B D"]) -> Float[Array, "B"]:
    """-x W x / 2."""
    return -0.5 * ((x @ weights) * x).sum(-1)


def update(
    weights: Float[Array, "D D"], x: Float[Array, "B D"], i: Int[Array, ""] | int
) -> Float[Array, "B D"]:
    """The states with unit i as the others want it; where they do not care, as it was.

    With symmetric weights and none of a unit to itself the energy never rises.
    """
    field = x @ weights[i]
    return x.at[:, i].set(jnp.where(field == 0, x[:, i], jnp.sign(field)))


def recall(
    weights: Float[Array, "D D"],
    x: Float[Array, "B D"],
    key: PRNGKeyArray,
    sweeps: int = 10,
) -> Float[Array, "B D"]:
    """The states after `sweeps` updates of each unit, one by one in random order.

    Raises UsageError for no sweep.
    """
    check_int("sweeps", sweeps, 1)
    each = jax.random.split(key, sweeps)
    order = jax.vmap(lambda k: jax.random.permutation(k, x.shape[1]))(each)

    def one(x, i):
        return update(weights, x, i), None

    return jax.lax.scan(one, x, order.reshape(-1))[0]


# Modern: real numbers, whose update is attention --------------------------------------


def modern_energy(
    memories: Float[Array, "N D"], x: Float[Array, "B D"], beta: Number = 1.0
) -> Float[Array, "B"]:
    """-lse(beta, X x) + |x|^2 / 2 + log(N) / beta + max |x_n|^2 / 2 (equation 2).

    At least 0; lse(beta, z) is log sum_n exp(beta z_n) / beta.
    """
    _check_beta(beta)
    lse = jax.nn.logsumexp(beta * (x @ memories.T), -1) / beta
    largest = jnp.square(memories).sum(-1).max()
    rest = math.log(memories.shape[0]) / beta + 0.5 * largest
    return 0.5 * jnp.square(x).sum(-1) - lse + rest


def retrieve(
    memories: Float[Array, "N D"],
    x: Float[Array, "B D"],
    beta: Number = 1.0,
    steps: int = 1,
) -> Float[Array, "B D"]:
    """softmax(beta x X^T) X, so many times: attention to the memories (equation 3).

    The energy never rises (theorem 1). Where memories are well apart one step is
    enough, and their number may be exponential in D (theorems 3, 4). Raises UsageError
    for beta that is not above 0, and no step.
    """
    _check_beta(beta)
    check_int("steps", steps, 1)

    def one(x, _):
        return jax.nn.softmax(beta * (x @ memories.T), -1) @ memories, None

    return jax.lax.scan(one, x, None, length=steps)[0]


def _check_beta(beta):
    if concrete(beta) and not beta > 0:
        raise UsageError(f"expected beta > 0, found {beta}")
