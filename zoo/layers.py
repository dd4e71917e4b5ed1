"""Convolution and pooling: Linen's parameters and numbers, lowered well per backend.

On CPU a convolution inside a compiled loop is about twenty times slower than the same
sum as one matrix product, and the gradient of `reduce_window` as slow beside that of
`maximum`: there a convolution is written as shifted slices side by side, times one
matrix, and pooling as an elementwise reduction of strided slices. GPU and TPU get
their own convolution. Both are plain compositions, so `grad`, `jvp`, `vmap` and
`hessian` work through them.
Shapes: B batch, S one or two spatial axes ([L] or [H, W]), C channels.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from zoo.base import UsageError

Padding = str | Sequence[tuple[int, int]]


class Conv(nn.Module):
    """Convolution [B, *S, C] -> [B, *S', features]; `flax.linen.Conv` drop-in.

    Parameters: "kernel" [*kernel_size, C, features], LeCun normal, and "bias", zero.
    `padding` is "SAME", "VALID" or a (before, after) pair for each spatial axis.
    """

    features: int
    kernel_size: tuple[int, ...]
    strides: int | tuple[int, ...] = 1
    padding: Padding = "SAME"
    use_bias: bool = True
    dtype: jax.typing.DTypeLike | None = None
    kernel_init: Callable[..., jax.Array] = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, *S, C] -> [B, *S', features]."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = conv(x, kernel, strides=self.strides, padding=self.padding)
        return x if bias is None else x + bias.reshape((1,) * (x.ndim - 1) + (-1,))


def conv(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
) -> jax.Array:
    """Correlate [B, *S, C] with a kernel [*K, C, F] -> [B, *S', F], one or two axes S.

    Raises UsageError where shapes do not fit or the output would be empty.
    """
    size = kernel.shape[:-2]
    if x.ndim != kernel.ndim or x.shape[-1] != kernel.shape[-2]:
        raise UsageError(
            f"expected inputs [B, {'L' if len(size) == 1 else 'H, W'}, "
            f"{kernel.shape[-2]}] for a kernel {kernel.shape}, found shape {x.shape}"
        )
    steps, pads = _geometry(x, size, strides, padding)

    def product(x, kernel):
        slices = list(_shifted(x, size, steps, pads, 0))
        patches = slices[0] if len(slices) == 1 else jnp.concatenate(slices, axis=-1)
        return patches @ kernel.reshape(-1, kernel.shape[-1])

    def direct(x, kernel):
        space = "HW"[: len(size)]
        numbers = (f"N{space}C", f"{space}IO", f"N{space}C")
        return jax.lax.conv_general_dilated(
            x, kernel, steps, pads, dimension_numbers=numbers
        )

    return jax.lax.platform_dependent(x, kernel, cpu=product, default=direct)


def max_pool(
    x: jax.Array,
    window: Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> jax.Array:
    """The maximum over windows: [B, *S, C] -> [B, *S', C]; strides default to `window`.

    Where several entries of a window are the maximum, they share its gradient.
    """
    strides, pads = _geometry(
        x, window, window if strides is None else strides, padding
    )
    return functools.reduce(jnp.maximum, _shifted(x, window, strides, pads, -math.inf))


def avg_pool(
    x: jax.Array,
    window: Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> jax.Array:
    """The mean over windows, padding counted as zeros: [B, *S, C] -> [B, *S', C]."""
    strides, pads = _geometry(
        x, window, window if strides is None else strides, padding
    )
    return sum(_shifted(x, window, strides, pads, 0)) / math.prod(window)


def _geometry(x, window, strides, padding):
    """Strides and (before, after) paddings per spatial axis, checked."""
    space = x.shape[1:-1]
    if isinstance(strides, int):
        strides = (strides,) * len(window)
    if len(window) != len(space) or len(strides) != len(space):
        raise UsageError(
            f"expected inputs with {len(window)} spatial axes for a window "
            f"{tuple(window)}, found shape {x.shape}"
        )
    pads = padding
    if isinstance(padding, str):
        pads = jax.lax.padtype_to_pads(space, window, strides, padding.upper())
    sizes = [n + sum(p) for n, p in zip(space, pads, strict=True)]
    if any(n < w for n, w in zip(sizes, window, strict=True)):
        raise UsageError(f"a window {tuple(window)} does not fit into shape {x.shape}")
    return tuple(strides), tuple((int(a), int(b)) for a, b in pads)


def _shifted(x, window, strides, pads, fill):
    """For each offset of a window, the entries of x there: each [B, *S', C]."""
    if any(map(any, pads)):
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=fill)
    counts = [
        (n - w) // s for n, w, s in zip(x.shape[1:-1], window, strides, strict=True)
    ]
    for offset in itertools.product(*map(range, window)):
        start = (0, *offset, 0)
        ends = [o + c * s + 1 for o, c, s in zip(offset, counts, strides, strict=True)]
        limit = (x.shape[0], *ends, x.shape[-1])
        yield jax.lax.slice(x, start, limit, (1, *strides, 1))
