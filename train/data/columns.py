"""Columns of a table as features: what was learned of each, and its use.

A `Column` is plain numbers and texts, JSON in the schema, from which `encode` makes the
features of any rows: those of the training as those of a later prediction.
Shapes: N rows, D features, P numbers of a column.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from train.data.cells import TRUTHS
from train.data.formats import quoted
from zoo.base import UsageError, nearest

if TYPE_CHECKING:  # half a second to import: only where there is a table
    from pandas import DataFrame, Series

VALUES = 2**28  # of all features, 2 GiB
BLOCK = 2**23  # numbers of columns that are read side by side
LARGEST = np.finfo(np.float32).max
MOST = 10  # sentences of a kind: more columns are counted


class Column(NamedTuple):
    """What was learned of a column: numbers, a date or a category, if it has levels.

    Its features are its numbers, or 1 for its level and 0 for others; then, where
    there are any in training, 1 for all rare levels, and 1 for a gap.
    """

    name: str
    levels: tuple[str, ...] = ()
    other: bool = False  # whether a feature stands for the levels that are rare
    gap: bool = False  # whether a feature says where there is no value
    strict: bool = True  # whether a gap is refused
    medians: tuple[float, ...] = ()  # of its numbers, in place of a gap
    date: str = ""  # how a date is written, as strptime has it
    first: float = 0.0  # the first date, in days since 1970
    ranks: tuple[tuple[float, ...], ...] = ()  # quantiles of its numbers

    @property
    def category(self) -> bool:
        """Whether its features are levels."""
        return bool(self.levels) or self.other

    @property
    def width(self) -> int:
        """How many features it has."""
        own = len(self.levels) + self.other if self.category else len(self.medians) or 1
        return own + self.gap


Columns = tuple[Column, ...]


def texts_of(columns: Columns) -> list[str]:
    """The columns that are to be read as texts, whatever a file has in them."""
    return [column.name for column in columns if column.category]


def numeric(columns: Columns) -> np.ndarray:
    """Which features [D] are numbers rather than 0 or 1."""
    found: list[bool] = []
    for column in columns:
        count = 0 if column.category else len(column.medians) or 1
        found += [True] * count + [False] * (column.width - count)
    return np.array(found, bool)


def encode(frame: "DataFrame", columns: Columns) -> tuple[np.ndarray, list[str]]:
    """The columns of any rows as features [N, D]; sentences of what was not known.

    A level that was not among those learned is that of the rare ones, or none; a gap
    is the median. Raises UsageError for a column that is absent, a cell of another
    type, and a gap where gaps are refused.
    """
    names = [str(name) for name in frame.columns]
    known = set(names)
    for column in columns:
        if column.name not in known:
            raise UsageError(
                f'expected a column "{column.name}" in {path_of(frame)}, found '
                + quoted(names)
                + nearest(column.name, names)
            )
    check_complete(frame, [column.name for column in columns if column.strict])
    width = sum(column.width for column in columns)
    if width * len(frame) > VALUES:
        raise UsageError(
            f"expected at most {VALUES:,} numbers in all, found {len(frame):,} rows of "
            f"{width:,} features in {path_of(frame)}: leave columns or rows out"
        )
    x, at, said = np.zeros((len(frame), width)), 0, []
    done = _side_by_side(frame, columns, x)
    for column in columns:
        if column.name not in done:
            made = _of_levels if column.category else _of_numbers
            said += made(frame[column.name], column, x[:, at : at + column.width])
        at += column.width
    return x, shortened(said)


def blocks(frame: "DataFrame", names: Collection[str]) -> Iterator[list[str]]:
    """Those of some columns that are numbers as they stand, so many as fit a block."""
    kinds = zip(frame.columns, frame.dtypes, strict=True)
    found = [name for name, kind in kinds if kind.kind in "iuf" and name in names]
    size = max(1, BLOCK // max(1, len(frame)))
    for i in range(0, len(found), size):
        yield found[i : i + size]


def shortened(said: Sequence[tuple[str, str]]) -> list[str]:
    """Sentences, each with what it is of: ten of a kind, and how many more."""
    count: Counter[str] = Counter()
    kept = []
    for kind, sentence in said:
        count[kind] += 1
        kept += [sentence] * (count[kind] <= MOST)
    more = [(kind, n - MOST) for kind, n in count.items() if n > MOST]
    return kept + [f"{n:,} more column{'s' * (n > 1)} {kind}" for kind, n in more]


def _side_by_side(frame, columns, x):
    """Fill the features of columns of numbers of which there is nothing to say.

    The names of those: one by one, 50,000 would take minutes.
    """
    places = np.cumsum([0, *(column.width for column in columns)])
    plain = {
        column.name: (at, column)
        for column, at in zip(columns, places.tolist(), strict=False)
        if not (column.category or column.date or column.ranks)
    }
    done: set[str] = set()
    for names in blocks(frame, plain):
        values = frame[names].to_numpy(np.float64)
        gaps = np.isnan(values)
        at = np.array([plain[name][0] for name in names])
        marked = np.array([plain[name][1].gap for name in names])
        medians = np.array([(*plain[name][1].medians, 0.0)[0] for name in names])
        values = np.where(gaps, medians, values)
        right = (np.abs(values) <= LARGEST).all(0) & (marked | ~gaps.any(0))
        x[:, at[right]] = values[:, right]
        both = right & marked
        x[:, at[both] + 1] = gaps[:, both]
        done.update(name for name, fits in zip(names, right, strict=True) if fits)
    return done


def as_numbers(cells: "np.ndarray | Series") -> np.ndarray:
    """Cells [N] as float64, NaN for what is no number."""
    import pandas

    return np.asarray(pandas.to_numeric(cells, errors="coerce"), np.float64)


def _of_levels(cells, column, x):
    """Fill the features of a category."""
    known = cells.notna().to_numpy()
    place = {level: i for i, level in enumerate(column.levels)}
    lower = {level.lower(): i for level, i in place.items() if level.lower() in TRUTHS}
    at = np.array([place.get(str(c), lower.get(str(c).lower(), -1)) for c in cells])
    rows = np.flatnonzero(known & (at >= 0))
    x[rows, at[rows]] = 1
    unseen = known & (at < 0)
    if column.other:
        x[unseen, len(column.levels)] = 1
    if column.gap:
        x[~known, -1] = 1
    said = []
    if unseen.any():
        why = "rare or unseen" if column.other else "unseen"
        sentence = (
            f'{unseen.sum():,} of {len(cells):,} values of the column "{column.name}" '
            f"{why} in training, as {quoted(sorted(set(cells[unseen])))}: read as other"
        )
        said.append(("with unseen values", sentence))
    return said + _new_gaps(column, ~known)


def _of_numbers(cells, column, x):
    """Fill the features of numbers, or of a date."""
    gaps = cells.isna().to_numpy()
    if column.date:
        dates = parsed(cells, column.date)
        _expect(cells, gaps | ~np.isnat(dates), f"a date as {column.date}")
        values = parts(dates, column, len(column.medians) > 4)
    else:
        values = as_numbers(cells)[:, None]
        _expect(cells, gaps | ~np.isnan(values[:, 0]), "a number")
    values = np.where(gaps[:, None], np.array(column.medians or (0.0,)), values)
    right = (np.abs(values) <= LARGEST).all(1)
    _expect(cells, right, "finite numbers within float32's range")
    if column.ranks:
        values = _ranked(values, column.ranks)
    x[:, : values.shape[1]] = values
    if column.gap:
        x[:, -1] = gaps
    return _new_gaps(column, gaps)


def _new_gaps(column, gaps):
    count = int(gaps.sum())
    if column.gap or not count:
        return []
    as_what = "none of its levels" if column.category else "its median"
    sentence = (
        f'{count:,} gap{"s" * (count > 1)} in the column "{column.name}", '
        f"which had none in training: read as {as_what}"
    )
    return [("with gaps that had none in training", sentence)]


def _expect(cells, right, what):
    """Raise UsageError for the first cell that is of another type."""
    if not right.all():
        at = int(np.argmin(right))
        raise UsageError(
            f'expected {what} in the column "{cells.name}" of {path_of(cells)}, found '
            f'"{cells.iloc[at]}" in line {cells.index[at]}'
        )


def parsed(cells: "Series", form: str) -> np.ndarray:
    """Dates [N], datetime64 of seconds; NaT for gaps and for what is none."""
    import pandas

    if cells.dtype.kind != "M":
        # each way of writing once
        codes, distinct = pandas.factorize(cells)
        found = pandas.to_datetime(distinct, format=form, errors="coerce", utc=True)
        dates = found.tz_localize(None).to_numpy().astype("M8[s]")
        return np.append(dates, np.datetime64("NaT", "s"))[codes]
    return cells.to_numpy().astype("M8[s]")


def in_days(dates: np.ndarray) -> np.ndarray:
    """Dates, datetime64 of seconds, in days since 1970."""
    return dates.astype(np.int64) / 86_400


def parts(dates: np.ndarray, column: Column, hours: bool) -> np.ndarray:
    """Dates [N] as numbers: year, month, weekday, days since the first, or an hour."""
    gaps = np.isnat(dates)
    days = dates.astype("M8[D]")
    months = dates.astype("M8[M]").astype(np.int64)  # since 1970 began, a Thursday
    year, month = 1970 + months // 12, 1 + months % 12
    weekday = (days.astype(np.int64) + 3) % 7  # 0 is Monday
    since = in_days(dates) - column.first
    hour = (dates.astype(np.int64) - days.astype("M8[s]").astype(np.int64)) / 3600
    found = [year, month, weekday, since] + [hour] * hours
    return np.where(gaps[:, None], np.nan, np.stack(found, 1))


def _ranked(values, ranks):
    """Numbers [N, P] -> as of a normal distribution, by their quantiles in training."""
    from sklearn.preprocessing import QuantileTransformer

    quantiles = np.array(ranks).T
    made = QuantileTransformer(output_distribution="normal")
    made.n_quantiles_, made.n_features_in_ = quantiles.shape
    made.quantiles_, made.references_ = quantiles, np.linspace(0, 1, len(quantiles))
    return made.transform(values)


def check_complete(frame: "DataFrame", names: Sequence[str]) -> None:
    """Raises UsageError for missing values, naming each column."""
    missing = frame[list(names)].isna().to_numpy()
    found = []
    for at in np.flatnonzero(missing.any(0)).tolist():
        gaps = missing[:, at]
        line = frame.index[gaps.argmax()]
        found.append(f'"{names[at]}" ({gaps.sum()} missing, first in line {line})')
    if found:
        more = f" and {len(found) - 10} more" * (len(found) > 10)
        raise UsageError(
            f"expected a value in every cell of {path_of(frame)}, found gaps in the "
            f"column{'s' * (len(found) > 1)} {', '.join(found[:10])}{more}: fill them "
            "in or remove them, or let them be filled"
        )


def path_of(frame: "DataFrame | Series") -> str:
    """What messages call a table."""
    return frame.attrs.get("path", "the inputs")
