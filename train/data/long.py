"""Long tables: a line for each step of each sequence, told apart by a column.

A sequence is the lines of one group, in the order of a column of times; that of a
forecast (`train.data.series`) is read here too.
Shapes: N sequences, L length, C channels.
"""

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from train.data.columns import Column, Columns
from train.data.formats import numbers, quoted
from train.data.frames import is_table as is_file
from train.data.frames import read_frame
from train.data.load import from_rows
from train.data.prepare import FEW, MANY, Dates, dates_of
from train.data.schema import Arrays, Data, Schema, Split, standardize, within
from train.data.tables import Kind, Rows, targets
from zoo.base import UsageError, nearest

if TYPE_CHECKING:  # half a second to import: only where there is a table
    from pandas import DataFrame, Series


def table(path: str | os.PathLike[str], group: str | None) -> "DataFrame":
    """The table of a file, names of groups as they are written. Raises UsageError."""
    return read_frame(Path(path), texts=[] if group is None else [group])


def pad(sequences: Sequence[Any], what: str) -> tuple[np.ndarray, np.ndarray]:
    """Arrays [L_i, C] -> x [N, L, C], zero past each length, and lengths [N] int32.

    Raises UsageError for what are not sequences of numbers of the same channels.
    """
    arrays = [np.asarray(one) for one in sequences]
    if not arrays:
        raise UsageError(f"expected sequences in {what}, found none")
    shapes = sorted({a.shape[1:] for a in arrays})
    if len(shapes) > 1 or len(shapes[0]) != 1:
        raise UsageError(
            f"expected arrays [L, C] of as many channels each in {what}, found steps "
            f"of the shapes {shapes}"
        )
    for i, array in enumerate(arrays):
        numbers(array, f"sequence {i} of {what}")
    length = np.array([len(a) for a in arrays], np.int32)
    x = np.zeros((len(arrays), length.max(), *shapes[0]))
    for row, array in zip(x, arrays, strict=True):
        row[: len(array)] = array
    return x, length


def read_groups(
    frame: "DataFrame",
    target: str | None,
    *,
    group: str,
    time: str,
    kind: Kind | None = None,
    form: str = "",
    what: str = "the table",
) -> Rows:
    """The sequences of a long table, each with the one target that its lines have.

    Columns beside `group`, `time` and `target` are features: numbers, or categories,
    one feature (0 or 1) for each value. Raises UsageError.
    """
    check_names(frame, {"--group": group, "--time": time, "--target": target}, what)
    assert target is not None
    _complete(frame, [target], what)
    columns = features(frame, (group, time, target), what)
    sequences, y = [], []
    for name, steps in groups(frame, group, time, what, form):
        found = steps[target].unique()
        if len(found) > 1:
            raise UsageError(
                f'expected one value of "{target}" for all steps of a group of {what}, '
                f'found {quoted(found.tolist())} where "{group}" is {name}: to predict '
                "what varies, name a --window and a --horizon"
            )
        sequences.append(encode(steps, columns, what))
        y.append(found[0])
    x, length = pad(sequences, what)
    values = np.array(y if _numeric(frame[target]) else list(map(str, y)))
    where = f'the column "{target}" of {what}'
    labels, _, names = targets(values, None, kind, where)
    return Rows(x, labels, names, None, columns, target, lengths=(length,))


def load_groups(
    request: Split,
    *,
    target: str | None = None,
    group: str,
    time: str,
    dates: Dates | None = None,
    holdout: float | None = None,
) -> Data:
    """The sequences of a .csv of `read_groups`, parted by group. Raises UsageError."""
    name = os.fspath(request.source)  # type: ignore[arg-type]
    frame = table(name, group)
    form, notes = written(frame, time, dates)
    rows = read_groups(frame, target, group=group, time=time, form=form, what=name)
    data = from_rows(rows, request, holdout)
    own: dict[str, Any] = {"group": group, "time": time, "form": form, "notes": notes}
    return data._replace(schema=data.schema._replace(**own))


