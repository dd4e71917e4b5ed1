"""Environments step by step beside gymnasium's, and what playing them makes of time."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import environments, rollouts, tables
from zoo.base import UsageError

NAMES = {
    "cartpole": "CartPole-v1",
    "acrobot": "Acrobot-v1",
    "mountain_car": "MountainCar-v0",
    "pendulum": "Pendulum-v1",
}
# the states that gymnasium is put into, beside those that play leads to
SPACE = {
    "cartpole": [2.6, 2.0, 0.25, 2.0],
    "acrobot": [math.pi, math.pi, 4 * math.pi, 9 * math.pi],
    "mountain_car": [0.9, 0.07],
    "pendulum": [2 * math.pi, 8.0],
}
STEPS = 10_000


def recorded(name):
    """What gymnasium makes of random actions: (states, actions, outcomes)."""
    gymnasium = pytest.importorskip("gymnasium")
    world = gymnasium.make(NAMES[name]).unwrapped
    world.reset(seed=0)
    world.action_space.seed(0)
    random, rows = np.random.default_rng(0), []
    most = np.array(SPACE[name])
    middle = np.array([-0.3, 0.0]) if name == "mountain_car" else 0.0
    for i in range(STEPS):
        if i % 2:  # an episode goes on in the even ones, if it has not ended
            world.state = middle + random.uniform(-most, most)
            if name == "mountain_car":
                world.state = world.state.clip([-1.2, -0.07], [0.6, 0.07])
            if name == "cartpole":
                world.steps_beyond_terminated = None
        before = np.asarray(world.state, np.float64)
        action = world.action_space.sample()
        seen, reward, terminated, _, _ = world.step(action)
        after = np.asarray(world.state, np.float64)
        rows.append((before, action, after, seen, reward, terminated))
        if terminated:
            world.reset()
    return [np.array(column) for column in zip(*rows, strict=True)]


# gymnasium's observations are float32, whose rounding is 5e-7 of 8; a step of Euler's
# for that of Runge and Kutta, or a speed taken before it is changed, is 1e-3 away
@pytest.mark.parametrize("name", NAMES)
def test_steps_are_those_of_gymnasium(name):
    states, actions, after, seen, reward, terminated = recorded(name)
    with jax.enable_x64(True):
        world = environments.ENVIRONMENTS[name]()

        @jax.jit
        @jax.vmap
        def step(state, action):
            found = world.step(state, action, jax.random.key(0))
            return found, world.observe(found.state)

        kind = np.int32 if world.actions else np.float64
        found, observed = step(states, actions.astype(kind))
        np.testing.assert_allclose(found.state, after, rtol=1e-7, atol=1e-6)
        np.testing.assert_allclose(observed, seen, rtol=1e-7, atol=1e-6)
        np.testing.assert_allclose(found.reward, reward, rtol=1e-7, atol=1e-6)
        np.testing.assert_array_equal(found.terminated, terminated)
    assert name == "pendulum" or 50 < terminated.sum() < STEPS - 50


@pytest.mark.parametrize("name", NAMES)
def test_episodes_begin_where_those_of_gymnasium_do(name):
    gymnasium = pytest.importorskip("gymnasium")
    world = gymnasium.make(NAMES[name])
    limit = world.spec.max_episode_steps
    own = environments.ENVIRONMENTS[name]()
    keys = jax.random.split(jax.random.key(0), 2000)
    drawn = np.asarray(jax.vmap(own.reset)(keys))
    theirs = []
    for seed in range(2000):
        world.reset(seed=seed)
        theirs.append(np.asarray(world.unwrapped.state))
    # uniform: both ends, and a middle whose deviation is range / sqrt(12 * 2000)
    width = np.ptp(theirs, 0)
    for f in (np.min, np.max, np.mean):
        assert (np.abs(f(drawn, 0) - f(theirs, 0)) <= 0.05 * width).all()
    assert own.limit == limit


def rolled(world, actions, seed=0):
    """Transitions [T] of one environment under given actions."""
    keys = jax.random.split(jax.random.key(seed), len(actions))
    fresh = jax.vmap(functools.partial(rollouts.begin, world))(keys)

    def body(playing, step):
        return rollouts.advance(world, playing, *step)

    first = jax.tree.map(lambda a: a[0], fresh)
    return jax.lax.scan(body, first, (jnp.asarray(actions), keys, fresh))[1]


def test_an_episode_that_ends_is_followed_by_a_fresh_one():
    world = environments.cart_pole()
    seen = rolled(world, [0] * 40)
    ends = np.flatnonzero(seen.terminated)
    assert len(ends) >= 3 and not seen.truncated.any()
    # what was seen next is of the old episode: fallen; what is seen then is fresh
    assert (np.abs(seen.following[ends, 2]) > 0.2094).all()
    assert (np.abs(seen.observation[ends + 1]) <= 0.05).all()
    inside = np.setdiff1d(np.arange(39), ends)
    np.testing.assert_array_equal(seen.following[inside], seen.observation[inside + 1])


def test_a_limit_cuts_an_episode_off_and_does_not_terminate_it():
    world = environments.pendulum()._replace(limit=7)
    seen = rolled(world, np.zeros((20, 1), np.float32))
    np.testing.assert_array_equal(np.flatnonzero(seen.truncated), [6, 13])
    assert not seen.terminated.any()
    # one that terminates at its limit is not cut off
    world = tables.environment(tables.bandit())
    seen = rolled(world, [0, 1, 0])
    assert seen.terminated.all() and not seen.truncated.any()


@pytest.mark.parametrize(
    "action, message",
    [
        (2, r"expected an action 0 to 1 of cartpole, found 2"),
        (-1, r"expected an action 0 to 1 of cartpole, found -1"),
        (0.5, r"expected a whole number as an action of cartpole, found float32"),
        ([0, 1], r"expected an action of shape \(\) for cartpole, found shape \(2,\)"),
    ],
)
def test_what_is_no_action_is_refused(action, message):
    world = environments.cart_pole()
    with pytest.raises(UsageError, match=message):
        world.step(jnp.zeros(4), jnp.asarray(action), jax.random.key(0))


def test_a_real_action_has_an_axis_and_is_finite():
    world = environments.pendulum()
    with pytest.raises(UsageError, match=r"expected an action of shape \(1,\)"):
        world.step(jnp.zeros(2), jnp.float32(0.5), jax.random.key(0))
    with pytest.raises(UsageError, match="expected a finite action of pendulum"):
        world.step(jnp.zeros(2), jnp.array([jnp.nan]), jax.random.key(0))
