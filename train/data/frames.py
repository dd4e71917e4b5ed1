"""Tables as they come: .csv, .tsv, .txt and .parquet, as pandas frames.

Nothing is learned or changed here but how the file is written: its compression,
encoding, separator and line numbers are found, or given. What is too large to hold, or
no table, is refused in a sentence before pandas sees it.
"""

import csv
import gzip
import io
import re
import sys
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from train.data.cells import (
    MISSING,
    decimal_of,
    plain,
    without_comments,
    without_units,
)
from train.data.formats import most, quoted
from zoo.base import UsageError

if TYPE_CHECKING:  # half a second to import: only where there is a table
    from pandas import DataFrame

SUFFIXES = (".csv", ".tsv", ".txt", ".parquet")
SEPARATORS = (",", ";", "\t", "|", " ")  # in the order in which they are tried
BYTES = 2**30  # of a table as text, unpacked
LINE = 2**24  # bytes of a line
COLUMNS = 100_000
BLOCK = 2**20  # bytes read at a time


def is_table(path: str | Path) -> bool:
    """Whether a path is that of a table by its name; "-" is standard input."""
    name = str(path).lower().removesuffix(".gz")
    return name == "-" or name.endswith(SUFFIXES)


def read_frame(
    path: str | Path,
    *,
    separator: str | None = None,
    encoding: str | None = None,
    texts: Sequence[str] = (),
    gaps: Sequence[str] = (),
    decimal: str = "",
) -> "DataFrame":
    """The table of a file, or of standard input for "-", with a header row.

    A column of numbers is float64 or int64, any other text (object), stripped; those
    named in `texts` are text whatever they hold, as "007". A gap, or what `gaps` say
    stands for one, is NaN in both, dates of a .parquet are datetime64. 1,500 is read by
    other cells of the table, as 2,5 or 2.5, else by `decimal`. The frame's index has
    the line of each row, its attrs "path", "decimal", "" where no cell tells, and, in
    "notes", sentences of what was found and left out. A .gz file, or standard input, is
    unpacked. UTF-8 and UTF-16 with their marks, else UTF-8, else Windows' cp1252,
    unless an encoding is given; commas, semicolons, tabs, bars or spaces between
    columns, whichever gives each line as many. Raises UsageError.
    """
    name = "standard input" if str(path) == "-" else str(path)
    if name.lower().endswith(".parquet"):
        return _read_parquet(Path(path), texts, gaps)
    notes: list[str] = []
    text = _decoded(_unpacked(path, name), encoding, name, notes)
    text = without_comments(text, notes)
    separator = _separator(text, separator, name)
    header, lines = _checked(text, separator, name, notes)
    told = decimal_of(text, separator, decimal)
    decimal = told or "."
    frame = _parsed(text, separator, decimal, header, texts)
    frame = plain(frame, texts, decimal, notes, gaps)
    if len(frame) != len(lines):
        raise UsageError(
            f"expected {len(lines)} rows in {name}, as its lines say, found "
            f"{len(frame)}: are its quotes in pairs?"
        )
    frame.index = np.frombuffer(lines, np.int64)
    frame = without_units(frame, decimal, notes)
    frame.attrs = {"path": name, "notes": notes, "decimal": told}
    return _without_index(frame)


# Bytes --------------------------------------------------------------------------------


def _unpacked(path, name) -> bytes:
    """All of a file, unpacked; no line and no file larger than can be held."""
    parts, size, line = [], 0, 0
    try:
        if str(path) != "-" and not Path(path).exists():
            raise UsageError(f"expected a table, found no file at {path}")
        largest = BYTES if str(path) == "-" else most(Path(path).stat().st_size)
        limits = {"a line": LINE, "a table": min(BYTES, largest)}
        for block in _blocks(path):
            size += len(block)
            first, last = block.find(b"\n"), block.rfind(b"\n")
            line += len(block) if first < 0 else first
            if line > LINE or size > limits["a table"]:
                unit = "a line" if line > LINE else "a table"
                most_of = f"at most {limits[unit] / 2**20:,.0f} MiB in {name}"
                raise UsageError(f"expected {unit} of {most_of}, found a longer one")
            line = line if first < 0 else len(block) - last - 1
            parts.append(block)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"expected a table, found {name} ({error})") from None
    return b"".join(parts)


