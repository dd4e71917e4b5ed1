"""What the states of a training belong to: told at its beginning, compared later."""

import functools
import hashlib
import zlib
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

from train import optim
from train import step as one
from train.source import Source, shapes
from zoo.base import Task, UsageError

WORDS = {
    "seed": "another seed",
    "settings": "other seeds or settings",
    "steps": "another number of steps",
    "log_every": "another number of steps a line",
    "rows": "another number of training examples",
    "batch_size": "another batch size",
    "accumulate": "another number of parts of a batch",
    "ema": "another averaging decay",
    "patience": "another use of patience",
    "init": "other parameters",
    "data": "other training data",
    "model": "another model, objective or augmentation",
    "program": "another optimizer or schedule",
}
TOLD = set(WORDS) - {"settings", "init", "data", "model", "program"}  # with its value


def describe(
    task: Task,
    optimizer: Any,
    source: Source,
    carry: tuple[Any, Any],
    init: Any = None,
    *,
    accumulate: int = 1,
    ema: float | None = None,
) -> dict[str, Any]:
    """All that the states of a training follow from, beside their step, for `told`.

    The lowered text of a step stands for model, optimizer and rates: they are constants
    in it; that of a step by plain descent for the model alone, which is lowered where
    it is told.
    """
    state, best = carry
    plain = optim.optimizer("sgd", 1.0)

    def update(optimizer, **how):
        step = one.make_step(task, optimizer, **how)

        def run(state, arrays):
            return step(state, source.batch(arrays, state.seed, state.step))

        return run

    like = shapes(state), shapes(source.arrays)

    @functools.cache
    def model():
        step = update(plain)
        return text(
            lambda s, a: step(s._replace(optimizer=plain.init(s.params)), a), like
        )

    data = source.stream.describe() if source.stream else checksums(source.arrays)
    return {
        "seed": int(state.seed),
        "rows": source.rows,
        "batch_size": source.size,
        "patience": best is not None,
        "init": None if init is None else checksums(init),
        "data": data,
        "jax": jax.__version__,
        "platform": jax.default_backend(),
        "model": model,
        "program": text(update(optimizer, ema=ema, parts=accumulate), like),
        "accumulate": accumulate,
        "ema": ema,
    }


def told(origin: dict[str, Any]) -> dict[str, Any]:
    """What `describe` found, all of it, for JSON."""
    return {name: one() if callable(one) else one for name, one in origin.items()}


def compare(
    began: Any, now: dict[str, Any], directory: Any, resume: bool | Literal["longer"]
) -> None:
    """Raise UsageError naming the first thing that differs, but as `resume` allows.

    Where `now` is of the same program, the model is what the states were said to be of.
    """
    if not isinstance(began, dict):
        raise UsageError(f"{directory} does not say what training its states are of")
    # another compiler writes the same program in other words
    same = all(began.get(name) == now[name] for name in ("jax", "platform"))
    if same and "model" in began and began.get("program") == now["program"]:
        now["model"] = began["model"]  # half a second less
    now = told(now)
    skipped = set() if same else {"model", "program"}
    skipped |= {"program"} if resume == "longer" else set()
    for name, words in WORDS.items():
        if name in skipped or began.get(name) == now.get(name):
            continue
        values = f": {began.get(name)}, now {now.get(name)}" if name in TOLD else ""
        longer = name == "program" and "settings" not in now  # of one training
        hint = 'resume="longer" goes on by it, ' if longer else ""
        raise UsageError(
            f"the training in {directory} began with {words}{values}; {hint}another "
            "directory starts afresh"
        )


def text(function: Callable, args: Any) -> str:
    """A hash of what a function does with such arguments, as it is lowered."""
    text = jax.jit(function).lower(*args).as_text()
    return hashlib.sha256(text.encode()).hexdigest()


def checksums(tree: Any) -> dict[str, str]:
    """A line for each array of a tree, by path."""
    return {
        jax.tree_util.keystr(path): _checksum(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _checksum(array):
    array = np.ascontiguousarray(array)
    crc = zlib.crc32(array.reshape(-1).view(np.uint8))
    return f"{array.dtype} {list(array.shape)} {crc:08x}"
