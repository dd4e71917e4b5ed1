"""Scores against small cases worked by hand, and the cases where they have no value."""

import json
import math

import numpy as np
import pytest
from sklearn import metrics as theirs

from train.report import metrics
from zoo.base import UsageError

THREE = ("a", "b", "c")


def test_three_classes_by_hand():
    p = [
        [0.7, 0.2, 0.1],  # a, right
        [0.3, 0.6, 0.1],  # a, said b
        [0.2, 0.5, 0.3],  # b, right
        [0.1, 0.8, 0.1],  # b, right
        [0.6, 0.3, 0.1],  # c, said a
        [0.1, 0.1, 0.8],  # c, right
    ]
    scores = metrics.classification(p, [0, 0, 1, 1, 2, 2], THREE)
    assert scores["confusion"] == [[1, 1, 0], [0, 2, 0], [1, 0, 1]]
    assert scores["accuracy"] == pytest.approx(4 / 6)
    expected = {
        # precision 1/2, recall 1/2; 2/3 and 1; 1 and 1/2
        "a": {"precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2, "support": 2},
        "b": {"precision": 2 / 3, "recall": 1.0, "f1": 4 / 5, "support": 2},
        "c": {"precision": 1.0, "recall": 1 / 2, "f1": 2 / 3, "support": 2},
    }
    for name, row in expected.items():
        assert scores["per_class"][name] == pytest.approx(row)
    assert scores["precision"] == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)
    assert scores["recall"] == pytest.approx(2 / 3)
    assert scores["f1"] == pytest.approx((1 / 2 + 4 / 5 + 2 / 3) / 3)
    logs = [math.log(q) for q in (0.7, 0.3, 0.5, 0.8, 0.1, 0.8)]
    assert scores["log_loss"] == pytest.approx(-sum(logs) / 6)
    # pairs (one, rest) that are ordered right, a tie counting half, of 2 x 4:
    # a: .7 beats 4, .3 beats 3; b: .5 beats 3 of .2 .6 .3 .1, .8 beats 4;
    # c: .1 ties 3 of .1 .1 .3 .1, .8 beats 4
    assert scores["roc_auc"] == pytest.approx((7 / 8 + 7 / 8 + 5.5 / 8) / 3)


