"""Data sets by their names, or of the user's own files: parted, standardised, checked.

Everything here is numpy, on the host.
Shapes: N examples, D features, L length, H height, W width, C channels.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from train.data.builtin import NAMES, PUBLISHED, SERIES
from train.data.columns import Columns, encode, numeric
from train.data.formats import quoted
from train.data.frames import is_table
from train.data.graphs import GRAPHS
from train.data.labelled import LABELLED
from train.data.pairs import PAIRS
from train.data.parts import split
from train.data.pictures import Look, lists_pictures, read_folder, read_listed
from train.data.prepare import Wishes, learn, listed
from train.data.ratings import RATINGS
from train.data.scenes import SCENES
from train.data.schema import (
    Arrays,
    Data,
    Each,
    Schema,
    Split,
    change,
    given,
    moments,
    request,
    standardize,
    within,
)
from train.data.speech import SPEECH
from train.data.tables import PLAIN, Kind, Rows, read_npz, read_own, rows_of
from train.data.text import TEXTS
from train.data.triples import TRIPLES
from zoo.base import UsageError, nearest

TWICE = 0.05  # share of the test rows that may be training rows, and nothing is said
LISTED = ("target", "separator", "encoding", *Look._fields)  # of a table of pictures


def schema_of(name: str) -> Schema:
    """A built-in data set's schema, without a download: mean 0, scale 1 instead."""
    if name not in PUBLISHED:
        return load(name).schema
    shape, classes = PUBLISHED[name]
    channels = shape[-1]
    return Schema(name, shape, classes, (0.0,) * channels, (1.0,) * channels)


def load(
    source: str | os.PathLike[str] | Data | Split,
    *,
    target: str | None = None,
    kind: Kind | None = None,
    holdout: float | None = None,
    several: bool = False,
    **wishes: Any,
) -> Data:
    """A data set by its name in NAMES or its path (.npz, a table); a `Data` as it is.

    A path may be a folder of pictures, a folder for each class, or a .csv that lists
    them.

    A `Split` names one of these, and parts its rows before anything is made of them.

    A table is a .csv, .tsv, .txt or .parquet, the former also .gz, or "-" for standard
    input; `wishes`, the fields of `train.data.prepare.Wishes`, say how it is read.
    `target` is its column to predict. `kind` decides where numbers may be
    classes or a quantity. `holdout` is the fraction of the rows that becomes the test
    part, where the data set has none of its own: 0.2 unless given (but a truth table
    is all for training), 0 for none. `several` allows y [N, T], of columns "a,b" or
    of a file: labels where all are 0 or 1, else quantities. Raises UsageError.
    """
    wanted = request(source)
    if isinstance(wanted.source, Data):
        return given(wanted.source, wanted)
    name = os.fspath(wanted.source)
    if kind not in (None, "classes", "regression"):
        raise UsageError(f'expected the kind "classes" or "regression", found "{kind}"')
    asked = Wishes(**wishes)
    rows = read_rows(name, target, kind, asked)
    if rows.targets and not several:
        raise UsageError(
            f"expected one target, found {quoted(rows.targets)}: try mlp, or linear"
        )
    return from_rows(rows, wanted, holdout, asked)


def from_rows(
    rows: Rows, wanted: Split, holdout: float | None = None, wishes: Wishes = PLAIN
) -> Data:
    """Rows parted, then standardised by those to train on. Raises UsageError."""
    name = os.fspath(wanted.source)  # type: ignore[arg-type]
    if holdout is not None and not 0 <= holdout < 1:
        raise UsageError(f"expected a holdout of at least 0, below 1, found {holdout}")
    parts = _parted(name, rows, wanted, holdout)
    columns, notes = _prepare(rows, parts, wishes)
    train, test, watched = parts
    center, unit = moments(_real(train))
    if wishes.scale == "robust":
        _robust(train["x"], numeric(columns), center, unit)
    mean, scale = tuple(center.tolist()), tuple(unit.tolist())
    if rows.plain:
        mean, scale = (0.0,) * len(mean), (1.0,) * len(scale)
    target: tuple[Each, Each] = (0.0, 1.0)
    if not rows.classes:
        each = moments(train["y"].reshape(len(train["y"]), -1))
        middle, width = (tuple(v.tolist()) for v in each)
        target = (middle, width) if rows.targets else (middle[0], width[0])
    schema = Schema(
        name,
        train["x"].shape[1:],
        rows.classes,
        mean,
        scale,
        target,
        columns,
        rows.target_name,
        target_shape=rows.y.shape[1:],
        lengths=bool(rows.lengths),
        rows=len(train["x"]),
        separator=wishes.separator or "",
        encoding=wishes.encoding or "",
        decimal="" if rows.frame is None else rows.frame.attrs.get("decimal", ""),
        gaps=wishes.gaps,
        id=wishes.id or "",
        notes=notes,
        targets=rows.targets,
    )
    data = Data(schema, train, test, watched)
    return change(data, lambda part: preprocess(schema, part))


