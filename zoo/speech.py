"""Speech: log-mel features, SpecAugment, and networks that hear words.

Mels: Stevens, Volkmann & Newman, 1937, on the scale of Slaney, "Auditory toolbox",
1998, as librosa has them by default (McFee et al., "librosa: audio and music signal
analysis in Python", 2015). Park et al., "SpecAugment", 2019, arXiv:1904.08779.
Sainath & Parada, "Convolutional neural networks for small-footprint keyword spotting",
2015. Graves, Mohamed & Hinton, "Speech recognition with deep recurrent neural
networks", 2013, arXiv:1303.5778; stacked frames: Sak et al., "Fast and accurate
recurrent neural network acoustic models for speech recognition", 2015,
arXiv:1507.06947.
Shapes: B batch, S samples, T frames, F frequencies, M mels, N stacked frames, K
outputs.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, Int, PRNGKeyArray

from zoo.base import UsageError, entries, float32
from zoo.checks import check_inputs, check_int
from zoo.layers import Conv, Dropout, max_pool
from zoo.rnn import RNN
from zoo.types import Array, Lengths, Number, Raw

# Features -----------------------------------------------------------------------------


def mel(hertz: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """Slaney's scale: 3 mels to 200 Hz up to 1 kHz, above 27 to a factor of 6.4."""
    above = 15 + 27 * np.log(np.maximum(hertz, 1000) / 1000) / math.log(6.4)
    return np.where(hertz < 1000, hertz * 3 / 200, above)


