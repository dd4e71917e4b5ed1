"""Members that train side by side: one program for all of their trainings.

Initial weights, order and step are pure functions of a seed and of numbers, so a whole
training is one. Members lie over the devices; on each they are mapped by `vmap`, or one
after the other by `lax.map`, whichever is faster for a step of their size.
Shapes: S members, N rows.
"""

import math
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from train import mesh as programs
from train import step as one
from train.disk import origin as told
from train.machines.devices import replicate
from train.many.axes import Settings
from train.many.member import (
    Varied,
    check_data,
    check_settings,
    latest,
    predicting,
    taken,
)
from train.many.traced import Traced
from train.source import shapes
from zoo.base import check_int

WORK = 2e7  # operations of a step: above, one member keeps a core busy


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
        self._one, self.pace = Traced(make, data, patience), 1.0
        check_settings(make, settings, ("seed", *data.names))
        arrays = jax.tree.map(jnp.asarray, data.arrays)
        one_ = {name: jnp.asarray(values[0]) for name, values in settings.items()}
        self._step, self.scores = self._one.asked(arrays, one_)
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

    def begin(
        self, now: int = 0, rest: Any = None, total: Any = None, best: Any = None
    ) -> "Population":
        """Fresh members, or those of a state [S, ...] at a step; itself."""
        if rest is None:
            # runs once: optimizing its random numbers would take longer than all else
            quickly = {"compiler_options": {"xla_backend_optimization_level": 0}}
            self._rest = self._run(self._one.begin, self._arrays, self._own, **quickly)
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
            check_data(self._one.member(own).task, state, self._one.data, own)
        return self

    def on(self, boundary: int) -> None:
        """Train until a step, or for about a second."""
        stop = min(boundary, self.now + max(1, int(self.pace)))
        began = time.perf_counter()
        found = self._run(self._one.chunk, *self._arguments(stop), donate_argnums=1)
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
        self._best = self._run(self._one.better, shared, members)

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
        found = self._run(self._one.score, self._arrays, (kept, self._own))
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
        self._compile(self._one.chunk, *self._arguments(self.now), donate_argnums=1)
        found = self._programs["chunk"].memory_analysis()
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
            "data": told.checksums(self._one.data.arrays),
            "program": told.text(self._one.chunk, (shared, first)),
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
            if self.mapping == "vmap" and function.__name__ != "begin":
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
