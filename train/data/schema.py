"""What is known of a data set: its rows in parts, and a schema of them.

Everything here is numpy, on the host.
Shapes: N examples, D features, L length, H height, W width, C channels.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from train.data.columns import Column, Columns
from train.data.formats import numbers
from train.data.parts import split
from train.shown.html import as_html, listed
from zoo.base import UsageError, check_choice

Arrays = dict[str, np.ndarray]
Each = float | tuple[float, ...]  # of one target, or of several


class Schema(NamedTuple):
    """Everything about a data set but its rows."""

    name: str  # "mnist5k", or the user's path as given
    shape: tuple[int, ...]  # of one example: (D,), (L, C) or (H, W, C)
    classes: tuple[str, ...]  # names in label order; () for regression
    mean: tuple[float, ...]  # of the training part's x: [D] or [C]
    scale: tuple[float, ...]  # standard deviation; 1 where a feature is constant
    target: tuple[Each, Each] = (0.0, 1.0)  # mean and scale of a quantity y, or of each
    columns: Columns = ()  # of a table: what was learned of each
    target_name: str = "y"
    tokens: tuple[str, ...] = ()  # what x's integers stand for; () for numbers
    target_tokens: tuple[str, ...] = ()  # the same of y, where it is a sequence
    target_shape: tuple[int, ...] = ()  # of one y: () for a label or a quantity
    lengths: bool = False  # whether rows have "length": what of a sequence counts
    rows: int = 1  # of the training part
    lower: bool = False  # whether sources are lower case
    spaced: bool = False  # whether a target's tokens are words
    ids: tuple[tuple[str, ...], ...] = ()  # the names that each column of x numbers
    edges: int = 0  # of a graph, whose nodes are the L of its shape; 0 for no graph
    counts: tuple[int, ...] = ()  # how often each word stands in a text of them
    rate: int = 0  # of sound, samples a second; 0 for no sound
    group: str = ""  # of a long table: the column that tells sequences apart
    time: str = ""  # of a long table: the column that orders them
    form: str = ""  # how its times are written, as strptime has it
    season: int = 0  # steps, of a series to forecast; 0 for another
    clock: tuple[str, ...] = ()  # of a series: its first time, and the way to the next
    units: str = ""  # of labelled texts, "words" or "characters"; "" for no such
    separator: str = ""  # between the columns of a table, where it was given
    encoding: str = ""  # of a table's text, where it was given
    decimal: str = ""  # what begins a fraction in a table's cells, where one told
    id: str = ""  # the column of a table that says which row it is, if any
    notes: tuple[str, ...] = ()  # sentences: what was left out and filled
    targets: tuple[str, ...] = ()  # the names of several, y [N, T]
    # of series that are scaled each by its own: name, center [C], unit [C]
    scales: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...] = ()
    gaps: tuple[str, ...] = ()  # what stands for a gap in a table, as "-999"

    @property
    def regression(self) -> bool:
        """Whether y is a quantity rather than a class."""
        return not self.classes and not self.target_tokens

    @property
    def multilabel(self) -> bool:
        """Whether classes exclude none: y [N, K] says of each whether it holds."""
        return bool(self.targets and self.classes)

    @property
    def forecast(self) -> bool:
        """Whether x is windows of a series, and y [N, H] what comes next.

        Of T targets y is [N, H T], all of a step side by side.
        """
        return self.season > 0

    @property
    def horizon(self) -> int:
        """How many steps of a series are predicted."""
        return self.target_shape[0] // max(1, len(self.targets))

    @property
    def integer(self) -> bool:
        """Whether x is numbers of tokens, or of names."""
        return bool(self.tokens or self.ids)

    @property
    def image(self) -> bool:
        """Whether an example is [H, W, C]."""
        return len(self.shape) == 3

    def _repr_html_(self) -> str:
        return as_html(f"Schema of {self.name}", self.told())

    def told(self) -> dict[str, Any]:
        """What a reader wants to know of it, by name; statistics are left out."""
        return {
            "rows to train on": f"{self.rows:,}",
            "example": " x ".join(map(str, self.shape)),
            "target": self.target_name,
            "classes": listed(self.classes),
            "columns": listed(tuple(column.name for column in self.columns)),
            "tokens": listed(self.tokens),
            "target tokens": listed(self.target_tokens),
            "names": " and ".join(f"{len(names):,}" for names in self.ids),
            "edges": self.edges,
            "samples a second": self.rate,
            "group": self.group,
            "time": self.time,
            "season": self.season,
        }


class Data(NamedTuple):
    """A data set ready to train on: "x" [N, *shape] float32, "y" [N] int32 or float32;
    [N, T] of several targets.

    All parts are standardised with the statistics of the training part. Sequences may
    have a "length" [N] int32, past which x is zero; tokens are int32.
    """

    schema: Schema
    train: Arrays
    test: Arrays | None
    watched: Arrays | None = None  # what stopping may look at, not trained on


class Split(NamedTuple):
    """A request for a data set: its name or path, and how its rows are parted."""

    source: str | os.PathLike[str] | Data
    watched: float = 0.0  # share of the training rows that is only watched
    seed: int = 0  # draws the holdout, the watched part, the few labels


def request(source: str | os.PathLike[str] | Data | Split) -> Split:
    """A source as the request that it stands for."""
    return source if isinstance(source, Split) else Split(source)


def given(data: Data, wanted: Split) -> Data:
    """A data set at hand, with a watched part if one is wanted that it lacks."""
    if not wanted.watched or data.watched is not None:
        return data
    train, watched = split(data.train, wanted.watched, wanted.seed)
    schema = data.schema._replace(rows=len(train["x"]))
    return data._replace(schema=schema, train=train, watched=watched)


def change(
    data: Data, each: Callable[[Arrays], Arrays], schema: Schema | None = None
) -> Data:
    """The data with all parts changed in one way, and perhaps the schema."""
    parts = (data.train, data.test, data.watched)
    train, test, watched = (None if rows is None else each(rows) for rows in parts)
    assert train is not None
    schema = data.schema if schema is None else schema
    return data._replace(schema=schema, train=train, test=test, watched=watched)


def to_json(schema: Schema) -> dict[str, Any]:
    """A schema as a dict that json can write."""
    return schema._asdict()


def from_json(fields: dict[str, Any]) -> Schema:
    """The schema that `to_json` made a dict of, also when json has been through it.

    Raises UsageError for one that lacks a field, or has an unknown one.
    """
    needed = set(Schema._fields) - Schema._field_defaults.keys()
    if wrong := sorted((needed - fields.keys()) | (fields.keys() - {*Schema._fields})):
        raise UsageError(
            f"expected a schema with {', '.join(sorted(needed))}, found one in which "
            f"{wrong[0]!r} is missing or unknown"
        )

    def freeze(value: Any) -> Any:
        return tuple(map(freeze, value)) if isinstance(value, list | tuple) else value

    frozen = {name: freeze(value) for name, value in fields.items()}
    columns = tuple(Column(*each) for each in frozen.pop("columns", ()))
    return Schema(columns=columns, **frozen)


def blank(schema: Schema) -> Arrays:
    """One example of zeros: the shapes and types, where the rows are not at hand."""
    x = np.zeros((1, *schema.shape), np.int32 if schema.integer else np.float32)
    kind = np.float32 if schema.regression else np.int32
    rows = {"x": x, "y": np.zeros((1, *schema.target_shape), kind)}
    if schema.lengths:
        rows["length"] = np.full(1, schema.shape[0], np.int32)
    if schema.edges:
        rows["edges"] = np.zeros((1, schema.edges, 2), np.int32)
        rows |= (
            {"edge_mask": np.ones((1, schema.edges), "f4")} if schema.lengths else {}
        )
    return rows


# Standardisation ----------------------------------------------------------------------


def chunks(x: np.ndarray, size: int = 4096) -> Iterator[tuple[slice, np.ndarray]]:
    """Slices of rows: float64 copies of a whole image set would fill the memory."""
    for start in range(0, len(x), size):
        yield slice(start, start + size), x[start : start + size]


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x [N, ..., C] -> mean [C], standard deviation [C] over all the other axes.

    A constant feature (but for rounding) has itself as mean and 1 as deviation.
    """
    axes = tuple(range(x.ndim - 1))
    count = x.size // x.shape[-1]
    mean = sum(np.sum(rows, axes, dtype=np.float64) for _, rows in chunks(x)) / count
    square = sum(np.sum((rows - mean) ** 2, axes) for _, rows in chunks(x)) / count
    low, high = x.min(axes).astype(np.float64), x.max(axes).astype(np.float64)
    varies = np.sqrt(square) > 1e-14 * np.maximum(np.abs(low), np.abs(high))
    return np.where(varies, mean, low), np.where(varies, np.sqrt(square), 1.0)


