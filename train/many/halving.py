"""Searches that stop early: successive halving, and populations that copy the best.

Jamieson & Talwalkar, "Non-stochastic best arm identification and hyperparameter
optimization", AISTATS 2016; Jaderberg et al., "Population based training of neural
networks", 2017, arXiv:1711.09846.
Shapes: S members, A settings, R rungs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from train.many.axes import Settings, settings
from train.many.member import Varied, check_settings, data_of, taken
from train.many.population import Population
from train.shown.progress import bar, interrupts
from train.source import Arrays, Source
from train.step import Trained
from zoo.base import UsageError, check_choice, check_int


class Search(NamedTuple):
    """What a search leaves, on the host."""

    settings: Settings  # as each member ended: [S]
    scores: np.ndarray  # of its last evaluation: [S]
    reached: np.ndarray  # the step that it came to: [S]
    best: int  # of those that came furthest, the member of the best setting
    trained: Trained  # what the best predicts with
    steps: int  # of all members together
    ended: Literal["finished", "interrupted"]

    def setting(self) -> dict[str, float]:
        """The best setting, by name."""
        found = {
            name: values[self.best].item() for name, values in self.settings.items()
        }
        return {name: value for name, value in found.items() if name != "seed"}


def halving(
    make: Callable[..., Any],
    source: Source | Varied,
    steps: int,
    *,
    axes: Mapping[Any, Any],
    seeds: int | Sequence[int] = 1,
    samples: int | None = None,
    draw: int = 0,
    evaluation: Arrays | None = None,
    metric: str = "loss",
    greatest: bool = False,
    rungs: int | None = None,
    progress: bool = True,
    **options: Any,
) -> Search:
    """Train every setting a little, the better half twice as long, and so on.

    Each of the rungs, the last of which is `steps`, is half of the next; for None there
    are as many as leave one setting. At a rung they are judged by the mean over seeds
    of a `metric` of the evaluation, the least of which is best, or the `greatest`; a
    diverged one is the worst. Each rung is one program of its size. All else, `mapping`
    and `devices` too, is as in `sweep`. Raises UsageError for what cannot be right.
    """
    steps = check_int("steps", steps, 1)
    table = settings(seeds, axes, samples=samples, seed=draw)
    size = len(table["seed"])
    copies = len(np.unique(table["seed"]))
    rungs = check_int("rungs", rungs or (size // copies).bit_length(), 1, 31)
    ends = sorted({max(1, steps >> k) for k in range(rungs)})
    data = data_of(source, evaluation)
    sign = -1 if greatest else 1
    members, who = _begun(make, data, table, metric, options), np.arange(size)
    scores, reached, total = np.full(size, np.nan), np.zeros(size, int), 0
    with bar(steps, enabled=progress) as show, interrupts() as stop:
        for end in ends:
            since = members.now
            while members.now < end and not stop():
                members.on(end)
                show(members.now, None)
            total += len(who) * (members.now - since)
            scores[who], reached[who] = members.evaluate()[metric], members.now
            mean = _losses(scores[who], greatest).reshape(copies, -1).mean(0)
            show(members.now, {metric: np.nanmin(mean) * sign, "settings": len(mean)})
            if members.now < end or end == steps:
                break
            good = np.sort(np.argsort(mean, kind="stable")[: max(1, len(mean) // 2)])
            kept = (np.arange(copies)[:, None] * len(mean) + good[None]).ravel()
            who, rest = who[kept], taken(members.state[1:], kept)
            own = {name: values[who] for name, values in table.items()}
            members = Population(make, data, own, **options).begin(end, rest)
    best = int(np.argmin(mean))
    found = members.trained(best)
    return Search(
        table, scores, reached, who[best], found, total, _ended(members, steps)
    )


def evolve(
    make: Callable[..., Any],
    source: Source | Varied,
    steps: int,
    *,
    axes: Mapping[Any, Any],
    every: int,
    seeds: int | Sequence[int] = 1,
    samples: int | None = None,
    draw: int = 0,
    evaluation: Arrays | None = None,
    metric: str = "loss",
    greatest: bool = False,
    share: float = 0.2,
    change: float = 1.2,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> Search:
    """A population whose worst members go on as copies of the best, a little changed.

    After every `every` steps the worst `share` takes the state and the settings of the
    best, each number of which is multiplied or divided by `change`, as `seed` draws. A
    member is judged as in `halving`; its random numbers stay its own. Raises UsageError
    for what cannot be right.
    """
    steps, every = check_int("steps", steps, 1), check_int("every", every, 1)
    if not 0 < share <= 0.5 or not change > 1:
        raise UsageError(
            f"expected share in (0, 0.5] and a change above 1, found {share}, {change}"
        )
    data = data_of(source, evaluation)
    table = settings(seeds, axes, samples=samples, seed=draw)
    # whole numbers, too, are changed
    fixed = ("seed", *data.names)
    table = {k: v if k in fixed else v.astype(float) for k, v in table.items()}
    members = _begun(make, data, table, metric, options)
    moved = min(max(1, int(share * len(table["seed"]))), len(table["seed"]) // 2)
    random = np.random.default_rng(seed)
    with bar(steps, enabled=progress) as show, interrupts() as stop:
        while members.now < steps and not stop():
            end = min(steps, (members.now // every + 1) * every)
            members.on(end)
            show(members.now, None)
            if members.now < end:
                continue
            scores = members.evaluate()[metric]
            ranked = np.argsort(_losses(scores, greatest), kind="stable")
            show(members.now, {metric: scores[ranked[0]]})
            if end < steps and moved:
                origin = np.arange(len(ranked))
                origin[ranked[-moved:]] = ranked[:moved]
                members.move(
                    origin,
                    _changed(make, members.settings, origin, change, random, fixed),
                )
    if members.now < steps:  # stopped since they were judged
        scores = members.evaluate()[metric]
    best = int(np.argmin(_losses(scores, greatest)))
    reached, total = np.full(len(scores), members.now), members.now * len(scores)
    found = members.trained(best)
    return Search(
        members.settings, scores, reached, best, found, total, _ended(members, steps)
    )


def _ended(members, steps) -> Literal["finished", "interrupted"]:
    return "finished" if members.now == steps else "interrupted"


def _begun(make, data, table, metric, options):
    members = Population(make, data, table, **options)
    if not members.scores:
        raise UsageError("expected an evaluation, rows to judge settings by")
    check_choice("metric", metric, members.scores)
    return members.begin()


def _losses(scores, greatest):
    """Less is better; what is no number is worst."""
    loss = -scores if greatest else scores
    return np.where(np.isfinite(loss), loss, np.inf)


def _changed(make, table, origin, change, random, fixed):
    """The settings of where each member comes from, of copies a little changed.

    A change that `make` refuses, as of a dropout past 1, is none.
    """
    found = {name: values.copy() for name, values in table.items()}
    names = [name for name in found if name not in fixed]
    for i in np.flatnonzero(origin != np.arange(len(origin))):
        old = {name: found[name][origin[i]].item() for name in names}
        new = {k: v * change ** random.choice([-1.0, 1.0]) for k, v in old.items()}
        try:
            check_settings(make, {k: np.array([v]) for k, v in new.items()}, ())
        except UsageError:
            new = old
        for name in names:
            found[name][i] = new[name]
    return found
