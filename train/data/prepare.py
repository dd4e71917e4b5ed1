"""What is learned of a table's training part, by scikit-learn's transformers.

Which columns are numbers, dates, categories or names; the medians that fill gaps, the
levels that are not rare, the quantiles of ranks.
"""

import inspect
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np

from train.data.columns import (
    Column,
    Columns,
    as_numbers,
    blocks,
    in_days,
    parsed,
    parts,
    path_of,
    shortened,
)
from train.data.formats import quoted
from zoo.base import UsageError, nearest

if TYPE_CHECKING:  # half a second to import: only where there is a table
    from pandas import DataFrame, Series

View = TypeVar("View", bound=Callable[..., Any])
Missing = Literal["fill", "refuse", "drop"]
Scale = Literal["standard", "robust", "rank"]
Dates = Literal["month-first", "day-first"]

FEW = 20  # up to so many distinct values a column of texts is a category
MANY = 100  # levels of a category at most, that of all others among them
QUANTILES = 100  # that a rank is read between
RANKED = 20_000  # columns at most: their quantiles are kept with the model
NINES = [10.0**digits - 1 for digits in range(2, 10)]  # that often mark a gap
FAR = 5  # from the others, in ranges of their middle half


class Wishes(NamedTuple):
    """How data of the user's own are to be read and prepared; each field is a flag."""

    drop: str | None = None  # columns to leave out: "a,b"
    keep: str | None = None  # the only ones to learn from
    category: str | None = None  # columns whose numbers are names
    id: str | None = None  # the column that says which row it is
    missing: Missing = "fill"
    gap: str | None = None  # cells that stand for a gap: "-999,unknown"
    scale: Scale = "standard"
    separator: str | None = None
    encoding: str | None = None
    dates: Dates | None = None  # of 01/02/2020, where no row says it
    size: int | None = None  # of pictures, as `train.data.pictures.Look` has it
    grey: bool = False

    @property
    def gaps(self) -> tuple[str, ...]:
        """What stands for a gap."""
        return tuple(filter(None, map(str.strip, (self.gap or "").split(","))))


def tabular(*without: str) -> Callable[[View], View]:
    """Adds to a view's keywords how a table is read: the fields of `Wishes`, or most.

    A view takes them as `**wishes`; tools that make flags of its signature see each.
    """
    kind = inspect.Parameter.KEYWORD_ONLY

    def extend(view: View) -> View:
        own = inspect.signature(view)
        hints, defaults = Wishes.__annotations__, Wishes._field_defaults
        named = [p for p in own.parameters.values() if p.kind != p.VAR_KEYWORD]
        named += [
            inspect.Parameter(
                name, kind, default=defaults[name], annotation=hints[name]
            )
            for name in Wishes._fields
            if name not in without
        ]
        view.__signature__ = own.replace(parameters=named)  # type: ignore[attr-defined]
        return view

    return extend


def listed(text: str | None, names: Sequence[str], flag: str) -> list[str]:
    """The columns that "a,b" names. Raises UsageError for what is none."""
    if text is None:
        return []
    found = [text] if text in names else [part.strip() for part in text.split(",")]
    for name in found:
        if name not in names:
            raise UsageError(
                f'expected columns for {flag}, of {quoted(names)}, found "{name}"'
                + nearest(name, names)
            )
    return found


def learn(
    frame: "DataFrame", wishes: Wishes, named: Sequence[str] = ()
) -> tuple[Columns, list[str]]:
    """Columns of the training rows; sentences of what was left out and filled.

    `named` are categories whatever they hold. Raises UsageError for a column of two
    types, and where none is left.
    """
    columns, said = [], []
    measured = _side_by_side(frame, wishes, set(frame.columns) - set(named))
    for name in frame.columns:
        one = measured.get(name) or _one(frame[name], wishes, named)
        column, gaps, why, doubt = one
        if why:
            said.append(("left out", f'left out the column "{name}": {why}'))
            continue
        columns.append(column)
        said += [("with what may mark gaps", doubt)] * bool(doubt)
        if gaps:
            said.append(("with gaps, filled alike", _filled(column, gaps)))
        if column.date:
            doubt = dates_of(frame[name], wishes.dates)[1]
            said += [("with dates in doubt", doubt)] * bool(doubt)
        if column.other:
            count = frame[name].nunique() - len(column.levels)
            sentence = f'{count:,} rare levels of the column "{name}" are one, other'
            said.append(("with rare levels", sentence))
    notes = shortened(said)
    if not columns:
        raise UsageError(
            f"expected a column to learn from in {path_of(frame)}, found "
            + ("; ".join(notes) or "none")
        )
    return tuple(columns), notes


