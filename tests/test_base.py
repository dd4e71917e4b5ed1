"""Means and masks; which parameters shrink."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import TypeCheckError

from tests.conftest import TWINS, each, small
from train import step
from train.evaluate import make_eval
from train.recipes import RECIPES
from zoo import mlp, rnn, supervised, vae
from zoo.base import Mean, UsageError, is_weight, masked


def test_what_is_masked_may_be_nan():
    values, mask = jnp.array([1.0, jnp.nan, 3.0]), jnp.array([1.0, 0.0, 1.0])
    assert float(Mean.of(values, mask).value()) == 2.0
    slope = jax.grad(lambda v: Mean.of(v, mask).value())(values)
    np.testing.assert_array_equal(slope, [0.5, 0.0, 0.5])


def test_nothing_counted_is_no_value_and_has_no_gradient():
    def mean(values):
        return Mean.of(values, jnp.zeros(3)).value()

    assert np.isnan(mean(jnp.ones(3)))
    np.testing.assert_array_equal(jax.grad(mean)(jnp.ones(3)), np.zeros(3))


def test_bfloat16_counts_past_256():
    ones = jnp.ones(301, jnp.bfloat16)
    mean = Mean.of(ones)
    assert (float(mean.total), float(mean.count)) == (301.0, 301.0)
    assert float(Mean.of(ones, jnp.ones(301, bool)).count) == 301.0


def test_sequence_regression_means_over_what_the_mask_keeps():
    y = jnp.array([[1.0, 2.0, 0.0], [3.0, 0.0, 0.0]])
    mask = jnp.array([[1, 1, 0], [1, 0, 0]])
    junk = jnp.where(mask == 0, 100.0, 0.0)
    values = supervised.regression.values((y + 0.5 + junk)[..., None], y)["loss"]
    assert values.shape == (2, 3)
    assert float(Mean.of(values, mask).value()) == 0.25
    # a vector of outputs is one value
    assert supervised.regression.values(y, y + 1)["loss"].shape == (2,)


def test_masked_rows_reach_no_value_no_gradient_and_no_update():
    task = supervised.task(mlp.MLP(1, (4,)), supervised.regression, l2=0.01)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 3)).astype(np.float32)
    rows = {"x": x, "y": x[:, 0]}
    batch = {
        k: np.concatenate([a, np.full_like(a[:2], np.nan)]) for k, a in rows.items()
    }
    batch |= {"mask": np.array([1.0] * 6 + [0.0] * 2, np.float32)}
    state = step.init(task, optax.sgd(0.1), 0, rows)
    grads = [
        jax.grad(lambda p, b: task.loss(p, {}, b, jax.random.key(0), train=True)[0])(
            state.params, part
        )
        for part in (rows, batch)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *grads)
    update = step.make_step(task, optax.sgd(0.1))
    plain, _ = update(state, rows)
    padded, metrics = update(state, batch)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        plain.params,
        padded.params,
    )
    assert float(metrics["objective"].count) == 6
    scores = make_eval(task)(state, batch)
    assert float(scores["loss"].value()) == pytest.approx(
        float(make_eval(task)(state, rows)["loss"].value()), rel=1e-6
    )


def test_missing_targets_of_a_sequence_reach_no_gradient():
    model = rnn.Regressor(1, rnn.RNN(rnn.ELMAN, 3))
    task = supervised.task(model, supervised.regression)
    x = np.random.default_rng(0).normal(size=(2, 4, 2)).astype(np.float32)
    mask = np.array([[1, 1, 0, 1], [0, 1, 1, 0]], np.float32)
    y = np.where(mask == 0, np.nan, x[..., 0])
    params, _ = task.init(jax.random.key(0), {"x": x, "y": y})
    batch = {"x": x, "y": y, "mask": mask}

    def loss(params):
        return task.loss(params, {}, batch, jax.random.key(0), train=True)[0]

    value, grads = jax.value_and_grad(loss)(params)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_a_mask_beside_batch_norm_is_refused():
    task = supervised.task(mlp.MLP(1, (4,), batch_norm=True), supervised.regression)
    batch = {"x": np.ones((4, 3), np.float32), "y": np.ones(4, np.float32)}
    state = step.init(task, optax.sgd(0.1), 0, batch)
    with pytest.raises(UsageError, match="batch norm"):
        step.make_step(task, optax.sgd(0.1))(state, batch | {"mask": np.ones(4)})
    make_eval(task)(state, batch | {"mask": np.ones(4)})  # nothing is kept of it


def test_masked_leaves_entries_that_a_mask_of_targets_drops_in_x():
    batch = {"x": jnp.ones((2, 3)), "y": jnp.ones((2, 3))}
    mask = jnp.array([[1, 0, 1], [0, 0, 0]])
    found = masked(batch | {"mask": mask})
    np.testing.assert_array_equal(found["x"], [[1, 1, 1], [0, 0, 0]])
    np.testing.assert_array_equal(found["y"], mask)


SHRINK = {"kernel", "embedding", "recurrent", "query", "key", "vector", "mu"}
SHRINK |= {"axes", "moved"}  # components; the way of a centre from where it began


@pytest.mark.parametrize("name", each(*RECIPES.keys() - TWINS))
def test_decay_shrinks_kernels_and_embeddings_alone(name):
    recipe = small(name)
    source = recipe.batches(recipe.parts.train, 2)

    def init():
        batch = source.batch(source.arrays, np.uint32(0), np.int32(0))
        return recipe.task.init(jax.random.key(0), batch)

    params = jax.eval_shape(init)[0]
    leaves = jax.tree_util.tree_leaves_with_path(is_weight(params))
    shrinks = {str(path[-1].key) for path, weighs in leaves if weighs}
    stays = {str(path[-1].key) for path, weighs in leaves if not weighs}
    assert shrinks and shrinks <= SHRINK
    names = {"bias", "scale", "recurrent_bias", "peephole", "pi", "log_scale"}
    assert stays <= names | {"visible_bias", "hidden_bias", "log_temperature", "mean"}


def test_a_wrong_shape_is_caught_where_it_arises():
    x, key = jnp.zeros((4, 5)), jax.random.key(0)
    mlp.MLP(3).init(key, x)
    with pytest.raises(TypeCheckError, match="return value"):
        mlp.MLP(3, (6,), activation=jnp.transpose).init(key, x)


@pytest.mark.parametrize(
    "logvar", [jnp.zeros((2, 4)), jnp.zeros(3), jnp.zeros((2, 3), int)]
)
def test_arguments_whose_shapes_or_types_disagree_are_caught(logvar):
    assert vae.divergence(jnp.zeros((2, 3)), jnp.zeros((2, 3))).shape == (2,)
    with pytest.raises(TypeCheckError, match="logvar"):
        vae.divergence(jnp.zeros((2, 3)), logvar)
