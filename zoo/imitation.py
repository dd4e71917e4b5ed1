"""Learning what to do from who knows it: steering seen in images, by imitation.

Pomerleau, "ALVINN: an autonomous land vehicle in a neural network", 1989. Bojarski et
al., "End to end learning for self-driving cars", 2016, arXiv:1604.07316 (a CNN on an
image). Who only sees a teacher's way never learns the way back to it: noise may push
the teacher off it (Laskey et al., "DART: noise injection for robust imitation
learning", 2017, arXiv:1703.09327), or the learner acts and the teacher says what would
have been right (Ross, Gordon & Bagnell, "A reduction of imitation learning and
structured prediction to no-regret online learning", 2011, arXiv:1011.0686: DAgger).

Shapes: B batch, T steps or images, N environments, D of an observation, H rows, W
columns.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float, PRNGKeyArray

from zoo.base import Number, UsageError, check_int, concrete, float32
from zoo.checks import check_inputs
from zoo.cnn import CNN
from zoo.environments import Environment
from zoo.rnn import LSTM, RNN
from zoo.rollouts import Act, advance, begin
from zoo.types import Array, Raw, Tree

Teacher = Callable[[Tree], Array]
"""Who knows the state: state -> action [1]."""
HOLD = 8  # steps that a push lasts


class Driver(nn.Module):
    """What to do of an image by a CNN; of several, by a CNN of each and an LSTM."""

    shape: tuple[int, ...]  # of an observation: (H, W, 1), or (T, H, W, 1)
    channels: tuple[int, ...] = (8, 16)
    widths: tuple[int, ...] = (32,)  # of dense layers, after each image
    features: int = 32  # of the LSTM

    @nn.compact
    def __call__(self, x: Raw, *, train: bool = False) -> Float[Array, "B 1"]:
        """Actions of x [B, *shape]. Raises UsageError for another shape or dtype."""
        x = check_inputs(x)
        if x.shape[1:] != tuple(self.shape):
            wanted = ", ".join(map(str, self.shape))
            raise UsageError(f"expected images [B, {wanted}], found shape {x.shape}")
        if len(self.shape) == 3:
            return CNN(1, self.channels, self.widths)(x, train=train)
        *widths, last = self.widths
        each = CNN(last, self.channels, tuple(widths))
        seen = nn.relu(each(x.reshape(-1, *self.shape[1:]), train=train))
        seen = seen.reshape(-1, self.shape[0], last)
        _, h = RNN(LSTM, self.features)(seen, train=train)
        return float32(nn.Dense(1)(h[:, -1]))


class Lessons(NamedTuple):
    """What was seen, and what the teacher would have done."""

    observation: Array  # [T, N, *D]
    action: Array  # [T, N, 1]


def lessons(
    environment: Environment,
    teacher: Teacher,
    key: PRNGKeyArray,
    n: int,
    steps: int,
    *,
    act: Act | None = None,
    pushed: Number = 0.0,
) -> Lessons:
    """Steps [T, N] of environments, in each of which the teacher says what is right.

    It acts, or the learner `act` does; in a share `pushed` of the environments, noise
    acts now and then (see `pushes`). An episode that ends is followed by another.
    Actions are one number within the environment's bound. Raises UsageError for numbers
    out of range.
    """
    check_int("n", n, 1)
    check_int("steps", steps, 1)
    if concrete(pushed) and not 0 <= pushed <= 1:
        raise UsageError(f"expected a share pushed in [0, 1], found {pushed}")
    first, fresh, own, noise = jax.random.split(key, 4)
    start = jax.vmap(lambda key: begin(environment, key))
    play = jax.vmap(lambda *args: advance(environment, *args))
    push, force = pushes(noise, steps, n, pushed)

    def body(playing, step):
        keys, others, push, force = step
        seen = jax.vmap(environment.observe)(playing.state)
        right = jax.vmap(teacher)(playing.state)
        done = right if act is None else act(seen)
        done = jnp.where(push, environment.bound * force, done)
        playing, _ = play(playing, done, keys, start(others))
        return playing, Lessons(seen, right)

    each = (
        *(jax.random.split(key, (steps, n)) for key in (own, fresh)),
        *(push, force),
    )
    return jax.lax.scan(body, start(jax.random.split(first, n)), each)[1]


def pushes(
    key: PRNGKeyArray, steps: int, n: int, share: Number
) -> tuple[Array, Float[Array, "T N 1"]]:
    """(whether noise acts, how in [-1, 1]), each [T, N, 1], in the first share of n.

    A push lasts HOLD steps, and one such stretch in four has one.
    """
    size = -(-steps // HOLD), n, 1
    when, how = jax.random.split(key)
    some = jax.random.bernoulli(when, 0.25, size)
    some = some & (jnp.arange(n) < share * n).reshape(1, n, 1)
    force = jax.random.uniform(how, size, minval=-1)
    return jnp.repeat(some, HOLD, 0)[:steps], jnp.repeat(force, HOLD, 0)[:steps]
