"""Saved states of one run; the only module that knows orbax.

A state is written in a folder of its own, sealed, and only then given its name: a step
that has its name is whole, and what its files lose later is seen before they are read.
Nothing random lives outside the saved tree: what continues from it is bit-equal.
"""

import contextlib
import logging
import os
import re
import shutil
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import jax

from train import files
from train.files import check_free as check_free
from train.files import from_json as from_json
from train.files import read_json as read_json
from train.files import whole as whole
from train.files import write_json as write_json
from train.origin import compare
from zoo.base import UsageError

HALF = ".saving"  # what is in it is half saved, or half deleted, and ours
ORIGIN = "origin.json"  # beside states that an earlier version left without seals

# orbax numbers its operations by one counter of the process: a load in one thread while
# a save begins in another makes that save wait for ever for itself
ONE_AT_A_TIME = threading.RLock()


def _orbax():
    # a third of a second to import: only for who saves or reads
    from orbax.checkpoint import v1 as ocp

    # it reports each save at INFO, warns of settings that are its own, and prints the
    # traces of errors that it raises as well
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    return ocp


# Reading ----------------------------------------------------------------------------


def latest(directory: Path | str) -> int | None:
    """The newest saved step in a directory; None without one, or without a directory.

    Looks at names alone: what is half saved, or half deleted, is elsewhere.
    """
    return next(iter(_steps(directory)), None)


def _steps(directory):
    """The saved steps by their names, the newest first."""
    names = os.listdir(directory) if os.path.isdir(directory) else []
    found = [re.fullmatch(r"step_(\d{9,})", name) for name in names]
    return sorted((int(match[1]) for match in found if match), reverse=True)


def _name(step):
    return f"step_{step:09d}"


def read(directory: Path | str, like: Any) -> Any:
    """The newest whole saved tree, in the structure and shapes of `like`.

    Writes nothing. Where newer ones are damaged, a warning says so. Raises UsageError
    where none is whole, or where it does not fit: another model, optimizer or option.
    """
    directory = Path(directory).resolve()
    while True:
        steps = _steps(directory)
        if not steps:
            raise UsageError(f"no state is saved in {directory}")
        try:
            step, about, damage = _newest(directory)
            tree = _load(directory / _name(step), about, like)
        except UsageError:
            if steps == _steps(directory):
                raise
        else:
            if not damage or steps == _steps(directory):
                _warn(damage)
                return tree
        # a run that trains here saved newer states meanwhile, and deleted this one


def _newest(directory):
    """(step, what its seal says, what is wrong with those after it, if anything).

    Raises UsageError where none is whole.
    """
    steps, damage = _steps(directory), []
    for step in steps:
        try:
            about = _sealed(directory, step)
        except UsageError as error:
            damage.append(str(error))
            continue
        told = damage and (
            f"the state of step {steps[0]} is damaged ({damage[0]}): that of step "
            f"{step} is taken, {steps[0] - step} steps are to be done again"
        )
        return step, about, told
    raise UsageError(
        f"no state in {directory} is whole ({damage[0]}): another directory starts "
        "afresh"
    )


def _sealed(directory, step):
    """What the seal of a step says. Raises UsageError where it is damaged."""
    folder, old = directory / _name(step), directory / ORIGIN
    if old.exists() and not (folder / "SEAL.json").exists():
        return {"origin": read_json(old)}
    about = files.sealed(folder)
    if about.get("step") != step:
        raise UsageError(f"{folder} holds step {about.get('step')}")
    return about


def _warn(damage):
    if damage:
        warnings.warn(damage, stacklevel=3)


def _load(folder, about, like):
    """A tree like `like`. Raises UsageError naming what is not as it is there."""
    does_not_fit = f"{folder} does not fit this model and optimizer"
    wanted = _shapes(like)
    found = about.get("tree", wanted)
    for path in wanted | found:
        if wanted.get(path) != found.get(path):
            raise UsageError(
                f"{does_not_fit}: expected {wanted.get(path, 'nothing')} at {path}, "
                f"found {found.get(path, 'nothing')}"
            )
    abstract = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), like
    )
    ocp = _orbax()
    try:
        with ONE_AT_A_TIME:
            return ocp.load(folder, abstract)
    except Exception as error:  # orbax raises many kinds, for one cause
        raise UsageError(f"{does_not_fit}, or is damaged: {_line(error)}") from error


