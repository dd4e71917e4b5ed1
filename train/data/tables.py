"""Rows of the user's own, an .npz or a table, as checked numpy arrays.

Whatever is wrong is said here, before any array reaches a model: JAX would compute on
through a NaN, a label out of range or an array of the wrong shape.
Shapes: N examples, D features, L length, H height, W width, C channels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from train.data.columns import Columns, as_numbers, check_complete, path_of
from train.data.formats import numbers, open_npz, quoted
from train.data.frames import read_frame
from train.data.prepare import FEW, MANY, Wishes, doubt_of, learn, listed
from train.data.targets import several
from zoo.base import UsageError, nearest

if TYPE_CHECKING:  # half a second to import: only where there is a table
    from pandas import DataFrame

Kind = Literal["classes", "regression"]

PLAIN = Wishes()


class Rows(NamedTuple):
    """A data set as stored, in its own units."""

    x: np.ndarray  # [N, ...] numbers
    y: np.ndarray  # [N] int32 labels, or float64 for regression; or [N, T]
    classes: tuple[str, ...] = ()  # names in label order; () for regression
    test: tuple[np.ndarray, np.ndarray] | None = None  # x and y, where there are any
    columns: Columns = ()  # of the features of x, where they are columns
    target_name: str = "y"
    lengths: tuple[np.ndarray, ...] = ()  # of x's sequences [N], and of test's
    plain: bool = False  # a truth table: not standardised, all of it for training
    frame: "DataFrame | None" = None  # a table, of which x has the numbers of rows
    notes: tuple[str, ...] = ()  # what is to be said of it
    targets: tuple[str, ...] = ()  # the names of several, y [N, T]


def targets(
    y: np.ndarray, test: np.ndarray | None, kind: Kind | None, what: str
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Targets as stored -> (those of training, those of test, class names).

    Whole numbers, booleans and text are classes: int32 labels in the sorted order of
    their names. Floats are a quantity: float64 and no names; but up to 20 distinct
    whole floats are classes. `kind` decides otherwise. Raises UsageError.
    """
    text = y.dtype.kind == "U"
    if not text:
        numbers(y, what)
    values = np.unique(y)
    whole = not text and bool((values == np.floor(values.astype(np.float64))).all())
    exact = y.dtype.kind != "f" or (whole and len(values) <= FEW)
    if (kind or ("classes" if exact else "regression")) == "regression":
        if text:
            raise UsageError(
                f"expected numbers in {what} for regression, found the text "
                + quoted(y[:1].tolist())
            )
        if len(values) < 2:
            raise UsageError(
                f"expected a quantity that differs from row to row in {what}, found "
                f"{values[0]:g} alone"
            )
        return y.astype(np.float64), test if test is None else test.astype(float), ()
    if not text and not whole and len(values) > FEW:
        raise UsageError(
            f"expected the labels of classes in {what}, found {len(values)} distinct "
            "fractional numbers: they are a quantity, for regression"
        )
    as_int = whole and y.dtype.kind == "f"
    names = tuple(str(int(v) if as_int else v) for v in values.tolist())
    if len(names) < 2:
        raise UsageError(
            f"expected two classes or more in {what}, found {quoted(names)} alone"
        )
    if test is not None and len(unseen := np.setdiff1d(test, values)):
        raise UsageError(
            f"expected in the test part only the classes of {what}, found "
            f"{quoted(unseen.tolist())}: name a quantity as the kind regression"
        )
    labels = np.searchsorted(values, y).astype(np.int32)
    if test is not None:
        test = np.searchsorted(values, test).astype(np.int32)
    return labels, test, names


