"""Environments played by a policy: one step, so many steps of several, whole episodes.

Shapes: T steps, N environments, D of an observation, A numbers of a real action.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray, Shaped

from zoo.base import Aux, Batch, Mean, judged
from zoo.environments import Environment
from zoo.types import Array, Tree

Act = Callable[[Array], Array]
"""What a policy does: observations [N, D] -> actions [N], or [N, 1] where real."""


class Playing(NamedTuple):
    """An episode under way."""

    state: Tree
    time: Array  # int32 []: steps done


class Transition(NamedTuple):
    """What was seen, done and found: one step of an episode."""

    observation: Array  # [D]
    action: Array  # [], or [1] where it is real
    reward: Array  # []
    following: Array  # [D]: what was seen next, in the same episode
    terminated: Array  # bool []
    truncated: Array  # bool []: cut off by the limit; what would follow has a value

    @property
    def ended(self) -> Array:
        """Whether the episode did, one way or the other: []."""
        return self.terminated | self.truncated


def begin(environment: Environment, key: PRNGKeyArray) -> Playing:
    """A fresh episode."""
    return Playing(environment.reset(key), jnp.int32(0))


def advance(
    environment: Environment,
    playing: Playing,
    action: Shaped[Array, "..."],
    key: PRNGKeyArray,
    fresh: Playing,
) -> tuple[Playing, Transition]:
    """One step of an episode; where it ends, `fresh` is what goes on.

    A fresh episode is an argument, so that many can be drawn at once, before a loop.
    """
    found = environment.step(playing.state, action, key)
    time = playing.time + 1
    truncated = ~found.terminated & (time >= environment.limit)
    seen = Transition(
        environment.observe(playing.state),
        jnp.asarray(action),
        found.reward,
        environment.observe(found.state),
        found.terminated,
        truncated,
    )
    ended = seen.ended
    following = Playing(found.state, time)
    kept = jax.tree.map(lambda a, b: jnp.where(ended, a, b), fresh, following)
    return kept, seen


class Episodes(NamedTuple):
    """How episodes ended."""

    reward: Array  # [N]: the sum, which is an episode's return
    length: Array  # int32 [N]


def episodes(
    environment: Environment, act: Act, key: PRNGKeyArray, n: int = 1
) -> Episodes:
    """n episodes from their beginning to their end; act(observations [N, D]) -> [N]."""
    play = jax.vmap(functools.partial(advance, environment))
    first = jax.random.split(jax.random.fold_in(key, 0), n)
    playing = jax.vmap(functools.partial(begin, environment))(first)

    def body(carry):
        t, playing, over, found = carry
        keys = jax.random.split(jax.random.fold_in(key, t + 1), n)
        action = act(jax.vmap(environment.observe)(playing.state))
        playing, seen = play(playing, action, keys, playing)
        reward = found.reward + jnp.where(over, 0, seen.reward)
        found = Episodes(reward, found.length + ~over)
        return t + 1, playing, over | seen.ended, found

    zeros = Episodes(jnp.zeros(n), jnp.zeros(n, jnp.int32))
    carry = jnp.int32(0), playing, jnp.zeros(n, bool), zeros
    return jax.lax.while_loop(lambda carry: ~carry[2].all(), body, carry)[3]


def rolled(
    environment: Environment,
    choose: Callable[[Array, Any], Array],
    playing: Playing,
    key: PRNGKeyArray,
    noise: Any,
) -> tuple[Playing, Transition]:
    """Play N environments on for T steps: transitions [T, N, ...].

    choose(observations [N, D], noise) -> actions [N], or [N, A], of each step's entry
    of the tree `noise` [T, ...]: all that is random is drawn before the loop, at once,
    as in it each draw would be slow.
    """
    shape = len(jax.tree.leaves(noise)[0]), playing.time.shape[0]
    own, fresh = jax.random.split(key)
    each = jax.vmap(jax.vmap(functools.partial(begin, environment)))
    starts = each(jax.random.split(fresh, shape))
    keys = jax.random.split(own, shape)
    go = jax.vmap(functools.partial(advance, environment))

    def body(playing, step):
        noise, keys, fresh = step
        action = choose(jax.vmap(environment.observe)(playing.state), noise)
        return go(playing, action, keys, fresh)

    return jax.lax.scan(body, playing, (noise, keys, starts))


def recorded(environment: Environment, act: Act, key: PRNGKeyArray) -> Transition:
    """An episode, and what comes after it to the limit: transitions [T, ...]."""
    first = jax.tree.map(lambda a: a[None], begin(environment, key))
    times = jnp.arange(environment.limit)
    seen = rolled(environment, lambda seen, _: act(seen), first, key, times)[1]
    return jax.tree.map(lambda a: a[:, 0], seen)


def scores(
    score: Float[Array, "N"], seen: Transition
) -> tuple[Float[Array, "N"], Mean]:
    """Rewards of episodes under way, after transitions [T, N]; the returns of others.

    The mean is of the episodes that ended.
    """

    def body(score, step):
        reward, ended = step
        score = score + reward
        return jnp.where(ended, 0, score), jnp.where(ended, score, 0)

    ended = seen.ended
    score, whole = jax.lax.scan(body, score, (seen.reward, ended))
    return score, Mean(whole.sum(), ended.sum().astype(whole.dtype))


def evaluated(
    environment: Environment, act: Act, state: Tree, batch: Batch, key: PRNGKeyArray
) -> tuple[Float[Array, ""], Aux]:
    """A loss in evaluation: an episode for each row of the batch, minus its return."""
    n = batch["x"].shape[0] if "x" in batch else 1
    found = episodes(environment, act, key, n)
    values = {"loss": -found.reward, "return": found.reward}
    values["length"] = found.length.astype(found.reward.dtype)
    return judged(values, batch.get("mask"), state)
