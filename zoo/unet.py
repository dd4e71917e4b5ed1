"""U-Net: the class of every pixel, from what is far around it and what is near.

Ronneberger, Fischer & Brox, "U-Net: convolutional networks for biomedical image
segmentation", 2015, arXiv:1505.04597; here convolutions are padded, so that an image
comes out as large as it went in. Soft Dice: Milletari, Navab & Ahmadi, "V-Net", 2016,
arXiv:1606.04797. Class 0 is the background.
Shapes: B batch, H height, W width, h and w those over a stride, C channels, F
features, K classes.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float, Int, Shaped
from optax import losses

from zoo.base import (
    Aux,
    Mean,
    Model,
    Task,
    UsageError,
    apply,
    concrete,
    float32,
    masked,
    means,
    parted,
)
from zoo.checks import check_inputs
from zoo.layers import Conv, ConvTranspose, Dropout, max_pool
from zoo.types import Array, Dtype, Number

HE = nn.initializers.he_normal()  # section 3: deviation sqrt(2 / inputs)


class Double(nn.Module):
    """Two convolutions 3x3, each with relu: [B, H, W, C] -> [B, H, W, features]."""

    features: int
    dtype: Dtype = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W F"]:
        """[B, H, W, C] -> [B, H, W, features]."""
        for _ in range(2):
            conv = Conv(self.features, (3, 3), kernel_init=HE, dtype=self.dtype)
            x = nn.relu(conv(x))
        return x


class DownAndUp(nn.Module):
    """Down by halves to the last of `channels`, and up again to a `stride`.

    On each way up, what was there on the way down stands beside it. Dropout is at the
    bottom (section 3.1).
    """

    channels: tuple[int, ...] = (8, 16, 32, 64)
    stride: int = 1
    dropout: Number = 0.0
    dtype: Dtype = None

    @nn.compact
    def __call__(
        self, x: Shaped[Array, "B H W C"], *, train: bool = False
    ) -> Float[Array, "B h w F"]:
        """[B, H, W, C] -> [B, H / stride, W / stride, F], of the level of the stride.

        Raises UsageError for sides that do not halve so often, another rank, integers.
        """
        x = check_inputs(x, "B H W C")
        check_sides(x.shape[1:3], 2 ** (len(self.channels) - 1))
        kept = []
        for features in self.channels[:-1]:
            kept.append(Double(features, self.dtype)(x))
            x = max_pool(kept[-1], (2, 2))
        x = Double(self.channels[-1], self.dtype)(x)
        x = Dropout(self.dropout)(x, train=train)
        for level in reversed(range(self._top(), len(kept))):
            features = self.channels[level]
            x = ConvTranspose(features, (2, 2), 2, kernel_init=HE, dtype=self.dtype)(x)
            x = Double(features, self.dtype)(jnp.concatenate([kept[level], x], -1))
        return x

    def _top(self):
        top = self.stride.bit_length() - 1
        if self.stride != 2**top or top >= len(self.channels):
            raise UsageError(
                f"expected a stride that is a power of 2 up to "
                f"{2 ** (len(self.channels) - 1)}, found {self.stride}"
            )
        return top


def check_sides(sides: tuple[int, ...], multiple: int) -> None:
    """Raise UsageError for an image (H, W) whose sides are not multiples of it."""
    if any(side % multiple or not side for side in sides):
        raise UsageError(
            f"expected an image whose height and width are multiples of {multiple}, "
            f"found {sides[0]} x {sides[1]}"
        )


class UNet(nn.Module):
    """Logits of each pixel's class; the paper's `channels` are 64, 128, ..., 1024."""

    classes: int  # K
    channels: tuple[int, ...] = (8, 16, 32, 64)
    dropout: Number = 0.0
    dtype: Dtype = None

    @nn.compact
    def __call__(
        self, x: Shaped[Array, "B H W C"], *, train: bool = False
    ) -> Float[Array, "B H W {self.classes}"]:
        """Logits. Raises UsageError as `DownAndUp`."""
        body = DownAndUp(self.channels, 1, self.dropout, self.dtype, name="body")
        x = body(x, train=train)
        return float32(Conv(self.classes, (1, 1), dtype=self.dtype, name="head")(x))


def soft_dice(p: Float[Array, "B H W K"], y: Int[Array, "B H W"]) -> Float[Array, "B"]:
    """1 - (2 sum p t + 1) / (sum p + sum t + 1): 0 where p is t, the one-hot y.

    The sums are over pixels and all classes but 0; with the 1, which the paper has not,
    an image of nothing but background has a loss too.
    """
    t = nn.one_hot(y, p.shape[-1], dtype=p.dtype)
    both, p, t = ((a[..., 1:]).sum((1, 2, 3)) for a in (p * t, p, t))
    return 1 - (2 * both + 1) / (p + t + 1)


def dice(
    logits: Float[Array, "B H W K"],
    y: Int[Array, "B H W"],
    mask: Shaped[Array, "B"] | None = None,
) -> Mean:
    """Dice's coefficient of the foreground, as a Mean: of batches added it is exact.

    Twice the pixels whose likeliest class is theirs over those found and those there,
    all but class 0, of the examples that a mask [B] keeps.
    """
    found = jnp.argmax(logits, -1)
    right = (found == y) & (y > 0)
    pixels = jnp.stack([2 * right, (found > 0) * 1 + (y > 0)]).sum((2, 3))
    if mask is not None:
        pixels = pixels * (mask != 0).reshape(1, -1)
    return Mean(*pixels.sum(1).astype(jnp.float32))


def task(model: Model, classes: int, *, dice_weight: Number = 1.0) -> Task:
    """Cross entropy of a pixel + dice_weight * `soft_dice`, of "x" [B, H, W, C] and
    "y" [B, H, W] below `classes`; predicts probabilities [B, H, W, K].

    Metrics: "loss", its parts "cross_entropy" and "soft_dice", and "dice". Raises
    UsageError for a weight below 0, and targets of another shape.
    """
    if concrete(dice_weight) and not dice_weight >= 0:
        raise UsageError(f"expected dice_weight >= 0, found {dice_weight}")

    def init(key, batch):
        return parted(model.init(key, batch["x"]))

    def loss(params, state, batch, key, *, train):
        batch = masked(batch)
        x, y, mask = batch["x"], batch["y"], batch.get("mask")
        if y.shape != x.shape[:3] or not jnp.issubdtype(y.dtype, jnp.integer):
            raise UsageError(
                f"expected integer classes of pixels {x.shape[:3]}, found {y.dtype} "
                f"{y.shape}"
            )
        logits, state = apply(model, params, state, x, key=key, train=train)
        entropy = losses.softmax_cross_entropy_with_integer_labels(logits, y)
        values = {
            "cross_entropy": entropy.mean((1, 2)),
            "soft_dice": soft_dice(nn.softmax(logits), y),
        }
        total = values["cross_entropy"] + dice_weight * values["soft_dice"]
        metrics = means({"loss": total, **values}, mask)
        metrics["dice"] = dice(logits, y, mask)
        return metrics["loss"].value(), Aux(metrics, state)

    def predict(params, state, batch):
        return nn.softmax(apply(model, params, state, batch["x"])[0])

    def count(params, state, batch):
        return classes

    return Task(init, loss, predict, count)
