"""`zoo predict`: what a trained model says of files, as CSV."""

import csv
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import tyro

from train.cli.flags import Directory, parse
from zoo.base import UsageError, plain


def predict(argv: list[str]) -> int:
    """`zoo predict DIR INPUT ...`: predictions as CSV."""

    def flags(
        directory: Directory,
        inputs: tyro.conf.Positional[tuple[str, ...]],
        separator: str | None = None,
        encoding: str | None = None,
    ) -> tuple[Path, tuple[str, ...], dict[str, str | None]]:
        """What a model says of files, a line for each example.

        Args:
            directory: the run's directory
            inputs: .npz, .png, .jpg or .wav; tables, - for standard input
            separator: between a table's columns, as ; or tab; None as in training
            encoding: of a table's text, as cp1252; None as in training
        """
        return directory, inputs, {"separator": separator, "encoding": encoding}

    directory, inputs, how = parse(flags, argv, "zoo predict")
    if not inputs:
        raise UsageError(
            "expected an INPUT: a .npz, .csv, .png, .jpg or .wav file, or a text"
        )

    from train.cli.answers import answers
    from train.recipes import saved

    found = saved.load(directory)
    schema = found.schema
    if (schema.tokens and not schema.units) or found.predict is None:
        raise UsageError(
            f"{found.recipe} predicts nothing: see `zoo sample`, `zoo translate` and "
            "`zoo transcribe`"
        )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        given = [_path_or_text(schema, each) for each in inputs]
        predictions, ids = _predicted(found, given, how)
    rows = answers(found, given, predictions)
    if ids is not None:
        rows = [[name, *row] for name, row in zip(ids, rows, strict=True)]
    if sys.stdout.isatty():  # a file has names as they are
        rows = [[plain(cell) for cell in row] for row in rows]
    csv.writer(sys.stdout, lineterminator="\n").writerows(rows)
    for warning in said:  # in the end: what was not known was predicted all the same
        print(f"zoo: warning: {plain(warning.message)}", file=sys.stderr)
    return 0


def _path_or_text(schema, given):
    """A path; a text as it is, for a model of such, where it is no name of a file."""
    path = Path(given)
    named = path.suffix in (".csv", ".tsv", ".txt") and not re.search(r"\s", given)
    return path if not schema.units or named else given


def _predicted(found, paths, how):
    """Predictions of files; the id of each row, under its name, or None."""
    from train.data.frames import is_table
    from train.data.inputs import read_rows

    schema = found.schema
    if schema.time or not (schema.columns and all(map(is_table, paths))):
        if any(how.values()):
            raise UsageError("expected tables of rows for --separator and --encoding")
        return found.predict(paths), None
    frames = [read_rows(schema, str(path), **how) for path in paths]
    predictions = np.concatenate([found.predict(frame) for frame in frames])
    if not schema.id or not all(schema.id in frame for frame in frames):
        return predictions, None
    ids = [cell for frame in frames for cell in frame[schema.id].fillna("")]
    return predictions, [schema.id, *ids]