def from_sequences(
    sequences: Sequence[Any],
    y: Any,
    *,
    kind: Kind | None = None,
    holdout: float | None = None,
    seed: int = 0,
    name: str = "sequences",
) -> Data:
    """Arrays [L_i, C] of any lengths and their labels, or quantities, y [N], as data.

    `holdout` of them, drawn by the seed, are for testing: 0.2 for None. Raises
    UsageError.
    """
    x, length = pad(sequences, name)
    values = np.asarray(y)
    if values.shape != (len(x),) or values.dtype.kind not in "biufU":
        raise UsageError(
            f"expected a label or a number for each of {len(x)} sequences, found "
            f"{values.dtype} of shape {values.shape}"
        )
    labels, _, names = targets(values, None, kind, f"y of {name}")
    rows = Rows(x, labels, names, lengths=(length,))
    return from_rows(rows, Split(name, seed=seed), holdout)


def written(
    frame: "DataFrame", time: str, dates: Dates | None
) -> tuple[str, tuple[str, ...]]:
    """How the times of a table are written, "" for numbers; what is to be said of it.

    That is what was read otherwise than it is written, and what is in doubt.
    """
    notes = tuple(frame.attrs.get("notes", ()))
    if time not in frame or frame[time].dtype.kind != "O":
        return "", notes
    form, doubt = dates_of(frame[time], dates)
    return form, notes + (doubt,) * bool(doubt)


def groups(
    frame: "DataFrame", group: str, time: str, what: str, form: str = ""
) -> Iterator[tuple[str, "DataFrame"]]:
    """(name, its steps in the order of time) of each group, as they first appear.

    Times become numbers, or dates, of the form where they are written so. Without a
    group the table is one, named "". Raises UsageError for times that are missing or
    twice in a group, or a group of one step.
    """
    check_names(frame, {"--time": time} | ({"--group": group} if group else {}), what)
    _complete(frame, [time, group] if group else [time], what)
    frame = frame.copy(deep=False)
    frame[time] = times(frame[time], what, form)
    parted = frame.groupby(group, sort=False) if group else [("", frame)]
    for name, steps in parted:
        at = f' where "{group}" is {name}' if group else ""
        steps = steps.sort_values(time, kind="stable")
        twice = steps[time][steps[time].duplicated()]
        if len(twice):
            raise UsageError(
                f'expected each time once in "{time}" of {what}, found {twice.iloc[0]} '
                f"twice{at or ': --group names the column that tells sequences apart'}"
            )
        if len(steps) < 2:
            raise UsageError(f"expected two steps or more in {what}, found one{at}")
        yield str(name), steps


def times(column: "Series", what: str, form: str = "") -> "Series":
    """Numbers as they are, texts as dates. Raises UsageError for others."""
    if _numeric(column):
        numbers(column.to_numpy(), f'the times "{column.name}" of {what}')
        return column
    import pandas as pd

    for one in [form] * bool(form) + [None]:
        with contextlib.suppress(ValueError, TypeError, UserWarning):
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # what pandas would have to guess
                return pd.to_datetime(column, format=one)
    raise UsageError(
        f'expected numbers, or dates as 2026-11-26, in "{column.name}" of {what}, '
        f"found {quoted(column.iloc[:3].tolist())}"
    )


def features(frame: "DataFrame", others: Sequence[str | None], what: str) -> Columns:
    """The columns beside some others, each with its categories, () for numbers."""
    columns = [name for name in frame.columns if name not in others]
    if not columns:
        named = quoted([name for name in others if name])
        raise UsageError(f"expected features in {what}, found {named} alone")
    _complete(frame, columns, what)
    found = []
    for name in columns:
        values = () if _numeric(frame[name]) else tuple(sorted(set(_text(frame[name]))))
        if len(values) > (FEW if _some_numbers(values) else MANY):
            raise UsageError(
                f'expected numbers or a few categories in the column "{name}" of '
                f"{what}, found {len(values)} distinct texts: correct or remove it"
            )
        found.append(Column(str(name), values))
    return tuple(found)


