"""Contrastive losses against double loops and closed forms; what a probe makes of them.

Golden numbers are of numpy, in float64.
"""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.test_recipes import fit
from train import loop, many, optim, step
from train.data import Split, augment
from train.evaluate import evaluate
from train.recipes import RECIPES, prepare
from train.report.probe import neighbours, probes
from train.source import full
from zoo import contrastive
from zoo.base import UsageError
from zoo.blocks import ConvEncoder

# compiling takes longer than what it shows
pytestmark = pytest.mark.contract

KEY = jax.random.key(0)
VIEW = augment.affine(degrees=10, pixels=1)


def drawn(n=6, d=5, seed=0):
    """Two views' embeddings, alike in a part."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, d))
    return [jnp.asarray(z, "f4") for z in (a, a + 0.5 * rng.normal(size=(n, d)))]


# NT-Xent ------------------------------------------------------------------------------


def looped(a, b, temperature, but=lambda i, k: k == i):
    """Chen et al., equation 1, as it stands; `but` says which others do not count."""
    z = np.concatenate([a, b]).astype(float)
    n, total = len(a), np.zeros(len(z))
    for i in range(2 * n):

        def cosine(k, i=i):
            return z[i] @ z[k] / np.linalg.norm(z[i]) / np.linalg.norm(z[k])

        others = [cosine(k) for k in range(2 * n) if not but(i, k)]
        j = (i + n) % (2 * n)
        total[i] = np.log(np.exp(np.array(others) / temperature).sum())
        total[i] -= cosine(j) / temperature
    return (total[:n] + total[n:]) / 2


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_is_the_equation_looped_over(temperature):
    a, b = drawn()
    found = contrastive.nt_xent(a, b, temperature)
    wanted = looped(a, b, temperature)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    # an image among its own others, or its own view left out, would be seen
    for but in (lambda i, k: False, lambda i, k: k % len(a) == i % len(a)):
        assert np.abs(looped(a, b, temperature, but) - wanted).min() > 1e-3
    # and a temperature that multiplies, a product that is no cosine
    assert np.abs(looped(a, b, 1 / temperature) - wanted).max() > 1e-2
    np.testing.assert_allclose(
        contrastive.nt_xent(3 * a, b, temperature), found, rtol=1e-5
    )


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_nt_xent_of_equal_views_and_orthogonal_others_is_known(temperature):
    n = 5
    e = jnp.eye(n)
    found = contrastive.nt_xent(e, e, temperature)
    others = (2 * n - 2) * np.exp(-1 / temperature)
    np.testing.assert_allclose(found, np.log1p(others), rtol=1e-5)
    # where all are one, each of the others is as likely
    same = contrastive.nt_xent(jnp.ones((n, 3)), jnp.ones((n, 3)), temperature)
    np.testing.assert_allclose(same, np.log(2 * n - 1), rtol=1e-5)


# Barlow twins -------------------------------------------------------------------------

# +-1 in all ways: mean 0, variance 1, no two columns alike
WHITE = jnp.asarray(list(product((-1.0, 1.0), repeat=3)), "f4")


def test_barlow_is_zero_exactly_for_white_views_that_are_equal():
    assert float(contrastive.barlow(WHITE, WHITE)) == 0.0
    # whatever their scale and mean are, to rounding
    assert contrastive.barlow(3 * WHITE + 1, WHITE / 2) == pytest.approx(0, abs=1e-10)
    # a dimension turned, two the same, or the embedding of another image
    turned = WHITE * jnp.array([[1, 1, -1.0]])
    assert float(contrastive.barlow(WHITE, turned)) == pytest.approx(4.0)
    twice = WHITE[:, jnp.array([0, 0, 1])]
    assert float(contrastive.barlow(twice, twice, 0.1)) == pytest.approx(0.2)
    assert float(contrastive.barlow(WHITE, jnp.roll(WHITE, 1, 0))) > 0.5


def test_barlow_is_that_of_numpys_correlations():
    a, b = drawn(40, 4)
    c = np.corrcoef(a, b, rowvar=False)[:4, 4:]
    np.testing.assert_allclose(contrastive.correlation(a, b), c, atol=1e-5)
    own = np.square(1 - np.diag(c)).sum()
    other = np.square(c).sum() - np.square(np.diag(c)).sum()
    found = contrastive.barlow(a, b, 0.05)
    assert float(found) == pytest.approx(own + 0.05 * other, rel=1e-4)
    assert abs(own - found) > 1e-3 and abs(other + own - found) > 1e-3


def test_a_constant_dimension_has_a_finite_gradient():
    a, b = drawn()
    a, b = (z.at[:, 0].set(2.0) for z in (a, b))
    assert float(contrastive.correlation(a, b)[0, 0]) == 0
    assert jnp.isfinite(jax.grad(contrastive.barlow)(a, b)).all()


# The task -----------------------------------------------------------------------------


def small(objective=contrastive.nt_xent, view=VIEW):
    model = contrastive.conv(8, (4,), (8, 6))
    return model, contrastive.task(model, view, objective)


@pytest.fixture(scope="module")
def digits():
    """All parts of small images, with a hundred labels."""
    return prepare(RECIPES["simclr"], data="digits", labels=100).parts


@pytest.fixture(scope="module")
def begun(digits):
    model, task = small()
    batch = {"x": jnp.asarray(digits.train["x"][:6])}
    return model, task, *jax.jit(task.init)(KEY, batch), batch


def test_the_objective_is_of_the_views_embeddings_in_pairs(begun):
    model, task, params, state, batch = begun

    @jax.jit
    def run(params, state, x):
        twice = VIEW(KEY, {"x": jnp.repeat(x, 2, 0)})["x"]
        variables = {"params": params, **state}
        z, _ = model.apply(variables, twice, train=True, mutable=["batch_stats"])
        return z, task.loss(params, state, {"x": x}, KEY, train=True)

    z, (value, aux) = run(params, state, batch["x"])
    assert float(value) == pytest.approx(looped(z[::2], z[1::2], 0.5).mean(), rel=1e-4)
    assert float(aux.metrics["objective"].value()) == pytest.approx(float(value))
    # halves taken for views, as of a batch put behind itself, would be seen
    assert abs(looped(z[:6], z[6:], 0.5).mean() - value) > 1e-2
    share = 0.5 * np.square(z[::2] - z[1::2]).mean()
    assert float(aux.metrics["loss"].value()) == pytest.approx(share, rel=1e-4)


def paired(model, trained, x):
    """The share of slightly changed images whose nearest is their other view."""
    views = augment.affine(degrees=5, pixels=0.3)(KEY, {"x": jnp.repeat(x, 2, 0)})["x"]
    variables = {"params": trained.params, **trained.model}
    z = np.asarray(model.apply(variables, views))
    own = np.arange(len(z))
    return (neighbours(z, own, 2)[:, 1] // 2 == own // 2).mean()


@pytest.mark.contract
def test_a_batch_is_learned_to_be_told_apart(digits):
    model, task = small()
    x = digits.train["x"][:16]
    optimizer = optim.optimizer("adam", 0.01)
    done = loop.fit(task, optimizer, full({"x": x}), steps=120, progress=False)
    assert done.records[-1]["objective"] < 0.6 * done.records[0]["objective"]
    begun = jax.jit(task.init)(KEY, {"x": jnp.asarray(x)})
    found = [paired(model, what, x) for what in (done.trained, step.Trained(*begun))]
    assert found[0] > 0.8 > found[1]
    assert evaluate(task, done.trained, {"x": x})["loss"] < 0.3


def test_a_batch_of_one_is_refused_but_may_be_evaluated(begun):
    _, task, params, state, batch = begun
    one = {"x": batch["x"][:1]}
    for objective in (contrastive.nt_xent, contrastive.barlow):
        loss = small(objective)[1].loss
        with pytest.raises(UsageError, match="2 or more images to tell from each"):
            jax.eval_shape(partial(loss, train=True), params, state, one, KEY)
    value, _ = jax.jit(task.loss, static_argnames="train")(
        params, state, one, KEY, train=False
    )
    assert np.isfinite(value)


def test_parts_of_a_batch_are_refused(digits):
    _, task = small()
    optimizer, source = optim.optimizer("adam", 0.01), full({"x": digits.train["x"]})
    with pytest.raises(UsageError, match="expected no microbatch"):
        loop.fit(task, optimizer, source, steps=1, microbatch=32, progress=False)
    with pytest.raises(UsageError, match="compares the examples .* found 3 parts"):
        loop.fit(task, optimizer, source, steps=1, accumulate=3, progress=False)
    with pytest.raises(UsageError, match="compares the examples .* found 3 parts"):
        many.Member(task, optimizer, parts=3).step()


def test_what_are_no_images_is_refused(begun):
    _, task, params, state, batch = begun
    for wrong in (batch["x"][..., 0], jnp.ones((4, 8, 8, 1), int)):
        with pytest.raises(UsageError, match="expected"):
            jax.eval_shape(
                partial(task.loss, train=True), params, state, {"x": wrong}, KEY
            )


# What it is measured by ---------------------------------------------------------------


@pytest.mark.contract
def test_a_probe_tells_what_features_say(digits):
    y, known = digits.train["y"], digits.train["known"]
    told = probes(np.eye(10)[y], np.eye(10)[digits.test["y"]], digits)
    assert told["probe"] == told["probe_all"] == 1.0
    assert told["gain"] == 1 - told["pixels"] and 0.7 < told["pixels"] < 0.95
    # pixels add nothing to pixels; labels that are not known reach neither
    flat = [part["x"].reshape(-1, 64) for part in (digits.train, digits.test)]
    hidden = digits.train | {"y": np.where(known, y, y[::-1])}
    other = probes(*flat, digits._replace(train=hidden))
    assert other["gain"] == 0 and other["pixels"] == told["pixels"]
    assert other["probe_all"] < 0.5


def test_neighbours_are_the_nearest_by_angle():
    z = np.array([[1.0, 0], [2, 0.1], [-1, 0], [-2, 0.1], [0, 0.1], [0, -0.3]])
    assert neighbours(z, np.array([0, 3]), 2).tolist() == [[0, 1], [3, 2]]


@pytest.mark.contract
@pytest.mark.parametrize("name", ["simclr", "barlow_twins"])
def test_a_run_measures_and_shows_neighbours(name):
    flags = {"channels": (4, 8), "width": 32, "steps": 60, "labels": 100}
    recipe = prepare(RECIPES[name], data="digits", **flags)
    trained = fit(recipe).trained
    scores = recipe.report.measure(trained, recipe.parts).scores
    assert {"loss", "probe", "pixels", "gain", "probe_all"} == set(scores)
    assert 0 < scores["loss"] < 0.8 and scores["probe"] > 0.5
    shown = recipe.report.sample(trained, recipe.parts, 0, 16)
    assert shown.shape == (16, 8, 8, 1) and shown.min() >= 0 and shown.max() <= 1
    assert (np.abs(shown[:8] - shown[0]).max((1, 2, 3)) > 0).sum() == 7


@pytest.mark.slow
@pytest.mark.long
def test_learning_is_worth_more_than_random_features():
    """What the encoder says before any training is told apart worse than pixels are."""
    recipe = prepare(RECIPES["simclr"], Split("mnist5k", 0.0, 0))
    begun = jax.jit(recipe.task.init)(KEY, {"x": recipe.parts.train["x"][:2]})
    fresh = recipe.report.measure(step.Trained(*begun), recipe.parts).scores
    scores = recipe.report.measure(fit(recipe).trained, recipe.parts).scores
    assert scores["probe"] > fresh["probe"] + 0.1


@pytest.mark.parametrize(
    "flags, words",
    [
        ({"data": "wine", "labels": 99}, "expected images"),
        ({"data": "digits", "labels": 7}, "multiple of the 10 classes"),
    ],
)
def test_a_recipe_refuses_what_cannot_be(flags, words):
    with pytest.raises(UsageError, match=words):
        prepare(RECIPES["simclr"], **flags)


@pytest.mark.contract
def test_an_encoder_of_another_kind_may_be_used():
    model = contrastive.Twins(ConvEncoder(8, (4,), batch_norm=True), (6,))
    x = jnp.zeros((2, 8, 8, 1))
    variables = model.init(KEY, x)
    assert model.apply(variables, x).shape == (2, 6)
    assert contrastive.features(model, variables, x).shape == (2, 8)
