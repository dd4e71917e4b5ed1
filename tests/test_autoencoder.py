"""Autoencoders: principal components, shapes, noise, what the programs are made of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy.linalg import subspace_angles
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from tests.conftest import small
from train import loop
from train.evaluate import evaluate, row_key
from train.optim import optimizer, schedule
from train.source import full
from train.step import Trained
from zoo import autoencoder
from zoo.base import UsageError
from zoo.mlp import MLP


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.contract
def test_the_linear_one_spans_the_principal_components():
    """Baldi & Hornik 1989: also after training, to what float32 can tell."""
    x = (load_digits().data / 16).astype(np.float32)
    model = autoencoder.linear((64,), 4)
    task = autoencoder.task(model)
    rule = optimizer("adam", schedule("cosine", 0.02, 2000))
    fit = loop.fit(task, rule, full({"x": x}), steps=2000, progress=False)
    pca = PCA(4).fit(x)
    params = fit.trained.params
    kernel = params["decoder"]["MLP_0"]["Dense_0"]["kernel"]  # [Z, 64]
    angles = subspace_angles(np.asarray(kernel).T, pca.components_.T)
    assert np.rad2deg(angles.max()) < 0.2  # measured: 0.04 degrees
    best = np.mean((pca.inverse_transform(pca.transform(x)) - x) ** 2)
    found = task.loss(params, {}, {"x": x}, jax.random.key(0), train=False)[0]
    # no linear map of this rank has a lower error
    assert best * (1 - 1e-5) < float(found) < best * (1 + 1e-5)


BUILDS = {
    "dense": lambda shape, **fields: autoencoder.dense(shape, 2, (5,), **fields),
    "linear": lambda shape: autoencoder.linear(shape, 2),
    "conv": lambda shape, **fields: autoencoder.conv(shape, 2, (3, 4), **fields),
}


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("shape", [(7, 10, 1), (5, 3, 2), (1, 8, 1)])
def test_outputs_have_the_images_shape_of_any_size(name, shape):
    model, x = BUILDS[name](shape), jnp.zeros((3, *shape))

    def run(key):
        variables = model.init(key, x)
        z = model.apply(variables, x, method="encode")
        return z, model.apply(variables, x)

    z, out = jax.eval_shape(run, jax.random.key(0))
    assert z.shape == (3, 2)
    assert out.shape == x.shape


@pytest.mark.parametrize("name", BUILDS)
def test_encode_and_decode_compose_to_the_model(name):
    model, x = BUILDS[name]((6, 5, 1)), normal(0, 3, 6, 5, 1)

    @jax.jit
    def run(key):
        variables = model.init(key, x)
        z = model.apply(variables, x, method="encode")
        return model.apply(variables, z, method="decode"), model.apply(variables, x)

    np.testing.assert_allclose(*run(jax.random.key(0)), rtol=1e-6)


def test_without_hidden_layers_it_is_an_affine_map():
    model = BUILDS["linear"]((6,))
    a, b = normal(0, 2, 4, 6)
    variables = model.init(jax.random.key(0), a)

    def run(x):
        return model.apply(variables, x)

    np.testing.assert_allclose(run((a + b) / 2), (run(a) + run(b)) / 2, atol=1e-6)
    assert np.linalg.matrix_rank(run(a) - run(0 * a), tol=1e-5) == 2


def test_an_image_without_channels_is_refused():
    model = BUILDS["conv"]((8, 8, 1))
    with pytest.raises(UsageError, match="a single channel needs an axis of its own"):
        model.init(jax.random.key(0), jnp.zeros((3, 8, 8)))


def test_corruption_is_normal_noise_of_that_deviation():
    x = normal(0, 200, 500)
    noise = np.asarray(autoencoder.corrupt(x, jax.random.key(1), 0.3) - x)
    # five standard errors
    assert abs(noise.mean()) < 5 * 0.3 / np.sqrt(x.size)
    assert abs(noise.std() - 0.3) < 5 * 0.3 / np.sqrt(2 * x.size)
    assert autoencoder.corrupt(x.astype("bfloat16"), jax.random.key(1), 0.3).dtype == (
        "bfloat16"
    )


def test_a_denoising_loss_is_of_the_clean_image():
    """A model that gives its input back has the noise for an error."""
    model, x = _Identity(), normal(0, 200, 500)
    clean, noisy = (autoencoder.task(model, noise=noise) for noise in (0.0, 0.3))

    def loss(task, seed, train):
        key = jax.random.key(seed)
        return float(task.loss({}, {}, {"x": x}, key, train=train)[0])

    assert loss(clean, 0, True) == 0
    assert loss(noisy, 0, True) == pytest.approx(0.09, rel=0.03)
    for train in (True, False):
        assert loss(noisy, 0, train) == loss(noisy, 0, train)
        assert loss(noisy, 0, train) != loss(noisy, 1, train)
    # what the model saw can be made again: of one example and its key, too
    key = jax.random.key(3)
    seen = autoencoder.corrupt(x[:1], jax.random.split(key)[0], 0.3)
    found, _ = noisy.loss({}, {}, {"x": x[:1]}, key, train=False)
    np.testing.assert_allclose(found, jnp.square(seen - x[:1]).mean(), rtol=1e-6)


class _Identity:
    def init(self, key, x, **how):
        return {"params": {}}

    def apply(self, variables, x, **how):
        return x, {}


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_any_halves_with_dropout_and_batch_norm_are_trained(noise):
    fields = {"dropout": 0.5, "batch_norm": True}
    halves = MLP(2, (5,), **fields), MLP(6, (5,), **fields)
    model, x = autoencoder.Autoencoder(*halves), normal(0, 8, 6)
    task = autoencoder.task(model, noise=noise)
    params, state = task.init(jax.random.key(0), {"x": x})

    def loss(seed, train):
        run = jax.jit(functools.partial(task.loss, train=train))
        return run(params, state, {"x": x}, jax.random.key(seed))

    (a, aux), (b, _), (again, _) = (loss(seed, True) for seed in (0, 1, 0))
    assert a == again != b
    moved = jax.tree.map(lambda p, q: bool((p != q).any()), aux.state, state)
    assert jax.tree.all(moved)
    value, aux = loss(0, False)
    jax.tree.map(np.testing.assert_array_equal, aux.state, state)
    seen = autoencoder.corrupt(x, jax.random.split(jax.random.key(0))[0], noise)
    exact = jnp.square(model.apply({"params": params, **state}, seen) - x).mean()
    np.testing.assert_allclose(value, exact, rtol=1e-6)


def test_masked_examples_do_not_count():
    model, x = BUILDS["dense"]((4,)), normal(0, 5, 4)
    task = autoencoder.task(model)
    params, state = task.init(jax.random.key(0), {"x": x})
    key, mask = jax.random.key(0), jnp.array([1.0, 1, 1, 0, 0])
    some, _ = task.loss(params, state, {"x": x, "mask": mask}, key, train=True)
    kept, _ = task.loss(params, state, {"x": x[:3]}, key, train=True)
    np.testing.assert_allclose(some, kept, rtol=1e-6)


def test_batch_norm_learns_its_statistics_in_training_alone():
    model, x = BUILDS["conv"]((8, 8, 1), batch_norm=True), normal(0, 3, 8, 8, 1)
    task = autoencoder.task(model)
    params, state = jax.jit(task.init)(jax.random.key(0), {"x": x})
    assert list(state) == ["batch_stats"]
    key = jax.random.key(0)
    for train in (False, True):
        loss = jax.jit(functools.partial(task.loss, train=train))
        _, aux = loss(params, state, {"x": x}, key)
        same = jax.tree.map(lambda a, b: bool((a == b).all()), state, aux.state)
        assert jax.tree.all(same) == (not train)
        assert jax.tree.structure(state) == jax.tree.structure(aux.state)


def test_convolutions_are_products_on_cpu():
    model, x = BUILDS["conv"]((8, 8, 1)), jnp.zeros((2, 8, 8, 1))
    task = autoencoder.task(model)
    params, state = jax.eval_shape(task.init, jax.random.key(0), {"x": x})

    def program(platform):
        def loss(params):
            key = jax.random.key(0)
            return task.loss(params, state, {"x": x}, key, train=True)[0]

        traced = jax.jit(jax.grad(loss)).trace(params)
        return traced.lower(lowering_platforms=(platform,)).as_text()

    assert "stablehlo.convolution" not in program("cpu")
    assert "stablehlo.convolution" in program("cuda")


@pytest.mark.parametrize("name", ["dense", "conv"])
def test_half_precision_is_near_and_ends_in_single(name):
    x = normal(0, 3, 8, 8, 1)
    full, half = (
        BUILDS[name]((8, 8, 1), dtype=dtype) for dtype in (None, jnp.bfloat16)
    )
    variables = jax.jit(full.init)(jax.random.key(0), x)
    exact, near = (jax.jit(model.apply)(variables, x) for model in (full, half))
    assert near.dtype == jnp.float32
    assert not (near == exact).all()
    # bfloat16 has 8 bits
    np.testing.assert_allclose(near, exact, atol=0.05 * float(jnp.abs(exact).max()))
    made = jax.eval_shape(half.init, jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype("float32")}


def test_principal_components_are_given_the_noise_of_the_evaluation():
    recipe = small("denoising_autoencoder", 40)
    rows = {"x": recipe.parts.test["x"]}

    class Same(nn.Module):
        def __call__(self, x, *, train=False):
            return x

    # what the network sees, told from outside: its error where it changes nothing
    seen = evaluate(autoencoder.task(Same(), noise=0.5), Trained({}, {}), rows)["loss"]
    key = jax.random.key(0)
    batch = jax.tree.map(jnp.asarray, rows)
    found = Trained(*jax.jit(recipe.task.init)(key, batch))
    everything = recipe.parts._replace(train=rows, test=rows)
    scores = recipe.report.measure(found, everything).scores
    x = rows["x"].reshape(40, -1)
    noisy = np.stack(
        [
            np.asarray(
                autoencoder.corrupt(
                    rows["x"][i : i + 1], jax.random.split(row_key(0, i))[0], 0.5
                )
            ).reshape(-1)
            for i in range(40)
        ]
    )
    assert np.square(noisy - x).mean() == pytest.approx(seen, rel=1e-5)
    mean, (_, _, axes) = x.mean(0), np.linalg.svd(x - x.mean(0), full_matrices=False)
    axes = axes[:4]
    back = mean + (noisy - mean) @ axes.T @ axes
    assert scores["pca"] == pytest.approx(np.square(back - x).mean(), rel=1e-3)
    assert scores["of_pca"] == pytest.approx(scores["loss"] / scores["pca"])
