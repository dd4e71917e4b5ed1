"""The only training loop: a generator of what stands between chunks of the one step.

A chunk is one program that runs any number of steps over data that lies on the device;
chunked, single-stepped and resumed runs are therefore bit-equal on one device. Between
chunks the host reads metrics; `fit` shows, evaluates, saves and stops, each a consumer
of the generator.
"""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from train import checkpoint, optim
from train import step as one
from train.check import check_data, check_numbers, check_options, checks
from train.disk import origin
from train.evaluate import measured
from train.guard import Diverged as Diverged
from train.guard import Tally
from train.machines import hosts
from train.machines.devices import laid
from train.machines.feed import feed
from train.mesh import Best, Chunks, copied
from train.mesh import start as start
from train.mesh import trained as trained
from train.shown.html import fit_as_html
from train.shown.progress import bar, interrupts
from train.source import Arrays, Source, batch_shapes
from zoo.base import Number, Task, check_int

Record = dict[str, float]
Event = tuple[one.State, Record | None]
Callback = Callable[[one.State, Record | None], bool | None]


class Fit(NamedTuple):
    """What a training leaves."""

    trained: one.Trained  # to predict with: the best or averaged, if asked for
    records: list[Record]  # one per log line
    ended: Literal["finished", "early", "stopped", "interrupted", "failed"]
    state: one.State  # to go on with

    def _repr_html_(self) -> str:
        return fit_as_html(self)


