"""One member of many: what it trains, on what data; and what is refused of it."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

from train import optim
from train import step as one
from train.check import check_data as check_part
from train.check import (
    check_numbers,
    check_optimizer,
    check_parts,
    check_task,
    checks,
)
from train.many.axes import Settings
from train.source import Arrays, Source, batch_shapes
from zoo.base import Number, Task, UsageError, check_choice, concrete


class Member(NamedTuple):
    """What one member trains: what `make` returns, or the first of it, two or more."""

    task: Task
    optimizer: Any
    ema: Number | None = None
    parts: int = 1  # of a batch, one after the other

    def step(self) -> Callable[..., Any]:
        """The step of its training (`train.step.make_step`)."""
        check_parts(self.task, self.parts)
        return one.make_step(self.task, self.optimizer, ema=self.ema, parts=self.parts)


class Varied(NamedTuple):
    """Data that differ by member, as its settings say."""

    arrays: Any  # shared: an argument of the program
    source: Callable[[Any, dict[str, Any]], Source]  # (arrays, settings): traced
    evaluation: Callable[[Any, dict[str, Any]], Arrays | None]
    names: tuple[str, ...] = ()  # the settings that they read, and `make` does not
    # what is checked of the arrays: parts to train on, parts to be judged by
    parts: Callable[[Any], tuple[Iterable[Arrays], Iterable[Arrays]]] = lambda a: (
        (),
        (),
    )


def same(source: Source, evaluation: Arrays | None = None) -> Varied:
    """Data that are the same for every member. Raises UsageError for a stream."""
    if source.stream is not None:
        raise UsageError("expected data in memory for many trainings, found a stream")
    return Varied(
        (source.arrays, evaluation),
        lambda arrays, settings: source._replace(arrays=arrays[0]),
        lambda arrays, settings: arrays[1],
        parts=lambda arrays: (source.parts(arrays[0]), filter(None, arrays[1:])),
    )


def data_of(source: Source | Varied, evaluation: Arrays | None) -> Varied:
    """What members learn from and are judged by. Raises UsageError for both twice."""
    if isinstance(source, Source):
        return same(source, evaluation)
    if evaluation is not None:
        raise UsageError("expected no evaluation beside data that have their own")
    return source


def latest(state: one.State) -> one.Trained:
    """What a state, or stacked ones, predict with."""
    return state.average or one.Trained(state.params, state.model)


def predicting(state: one.State, i: Any) -> one.Trained:
    """What member i of stacked states predicts with; by indices, several, stacked."""
    return taken(latest(state), i)


def taken(tree: Any, i: Any) -> Any:
    """Entry i of each array; by indices, several."""
    return jax.tree.map(lambda a: a[i], tree)


def check_settings(
    make: Callable[..., Any], settings: Settings, hidden: tuple[str, ...]
) -> None:
    """Call `make` in Python: it can refuse no traced number. Raises UsageError."""
    own = {name: v for name, v in settings.items() if name not in hidden}
    check_names(make, own)
    # without settings, once
    for values in set(zip(*(v.tolist() for v in own.values()), strict=True)) or {()}:
        member = Member(*make(**dict(zip(own, values, strict=True))))
        check_task(member.task)
        check_optimizer(member.optimizer)
        ema = member.ema
        if ema is not None and concrete(ema) and not 0 < ema < 1:
            raise UsageError(f"expected an averaging decay in (0, 1), found {ema}")


def check_names(make: Callable[..., Any], names: Iterable[str]) -> None:
    """Raise UsageError for a setting that `make` does not know."""
    known = inspect.signature(make).parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in known):
        for name in names:
            check_choice("setting", name, tuple(p.name for p in known))


def check_data(task: Task, state: one.State, data: Varied, own: dict[str, Any]) -> None:
    """Raise UsageError for data that cannot be right, as a training does.

    `state` is a member's, `own` its settings.
    """
    source = data.source(data.arrays, own)
    check_numbers(source, 1, 1, None, None)
    optim.full_batch(state.optimizer, source.size, source.rows)
    what = one.Trained(state.params, state.model)
    training, judging = data.parts(data.arrays)
    check = checks(task, what, batch_shapes(source), "training data")
    for part in training:
        check(part)
    for part in judging:
        check_part(task, what, part, "evaluation data")
