"""Saved states of one run, as they are written; `train.disk.states` reads them.

A state is written in a folder of its own, sealed, and only then given its name: a step
that has its name is whole, and what its files lose later is seen before they are read.
Nothing random lives outside the saved tree: what continues from it is bit-equal.
Of processes that train together (`train.machines.hosts`) each writes and reads its
part; the first alone locks, seals, names and removes, and tells the others what it
found.
"""

import contextlib
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import jax

from train.disk import files
from train.disk.files import check_free as check_free
from train.disk.files import from_json as from_json
from train.disk.files import read_json as read_json
from train.disk.files import whole as whole
from train.disk.files import write_json as write_json
from train.disk.origin import compare, told
from train.disk.states import ONE_AT_A_TIME as ONE_AT_A_TIME
from train.disk.states import (
    ORIGIN,
    line,
    load,
    name,
    newest,
    orbax,
    shapes,
    steps_of,
    warn,
)
from train.disk.states import latest as latest
from train.disk.states import read as read
from train.machines import hosts
from zoo.base import UsageError

HALF = ".saving"  # what is in it is half saved, or half deleted, and ours


# Saving -----------------------------------------------------------------------------


class Checkpoints:
    """The newest two saved states in a directory that is this run's until closed.

    Saves run in the background: written, sealed (`train.disk.files`) and then named.
    Where they fail (a full disk) the first is a warning, each tries afresh, and only
    the last one raises. What the states belong to, `origin`, is under their seals. What
    has not been made here is never deleted. Of several processes all call the same, and
    what one cannot do, all fail in. Raises UsageError where another run has the
    directory.
    """

    def __init__(self, directory: Path | str, origin: dict[str, Any] | None = None):
        self._directory, self._origin = Path(directory).resolve(), origin
        self._half = self._directory / HALF
        self._step, self._needed, self._failing = 0, 0, False
        self.seconds = 0.1  # that a save takes, in the background, too
        self._saving: Future[None] | None = None
        self._pool = ThreadPoolExecutor(1)
        self._lock = contextlib.ExitStack()
        hosts.first(self._hold)

    def _hold(self):
        self._lock.enter_context(files.hold(self._directory))
        shutil.rmtree(self._half, ignore_errors=True)  # of a save that was killed

    def save(self, step: int, tree: Any, *, last: bool = False) -> None:
        """Start saving, or with `last` save now; a step that is saved stays as it is.

        Raises UsageError where the last save fails.
        """
        with self._trying():
            self._finish()
        saved = hosts.told(lambda: latest(self._directory))
        if saved == step:
            return
        with self._trying(last):
            self._step = step
            self._needed = sum(a.nbytes for a in jax.tree.leaves(tree)) + 2**20
            if saved is not None and saved > step:
                raise UsageError(f"step {saved} is saved already")
            hosts.first(self._check_space, Exception)
            origin = self._origin and told(self._origin)
            about = {"step": step, "origin": origin, "tree": shapes(tree)}
            half, began = self._half / name(step), time.perf_counter()

            def write():
                with ONE_AT_A_TIME:
                    return orbax().save_async(half, tree, overwrite=True)

            response = hosts.together(write, Exception)
            self._saving = self._pool.submit(self._commit, response, half, about, began)
            if last:
                self._finish()

    def _commit(self, response, half, about, began):
        """Seal what orbax has written, name it, and delete what is older than two."""
        response.result()  # all processes have written
        if hosts.leads():
            self._seal(half, about)
        self.seconds = time.perf_counter() - began

    def _seal(self, half, about):
        files.seal(half, about)
        os.replace(half, self._directory / half.name)
        files.sync(self._directory)
        for step in steps_of(self._directory)[2:]:
            folder = self._directory / name(step)
            if (folder / "SEAL.json").exists():  # ours
                os.replace(folder, self._half / folder.name)
        shutil.rmtree(self._half, ignore_errors=True)

    def close(self) -> None:
        """Wait for a save under way, and give the directory back."""
        with self._lock, self._pool, self._trying():
            self._finish()

    def _check_space(self):
        """A folder to write in. Raises OSError on a full disk: orbax finds it halfway,
        and prints of it."""
        if self._free() < self._needed:
            raise OSError("the disk is full")
        self._half.mkdir(exist_ok=True)

    def _free(self):
        return shutil.disk_usage(self._directory).free

    def _finish(self):
        """Wait for the save under way, in all processes."""
        saving, self._saving = self._saving, None
        hosts.together(saving.result if saving else bool, Exception)
        self._failing = self._failing and saving is None

    @contextlib.contextmanager
    def _trying(self, last: bool = False) -> Iterator[None]:
        """What fails here is one warning until a save succeeds, or raises if `last`."""
        try:
            yield
        except Exception as error:
            if hosts.leads():
                shutil.rmtree(self._half, ignore_errors=True)
            failed = f"step {self._step} was not saved: {line(error)}"
            if not isinstance(error, UsageError):
                failed += (
                    f" ({self._free():,} bytes are free in {self._directory}, "
                    f"{self._needed:,} needed)"
                )
            told, self._failing = self._failing, True
            if last:
                raise UsageError(failed) from error
            if not told and hosts.leads():
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
    except BaseException as error:
        if hosts.common(error):
            saver.close()
        raise


def _proceed(directory, origin, carry, steps, resume):
    def find():
        return _found(directory, origin, steps, resume)

    if (found := hosts.told(find)) is None:
        return carry
    step, about, damage = found
    tree = hosts.together(lambda: load(directory / name(step), about, carry))
    hosts.first(lambda: _clear(directory, step, damage, carry))
    return tree


def _found(directory, origin, steps, resume):
    """The newest whole state as `newest` tells, if it fits; None where none is."""
    last = latest(directory)
    if last is None:
        return None
    if not resume:
        raise UsageError(
            f"{directory} holds states of a training, the last of step {last}: "
            "resume=True goes on from there, another directory starts afresh"
        )
    step, about, damage = newest(directory)
    compare(about.get("origin"), origin, directory, resume)
    if step > steps:
        raise UsageError(
            f"the checkpoint in {directory} is at step {step}, past the {steps} steps "
            "asked for"
        )
    return step, about, damage


def _clear(directory, step, damage, carry):
    """Leave no state after this one, and none without a seal."""
    warn(damage)
    for other in steps_of(directory):
        if other > step:
            _set_aside(directory / name(other))
    if (directory / ORIGIN).exists():
        _seal_old(directory, shapes(carry))


def _set_aside(folder):
    """Give a damaged state a name that nothing looks for."""
    to = folder.with_name(f"{folder.name}.damaged")
    while to.exists():
        to = to.with_name(f"{to.name}_again")
    os.replace(folder, to)


def _seal_old(directory, tree):
    """Seal the states of a version that sealed none, for those after them."""
    old = directory / ORIGIN
    for step in steps_of(directory):
        folder = directory / name(step)
        if not (folder / "SEAL.json").exists():
            about = {"step": step, "origin": read_json(old), "tree": tree}
            files.seal(folder, about)
    old.unlink()
