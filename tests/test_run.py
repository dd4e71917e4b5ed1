"""A run's directory: who may have it, what a reader and a full disk leave of it."""

import fcntl
import functools
import json
import re
import warnings
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from tests.conftest import with_rows
from tests.test_checkpoint import listing, no_file_above
from train import loop
from train.cli import run
from train.cli.disk import Log
from train.disk.files import write_sealed
from train.recipes import RECIPES, saved
from zoo.base import UsageError

GOOD = {"loss": 0.5, "examples_per_second": 10.0, "seconds": 1.0}


def train(out, name="ridge", resume=False, seed=0, **arguments):
    arguments = {"steps": 12, **arguments}
    options = run.Options(seed=seed)
    return run.train(name, arguments, options, out, resume)


@pytest.mark.parametrize("longer", [False, True])
def test_a_run_is_described_once(longer, tmp_path, monkeypatch):
    out, written = tmp_path / "run", []
    if longer:
        train(out)

    def noted(write, path, value):
        written.append(path.name)
        write(path, value)

    for name in ("write_json", "write_sealed"):
        write = functools.partial(noted, getattr(run, name))
        monkeypatch.setattr(run, name, write)
    flags = {"steps": 20}
    assert run.train("ridge", flags, run.Options(), out, longer, longer).steps == 20
    assert written == ["config.json", "result.json"]


