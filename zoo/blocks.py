"""What several models of images are built from: encoders, decoders, noise, labels.

Radford, Metz & Chintala, "Unsupervised representation learning with deep convolutional
generative adversarial networks", 2016, arXiv:1511.06434 (convolutions that halve and
double). Vincent et al., "Extracting and composing robust features with denoising
autoencoders", 2008 (noise).
Shapes: B batch, H height, W width, C channels, Z latent dimensions, F features,
K outputs or classes.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, PRNGKeyArray, Shaped

from zoo.base import UsageError, concrete, float32
from zoo.checks import check_inputs, check_int, check_labels, check_sizes
from zoo.layers import Conv, ConvTranspose, batch_norm
from zoo.mlp import MLP
from zoo.types import Activation, Array, Dtype, Initializer, Labels, Number

LECUN = nn.initializers.lecun_normal()


def leaky(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """max(x, 0.2 x): the slope of Radford et al. 2016 (DCGAN)."""
    return nn.leaky_relu(x, 0.2)


class ConvEncoder(nn.Module):
    """Convolutions 4x4 that halve the image, then dense: [B, H, W, C] -> [B, K].

    With `batch_norm`, every convolution but the first has one (Radford et al. 2016).
    """

    outputs: int
    channels: tuple[int, ...] = (32, 64)
    activation: Activation = nn.relu
    batch_norm: bool = False
    kernel_init: Initializer = LECUN
    dtype: Dtype = None

    def setup(self):
        check_sizes(outputs=self.outputs, channels=self.channels)
        fields: dict[str, Any] = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        normed = [self.batch_norm and i > 0 for i in range(len(self.channels))]
        self.convs = [
            Conv(c, (4, 4), strides=2, use_bias=not follows, **fields)
            for c, follows in zip(self.channels, normed, strict=True)
        ]
        self.norms = [batch_norm(self.dtype) if follows else None for follows in normed]
        self.dense = nn.Dense(self.outputs, **fields)

    def features(
        self, x: Shaped[Array, "B *image"], *, train: bool = False
    ) -> Float[Array, "B F"]:
        """[B, H, W, C] -> what the dense layer sees. Raises as `__call__`."""
        x = check_inputs(x, "B H W C")
        for layer, norm in zip(self.convs, self.norms, strict=True):
            x = layer(x)
            if norm is not None:
                x = norm(x, use_running_average=not train)
            x = self.activation(x)
        return x.reshape(x.shape[0], -1)

    def head(self, features: Float[Array, "B F"]) -> Float[Array, "B {self.outputs}"]:
        """The dense layer."""
        return float32(self.dense(features))

    def __call__(
        self, x: Shaped[Array, "B *image"], *, train: bool = False
    ) -> Float[Array, "B {self.outputs}"]:
        """[B, H, W, C] -> [B, K]. Raises UsageError for what are no images."""
        return self.head(self.features(x, train=train))


class ConvDecoder(nn.Module):
    """Dense, then transposed convolutions 4x4 that double: [B, Z] -> [B, H, W, C].

    `channels` are those before each doubling, `shape` the image's; what is doubled past
    it is cut. With `batch_norm`, all but the last layer have one.
    """

    shape: tuple[int, ...]
    channels: tuple[int, ...] = (64, 32)
    batch_norm: bool = False
    kernel_init: Initializer = LECUN
    dtype: Dtype = None

    @nn.compact
    def __call__(
        self, z: Shaped[Array, "B Z"], *, train: bool = False
    ) -> Float[Array, "B H W C"]:
        """Images of `shape`, without an activation. UsageError for integers z."""
        check_sizes(channels=self.channels)
        height, width, colours = self.shape
        times = 2 ** len(self.channels)
        small = (-(-height // times), -(-width // times), self.channels[0])
        fields: dict[str, Any] = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        bias = not self.batch_norm

        def activate(x):
            if self.batch_norm:
                x = batch_norm(self.dtype, train=train)(x)
            return nn.relu(x)

        x = nn.Dense(math.prod(small), use_bias=bias, **fields)(check_inputs(z))
        x = activate(x.reshape(-1, *small))
        for channels in self.channels[1:]:
            x = ConvTranspose(channels, (4, 4), 2, use_bias=bias, **fields)(x)
            x = activate(x)
        x = ConvTranspose(colours, (4, 4), 2, **fields)(x)
        return float32(x[:, :height, :width])


class DenseDecoder(nn.Module):
    """A perceptron whose outputs are an image's pixels: [B, Z] -> [B, *shape]."""

    shape: tuple[int, ...]
    widths: tuple[int, ...] = (256,)
    batch_norm: bool = False
    dtype: Dtype = None

    @nn.compact
    def __call__(
        self, z: Shaped[Array, "B Z"], *, train: bool = False
    ) -> Float[Array, "B *shape"]:
        """Examples of `shape`, without an activation. UsageError for integers z."""
        layers = MLP(
            math.prod(self.shape),
            self.widths,
            batch_norm=self.batch_norm,
            dtype=self.dtype,
        )
        return layers(z, train=train).reshape(-1, *self.shape)


def corrupt(
    x: Float[Array, "*S"], key: PRNGKeyArray, noise: Number
) -> Float[Array, "*S"]:
    """x plus normal noise of that standard deviation, in x's units."""
    deviation = jnp.asarray(noise, x.dtype)
    return x + deviation * jax.random.normal(key, x.shape, x.dtype)


def check_draws(n: int, y: Labels | None = None, classes: int = 0) -> None:
    """Raise UsageError unless n are 1 or more, with labels y [n] if there are classes.

    Labels that are traced are right.
    """
    check_int("n", n, 1)
    if not classes and y is not None:
        raise UsageError("expected no labels for a model without classes, found some")
    if not classes:
        return
    if (found := np.shape(check_labels(y, classes))) != (n,):
        raise UsageError(f"expected a label for each of {n} draws, found {found}")
    if concrete(y):
        wrong = np.asarray(y)
        wrong = wrong[(wrong < 0) | (wrong >= classes)]
        if wrong.size:
            raise UsageError(f"expected labels 0 to {classes - 1}, found {wrong[0]}")


def beside(
    z: Float[Array, "B Z"], y: Labels | None, classes: int
) -> Float[Array, "B {z.shape[1]+classes}"]:
    """Each label of K classes, one-hot, behind its z: [B, Z + K].

    Without classes, z itself. Raises UsageError where there are classes and no labels.
    """
    if not classes:
        return z
    return jnp.concatenate([z, nn.one_hot(check_labels(y, classes), classes)], -1)
