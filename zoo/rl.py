"""Policies learned by their gradient: REINFORCE, A2C and PPO, as one loss.

Williams, "Simple statistical gradient-following algorithms for connectionist
reinforcement learning", 1992. Mnih et al., "Asynchronous methods for deep reinforcement
learning", 2016, arXiv:1602.01783. Schulman et al., "High-dimensional continuous control
using generalized advantage estimation", 2016, arXiv:1506.02438, and "Proximal policy
optimization algorithms", 2017, arXiv:1707.06347; details as Huang et al., "The 37
implementation details of proximal policy optimization", 2022, have them.

The loss makes its own data. Environments, the steps last played and the order in which
they are read are model state; at each K-th step of the training they are played anew,
by the parameters of that step and without a gradient, and each step learns from a part.
Whether it is the K-th is asked of batch["step"], which all members of a sweep share.
Shapes: T steps, N environments, B of a part of T * N, D of an observation, A actions
or numbers of one.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Bool, Float

from zoo.actors import drawn, entropy, log_odds, mode, policy
from zoo.base import Mean, Model, Number, Task, UsageError, check_int, concrete, judged
from zoo.environments import Environment
from zoo.rollouts import Playing, begin, evaluated, rolled, scores
from zoo.types import Array

# What came of it ----------------------------------------------------------------------


def advantages(
    reward: Float[Array, "T N"],
    value: Float[Array, "T N"],
    following: Float[Array, "T N"],
    terminated: Bool[Array, "T N"],
    ended: Bool[Array, "T N"],
    *,
    discount: Number = 0.99,
    decay: Number = 0.95,
) -> Float[Array, "T N"]:
    """How much more came than expected: Schulman et al. 2016, equation 16.

    `value` is of what was seen, `following` of what was seen next, in the same episode;
    it counts unless `terminated`, and sums stop where an episode `ended`. With decay 1
    these are returns less values, with 0 the surprise of one step.
    """
    surprise = reward + discount * jnp.where(terminated, 0, following) - value
    share = discount * decay * (1 - ended.astype(value.dtype))

    def join(later, sooner):  # x -> share x + surprise, one after the other
        return later[0] * sooner[0], sooner[1] + sooner[0] * later[1]

    return jax.lax.associative_scan(join, (share, surprise), reverse=True)[1]


def returns(
    reward: Float[Array, "T N"],
    ended: Bool[Array, "T N"],
    last: Float[Array, "N"],
    discount: Number,
) -> Float[Array, "T N"]:
    """Discounted sums to the end of each episode, `last` beyond the last step."""
    zeros = jnp.zeros_like(reward)
    later = jnp.concatenate([zeros[1:], last[None]])
    return advantages(reward, zeros, later, ended, ended, discount=discount, decay=1.0)


# The task -----------------------------------------------------------------------------


class Rollout(NamedTuple):
    """Steps that were played, end to end, and what came of them: B = T * N."""

    observation: Array  # [B, D]
    action: Array  # [B], or [B, A]
    log_odds: Array  # [B]: of the action, when it was taken
    value: Array  # [B]: as it was seen then
    advantage: Array  # [B]


class Played(NamedTuple):
    """A task's state."""

    playing: Playing  # [N]
    score: Array  # [N]: rewards of the episodes under way
    rollout: Rollout
    order: Array  # int32 [K, B]: what each of the next steps reads


def task(
    environment: Environment,
    model: Model,
    *,
    environments: int = 4,
    horizon: int = 128,
    epochs: int = 4,
    parts: int = 4,
    discount: Number = 0.99,
    decay: Number = 0.95,
    clip: Number = 0.2,
    value_weight: Number = 0.5,
    entropy_weight: Number = 0.01,
    normalize: bool = True,
) -> Task:
    """Proximal policy optimization of an actor and critic.

    The batch is the number of the step (`train.source.nothing`).

    Each `epochs * parts` steps of the training `environments` are played for `horizon`
    steps; these are read `epochs` times, in `parts` of random order. The ratio of odds
    and the change of a value are clipped to `clip`; advantages of a part are
    `normalize`d. With epochs and parts 1 the ratio is 1 and the loss is that of A2C;
    with decay 1 too, of REINFORCE with a baseline. In evaluation a row of "x" stands
    for an episode, which the key draws and the likeliest actions play; the loss is
    minus its return. Metrics: "loss", "policy", "value", "entropy", "clipped", the
    share of the ratios, and "return" of the episodes that ended.

    Raises UsageError for numbers out of range.
    """
    how = _How(environment, model, environments, horizon, epochs, parts)
    _check(how, {"discount": discount, "decay": decay})

    def init(key, batch):
        return _begun(how, key)

    def play(params, state, key):
        return _play(how, params, state, key, discount, decay)

    def loss(params, state, batch, key, *, train):
        if not train:
            act = policy(environment, model, params)
            return evaluated(environment, act, state, batch, key)
        held, step = stop_gradient(params), batch["step"][0]
        if how.every == 1:
            state, total = play(held, state, key)
        else:
            due = step % how.every == 0
            state, total = jax.lax.cond(due, play, _keep, held, state, key)
        at = jax.lax.dynamic_index_in_dim(state.order, step % how.every, keepdims=False)
        part = jax.tree.map(lambda a: a[at], state.rollout)
        values = _values(how, params, part, clip, normalize)
        value = values["policy"] + value_weight * values["value"]
        values["loss"] = value - entropy_weight * values["entropy"]
        found, aux = judged(values, None, state)
        return found, aux._replace(metrics=aux.metrics | {"return": total})

    def predict(params, state, batch):
        outputs = model.apply({"params": params}, batch["x"])[0]
        return mode(outputs, real=True) if how.real else jax.nn.softmax(outputs)

    return Task(init, loss, predict)


