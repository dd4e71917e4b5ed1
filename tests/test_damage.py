"""What a damaged, half-written or held directory costs: a warning, or one sentence."""

import collections
import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from train import checkpoint
from train.disk import files, states
from train.recipes import saved
from zoo.base import UsageError

ABOUT = {"seed": 0, "jax": "1", "platform": "cpu"}


def tree(step):
    values = np.random.default_rng(step).normal(size=(40, 50))
    return {"w": jnp.asarray(values, jnp.float32), "step": jnp.int32(step)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Steps 20 and 30 of a run, for copies to be damaged."""
    folder = tmp_path_factory.mktemp("whole")
    saver = checkpoint.Checkpoints(folder, ABOUT)
    for step in (20, 30):
        saver.save(step, tree(step))
    saver.close()
    return folder


def flip(rng, path, other):
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def cut(rng, path, other):
    path.write_bytes(path.read_bytes()[: rng.randrange(1, path.stat().st_size)])


def empty(rng, path, other):
    path.write_bytes(b"")


def gone(rng, path, other):
    path.unlink()


def swap(rng, path, other):
    shutil.copy(rng.choice([p for p in other.rglob("*") if p.is_file()]), path)


def folder(rng, path, other):
    path.unlink()
    path.mkdir()


KINDS = (flip, flip, flip, cut, empty, gone, swap, folder)


def damages(whole, to, seed, rounds):
    """(kind, file, a damaged copy of a directory) for each file of its newest state.

    With 0 rounds, some of the kinds.
    """
    rng, name = random.Random(seed), states.name(30)
    names = sorted(p.relative_to(whole) for p in (whole / name).rglob("*"))
    for each in names * (rounds or 1):
        kinds = KINDS if rounds else rng.sample(KINDS, 3)
        for kind in kinds if (whole / each).is_file() else ():
            shutil.rmtree(to, ignore_errors=True)
            shutil.copytree(whole, to)
            before = (to / each).read_bytes()
            if before or kind not in (flip, cut, empty):
                kind(rng, to / each, to / states.name(20))
            if not ((to / each).is_file() and (to / each).read_bytes() == before):
                yield kind.__name__, each, to


def outcome(read):
    """What comes of reading: the step that is read and warnings, or what is raised."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            found = read()
        except UsageError as error:
            assert "\n" not in str(error)
            return "sentence"
    step = int(found["step"])
    np.testing.assert_array_equal(found["w"], tree(step)["w"])
    said = [str(each.message) for each in told]
    if step == 20:
        assert len(said) == 1 and "10 steps are to be done again" in said[0], said
        assert "step 30 is damaged" in said[0]
    return {20: "fell back", 30: "unseen"}[step]


def count(whole, to, seed, rounds):
    """How often each thing comes of the damages."""
    found = collections.Counter()
    for kind, path, at in damages(whole, to, seed, rounds):
        found[outcome(lambda at=at: checkpoint.read(at, tree(0)))] += 1
        assert not found["unseen"], (kind, path)
        if found.total() % 4:
            continue  # without an older one, the same check
        shutil.rmtree(at / states.name(20))
        assert outcome(lambda at=at: checkpoint.read(at, tree(0))) == "sentence"
    return found


def test_every_damage_is_seen(whole, tmp_path):
    found = count(whole, tmp_path / "copy", 0, 0)
    assert found["fell back"] == found.total() > 25


@pytest.mark.contract
def test_many_damages_are_seen(whole, tmp_path, record_property):
    found = count(whole, tmp_path / "copy", 1, 5)
    assert found["fell back"] == found.total() > 400
    record_property("figure", f"{found.total()} damages, none unseen, all fall back")


def test_damages_are_not_seen_without_a_seal(whole, tmp_path, monkeypatch):
    def unread(folder):
        return files.read_sealed(folder / "SEAL.json")

    monkeypatch.setattr(files, "sealed", unread)  # planted: no file is looked at
    with pytest.raises(AssertionError):
        count(whole, tmp_path / "copy", 0, 1)


def proceed(directory, resume=True):
    return checkpoint.proceed(directory, ABOUT, tree(0), 99, resume)


def test_a_run_goes_on_from_what_is_whole(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    directory, newest = tmp_path / "copy", tmp_path / "copy" / states.name(30)
    gone(None, newest / "_CHECKPOINT_METADATA", None)
    with pytest.warns(UserWarning, match="_CHECKPOINT_METADATA.*10 steps are to be"):
        saver, found = proceed(directory)
    assert int(found["step"]) == 20
    # set aside, so that step 30 can be saved anew
    assert (directory / f"{newest.name}.damaged" / "SEAL.json").exists()
    saver.save(30, tree(30), last=True)
    saver.close()
    assert outcome(lambda: checkpoint.read(directory, tree(0))) == "unseen"
    gone(None, newest / "SEAL.json", None)
    gone(None, directory / states.name(20) / "SEAL.json", None)
    with pytest.raises(UsageError, match=r"no state in .* is whole.*step_000000030"):
        proceed(directory)
    proceed(tmp_path / "copy2")[0].close()  # the lock of a refused one is given back


def test_states_of_a_version_without_seals_go_on_under_seals(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "old")
    for path in (tmp_path / "old").glob("step_*/SEAL.json"):
        path.unlink()
    files.write_json(tmp_path / "old" / "origin.json", ABOUT)
    assert outcome(lambda: checkpoint.read(tmp_path / "old", tree(0))) == "unseen"
    saver, found = proceed(tmp_path / "old")
    saver.close()
    assert int(found["step"]) == 30 and not (tmp_path / "old" / "origin.json").exists()
    assert all(files.sealed(path) for path in (tmp_path / "old").glob("step_*"))


def test_states_that_changed_places_are_seen(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    a, b = (tmp_path / "copy" / states.name(step) for step in (20, 30))
    a.rename(tmp_path / "else")
    b.rename(a)
    (tmp_path / "else").rename(b)
    with pytest.raises(UsageError, match="step_000000030 holds step 20"):
        checkpoint.read(tmp_path / "copy", tree(0))


def test_what_is_said_of_a_run_is_under_a_seal(tmp_path):
    path, rng = tmp_path / "config.json", random.Random(0)
    config = {"recipe": "mlp", "format": saved.FORMAT, "arguments": {"rate": 0.1}}
    config["schema"] = {"mean": (0.25, 1e-3), "classes": ("a", "b")}
    files.write_sealed(path, config)
    good, seen = path.read_bytes(), collections.Counter()
    for _ in range(200):
        path.write_bytes(good)
        flip(rng, path, None)
        try:
            assert saved.read_config(tmp_path) == config  # of a space, or a line's end
            seen["same"] += 1
        except UsageError as error:
            assert "\n" not in str(error)
            seen["sentence"] += 1
    assert seen["sentence"] > 150


# Order --------------------------------------------------------------------------------


def trace(monkeypatch):
    """Each file synced, by its number, and each rename, in their order."""
    events, fsync, replace = [], os.fsync, os.replace

    def synced(handle):
        fsync(handle)
        events.append(os.fstat(handle).st_ino)

    def renamed(old, new):
        replace(old, new)
        events.append((Path(old).parent.name, Path(new)))

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    return events


def assert_synced(events, directory, step):
    """All of a state is on the disk before its name, and that before others go."""
    folder = directory / states.name(step)
    at = events.index((".saving", folder))
    before, after = events[:at], events[at + 1 :]
    for path in (folder, *folder.rglob("*")):
        assert path.stat().st_ino in before, path
    named = after.index(directory.stat().st_ino)
    deleted = [i for i, e in enumerate(after) if isinstance(e, tuple)]
    assert all(i > named for i in deleted) and deleted


@pytest.mark.skipif(os.name == "nt", reason="no folder is synced there")
@pytest.mark.parametrize("fault", [None, "files", "folders"])
def test_a_state_is_on_the_disk_before_it_has_its_name(fault, tmp_path, monkeypatch):
    events = trace(monkeypatch)
    directory = tmp_path.resolve() / "run"
    saver = checkpoint.Checkpoints(directory, ABOUT)
    for step in (1, 2):
        saver.save(step, tree(step), last=True)
    sync = files.sync
    if fault is not None:  # planted: half of the calls are forgotten
        monkeypatch.setattr(
            files, "sync", lambda p: p.is_dir() == (fault == "files") and sync(p)
        )
    saver.save(3, tree(3), last=True)
    saver.close()
    if fault is None:
        return assert_synced(events, directory, 3)
    with pytest.raises((AssertionError, ValueError)):
        assert_synced(events, directory, 3)


class Killed(BaseException):
    pass


def test_a_kill_at_any_call_leaves_a_whole_state(tmp_path, monkeypatch):
    saver = checkpoint.Checkpoints(tmp_path, ABOUT)
    saver.save(1, tree(1))
    saver.save(2, tree(2), last=True)
    saver.close()
    left, step = [], 3
    for last in range(0, 200, 3):
        calls = iter(range(last))

        def counted(function, calls=calls):
            def call(*args, **more):
                if next(calls, None) is None:
                    raise Killed
                return function(*args, **more)

            return call

        saver = checkpoint.Checkpoints(tmp_path, ABOUT)
        with monkeypatch.context() as patch:
            for name in ("fsync", "replace", "rmdir"):
                patch.setattr(os, name, counted(getattr(os, name)))
            with contextlib.suppress(Killed), saver._lock:
                saver.save(step, tree(step), last=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            left.append(int(checkpoint.read(tmp_path, tree(0))["step"]) - step)
        if left[-1] == 0:
            break
        step += 1
    assert left[0] < 0 and left[-1] == 0


# The lock -----------------------------------------------------------------------------

HOLD = """
import fcntl, os, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
file.write(f"pid {os.getpid()} on a machine")
file.flush()
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_run_is_told_who_has_the_directory(tmp_path):
    pytest.importorskip("fcntl")
    command = [sys.executable, "-c", HOLD, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "held\n"
            began = time.perf_counter()
            words = f"another process is running in .*: pid {other.pid} on a machine"
            for refused in (proceed, checkpoint.check_free):
                with pytest.raises(UsageError, match=words):
                    refused(tmp_path)
            assert time.perf_counter() - began < 1
        finally:
            other.kill()
    proceed(tmp_path)[0].close()  # a kill gives it back


def test_two_runs_of_one_process_exclude_each_other_too(tmp_path):
    pytest.importorskip("fcntl")
    saver, _ = proceed(tmp_path)
    with pytest.raises(UsageError, match=f"pid {os.getpid()} on"):
        proceed(tmp_path)
    saver.close()
    proceed(tmp_path)[0].close()
