"""What a score is worth: that of who knows nothing, and that of a linear model.

Both learn from the training rows alone, and are judged as a model is, on its rows.
Shapes: N examples, D features, K classes.
"""

import warnings
from typing import Any

import numpy as np

from train.data import Arrays, Schema, restore_target
from train.report import metrics

WORK = 1e9  # multiplications that the linear model may take: a few seconds
ITERATIONS = 100  # of logistic regression at most, scikit-learn's default


def found(
    schema: Schema, train: Arrays, test: Arrays
) -> dict[str, dict[str, Any] | str]:
    """Rows {"x": [N, ...], "y": [N]} of both parts -> scores by the baseline's name.

    "majority" gives each class its share of the training rows, "mean" is the mean of
    their y; "linear" is scikit-learn's LogisticRegression or LinearRegression, with its
    defaults, of x as a model has it, or a sentence that says why it is left out.
    """
    quantity = schema.regression
    constant = _mean if quantity else _majority
    scores = _judge(schema, constant(schema, train, test), test)
    out = _left_out(schema, train, test)
    linear = _least_squares if quantity else _logistic
    return {
        "mean" if quantity else "majority": scores,
        "linear": out or _judge(schema, linear(schema, train, test), test),
    }


def seen(rows: Arrays) -> Arrays:
    """The rows whose labels a model sees, where it sees a few alone."""
    if "known" not in rows:
        return rows
    return {name: rows[name][rows["known"]] for name in ("x", "y")}


def _judge(schema, predicted, test):
    """Single numbers alone: tables of classes would be read by nobody."""
    if schema.regression:
        y, values = (restore_target(schema, v) for v in (test["y"], predicted))
        scores = metrics.regression(values, y)
    else:
        judge = metrics.multilabel if schema.multilabel else metrics.classification
        scores = judge(predicted, test["y"], schema.classes)
    return {k: v for k, v in scores.items() if isinstance(v, float)}


def _left_out(schema, train, test):
    """Why there is no linear model, if so."""
    if schema.integer:
        return "x is names, not numbers"
    if not schema.regression and len(np.unique(train["y"])) < 2:
        return "the training rows have one class"
    n, d = len(train["x"]), int(np.prod(train["x"].shape[1:]))
    each = min(n, d) if schema.regression else ITERATIONS * len(schema.classes)
    if n * d * each > WORK or n * d + test["x"].size > WORK / 20:
        return f"it would take long for {n:,} x {d:,} numbers"
    return None


def _majority(schema, train, test):
    if schema.multilabel:
        return _mean(schema, train, test)
    share = np.bincount(train["y"], minlength=len(schema.classes)) / len(train["y"])
    return np.tile(share, (len(test["y"]), 1))


def _mean(schema, train, test):
    mean = train["y"].astype(np.float64).mean(0)
    return np.broadcast_to(mean, test["y"].shape)


def _logistic(schema, train, test):
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    model = LogisticRegression(max_iter=ITERATIONS)
    if schema.multilabel:
        model = OneVsRestClassifier(model)
    with warnings.catch_warnings():  # near enough to be compared with
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "Label .* is present|Label not")
        model.fit(_flat(train), train["y"])
    p = np.zeros((len(test["y"]), len(schema.classes)))
    p[:, model.classes_] = model.predict_proba(_flat(test))
    return p


def _least_squares(schema, train, test):
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit(_flat(train), train["y"].astype(np.float64))
    return model.predict(_flat(test)).reshape(test["y"].shape)


def _flat(rows):
    return rows["x"].reshape(len(rows["x"]), -1).astype(np.float64)
