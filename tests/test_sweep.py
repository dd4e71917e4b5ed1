"""Many trainings as one program: each member is as it would be alone."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import SMALL, each, quick, small
from train import data as sets
from train import loop, many, mesh, optim, source
from train.recipes import RECIPES
from train.recipes.members import members, numbers
from zoo import linear, mlp, supervised
from zoo.base import UsageError

DIGITS = sets.load("digits")
ROWS = source.examples(DIGITS.train, 32)
TEST = {name: array[:100] for name, array in DIGITS.test.items()}


def make(learning_rate=1e-2, l2=0.0):
    task = supervised.task(mlp.MLP(10, (16,)), supervised.classes, l2=l2)
    return task, optim.optimizer("adamw", learning_rate)


def sweep(*args, **options):
    options = {"progress": False, "log_every": 10, **options}
    return many.sweep(*args, **options)


def assert_close(one, two, **tolerance):
    for a, b in zip(*map(jax.tree.leaves, (one, two)), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


@pytest.mark.parametrize("mapping", ["vmap", "map"])
@pytest.mark.parametrize("devices", quick([1, 2], 2))
def test_a_member_is_the_training_alone(mapping, devices):
    axes = {"learning_rate": [1e-2, 1e-3], "l2": [0.0, 1e-3, 1e-2]}
    found = sweep(
        make,
        ROWS,
        35,
        seeds=[3, 8],
        axes=axes,
        evaluation=TEST,
        mapping=mapping,
        devices=devices,
    )
    assert found.scores["accuracy"].shape == (12,) and found.ended == "finished"
    assert found.history["step"].tolist() == [10, 20, 30, 35]
    for i in (0, 4, 11):
        seed, *own = (found.settings[k][i] for k in ("seed", "learning_rate", "l2"))
        task, optimizer = make(*map(float, own))
        options = {"seed": int(seed), "log_every": 10, "eval_every": 10}
        options["progress"] = False
        alone = loop.fit(task, optimizer, ROWS, steps=35, evaluation=TEST, **options)
        assert_close(found.trained(i), alone.trained, rtol=1e-4, atol=1e-5)
        losses = [record["loss"] for record in alone.records if "loss" in record]
        np.testing.assert_allclose(found.history["loss"][i, -1], losses[-1], rtol=1e-4)
        last = alone.records[-1]
        for name in ("loss", "accuracy"):
            wanted = last[f"eval_{name}"]
            assert found.scores[name][i] == pytest.approx(wanted, rel=1e-4)


def test_all_settings_are_one_program(monkeypatch):
    names = []
    plain = mesh.compiled

    def count(function, *args, **options):
        program, name = plain(function, *args, **options)
        names.append(name)
        return program, name

    monkeypatch.setattr(mesh, "compiled", count)
    rates = np.geomspace(1e-4, 1e-1, 7)
    sweep(make, ROWS, 25, seeds=3, axes={"learning_rate": rates}, evaluation=TEST)
    # initial states, steps, evaluation
    assert len(names) == len(set(names)) == 3


@pytest.mark.contract
def test_groups_that_fit_the_memory_are_the_same_sweep():
    axes = {"learning_rate": [1e-2, 1e-3, 1e-4]}
    whole = sweep(make, ROWS, 20, seeds=3, axes=axes, evaluation=TEST)
    table = many.settings(3, axes)
    one = many.Population(make, many.same(ROWS), table).begin().bytes()
    parts = sweep(make, ROWS, 20, seeds=3, axes=axes, evaluation=TEST, memory=one / 3.5)
    assert_close(whole.table, parts.table, rtol=1e-5, atol=1e-6)
    assert_close(whole.state, parts.state, rtol=1e-5, atol=1e-6)


def test_a_member_that_diverges_hurts_nobody():
    def steep(learning_rate):
        task = linear.regression()
        return task, optim.optimizer("sgd", learning_rate)

    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3)).astype(np.float32)
    rows = source.full({"x": x, "y": x.sum(1)})
    rates = [0.1, 1e6, 0.05]
    found = sweep(steep, rows, 60, axes={"learning_rate": rates})
    assert found.diverged.tolist() == [False, True, False]
    good = sweep(steep, rows, 60, axes={"learning_rate": [0.1, 0.05]})
    assert_close(found.trained([0, 2]), good.trained(), rtol=1e-4)
    assert found.table["diverged"][1] and np.isfinite(found.table["train_loss"][0])


def test_a_sweep_is_resumed_to_the_bit(tmp_path):
    axes = {"learning_rate": [1e-2, 1e-3]}
    options = {"seeds": 2, "axes": axes, "evaluation": TEST}
    whole = sweep(make, ROWS, 40, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.many.sweeps.SECONDS", 0.0)
        patch.setattr(many.Population, "on", failing(many.Population.on, 25))
        with pytest.raises(RuntimeError, match="cut"):
            sweep(make, ROWS, 40, checkpoints=tmp_path, **options)
    with pytest.raises(UsageError, match="resume=True goes on"):
        sweep(make, ROWS, 40, checkpoints=tmp_path, **options)
    with pytest.raises(UsageError, match="began with other seeds or settings"):
        sweep(
            make, ROWS, 40, checkpoints=tmp_path, resume=True, seeds=[0, 2], axes=axes
        )
    again = sweep(make, ROWS, 40, checkpoints=tmp_path, resume=True, **options)
    jax.tree.map(np.testing.assert_array_equal, again.table, whole.table)
    jax.tree.map(np.testing.assert_array_equal, again.history, whole.history)
    jax.tree.map(np.testing.assert_array_equal, again.state, whole.state)


def test_each_member_keeps_its_own_best_and_patience(tmp_path):
    rows = source.examples({k: a[:60] for k, a in DIGITS.train.items()}, 20)

    def averaged(learning_rate):
        return *make(learning_rate), 0.5

    axes = {"learning_rate": [0.2, 0.002]}
    watched = {"evaluation": TEST, "patience": 2, "eval_every": 7}
    found = sweep(averaged, rows, 100, axes=axes, **watched)
    assert found.ended == "finished"
    for i, rate in enumerate(axes["learning_rate"]):
        own = watched | {"steps": 100, "ema": 0.5, "progress": False}
        alone = loop.fit(*make(rate), rows, **own)
        records = [record for record in alone.records if "eval_loss" in record]
        best = min(records, key=lambda record: record["eval_loss"])
        assert (alone.ended == "early") == (best["step"] < 86)
        assert found.table["best_step"][i] == best["step"]
        assert found.scores["loss"][i] == pytest.approx(best["eval_loss"], rel=1e-4)
        assert_close(found.trained(i), alone.trained, rtol=1e-4, atol=1e-5)
    own = watched | {"axes": axes, "checkpoints": tmp_path}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.many.sweeps.SECONDS", 0.0)
        patch.setattr(many.Population, "on", failing(many.Population.on, 25))
        with pytest.raises(RuntimeError, match="cut"):
            sweep(averaged, rows, 100, **own)
    with pytest.raises(UsageError, match="use of patience: 14 steps, by 7, now 21"):
        sweep(averaged, rows, 100, resume=True, **own | {"patience": 3})
    again = sweep(averaged, rows, 100, resume=True, **own)
    jax.tree.map(np.testing.assert_array_equal, again.table, found.table)
    jax.tree.map(np.testing.assert_array_equal, again.best, found.best)


@pytest.mark.contract
def test_without_a_finite_evaluation_the_last_is_kept():
    def blind():
        task, optimizer = make()

        def loss(*args, train):
            value, aux = task.loss(*args, train=train)
            nothing = aux.metrics["loss"]._replace(total=jnp.nan)
            metrics = aux.metrics if train else aux.metrics | {"loss": nothing}
            return value, aux._replace(metrics=metrics)

        return task._replace(loss=loss), optimizer

    watched = {"evaluation": TEST, "patience": 1, "eval_every": 5}
    found = sweep(blind, ROWS, 20, **watched)
    alone = loop.fit(*blind(), ROWS, steps=20, progress=False, **watched)
    assert int(alone.state.step) == int(found.state.step) == 5
    assert_close(found.trained(0), alone.trained, rtol=1e-4, atol=1e-5)


@pytest.mark.contract
def test_what_diverged_is_known_of_a_sweep_that_is_read(tmp_path):
    options = {"axes": {"learning_rate": [1e-2, 1e30]}, "checkpoints": tmp_path}
    found = sweep(make, ROWS, 12, **options)
    again = sweep(make, ROWS, 12, resume=True, **options)
    assert found.diverged.tolist() == again.diverged.tolist() == [False, True]


@pytest.mark.contract
def test_groups_are_resumed_whatever_memory_is_free(tmp_path):
    axes = {"learning_rate": [1e-2, 1e-3, 1e-4]}
    options = {"seeds": 2, "axes": axes, "checkpoints": tmp_path}
    table = many.settings(2, axes)
    whole = many.Population(make, many.same(ROWS), table).begin().bytes()
    found = sweep(make, ROWS, 12, memory=whole / 2.5, **options)
    assert len(list(tmp_path.iterdir())) == 3
    again = sweep(make, ROWS, 12, resume=True, **options)
    jax.tree.map(np.testing.assert_array_equal, again.table, found.table)


@pytest.mark.contract
def test_a_sweep_goes_on_with_other_devices_but_no_other_steps(tmp_path):
    options = {"axes": {"learning_rate": [1e-2, 1e-3]}, "checkpoints": tmp_path}
    found = sweep(make, ROWS, 20, devices=2, **options)
    again = sweep(make, ROWS, 20, devices=1, resume=True, **options)
    jax.tree.map(np.testing.assert_array_equal, again.table, found.table)
    with pytest.raises(UsageError, match="another number of steps: 20, now 40"):
        sweep(make, ROWS, 40, resume=True, **options)
    with pytest.raises(UsageError, match="steps a line: 10, now 11"):
        sweep(make, ROWS, 20, resume=True, log_every=11, **options)


@pytest.mark.contract
def test_an_average_is_what_is_judged_and_predicted_with():
    def averaged(ema):
        return *make(), ema

    axes = {"ema": [0.5, 0.9]}
    found = sweep(averaged, ROWS, 30, axes=axes, evaluation=TEST)
    for i, ema in enumerate(axes["ema"]):
        alone = loop.fit(
            *(*make(), ROWS), steps=30, ema=ema, evaluation=TEST, progress=False
        )
        assert_close(found.trained(i), alone.trained, rtol=1e-4, atol=1e-5)
        wanted = alone.records[-1]["eval_loss"]
        assert found.scores["loss"][i] == pytest.approx(wanted, rel=1e-4)
    with pytest.raises(UsageError, match="averaging decay"):
        sweep(averaged, ROWS, 4, axes={"ema": [0.5, 1.5]})


@pytest.mark.contract
def test_groups_that_were_not_begun_are_missing(monkeypatch):
    asked = []
    stop = contextlib.nullcontext(lambda: len(asked) >= 2)
    monkeypatch.setattr("train.many.sweeps.interrupts", lambda: stop)
    on = many.Population.on

    def all_at_once(self, boundary):
        self.pace = 1e6
        on(self, boundary)
        asked.append(boundary)

    monkeypatch.setattr(many.Population, "on", all_at_once)
    axes = {"learning_rate": np.geomspace(1e-3, 1e-2, 9)}
    found = sweep(make, ROWS, 20, axes=axes, memory=1.0)
    assert found.ended == "interrupted" and len(found.diverged) == 1


def test_a_sweep_that_is_stopped_has_the_line_that_it_was_in(monkeypatch):
    on, steps = many.Population.on, []

    def some(self, boundary):
        on(self, min(boundary, self.now + 6))
        steps.append(self.now)

    stopped = contextlib.nullcontext(lambda: steps[-1:] > [10])
    monkeypatch.setattr("train.many.sweeps.interrupts", lambda: stopped)
    monkeypatch.setattr(many.Population, "on", some)
    found = sweep(make, ROWS, 40, axes={"learning_rate": [1e-2]})
    assert found.ended == "interrupted" and 10 < steps[-1] < 20
    assert found.history["step"].tolist() == [10, steps[-1]]
    whole = loop.fit(*make(), ROWS, steps=steps[-1], log_every=10, progress=False)
    losses = [record["loss"] for record in whole.records]
    np.testing.assert_allclose(found.history["loss"][0], losses, rtol=1e-4)


def failing(on, step):
    def train(self, boundary):
        on(self, boundary)
        if self.now >= step:
            raise RuntimeError("cut")

    return train


def test_ranges_are_drawn_evenly():
    found = many.settings(2, {"rate": many.LogUniform(1e-4, 1e-1)}, samples=30)
    assert found["seed"].tolist() == [0] * 30 + [1] * 30
    logs = np.sort(np.log10(found["rate"][:30]))
    np.testing.assert_allclose(found["rate"][:30], found["rate"][30:])
    # one in each thirtieth of the decades
    assert (np.floor((logs + 4) * 10 + 1e-4) == np.arange(30)).all()
    paired = many.settings(1, {("a", "b"): [(1, 2.5), (3, 4.5)], "c": [0, 1, 2]})
    assert paired["a"].tolist() == [1, 1, 1, 3, 3, 3]
    assert paired["b"].tolist() == [2.5, 2.5, 2.5, 4.5, 4.5, 4.5]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"seeds": 0}, "expected seeds between 1 and"),
        ({"seeds": []}, "expected seeds, each once"),
        ({"seeds": [1, 1]}, "expected seeds, each once"),
        ({"axes": {"learning_rat": [1.0]}}, "did you mean 'learning_rate'"),
        ({"axes": {"learning_rate": []}}, "expected numbers along the axis"),
        ({"axes": {"learning_rate": [1e-2, -1.0]}}, "learning rate > 0, found -1"),
        ({"axes": {"learning_rate": [np.nan]}}, "finite numbers"),
        ({"axes": {"learning_rate": many.LogUniform(1e-3, 1)}}, "expected samples"),
        ({"samples": 3}, "expected a range"),
        (
            {"axes": {"learning_rate": many.LogUniform(0, 1)}, "samples": 2},
            "0 < low < high",
        ),
        ({"evaluation": {"x": TEST["x"], "y": TEST["y"] + 5}}, "labels 0 to 9"),
    ],
)
def test_a_mistake_is_named(options, match):
    with pytest.raises(UsageError, match=match):
        sweep(make, ROWS, 10, **options)


def test_a_line_is_searched_on_all_rows_alone():
    def searching(l2):
        return linear.softmax(10, l2=l2), optim.optimizer("newton")

    with pytest.raises(UsageError, match="all 1437 examples for lbfgs and newton"):
        sweep(searching, ROWS, 2, axes={"l2": [0.1, 1.0]})


def test_what_shapes_the_program_is_named():
    def deep(layers=1, width=8, rate=1e-3):
        network = mlp.MLP(10, (width,) * (int(layers) if layers != 1 else 1))
        adam = optim.optimizer("adam", rate)
        return supervised.task(network, supervised.classes), adam

    for name in ("layers", "width"):  # the one by Python, the other by Flax
        match = f"found {name}, which shapes it: one sweep for each"
        with pytest.raises(UsageError, match=match):
            sweep(deep, ROWS, 10, axes={"rate": [0.1, 0.2], name: [1, 2]})

    def broken(rate):
        task, adam = deep(rate=rate)
        return task._replace(loss=lambda *args, train: args + 1), adam

    with pytest.raises(TypeError, match="concatenate"):  # the number is not to blame
        sweep(broken, ROWS, 10, axes={"rate": [0.1, 0.2]})
    own = members(RECIPES["mlp"], DIGITS.schema)
    with pytest.raises(UsageError, match="batch_size shapes the program"):
        sweep(own, ROWS, 10, axes={"batch_size": [8, 16]})


# Every recipe -------------------------------------------------------------------------


@pytest.mark.parametrize("name", each("mlp"))
def test_every_recipe_is_swept(name):
    """Two seeds, two rates: losses are those of the trainings alone."""
    recipe = small(name)
    size = None if recipe.training.batch_size is None else 8
    rows = recipe.batches(recipe.parts.train, size)
    flags = {k: v for k, v in SMALL.get(name, {}).items() if k != "data"}
    if recipe.training.optimizer == "lbfgs":
        flags["optimizer"] = "adam"
    rate = flags.pop("learning_rate", None) or recipe.training.learning_rate or 0.01
    own = members(RECIPES[name], recipe.schema, **flags)
    assert "learning_rate" in numbers(RECIPES[name])
    found = sweep(own, rows, 4, seeds=2, axes={"learning_rate": [rate, rate / 4]})
    for i, (seed, value) in enumerate([(0, rate), (0, rate / 4), (1, rate)]):
        task, optimizer, ema, parts = own(learning_rate=value)
        alone = loop.fit(
            *(task, optimizer, rows),
            steps=4,
            seed=seed,
            ema=ema,
            accumulate=parts,
            log_every=10,
            progress=False,
        )
        record = alone.records[-1]
        for metric in ("loss", "grad_norm"):
            value = found.history[metric][i, -1]
            assert value == pytest.approx(record[metric], rel=2e-3), metric
