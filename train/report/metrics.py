"""Scores of predictions on a whole test set, by scikit-learn, ready for JSON.

Shapes: N examples, K classes or outputs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from zoo.base import UsageError


def classification(probabilities: Any, y: Any, classes: tuple[str, ...]) -> dict:
    """Probabilities [N, K] and labels y [N] -> scores; "log_loss" is in nats.

    "precision", "recall" and "f1" are means over the classes that occur among labels or
    predictions, "balanced_accuracy" is that of the recall over those among labels;
    "roc_auc" and "average_precision" are those of class 1 for K = 2, else the mean of
    one class against the rest; None where a class has no example. Rows of "confusion"
    are true classes. Raises UsageError for arrays that cannot be these.
    """
    from sklearn import metrics  # a second to import

    p, y, k = _finite("probabilities", probabilities), np.asarray(y), len(classes)
    check_probabilities(p, y, k)
    totals = p.sum(axis=1, keepdims=True)
    labels, predicted = range(k), p.argmax(axis=1)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        y, predicted, labels=labels, zero_division=0
    )
    confusion = metrics.confusion_matrix(y, predicted, labels=labels)
    occurs = (confusion.sum(axis=0) + confusion.sum(axis=1)) > 0
    # scikit-learn warns of sums as inexact as those of float32
    log_loss = metrics.log_loss(y, p / totals, labels=labels)
    return {
        "accuracy": float(metrics.accuracy_score(y, predicted)),
        "balanced_accuracy": float(recall[support > 0].mean()),
        "precision": float(precision[occurs].mean()),
        "recall": float(recall[occurs].mean()),
        "f1": float(f1[occurs].mean()),
        "log_loss": float(log_loss),
        **_ranked(p, y),
        "per_class": {
            name: {
                "precision": float(precision[c]),
                "recall": float(recall[c]),
                "f1": float(f1[c]),
                "support": int(support[c]),
            }
            for c, name in enumerate(classes)
        },
        "confusion": confusion.tolist(),
    }


def multilabel(probabilities: Any, y: Any, names: tuple[str, ...]) -> dict:
    """Probabilities [N, K] of K labels that exclude none, y in {0, 1} -> scores.

    "accuracy" is the share of labels that are right, "exact" that of rows all of whose
    are; "f1", "roc_auc" and "average_precision" are means over the labels, whose own
    are in "per_label". F1 of none at all is 0; the others are None where a label never
    or always holds, and so is their mean. Raises UsageError for other arrays.
    """
    from sklearn import metrics

    p, y = _finite("probabilities", probabilities), np.asarray(y)
    if p.shape != y.shape or p.shape[1:] != (len(names),):
        raise UsageError(
            f"expected probabilities and labels [N, {len(names)}], found shapes "
            f"{p.shape} and {y.shape}"
        )
    if p.min() < 0 or p.max() > 1 or not np.isin(y, (0, 1)).all():
        raise UsageError("expected probabilities in [0, 1] and labels 0 or 1")
    said = p > 0.5
    each = {}
    for k, name in enumerate(names):
        f1 = float(metrics.f1_score(y[:, k], said[:, k], zero_division=0))
        ranked = _ranked(np.stack([1 - p[:, k], p[:, k]], 1), y[:, k])
        each[name] = {"f1": f1, **ranked, "support": int(y[:, k].sum())}
    found: dict[str, Any] = {
        "accuracy": float((said == y).mean()),
        "exact": float((said == y).all(1).mean()),
    }
    for score in ("f1", "roc_auc", "average_precision"):
        own = [row[score] for row in each.values()]
        found[score] = None if None in own else float(np.mean(own))
    return found | {"per_label": each}


def _ranked(p, y):
    """Scores at every threshold, each class against the rest; of two, of the second."""
    from sklearn import metrics

    ones = range(p.shape[1]) if p.shape[1] > 2 else (1,)
    found: dict[str, float | None] = {"roc_auc": None, "average_precision": None}
    if len(np.unique(y)) == p.shape[1]:
        for name in found:
            score = getattr(metrics, f"{name}_score")
            found[name] = float(np.mean([score(y == one, p[:, one]) for one in ones]))
    return found


def check_probabilities(p: np.ndarray, y: np.ndarray, k: int) -> None:
    """Raise UsageError unless p [N, K] are probabilities and y [N] labels of K."""
    if p.ndim != 2 or p.shape[1] != k or y.shape != p.shape[:1] or k < 2:
        raise UsageError(
            f"expected probabilities [N, {k}] and labels [N] for {k} classes (2 or "
            f"more), found shapes {p.shape} and {y.shape}"
        )
    if y.dtype.kind not in "iu":
        raise UsageError(f"expected integer labels, found {y.dtype}")
    if y.min() < 0 or y.max() >= k:
        raise UsageError(
            f"expected labels 0 to {k - 1}, found labels {y.min()} to {y.max()}"
        )
    totals = p.sum(axis=1, keepdims=True)
    if p.min() < 0 or np.abs(totals - 1).max() > 0.05:  # bfloat16 is this coarse
        raise UsageError(
            "expected probabilities that are positive and sum to 1, found rows that "
            f"sum to {totals.min():.3g} to {totals.max():.3g}, smallest {p.min():.3g}"
        )


def regression(prediction: Any, y: Any) -> dict[str, float | None]:
    """Prediction and y [N] or [N, K] -> scores; over K outputs the mean of each's.

    "r2" is None for a single example. Raises UsageError for shapes that differ, empty
    arrays and NaN or infinity.
    """
    from sklearn import metrics

    prediction, y = _finite("predictions", prediction), _finite("targets", y)
    if prediction.shape != y.shape or y.ndim not in (1, 2):
        raise UsageError(
            "expected predictions and targets of one shape [N] or [N, K], found "
            f"{prediction.shape} and {y.shape}"
        )
    return {
        "r2": float(metrics.r2_score(y, prediction)) if len(y) > 1 else None,
        "rmse": float(metrics.root_mean_squared_error(y, prediction)),
        "mae": float(metrics.mean_absolute_error(y, prediction)),
    }


def _finite(what, array):
    """The array in float64, once it is neither empty nor has NaN or infinity."""
    array = np.asarray(array, np.float64)
    if array.size == 0:
        raise UsageError(f"expected {what}, found none: shape {array.shape}")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        raise UsageError(
            f"expected finite {what}, found {len(bad)} NaN or infinite values, the "
            f"first in example {bad[0][0] if array.ndim else 0}"
        )
    return array


def transduction(
    found: Sequence[Sequence[str]], wanted: Sequence[Sequence[Sequence[str]]]
) -> dict[str, float]:
    """Error rates of sequences, each beside all those that would be right.

    "per": the fewest insertions, deletions and substitutions to the nearest right one,
    of all sequences together, over the lengths of these (of phonemes: the PER). "wer":
    the share of sequences that are none of the right ones (of words: the WER).
    """
    if not found or len(found) != len(wanted):
        raise UsageError(
            f"expected as many sequences as answers, found {len(found)} and "
            f"{len(wanted)}"
        )
    edits = length = wrong = 0
    for one, answers in zip(found, wanted, strict=True):
        nearest = min((distance(one, answer), len(answer)) for answer in answers)
        edits, length = edits + nearest[0], length + nearest[1]
        wrong += nearest[0] > 0
    return {"per": edits / max(length, 1), "wer": wrong / len(found)}


def distance(a: Sequence[str], b: Sequence[str]) -> int:
    """The fewest insertions, deletions and substitutions that make b of a.

    Wagner & Fischer, "The string-to-string correction problem", 1974.
    """
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            here = min(row[j] + 1, row[j - 1] + 1, before + (x != y))
            before, row[j] = row[j], here
    return row[-1]


def frechet(a: Any, b: Any) -> float:
    """The Frechet distance of two sets of features [N, F] and [M, F] as normals.

    |mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)), A and B their covariances (Dowson &
    Landau 1982; of images' features: Heusel et al. 2017, arXiv:1706.08500, equation 6).
    Raises UsageError for other shapes and fewer than two rows.
    """
    a, b = _finite("features", a), _finite("features", b)
    if a.ndim != 2 or a.shape[1:] != b.shape[1:] or min(len(a), len(b)) < 2:
        raise UsageError(
            f"expected features [N, F] and [M, F], found shapes {a.shape} and {b.shape}"
        )
    first, second = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    # A B and A^(1/2) B A^(1/2) have the same eigenvalues; the second is symmetric
    both = np.linalg.eigvalsh(root @ second @ root).clip(0)
    shift = np.square(a.mean(0) - b.mean(0)).sum()
    spread = np.trace(first) + np.trace(second) - 2 * np.sqrt(both).sum()
    return float(shift + spread)
