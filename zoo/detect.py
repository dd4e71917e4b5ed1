"""Objects as points: a map of where centres are, and at each the size of its box.

Zhou, Wang & Krahenbuhl, "Objects as points", 2019, arXiv:1904.07850 (CenterNet). The
radius around a centre: Law & Deng, "CornerNet", 2018, arXiv:1808.01244, section 3.2.
The network is U-Net's (`zoo.unet`) up to a stride.

A box is top, left, bottom, right in pixels, the lower and the right edge outside, and
its class; one without an area is padding.
Shapes: B batch, H height, W width, C channels, h = H / stride, w = W / stride, K
classes, M boxes, N boxes found.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Bool, Float, Int, Shaped

from zoo.base import Aux, Model, Task, UsageError, apply, float32, masked, means, parted
from zoo.layers import Conv, max_pool
from zoo.types import Array, Dtype, Number
from zoo.unet import HE, DownAndUp

RARE = -2.19  # the logit of 0.1: at first nearly all of the map is no centre


class Maps(NamedTuple):
    """What the network says of each cell of the map."""

    heat: Float[Array, "B h w K"]  # logits: is a centre of the class here
    size: Float[Array, "B h w 2"]  # height and width, in pixels
    offset: Float[Array, "B h w 2"]  # of the centre within the cell, down and right


class CenterNet(nn.Module):
    """A U-Net up to a `stride`, and a head for each of the three maps (section 5)."""

    classes: int  # K
    channels: tuple[int, ...] = (8, 16, 32, 64)
    stride: int = 4
    width: int = 32  # of each head's hidden layer
    dropout: Number = 0.0
    dtype: Dtype = None

    @nn.compact
    def __call__(self, x: Shaped[Array, "B H W C"], *, train: bool = False) -> Maps:
        """[B, H, W, C] -> maps [B, h, w, ...]. Raises UsageError as `DownAndUp`."""
        body = DownAndUp(
            self.channels, self.stride, self.dropout, self.dtype, name="body"
        )
        x = body(x, train=train)

        def head(name, outputs, begin=0.0):
            hidden = Conv(
                *(self.width, (3, 3)), kernel_init=HE, dtype=self.dtype, name=f"{name}0"
            )
            last = Conv(
                *(outputs, (1, 1)),
                bias_init=nn.initializers.constant(begin),
                dtype=self.dtype,
                name=f"{name}1",
            )
            return float32(last(nn.relu(hidden(x))))

        heat = head("heat", self.classes, RARE)
        return Maps(heat, head("size", 2), head("offset", 2))


# What is learned ----------------------------------------------------------------------


def radius(
    height: Float[Array, "*S"], width: Float[Array, "*S"], least: Number = 0.7
) -> Float[Array, "*S"]:
    """The farthest that corners may be off, along both axes, for an IoU of `least`.

    The smallest of three: the box moved, shrunk and grown by r on every side, each the
    root of a quadratic equation.
    """
    total, area = height + width, height * width
    moved = area * (1 - least) / (1 + least)  # (h - r) (w - r) = 2 least / (1 + least)
    shrunk = area * (1 - least)  # (h - 2r) (w - 2r) = least h w
    grown = area * (1 / least - 1)  # (h + 2r) (w + 2r) = h w / least
    return jnp.minimum(
        (total - jnp.sqrt(total**2 - 4 * moved)) / 2,
        jnp.minimum(
            (total - jnp.sqrt(total**2 - 4 * shrunk)) / 4,
            (jnp.sqrt(total**2 + 4 * grown) - total) / 4,
        ),
    )


class Targets(NamedTuple):
    """What the maps should be, at centres and around them."""

    heat: Float[Array, "B h w K"]  # Y: 1 at centres, less around them
    cell: Int[Array, "B M 2"]  # of each centre, row and column
    size: Float[Array, "B M 2"]
    offset: Float[Array, "B M 2"]
    real: Bool[Array, "B M"]  # whether a box is one


def targets(
    boxes: Int[Array, "B M 5"], shape: tuple[int, int], classes: int, stride: int
) -> Targets:
    """Boxes -> maps of `shape` (h, w), with a Gaussian around each centre (section 3).

    Its deviation is a third of `radius`, which is half a cell more here, as in the
    authors' code. Where Gaussians of a class meet, the larger counts.
    """
    edges = boxes[..., :4].astype(jnp.float32)
    size = edges[..., 2:] - edges[..., :2]
    real = (size > 0).all(-1)
    centre = (edges[..., :2] + edges[..., 2:]) / 2 / stride
    last = jnp.array(shape).reshape(1, 1, 2) - 1
    cell = jnp.clip(jnp.floor(centre).astype(jnp.int32), 0, last)
    extent = jnp.where(real[..., None], size, stride) / stride
    deviation = (2 * radius(extent[..., 0], extent[..., 1]) + 1) / 6

    def apart(axis):  # squared, of each row or column: [B, M, h] or [B, M, w]
        return jnp.square(
            jnp.arange(shape[axis]).reshape(1, 1, -1) - cell[..., axis, None]
        )

    far = apart(0)[..., None] + apart(1)[..., None, :]
    near = jnp.exp(-far / (2 * jnp.square(deviation))[..., None, None])
    own = nn.one_hot(boxes[..., 4], classes) * real[..., None]
    heat = (near[..., None] * own[:, :, None, None]).max(1)
    return Targets(heat, cell, size, centre - cell, real)


def focal(
    logits: Float[Array, "B h w K"], heat: Float[Array, "B h w K"]
) -> Float[Array, "B"]:
    """The sum of equation 1, with alpha 2 and beta 4, not yet over the objects.

    -(1 - p)^2 log p where the heat Y is 1, else -(1 - Y)^4 p^2 log(1 - p).
    """
    p = nn.sigmoid(logits)
    here = jnp.square(1 - p) * nn.log_sigmoid(logits)
    elsewhere = (1 - heat) ** 4 * jnp.square(p) * nn.log_sigmoid(-logits)
    return -jnp.where(heat == 1, here, elsewhere).sum((1, 2, 3))


def at_centres(
    values: Float[Array, "B h w 2"], cell: Int[Array, "B M 2"]
) -> Float[Array, "B M 2"]:
    """The map's values where the centres are."""
    flat = values.reshape(values.shape[0], -1, values.shape[-1])
    where = cell[..., 0] * values.shape[2] + cell[..., 1]
    return jnp.take_along_axis(flat, where[..., None], 1)


