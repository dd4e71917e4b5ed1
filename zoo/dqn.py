"""Values of actions learned from a memory of what was done: deep Q-learning.

Mnih et al., "Human-level control through deep reinforcement learning", Nature 518,
2015. van Hasselt, Guez & Silver, "Deep reinforcement learning with double Q-learning",
2016, arXiv:1509.06461. Wang et al., "Dueling network architectures for deep
reinforcement learning", 2016, arXiv:1511.06581.

The loss makes its own data: environments, the memory (a ring) and the target network
are model state. Where the ring is written is a function of batch["step"], which all
members of a sweep share, so that it is written in place.
Shapes: M steps of a memory, N environments, T steps of each between two updates, B
examples of a batch, D of an observation, A actions.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.lax import stop_gradient
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from zoo.base import Mean, Model, Number, Task, UsageError, check_int, concrete, judged
from zoo.environments import Environment
from zoo.rollouts import (
    Act,
    Playing,
    Transition,
    begin,
    evaluated,
    rolled,
    scores,
)
from zoo.types import Array, Tree


class QNetwork(nn.Module):
    """The worth of each action: dense layers with relu.

    `dueling`: the last is that of a state, and how much an action has over the mean
    (Wang et al. 2016, equation 9).
    """

    actions: int
    widths: tuple[int, ...] = (120, 84)
    dueling: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B *D"]) -> Float[Array, "B {self.actions}"]:
        """What each action is worth."""
        x = x.reshape(x.shape[0], -1)
        for width in self.widths:
            x = nn.relu(nn.Dense(width)(x))
        found = nn.Dense(self.actions)(x)
        if self.dueling:
            found = found - found.mean(-1, keepdims=True) + nn.Dense(1, name="state")(x)
        return found


class Remembered(NamedTuple):
    """A memory of steps; the first M of them, and then the newest."""

    observation: Array  # [M, D]
    action: Array  # int32 [M], or [M, A] where it is real
    reward: Array  # [M]
    following: Array  # [M, D]
    terminated: Array  # bool [M]

    @property
    def stays(self) -> bool:
        """It is written in a step that is skipped, too (`train.guard`)."""
        return True


class Played(NamedTuple):
    """A task's state."""

    playing: Playing  # [N]
    score: Array  # [N]: rewards of the episodes under way
    memory: Remembered
    target: Tree  # the parameters of the network that says what is worth what


def policy(model: Model, params: Tree) -> Act:
    """What a trained network does: the best action of observations [N, D]."""
    return lambda seen: model.apply({"params": params}, seen).argmax(-1)


def targets(
    reward: Float[Array, "B"],
    terminated: Bool[Array, "B"],
    online: Float[Array, "B A"],
    target: Float[Array, "B A"],
    discount: Number,
    *,
    double: bool,
) -> Float[Array, "B"]:
    """What actions turned out to be worth, by both networks' values of what followed.

    `double`: the online network says which action is the best, the other what it is
    worth (van Hasselt et al. 2016, equation 4).
    """
    best = (online if double else target).argmax(-1)
    later = jnp.take_along_axis(target, best[:, None], 1)[:, 0]
    return reward + discount * jnp.where(terminated, 0, later)


def task(
    environment: Environment,
    model: Model,
    *,
    environments: int = 10,
    horizon: int = 1,
    memory: int = 10_000,
    batch_size: int = 128,
    discount: Number = 0.99,
    warmup: int = 1000,
    exploring: Number = 10_000,
    exploration: Number = 0.05,
    refresh: int = 50,
    double: bool = True,
) -> Task:
    """Deep Q-learning; the batch is a step's number.

    At each step of the training, `environments` are played for `horizon` steps, which
    go into the memory, and `batch_size` of the memory are learned from, once `warmup`
    steps of the training are over. The share of random actions falls from 1 to
    `exploration` in the first `exploring` of its steps. Each `refresh` steps the target
    network becomes the one that is learned. In evaluation a row of "x" stands for an
    episode, which the key draws and the best actions play; the loss is minus its
    return. Metrics: "loss", "q", "explored", "return" of the episodes that ended.

    Raises UsageError for numbers out of range, and real actions.
    """
    _check(environment, memory, environments * horizon)
    sizes = {"batch_size": batch_size, "refresh": refresh}
    _check_numbers(sizes, {"discount": discount, "exploration": exploration})
    shape = horizon, environments

    def init(key, batch):
        return _begun(environment, model, key, environments, memory)

    def loss(params, state, batch, key, *, train):
        if not train:
            return evaluated(environment, policy(model, params), state, batch, key)
        held, step = stop_gradient(params), batch["step"][0]
        own, choice = jax.random.split(key)
        share = jnp.maximum(exploration, 1 - (1 - exploration) * step / exploring)
        best = policy(model, held)
        played = _played(environment, best, state.playing, own, share, shape)
        ring = remember(state.memory, played[1], step)
        part = drawn(ring, choice, batch_size, (step + 1) * environments * horizon)
        due = step % refresh == 0
        kept = jax.tree.map(lambda a, b: jnp.where(due, a, b), held, state.target)
        values = _values(model, params, kept, part, discount, double)
        # before there is enough to learn from, nothing moves
        values["loss"] = (step >= warmup) * values["loss"]
        score, total = scores(state.score, played[1])
        value, aux = judged(values, None, Played(played[0], score, ring, kept))
        more = {"return": total, "explored": Mean.of(share.reshape(1))}
        return value, aux._replace(metrics=aux.metrics | more)

    def predict(params, state, batch):
        return model.apply({"params": params}, batch["x"])

    return Task(init, loss, predict)


