"""Searches that stop early find what the whole grid finds, for less."""

import jax
import numpy as np
import pytest

from train import data as sets
from train import loop, many, mesh, optim, source
from zoo import cnn, mlp, supervised
from zoo.base import UsageError

DIGITS = sets.load("digits", holdout=0.3)
ROWS = source.examples(DIGITS.train, 32)
TEST = {name: array[:300] for name, array in DIGITS.test.items()}
RATES = np.geomspace(1e-5, 1.0, 8)
QUIET = {"evaluation": TEST, "progress": False}


def make(learning_rate):
    task = supervised.task(mlp.MLP(10, (16,)), supervised.classes)
    return task, optim.optimizer("momentum", learning_rate)


@pytest.mark.contract
def test_halving_finds_what_the_grid_finds_for_half():
    options = {"seeds": 5, "axes": {"learning_rate": RATES}, **QUIET}
    whole = many.sweep(make, ROWS, 160, **options)
    loss = np.where(whole.diverged, np.inf, whole.scores["loss"]).reshape(5, 8)
    found = many.halving(make, ROWS, 160, **options)
    assert found.setting() == {"learning_rate": RATES[loss.mean(0).argmin()]}
    assert found.steps <= 0.5 * 160 * 40 and found.ended == "finished"
    # 8, 4, 2 and 1 settings
    reached = np.sort(found.reached.reshape(5, 8), 1)
    assert reached.tolist() == [[20] * 4 + [40] * 2 + [80, 160]] * 5
    # who went on, went on as if alone
    seed, rate = (found.settings[name][found.best] for name in found.settings)
    alone = loop.fit(
        *make(float(rate)), ROWS, steps=160, seed=int(seed), progress=False
    )
    for a, b in zip(*map(jax.tree.leaves, (found.trained, alone.trained)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.contract
def test_each_rung_is_a_program_of_its_size(monkeypatch):
    names, plain = [], mesh.compiled

    def count(function, *args, **options):
        program, name = plain(function, *args, **options)
        names.append(name)
        return program, name

    monkeypatch.setattr(mesh, "compiled", count)
    many.halving(make, ROWS, 8, axes={"learning_rate": RATES}, rungs=2, **QUIET)
    assert len(set(names)) == len(names) == 5  # initial states; two of steps, of scores


@pytest.mark.contract
def test_what_is_good_is_told_by_the_metric():
    options = {"axes": {"learning_rate": [1e-6, 0.1]}, **QUIET}
    for flags in ({}, {"metric": "accuracy", "greatest": True}):
        found = many.halving(make, ROWS, 40, **options, **flags)
        assert found.setting() == {"learning_rate": 0.1}
    worst = many.halving(make, ROWS, 40, metric="accuracy", **options)
    assert worst.setting() == {"learning_rate": 1e-6}
    with pytest.raises(UsageError, match="did you mean 'accuracy'"):
        many.halving(make, ROWS, 8, metric="acuracy", **options)


@pytest.mark.contract
def test_a_population_evolves_to_better_rates():
    poor = {"learning_rate": np.geomspace(1e-6, 1e-4, 10)}
    plain = many.sweep(make, ROWS, 200, axes=poor, **QUIET)
    found = many.evolve(
        make, ROWS, 200, axes=poor, every=10, share=0.3, change=2.0, **QUIET
    )
    assert found.settings["learning_rate"].max() > 1e-3
    assert found.scores[found.best] < 0.8 * plain.scores["loss"].min()
    assert found.steps == 2000 and (found.reached == 200).all()


@pytest.mark.contract
def test_a_member_that_is_never_copied_is_the_training_alone():
    axes = {"learning_rate": [1e-1, 1e-2, 1e-6, 1e-7]}
    found = many.evolve(make, ROWS, 30, axes=axes, every=10, share=0.25, **QUIET)
    rate = found.settings["learning_rate"]
    assert rate[:2].tolist() == [1e-1, 1e-2] and rate[3] > 1e-3
    alone = many.sweep(make, ROWS, 30, axes={"learning_rate": [1e-1, 1e-2]}, **QUIET)
    np.testing.assert_allclose(found.scores[:2], alone.scores["loss"], rtol=1e-4)
    with pytest.raises(UsageError, match="a change above 1"):
        many.evolve(make, ROWS, 4, axes=axes, every=2, change=1.0, **QUIET)


@pytest.mark.long
@pytest.mark.slow
def test_halving_finds_what_the_grid_finds_of_a_cnn_too():
    def convolutional(learning_rate):
        model = cnn.CNN(10, channels=(8,), widths=(32,))
        task = supervised.task(model, supervised.classes)
        return task, optim.optimizer("adamw", learning_rate)

    options = {"seeds": 5, "axes": {"learning_rate": np.geomspace(1e-5, 1, 6)}, **QUIET}
    whole = many.sweep(convolutional, ROWS, 160, **options)
    loss = np.where(whole.diverged, np.inf, whole.scores["loss"]).reshape(5, 6)
    found = many.halving(convolutional, ROWS, 160, **options)
    best = options["axes"]["learning_rate"][loss.mean(0).argmin()]
    assert found.setting() == {"learning_rate": best}
    assert found.steps <= 0.5 * 160 * 30


@pytest.mark.contract
def test_what_diverged_is_the_worst_by_any_metric():
    """Of NaN the greatest is class 0: it would be right as often as that is."""
    zeros = {name: rows[TEST["y"] == 0] for name, rows in TEST.items()}
    options = {"axes": {"learning_rate": [1e-6, 1e30]}, "evaluation": zeros}
    swept = many.sweep(make, ROWS, 8, progress=False, **options)
    assert swept.diverged.tolist() == [False, True]
    assert np.isnan(swept.scores["accuracy"]).tolist() == [False, True]
    flags = {"metric": "accuracy", "greatest": True, "progress": False}
    found = many.halving(make, ROWS, 8, **options, **flags)
    assert found.setting() == {"learning_rate": 1e-6}


@pytest.mark.contract
def test_whole_numbers_evolve_too_and_what_is_refused_does_not():
    def dropping(dropout, width):
        model = mlp.MLP(10, (16,), dropout=dropout)
        task = supervised.task(model, supervised.classes, l2=1e-9 * width)
        supervised.smoothed(dropout)  # refuses 1 and more
        return task, optim.optimizer("adam", 1e-2)

    axes = {("dropout", "width"): [(0.0, 1), (0.95, 2), (0.9, 3), (0.99, 4)]}
    found = many.evolve(
        dropping, ROWS, 20, axes=axes, every=5, share=0.5, change=4.0, **QUIET
    )
    assert found.settings["width"].dtype == float
    assert (found.settings["dropout"] < 1).all() and found.ended == "finished"
