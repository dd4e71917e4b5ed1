"""The only training loop: what stands between the chunks of the one step.

Between chunks (`train.chunk`) the host reads metrics, shows progress, evaluates and
saves.
"""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train import check, origin, programs
from train import mesh as meshes
from train import step as one
from train.checkpoint import Checkpoints
from train.chunk import Runner, augmented
from train.data.augment import Augment
from train.evaluate import evaluate
from train.optim import accumulated, full_batch
from train.progress import bar
from zoo.base import Task, UsageError

Arrays = dict[str, np.ndarray]


class Diverged(UsageError):
    """The loss, its gradient or the parameters are not finite any more."""

    fit: "Fit"  # with the last good state


class Best(NamedTuple):
    """What had the lowest evaluation loss so far."""

    loss: jax.Array
    step: jax.Array
    trained: one.Trained


class Fit(NamedTuple):
    """What a training leaves."""

    trained: one.Trained  # to predict with: the best or averaged, if asked for
    records: list[dict[str, float]]  # one per log line
    ended: Literal["finished", "early", "interrupted", "failed"]
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
    resume: bool = False,
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
    parameters are restored. Into `checkpoints`, a directory, states are saved every
    `save_seconds` and at the end; with `resume` the newest one there is continued, if
    it is of this same training. Ctrl-C ends the run within about a second and returns
    what was reached. `on_start` hears of the first step once all checks have passed,
    `on_record` of each log line, `on_evaluation` of the step and what was evaluated at
    it. `mesh` (`train.mesh`) splits each batch over devices.

    Raises UsageError for data, labels, shapes and numbers that cannot be right, for
    states in `checkpoints` without `resume` or of another training, and Diverged, one
    of them, when loss or parameters are no longer finite. Whatever ends a training,
    its last good state is saved, and is the error's `fit`.
    """
    n, size = _checked(train, evaluation, steps, batch_size, accumulate, patience, mesh)
    if ema is not None and not 0 < ema < 1:
        raise UsageError(f"expected an averaging decay in (0, 1), found {ema}")
    log_every = _every("log_every", log_every, min(-(-steps // 100), 1000))
    eval_every = _every("eval_every", eval_every, -(-steps // 20))
    place = jax.device_put if mesh is None else lambda t: meshes.replicate(mesh, t)
    average, watch = ema is not None, patience is not None
    carry = place(start(task, optimizer, train, seed, average=average, watch=watch))
    full_batch(carry[0].optimizer, size, n)
    for part in (train, evaluation):
        if part is not None:
            check.labels(task, carry[0].params, carry[0].model, part)
            check.tokens(task, carry[0].params, carry[0].model, part)

    step = one.make_step(accumulated(task, accumulate), optimizer, ema=ema)
    update, about = augmented(step, augment), None
    if checkpoints is not None:
        about = origin.describe(update, carry, train, size, accumulate, ema)
        carry = origin.proceed(checkpoints, about, carry, steps, resume)
    elif resume:
        raise UsageError("resume wants checkpoints, the directory of the states")
    (begin, best), now = carry, int(carry[0].step)

    with (
        _Keeper(carry, checkpoints, about, save_seconds) as keeper,
        bar(steps, now, enabled=progress) as show,
        _interrupts() as interrupted,
    ):
        if on_start is not None:
            on_start(now)
        data = place({name: jnp.asarray(array) for name, array in train.items()})
        run = Runner(update, data, n, size, log_every, mesh, begin)

        def stale():
            # asked before a step, so that a resumed run stops where it had stopped
            return patience and best and now - int(best.step) >= patience * eval_every

        def boundary(now):
            return min(_after(now, log_every), _after(now, eval_every), steps)

        for state, record in _logged(run, begin, boundary, show, interrupted, stale):
            now = record["step"]
            if evaluation is not None and (now % eval_every == 0 or now == steps):
                found = trained(state)
                scores = evaluate(task, found, evaluation)
                record |= {f"{evaluated}_{k}": value for k, value in scores.items()}
                best = _better(best, place, scores["loss"], now, found)
                if on_evaluation is not None:
                    on_evaluation(now, trained(state))
            show(now, record)
            if on_record is not None:
                on_record(record)
            keeper.keep(state, best, record)
        keeper.save(last=True)
        ended: Any = "early" if stale() else "interrupted"
        return keeper.fit("finished" if now == steps else ended)


def _logged(run, state, boundary, show, interrupted, stale):
    """(state, record) at each log line, until nothing is left or someone interrupts.

    Raises Diverged.
    """
    now, started = int(state.step), time.perf_counter()
    while now < boundary(now) and not interrupted() and not stale():
        since, end = now, boundary(now)
        while now < end and not interrupted():
            state, now = run(state, now, end)
            show(now, None)
        if now == since:
            return
        record = {"step": now, **run.metrics()}
        _check_finite(record, since, run.finite())
        yield state, record | {"seconds": time.perf_counter() - started}


class _Keeper:
    """A copy of the newest state whose records are written, saved now and then.

    It is what any error leaves: saved, and the error's `fit`. It is a copy, for the
    state itself is donated to the next steps.
    """

    def __init__(self, carry, directory, about, seconds):
        self._carry, self._records = (_copy(carry[0]), carry[1]), []
        self._since, self._seconds = int(carry[0].step), seconds
        self._saved = None if directory is None else Checkpoints(directory, about)
        self._saved_at = time.perf_counter()

    def keep(self, state, best, record):
        self._records.append(record)
        self._carry = _copy(state), best
        if time.perf_counter() - self._saved_at > self._seconds:
            self.save()
            self._saved_at = time.perf_counter()

    def save(self, *, last=False):
        if self._saved is not None:
            self._saved.save(int(self._carry[0].step), self._carry, last=last)

    def fit(self, ended):
        return Fit(trained(*self._carry), self._records, ended, self._carry[0])

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is not None:
            stopped = issubclass(kind, KeyboardInterrupt)
            error.fit = self.fit("interrupted" if stopped else "failed")
            if int(self._carry[0].step) > self._since:
                self.save()
        if self._saved is not None:
            self._saved.close()


def _every(name, asked, default):
    return check.whole(name, default if asked is None else asked, 1)


def _better(best, place, loss, now, found):
    """The better of the best so far and what is evaluated; None where none is kept."""
    if best is None or not loss < float(best.loss):
        return best
    loss, step = place((jnp.float32(loss), jnp.int32(now)))
    return Best(loss, step, found)


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


def _after(now, every):
    """The first multiple of `every` after `now`."""
    return (now // every + 1) * every


def _copy(tree):
    """Buffers of their own: the state is donated, and no buffer can be given twice."""
    return jax.tree.map(jnp.copy, tree)


def _check_finite(record, since, finite):
    values = {name: record[name] for name in ("loss", "grad_norm")}
    bad = [f"{name} is {v}" for name, v in values.items() if not math.isfinite(v)]
    if not finite:
        bad.append("parameters or statistics are not finite")
    if bad:
        raise Diverged(
            f"the training diverged: {bad[0]} in steps {since} to {record['step']}; "
            "try a smaller learning rate, or clipping"
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
