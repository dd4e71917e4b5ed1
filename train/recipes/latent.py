"""Models of hidden causes: variational autoencoders, and a mixture to compare."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from train import data as sets
from train import optim
from train.data import Data, text
from train.evaluate import evaluate
from train.recipes.base import Goal, Recipe, Source, images_of, labels_for, scheduled
from train.report import judge
from train.step import Trained
from zoo import mixture
from zoo import recurrent_vae as recurrent
from zoo import vae as vaes
from zoo.base import UsageError, concrete

IWAE = 500  # samples of the bound


def vae(
    *,
    data: Source = "mnist5k",
    holdout: float | None = None,
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
    latent: int = 16,
    widths: tuple[int, ...] = (400,),
    beta: float = 1.0,
    optimizer: optim.Name = "adamw",
    schedule: optim.ScheduleName = "warmup_cosine",
    learning_rate: float = 1e-3,
    weight_decay: float | None = 1e-2,
    ema: float | None = None,
    batch_size: int | None = 128,
    steps: int = 4000,
) -> Recipe:
    """A variational autoencoder of dense layers, on black and white images.

    4,000 MNIST digits, pixels above one half: "iwae_500" in nats an image, above a
    mixture of Bernoullis. A minute.
    """
    rows = _pixels(data, holdout, likelihood)
    model = vaes.dense(rows.schema.shape, latent, widths, likelihood=likelihood)
    step = scheduled(
        optimizer, schedule, learning_rate, steps, weight_decay=weight_decay
    )
    goal = Goal("iwae_500", -100.0)
    return _vae("dense", model, beta, step, rows, steps, batch_size, goal)._replace(
        ema=ema
    )


def conv_vae(
    *,
    data: Source = "mnist5k",
    holdout: float | None = None,
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
    latent: int = 16,
    channels: tuple[int, ...] = (32, 64),
    beta: float = 1.0,
    optimizer: optim.Name = "adamw",
    schedule: optim.ScheduleName = "warmup_cosine",
    learning_rate: float = 1e-3,
    weight_decay: float | None = 1e-2,
    ema: float | None = None,
    batch_size: int | None = 64,
    steps: int = 6000,
) -> Recipe:
    """A variational autoencoder of convolutions, on black and white images.

    4,000 MNIST digits: "iwae_500" above the dense one's. Three minutes.
    """
    rows = _pixels(data, holdout, likelihood)
    model = vaes.conv(rows.schema.shape, latent, channels, likelihood=likelihood)
    step = scheduled(
        optimizer, schedule, learning_rate, steps, weight_decay=weight_decay
    )
    goal = Goal("iwae_500", -92.0)
    return _vae("conv", model, beta, step, rows, steps, batch_size, goal)._replace(
        ema=ema
    )


def conditional_vae(
    *,
    data: Source = "mnist5k",
    holdout: float | None = None,
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
    latent: int = 8,
    widths: tuple[int, ...] = (400, 400),
    beta: float = 3.0,
    optimizer: optim.Name = "adamw",
    schedule: optim.ScheduleName = "warmup_cosine",
    learning_rate: float = 1e-3,
    weight_decay: float | None = 1e-2,
    ema: float | None = None,
    batch_size: int | None = 128,
    steps: int = 3000,
) -> Recipe:
    """A variational autoencoder told the label (Sohn et al. 2015): draws what is asked.

    4,000 MNIST digits: a classifier finds the label that was asked for ("agreement" >=
    0.9). With beta 1, z keeps what the label should say. A minute.
    """
    rows = _pixels(data, holdout, likelihood)
    classes = len(rows.schema.classes)
    if not classes:
        raise UsageError(f"expected classes, found a quantity in {rows.schema.name}")
    shape = rows.schema.shape
    model = vaes.dense(shape, latent, widths, classes=classes, likelihood=likelihood)
    step = scheduled(
        optimizer, schedule, learning_rate, steps, weight_decay=weight_decay
    )
    goal = Goal("agreement", 0.9)
    return _vae(
        "conditional", model, beta, step, rows, steps, batch_size, goal
    )._replace(ema=ema)


def _vae(name, model, beta, step, rows, steps, size, goal):
    def measure(recipe: Recipe, trained: Trained, out: Path | None) -> dict[str, Any]:
        """Nats per test image: the ELBO, and the bound of 500 samples."""
        test = recipe.data.train if recipe.data.test is None else recipe.data.test
        scores: dict[str, Any] = evaluate(recipe.task, trained, test)
        variables = vaes.variables_of(trained.params, trained.model)
        labels = test["y"] if model.classes else None
        bound = bounds(model, variables, test["x"], labels, samples=IWAE)
        scores[f"iwae_{IWAE}"] = float(bound.mean(dtype=np.float64))
        if model.classes:
            asked = labels_for(model.classes, 1000, None)
            images = _decoded(model, variables, 0, 1000, asked)
            seen = judge.verdict(judge.train(recipe.data), recipe.data, images, asked)
            scores |= {k: seen[k] for k in ("agreement", "judge_accuracy")}
        if scores["kl"] < 0.1:
            scores["failure"] = (
                f"the posterior collapsed to the prior: KL is {scores['kl']:.3f} nats"
            )
        return scores

    def draw(recipe: Recipe, trained: Trained, seed: int, n: int, label: int | None):
        labels = labels_for(model.classes, n, label)
        variables = vaes.variables_of(trained.params, trained.model)
        return _decoded(model, variables, seed, n, labels).clip(0, 1)

    return Recipe(
        f"VAE {name}, {model.latent}",
        vaes.task(model, beta=beta),
        step,
        rows,
        steps,
        size,
        goal,
        measure=measure,
        network=model,
        draw=draw,
    )


def bernoulli_mixture(
    *,
    data: Source = "mnist5k",
    holdout: float | None = None,
    components: int = 100,
    optimizer: optim.Name = "adamw",
    schedule: optim.ScheduleName = "cosine",
    learning_rate: float = 0.1,
    weight_decay: float | None = 0.0,
    ema: float | None = None,
    batch_size: int | None = 128,
    steps: int = 2000,
) -> Recipe:
    """Clusters of black and white images: the density that a VAE should beat.

    4,000 MNIST digits, nats an image. Ten seconds.
    """
    rows = _pixels(data, holdout, "bernoulli")
    model = mixture.BernoulliMixture(components)
    step = scheduled(
        optimizer, schedule, learning_rate, steps, weight_decay=weight_decay
    )

    def measure(recipe: Recipe, trained: Trained, out: Path | None) -> dict[str, Any]:
        test = recipe.data.train if recipe.data.test is None else recipe.data.test
        return evaluate(recipe.task, trained, test)

    def draw(recipe: Recipe, trained: Trained, seed: int, n: int, label: int | None):
        variables = {"params": trained.params}
        images = mixture.generate(model, variables, jax.random.key(seed), n)
        return np.asarray(images).reshape(n, *rows.schema.shape)

    return Recipe(
        f"mixture of {components}",
        mixture.task(model),
        step,
        rows,
        steps,
        batch_size,
        Goal("loss", 145.0, at_most=True),
        measure=measure,
        network=model,
        draw=draw,
    )._replace(ema=ema)


def recurrent_vae(
    *,
    data: Source = "pride_and_prejudice",
    length: int = 24,
    latent: int = 32,
    features: int = 192,
    word_dropout: float = 0.75,
    anneal: int = 1500,
    optimizer: optim.Name = "adamw",
    schedule: optim.ScheduleName = "warmup_cosine",
    learning_rate: float = 2e-3,
    weight_decay: float | None = None,
    clip: float | None = 5.0,
    ema: float | None = None,
    batch_size: int | None = 128,
    steps: int = 6000,
) -> Recipe:
    """LSTMs between texts of fixed length and points (Bowman et al. 2016).

    Pride and Prejudice, the last tenth: nats for 24 characters of which the decoder
    sees a quarter, less than with `--latent 0`, the decoder alone. Ten minutes.
    """
    if latent < 0:
        raise UsageError(f"expected 0 or more latent dimensions, found {latent}")
    if concrete(word_dropout) and not 0 <= word_dropout <= 1:
        raise UsageError(f"expected word_dropout in [0, 1], found {word_dropout}")
    rows = _apart(text.load_text(data, length=length))
    model = recurrent.RecurrentVAE(
        len(rows.schema.tokens), latent, features, word_dropout=word_dropout
    )
    step = scheduled(
        optimizer,
        schedule,
        learning_rate,
        steps,
        weight_decay=weight_decay,
        clip=clip,
    )

    def measure(recipe: Recipe, trained: Trained, out: Path | None) -> dict[str, Any]:
        """Nats per window, and per character."""
        test = recipe.data.train if recipe.data.test is None else recipe.data.test
        scores: dict[str, Any] = evaluate(recipe.task, trained, test)
        scores["loss_per_character"] = scores["loss"] / length
        if latent and scores["kl"] < 0.1:
            scores["failure"] = (
                f"the posterior collapsed to the prior: KL is {scores['kl']:.3f} nats"
            )
        return scores

    def draw(recipe: Recipe, trained: Trained, seed: int, n: int, label: int | None):
        labels_for(0, n, label)
        variables, key = {"params": trained.params}, jax.random.key(seed)
        run: Callable = jax.jit(recurrent.generate, static_argnums=(0, 3, 4))
        found = np.asarray(run(model, variables, key, n, length))
        return [text.decode(recipe.data.schema.tokens, row) for row in found]

    return Recipe(
        f"LSTM VAE {features}, {latent}",
        vaes.task(model, anneal=anneal),
        step,
        rows,
        steps,
        batch_size,
        Goal("loss", 66.5, at_most=True),
        measure=measure,
        network=model,
        draw=draw,
    )._replace(ema=ema)


def _pixels(data: Source, holdout: float | None, likelihood: str) -> Data:
    """Images in [0, 1]; for a Bernoulli likelihood, 1 above one half, else 0."""
    optim.check_choice("likelihood", likelihood, vaes.LIKELIHOODS)
    rows = sets.between(images_of(data, holdout), 0, 1)
    if likelihood == "gaussian":
        return rows

    return sets.change(
        rows, lambda part: part | {"x": (part["x"] > 0.5).astype(np.float32)}
    )


def _apart(data: Data) -> Data:
    """The windows of a text; those with a mask overlap by half: every second one."""

    def plain(rows):
        every = 2 if "mask" in rows else 1
        return {name: rows[name][::every] for name in ("x", "y")}

    return sets.change(data, plain)


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
