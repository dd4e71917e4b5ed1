"""What one member of many computes: functions that a program traces for all of them.

Shapes: N rows of an evaluation.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from train import mesh as programs
from train import step as one
from train.evaluate import make_eval
from train.guard import finite, floats
from train.many.member import Member, Varied, latest
from train.source import batch_shapes
from zoo.base import UsageError

BLOCK = 256  # rows that a member evaluates at a time


class Traced(NamedTuple):
    """A member, but for its settings `own`, its seed among them, and its state.

    `make(**settings)` returns a `Member`, or the first of it; `patience` is of steps.
    """

    make: Callable[..., Any]
    data: Varied
    patience: int | None = None

    def member(self, own: dict[str, Any]) -> Member:
        """What it trains."""
        hidden = ("seed", *self.data.names)
        given = {name: value for name, value in own.items() if name not in hidden}
        return Member(*self.make(**given))

    def asked(self, arrays: Any, own: dict[str, Any]) -> tuple[Any, tuple[str, ...]]:
        """A step, to be compiled, and the names of what `score` gives.

        Raises UsageError, with its name, for a setting that shapes the program.
        """
        try:
            return self._traced(arrays, own)
        except TypeError as error:  # of JAX, of Flax, or of a tuple times a number
            if (name := self._shaping(arrays, own)) is None:
                raise
            raise UsageError(
                f"expected settings that a program reads as numbers, found {name}, "
                "which shapes it: one sweep for each of its values"
            ) from error

    def _traced(self, arrays, own):
        rest = jax.eval_shape(self.begin, arrays, own)
        step = jax.jit(self.metrics).trace(arrays, (rest, own))
        if jax.eval_shape(self.data.evaluation, arrays, own) is None:
            return step, ()
        what = latest(one.State(jnp.int32(0), *rest))
        return step, (*jax.eval_shape(self.score, arrays, (what, own)),)

    def _shaping(self, arrays, own):
        """The first setting that alone keeps a step from being traced; or None.

        None also where nothing traced is to blame.
        """
        hidden = ("seed", *self.data.names)
        plain = {name: v.item() for name, v in own.items() if name not in hidden}
        for name in (None, *plain):
            rest = {k: v for k, v in plain.items() if k != name}
            fixed = self._replace(make=partial(self.make, **rest))
            try:
                fixed._traced(arrays, {k: v for k, v in own.items() if k not in rest})
            except TypeError:
                return name
        return None

    def begin(self, arrays: Any, own: Any) -> Any:
        """What it begins with: a state without its step."""
        task, optimizer, ema, _ = self.member(own)
        like = batch_shapes(self.data.source(arrays, own))
        zeros = jax.tree.map(lambda a: jnp.zeros((1, *a.shape[1:]), a.dtype), like)
        state = one.init(task, optimizer, own["seed"], zeros, average=ema is not None)
        return state[1:]

    def metrics(self, arrays: Any, member: Any) -> Any:
        """The metrics of one step, for their shapes and the work of it."""
        rest, own = member
        step = self.member(own).step()
        source = self.data.source(arrays, own)
        state = one.State(jnp.int32(0), *rest)
        batch = source.batch(source.arrays, own["seed"], state.step)
        return step(state, batch)[1]

    def chunk(self, shared: Any, member: Any) -> Any:
        """Its steps from `now` to `stop`, which are those of all members: a step's
        number that differed would make a `select` of each `cond`."""
        (arrays, now, stop), (rest, total, own) = shared, member
        source = self.data.source(arrays, own)
        run = programs.make_chunk(self.member(own).step(), source)
        state, total = run(one.State(now, *rest), total, source.arrays, stop)
        good, _ = finite([*floats((state.params, state.model)).values()])
        return state[1:], total, own, good

    def score(self, arrays: Any, member: Any) -> Any:
        """Metrics of a `Trained` on the rows of its evaluation, block by block."""
        what, own = member
        rows: Any = self.data.evaluation(arrays, own)
        n = len(rows["x"])
        blocks = -(-n // BLOCK)
        rows = {"row": jnp.arange(n), "mask": jnp.ones(n), **rows}

        def cut(a):  # the last is filled with zeros, which the mask drops
            fill = [(0, -n % blocks), *[(0, 0)] * (a.ndim - 1)]
            return jnp.pad(a, fill).reshape(blocks, -1, *a.shape[1:])

        evaluate = make_eval(self.member(own).task)
        found = jax.lax.map(lambda part: evaluate(what, part), jax.tree.map(cut, rows))
        return jax.tree.map(lambda a: a.sum(0), found)

    def better(self, shared: Any, member: Any) -> Any:
        """Its best, and what it predicts with now, if that is better and in time."""
        (arrays, now), (rest, best, own) = shared, member
        what = latest(one.State(now, *rest))
        loss = self.score(arrays, (what, own))["loss"].value()
        in_time = now - best.step <= self.patience
        better = in_time & (loss < best.loss)
        # the last, until an evaluation is finite
        follows = better | (in_time & jnp.isinf(best.loss))
        kept = jax.tree.map(partial(jnp.where, follows), what, best.trained)
        scored = jnp.where(better, loss, best.loss), jnp.where(better, now, best.step)
        return programs.Best(*scored, kept)
