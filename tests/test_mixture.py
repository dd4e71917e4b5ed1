"""Mixtures of Gaussians against scikit-learn's from the same start; by gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture

from tests.conftest import quick
from train import loop, optim
from train.source import full
from zoo import mixture
from zoo.base import UsageError


@pytest.fixture(scope="module")
def iris():
    return load_iris().data.astype(np.float32)


def start(x, diagonal, k=3):
    """A mixture of thirds of the rows."""
    share = np.eye(k, dtype=np.float32)[np.arange(len(x)) * k // len(x)]
    return mixture.maximized(jnp.asarray(x), jnp.asarray(share), diagonal=diagonal)


def reference(x, begin, diagonal, **options):
    covariance, weights = (
        np.asarray(a, float) for a in (begin.covariances, begin.weights)
    )
    precision = np.linalg.inv(covariance)
    if diagonal:
        precision = np.diagonal(precision, axis1=1, axis2=2)
    model = GaussianMixture(
        len(begin.weights),
        covariance_type="diag" if diagonal else "full",
        weights_init=weights / weights.sum(),
        means_init=np.asarray(begin.means, float),
        precisions_init=precision,
        **options,
    )
    return model.fit(x.astype(float))


@pytest.mark.parametrize("diagonal", [False, True])
def test_em_equals_scikit_learn_from_the_same_start(iris, diagonal):
    begin = start(iris, diagonal)
    exact = reference(iris, begin, diagonal, tol=1e-3)
    run = jax.jit(mixture.em, static_argnames=("diagonal", "most"))
    found = run(iris, begin, diagonal=diagonal)
    assert int(found.steps) == exact.n_iter_
    assert float(found.likelihood) == pytest.approx(exact.lower_bound_, rel=1e-4)
    np.testing.assert_allclose(found.mixture.weights, exact.weights_, atol=1e-4)
    np.testing.assert_allclose(found.mixture.means, exact.means_, atol=1e-4)
    covariance = exact.covariances_
    if diagonal:
        covariance = covariance[..., None] * np.eye(4)
    np.testing.assert_allclose(found.mixture.covariances, covariance, atol=1e-4)
    joint = mixture.log_joint(found.mixture, iris)
    np.testing.assert_array_equal(jnp.argmax(joint, 1), exact.predict(iris))
    each = jax.nn.logsumexp(joint, -1)
    np.testing.assert_allclose(each, exact.score_samples(iris), atol=2e-3)
    # a step less is seen
    less = run(iris, begin, diagonal=diagonal, most=int(found.steps) - 1)
    assert np.abs(less.mixture.means - exact.means_).max() > 1e-4


@pytest.mark.contract
def test_em_never_loses_likelihood(iris):
    begin = start(iris, False)
    run = jax.jit(mixture.em, static_argnames="most")
    found = [float(run(iris, begin, most=n).likelihood) for n in range(1, 8)]
    assert (np.diff(found) > -1e-5).all() and found[-1] > found[0] + 0.01


@pytest.mark.contract
def test_restarts_in_one_vmap_are_as_good_as_scikit_learns(iris):
    exact = GaussianMixture(3, n_init=10, random_state=0).fit(iris.astype(float))
    run = jax.jit(mixture.gaussian_mixture, static_argnames=("components", "restarts"))
    found = run(jax.random.key(0), iris, components=3, restarts=10)
    assert float(found.likelihood) > exact.lower_bound_ - 2e-3
    one = run(jax.random.key(0), iris, components=1)
    centred = iris - iris.mean(0)
    exact = centred.T @ centred / len(iris) + 1e-6 * np.eye(4)
    np.testing.assert_allclose(one.mixture.covariances[0], exact, atol=1e-4)


@pytest.mark.parametrize("diagonal", quick([False, True], True))
def test_gradients_find_what_em_does(iris, diagonal):
    begin = start(iris, diagonal)
    exact = reference(iris, begin, diagonal, tol=1e-9, max_iter=5000)
    model = mixture.GaussianMixture(3, diagonal)
    plain, known = mixture.task(model), mixture.variables_of(begin, diagonal=diagonal)

    def init(key, batch):
        shapes, state = plain.init(key, batch)
        same = jax.tree.map(lambda a, b: a.shape == b.shape, shapes, known["params"])
        assert jax.tree.all(same)
        return known["params"], state

    before = model.apply(known, iris)
    joint = mixture.log_joint(begin, iris)
    np.testing.assert_allclose(before, jax.nn.logsumexp(joint, -1), atol=1e-4)
    task, optimizer = plain._replace(init=init), optim.optimizer("lbfgs")
    fit = loop.fit(task, optimizer, full({"x": iris}), steps=150, progress=False)
    assert -fit.records[-1]["loss"] == pytest.approx(exact.lower_bound_, abs=1e-3)
    assert float(before.mean()) < exact.lower_bound_ - 0.01


def test_what_cannot_be_right_is_a_sentence(iris):
    few, key = iris[:4], jax.random.key(0)
    with pytest.raises(UsageError, match="at most 4 clusters of 4 rows, found 5"):
        mixture.gaussian_mixture(key, few, 5)
    with pytest.raises(UsageError, match="floating-point"):
        mixture.em(few.astype(int), start(few, False, 2))
    with pytest.raises(UsageError, match="floating-point"):
        mixture.GaussianMixture(2).init(key, few.astype(int))
