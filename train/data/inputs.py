"""Files of examples to predict, as a model that was trained wants them.

Shapes: N examples, L length, H height, W width, C channels.
"""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from train.data import labelled, long, series, speech, text
from train.data.cells import plain
from train.data.columns import encode, texts_of
from train.data.formats import SUFFIXES, numbers, open_npz, quoted, read_image
from train.data.frames import is_table, read_frame
from train.data.graphs import graph_examples
from train.data.schema import Arrays, Schema, standardize, within
from train.data.tables import read_length
from zoo.base import UsageError, nearest
from zoo.checks import check_ids

if TYPE_CHECKING:  # half a second to import: only where there is a table
    from pandas import DataFrame

X = ("x", "x_test", "x_train")  # in the order in which they are looked for


def examples(schema: Schema, given: Any) -> Arrays:
    """What a user has, as rows like those of the training: {"x": [N, ...]}.

    Arrays [N, *shape] in the data's own units, of any number type, grey images without
    their channel too; a dict {"x": ..., "length": [N]} of sequences; a dict of columns
    by name, or a frame of pandas, for a model of a table; texts of one length, for a
    model of text; texts, as `train.data.labelled.examples` has them, for a model that
    tells them apart; ids [N, F], or names, for a model of ids; a graph, as
    `train.data.graphs.graph_examples` has it; .wav files, for a model of sound, whose
    arrays are log-mels [N, T, M]; or paths of files, as `read_examples`
    has them. Raises UsageError.
    """
    if schema.units:
        return labelled.examples(schema, given)
    if schema.forecast and long.is_table(given):
        return series.examples(schema, given)
    if schema.scales:
        raise UsageError(
            f'expected a table whose column "{schema.group}" names the series, as each '
            f"has a scale of its own in {schema.name}, found arrays"
        )
    if schema.group and long.is_table(given) or long.is_ragged(schema, given):
        return long.examples(schema, given)
    if schema.edges:
        return graph_examples(schema, given)
    if schema.rate and _paths(given):
        return _sounds(schema, given)
    if schema.tokens:
        return {"x": _tokens(schema, [given] if isinstance(given, str) else given)}
    if schema.ids:
        return {"x": _ids(schema, given)}
    if isinstance(given, str | os.PathLike):
        return read_examples(schema, [given])
    if schema.columns and hasattr(given, "keys"):  # a dict, or a frame of pandas
        return {"x": standardize(schema, _encoded(schema, _table(schema, given)))}
    if isinstance(given, dict):
        if "x" not in given:
            raise UsageError(f'expected a dict with "x", found {quoted(list(given))}')
        x = standardize(schema, _array(schema, given["x"]))
        length = np.asarray(given.get("length", np.full(len(x), x.shape[1])), np.int32)
        return {"x": np.where(within(x, length), x, 0), "length": length}
    if len(given) and isinstance(given[0], str | os.PathLike):
        return read_examples(schema, given)
    x = standardize(schema, _array(schema, given))
    full = {"length": np.full(len(x), x.shape[1], np.int32)} if schema.lengths else {}
    return {"x": x} | full


def _table(schema, given):
    """Columns by name, of one length, as a frame."""
    from pandas import DataFrame

    if isinstance(given, DataFrame):
        frame = given.set_axis([str(name) for name in given], axis=1)
    else:
        sizes = sorted({len(given[name]) for name in given})
        if len(sizes) != 1:
            raise UsageError(f"expected columns of one length, found {sizes}")
        frame = DataFrame({str(name): given[name] for name in given})
    return plain(frame, texts_of(schema.columns), gaps=schema.gaps)


def read_rows(schema: Schema, path: str | os.PathLike[str], **how: Any) -> "DataFrame":
    """A table to predict from, its columns as those that were trained on.

    `how` it is written: a separator, an encoding; those of the training for None. What
    1,500 is follows the training too, where no other cell tells.
    Raises UsageError.
    """
    texts = [*texts_of(schema.columns), schema.id]
    written = {k: how.get(k) or getattr(schema, k) for k in ("separator", "encoding")}
    given: dict[str, Any] = {name: value or None for name, value in written.items()}
    given |= {"gaps": schema.gaps, "decimal": schema.decimal}
    return read_frame(os.fspath(path), texts=texts, **given)


def _encoded(schema, frame):
    """Features [N, D], with a warning of what was not known in training."""
    x, said = encode(frame, schema.columns)
    for sentence in said:
        warnings.warn(sentence, stacklevel=4)
    return x


def _tokens(schema, texts):
    rows = [text.encode(schema, one) for one in texts]
    if len({len(row) for row in rows}) != 1:
        raise UsageError(
            f"expected texts of one length, found {sorted({len(r) for r in rows})}"
        )
    return np.stack(rows)


