"""Convolutional networks: three classic small ones, and residual networks.

LeCun et al., "Gradient-based learning applied to document recognition", 1998.
He et al., "Deep residual learning for image recognition", 2015, arXiv:1512.03385.
Shapes: B batch, S one or two spatial axes ([L] or [H, W]), C channels, K outputs.
"""

import functools

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float, Shaped

from zoo.base import UsageError, float32
from zoo.checks import check_inputs, check_sizes
from zoo.layers import Conv, Dropout, batch_norm, max_pool
from zoo.types import Array, Dtype, Number

AXES = {1: "B L C", 2: "B H W C"}


class CNN(nn.Module):
    """Blocks conv - pool by 2 - relu - dropout, then dense layers; valid padding.

    `rank` is the number of spatial axes. Pooling stands before the activation: relu is
    monotone, so the two commute, and a quarter of the work is left.
    """

    outputs: int
    channels: tuple[int, ...] = (32, 64)
    widths: tuple[int, ...] = (64,)
    rank: int = 2
    kernel: int = 3
    dropout: Number = 0.0  # after each block
    dense_dropout: Number = 0.0  # after each dense layer
    dtype: Dtype = None

    @nn.compact
    def __call__(
        self, x: Shaped[Array, "B *S C"], *, train: bool = False
    ) -> Float[Array, "B {self.outputs}"]:
        """Logits. Raises UsageError for inputs of another rank, and for integers."""
        check_sizes(outputs=self.outputs, channels=self.channels, width=self.widths)
        x = check_inputs(x, AXES[self.rank])
        for channels in self.channels:
            x = Conv(
                channels, (self.kernel,) * self.rank, padding="VALID", dtype=self.dtype
            )(x)
            x = nn.relu(max_pool(x, (2,) * self.rank))
            x = Dropout(self.dropout)(x, train=train)
        x = x.reshape(x.shape[0], -1)
        for width in self.widths:
            x = nn.relu(nn.Dense(width, dtype=self.dtype)(x))
            x = Dropout(self.dense_dropout)(x, train=train)
        return float32(nn.Dense(self.outputs, dtype=self.dtype)(x))


def two_conv(outputs: int = 10, **fields) -> CNN:
    """For 28x28x1: conv32 - pool - conv64 - pool - dense64 - K."""
    return CNN(outputs, channels=(32, 64), widths=(64,), **fields)


def one_conv(outputs: int = 10, **fields) -> CNN:
    """For 28x28x1: conv32 - pool - dense128 - K."""
    return CNN(outputs, channels=(32,), widths=(128,), **fields)


def two_conv_dropout(outputs: int = 10, **fields) -> CNN:
    """For 32x32x3: two_conv with a quarter dropped after each pool, half at the end."""
    return two_conv(outputs, dropout=0.25, dense_dropout=0.5, **fields)


class Block(nn.Module):
    """A residual block: relu(shortcut(x) + branch(x)), section 3.3.

    The branch is 3x3 - 3x3, or 1x1 - 3x3 - 1x1 with four times the channels
    (`bottleneck`, the stride on its 3x3). The shortcut, where the shape changes, is a
    1x1 convolution (option B of the paper; `project`) or every second pixel with zero
    channels added (option A, no parameters).
    """

    channels: int
    stride: int = 1
    bottleneck: bool = False
    project: bool = True
    rank: int = 2
    dtype: Dtype = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B *S C"], *, train: bool = False
    ) -> Float[Array, "B *R F"]:
        """[B, *S, C] -> [B, *S / stride, channels (x 4)]."""
        conv = functools.partial(_conv, rank=self.rank, dtype=self.dtype)
        norm = functools.partial(batch_norm, self.dtype, train=train)
        if self.bottleneck:
            out = 4 * self.channels
            y = nn.relu(norm()(conv(self.channels, 1)(x)))
            y = nn.relu(norm()(conv(self.channels, 3, self.stride)(y)))
            y = norm()(conv(out, 1)(y))
        else:
            out = self.channels
            y = nn.relu(norm()(conv(out, 3, self.stride)(x)))
            y = norm()(conv(out, 3)(y))
        if x.shape != y.shape:
            if self.project:
                x = norm()(conv(out, 1, self.stride)(x))
            else:
                every = (slice(None), *(slice(None, None, self.stride),) * self.rank)
                more = (out - x.shape[-1]) // 2
                x = jnp.pad(x[every], ((0, 0),) * (x.ndim - 1) + ((more, more),))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Stem, stages of residual blocks (each halves S and doubles C), mean, dense.

    `depths` is the number of blocks of each stage, `width` the channels of the first.
    `imagenet` has the stem of 7x7 / 2 and a max pool of 3 / 2, and projections.
    Batch norm as in `zoo.layers.batch_norm`.
    """

    outputs: int
    depths: tuple[int, ...]
    width: int = 16
    bottleneck: bool = False
    imagenet: bool = False
    rank: int = 2
    dtype: Dtype = None

    @nn.compact
    def __call__(
        self, x: Shaped[Array, "B *S C"], *, train: bool = False
    ) -> Float[Array, "B {self.outputs}"]:
        """Logits. Raises UsageError for inputs of another rank, and for integers."""
        x = check_inputs(x, AXES[self.rank])
        stem = (7, 2) if self.imagenet else (3, 1)
        x = _conv(self.width, *stem, rank=self.rank, dtype=self.dtype)(x)
        x = nn.relu(batch_norm(self.dtype, train=train)(x))
        if self.imagenet:
            x = max_pool(x, (3,) * self.rank, 2, ((1, 1),) * self.rank)
        for stage, depth in enumerate(self.depths):
            for block in range(depth):
                x = Block(
                    self.width * 2**stage,
                    stride=2 if stage > 0 and block == 0 else 1,
                    bottleneck=self.bottleneck,
                    project=self.imagenet,
                    rank=self.rank,
                    dtype=self.dtype,
                )(x, train=train)
        x = x.mean(range(1, x.ndim - 1))
        return float32(nn.Dense(self.outputs, dtype=self.dtype)(x))


def resnet_cifar(depth: int = 20, outputs: int = 10, **fields) -> ResNet:
    """The paper's networks for small images, section 4.2: depth 6n + 2, n >= 1.

    Raises UsageError for another depth.
    """
    if depth < 8 or depth % 6 != 2:
        raise UsageError(f"expected a depth of 6n + 2 (8, 14, 20, ...), found {depth}")
    return ResNet(outputs, depths=((depth - 2) // 6,) * 3, **fields)


def resnet_imagenet(depth: int = 50, outputs: int = 1000, **fields) -> ResNet:
    """The paper's networks for 224x224x3, table 1: depth 18, 34 or 50.

    Raises UsageError for another depth.
    """
    depths = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
    if depth not in depths:
        raise UsageError(f"expected a depth of 18, 34 or 50, found {depth}")
    return ResNet(
        outputs,
        depths=depths[depth],
        width=64,
        bottleneck=depth >= 50,
        imagenet=True,
        **fields,
    )


def _conv(features, size, stride=1, *, rank, dtype):
    """Padded by size // 2 at both ends; "SAME" with stride 2 pads one end less."""
    return Conv(
        features,
        (size,) * rank,
        strides=stride,
        padding=((size // 2, size // 2),) * rank,
        use_bias=False,
        dtype=dtype,
        kernel_init=nn.initializers.he_normal(),
    )
