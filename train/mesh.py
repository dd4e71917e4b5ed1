"""What is compiled: programs, and chunks of the one step, for one device or several.

`jax.jit` keeps a program with the function it was given, and so all that the function
closes over, for ever; and an equal function is compiled anew. Here a program is known
by its text: what is equal is compiled once, and no model or data is kept alive.
"""

import hashlib
import math
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train import step as one
from train.check import check_optimizer, check_task
from train.guard import Diverged, Skipped, cause, guarded, watched
from train.machines import hosts
from train.machines.devices import data_parallel as data_parallel
from train.machines.devices import layout, local, rows
from train.source import Source, batch_shapes
from zoo.base import Task, UsageError, check_int
from zoo.checks import understood

KEPT = 64  # programs, the least recently used go first

_programs: OrderedDict[str, Any] = OrderedDict()
_seen: weakref.WeakKeyDictionary[Callable, dict] = weakref.WeakKeyDictionary()


# Programs ---------------------------------------------------------------------------


def compiled(function: Callable, *args: Any, **options: Any) -> tuple[Any, str]:
    """The program of function(*args), and its hash; `options` as `jax.jit` has them."""
    lowered = jax.jit(function, **options).lower(*args)
    # the same operations may stand between other trees, or lie on other devices
    frame = (_kind(args), lowered.out_tree, sorted(options.items()))
    text = f"{lowered.as_text()}\n{frame}"
    name = hashlib.sha256(text.encode()).hexdigest()
    if name not in _programs:
        _programs[name] = lowered.compile()
    _programs.move_to_end(name)
    if len(_programs) > KEPT:
        _programs.popitem(last=False)
    return _programs[name], name


def call(owner: Callable, function: Callable, *args: Any) -> Any:
    """function(*args), compiled; traced once for each `owner` and kind of arguments.

    `function` must follow from `owner`, a function that lives as long as this is of
    use: its program is found again without tracing, and forgotten with it.
    """
    kind, known = _kind(args), _seen.setdefault(owner, {})
    if kind not in known:
        known[kind] = compiled(function, *args)[0]
    return known[kind](*args)


def _kind(args):
    """What a program depends on of its arguments: structure, shapes, types, places."""
    leaves, tree = jax.tree.flatten(args)
    places = [a.sharding if isinstance(a, jax.Array) else None for a in leaves]
    return tree, tuple(map(jax.typeof, leaves)), tuple(places)


# Chunks -------------------------------------------------------------------------------


class Best(NamedTuple):
    """What had the lowest evaluation loss so far."""

    loss: jax.Array
    step: jax.Array
    trained: one.Trained


def start(
    task: Task,
    optimizer: Any,
    source: Source,
    seed: int = 0,
    *,
    average: bool = False,
    watch: bool = False,
    init: Any = None,
) -> tuple[one.State, Best | None]:
    """What a training on this source begins with, and what its checkpoints hold.

    No rows are read: the batch of `task.init` is one row of zeros. `average` keeps a
    moving average, `watch` the best of the evaluations. `init` is as in `fit`. Raises
    UsageError for what of it the model has not.
    """
    check_int("seed", seed, 0, 2**32 - 1)
    check_task(task)
    check_optimizer(optimizer)
    like = batch_shapes(source)
    zeros = jax.tree.map(lambda a: np.zeros((1, *a.shape[1:]), a.dtype), like)
    given = None if init is None else _given(task, init, zeros)

    def begin(seed, batch, given):
        own = task if given is None else task._replace(init=filled(given))
        return one.init(own, optimizer, seed, batch, average=average)

    def filled(given):
        return lambda *args: jax.tree_util.tree_map_with_path(
            lambda path, a: given.get(jax.tree_util.keystr(path), a).astype(a.dtype),
            task.init(*args),
        )

    # runs once: optimizing its random numbers would take longer than all else
    quickly = {"xla_backend_optimization_level": 0}
    args = np.uint32(seed), zeros, given
    with understood("data", like):
        run, _ = compiled(begin, *args, compiler_options=quickly)
    state = copied(run(*args))
    best = Best(jnp.float32(math.inf), jnp.copy(state.step), trained(state))
    return state, best if watch else None


def _given(task, init, batch):
    """What `init` gives of task.init's (params, state), by path."""

    def by_path(tree):
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}

    key = jax.eval_shape(lambda: jax.random.key(0))
    with understood("data", batch):
        fresh = by_path(jax.eval_shape(task.init, key, batch))
    found = by_path(tuple(init) if isinstance(init, one.Trained) else (init, {}))
    for path, leaf in found.items():
        name, has = path[3:], fresh.get(path)
        if has is None or has.shape != np.shape(leaf):
            model = "no such" if has is None else list(has.shape)
            raise UsageError(
                f"expected parameters of this model in init, found {name} of shape "
                f"{list(np.shape(leaf))} where it has {model}: leave out what is to "
                "begin afresh"
            )
        if not jnp.isfinite(leaf).all():
            raise UsageError(f"expected finite parameters in init, found NaN in {name}")
    return {path: jnp.asarray(leaf) for path, leaf in found.items()}


