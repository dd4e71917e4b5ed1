"""Adversarial networks, measured by a classifier of the real images."""

from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from train import data as sets
from train import optim
from train.data import Data
from train.data.augment import Augment
from train.recipes.base import Goal, Recipe, Source, images_of, labels_for
from train.report import judge
from train.step import Trained
from zoo import gan as gans
from zoo import supervised
from zoo.autoencoder import corrupt
from zoo.base import UsageError, concrete

GameName = Literal["minimax", "non_saturating", "least_squares", "hinge", "wasserstein"]
SAMPLES = 2000  # generated images that are judged


def gan(
    *,
    data: Source = "mnist5k",
    holdout: float | None = None,
    game: GameName = "non_saturating",
    latent: int = 64,
    learning_rate: float = 2e-4,
    ema: float | None = 0.999,
    batch_size: int | None = 64,
    steps: int = 15000,
) -> Recipe:
    """The first adversarial networks, of dense layers (Goodfellow et al. 2014).

    4,000 MNIST digits: Frechet distance in the features of a classifier <= 200 (noise:
    1,112). Two minutes.
    """
    rows = sets.between(images_of(data, holdout), -1, 1)
    players = gans.dense(rows.schema.shape, latent)
    step = optim.adversaries(learning_rate)
    goal = Goal("frechet", 200.0, at_most=True)
    return _game(
        "GAN dense", players, game, step, rows, steps, batch_size, goal
    )._replace(ema=ema)


def dcgan(
    *,
    data: Source = "mnist5k",
    holdout: float | None = None,
    game: GameName = "non_saturating",
    latent: int = 64,
    channels: tuple[int, ...] = (64, 32),
    learning_rate: float = 5e-4,
    ema: float | None = 0.999,
    batch_size: int | None = 64,
    steps: int = 5000,
) -> Recipe:
    """Adversarial networks of convolutions with batch norm (Radford et al. 2016).

    4,000 MNIST digits: all ten classes, the rarest >= 3 % of the images. Four minutes.
    """
    rows = sets.between(images_of(data, holdout), -1, 1)
    players = gans.dcgan(rows.schema.shape, latent, channels)
    step = optim.adversaries(learning_rate)
    goal = Goal("rarest", 0.03)
    return _game("DCGAN", players, game, step, rows, steps, batch_size, goal)._replace(
        ema=ema
    )


def wgan_gp(
    *,
    data: Source = "mnist5k",
    holdout: float | None = None,
    latent: int = 64,
    channels: tuple[int, ...] = (64, 32),
    penalty: float = 10.0,
    critic_steps: int = 3,
    learning_rate: float = 3e-4,
    ema: float | None = 0.999,
    batch_size: int | None = 64,
    steps: int = 6000,
) -> Recipe:
    """A Wasserstein game whose critic is kept smooth (Gulrajani et al. 2017).

    4,000 MNIST digits: all ten classes, the rarest >= 3 % of the images. Ten minutes.
    """
    if concrete(penalty) and not penalty > 0:
        raise UsageError(f"expected a penalty > 0, found {penalty}")
    rows = sets.between(images_of(data, holdout), -1, 1)
    players = gans.dcgan(rows.schema.shape, latent, channels, batch_norm=False)
    step = optim.adversaries(learning_rate, critic_steps=critic_steps, betas=(0.0, 0.9))
    return _game(
        "WGAN-GP",
        players,
        "wasserstein",
        step,
        rows,
        steps,
        batch_size,
        Goal("rarest", 0.03),
        penalty,
    )._replace(ema=ema)


def conditional_gan(
    *,
    data: Source = "mnist5k",
    holdout: float | None = None,
    game: GameName = "hinge",
    latent: int = 64,
    channels: tuple[int, ...] = (64, 32),
    learning_rate: float = 5e-4,
    ema: float | None = 0.999,
    batch_size: int | None = 64,
    steps: int = 5000,
) -> Recipe:
    """A DCGAN told the label (Mirza & Osindero 2014): draws what is asked.

    4,000 MNIST digits: a classifier finds the label that was asked for ("agreement" >=
    0.9). Four minutes.
    """
    rows = sets.between(images_of(data, holdout), -1, 1)
    classes = len(rows.schema.classes)
    if not classes:
        raise UsageError(f"expected classes, found a quantity in {rows.schema.name}")
    players = gans.dcgan(rows.schema.shape, latent, channels, classes=classes)
    step = optim.adversaries(learning_rate)
    goal = Goal("agreement", 0.9)
    return _game(
        "DCGAN, labels", players, game, step, rows, steps, batch_size, goal
    )._replace(ema=ema)


