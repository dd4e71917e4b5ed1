"""Saved states as they are read: which there are, which are whole, what is in one."""

import logging
import os
import re
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import jax

from train.disk import files
from train.disk.files import read_json
from zoo.base import UsageError

ORIGIN = "origin.json"  # beside states that an earlier version left without seals

# orbax numbers its operations by one counter of the process: a load in one thread while
# a save begins in another makes that save wait for ever for itself
ONE_AT_A_TIME = threading.RLock()


def orbax() -> Any:
    """Its second interface; asked for by none but this and `train.checkpoint`."""
    # a third of a second to import: only for who saves or reads
    from orbax.checkpoint import v1 as ocp

    # it reports each save at INFO, warns of settings that are its own, and prints the
    # traces of errors that it raises as well
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    # it has tensorstore count what was ever written, at each save: a leak of 12 KB
    # (tensorstore 0.1.76 to 0.1.86). Where there is no such function, nothing is lost
    counts = sys.modules.get("orbax.checkpoint._src.serialization.tensorstore_utils")
    if counts is not None:
        vars(counts)["get_tensorstore_raw_bytes"] = lambda *_: 0
    return ocp


def latest(directory: Path | str) -> int | None:
    """The newest saved step in a directory; None without one, or without a directory.

    Looks at names alone: what is half saved, or half deleted, is elsewhere.
    """
    return next(iter(steps_of(directory)), None)


def steps_of(directory: Path | str) -> list[int]:
    """The saved steps by their names, the newest first."""
    names = os.listdir(directory) if os.path.isdir(directory) else []
    found = [re.fullmatch(r"step_(\d{9,})", name) for name in names]
    return sorted((int(match[1]) for match in found if match), reverse=True)


def name(step: int) -> str:
    """Of the folder of a step."""
    return f"step_{step:09d}"


def read(directory: Path | str, like: Any) -> Any:
    """The newest whole saved tree, in the structure and shapes of `like`.

    Writes nothing. Where newer ones are damaged, a warning says so. Raises UsageError
    where none is whole, or where it does not fit: another model, optimizer or option.
    """
    directory = Path(directory).resolve()
    while True:
        steps = steps_of(directory)
        if not steps:
            raise UsageError(f"no state is saved in {directory}")
        try:
            step, about, damage = newest(directory)
            tree = load(directory / name(step), about, like)
        except UsageError:
            if steps == steps_of(directory):
                raise
        else:
            if not damage or steps == steps_of(directory):
                warn(damage)
                return tree
        # a run that trains here saved newer states meanwhile, and deleted this one


def newest(directory: Path) -> tuple[int, dict[str, Any], str]:
    """(step, what its seal says, what is wrong with those after it, if anything).

    Raises UsageError where none is whole.
    """
    steps, damage = steps_of(directory), []
    for step in steps:
        try:
            about = _sealed(directory, step)
        except UsageError as error:
            damage.append(str(error))
            continue
        told = (
            ""
            if not damage
            else (
                f"the state of step {steps[0]} is damaged ({damage[0]}): that of step "
                f"{step} is taken, {steps[0] - step} steps are to be done again"
            )
        )
        return step, about, told
    raise UsageError(
        f"no state in {directory} is whole ({damage[0]}): another directory starts "
        "afresh"
    )


def _sealed(directory, step):
    """What the seal of a step says. Raises UsageError where it is damaged."""
    folder, old = directory / name(step), directory / ORIGIN
    if old.exists() and not (folder / "SEAL.json").exists():
        return {"origin": read_json(old)}
    about = files.sealed(folder)
    if about.get("step") != step:
        raise UsageError(f"{folder} holds step {about.get('step')}")
    return about


def warn(damage: str) -> None:
    """Of states that are damaged, if any are."""
    if damage:
        warnings.warn(damage, stacklevel=3)


def load(folder: Path, about: dict[str, Any], like: Any) -> Any:
    """A tree like `like`. Raises UsageError naming what is not as it is there."""
    does_not_fit = f"{folder} does not fit this model and optimizer"
    wanted = shapes(like)
    found = about.get("tree", wanted)
    found = found if isinstance(found, dict) else {}
    for path in wanted | found:
        if wanted.get(path) != found.get(path):
            raise UsageError(
                f"{does_not_fit}: expected {wanted.get(path, 'nothing')} at {path}, "
                f"found {found.get(path, 'nothing')}"
            )
    abstract = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), like
    )
    ocp = orbax()
    try:
        with ONE_AT_A_TIME:
            return ocp.load(folder, abstract)
    except Exception as error:  # orbax raises many kinds, for one cause
        raise UsageError(f"{does_not_fit}, or is damaged: {line(error)}") from error


def shapes(tree: Any) -> dict[str, str]:
    """A line for each array of a tree, by path."""
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype} {list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def line(error: BaseException) -> str:
    """What an error says, in a line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
