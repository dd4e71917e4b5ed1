"""Saved states: what is kept, what a reader may touch, what a failure costs."""

import contextlib
import os
import shutil
import threading
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from train import checkpoint
from train.checkpoint import Checkpoints
from zoo.base import UsageError


def tree(step):
    return {"w": jnp.full(3, float(step))}


def saved(directory, *steps):
    """A directory with some steps saved in turn."""
    saver = Checkpoints(directory)
    for step in steps:
        saver.save(step, tree(step))
    saver.close()
    return directory


def listing(directory):
    """All names below a directory, and when each was changed."""
    paths = sorted(Path(directory).rglob("*"))
    return {str(path): path.stat().st_mtime_ns for path in (Path(directory), *paths)}


def test_checkpoints_leave_other_folders_alone(tmp_path):
    mine = "0", "1", "step_1", "cats", "cats.orbax-checkpoint-tmp"
    mine += "step_000000001.orbax-checkpoint-tmp", "step_000000002"
    for name in mine:
        (tmp_path / name).mkdir()
        (tmp_path / name / "image.png").write_text("mine")
    saved(tmp_path, *range(3, 8))
    for name in mine:
        assert (tmp_path / name / "image.png").read_text() == "mine"
    assert checkpoint.latest(tmp_path) == 7
    np.testing.assert_array_equal(checkpoint.read(tmp_path, tree(0))["w"], [7.0] * 3)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts files by Linux")
def test_saves_leave_no_files_and_threads_open(tmp_path):
    def held():
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    saver, counts = Checkpoints(tmp_path), []
    for step in range(1, 46):
        saver.save(step, tree(step))
        counts.append(held())
    saver.close()
    # at each count one save is under way, little or far: the least of ten says more.
    # The pools of threads are there after the first five.
    early, late = (np.min(part, 0) for part in (counts[5:15], counts[-10:]))
    files, threads = late - early
    # a save that leaves one open makes 30 of them; pools may still grow to their few
    assert files <= 15 and threads <= 15


def test_a_reader_touches_nothing(tmp_path):
    saved(tmp_path, 3, 4)
    half = tmp_path / ".saving" / "step_000000005"  # another process saves
    half.mkdir(parents=True)
    (half / "data").write_text("half")
    before = listing(tmp_path)
    assert checkpoint.latest(tmp_path) == 4
    np.testing.assert_array_equal(checkpoint.read(tmp_path, tree(0))["w"], [4.0] * 3)
    for other, words in (
        ({"v": jnp.zeros(2)}, r"expected float32 \[2\] at \['v'\], found nothing"),
        (
            {"w": jnp.zeros(2)},
            r"expected float32 \[2\] at \['w'\], found float32 \[3\]",
        ),
        ({"w": jnp.zeros(3, int)}, r"expected int32 \[3\] at \['w'\], found float32"),
        ({}, r"expected nothing at \['w'\], found float32 \[3\]"),
    ):
        with pytest.raises(UsageError, match=f"does not fit.*{words}"):
            checkpoint.read(tmp_path, other)
    assert listing(tmp_path) == before


def test_a_reader_makes_no_directory(tmp_path):
    assert checkpoint.latest(tmp_path / "none") is None
    with pytest.raises(UsageError, match="no state is saved"):
        checkpoint.read(tmp_path / "none", tree(0))
    assert list(tmp_path.iterdir()) == []


def test_a_state_deleted_while_it_is_read_is_looked_for_again(tmp_path, monkeypatch):
    saver = Checkpoints(tmp_path)
    saver.save(1, tree(1), last=True)
    load, asked = ocp.load, []

    def overtaken(path, like):
        asked.append(Path(path).name)
        if len(asked) == 1:  # two are kept: step 1 goes
            saver.save(2, tree(2), last=True)
            saver.save(3, tree(3), last=True)
        return load(path, like)

    monkeypatch.setattr(ocp, "load", overtaken)
    np.testing.assert_array_equal(checkpoint.read(tmp_path, tree(0))["w"], [3.0] * 3)
    assert asked == ["step_000000001", "step_000000003"]
    saver.close()


def test_reads_beside_a_writer_all_succeed(tmp_path):
    saved(tmp_path, 1)
    done = threading.Event()

    def write():
        saver = Checkpoints(tmp_path)
        step = 2
        while not done.is_set():
            saver.save(step, tree(step))
            step += 1
        saver.close()

    writer = threading.Thread(target=write)
    writer.start()
    found = []
    try:
        while len(found) < 20 or found[-1] < 6:
            values = np.unique(checkpoint.read(tmp_path, tree(0))["w"])
            assert len(values) == 1
            found.append(values[0])
    finally:
        done.set()
        writer.join()
    assert found == sorted(found)


def full(*args, **kwargs):
    raise OSError("No space left on device")


def test_a_disk_that_stays_full_is_one_warning(tmp_path, monkeypatch):
    saver = Checkpoints(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(ocp, "save_async", full)
        with pytest.warns(UserWarning, match="step 1 was not saved: No space") as seen:
            for step in (1, 2, 3):
                saver.save(step, tree(step))
        assert len(seen) == 1
        with pytest.raises(UsageError, match="step 3 was not saved: No space"):
            saver.save(3, tree(3), last=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saver.save(4, tree(4))
        saver.save(5, tree(5))  # waits for 4: a save has succeeded
    with monkeypatch.context() as patch:
        patch.setattr(ocp, "save_async", full)
        with pytest.warns(UserWarning, match="step 6 was not saved"):
            saver.save(6, tree(6))
    saver.close()
    assert checkpoint.latest(tmp_path) == 5


@contextlib.contextmanager
def no_file_above(size):
    """As on a full disk: what is written beyond `size` bytes of a file fails."""
    resource = pytest.importorskip("resource")
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, kept[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)


def test_a_save_that_fails_in_the_background_leaves_nothing(tmp_path):
    big = {"w": jnp.asarray(np.random.default_rng(0).normal(size=100_000))}
    saver = Checkpoints(tmp_path)
    saver.save(1, tree(1), last=True)
    with no_file_above(100_000):
        with pytest.warns(UserWarning, match="step 2 was not saved"):
            saver.save(2, big)
            saver.save(3, tree(3), last=True)
        with pytest.raises(UsageError, match="step 4 was not saved"):
            saver.save(4, big, last=True)
    assert not (tmp_path / ".saving").exists()
    assert checkpoint.latest(tmp_path) == 3
    saver.save(5, big, last=True)
    saver.close()
    assert checkpoint.latest(tmp_path) == 5


def test_an_older_state_replaces_no_newer_one(tmp_path):
    saver = Checkpoints(tmp_path)
    saver.save(4, tree(4), last=True)
    with pytest.warns(UserWarning, match="step 3 was not saved: step 4 is saved"):
        saver.save(3, tree(3))
    with pytest.raises(UsageError, match="step 2 was not saved: step 4 is saved"):
        saver.save(2, tree(2), last=True)
    saver.close()
    assert checkpoint.latest(tmp_path) == 4


def test_a_disk_without_room_is_seen_before_it_is_written(tmp_path, monkeypatch):
    saver = Checkpoints(tmp_path)
    room = shutil.disk_usage(tmp_path)._replace(free=10_000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: room)
        with pytest.warns(UserWarning, match=r"step 1.*full \(10,000 bytes are"):
            saver.save(1, tree(1))
    saver.save(2, tree(2))
    saver.close()
    assert checkpoint.latest(tmp_path) == 2
