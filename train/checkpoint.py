"""Saved states of one run; the only module that knows orbax.

Orbax commits a step by a rename, so a killed save leaves the step before it. Nothing
random lives outside the saved tree: what continues from it is bit-equal.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from train.source import Source, shapes
from zoo.base import UsageError

ORIGIN = "origin.json"

# orbax numbers its operations by one counter of the process: a load in one thread while
# a save begins in another makes that save wait for ever for itself
ONE_AT_A_TIME = threading.RLock()


def _orbax():
    """Orbax, and how it names steps."""
    # a third of a second to import: only for who saves or reads
    from orbax.checkpoint import v1 as ocp

    # it reports each save at INFO, warns of settings that are its own, and prints the
    # traces of errors that it raises as well
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    # it deletes what it takes for old steps: never a folder named "3"
    return ocp, ocp.path.step.standard_name_format(
        step_prefix="step", step_format_fixed_length=9
    )


def latest(directory: Path | str) -> int | None:
    """The newest saved step in a directory; None without one, or without a directory.

    Looks at names alone: what is half saved, or half deleted, has another.
    """
    names = os.listdir(directory) if os.path.isdir(directory) else []
    found = [re.fullmatch(r"step_(\d{9,})", name) for name in names]
    return max((int(match[1]) for match in found if match), default=None)


def read(directory: Path | str, like: Any) -> Any:
    """The newest saved tree, in the structure and shapes of `like`; writes nothing.

    Raises UsageError where none is saved, or where it does not fit: another model,
    optimizer or option.
    """
    ocp, names = _orbax()
    directory = Path(directory).resolve()
    abstract = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), like
    )
    while True:
        step = latest(directory)
        if step is None:
            raise UsageError(f"no state is saved in {directory}")
        try:
            with ONE_AT_A_TIME:
                return ocp.load(directory / names.build_name(step), abstract)
        except Exception as error:  # orbax raises many kinds, for one cause
            if latest(directory) == step:
                raise UsageError(
                    f"the checkpoint in {directory} does not fit this model and "
                    f"optimizer, or is damaged: {_line(error)}"
                ) from error
            # a run that trains here saved newer states meanwhile, and deleted this one


def read_origin(directory: Path | str) -> dict[str, Any]:
    """What the states in a directory belong to (`describe`).

    Raises UsageError where the file that says so is not there, or damaged.
    """
    path = Path(directory) / ORIGIN
    found = read_json(path) if path.exists() else None
    if not isinstance(found, dict):
        raise UsageError(f"{path} does not say what training its states are of")
    return found


class Checkpoints:
    """The newest two saved states in a directory of their own, for the run that saves.

    Saves run in the background. Where they fail (a full disk) the first is a warning,
    each tries afresh, and only the last one raises. Deletes what a killed save left:
    one process at a time, which holds the run's lock. What the states belong to,
    `origin`, is written beside them before the first.
    """

    def __init__(self, directory: Path | str, origin: dict[str, Any] | None = None):
        self._directory, self._origin = Path(directory).resolve(), origin
        self._step, self._response, self._failing = 0, None, False
        self._saver = self._open()

    def _open(self):
        ocp, names = _orbax()
        return ocp.training.Checkpointer(
            self._directory,
            step_name_format=names,
            preservation_policy=ocp.training.preservation_policies.LatestN(2),
            cleanup_tmp_directories=True,
        )

    def save(self, step: int, tree: Any, *, last: bool = False) -> None:
        """Start saving, or with `last` save now; a step that is saved stays as it is.

        Raises UsageError where the last save fails.
        """
        with self._trying():
            self._finish()
        saved = latest(self._directory)
        if saved == step:
            return
        with self._trying(last):
            self._step = step
            if saved is not None and saved > step:
                raise ValueError(f"step {saved} is saved already")
            self._saver = self._saver or self._open()
            self._check_space(tree)
            if self._origin is not None:
                write_json(self._directory / ORIGIN, self._origin)
                self._origin = None
            with ONE_AT_A_TIME:
                self._response = self._saver.save_async(step, tree, force=True)
            if last:
                self._finish()

    def close(self) -> None:
        """Wait for a save under way."""
        with self._trying():
            self._finish()
        self._drop()

    def _check_space(self, tree):
        """Raise OSError on a full disk: orbax finds it halfway, and prints of it."""
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) + 2**20
        free = shutil.disk_usage(self._directory).free
        if free < needed:
            raise OSError(f"{free:,} bytes are free, and {needed:,} are needed")

    def _finish(self):
        """Wait for the save under way: unasked, it keeps a thread and three files."""
        response, self._response = self._response, None
        if response is not None:
            response.result()
            self._failing = False

    @contextlib.contextmanager
    def _trying(self, last: bool = False) -> Iterator[None]:
        """What fails here is one warning until a save succeeds, or raises if `last`."""
        try:
            yield
        except Exception as error:
            self._drop()
            with contextlib.suppress(Exception):
                self._saver = self._open()  # deletes what the failed save left
            failed = f"step {self._step} was not saved: {_line(error)}"
            told, self._failing = self._failing, True
            if last:
                raise UsageError(failed) from error
            if not told:
                warnings.warn(f"{failed}; training goes on", stacklevel=2)

    def _drop(self):
        saver, self._saver = self._saver, None
        if saver is not None:
            with contextlib.suppress(Exception):
                saver.close()  # orbax raises a failed save's error again and again


# What states belong to ---------------------------------------------------------------

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
    carry: tuple[Any, Any],
    source: Source,
    model: Callable,
    update: Callable,
    *,
    init: Any = None,
    **numbers: Any,
) -> dict[str, Any]:
    """All that the states of a training follow from, beside their step, for JSON.

    update(state, arrays of the source) is a step, its lowered text stands for model,
    optimizer and rates: they are constants in it. model(state, arrays) is a step that
    knows no optimizer.
    """
    state, best = carry
    like = shapes(state), shapes(source.arrays)
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
        "model": text(model, like),
        "program": text(update, like),
        **numbers,
    }


def proceed(
    directory: Path | str,
    origin: dict[str, Any],
    carry: Any,
    steps: int,
    resume: bool | Literal["longer"],
) -> Any:
    """The newest state in a directory, like `carry`; `carry` itself where none is.

    Raises UsageError where a state is saved and `resume` is False, where it is of
    another training than `origin` describes (but, if "longer", for the optimizer and
    its schedule), or past `steps`.
    """
    step = latest(directory)
    if step is None:
        return carry
    if not resume:
        raise UsageError(
            f"{directory} holds states of a training, the last of step {step}: "
            "resume=True goes on from there, another directory starts afresh"
        )
    _compare(read_origin(directory), origin, directory, resume)
    if step > steps:
        raise UsageError(
            f"the checkpoint in {directory} is at step {step}, past the {steps} steps "
            "asked for"
        )
    return read(directory, carry)


def _compare(began, now, directory, resume):
    """Raise UsageError naming the first thing that differs."""
    # another compiler writes the same program in other words
    same = all(began.get(name) == now[name] for name in ("jax", "platform"))
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


# Small files ------------------------------------------------------------------------


def read_json(path: Path) -> Any:
    """A JSON file's content, lists as tuples. Raises UsageError if it is damaged."""
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:  # nested too deeply
        raise UsageError(f"{path} cannot be read as JSON: {error}") from error


def from_json(text: str) -> Any:
    """What JSON says, lists as tuples. Raises ValueError if it is damaged."""

    def freeze(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: freeze(v) for name, v in value.items()}
        return tuple(map(freeze, value)) if isinstance(value, list) else value

    return freeze(json.loads(text))


def write_json(path: Path, value: Any) -> None:
    """Write a file that is whole or not there."""
    with whole(path) as part:
        part.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write, which becomes `path` if nothing failed and is gone if it did."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _line(error):
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
