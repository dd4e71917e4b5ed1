"""Autoencoders: dense, convolutional, linear, denoising.

Hinton & Salakhutdinov, "Reducing the dimensionality of data with neural networks",
Science 313, 2006. Vincent et al., "Extracting and composing robust features with
denoising autoencoders", 2008. Baldi & Hornik, "Neural networks and principal component
analysis", 1989: the linear one spans the principal components.
Shapes: B batch, Z latent dimensions.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float, Shaped

from zoo.base import (
    Model,
    Task,
    UsageError,
    apply,
    check_number,
    is_zero,
    judged,
    parted,
)
from zoo.blocks import ConvDecoder, ConvEncoder, DenseDecoder
from zoo.blocks import corrupt as corrupt
from zoo.blocks import leaky as leaky
from zoo.mlp import MLP
from zoo.types import Array, Number


class Autoencoder(nn.Module):
    """decoder(encoder(x)): two modules with `train`, from x to [B, Z] and back."""

    encoder: nn.Module
    decoder: nn.Module

    def __call__(
        self, x: Shaped[Array, "B *D"], *, train: bool = False
    ) -> Float[Array, "B *D"]:
        """x's reconstruction."""
        return self.decoder(self.encoder(x, train=train), train=train)

    def encode(self, x: Shaped[Array, "B *D"]) -> Float[Array, "B Z"]:
        """Where x lies in the latent space."""
        return self.encoder(x)

    def decode(self, z: Float[Array, "B Z"]) -> Float[Array, "B *D"]:
        """What lies at z."""
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


def task(model: Model, *, noise: Number = 0.0) -> Task:
    """Gives batch["x"] back: mean squared error over the entries of an example.

    With `noise`, the model sees corrupt(x, split(key)[0], noise) and is to give the
    clean x. In evaluation the noise is drawn too, from the key given. Raises
    UsageError for negative noise, and outputs of another shape than x.
    """
    check_number("noise", noise)

    def init(key, batch):
        return parted(model.init(key, batch["x"], train=False))

    def loss(params, state, batch, key, *, train):
        x = batch["x"]
        noise_key, key = jax.random.split(key)
        seen = x if is_zero(noise) else corrupt(x, noise_key, noise)
        outputs, state = apply(model, params, state, seen, key=key, train=train)
        if outputs.shape != x.shape:
            raise UsageError(
                f"expected x of the outputs' shape {outputs.shape}, found {x.shape}"
            )
        error = jnp.square(outputs - x).reshape(x.shape[0], -1).mean(-1)
        return judged({"loss": error}, batch.get("mask"), state)

    return Task(init, loss)
