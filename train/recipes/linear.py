"""Linear models and the single neuron, for tables."""

from train import data as sets
from train import optim
from train.recipes.base import Goal, Recipe, Source
from zoo import linear as linears
from zoo.base import UsageError, concrete


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
    goal = Goal("r2", 0.5177)
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
    goal = Goal("r2", 0.517)
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
    goal = Goal("r2", 0.51)
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
    goal = Goal("accuracy", 0.97)
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
    goal = Goal("accuracy", 0.95)
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
    goal = Goal("accuracy", 1.0)
    name = "sigmoid(x w + b)"
    return Recipe(name, linears.neuron(), step, rows, steps, batch_size, goal)


def _two_classes(recipe, data, target, holdout):
    rows = sets.load(data, target=target, kind="classes", holdout=holdout)
    if len(rows.schema.classes) != 2:
        raise UsageError(
            f"{recipe} tells two classes apart, {rows.schema.name} has "
            f"{len(rows.schema.classes)}; try softmax"
        )
    return rows


def _at_least_zero(name, value):
    if concrete(value) and not value >= 0:
        raise UsageError(f"expected {name} >= 0, found {value}")