def semi_supervised_gan(
    *,
    data: Source = "mnist5k",
    holdout: float | None = None,
    labels: int = 100,
    unlabelled: bool = True,
    noise: float = 0.5,
    latent: int = 64,
    channels: tuple[int, ...] = (64, 32),
    learning_rate: float = 5e-4,
    ema: float | None = 0.999,
    batch_size: int | None = 64,
    steps: int = 2000,
) -> Recipe:
    """A classifier of few labels and many images without (Salimans et al. 2016).

    MNIST, 100 labels and 4,000 images: accuracy >= 0.88; with `--no-unlabelled`, the
    same discriminator trained on the labels alone. Two minutes.
    """
    if concrete(noise) and not noise >= 0:
        raise UsageError(f"expected noise >= 0, found {noise}")
    rows = sets.between(images_of(data, holdout), -1, 1)
    rows = _few_labels(rows, labels, sets.request(data).seed)
    classes = len(rows.schema.classes)
    players = gans.dcgan(
        rows.schema.shape, latent, channels, outputs=classes, batch_norm=False
    )
    goal: Goal | None = Goal("accuracy", 0.88)
    change = None
    if unlabelled:
        step = optim.adversaries(learning_rate)
        task, network, draw = (
            gans.semi_supervised(players, noise=noise),
            players.generator,
            _draw,
        )
    else:
        step = optim.optimizer("adam", learning_rate)
        network, draw = None, None
        change = _noisy(noise)
        task = supervised.task(players.discriminator, supervised.classes)
        train = rows.train
        few = {"x": train["labelled"][:labels], "y": train["y"][:labels]}
        rows, goal = rows._replace(train=few), None
        batch_size = min(batch_size or labels, len(few["x"]))
    return Recipe(
        f"semi-supervised GAN, {labels}" if unlabelled else f"CNN, {labels} labels",
        task,
        step,
        rows,
        steps,
        batch_size,
        goal,
        change,
        network=network,
        draw=draw,
    )._replace(ema=ema)


def _noisy(noise: float) -> Augment:
    def change(key, batch):
        return batch | {"x": corrupt(batch["x"], key, noise)}

    return change


def _few_labels(rows: Data, count: int, seed: int) -> Data:
    """Beside each training image another, "labelled", one of `count`, and its label.

    Of each class as many, drawn by the seed.
    """
    schema, train = rows.schema, rows.train
    classes = len(schema.classes)
    if not classes:
        raise UsageError(f"expected classes, found a quantity in {schema.name}")
    if "labelled" in train:
        return rows
    if count < classes or count % classes:
        raise UsageError(
            f"expected a multiple of the {classes} classes as the number of labels, "
            f"found {count}"
        )
    if rows.blank:
        return rows._replace(train=train | {"labelled": train["x"]})
    order = np.random.default_rng(seed).permutation(len(train["y"]))
    at = [order[train["y"][order] == k][: count // classes] for k in range(classes)]
    if min(map(len, at)) < count // classes:
        raise UsageError(
            f"expected {count // classes} examples of each class in {schema.name}, "
            f"found {min(map(len, at))}"
        )
    known = np.stack(at, 1).reshape(-1)  # class by class in turn
    known = known[np.arange(len(train["x"])) % count]
    part = {"x": train["x"], "labelled": train["x"][known], "y": train["y"][known]}
    return rows._replace(train=part)


def _game(name, players, game, step, rows, steps, size, goal, penalty=0.0):
    optim.check_choice("game", game, get_args(GameName))

    return Recipe(
        name,
        gans.task(players, gans.GAMES[game], penalty=penalty),
        step,
        rows,
        steps,
        size,
        goal,
        measure=_measure,
        network=players.generator,
        draw=_draw,
        stoppable=False,
    )


def _measure(recipe: Recipe, trained: Trained, out: Path | None) -> dict[str, Any]:
    """What the judge says of 2,000 images; each label is asked for as often."""
    generator = recipe.network
    asked = labels_for(generator.classes, SAMPLES, None)
    images = _generated(generator, trained, 0, SAMPLES, asked)
    if not np.isfinite(images).all():
        return {"failure": "the generator diverged: its images are not finite"}
    return judge.verdict(judge.train(recipe.data), recipe.data, images, asked)


def _draw(recipe: Recipe, trained: Trained, seed: int, n: int, label: int | None):
    generator = recipe.network
    labels = labels_for(generator.classes, n, label)
    return (_generated(generator, trained, seed, n, labels) + 1) / 2


def _generated(generator, trained, seed, n, labels) -> np.ndarray:
    run = jax.jit(gans.generate, static_argnums=(0, 4))
    y = None if labels is None else jnp.asarray(labels)
    key = jax.random.key(seed)
    return np.asarray(run(generator, trained.params, trained.model, key, n, y))