def losses_of(maps: Maps, boxes: Int[Array, "B M 5"], stride: int) -> dict[str, Array]:
    """Equations 1 to 3 of each image, [B]: "heat", "offset", and "size" in pixels.

    Each is over the number of its objects; of an image without any, over 1.
    """
    heat = maps.heat
    _, h, w, classes = heat.shape
    wanted = targets(boxes, (h, w), classes, stride)
    count = jnp.maximum(wanted.real.sum(1), 1)

    def off(found, right):
        error = jnp.abs(at_centres(found, wanted.cell) - right).sum(-1)
        return jnp.where(wanted.real, error, 0).sum(1) / count

    return {
        "heat": focal(heat, wanted.heat) / count,
        "offset": off(maps.offset, wanted.offset),
        "size": off(maps.size, wanted.size),
    }


def decode(maps: Maps, stride: int, most: int = 20) -> Float[Array, "B N 6"]:
    """The `most` highest peaks as boxes: four edges, class and score, best first.

    A peak is no lower than the eight cells around it; nothing else is suppressed.
    """
    heat = nn.sigmoid(maps.heat)
    batch, h, w, classes = heat.shape
    peaks = heat == max_pool(heat, (3, 3), 1, ((1, 1), (1, 1)))
    scores = jnp.where(peaks, heat, 0).reshape(batch, -1)
    score, at = jax.lax.top_k(scores, min(most, scores.shape[1]))
    place, kind = at // classes, at % classes
    cell = jnp.stack([place // w, place % w], -1)
    centre = (cell + at_centres(maps.offset, cell)) * stride
    half = at_centres(maps.size, cell) / 2
    rest = jnp.stack([kind.astype(score.dtype), score], -1)
    return jnp.concatenate([centre - half, centre + half, rest], -1)


def task(
    model: Model,
    classes: int,
    *,
    stride: int = 4,
    size_weight: Number = 0.1,
    most: int = 20,
) -> Task:
    """L = heat + size_weight * size + offset (equation 4), of "x" [B, H, W, C] and the
    boxes "y" [B, M, 5]; predicts `most` boxes of an image, [B, N, 6], as `decode` does.

    Metrics: "loss" and its parts. Raises UsageError for other targets.
    """

    def init(key, batch):
        return parted(model.init(key, batch["x"]))

    def loss(params, state, batch, key, *, train):
        batch = masked(batch)
        x, y = batch["x"], batch["y"]
        if y.ndim != 3 or y.shape[-1] != 5 or not jnp.issubdtype(y.dtype, jnp.integer):
            raise UsageError(
                f"expected integer boxes [B, M, 5], found {y.dtype} {y.shape}"
            )
        maps, state = apply(model, params, state, x, key=key, train=train)
        values = losses_of(maps, y, stride)
        total = values["heat"] + size_weight * values["size"] + values["offset"]
        metrics = means({"loss": total, **values}, batch.get("mask"))
        return metrics["loss"].value(), Aux(metrics, state)

    def predict(params, state, batch):
        return decode(apply(model, params, state, batch["x"])[0], stride, most)

    return Task(init, loss, predict)
