"""Convolution and pooling as functions, fast on each backend.

On CPU a convolution inside a compiled loop is about twenty times slower than the same
sum as matrix products, and the gradient of `reduce_window` as slow beside that of
`maximum`. There a convolution is written as shifted slices and one matrix, in one of
two ways:

- slices side by side: all K offsets of the window, [N, K C] @ [K C, F];
- for a window without strides over an image of 8 or more channels, half on each side:
  the offsets along the last axis stand side by side before the product, those along
  the first are shifted and added after it, [N, Kw C] @ [Kw C, Kh F]. Thrice less is
  gathered and written for 3x3, in the forward pass and in both gradients.

Grouped convolution is a product for each group, depthwise convolution a sum of scaled
slices, transposed convolution a convolution for each phase of the output. Dilated
transposed convolution has no fast form and is XLA's. GPU and TPU get XLA's convolution
always. All are plain compositions: `grad`, `jvp`, `vmap` and `hessian` go through them.
Shapes: B batch, S one or two spatial axes ([L] or [H, W]), R those of the result,
C channels, F features, G groups, c = C / G, K the kernel's size along each of S.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from zoo.base import UsageError
from zoo.types import Array

Padding = str | int | Sequence[tuple[int, int]]
""""SAME", "VALID", a number, or (before, after) for each spatial axis."""


def conv(
    x: Float[Array, "B *S C"],
    kernel: Float[Array, "*K c F"],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Float[Array, "B *R F"]:
    """Correlate [B, *S, C] with a kernel [*K, C / groups, F] -> [B, *R, F].

    Raises UsageError where shapes do not fit or the output would be empty.
    """
    _check(x, kernel, groups)
    window = _geometry(x, kernel.shape[:-2], strides, padding, dilation)
    outputs = kernel.shape[-1]

    def product(x, kernel):
        if groups > 1:
            return _grouped(x, kernel, window, groups)
        if x.ndim == 4 and x.shape[-1] >= 8 and window.strides == (1, 1):
            return _two_sided(x, kernel, window)
        patches = jnp.concatenate(list(_shifted(x, window, 0)), -1)
        # two axes: with more, the weights' gradient copies its operands to flatten them
        y = patches.reshape(-1, patches.shape[-1]) @ kernel.reshape(-1, outputs)
        return y.reshape(*patches.shape[:-1], outputs)

    direct = functools.partial(_xla, window=window, groups=groups)
    return jax.lax.platform_dependent(x, kernel, cpu=product, default=direct)


def conv_transpose(
    x: Float[Array, "B *S C"],
    kernel: Float[Array, "*K c F"],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    dilation: int | Sequence[int] = 1,
) -> Float[Array, "B *R F"]:
    """Correlate x [B, *S, C], strides - 1 zeros between its entries, with [*K, C, F].

    "SAME" gives R = S * strides, "VALID" every output that an input reaches; pairs
    pad the spread-out input itself. Raises UsageError where shapes do not fit.
    """
    _check(x, kernel)
    size, space = kernel.shape[:-2], x.shape[1:-1]
    steps, gaps = _each(strides, size, x), _each(dilation, size, x)
    spans = [(k - 1) * d + 1 for k, d in zip(size, gaps, strict=True)]
    pads = _transposed_pads(padding, spans, steps)
    spread = [(n - 1) * s + 1 for n, s in zip(space, steps, strict=True)]
    window = _geometry(x, size, 1, pads, gaps, spread)
    phases = functools.partial(_phases, window=window, strides=steps, spread=spread)
    direct = functools.partial(_xla, window=window, spread=steps)
    cpu = phases if set(gaps) == {1} else direct
    return jax.lax.platform_dependent(x, kernel, cpu=cpu, default=direct)


def max_pool(
    x: Float[Array, "B *S C"],
    window: Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Float[Array, "B *R C"]:
    """The maximum over windows: [B, *S, C] -> [B, *R, C]; strides default to `window`.

    Where several entries of a window are the maximum, they share its gradient. Raises
    UsageError for a window that does not fit.
    """
    geometry = _geometry(x, window, window if strides is None else strides, padding)
    return functools.reduce(jnp.maximum, _shifted(x, geometry, -math.inf))


def avg_pool(
    x: Float[Array, "B *S C"],
    window: Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Float[Array, "B *R C"]:
    """The mean over windows, padding counted as zeros: [B, *S, C] -> [B, *R, C].

    Raises UsageError for a window that does not fit.
    """
    geometry = _geometry(x, window, window if strides is None else strides, padding)
    return sum(_shifted(x, geometry, 0)) / math.prod(window)


class _Window(NamedTuple):
    size: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]  # (before, after); negative ones cut
    dilation: tuple[int, ...]


def _two_sided(x, kernel, window):
    """A convolution over [H, W] without strides: W's offsets before, H's after."""
    (rows, cols), (down, right) = window.size, window.dilation
    x = _pad(x, window.pads, 0)
    batch, height, width = x.shape[:3]
    width, height = width - (cols - 1) * right, height - (rows - 1) * down
    # without it what made x is computed again for each of its slices
    x = jax.lax.optimization_barrier(x)
    slices = [x[:, :, j * right : j * right + width] for j in range(cols)]
    patches = jnp.concatenate(slices, -1).reshape(-1, cols * x.shape[-1])
    matrix = kernel.transpose(1, 2, 0, 3).reshape(patches.shape[1], -1)
    y = (patches @ matrix).reshape(batch, -1, width, matrix.shape[1])
    parts = enumerate(jnp.split(y, rows, axis=-1))
    return sum(part[:, i * down : i * down + height] for i, part in parts)


def _grouped(x, kernel, window, groups):
    """A product for each group; where a group has one channel, scaled slices."""
    inputs, outputs = kernel.shape[-2:]
    slices = list(_shifted(x, window, 0))
    taps = kernel.reshape(-1, inputs, outputs)
    if inputs == 1:
        each = outputs // groups
        return sum(
            jnp.repeat(part, each, -1) * tap[0].reshape((1,) * (x.ndim - 1) + (-1,))
            for part, tap in zip(slices, taps, strict=True)
        )
    patches = jnp.stack(slices, -2)
    patches = patches.reshape(*patches.shape[:-1], groups, inputs)
    taps = taps.reshape(len(slices), inputs, groups, outputs // groups)
    y = jnp.einsum("...tgi,tigo->...go", patches, taps)
    return y.reshape(*y.shape[:-2], outputs)


def _phases(x, kernel, window, strides, spread):
    """Transposed: output s q + r sees each s-th tap of the kernel, from one of its own.

    All outputs of one r (a phase) are a plain convolution with those taps.
    """
    axes = list(zip(x.shape[1:-1], spread, strides, *window[:3:2], strict=True))
    lengths = [m + sum(p) - k + 1 for _, m, _, k, p in axes]
    rows = [-(-n // s) for n, s in zip(lengths, strides, strict=True)]
    parts = []
    for phase in itertools.product(*map(range, strides)):
        taps, pads = [], []
        for r, q, (n, _, s, k, (before, _)) in zip(phase, rows, axes, strict=True):
            first = (before - r) % s
            left = (before - r - first) // s
            taps.append(slice(first, None, s))
            pads.append((left, q + len(range(first, k, s)) - 1 - left - n))
        some = kernel[tuple(taps)]
        empty = 0 in some.shape  # a stride longer than the kernel
        part = jnp.zeros((x.shape[0], *rows, some.shape[-1]), x.dtype)
        parts.append(part if empty else conv(x, some, padding=pads))
    y = jnp.stack(parts).reshape(*strides, *parts[0].shape)
    pairs = [axis for i in range(x.ndim - 2) for axis in (x.ndim - 1 + i, i)]
    y = y.transpose(x.ndim - 2, *pairs, y.ndim - 1)
    sizes = [q * s for q, s in zip(rows, strides, strict=True)]
    y = y.reshape(x.shape[0], *sizes, kernel.shape[-1])
    return y[(slice(None), *map(slice, lengths))]


def _xla(x, kernel, window, groups=1, spread=None):
    space = "HW"[: x.ndim - 2]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window.strides,
        window.pads,
        lhs_dilation=spread,
        rhs_dilation=window.dilation,
        dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
        feature_group_count=groups,
    )


def _check(x, kernel, groups=1):
    *size, channels, outputs = kernel.shape
    channels *= groups
    if x.ndim != kernel.ndim or x.shape[-1] != channels or outputs % groups:
        raise UsageError(
            f"expected inputs [B, {'L' if len(size) == 1 else 'H, W'}, {channels}] "
            f"for a kernel {kernel.shape} in {groups} group(s), found shape {x.shape}"
        )


def _geometry(x, size, strides, padding, dilation=1, space=None):
    """What a window does to each spatial axis, checked."""
    space = x.shape[1:-1] if space is None else space
    size, strides = tuple(size), _each(strides, size, x)
    dilation = _each(dilation, size, x)
    spans = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(space, spans, strides, padding.upper())
    elif isinstance(padding, int):
        padding = [(padding, padding)] * len(size)
    sizes = [n + sum(p) for n, p in zip(space, padding, strict=True)]
    if any(n < w for n, w in zip(sizes, spans, strict=True)):
        raise UsageError(f"a window {size} does not fit into shape {x.shape}")
    return _Window(size, strides, tuple((int(a), int(b)) for a, b in padding), dilation)


def _each(value, size, x):
    """A number for every spatial axis."""
    values = (value,) * len(size) if isinstance(value, int) else tuple(value)
    if x.ndim != len(size) + 2 or len(values) != len(size):
        raise UsageError(
            f"expected inputs with {len(size)} spatial axes for a window "
            f"{tuple(size)}, found shape {x.shape}"
        )
    return values


def _transposed_pads(padding, spans, strides):
    """How much the spread-out input is padded: as `jax.lax.conv_transpose` has it."""
    if not isinstance(padding, str):
        return padding
    pads = []
    for k, s in zip(spans, strides, strict=True):
        before, total = k - 1, k + s - 2
        if padding.upper() == "VALID":
            total += max(k - s, 0)
        elif s < k:
            before = -(-total // 2)
        pads.append((before, total - before))
    return pads


def _pad(x, pads, fill):
    if not any(map(any, pads)):
        return x
    edges = [(0, 0, 0), *((a, b, 0) for a, b in pads), (0, 0, 0)]
    return jax.lax.pad(x, jnp.asarray(fill, x.dtype), edges)


def _shifted(x, window, fill):
    """For each offset of a window, the entries of x there: each [B, *R, C]."""
    x = _pad(x, window.pads, fill)
    axes = list(zip(x.shape[1:-1], *window[:2], window.dilation, strict=True))
    counts = [(n - (k - 1) * d - 1) // s for n, k, s, d in axes]
    for offset in itertools.product(*map(range, window.size)):
        start = [o * a[3] for o, a in zip(offset, axes, strict=True)]
        ends = [o + c * a[2] + 1 for o, c, a in zip(start, counts, axes, strict=True)]
        limit = (x.shape[0], *ends, x.shape[-1])
        yield jax.lax.slice(x, (0, *start, 0), limit, (1, *window.strides, 1))