def training(
    task: Task,
    optimizer: Any,
    source: Source,
    *,
    steps: int,
    seed: int = 0,
    init: Any = None,
    accumulate: int = 1,
    ema: Number | None = None,
    log_every: int | tuple[int, ...] | None = None,
    mesh: jax.sharding.Mesh | None = None,
    begin: one.State | None = None,
    stop: Callable[[], Any] = bool,
    debug_nans: bool = False,
) -> Generator[Event, None, None]:
    """Train, and yield (state, record) between the chunks of steps.

    First (state, None), when all is checked and compiled; then (state, None) after each
    chunk, of a second at most, and (state, record) at each log line, the multiples of
    `log_every` (one number, or several) and the last step. A state is donated to the
    next chunk: copy what is to be kept, as `trained` does. `begin` is a state to go on
    from, which is left alone. Once stop(), asked between chunks, is true, the line is
    closed and the training ends. All else is as in `fit`.

    Raises UsageError, before the first step, for what cannot be right, and Diverged.
    """
    check_numbers(source, steps, accumulate, ema, mesh, task)
    lines = log_every if isinstance(log_every, tuple) else (log_every,)
    lines = tuple(
        _every("log_every", every, min(-(-steps // 100), 1000)) for every in lines
    )
    if begin is None:
        average = ema is not None
        begin, _ = start(task, optimizer, source, seed, average=average, init=init)
    optim.full_batch(begin.optimizer, source.size, source.rows)
    like = batch_shapes(source)
    check = checks(task, one.Trained(begin.params, begin.model), like, "training data")
    for part in source.parts(source.arrays):
        check(part)
    state, later = laid(mesh, copied(begin)), source.stream and check
    now, seed = int(state.step), int(state.seed)
    step = one.make_step(task, optimizer, ema=ema, parts=accumulate)
    with contextlib.closing(feed(source, seed, now, steps, mesh, later)) as blocks:
        run = Chunks(step, source, mesh, state, blocks, debug_nans)
        del state, begin, check, later  # donated, or not needed
        yield run.state, None
        tally = Tally(source, now, steps)
        began = time.perf_counter()  # compiling is not training
        while now < steps and not stop():
            since, line = now, min(steps, *(_after(now, every) for every in lines))
            while now < line and not stop():
                now = run.on(now, line)
                if now < line:
                    yield run.state, None
            if now == since:
                return
            tally.see(since, now, *run.skipped())
            record = {"step": now, **run.metrics()}
            yield run.state, record | {"seconds": time.perf_counter() - began}


def fit(
    task: Task,
    optimizer: Any,
    source: Source,
    *,
    steps: int,
    seed: int = 0,
    init: Any = None,
    accumulate: int = 1,
    microbatch: int | None = None,
    ema: Number | None = None,
    evaluation: Arrays | None = None,
    evaluated: str = "eval",
    patience: int | None = None,
    log_every: int | None = None,
    eval_every: int | None = None,
    checkpoints: Path | str | None = None,
    resume: bool | Literal["longer"] = False,
    save_seconds: float = 30.0,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    mesh: jax.sharding.Mesh | None = None,
    debug_nans: bool = False,
) -> Fit:
    """Train a task for `steps` updates on the batches of a source (`train.source`).

    A batch is read in `accumulate` parts, or those of `microbatch` examples, in turn.
    `init`, a `Trained` or a tree of some of the parameters, is begun with in their
    place. With `ema`, a decay in (0, 1), a moving average of parameters and model state
    is kept to predict with. `evaluation`, {"x": [N, ...], ...}, is measured every
    `eval_every` steps (a twentieth of the run); records name it by the prefix
    `evaluated`. With `patience`, training ends after that many evaluations without a
    lower loss, and the best parameters are restored.

    Into `checkpoints`, a directory, states are saved every `save_seconds`, or sooner
    where that takes a thirtieth of the time at most, and at the end; with `resume` the
    newest whole one there is continued, if it is of this same training, or, "longer",
    of one with another optimizer or schedule: more steps. Each callback(state, record)
    hears of all that `training` yields, with the evaluation in the record; where one
    returns True, training ends, and is saved. So does Ctrl-C, within about a second.
    `mesh` (`train.mesh`) splits each batch over devices.

    A step whose loss, gradient, parameters or model state are not finite is skipped:
    but for its number the state stays as it was, with all that the optimizer counts (a
    schedule waits). The record has how many were, as "skipped". With `debug_nans` the
    first of them ends the training, and the error names the operation: slowly, step by
    step, to find a fault.

    Raises UsageError for data, labels, shapes and numbers that cannot be right, states
    in `checkpoints` without `resume` or of another training, a directory that another
    run has, and Diverged, one of them, where 20 steps in a row, or more than 1 % of an
    epoch and than one, were skipped: its `fit` is the last line's state, saved.
    """
    check_numbers(source, steps, accumulate, ema, mesh, task)
    check_options(callbacks, checkpoints, resume, save_seconds, patience, evaluation)
    if checkpoints is not None:
        # before all that takes time
        hosts.first(functools.partial(checkpoint.check_free, checkpoints))
    log_every = _every("log_every", log_every, min(-(-steps // 100), 1000))
    eval_every = _every("eval_every", eval_every, -(-steps // 20))
    watched = {"average": ema is not None, "watch": patience is not None}
    carry = laid(mesh, start(task, optimizer, source, seed, init=init, **watched))
    accumulate = optim.pieces(source.size, accumulate, microbatch, carry[0].model)
    if evaluation is not None:
        check_data(task, carry[0], evaluation, "evaluation data")
    saver = None
    if checkpoints is not None:
        own = task, optimizer, source, carry, init
        decay = None if ema is None else float(ema)
        about = origin.describe(*own, accumulate=accumulate, ema=decay)
        saver, carry = checkpoint.proceed(checkpoints, about, carry, steps, resume)

    watch = _Watch(carry, patience and patience * eval_every)
    asked: list[bool] = []
    with (
        _Keeper(carry, mesh, saver, save_seconds) as keeper,
        bar(steps, watch.now, enabled=progress and hosts.leads()) as show,
        interrupts() as interrupted,
    ):
        run = training(
            task,
            optimizer,
            source,
            steps=steps,
            accumulate=accumulate,
            ema=ema,
            log_every=log_every if evaluation is None else (log_every, eval_every),
            mesh=mesh,
            begin=carry[0],
            stop=lambda: hosts.most(bool(interrupted() or asked or watch.stale())),
            debug_nans=debug_nans,
        )
        del carry  # the keeper has it
        with contextlib.closing(run):
            events: Iterator[Event] = watch.over(run)
            if evaluation is not None:
                due = eval_every, steps
                events = _evaluated(events, task, evaluation, evaluated, due, watch)
            events = _told(_shown(events, show), callbacks, asked)
            for state, record in events:
                keeper.keep(state, watch.best, record)
        keeper.save(last=True)
        return keeper.fit(_ended(watch, steps, asked))


# Consumers ----------------------------------------------------------------------------


def _evaluated(events, task, data, name, due, watch):
    """Records with the evaluation in them, at each of the steps that are due."""
    every, last = due
    for state, record in events:
        if record is not None and (record["step"] % every == 0 or watch.now == last):
            found = trained(state)
            scores = measured(task, found, data)
            record |= {f"{name}_{key}": value for key, value in scores.items()}
            watch.see(scores["loss"], found)
        yield state, record


def _shown(events, show):
    for state, record in events:
        show(int(state.step), record)
        yield state, record


def _told(events, callbacks, asked):
    """Every callback hears of it, and may ask to stop."""

    def tell(event):
        return [callback(*event) for callback in callbacks]

    for event in events:
        asked += filter(None, hosts.together(functools.partial(tell, event)))
        yield event


class _Watch:
    """Where a training is, and what was best: it is stale `limit` steps after that."""

    def __init__(self, carry, limit):
        (state, self.best), self._limit = carry, limit
        self.now = int(state.step)

    def over(self, events):
        for state, record in events:
            self.now = int(state.step)
            yield state, record

    def see(self, loss, found):
        if self.best is not None and loss < float(self.best.loss):
            self.best = Best(jnp.float32(loss), jnp.int32(self.now), found)

    def stale(self):
        # asked before a step, so that a resumed run stops where it had stopped
        return self.best and self.now - int(self.best.step) >= self._limit


class _Keeper:
    """A copy of the newest state whose records are written, saved now and then.

    It is what any error leaves: saved, and the error's `fit`. It is a copy, for the
    state itself is donated to the next steps.
    """

    def __init__(self, carry, mesh, saver, seconds):
        self._carry, self._records = carry, []  # which `training` leaves alone
        self._since, self._seconds = int(carry[0].step), seconds
        self._mesh, self._saver, self._saved_at = mesh, saver, math.inf

    def keep(self, state, best, record):
        now = time.perf_counter()
        self._saved_at = min(self._saved_at, now)  # once all is compiled
        due = self._saver and hosts.most(now - self._saved_at > self._wait())
        if record is not None:
            self._records.append(record)
            self._carry = copied(state), best
            if due:
                self.save()
        elif due:  # a line may take longer
            self._since = int(state.step)
            self._store((copied(state), best))
        if due:
            self._saved_at = time.perf_counter()

    def _wait(self):
        """The seconds between saves: more often while that is cheap."""
        return min(self._seconds, 30 * self._saver.seconds)

    def save(self, *, last=False):
        if self._saver is not None:
            self._store(self._carry, last=last)

    def _store(self, carry, *, last=False):
        # the best was measured by each process for itself
        self._saver.save(int(carry[0].step), laid(self._mesh, carry), last=last)

    def fit(self, ended):
        return Fit(trained(*self._carry), self._records, ended, self._carry[0])

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is not None and not hosts.common(error):
            return  # the others, who did not meet it, would be waited for
        if error is not None:
            stopped = issubclass(kind, KeyboardInterrupt)
            error.fit = self.fit("interrupted" if stopped else "failed")
            if int(self._carry[0].step) > self._since:
                self.save()
        if self._saver is not None:
            self._saver.close()


def _ended(watch, steps, asked):
    if watch.now == steps:
        return "finished"
    return "early" if watch.stale() else "stopped" if asked else "interrupted"


def _every(name, asked, default):
    return check_int(name, default if asked is None else asked, 1)


def _after(now, every):
    """The first multiple of `every` after `now`."""
    return (now // every + 1) * every
