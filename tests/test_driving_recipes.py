"""Drivers that were shown: their data, and how they drive, with corrections or not."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.conftest import small
from tests.test_recipes import fit
from train import step as one
from train.data import Data, Schema, Split
from train.recipes import RECIPES, driving, prepare
from zoo import actors, rollouts
from zoo import driving as roads
from zoo.base import UsageError

# compiling takes longer than what it shows
pytestmark = pytest.mark.contract

FEW = {"drivers": 2, "channels": (4,), "widths": (8,), "features": 8}


@pytest.mark.contract
def test_drives_are_of_their_seed_and_parts_share_no_road():
    def load(seed, **more):
        wanted = Split("drives", 0.1, seed)
        return prepare(RECIPES["drive_cnn"], wanted, **FEW | more).parts

    data, again, other = load(0), load(0), load(1)
    for part in ("train", "test", "watched"):
        rows = getattr(data, part)
        assert rows["x"].shape[1:] == data.schema.shape == (24, 24, 1)
        assert 0 <= rows["x"].min() < 0.1 and 0.9 < rows["x"].max() <= 1
        assert len(rows["y"]) == len(rows["x"]) and np.abs(rows["y"]).max() <= 1
        np.testing.assert_array_equal(rows["x"], getattr(again, part)["x"])
    assert data.schema.rows == len(data.train["x"]) == 2 * 120
    known = {x.tobytes() for x in data.train["x"]}
    for rows in (data.test, data.watched, other.train):
        assert known.isdisjoint(x.tobytes() for x in rows["x"])
    np.testing.assert_array_equal(data.test["x"], other.test["x"])


@pytest.mark.contract
def test_several_images_are_those_of_one_and_before_it():
    several = small("drive_lstm", 240).parts.train
    one = prepare(RECIPES["drive_cnn"], **FEW).parts.train
    assert several["x"].shape[1:] == (4, 24, 24, 1)
    np.testing.assert_allclose(several["x"][:, -1], one["x"], atol=1e-5)
    np.testing.assert_allclose(several["y"], one["y"], atol=1e-5)
    cars = several["x"].reshape(-1, 2, 4, 24, 24)[:, 0]  # of a step two rows
    np.testing.assert_array_equal(cars[5, :-1], cars[4, 1:])


def test_other_data_and_numbers_are_refused():
    for name, data, flags, message in (
        ("drive_cnn", "drivs", {}, "unknown data 'drivs'; did you mean 'drives'?"),
        ("drive_cnn", None, {"pushed": 1.5}, r"expected a share pushed in \[0, 1\]"),
        ("drive_cnn", None, {"drivers": 0}, "expected drivers between 1 and 10000"),
        ("drive_lstm", None, {"frames": 0}, "expected frames between 1 and 100"),
        ("drive_lstm", None, FEW | {"widths": ()}, "expected widths of 1 or more"),
    ):
        with pytest.raises(UsageError, match=message):
            prepare(RECIPES[name], data, **flags)
    rows = {"x": np.zeros((2, 28, 28, 1), "f4"), "y": np.zeros(2, "f4")}
    schema = Schema("digits", (28, 28, 1), (), (0.0,), (1.0,))
    message = r"expected images \[24, 24, 1\] of a road.*\(28, 28, 1\) in digits"
    with pytest.raises(UsageError, match=message):
        prepare(RECIPES["drive_cnn"], Data(schema, rows, rows))


@pytest.mark.contract
@pytest.mark.parametrize("name", ["drive_cnn", "drive_lstm"])
def test_a_driver_is_trained_measured_and_asked(name, zoo):
    flags = "--drivers 1 --channels 4 --widths 8 --features 8 --steps 3"
    status, _, err = zoo(f"train {name} {flags} --out run")
    assert status == 0, err
    scores = json.loads(Path("run/result.json").read_text())["metrics"]
    assert set(scores) == {"arrived", "metres", "rmse"}
    assert 0 <= scores["arrived"] <= 1 and 0 < scores["metres"] <= 120
    assert Path("run/episode.png").exists()
    assert zoo("eval run")[0] == 0
    size = (2, 24, 24, 1) if name == "drive_cnn" else (2, 4, 24, 24, 1)
    np.savez("seen.npz", x=np.zeros(size))
    status, out, err = zoo("predict run seen.npz")
    assert status == 0 and len(out.splitlines()) >= 2, err
    np.savez("seen.npz", x=np.zeros((2, 32, 32, 1)))
    status, _, err = zoo("predict run seen.npz")
    assert status != 0 and "(2, 32, 32, 1)" in err


@pytest.mark.contract
def test_a_correction_adds_what_the_learner_meets():
    recipe = small("drive_cnn")
    state = jax.jit(one.init, static_argnums=(0, 1))(
        recipe.task, recipe.optimizer, 0, recipe.parts.train
    )
    trained = one.Trained(state.params, state.model)
    more = driving.corrected(recipe.task, trained, recipe.parts, drivers=3)
    n = len(recipe.parts.train["x"])
    assert more.schema.rows == len(more.train["x"]) == n + 3 * 120
    np.testing.assert_array_equal(more.train["x"][:n], recipe.parts.train["x"])
    assert np.abs(more.train["y"][n:]).max() > 0.5  # it is soon far off the middle


@pytest.mark.long
@pytest.mark.slow
def test_corrections_teach_what_was_not_shown(capsys):
    """A learner of one drive, corrected in two of its own; and three that are shown."""
    found: dict[str, list[float]] = {}
    for seed in range(4):

        def load(drivers, pushed=0.0, seed=seed):
            more = {"drivers": drivers, "pushed": pushed, "steps": 500}
            return prepare(RECIPES["drive_cnn"], Split("drives", 0.0, seed), **more)

        def trained(name, recipe, seed=seed):
            done = fit(recipe, seed).trained
            score = recipe.report.measure(done, recipe.parts).scores["arrived"]
            found.setdefault(name, []).append(round(score, 2))
            return done

        trained("three", load(3))
        trained("three, pushed", load(3, 1.0))
        recipe = load(1)
        for i, name in enumerate(("one", "corrected once", "corrected twice")):
            done = trained(name, recipe)
            data = driving.corrected(
                recipe.task, done, recipe.parts, drivers=1, seed=10 * seed + i
            )
            recipe = recipe._replace(data=data, schema=data.schema)
    with capsys.disabled():
        print(f"\narrived: {found}")
    assert np.mean(found["corrected twice"]) > np.mean(found["one"]) + 0.05
    assert np.mean(found["three, pushed"]) >= 0.95


@pytest.mark.long
@pytest.mark.slow
def test_ppo_drives_by_rays(capsys):
    recipe = prepare(RECIPES["ppo"], "driving", steps=3904)
    trained = fit(recipe).trained
    world = roads.driving()
    act = actors.policy(world, recipe.network, trained.params)
    found = jax.jit(lambda key: rollouts.episodes(world, act, key, 100))(
        jax.random.key(7)
    )
    share = float(roads.arrived(found.reward).mean())
    with capsys.disabled():
        print(f"\nppo on rays: arrived {share}")
    assert share >= 0.95
