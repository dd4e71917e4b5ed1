"""Autoencoders: dense, convolutional, denoising; and the two halves that others use.

Hinton & Salakhutdinov, "Reducing the dimensionality of data with neural networks",
Science 313, 2006. Vincent et al., "Extracting and composing robust features with
denoising autoencoders", 2008. Baldi & Hornik, "Neural networks and principal component
analysis", 1989: the linear one spans the principal components.
Shapes: B batch, H height, W width, C channels, Z latent dimensions, K outputs.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from zoo.base import Aux, Number, Task, check_inputs, is_zero, means
from zoo.layers import Conv, ConvTranspose
from zoo.mlp import MLP

Initializer = Callable[..., jax.Array]
LECUN = nn.initializers.lecun_normal()


def leaky(x: jax.Array) -> jax.Array:
    """max(x, 0.2 x): the slope of Radford et al. 2016 (DCGAN)."""
    return nn.leaky_relu(x, 0.2)


class ConvEncoder(nn.Module):
    """Convolutions 4x4 that halve the image, then dense: [B, H, W, C] -> [B, K].

    With `batch_norm`, every convolution but the first has one (Radford et al. 2016).
    """

    outputs: int
    channels: tuple[int, ...] = (32, 64)
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    batch_norm: bool = False
    kernel_init: Initializer = LECUN
    dtype: jax.typing.DTypeLike | None = None

    def setup(self):
        fields: dict[str, Any] = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        normed = [self.batch_norm and i > 0 for i in range(len(self.channels))]
        self.convs = [
            Conv(c, (4, 4), strides=2, use_bias=not follows, **fields)
            for c, follows in zip(self.channels, normed, strict=True)
        ]
        self.norms = [
            nn.BatchNorm(momentum=0.9, dtype=self.dtype) if follows else None
            for follows in normed
        ]
        self.dense = nn.Dense(self.outputs, **fields)

    def features(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, H, W, C] -> [B, F], what the dense layer sees."""
        x = check_inputs(x, "B H W C")
        for layer, norm in zip(self.convs, self.norms, strict=True):
            x = layer(x)
            if norm is not None:
                x = norm(x, use_running_average=not train)
            x = self.activation(x)
        return x.reshape(x.shape[0], -1)

    def head(self, features: jax.Array) -> jax.Array:
        """[B, F] -> [B, K]."""
        x = self.dense(features)
        return x.astype(jnp.promote_types(x.dtype, "float32"))

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, H, W, C] -> [B, K]."""
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
    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(self, z: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, Z] -> [B, H, W, C], of any size: no activation at the end."""
        height, width, colours = self.shape
        times = 2 ** len(self.channels)
        small = (-(-height // times), -(-width // times), self.channels[0])
        fields: dict[str, Any] = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        bias = not self.batch_norm

        def activate(x):
            if self.batch_norm:
                x = nn.BatchNorm(
                    use_running_average=not train, momentum=0.9, dtype=self.dtype
                )(x)
            return nn.relu(x)

        x = nn.Dense(math.prod(small), use_bias=bias, **fields)(check_inputs(z))
        x = activate(x.reshape(-1, *small))
        for channels in self.channels[1:]:
            x = ConvTranspose(channels, (4, 4), 2, use_bias=bias, **fields)(x)
            x = activate(x)
        x = ConvTranspose(colours, (4, 4), 2, **fields)(x)[:, :height, :width]
        return x.astype(jnp.promote_types(x.dtype, "float32"))


class DenseDecoder(nn.Module):
    """A perceptron whose outputs are an image's pixels: [B, Z] -> [B, *shape]."""

    shape: tuple[int, ...]
    widths: tuple[int, ...] = (256,)
    batch_norm: bool = False
    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(self, z: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, Z] -> [B, *shape]."""
        layers = MLP(
            math.prod(self.shape),
            self.widths,
            batch_norm=self.batch_norm,
            dtype=self.dtype,
        )
        return layers(z, train=train).reshape(-1, *self.shape)


class Autoencoder(nn.Module):
    """decoder(encoder(x)): two modules with `train`, from x to [B, Z] and back."""

    encoder: nn.Module
    decoder: nn.Module

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """[B, ...] -> its reconstruction [B, ...]."""
        return self.decoder(self.encoder(x, train=train), train=train)

    def encode(self, x: jax.Array) -> jax.Array:
        """[B, ...] -> [B, Z]."""
        return self.encoder(x)

    def decode(self, z: jax.Array) -> jax.Array:
        """[B, Z] -> [B, ...]."""
        return self.decoder(z)


def dense(
    shape: tuple[int, ...], latent: int, widths: tuple[int, ...] = (256,), **fields: Any
) -> Autoencoder:
    """For examples of any shape; the decoder mirrors the encoder's widths."""
    decoder = DenseDecoder(shape, widths[::-1], **fields)
    return Autoencoder(MLP(latent, widths, **fields), decoder)


def linear(shape: tuple[int, ...], latent: int) -> Autoencoder:
    """Without hidden layers: at its optimum the decoder spans the first principal
    components of the data."""
    return dense(shape, latent, ())


def conv(
    shape: tuple[int, ...],
    latent: int,
    channels: tuple[int, ...] = (32, 64),
    **fields: Any,
) -> Autoencoder:
    """For images; the decoder mirrors the encoder's channels."""
    decoder = ConvDecoder(shape, channels[::-1], **fields)
    return Autoencoder(ConvEncoder(latent, channels, **fields), decoder)


def corrupt(x: jax.Array, key: jax.Array, noise: Number) -> jax.Array:
    """x plus normal noise of that standard deviation, in x's units."""
    deviation = jnp.asarray(noise, x.dtype)
    return x + deviation * jax.random.normal(key, x.shape, x.dtype)


def task(model: nn.Module, *, noise: Number = 0.0) -> Task:
    """Gives batch["x"] back: mean squared error over the entries of an example.

    With `noise`, the model sees corrupt(x, split(key)[0], noise) and is to give the
    clean x. In evaluation the noise is drawn too, from the key given.
    """

    def init(key, batch):
        state = dict(model.init(key, batch["x"], train=False))
        return state.pop("params"), state

    def loss(params, state, batch, key, *, train):
        x = batch["x"]
        noise_key, dropout_key = jax.random.split(key)
        seen = x if is_zero(noise) else corrupt(x, noise_key, noise)
        outputs, new = model.apply(
            {"params": params, **state},
            seen,
            train=train,
            rngs={"dropout": dropout_key},
            mutable=list(state) if train else [],
        )
        error = jnp.square(outputs - x).reshape(x.shape[0], -1).mean(-1)
        metrics = means({"loss": error}, batch.get("mask"))
        return metrics["loss"].value(), Aux(metrics, {**state, **new})

    return Task(init, loss)
