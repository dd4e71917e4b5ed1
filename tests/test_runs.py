"""Where runs go, what is there, two side by side; what a shell completes."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from train.cli import runs
from train.report import plot


def test_runs_number_themselves_and_are_listed_and_compared(zoo, tmp_path, monkeypatch):
    titles, curves = [], plot.curves
    monkeypatch.setattr(
        plot, "curves", lambda *a, **k: titles.append(k["title"]) or curves(*a, **k)
    )
    quick = "train linear --steps 20 --optimizer adam"
    status, said, _ = zoo("runs")
    assert status == 0 and said == "no runs in runs\n"
    status, _, said = zoo(f"{quick} --learning-rate 0.1 --resume")
    assert status == 0 and "no run in runs/linear to go on with: one begins" in said
    assert titles == ["linear on diabetes"]
    assert zoo(f"{quick} --learning-rate 0.3")[0] == 0
    status, said, _ = zoo("runs")
    assert status == 0 and "runs/linear " in said and "runs/linear-2 " in said
    first = json.loads((tmp_path / "runs/linear/result.json").read_text())
    assert f"{first['metrics']['r2']:.4f}" in said
    status, said, _ = zoo("compare runs/linear runs/linear-2")
    assert status == 0
    told = {line.split()[1]: line.split() for line in said.splitlines() if "│" in line}
    assert told["learning_rate"][3:6:2] == ["0.1", "0.3"] and "steps" not in told
    with Image.open(tmp_path / "compare.png") as picture:
        assert picture.size[0] > 1000
    # a run that is there may be replaced, a file that is not the run's may not
    # nor is one that is named like what a command writes; what one wrote goes along
    wrote = ("sample-0.png", "sample-1-3.png", "attention-a b.png", "alignment-x.png")
    for name in wrote:
        (tmp_path / "runs/linear" / name).touch()
    for name in ("notes.txt", "sample-of-mine.png", "sample-0.csv"):
        (tmp_path / "runs/linear" / name).write_text("what I saw")
        status, _, error = zoo(f"{quick} --out runs/linear --overwrite")
        assert status == 2 and name in error
        (tmp_path / "runs/linear" / name).unlink()
    assert (tmp_path / "runs/linear/result.json").exists()
    before = contents("runs/linear")
    for wrong in ("--optimizer sgd --learning-rate -1", "--accumulate 0"):
        assert zoo(f"{quick} {wrong} --out runs/linear --overwrite")[0] == 2
        assert contents("runs/linear") == before
    again = "--learning-rate 0.2 --out runs/linear --overwrite"
    assert zoo(f"{quick} {again}")[0] == 0
    config = json.loads((tmp_path / "runs/linear/config.json").read_text())
    assert config["arguments"]["learning_rate"] == 0.2
    assert not {".old", *wrote} & set(os.listdir("runs/linear"))
    # a start that is killed while it checks leaves the run to the next
    before = contents("runs/linear")
    (tmp_path / "runs/linear/.old").mkdir()
    for name in ("config.json", "checkpoints"):
        Path("runs/linear", name).rename(f"runs/linear/.old/{name}")
    Path("runs/linear/checkpoints").mkdir()
    assert zoo(f"{quick} --out runs/linear")[0] == 2
    assert contents("runs/linear") == before
    # what was resumed is the newest
    assert runs.place("linear", resume=True).name == "linear-2"
    assert runs.place("linear", resume=False).name == "linear-3"


def contents(folder):
    """The bytes of all files below a folder, by their paths."""
    return {p: p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def test_a_folder_of_others_is_no_run(zoo, tmp_path):
    for text in ("{}", "[" * 5000, '{"format": 1}'):
        (tmp_path / "runs/mine").mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs/mine/config.json").write_text(text)
        status, said, _ = zoo("runs")
        assert status == 0 and "runs/mine" in said and "?" in said
    for command, wrong in (
        ("runs nowhere", "nowhere"),
        ("compare runs/mine", "two runs"),
        ("compare runs/mine runs/other", "runs/mine"),
        ("train linear --overwrite --resume", "both"),
        ("train linear --out runs --overwrite", "expected a run to overwrite"),
    ):
        status, _, error = zoo(command)
        assert status == 2 and wrong in error, command


@pytest.mark.parametrize(
    "command, wrong",
    [
        ("linear --learning-rate -1 --optimizer sgd", "learning rate"),
        ("linear --data nowhere.csv --out deep/down", "nowhere.csv"),
        ("linear --accumulate 0", "accumulate"),
        ("simclr --data digits --labels 1000 --accumulate 2", "compares the examples"),
        ("multitask --weighting pcgrad --microbatch 32", "the gradients of tasks"),
    ],
)
def test_what_is_refused_leaves_nothing(zoo, tmp_path, command, wrong):
    status, _, error = zoo(f"train {command}")
    assert status == 2 and wrong in error
    assert not [*tmp_path.iterdir()]


def test_what_is_refused_leaves_a_folder_as_it_was(zoo, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/notes.txt").write_text("what I saw")
    (tmp_path / "free").mkdir()
    for out in ("runs/linear", "free"):
        assert zoo(f"train linear --accumulate 0 --out {out}")[0] == 2
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert found == {"runs", "runs/notes.txt", "free"}


def test_version_and_help(zoo):
    status, said, _ = zoo("--version")
    assert status == 0 and said.startswith("purezoo ")
    with pytest.raises(SystemExit) as end:
        zoo("help softmax")
    assert not end.value.code
    assert zoo("help")[0] == 0
    for wrong, meant in ("sofmax", "softmax"), ("predct", "predict"):
        status, _, error = zoo(f"help {wrong}")
        assert status == 2 and f"did you mean {meant!r}" in error


def test_bash_completes_commands_recipes_and_flags(zoo, tmp_path):
    status, script, _ = zoo("completion bash")
    assert status == 0
    (tmp_path / "zoo.bash").write_text(script)

    def completed(*words):
        typed = " ".join(f"'{word}'" for word in words)
        told = subprocess.run(
            ["bash", "-c", "source zoo.bash; "
             f"COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; "
             "$(complete -p zoo | sed 's/.*-F \\([^ ]*\\) .*/\\1/'); "
             'printf "%s\\n" "${COMPREPLY[@]}"'],
            cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return told.stdout.split()

    assert {"train", "sweep", "completion"} <= set(completed("zoo", ""))
    assert completed("zoo", "trai") == ["train"]
    assert "softmax" in completed("zoo", "train", "so")
    assert "--learning-rate" in completed("zoo", "train", "mlp", "--learn")
    assert zoo("completion tcsh")[0] == 2
