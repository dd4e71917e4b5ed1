"""Environments as pure functions, to learn by acting: classic control, and its wrapper.

Barto, Sutton & Anderson, "Neuronlike adaptive elements that can solve difficult
learning control problems", 1983 (the cart and its pole). Sutton, "Generalization in
reinforcement learning", 1996 (the acrobot). Moore, "Efficient memory-based learning for
robot control", 1990 (the car on a mountain). Numbers, limits and rewards are those of
gymnasium's CartPole-v1, Acrobot-v1, MountainCar-v0 and Pendulum-v1 (Towers et al.,
2024, arXiv:2407.17032), which the tests compare with, step by step. Those of few states
are in `zoo.tables`.

All is of one environment: `vmap` makes many. Shapes: D of an observation, N
environments.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from zoo.base import UsageError, concrete
from zoo.types import Array, Tree


class Outcome(NamedTuple):
    """What an action leads to."""

    state: Tree
    reward: Array  # []
    terminated: Array  # bool []: nothing follows, whose value would count


class Environment(NamedTuple):
    """A world to act in; its functions are pure.

    reset(key) -> state
    step(state, action, key) -> Outcome; raises UsageError for no action of it
    observe(state) -> observation, float [D]
    """

    name: str
    reset: Callable[[PRNGKeyArray], Tree]
    step: Callable[[Tree, Array, PRNGKeyArray], Outcome]
    observe: Callable[[Tree], Array]
    shape: tuple[int, ...]  # of an observation
    actions: int  # 0 to actions - 1; 0: a real number [1], see `bound`
    limit: int  # steps, after which an episode is cut off
    bound: float = 0.0  # on the size of a real action, which is clipped to it


def checked(environment: Environment) -> Environment:
    """The same, whose `step` refuses what is no action: JAX would clamp an index."""
    shape = () if environment.actions else (1,)

    def step(state, action, key):
        if np.shape(action) != shape:
            raise UsageError(
                f"expected an action of shape {shape} for {environment.name}, found "
                f"shape {np.shape(action)}"
            )
        whole = jnp.issubdtype(jnp.result_type(action), jnp.integer)
        if environment.actions and not whole:
            raise UsageError(
                f"expected a whole number as an action of {environment.name}, found "
                f"{jnp.result_type(action)}"
            )
        if concrete(action):
            _check_range(environment, action)
        return environment.step(state, action, key)

    return environment._replace(step=step)


def _check_range(environment, action):
    n = environment.actions
    if n and not 0 <= int(action) < n:
        raise UsageError(
            f"expected an action 0 to {n - 1} of {environment.name}, found {action}"
        )
    if not n and not np.isfinite(np.asarray(action)).all():
        raise UsageError(
            f"expected a finite action of {environment.name}, found {action}"
        )


# Classic control ----------------------------------------------------------------------


def _uniform(key, low, high):
    low, high = jnp.asarray(low, float), jnp.asarray(high, float)
    return jax.random.uniform(key, low.shape, low.dtype, low, high)


def cart_pole() -> Environment:
    """Keep a pole upright on a cart that is pushed left or right: 1 for each step.

    Observed: position, speed, angle and its speed. 500 steps at most.
    """
    gravity, cart, pole, half, force, tau = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02

    def step(state: Float[Array, "4"], action: Int[Array, ""], key: Any) -> Outcome:
        x, speed, angle, turn = state
        push = jnp.where(action == 1, force, -force)
        sin, cos = jnp.sin(angle), jnp.cos(angle)
        whole = cart + pole
        common = (push + pole * half * turn**2 * sin) / whole
        lever = half * (4 / 3 - pole * cos**2 / whole)
        turned = (gravity * sin - cos * common) / lever
        moved = common - pole * half * turned * cos / whole
        new = state + tau * jnp.stack([speed, moved, turn, turned])
        fallen = (jnp.abs(new[0]) > 2.4) | (jnp.abs(new[2]) > 12 * 2 * math.pi / 360)
        return Outcome(new, jnp.ones((), new.dtype), fallen)

    def reset(key):
        return _uniform(key, [-0.05] * 4, [0.05] * 4)

    return checked(
        Environment("cartpole", reset, step, lambda state: state, (4,), 2, 500)
    )


def mountain_car() -> Environment:
    """Leave a valley with an engine too weak for its slope: -1 for each step.

    Observed: position and speed. 200 steps at most.
    """

    def step(state: Float[Array, "2"], action: Int[Array, ""], key: Any) -> Outcome:
        position, speed = state
        speed = speed + (action - 1) * 0.001 - 0.0025 * jnp.cos(3 * position)
        speed = jnp.clip(speed, -0.07, 0.07)
        position = jnp.clip(position + speed, -1.2, 0.6)
        speed = jnp.where((position <= -1.2) & (speed < 0), 0, speed)
        new = jnp.stack([position, speed])
        return Outcome(new, -jnp.ones((), new.dtype), (position >= 0.5) & (speed >= 0))

    def reset(key):
        return _uniform(key, [-0.6, 0.0], [-0.4, 0.0])

    return checked(
        Environment("mountain_car", reset, step, lambda state: state, (2,), 3, 200)
    )


def acrobot() -> Environment:
    """Swing the free end of two links above a line: -1 for each step before.

    Observed: cosine and sine of both angles, and their speeds. 500 steps at most. Each
    step is one of Runge and Kutta's, of order 4; links of length and mass 1.
    """
    gravity, half, dt = 9.8, 0.5, 0.2

    def slope(state, torque):
        one, two, fast, faster = state
        sin, cos = jnp.sin(two), jnp.cos(two)
        d1 = half**2 + (1 + half**2 + 2 * half * cos) + 2
        d2 = half**2 + half * cos + 1
        pull = half * gravity * jnp.cos(one + two - math.pi / 2)
        phi = (half + 1) * gravity * jnp.cos(one - math.pi / 2) + pull
        phi = phi - half * faster**2 * sin - 2 * half * faster * fast * sin
        push = torque + d2 / d1 * phi - half * fast**2 * sin - pull
        second = push / (half**2 + 1 - d2**2 / d1)
        return jnp.stack([fast, faster, -(d2 * second + phi) / d1, second])

    def step(state: Float[Array, "4"], action: Int[Array, ""], key: Any) -> Outcome:
        torque = (action - 1).astype(state.dtype)
        k1 = slope(state, torque)
        k2 = slope(state + dt / 2 * k1, torque)
        k3 = slope(state + dt / 2 * k2, torque)
        k4 = slope(state + dt * k3, torque)
        new = state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        most = math.pi * jnp.array([4.0, 9.0], new.dtype)
        new = jnp.concatenate([_angle(new[:2]), jnp.clip(new[2:], -most, most)])
        up = -jnp.cos(new[0]) - jnp.cos(new[1] + new[0]) > 1
        return Outcome(new, jnp.where(up, 0.0, -1.0).astype(new.dtype), up)

    def observe(state):
        sin, cos = jnp.sin(state[:2]), jnp.cos(state[:2])
        return jnp.stack([cos[0], sin[0], cos[1], sin[1], state[2], state[3]])

    def reset(key):
        return _uniform(key, [-0.1] * 4, [0.1] * 4)

    return checked(Environment("acrobot", reset, step, observe, (6,), 3, 500))


def pendulum() -> Environment:
    """Swing a pendulum up and hold it there, by a torque in [-2, 2].

    Observed: cosine, sine and speed of the angle. Each step costs the square of the
    angle, a tenth of that of its speed and a thousandth of the torque's. 200 steps.
    """

    def step(state: Float[Array, "2"], action: Float[Array, "1"], key: Any) -> Outcome:
        angle, speed = state
        torque = jnp.clip(action[0], -2, 2)
        cost = _angle(angle) ** 2 + 0.1 * speed**2 + 0.001 * torque**2
        speed = jnp.clip(speed + (15 * jnp.sin(angle) + 3 * torque) * 0.05, -8, 8)
        new = jnp.stack([angle + speed * 0.05, speed])
        return Outcome(new, -cost, jnp.zeros((), bool))

    def observe(state):
        return jnp.stack([jnp.cos(state[0]), jnp.sin(state[0]), state[1]])

    def reset(key):
        return _uniform(key, [-math.pi, -1.0], [math.pi, 1.0])

    return checked(Environment("pendulum", reset, step, observe, (3,), 0, 200, 2.0))


def _angle(x):
    """The same angle in [-pi, pi)."""
    return (x + math.pi) % (2 * math.pi) - math.pi


ENVIRONMENTS: dict[str, Callable[[], Environment]] = {
    "cartpole": cart_pole,
    "acrobot": acrobot,
    "mountain_car": mountain_car,
    "pendulum": pendulum,
}


def starts(environment: Environment, n: int, seed: int = 0) -> Float[Array, "n *D"]:
    """The first observations of n episodes."""
    keys = jax.random.split(jax.random.key(seed), n)
    return jax.vmap(lambda key: environment.observe(environment.reset(key)))(keys)