def _side_by_side(frame, wishes, names):
    """(column, gaps, why it is left out, doubt) of each column of numbers, by name."""
    if wishes.scale == "rank" and len(names) > RANKED:
        raise UsageError(
            f"expected at most {RANKED:,} columns to rank, found {len(names):,} in "
            f"{path_of(frame)}: another --scale takes more"
        )
    found = {}
    for block in blocks(frame, names):
        values = frame[block].to_numpy(np.float64)
        gaps = np.isnan(values).sum(0)
        some = np.flatnonzero(gaps < len(values))
        medians, ranks = _statistics(values[:, some], wishes)
        low, high = (f.reduce(values[:, some]) for f in (np.fmin, np.fmax))
        marks = np.isin(np.abs(low), NINES) | np.isin(np.abs(high), NINES)
        each = zip(some, medians.tolist(), ranks, low == high, marks, strict=True)
        for i, median, own, alike, mark in each:
            name, gap = block[i], int(gaps[i])
            column = Column(name, gap=gap > 0, strict=wishes.missing != "fill")
            column = column._replace(medians=(median,), ranks=own)
            why = _alone(len(values), gap, alike, f"{median:.6g}")
            doubt = doubt_of(name, values[:, i]) if mark else ""
            found[name] = column, gap, why, doubt
    return found


def _alone(count, gaps, alike, value):
    """Why a column of one value is left out; "" for another, or of one row."""
    same = alike and not gaps and count > 1
    return f"all of its {count:,} values are {value}" if same else ""


def doubt_of(name: str, values: np.ndarray) -> str:
    """A warning of a number that may mark gaps in a column of numbers [N]; "" for none.

    It is written in nines, as -999, occurs again, and is the least or the most by far.
    """
    for end in (np.nanmin(values), np.nanmax(values)):
        count = int((values == end).sum())
        rest = values[~np.isnan(values) & (values != end)]
        few = count < min(3, max(2, len(values) / 100))
        if few or abs(end) not in NINES or not len(rest):
            continue
        low, least, most, high = np.quantile(rest, (0, 0.25, 0.75, 1))
        if max(least - end, end - most) > FAR * ((most - least) or (high - low)):
            return (
                f'warning: the column "{name}" has {end:.0f} in {count:,} rows, far '
                f"from all else: --gap={end:.0f} reads it as a gap"
            )
    return ""


def _one(cells, wishes, named):
    """(column, gaps, why it is left out, "") of any other column."""
    kind = "levels" if cells.name in named else _kind(cells)
    gaps, distinct = int(cells.isna().sum()), cells.nunique()
    why = _alone(len(cells), gaps, distinct == 1, quoted(cells[:1].tolist()))
    if kind == "empty":
        why = "it has no values"
    if kind == "names":
        why = f"{distinct:,} of its {len(cells) - gaps:,} values are distinct"
    if why:
        return None, gaps, why, ""
    make = {"levels": _levels, "numbers": _numbers, "dates": _dates}[kind]
    return make(str(cells.name), cells, wishes), gaps, "", ""


def _filled(column, gaps):
    values = ", ".join(f"{value:.6g}" for value in column.medians)
    how = "a level of their own" if column.category else f"filled with {values}"
    return f'{gaps:,} gap{"s" * (gaps > 1)} in the column "{column.name}": {how}'


def _kind(cells: "Series") -> str:
    """ "empty", "numbers", "dates", "levels", or "names" of which few occur twice."""
    if cells.isna().all():
        return "empty"
    if cells.dtype.kind != "O":
        return "dates" if cells.dtype.kind == "M" else "numbers"
    known = cells[cells.notna()]
    distinct = known.unique()
    values = as_numbers(distinct)
    if not np.isnan(values).any():
        return "numbers"
    if _form(distinct):
        return "dates"
    slips = known.isin(distinct[np.isnan(values)])
    # numbers with slips of the pen; more texts than a tenth are meant
    if len(distinct) > FEW and slips.mean() <= 0.1:
        line, cell = next(iter(known[slips].items()))
        raise UsageError(
            f'expected numbers or categories in the column "{cells.name}" of '
            f"{path_of(cells)}, found {len(distinct)} distinct values, all but "
            f'{slips.sum()} numbers ("{cell}" in line {line}): correct it, leave the '
            "column out, or name it a category"
        )
    names = len(distinct) > FEW and len(distinct) > len(known) / 2
    return "names" if names else "levels"