def read_npz(path: Path, kind: Kind | None = None) -> Rows:
    """The rows of an .npz file: x_train, y_train and perhaps x_test, y_test.

    x is [N, D], [N, L, C] or [N, H, W, C]; [N] becomes [N, 1]. Whole numbers or
    booleans [N, H, W] are grey images and become [N, H, W, 1]; floats of three
    dimensions stay sequences, padded if length_train (and length_test) [N] say how
    much of each counts. y is [N], or [N, T] of several targets y0, y1 and so on.
    Raises UsageError.
    """
    arrays = open_npz(path)
    wanted = ["x_train", "y_train"]
    if "x_test" in arrays or "y_test" in arrays:
        wanted += ["x_test", "y_test"]
    if absent := [key for key in wanted if key not in arrays]:
        raise UsageError(
            f"expected {' and '.join(absent)} in {path}, found {quoted(list(arrays))}"
        )
    xs, ys = [], []
    for x_key, y_key in zip(wanted[::2], wanted[1::2], strict=True):
        x, y = arrays[x_key], arrays[y_key]
        y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
        kinds = "biuf" if y.ndim == 2 else "biufU"
        if y.dtype.kind not in kinds or y.ndim > 2 or 0 in (y.ndim, *y.shape[1:]):
            raise UsageError(
                f"expected {y_key} of {path} to be [N] labels or numbers, or [N, T] "
                f"numbers, found shape {y.shape} of {y.dtype}"
            )
        x = examples(x, f"{x_key} of {path}")
        if len(x) != len(y):
            raise UsageError(
                f"expected as many rows in {x_key} as in {y_key} of {path}, found "
                f"{len(x)} and {len(y)}"
            )
        xs.append(x)
        ys.append(y)
    if xs[-1].shape[1:] != xs[0].shape[1:]:
        raise UsageError(
            f"expected x_test of {path} to have examples of shape {xs[0].shape[1:]} as "
            f"x_train has, found {xs[1].shape[1:]}"
        )
    if ys[-1].shape[1:] != ys[0].shape[1:]:
        raise UsageError(
            f"expected y_test of {path} to be {ys[0].shape[1:]} for each example as "
            f"y_train is, found {ys[1].shape[1:]}"
        )
    if ys[-1].dtype.kind != "U":
        numbers(ys[-1], f"{wanted[-1]} of {path}")
    if (ys[-1].dtype.kind == "U") != (ys[0].dtype.kind == "U"):
        raise UsageError(
            f"expected y_train and y_test of {path} to be both text or both numbers, "
            f"found {ys[0].dtype} and {ys[1].dtype}"
        )
    if ys[0].ndim == 2:
        return _several(xs, ys, kind, path, _lengths(arrays, xs, path))
    y_test = ys[1] if len(ys) == 2 else None
    y, y_test, names = targets(ys[0], y_test, kind, f"y_train of {path}")
    test = (xs[1], y_test) if y_test is not None else None
    return Rows(xs[0], y, names, test, lengths=_lengths(arrays, xs, path))


def _several(xs, ys, kind, path, lengths):
    """The rows of an .npz of several targets: of one kind in both parts."""
    names = tuple(f"y{i}" for i in range(ys[0].shape[1]))
    y, labels = several(np.concatenate(ys), names, kind, f"y of {path}")
    n = len(ys[0])
    test = (xs[1], y[n:]) if len(xs) == 2 else None
    return Rows(xs[0], y[:n], labels, test, targets=names, lengths=lengths)


def _lengths(arrays, xs, path):
    """Those of the sequences of each part; () where the file has none."""
    if "length_train" not in arrays and "length_test" not in arrays:
        return ()
    return tuple(
        read_length(arrays, key, x, path)
        for key, x in zip(("length_train", "length_test"), xs, strict=False)
    )


def read_length(
    arrays: Mapping[str, np.ndarray], key: str, x: np.ndarray, path: Path
) -> np.ndarray:
    """An array [N] of 1..L for the sequences x [N, L, C], int32. Raises UsageError."""
    if key not in arrays:
        raise UsageError(f"expected {key} in {path}, found {quoted(list(arrays))}")
    length = arrays[key]
    if length.dtype.kind not in "iu" or x.ndim != 3 or length.shape != x.shape[:1]:
        raise UsageError(
            f"expected {key} of {path} to be a whole number for each sequence of x "
            f"[N, L, C], found {length.dtype} {length.shape} for x {x.shape}"
        )
    if (wrong := length[(length < 1) | (length > x.shape[1])]).size:
        raise UsageError(
            f"expected {key} of {path} in 1..{x.shape[1]}, found {wrong[0]}"
        )
    return length.astype(np.int32)


def examples(x: np.ndarray, what: str) -> np.ndarray:
    """x checked, with an axis of channels or features where `read_npz` adds one."""
    numbers(x, what)
    if not 1 <= x.ndim <= 4:
        raise UsageError(
            f"expected {what} to be [N, D], [N, L, C] or [N, H, W, C], found shape "
            f"{x.shape}"
        )
    x = x.astype(np.uint8) if x.dtype.kind == "b" else x
    grey = x.ndim == 3 and x.dtype.kind in "iu"
    return x[..., None] if grey or x.ndim == 1 else x


def read_own(path: Path | str, wishes: Wishes) -> "DataFrame":
    """A table as it is to be read: what is named an id or a category as text."""
    texts = [wishes.id, *(wishes.category or "").split(",")]
    return read_frame(
        path,
        separator=wishes.separator,
        encoding=wishes.encoding,
        texts=[name for name in texts if name],
        gaps=wishes.gaps,
    )


