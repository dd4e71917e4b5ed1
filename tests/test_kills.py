"""SIGKILL at any time: what goes on afterwards ends bit-equal, and redoes little."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.conftest import TWINS, small
from tests.test_cli import ROOT, assert_equal_runs, start, wait_for_step
from tests.test_contract_fit import fit
from train import checkpoint
from train.cli import restart
from train.recipes import RECIPES

STEPS, KILLS = 10, 2
TRAIN = """
import json, sys
import jax, numpy as np
from pathlib import Path
from tests.conftest import small
from tests.test_kills import trained
for name, folder in json.loads(sys.argv[1]).items():
    if not Path(folder + ".npz").exists():
        leaves = jax.tree.leaves(trained(small(name), Path(folder)))
        np.savez(folder + ".part.npz", *map(np.asarray, leaves))
        Path(folder + ".part.npz").rename(folder + ".npz")
"""


def trained(recipe, folder=None):
    """The last state; with a folder, a step takes a while, and all are saved."""

    def slow(state, record):
        if record and folder:
            with (folder.parent / f"{folder.name}.log").open("a") as file:
                file.write(f"{record['step']}\n")
            time.sleep(0.05)

    more = {"checkpoints": folder, "resume": folder is not None, "save_seconds": 0.0}
    more |= {"ema": recipe.training.ema, "seed": 7, "log_every": 1}
    return fit(recipe, steps=STEPS, callbacks=[slow], **more).state


def kill_while_it_trains(command, folder, rng):
    """Start, and kill at some time after the first save; (steps told, step saved)."""
    with subprocess.Popen(command, cwd=ROOT) as child:
        while checkpoint.latest(folder) is None and child.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 1))
        child.kill()
    log = folder.parent / f"{folder.name}.log"
    return int(log.read_text().split()[-1]), checkpoint.latest(folder)


@pytest.fixture(scope="module")
def killed(request, tmp_path_factory):
    """Each recipe asked for, trained by a process that is killed again and again."""
    rng, base = random.Random(0), tmp_path_factory.mktemp("killed")
    folders = {
        item.callspec.params["name"]: str(base / item.callspec.params["name"])
        for item in request.session.items
        if "killed" in getattr(item, "fixturenames", ())
    }
    command = [sys.executable, "-c", TRAIN, json.dumps(folders)]
    lost = {}
    for name, folder in folders.items():
        told = [kill_while_it_trains(command, Path(folder), rng) for _ in range(KILLS)]
        lost[name] = [step - saved for step, saved in told]
        one = [*command[:-1], json.dumps({name: folder})]
        subprocess.run(one, cwd=ROOT, check=True)
    return folders, lost


LONG = [pytest.mark.slow, pytest.mark.long]
FEW = {"mlp": [pytest.mark.contract]}
KILLED = [pytest.param(n, marks=FEW.get(n, LONG)) for n in RECIPES if n not in TWINS]


@pytest.mark.parametrize("name", KILLED)
def test_killed_again_and_again_it_ends_bit_equal(name, killed):
    folders, lost = killed
    straight = jax.tree.leaves(trained(small(name)))
    with np.load(folders[name] + ".npz") as found:
        for key, leaf in zip(found.files, straight, strict=True):
            np.testing.assert_array_equal(found[key], leaf)
    # what was told after the last save but one, which may still be under way
    assert max(lost[name]) <= 2


def test_what_crashes_is_started_again(tmp_path, monkeypatch, capsys):
    ends, commands, config = [], [], tmp_path / "config.json"

    def status(command):
        commands.append(command)
        config.write_text(str(len(commands)))  # the run begins
        end = ends.pop(0)
        if end == "failed":  # by its scores
            (tmp_path / "result.json").touch()
        return 1 if end == "failed" else end

    monkeypatch.setattr(restart, "_status", status)
    for ended, given, expected in (
        ([0], 3, 0),
        ([2], 3, 2),
        ([130], 3, 130),
        ([-9, 1, -11, 0], 3, 0),
        ([-9, 1, -11, -9, 0], 3, 128 + 9),
        ([1, 0], 1, 0),
        (["failed"], 1, 1),
    ):
        ends[:], commands[:] = ended, []
        runs = min(len(ended), given + 1)
        for name in ("result.json", "config.json"):
            (tmp_path / name).unlink(missing_ok=True)
        argv = ["mlp", "--overwrite", "--restarts", "3"]
        assert restart.restarted(argv, tmp_path, given) == expected
        first, *more = (" ".join(command) for command in commands)
        assert first.endswith(f"--out {tmp_path} --restarts 0")
        assert all("--no-overwrite --resume" in each for each in more)
        assert len(commands) == runs
        crashes = len(commands) - (expected != 128 + 9)
        assert capsys.readouterr().err.count("ended by") == crashes


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks Linux")
def test_a_training_that_is_killed_is_started_again(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    start(whole).communicate(timeout=200)
    run = start(cut, "--restarts", "2")
    for step in (900, 1800):
        wait_for_step(cut, step)
        tasks = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text()
        subprocess.run(["kill", "-KILL", *tasks.split()], check=True)
    run.communicate(timeout=200)
    assert run.returncode == 0
    assert_equal_runs(whole, cut)


def told(out):
    """The step of the last line of a run's log that is whole, 0 without one."""
    log = out / "metrics.jsonl"
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks Linux")
def test_a_kill_a_minute_costs_little(tmp_path, record_property):
    """What is reached after three kills, as a share of what would be without."""
    recipe = ("cnn", "--steps", "40000")
    run = start(tmp_path, "--restarts", "9", recipe=recipe)
    began, seen = time.time(), []
    for minute in (1, 2, 3, 4):
        while time.time() < began + 60 * minute:
            seen.append((time.time() - began, told(tmp_path)))
            time.sleep(0.1)
        if minute < 4:
            tasks = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text()
            subprocess.run(["kill", "-KILL", *tasks.split()], check=True)
    took = time.time() - began
    run.terminate()
    run.communicate(timeout=60)
    end = checkpoint.latest(tmp_path / "checkpoints")
    assert end is not None
    # the pace without a kill: from the first line to the last before the first kill
    lines = [(at, step) for at, step in seen if step and at < 60]
    (first, step), (last, reached) = lines[0], max(lines, key=lambda line: line[1])
    last = next(at for at, step in lines if step == reached)
    alone = first + (end - step) * (last - first) / (reached - step)
    goodput = alone / took
    record_property("figure", f"{goodput:.0%} of what is reached without a kill")
    assert goodput > 0.9, seen[:: len(seen) // 40]


@pytest.mark.slow
def test_what_is_asked_to_stop_stops(tmp_path):
    run = start(tmp_path / "run", "--restarts", "2")
    wait_for_step(tmp_path / "run", 600)
    run.send_signal(signal.SIGTERM)
    assert "--resume" in run.communicate(timeout=60)[0]
    assert run.returncode == 130
