"""Recipes against scikit-learn and closed forms; their scores in slow tests."""

import json

import numpy as np
import pytest
from sklearn.linear_model import Lasso, LogisticRegression, Ridge

from tests.conftest import CORA
from train import data as sets
from train import loop
from train.evaluate import evaluate
from train.recipes import RECIPES, prepare
from zoo.base import UsageError


def fit(recipe, seed=0):
    training = recipe.training
    return loop.fit(
        recipe.task,
        recipe.optimizer,
        recipe.source(),
        steps=training.steps,
        accumulate=training.accumulate,
        ema=training.ema,
        seed=seed,
        progress=False,
    )


def scores_of(recipe):
    return recipe.report.measure(fit(recipe).trained, recipe.parts).scores


def weights(recipe):
    """Coefficients [D, K], intercepts [K], and the training data in float64."""
    dense = fit(recipe).trained.params["dense"]
    x, y = recipe.data.train["x"], recipe.data.train["y"]
    return dense["kernel"], dense["bias"], x.reshape(len(x), -1).astype(float), y


def test_linear_equals_the_closed_form():
    recipe = prepare(RECIPES["linear"])
    w, b, x, y = weights(recipe)
    ones = np.ones((len(x), 1))
    exact = np.linalg.solve(*_normal(np.hstack([x, ones]), y.astype(float)))
    np.testing.assert_allclose(np.append(w, b), exact, atol=1e-5)
    # and in the data's own units: relative to the largest of the coefficients
    schema = recipe.data.schema
    own = np.asarray(w)[:, 0] * schema.target[1] / np.asarray(schema.scale)
    from sklearn.datasets import load_diabetes

    raw, target = load_diabetes(return_X_y=True, scaled=False)
    raw = np.hstack([raw, np.ones((len(raw), 1))])
    exact = np.linalg.lstsq(raw, target)[0]
    np.testing.assert_allclose(own, exact[:-1], rtol=1e-4)
    residual = target - raw @ exact
    r2 = 1 - residual @ residual / np.sum((target - target.mean()) ** 2)
    assert r2 == pytest.approx(0.5177, abs=5e-5)


def _normal(x, y):
    return x.T @ x, x.T @ y


def test_ridge_equals_the_closed_form():
    w, b, x, y = weights(prepare(RECIPES["ridge"], alpha=3.0))
    x = x - x.mean(0)
    exact = np.linalg.solve(x.T @ x + 3.0 * np.eye(10), x.T @ (y - y.mean()))
    np.testing.assert_allclose(w[:, 0], exact, atol=1e-5)
    w, b, x, y = weights(prepare(RECIPES["ridge"]))
    np.testing.assert_allclose(w[:, 0], Ridge(1.0).fit(x, y).coef_, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.01, 0.1])
def test_lasso_equals_scikit_learn(alpha):
    w, b, x, y = weights(prepare(RECIPES["lasso"], alpha=alpha))
    exact = Lasso(alpha, tol=1e-10, max_iter=100_000).fit(x, y.astype(float)).coef_
    assert (exact == 0).any() and (exact != 0).any()
    np.testing.assert_allclose(w[:, 0], exact, atol=1e-3)
    np.testing.assert_allclose(w[exact == 0, 0], 0, atol=1e-5)


# the weaker the penalty, the flatter the minimum: at 30 float32 can still find it
@pytest.mark.parametrize("name, penalty", [("logistic", 1.0), ("softmax", 30.0)])
def test_classification_equals_scikit_learn(name, penalty):
    recipe = prepare(RECIPES[name], penalty=penalty)
    w, b, x, y = weights(recipe)
    exact = LogisticRegression(C=1 / penalty, tol=1e-9, max_iter=10_000).fit(x, y)
    np.testing.assert_allclose(np.asarray(w).T, exact.coef_, atol=1e-3)


def learned(name, gate, seed=0, **arguments):
    recipe = prepare(RECIPES[name], data=gate, **arguments)
    return evaluate(recipe.task, fit(recipe, seed).trained, recipe.data.train)


@pytest.mark.parametrize("gate", ["and", "or"])
def test_a_neuron_learns_what_a_line_parts(gate):
    found = learned("neuron", gate)
    assert found["accuracy"] == 1.0 and found["loss"] < 0.02


def test_a_neuron_cannot_learn_xor():
    # a line has three of the four right; the best p is 1/2 everywhere, its error 1/4
    found = learned("neuron", "xor")
    assert found["accuracy"] <= 0.75
    assert found["loss"] == pytest.approx(0.25, abs=1e-3)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_hidden_layer_learns_xor(seed):
    found = learned("mlp", "xor", seed, batch_size=4, steps=400, dropout=0.0)
    assert found["accuracy"] == 1.0 and found["loss"] < 0.05


def test_mlp_regresses_where_the_target_is_a_quantity():
    recipe = prepare(RECIPES["mlp"], data="diabetes", steps=300, dropout=0.0)
    assert recipe.data.schema.regression
    scores = scores_of(recipe)
    assert set(scores) == {"r2", "rmse", "mae"}
    assert 40 < scores["rmse"] < 80  # in the target's units, as the data are


@pytest.mark.parametrize("name", ["wine", "iris", "breast_cancer", "digits"])
def test_softmax_on_every_small_set(name):
    recipe = prepare(RECIPES["softmax"], data=name)
    assert scores_of(recipe)["accuracy"] > 0.92


def test_sequences_go_through_the_same_cnn():
    t = np.arange(40) / 40
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 64).astype(np.int32)
    phase = rng.uniform(0, 6, 64)
    x = np.sin((4 + 8 * y[:, None]) * 2 * np.pi * t + phase[:, None])
    x = x[..., None].astype(np.float32)
    schema = sets.Schema("waves", (40, 1), ("slow", "fast"), (0.0,), (1.0,))
    rows = {"x": x, "y": y}
    data = sets.Data(schema, rows, rows)
    recipe = prepare(RECIPES["cnn"], data=data, steps=60, batch_size=32)
    assert scores_of(recipe)["accuracy"] == 1.0


MINUTES = (
    *("resnet20", "char_lstm", "char_transformer"),
    *("seq2seq_lstm", "seq2seq_transformer", "copy"),
    *("conv_vae", "recurrent_vae", "gan", "dcgan", "wgan_gp"),
    *("conditional_gan", "semi_supervised_gan", "unet", "centernet"),
    *("drive_cnn", "drive_lstm", "rbm", "fasttext"),
)
GOALS = [n for n, row in RECIPES.items() if row.goal and n not in MINUTES]
LONG = [pytest.param(name, marks=pytest.mark.long) for name in MINUTES]


@pytest.mark.slow
@pytest.mark.parametrize("name", GOALS + LONG)
def test_a_recipe_reaches_its_goal(name, tmp_path, capsys):
    from train.cli.main import main

    if RECIPES[name].data in ("umls", "movielens_small", "fsdd"):
        try:
            prepare(RECIPES[name])
        except UsageError as error:
            pytest.skip(str(error))
    if RECIPES[name].data == "cora" and not CORA:
        pytest.skip("Cora is not on this computer")
    assert main(["train", name, "--out", str(tmp_path / name)]) == 0
    result = json.loads((tmp_path / name / "result.json").read_text())
    goal = RECIPES[name].goal
    score = result["metrics"][goal.metric]
    with capsys.disabled():
        print(f"\n{name}: {goal.metric} {score:.4f}, {result['seconds']:.1f} s")
    assert goal.reached(score)
    if name == "cnn":
        assert result["seconds"] < 180
