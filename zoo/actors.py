"""Actors and critics: networks that say what to do and what may come of it.

Shapes: B batch, D of an observation, A actions or numbers of one, P of a distribution:
A logits, or 2 A numbers.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float, Shaped

from zoo.base import Model
from zoo.environments import Environment
from zoo.rollouts import Act
from zoo.types import Array, Tree


class Tower(nn.Module):
    """Dense layers with tanh, orthogonal at first; the last is scaled by `scale`."""

    outputs: int
    widths: tuple[int, ...]
    scale: float

    @nn.compact
    def __call__(self, x: Float[Array, "B *D"]) -> Float[Array, "B {self.outputs}"]:
        """What is fitted."""
        x = x.reshape(x.shape[0], -1)
        for width in self.widths:
            orthogonal = nn.initializers.orthogonal(2**0.5)
            x = nn.tanh(nn.Dense(width, kernel_init=orthogonal)(x))
        last = nn.initializers.orthogonal(self.scale)
        return nn.Dense(self.outputs, kernel_init=last)(x)


class ActorCritic(nn.Module):
    """What to do, and what may come of it: two networks that share nothing.

    Actions are `outputs` logits; where they are `real` numbers, the mean of a normal
    distribution and, learned beside it, the logarithm of its deviation, [2 A] in all.
    """

    outputs: int
    widths: tuple[int, ...] = (64, 64)
    real: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "B *D"]
    ) -> tuple[Float[Array, "B P"], Float[Array, "B"]]:
        """Observations -> (what `Actions` reads, the value)."""
        found = Tower(self.outputs, self.widths, 0.01, name="policy")(x)
        value = Tower(1, self.widths, 1.0, name="value")(x)[:, 0]
        if self.real:
            scale = self.param("log_scale", nn.initializers.zeros, (self.outputs,))
            scale = jnp.broadcast_to(scale[None], found.shape)
            found = jnp.concatenate([found, scale], -1)
        return found, value


def network(
    environment: Environment, widths: tuple[int, ...] = (64, 64)
) -> ActorCritic:
    """An actor and a critic for an environment."""
    n = environment.actions
    return ActorCritic(n or 1, tuple(widths), not n)


# Distributions of actions -------------------------------------------------------------


def log_odds(
    found: Float[Array, "B P"], action: Shaped[Array, "B ..."]
) -> Float[Array, "B"]:
    """The log-probability (density) of actions [B], of logits; or [B, A], real."""
    if action.ndim == 1:
        logits = jax.nn.log_softmax(found)
        return jnp.take_along_axis(logits, action[:, None], 1)[:, 0]
    mean, scale = jnp.split(found, 2, -1)
    square = jnp.square((action - mean) * jnp.exp(-scale))
    return -jnp.sum(0.5 * square + scale + 0.5 * jnp.log(2 * jnp.pi), -1)


def entropy(found: Float[Array, "B P"], *, real: bool) -> Float[Array, "B"]:
    """Of logits, in nats; of a normal distribution, the differential one."""
    if not real:
        logits = jax.nn.log_softmax(found)
        return -jnp.sum(jnp.exp(logits) * logits, -1)
    _, scale = jnp.split(found, 2, -1)
    return jnp.sum(scale + 0.5 * (1 + jnp.log(2 * jnp.pi)), -1)


def mode(found: Float[Array, "B P"], *, real: bool) -> Shaped[Array, "B ..."]:
    """The likeliest actions."""
    return jnp.split(found, 2, -1)[0] if real else found.argmax(-1)


def drawn(
    found: Float[Array, "B P"], noise: Float[Array, "B A"], *, real: bool
) -> Shaped[Array, "B ..."]:
    """Actions, by noise that was drawn before: normal, or of Gumbel's distribution."""
    if not real:
        return (found + noise).argmax(-1)
    mean, scale = jnp.split(found, 2, -1)
    return mean + jnp.exp(scale) * noise


def policy(environment: Environment, model: Model, params: Tree) -> Act:
    """What a trained actor does: the likeliest action of observations [N, D]."""
    real = not environment.actions

    def act(observation):
        return mode(model.apply({"params": params}, observation)[0], real=real)

    return act