def hertz(mel: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """The way back from `mel`."""
    above = 1000 * 6.4 ** ((np.maximum(mel, 15) - 15) / 27)
    return np.where(mel < 15, mel * 200 / 3, above)


def mel_filters(rate: int, fft: int, mels: int) -> Float[np.ndarray, "F M"]:
    """Triangles over the F = fft / 2 + 1 frequencies, each of area 1 in Hz.

    Their corners are equally far apart in mels, from 0 to half of the rate, in Hz.
    Raises UsageError where one is so narrow that it has no frequency in it.
    """
    frequencies = np.linspace(0, rate / 2, fft // 2 + 1)[:, None]
    corners = hertz(np.linspace(0, mel(np.array([rate / 2]))[0], mels + 2))
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    up, down = (
        (frequencies - low) / (middle - low),
        (high - frequencies) / (high - middle),
    )
    found = np.maximum(0, np.minimum(up, down)) * 2 / (high - low)
    if not found.any(0).all():
        raise UsageError(
            f"expected fewer mels, or a longer fft, than {mels} of an fft of {fft}: a "
            "filter has no frequency in it"
        )
    return found.astype(np.float32)


def log_mel(
    wave: Float[Array, "B S"],
    *,
    rate: int = 8000,
    fft: int = 256,
    hop: int = 128,
    mels: int = 40,
    floor: float = 1e-10,
) -> Float[Array, "B T {mels}"]:
    """The logarithm (nats) of the power in each mel, no less than log(floor).

    Frame t is `fft` samples, under Hann's window, whose middle is sample t hop; outside
    of the wave there are zeros: T = 1 + S // hop. `rate` is in samples a second. As
    librosa's `melspectrogram`. Raises UsageError for integers, or other axes.
    """
    wave = check_inputs(wave, "B S")
    around = jnp.pad(wave, ((0, 0), (fft // 2, fft // 2)))
    starts = hop * jnp.arange(1 + wave.shape[1] // hop)
    frames = around[:, starts.reshape(-1, 1) + jnp.arange(fft).reshape(1, -1)]
    window = 0.5 - 0.5 * np.cos(2 * np.pi / fft * np.arange(fft))
    spectrum = jnp.fft.rfft(frames * window.astype(np.float32).reshape(1, 1, -1))
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    filters = mel_filters(rate, fft, mels)
    return jnp.log(jnp.maximum(jnp.dot(power, filters, precision="highest"), floor))


def spec_augment(
    key: PRNGKeyArray,
    x: Float[Array, "B T M"],
    length: Lengths,
    *,
    frames: int = 8,
    mels: int = 6,
    masks: int = 2,
) -> Float[Array, "B T M"]:
    """Some frames and some mels of each example set to 0, the mean of features.

    `masks` runs of 0 to `frames` frames, none longer than a fifth of the example, and
    as many of 0 to `mels` mels: the policy of the paper's section 2, without its time
    warping, which adds least. Raises UsageError for numbers below 0.
    """
    for name, value in (("frames", frames), ("mels", mels), ("masks", masks)):
        check_int(name, value, 0)
    across, down = jax.random.split(key)
    shape = (x.shape[0], masks)
    whole = jnp.full_like(length, x.shape[2])
    most = jnp.minimum(frames, length // 5)
    time = _runs(across, shape, length, most, x.shape[1])
    mel = _runs(down, shape, whole, jnp.full_like(length, mels), x.shape[2])
    return jnp.where(time[:, :, None] | mel[:, None, :], 0, x)


def _runs(key, shape, length, most, size):
    """Which of `size` places are in a run, each of them within `length`: [B, size]."""
    wide, first = jax.random.split(key)
    length, most = length.reshape(-1, 1), most.reshape(-1, 1)
    width = jax.random.randint(wide, shape, 0, jnp.minimum(most, length) + 1)
    start = jax.random.randint(first, shape, 0, length - width + 1)
    at = jnp.arange(size).reshape(1, 1, -1)
    start, width = start[..., None], width[..., None]
    return ((start <= at) & (at < start + width)).any(1)


# Networks -----------------------------------------------------------------------------


def _heard(x, length):
    """x [B, T, M] and its lengths, with zeros past them, whatever stood there."""
    x = check_inputs(x, "B T M")
    if length is None:
        length = jnp.full(x.shape[0], x.shape[1], jnp.int32)
    return jnp.where(entries(length, x)[..., None], x, 0), length


class Keyword(nn.Module):
    """Convolutions over time and mels, and the mean over what is no padding.

    A block is conv3x3 - pool by 2 - relu - dropout. What each frame has left in all
    mels goes through a dense layer of `width` before the mean. Nothing turns on how
    much padding there is.
    """

    outputs: int
    channels: tuple[int, ...] = (16, 32)
    width: int = 64
    dropout: Number = 0.0

    @nn.compact
    def __call__(
        self, x: Raw, length: Lengths | None = None, *, train: bool = False
    ) -> Float[Array, "B {self.outputs}"]:
        """Logits of x [B, T, M]. Raises UsageError for another shape or dtype."""
        x, length = _heard(x, length)
        x = x[..., None]
        for channels in self.channels:
            x = Conv(channels, (3, 3))(x)
            # relu makes no difference between what it cuts off and these zeros
            x = jnp.where(entries(length, x)[..., None, None], x, 0)
            # an odd end has a pair too, an even one none
            x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
            x = nn.relu(max_pool(x, (2, 2)))
            x = Dropout(self.dropout)(x, train=train)
            length = (length + 1) // 2
        x = nn.relu(
            nn.Dense(self.width)(x.reshape(*x.shape[:2], x.shape[2] * x.shape[3]))
        )
        real = entries(length, x)[..., None]
        x = jnp.where(real, x, 0).sum(1) / jnp.maximum(length, 1).reshape(-1, 1)
        x = Dropout(self.dropout)(x, train=train)
        return float32(nn.Dense(self.outputs)(x))


class Transcriber(nn.Module):
    """An RNN over stacked frames, and at each step the logits of a token.

    `stack` frames side by side are one step: shorter sequences, for CTC to align with
    fewer tokens. Token 0 is the blank of `zoo.ctc`.
    """

    outputs: int
    rnn: RNN
    stack: int = 2
    dropout: Number = 0.0

    @nn.compact
    def __call__(
        self, x: Raw, length: Lengths | None = None, *, train: bool = False
    ) -> tuple[Float[Array, "B N {self.outputs}"], Int[Array, "B"]]:
        """(logits, how many of them count) of x [B, T, M]; N = ceil(T / stack).

        Raises UsageError for another shape or dtype.
        """
        x, length = _heard(x, length)
        # rounded up in this way, a symbolic time is seen to be that of the slices
        size = (x.shape[1] + self.stack - 1) // self.stack
        x = jnp.pad(x, ((0, 0), (0, self.stack - 1), (0, 0)))
        x = x[:, : size * self.stack].reshape(x.shape[0], size, -1)
        length = -(-length // self.stack)
        _, h = self.rnn(x, length, train=train)
        h = Dropout(self.dropout)(h, train=train)
        return float32(nn.Dense(self.outputs)(h)), length
