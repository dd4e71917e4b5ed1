"""Deep belief networks: Boltzmann machines that are learned one on the other.

Hinton, Osindero & Teh, "A fast learning algorithm for deep belief nets", Neural
Computation 18, 2006. Fine-tuned as a perceptron: Hinton & Salakhutdinov, "Reducing the
dimensionality of data with neural networks", Science 313, 2006; Bengio et al., "Greedy
layer-wise training of deep networks", 2007.

Each machine learns of what the one below makes of the examples; what they have learned
are the first layers of an `MLP` with sigmoids, or, from the top down, a generator.
Shapes: B batch, V visible units, H hidden units of the top machine, n images.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float, PRNGKeyArray, Shaped

from zoo.base import UsageError, check_int
from zoo.energy import RBM, draw, flat, gibbs
from zoo.types import Array, Tree


def stack(
    visible: int, widths: Sequence[int], likelihood: str = "bernoulli"
) -> tuple[RBM, ...]:
    """Machines of these hidden units, each of which sees those of the one before.

    Examples are "bernoulli" or "gaussian", hidden units binary. Raises UsageError for
    no machine.
    """
    if not widths:
        raise UsageError("expected the hidden units of a machine or more, found none")
    sizes = visible, *widths
    kinds = likelihood, *["bernoulli"] * (len(widths) - 1)
    return tuple(map(RBM, sizes, widths, kinds))


def features(
    model: RBM, variables: Tree, x: Shaped[Array, "B *D"]
) -> Float[Array, "B H"]:
    """p(h = 1 | x): what the next machine sees. Raises UsageError as the model."""
    up: Any = model.apply(variables, flat(x, model.visible), method="up")
    return nn.sigmoid(up)


def as_mlp(layers: Sequence[Tree]) -> dict[str, Tree]:
    """The parameters of machines [V, H] as those of the first layers of a perceptron.

    `MLP(outputs, widths, nn.sigmoid)` begun with these (`init` of `train.loop.fit`) has
    the top machine's `features` before its output, which is left to be learned.
    """
    return {
        f"Dense_{i}": {"kernel": params["kernel"], "bias": params["hidden_bias"]}
        for i, params in enumerate(layers)
    }


def generate(
    models: Sequence[RBM],
    layers: Sequence[Tree],
    key: PRNGKeyArray,
    n: int,
    turns: int = 1000,
) -> Float[Array, "{n} V"]:
    """Means of n images: the top machine's chains from noise, then layer by layer down.

    `layers` are the parameters of each, the lowest first (section 2 of Hinton et al.).
    Raises UsageError for no image, other turns, and other parameters than each has.
    """
    check_int("n", n, 1)
    check_int("turns", turns, 0)
    if not models or len(models) != len(layers):
        raise UsageError(
            f"expected parameters of each of {len(models)} machines, found "
            f"{len(layers)}"
        )
    first, walk, last, *keys = jax.random.split(key, len(models) + 3)
    top, variables = models[-1], {"params": layers[-1]}
    v = draw(top.likelihood, first, jnp.zeros((n, top.visible)))
    v = gibbs(top, variables, walk, v, turns)
    down: Any = top.apply(variables, v, method="up")
    h = draw("bernoulli", last, down)
    for model, params, key in zip(models[::-1], layers[::-1], keys, strict=True):
        down = model.apply({"params": params}, h, method="down")
        h = draw("bernoulli", key, down)
    return nn.sigmoid(down) if models[0].likelihood == "bernoulli" else down
