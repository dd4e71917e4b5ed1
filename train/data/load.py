"""Data sets by their names, or of the user's own files: parted, standardised, checked.

Everything here is numpy, on the host.
Shapes: N examples, D features, L length, H height, W width, C channels.
"""

import os
from pathlib import Path

import numpy as np

from train.data.builtin import NAMES, PUBLISHED, SERIES
from train.data.graphs import GRAPHS
from train.data.labelled import LABELLED
from train.data.pairs import PAIRS
from train.data.parts import split
from train.data.pictures import LOOK, Look, lists_pictures, read_folder, read_listed
from train.data.ratings import RATINGS
from train.data.scenes import SCENES
from train.data.schema import (
    Arrays,
    Data,
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
from train.data.tables import Kind, Rows, read_csv, read_npz
from train.data.text import TEXTS
from train.data.triples import TRIPLES
from zoo.base import UsageError, nearest


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
    look: Look = LOOK,
) -> Data:
    """A data set by its name in NAMES or its path (.npz, .csv); a `Data` as it is.

    A path may be a folder of pictures, a folder for each class, or a .csv that lists
    them; `look` says how they are to be seen.

    A `Split` names one of these, and parts its rows before anything is made of them.

    `target` is the column of a .csv to predict. `kind` decides where numbers may be
    classes or a quantity. `holdout` is the fraction of the rows that becomes the test
    part, where the data set has none of its own: 0.2 unless given (but a truth table
    is all for training), 0 for none. Raises UsageError.
    """
    wanted = request(source)
    if isinstance(wanted.source, Data):
        return given(wanted.source, wanted)
    name = os.fspath(wanted.source)
    if kind not in (None, "classes", "regression"):
        raise UsageError(f'expected the kind "classes" or "regression", found "{kind}"')
    return from_rows(read_rows(name, target, kind, look), wanted, holdout)


def from_rows(rows: Rows, wanted: Split, holdout: float | None = None) -> Data:
    """Rows parted, then standardised by those to train on. Raises UsageError."""
    name = os.fspath(wanted.source)  # type: ignore[arg-type]
    if holdout is not None and not 0 <= holdout < 1:
        raise UsageError(f"expected a holdout of at least 0, below 1, found {holdout}")
    train, test, watched = _parted(name, rows, wanted, holdout)
    mean, scale = (tuple(v.tolist()) for v in moments(_real(train)))
    if rows.plain:
        mean, scale = (0.0,) * len(mean), (1.0,) * len(scale)
    target_mean, target_scale = 0.0, 1.0
    if not rows.classes:
        target_mean, target_scale = (v.item() for v in moments(train["y"][:, None]))
    schema = Schema(
        name,
        rows.x.shape[1:],
        rows.classes,
        mean,
        scale,
        (target_mean, target_scale),
        rows.columns,
        rows.target_name,
        lengths=bool(rows.lengths),
        rows=len(train["x"]),
    )
    data = Data(schema, train, test, watched)
    return change(data, lambda part: preprocess(schema, part))


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
        train, test = split(train, fraction, wanted.seed)
    watched = None
    if wanted.watched:
        train, watched = split(train, wanted.watched, wanted.seed)
    return train, test, watched


def absolute(source: str) -> str:
    """A source, whose path, where it is a user's file, does not depend on the cwd."""
    made = (*NAMES, *TEXTS, *PAIRS, *GRAPHS, *TRIPLES, *RATINGS, *SPEECH, *SCENES)
    made = (*made, *SERIES, *LABELLED)
    own = source not in made and Path(source).exists()
    return str(Path(source).resolve()) if own else source


def read_rows(
    name: str, target: str | None, kind: Kind | None, look: Look = LOOK
) -> Rows:
    """The rows of a data set by its name or path. Raises UsageError."""
    path = Path(name)
    pictures = name not in NAMES and path.is_dir()
    builtin, table = name in NAMES, path.suffix.lower() == ".csv"
    if target is not None and (builtin or not table):
        raise UsageError(
            f'expected a .csv file with the target "{target}", found {name}'
        )
    if pictures:
        return read_folder(path, look, kind)
    listed = table and target is not None and path.is_file() and lists_pictures(path)
    if listed:
        return read_listed(path, str(target), look, kind)
    if look != LOOK:
        raise UsageError(f"expected pictures for --size and --grey, found {name}")
    if builtin:
        rows = NAMES[name]()
        found = "classes" if rows.classes else "regression"
        if kind not in (None, found):
            raise UsageError(f"expected the kind {found} for {name}, found {kind}")
        return rows
    if not path.is_file():
        if path.suffix or path.name != name:
            raise UsageError(f"expected a data file, found no file at {name}")
        raise UsageError(
            f"expected a file or one of the data sets {', '.join(NAMES)}, found "
            f'"{name}"' + nearest(name, list(NAMES))
        )
    if table:
        return read_csv(path, target, kind)
    if path.suffix.lower() == ".npz":
        return read_npz(path, kind)
    raise UsageError(f"expected a data file .npz or .csv, found {name}")


def preprocess(schema: Schema, arrays: Arrays) -> Arrays:
    """Rows in their own units -> what a model trains on."""
    mean, scale = schema.target
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
