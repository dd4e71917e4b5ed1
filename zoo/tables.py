"""Worlds of few states, as tables: values that are exact, and Q-learning beside them.

Bellman, "Dynamic programming", 1957. Watkins & Dayan, "Q-learning", 1992. Dietterich,
"Hierarchical reinforcement learning with the MAXQ value function decomposition", 2000,
arXiv:cs/9905014 (the taxi). FrozenLake and Taxi have the transitions of gymnasium's.
Shapes: S states, A actions, K outcomes of an action, N environments.
"""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from zoo.base import Aux, Mean, Number, Task, UsageError, concrete
from zoo.environments import Environment, Outcome, checked
from zoo.rollouts import advance, begin
from zoo.types import Array


class Table(NamedTuple):
    """What each action in each state leads to, and how likely that is."""

    name: str
    probability: Float[Array, "S A K"]
    following: Int[Array, "S A K"]
    reward: Float[Array, "S A K"]
    terminated: Bool[Array, "S A K"]
    start: Float[Array, "S"]  # the odds of each state to begin in
    limit: int  # steps, after which an episode is cut off

    @property
    def states(self) -> int:
        """S."""
        return self.following.shape[0]

    @property
    def actions(self) -> int:
        """A."""
        return self.following.shape[1]


def environment(table: Table) -> Environment:
    """A table to act in; its state, an int, is seen as one of S zeros that is 1."""
    odds = jnp.log(table.probability)
    first = jnp.log(table.start)

    def step(state: Int[Array, ""], action: Int[Array, ""], key) -> Outcome:
        k = jax.random.categorical(key, odds[state, action])
        at = state, action, k
        new = jnp.asarray(table.following)[at]
        reward, over = jnp.asarray(table.reward)[at], jnp.asarray(table.terminated)[at]
        return Outcome(new, reward, over)

    def reset(key):
        return jax.random.categorical(key, first).astype(jnp.int32)

    def observe(state):
        return jax.nn.one_hot(state, table.states)

    shape, actions = (table.states,), table.actions
    return checked(
        Environment(table.name, reset, step, observe, shape, actions, table.limit)
    )


# Worlds -------------------------------------------------------------------------------

LAKES = {
    "frozen_lake": "SFFF FHFH FFFH HFFG",
    "frozen_lake_8": "SFFFFFFF FFFFFFFF FFFHFFFF FFFFFHFF FFFHFFFF FHHFFFHF FHFFHFHF "
    "FFFHFFFG",
}
MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))  # left, down, right, up


def frozen_lake(name: str = "frozen_lake", *, slippery: bool = True) -> Table:
    """Cross a frozen lake with holes to the goal, which gives 1.

    Where it is slippery, each of the direction meant and the two beside it is as
    likely. `name` is one of LAKES.
    """
    rows = LAKES[name].split()
    height, width = len(rows), len(rows[0])
    turns = (-1, 0, 1) if slippery else (0,)
    shape = (height * width, 4, len(turns))
    following = np.zeros(shape, np.int32)
    reward, over = np.zeros(shape, np.float32), np.ones(shape, bool)
    for s, a, k in np.ndindex(shape):
        row, column = divmod(s, width)
        following[s, a, k] = s
        if rows[row][column] not in "HG":  # there nothing moves any more
            down, right = MOVES[(a + turns[k]) % 4]
            row = min(max(row + down, 0), height - 1)
            column = min(max(column + right, 0), width - 1)
            following[s, a, k] = row * width + column
            reward[s, a, k] = rows[row][column] == "G"
            over[s, a, k] = rows[row][column] in "HG"
    odds = np.full(shape, 1 / len(turns))
    start = np.array([c == "S" for c in "".join(rows)], float)
    limit = 100 if name == "frozen_lake" else 200
    return _table(name, odds, following, reward, over, start, limit)


STREETS = "|:|::| |:|::| |::::| ||:|:| ||:|:|".split()  # ":" lets a taxi through
PLACES = ((0, 0), (0, 4), (4, 0), (4, 3))


