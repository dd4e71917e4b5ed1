"""Adversarial networks, measured by a classifier of the real images."""

from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from train import optim
from train import source as sources
from train.data import Data, Schema, views
from train.recipes.base import (
    Built,
    Goal,
    Recipe,
    Training,
    expect_classes,
    expect_images,
)
from train.report import Measured, Report, judge
from train.report.measure import labels_for, predictions
from train.step import Trained
from zoo import gan as gans
from zoo import supervised
from zoo.autoencoder import corrupt
from zoo.base import Number, UsageError, check_choice, concrete

GameName = Literal["minimax", "non_saturating", "least_squares", "hinge", "wasserstein"]
SAMPLES = 2000  # generated images that are judged


def gan(
    schema: Schema, *, game: GameName = "non_saturating", latent: int = 64
) -> Built:
    """The first adversarial networks, of dense layers."""
    expect_images(schema)
    return _game(gans.dense(schema.shape, latent), game)


def dcgan(
    schema: Schema,
    *,
    game: GameName = "non_saturating",
    latent: int = 64,
    channels: tuple[int, ...] = (64, 32),
) -> Built:
    """Adversarial networks of convolutions with batch norm."""
    expect_images(schema)
    return _game(gans.dcgan(schema.shape, latent, channels), game)


def wgan_gp(
    schema: Schema,
    *,
    latent: int = 64,
    channels: tuple[int, ...] = (64, 32),
    penalty: Number = 10.0,
    critic_steps: int = 3,
) -> Built:
    """A Wasserstein game whose critic is kept smooth by a penalty on its gradient."""
    if concrete(penalty) and not penalty > 0:
        raise UsageError(f"expected a penalty > 0, found {penalty}")
    expect_images(schema)
    players = gans.dcgan(schema.shape, latent, channels, batch_norm=False)
    return _game(players, "wasserstein", penalty, critic_steps)


def conditional_gan(
    schema: Schema,
    *,
    game: GameName = "hinge",
    latent: int = 64,
    channels: tuple[int, ...] = (64, 32),
) -> Built:
    """A DCGAN told the label: it draws what is asked."""
    expect_images(schema)
    classes = expect_classes(schema)
    return _game(gans.dcgan(schema.shape, latent, channels, classes=classes), game)


def semi_supervised_gan(
    schema: Schema,
    *,
    labels: int = 100,
    noise: Number = 0.5,
    latent: int = 64,
    channels: tuple[int, ...] = (64, 32),
) -> Built:
    """A classifier of few labels and many images without."""
    players = _classifier(schema, noise, latent, channels)
    task = gans.semi_supervised(players, noise=noise)
    report = predictions(task, schema)._replace(
        sample=partial(_sample, players.generator), unit=""
    )

    def source(rows, size):
        """Beside each image another, "labelled", of the few, and its label."""
        known = rows["known"]
        few = {"x": rows["x"][known], "y": rows["y"][known]}
        first = sources.examples(few, size or len(known))
        return sources.pair(first, sources.examples({"x": rows["x"]}, size))

    return Built(task, players.generator, report, source, optim.adversaries)


def few_labels(
    schema: Schema,
    *,
    labels: int = 100,
    noise: Number = 0.5,
    channels: tuple[int, ...] = (64, 32),
) -> Built:
    """The discriminator of `semi_supervised_gan`, trained on the labels alone."""
    network = _classifier(schema, noise, 1, channels).discriminator
    task = supervised.task(network, supervised.classes)

    def noisy(key, batch):
        return batch | {"x": corrupt(batch["x"], key, noise)}

    def source(rows, size):
        few = {name: rows[name][rows["known"]] for name in ("x", "y")}
        return sources.augmented(sources.examples(few, size), noisy)

    return Built(task, network, predictions(task, schema), source)


def _classifier(schema, noise, latent, channels):
    if concrete(noise) and not noise >= 0:
        raise UsageError(f"expected noise >= 0, found {noise}")
    expect_images(schema)
    classes = expect_classes(schema)
    return gans.dcgan(schema.shape, latent, channels, outputs=classes, batch_norm=False)


