"""Real actions learned from a memory, at an entropy that is asked for: SAC.

Haarnoja et al., "Soft actor-critic algorithms and applications", 2018,
arXiv:1812.05905, with its learned temperature. The two critics, of which the lesser is
believed, are of Fujimoto et al., "Addressing function approximation error in
actor-critic methods", 2018, arXiv:1802.09477; the memory is that of `zoo.dqn`.

The loss is the sum of three, each blind to the others' parameters: the gradient of the
sum is each part's own, of the "critic" for what actions turned out to be worth, of the
"actor" for what the critics think of its own, of "log_temperature" for the entropy.
Environments, the memory and the target are model state. An action of the networks is in
(-1, 1); an environment gets it times its bound. Densities are of the former.
Shapes: M steps of a memory, N environments, T steps of each between two updates, B
examples of a batch, D of an observation, A numbers of an action.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.lax import stop_gradient
from jaxtyping import Bool, Float

from zoo import dqn
from zoo.base import Model, Number, Task, UsageError, check_int, concrete, judged
from zoo.environments import Environment
from zoo.mlp import MLP
from zoo.rollouts import Act, begin, evaluated, rolled, scores
from zoo.types import Array, Tree

# Networks -----------------------------------------------------------------------------

SCALES = -5.0, 2.0  # the logarithm of a deviation lies between


class Actor(nn.Module):
    """Means of a normal distribution and logarithms of its deviations, before tanh."""

    outputs: int
    widths: tuple[int, ...] = (64, 64)

    @nn.compact
    def __call__(self, x: Float[Array, "B *D"]) -> Float[Array, "B P"]:
        """Observations -> [B, 2 A]."""
        found = MLP(2 * self.outputs, self.widths)(x)
        mean, scale = jnp.split(found, 2, -1)
        low, high = SCALES
        scale = low + 0.5 * (high - low) * (1 + jnp.tanh(scale))
        return jnp.concatenate([mean, scale], -1)


class Critics(nn.Module):
    """The worth of an action, by two networks that share nothing."""

    widths: tuple[int, ...] = (64, 64)

    @nn.compact
    def __call__(
        self, x: Float[Array, "B *D"], action: Float[Array, "B A"]
    ) -> Float[Array, "B 2"]:
        """What each of them thinks of actions in (-1, 1)."""
        seen = jnp.concatenate([x.reshape(x.shape[0], -1), action], -1)
        first, second = (MLP(1, self.widths, name=name)(seen) for name in "ab")
        return jnp.concatenate([first, second], -1)


class Networks(NamedTuple):
    """Both of them."""

    actor: Model  # observations [B, D] -> [B, 2 A]
    critic: Model  # observations [B, D], actions [B, A] -> [B, 2]


def networks(widths: tuple[int, ...] = (64, 64)) -> Networks:
    """An actor and two critics for an environment of real actions."""
    return Networks(Actor(1, tuple(widths)), Critics(tuple(widths)))


def policy(environment: Environment, actor: Model, params: Tree) -> Act:
    """What a trained actor does: the middle of its distribution, for [N, D].

    `params` are a task's: all of them.
    """

    def act(seen):
        mean, _ = jnp.split(actor.apply({"params": params["actor"]}, seen), 2, -1)
        return environment.bound * jnp.tanh(mean)

    return act


# The mathematics ----------------------------------------------------------------------


def squashed(
    found: Float[Array, "B P"], noise: Float[Array, "B A"]
) -> tuple[Float[Array, "B A"], Float[Array, "B"]]:
    """Actions in (-1, 1) by standard normal noise, and the log of their density.

    tanh takes from the normal density the logarithm of its slope, 1 - tanh(z)^2
    (Haarnoja et al. 2018, equation 26), written so that it has no logarithm of 0.
    """
    mean, scale = jnp.split(found, 2, -1)
    z = mean + jnp.exp(scale) * noise
    normal = -0.5 * jnp.square(noise) - scale - 0.5 * math.log(2 * math.pi)
    slope = 2 * (math.log(2) - z - nn.softplus(-2 * z))
    return jnp.tanh(z), jnp.sum(normal - slope, -1)


def targets(
    reward: Float[Array, "B"],
    terminated: Bool[Array, "B"],
    later: Float[Array, "B 2"],
    density: Float[Array, "B"],
    temperature: Number,
    discount: Number,
) -> Float[Array, "B"]:
    """What actions turned out to be worth: Haarnoja et al. 2018, equations 3 and 7.

    `later` is what two critics think of what the actor does next, `density` the
    logarithm of its density.
    """
    soft = later.min(-1) - temperature * density
    return reward + discount * jnp.where(terminated, 0, soft)


def slowly(target: Tree, params: Tree, pace: Number) -> Tree:
    """The target, by a share closer to the parameters."""
    return jax.tree.map(lambda old, new: old + pace * (new - old), target, params)


# The task -----------------------------------------------------------------------------


def task(
    environment: Environment,
    model: Networks,
    *,
    environments: int = 1,
    horizon: int = 1,
    memory: int = 20_000,
    batch_size: int = 128,
    discount: Number = 0.99,
    pace: Number = 0.005,
    temperature: Number | None = None,
    target_entropy: Number = -1.0,
    warmup: int = 500,
) -> Task:
    """Soft actor-critic; the batch is a step's number.

    At each step of the training, `environments` are played for `horizon` steps, which
    go into the memory, and `batch_size` of the memory are learned from. In the first
    `warmup` steps of the training actions are uniform, and nothing is learned. The
    target is by `pace` closer to the critics each step. The temperature is learned so
    that actions have `target_entropy`, in nats, unless it is given. In evaluation a row
    of "x" stands for an episode, which the key draws and the middle of the distribution
    plays; the loss is minus its return. Metrics: "loss", "critic", "actor", "q",
    "entropy", "temperature", "return" of the episodes that ended.

    Raises UsageError for numbers out of range, and actions that are not real.
    """
    count = environments * horizon
    _check(environment, memory, environments, horizon, batch_size)
    _check_numbers(discount, pace, temperature)

    def init(key, batch):
        return _begun(environment, model, key, environments, memory, temperature)

    def loss(params, state, batch, key, *, train):
        if not train:
            act = policy(environment, model.actor, params)
            return evaluated(environment, act, state, batch, key)
        held, step = stop_gradient(params), batch["step"][0]
        own, choice, noise = jax.random.split(key, 3)
        shape = horizon, environments
        free = step < warmup
        played = _played(environment, model, held, state.playing, own, free, shape)
        ring = dqn.remember(state.memory, played[1], step)
        part = dqn.drawn(ring, choice, batch_size, (step + 1) * count)
        kept = slowly(state.target, held["critic"], pace)
        values = _values(
            *(model, params, kept, part, noise),
            *(temperature, target_entropy, discount),
        )
        # before there is enough to learn from, nothing moves
        values["loss"] = jnp.where(free, 0, values["loss"])
        score, total = scores(state.score, played[1])
        state = dqn.Played(played[0], score, ring, kept)
        value, aux = judged(values, None, state)
        return value, aux._replace(metrics=aux.metrics | {"return": total})

    def predict(params, state, batch):
        return policy(environment, model.actor, params)(batch["x"])

    return Task(init, loss, predict)


def _begun(environment, model, key, n, memory, temperature):
    """Parameters, and a state that remembers nothing."""
    keys = jax.random.split(key, 3)
    seen, action = jnp.zeros((1, *environment.shape)), jnp.zeros((1, 1))
    params = {
        "actor": model.actor.init(keys[0], seen)["params"],
        "critic": model.critic.init(keys[1], seen, action)["params"],
    }
    if temperature is None:
        params["log_temperature"] = jnp.zeros(())
    starts = jax.random.split(keys[2], n)
    playing = jax.vmap(functools.partial(begin, environment))(starts)
    ring, target = dqn.blank(environment, memory), jax.tree.map(jnp.copy, params)
    return params, dqn.Played(playing, jnp.zeros(n), ring, target["critic"])


def _played(environment, model, params, playing, key, free, shape):
    """Steps of what the actor draws, or of uniform actions; these are in (-1, 1)."""
    own, normal, uniform = jax.random.split(key, 3)

    def choose(seen, noise):
        drawn, anything = noise
        found = model.actor.apply({"params": params["actor"]}, seen)
        action = jnp.where(free, anything, squashed(found, drawn)[0])
        return environment.bound * action

    noise = (
        jax.random.normal(normal, (*shape, 1)),
        jax.random.uniform(uniform, (*shape, 1), minval=-1, maxval=1),
    )
    playing, seen = rolled(environment, choose, playing, own, noise)
    return playing, seen._replace(action=seen.action / environment.bound)


def _values(model, params, target, part, key, temperature, entropy, discount):
    """What the loss is made of, of remembered steps [B]."""
    held = stop_gradient(params)
    learned = temperature is None
    heat = jnp.exp(params["log_temperature"]) if learned else jnp.asarray(temperature)
    cold = stop_gradient(heat)
    noise = jax.random.normal(key, (2, *part.action.shape))

    def act(params, seen, noise):
        return squashed(model.actor.apply({"params": params["actor"]}, seen), noise)

    def worth(params, seen, action):
        return model.critic.apply({"params": params}, seen, action)

    following, density = act(held, part.following, noise[0])
    later = worth(target, part.following, following)
    found = targets(part.reward, part.terminated, later, density, cold, discount)
    q = worth(params["critic"], part.observation, part.action)
    critic = 0.5 * jnp.square(q - found[:, None]).sum(-1)  # equation 5, of each
    action, density = act(params, part.observation, noise[1])
    best = worth(held["critic"], part.observation, action).min(-1)
    actor = cold * density - best  # equation 9
    warmth = heat * (stop_gradient(-density) - entropy)  # equation 18
    return {
        "loss": critic + actor + warmth,
        "critic": critic,
        "actor": actor,
        "q": q.mean(-1),
        "entropy": -density,
        "temperature": jnp.broadcast_to(cold.reshape(1), density.shape),
    }


def _check(environment, memory, environments, horizon, batch_size):
    if environment.actions or not environment.bound > 0:
        raise UsageError(
            f"expected an environment of real actions within a bound, found "
            f"{environment.name}"
        )
    sizes = {"environments": environments, "horizon": horizon, "memory": memory}
    for name, size in (sizes | {"batch_size": batch_size}).items():
        check_int(name, size, 1)
    dqn.check_memory(memory, environments * horizon)


def _check_numbers(discount, pace, temperature):
    for name, share in {"discount": discount, "pace": pace}.items():
        if concrete(share) and not 0 <= share <= 1:
            raise UsageError(f"expected {name} in [0, 1], found {share}")
    if temperature is not None and concrete(temperature) and not temperature >= 0:
        raise UsageError(f"expected a temperature >= 0, found {temperature}")