@functools.cache
def taxi() -> Table:
    """Fetch a passenger from one of four places, and bring it to another.

    Actions: south, north, east, west, pick up, drop. A step costs 1, a pick up or drop
    where it cannot be 10; the passenger at its goal gives 20.
    """
    shape = (500, 6, 1)
    following, over = np.zeros(shape, np.int32), np.zeros(shape, bool)
    reward, start = np.full(shape, -1, np.float32), np.zeros(500)

    def number(row, column, passenger, goal):
        return ((row * 5 + column) * 5 + passenger) * 4 + goal

    for row, column, passenger, goal in itertools.product(*map(range, (5, 5, 5, 4))):
        s, place = number(row, column, passenger, goal), (row, column)
        start[s] = passenger < 4 and passenger != goal
        open_to = STREETS[row]
        east = column + (open_to[column + 1] == ":")
        west = column - (open_to[column] == ":")
        moves = [(min(row + 1, 4), column), (max(row - 1, 0), column)]
        moves += [(row, east), (row, west)]
        for a, (r, c) in enumerate(moves):
            following[s, a] = number(r, c, passenger, goal)
        here = passenger < 4 and place == PLACES[passenger]
        following[s, 4] = number(row, column, 4 if here else passenger, goal)
        reward[s, 4] = -1 if here else -10
        inside, at = passenger == 4, place in PLACES
        done = inside and place == PLACES[goal]
        left = PLACES.index(place) if inside and at else passenger
        following[s, 5] = number(row, column, left, goal)
        reward[s, 5] = 20 if done else -1 if inside and at else -10
        over[s, 5] = done
    odds = np.ones(shape)
    return _table("taxi", odds, following, reward, over, start / start.sum(), 200)


def chain(length: int = 8, *, goal: float = 1.0, back: float = 0.0) -> Table:
    """States in a row: action 1 goes on, 0 goes back; past the end is the goal.

    The value of state s is goal * discount**(length - 1 - s). Going back gives `back`.
    """
    s = np.arange(length, dtype=np.int32)
    following = np.stack([np.maximum(s - 1, 0), np.minimum(s + 1, length - 1)], 1)
    last = np.stack([np.zeros(length, bool), s == length - 1], 1)
    reward = np.where(last, goal, np.array([back, 0.0])).astype(np.float32)
    start = np.eye(length)[0]
    odds = np.ones((length, 2, 1))
    each = (a[..., None] for a in (following, reward, last))
    return _table("chain", odds, *each, start, 10 * length)


def bandit(odds: tuple[float, ...] = (0.2, 0.8)) -> Table:
    """One state, an arm for each of the odds of winning 1; then it is over."""
    win = np.asarray(odds, float)[None]
    probability = np.stack([1 - win, win], -1)
    reward = np.broadcast_to(np.array([0, 1], np.float32), probability.shape)
    over, following = np.ones(reward.shape, bool), np.zeros(reward.shape, np.int32)
    return _table("bandit", probability, following, reward, over, np.ones(1), 1)


def _table(name, *arrays) -> Table:
    """Of numpy's arrays, which JAX reads as float32 unless x64 is on."""
    return Table(name, *arrays)


# Exact values -------------------------------------------------------------------------


def backup(
    table: Table, values: Float[Array, "S"], discount: Number
) -> Float[Array, "S A"]:
    """What each action is worth, where states are worth `values` afterwards."""
    later = jnp.where(table.terminated, 0, values[jnp.asarray(table.following)])
    return jnp.sum(table.probability * (table.reward + discount * later), -1)


