"""`sweep`: seeds and settings as one program, one table of what became of them.

Shapes: S members, L log lines.
"""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train import checkpoint
from train import step as one
from train.check import check_patience
from train.many.axes import Settings, settings
from train.many.member import Varied, data_of, predicting, taken
from train.many.population import Population
from train.mesh import Best
from train.shown.progress import bar, interrupts
from train.source import Arrays, Source
from zoo.base import UsageError, check_int

SECONDS = 30.0  # between saved states


class Sweep(NamedTuple):
    """What a sweep leaves, on the host."""

    settings: Settings  # [S] each
    scores: dict[str, np.ndarray]  # of what they predict with, on the evaluation: [S]
    history: dict[str, np.ndarray]  # of the training: [S, L], and "step" [L]
    diverged: np.ndarray  # bool [S]: parameters or statistics are not finite
    state: one.State  # [S, ...] each, but for the step
    ended: Literal["finished", "interrupted"]
    best: Best | None = None  # what patience kept: [S, ...] each

    @property
    def table(self) -> dict[str, np.ndarray]:
        """A column [S] for each setting, score and last metric of the training."""
        last = {
            f"train_{name}": values[:, -1]
            for name, values in self.history.items()
            if name != "step"
        }
        kept = {} if self.best is None else {"best_step": np.asarray(self.best.step)}
        own = {**self.settings, **self.scores, **last, **kept}
        return own | {"diverged": self.diverged}

    def to_pandas(self) -> Any:
        """The table as a DataFrame. Raises UsageError where pandas is not installed."""
        try:
            import pandas
        except ImportError as error:
            raise UsageError("expected pandas to be installed") from error
        return pandas.DataFrame(self.table)

    def trained(self, i: Any = slice(None)) -> one.Trained:
        """What member i predicts with; by a slice or indices, several, stacked."""
        if self.best is not None:
            return taken(self.best.trained, i)
        return predicting(self.state, i)


