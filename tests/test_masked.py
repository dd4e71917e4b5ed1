"""Masked autoencoders: what is seen, what is drawn, and what is asked of it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train import loop, optim
from train.evaluate import evaluate
from train.source import full
from zoo import masked
from zoo.base import UsageError

# compiling takes longer than what it shows
pytestmark = pytest.mark.contract

KEY = jax.random.key(0)
SHAPE, SIDE = (6, 8, 2), 2
N, KEPT = 12, 3


def images(n=4, shape=SHAPE, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(n, *shape)), "f4")


# Patches ------------------------------------------------------------------------------


def test_patches_are_rows_of_squares_and_put_back():
    x = images()
    found = masked.patchify(x, SIDE)
    assert found.shape == (4, N, SIDE * SIDE * 2)
    for i in range(N):  # 4 a row
        down, across = SIDE * (i // 4), SIDE * (i % 4)
        square = x[:, down : down + SIDE, across : across + SIDE]
        np.testing.assert_array_equal(found[:, i], square.reshape(4, -1))
    np.testing.assert_array_equal(masked.unpatchify(found, SHAPE, SIDE), x)
    # rows and columns of another image, of as many pixels, are not those of this
    other = masked.unpatchify(found, (8, 6, 2), SIDE).reshape(x.shape)
    assert np.abs(other - x).max() > 1


def test_places_tell_rows_and_columns():
    found = np.asarray(masked.places((3, 4), 8)).reshape(3, 4, 8)
    np.testing.assert_array_equal(found[:, 0, :4], found[:, 3, :4])
    np.testing.assert_array_equal(found[0, :, 4:], found[2, :, 4:])
    assert len(np.unique(found.reshape(12, 8).round(5), axis=0)) == 12


def test_any_patch_is_as_likely_to_be_seen():
    at = np.asarray(masked.choose(KEY, 20_000, N, KEPT))
    assert (np.diff(at, axis=1) > 0).all() and at.min() == 0 and at.max() == N - 1
    share = np.bincount(at.ravel(), minlength=N) / len(at)
    assert np.abs(share - KEPT / N).max() < 4.5 * (0.25 * 0.75 / len(at)) ** 0.5


# What is seen, and what is asked ------------------------------------------------------


@pytest.fixture(scope="module")
def begun():
    model = masked.MaskedAutoencoder(SHAPE, SIDE, 8, 1, 2, 8, 1)
    task = masked.task(model, hidden=0.75)
    x = images()
    params, _ = jax.jit(task.init)(KEY, {"x": x})
    return model, task, params, x


@pytest.mark.contract
def test_the_encoder_does_not_see_what_is_hidden(begun):
    model, _, params, x = begun
    at = masked.choose(KEY, len(x), N, KEPT)
    variables = {"params": params}
    hidden = np.ones((len(x), N), bool)
    hidden[np.arange(len(x))[:, None], np.asarray(at)] = False

    @jax.jit
    def slope(patches):
        def drawn(patches):
            whole = masked.unpatchify(patches, SHAPE, SIDE)
            return jnp.square(model.apply(variables, whole, at)).sum()

        return jax.grad(drawn)(patches)

    found = np.abs(slope(masked.patchify(x, SIDE))).max(-1)
    assert (found[hidden] == 0).all() and (found[~hidden] > 0).all()
    # an encoder of all patches would be seen
    every = jax.grad(lambda x: jnp.square(masked.features(model, variables, x)).sum())
    assert (np.abs(masked.patchify(every(x), SIDE)).max(-1) > 0).all()


def test_the_loss_is_of_hidden_patches_alone(begun):
    model, task, params, x = begun
    at = masked.choose(KEY, len(x), N, KEPT)
    true = masked.patchify(x, SIDE)
    drawn = jax.jit(model.apply)({"params": params}, x, at)
    found = masked.hidden_error(drawn, true, at)
    errors = np.square(np.asarray(drawn - true, float)).mean(-1)
    own = [[i for i in range(N) if i not in row] for row in np.asarray(at)]
    wanted = [error[row].mean() for error, row in zip(errors, own, strict=True)]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    # the mean over all is another, and so is that of the patches that are seen
    assert np.abs(errors.mean(1) - wanted).max() > 1e-3
    # another target of a patch that is seen changes nothing, of one hidden it does
    rows = np.arange(len(x))
    seen = true.at[rows, at[:, 0]].add(1.0)
    np.testing.assert_array_equal(masked.hidden_error(drawn, seen, at), found)
    first = np.array([row[0] for row in own])
    other = true.at[rows, first].add(1.0)
    assert (np.abs(masked.hidden_error(drawn, other, at) - found) > 1e-3).all()
    run = jax.jit(task.loss, static_argnames="train")
    value, aux = run(params, {}, {"x": x}, KEY, train=True)
    assert float(value) == pytest.approx(np.mean(wanted), rel=1e-5)


@pytest.mark.contract
def test_it_learns_to_draw_what_it_does_not_see(begun):
    model, task, _, _ = begun
    shade = np.random.default_rng(0).normal(size=(16, 1, 1, 1))
    x = np.broadcast_to(shade, (16, *SHAPE)).astype("f4")  # any patch tells the others
    optimizer, source = optim.optimizer("adam", 0.01), full({"x": x})
    done = loop.fit(task, optimizer, source, steps=150, progress=False)
    assert evaluate(task, done.trained, {"x": x})["loss"] < 0.1 * x.var()
    at = masked.choose(KEY, 16, N, KEPT)
    variables = {"params": done.trained.params}
    made = np.asarray(masked.complete(model, variables, jnp.asarray(x), at))
    shown = np.asarray(masked.covered(model, jnp.asarray(x), at))
    seen = shown != 0
    np.testing.assert_array_equal(made[seen], x[seen])
    assert seen.mean() == KEPT / N and np.square(made - x)[~seen].mean() < 0.1 * x.var()


def test_features_are_of_an_image_whatever_its_batch(begun):
    model, _, params, x = begun
    run = jax.jit(partial(masked.features, model))
    found = run({"params": params}, x)
    assert found.shape == (4, 8) and found.dtype == jnp.float32
    np.testing.assert_allclose(run({"params": params}, x[1:2]), found[1:2], atol=1e-6)


@pytest.mark.contract
def test_a_classifier_begins_where_an_encoder_is(begun):
    model, _, params, x = begun
    network = masked.Classifier(3, model)
    made = jax.jit(network.init)(KEY, x)["params"]
    body = masked.encoder(params)
    like = jax.tree.map(jnp.shape, body)
    assert jax.tree.map(jnp.shape, made["body"]) == like
    assert np.abs(made["body"]["embed"]["kernel"] - body["embed"]["kernel"]).max() > 0.1
    found = jax.jit(network.apply)({"params": made | {"body": body}}, x)
    said = masked.features(model, {"params": params}, x)
    head = jax.tree.map(np.asarray, made["head"])
    wanted = said @ head["kernel"] + head["bias"][None]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


# Mistakes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: masked.patchify(images(), 3), "patch that divides images of 6 x 8"),
        (lambda: masked.patchify(images(), 0), "patch between 1"),
        (lambda: masked.MaskedAutoencoder((28, 28, 1), 5).patches, "28 x 28, found 5"),
        (lambda: masked.kept_of(16, 0.0), "some to see and some to draw"),
        (lambda: masked.kept_of(4, 0.95), "some to see and some to draw"),
    ],
)
def test_a_mistake_is_a_sentence(make, words):
    with pytest.raises(UsageError, match=words):
        make()


def test_images_of_another_shape_are_refused(begun):
    _, task, params, _ = begun
    run = partial(task.loss, train=False)
    for wrong in (images(2, (8, 6, 2)), images(2, (6, 8))):
        with pytest.raises(UsageError, match="expected"):
            jax.eval_shape(run, params, {}, {"x": wrong}, KEY)
