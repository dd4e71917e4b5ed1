"""Cells as people write them: 1.234,5 and 12 % and $1,200, yes and YES, many gaps.

A column of texts becomes numbers where every cell is one, whatever stands around it:
what is read otherwise than it is written is said.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # half a second to import: only where there is a table
    from pandas import DataFrame

# what stands where nothing is known, in any case; the errors are Excel's
MISSING = {"", "?", "na", "n/a", "#n/a", "<na>", "#na", "nan", "-nan", "null"}
MISSING |= {"#value!", "#div/0!", "#ref!", "#num!", "#name?", "#null!"}
# the same among numbers alone: elsewhere "-" may be a blood group, "none" an answer
NOTHING = {"-", "--", "---", ".", "..", "none", "n.a.", "n.d.", "nd", "missing"}
NOTHING |= {"unknown", "not available"}
TRUTHS = {"yes", "no", "true", "false", "y", "n", "t", "f", "on", "off"}
TRUTHS |= {"ja", "nein", "oui", "non"}
# before a number, or after it
SIGNS = r"(?:[$€£¥]|CHF|EUR|USD|GBP|JPY|SEK|NOK|DKK|PLN|CZK)"
GROUPS = " '\u00a0\u2009\u202f"  # beside the comma or the point, between thousands
UNITS = 4  # rows from which on the first may be one of units


def plain(
    frame: "DataFrame",
    texts: Sequence[str] = (),
    decimal: str = ".",
    notes: list[str] | None = None,
    gaps: Sequence[str] = (),
) -> "DataFrame":
    """The frame, its columns numbers, dates, or stripped texts with NaN for gaps.

    `decimal` is how numbers are written where it may be either; `notes` get sentences;
    `gaps` are texts, or numbers, that stand for a gap beside those that always do.
    """
    import pandas

    own, said = set(texts), [] if notes is None else notes
    nothing = MISSING | {text.lower() for text in gaps}
    marks = [float(text) for text in gaps if _is_float(text)]
    for i, (name, kind) in enumerate(zip(frame.columns, frame.dtypes, strict=True)):
        known = isinstance(kind, np.dtype) and kind.kind in "iufM" and name not in own
        if known and (kind.kind == "M" or not marks):
            continue
        column = frame.iloc[:, i]
        if kind.kind in "iuf" and name not in own:
            found = np.isin(column, marks)
            if found.any() or not known:  # or pandas' own, with gaps
                frame.isetitem(i, column.astype(float).mask(found))
            continue
        codes, distinct = pandas.factorize(column)  # a gap is -1, the last of these
        cells = np.array([*(str(cell).strip() for cell in distinct), np.nan], object)
        empty = np.array([str(cell).lower() in nothing for cell in cells])
        cells[empty] = np.nan
        values = cells
        if name not in own:
            values = _read(cells, empty, decimal, name, said)
        if values.dtype.kind == "f":
            values[np.isin(values, marks)] = np.nan
        column = pandas.Series(values[codes], frame.index, values.dtype)
        frame.isetitem(i, column)
    return frame


def _read(cells, gaps, decimal, name, said):
    """Distinct cells as numbers where all are, truths in one case; else as they are."""
    known = cells[~gaps]
    found = numbers(known, decimal)
    if found is not None:
        values = np.full(len(cells), np.nan)
        values[~gaps] = found
        at = next((i for i, c in enumerate(known) if not _is_plain(c)), None)
        if at is not None and not np.isnan(found[at]):
            number = f'"{known[at]}" as {found[at]:.10g}'
            said.append(f'read the column "{name}" as numbers, {number}')
        return values
    lower = {str(cell).lower() for cell in known}
    if len(lower) < len(known) and lower <= TRUTHS:
        said.append(f'read the column "{name}" in one case, as yes and YES are one')
        cells = cells.copy()
        cells[~gaps] = [str(cell).lower() for cell in known]
    return cells


def _is_plain(cell):
    return _is_float(cell) or str(cell).lower() in NOTHING


def _is_float(cell):
    try:
        float(cell)
    except ValueError:
        return False
    return True


def decimal_of(text: str, separator: str, given: str = "") -> str:
    """What begins a fraction in the cells of a table, "," or "."; "" if none tells.

    1.500 may be a thousand and a half where others have commas, and 1,500 in quotes
    where others have points: of such alone it is `given`.
    """
    start, mark = text[: 2**16], re.escape(separator)
    quote = '"' if separator == "," else '"?'
    number = rf"(?:^|{mark})[ ]*{quote}[-+]?(\d+,\d+){quote}[ ]*(?=\r?$|{mark})"
    commas = re.findall(number, start, re.M)
    number = rf'(?:^|{mark})[ ]*"?[-+]?(\d+\.\d+)"?[ ]*(?=\r?$|{mark})'
    points = re.findall(number, start, re.M)
    thousands = re.compile(r"\d{1,3}[.,]\d{3}")
    if not all(map(thousands.fullmatch, points)):
        return "."
    if not all(map(thousands.fullmatch, commas)):
        return ","
    return given or ("," if commas and separator == ";" else "")


def numbers(cells: np.ndarray, decimal: str = ".") -> np.ndarray | None:
    """Texts as float64, NaN for what stands for nothing; None unless all are numbers.

    One way of writing reads them all: with a point, or with a comma and points between
    thousands; all with a percent sign, which is left out, or none.
    """
    some = [cell for cell in cells if str(cell).lower() not in NOTHING]
    if not some:
        return None
    percent = some[0].endswith("%")
    for mark in (decimal, "," if decimal == "." else "."):
        pattern = _pattern(mark, percent)
        if all(map(pattern.fullmatch, some)):
            return np.array([_number(cell, mark) for cell in cells])
    return None


def _pattern(mark, percent):
    between = f"[{GROUPS}{',' if mark == '.' else '.'}]"
    body = rf"(?:\d{{1,3}}(?:{between}\d{{3}})+|\d+)(?:\{mark}\d*)?|\{mark}\d+"
    before = rf"(?:[-+−]?\s*{SIGNS}?|{SIGNS}\s*[-+−])\s*"
    after = rf"(?:[eE][-+]?\d+)?\s*{'%' if percent else SIGNS + '?'}"
    number = rf"{before}(?:{body}){after}"
    loss = rf"{SIGNS}?\s*\({SIGNS}?\s*(?:{body}){after}\)"  # as bookkeepers have it
    return re.compile(rf"{number}|{loss}")


def _number(cell, mark):
    if str(cell).lower() in NOTHING:
        return np.nan
    drop = rf"{SIGNS}|[{GROUPS}%(){',' if mark == '.' else '.'}\s]"
    plain = re.sub(drop, "", cell).replace(mark, ".").replace("−", "-")
    return -float(plain) if ")" in cell else float(plain)


def without_comments(text: str, notes: list[str]) -> str:
    """A table's text without the lines above its header that begin with #.

    They are empty instead, as lines are counted. A line of as many cells as the next is
    the header, as of genomes.
    """
    found = re.match(r"(?:#[^\n]*\n)+", text)
    if found is None:
        return text
    above, rest = found[0].splitlines(keepends=True), text[found.end() :]
    first = rest.partition("\n")[0]
    if any(above[-1].count(mark) == first.count(mark) > 0 for mark in ",;\t|"):
        rest = above.pop() + rest
    if above:
        notes.append(
            f"left out {len(above)} lines above the header, which begin with #"
        )
    return "\n" * len(above) + rest


def without_units(frame: "DataFrame", decimal: str, notes: list[str]) -> "DataFrame":
    """Without a first row that names the units of columns of numbers, which is said."""
    first = frame.iloc[0]
    kinds = zip(frame.columns, frame.dtypes, strict=True)
    words = [name for name, kind in kinds if kind.kind == "O"]
    others = first.drop(words)
    if len(frame) < UNITS or not words or not others.isna().all():
        return frame
    units = {}
    for name in words:
        cells = frame[name].iloc[1:]
        gaps = cells.isna().to_numpy()
        unit = isinstance(first[name], str) and numbers(np.array([first[name]])) is None
        found = numbers(cells[~gaps].to_numpy(), decimal) if unit else None
        if found is not None:
            units[name] = np.full(len(cells), np.nan)
            units[name][~gaps] = found
    if not units:
        return frame
    name = next(iter(units))
    notes.append(
        f"left out line {frame.index[0]}, as its cells are units "
        f'("{first[name]}" of "{name}")'
    )
    frame = frame.iloc[1:].copy()
    for name, values in units.items():
        frame[name] = values
    return frame
