"""Components against scikit-learn's; those of a loss against those of a matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA, FastICA, IncrementalPCA, KernelPCA

from train import loop, optim
from train.source import full
from zoo import decomposition as parts
from zoo.base import UsageError

PIXELS = (load_digits().data[:600] / 16).astype(np.float32)
IRIS = load_iris().data.astype(np.float32)


def test_pca_equals_scikit_learn():
    exact = PCA(8, svd_solver="full").fit(PIXELS.astype(float))
    found = jax.jit(parts.pca, static_argnums=1)(PIXELS, 8)
    np.testing.assert_allclose(found.axes, exact.components_, atol=1e-4)
    np.testing.assert_allclose(found.variance, exact.explained_variance_, rtol=1e-4)
    np.testing.assert_allclose(found.mean, exact.mean_, atol=1e-6)
    places = parts.project(found, PIXELS[:9])
    np.testing.assert_allclose(places, exact.transform(PIXELS[:9]), atol=1e-4)
    again = exact.inverse_transform(exact.transform(PIXELS[:9]))
    np.testing.assert_allclose(parts.restore(found, places), again, atol=1e-4)


def test_incremental_pca_equals_scikit_learn():
    exact = IncrementalPCA(6)
    found = parts.nothing(6, 64)
    step = jax.jit(parts.more)
    for rows in np.split(PIXELS, [100, 230, 250, 480]):
        exact.partial_fit(rows.astype(float))
        found = step(found, jnp.asarray(rows))
        np.testing.assert_allclose(found.axes, exact.components_, atol=2e-4)
        np.testing.assert_allclose(found.variance, exact.explained_variance_, rtol=1e-4)
        np.testing.assert_allclose(found.mean, exact.mean_, atol=1e-5)
    assert int(found.rows) == 600
    # it is not that of all rows at once, nor far from it
    whole = parts.pca(PIXELS, 6)
    assert 1e-3 < np.abs(whole.variance - found.variance).max() < 0.1


@pytest.mark.contract
def test_a_scan_over_parts_with_all_components_forgets_nothing():
    rows = jnp.asarray(IRIS.reshape(5, 30, 4))
    begin = parts.nothing(4, 4)
    found, _ = jax.lax.scan(lambda c, x: (parts.more(c, x), None), begin, rows)
    exact = parts.pca(IRIS, 4)
    np.testing.assert_allclose(found.axes, exact.axes, atol=1e-4)
    np.testing.assert_allclose(found.variance, exact.variance, rtol=1e-4)


def by_gradient(x, components, steps=60):
    task, optimizer = parts.task(components), optim.optimizer("lbfgs")
    return loop.fit(task, optimizer, full({"x": x}), steps=steps, progress=False)


def test_gradients_find_the_components_in_their_order():
    fit = by_gradient(IRIS, 3, 200)
    exact = PCA(3).fit(IRIS.astype(float))
    axes = np.asarray(fit.trained.params["axes"])
    signs = np.sign((axes * exact.components_).sum(1))
    np.testing.assert_allclose(signs[:, None] * axes, exact.components_, atol=2e-3)
    np.testing.assert_allclose(fit.trained.params["mean"], exact.mean_, atol=1e-3)
    left = np.square(IRIS - exact.inverse_transform(exact.transform(IRIS))).sum(1)
    assert fit.records[-1]["loss"] == pytest.approx(left.mean(), rel=1e-4)


@pytest.mark.contract
def test_the_objective_is_the_mean_over_counts_of_components():
    rng = np.random.default_rng(0)
    x, axes, mean = (rng.normal(size=s).astype(np.float32) for s in ((5, 4), (3, 4), 4))
    params, batch = {"mean": mean, "axes": axes}, {"x": jnp.asarray(x)}
    task, y = parts.task(3), x - mean
    errors = [np.square(y - y @ axes[:k].T @ axes[:k]).sum(1).mean() for k in range(4)]
    for train, exact in ((True, np.mean(errors)), (False, errors[3])):
        value, _ = task.loss(params, {}, batch, jax.random.key(0), train=train)
        assert float(value) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(
    "name, options, same",
    [
        ("linear", {}, {}),
        ("rbf", {"gamma": 0.2}, {"gamma": 0.2}),
        ("poly", {"gamma": 0.1, "degree": 3}, {"gamma": 0.1, "degree": 3, "coef0": 1}),
    ],
)
def test_kernel_pca_equals_scikit_learn(name, options, same):
    x, other = IRIS[::2], IRIS[1::20] + np.float32(0.01)
    exact = KernelPCA(3, kernel=name, eigen_solver="dense", **same).fit(x.astype(float))
    kernel = parts.kernel(name, **options)
    found = parts.kernel_pca(x, 3, kernel)
    np.testing.assert_allclose(found.variance, exact.eigenvalues_, rtol=1e-4)
    for rows in (x, other):
        places = parts.kernel_project(found, jnp.asarray(rows), kernel)
        size = np.abs(exact.transform(x)).max()
        np.testing.assert_allclose(places, exact.transform(rows), atol=3e-4 * size)


def test_a_linear_kernel_is_pca():
    kernel = parts.kernel("linear")
    found = parts.kernel_project(parts.kernel_pca(IRIS, 6, kernel), IRIS, kernel)
    exact = parts.project(parts.pca(IRIS, 4), IRIS)
    np.testing.assert_allclose(np.abs(found[:, :3]), np.abs(exact[:, :3]), atol=2e-3)
    assert np.isfinite(found).all() and not found[:, 4:].any()  # no fifth axis


def mixed(n=2000):
    """Three signals of variance 1, and four mixtures of them."""
    t, rng = np.linspace(0, 8, n), np.random.default_rng(0)
    s = np.stack([np.sin(2 * t), np.sign(np.sin(3 * t)), rng.laplace(size=n)], 1)
    s = (s - s.mean(0)) / s.std(0)
    mixing = np.array([[1, 1, 1], [0.5, 2, 1], [1.5, 1, 2], [0.2, -1, 1.0]])
    return s, (s @ mixing.T + [1, 2, 3, 4]).astype(np.float32)


def matched(found, exact):
    """Columns in the order and with the signs of others."""
    like = found.T @ exact / len(exact)
    order = np.abs(like).argmax(0)
    assert sorted(order) == list(range(exact.shape[1]))
    return found[:, order] * np.sign(like[order, range(exact.shape[1])])


def test_ica_equals_scikit_learn_and_finds_the_sources():
    s, x = mixed()
    found = jax.jit(parts.ica, static_argnums=2)(
        jax.random.key(0), x, 3, tolerance=1e-6
    )
    places = (x - np.asarray(found.mean)) @ np.asarray(found.unmixing).T
    exact = FastICA(3, whiten="unit-variance", tol=1e-9, max_iter=1000, random_state=0)
    theirs = exact.fit_transform(x.astype(float))
    np.testing.assert_allclose(matched(places, theirs), theirs, atol=2e-3)
    assert np.abs(matched(places, s) - s).mean() < 0.05
    np.testing.assert_allclose(places.std(0), 1, atol=1e-4)
    again = places @ np.asarray(found.mixing).T + np.asarray(found.mean)
    np.testing.assert_allclose(again, x, atol=1e-3)


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (lambda x: parts.pca(x, 5), r"at most 4 components of 6 rows \[4\], found 5"),
        (lambda x: parts.pca(x, 0), "components between 1"),
        (lambda x: parts.pca(x.astype(int), 2), "floating-point"),
        (lambda x: parts.more(parts.nothing(3, 5), x), "expected 5 features, found 4"),
        (lambda x: parts.more(parts.nothing(3, 4), x[:2]), "3 rows or more"),
        (lambda x: parts.kernel_pca(x, 7, parts.kernel("rbf")), "at most 6 components"),
        (lambda x: parts.kernel("rbg"), "did you mean 'rbf'"),
        (lambda x: parts.ica(jax.random.key(0), x, 5), "at most 4 components"),
        (lambda x: by_gradient(x, 5), "at most 4 components of 4 features"),
    ],
)
def test_what_cannot_be_right_is_a_sentence(wrong, sentence):
    with pytest.raises(UsageError, match=sentence):
        wrong(jnp.arange(24.0).reshape(6, 4))
