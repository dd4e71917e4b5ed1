"""Named runs: each a function whose keywords are the flags of `zoo train NAME`.

`data` is the name of a bundled set, a path to a .npz or .csv of your own (with
`target`, its column), or a `Data` record. Times are for two CPU cores.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import optax
from flax import linen as nn

from train import augment as augmentation
from train import data as sets
from train import optim
from train.augment import Augment
from train.data import Data
from zoo import cnn as cnns
from zoo import linear as linears
from zoo import mlp as mlps
from zoo import supervised
from zoo.base import Task, UsageError

Source = str | Data
Activation = Literal["sigmoid", "tanh", "relu", "leaky_relu", "prelu", "gelu"]


class Recipe(NamedTuple):
    """Everything that a training needs, and the score that it should reach."""

    model: str  # a few words for `zoo list`
    task: Task
    optimizer: optax.GradientTransformation
    data: Data
    steps: int
    batch_size: int | None  # None: the full batch
    goal: tuple[str, float] | None = None  # (metric, at least)
    augment: Augment | None = None


def linear(
    *,
    data: Source = "diabetes",
    target: str | None = None,
    holdout: float = 0.0,
    optimizer: optim.Name = "lbfgs",
    learning_rate: float | None = None,
    batch_size: int | None = None,
    steps: int = 60,
) -> Recipe:
    """Linear regression by least squares, on all of the data unless --holdout is given.

    Diabetes (442 patients): R2 0.5177 on the data it was fitted to, the closed form's
    (Efron et al., "Least angle regression", 2004). Two seconds.
    """
    rows = sets.load(data, target=target, kind="regression", holdout=holdout)
    step = optim.optimizer(optimizer, learning_rate)
    task = linears.regression()
    goal = ("r2", 0.5177)
    return Recipe("x W + b", task, step, rows, steps, batch_size, goal)


def ridge(
    *,
    data: Source = "diabetes",
    target: str | None = None,
    holdout: float = 0.0,
    alpha: float = 1.0,
    optimizer: optim.Name = "lbfgs",
    learning_rate: float | None = None,
    batch_size: int | None = None,
    steps: int = 60,
) -> Recipe:
    """Ridge regression; `alpha` as scikit-learn's Ridge has it, on standardised data.

    Hoerl & Kennard, "Ridge regression", 1970. Two seconds.
    """
    _at_least_zero("alpha", alpha)
    rows = sets.load(data, target=target, kind="regression", holdout=holdout)
    step = optim.optimizer(optimizer, learning_rate)
    task = linears.regression(l2=alpha / len(rows.train["x"]))
    goal = ("r2", 0.517)
    return Recipe("x W + b, L2", task, step, rows, steps, batch_size, goal)


def lasso(
    *,
    data: Source = "diabetes",
    target: str | None = None,
    holdout: float = 0.0,
    alpha: float = 0.01,
    optimizer: optim.Name = "nesterov",
    learning_rate: float = 0.02,
    batch_size: int | None = None,
    steps: int = 2000,
) -> Recipe:
    """Lasso; `alpha` as scikit-learn's Lasso has it, on standardised x and y.

    Tibshirani, "Regression shrinkage and selection via the lasso", 1996. The rate falls
    to zero along a cosine, and with it the steps across the kink of |w|. Two seconds.
    """
    _at_least_zero("alpha", alpha)
    rows = sets.load(data, target=target, kind="regression", holdout=holdout)
    step = optim.optimizer(optimizer, optim.schedule("cosine", learning_rate, steps))
    task = linears.regression(l1=2 * alpha)
    goal = ("r2", 0.51)
    return Recipe("x W + b, L1", task, step, rows, steps, batch_size, goal)


def logistic(
    *,
    data: Source = "breast_cancer",
    target: str | None = None,
    holdout: float | None = None,
    penalty: float = 1.0,
    optimizer: optim.Name = "lbfgs",
    learning_rate: float | None = None,
    batch_size: int | None = None,
    steps: int = 100,
) -> Recipe:
    """Logistic regression of two classes; `penalty` is scikit-learn's 1 / C.

    Breast cancer (569 tumours): accuracy >= 0.97. Cox, "The regression analysis of
    binary sequences", 1958. Two seconds.
    """
    _at_least_zero("penalty", penalty)
    rows = _two_classes("logistic", data, target, holdout)
    step = optim.optimizer(optimizer, learning_rate)
    task = linears.logistic(l2=penalty / (2 * len(rows.train["x"])))
    goal = ("accuracy", 0.97)
    return Recipe("sigmoid(x W + b), L2", task, step, rows, steps, batch_size, goal)


def softmax(
    *,
    data: Source = "digits",
    target: str | None = None,
    holdout: float | None = None,
    penalty: float = 1.0,
    optimizer: optim.Name = "lbfgs",
    learning_rate: float | None = None,
    batch_size: int | None = None,
    steps: int = 100,
) -> Recipe:
    """Softmax regression of any number of classes; `penalty` is scikit-learn's 1 / C.

    Digits (1,797 of 8x8 pixels): accuracy >= 0.95. Three seconds.
    """
    _at_least_zero("penalty", penalty)
    rows = sets.load(data, target=target, kind="classes", holdout=holdout)
    step = optim.optimizer(optimizer, learning_rate)
    l2 = penalty / (2 * len(rows.train["x"]))
    task = linears.softmax(len(rows.schema.classes), l2=l2)
    goal = ("accuracy", 0.95)
    return Recipe("softmax(x W + b), L2", task, step, rows, steps, batch_size, goal)


def neuron(
    *,
    data: Source = "and",
    target: str | None = None,
    holdout: float | None = None,
    optimizer: optim.Name = "sgd",
    learning_rate: float = 5.0,
    batch_size: int | None = None,
    steps: int = 1000,
) -> Recipe:
    """One sigmoid neuron on the squared error: learns "and" and "or", never "xor".

    Minsky & Papert, "Perceptrons", 1969, say why; `zoo train mlp --data xor` is the way
    out. A second.
    """
    rows = _two_classes("neuron", data, target, holdout)
    step = optim.optimizer(optimizer, learning_rate)
    goal = ("accuracy", 1.0)
    name = "sigmoid(x w + b)"
    return Recipe(name, linears.neuron(), step, rows, steps, batch_size, goal)


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
    if not 0 <= dropout < 1:
        raise UsageError(f"expected dropout in [0, 1), found {dropout}")
    if not all(width > 0 for width in widths):
        raise UsageError(f"expected widths of 1 or more, found {widths}")
    rows = sets.load(data, target=target, holdout=holdout)
    optim.check_choice("activation", activation, tuple(mlps.ACTIVATIONS))

    def build(outputs):
        act = mlps.ACTIVATIONS[activation]
        return mlps.MLP(outputs, widths, act, dropout, batch_norm)

    step = _scheduled(
        optimizer,
        schedule,
        learning_rate,
        steps,
        weight_decay=weight_decay,
        clip=clip,
        accumulate=accumulate,
        ema=ema,
    )
    name = f"MLP {'-'.join(map(str, widths))}"
    task = _supervised(build, rows)
    return Recipe(name, task, step, rows, steps, batch_size, ("accuracy", 0.94))


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
    step = _scheduled(
        optimizer,
        schedule,
        learning_rate,
        steps,
        weight_decay=weight_decay,
        clip=clip,
        accumulate=accumulate,
        ema=ema,
    )
    changes = _shifted_and_turned() if augment and rank == 2 else None
    task = _supervised(lambda outputs: build[network](outputs, rank=rank), rows)
    goal = ("accuracy", 0.975)
    return Recipe(f"CNN {network}", task, step, rows, steps, batch_size, goal, changes)


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
    step = _scheduled(
        optimizer, schedule, learning_rate, steps, weight_decay=weight_decay, ema=ema
    )
    changes = _shifted_and_turned() if augment else None
    task = _supervised(lambda outputs: cnns.resnet_cifar(depth, outputs), rows)
    goal = ("accuracy", 0.98)
    name = f"ResNet-{depth}"
    return Recipe(name, task, step, rows, steps, batch_size, goal, changes)


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
    step = _scheduled(
        optimizer, schedule, learning_rate, steps, weight_decay=weight_decay, ema=ema
    )
    changes = None
    if augment:
        changes = augmentation.compose(augmentation.crop(4), augmentation.flip())
    task = _supervised(cnns.two_conv_dropout, rows)
    name = "CNN two_conv_dropout"
    return Recipe(name, task, step, rows, steps, batch_size, None, changes)


RECIPES: dict[str, Callable[..., Recipe]] = {
    "linear": linear,
    "ridge": ridge,
    "lasso": lasso,
    "logistic": logistic,
    "softmax": softmax,
    "neuron": neuron,
    "mlp": mlp,
    "cnn": cnn,
    "resnet20": resnet20,
    "cnn_cifar10": cnn_cifar10,
}


def _scheduled(optimizer, schedule, learning_rate, steps, **options):
    rate = optim.schedule(schedule, learning_rate, steps)
    return optim.optimizer(optimizer, rate, **options)


def _shifted_and_turned():
    return augmentation.compose(augmentation.crop(2), augmentation.rotate(10))


def _supervised(build: Callable[[int], nn.Module], rows: Data) -> Task:
    """A class for each output, or one output for a quantity."""
    if rows.schema.regression:
        return supervised.task(build(1), supervised.regression)
    return supervised.task(build(len(rows.schema.classes)), supervised.classes)


def _two_classes(recipe, data, target, holdout):
    rows = sets.load(data, target=target, kind="classes", holdout=holdout)
    if len(rows.schema.classes) != 2:
        raise UsageError(
            f"{recipe} tells two classes apart, {rows.schema.name} has "
            f"{len(rows.schema.classes)}; try softmax"
        )
    return rows


def _images(recipe, data, target, holdout):
    rows = sets.load(data, target=target, holdout=holdout)
    if not rows.schema.image:
        raise UsageError(
            f"{recipe} wants images [H, W, C], found examples of shape "
            f"{rows.schema.shape} in {rows.schema.name}; try mlp"
        )
    return rows


def _at_least_zero(name, value):
    if not value >= 0:
        raise UsageError(f"expected {name} >= 0, found {value}")
