"""Several targets: quantities side by side, and labels that exclude none."""

import csv
import io
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as theirs
from sklearn.linear_model import Ridge

from train import data as sets
from train.recipes import saved
from train.recipes.export import program
from zoo import supervised
from zoo.base import UsageError

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(60, 3))
QUANTITIES = X @ [[1.0, 0.0], [-20.0, 3.0], [0.0, 1.0]] + [5.0, 100.0]
QUANTITIES += RANDOM.normal(size=(60, 2))
LABELS = (X[:, :2] + 0.5 * RANDOM.normal(size=(60, 2)) > [0.0, 1.0]).astype(int)


def table():
    heads = ["a", "b", "c", "height", "weight", "red", "round", "word"]
    words = np.array(["yes", "no"] * 30)
    rows = np.c_[X, QUANTITIES, LABELS].astype(object)
    with Path("t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([heads, *np.c_[rows, words]])


def columns(said):
    heads, *rows = csv.reader(io.StringIO(said))
    return heads, np.array(rows, float)


def test_ridge_of_two_columns_is_that_of_each(zoo):
    table()
    flags = "--data t.csv --target height,weight --alpha 9 --drop red,round,word"
    status, told, said = zoo(f"train ridge {flags} --out run")
    assert status == 0 and "│ height │" in told, said
    scores = json.loads(Path("run/result.json").read_text())
    assert "rmse" not in scores["metrics"]  # of centimetres and kilograms
    status, out, said = zoo("predict run t.csv")
    assert status == 0, said
    heads, found = columns(out)
    assert heads == ["height", "weight"] and found.shape == (60, 2)
    z = (X - X.mean(0)) / X.std(0)
    for i, name in enumerate(heads):
        y = QUANTITIES[:, i]
        wanted = Ridge(9).fit(z, y).predict(z)
        np.testing.assert_allclose(found[:, i], wanted, atol=1e-3 * y.std())
        # seen: a penalty that is not the mean's
        assert np.abs(Ridge(18).fit(z, y).predict(z) - wanted).max() > 0.01 * y.std()
        own = scores["metrics"]["per_target"][name]
        assert own["r2"] == pytest.approx(theirs.r2_score(y, wanted), abs=1e-4)
    assert scores["baselines"]["linear"]["r2"] > scores["metrics"]["r2"]
    assert Path("run/predictions.png").exists()
    # what is exported says the same
    run = saved.restore(Path("run"))
    call = program(run.experiment.task, run.trained, run.experiment.schema)
    np.testing.assert_allclose(call(jnp.asarray(X, jnp.float32)), found, rtol=1e-4)


@pytest.mark.contract
def test_labels_that_exclude_none_are_told_by_a_perceptron(zoo):
    table()
    flags = "--widths 8 --steps 150 --batch-size 16 --learning-rate 0.02 --out run"
    data = "--data t.csv --target red,round --drop height,weight,word"
    status, _, said = zoo(f"train mlp {data} {flags}")
    assert status == 0, said
    result = json.loads(Path("run/result.json").read_text())
    each = result["metrics"]["per_label"]
    assert set(each) == {"red", "round"}
    assert set(each["red"]) == {"f1", "roc_auc", "average_precision", "support"}
    assert result["metrics"]["roc_auc"] > 0.8
    assert Path("run/predictions.png").exists()
    assert result["baselines"]["linear"]["roc_auc"] > 0.8
    assert result["baselines"]["majority"]["roc_auc"] == 0.5
    heads, found = columns(zoo("predict run t.csv")[1])
    assert heads == ["red", "round", "p(red)", "p(round)"]
    np.testing.assert_array_equal(found[:, :2], found[:, 2:] > 0.5)
    assert (found[:, :2] == LABELS).mean() > 0.8
    assert "2 labels" in zoo("info run")[1]


def test_the_loss_of_labels_is_the_mean_of_their_log_losses():
    logits = RANDOM.normal(size=(7, 3)).astype(np.float32)
    y = RANDOM.integers(0, 2, (7, 3))
    found = supervised.labels.values(jnp.asarray(logits), jnp.asarray(y))
    p = np.asarray(supervised.labels.mean(jnp.asarray(logits)), float)
    each = [theirs.log_loss(y[:, k], p[:, k], labels=[0, 1]) for k in range(3)]
    assert float(found["loss"].mean()) == pytest.approx(np.mean(each), rel=1e-6)
    right = 1 - theirs.hamming_loss(y, p > 0.5)
    assert float(found["accuracy"].mean()) == pytest.approx(right)
    with pytest.raises(UsageError, match=r"labels \[B, K\] of the logits' shape"):
        supervised.labels.values(jnp.asarray(logits), jnp.asarray(y[:, 0]))


def test_arrays_of_several_targets_are_standardised_each(tmp_path):
    path = tmp_path / "t.npz"
    parts = {"x_train": X[:40], "y_train": QUANTITIES[:40]}
    np.savez(path, **parts, x_test=X[40:], y_test=QUANTITIES[40:])
    data = sets.load(path, several=True)
    assert data.schema.targets == ("y0", "y1") and data.schema.target_shape == (2,)
    assert data.schema.regression and not data.schema.multilabel
    np.testing.assert_allclose(data.train["y"].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(data.train["y"].std(0), 1, rtol=1e-5)
    back = sets.restore_target(data.schema, data.test["y"])
    np.testing.assert_allclose(back, QUANTITIES[40:], rtol=1e-5)
    schema = sets.from_json(json.loads(json.dumps(sets.to_json(data.schema))))
    assert schema == data.schema
    np.savez(path, x_train=X, y_train=LABELS)
    data = sets.load(path, several=True, holdout=0)
    assert data.schema.multilabel and data.schema.classes == ("y0", "y1")
    np.testing.assert_array_equal(data.train["y"], LABELS)
    assert data.train["y"].dtype == np.int32


def test_true_and_false_are_labels_as_1_and_0(tmp_path):
    path, lines = tmp_path / "t.csv", ["a,red,round"]
    lines += [f"{a},{r},{n == 1}" for a, (r, n) in zip(X[:, 0], LABELS, strict=True)]
    path.write_text("\n".join([*lines, "0.5,1,TRUE"]))
    data = sets.load(path, target="red,round", several=True, holdout=0)
    assert data.schema.classes == ("red", "round")
    np.testing.assert_array_equal(data.train["y"], [*LABELS, (1, 1)])


@pytest.mark.parametrize(
    "command, words",
    [
        ("ridge --target height,wieght", 'found "wieght"; did you mean'),
        ("ridge --target height,height", 'once, found "height" twice'),
        ("mlp --target height,word", 'numbers in the column "word"'),
        ("mlp --target height,red", "labels that are all 0 or 1"),
        ("logistic --target red,round", 'one target, found "red", "round"'),
        ("kmeans --target red,round", 'one target, found "red", "round"'),
        ("mlp --target red,round --class-weight balanced", "one class for each row"),
        ("mlp --target red,round --smoothing 0.1", "no smoothing but of classes"),
    ],
)
def test_targets_that_cannot_be_are_refused(zoo, command, words):
    table()
    status, _, said = zoo(f"train {command} --data t.csv")
    assert status == 2 and words in said and len(said.splitlines()) == 1