def rows_of(
    head: "DataFrame",
    target: str | None,
    kind: Kind | None = None,
    wishes: Wishes = PLAIN,
) -> Rows:
    """The rows of a table, of which the column `target`, or those of "a,b", is to be
    predicted.

    x [N, 1] has their numbers in `frame`, the columns to learn from: nothing is made of
    them before they are parted. Rows without a target are left out, and with the wish
    for it those that have a gap elsewhere. Raises UsageError.
    """
    names, path = [str(name) for name in head.columns], path_of(head)
    many = target is not None and target not in names and "," in target
    wanted = listed(target, names, "--target") if many else [str(target)]
    if not many and target not in names:
        missing = "none was named" if target is None else f'"{target}"'
        raise UsageError(
            f"expected as target one of the columns {quoted(names)} of {path}, found "
            + missing
            + nearest(target or "", names)
        )
    drop, keep = (
        listed(getattr(wishes, flag), names, f"--{flag}") for flag in ("drop", "keep")
    )
    named = listed(wishes.category, names, "--category")
    own = listed(wishes.id, names, "--id")
    chosen = set(keep or names) - {*wanted, *drop, *own}
    beside = [n for n in names if n in chosen]
    if not beside:
        raise UsageError(f'expected columns in {path} beside "{target}", found none')
    notes = [*head.attrs["notes"], *_numbering(head[beside])]
    frame = _complete(head, wanted, beside, wishes, named, notes)
    if many:
        y, classes = several_of(frame, wanted, kind)
    else:
        where = f'the column "{target}" of {path}'
        y, _, classes = targets(_target(frame[target], kind), None, kind, where)
    at = np.arange(len(frame))[:, None]
    if not classes:
        notes += filter(None, map(doubt_of, wanted, y.reshape(len(y), -1).T))
    told = Rows(at, y, classes, frame=frame[beside], notes=tuple(notes))
    return told._replace(target_name=str(target), targets=tuple(wanted) if many else ())


def _complete(frame, wanted, beside, wishes, named, notes):
    """The rows that have a target and, where they are wanted, no gap in what is used.

    Raises UsageError where gaps are refused, or nothing is left.
    """
    gaps = frame[wanted].isna().any(axis=1).to_numpy()
    if gaps.any() and wishes.missing != "refuse":
        what = f"without a value of {quoted(wanted)}"
        notes.append(f"left out {gaps.sum():,} of {len(gaps):,} rows {what}")
        frame = frame[~gaps]
    if len(frame) and wishes.missing != "fill":
        used = [c.name for c in learn(frame[beside], wishes, named)[0]]
        if wishes.missing == "refuse":
            check_complete(frame, [*wanted, *used])
        gaps = frame[used].isna().any(axis=1).to_numpy()
        if gaps.any():
            notes.append(f"left out {gaps.sum():,} of {len(gaps):,} rows with gaps")
            frame = frame[~gaps]
    if not len(frame):
        raise UsageError(f"expected rows without gaps in {path_of(frame)}, found none")
    return frame


def _numbering(frame):
    """A warning for each column that numbers the rows."""
    kinds = zip(frame.columns, frame.dtypes, strict=True)
    whole = [name for name, kind in kinds if kind.kind in "iu"] * (len(frame) > FEW)
    first, last = (frame[whole].iloc[i].to_numpy(np.float64) for i in (0, -1))
    likely = np.flatnonzero(np.abs(last - first) == len(frame) - 1)
    found = []
    for name in (whole[i] for i in likely):
        steps = np.diff(frame[name].to_numpy())
        if (steps == 1).all() or (steps == -1).all():
            found.append(
                f'warning: the column "{name}" numbers the rows: leave it out, '
                "unless their order means something"
            )
    return found


def several_of(
    frame: "DataFrame", names: Sequence[str], kind: Kind | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Columns to predict as `train.data.targets.several` has them: (y, labels)."""
    cells = np.stack([_quantity(frame[name]) for name in names], 1)
    return several(cells, tuple(names), kind, path_of(frame))


def _quantity(cells):
    """One of several targets, which are numbers, or True and False."""
    if cells.dtype.kind == "O" and set(lower := cells.str.lower()) == {"true", "false"}:
        return (lower == "true").to_numpy(np.float64)
    if cells.dtype.kind in "OM":
        found = "dates" if cells.dtype.kind == "M" else f'"{cells.iloc[0]}"'
        raise UsageError(
            f'expected numbers in the column "{cells.name}" of {path_of(cells)}, one '
            f"of several targets, found {found}"
        )
    return cells.to_numpy(np.float64)


def _target(cells, kind):
    """The target as numbers, or as texts that are few enough for classes."""
    if cells.dtype.kind == "M":
        raise UsageError(
            f'expected numbers or classes in the column "{cells.name}" of '
            f"{path_of(cells)}, found dates"
        )
    if cells.dtype.kind != "O":
        return cells.to_numpy(np.float64)
    distinct = cells.unique()
    slips = np.isnan(as_numbers(cells))
    if kind == "regression" and slips.any():
        at = slips.argmax()
        raise UsageError(
            f'expected numbers in the column "{cells.name}" of {path_of(cells)} for '
            f'regression, found the text "{cells.iloc[at]}" in line {cells.index[at]}'
        )
    # a quantity with a slip of the pen is no class
    if kind is None and len(distinct) > (MANY if slips.all() else FEW):
        at = slips.argmax()
        raise UsageError(
            f'expected numbers or a few classes in the column "{cells.name}" of '
            f"{path_of(cells)}, found {len(distinct)} distinct values that are not all "
            f'numbers ("{cells.iloc[at]}" in line {cells.index[at]}): correct or '
            "remove it"
        )
    return cells.to_numpy(str)
