"""Models of hidden causes: variational autoencoders, and a mixture to compare."""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from train import evaluate
from train.data import Data, Schema, text, views
from train.recipes.base import (
    Built,
    Goal,
    Recipe,
    Training,
    expect_classes,
    expect_images,
)
from train.recipes.text import windows
from train.report import Measured, Report, judge
from train.report.measure import labels_for, losses, tested
from train.step import Trained
from zoo import mixture
from zoo import recurrent_vae as recurrent
from zoo import vae as vaes
from zoo.base import Number, UsageError, check_choice, concrete

IWAE = 500  # samples of the bound
Likelihood = Literal["bernoulli", "gaussian"]


def vae(
    schema: Schema,
    *,
    likelihood: Likelihood = "bernoulli",
    latent: int = 16,
    widths: tuple[int, ...] = (400,),
    beta: Number = 1.0,
) -> Built:
    """A variational autoencoder of dense layers."""
    _check_pixels(schema, likelihood)
    return _vae(vaes.dense(schema.shape, latent, widths, likelihood=likelihood), beta)


def conv_vae(
    schema: Schema,
    *,
    likelihood: Likelihood = "bernoulli",
    latent: int = 16,
    channels: tuple[int, ...] = (32, 64),
    beta: Number = 1.0,
) -> Built:
    """A variational autoencoder of convolutions."""
    _check_pixels(schema, likelihood)
    return _vae(vaes.conv(schema.shape, latent, channels, likelihood=likelihood), beta)


def conditional_vae(
    schema: Schema,
    *,
    likelihood: Likelihood = "bernoulli",
    latent: int = 8,
    widths: tuple[int, ...] = (400, 400),
    beta: Number = 3.0,
) -> Built:
    """A variational autoencoder told the label; with beta 1, z keeps what it says."""
    _check_pixels(schema, likelihood)
    classes = expect_classes(schema)
    shape = schema.shape
    model = vaes.dense(shape, latent, widths, classes=classes, likelihood=likelihood)
    return _vae(model, beta)


def _check_pixels(schema, likelihood):
    check_choice("likelihood", likelihood, vaes.LIKELIHOODS)
    expect_images(schema)


def _vae(model, beta):
    task = vaes.task(model, beta=beta)
    report = Report(
        partial(_nats, task, model),
        sample=partial(_sample, model),
        columns=model.classes or 8,
        unit="nats an image",
    )
    return Built(task, model, report)


def _nats(task, model, trained: Trained, data: Data) -> Measured:
    """Nats per test image: the ELBO, and the bound of 500 samples."""
    test = tested(data)
    scores: dict[str, Any] = evaluate.evaluate(task, trained, test)
    variables = vaes.variables_of(trained.params, trained.model)
    labels = test["y"] if model.classes else None
    bound = bounds(model, variables, test["x"], labels, samples=IWAE)
    scores[f"iwae_{IWAE}"] = float(bound.mean(dtype=np.float64))
    if model.classes:
        asked = labels_for(model.classes, 1000, None)
        images = _decoded(model, variables, 0, 1000, asked)
        seen = judge.verdict(judge.kept(data), data, images, asked).scores
        scores |= {k: seen[k] for k in ("agreement", "judge_accuracy")}
    return Measured(scores, _collapsed(scores["kl"]))


def _collapsed(kl):
    if kl < 0.1:
        return f"the posterior collapsed to the prior: KL is {kl:.3f} nats"
    return None


def _sample(model, trained, data, seed, n, label=None):
    labels = labels_for(model.classes, n, label)
    variables = vaes.variables_of(trained.params, trained.model)
    return _decoded(model, variables, seed, n, labels).clip(0, 1)


def bernoulli_mixture(schema: Schema, *, components: int = 100) -> Built:
    """Clusters of black and white images."""
    expect_images(schema)
    model = mixture.BernoulliMixture(components)

    def sample(trained, data, seed, n, label=None):
        labels_for(0, n, label)
        variables = {"params": trained.params}
        images = mixture.generate(model, variables, jax.random.key(seed), n)
        return np.asarray(images).reshape(n, *schema.shape)

    task = mixture.task(model)
    report = losses(task)._replace(sample=sample)
    return Built(task, model, report, mixed=False)


