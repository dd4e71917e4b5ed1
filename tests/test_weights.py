"""A weight is as many times the row, however a batch is read; scikit-learn's fits."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas
import pytest
from flax import linen as nn
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_sample_weight

from tests.conftest import batch_of, quick, small
from tests.test_contract import start
from train import loop, optim, source, step
from train.evaluate import evaluate
from train.recipes import RECIPES, prepare
from zoo import linear, mlp, supervised
from zoo.base import Mean, UsageError, masked


def fitted(task, rows):
    run = loop.fit(
        task,
        optim.optimizer("lbfgs", None),
        source.full(rows),
        steps=200,
        progress=False,
    )
    dense = run.trained.params["dense"]
    return np.r_[np.asarray(dense["kernel"]), np.asarray(dense["bias"])[None]]


def theirs(rows, C, weight=None, **options):
    model = LogisticRegression(C=C, tol=1e-10, max_iter=2000, **options)
    model.fit(rows["x"].astype(float), rows["y"], weight)
    return np.c_[model.coef_, model.intercept_].T


def test_balanced_logistic_regression_is_scikit_learns():
    recipe = prepare(
        RECIPES["logistic"], "breast_cancer", penalty=10.0, class_weight="balanced"
    )
    rows = recipe.source().arrays
    wanted = theirs(rows, 0.1, class_weight="balanced")
    np.testing.assert_allclose(fitted(recipe.task, rows), wanted, atol=1e-4)
    assert np.abs(theirs(rows, 0.1) - wanted).max() > 0.01  # seen, without weights
    each = compute_sample_weight("balanced", rows["y"])
    np.testing.assert_allclose(rows["weight"], each, rtol=1e-6)


@pytest.mark.contract
def test_softmax_regression_of_weighted_rows_is_scikit_learns():
    rows = prepare(RECIPES["softmax"], "iris").parts.train
    weight = np.random.default_rng(0).exponential(size=len(rows["y"]))
    weight[:20] = 0
    # the penalty is of the sum: l2 = 1 / (2 C sum w)
    task = linear.softmax(3, l2=1 / (2 * 0.1 * weight.sum()))
    found = fitted(task, rows | {"weight": weight.astype(np.float32)})
    wanted = theirs(rows, 0.1, weight)
    found[-1] -= found[-1].mean()  # which softmax leaves open
    wanted[-1] -= wanted[-1].mean()
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    fewer = theirs(rows, 0.1 * weight.sum() / len(weight), weight)
    assert np.abs(fewer - wanted).max() > 1e-3  # seen: another sum in the penalty


def rows_of(n=12, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5, 3)).astype(np.float32)
    return {
        "x": x,
        "y": rng.integers(0, 2, (n, 5)).astype(np.int32),
        "length": rng.integers(1, 6, n).astype(np.int32),
        "mask": (rng.random((n, 5)) < 0.8).astype(np.float32),
        "weight": rng.integers(0, 4, n).astype(np.float32),
    }


class Each(nn.Module):
    """A linear classifier of every entry of a sequence."""

    @nn.compact
    def __call__(self, x, length, *, train=False):
        return nn.Dense(2)(x)


def updated(task, rows, parts=1):
    optimizer = optax.sgd(1.0)
    like = {k: a for k, a in rows.items() if k in ("x", "y", "length")}
    state = step.init(task, optimizer, 0, like)
    return jax.jit(step.make_step(task, optimizer, parts=parts))(state, rows)


def test_a_weight_is_as_many_rows_in_parts_and_beside_padding():
    task = supervised.task(Each(), supervised.classes, inputs=("x", "length"), l2=0.1)
    rows = rows_of()
    times = rows["weight"].astype(int)
    again = {k: np.repeat(a, times, 0) for k, a in rows.items() if k != "weight"}
    wanted, metrics = updated(task, again)
    padding = {
        k: np.full_like(a[:4], np.nan if a.dtype.kind == "f" else 1)
        for k, a in rows.items()
    } | {"mask": np.zeros((4, 5), np.float32)}
    order = np.random.default_rng(1).permutation(16)
    padded = {k: np.concatenate([a, padding[k]])[order] for k, a in rows.items()}
    for each, parts in ((rows, 1), (padded, 8)):
        found, told = updated(task, each, parts)
        for a, b in zip(*map(jax.tree.leaves, (found.params, wanted.params)),
                        strict=True):  # fmt: skip
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        for name in ("loss", "accuracy", "objective"):
            assert float(told[name].value()) == pytest.approx(
                float(metrics[name].value()), rel=1e-5
            )
    plain = evaluate(task, found, {k: a for k, a in rows.items() if k != "weight"})
    assert evaluate(task, found, padded, batch_size=5) == pytest.approx(plain, rel=1e-5)
    # seen: a weight that evaluation sees too, or that training does not
    assert abs(evaluate(task, found, again)["loss"] - plain["loss"]) > 1e-3


@pytest.mark.contract
def test_accumulated_and_microbatched_training_is_that_of_the_whole():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 3)).astype(np.float32)
    rows = {"x": x, "y": x[:, 0], "weight": rng.exponential(size=24).astype("f4")}
    task = supervised.task(mlp.MLP(1, (4,)), supervised.regression)

    def run(**how):
        size = 24 // how.get("accumulate", 1)
        batches = source.examples(rows, size * how.get("accumulate", 1))
        fit = loop.fit(
            task, optim.optimizer("sgd", 0.1), batches, steps=5, progress=False, **how
        )
        return jax.tree.leaves(fit.trained.params), fit.records[-1]["loss"]

    whole, loss = run()
    for how in ({"accumulate": 3}, {"microbatch": 4}):
        parts, same = run(**how)
        assert same == pytest.approx(loss, rel=1e-5)
        for a, b in zip(whole, parts, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_training_multiplies_the_mask_by_the_weight():
    weight, x = jnp.array([2.0, jnp.nan, 0.5, 0.0]), jnp.ones((4, 3))
    mask = jnp.array([[1, 1], [0, 0], [0, 1], [1, 1]])
    batch = {"x": x, "weight": weight, "mask": mask}
    found = masked(batch, {})
    np.testing.assert_array_equal(found["mask"], [[2, 2], [0, 0], [0, 0.5], [0, 0]])
    assert "weight" not in found and found["x"].sum(1).tolist() == [3, 0, 3, 0]
    np.testing.assert_array_equal(masked(batch)["mask"], mask)  # evaluation
    # batch norm sees a row that counts for nothing
    del batch["mask"]
    found = masked(batch | {"weight": jnp.array([2, 0, 1, 0])}, {"batch_stats": {}})
    np.testing.assert_allclose(found["mask"], [2, 0, 1, 0], atol=1e-29)
    np.testing.assert_array_equal(masked(found)["x"], x)
    mean = Mean.of(jnp.array([1.0, 4.0]), jnp.array([3.0, 1.0]))
    assert float(mean.value()) == 7 / 4


SEVERAL = ("lstm", "resnet20", "kmeans", "glove", "bpr", "multitask")


@pytest.mark.parametrize("name", quick(SEVERAL))
def test_every_family_sums_what_a_weight_is_times_a_row(name):
    recipe = small(name)
    batch = batch_of(recipe)
    state = start(recipe, batch=batch)

    @jax.jit
    @jax.vmap
    def count(weight):
        rows = masked(batch | {"weight": weight}, state.model)
        key = jax.random.key(0)
        _, aux = recipe.task.loss(state.params, state.model, rows, key, train=True)
        return aux.metrics["loss"]

    one, other, both = (jnp.eye(8)[0], jnp.eye(8)[1], 3 * jnp.eye(8)[0] + jnp.eye(8)[1])
    found = count(jnp.stack([one, other, both]))
    for each in found:
        np.testing.assert_allclose(3 * each[0] + each[1], each[2], rtol=2e-4)
    assert (found.count > 0).all()


@pytest.mark.contract
def test_images_that_are_told_from_each_other_have_no_weight(zoo):
    command = "train simclr --data digits --class-weight balanced"
    status, _, said = zoo(command)
    assert status == 2 and "no weights of images" in said


@pytest.mark.parametrize(
    "weight, words",
    [
        (np.r_[-0.5, np.ones(5)], "0 or more in the .*, found -0.5"),
        (np.ones(5), "6 entries in 'weight'"),
        (np.ones((6, 1)), r"\[N\], found \(6, 1\)"),
        (np.zeros(6), "above 0 in the .*, found 6 of 0"),
        (np.r_[np.nan, np.ones(5)], "1 NaN or infinite values in 'weight'"),
    ],
)
def test_weights_that_cannot_be_are_refused(weight, words):
    rows = {"x": np.ones((6, 2), "f4"), "y": np.ones(6, "f4")}
    with pytest.raises(UsageError, match=words):
        loop.fit(
            linear.regression(),
            optax.sgd(0.1),
            source.full(rows | {"weight": weight.astype(np.float32)}),
            steps=1,
            progress=False,
        )


def test_classes_alone_are_balanced(zoo):
    with pytest.raises(UsageError, match="balance"):
        prepare(RECIPES["softmax"], "iris", class_weight="balance").source()
    for command, words in (
        ("train mlp --data diabetes --class-weight balanced", "one class for each row"),
        ("train ppo --class-weight balanced", "one class for each row"),
    ):
        status, _, said = zoo(command)
        assert status == 2 and words in said and len(said.splitlines()) == 1


@pytest.mark.contract
def test_a_rare_class_is_found_where_classes_are_balanced(zoo):
    rng = np.random.default_rng(0)
    y = np.arange(400) % 20 == 0
    x = rng.normal(size=(400, 2)) + y[:, None]
    np.savez("rare.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    command = "train logistic --data rare.npz --out even --class-weight balanced"
    assert zoo(command)[0] == 0
    result = json.loads(Path("even", "result.json").read_text())
    assert result["metrics"]["balanced_accuracy"] > 0.7  # 0.5 without
    again = "cross-validate logistic --data rare.npz --class-weight balanced --folds 2"
    assert zoo(f"{again} --out folds")[0] == 0
    scores = pandas.read_csv("folds/members.csv")["accuracy"]
    assert scores.max() < 0.9  # all are common: 0.95
    status, _, said = zoo("eval even")
    assert status == 0, said
