"""The only training loop: compiled chunks of the one step, and what stands between.

A chunk is one program that runs any number of steps over data that lies on the device;
chunked, single-stepped and resumed runs are therefore bit-equal on one device. Between
chunks the host reads metrics, shows progress, evaluates and saves.
"""

import contextlib
import math
import operator
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train import check, programs
from train import mesh as meshes
from train import step as one
from train.augment import Augment
from train.checkpoint import Checkpoints
from train.evaluate import evaluate
from train.optim import accumulated, full_batch
from train.progress import bar
from zoo.base import Task, UsageError

# Streams of keys beside the steps' own, which are numbered below 2^31.
ORDER, AUGMENT = 2**31, 2**31 + 1

Arrays = dict[str, np.ndarray]


class Diverged(UsageError):
    """The loss or its gradient is not finite any more."""


class Best(NamedTuple):
    """What had the lowest evaluation loss so far."""

    loss: jax.Array
    step: jax.Array
    trained: one.Trained


class Fit(NamedTuple):
    """What a training leaves."""

    trained: one.Trained  # to predict with: the best or averaged, if asked for
    records: list[dict[str, float]]  # one per log line
    ended: Literal["finished", "early", "interrupted"]
    state: one.State  # to go on with


def fit(
    task: Task,
    optimizer: Any,
    train: Arrays,
    *,
    steps: int,
    batch_size: int | None = None,
    accumulate: int = 1,
    ema: float | None = None,
    seed: int = 0,
    augment: Augment | None = None,
    evaluation: Arrays | None = None,
    evaluated: str = "eval",
    patience: int | None = None,
    log_every: int | None = None,
    eval_every: int | None = None,
    checkpoints: Path | str | None = None,
    save_seconds: float = 10.0,
    on_start: Callable[[int], None] | None = None,
    on_record: Callable[[dict[str, float]], None] | None = None,
    on_evaluation: Callable[[int, one.Trained], None] | None = None,
    progress: bool = True,
    mesh: jax.sharding.Mesh | None = None,
) -> Fit:
    """Train a task for `steps` updates on {"x": [N, ...], "y": [N, ...]}.

    `batch_size` None is the full batch, 1 trains on single examples; each example is
    drawn once before any is drawn again. A step reads `accumulate` batches, one after
    the other, for one update by all of them. With `ema`, a decay in (0, 1), a moving
    average of parameters and model state is kept to predict with. `augment` changes
    training batches alone. `evaluation` is measured every `eval_every` steps (a
    twentieth of the run); records name it by the prefix `evaluated`. With `patience`,
    training ends after that many evaluations without a lower loss and the best
    parameters are restored. With `checkpoints`, a directory, the newest state in it is
    continued, and states are saved every `save_seconds` and at the end. Ctrl-C ends the
    run within about a second and returns what was reached. `on_start` hears of the
    first step once all checks have passed, `on_record` of each log line,
    `on_evaluation` of the step and what was evaluated at it. `mesh` (`train.mesh`)
    splits each batch over devices.

    Raises UsageError for data, labels, shapes and numbers that cannot be right, and
    Diverged, one of them, when the loss is no longer finite.
    """
    n, size = _checked(train, evaluation, steps, batch_size, accumulate, patience, mesh)
    if ema is not None and not 0 < ema < 1:
        raise UsageError(f"expected an averaging decay in (0, 1), found {ema}")
    log_every = check.whole("log_every", log_every or min(-(-steps // 100), 1000), 1)
    eval_every = check.whole("eval_every", eval_every or -(-steps // 20), 1)
    place = jax.device_put if mesh is None else lambda t: meshes.replicate(mesh, t)
    average, watch = ema is not None, patience is not None
    carry = place(start(task, optimizer, train, seed, average=average, watch=watch))
    full_batch(carry[0].optimizer, size, n)
    for part in (train, evaluation):
        if part is not None:
            check.labels(task, carry[0].params, carry[0].model, part)
            check.tokens(task, carry[0].params, carry[0].model, part)

    with contextlib.ExitStack() as stack:
        saved = None
        if checkpoints is not None:
            saved = stack.enter_context(contextlib.closing(Checkpoints(checkpoints)))
            carry = carry if saved.latest() is None else saved.restore(carry)
        state, best = carry
        now = int(state.step)
        if on_start is not None:
            on_start(now)
        show = stack.enter_context(bar(steps, now, enabled=progress))
        interrupted = stack.enter_context(_interrupts())
        data = place({name: jnp.asarray(array) for name, array in train.items()})
        step = one.make_step(accumulated(task, accumulate), optimizer, ema=ema)
        run = _Runner(step, data, n, size, log_every, augment, mesh, state)
        records: list[dict[str, float]] = []
        began = saved_at = time.perf_counter()

        def stale():
            # asked before a step, so that a resumed run stops where it had stopped
            return patience and best and now - int(best.step) >= patience * eval_every

        while now < steps and not interrupted() and not stale():
            since = now
            boundary = min(_after(now, log_every), _after(now, eval_every), steps)
            while now < boundary and not interrupted():
                state, now = run(state, now, boundary)
                show(now, None)
            if now == since:
                break
            record = {"step": now, **run.metrics()}
            _check_finite(record, since)
            record["seconds"] = time.perf_counter() - began
            if evaluation is not None and (now % eval_every == 0 or now == steps):
                found = trained(state)
                scores = evaluate(task, found, evaluation)
                record |= {f"{evaluated}_{k}": value for k, value in scores.items()}
                if best is not None and scores["loss"] < float(best.loss):
                    loss, at = place((jnp.float32(scores["loss"]), jnp.int32(now)))
                    best = Best(loss, at, found)
                if on_evaluation is not None:
                    on_evaluation(now, trained(state))
            show(now, record)
            records.append(record)
            if on_record is not None:
                on_record(record)
            if saved is not None and time.perf_counter() - saved_at > save_seconds:
                saved.save(now, (state, best))
                saved_at = time.perf_counter()
        if saved is not None:
            saved.save(now, (state, best), last=True)
        ended: Any = "early" if stale() else "interrupted"
        ended = "finished" if now == steps else ended
        return Fit(trained(state, best), records, ended, state)


def _checked(train, evaluation, steps, batch_size, accumulate, patience, mesh):
    """The numbers of training examples and of those that a step reads."""
    check.whole("steps", steps, 1)
    n = check.arrays(train, "training data")
    size = check.whole("batch_size", n if batch_size is None else batch_size, 1)
    if mesh is not None and size % mesh.size:
        raise UsageError(f"a batch of {size} does not divide over {mesh.size} devices")
    size *= check.whole("accumulate", accumulate, 1)
    if size > n:
        raise UsageError(
            f"a step of {size} examples is larger than the {n} training examples"
        )
    if evaluation is not None:
        check.arrays(evaluation, "evaluation data")
    if patience is not None and (evaluation is None or patience < 1):
        raise UsageError("patience wants to be 1 or more, and evaluation data to watch")
    return n, size


def start(
    task: Task,
    optimizer: Any,
    train: Arrays,
    seed: int = 0,
    *,
    average: bool = False,
    watch: bool = False,
) -> tuple[one.State, Best | None]:
    """What a training on these arrays begins with, and what its checkpoints hold.

    `average` keeps a moving average, `watch` the best of the evaluations.
    """
    check.whole("seed", seed, 0, 2**32 - 1)
    first = {name: jnp.asarray(array[:1]) for name, array in train.items()}

    def begin(seed, batch):
        return one.init(task, optimizer, seed, batch, average=average)

    # runs once: optimizing its random numbers would take longer than all else
    quickly = {"xla_backend_optimization_level": 0}
    args = np.uint32(seed), first
    run, _ = programs.compiled(begin, *args, compiler_options=quickly)
    state = _copy(run(*args))
    best = Best(jnp.float32(math.inf), jnp.copy(state.step), trained(state))
    return state, best if watch else None


def trained(state: one.State, best: Best | None = None) -> one.Trained:
    """What to predict with, in buffers of its own: the best, averaged or last."""
    if best is not None and math.isfinite(float(best.loss)):
        return _copy(best.trained)
    return _copy(state.average or one.Trained(state.params, state.model))


def permutations(seed: jax.Array, epoch: jax.Array, count: int, n: int) -> jax.Array:
    """The order of the examples in epochs epoch, epoch + 1, ...: [count * n] indices.

    A pure function of the seed and the epoch; each epoch is a permutation of range(n).
    """
    key = jax.random.fold_in(jax.random.key(seed), ORDER)

    def order(e):
        return jax.random.permutation(jax.random.fold_in(key, e), n)

    return jax.vmap(order)(epoch + jnp.arange(count)).reshape(-1)


def make_chunk(step: Callable, size: int, augment=None, mesh=None):
    """chunk(state, total, data, order, offset, stop) -> (state, total): pure.

    Runs a step (`train.step`) on data[order[offset : offset + size]], the next `size`,
    ... until `stop`, adding the metrics to `total`; order None means all of the data
    each time. A traced bound makes one program serve every length.
    """

    def chunk(state, total, data, order, offset, stop):
        begin = state.step
        key = jax.random.fold_in(jax.random.key(state.seed), AUGMENT)

        def body(t, carry):
            state, total = carry
            batch = data
            if order is not None:
                at = jax.lax.dynamic_slice_in_dim(
                    order, offset + (t - begin) * size, size
                )
                batch = jax.tree.map(lambda a: a[at], data)
            if mesh is not None:
                batch = meshes.rows(mesh, batch)
            if augment is not None:
                batch = augment(jax.random.fold_in(key, t), batch)
            state, metrics = step(state, batch)
            return state, jax.tree.map(operator.add, total, metrics)

        return jax.lax.fori_loop(begin, stop, body, (state, total))

    return chunk


class _Runner:
    """A compiled chunk with what it needs at hand: data, order, running metrics."""

    def __init__(self, step, data, n, size, length, augment, mesh, state):
        self._data, self._n, self._size, self._length = data, n, size, length
        # the next `length` batches may begin anywhere in an epoch: one epoch more
        self._count = -(-length * size // n) + 1
        self._epoch, self._order = None, None
        self._pace, self._busy, self._examples = 1.0, 0.0, 0
        self._permutations = jax.jit(permutations, static_argnums=(2, 3))
        chunk = make_chunk(step, size, augment, mesh)
        one_batch = jax.tree.map(lambda a: a[:size], data)
        shapes = jax.eval_shape(step, state, one_batch)[1]
        self._zero = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
        self._total = self._zero
        args = (state, self._total, data, *self._batches(state, int(state.step)), 0)
        self._run, _ = programs.compiled(chunk, *args, donate_argnums=0)

    def _batches(self, state, now):
        """The order of the examples from step `now` on, and where that step begins."""
        if self._size == self._n:
            return None, 0
        epoch, offset = divmod(now * self._size, self._n)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = self._permutations(
                np.uint32(state.seed), np.int32(epoch), self._count, self._n
            )
        return self._order, offset

    def __call__(self, state, now, boundary):
        """Train until `boundary`, or for about a second; the new state and step."""
        stop = min(boundary, now + self._length, now + max(1, int(self._pace)))
        began = time.perf_counter()
        order, offset = self._batches(state, now)
        state, self._total = self._run(
            state, self._total, self._data, order, offset, stop
        )
        # reading a number would block signals until the chunk ends; this does not
        jax.block_until_ready(self._total)
        seconds = time.perf_counter() - began
        self._pace = (stop - now) / seconds
        self._busy += seconds
        self._examples += (stop - now) * self._size
        return state, stop

    def metrics(self):
        """The means since the last call, and the speed of the steps alone."""
        values = {name: float(mean.value()) for name, mean in self._total.items()}
        values["examples_per_second"] = self._examples / max(self._busy, 1e-9)
        self._total, self._busy, self._examples = self._zero, 0.0, 0
        return values


def _after(now, every):
    """The first multiple of `every` after `now`."""
    return (now // every + 1) * every


def _copy(tree):
    """Buffers of their own: the state is donated, and no buffer can be given twice."""
    return jax.tree.map(jnp.copy, tree)


def _check_finite(record, since):
    for name in ("loss", "grad_norm"):
        if not math.isfinite(record[name]):
            raise Diverged(
                f"the training diverged: {name} is {record[name]} in steps {since} to "
                f"{record['step']}; try a smaller learning rate, or clipping"
            )


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM become a question asked between chunks; a second one kills."""
    asked: list[int] = []

    def handle(number, frame):
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread may set handlers
        return
    kept = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
