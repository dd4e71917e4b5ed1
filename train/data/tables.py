"""Rows of the user's own, .npz or .csv, as checked numpy arrays.

Whatever is wrong is said here, before any array reaches a model: JAX would compute on
through a NaN, a label out of range or an array of the wrong shape.
Shapes: N examples, D features, L length, H height, W width, C channels.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from train.data.formats import numbers, open_npz
from zoo.base import UsageError, nearest

Kind = Literal["classes", "regression"]
Columns = tuple[tuple[str, tuple[str, ...]], ...]  # name, categories: () is numeric

MISSING = {"", "na", "n/a", "nan", "null", "?"}
FEW = 20  # up to so many distinct whole numbers are classes rather than quantities
MANY = 100  # a column of more distinct texts than this is no category


class Rows(NamedTuple):
    """A data set as stored, in its own units."""

    x: np.ndarray  # [N, ...] numbers
    y: np.ndarray  # [N] int32 labels, or float64 for regression
    classes: tuple[str, ...] = ()  # names in label order; () for regression
    test: tuple[np.ndarray, np.ndarray] | None = None  # x and y, where there are any
    columns: Columns = ()
    target_name: str = "y"
    lengths: tuple[np.ndarray, ...] = ()  # of x's sequences [N], and of test's
    plain: bool = False  # a truth table: not standardised, all of it for training


def quoted(names: Sequence[object]) -> str:
    """Up to ten names in quotes, for a message; "none" for none."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return (", ".join(f'"{name}"' for name in names[:10]) or "none") + more


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
    much of each counts. Raises UsageError.
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
        if y.ndim != 1 or y.dtype.kind not in "biufU":
            raise UsageError(
                f"expected {y_key} of {path} to be [N] labels or numbers, found shape "
                f"{y.shape} of {y.dtype}"
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
    if ys[-1].dtype.kind != "U":
        numbers(ys[-1], f"{wanted[-1]} of {path}")
    if (ys[-1].dtype.kind == "U") != (ys[0].dtype.kind == "U"):
        raise UsageError(
            f"expected y_train and y_test of {path} to be both text or both numbers, "
            f"found {ys[0].dtype} and {ys[1].dtype}"
        )
    y_test = ys[1] if len(ys) == 2 else None
    y, y_test, names = targets(ys[0], y_test, kind, f"y_train of {path}")
    test = (xs[1], y_test) if y_test is not None else None
    return Rows(xs[0], y, names, test, lengths=_lengths(arrays, xs, path))


def _lengths(arrays, xs, path):
    """Those of the sequences of each part; () where the file has none."""
    if "length_train" not in arrays and "length_test" not in arrays:
        return ()
    return tuple(
        read_length(arrays, key, x, path)
        for key, x in zip(("length_train", "length_test"), xs, strict=False)
    )


def read_length(
    arrays: dict[str, np.ndarray], key: str, x: np.ndarray, path: Path
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


class Table(NamedTuple):
    """A .csv file as text, or columns that are at hand."""

    path: Path | str  # what messages call it
    columns: dict[str, list[str]]
    lines: list[int]  # of each row, in the file


def open_csv(path: Path) -> Table:
    """A comma-separated file with a header row, in UTF-8. Raises UsageError."""
    rows, lines = [], []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                if row:
                    rows.append([cell.strip() for cell in row])
                    lines.append(reader.line_num)
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"expected a .csv file, found {path} ({error})") from None
    if len(rows) < 2:
        raise UsageError(
            f"expected a header and at least one row in {path}, found {len(rows)} lines"
        )
    header = rows.pop(0)
    first = lines.pop(0)
    if as_numbers(header) is not None or not all(header):
        raise UsageError(
            f"expected line {first} of {path} to name every column, found "
            f"{quoted(header)}"
        )
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        raise UsageError(f"expected commas between columns of {path}, found {header}")
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise UsageError(f"expected distinct columns in {path}, found {twice} twice")
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(header):
            raise UsageError(
                f"expected {len(header)} values in line {line} of {path}, as in its "
                f"header, found {len(row)}"
            )
    cells = [list(column) for column in zip(*rows, strict=True)]
    return Table(path, dict(zip(header, cells, strict=True)), lines)


def as_numbers(cells: Sequence[str]) -> np.ndarray | None:
    """Text [N] -> float64 [N]; None unless every cell is a number."""
    try:
        if any("_" in cell for cell in cells):  # Python reads 1_000; a table does not
            return None
        return np.array([float(cell) for cell in cells])
    except ValueError:
        return None


def check_complete(table: Table, names: Sequence[str]) -> None:
    """Raises UsageError for missing values, naming each column; none is invented."""
    found = []
    for name in names:
        gaps = [cell.lower() in MISSING for cell in table.columns[name]]
        if any(gaps):
            line = table.lines[gaps.index(True)]
            found.append(f'"{name}" ({sum(gaps)} missing, first in line {line})')
    if found:
        raise UsageError(
            f"expected a value in every cell of {table.path}, found gaps in the column"
            f"{'s' * (len(found) > 1)} {', '.join(found)}: fill them in or remove them"
        )


def read_csv(path: Path, target: str | None, kind: Kind | None = None) -> Rows:
    """The rows of a .csv file, of which the column `target` is to be predicted.

    A column of numbers is one feature; any other is a category, one feature (0 or 1)
    for each of its values. The values are those of the whole file, so that a rare one
    may fall into the test part. Raises UsageError.
    """
    table = open_csv(path)
    names = list(table.columns)
    if target not in names:
        missing = "none was named" if target is None else f'"{target}"'
        raise UsageError(
            f"expected as target one of the columns {quoted(names)} of {path}, found "
            + missing
            + nearest(target or "", names)
        )
    if len(names) < 2:
        raise UsageError(f'expected columns in {path} beside "{target}", found none')
    check_complete(table, names)
    columns = tuple((name, categories(table, name)) for name in names if name != target)
    cells = table.columns[target]
    values = as_numbers(cells)
    if values is None and kind is None:
        categories(table, target)  # a quantity with a slip of the pen is no class
    y, _, classes = targets(
        np.array(cells) if values is None else values,
        None,
        kind,
        f'the column "{target}" of {path}',
    )
    x = encode(table, columns)
    return Rows(x, y, classes, columns=columns, target_name=target)


def categories(table: Table, name: str) -> tuple[str, ...]:
    """The distinct texts of a column, sorted; () if it is numeric."""
    cells = table.columns[name]
    if as_numbers(cells) is not None:
        return ()
    distinct = sorted(set(cells))
    texts = [as_numbers([cell]) is None for cell in cells]
    if len(distinct) > (MANY if all(texts) else FEW):
        first = texts.index(True)
        raise UsageError(
            f'expected numbers or a few categories in the column "{name}" of '
            f"{table.path}, found {len(distinct)} distinct values that are not all "
            f'numbers ("{cells[first]}" in line {table.lines[first]}): correct or '
            "remove it"
        )
    return tuple(distinct)


def encode(table: Table, columns: Columns) -> np.ndarray:
    """The named columns as features [N, D]; a category is one 0 or 1 for each value.

    Raises UsageError for a column that is absent, or a value of the wrong kind.
    """
    names = list(table.columns)
    for name, _ in columns:
        if name not in names:
            raise UsageError(
                f'expected a column "{name}" in {table.path}, found {quoted(names)}'
                + nearest(name, names)
            )
    check_complete(table, [name for name, _ in columns])
    parts = []
    for name, known in columns:
        cells = table.columns[name]
        where = f'the column "{name}" of {table.path}'
        values = None if known else as_numbers(cells)
        if values is not None:
            parts.append(numbers(values, where)[:, None])
            continue
        for cell, line in zip(cells, table.lines, strict=True):
            if cell not in known and (known or as_numbers([cell]) is None):
                expected = f"one of {quoted(known)}" if known else "a number"
                raise UsageError(
                    f'expected {expected} in {where}, found "{cell}" in line {line}'
                )
        parts.append(np.array(cells)[:, None] == np.array(known))
    return np.concatenate(parts, axis=1, dtype=np.float64)
