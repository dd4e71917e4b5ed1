"""Five folds of twenty penalties of logistic regression, here and by scikit-learn."""

import time
import warnings
from typing import Any

import numpy as np

FOLDS, STRENGTHS = 5, np.geomspace(1e-3, 1e2, 20)  # C of scikit-learn
STEPS = 12  # of Newton's method
SOLVER: dict[str, Any] = {"solver": "newton-cholesky", "tol": 1e-8, "max_iter": 1000}


def ours(rows: dict, parts: list) -> np.ndarray:
    """`train.many.cross_validate`: one program, and the best on all rows."""
    from train import many, optim
    from zoo import linear

    which = many.folds(rows, FOLDS, seed=0)

    def make(strength, rows):
        task = linear.logistic(l2=1 / (2 * rows * strength))
        return task, optim.optimizer("newton")

    return many.cross_validate(
        *(make, rows, STEPS),
        which=which,
        axes={"strength": STRENGTHS},
        log_every=STEPS,
        progress=False,
    ).scores


def grid(rows: dict, parts: list) -> np.ndarray:
    """scikit-learn's `GridSearchCV` of a pipeline that scales within the fold."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(**SOLVER)),
        {"logisticregression__C": STRENGTHS},
        cv=parts,
        scoring="neg_log_loss",
    ).fit(rows["x"], rows["y"])
    each = [found.cv_results_[f"split{k}_test_score"] for k in range(FOLDS)]
    return -np.transpose(each)


def path(rows: dict, parts: list) -> np.ndarray:
    """scikit-learn's `LogisticRegressionCV`: scaled by all rows, for it cannot else."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.preprocessing import StandardScaler

    x = StandardScaler().fit_transform(rows["x"])
    options: dict[str, Any] = {"cv": parts, "scoring": "neg_log_loss", **SOLVER}
    found = LogisticRegressionCV(Cs=STRENGTHS, **options)
    scores = found.fit(x, rows["y"]).scores_
    scores = next(iter(scores.values())) if isinstance(scores, dict) else scores
    return -np.reshape(scores, (FOLDS, -1)).T


PEERS = {"cross_validate": ours, "GridSearchCV": grid, "LogisticRegressionCV": path}


def searched(peer: str) -> dict[str, Any]:
    """Seconds of a search in this process, what it imports among them; its scores."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.model_selection import StratifiedKFold

    x, y = load_breast_cancer(return_X_y=True)  # 569 rows of 30 features
    # scikit-learn solves in the type it is given; in float32 it stops too early
    kind = np.float32 if peer == "cross_validate" else np.float64
    rows = {"x": x.astype(kind), "y": y.astype(np.int32)}
    splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    parts = list(splitter.split(x, y))
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    scores = PEERS[peer](rows, parts)
    first = time.perf_counter() - began
    began = time.perf_counter()
    PEERS[peer](rows, parts)
    again = time.perf_counter() - began
    return {"first": first, "again": again, "scores": scores.tolist()}
