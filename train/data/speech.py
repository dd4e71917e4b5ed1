"""Sound: recordings of spoken digits, strings composed of them, the user's own files.

A recording is at most a second, the loudest, at 8,000 samples a second, and its highest
peak is 1. What models read is log-mels, standardised by the training recordings; frames
of 256 samples, one for each 128.
Shapes: N recordings, S samples, T frames, M mels, B strings, D most digits of one, K
slots of digits.
"""

import os
import wave as waves
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train import source as sources
from train.data.download import by_hand
from train.data.parts import split
from train.data.schema import Arrays, Data, Schema, change, moments, request, within
from zoo.base import UsageError, check_int, nearest
from zoo.speech import log_mel

SPEECH = ("fsdd", "tones")
RATE = 8000  # samples a second
LONGEST = 600  # seconds of a file
FFT, HOP, MELS = 256, 128, 40
FLOOR = 1e-4  # 60 dB below a tone as loud as a recording's peak
WORD = 64  # frames of the longest recording
STRING = 208  # of the longest string: three and a third seconds
DIGITS = 5  # of a string, at most
PAUSE = 6  # frames before, between and after its digits, at most
ROUNDS = 4  # strings to test on have each recording so often
NAMES = tuple("0123456789")
# ITU-T Q.23: the two tones of each key of a telephone, Hz
LOW = (941, 697, 697, 697, 770, 770, 770, 852, 852, 852)
HIGH = (1336, 1209, 1336, 1477, 1209, 1336, 1477, 1209, 1336, 1477)


class Recordings(NamedTuple):
    """Spoken digits as stored, one after the other."""

    audio: np.ndarray  # [samples of all], of any unit
    length: np.ndarray  # [N] samples of each
    y: np.ndarray  # [N] digits
    speaker: np.ndarray  # [N] numbers
    test: np.ndarray  # [N]: whether it is one to test on


def fsdd() -> Recordings:
    """The Free Spoken Digit Dataset: six speakers, each digit fifty times by each.

    Of each fifty the first five are for testing, as its authors have it. It is read of
    fsdd.npz in the folder of downloaded files. Raises UsageError.
    """
    with np.load(by_hand("fsdd.npz")) as file:
        length, y, speaker = (file[name] for name in ("length", "digit", "speaker"))
        return Recordings(file["audio"], length, y, speaker, file["index"] < 5)


def tones() -> Recordings:
    """The keys of four telephones, each pressed ten times: two tones, and noise.

    A telephone's tones are up to a hundredth too high or low. Two of each ten are for
    testing.
    """
    draw = np.random.default_rng(0)
    index, speaker, y = (a.ravel() for a in np.indices((10, 4, 10)))
    length = draw.integers(800, 2400, y.size)
    audio = []
    for one, samples, digit in zip(speaker, length, y, strict=True):
        t = (0.99 + 0.02 * one / 3) * np.arange(samples) / RATE
        sines = np.sin(2 * np.pi * np.outer((LOW[digit], HIGH[digit]), t)).sum(0)
        audio.append(sines * np.hanning(samples) + 0.02 * draw.normal(size=samples))
    return Recordings(np.concatenate(audio), length, y, speaker, index < 2)


def load_recordings(source: Any = "fsdd", *, speaker: int | None = None) -> Data:
    """Digits "y" [N] and their log-mels "x" [N, T, M], of which "length" [N] count.

    "fsdd", or "tones", which is made here. All recordings of a `speaker`, by number,
    are the test part, if one is named. Raises UsageError for another name or speaker.
    """
    wanted = request(source)
    if isinstance(wanted.source, Data):
        return wanted.source
    name = os.fspath(wanted.source)
    if name not in SPEECH:
        raise UsageError(
            f"expected recordings, one of {', '.join(SPEECH)}, found "
            f'"{name}"' + nearest(name, SPEECH)
        )
    found = fsdd() if name == "fsdd" else tones()
    held = found.test
    if speaker is not None:
        check_int("speaker", speaker, 0, int(found.speaker.max()))
        held = found.speaker == speaker
    ends = np.cumsum(found.length)
    cuts = [loudest(one) for one in np.split(found.audio, ends[:-1])]
    rows = features(cuts, WORD) | {"y": found.y.astype(np.int32)}
    train, test = ({k: a[part] for k, a in rows.items()} for part in (~held, held))
    watched = None
    if wanted.watched:
        train, watched = split(train, wanted.watched, wanted.seed)
    real = train["x"][within(train["x"], train["length"])[..., 0]]
    mean, scale = (tuple(v.tolist()) for v in moments(real))
    schema = Schema(
        name,
        (WORD, MELS),
        NAMES,
        mean,
        scale,
        lengths=True,
        rows=len(train["x"]),
        rate=RATE,
    )
    return change(Data(schema, train, test, watched), partial(standard, schema))


