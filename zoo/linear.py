"""Linear models: regression (ridge and lasso by penalty), logistic, softmax, neuron.

Hastie, Tibshirani & Friedman, "The Elements of Statistical Learning", 2009, chapters
3 and 4; the neuron is that of Rumelhart, Hinton & Williams, Nature 323, 1986.
All are convex but the neuron, so weights start at zero. Shapes: B batch, D features.
"""

from flax import linen as nn
from jaxtyping import Float, Shaped

from zoo import supervised
from zoo.base import Task
from zoo.checks import check_inputs
from zoo.types import Array, Number


class Linear(nn.Module):
    """x W + b; examples of more than one axis are flattened to [B, D]."""

    outputs: int = 1

    @nn.compact
    def __call__(
        self, x: Shaped[Array, "B *D"], *, train: bool = False
    ) -> Float[Array, "B {self.outputs}"]:
        """The same in training and evaluation. Raises UsageError for integers x."""
        x = check_inputs(x).reshape(x.shape[0], -1)
        zeros = nn.initializers.zeros_init()
        return nn.Dense(self.outputs, kernel_init=zeros, name="dense")(x)


def regression(*, outputs: int = 1, l1: Number = 0.0, l2: Number = 0.0) -> Task:
    """Least squares: mean (x W + b - y)^2 + l1 sum|W| + l2 sum W^2.

    With n examples scikit-learn's Ridge(alpha) is l2 = alpha / n, its Lasso(alpha) is
    l1 = 2 alpha.
    """
    return supervised.task(Linear(outputs), supervised.regression, l1=l1, l2=l2)


def logistic(*, l2: Number = 0.0) -> Task:
    """Two classes, one logit; scikit-learn's C is l2 = 1 / (2 n C) for n examples."""
    return supervised.task(Linear(1), supervised.binary, l2=l2)


def softmax(classes: int, *, l2: Number = 0.0) -> Task:
    """Softmax regression over K classes; scikit-learn's C is l2 = 1 / (2 n C)."""
    return supervised.task(Linear(classes), supervised.classes, l2=l2)


def neuron() -> Task:
    """One sigmoid neuron on the squared error: learns AND and OR, never XOR."""
    return supervised.task(Linear(1), supervised.neuron)