def _paths(given):
    """Whether they are paths of files, one or more."""
    one = isinstance(given, str | os.PathLike)
    more = isinstance(given, list | tuple) and len(given)
    return one or (more and isinstance(given[0], str | os.PathLike))


def _sounds(schema, paths):
    paths = [paths] if isinstance(paths, str | os.PathLike) else paths
    rows = [speech.heard(schema, path) for path in paths]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _ids(schema, given):
    """Ids [N, F] as they are, names as their ids; of .npz files, their x."""
    one = isinstance(given, str | os.PathLike)
    if one or (len(given) and isinstance(given[0], str | os.PathLike)):
        parts = [read_raw(schema, Path(path)) for path in ([given] if one else given)]
        given = np.concatenate(parts)
    x = np.asarray(given)
    if x.dtype.kind == "U" and x.shape[1:] == schema.shape:
        columns = []
        for cells, names in zip(x.T.tolist(), schema.ids, strict=True):
            number = {name: i for i, name in enumerate(names)}
            for cell in cells:
                if cell not in number:
                    raise UsageError(
                        f"expected a name that {schema.name} has, found {cell!r}"
                        + nearest(cell, names)
                    )
            columns.append([number[cell] for cell in cells])
        x = np.array(columns, np.int32).T
    sizes = tuple(map(len, schema.ids))
    return check_ids(x, sizes, f"ids of {schema.name}").astype(np.int32)


def _array(schema, given):
    x = numbers(np.asarray(given), "the inputs")
    return x[..., None] if (*x.shape[1:], 1) == schema.shape else x


def read_inputs(
    schema: Schema, paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
) -> np.ndarray:
    """Files of examples to predict -> x [N, *shape], standardised, in their order.

    An .npz holds x (or x_test, or x_train) in the units of the training data; a table
    the columns it was trained with, others are ignored; a picture is one
    example, scaled and cut, for a model trained on pixels 0..255. Raises UsageError.
    """
    paths = [paths] if isinstance(paths, str | os.PathLike) else paths
    if not paths:
        raise UsageError("expected files to predict from, found none")
    return np.concatenate(
        [standardize(schema, read_raw(schema, Path(p))) for p in paths]
    )


def read_examples(schema: Schema, paths: Sequence[str | os.PathLike[str]]) -> Arrays:
    """Files of examples to predict -> {"x"}, as `read_inputs` has it, and "length".

    The latter for a model that was trained with lengths: from length beside x, or
    length_test beside x_test, of each .npz file; whole sequences where there is none.
    """
    rows = {"x": read_inputs(schema, paths)}
    if not schema.lengths:
        return rows
    parts = []
    for path in map(Path, paths):
        x, arrays = read_raw(schema, path), open_npz(path)
        key = "length" + X[next(i for i, k in enumerate(X) if k in arrays)][1:]
        full = np.full(len(x), x.shape[1], np.int32)
        parts.append(read_length(arrays, key, x, path) if key in arrays else full)
    length = np.concatenate(parts)
    x = np.where(within(rows["x"], length), rows["x"], 0)
    return {"x": x, "length": length}


def read_raw(schema: Schema, path: Path) -> np.ndarray:
    """The examples of one file [N, *shape], in their own units. Raises UsageError."""
    suffix = path.suffix.lower()
    if str(path) != "-" and not path.is_file():
        raise UsageError(f"expected a file to predict from, found no file at {path}")
    if is_table(path):
        if not schema.columns:
            raise UsageError(
                f"expected an .npz file, as {schema.name} has no named columns, found "
                f"{path}"
            )
        return _encoded(schema, read_rows(schema, path))
    if suffix == ".npz":
        arrays = open_npz(path)
        key = next((k for k in X if k in arrays), None)
        if key is None:
            raise UsageError(
                f"expected x, x_test or x_train in {path}, found {quoted(list(arrays))}"
            )
        x = numbers(arrays[key], f"{key} of {path}")
        x = x[..., None] if (*x.shape[1:], 1) == schema.shape else x
        if x.shape[1:] != schema.shape:
            raise UsageError(
                f"expected {key} of {path} to have examples of shape {schema.shape} as "
                f"{schema.name} has, found shape {x.shape}"
            )
        return x
    if suffix in SUFFIXES:
        if not schema.image:
            raise UsageError(
                f"expected examples of shape {schema.shape} as in {schema.name}, found "
                f"the picture {path}"
            )
        white = (255 - np.array(schema.mean)) / np.array(schema.scale)
        if white.min() > 30:  # deviations: such pixels were never trained on
            raise UsageError(
                f"expected an .npz file, as the values of {schema.name} are not pixels "
                f"0..255 (mean {schema.mean[0]:.3g}), found the picture {path}"
            )
        return read_image(path, schema.shape)
    raise UsageError(f"expected a file .npz, .csv, .png or .jpg, found {path}")