def test_two_classes_by_hand():
    p = np.array([0.1, 0.4, 0.35, 0.8])  # of class 1
    two = np.stack([1 - p, p], axis=1)
    scores = metrics.classification(two, [0, 0, 1, 1], ("no", "yes"))
    assert scores["confusion"] == [[2, 0], [1, 1]]
    assert scores["accuracy"] == 3 / 4
    assert scores["roc_auc"] == pytest.approx(3 / 4)  # 3 of the 4 pairs
    assert scores["precision"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores["recall"] == pytest.approx((1 + 1 / 2) / 2)
    assert scores["f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    logs = [math.log(q) for q in (0.9, 0.6, 0.35, 0.8)]
    assert scores["log_loss"] == pytest.approx(-sum(logs) / 4)


@pytest.mark.parametrize("k", [2, 3, 10])
def test_scores_of_thresholds_are_scikit_learns_to_the_last_bit(k):
    rng = np.random.default_rng(k)
    y = np.r_[np.arange(k), rng.integers(0, k, 200), np.zeros(200, int)]  # skewed
    logits = np.round(rng.normal(size=(len(y), k)) + 1.5 * np.eye(k)[y], 1)  # ties
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    scores = metrics.classification(p, y, tuple("abcdefghij"[:k]))
    said = p.argmax(1)
    assert scores["balanced_accuracy"] == theirs.balanced_accuracy_score(y, said)
    assert scores["accuracy"] == theirs.accuracy_score(y, said)
    ranked = p[:, 1] if k == 2 else p
    auroc = theirs.roc_auc_score(y, ranked, multi_class="ovr", average="macro")
    assert scores["roc_auc"] == auroc
    precision = theirs.average_precision_score(y, ranked, average="macro")
    assert scores["average_precision"] == precision


def test_scores_of_several_labels_are_scikit_learns():
    rng = np.random.default_rng(0)
    y = (rng.random((60, 3)) < [0.5, 0.1, 0.8]).astype(int)
    p = np.round(np.clip(0.4 * y + 0.6 * rng.random((60, 3)), 0, 1), 1)
    scores, said = metrics.multilabel(p, y, THREE), p > 0.5
    assert scores["exact"] == theirs.accuracy_score(y, said)
    assert scores["accuracy"] == pytest.approx(1 - theirs.hamming_loss(y, said))
    for name, score, given in (
        ("f1", theirs.f1_score, said),
        ("roc_auc", theirs.roc_auc_score, p),
        ("average_precision", theirs.average_precision_score, p),
    ):
        assert scores[name] == pytest.approx(score(y, given, average="macro"))
        for i, label in enumerate(THREE):
            own = scores["per_label"][label][name]
            assert own == pytest.approx(score(y[:, i], given[:, i]))
    never = metrics.multilabel(p, y * [1, 0, 1], THREE)
    assert never["roc_auc"] is None and never["per_label"]["b"]["f1"] == 0
    json.dumps(never, allow_nan=False)
    for wrong in (y[:, :2], y + 1):
        with pytest.raises(UsageError, match="labels"):
            metrics.multilabel(p, wrong, THREE)


def test_absent_class_has_no_part_in_the_means():
    p = [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1]]
    scores = metrics.classification(p, [0, 1, 0], THREE)
    zero = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert scores["per_class"]["c"] == zero
    assert scores["roc_auc"] is None
    assert scores["recall"] == pytest.approx((1 / 2 + 1) / 2)
    assert scores["confusion"] == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("classes", [("no", "yes"), THREE], ids=len)
def test_one_example(classes):
    p = np.full((1, len(classes)), 1 / len(classes), np.float32)
    scores = metrics.classification(p, [0], classes)
    assert scores["accuracy"] == 1.0 and scores["roc_auc"] is None
    assert scores["log_loss"] == pytest.approx(math.log(len(classes)))


def test_float32_and_certain_probabilities():
    rng = np.random.default_rng(0)
    p = rng.random((500, 10)).astype(np.float32)
    p /= p.sum(axis=1, keepdims=True)
    p *= 1 + 1e-3 * rng.normal(size=(500, 1)).astype(np.float32)  # coarser than float32
    y = rng.integers(0, 10, 500).astype(np.int32)
    scores = metrics.classification(p, y, tuple("0123456789"))
    exact = p.astype(np.float64) / p.sum(axis=1, keepdims=True, dtype=np.float64)
    expected = -np.log(exact[np.arange(500), y]).mean()
    assert scores["log_loss"] == pytest.approx(expected)
    certain = metrics.classification([[1.0, 0.0], [1.0, 0.0]], [0, 1], ("no", "yes"))
    assert math.isfinite(certain["log_loss"])
    assert certain["roc_auc"] == 0.5


def test_json_can_write_the_scores():
    p = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
    scores = metrics.classification(p, np.array([1, 0], np.int32), ("no", "yes"))
    assert json.loads(json.dumps(scores)) == scores
    fit = metrics.regression(np.ones(3, np.float32), np.arange(3, dtype=np.float32))
    assert json.loads(json.dumps(fit)) == fit


def test_regression_by_hand():
    scores = metrics.regression([1.0, 2.0, 4.0], [1.0, 3.0, 5.0])
    # errors 0, 1, 1; around the mean 3 the squares are 4, 0, 4
    assert scores == pytest.approx(
        {"r2": 1 - 2 / 8, "rmse": math.sqrt(2 / 3), "mae": 2 / 3}
    )


def test_regression_of_two_outputs_is_the_mean_of_each():
    y = np.array([[1.0, 0.0], [3.0, 2.0]])
    scores = metrics.regression(y + np.array([[0.0, 1.0], [0.0, 1.0]]), y)
    # the second: errors 1, 1; squares around its mean 1 and 1
    assert scores == pytest.approx({"r2": (1 + 0) / 2, "rmse": 1 / 2, "mae": 1 / 2})


def test_regression_of_one_example_and_of_a_constant():
    scores = metrics.regression(np.float32([2.0]), np.float32([5.0]))
    assert scores == {"r2": None, "rmse": 3.0, "mae": 3.0}
    flat = metrics.regression([1.0, 1.0], [2.0, 2.0])
    assert flat["mae"] == 1.0 and math.isfinite(flat["r2"])


@pytest.mark.parametrize(
    "p, y",
    [
        ([[math.nan, 1.0]], [0]),
        ([[0.5, math.inf]], [0]),
        ([[3.0, -2.0]], [0]),
        ([[3.0, 2.0]], [0]),
        ([[0.0, 0.0]], [0]),
        ([0.5, 0.5], [0, 1]),
        ([[0.2, 0.3, 0.5]], [0]),
        ([[0.5, 0.5]], [[0]]),
        ([[0.5, 0.5]], [0, 1]),
        ([[0.5, 0.5]], [2]),
        ([[0.5, 0.5]], [-1]),
        ([[0.5, 0.5]], [0.0]),
        ([[0.5, 0.5]], ["no"]),
        (np.zeros((0, 2)), np.zeros(0, int)),
        (0.5, 0),
    ],
)
def test_what_cannot_be_scored_is_refused(p, y):
    with pytest.raises(UsageError, match="expected .*, found"):
        metrics.classification(p, y, ("no", "yes"))


@pytest.mark.parametrize(
    "prediction, y",
    [
        ([math.nan, 1.0], [0.0, 1.0]),
        ([0.0, 1.0], [math.inf, 1.0]),
        ([[0.0], [1.0]], [0.0, 1.0]),
        ([], []),
        (1.0, 1.0),
    ],
)
def test_what_is_no_regression_is_refused(prediction, y):
    with pytest.raises(UsageError, match="expected .*, found"):
        metrics.regression(prediction, y)
