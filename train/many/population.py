"""Members that train side by side: one program for all of their trainings.

Initial weights, order and step are pure functions of a seed and of numbers, so a whole
training is one. Members lie over the devices; on each they are mapped by `vmap`, or one
after the other by `lax.map`, whichever is faster for a step of their size.
Shapes: S members, N rows.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from train import mesh as programs
from train import step as one
from train.disk import origin as told
from train.evaluate import make_eval
from train.guard import finite, floats
from train.machines.devices import replicate
from train.many.axes import Settings
from train.many.member import (
    Member,
    Varied,
    check_data,
    check_settings,
    latest,
    predicting,
    taken,
)
from train.source import batch_shapes, shapes
from zoo.base import UsageError, check_int

WORK = 2e7  # operations of a step: above, one member keeps a core busy
BLOCK = 256  # rows that a member evaluates at a time


class Population:
    """Members at the same step, and their programs.

    `make(**settings)` returns a `Member`; inside a program its numbers are traced.
    `mapping` is chosen by the size of a step for None; `devices` are all for None.
    With `patience`, of steps, `watch` keeps what each member was at its best.
    Raises UsageError, before anything is compiled, for settings that `make` refuses,
    does not know, or that would shape a program.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        data: Varied,
        settings: Settings,
        *,
        mapping: Literal["vmap", "map"] | None = None,
        devices: int | None = None,
        patience: int | None = None,
    ):
        self.settings, self.now, self.patience = settings, 0, patience
        self._make, self._data, self.pace = make, data, 1.0
        check_settings(make, settings, ("seed", *data.names))
        arrays = jax.tree.map(jnp.asarray, data.arrays)
        one_ = {name: jnp.asarray(values[0]) for name, values in settings.items()}
        try:
            self._step, self.scores = self._traced(arrays, one_)
        except TypeError as error:  # of JAX, of Flax, or of a tuple times a number
            if (name := self._shaping(arrays, one_)) is None:
                raise
            raise UsageError(
                f"expected settings that a program reads as numbers, found {name}, "
                "which shapes it: one sweep for each of its values"
            ) from error
        total = self._step.out_info
        self.mapping = mapping or self._faster()
        size, local = len(settings["seed"]), jax.local_devices()
        if devices is not None:
            local = local[: check_int("devices", devices, 1, len(local))]
        self._mesh = jax.make_mesh(
            (min(size, len(local)),),
            ("member",),
            (AxisType.Auto,),
            devices=local[:size],
        )
        # as many on each device: the last is there again where it would not divide
        wide = -(-size // self._mesh.size) * self._mesh.size
        self._pad = np.minimum(np.arange(wide), size - 1)
        self._arrays = replicate(self._mesh, arrays)
        self._own = self._place({k: v[self._pad] for k, v in settings.items()})
        self._zero = jax.tree.map(lambda a: np.zeros((wide, *a.shape), a.dtype), total)
        self._programs: dict[str, Any] = {}
        self._rest: Any = None
        self._best: programs.Best | None = None
        self._total, self._good = self._place(self._zero), np.ones(wide, bool)

    # Of one member, traced ------------------------------------------------------------

    def _member(self, own):
        hidden = ("seed", *self._data.names)
        given = {name: value for name, value in own.items() if name not in hidden}
        return Member(*self._make(**given))

    def _traced(self, arrays, own):
        """A step, to be compiled, and the names of what `evaluate` gives."""
        rest = jax.eval_shape(self._begin, arrays, own)
        step = jax.jit(self._metrics).trace(arrays, (rest, own))
        if jax.eval_shape(self._data.evaluation, arrays, own) is None:
            return step, ()
        what = latest(one.State(jnp.int32(0), *rest))
        return step, (*jax.eval_shape(self._score, arrays, (what, own)),)

    def _shaping(self, arrays, own):
        """The first setting that alone keeps a step from being traced; or None.

        None also where nothing traced is to blame.
        """
        make, hidden = self._make, ("seed", *self._data.names)
        plain = {name: v.item() for name, v in own.items() if name not in hidden}
        for name in (None, *plain):
            rest = {k: v for k, v in plain.items() if k != name}
            self._make = partial(make, **rest)
            try:
                self._traced(arrays, {k: v for k, v in own.items() if k not in rest})
            except TypeError:
                return name
        return None

    def _begin(self, arrays, own):
        """What it begins with: a state without its step."""
        task, optimizer, ema, _ = self._member(own)
        like = batch_shapes(self._data.source(arrays, own))
        zeros = jax.tree.map(lambda a: jnp.zeros((1, *a.shape[1:]), a.dtype), like)
        state = one.init(task, optimizer, own["seed"], zeros, average=ema is not None)
        return state[1:]

    def _metrics(self, arrays, member):
        """The metrics of one step, for their shapes and the work of it."""
        rest, own = member
        step = self._member(own).step()
        source = self._data.source(arrays, own)
        state = one.State(jnp.int32(0), *rest)
        batch = source.batch(source.arrays, own["seed"], state.step)
        return step(state, batch)[1]

    def _chunk(self, shared, member):
        """Its steps from `now` to `stop`, which are those of all members: a step's
        number that differed would make a `select` of each `cond`."""
        (arrays, now, stop), (rest, total, own) = shared, member
        source = self._data.source(arrays, own)
        run = programs.make_chunk(self._member(own).step(), source)
        state, total = run(one.State(now, *rest), total, source.arrays, stop)
        good, _ = finite([*floats((state.params, state.model)).values()])
        return state[1:], total, own, good

    def _score(self, arrays, member):
        """Metrics of a `Trained` on the rows of its evaluation, block by block."""
        what, own = member
        rows: Any = self._data.evaluation(arrays, own)
        n = len(rows["x"])
        blocks = -(-n // BLOCK)
        rows = {"row": jnp.arange(n), "mask": jnp.ones(n), **rows}

        def cut(a):  # the last is filled with zeros, which the mask drops
            fill = [(0, -n % blocks), *[(0, 0)] * (a.ndim - 1)]
            return jnp.pad(a, fill).reshape(blocks, -1, *a.shape[1:])

        evaluate = make_eval(self._member(own).task)
        found = jax.lax.map(lambda part: evaluate(what, part), jax.tree.map(cut, rows))
        return jax.tree.map(lambda a: a.sum(0), found)

    def _better(self, shared, member):
        """Its best, and what it predicts with now, if that is better and in time."""
        (arrays, now), (rest, best, own) = shared, member
        what = latest(one.State(now, *rest))
        loss = self._score(arrays, (what, own))["loss"].value()
        better = (loss < best.loss) & (now - best.step <= self.patience)
        new = programs.Best(loss, now, what)
        return jax.tree.map(lambda a, b: jnp.where(better, a, b), new, best)

    # Of all ---------------------------------------------------------------------------

    def begin(
        self, now: int = 0, rest: Any = None, total: Any = None, best: Any = None
    ) -> "Population":
        """Fresh members, or those of a state [S, ...] at a step; itself."""
        if rest is None:
            # runs once: optimizing its random numbers would take longer than all else
            quickly = {"compiler_options": {"xla_backend_optimization_level": 0}}
            self._rest = self._run(self._begin, self._arrays, self._own, **quickly)
        else:
            self._rest = self._place(taken(rest, self._pad))
            self._good = _finite(one.State(jnp.int32(now), *self._rest))
        if total is not None:
            self._total = self._place(taken(total, self._pad))
        if best is not None:
            self._best = self._place(taken(best, self._pad))
        elif self.patience is not None:
            wide, what = len(self._pad), programs.copied(self._latest())
            none = jnp.full(wide, jnp.inf), jnp.full(wide, now, jnp.int32)
            self._best = self._place(programs.Best(*none, what))
        self.now = now
        if now == 0:
            own = {name: values[0] for name, values in self.settings.items()}
            # their shapes are enough: to slice each array is a program for each
            state = one.State(jnp.int32(0), *_alone(self._rest))
            check_data(self._member(own).task, state, self._data, own)
        return self

    def on(self, boundary: int) -> None:
        """Train until a step, or for about a second."""
        stop = min(boundary, self.now + max(1, int(self.pace)))
        began = time.perf_counter()
        found = self._run(self._chunk, *self._arguments(stop), donate_argnums=1)
        self._rest, self._total, self._own, self._good = jax.block_until_ready(found)
        self.pace = (stop - self.now) / (time.perf_counter() - began)
        self.now = stop

    def metrics(self) -> dict[str, np.ndarray]:
        """The mean metrics [S] of the steps since the last call."""
        total, self._total = self._total, self._place(self._zero)
        return self.host(_values(total))

    def watch(self) -> None:
        """Evaluate, and keep the best of each."""
        shared = self._arrays, np.int32(self.now)
        members = self._rest, self._best, self._own
        self._best = self._run(self._better, shared, members)

    @property
    def stale(self) -> bool:
        """Whether none of the members can better its best."""
        if self._best is None:
            return False
        return bool((self.now - np.asarray(self._best.step) >= self.patience).all())

    def evaluate(self) -> dict[str, np.ndarray]:
        """The metrics [S] of the evaluation, NaN of what diverged; {} without one."""
        if not self.scores:
            return {}
        kept = self._latest() if self._best is None else self._best.trained
        found = self._run(self._score, self._arrays, (kept, self._own))
        values = self.host(_values(found))
        # of NaN the greatest is the first: what diverged would have some accuracy
        good = self.finite
        return {k: np.where(good, v, np.nan) for k, v in values.items()}

    @property
    def finite(self) -> np.ndarray:
        """Whose parameters and statistics are, bool [S], after the last step."""
        return self.host(self._good)

    @property
    def state(self) -> one.State:
        """The members' states [S, ...] on the host; their step is one number."""
        return one.State(jnp.int32(self.now), *self.host(self._rest))

    def trained(self, i: Any = slice(None)) -> one.Trained:
        """What member i predicts with; by a slice or indices, several, stacked."""
        return predicting(self.state, i)

    def move(self, origin: np.ndarray, settings: Settings) -> None:
        """Give each the state of member origin[i], but for its seed, and settings."""
        state = self.state
        moved = taken(state[1:], origin)
        self.settings = settings
        self._own = self._place({k: v[self._pad] for k, v in settings.items()})
        self.begin(
            self.now, one.State(state.step, *moved)._replace(seed=state.seed)[1:]
        )

    @property
    def carry(self) -> Any:
        """What resuming needs beside the step: arrays [S, ...]."""
        return self.host((self._rest, self._total, self._best))

    @property
    def best(self) -> programs.Best | None:
        """What each was at its best [S, ...], on the host; None without `patience`."""
        return self.host(self._best)

    def host(self, tree: Any) -> Any:
        """Arrays [S, ...] of the members, on the host."""
        size = self._pad[-1] + 1
        return jax.tree.map(lambda a: np.asarray(a)[:size], tree)

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics."""
        return tuple(self._zero)

    def bytes(self) -> int:
        """What the program of the steps takes of memory, for all of its members."""
        self._compile(self._chunk, *self._arguments(self.now), donate_argnums=1)
        found = self._programs["_chunk"].memory_analysis()
        own = found.argument_size_in_bytes + found.temp_size_in_bytes
        return own * (self._mesh.size if jax.default_backend() == "cpu" else 1)

    def work(self) -> float:
        """Operations of one step of a member, as the compiler counts them."""
        cost: Any = self._step.lower().cost_analysis()
        return cost["flops"] if cost else math.nan  # None on a GPU

    def origin(self, **own: Any) -> dict[str, Any]:
        """What its states belong to, for their checkpoints (`train.disk.origin`)."""
        first = _alone((self._rest, self._total, self._own))
        shared = shapes(self._arrays), np.int32(0), np.int32(1)
        return {
            **own,
            "settings": {k: tuple(v.tolist()) for k, v in self.settings.items()},
            "data": told.checksums(self._data.arrays),
            "program": told.text(self._chunk, (shared, first)),
            "jax": jax.__version__,
            "platform": jax.default_backend(),
        }

    def _latest(self):
        return latest(one.State(jnp.int32(self.now), *self._rest))

    def _place(self, tree):
        return jax.device_put(tree, NamedSharding(self._mesh, PartitionSpec("member")))

    def _arguments(self, stop):
        shared = self._arrays, np.int32(self.now), np.int32(stop)
        return shared, (self._rest, self._total, self._own)

    def _run(self, function, shared, members, **options):
        """function(shared, member) of each member, compiled once."""
        self._compile(function, shared, members, **options)
        return self._programs[function.__name__](shared, members)

    def _compile(self, function, *args, **options):
        if (name := function.__name__) not in self._programs:
            run = self._spread(function)
            self._programs[name], _ = programs.compiled(run, *args, **options)

    def _spread(self, function):
        def each(shared, members):
            # where devices share a CPU, LAPACK of batches of matrices waits for ever
            if self.mapping == "vmap" and function != self._begin:
                return jax.vmap(function, (None, 0))(shared, members)
            return jax.lax.map(lambda member: function(shared, member), members)

        split = PartitionSpec("member")
        return jax.shard_map(
            each,
            mesh=self._mesh,
            in_specs=(PartitionSpec(), split),
            out_specs=split,
            check_vma=False,
        )

    def _faster(self):
        """Small steps gain by vmap on a CPU, large ones lose; other devices gain."""
        large = jax.default_backend() == "cpu" and self.work() > WORK
        return "map" if large else "vmap"


@jax.jit
def _values(means):
    """The values [S] of means of [S]: one program, not one for each operation."""
    return {name: jax.vmap(lambda mean: mean.value())(m) for name, m in means.items()}


def _alone(tree):
    """The shapes of one member's arrays, of those of all."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), tree)


def _finite(state):
    """Whose parameters and statistics are, bool [S]."""
    return np.logical_and.reduce(
        [
            np.isfinite(a).reshape(len(a), -1).all(1)
            for a in map(np.asarray, jax.tree.leaves((state.params, state.model)))
        ]
    )