def value_iteration(
    table: Table, discount: Number, *, tolerance: float = 1e-7, most: int = 100_000
) -> Float[Array, "S A"]:
    """The optimal worth of each action: backups until none changes it by more."""
    _check_discount(discount)

    def unfinished(carry):
        _, change, count = carry
        return (change > tolerance) & (count < most)

    def body(carry):
        q, _, count = carry
        new = backup(table, q.max(1), discount)
        return new, jnp.abs(new - q).max(), count + 1

    q = backup(table, jnp.zeros(table.states), discount)
    return jax.lax.while_loop(unfinished, body, (q, jnp.inf, 0))[0]


def policy_values(
    table: Table, policy: Float[Array, "S A"], discount: Number
) -> Float[Array, "S"]:
    """The worth of each state under odds of actions: the solution of a linear system.

    Raises UsageError for a policy of other shape.
    """
    if np.shape(policy) != (table.states, table.actions):
        raise UsageError(
            f"expected a policy [{table.states}, {table.actions}] for {table.name}, "
            f"found shape {np.shape(policy)}"
        )
    _check_discount(discount)
    weight = policy[..., None] * table.probability
    goes_on = jnp.where(table.terminated, 0, weight)
    rows = jnp.broadcast_to(
        jnp.arange(table.states).reshape(-1, 1, 1), table.following.shape
    )
    moves = jnp.zeros((table.states, table.states)).at[rows, table.following]
    system = jnp.eye(table.states) - discount * moves.add(goes_on)
    return jnp.linalg.solve(system, jnp.sum(weight * table.reward, (1, 2)))


def greedy(q: Float[Array, "S A"]) -> Float[Array, "S A"]:
    """The policy that takes the first of the best actions."""
    return jax.nn.one_hot(q.argmax(1), q.shape[1])


# Learned values -----------------------------------------------------------------------


def q_learning(
    table: Table,
    *,
    environments: int = 16,
    discount: Number = 0.99,
    exploration: Number = 0.3,
) -> Task:
    """Q-learning (Watkins & Dayan 1992), as a loss: half the squared surprise.

    With plain gradient descent of rate a, a step moves q(s, a) by a times
    reward + discount * max q(s', .) - q(s, a), in each environment; of an action that
    several took, by the sum. `exploration` is the share of actions at random; the
    environments are model state. A batch is not read. Metrics: "loss", "return" of the
    episodes that ended.
    """
    _check_discount(discount)
    world = environment(table)

    def init(key, batch):
        playing = jax.vmap(functools.partial(begin, world))(
            jax.random.split(key, environments)
        )
        state = {"playing": playing, "score": jnp.zeros(environments)}
        return {"q": jnp.zeros((table.states, table.actions))}, state

    def loss(params, state, batch, key, *, train):
        q, (choice, coin, moves, resets) = params["q"], jax.random.split(key, 4)
        playing = state["playing"]
        shape = (environments, table.actions)
        noise = jax.random.uniform(choice, shape)  # parts what is as good, too
        best = jax.lax.stop_gradient(q[playing.state]) + 1e-6 * noise
        explore = jax.random.uniform(coin, (environments, 1)) < exploration * train
        action = jnp.where(explore, noise, best).argmax(1)
        fresh = jax.vmap(functools.partial(begin, world))(
            jax.random.split(resets, environments)
        )
        keys = jax.random.split(moves, environments)
        each = jax.vmap(functools.partial(advance, world))
        following, seen = each(playing, action, keys, fresh)
        after = seen.following.argmax(1)
        later = jnp.where(seen.terminated, 0, q[after].max(1))
        target = jax.lax.stop_gradient(seen.reward + discount * later)
        surprise = 0.5 * jnp.square(target - q[playing.state, action])
        score = state["score"] + seen.reward
        metrics = {
            "loss": Mean.of(surprise),
            "return": Mean.of(score, seen.ended.astype(score.dtype)),
        }
        new = {"playing": following, "score": jnp.where(seen.ended, 0, score)}
        return surprise.sum(), Aux(metrics, new if train else state)

    return Task(init, loss)


def _check_discount(discount):
    if concrete(discount) and not 0 <= discount <= 1:
        raise UsageError(f"expected a discount in [0, 1], found {discount}")