def standardize(schema: Schema, x: np.ndarray) -> np.ndarray:
    """x [N, *shape] in its own units -> standardised, float32. Raises UsageError."""
    x = np.asarray(x)
    if x.shape[1:] != schema.shape:
        raise UsageError(
            f"expected examples of shape {schema.shape} as in {schema.name}, found "
            f"{x.shape[1:]}"
        )
    out = np.empty(x.shape, np.float32)
    mean, scale = np.array(schema.mean), np.array(schema.scale)
    with np.errstate(over="ignore"):
        for at, rows in chunks(x):
            out[at] = (rows - mean) / scale
    return numbers(out, f"the standardised x of {schema.name}")


def restore_target(schema: Schema, y: Any) -> np.ndarray:
    """A regression's standardised y, or its prediction -> float64 in its own unit."""
    mean, scale = map(np.asarray, schema.target)
    return np.asarray(y, np.float64) * scale + mean


def labels(schema: Schema, y: Any) -> np.ndarray:
    """Labels [...] -> the names of their classes [...]. Raises UsageError."""
    y = np.asarray(y)
    if schema.regression or schema.multilabel:
        found = "several labels" if schema.multilabel else "a regression"
        raise UsageError(f"expected classes in {schema.name}, found {found}")
    count = len(schema.classes)
    if y.dtype.kind not in "iu":
        raise UsageError(f"expected labels of {schema.name}, found {y.dtype}")
    if (wrong := y[(y < 0) | (y >= count)]).size:
        raise UsageError(
            f"expected labels 0..{count - 1} of {schema.name}, found {wrong[0]}"
        )
    return np.array(schema.classes)[y]


