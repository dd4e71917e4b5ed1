"""Loggers: what is read back of a file of events, and what a user is told."""

import json
import re
import struct
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tests.test_checkpoint import no_file_above
from tests.test_howto import BLOCK
from train.cli.disk import loggers
from train.disk.files import read_sealed
from train.log import FILE, TensorBoard
from zoo.base import UsageError

PAGE = Path(__file__).parent.parent / "docs" / "howto" / "log.md"


def events(folder):
    """Of the one file of events in a folder, read as TensorFlow's guide has it."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = Path(folder).glob("*tfevents*")
    data, found = path.read_bytes(), []
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    assert found[0].file_version == "brain.Event:2"
    times = [event.wall_time for event in found]
    assert times == sorted(times) and times[0] > 1e9
    return found[1:]


def points(folder):
    return [
        {"step": event.step} | {v.tag: v.simple_value for v in event.summary.value}
        for event in events(folder)
    ]


def lines(folder):
    """What metrics.jsonl has, the numbers as a file of events has them: float32."""
    said = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [
        {k: pytest.approx(v, rel=1e-6) for k, v in json.loads(x).items()} for x in said
    ]


def same(folder):
    """A point for each line, with the same numbers."""
    found = points(folder)
    wanted = [{k: v for k, v in x.items() if k != "seconds"} for x in lines(folder)]
    assert found == wanted
    return [point["step"] for point in found]


def at(step):
    return SimpleNamespace(step=step)


def test_a_run_is_logged_resumed_and_made_longer_in_one_file(zoo):
    Path("runs/neuron").mkdir(parents=True)
    Path("runs/neuron/kept").touch()
    assert zoo("train neuron --steps 8 --log tensorboard")[0] == 0
    out = Path("runs/neuron-2")
    assert same(out) == list(range(1, 9))
    assert {"loss", "grad_norm", "examples_per_second"} < set(points(out)[0])
    config = read_sealed(out / "config.json")
    assert config["options"]["log"] == "tensorboard"
    # points of steps that are done again, as a kill leaves them, and half of one
    log = TensorBoard(out)
    log(at(8), None)
    log(at(9), {"step": 9, "loss": 7.0})
    with (out / FILE).open("ab") as file:
        file.write(b"\x20\0\0\0")
    assert zoo(f"train neuron --longer 12 --out {out}")[0] == 0
    assert same(out) == list(range(1, 13))
    # a run in its place has a file of its own
    other = f"--steps 3 --log tensorboard --overwrite --out {out}"
    assert zoo(f"train neuron {other}")[0] == 0
    assert same(out) == [1, 2, 3]


def test_what_was_damaged_ends_the_file_and_no_run(tmp_path):
    for step in range(3):
        log = TensorBoard(tmp_path)  # goes on, each time
        log(at(step), None)
        log(at(step + 1), {"step": step + 1, "loss": step, "seconds": 1.0})
    assert [p["step"] for p in points(tmp_path)] == [1, 2, 3]
    assert points(tmp_path)[2] == {"step": 3, "loss": 2.0}
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[:-9] + b"\xff" + whole[-8:])
    log = TensorBoard(tmp_path)
    log(at(3), None)
    log(at(4), {"step": 4, "loss": 1.0})
    assert [p["step"] for p in points(tmp_path)] == [1, 2, 4]


def test_points_wait_for_a_disk_that_is_full(tmp_path):
    log, failed = TensorBoard(tmp_path), 0
    log(at(0), None)
    with no_file_above(700):
        for step in range(1, 40):
            try:
                log(at(step), {"step": step, "loss": 0.5})
            except OSError:
                failed += 1
    assert failed > 10
    log(at(40), {"step": 40, "loss": 0.5})
    assert [p["step"] for p in points(tmp_path)] == list(range(1, 41))


def test_a_full_disk_is_a_warning_of_a_run(tmp_path):
    (log,) = loggers("tensorboard", tmp_path)
    log(at(0), None)
    with no_file_above(300), pytest.warns(UserWarning, match="points of events"):
        for step in range(20):
            log(at(step), {"step": step, "loss": 0.5})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log(at(20), {"step": 20, "loss": 0.5})
    assert len(points(tmp_path)) == 21


def test_without_the_extra_nothing_begins(zoo, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX.proto.event_pb2", None)
    status, _, error = zoo("train ridge --steps 5 --log tensorboard")
    assert status == 2 and not Path("runs").exists()
    assert error == (
        "zoo: expected tensorboardX for a log: pip install 'purezoo[tensorboard]'\n"
    )
    with pytest.raises(UsageError, match="purezoo.tensorboard"):
        TensorBoard(".")


@pytest.mark.parametrize("command", ["sweep", "cross-validate", "tune"])
def test_a_search_says_that_it_logs_nothing(command, zoo):
    status, _, error = zoo(f"{command} ridge --alpha 0.1,1 --log tensorboard")
    assert status == 2 and "expected no --log" in error and "curves.png" in error


def test_the_loggers_of_the_page_send_what_they_are_told(monkeypatch):
    sent, wandb, mlflow = [], ModuleType("wandb"), ModuleType("mlflow")

    def log(record, step):
        sent.append((record, step))

    wandb.init = lambda **given: SimpleNamespace(log=log)
    mlflow.start_run, mlflow.log_metrics = lambda **given: None, log
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    scope = {}
    for kind, text in BLOCK.findall(PAGE.read_text()):
        if kind == "python" and re.match(r"def \w+_logger", text):
            exec(text, scope)
    for name in ("wandb_logger", "mlflow_logger"):
        logger = scope[name](project="x")
        logger(at(3), None)
        logger(at(4), {"step": 4.0, "loss": 0.5})
    assert sent == [({"step": 4.0, "loss": 0.5}, 4)] * 2
