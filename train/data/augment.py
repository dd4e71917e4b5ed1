"""Augmentations: pure functions (key, batch) -> batch that change batch["x"] alone.

They run inside the compiled step, each example drawing for itself, and consume their
key. Inputs are standardised, so that zero is no background: what comes into view from
outside an image repeats its nearest pixel.
Shapes: B batch, L length, H height, W width, C channels.
"""

import math

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from train.source import Augment as Augment
from zoo.base import Number, UsageError, check_inputs, check_int, concrete


def compose(*augments: Augment) -> Augment:
    """One after the other, each with a key of its own."""

    def augment(key, batch):
        keys = jax.random.split(key, len(augments))
        for change, own in zip(augments, keys, strict=True):
            batch = change(own, batch)
        return batch

    return augment


def crop(pixels: int) -> Augment:
    """Shift by up to `pixels` along each axis: x [B, H, W, C] or [B, L, C].

    Every shift is as likely. A sequence with a "length" [B] moves within it, its first
    and last entry repeated. Raises UsageError for other shapes and pixels below 0.
    """
    margin = check_int("pixels", pixels, 0)

    def augment(key, batch):
        x = check_inputs(batch["x"], "B L C" if batch["x"].ndim == 3 else "B H W C")
        axes = x.ndim - 2
        corners = jax.random.randint(key, (len(x), axes), 0, 2 * margin + 1)
        if axes == 1 and "length" in batch:
            at, ends = jnp.arange(x.shape[1])[None], batch["length"][:, None]
            source = jnp.clip(at + corners - margin, 0, ends - 1)
            moved = jnp.take_along_axis(x, source[..., None], 1)
            return batch | {"x": jnp.where((at < ends)[..., None], moved, x)}
        pads = [(0, 0), *[(margin, margin)] * axes, (0, 0)]

        def window(image, corner):
            return jax.lax.dynamic_slice(image, (*corner, 0), x.shape[1:])

        return batch | {"x": jax.vmap(window)(jnp.pad(x, pads, mode="edge"), corners)}

    return augment


def flip() -> Augment:
    """Mirror left and right, every second image: x [B, H, W, C].

    Raises UsageError for other shapes.
    """

    def augment(key, batch):
        x = check_inputs(batch["x"], "B H W C")
        mirror = jax.random.bernoulli(key, shape=(len(x), 1, 1, 1))
        return batch | {"x": jnp.where(mirror, x[:, :, ::-1], x)}

    return augment


def rotate(degrees: Number) -> Augment:
    """Turn by an angle uniform in [-degrees, degrees]: x [B, H, W, C].

    Raises UsageError for other shapes and degrees outside (0, 180].
    """
    if concrete(degrees) and not 0 < degrees <= 180:
        raise UsageError(f"expected degrees above 0, at most 180, found {degrees}")

    def augment(key, batch):
        x = check_inputs(batch["x"], "B H W C")
        angles = jax.random.uniform(key, (len(x),), minval=-degrees, maxval=degrees)
        return batch | {"x": jax.vmap(rotated)(x, angles)}

    return augment


def rotated(image: jax.Array, degrees: jax.typing.ArrayLike) -> jax.Array:
    """An image turned counterclockwise about its centre: [H, W, C] -> [H, W, C].

    Bilinear between pixels; by 90 degrees it is `numpy.rot90` of a square image.
    """
    return warped(image, _turn(degrees), jnp.zeros(2))


def affine(
    degrees: float = 0.0, stretch: float = 1.0, slant: float = 0.0, pixels: float = 0.0
) -> Augment:
    """Turn, stretch, slant and move, between pixels and at once: x [B, H, W, C].

    By an angle in [-degrees, degrees], each axis by a factor in [1 / stretch, stretch]
    (uniform in its logarithm), rows against each other by up to `slant` pixels a row,
    and along each axis by up to `pixels`. Raises UsageError for other shapes, and
    numbers out of range.
    """
    most = {"degrees": (degrees, 0, 180), "stretch": (stretch, 1, math.inf)}
    most |= {"slant": (slant, 0, math.inf), "pixels": (pixels, 0, math.inf)}
    for name, (value, low, high) in most.items():
        if not (low <= value <= high and value < math.inf):
            raise UsageError(f"expected {name} from {low} to {high}, found {value}")

    def augment(key, batch):
        x = check_inputs(batch["x"], "B H W C")
        drawn = jax.random.uniform(key, (len(x), 6), minval=-1, maxval=1)

        def change(image, draw):
            down, right = stretch ** draw[1], stretch ** draw[2]
            leaning = jnp.stack([down, 0, slant * draw[3], right]).reshape(2, 2)
            return warped(image, _turn(degrees * draw[0]) @ leaning, pixels * draw[4:])

        return batch | {"x": jax.vmap(change)(x, drawn)}

    return augment


def _turn(degrees):
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    return jnp.stack([cos, sin, -sin, cos]).reshape(2, 2)


def warped(image: jax.Array, matrix: jax.Array, move: jax.Array) -> jax.Array:
    """Each pixel, at p from the centre, as the image [H, W, C] is at matrix p + move.

    Of matrix [2, 2] and move [2], rows before columns. Bilinear between pixels.
    """
    centre = (jnp.array(image.shape[:2]) - 1) / 2
    grid = jnp.meshgrid(*(jnp.arange(n) for n in image.shape[:2]), indexing="ij")
    at = jnp.stack(grid) - centre[:, None, None]
    source = jnp.tensordot(matrix, at, 1) + (move + centre)[:, None, None]

    def channel(plane):
        return map_coordinates(plane, list(source), order=1, mode="nearest")

    return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)


def noise(scale: Number) -> Augment:
    """Add normal noise of standard deviation `scale`: x [B, ...], floating.

    Raises UsageError for integers and a scale that is negative or not finite.
    """
    if concrete(scale) and not 0 <= scale < math.inf:
        raise UsageError(f"expected a finite scale of at least 0, found {scale}")

    def augment(key, batch):
        x = check_inputs(batch["x"])
        deviation = jnp.asarray(scale, x.dtype)
        return batch | {"x": x + deviation * jax.random.normal(key, x.shape, x.dtype)}

    return augment


def cutout(size: int) -> Augment:
    """Set a size x size square to 0, the mean of standardised data: x [B, H, W, C].

    Its centre is any pixel, so part of it may lie outside. Raises UsageError for other
    shapes and a size below 0 or larger than the image.
    DeVries & Taylor, "Improved Regularization of Convolutional Neural Networks with
    Cutout", 2017, arXiv:1708.04552.
    """
    check_int("size", size, 0)

    def augment(key, batch):
        x = check_inputs(batch["x"], "B H W C")
        _, height, width, _ = x.shape
        if size > min(height, width):
            raise UsageError(
                f"expected a cutout no larger than the image, found {size} for "
                f"{height} x {width}"
            )
        across, down = jax.random.split(key)

        def inside(key, length):
            start = jax.random.randint(key, (len(x), 1), 0, length) - size // 2
            at = jnp.arange(length)[None, :]
            return (start <= at) & (at < start + size)  # [B, length]

        hole = inside(down, height)[:, :, None] & inside(across, width)[:, None, :]
        return batch | {"x": jnp.where(hole[..., None], 0, x)}

    return augment
