"""Perceptrons for any data, convolutional networks for images."""

import math
from typing import Literal

from flax import linen as nn

from train import source as sources
from train.data import Schema, augment, views
from train.recipes.base import Built, Goal, Recipe, Training
from train.report.measure import predictions
from zoo import cnn as cnns
from zoo import mlp as mlps
from zoo import supervised
from zoo.base import Number, UsageError, check_choice, concrete, is_zero

Activation = Literal["sigmoid", "tanh", "relu", "leaky_relu", "prelu", "gelu"]
NETWORKS = {"two_conv": cnns.two_conv, "one_conv": cnns.one_conv}


def mlp(
    schema: Schema,
    *,
    widths: tuple[int, ...] = (512,),
    activation: Activation = "relu",
    dropout: Number = 0.3,
    batch_norm: bool = False,
    smoothing: Number = 0.0,
) -> Built:
    """A multilayer perceptron, for classes or for a quantity, as the data has it."""
    if concrete(dropout) and not 0 <= dropout < 1:
        raise UsageError(f"expected dropout in [0, 1), found {dropout}")
    if not all(width > 0 for width in widths):
        raise UsageError(f"expected widths of 1 or more, found {widths}")
    check_choice("activation", activation, tuple(mlps.ACTIVATIONS))
    act = mlps.ACTIVATIONS[activation]
    network = mlps.MLP(outputs(schema), widths, act, dropout, batch_norm)
    return fitted(network, schema, smoothing=smoothing)


def cnn(
    schema: Schema,
    *,
    network: Literal["two_conv", "one_conv"] = "two_conv",
    augment: bool = True,
    smoothing: Number = 0.0,
) -> Built:
    """The classic small convolutional network, for images or sequences [L, C]."""
    check_choice("network", network, tuple(NETWORKS))
    rank = len(schema.shape) - 1
    if rank not in (1, 2):
        raise UsageError(
            f"cnn wants images [H, W, C] or sequences [L, C], found examples of shape "
            f"{schema.shape} in {schema.name}; try mlp"
        )
    changed = SHIFTED_AND_TURNED if augment and rank == 2 else None
    found = NETWORKS[network](outputs(schema), rank=rank)
    return fitted(found, schema, changed, smoothing=smoothing)


def resnet20(
    schema: Schema, *, depth: int = 20, augment: bool = True, smoothing: Number = 0.0
) -> Built:
    """A residual network of depth 6n + 2, with batch norm."""
    _check_images("resnet20", schema)
    changed = SHIFTED_AND_TURNED if augment else None
    network = cnns.resnet_cifar(depth, outputs(schema))
    return fitted(network, schema, changed, smoothing=smoothing)


def cnn_cifar10(schema: Schema, *, augment: bool = True) -> Built:
    """The small convolutional network with dropout; crops and mirror images."""
    _check_images("cnn_cifar10", schema)
    changed = CROPPED_AND_MIRRORED if augment else None
    return fitted(cnns.two_conv_dropout(outputs(schema)), schema, changed)


SHIFTED_AND_TURNED = augment.compose(augment.crop(2), augment.rotate(10))
CROPPED_AND_MIRRORED = augment.compose(augment.crop(4), augment.flip())


def outputs(schema: Schema) -> int:
    """An output for each class, label or quantity."""
    return math.prod(schema.target_shape) if schema.regression else len(schema.classes)


def fitted(
    network: nn.Module,
    schema: Schema,
    changed: sources.Augment | None = None,
    *,
    smoothing: Number = 0.0,
) -> Built:
    """A network that classifies, or predicts a quantity; batches may be changed."""
    one = not (schema.regression or schema.multilabel)
    if not one and not is_zero(smoothing):
        raise UsageError(f"expected no smoothing but of classes, found {smoothing}")
    other = supervised.labels if schema.multilabel else supervised.regression
    measure = supervised.smoothed(smoothing) if one else other
    inputs = ("x", "length") if schema.lengths else ("x",)
    task = supervised.task(network, measure, inputs=inputs)
    built = Built(task, network, predictions(task, schema))
    if changed is None:
        return built
    return built._replace(
        source=lambda rows, size: sources.augmented(
            sources.examples(rows, size), changed
        )
    )


def _check_images(recipe, schema):
    if not schema.image:
        raise UsageError(
            f"{recipe} wants images [H, W, C], found examples of shape {schema.shape} "
            f"in {schema.name}; try mlp"
        )


RECIPES = {
    "mlp": Recipe(
        mlp,
        views.table,
        "mnist5k",
        Training(2500, 64, "adamw", 1e-3, "cosine"),
        Goal("accuracy", 0.94),
        "A multilayer perceptron, for classes or for a quantity, as the data has it. "
        "scikit-learn's reaches 0.944 on these 4,000 digits.",
        "ten seconds",
        'Rumelhart et al., "Learning representations by back-propagating errors", 1986',
    ),
    "cnn": Recipe(
        cnn,
        views.table,
        "mnist5k",
        Training(2000, 64, "adamw", 2e-3, "warmup_cosine"),
        Goal("accuracy", 0.975),
        "The classic small convolutional network, on shifted and turned images.",
        "a minute",
        'LeCun et al., "Gradient-based learning applied to document recognition", 1998',
    ),
    "resnet20": Recipe(
        resnet20,
        views.table,
        "mnist5k",
        Training(1250, 64, "nesterov", 0.1, "warmup_cosine", 5e-4),
        Goal("accuracy", 0.98),
        "A residual network of depth 6n + 2, with batch norm.",
        "five minutes",
        'He et al., "Deep residual learning for image recognition", 2015',
    ),
    "cnn_cifar10": Recipe(
        cnn_cifar10,
        views.table,
        "cifar10",
        Training(12000, 128, "adamw", 1e-3, "warmup_cosine"),
        None,
        "The small convolutional network with dropout, on CIFAR-10, a download of "
        "170 MB; crops and mirror images.",
        "an hour, or an accelerator",
        'Krizhevsky, "Learning multiple layers of features from tiny images", 2009',
    ),
}
