"""Scores of what a model predicts, of what it evaluates to, and their pictures."""

from typing import Any

import numpy as np

from train import evaluate
from train.data import Arrays, Data, Schema, restore_target
from train.report import Measured, Report, baselines, metrics
from train.step import Trained
from zoo.base import Task, UsageError


def tested(data: Data) -> Arrays:
    """The rows that a model is measured on: those of training without others."""
    return data.train if data.test is None else data.test


def labels_for(classes: int, n: int, label: int | None) -> np.ndarray | None:
    """n times the label, or each of the classes in turn; None without classes.

    Raises UsageError where a model without classes is asked for one.
    """
    if not classes:
        if label is not None:
            raise UsageError("expected no label: the model is not conditional")
        return None
    return np.arange(n) % classes if label is None else np.full(n, label)


def predictions(task: Task, schema: Schema) -> Report:
    """The report of a model that predicts classes or a quantity."""

    def quantity(trained: Trained, data: Data) -> Measured:
        rows = tested(data)
        found = evaluate.predict(task, trained, rows)
        y, values = (restore_target(schema, v) for v in (rows["y"], found))
        values = values.reshape(y.shape)
        scores: dict[str, Any] = metrics.regression(values, y)
        if not schema.targets:
            return Measured(scores, files=_line(values, y, schema.target_name))
        each = zip(schema.targets, values.T, y.T, strict=True)
        # errors of other units have no mean
        scores = {"r2": scores["r2"]}
        scores["per_target"] = {n: metrics.regression(*both) for n, *both in each}
        return Measured(scores, files=_each("quantities", values, y, schema.targets))

    def labels(trained: Trained, data: Data) -> Measured:
        rows = tested(data)
        found = evaluate.predict(task, trained, rows)
        scores = metrics.multilabel(found, rows["y"], schema.classes)
        return Measured(scores, files=_each("labels", found, rows["y"], schema.classes))

    def classes(trained: Trained, data: Data) -> Measured:
        rows = tested(data)
        found = evaluate.predict(task, trained, rows)
        scores = metrics.classification(found, rows["y"], schema.classes)

        def confusion():
            return _plot().confusion(scores["confusion"], schema.classes)

        return Measured(scores, files={"confusion.png": confusion})

    def compared(data: Data):
        return baselines.found(schema, baselines.seen(data.train), tested(data))

    if not schema.regression:
        several = labels if schema.multilabel else classes
        return Report(several, baselines=compared, unit="nats")
    unit = f"variances of {schema.target_name}"  # for y is standardised
    return Report(quantity, baselines=compared, unit=unit)


def _line(values, y, unit):
    return {"predictions.png": lambda: _plot().regression(values, y, unit)}


def _each(kind, found, y, names):
    def draw():
        from train.report import several

        return getattr(several, kind)(found, y, names)

    return {"predictions.png": draw}


def losses(task: Task) -> Report:
    """The report of a model that is measured by its task's metrics."""

    def measure(trained: Trained, data: Data) -> Measured:
        return Measured(evaluate.evaluate(task, trained, tested(data)))

    return Report(measure)


def _plot():
    from train.report import plot  # matplotlib takes half a second: only to draw

    return plot
