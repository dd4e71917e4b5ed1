"""Cross-validation as one program: each member trains on rows of its own.

A fold is a row of an index table, one more setting of a sweep. Folds of one length take
one program: those that are a row shorter are filled with a row that nothing counts.
Shapes: N rows, K folds, n and m rows of a fold to train and to test on, A settings.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from train import source as sources
from train.many.axes import Settings, settings
from train.many.member import Varied
from train.many.sweeps import Sweep, sweep
from train.source import Arrays, count_rows
from train.step import Trained
from zoo.base import UsageError, check_choice, check_int


class Folds(NamedTuple):
    """Which rows each fold trains on, and which it is tested on; -1 is none."""

    train: np.ndarray  # int32 [K, n]
    test: np.ndarray  # int32 [K, m]
    repeats: int = 1  # times that K / repeats folds part the rows


def folds(
    arrays: Arrays,
    k: int,
    *,
    repeats: int = 1,
    stratified: bool | None = None,
    groups: Any = None,
    seed: int = 0,
) -> Folds:
    """K = k x repeats folds of the rows of {"x": [N, ...], ...}, shuffled by a seed.

    Stratified where y is labels, unless told otherwise: each fold has its share of
    every class. With `groups` [N] the rows of a group stay together. Raises UsageError
    for more folds than rows, groups, or examples of a class.
    """
    from sklearn import model_selection  # a second to import

    n, y = count_rows(arrays), np.asarray(arrays.get("y", arrays["x"]))
    check_int("folds", k, 2), check_int("repeats", repeats, 1)
    labels = y.ndim == 1 and y.dtype.kind in "iu"
    by_class = labels if stratified is None else stratified
    if by_class and not labels:
        raise UsageError("expected labels y [N] to stratify by")
    kinds = {
        (False, False): model_selection.KFold,
        (True, False): model_selection.StratifiedKFold,
        (False, True): model_selection.GroupKFold,
        (True, True): model_selection.StratifiedGroupKFold,
    }
    kind = kinds[by_class, groups is not None]
    found = []
    for repeat in range(repeats):
        splitter = kind(k, shuffle=True, random_state=seed + repeat)
        try:
            found += splitter.split(np.zeros(n), y if by_class else None, groups)
        except ValueError as error:
            raise UsageError(f"{k} folds cannot be made: {error}") from None
    if by_class and np.unique(y, return_counts=True)[1].min() < k:
        raise UsageError(f"expected {k} examples of each class for as many folds")
    train, test = (_table(part) for part in zip(*found, strict=True))
    return Folds(train, test, repeats)


def bootstraps(n: int, k: int, *, seed: int = 0) -> Folds:
    """K samples of n rows with replacement; tested on the rows that are not in them."""
    random = np.random.default_rng(seed)
    train = random.integers(n, size=(k, n), dtype=np.int32)
    return Folds(train, _table([np.setdiff1d(np.arange(n), index) for index in train]))


def _table(parts):
    """Indices of different lengths as one array, filled with -1."""
    table = np.full((len(parts), max(map(len, parts))), -1, np.int32)
    for row, part in zip(table, parts, strict=True):
        row[: len(part)] = part
    return table


def varied(
    arrays: Arrays, which: Folds, size: int | None = None, *, standardize: bool = True
) -> Varied:
    """Data of which each member has the fold of its setting "fold".

    A step reads `size` rows, all for None. With `standardize`, each entry of x has mean
    0 and variance 1 over the rows that the member trains on, where it is tested too.
    Raises UsageError for folds of other data.
    """
    n = count_rows(arrays)
    for index in which[:2]:
        if index.min() < -1 or index.max() >= n:
            raise UsageError(f"expected folds of {n} rows, found row {index.max()}")
    table = jax.tree.map(np.asarray, arrays)
    masked = which.train.min() < 0 or "mask" in arrays
    if min(map(np.min, which[:2])) < 0:
        # -1 is the last: a row of zeros that the mask drops
        table = {"mask": np.ones(n, np.float32)} | table
        table = {k: np.concatenate([a, np.zeros_like(a[:1])]) for k, a in table.items()}

    def source(shared, own):
        table, train, _ = shared
        # a norm wants no mask where nothing is dropped
        kept = {k: a for k, a in table.items() if masked or k != "mask"}
        found = sources.rows(kept, train[own["fold"]] % len(table["x"]), size)
        return sources.standardized(found) if standardize else found

    def evaluation(shared, own):
        table, _, test = shared
        index = test[own["fold"]] % len(table["x"])
        rows = jax.tree.map(lambda a: a[index], table) | {"row": index}
        return source(shared, own).arrays.of(rows) if standardize else rows

    def parts(shared):
        return ({name: a[:n] for name, a in shared[0].items()},), ()

    shared = table, which.train, which.test
    return Varied(shared, source, evaluation, ("fold",), parts)


class CrossValidated(NamedTuple):
    """What a cross-validation leaves, on the host."""

    settings: Settings  # [A] each
    scores: np.ndarray  # of the rows that a fold was tested on, mean of seeds: [A, K]
    mean: np.ndarray  # over the folds: [A]
    error: np.ndarray  # its standard error, of one parting of the rows: [A]
    best: int  # the setting of the best mean
    simplest: int  # the simplest that is no worse by a standard error
    trained: Trained  # the best, or simplest, trained on all rows
    scaling: sources.Standardized | None  # scaling.of(rows) is what it predicts for
    sweep: Sweep

    def setting(self, i: int | None = None) -> dict[str, float]:
        """The i-th setting by name, the best for None."""
        at = self.best if i is None else i
        return {name: values[at].item() for name, values in self.settings.items()}


def cross_validate(
    make: Callable[..., Any],
    arrays: Arrays,
    steps: int,
    *,
    which: Folds,
    axes: Mapping[Any, Any] | None = None,
    samples: int | None = None,
    seeds: int | Sequence[int] = 1,
    size: int | None = None,
    standardize: bool = True,
    metric: str = "loss",
    greatest: bool = False,
    simpler: str | None = None,
    **options: Any,
) -> CrossValidated:
    """Every setting on every fold, in one program; and the best one on all rows.

    `make`, `axes`, `samples`, `seeds` and `options` are as in `sweep`; a `make` with
    `rows` is given how many a member trains on, to divide a penalty by. The score is
    the mean of a `metric` over the rows of a test part, the least of which is best, or
    the `greatest`. `simpler` names an axis of which a larger value is a simpler model:
    then all rows train the simplest within a standard error of the best (Hastie et al.
    2009, section 7.10). Raises UsageError for what cannot be right.
    """
    found = settings(1, axes or {}, samples=samples, seed=options.get("draw", 0))
    del found["seed"]
    if simpler is not None:
        check_choice("axis", simpler, tuple(found))
    folder = options.pop("checkpoints", None)
    count = len(next(iter(found.values()))) if found else 1

    def members(which, settings, name, judged=True):
        fold: dict[Any, Any] = {"fold": range(len(which.train))}
        if "rows" in inspect.signature(make).parameters:
            fold = {("fold", "rows"): [*enumerate((which.train >= 0).sum(1))]}
        data = varied(arrays, which, size, standardize=standardize)
        data = data if judged else data._replace(evaluation=lambda *_: None)
        own = options | {"checkpoints": folder and Path(folder) / name}
        table = {tuple(settings): np.stack(list(settings.values()), 1)} if found else {}
        return sweep(make, data, steps, seeds=seeds, axes=table | fold, **own)

    ran = members(which, found, "folds")
    if ran.ended == "interrupted":
        raise KeyboardInterrupt
    check_choice("metric", metric, tuple(ran.scores))
    scores = ran.scores[metric].reshape(-1, count, len(which.train)).mean(0)
    simplicity = None if simpler is None else found[simpler]
    error, best, simplest = _best(scores, which.repeats, greatest, simplicity)
    every = np.arange(count_rows(arrays), dtype=np.int32)[None]
    chosen = {name: values[[simplest]] for name, values in found.items()}
    last = members(Folds(every, every), chosen, "all", judged=False)
    scaling = sources.standardized(sources.full(arrays)).arrays if standardize else None
    judged = found, scores, scores.mean(1), error, best, simplest
    return CrossValidated(*judged, last.trained(0), scaling, ran)


def _best(scores, repeats, greatest, simplicity):
    """Scores [A, K] -> their standard errors [A], the best setting, the simplest near.

    `simplicity` [A] is greater where a model is simpler; None: the best again.
    """
    mean, k = scores.mean(1), scores.shape[1] // repeats
    apart = scores.reshape(len(scores), repeats, k)
    # of each parting alone: more of them say nothing of other rows
    error = apart.std(2, ddof=1).mean(1) / np.sqrt(k) if k > 1 else np.zeros(len(mean))
    loss = np.where(np.isfinite(mean), -mean if greatest else mean, np.inf)
    if not np.isfinite(loss).any():
        raise UsageError("every setting diverged: try smaller learning rates")
    best = int(np.argmin(loss))
    if simplicity is None:
        return error, best, best
    near = np.flatnonzero(loss <= loss[best] + error[best])
    return error, best, int(max(near, key=lambda i: (simplicity[i], -loss[i])))
