"""Baselines are scikit-learn's of the training rows, on the rows of the model."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression

from train import data as sets
from train.cli import tables
from train.cli.main import main
from train.data import Data, views
from train.recipes import RECIPES, prepare
from train.report import baselines, metrics


def close(found, wanted):
    for name, value in found.items():
        assert value == pytest.approx(wanted[name], abs=1e-9), name


def test_classes_are_held_against_the_majority_and_a_linear_model():
    recipe = prepare(RECIPES["mlp"], "iris")
    train, test = recipe.parts.train, recipe.parts.test
    found = recipe.report.baselines(recipe.parts)
    assert list(found) == ["majority", "linear"]
    names = recipe.schema.classes
    for name, model in (
        ("majority", DummyClassifier(strategy="prior")),
        ("linear", LogisticRegression()),
    ):
        model.fit(train["x"].astype(float), train["y"])
        p = model.predict_proba(test["x"].astype(float))
        close(found[name], metrics.classification(p, test["y"], names))
    # fitted to the rows that are judged it is another
    other = recipe.parts._replace(train=test)
    assert recipe.report.baselines(other)["linear"] != found["linear"]


def test_quantities_are_held_against_the_mean_in_their_own_unit():
    recipe = prepare(RECIPES["mlp"], "diabetes")
    train, test = recipe.parts.train, recipe.parts.test
    found = recipe.report.baselines(recipe.parts)
    assert list(found) == ["mean", "linear"]
    y, judged = (sets.restore_target(recipe.schema, r["y"]) for r in (train, test))
    for name, model in (("mean", DummyRegressor()), ("linear", LinearRegression())):
        model.fit(train["x"].astype(float), y)
        values = model.predict(test["x"].astype(float))
        assert found[name] == pytest.approx(metrics.regression(values, judged))
    assert found["mean"]["rmse"] > 50  # of diabetes, in its unit


def test_without_a_test_part_both_are_judged_on_the_training_rows():
    recipe = prepare(RECIPES["linear"])
    assert recipe.parts.test is None
    found = recipe.report.baselines(recipe.parts)
    assert found["linear"]["r2"] == pytest.approx(0.5177, abs=1e-4)
    assert found["mean"]["r2"] == pytest.approx(0, abs=1e-12)


def test_labels_that_a_model_does_not_see_are_not_learned_from():
    few = {"x": np.eye(4), "y": np.arange(4), "known": np.array([1, 0, 1, 0], bool)}
    found = baselines.seen(few)
    assert set(found) == {"x", "y"} and found["y"].tolist() == [0, 2]


def test_what_would_take_long_or_has_no_numbers_is_left_out_and_said(monkeypatch):
    data = views.table(sets.Split("iris"))
    monkeypatch.setattr(baselines, "WORK", 1e5)
    found = baselines.found(data.schema, data.train, data.test)
    assert found["linear"] == "it would take long for 120 x 4 numbers"
    assert found["majority"]["accuracy"] == pytest.approx(1 / 3)
    ids = data.schema._replace(ids=(("a",),) * 4)
    assert "names" in baselines.found(ids, data.train, data.test)["linear"]
    one = {name: rows[data.train["y"] == 0] for name, rows in data.train.items()}
    assert "one class" in baselines.found(data.schema, one, data.test)["linear"]


@pytest.mark.contract
def test_a_score_that_is_the_majoritys_pleases_nobody(tmp_path, monkeypatch, capsys):
    """97 of 100 rows are of one class, which x does not tell."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("train.cli.main._cache", lambda: None)
    rng = np.random.default_rng(0)
    y = np.tile(np.arange(100) < 3, 4)
    np.savez("rare.npz", x_train=rng.normal(size=(400, 2)), y_train=y)
    assert main("train logistic --data rare.npz --out run".split()) == 0
    said = capsys.readouterr().out
    assert "no better than that of the majority" in said
    result = json.loads(Path("run/result.json").read_text())
    assert result["metrics"]["balanced_accuracy"] == 0.5
    assert result["baselines"]["majority"]["accuracy"] == pytest.approx(0.97, abs=0.01)
    linear = result["baselines"]["linear"]  # the same model as ours
    assert result["metrics"]["log_loss"] == pytest.approx(linear["log_loss"], abs=1e-3)
    for command in ("eval run", "info run"):
        assert main(command.split()) == 0
        again = capsys.readouterr().out
        assert "majority" in again and "linear" in again, command


def test_nodes_have_baselines_of_their_own_labels():
    recipe = prepare(RECIPES["karate"])
    found = recipe.report.baselines(recipe.parts)
    rows: Data = recipe.parts
    y = rows.test["y"][rows.test["mask"] > 0]
    assert found["majority"]["accuracy"] in [np.mean(y == c) for c in range(10)]


def test_scores_without_baselines_are_a_table_of_one_row(capsys):
    tables.scores({"loss": 1.0, "text": "no number"}, "a model")
    assert capsys.readouterr().out.count("1.0000") == 1
