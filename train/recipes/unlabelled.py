"""Features learned without labels, measured by what a line tells from them."""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np

from train import evaluate
from train.data import Data, Schema, augment, views
from train.recipes.base import (
    Built,
    Goal,
    Recipe,
    Training,
    expect_classes,
    expect_images,
)
from train.report import Measured, Report
from train.report.measure import labels_for, tested
from train.report.probe import neighbours, probes
from train.step import Trained
from zoo import contrastive
from zoo.base import Number

BATCH = 500


def simclr(
    schema: Schema,
    *,
    labels: int = 100,
    temperature: Number = 0.2,
    channels: tuple[int, ...] = (16, 32),
    width: int = 128,
) -> Built:
    """Two views of an image are told from those of others."""
    objective = partial(contrastive.nt_xent, temperature=temperature)
    return _twins(schema, objective, channels, width)


def barlow_twins(
    schema: Schema,
    *,
    labels: int = 100,
    redundancy: Number = 0.02,
    channels: tuple[int, ...] = (16, 32),
    width: int = 128,
) -> Built:
    """Two views agree in each dimension, and dimensions say different things."""
    objective = partial(contrastive.barlow, redundancy=redundancy)
    return _twins(schema, objective, channels, width)


def _twins(schema, objective, channels, width):
    expect_images(schema)
    expect_classes(schema)
    model = contrastive.conv(width, channels)
    task = contrastive.task(model, view(min(schema.shape[:2])), objective)

    def similar(trained, data, seed, n, label=None):
        """Test images, and behind each in its row those nearest to it."""
        labels_for(0, n, label)
        x = tested(data)["x"]
        at = np.random.default_rng(seed).permutation(len(x))[: -(-n // 8)]
        found = neighbours(_features(model, trained, x), at, 8)
        return (x[found.ravel()] + 1) / 2

    report = Report(partial(_measure, task, model), sample=similar, of_rows=True)
    return Built(task, model, report, stoppable=False)


def view(side: int) -> augment.Augment:
    """Of images of so many pixels, what leaves a written digit what it is."""
    drawn = augment.affine(degrees=30, stretch=1.4, slant=0.4, pixels=side / 9)
    return augment.compose(drawn, augment.cutout(round(2 * side / 7)))


def _features(model, trained: Trained, x) -> np.ndarray:
    """Of images [N, H, W, C]: [N, F]."""
    look: Callable = jax.jit(lambda *given: model.apply(*given, method="features"))
    variables = {"params": trained.params, **trained.model}
    parts = [look(variables, x[i : i + BATCH]) for i in range(0, len(x), BATCH)]
    return np.concatenate([np.asarray(part) for part in parts])


def _measure(task, model, trained: Trained, data: Data) -> Measured:
    """The task's own measure, and what a line tells from the features."""
    scores = evaluate.evaluate(task, trained, {"x": tested(data)["x"]})
    x = data.train["x"], tested(data)["x"]
    seen, test = (_features(model, trained, part) for part in x)
    return Measured(scores | probes(seen, test, data))


RECIPES = {
    "simclr": Recipe(
        simclr,
        views.few_labels,
        "mnist5k",
        Training(1000, 64, "adamw", 2e-3, "warmup_cosine", 1e-4),
        Goal("gain", 0.1),
        "Features of images without labels: two views of one are told from those of "
        "others. What a line tells from them by 100 labels, beside what it tells from "
        "pixels; few_labels and semi_supervised_gan learn from the same labels.",
        "a minute",
        'Chen et al., "A simple framework for contrastive learning of visual '
        'representations", 2020',
    ),
    "barlow_twins": Recipe(
        barlow_twins,
        views.few_labels,
        "mnist5k",
        Training(1000, 64, "adamw", 2e-3, "warmup_cosine", 1e-4),
        Goal("gain", 0.1),
        "Features of images without labels: two views of one agree in each dimension, "
        "and each dimension says something else.",
        "a minute",
        'Zbontar et al., "Barlow twins: self-supervised learning via redundancy '
        'reduction", 2021',
    ),
}
