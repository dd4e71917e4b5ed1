"""What can be told from features by a line: logistic regression on few of their labels.

Alain & Bengio, "Understanding intermediate layers using linear classifier probes",
2016, arXiv:1610.01644.
Shapes: N examples, F features.
"""

from typing import Any

import numpy as np

from train.data import Data
from train.report.measure import tested

PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)  # scikit-learn's C
FOLDS = 5


def probes(seen: np.ndarray, test: np.ndarray, data: Data) -> dict[str, float]:
    """Accuracy on test images, of probes of features [N, F] of training and test ones.

    "probe" learns from the rows that are "known", "probe_all" from all; "pixels" from
    the images that are known themselves, and "gain" is what the features add to that.
    """
    train, of_test = data.train, tested(data)
    known = train["known"]
    few, y = train["y"][known], of_test["y"]
    strength, found = _told(seen[known], few, test, y)
    _, pixels = _told(*(flat(train["x"][known]), few, flat(of_test["x"]), y))
    _, every = _told(seen, train["y"], test, y, (strength,))
    scores = {"probe": found, "pixels": pixels, "gain": found - pixels}
    return scores | {"probe_all": every}


def flat(x: np.ndarray) -> np.ndarray:
    """Examples [N, ...] -> [N, D]."""
    return x.reshape(len(x), -1)


def _told(x, y, test, truth, penalties=PENALTIES) -> tuple[float, float]:
    """The penalty that folds of the examples find best, and the accuracy with it.

    Features are scaled as one: pixels that hardly change stay small.
    """
    from sklearn.linear_model import LogisticRegression  # a second to import
    from sklearn.model_selection import cross_val_score

    mean, scale = x.mean(0), x.std() or 1.0
    x, test = (x - mean) / scale, (test - mean) / scale

    def probe(penalty) -> Any:
        return LogisticRegression(C=penalty, max_iter=2000)

    best, folds = penalties[len(penalties) // 2], min(FOLDS, np.bincount(y).min())
    if len(penalties) > 1 and folds > 1:  # else each class is not in each fold
        scores = [cross_val_score(probe(c), x, y, cv=folds).mean() for c in penalties]
        best = penalties[int(np.argmax(scores))]
    return best, float(probe(best).fit(x, y).score(test, truth))


def neighbours(features: np.ndarray, at: np.ndarray, n: int) -> np.ndarray:
    """The n examples whose features [N, F] are nearest to those of each at [M].

    By the angle between them from their mean; each is its own first: [M, n].
    """
    z = features - features.mean(0)
    z = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    cosine = z[at] @ z.T
    cosine[np.arange(len(at)), at] = np.inf
    return np.argsort(-cosine, axis=1, kind="stable")[:, :n]