def recurrent_vae(
    schema: Schema,
    *,
    length: int = 24,
    latent: int = 32,
    features: int = 192,
    word_dropout: Number = 0.75,
    anneal: int = 1500,
) -> Built:
    """LSTMs between texts of fixed length and points; `latent` 0 is a decoder alone."""
    if latent < 0:
        raise UsageError(f"expected 0 or more latent dimensions, found {latent}")
    if concrete(word_dropout) and not 0 <= word_dropout <= 1:
        raise UsageError(f"expected word_dropout in [0, 1], found {word_dropout}")
    model = recurrent.RecurrentVAE(
        len(schema.tokens), latent, features, word_dropout=word_dropout
    )
    task = vaes.task(model, anneal=anneal)

    def measure(trained: Trained, data: Data) -> Measured:
        """Nats per window, and per character."""
        scores = evaluate.evaluate(task, trained, tested(data))
        scores["loss_per_character"] = scores["loss"] / length
        return Measured(scores, _collapsed(scores["kl"]) if latent else None)

    def sample(trained, data, seed, n, label=None):
        labels_for(0, n, label)
        variables, key = {"params": trained.params}, jax.random.key(seed)
        run: Callable = jax.jit(recurrent.generate, static_argnums=(0, 3, 4))
        found = np.asarray(run(model, variables, key, n, length))
        return [text.decode(schema.tokens, row) for row in found]

    report = Report(measure, sample=sample, unit="nats a window")
    return Built(task, model, report, source=partial(windows, length))


def _decoded(model, variables, seed, n, labels) -> np.ndarray:
    run: Callable = jax.jit(vaes.generate, static_argnums=(0, 3))
    y = None if labels is None else jnp.asarray(labels)
    return np.asarray(run(model, variables, jax.random.key(seed), n, y))


def bounds(
    model: Any,
    variables: Any,
    x: np.ndarray,
    y: np.ndarray | None = None,
    *,
    samples: int = IWAE,
    seed: int = 0,
    batch_size: int = 500,
) -> np.ndarray:
    """The importance-weighted bound of each row: x [N, ...] -> [N], nats.

    A row's noise is a function of the seed and its number: batches change nothing.
    """
    size = min(batch_size, len(x))
    parts = []
    for start in range(0, len(x), size):
        at = np.minimum(np.arange(start, start + size), len(x) - 1)
        some = x[at], None if y is None else y[at]
        parts.append(_bounds(model, samples, variables, seed, at, *some))
    return np.concatenate(parts)[: len(x)]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _bounds(model, samples, variables, seed, at, x, y):
    def one(row, *given):
        key = jax.random.fold_in(jax.random.key(seed), row)
        x, y = jax.tree.map(lambda a: a[None], given)
        return vaes.bound(model, variables, x, key, samples, y)[0]

    return jax.vmap(one)(at, x, y)


def _training(steps: int, batch_size: int) -> Training:
    return Training(steps, batch_size, "adamw", 1e-3, "warmup_cosine", 1e-2)


RECIPES = {
    "bernoulli_mixture": Recipe(
        bernoulli_mixture,
        views.pixels,
        "mnist5k",
        Training(2000, 128, "adamw", 0.1, "cosine", 0.0),
        Goal("loss", 145.0, at_most=True),
        "Clusters of black and white images, in nats an image: the density that a VAE "
        "should beat.",
        "ten seconds",
        'Everitt & Hand, "Finite mixture distributions", 1981',
    ),
    "vae": Recipe(
        vae,
        views.pixels,
        "mnist5k",
        _training(4000, 128),
        Goal("iwae_500", -100.0),
        "A variational autoencoder of dense layers, on images whose pixels are 1 above "
        "one half, in nats an image.",
        "a minute",
        'Kingma & Welling, "Auto-encoding variational Bayes", 2014',
    ),
    "conv_vae": Recipe(
        conv_vae,
        views.pixels,
        "mnist5k",
        _training(6000, 64),
        Goal("iwae_500", -92.0),
        "A variational autoencoder of convolutions, on black and white images.",
        "three minutes",
        'Kingma & Welling, "Auto-encoding variational Bayes", 2014',
    ),
    "conditional_vae": Recipe(
        conditional_vae,
        views.pixels,
        "mnist5k",
        _training(3000, 128),
        Goal("agreement", 0.9),
        "A variational autoencoder told the label: a classifier finds in what it draws "
        "the label that was asked for.",
        "a minute",
        'Sohn et al., "Learning structured output representation using deep '
        'conditional generative models", 2015',
    ),
    "recurrent_vae": Recipe(
        recurrent_vae,
        views.apart,
        "pride_and_prejudice",
        Training(6000, 128, "adamw", 2e-3, "warmup_cosine", clip=5.0),
        Goal("loss", 66.5, at_most=True),
        "LSTMs between texts of fixed length and points: nats for 24 characters of "
        "which the decoder sees a quarter, less than with --latent 0, the decoder "
        "alone.",
        "ten minutes",
        'Bowman et al., "Generating sentences from a continuous space", 2016',
    ),
}
