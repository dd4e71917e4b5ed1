"""Layers as Linen's, but for what they cost: convolution, dropout, recurrence.

Convolution and pooling, and why they are fast, are in `zoo.convolution`.
Shapes: B batch, S one or two spatial axes ([L] or [H, W]), R those of the result,
C channels, T time, D features in, H units.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jaxtyping import Float

from zoo.base import UsageError, concrete, is_zero
from zoo.convolution import Padding, conv, conv_transpose
from zoo.convolution import avg_pool as avg_pool
from zoo.convolution import max_pool as max_pool
from zoo.types import Array, Dtype, Initializer, Lengths, Number, Tree


class Conv(nn.Module):
    """Convolution [B, *S, C] -> [B, *R, features]; `flax.linen.Conv` drop-in.

    Parameters: "kernel" [*kernel_size, C / groups, features], LeCun normal, and
    "bias", zero. `padding` is "SAME", "VALID", a number or a (before, after) pair for
    each spatial axis. Raises UsageError as `conv` does.
    """

    features: int
    kernel_size: tuple[int, ...]
    strides: int | tuple[int, ...] = 1
    padding: Padding = "SAME"
    kernel_dilation: int | tuple[int, ...] = 1
    feature_group_count: int = 1
    use_bias: bool = True
    dtype: Dtype = None
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(
        self, x: Float[Array, "B *S C"]
    ) -> Float[Array, "B *R {self.features}"]:
        """[B, *S, C] -> [B, *R, features]."""
        groups = self.feature_group_count
        return _convolved(self, conv, x, x.shape[-1] // groups, groups=groups)


class ConvTranspose(nn.Module):
    """Transposed convolution [B, *S, C] -> [B, *R, features], R about S * strides;
    `flax.linen.ConvTranspose` drop-in (the kernel is not flipped).

    Parameters as in `Conv`: "kernel" [*kernel_size, C, features] and "bias".
    """

    features: int
    kernel_size: tuple[int, ...]
    strides: int | tuple[int, ...] = 1
    padding: Padding = "SAME"
    kernel_dilation: int | tuple[int, ...] = 1
    use_bias: bool = True
    dtype: Dtype = None
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(
        self, x: Float[Array, "B *S C"]
    ) -> Float[Array, "B *R {self.features}"]:
        """[B, *S, C] -> [B, *R, features]."""
        return _convolved(self, conv_transpose, x, x.shape[-1])


def _convolved(module, function, x, inputs, **more):
    """function(x, kernel) + bias with the module's parameters; the kernel's inputs."""
    shape = (*module.kernel_size, inputs, module.features)
    kernel = module.param("kernel", module.kernel_init, shape)
    wanted = "bias", module.bias_init, (module.features,)
    bias = module.param(*wanted) if module.use_bias else None
    x, kernel, bias = promote_dtype(x, kernel, bias, dtype=module.dtype)
    y = function(
        x,
        kernel,
        strides=module.strides,
        padding=module.padding,
        dilation=module.kernel_dilation,
        **more,
    )
    return y if bias is None else y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


class Dropout(nn.Module):
    """`flax.linen.Dropout`, whose rate may be a traced array [].

    Its masks cost a quarter of the random bits, and are others than Linen's from the
    same key "dropout". Raises UsageError for a rate outside [0, 1].
    """

    rate: Number

    def __call__(self, x: Float[Array, "*S"], *, train: bool) -> Float[Array, "*S"]:
        """x, a share of its entries zero in training, the others larger for it."""
        if concrete(self.rate) and not 0 <= self.rate <= 1:
            raise UsageError(f"expected a dropout in [0, 1], found {self.rate}")
        if not train or is_zero(self.rate):
            return x
        keep = 1 - self.rate
        mask = _kept(self.make_rng("dropout"), keep, x.shape)
        if concrete(keep) and keep != 0:
            return jnp.where(mask, x / float(keep), 0)
        # where nothing is kept, x / 0 would make the gradient NaN
        return jnp.where(mask, x / jnp.where(keep == 0, 1, keep).astype(x.dtype), 0)


def _kept(key, keep, shape):
    """Booleans that are true with probability `keep`, each from 8 random bits.

    Their threshold, of 256, is drawn too, once for all: `keep` is met exactly, though
    it be no multiple of 1/256, and a mask's own share is within that of it.
    """
    bits, rounding = jax.random.split(key)
    shape = shape or (1,)
    words = jax.random.bits(bits, (*shape[:-1], -(-shape[-1] // 4)), "uint32")
    octets = jax.lax.bitcast_convert_type(words, jnp.uint8)
    octets = octets.reshape(*shape[:-1], -1)[..., : shape[-1]]
    limit = jnp.floor(keep * 256 + jax.random.uniform(rounding))
    return octets.astype(jnp.uint16) < limit.astype(jnp.uint16)


def batch_norm(dtype: Dtype = None, *, train: bool | None = None) -> nn.BatchNorm:
    """Batch norm of momentum 0.9 (torch calls that 0.1) and epsilon 1e-5.

    Without `train`, call it with `use_running_average`. Its running variance is the
    biased one (torch: unbiased). Ioffe & Szegedy, 2015, arXiv:1502.03167.
    """
    average = None if train is None else not train
    return nn.BatchNorm(use_running_average=average, momentum=0.9, dtype=dtype)


def recur(
    cell: Callable[[Any, Array], tuple[Any, Array]],
    carry: Tree,
    x: Float[Array, "B T D"],
    *,
    length: Lengths | None = None,
    reverse: bool = False,
) -> tuple[Tree, Float[Array, "B T H"]]:
    """Run `cell(carry, x[:, t]) -> (carry, y [B, H])` over time.

    `length` is how much of each sequence counts: past it the carry stands still and
    y is zero, so padding changes nothing. `reverse` runs from the last entry to the
    first. A cell is fastest with one product of [x, h] a step: forming the inputs' part
    for all steps before the loop, or unrolling it, gained nothing on two cores.
    """
    steps = jnp.arange(x.shape[1])

    def step(carry, now):
        t, entry = now
        new, y = cell(carry, entry)
        if length is None:
            return new, y
        here = t < length

        def choose(a, b):
            return jnp.where(here.reshape((-1,) + (1,) * (a.ndim - 1)), a, b)

        return jax.tree.map(choose, new, carry), choose(y, jnp.zeros_like(y))

    entries = (steps, jnp.swapaxes(x, 0, 1))
    carry, y = jax.lax.scan(step, carry, entries, reverse=reverse)
    return carry, jnp.swapaxes(y, 0, 1)