def _blocks(path) -> Iterator[bytes]:
    """A file in blocks, unpacked if it is gzip's, whatever its name says."""
    if str(path) == "-":
        yield from _read(sys.stdin.buffer)
        return
    with Path(path).open("rb", BLOCK) as file:
        yield from _read(file)


def _read(file) -> Iterator[bytes]:
    packed = file.peek(2)[:2] == b"\x1f\x8b"
    source = gzip.GzipFile(fileobj=file) if packed else file
    while block := source.read(BLOCK):
        yield block


def _decoded(raw: bytes, encoding, name, notes) -> str:
    """Bytes as text."""
    marks = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    marked = next((code for mark, code in marks.items() if raw.startswith(mark)), None)
    tried = (encoding,) if encoding else (marked,) if marked else ("utf-8", "cp1252")
    for code in tried:
        try:
            text = raw.decode(code)
        except LookupError:
            raise UsageError(
                f'expected the name of an encoding, found "{code}"'
            ) from None
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            break
        if code == "cp1252":
            notes.append("read as cp1252, as it is no UTF-8")
        return text
    raise UsageError(
        f"expected a table of text in {' or '.join(tried)}, found other bytes in "
        f"{name}: name its encoding, unless it is no text"
    )


# Text ---------------------------------------------------------------------------------


def _reader(text, separator):
    spaces = separator != " "  # else two in a row have an empty cell between them
    return csv.reader(
        io.StringIO(text, newline=""),
        delimiter=separator,
        skipinitialspace=spaces,
        strict=True,
    )


def _separator(text, given, name) -> str:
    """What stands between columns: of the candidates, that which all lines agree on."""
    if given is not None:
        given = {"tab": "\t", "\\t": "\t", "space": " "}.get(given, given)
        if len(given) != 1 or given in '"\r\n':
            raise UsageError(
                f'expected one character between columns, or tab, found "{given}"'
            )
        return given
    start = text[: 2**16] if "\n" in text[: 2**16] else text[: LINE + 1]
    if len(text) > len(start):  # but for the line that is cut, unless it is the first
        start = start[: start.rfind("\n") + 1] or start
    for separator in SEPARATORS:
        try:
            rows = [len(row) for row in _reader(start, separator) if row][:100]
        except csv.Error:
            continue
        if rows and len(set(rows)) == 1 and rows[0] > 1:
            return separator
        # R names its rows and not their column: the header is one shorter
        if rows[1:] and len(set(rows[1:])) == 1 and rows[0] + 1 == rows[1] > 2:
            return separator
    return "\t" if name.lower().removesuffix(".gz").endswith(".tsv") else ","


def _checked(text, separator, name, notes) -> tuple[list[str], array]:
    """The columns' names and the line of each row, all as wide as the header."""
    lines, header, first, wrong, blank = array("q"), None, 0, None, 0
    reader = _reader(text, separator)
    try:
        for row in reader:
            if not row or (len(row) == 1 and not row[0].strip()):
                continue
            if header is None:
                header, first = [cell.strip() for cell in row], reader.line_num
                _check_width(len(header), name)
                filled = [i for i, cell in enumerate(header) if cell]
                blank = len(header) - 1 - max(filled, default=-1)
                continue
            if not lines and len(row) == len(header) + 1 and row[-1].strip():
                header.insert(0, "")  # R names its rows and not their column
            if len(row) != len(header) and wrong is None:
                wrong = reader.line_num, len(row)
            blank = 0 if any(row[len(row) - blank :]) else blank
            lines.append(reader.line_num)
    except csv.Error as error:
        raise UsageError(
            f"expected a table, found {name} ({error} in line {reader.line_num})"
        ) from None
    if header is None or not lines:
        raise UsageError(
            f"expected a header and at least one row in {name}, found "
            f"{int(header is not None)} lines"
        )
    named = header[: len(header) - blank]
    _check_header(named, first, name)
    if wrong is not None:
        raise UsageError(
            f"expected {len(header)} values in line {wrong[0]} of {name}, as in its "
            f"header, found {wrong[1]}"
            + ": is there a line above the header?"
            * (len(header) < wrong[1])
        )
    if blank:
        notes.append(f"left out {blank} columns at the end, without a name or a value")
    return named, lines


