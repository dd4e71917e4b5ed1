"""Perceptrons for any data, convolutional networks for images."""

from typing import Literal

from train import data as sets
from train import optim
from train.data import augment as augmentation
from train.recipes.base import Goal, Recipe, Source, fitted, scheduled
from zoo import cnn as cnns
from zoo import mlp as mlps
from zoo.base import UsageError, concrete

Activation = Literal["sigmoid", "tanh", "relu", "leaky_relu", "prelu", "gelu"]


def mlp(
    *,
    data: Source = "mnist5k",
    target: str | None = None,
    holdout: float | None = None,
    widths: tuple[int, ...] = (512,),
    activation: Activation = "relu",
    dropout: float = 0.3,
    batch_norm: bool = False,
    optimizer: optim.Name = "adamw",
    schedule: optim.ScheduleName = "cosine",
    learning_rate: float = 1e-3,
    weight_decay: float | None = None,
    clip: float | None = None,
    accumulate: int = 1,
    ema: float | None = None,
    batch_size: int | None = 64,
    steps: int = 2500,
) -> Recipe:
    """A multilayer perceptron, for classes or for a quantity, as the data has it.

    4,000 MNIST digits: accuracy >= 0.94 (scikit-learn's MLP: 0.944). Ten seconds.
    """
    if concrete(dropout) and not 0 <= dropout < 1:
        raise UsageError(f"expected dropout in [0, 1), found {dropout}")
    if not all(width > 0 for width in widths):
        raise UsageError(f"expected widths of 1 or more, found {widths}")
    rows = sets.load(data, target=target, holdout=holdout)
    optim.check_choice("activation", activation, tuple(mlps.ACTIVATIONS))

    def build(outputs):
        act = mlps.ACTIVATIONS[activation]
        return mlps.MLP(outputs, widths, act, dropout, batch_norm)

    step = scheduled(
        optimizer,
        schedule,
        learning_rate,
        steps,
        weight_decay=weight_decay,
        clip=clip,
    )
    name = f"MLP {'-'.join(map(str, widths))}"
    task = fitted(build, rows)
    return Recipe(
        name, task, step, rows, steps, batch_size, Goal("accuracy", 0.94)
    )._replace(accumulate=accumulate, ema=ema)


def cnn(
    *,
    data: Source = "mnist5k",
    target: str | None = None,
    holdout: float | None = None,
    network: Literal["two_conv", "one_conv"] = "two_conv",
    augment: bool = True,
    optimizer: optim.Name = "adamw",
    schedule: optim.ScheduleName = "warmup_cosine",
    learning_rate: float = 2e-3,
    weight_decay: float | None = None,
    clip: float | None = None,
    accumulate: int = 1,
    ema: float | None = None,
    batch_size: int | None = 64,
    steps: int = 2000,
) -> Recipe:
    """The classic small convolutional network, on shifted and turned images.

    4,000 MNIST digits: accuracy >= 0.975 (without augmentation, 0.975). A minute.
    """
    rows = sets.load(data, target=target, holdout=holdout)
    build = {"two_conv": cnns.two_conv, "one_conv": cnns.one_conv}
    optim.check_choice("network", network, tuple(build))
    rank = len(rows.schema.shape) - 1
    if rank not in (1, 2):
        raise UsageError(
            f"cnn wants images [H, W, C] or sequences [L, C], found examples of shape "
            f"{rows.schema.shape} in {rows.schema.name}; try mlp"
        )
    step = scheduled(
        optimizer,
        schedule,
        learning_rate,
        steps,
        weight_decay=weight_decay,
        clip=clip,
    )
    changes = _shifted_and_turned() if augment and rank == 2 else None
    task = fitted(lambda outputs: build[network](outputs, rank=rank), rows)
    goal = Goal("accuracy", 0.975)
    return Recipe(
        f"CNN {network}", task, step, rows, steps, batch_size, goal, changes
    )._replace(accumulate=accumulate, ema=ema)


def resnet20(
    *,
    data: Source = "mnist5k",
    target: str | None = None,
    holdout: float | None = None,
    depth: int = 20,
    augment: bool = True,
    optimizer: optim.Name = "nesterov",
    schedule: optim.ScheduleName = "warmup_cosine",
    learning_rate: float = 0.1,
    weight_decay: float | None = 5e-4,
    ema: float | None = None,
    batch_size: int | None = 64,
    steps: int = 1250,
) -> Recipe:
    """A residual network of depth 6n + 2 (He et al. 2015), with batch norm.

    4,000 MNIST digits: accuracy >= 0.98. Five minutes.
    """
    rows = _images("resnet20", data, target, holdout)
    step = scheduled(
        optimizer, schedule, learning_rate, steps, weight_decay=weight_decay
    )
    changes = _shifted_and_turned() if augment else None
    task = fitted(lambda outputs: cnns.resnet_cifar(depth, outputs), rows)
    goal = Goal("accuracy", 0.98)
    name = f"ResNet-{depth}"
    return Recipe(name, task, step, rows, steps, batch_size, goal, changes)._replace(
        ema=ema
    )


def cnn_cifar10(
    *,
    data: Source = "cifar10",
    target: str | None = None,
    holdout: float | None = None,
    augment: bool = True,
    optimizer: optim.Name = "adamw",
    schedule: optim.ScheduleName = "warmup_cosine",
    learning_rate: float = 1e-3,
    weight_decay: float | None = None,
    ema: float | None = None,
    batch_size: int | None = 128,
    steps: int = 12000,
) -> Recipe:
    """The small convolutional network with dropout, on CIFAR-10 (downloads 170 MB).

    Crops and mirror images. Wants an accelerator, or an hour.
    """
    rows = _images("cnn_cifar10", data, target, holdout)
    step = scheduled(
        optimizer, schedule, learning_rate, steps, weight_decay=weight_decay
    )
    changes = None
    if augment:
        changes = augmentation.compose(augmentation.crop(4), augmentation.flip())
    task = fitted(cnns.two_conv_dropout, rows)
    name = "CNN two_conv_dropout"
    return Recipe(name, task, step, rows, steps, batch_size, None, changes)._replace(
        ema=ema
    )


def _shifted_and_turned():
    return augmentation.compose(augmentation.crop(2), augmentation.rotate(10))


def _images(recipe, data, target, holdout):
    rows = sets.load(data, target=target, holdout=holdout)
    if not rows.schema.image:
        raise UsageError(
            f"{recipe} wants images [H, W, C], found examples of shape "
            f"{rows.schema.shape} in {rows.schema.name}; try mlp"
        )
    return rows