def load_strings(source: Any = "fsdd", *, speaker: int | None = None) -> Data:
    """Recordings as `load_recordings` has them to train on, and strings of others.

    `strings` composes those of a training. Strings to test on, and to watch, have each
    recording of their part four times, in an order that is always the same: "x" [N, T,
    M], "length" [N] and "y" [N, D], of each digit one more than it is, 0 past the end.
    Raises UsageError as `load_recordings` does.
    """
    words = load_recordings(source, speaker=speaker)
    if not (words.schema.rate and words.schema.classes):
        return words  # strings, or what no one hears
    schema = words.schema._replace(
        shape=(STRING, MELS),
        classes=(),
        target_tokens=("<blank>", *NAMES),
        target_shape=(DIGITS,),
        spaced=True,
    )
    parts = (words.test, words.watched)
    test, watched = (None if rows is None else read_out(schema, rows) for rows in parts)
    return Data(schema, words.train, test, watched)


# Features -----------------------------------------------------------------------------


def loudest(wave: np.ndarray) -> np.ndarray:
    """The second [S] with the most energy, its highest peak 1. Raises UsageError."""
    if len(wave) > RATE:
        energy = np.cumsum(np.square(wave, dtype=np.float64))
        energy = np.concatenate([[0], energy])
        start = int(np.argmax(energy[RATE:] - energy[:-RATE]))
        wave = wave[start : start + RATE]
    return peaked(wave)


def peaked(wave: np.ndarray) -> np.ndarray:
    """A wave [S] whose highest peak is 1, float32. Raises UsageError for silence."""
    wave = wave.astype(np.float32)
    peak = np.abs(wave).max(initial=0)
    if not 0 < peak < np.inf:
        raise UsageError(f"expected sound, found a highest peak of {peak}")
    return wave / peak