@pytest.mark.contract
def test_a_finished_run_trains_longer(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(whole, steps=20)
    train(cut)
    assert run.train("ridge", {"steps": 20}, run.Options(), cut, True, True).steps == 20
    jax.tree.map(
        np.testing.assert_array_equal,
        *(saved.restore(out).trained for out in (whole, cut)),
    )
    assert steps(cut / "metrics.jsonl") == list(range(1, 21))
    assert json.loads((cut / "config.json").read_text())["arguments"]["steps"] == 20
    for wrong, words in ((19, "more than the 20 steps"), (20, None)):
        again = {"steps": wrong}
        if words is None:  # it is done
            run.train("ridge", again, run.Options(), cut, True, True)
            continue
        with pytest.raises(UsageError, match=words):
            run.train("ridge", again, run.Options(), cut, True, True)
    # a schedule is another one over more steps: killed before its first save, too
    flags = {"steps": 6, "data": "iris", "widths": (4,), "batch_size": 16}
    out = tmp_path / "mlp"
    train(out, "mlp", **flags)
    config = json.loads((out / "config.json").read_text())
    config["arguments"]["steps"] = 9
    config.pop("seal")
    write_sealed(out / "config.json", config)
    (out / "result.json").unlink()
    longer = flags | {"steps": 9}
    assert run.train("mlp", longer, run.Options(), out, True, True).steps == 9


def at(step):
    """A state at a step, as a callback gets it."""
    return SimpleNamespace(step=step)


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_restore_touches_nothing(tmp_path):
    out = tmp_path / "run"
    train(out)
    half = out / "checkpoints" / "step_000000013.orbax-checkpoint-tmp"
    half.mkdir()  # another process trains here, and saves
    (half / "data").write_text("half")
    before = listing(out)
    with (out / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        saved.restore(out)
        with_rows(out)
    assert listing(out) == before


def test_restore_of_a_run_without_states_makes_no_folder(tmp_path):
    out = tmp_path / "run"
    train(out)
    (out / "checkpoints").rename(tmp_path / "elsewhere")
    before = listing(out)
    with pytest.raises(UsageError, match="saved no state yet"):
        saved.restore(out)
    assert listing(out) == before


def test_a_run_that_begins_while_another_prepares_is_refused(tmp_path, monkeypatch):
    out, refused = tmp_path / "run", []
    recipe = RECIPES["ridge"]

    @functools.wraps(recipe.load)
    def slow(request, **flags):
        # the data load: another process starts in the same directory
        with pytest.raises(UsageError, match="another process") as error:
            train(out, "lasso")
        refused.append(error)
        return recipe.load(request, **flags)

    monkeypatch.setitem(RECIPES, "ridge", recipe._replace(load=slow))
    train(out)
    assert len(refused) == 1
    assert json.loads((out / "config.json").read_text())["recipe"] == "ridge"
    assert json.loads((out / "result.json").read_text())["recipe"] == "ridge"


def test_a_directory_that_another_process_holds_is_left_alone(tmp_path):
    out = tmp_path / "run"
    train(out)
    (out / "result.json").unlink()
    with (out / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = listing(out)
        with pytest.raises(UsageError, match="another process is running in"):
            train(out, resume=True)
        # opening the lock does not change it
        assert listing(out) == before


def test_a_run_that_began_before_the_lock_was_ours_is_seen(tmp_path, monkeypatch):
    out, lock = tmp_path / "run", run.hold

    def late(directory):
        monkeypatch.setattr(run, "hold", lock)
        train(directory, "lasso")
        return lock(directory)

    monkeypatch.setattr(run, "hold", late)
    with pytest.raises(UsageError, match="already holds a run"):
        train(out)
    assert json.loads((out / "config.json").read_text())["recipe"] == "lasso"


def test_a_refused_directory_gets_no_lock(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    before = listing(tmp_path)
    with pytest.raises(UsageError, match="other files"):
        train(tmp_path)
    assert listing(tmp_path) == before


@pytest.mark.parametrize("resume", [False, True])
def test_states_without_a_config_are_not_continued(tmp_path, resume):
    out = tmp_path / "run"
    train(out)
    for path in list(out.iterdir()):
        if path.is_file():
            path.unlink()
    with pytest.raises(UsageError, match="config.json is gone"):
        train(out, resume=resume, steps=20)


def test_what_a_killed_start_left_is_no_obstacle(tmp_path):
    out = tmp_path / "run"
    (out / "checkpoints" / ".saving").mkdir(parents=True)
    (out / "checkpoints" / ".lock").touch()
    (out / ".lock").touch()
    (out / "config.json.part").write_text('{"recipe"')
    assert train(out).result is not None
    assert not (out / "config.json.part").exists()


def test_damaged_lines_of_the_log_are_skipped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    good = [json.dumps({"step": step, **GOOD}) for step in (1, 2, 3, 4, 9)]
    bad = ["3", "{}", '{"step": 2}', '{"step": "2", "loss', "null", "\0\0", '["step"]']
    bad.append(json.dumps({"step": 3, **GOOD, "loss": "nan"}))
    lines = [good[0], *bad[:4], good[1], good[2], *bad[4:], good[3], good[4]]
    path.write_bytes("\n".join(lines).encode() + b"\n\xff\xfe")
    log = Log(path)
    log(at(5), None)  # what came after step 5 is done again
    log(at(6), {"step": 6, **GOOD})
    assert [record["step"] for record in log.records] == [1, 2, 3, 4, 6]
    assert steps(path) == [1, 2, 3, 4, 6]
    assert log.records[-1]["seconds"] == 2.0


def test_a_log_that_was_damaged_does_not_stop_a_run(tmp_path):
    out = tmp_path / "run"
    train(out)
    (out / "result.json").unlink()
    lines = (out / "metrics.jsonl").read_text().splitlines()
    (out / "metrics.jsonl").write_text("\n".join([*lines[:4], "3", "{}", *lines[5:]]))
    assert train(out, resume=True).steps == 12
    assert steps(out / "metrics.jsonl") == [1, 2, 3, 4, *range(6, 13)]
    (out / "result.json").unlink()
    (out / "metrics.jsonl").unlink()
    with pytest.raises(UsageError, match="lost the lines"):
        train(out, resume=True)


def test_a_full_disk_is_one_warning_of_the_log_and_loses_none(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = Log(path)
    log(at(0), None)
    with (
        no_file_above(1000),
        pytest.warns(UserWarning, match="metrics.jsonl.*File too large") as seen,
    ):
        for step in range(1, 50):
            log(at(step), {"step": step, **GOOD})
    assert len(seen) == 1
    assert len(log.records) == 49
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log(at(50), {"step": 50, **GOOD})
        log(at(51), {"step": 51, **GOOD})
    assert steps(path) == list(range(1, 52))


def test_pictures_that_cannot_be_written_do_not_end_a_run(tmp_path, monkeypatch):
    from tests.conftest import SMALL

    show, failed = run.show, []

    def full(drawn, path, columns, *, film=False):
        if film and len(failed) < 3:
            failed.append(path)
            raise OSError("No space left on device")
        return show(drawn, path, columns, film=film)

    monkeypatch.setattr(run, "show", full)
    out = tmp_path / "run"
    with pytest.warns(UserWarning, match="a picture was not written.*No space") as seen:
        train(out, "bernoulli_mixture", **{**SMALL["bernoulli_mixture"], "steps": 6})
    assert len(seen) == 1 and len(failed) == 3
    assert len(list((out / "samples").glob("*.npy"))) == 3


@pytest.mark.contract
def test_reading_beside_a_run_that_trains(tmp_path, monkeypatch):
    out, fit, seen = tmp_path / "run", loop.fit, []

    class Reading(Log):
        def __call__(self, state, record):
            super().__call__(state, record)
            if record and record["step"] > 6:
                seen.append(saved.restore(out).trained.params)

    def frequent(*args, **options):
        return fit(*args, **options, save_seconds=0.0)

    monkeypatch.setattr(run, "Log", Reading)
    monkeypatch.setattr(loop, "fit", frequent)
    train(out)
    assert len(seen) == 6
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(seen))


def test_a_run_that_diverges_keeps_its_last_good_state(tmp_path):
    out = tmp_path / "run"
    rate = {"optimizer": "sgd", "learning_rate": 30.0, "steps": 400}
    with pytest.raises(UsageError, match=r"diverged.*that of step \d+ is saved") as e:
        train(out, "linear", **rate)
    step = int(re.search(r"that of step (\d+) is saved", str(e.value))[1])
    assert 0 < step < 400 and steps(out / "metrics.jsonl")[-1] == step
    leaves = jax.tree.leaves(saved.restore(out).trained)
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert not (out / "result.json").exists()


def test_data_that_changed_are_not_measured_with_the_old_statistics(tmp_path):
    table = tmp_path / "table.csv"
    x = np.arange(40.0)
    lines = [f"{a},{2 * a + 1}" for a in x]
    table.write_text("\n".join(["a,b", *lines]))
    out = tmp_path / "run"
    train(out, data=str(table), target="b")
    with_rows(out)
    table.write_text("\n".join(["a,b", *lines[:-9]]))
    with pytest.raises(UsageError, match="data have changed since"):
        with_rows(out)
