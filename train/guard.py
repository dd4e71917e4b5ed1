"""A step is whole or not at all: one that is not finite leaves the state as it was.

Its number is gone, so that the next one reads another batch and draws other noise. What
an optimizer counts, as the steps of a schedule or the turns of two players, is part of
the state and waits with it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import checkify

from train.source import Source
from train.step import State
from zoo.base import Batch, Mean, UsageError

SHARE, ROW = 0.01, 20  # too many: of an epoch's steps, or one after the other
ENDLESS = 1000  # steps of an epoch that has no end
SMALL = 1024  # numbers: up to so many, arrays are looked at side by side


class Diverged(UsageError):
    """Too many steps whose loss, gradient, parameters or state are not finite."""

    fit: Any  # `train.loop.Fit`, with the state of the last line


class Skipped(NamedTuple):
    """Which of some steps were skipped: int32 scalars, that are added up in order."""

    count: Any  # type: ignore[assignment]  # hides tuple.count
    row: Any  # the last ones, up to the end
    longest: Any  # one after the other, at most
    step: Any  # the newest
    what: Any  # was not finite in it: an index of `watched`

    def __add__(self, one: "Skipped") -> "Skipped":  # type: ignore[override]
        """These steps, and then one more."""
        row = one.count * (self.row + 1)
        newest = jnp.where(one.count > 0, one.step, self.step)
        what = jnp.where(one.count > 0, one.what, self.what)
        longest = jnp.maximum(self.longest, row)
        return Skipped(self.count + one.count, row, longest, newest, what)


def stays(node: Any) -> bool:
    """Whether a node of the state is written by a step that is skipped, too.

    That of `zoo.dqn` is a memory of what was played: to undo a row of it is a copy of
    all. It says so by `stays`, and holds nothing that is not finite.
    """
    return getattr(node, "stays", False) is True


def watched(state: State, metrics: dict[str, Mean]) -> dict[str, jax.Array]:
    """What must be finite after a step, by name; the small arrays first.

    Not the optimizer's own: a line search holds infinity where it has none yet, and
    what is finite in norm has finite moments.
    """
    sums = {"the loss": metrics["loss"].total}
    sums["the gradient"] = metrics["grad_norm"].total
    return sums | floats({"params": state.params, "state": state.model})


def floats(tree: Any) -> dict[str, jax.Array]:
    """What may be not finite of a tree, by its path; the small arrays first."""
    found = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=stays)
        if not stays(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)
    }
    return dict(sorted(found.items(), key=lambda item: item[1].size > SMALL))


def finite(arrays: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Whether all are finite, and the index of the first that is not: scalars.

    As `floats` gives them, the small ones stand first. They are one array: a loop over
    each would be a third of what compiling a ResNet's step takes in memory.
    """
    small = [array for array in arrays if array.size <= SMALL]
    row = jnp.isfinite(jnp.concatenate([a.ravel() for a in small] or [jnp.ones(1)]))
    ends = jnp.cumsum(jnp.array([array.size for array in small]))
    large = [jnp.isfinite(array).all() for array in arrays[len(small) :]]
    good = jnp.stack([row.all(), *large])
    first = jnp.searchsorted(ends, row.argmin(), side="right")
    large_one = good.argmin()  # 0: none of them
    what = jnp.where(large_one > 0, len(small) - 1 + large_one, first)
    return good.all(), what.astype(jnp.int32)


def guarded(step: Callable[..., Any]) -> Callable[..., Any]:
    """A step (`train.step`) that keeps parameters, model state, optimizer and average
    where what it gives is not finite: no metric counts then, and "skipped" does."""

    def whole(state: State, batch: Batch) -> tuple[State, dict[str, Any]]:
        new, metrics = step(state, batch)
        # or the update would be computed again for each that is looked at
        new = new._replace(params=jax.lax.optimization_barrier(new.params))
        fine, what = finite([*watched(new, metrics).values()])

        def choose(a, b):
            return a if stays(a) else jax.lax.select(fine, a, b)

        old = state._replace(step=new.step)
        kept = jax.tree.map(choose, new, old, is_leaf=stays)
        metrics = jax.tree.map(lambda a: choose(a, jnp.zeros_like(a)), metrics)
        bad = 1 - fine.astype(jnp.int32)
        skipped = Skipped(bad, bad, bad, new.step, what)
        return kept, metrics | {"skipped": skipped}

    return whole


class Tally:
    """What was skipped in the epoch under way. A resumed run begins to count anew:
    as a skipped step changes nothing, it comes to the same state, and may come to its
    end by so many steps later."""

    def __init__(self, source: Source, now: int, steps: int):
        self._size, self._steps = source.size, steps
        self._rows = source.rows or ENDLESS * source.size
        self._since, self._count = now, 0

    def see(self, since: int, now: int, found: Skipped, name: str) -> None:
        """Raise Diverged if too many of the steps from `since` to `now` were skipped.

        That is 20 in a row; more than 1 % of an epoch, and than one in each; or two in
        a row at the end, which nothing finite has followed.
        """
        if why := self._too_many(since, now, found):
            raise Diverged(
                f"the training diverged: {found.count} of the steps {since} to {now} "
                f"were skipped, {why}: {name} is not finite in step {found.step}; "
                "try a smaller learning rate, or clipping (debug_nans names the "
                "operation)"
            )

    def _too_many(self, since, now, found):
        """Why so many are too many; "" if they are not."""
        size, rows = self._size, self._rows
        if since * size // rows > self._since * size // rows:
            self._since, self._count = since, 0
        self._count += found.count
        epochs = -(-now * size // rows) - self._since * size // rows
        if found.longest >= ROW:
            return f"{found.longest} of them in a row"
        if now == self._steps and found.row >= min(2, self._steps):
            return "the last among them"
        if self._count > max(1, SHARE * rows / size) * epochs:
            return f"more than 1 % of the {-(-rows // size)} steps of an epoch"
        return ""


def cause(step: Callable[..., Any], *args: Any) -> str:
    """Which operation of step(*args) is the first to give NaN, or else infinity.

    As "NaN of log"; each is looked at by itself.
    """
    checked = checkify.checkify(step, errors=checkify.nan_checks)
    if said := jax.jit(checked)(*args)[0].get():
        return f"NaN of {said.splitlines()[0].rstrip('.').split()[-1]}"
    try:
        with jax.debug_infs(True):
            jax.block_until_ready(jax.jit(step)(*args))
    except FloatingPointError as error:
        return f"infinity of {str(error).splitlines()[0].rstrip('.').split()[-1]}"
    return "of no operation by itself"
