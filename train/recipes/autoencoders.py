"""Autoencoders, measured against principal components."""

from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from train import data as sets
from train import optim
from train.data import Data
from train.evaluate import evaluate, row_key
from train.recipes.base import Goal, Recipe, Source, images_of, labels_for, scheduled
from train.step import Trained
from zoo import autoencoder as autoencoders
from zoo.base import UsageError, concrete


def autoencoder(
    *,
    data: Source = "mnist5k",
    holdout: float | None = None,
    network: Literal["dense", "conv"] = "dense",
    latent: int = 32,
    optimizer: optim.Name = "adamw",
    schedule: optim.ScheduleName = "warmup_cosine",
    learning_rate: float = 1e-3,
    weight_decay: float | None = 1e-3,
    ema: float | None = None,
    batch_size: int | None = 64,
    steps: int = 6000,
) -> Recipe:
    """An autoencoder with a narrow middle (Hinton & Salakhutdinov 2006).

    MNIST digits not trained on: squared error below that of as many principal
    components ("of_pca" <= 0.75). Half a minute.
    """
    step = scheduled(
        optimizer, schedule, learning_rate, steps, weight_decay=weight_decay
    )
    return _autoencoder(
        data, holdout, network, latent, 0.0, step, steps, batch_size, 0.75
    )._replace(ema=ema)


def denoising_autoencoder(
    *,
    data: Source = "mnist5k",
    holdout: float | None = None,
    network: Literal["dense", "conv"] = "dense",
    latent: int = 64,
    noise: float = 0.5,
    optimizer: optim.Name = "adamw",
    schedule: optim.ScheduleName = "warmup_cosine",
    learning_rate: float = 1e-3,
    weight_decay: float | None = 1e-3,
    ema: float | None = None,
    batch_size: int | None = 64,
    steps: int = 6000,
) -> Recipe:
    """An autoencoder that gives clean images for noisy ones (Vincent et al. 2008).

    Against as many principal components of the clean images, given the same noisy
    ones: "of_pca" <= 0.6. Half a minute.
    """
    if concrete(noise) and not noise > 0:
        raise UsageError(f"expected noise > 0, found {noise}")
    step = scheduled(
        optimizer, schedule, learning_rate, steps, weight_decay=weight_decay
    )
    return _autoencoder(
        data, holdout, network, latent, noise, step, steps, batch_size, 0.6
    )._replace(ema=ema)


def _autoencoder(data, holdout, network, latent, noise, step, steps, size, goal):
    optim.check_choice("network", network, ("dense", "conv"))
    rows = sets.between(images_of(data, holdout), 0, 1)
    shape = rows.schema.shape
    if network == "conv":
        model = autoencoders.conv(shape, latent)
    else:
        model = autoencoders.dense(shape, latent, (512, 256))

    def given(x, rows):
        """Images [N, ...], of rows [N] of the data set, as evaluation shows them."""

        def alone(x, row):
            key, _ = jax.random.split(row_key(0, row))
            return autoencoders.corrupt(x[None], key, noise)[0]

        return np.asarray(jax.vmap(alone)(jnp.asarray(x), jnp.asarray(rows)))

    def measure(recipe: Recipe, trained: Trained, out: Path | None) -> dict[str, Any]:
        """Mean squared error a pixel, of the network and of scikit-learn's PCA."""
        from sklearn.decomposition import PCA  # a second to import

        train, test = _parts(recipe.data)
        error = evaluate(recipe.task, trained, {"x": test})["loss"]
        seen, train, test = (
            part.reshape(len(part), -1)
            for part in (given(test, np.arange(len(test))), train, test)
        )
        pca = PCA(min(latent, *train.shape), random_state=0).fit(train)
        found = pca.inverse_transform(pca.transform(seen))
        reference = float(np.square(found - test).mean())
        return {"loss": error, "pca": reference, "of_pca": error / reference}

    def draw(recipe: Recipe, trained: Trained, seed: int, n: int, label: int | None):
        """Rows of eight images as given and, below each, what was made of them."""
        labels_for(0, n, label)
        x = _parts(recipe.data)[1]
        at = np.random.default_rng(seed).permutation(len(x))[: -(-n // 16) * 8]
        seen = given(x[at], at)
        variables = {"params": trained.params, **trained.model}
        made = np.asarray(recipe.network.apply(variables, seen))
        rows = [part[i : i + 8] for i in range(0, len(at), 8) for part in (seen, made)]
        return np.concatenate(rows).clip(0, 1)

    return Recipe(
        f"autoencoder {network}, {latent}",
        autoencoders.task(model, noise=noise),
        step,
        rows,
        steps,
        size,
        Goal("of_pca", goal, at_most=True),
        measure=measure,
        network=model,
        draw=draw,
        draws_rows=True,
    )


def _parts(data: Data) -> tuple[np.ndarray, np.ndarray]:
    test = data.train if data.test is None else data.test
    return data.train["x"], test["x"]