class _How(NamedTuple):
    """How a task plays and reads."""

    environment: Environment
    model: Model
    environments: int
    horizon: int
    epochs: int
    parts: int

    @property
    def every(self):
        return self.epochs * self.parts

    @property
    def size(self):
        return self.environments * self.horizon

    @property
    def real(self):
        return not self.environment.actions


def _begun(how, key):
    """Parameters, and a state of which nothing is played."""
    world, n = how.environment, how.environments
    keys = jax.random.split(key)
    seen = jnp.zeros((how.size, *world.shape))
    params = how.model.init(keys[0], seen[:1])["params"]
    playing = jax.vmap(functools.partial(begin, world))(jax.random.split(keys[1], n))
    zeros = jnp.zeros(how.size)
    action = zeros[:, None] if how.real else zeros.astype(jnp.int32)
    rollout = Rollout(seen, action, zeros, zeros, zeros)
    order = jnp.zeros((how.every, how.size // how.parts), jnp.int32)
    return params, Played(playing, jnp.zeros(n), rollout, order)


def _play(how, params, state, key, discount, decay):
    """The state with steps that these parameters played, and returns on the way."""
    own, noise, shuffle = jax.random.split(key, 3)
    draw = jax.random.normal if how.real else jax.random.gumbel

    def judge(seen):
        return how.model.apply({"params": params}, seen)

    def choose(seen, noise):
        return drawn(judge(seen)[0], noise, real=how.real)

    noises = draw(noise, (how.horizon, how.environments, how.environment.actions or 1))
    playing, seen = rolled(how.environment, choose, state.playing, own, noises)
    action, observation = _flat(seen.action), _flat(seen.observation)
    outputs, value = judge(observation)
    following = judge(_flat(seen.following))[1]
    found = advantages(
        seen.reward,
        value.reshape(seen.reward.shape),
        following.reshape(seen.reward.shape),
        seen.terminated,
        seen.ended,
        discount=discount,
        decay=decay,
    )
    odds = log_odds(outputs, action)
    rollout = Rollout(observation, action, odds, value, _flat(found))
    order = jnp.arange(how.size)  # all of them, once
    if how.every > 1:
        keys = jax.random.split(shuffle, how.epochs)
        order = jax.vmap(lambda key: jax.random.permutation(key, how.size))(keys)
    order = order.reshape(state.order.shape).astype(jnp.int32)
    score, total = scores(state.score, seen)
    return Played(playing, score, rollout, order), total


def _keep(params, state, key):
    """Nothing is played."""
    return state, Mean(jnp.zeros(()), jnp.zeros(()))


def _values(how, params, part, clip, normalize):
    """What the loss is made of, of a part [B] of a rollout (Schulman et al. 2017)."""
    outputs, value = how.model.apply({"params": params}, part.observation)
    advantage = part.advantage
    if normalize:
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    ratio = jnp.exp(log_odds(outputs, part.action) - part.log_odds)
    near = jnp.clip(ratio, 1 - clip, 1 + clip)
    target = part.value + part.advantage
    moved = part.value + jnp.clip(value - part.value, -clip, clip)
    wrong = jnp.maximum(jnp.square(value - target), jnp.square(moved - target))
    return {
        "policy": -jnp.minimum(ratio * advantage, near * advantage),  # equation 7
        "value": 0.5 * wrong,
        "entropy": entropy(outputs, real=how.real),
        "clipped": (near != ratio).astype(ratio.dtype),
    }


def _check(how, shares):
    for name in ("environments", "horizon", "epochs", "parts"):
        check_int(name, getattr(how, name), 1)
    if how.size % how.parts:
        raise UsageError(
            f"expected parts that divide {how.size} steps, found {how.parts}"
        )
    for name, share in shares.items():
        if concrete(share) and not 0 <= share <= 1:
            raise UsageError(f"expected {name} in [0, 1], found {share}")


def _flat(a):
    """[T, N, ...] -> [T * N, ...]."""
    return a.reshape(-1, *a.shape[2:])