def _prepare(rows, parts, wishes) -> tuple[Columns, tuple[str, ...]]:
    """Fill in x of the parts of a table by what is learned of the first, training."""
    if rows.frame is None:
        return rows.columns, rows.notes
    names = [str(name) for name in rows.frame.columns]
    own = rows.targets or [rows.target_name]
    named = listed(wishes.category, [*names, *own], "--category")
    frames = [part and rows.frame.iloc[part["x"][:, 0]] for part in parts]
    columns, notes = learn(frames[0], wishes, named)
    for part, frame, what in zip(parts, frames, ("", "test", "watched"), strict=True):
        if part is not None:
            part["x"], said = encode(frame, columns)
            notes += [f"of the {what} part, {each}" for each in said if what]
    return columns, (*rows.notes, *notes, *_twice(parts[0], parts[1]))


def _twice(train, test):
    """A sentence where many test rows are those of training, cell for cell."""
    if test is None:
        return []
    known, found = (
        [hash((x.tobytes(), y.tobytes())) for x, y in zip(*own, strict=True)]
        for own in ((part["x"], part["y"]) for part in (train, test))
    )
    seen = set(known)
    count = sum(row in seen for row in found)
    if count < TWICE * len(found):
        return []
    return [
        f"of the test part, {count:,} of {len(found):,} rows stand in the training "
        "part, too, cell for cell: their scores say little of new rows"
    ]


def _robust(x, numbers, center, unit):
    """Put the median and the range of the middle half in place of numbers' moments."""
    from sklearn.preprocessing import RobustScaler  # a second to import

    if numbers.any():
        found = RobustScaler().fit(x[:, numbers])
        center[numbers], unit[numbers] = found.center_, found.scale_


def _parted(name, rows, wanted, holdout):
    """Training, test and watched rows, parted before anything is made of them."""
    train, test = {"x": rows.x, "y": rows.y}, None
    if rows.test is not None:
        if holdout:
            raise UsageError(
                f"expected no holdout for {name}, which has a test part of its own, "
                f"found {holdout}"
            )
        test = {"x": rows.test[0], "y": rows.test[1]}
    for part, length in zip((train, test), rows.lengths, strict=False):
        part["length"] = length  # type: ignore[index]
    fraction = (0.0 if rows.plain else 0.2) if holdout is None else holdout
    if test is None and fraction:
        train, test = split(train, fraction, wanted.seed, rows.classes)
    watched = None
    if wanted.watched:
        train, watched = split(train, wanted.watched, wanted.seed, rows.classes)
    return train, test, watched


def own(source: Any) -> bool:
    """Whether a source is a file, or a folder, of the user's, or standard input."""
    if not isinstance(source, str | os.PathLike):
        return False
    made = (*NAMES, *TEXTS, *PAIRS, *GRAPHS, *TRIPLES, *RATINGS, *SPEECH, *SCENES)
    made = (*made, *SERIES, *LABELLED)
    return source not in made and (source == "-" or Path(source).exists())


def absolute(source: str) -> str:
    """A source, whose path, where it is a user's file, does not depend on the cwd."""
    there = own(source) and source != "-"
    return str(Path(source).resolve()) if there else source


def read_rows(
    name: str, target: str | None, kind: Kind | None, wishes: Wishes = PLAIN
) -> Rows:
    """The rows of a data set by its name or path. Raises UsageError."""
    path = Path(name)
    builtin = name in NAMES
    table = not builtin and is_table(name)
    folder = not builtin and path.is_dir()
    here = name == "-" or path.is_file()
    frame = read_own(name, wishes) if table and here else None
    listed = frame is not None and target is not None and lists_pictures(frame)
    given = {"target": target, **wishes._asdict()}
    plain = {"target": None, **PLAIN._asdict()}
    for flag in [k for k in given if given[k] != plain[k]]:
        if flag in Look._fields and not (folder or listed):
            raise UsageError(f"expected pictures for --size and --grey, found {name}")
        if table and (not listed or flag in LISTED):
            continue
        if folder and flag in Look._fields:
            continue
        raise UsageError(
            f'expected a table, as a .csv file, with the {flag} "{given[flag]}", found '
            f"{name}"
        )
    look = Look(wishes.size, wishes.grey)
    if folder:
        return read_folder(path, look, kind)
    if listed:
        return read_listed(frame, path, str(target), look, kind)
    if builtin:
        rows = NAMES[name]()
        found = "classes" if rows.classes else "regression"
        if kind not in (None, found):
            raise UsageError(f"expected the kind {found} for {name}, found {kind}")
        return rows
    if not here:
        if path.suffix or path.name != name:
            raise UsageError(f"expected a data file, found no file at {name}")
        raise UsageError(
            f"expected a file or one of the data sets {', '.join(NAMES)}, found "
            f'"{name}"' + nearest(name, list(NAMES))
        )
    if frame is not None:
        return rows_of(frame, target, kind, wishes)
    if path.suffix.lower() == ".npz":
        return read_npz(path, kind)
    raise UsageError(f"expected a data file .npz or .csv, found {name}")


def preprocess(schema: Schema, arrays: Arrays) -> Arrays:
    """Rows in their own units -> what a model trains on."""
    mean, scale = map(np.asarray, schema.target)
    if schema.regression:
        y = ((arrays["y"] - mean) / scale).astype(np.float32)
    else:
        y = arrays["y"].astype(np.int32)
    x = standardize(schema, arrays["x"])
    if "length" not in arrays:
        return {"x": x, "y": y}
    length = arrays["length"]
    return {"x": np.where(within(x, length), x, 0), "y": y, "length": length}


def _real(arrays):
    """x without padding, its entries end to end."""
    x = arrays["x"]
    return x[within(x, arrays["length"])[..., 0]] if "length" in arrays else x