def _shapes(tree):
    """A line for each array of a tree, by path."""
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype} {list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


# Saving -----------------------------------------------------------------------------


class Checkpoints:
    """The newest two saved states in a directory that is this run's until closed.

    Saves run in the background: written, sealed (`train.files`) and then named. Where
    they fail (a full disk) the first is a warning, each tries afresh, and only the last
    one raises. What the states belong to, `origin`, is under their seals. What has not
    been made here is never deleted. Raises UsageError where another run has the
    directory.
    """

    def __init__(self, directory: Path | str, origin: dict[str, Any] | None = None):
        self._directory, self._origin = Path(directory).resolve(), origin
        self._half = self._directory / HALF
        self._step, self._needed, self._failing = 0, 0, False
        self.seconds = 0.1  # that a save takes, in the background, too
        self._saving: Future[None] | None = None
        self._pool = ThreadPoolExecutor(1)
        self._lock = files.hold(self._directory)
        shutil.rmtree(self._half, ignore_errors=True)  # of a save that was killed

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
            self._needed = sum(a.nbytes for a in jax.tree.leaves(tree)) + 2**20
            if saved is not None and saved > step:
                raise UsageError(f"step {saved} is saved already")
            self._check_space()
            self._half.mkdir(exist_ok=True)
            about = {"step": step, "origin": self._origin, "tree": _shapes(tree)}
            half, began = self._half / _name(step), time.perf_counter()
            with ONE_AT_A_TIME:
                response = _orbax().save_async(half, tree, overwrite=True)
            self._saving = self._pool.submit(self._commit, response, half, about, began)
            if last:
                self._finish()

    def _commit(self, response, half, about, began):
        """Seal what orbax has written, name it, and delete what is older than two."""
        response.result()
        files.seal(half, about)
        os.replace(half, self._directory / half.name)
        files.sync(self._directory)
        for step in _steps(self._directory)[2:]:
            folder = self._directory / _name(step)
            if (folder / "SEAL.json").exists():  # ours
                os.replace(folder, self._half / folder.name)
        shutil.rmtree(self._half, ignore_errors=True)
        self.seconds = time.perf_counter() - began

    def close(self) -> None:
        """Wait for a save under way, and give the directory back."""
        with self._lock, self._pool, self._trying():
            self._finish()

    def _check_space(self):
        """Raise OSError on a full disk: orbax finds it halfway, and prints of it."""
        if self._free() < self._needed:
            raise OSError("the disk is full")

    def _free(self):
        return shutil.disk_usage(self._directory).free

    def _finish(self):
        """Wait for the save under way."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()
            self._failing = False

    @contextlib.contextmanager
    def _trying(self, last: bool = False) -> Iterator[None]:
        """What fails here is one warning until a save succeeds, or raises if `last`."""
        try:
            yield
        except Exception as error:
            shutil.rmtree(self._half, ignore_errors=True)
            failed = f"step {self._step} was not saved: {_line(error)}"
            if not isinstance(error, UsageError):
                failed += (
                    f" ({self._free():,} bytes are free in {self._directory}, "
                    f"{self._needed:,} needed)"
                )
            told, self._failing = self._failing, True
            if last:
                raise UsageError(failed) from error
            if not told:
                warnings.warn(f"{failed}; training goes on", stacklevel=2)


# Beginning, or going on -------------------------------------------------------------


def proceed(
    directory: Path | str,
    origin: dict[str, Any],
    carry: Any,
    steps: int,
    resume: bool | Literal["longer"],
) -> tuple[Checkpoints, Any]:
    """What saves in a directory, and the newest whole state there, like `carry`.

    The state is `carry` itself where none is saved. Newer ones that are damaged are set
    aside under another name, and a warning says how many steps are lost. Raises
    UsageError where another run has the directory, where a state is saved and `resume`
    is False, where it is of another training than `origin` describes (but, if "longer",
    for the optimizer and its schedule), or past `steps`.
    """
    saver = Checkpoints(directory, origin)
    try:
        return saver, _proceed(Path(directory).resolve(), origin, carry, steps, resume)
    except BaseException:
        saver.close()
        raise


def _proceed(directory, origin, carry, steps, resume):
    last = latest(directory)
    if last is None:
        return carry
    if not resume:
        raise UsageError(
            f"{directory} holds states of a training, the last of step {last}: "
            "resume=True goes on from there, another directory starts afresh"
        )
    step, about, damage = _newest(directory)
    compare(about.get("origin"), origin, directory, resume)
    if step > steps:
        raise UsageError(
            f"the checkpoint in {directory} is at step {step}, past the {steps} steps "
            "asked for"
        )
    tree = _load(directory / _name(step), about, carry)
    _warn(damage)
    for other in _steps(directory):
        if other > step:
            _set_aside(directory / _name(other))
    if (directory / ORIGIN).exists():
        _seal_old(directory, _shapes(carry))
    return tree


def _set_aside(folder):
    """Give a damaged state a name that nothing looks for."""
    to = folder.with_name(f"{folder.name}.damaged")
    while to.exists():
        to = to.with_name(f"{to.name}_again")
    os.replace(folder, to)


def _seal_old(directory, tree):
    """Seal the states of a version that sealed none, for those after them."""
    old = directory / ORIGIN
    for step in _steps(directory):
        folder = directory / _name(step)
        if not (folder / "SEAL.json").exists():
            about = {"step": step, "origin": read_json(old), "tree": tree}
            files.seal(folder, about)
    old.unlink()


def _line(error):
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