def _begun(environment, model, key, n, memory):
    """Parameters, and a state that remembers nothing."""
    keys = jax.random.split(key)
    params = model.init(keys[0], jnp.zeros((1, *environment.shape)))["params"]
    starts = jax.random.split(keys[1], n)
    playing = jax.vmap(functools.partial(begin, environment))(starts)
    target = jax.tree.map(jnp.copy, params)
    return params, Played(playing, jnp.zeros(n), blank(environment, memory), target)


def _played(environment, best, playing, key, share, shape):
    """Steps of the best actions, of which a share is at random instead."""
    own, coin, drawn = jax.random.split(key, 3)

    def choose(seen, noise):
        free, action = noise
        return jnp.where(free, action, best(seen))

    noise = (
        jax.random.uniform(coin, shape) < share,
        jax.random.randint(drawn, shape, 0, environment.actions),
    )
    return rolled(environment, choose, playing, own, noise)


def _values(model, params, target, part, discount, double):
    """The squared surprise of remembered steps [B], and what was expected of them."""

    def worth(params, seen):
        return model.apply({"params": params}, seen)

    later = worth(target, part.following)
    online = worth(stop_gradient(params), part.following) if double else later
    found = targets(
        part.reward, part.terminated, online, later, discount, double=double
    )
    q = worth(params, part.observation)
    q = jnp.take_along_axis(q, part.action[:, None], 1)[:, 0]
    return {"loss": jnp.square(found - q), "q": q}


def blank(environment: Environment, memory: int) -> Remembered:
    """A memory of so many steps that holds nothing yet."""
    seen, zeros = jnp.zeros((memory, *environment.shape)), jnp.zeros(memory)
    action = zeros.astype(jnp.int32) if environment.actions else zeros[:, None]
    return Remembered(seen, action, zeros, seen, zeros.astype(bool))


def remember(memory: Remembered, seen: Transition, step: Int[Array, ""]) -> Remembered:
    """The memory [M] with transitions [T, N] over what is oldest, at a step's place.

    What is not finite is not remembered.
    """
    new = Remembered(
        seen.observation, seen.action, seen.reward, seen.following, seen.terminated
    )
    count = seen.reward.size
    first = (step % (memory.reward.shape[0] // count)) * count

    rows = jax.tree.map(lambda a: a.reshape(count, *a.shape[2:]), new)
    good = [jnp.isfinite(a).reshape(count, -1).all(1) for a in rows]
    fine = jnp.stack(good).all(0)

    def write(ring, row):
        old = jax.lax.dynamic_slice_in_dim(ring, first, count)
        kept = fine.reshape(count, *(1,) * (row.ndim - 1))
        row = jnp.where(kept, row.astype(ring.dtype), old)
        return jax.lax.dynamic_update_slice_in_dim(ring, row, first, 0)

    return jax.tree.map(write, memory, rows)


def drawn(
    memory: Remembered, key: PRNGKeyArray, size: int, played: Int[Array, ""]
) -> Remembered:
    """`size` of the transitions in a memory [M], of which so many were `played`."""
    count = jnp.minimum(played, memory.reward.shape[0])
    at = jax.random.randint(key, (size,), 0, count)
    return jax.tree.map(lambda a: a[at], memory)


def _check_numbers(sizes, shares):
    for name, size in sizes.items():
        check_int(name, size, 1)
    for name, share in shares.items():
        if concrete(share) and not 0 <= share <= 1:
            raise UsageError(f"expected {name} in [0, 1], found {share}")


def _check(environment, memory, count):
    if not environment.actions:
        raise UsageError(
            f"expected an environment of some actions, found {environment.name}, whose "
            "actions are real numbers"
        )
    check_memory(memory, count)


def check_memory(memory: int, count: int) -> None:
    """Raise UsageError unless a memory is of whole steps of the training."""
    check_int("memory", memory, 1)
    if count < 1 or memory % count:
        raise UsageError(
            f"expected a memory of whole steps of {count}, found one of {memory}"
        )
