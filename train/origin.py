"""What a saved state belongs to: a training that began otherwise is not continued."""

import hashlib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from train import checkpoint
from zoo.base import UsageError

WORDS = {
    "seed": "another seed",
    "rows": "another number of training examples",
    "batch_size": "another batch size",
    "accumulate": "another number of batches to an update",
    "ema": "another averaging decay",
    "patience": "another use of patience",
    "data": "other training data",
    "program": "another model, optimizer or schedule",
}


def describe(
    update: Callable,
    carry: tuple[Any, Any],
    train: dict[str, np.ndarray],
    size: int,
    accumulate: int,
    ema: float | None,
) -> dict[str, Any]:
    """All that the states of a training follow from, beside their step, for JSON.

    `update`(state, batch of `size`) is the step with its augmentation. Its lowered text
    stands for model, optimizer and rates: they are constants in it.
    """
    state, best = carry
    like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), state)
    batch = {
        name: jax.ShapeDtypeStruct(
            (size, *a.shape[1:]), jax.dtypes.canonicalize_dtype(a.dtype)
        )
        for name, a in train.items()
    }
    text = jax.jit(update).lower(like, batch).as_text()
    return {
        "seed": int(state.seed),
        "rows": len(train["x"]),
        "batch_size": size // accumulate,
        "accumulate": accumulate,
        "ema": None if ema is None else float(ema),
        "patience": best is not None,
        "data": {name: _checksum(array) for name, array in sorted(train.items())},
        "jax": jax.__version__,
        "platform": jax.default_backend(),
        "program": hashlib.sha256(text.encode()).hexdigest(),
    }


def proceed(
    directory: Path | str, origin: dict[str, Any], carry: Any, steps: int, resume: bool
) -> Any:
    """The newest state in a directory, like `carry`; `carry` itself where none is.

    Raises UsageError where a state is saved and `resume` is False, where it is of
    another training than `origin` describes, or past `steps`.
    """
    step = checkpoint.latest(directory)
    if step is None:
        return carry
    if not resume:
        raise UsageError(
            f"{directory} holds states of a training, the last of step {step}: "
            "resume=True goes on from there, another directory starts afresh"
        )
    _compare(checkpoint.origin(directory), origin, directory)
    if step > steps:
        raise UsageError(
            f"the checkpoint in {directory} is at step {step}, past the {steps} steps "
            "asked for"
        )
    return checkpoint.read(directory, carry)


def _compare(began, now, directory):
    """Raise UsageError naming the first thing that differs."""
    # another compiler writes the same program in other words
    same = all(began.get(name) == now[name] for name in ("jax", "platform"))
    for name, words in WORDS.items():
        if began.get(name) == now[name] or (name == "program" and not same):
            continue
        told = name not in ("data", "program")
        values = f": {began.get(name)}, now {now[name]}" if told else ""
        raise UsageError(
            f"the training in {directory} began with {words}{values}; another "
            "directory starts afresh"
        )


def _checksum(array):
    array = np.ascontiguousarray(array)
    crc = zlib.crc32(array.reshape(-1).view(np.uint8))
    return f"{array.dtype} {list(array.shape)} {crc:08x}"
