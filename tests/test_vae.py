"""Variational autoencoders: closed forms, scipy's densities, the exact likelihood."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from zoo import vae
from zoo.base import UsageError
from zoo.mlp import MLP

SIZE, LATENT, CLASSES = 6, 2, 3


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@functools.cache
def fixed(likelihood="bernoulli", classes=0, widths=(5,)):
    """A model and variables that are nowhere zero; examples [4, D], labels [4]."""
    model = vae.dense((SIZE,), LATENT, widths, classes=classes, likelihood=likelihood)
    x = jnp.abs(normal(1, 4, SIZE)) % 1
    y = jnp.arange(4) % CLASSES
    noise = jnp.zeros((4, LATENT))
    variables = model.init(jax.random.key(0), x, noise, y)
    leaves, tree = jax.tree.flatten(variables)
    leaves = [0.5 * normal(i, *leaf.shape) for i, leaf in enumerate(leaves)]
    return model, jax.tree.unflatten(tree, leaves), x, y


def test_the_divergence_is_zero_at_the_prior_alone():
    zero = jnp.zeros((1, 3))
    assert vae.divergence(zero, zero) == 0
    for mean, logvar in ((zero + 0.1, zero), (zero, zero + 0.1), (zero, zero - 0.1)):
        assert vae.divergence(mean, logvar) > 0


def test_the_divergence_equals_a_mean_over_draws():
    mean, logvar = np.array([0.7, -1.2]), np.array([0.5, -1.0])
    scale = np.exp(logvar / 2)
    z = mean + scale * np.random.default_rng(0).normal(size=(200_000, 2))
    values = stats.norm.logpdf(z, mean, scale) - stats.norm.logpdf(z)
    values = values.sum(1)
    found = float(vae.divergence(jnp.array([mean]), jnp.array([logvar]))[0])
    # five standard errors
    assert abs(values.mean() - found) < 5 * values.std() / np.sqrt(len(values))


@pytest.mark.parametrize("likelihood", vae.LIKELIHOODS)
def test_likelihoods_are_scipys(likelihood):
    model, variables, x, _ = fixed(likelihood)
    x = jnp.round(x) if likelihood == "bernoulli" else x
    z = normal(2, 4, LATENT)
    mean = np.asarray(model.apply(variables, z, method="mean"), np.float64)
    found = model.apply(variables, x, z, method="log_likelihood")
    if likelihood == "bernoulli":
        exact = stats.bernoulli.logpmf(np.asarray(x, int), mean)
    else:
        scale = np.exp(float(variables["params"]["log_scale"][0]))
        exact = stats.norm.logpdf(np.asarray(x), mean, scale)
    np.testing.assert_allclose(found, exact.sum(1), rtol=2e-5)


def test_large_logits_have_a_finite_likelihood():
    model, variables, x, _ = fixed()
    variables = jax.tree.map(lambda v: 100 * v, variables)
    z = normal(2, 4, LATENT)
    assert jnp.isfinite(model.apply(variables, x, z, method="log_likelihood")).all()


def test_noise_is_scaled_by_the_posteriors_deviation():
    model, variables, x, _ = fixed("gaussian", widths=())
    noise = normal(2, 4, LATENT)
    found, mean, logvar = model.apply(variables, x, noise)
    z = np.asarray(mean) + np.sqrt(np.exp(logvar)) * np.asarray(noise)
    dense = variables["params"]["decoder"]["MLP_0"]["Dense_0"]
    center = z @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
    scale = np.exp(float(variables["params"]["log_scale"][0]))
    exact = stats.norm.logpdf(np.asarray(x), center, scale).sum(1)
    np.testing.assert_allclose(found, exact, rtol=2e-5)


def elbo(model, variables, x, noise):
    log_likelihood, mean, logvar = model.apply(variables, x, noise)
    return log_likelihood - vae.divergence(mean, logvar)


def test_the_bound_of_one_draw_is_the_elbo_in_expectation():
    model, variables, x, _ = fixed()
    n = 4000

    @jax.jit
    def both(key):
        one, two = jax.random.split(key)
        noises = jax.random.normal(one, (n, len(x), LATENT))
        elbos = jax.vmap(lambda noise: elbo(model, variables, x, noise))(noises)
        keys = jax.random.split(two, n)
        return elbos, jax.vmap(lambda k: vae.bound(model, variables, x, k, 1))(keys)

    elbos, bounds = map(np.asarray, both(jax.random.key(0)))
    error = np.sqrt((elbos.var(0) + bounds.var(0)) / n)
    assert (np.abs(elbos.mean(0) - bounds.mean(0)) < 5 * error).all()


def test_the_bound_of_a_linear_model_rises_to_the_exact_likelihood():
    """Its p(x) is normal: N(b, W W' + s^2). Burda et al. 2016, theorem 1."""
    model, variables, *_ = fixed("gaussian", widths=())
    # a q wider than the posterior: no weight of a draw is large
    wide = jnp.array([0.3, -0.3, 1.0, 1.0])
    encoder = {"kernel": 0.2 * variables["params"]["encoder"]["Dense_0"]["kernel"]}
    params = variables["params"] | {"encoder": {"Dense_0": encoder | {"bias": wide}}}
    variables = {"params": params}
    dense = params["decoder"]["MLP_0"]["Dense_0"]
    w, b = (np.asarray(dense[k], np.float64) for k in ("kernel", "bias"))
    scale = np.exp(float(params["log_scale"][0]))
    joint = stats.multivariate_normal(b, w.T @ w + scale**2 * np.eye(SIZE))
    x = joint.rvs(300, random_state=0).astype(np.float32)

    def bound(k):
        run = jax.jit(lambda key: vae.bound(model, variables, x, key, k))
        return np.asarray(run(jax.random.key(0)))

    means = [bound(k).mean() for k in (1, 3, 10, 100)]
    exact = joint.logpdf(x)
    assert means == sorted(means)
    assert means[0] < exact.mean() - 0.5
    np.testing.assert_allclose(bound(10_000), exact, atol=0.1)


def test_the_bound_of_the_exact_posterior_is_exact_with_one_draw():
    """Without any weight from z to x, the posterior is the prior."""
    model, variables, x, _ = fixed("gaussian", widths=())
    variables = jax.tree.map(jnp.zeros_like, variables)
    found = vae.bound(model, variables, x, jax.random.key(0), 1)
    np.testing.assert_allclose(found, stats.norm.logpdf(x).sum(1), rtol=1e-5)


def test_the_loss_weighs_the_divergence_with_beta():
    model, variables, x, _ = fixed()
    for beta in (0.0, 1.0, 4.0):
        task, key = vae.task(model, beta=beta), jax.random.key(0)
        value, aux = task.loss(variables["params"], {}, {"x": x}, key, train=True)
        found = {name: mean.value() for name, mean in aux.metrics.items()}
        np.testing.assert_allclose(value, found["nll"] + beta * found["kl"], rtol=1e-6)
        np.testing.assert_allclose(
            found["elbo"], -found["nll"] - found["kl"], rtol=1e-6
        )


def test_beta_grows_with_the_steps_in_the_state():
    model, variables, x, _ = fixed()
    task, key = vae.task(model, beta=2.0, anneal=10), jax.random.key(0)
    _, state = task.init(key, {"x": x})
    assert state == {"steps": 0}

    def weight(steps, train):
        params, state = variables["params"], {"steps": jnp.float32(steps)}
        _, aux = task.loss(params, state, {"x": x}, key, train=train)
        loss, nll, kl = (aux.metrics[k].value() for k in ("loss", "nll", "kl"))
        assert aux.state == {"steps": steps + train}
        return float((loss - nll) / kl)

    for steps, beta in ((0, 0.0), (5, 1.0), (10, 2.0), (25, 2.0)):
        assert weight(steps, True) == pytest.approx(beta, abs=1e-4)
        assert weight(steps, False) == pytest.approx(2.0, abs=1e-4)


@pytest.mark.parametrize("train", [True, False])
def test_noise_is_drawn_from_the_key(train):
    model, variables, x, _ = fixed()
    task = vae.task(model)

    def loss(seed):
        key = jax.random.key(seed)
        return task.loss(variables["params"], {}, {"x": x}, key, train=train)[0]

    assert loss(0) == loss(0) != loss(1)


@pytest.mark.contract
@pytest.mark.parametrize("anneal", [0, 10])
def test_any_halves_with_dropout_and_batch_norm_are_trained(anneal):
    fields = {"dropout": 0.5, "batch_norm": True}
    halves = MLP(2 * LATENT, (5,), **fields), MLP(SIZE, (5,), **fields)
    model, x = vae.VAE(*halves, LATENT), abs(normal(1, 8, SIZE)) % 1
    task, key = vae.task(model, anneal=anneal), jax.random.key(0)
    params, state = task.init(key, {"x": x})
    assert sorted(state) == ["batch_stats", *["steps"] * bool(anneal)]

    def loss(state, key, train):
        run = jax.jit(functools.partial(task.loss, train=train))
        return run(params, state, {"x": x}, key)

    value, aux = loss(state, key, True)
    assert value != loss(state, jax.random.key(1), True)[0]
    moved = jax.tree.map(lambda p, q: bool((p != q).any()), aux.state, state)
    assert jax.tree.all(moved)
    value, after = loss(aux.state, key, False)
    jax.tree.map(np.testing.assert_array_equal, after.state, aux.state)
    # in evaluation nothing is dropped, and the averages stand for the batch
    variables = vae.variables_of(params, aux.state)
    noise = jax.random.normal(jax.random.split(key)[0], (8, LATENT))
    exact = -elbo(model, variables, x, noise).mean()
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    assert vae.generate(model, variables, key, 3).shape == (3, SIZE)
    assert vae.interpolate(model, variables, x, x, 2).shape == (8, 2, SIZE)
    alone = vae.bound(model, variables, x[:1], key, 5)
    np.testing.assert_allclose(vae.bound(model, variables, x, key, 5).shape, (8,))
    assert jnp.isfinite(alone).all()
    ones = [vae.reconstruct(model, variables, x[i : i + 1]) for i in range(2)]
    both = vae.reconstruct(model, variables, x[:2])
    np.testing.assert_allclose(jnp.concatenate(ones), both, rtol=1e-5)


def test_labels_move_both_halves_of_a_conditional_model():
    model, variables, x, y = fixed(classes=CLASSES)
    z = normal(2, 4, LATENT)
    for of, method in ((x, "encode"), (z, "decode")):
        here, there = (
            jax.tree.leaves(model.apply(variables, of, y, method=method))
            for y in (y, (y + 1) % CLASSES)
        )
        for a, b in zip(here, there, strict=True):
            assert (abs(a - b).max(-1) > 1e-3).all()
    # the task reads them from the batch
    task, key = vae.task(model), jax.random.key(0)
    losses = [
        task.loss(variables["params"], {}, {"x": x, "y": y}, key, train=False)[0]
        for y in (y, (y + 1) % CLASSES)
    ]
    assert losses[0] != losses[1]


def test_what_cannot_be_is_refused():
    model, variables, x, _ = fixed(classes=CLASSES)
    with pytest.raises(UsageError, match=r"expected labels y \[B\], one of 3 classes"):
        vae.reconstruct(model, variables, x)
    with pytest.raises(UsageError, match="one of 3 classes"):
        vae.generate(model, variables, jax.random.key(0), 2)
    wrong = vae.dense((SIZE,), LATENT, likelihood="poisson")
    with pytest.raises(UsageError, match="bernoulli or gaussian, found 'poisson'"):
        wrong.init(jax.random.key(0), x, jnp.zeros((4, LATENT)))


@pytest.mark.parametrize("likelihood", vae.LIKELIHOODS)
def test_images_are_a_function_of_the_key(likelihood):
    model, variables, *_ = fixed(likelihood)

    def run(seed):
        return vae.generate(model, variables, jax.random.key(seed), 5)

    assert run(0).shape == (5, SIZE)
    np.testing.assert_array_equal(run(0), run(0))
    assert (abs(run(0) - run(1)).max(-1) > 1e-3).all()
    if likelihood == "bernoulli":
        assert 0 < run(0).min() < run(0).max() < 1


def test_a_line_runs_from_one_reconstruction_to_the_other():
    model, variables, x, y = fixed(classes=CLASSES)
    line = vae.interpolate(model, variables, x, x[::-1], 5, y)
    assert line.shape == (4, 5, SIZE)
    for i, end in ((0, x), (-1, x[::-1])):
        exact = vae.reconstruct(model, variables, end, y)
        np.testing.assert_allclose(line[:, i], exact, atol=1e-6)
    z = sum(vae.encode(model, variables, end, y) for end in (x, x[::-1])) / 2
    middle = model.apply(variables, z, y, method="mean")
    np.testing.assert_allclose(line[:, 2], middle, atol=1e-6)


@pytest.mark.parametrize("likelihood", vae.LIKELIHOODS)
def test_the_gradient_passes_through_the_noise(likelihood):
    """The reparametrisation: the encoder's gradient, for a given noise, in float64."""
    with jax.enable_x64(True):
        model, variables, x, _ = fixed(likelihood)
        variables, x = jax.tree.map(lambda v: v.astype(jnp.float64), (variables, x))
        noise = normal(3, 4, LATENT).astype(jnp.float64)
        params = variables["params"]

        @jax.jit
        def loss(encoder):
            changed = {"params": {**params, "encoder": encoder}}
            return -elbo(model, changed, x, noise).sum()

        def along(leaf, seed):
            return np.random.default_rng(seed).normal(size=leaf.shape)

        encoder = params["encoder"]
        leaves, tree = jax.tree.flatten(encoder)
        way = jax.tree.unflatten(tree, [along(v, i) for i, v in enumerate(leaves)])
        ends = [
            loss(jax.tree.map(lambda v, w, s=s: v + s * w, encoder, way))
            for s in (1e-5, -1e-5)
        ]
        grad = jax.grad(loss)(encoder)
        slope = sum(map(jnp.vdot, *map(jax.tree.leaves, (grad, way))))
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-5, rtol=1e-7)


def test_the_convolutional_one_fits_odd_images():
    model = vae.conv((5, 7, 2), LATENT, (3, 4), likelihood="gaussian")
    x, noise = jnp.zeros((3, 5, 7, 2)), jnp.zeros((3, LATENT))

    def run(key):
        variables = model.init(key, x, noise)
        return model.apply(variables, x, noise), vae.generate(model, variables, key, 4)

    (log_likelihood, mean, logvar), images = jax.eval_shape(run, jax.random.key(0))
    assert log_likelihood.shape == (3,)
    assert mean.shape == logvar.shape == (3, LATENT)
    assert images.shape == (4, 5, 7, 2)