def sweep(
    make: Callable[..., Any],
    source: Source | Varied,
    steps: int,
    *,
    seeds: int | Sequence[int] = 1,
    axes: Mapping[Any, Any] | None = None,
    samples: int | None = None,
    draw: int = 0,
    evaluation: Arrays | None = None,
    patience: int | None = None,
    eval_every: int | None = None,
    log_every: int | None = None,
    mapping: Literal["vmap", "map"] | None = None,
    devices: int | None = None,
    memory: float | None = None,
    checkpoints: Path | str | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Sweep:
    """Train `make(**settings)` for every seed and setting: one program, compiled once.

    `make` returns (task, optimizer), or with a third the decay of an average to predict
    with; inside the program its numbers are traced. `seeds`, `axes`, `samples` (which
    `draw` draws) are as in `settings`, ranges and pairs too. `evaluation`,
    {"x": [N, ...], ...}, gives the scores, after the last step. Every `log_every` steps
    (a hundredth) the metrics since are a line of the history. Where the program would
    take more than `memory` bytes (half of what is free), members are trained in groups
    of one size.

    With `patience` the evaluation is measured every `eval_every` steps (a twentieth),
    and each member keeps its best as `fit` does: once so many had no lower loss, it has
    stopped, and the sweep has when all have. Scores are then those of the best.

    Into `checkpoints`, a directory, all states are saved now and then; with `resume` a
    sweep goes on from there. Ctrl-C ends it within about a second. A member that
    diverges is marked, and its neighbours are as without it. Raises UsageError, before
    the first step, for settings and data that cannot be right.
    """
    steps = check_int("steps", steps, 1)
    every = _every("log_every", log_every, -(-steps // 100))
    watched = _every("eval_every", eval_every, -(-steps // 20))
    check_patience(patience, evaluation)
    limit = patience and patience * watched
    table = settings(seeds, axes or {}, samples=samples, seed=draw)
    data = data_of(source, evaluation)
    size = len(table["seed"])

    def group(count, k):
        """The k-th of groups of one size, so that one program serves them all."""
        width = -(-size // count)
        first = min(k * width, size - width)  # the last has some that are done
        rows = {name: values[first : first + width] for name, values in table.items()}
        options: Any = {"mapping": mapping, "devices": devices, "patience": limit}
        members = Population(make, data, rows, **options)
        return members.begin(), k * width - first

    members, done = group(1, 0)
    folders = None if checkpoints is None else Path(checkpoints)
    count, found = _groups(members, memory, folders), []
    with bar(count * steps, enabled=progress) as show, interrupts() as stop:
        for k in range(count):
            if count > 1:
                del members
                members, done = group(count, k)
            folder = folders and folders / f"group_{k}_of_{count}"
            run = _Run(members, steps, (every, watched), folder, resume)
            for record in run.lines(stop):
                show(k * steps + members.now, record)
            found.append(run.left(done))
            if stop():
                break
    whole = _joined(found)
    return whole if len(found) == count else whole._replace(ended="interrupted")


def _every(name, asked, default):
    return check_int(name, default if asked is None else asked, 1)


def _groups(members, memory, folders):
    """In how many groups they are trained: as begun, else as memory asks for."""
    if folders is not None and (begun := sorted(folders.glob("group_*_of_*"))):
        return int(begun[0].name.rpartition("_")[2])  # whatever is free by now
    size = len(members.settings["seed"])
    count = min(size, math.ceil(members.bytes() / (memory or free_bytes())))
    return -(-size // -(-size // count))  # as many as have members of their own


class _Run:
    """The training of a population, with its history, saved now and then."""

    def __init__(self, members, steps, due, folder, resume):
        self._members, self._steps, (every, self._watched) = members, steps, due
        self._every, self._due = every, due if members.patience else (every,)
        size, length = len(members.settings["seed"]), -(-steps // every)
        self._history = {
            name: np.full((size, length), np.nan, np.float32) for name in members.names
        }
        self._saved, self._saved_at = None, time.perf_counter()
        if folder is not None:
            like = jax.tree.map(jnp.asarray, self._tree())
            own: dict[str, Any] = {"steps": steps, "log_every": every}
            if members.patience:
                own["patience"] = f"{members.patience} steps, by {self._watched}"
            origin = members.origin(**own)
            self._saved, tree = checkpoint.proceed(folder, origin, like, steps, resume)
            *carry, history = jax.tree.map(np.asarray, tree)
            self._history = {k: np.array(v) for k, v in history.items()}
            members.begin(checkpoint.latest(folder) or 0, *carry)

    def _tree(self):
        return *self._members.carry, self._history

    def lines(self, stop):
        """Train to the end, or until stop(); a record, or None, after each chunk."""
        members = self._members
        try:
            while members.now < self._steps and not members.stale and not stop():
                at, record = members.now // self._every, None
                due = ((members.now // every + 1) * every for every in self._due)
                members.on(min(self._steps, *due))
                if members.patience and self._is_due(self._watched):
                    members.watch()
                if self._is_due(self._every):
                    record = self._line(at)
                yield record
                if time.perf_counter() - self._saved_at > SECONDS:
                    self._save()
            self._save(last=True)
        finally:
            if self._saved is not None:
                self._saved.close()

    def _is_due(self, every):
        return self._members.now % every == 0 or self._members.now == self._steps

    def _line(self, at):
        for name, values in self._members.metrics().items():
            self._history[name][:, at] = values
        some = self._members.finite
        loss = np.median(self._history["loss"][some, at]) if some.any() else math.nan
        return {"loss": loss, "diverged": np.sum(~some)}

    def _save(self, *, last=False):
        if self._saved is not None:
            tree = jax.tree.map(jnp.asarray, self._tree())
            self._saved.save(self._members.now, tree, last=last)
            self._saved_at = time.perf_counter()

    def left(self, first):
        """What the members from `first` on have become."""
        members = self._members
        reached = -(-members.now // self._every)
        if members.now < self._steps and members.now % self._every:
            self._line(reached - 1)  # cut off within it
        steps = np.minimum(np.arange(1, reached + 1) * self._every, members.now)

        def cut(tree):
            return taken(tree, slice(first, None))

        history = {name: values[:, :reached] for name, values in self._history.items()}
        state, done = members.state, members.now == self._steps or members.stale
        return Sweep(
            cut(members.settings),
            cut(members.evaluate()),
            {"step": steps, **cut(history)},
            ~members.finite[first:],
            one.State(state.step, *cut(state[1:])),
            "finished" if done else "interrupted",
            cut(members.best),
        )


def _joined(parts):
    """Sweeps of some members each, as one of all."""
    if len(parts) == 1:
        return parts[0]
    reached = min(len(part.history["step"]) for part in parts)

    def join(*arrays):
        return np.concatenate(arrays)

    cut = [
        {k: v[:, :reached] for k, v in part.history.items() if k != "step"}
        for part in parts
    ]
    return Sweep(
        jax.tree.map(join, *(part.settings for part in parts)),
        jax.tree.map(join, *(part.scores for part in parts)),
        {"step": parts[-1].history["step"], **jax.tree.map(join, *cut)},
        join(*(part.diverged for part in parts)),
        one.State(
            parts[-1].state.step, *jax.tree.map(join, *(p.state[1:] for p in parts))
        ),
        parts[-1].ended,
        jax.tree.map(join, *(part.best for part in parts)),
    )


def free_bytes() -> float:
    """Half of the memory that programs may take."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return 0.5 * (stats["bytes_limit"] - stats["bytes_in_use"])
    try:
        pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # a system that does not say
        return math.inf
    return 0.5 * pages