def _game(players, game, penalty=0.0, critic_steps=1):
    check_choice("game", game, get_args(GameName))
    task = gans.task(players, gans.GAMES[game], penalty=penalty)
    generator = players.generator
    report = Report(
        partial(_measure, generator),
        sample=partial(_sample, generator),
        columns=generator.classes or 8,
    )
    return Built(
        task,
        generator,
        report,
        players=partial(optim.adversaries, critic_steps=critic_steps),
        stoppable=False,
    )


def _measure(generator, trained: Trained, data: Data) -> Measured:
    """What the judge says of 2,000 images; each label is asked for as often."""
    asked = labels_for(generator.classes, SAMPLES, None)
    images = _generated(generator, trained, 0, SAMPLES, asked)
    if not np.isfinite(images).all():
        return Measured({}, "the generator diverged: its images are not finite")
    return judge.verdict(judge.kept(data), data, images, asked)


def _sample(generator, trained, data, seed, n, label=None):
    labels = labels_for(generator.classes, n, label)
    return (_generated(generator, trained, seed, n, labels) + 1) / 2


def _generated(generator, trained, seed, n, labels) -> np.ndarray:
    run = jax.jit(gans.generate, static_argnums=(0, 4))
    y = None if labels is None else jnp.asarray(labels)
    key = jax.random.key(seed)
    return np.asarray(run(generator, trained.params, trained.model, key, n, y))


def _training(steps: int, learning_rate: float, betas=(0.5, 0.999)) -> Training:
    """The gradient's mean is forgotten sooner than elsewhere: the opponent moves."""
    return Training(steps, 64, "adam", learning_rate, betas=betas, ema=0.999)


RECIPES = {
    "gan": Recipe(
        gan,
        views.signed_images,
        "mnist5k",
        _training(15000, 2e-4),
        Goal("frechet", 200.0, at_most=True),
        "The first adversarial networks, of dense layers: Frechet distance in the "
        "features of a classifier (noise: more than 1,000).",
        "two minutes",
        'Goodfellow et al., "Generative adversarial nets", 2014',
    ),
    "dcgan": Recipe(
        dcgan,
        views.signed_images,
        "mnist5k",
        _training(5000, 5e-4),
        Goal("rarest", 0.03),
        "Adversarial networks of convolutions with batch norm: of all ten classes, the "
        "rarest's share of the images.",
        "four minutes",
        'Radford et al., "Unsupervised representation learning with deep convolutional '
        'generative adversarial networks", 2016',
    ),
    "wgan_gp": Recipe(
        wgan_gp,
        views.signed_images,
        "mnist5k",
        _training(6000, 3e-4, (0.0, 0.9)),
        Goal("rarest", 0.03),
        "A Wasserstein game whose critic is kept smooth.",
        "ten minutes",
        'Gulrajani et al., "Improved training of Wasserstein GANs", 2017',
    ),
    "conditional_gan": Recipe(
        conditional_gan,
        views.signed_images,
        "mnist5k",
        _training(5000, 5e-4),
        Goal("agreement", 0.9),
        "A DCGAN told the label: a classifier finds in what it draws the label that "
        "was asked for.",
        "four minutes",
        'Mirza & Osindero, "Conditional generative adversarial nets", 2014',
    ),
    "semi_supervised_gan": Recipe(
        semi_supervised_gan,
        views.few_labels,
        "mnist5k",
        _training(2000, 5e-4),
        Goal("accuracy", 0.88),
        "A classifier of 100 labels and 4,000 images without; few_labels has the "
        "labels alone.",
        "two minutes",
        'Salimans et al., "Improved techniques for training GANs", 2016',
    ),
    "few_labels": Recipe(
        few_labels,
        views.few_labels,
        "mnist5k",
        Training(1000, 64, "adam", 5e-4, ema=0.999),
        None,
        "The network of semi_supervised_gan, trained on its 100 labels alone.",
        "half a minute",
        'Salimans et al., "Improved techniques for training GANs", 2016',
    ),
}
