"""Autoencoders, measured against principal components."""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from train import evaluate
from train.data import Data, Schema, views
from train.recipes.base import Built, Goal, Recipe, Training, expect_images
from train.report import Measured, Report
from train.report.measure import labels_for, tested
from train.step import Trained
from zoo import autoencoder as autoencoders
from zoo.base import Number, UsageError, check_choice, concrete


def autoencoder(
    schema: Schema, *, network: Literal["dense", "conv"] = "dense", latent: int = 32
) -> Built:
    """An autoencoder with a narrow middle of `latent` dimensions."""
    return _autoencoder(schema, network, latent, 0.0)


def denoising_autoencoder(
    schema: Schema,
    *,
    network: Literal["dense", "conv"] = "dense",
    latent: int = 64,
    noise: Number = 0.5,
) -> Built:
    """An autoencoder that gives clean images for noisy ones."""
    if concrete(noise) and not noise > 0:
        raise UsageError(f"expected noise > 0, found {noise}")
    return _autoencoder(schema, network, latent, noise)


def _autoencoder(schema, network, latent, noise):
    check_choice("network", network, ("dense", "conv"))
    expect_images(schema)
    if network == "conv":
        model = autoencoders.conv(schema.shape, latent)
    else:
        model = autoencoders.dense(schema.shape, latent, (512, 256))
    task = autoencoders.task(model, noise=noise)
    report = Report(
        partial(_measure, task, latent, noise),
        sample=partial(_before_and_after, model, noise),
        of_rows=True,
    )
    return Built(task, model, report)


def _noisy(noise, x, rows):
    """Images [N, ...], of rows [N] of the data set, as evaluation shows them."""

    def alone(x, row):
        key, _ = jax.random.split(evaluate.row_key(0, row))
        return autoencoders.corrupt(x[None], key, noise)[0]

    return np.asarray(jax.vmap(alone)(jnp.asarray(x), jnp.asarray(rows)))


def _measure(task, latent, noise, trained: Trained, data: Data) -> Measured:
    """Mean squared error a pixel, of the network and of scikit-learn's PCA."""
    from sklearn.decomposition import PCA  # a second to import

    train, test = data.train["x"], tested(data)["x"]
    error = evaluate.evaluate(task, trained, {"x": test})["loss"]
    seen, train, test = (
        part.reshape(len(part), -1)
        for part in (_noisy(noise, test, np.arange(len(test))), train, test)
    )
    pca = PCA(min(latent, *train.shape), random_state=0).fit(train)
    found = pca.inverse_transform(pca.transform(seen))
    reference = float(np.square(found - test).mean())
    return Measured({"loss": error, "pca": reference, "of_pca": error / reference})


def _before_and_after(model, noise, trained, data, seed, n, label=None):
    """Rows of eight images as given and, below each, what was made of them."""
    labels_for(0, n, label)
    x = tested(data)["x"]
    at = np.random.default_rng(seed).permutation(len(x))[: -(-n // 16) * 8]
    seen = _noisy(noise, x[at], at)
    variables = {"params": trained.params, **trained.model}
    made = np.asarray(model.apply(variables, seen))
    rows = [part[i : i + 8] for i in range(0, len(at), 8) for part in (seen, made)]
    return np.concatenate(rows).clip(0, 1)


TRAINING = Training(6000, 64, "adamw", 1e-3, "warmup_cosine", 1e-3)
RECIPES = {
    "autoencoder": Recipe(
        autoencoder,
        views.unit_images,
        "mnist5k",
        TRAINING,
        Goal("of_pca", 0.75, at_most=True),
        "An autoencoder with a narrow middle. Of digits not trained on, its squared "
        "error beside that of as many principal components.",
        "half a minute",
        'Hinton & Salakhutdinov, "Reducing the dimensionality of data with neural '
        'networks", 2006',
    ),
    "denoising_autoencoder": Recipe(
        denoising_autoencoder,
        views.unit_images,
        "mnist5k",
        TRAINING,
        Goal("of_pca", 0.6, at_most=True),
        "An autoencoder that gives clean images for noisy ones, beside as many "
        "principal components of the clean images, given the same noisy ones.",
        "half a minute",
        'Vincent et al., "Extracting and composing robust features with denoising '
        'autoencoders", 2008',
    ),
}