def _check_width(count, name):
    if count > COLUMNS:
        raise UsageError(
            f"expected at most {COLUMNS:,} columns in {name}, found {count:,}"
        )


def _check_header(header, line, name):
    """Raise UsageError for what names no columns; the first may have no name."""
    number = re.compile(r"[-+.\d]+(e[-+]?\d+)?", re.I)
    values = all(number.fullmatch(cell) for cell in header if cell)
    if values or not all(header[1:]):
        raise UsageError(
            f"expected line {line} of {name} to name every column, found "
            f"{quoted(header)}: is it a line above the header?"
        )
    if len(set(header)) < len(header):
        twice = sorted(cell for cell, n in Counter(header).items() if n > 1)
        raise UsageError(f"expected distinct columns in {name}, found {twice} twice")


def _parsed(text, separator, decimal, header, texts) -> "DataFrame":
    """The frame of a table that is one; columns are numbers where all cells are."""
    import pandas

    cased = {v for word in MISSING for v in (word, word.upper(), word.capitalize())}
    frame = pandas.read_csv(
        io.StringIO(text),
        sep=separator,
        header=0,
        names=header,
        index_col=False,
        usecols=range(len(header)),
        skipinitialspace=separator != " ",
        dtype=dict.fromkeys(set(texts) & set(header), object),
        na_values=[*cased, "NaN", "-NaN"],
        keep_default_na=False,
        decimal=decimal,
        low_memory=False,
    )
    # TRUE and True are texts, which pandas reads as one
    truths = [
        name
        for name, kind in zip(header, frame.dtypes, strict=True)
        if isinstance(kind, np.dtype) and kind.kind in "bO"
        if any(isinstance(cell, bool) for cell in frame[name])
    ]
    if truths:
        return _parsed(text, separator, decimal, header, [*texts, *truths])
    return frame.copy()  # side by side in memory, not each column by itself


def _without_index(frame) -> "DataFrame":
    """Without the column that numbers or names the rows, where it has no name."""
    name = str(frame.columns[0])
    if name and not re.fullmatch(r"Unnamed: 0(\.\d+)*", name):
        return frame
    attrs = frame.attrs
    attrs["notes"].append("left out the first column, an index without a name")
    return frame.iloc[:, 1:]


# .parquet -----------------------------------------------------------------------------


def _read_parquet(path, texts, gaps) -> "DataFrame":
    """A .parquet file, whose columns have types of their own."""
    import pandas

    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UsageError(
            f'expected pyarrow to read {path}: pip install "purezoo[parquet]"'
        ) from None
    try:
        about = parquet.read_metadata(path)
        size = sum(
            about.row_group(i).total_byte_size for i in range(about.num_row_groups)
        )
        _check_width(about.num_columns, path)
        if size > BYTES:
            raise UsageError(
                f"expected a table of at most {BYTES / 2**20:,.0f} MiB in {path}, "
                f"found {size / 2**20:,.0f}"
            )
        frame = pandas.read_parquet(path).reset_index(drop=True)
    except (OSError, ArrowException, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"expected a .parquet file, found {path} ({error})") from None
    if not frame.size:
        raise UsageError(
            f"expected at least one row in {path}, found shape {frame.shape}"
        )
    frame.columns = [str(name) for name in frame.columns]
    for name in set(texts) & set(frame.columns):
        frame[name] = frame[name].astype("string")
    frame = plain(frame, gaps=gaps)
    frame.index += 1
    frame.attrs = {"path": str(path), "notes": []}
    return _without_index(frame)