def encode(frame: "DataFrame", columns: Columns, what: str) -> np.ndarray:
    """Columns as features [L, C]; a category is one 0 or 1 for each of its values.

    Raises UsageError for a column that is absent, or a value of the wrong kind.
    """
    check_names(frame, {column.name: column.name for column in columns}, what)
    _complete(frame, [column.name for column in columns], what)
    parts = []
    for name, known, *_ in columns:
        where = f'the column "{name}" of {what}'
        if known:
            cells = _text(frame[name])
            if unseen := sorted(set(cells) - set(known)):
                raise UsageError(
                    f"expected one of {quoted(known)} in {where}, found "
                    f"{quoted(unseen)}"
                )
            parts.append(np.array(cells)[:, None] == np.array(known))
        elif _numeric(frame[name]):
            parts.append(numbers(frame[name].to_numpy(), where)[:, None])
        else:
            raise UsageError(f"expected numbers in {where}, found {frame[name].dtype}")
    return np.concatenate(parts, axis=1, dtype=np.float64)


def sources(given: Any, group: str) -> list[tuple[str, "DataFrame"]]:
    """What is given to predict from, as tables with what messages call them."""
    import pandas as pd

    if isinstance(given, str | os.PathLike):
        given = [given]
    if isinstance(given, dict | pd.DataFrame):
        return [("the inputs", pd.DataFrame(given))]
    return [(os.fspath(path), table(path, group or None)) for path in given]


def is_table(given: Any) -> bool:
    """Whether what is given to predict from is a table, or the path of one."""
    first = given[0] if isinstance(given, list | tuple) and given else given
    if isinstance(first, str | os.PathLike):
        return is_file(os.fspath(first))
    return hasattr(given, "columns") or isinstance(given, dict)


def is_ragged(schema: Schema, given: Any) -> bool:
    """Whether they are arrays [L_i, C] in a list, for a model of such sequences."""
    listed = isinstance(given, list | tuple) and len(given) > 0
    return schema.lengths and not schema.edges and listed and np.ndim(given[0]) == 2


def examples(schema: Schema, given: Any) -> Arrays:
    """New sequences to predict of: {"x" [N, L, C], "length" [N]}, standardised.

    Long tables, as paths, frames or columns by name, whose groups are the rows in the
    order in which they first appear; or arrays [L_i, C]. Raises UsageError.
    """
    if is_table(given):
        given = [
            encode(steps, schema.columns, what)
            for what, frame in sources(given, schema.group)
            for _, steps in groups(frame, schema.group, schema.time, what, schema.form)
        ]
    x, length = pad(given, "the inputs")
    if x.shape[2] != schema.shape[1]:
        raise UsageError(
            f"expected sequences of {schema.shape[1]} channels as in {schema.name}, "
            f"found {x.shape[2]}"
        )
    x = standardize(schema._replace(shape=x.shape[1:]), x)  # of any length
    return {"x": np.where(within(x, length), x, 0), "length": length}


def names(schema: Schema, given: Any) -> list[str]:
    """The groups of tables, in the order of `examples`."""
    return [
        name
        for what, frame in sources(given, schema.group)
        for name, _ in groups(frame, schema.group, schema.time, what, schema.form)
    ]


def check_names(
    frame: "DataFrame", wanted: Mapping[str, str | None], what: str
) -> None:
    """Raise UsageError unless they are different columns; keys say what each is for."""
    known = list(map(str, frame.columns))
    for flag, name in wanted.items():
        if name not in known:
            role = "" if flag == name else f" as {flag}"
            found = "none was named" if name is None else f'"{name}"'
            raise UsageError(
                f"expected{role} one of the columns {quoted(known)} of {what}, found "
                + found
                + nearest(name or "", known)
            )
    if len(set(wanted.values())) < len(wanted):
        raise UsageError(f"expected different columns as {', '.join(wanted)}")


def _complete(frame, columns, what):
    """Raise UsageError for missing values, naming each column."""
    gaps = frame[columns].isna()
    found = [
        f'"{name}" ({gaps[name].sum()} missing, first in row {gaps[name].argmax() + 1})'
        for name in columns
        if gaps[name].any()
    ]
    if found:
        raise UsageError(
            f"expected a value in every cell of {what}, found gaps in the column"
            f"{'s' * (len(found) > 1)} {', '.join(found)}: fill them in or remove them"
        )


def _numeric(column):
    return column.dtype.kind in "biuf"


def _text(column):
    return [str(value).strip() for value in column]


def _some_numbers(values):
    return any(value.lstrip("-").replace(".", "", 1).isdigit() for value in values)