def trained(state: one.State, best: Best | None = None) -> one.Trained:
    """What to predict with, in buffers of its own: the best, averaged or last."""
    if best is not None and math.isfinite(float(best.loss)):
        return local(copied(best.trained))
    return local(copied(state.average or one.Trained(state.params, state.model)))


def make_chunk(step: Callable, source: Source, mesh: jax.sharding.Mesh | None = None):
    """chunk(state, total, arrays, stop) -> (state, total): pure.

    Runs a step (`train.step`) on the batches of a source's arrays until `stop`, adding
    the metrics to `total`. A traced bound makes one program serve every length.
    """

    def chunk(state, total, arrays, stop):
        def body(t, carry):
            state, total = carry
            batch = source.batch(arrays, state.seed, t)
            if mesh is not None:
                batch = rows(mesh, batch)
            state, metrics = step(state, batch)
            if mesh is not None:
                where = layout(mesh, state)
                state = jax.lax.with_sharding_constraint(state, where)
            return state, {name: total[name] + found for name, found in metrics.items()}

        return jax.lax.fori_loop(state.step, stop, body, (state, total))

    return chunk


class Chunks:
    """A compiled chunk of a guarded step with what it needs at hand: state, data,
    running metrics. With `explained` it is of one step, and the first that would be
    skipped raises Diverged."""

    def __init__(self, step, source, mesh, state, blocks, explained=False):
        self.state, self._blocks, self._size = state, blocks, source.size
        self._arrays, self._end = next(blocks)
        self._pace, self._busy, self._examples = 1.0, 0.0, 0
        self._explained, self._step, self._batch = explained, step, source.batch
        whole = guarded(step)
        metrics = jax.eval_shape(whole, state, batch_shapes(source))[1]
        self._names = [*watched(state, metrics)]
        self._zero = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), metrics)
        self._total = self._zero
        args = state, self._total, self._arrays, 0
        options: dict[str, Any] = {"donate_argnums": 0}
        if mesh is not None:  # what goes out comes in again
            options["out_shardings"] = layout(mesh, state), None
        chunk = make_chunk(whole, source, mesh)
        self._run, _ = compiled(chunk, *args, **options)

    def on(self, now, boundary):
        """Train until `boundary`, or for about a second; the new step."""
        if now == self._end:
            self._arrays, self._end = next(self._blocks)
        most = 1 if self._explained else max(1, int(self._pace))
        stop = min(boundary, self._end, now + most)
        began = time.perf_counter()
        self.state, self._total = self._run(self.state, self._total, self._arrays, stop)
        # reading a number would block signals until the chunk ends; this does not
        jax.block_until_ready(self._total)
        seconds = time.perf_counter() - began
        self._pace = hosts.most((stop - now) / seconds)
        self._busy += seconds
        self._examples += (stop - now) * self._size
        if self._explained:
            self._explain()
        return stop

    def skipped(self):
        """Of the steps since the last call of `metrics`, and what was not finite."""
        found = Skipped(*map(int, self._total["skipped"]))
        return found, self._names[found.what]

    def _explain(self):
        """Raise Diverged if the last step was skipped, with the operation."""
        found, name = self.skipped()
        if found.row == 0:
            return

        def again(state, arrays):
            batch = self._batch(arrays, state.seed, state.step)
            return self._step(state, batch)

        # what it began with has stayed as it was
        before = self.state._replace(step=self.state.step - 1)
        said = cause(again, before, self._arrays)
        raise Diverged(f"{name} is not finite in step {found.step}: {said}")

    def metrics(self):
        """The means since the last call, and the speed of the steps alone.

        What nothing was counted of, as returns where no episode ended, is left out.
        """
        means = {name: mean for name, mean in self._total.items() if name != "skipped"}
        values = {
            name: float(mean.value())
            for name, mean in means.items()
            if name == "loss" or mean.count
        }
        if count := int(self._total["skipped"].count):
            values["skipped"] = count
        values["examples_per_second"] = self._examples / max(self._busy, 1e-9)
        # what is in a row may go on
        row = np.int32(self._total["skipped"].row)
        none = self._zero["skipped"]._replace(row=row)
        self._total = self._zero | {"skipped": none}
        self._busy, self._examples = 0.0, 0
        return values


def copied(tree):
    """Buffers of their own: the state is donated, and no buffer can be given twice."""
    return jax.tree.map(jnp.copy, tree)