def within(x, length):
    """Which entries of sequences x [N, L, C] are no padding: [N, L, 1]."""
    return (np.arange(x.shape[1]) < length[:, None])[..., None]


def label_of(schema: Schema, label: str | int | None) -> int | None:
    """A class by its name, or its number, as a label. Raises UsageError."""
    if label is None or not schema.classes:
        return None if label is None else 0
    if isinstance(label, int) and 0 <= label < len(schema.classes):
        return label
    check_choice("label", str(label), schema.classes)
    return schema.classes.index(str(label))


# Views --------------------------------------------------------------------------------


def as_sequence(data: Data) -> Data:
    """Grey images [N, H, W, 1], row by row, as sequences [N, H, W].

    Raises UsageError for other data.
    """
    schema = data.schema
    if not schema.image or schema.shape[-1] != 1:
        raise UsageError(
            f"expected grey images [H, W, 1], found examples of shape {schema.shape} "
            f"in {schema.name}"
        )
    width = schema.shape[1]
    rowwise = schema._replace(
        shape=schema.shape[:2], mean=schema.mean * width, scale=schema.scale * width
    )
    return change(data, lambda rows: rows | {"x": rows["x"][..., 0]}, rowwise)


def between(data: Data, low: float, high: float) -> Data:
    """The data with the whole range of the training part's x mapped to [low, high].

    Its own units are kept in the schema. What of other parts lies outside is clipped.
    Raises UsageError for tokens and where x is constant.
    """
    schema, x = data.schema, data.train["x"]
    if schema.tokens:
        raise UsageError(f"expected numbers, found the tokens of {schema.name}")
    mean, scale = np.array(schema.mean, "f4"), np.array(schema.scale, "f4")
    axes = tuple(range(x.ndim - 1))
    least = float((x.min(axes) * scale + mean).min())
    most = float((x.max(axes) * scale + mean).max())
    if not least < most:
        raise UsageError(f"expected examples that differ, found one value {least:g}")
    unit = (most - least) / (high - low)
    origin = least - low * unit
    channels = len(schema.mean)
    changed = schema._replace(mean=(origin,) * channels, scale=(unit,) * channels)

    def map_rows(rows):
        x = (rows["x"] * scale + mean - origin) / unit
        return rows | {"x": x.clip(low, high).astype(np.float32)}

    return change(data, map_rows, changed)
