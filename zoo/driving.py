"""Driving on a winding road: an environment, seen as an image or as a few rays.

The car is the kinematic bicycle (Rajamani, "Vehicle dynamics and control", 2012,
section 2.2) at constant speed, its place the middle of the rear axle. Who drives well
is pure pursuit (Coulter, "Implementation of the pure pursuit path tracking algorithm",
1992, CMU-RI-TR-92-01), which knows the road.

All is of one car: `vmap` makes many. Metres and radians; in the car's frame x is ahead
and y to the left, where a positive action turns. Shapes: P points of a road, K of the
piece that is seen, H rows and W columns of an image, R rays, T images.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from zoo.base import UsageError, check_choice, check_int, concrete
from zoo.environments import Environment, Outcome, checked
from zoo.types import Array, Tree

LENGTH = 120  # of a road, from its start to its end
HALF = 2.0  # of its width
BEHIND, BEYOND = 4, 28  # what is seen of it, behind the car and beyond
STEP = 1.0  # driven in a step: a tenth of a second at 36 km/h
WHEELBASE, LOCK = 2.5, 0.5  # between the axles; the wheels' angle at action 1
SIZE, PIXEL = 24, 0.75  # of an image: pixels in each direction, and metres of one
REACH = 20.0  # of a ray
ANGLES = tuple(math.pi / 8 * i for i in range(-4, 5))  # of rays, from right to left
AHEAD = 6.0  # of the point that is pursued
# of a road's direction: the lengths of its waves, and how far each may turn it
WAVES = ((90.0, 0.6), (45.0, 0.35), (30.0, 0.2))


class Drive(NamedTuple):
    """A car on its road."""

    road: Array  # [P, 2]: its middle, by points 1 apart from -BEHIND on
    pose: Array  # [3]: x, y and direction
    along: Array  # []: how far on the road, at most LENGTH


# The road and the car -----------------------------------------------------------------


def road(key: PRNGKeyArray) -> Float[Array, "P 2"]:
    """A random one, which begins at the origin in the direction of x.

    Its direction swings by less than pi / 2 to either side of a straight line, so that
    it never meets itself; its radius is 7 at least.
    """
    lengths, swings = jnp.array(WAVES).T
    share, phase = jax.random.uniform(key, (2, len(WAVES)))
    at = jnp.arange(-BEHIND, LENGTH + BEYOND) + 0.5
    waves = jnp.sin(2 * jnp.pi * (at[:, None] / lengths[None] + phase[None]))
    direction = waves @ (swings * (0.5 + 0.5 * share))
    direction = direction - direction[BEHIND]
    ends = jnp.cumsum(jnp.stack([jnp.cos(direction), jnp.sin(direction)], 1), 0)
    points = jnp.concatenate([jnp.zeros((1, 2)), ends])
    return points - points[BEHIND][None]


def moved(
    pose: Float[Array, "3"], action: Float[Array, ""], distance: float = STEP
) -> Float[Array, "3"]:
    """Where steering leads: an arc of radius WHEELBASE / tan(LOCK action)."""
    x, y, direction = pose
    turn = distance * jnp.tan(LOCK * action) / WHEELBASE
    chord = distance * jnp.sinc(turn / (2 * jnp.pi))  # numpy's: of pi times it
    middle = direction + turn / 2
    return jnp.stack(
        [x + chord * jnp.cos(middle), y + chord * jnp.sin(middle), direction + turn]
    )


def place(
    road: Float[Array, "P 2"], point: Float[Array, "2"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(how far along the road a point is, how far to the left of its middle)."""
    start, way = road[:-1], road[1:] - road[:-1]  # each of length 1
    toward = point[None] - start
    part = jnp.clip(jnp.sum(toward * way, 1), 0, 1)
    square = jnp.sum((toward - part[:, None] * way) ** 2, 1)
    i = jnp.argmin(square)
    left = way[i, 0] * toward[i, 1] - way[i, 1] * toward[i, 0]
    return i + part[i] - BEHIND, jnp.sqrt(square[i]) * jnp.sign(left)


def pursue(state: Drive) -> Float[Array, "1"]:
    """What keeps to the middle: the arc to a point of it that is AHEAD."""
    points = _piece(state)
    at = state.along - _first(state) + BEHIND + AHEAD
    i = jnp.floor(at).astype(jnp.int32)
    x, y = points[i] + (at - i) * (points[i + 1] - points[i])
    angle = jnp.arctan(2 * WHEELBASE * y / (x**2 + y**2))
    return jnp.clip(angle / LOCK, -1, 1)[None]


def _first(state):
    """The number of the first point that is seen."""
    return jnp.clip(jnp.floor(state.along), 0, LENGTH).astype(jnp.int32)


def _piece(state):
    """What is near of the road, in the car's frame: points [K, 2]."""
    size = BEHIND + BEYOND + 1
    points = jax.lax.dynamic_slice_in_dim(state.road, _first(state), size)
    away = points - state.pose[None, :2]
    cos, sin = jnp.cos(state.pose[2]), jnp.sin(state.pose[2])
    return away @ jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])


# What is seen -------------------------------------------------------------------------


