"""What a model predicts, as the rows of a table."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from train import data as sets
from train.data import long, series
from train.recipes.saved import Loaded


def answers(
    found: Loaded, inputs: Sequence[Any], predictions: np.ndarray
) -> list[list[str]]:
    """The heads, and a row for each example; for each node of a graph.

    Of a long table each group has its name, and each step of a forecast its time.
    """
    schema = found.schema
    table = bool(schema.time) and long.is_table(inputs)
    if table and schema.forecast:
        return series.lines(schema, inputs, predictions)
    rows = _rows(found, schema, predictions)
    if not table:
        return rows
    names = [schema.group, *long.names(schema, inputs)]
    return [[name, *row] for name, row in zip(names, rows, strict=True)]


def _rows(found, schema, predictions):
    if found.lines is not None:
        return found.lines(predictions)
    if schema.edges:
        predictions = predictions.reshape(-1, predictions.shape[-1])
    if schema.regression:
        heads = list(schema.targets) or [schema.target_name]
        if schema.forecast:
            steps = range(1, schema.horizon + 1)
            heads = [f"{name}+{i}" for i in steps for name in heads]
        cells = predictions.reshape(len(predictions), -1)
        return [
            heads,
            *([f"{value:.7g}" for value in row] for row in cells),
        ]
    if schema.multilabel:
        return [
            [*schema.classes, *(f"p({name})" for name in schema.classes)],
            *(
                [*(str(int(p > 0.5)) for p in row), *(f"{p:.4f}" for p in row)]
                for row in predictions
            ),
        ]
    names = sets.labels(schema, predictions.argmax(-1))
    return [
        ["class", *(f"p({name})" for name in schema.classes)],
        *(
            [name, *(f"{p:.4f}" for p in row)]
            for name, row in zip(names, predictions, strict=True)
        ),
    ]
