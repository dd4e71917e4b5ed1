"""Forecasts of a series beside the two that need no model, and their picture.

The naive forecast is the last value, the seasonal one what was there a season before.
Shapes: N windows, H steps ahead, T targets.
"""

from functools import partial
from typing import Any

import numpy as np

from train import evaluate
from train.data import Data, Schema
from train.data.series import restored
from train.report import Measured, Report
from train.report.measure import tested
from train.step import Trained
from zoo.base import Task


def errors(forecast: Any, y: Any, unit: Any) -> dict[str, float | None]:
    """Forecasts and y [N, H] -> "mae" and "rmse" in their unit, and "mase".

    The latter is the mean error in units [N], those of the change from one season to
    the next in the training part (Hyndman & Koehler, "Another look at measures of
    forecast accuracy", 2006); None where nothing changed there.
    """
    error = np.abs(np.asarray(forecast, np.float64) - np.asarray(y, np.float64))
    unit = np.asarray(unit, np.float64)[:, None]
    return {
        "mae": float(error.mean()),
        "rmse": float(np.sqrt(np.square(error).mean())),
        "mase": float((error / unit).mean()) if (unit > 0).all() else None,
    }


def forecasts(task: Task, schema: Schema) -> Report:
    """The report of a model that says what comes next."""

    names = schema.targets or (schema.target_name,)

    def measure(trained: Trained, data: Data) -> Measured:
        rows = tested(data)
        found = {
            "model": evaluate.predict(task, trained, rows),
            "naive": np.tile(rows["x"][:, -1, -len(names) :], (1, schema.horizon)),
            "seasonal": rows["seasonal"],
        }
        found = {name: restored(schema, each, rows) for name, each in found.items()}
        y = restored(schema, rows["y"], rows)
        each = {
            name: _scores({n: f[..., t] for n, f in found.items()}, y[..., t], unit)
            for t, (name, unit) in enumerate(zip(names, rows["unit"].T, strict=True))
        }
        # errors of other units have no mean
        scores: dict[str, Any] = each[names[0]]
        if schema.targets:
            scores = _mean_scaled(each.values()) | {"per_target": each}
        picture = partial(_picture, schema, rows, y, found)
        return Measured(
            scores | {"season": schema.season}, files={"forecasts.png": picture}
        )

    return Report(measure, unit=f"variances of {schema.target_name}")


def _scores(found, y, unit):
    return {
        metric if name == "model" else f"{metric}_{name}": value
        for name, each in found.items()
        for metric, value in errors(each, y, unit).items()
    }


def _mean_scaled(scores):
    """The means over targets of the errors that have no unit."""
    found = {}
    for name in ("mase", "mase_naive", "mase_seasonal"):
        own = [each[name] for each in scores]
        found[name] = None if None in own else float(np.mean(own))
    return found


def _picture(schema, rows, y, found):
    from train.report import charts  # matplotlib takes half a second: only to draw

    mine = rows["series"] == rows["series"][0]
    first, y_first = rows["first"][mine], y[mine]
    steps = np.concatenate([first, first[-1] + np.arange(1, y.shape[1])])
    values = np.concatenate([y_first[:, 0], y_first[-1, 1:]])
    ahead = {n: np.abs(each - y).mean(0) for n, each in found.items()}
    return charts.forecasts(
        times(schema, steps),
        values,
        found["model"][mine],
        ahead,
        across=schema.time or "step",
        names=schema.targets or (schema.target_name,),
    )


def times(schema: Schema, steps: np.ndarray) -> np.ndarray:
    """When the steps of the first series were: numbers or dates; else their numbers."""
    start, pace = (*schema.clock, "", "")[:2]
    if not pace:
        return steps
    try:
        return float(start) + float(pace) * steps
    except ValueError:
        import pandas as pd

        return pd.date_range(start, periods=int(steps.max()) + 1, freq=pace)[steps]