def image(state: Drive) -> Float[Array, "H W 1"]:
    """The road from above, 1 on it and 0 beside: ahead is up, and two rows are behind.

    A pixel at the edge is grey, by how far its middle is inside.
    """
    rows, columns = np.mgrid[:SIZE, :SIZE]
    x = (PIXEL * (SIZE - 2.5 - rows)).reshape(-1, 1).astype(np.float32)
    y = (PIXEL * ((SIZE - 1) / 2 - columns)).reshape(-1, 1).astype(np.float32)
    points = _piece(state)
    start, way = points[None, :-1], points[None, 1:] - points[None, :-1]
    dx, dy = x - start[..., 0], y - start[..., 1]
    part = jnp.clip(dx * way[..., 0] + dy * way[..., 1], 0, 1)
    square = (dx - part * way[..., 0]) ** 2 + (dy - part * way[..., 1]) ** 2
    # HALF - distance where that is small, without a root
    inside = (HALF**2 - square.min(1)) / (2 * HALF)
    return jnp.clip(inside / PIXEL + 0.5, 0, 1).reshape(SIZE, SIZE, 1)


def rays(state: Drive) -> Float[Array, "R"]:
    """How far it is to the edge at each of ANGLES, as a share of REACH."""
    points = _piece(state)
    ahead = jnp.concatenate([points[1:2] - points[:1], points[2:] - points[:-2]])
    ahead = jnp.concatenate([ahead, points[-1:] - points[-2:-1]])
    ahead = ahead / jnp.linalg.norm(ahead, axis=1, keepdims=True)
    side = HALF * jnp.stack([-ahead[:, 1], ahead[:, 0]], 1)
    edges = jnp.stack([points + side, points - side])
    start, way = edges[:, :-1], edges[:, 1:] - edges[:, :-1]

    def reach(x, y):
        """Where a ray crosses pieces of edges: their lines, between their ends."""
        turn = x * way[..., 1] - y * way[..., 0]
        turn = jnp.where(jnp.abs(turn) < 1e-6, 1e-6, turn)
        far = (start[..., 0] * way[..., 1] - start[..., 1] * way[..., 0]) / turn
        part = (start[..., 0] * y - start[..., 1] * x) / turn
        # a little beyond: rounding leaves no gap between two pieces
        here = (part > -1e-4) & (part < 1 + 1e-4) & (far >= 0)
        return jnp.where(here, far, REACH).min()

    found = jax.vmap(reach)(jnp.cos(jnp.array(ANGLES)), jnp.sin(jnp.array(ANGLES)))
    return jnp.minimum(found, REACH) / REACH


VIEWS = {
    "rays": ("driving", rays, (len(ANGLES),)),
    "image": ("driving_image", image, (SIZE, SIZE, 1)),
}


# The environment ----------------------------------------------------------------------


def driving(view: str = "rays") -> Environment:
    """Drive to the end of a road by steering in [-1, 1]: 1 for each metre of it.

    An episode ends there, or off the road; it begins up to half a metre and 0.1 radians
    off its middle. Observed: `rays`, or an `image`. 200 steps at most. Raises
    UsageError for another view, and for an action out of range; where that is traced,
    it is clipped.
    """
    check_choice("view", view, tuple(VIEWS))
    name, observe, shape = VIEWS[view]

    def reset(key):
        where, own = jax.random.split(key)
        aside, turn = jax.random.uniform(own, (2,), minval=-1)
        pose = jnp.stack([jnp.zeros(()), 0.5 * aside, 0.1 * turn])
        return Drive(road(where), pose, jnp.zeros(()))

    def step(state: Drive, action: Float[Array, "1"], key: Any) -> Outcome:
        if concrete(action) and abs(float(action[0])) > 1:
            raise UsageError(
                f"expected steering in [-1, 1] in {name}, found {float(action[0]):g}"
            )
        pose = moved(state.pose, jnp.clip(action[0], -1, 1))
        along, aside = place(state.road, pose[:2])
        off = jnp.abs(aside) > HALF
        new = Drive(state.road, pose, jnp.minimum(along, LENGTH))
        reward = jnp.where(off, 0, new.along - state.along)
        return Outcome(new, reward, off | (along >= LENGTH))

    return checked(Environment(name, reset, step, observe, shape, 0, 200, 1.0))


class Several(NamedTuple):
    """A state, and what was seen last."""

    state: Tree
    seen: Array  # [T, *D]: the newest is the last


def several(environment: Environment, frames: int) -> Environment:
    """The same, of which the last `frames` observations are seen: [T, *D].

    At first they are all alike. Raises UsageError for none.
    """
    check_int("frames", frames, 1)

    def reset(key):
        state = environment.reset(key)
        seen = environment.observe(state)[None]
        return Several(state, jnp.repeat(seen, frames, 0))

    def step(state: Several, action: Float[Array, "..."], key: Any) -> Outcome:
        found = environment.step(state.state, action, key)
        new = environment.observe(found.state)[None]
        seen = jnp.concatenate([state.seen[1:], new])
        return found._replace(state=Several(found.state, seen))

    def observe(state):
        return state.seen

    shape = (frames, *environment.shape)
    return environment._replace(reset=reset, step=step, observe=observe, shape=shape)


def arrived(reward: Float[Array, "..."]) -> Array:
    """Whether episodes of such returns ended at the ends of their roads: bool."""
    return reward > LENGTH - 0.01  # what leaves the road gets nothing for that step
