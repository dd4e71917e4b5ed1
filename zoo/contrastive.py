"""Features learned from images alone: two views of one are alike, those of others not.

Chen et al., "A simple framework for contrastive learning of visual representations",
2020, arXiv:2002.05709 (SimCLR, NT-Xent). Zbontar et al., "Barlow twins:
self-supervised learning via redundancy reduction", 2021, arXiv:2103.03230.

A loss is over the batch, so an example alone has none; what is measured of it is how
much of what its embedding says is of the view and not of the image. Its features are
judged by what can be told from them.
Shapes: B batch, H height, W width, C channels, F features, D embedding's dimensions.
"""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jax.nn import logsumexp
from jaxtyping import Float, PRNGKeyArray, Shaped

from zoo.base import Aux, Batch, Model, Task, UsageError, apply, means, parted
from zoo.blocks import ConvEncoder
from zoo.checks import check_inputs
from zoo.layers import batch_norm
from zoo.types import Array, Dtype, Number, Tree

View = Callable[[PRNGKeyArray, Batch], Batch]
"""(key, batch) -> batch, each image of "x" changed at random; pure."""
Objective = Callable[[Array, Array], Array]
"""Two views' embeddings [B, D] -> what is minimised, of each image [B] or of all []."""


class Twins(nn.Module):
    """An encoder to features, and a projector to the embedding that the loss is of.

    `encoder` is a module with `train`, from images to [B, F]; `widths` are the
    projector's layers, each with batch norm, the last one the embedding's. Its own norm
    has no scale: an embedding has mean 0 and variance 1 in each dimension.
    """

    encoder: nn.Module
    widths: tuple[int, ...] = (256, 128)
    dtype: Dtype = None

    def setup(self):
        # no bias: batch norm would take it away
        self.layers = [
            nn.Dense(width, use_bias=False, dtype=self.dtype) for width in self.widths
        ]
        self.norms = [batch_norm(self.dtype) for _ in self.widths[1:]]
        self.last = nn.BatchNorm(
            momentum=0.9, use_scale=False, use_bias=False, dtype=self.dtype
        )

    def features(
        self, x: Shaped[Array, "B *image"], *, train: bool = False
    ) -> Float[Array, "B F"]:
        """What is kept of the network: [B, H, W, C] -> [B, F], 0 or more."""
        return nn.relu(self.encoder(x, train=train))

    def __call__(
        self, x: Shaped[Array, "B *image"], *, train: bool = False
    ) -> Float[Array, "B D"]:
        """Embeddings. Raises UsageError as the encoder does."""
        z = self.features(x, train=train)
        for layer, norm in zip(self.layers, self.norms, strict=False):
            z = nn.relu(norm(layer(z), use_running_average=not train))
        return self.last(self.layers[-1](z), use_running_average=not train)


def conv(
    features: int = 128,
    channels: tuple[int, ...] = (32, 64),
    widths: tuple[int, ...] = (256, 128),
    **fields,
) -> Twins:
    """For images: convolutions that halve them, then dense."""
    return Twins(ConvEncoder(features, channels, **fields), widths)


def nt_xent(
    a: Float[Array, "B D"], b: Float[Array, "B D"], temperature: Number = 0.5
) -> Float[Array, "B"]:
    """Cross-entropy of each view's other one, among all 2B - 1 others, in nats.

    The logits are cosines over the temperature; the mean of an image's two views
    (Chen et al., equation 1). Raises UsageError for a batch of one.
    """
    _check_several(a)
    z = jnp.concatenate([a, b])
    z = z / jnp.sqrt(jnp.square(z).sum(-1, keepdims=True) + 1e-12)
    n = a.shape[0]
    cosine = z @ z.T / temperature
    others = jnp.where(jnp.eye(2 * n, dtype=bool), -jnp.inf, cosine)
    both = logsumexp(others, -1).reshape(2, n)
    return both.mean(0) - (z[:n] * z[n:]).sum(-1) / temperature


def correlation(a: Float[Array, "B D"], b: Float[Array, "B D"]) -> Float[Array, "D D"]:
    """Of each dimension of a with each of b in a batch; 0 where one is constant."""

    def standard(z):
        z = z - z.mean(0, keepdims=True)
        return z / jnp.sqrt(jnp.square(z).mean(0, keepdims=True) + 1e-12)

    return standard(a).T @ standard(b) / a.shape[0]


def barlow(
    a: Float[Array, "B D"], b: Float[Array, "B D"], redundancy: Number = 0.005
) -> Float[Array, ""]:
    """sum_i (1 - C_ii)^2 + redundancy * sum_{i != j} C_ij^2, C the correlation.

    (Zbontar et al., equation 1.) Raises UsageError for a batch of one.
    """
    _check_several(a)
    squares = jnp.square(correlation(a, b) - jnp.eye(a.shape[1]))
    own = jnp.trace(squares)
    return own + redundancy * (squares.sum() - own)


def _check_several(a):
    if a.shape[0] < 2:
        raise UsageError(
            "expected a batch of 2 or more images to tell from each other, found 1"
        )


def task(model: Model, view: View, objective: Objective) -> Task:
    """Makes two views of each image of batch["x"] alike; see `nt_xent`, `barlow`.

    Of [B, H, W, C]; the key draws a `view` for each. Metrics: "loss", half of the
    squared distance of an image's two embeddings in a dimension: the share of an
    embedding's variance that is of the view, 0 where it is of the image alone and 1
    where it tells no images apart. In evaluation an example's is its own, by the batch
    norm's running statistics. In training "objective", which is what is minimised.
    Raises UsageError for other shapes, and in training for a batch of one, a mask or
    weights.
    """

    def init(key, batch):
        return parted(model.init(key, batch["x"], train=False))

    def loss(params, state, batch, key, *, train):
        x, mask = check_inputs(batch["x"], "B H W C"), batch.get("mask")
        # side by side: devices that share a batch keep their own images
        views = view(key, {"x": jnp.repeat(x, 2, axis=0)})["x"]
        z, state = apply(model, params, state, views, train=train)
        a, b = jnp.moveaxis(z.reshape(x.shape[0], 2, -1), 1, 0)
        values = {"loss": 0.5 * jnp.square(a - b).mean(-1)}
        if not train:
            metrics = means(values, mask)
            return metrics["loss"].value(), Aux(metrics, state)
        if mask is not None:
            raise UsageError(
                "expected no weights of images that are told from each other"
            )
        found = jnp.broadcast_to(objective(a, b), x.shape[:1])
        metrics = means(values | {"objective": found}, mask)
        return metrics["objective"].value(), Aux(metrics, state)

    return Task(init, loss, together=True)


def features(
    model: Model, variables: Tree, x: Shaped[Array, "B *image"]
) -> Float[Array, "B F"]:
    """What a trained network keeps of images [B, H, W, C]."""
    return model.apply(variables, x, method="features")