def frames_of(samples: Any) -> Any:
    """How many frames see some of so many samples."""
    return -(-samples // HOP) + 1


def features(cuts: list[np.ndarray], frames: int | None = None) -> Arrays:
    """Waves -> log-mels "x" [N, T, M], of `frames` or as many as it takes; "length"."""
    length = np.array([frames_of(len(cut)) for cut in cuts], np.int32)
    frames = int(length.max()) if frames is None else frames
    parts = []
    for start in range(0, len(cuts), 500):
        some = cuts[start : start + 500]
        filled = np.zeros((len(some), (frames - 1) * HOP), np.float32)
        for row, cut in zip(filled, some, strict=True):
            row[: len(cut)] = cut
        parts.append(np.asarray(_log_mel(filled)))
    return {"x": np.concatenate(parts), "length": length}


_log_mel = jax.jit(
    partial(log_mel, rate=RATE, fft=FFT, hop=HOP, mels=MELS, floor=FLOOR)
)


def standard(schema: Schema, rows: Arrays) -> Arrays:
    """Rows with log-mels in the schema's units, and zeros past their length."""
    x = (rows["x"] - np.array(schema.mean)) / np.array(schema.scale)
    x = np.where(within(x, rows["length"]), x, 0).astype(np.float32)
    return rows | {"x": x}


def heard(schema: Schema, path: str | os.PathLike[str]) -> Arrays:
    """A .wav file as a row of log-mels: {"x" [1, T, M], "length" [1]}.

    Where the schema has classes, of its loudest second. Raises UsageError.
    """
    wave = read_wav(Path(path))
    cut, frames = (loudest(wave), WORD) if schema.classes else (peaked(wave), None)
    return standard(schema, features([cut], frames))


def read_wav(path: Path) -> np.ndarray:
    """The samples of a .wav file, int16 [S]. Raises UsageError for other than RATE,
    one channel and 16 bits, for more than LONGEST seconds, and for silence."""
    if not path.is_file():
        raise UsageError(f"expected a .wav file to hear, found no file at {path}")
    try:
        with waves.open(str(path), "rb") as file:
            kind = file.getframerate(), file.getnchannels(), 8 * file.getsampwidth()
            # its header may promise more than there is
            data = file.readframes(min(file.getnframes(), LONGEST * RATE + 1))
    except (waves.Error, EOFError, RuntimeError) as error:  # a chunk past the end
        why = str(error) or "cut off"
        raise UsageError(f"expected a .wav file, found {path} ({why})") from None
    if kind != (RATE, 1, 16):
        raise UsageError(
            f"expected {RATE} samples a second, 1 channel and 16 bits in {path}, found "
            f"{kind[0]}, {kind[1]} and {kind[2]}"
        )
    found = np.frombuffer(data[: len(data) // 2 * 2], "<i2")
    if len(found) > LONGEST * RATE:
        raise UsageError(f"expected at most {LONGEST} seconds in {path}, found more")
    if not found.any():
        raise UsageError(f"expected sound in {path}, found silence")
    return found


# Strings ------------------------------------------------------------------------------


def silence(schema: Schema) -> np.ndarray:
    """A frame of no sound, in the schema's units: [M]."""
    return (np.log(FLOOR) - np.array(schema.mean, "f4")) / np.array(schema.scale, "f4")


def compose(
    rows: Any, index: Any, count: Any, pauses: Any, quiet: Any, frames: int = STRING
) -> dict[str, jax.Array]:
    """Strings of recordings, one after the other: pure, traced.

    index [B, K] are rows, of which the first count [B] are said, as many as fit into
    `frames`; pauses [B, K + 1] frames of `quiet` [M] stand before, between and after
    them. A frame of a recording sees nothing of another, so that these are the features
    of the composed wave, each recording beginning at a multiple of the hop.
    """
    index, pauses = jnp.asarray(index), jnp.asarray(pauses)
    slots = jnp.arange(index.shape[1])[None]
    size = jnp.asarray(rows["length"])[index]
    starts = jnp.cumsum(pauses[:, :-1] + size, 1) - size
    ends = starts + size
    said = ((slots < jnp.asarray(count)[:, None]) & (ends <= frames)).sum(1)[:, None]
    last = jnp.take_along_axis(ends, said - 1, 1)
    length = jnp.minimum(last + jnp.take_along_axis(pauses, said, 1), frames)
    at = jnp.arange(frames)[None]
    slot = (at[:, :, None] >= ends[:, None]).sum(2)
    slot = jnp.minimum(slot, said - 1)
    here = at - jnp.take_along_axis(starts, slot, 1)
    own = (here >= 0) & (here < jnp.take_along_axis(size, slot, 1))
    row = jnp.take_along_axis(index, slot, 1)
    sound = jnp.asarray(rows["x"])[row, jnp.clip(here, 0, rows["x"].shape[1] - 1)]
    x = jnp.where(own[..., None], sound, jnp.asarray(quiet)[None, None])
    x = jnp.where((at < length)[..., None], x, 0)
    y = jnp.where(slots < said, jnp.asarray(rows["y"])[index] + 1, 0)
    return {"x": x, "length": length[:, 0], "y": y.astype(jnp.int32)}


def strings(quiet: np.ndarray, rows: Arrays, size: int | None) -> sources.Source:
    """`size` strings of 1 to DIGITS recordings a step, composed anew: see `compose`.

    Each recording is drawn once before any again.
    """
    n = len(rows["x"])
    size = max(1, n // DIGITS) if size is None else check_int("size", size, 1)

    def batch(arrays, seed, t):
        index = sources.order(seed, t, size * DIGITS, n).reshape(size, DIGITS)
        keys = [jax.random.fold_in(sources.stream(seed, "order", t), i) for i in (0, 1)]
        count = jax.random.randint(keys[0], (size,), 1, DIGITS + 1)
        pauses = jax.random.randint(keys[1], (size, DIGITS + 1), 0, PAUSE + 1)
        return compose(arrays, index, count, pauses, quiet)

    return sources.Source(rows, batch, size, n, lambda arrays: (arrays,))


def read_out(schema: Schema, rows: Arrays) -> Arrays:
    """Strings that have each recording ROUNDS times: {"x", "length", "y"}."""
    draw, n = np.random.default_rng(0), len(rows["x"])
    texts: list[list[int]] = []
    for _ in range(ROUNDS):
        left, room = 0, 0
        for i in draw.permutation(n).tolist():
            size = PAUSE + int(rows["length"][i])
            if left == 0 or size > room:
                left, room = int(draw.integers(1, DIGITS + 1)), STRING - PAUSE
                texts.append([])
            texts[-1].append(i)
            left, room = left - 1, room - size
    count = np.array([len(text) for text in texts])
    index = np.array([text + [0] * (DIGITS - len(text)) for text in texts])
    pauses = draw.integers(0, PAUSE + 1, (len(texts), DIGITS + 1))
    found = jax.jit(compose)(rows, index, count, pauses, silence(schema))
    return {name: np.asarray(array) for name, array in found.items()}