def dates_of(cells: "Series", dates: Dates | None = None) -> tuple[str, str]:
    """How a column is written as dates; a sentence where the month may be the day.

    The first is "" for what no one way reads.
    """
    if cells.dtype.kind == "M":
        return "ISO8601", ""
    distinct = cells[cells.notna()].unique()
    form = _form(distinct, dates) if len(distinct) else ""
    both = "%m" in form and "%d" in form and not form.startswith("%Y")
    other = form.replace("%m", "%_").replace("%d", "%m").replace("%_", "%d")
    dotted = form.startswith("%d.%m.")  # nobody has the month first there
    if dates or not both or dotted or not _fits(distinct, other):
        return form, ""
    first, then = ("month", "day")[:: 1 if form.index("%m") < form.index("%d") else -1]
    return form, (
        f'warning: the dates of the column "{cells.name}", as "{distinct[0]}", are '
        f"read with the {first} first: --dates {then}-first reads them otherwise, and "
        "2020-02-01 is never in doubt"
    )


def _fits(distinct, form):
    import pandas

    found = pandas.to_datetime(distinct, format=form, errors="coerce", utc=True)
    return bool(found.notna().all())


def _form(distinct, dates=None) -> str:
    """How all of some texts are written as dates, as strptime has it; "" if not."""
    from pandas.tseries.api import guess_datetime_format

    dotted = dates is None and re.match(r"\d{1,2}\.\d{1,2}\.", str(distinct[0]))
    first = bool(dates == "day-first" or dotted)
    for dayfirst in (first, not first):
        form = guess_datetime_format(distinct[0], dayfirst=dayfirst)
        if dayfirst and form and form.startswith("%Y"):
            continue  # where the year is first, the month is next
        for one in (form, "ISO8601") if form and "%Y-%m-%d" in form else (form,):
            if not one or not ("%Y" in one or "%y" in one or one == "ISO8601"):
                continue
            if _fits(distinct, one):
                return one
    return ""


def _levels(name, cells, wishes) -> Column:
    from sklearn.preprocessing import OneHotEncoder

    known = cells[cells.notna()].astype(str).to_numpy(object)
    rare = min(10, -(-len(known) // 200))  # one in 200, in a table of thousands ten
    encoder = OneHotEncoder(
        min_frequency=rare, max_categories=MANY, handle_unknown="infrequent_if_exist"
    ).fit(known[:, None])
    levels, pooled = encoder.categories_[0], encoder.infrequent_categories_[0]
    kept = levels if pooled is None else np.setdiff1d(levels, pooled)
    gap = len(known) < len(cells)
    strict = wishes.missing != "fill"
    return Column(name, tuple(kept), pooled is not None, gap, strict)


def _numbers(name, cells, wishes) -> Column:
    values = as_numbers(cells)[:, None]
    return _measured(Column(name), values, wishes)


def _dates(name, cells, wishes) -> Column:
    form, _ = dates_of(cells, wishes.dates)
    dates = parsed(cells, form)
    real = dates[~np.isnat(dates)]
    hours = bool((real != real.astype("M8[D]")).any())
    column = Column(name, date=form, first=float(in_days(real).min()))
    return _measured(column, parts(dates, column, hours), wishes)


def _measured(column, values, wishes) -> Column:
    """What is learned of numbers [N, P], NaN for gaps."""
    medians, ranks = _statistics(values, wishes)
    return column._replace(
        gap=bool(np.isnan(values).any()),
        strict=wishes.missing != "fill",
        medians=tuple(medians.tolist()),
        ranks=tuple(rank for each in ranks for rank in each),
    )


def _statistics(values, wishes):
    """The medians [P] of numbers [N, P], NaN for gaps; of each its quantiles, or ()."""
    gaps = np.isnan(values)
    some = gaps.any(0)
    medians = np.median(values, 0)
    medians[some] = np.nanmedian(values[:, some], 0)
    if wishes.scale != "rank":
        return medians, [()] * len(medians)
    from sklearn.preprocessing import QuantileTransformer

    count = min(QUANTILES, len(values))
    made = QuantileTransformer(n_quantiles=count, subsample=None)
    found = made.fit(np.where(gaps, medians, values))
    return medians, [(tuple(ranks),) for ranks in found.quantiles_.T.tolist()]
