"""Ensembles and calibration: closed forms, and what every ensemble must hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from train import data as sets
from train import evaluate, loop, many, optim, source
from train.many import ensemble
from train.report import calibration, charts
from zoo import mlp, supervised
from zoo.base import UsageError

DIGITS = sets.load("digits", holdout=0.5)
ROWS = source.examples(DIGITS.train, 64)
TEST = DIGITS.test
MODEL = mlp.MLP(10, (32,), dropout=0.2)
TASK = supervised.task(MODEL, supervised.classes)


def make(learning_rate=3e-3):
    return TASK, optim.optimizer("adamw", learning_rate)


@pytest.fixture(scope="module")
def swept():
    return many.sweep(make, ROWS, 150, seeds=5, progress=False)


def test_members_predict_as_each_alone(swept):
    each = ensemble.predictions(TASK, swept.trained(), TEST["x"], batch_size=100)
    assert each.shape == (5, len(TEST["x"]), 10)
    alone = evaluate.predict(TASK, swept.trained(3), TEST["x"])
    np.testing.assert_allclose(each[3], alone, rtol=1e-4, atol=1e-6)


def test_an_ensemble_is_no_worse_than_its_members(swept):
    """By convexity: the loss of the mean is at most the mean of the losses."""
    each = ensemble.predictions(TASK, swept.trained(), TEST["x"])
    members = [calibration.scores(p, TEST["y"]) for p in each]
    whole = calibration.scores(each.mean(0), TEST["y"])
    for name in ("log_loss", "brier"):
        assert whole[name] < np.mean([m[name] for m in members])


def test_scores_are_their_formulas():
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.6, 0.3, 0.1]])
    y = np.array([0, 1, 1, 2])
    found = calibration.scores(p, y)
    assert found["accuracy"] == 0.5
    nats = -np.mean(np.log([0.7, 0.8, 0.3, 0.1]))
    assert found["log_loss"] == pytest.approx(nats)
    assert found["log_loss"] == pytest.approx(metrics.log_loss(y, p))
    squares = [0.09 + 0.05, 0.06 - 0.0, 0.09 + 0.49 + 0.16, 0.36 + 0.09 + 0.81]
    assert found["brier"] == pytest.approx(np.mean(squares))
    # two bins: 0.4 alone, which is wrong; 0.6, 0.7, 0.8, of which two are right
    binned = calibration.bins(p, y, 2)
    assert binned.size.tolist() == [1, 3]
    assert binned.error == pytest.approx((0.4 + 3 * abs(2 / 3 - 0.7)) / 4)


def test_what_says_its_own_frequency_is_calibrated():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 40_000)
    y = (rng.uniform(size=(len(p), 1)) > p.cumsum(1)).sum(1)
    assert calibration.bins(p, y).error < 0.01
    assert calibration.temperature(p, y) == pytest.approx(1, abs=0.02)
    # sharpened by a power, it is too sure, and the temperature is that power
    sure = calibration.tempered(p, 0.5)
    np.testing.assert_allclose(sure, p**2 / (p**2).sum(1, keepdims=True), rtol=1e-6)
    assert calibration.bins(sure, y).error > 0.05
    assert calibration.temperature(sure, y) == pytest.approx(2, abs=0.05)


def test_disagreement_is_between_members():
    same = np.tile([[[0.5, 0.5]]], (4, 3, 1))
    np.testing.assert_allclose(calibration.disagreement(same), 0, atol=1e-12)
    np.testing.assert_allclose(calibration.entropy(same.mean(0)), np.log(2))
    opposed = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    np.testing.assert_allclose(calibration.disagreement(opposed), np.log(2))
    assert calibration.auroc([0, 1, 2], [3, 4]) == 1
    assert calibration.auroc([0, 2], [1]) == 0.5


def test_strange_inputs_are_told(swept):
    strange = np.random.default_rng(0).permuted(TEST["x"].reshape(len(TEST["x"]), -1))
    strange = strange.reshape(TEST["x"].shape)
    found = [
        calibration.entropy(ensemble.predictions(TASK, swept.trained(), x).mean(0))
        for x in (TEST["x"], strange)
    ]
    assert calibration.auroc(*found) > 0.9


def test_dropout_draws_networks(swept):
    found = swept.trained(0)
    x = TEST["x"][:50]
    each = ensemble.dropped(MODEL, jax.nn.softmax, found, x, samples=200)
    assert each.shape == (200, 50, 10) and np.std(each, 0).max() > 0.01
    again = ensemble.dropped(MODEL, jax.nn.softmax, found, x, samples=200)
    np.testing.assert_array_equal(each, again)
    # no dropout, no difference
    plain = ensemble.dropped(
        mlp.MLP(10, (32,)), jax.nn.softmax, found, x, samples=2, seed=1
    )
    np.testing.assert_array_equal(plain[0], plain[1])
    alone = evaluate.predict(TASK, found, x)
    np.testing.assert_allclose(plain[0], alone, rtol=1e-4, atol=1e-6)
    norm = mlp.MLP(10, (4,), batch_norm=True)
    variables = norm.init(jax.random.key(0), x)
    params = variables.pop("params")
    with pytest.raises(UsageError, match="without batch norm"):
        ensemble.dropped(
            norm, jax.nn.softmax, loop.one.Trained(params, variables), x, samples=2
        )


@pytest.mark.contract
def test_snapshots_and_their_mean():
    keep, kept = ensemble.snapshots(20)
    options = {"log_every": 10, "callbacks": (keep,), "progress": False}
    done = loop.fit(*make(), ROWS, steps=60, **options)
    assert len(kept) == 3
    for k, snapshot in enumerate(kept):
        shorter = loop.fit(*make(), ROWS, steps=20 * (k + 1), progress=False)
        jax.tree.map(np.testing.assert_array_equal, snapshot, shorter.trained)
    jax.tree.map(np.testing.assert_array_equal, kept[-1], done.trained)
    middle = ensemble.mean(ensemble.stacked(kept))
    wanted = jax.tree.map(lambda *a: sum(a) / 3, *kept)
    for a, b in zip(*map(jax.tree.leaves, (middle, wanted)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    counted = loop.one.Trained({}, {"count": jnp.array([3, 4])})
    assert ensemble.mean(counted).model["count"] == 3


def test_pictures_show_what_they_are_given(swept):
    each = ensemble.predictions(TASK, swept.trained(), TEST["x"])
    figure = charts.reliability({"member": each[0], "mean": each.mean(0)}, TEST["y"])
    assert [axes.get_xlabel() for axes in figure.axes] == ["confidence"] * 2
    table = {"a": [1, 1, 2, 2], "b": [3, 4, 3, 4], "loss": [0.1, 0.2, 0.3, np.nan]}
    drawn = charts.heat(table, "a", "b", "loss").axes[0]
    assert [t.get_text() for t in drawn.texts] == ["0.1", "0.3", "0.2", "-"]
    with pytest.raises(UsageError, match="expected one of a, b, loss"):
        charts.heat(table, "a", "c", "loss")
    steps, losses = [10, 20, 30], np.array([[3, 2, 1], [5, 4, 3], [9, np.inf, 7.0]])
    drawn = charts.bands(steps, losses, np.array([0.1, 0.1, 0.5]), "rate").axes[0]
    np.testing.assert_array_equal(drawn.lines[0].get_ydata(), [4, 3, 2])
    np.testing.assert_array_equal(drawn.lines[1].get_xdata(), [10, 30])
    np.testing.assert_array_equal(drawn.lines[1].get_ydata(), [9, 7])
    assert [t.get_text() for t in drawn.get_legend().texts] == ["0.1", "0.5"]


@pytest.mark.slow
def test_pictures_of_clothes_are_told_from_digits():
    """Where the machine has Fashion-MNIST."""
    try:
        clothes = sets.load("fashion_mnist").test["x"][:1000]
    except UsageError as error:
        pytest.skip(str(error))
    digits = sets.load("mnist5k")
    model = mlp.MLP(10, (512,), dropout=0.3)
    task = supervised.task(model, supervised.classes)

    def wide():
        return task, optim.optimizer("adamw", 1e-3)

    rows = source.examples(digits.train, 64)
    found = many.sweep(wide, rows, 1500, seeds=5, progress=False)
    both = digits.test["x"], clothes
    deep = [ensemble.predictions(task, found.trained(), x) for x in both]
    drawn = [
        ensemble.dropped(model, jax.nn.softmax, found.trained(0), x, samples=30)
        for x in both
    ]
    ways = {
        "one network, entropy": [calibration.entropy(each[0]) for each in deep],
        "ensemble, entropy": [calibration.entropy(each.mean(0)) for each in deep],
        "ensemble, disagreement": [calibration.disagreement(each) for each in deep],
        "dropout, entropy": [calibration.entropy(each.mean(0)) for each in drawn],
        "dropout, disagreement": [calibration.disagreement(each) for each in drawn],
    }
    told = {name: calibration.auroc(*measures) for name, measures in ways.items()}
    print(told)
    assert told["ensemble, entropy"] > told["one network, entropy"] > 0.8
    assert min(told.values()) > 0.8
