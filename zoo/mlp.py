"""Multilayer perceptron: dense layers of any widths.

Rumelhart, Hinton & Williams, "Learning representations by back-propagating errors",
Nature 323, 1986. Shapes: B batch, D features, K outputs.
"""

from flax import linen as nn
from jaxtyping import Float, Shaped

from zoo.base import float32
from zoo.checks import check_inputs, check_sizes
from zoo.layers import Dropout, batch_norm
from zoo.types import Activation, Array, Dtype, Number


def prelu(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """max(x, 0) + a min(x, 0) with one learned slope a, 0.25 at first.

    He et al., "Delving Deep into Rectifiers", 2015, arXiv:1502.01852, equation 1. Call
    it inside a module: the slope becomes a parameter there.
    """
    return nn.PReLU(negative_slope_init=0.25)(x)


ACTIVATIONS: dict[str, Activation] = {
    "sigmoid": nn.sigmoid,
    "tanh": nn.tanh,
    "relu": nn.relu,
    "leaky_relu": nn.leaky_relu,  # slope 0.01
    "prelu": prelu,
    "gelu": nn.gelu,  # the tanh approximation; torch's default is the exact form
}


class MLP(nn.Module):
    """Hidden layers dense - norm - activation - dropout, then a dense output.

    Examples of more than one axis are flattened to [B, D]. `batch_norm` keeps running
    statistics in the state, `dropout` is the share of units dropped in training.
    Weights start LeCun normal, biases at zero (torch: both uniform in 1/sqrt(fan-in)).
    """

    outputs: int
    widths: tuple[int, ...] = (256,)
    activation: Activation = nn.relu
    dropout: Number = 0.0
    batch_norm: bool = False
    dtype: Dtype = None

    @nn.compact
    def __call__(
        self, x: Shaped[Array, "B *D"], *, train: bool = False
    ) -> Float[Array, "B {self.outputs}"]:
        """Logits, or whatever is fitted. UsageError for integers x, and no units."""
        check_sizes(outputs=self.outputs, width=self.widths)
        x = check_inputs(x).reshape(x.shape[0], -1)
        for width in self.widths:
            x = nn.Dense(width, dtype=self.dtype)(x)
            if self.batch_norm:
                x = batch_norm(self.dtype, train=train)(x)
            x = self.activation(x)
            x = Dropout(self.dropout)(x, train=train)
        return float32(nn.Dense(self.outputs, dtype=self.dtype)(x))
