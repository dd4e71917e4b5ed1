"""Whether probabilities are what they say: proper scores, calibration, uncertainty.

Guo et al., "On calibration of modern neural networks", 2017, arXiv:1706.04599.
Shapes: S members, N examples, K classes, M bins.
"""

from typing import Any, NamedTuple

import numpy as np

from train.report.metrics import check_probabilities


class Bins(NamedTuple):
    """Predictions by their confidence: means of each bin, NaN where it is empty."""

    confidence: np.ndarray  # [M]
    accuracy: np.ndarray  # [M]
    size: np.ndarray  # how many they are: [M]

    @property
    def error(self) -> float:
        """The expected calibration error: mean |accuracy - confidence| of examples."""
        some = self.size > 0
        off = np.abs(self.accuracy - self.confidence)[some]
        return float(np.sum(off * self.size[some]) / self.size.sum())


def bins(probabilities: Any, y: Any, m: int = 15) -> Bins:
    """Probabilities [N, K], labels [N] -> M bins of equal width. Raises UsageError."""
    p, y = _checked(probabilities, y)
    confidence, right = p.max(1), p.argmax(1) == y
    at = np.minimum((confidence * m).astype(int), m - 1)
    count = np.bincount(at, minlength=m)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(at, v, minlength=m) / count for v in (confidence, right)]
    return Bins(means[0], means[1], count)


def scores(probabilities: Any, y: Any) -> dict[str, float]:
    """Accuracy, log-loss in nats, Brier score, expected calibration error.

    The Brier score is sum_k (p_k - [y = k])^2, in [0, 2]. Raises UsageError.
    """
    p, y = _checked(probabilities, y)
    truth = np.eye(p.shape[1])[y]
    with np.errstate(divide="ignore"):
        nats = -np.log(p[np.arange(len(y)), y])
    return {
        "accuracy": float(np.mean(p.argmax(1) == y)),
        "log_loss": float(nats.mean()),
        "brier": float(((p - truth) ** 2).sum(1).mean()),
        "calibration_error": bins(p, y).error,
    }


def tempered(probabilities: Any, temperature: float) -> np.ndarray:
    """softmax(log p / T): flatter above 1. Probabilities [..., K]."""
    p = np.asarray(probabilities, np.float64)
    logits = np.log(np.maximum(p, 1e-300)) / temperature
    logits -= logits.max(-1, keepdims=True)
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def temperature(probabilities: Any, y: Any) -> float:
    """The temperature of the least log-loss, on rows that were neither trained on nor
    are tested on: probabilities [N, K], labels [N]. Raises UsageError."""
    from scipy.optimize import minimize_scalar  # half a second to import

    p, y = _checked(probabilities, y)

    def loss(log_t):
        q = tempered(p, np.exp(log_t))
        return -np.log(np.maximum(q[np.arange(len(y)), y], 1e-300)).mean()

    return float(np.exp(minimize_scalar(loss, bounds=(-4, 4), method="bounded").x))


def entropy(probabilities: Any) -> np.ndarray:
    """-sum p log p in nats, [..., K] -> [...]."""
    p = np.asarray(probabilities, np.float64)
    return -np.sum(p * np.log(np.maximum(p, 1e-300)), -1)


def disagreement(members: Any) -> np.ndarray:
    """The entropy of the mean less the mean entropy, of members [S, N, K]: [N].

    What members do not agree on, and more data would tell: the mutual information of
    the label and the member (Houlsby et al. 2011, arXiv:1112.5745).
    """
    p = np.asarray(members, np.float64)
    return entropy(p.mean(0)) - entropy(p).mean(0)


def auroc(familiar: Any, strange: Any) -> float:
    """How well scores [N], [M] tell strange inputs, of higher ones: 0.5 by luck."""
    from sklearn.metrics import roc_auc_score

    found = np.concatenate([familiar, strange])
    return float(roc_auc_score(np.arange(len(found)) >= len(familiar), found))


def _checked(probabilities, y):
    p, y = np.asarray(probabilities, np.float64), np.asarray(y)
    check_probabilities(p, y, p.shape[-1])
    return p / p.sum(1, keepdims=True), y
