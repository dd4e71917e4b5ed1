"""The commands as a user types them: what they print, write and refuse."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from tests.conftest import quick, with_rows
from tests.test_download import cifar_batches, cifar_file
from train import __main__ as entry
from train.cli.main import main
from train.data import download
from train.recipes import saved

ROOT = Path(__file__).parent.parent
FILES = {"config.json", "metrics.jsonl", "checkpoints", "result.json", "curves.png"}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Each test in a folder of its own, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("train.cli.main._cache", lambda: None)  # the tests have theirs
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run of the main job."""
    out = tmp_path_factory.mktemp("run") / "cnn"
    code = main(["train", "cnn", "--steps", "30", "--no-augment", "--out", str(out)])
    assert code == 0
    return out


def test_train_leaves_a_whole_run(trained):
    names = {path.name for path in trained.iterdir()}
    assert FILES | {"confusion.png"} <= names
    result = json.loads((trained / "result.json").read_text())
    assert {"recipe", "metrics", "steps", "seconds", "parameters"} < set(result)
    assert result["steps"] == 30 and result["parameters"] == 121_930
    assert result["examples_per_second"] > 0
    assert result["evaluated"] == "test"
    scores = result["metrics"]
    wanted = "accuracy precision recall f1 log_loss roc_auc confusion per_class"
    assert set(wanted.split()) <= set(scores)
    assert np.sum(scores["confusion"]) == 1000
    assert np.trace(scores["confusion"]) == pytest.approx(1000 * scores["accuracy"])
    lines = [
        json.loads(x) for x in (trained / "metrics.jsonl").read_text().split("\n")[:-1]
    ]
    assert [line["step"] for line in lines] == list(range(1, 31))
    assert lines[-1]["test_accuracy"] == pytest.approx(scores["accuracy"], abs=1e-6)
    with Image.open(trained / "curves.png") as picture:
        assert picture.width > 400


def test_eval_measures_the_same_again(trained, capsys):
    accuracy = json.loads((trained / "result.json").read_text())["metrics"]["accuracy"]
    assert main(["eval", str(trained)]) == 0
    assert f"{accuracy:.4f}" in capsys.readouterr().out


def test_predict_reads_images_and_arrays(trained, here, capsys):
    with np.load(ROOT / "train" / "data" / "files" / "mnist5k.npz") as digits:
        x, y = digits["x_test"][:4], digits["y_test"][:4]
    np.savez("four.npz", x=x)
    Image.fromarray(x[0]).save("one.png")
    assert main(["predict", str(trained), "four.npz", "one.png"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 5 and rows[0] == rows[4]
    for row in rows:
        p = {name: float(value) for name, value in row.items() if name != "class"}
        assert len(p) == 10 and sum(p.values()) == pytest.approx(1, abs=1e-3)
        assert f"p({row['class']})" == max(p, key=lambda name: p[name])
    right = [row["class"] == str(label) for row, label in zip(rows[:4], y, strict=True)]
    assert sum(right) >= 3  # of a model that has 9 in 10 right


def test_own_csv_from_training_to_prediction(here, capsys):
    rng = np.random.default_rng(0)
    size, colour = rng.normal(5, 2, 120), rng.choice(["red", "blue"], 120)
    price = 3 * size + 10 * (colour == "red")
    lines = [f"{s},{c},{p}" for s, c, p in zip(size, colour, price, strict=True)]
    Path("houses.csv").write_text("size,colour,price\n" + "\n".join(lines) + "\n")
    command = "train linear --data houses.csv --target price --holdout 0.25 --out run"
    assert main(command.split()) == 0
    result = json.loads(Path("run/result.json").read_text())
    assert result["metrics"]["r2"] == pytest.approx(1, abs=1e-5)
    assert result["measured_on"] == "test data"
    os.remove("houses.csv")  # a model is used without the data it was trained on
    Path("new.csv").write_text("colour,size\nred,1\nblue,2\n")
    capsys.readouterr()
    assert main(["predict", "run", "new.csv"]) == 0
    name, *values = capsys.readouterr().out.split()
    assert name == "price"
    np.testing.assert_allclose([float(v) for v in values], [13, 6], rtol=1e-4)


@pytest.mark.contract
@pytest.mark.parametrize("kind", quick(["file", "folder"], "folder"))
def test_what_is_named_like_a_built_in_set_does_not_shadow_it(kind, here):
    for name in ("iris", "reverse"):
        Path(name).mkdir() if kind == "folder" else Path(name).write_text("nothing")
    assert main("train softmax --data iris --steps 2 --out run".split()) == 0
    assert main(["eval", "run"]) == 0
    flags = "--data reverse --features 8 --width 4 --steps 1 --out pairs"
    assert main(f"train seq2seq_lstm {flags}".split()) == 0
    config = json.loads(Path("run/config.json").read_text())
    assert config["arguments"]["data"] == config["schema"]["name"] == "iris"


def test_a_classifier_draws_and_writes_nothing(trained, capsys):
    for flags in ([], ["--n", "3"], ["--prompt", "The"]):
        assert main(["sample", str(trained), *flags]) == 2
        assert "draws or writes, found cnn" in capsys.readouterr().err


@pytest.mark.parametrize(
    "recipe", quick(["logistic", "softmax", "neuron", "mlp"], "mlp")
)
def test_own_npz_with_every_classifier(recipe, here):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 3))
    y = np.where(x[:, 0] > 0, "up", "down")
    np.savez("own.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    command = f"train {recipe} --data own.npz --out run --batch-size 60 --steps 150"
    assert main(command.split()) == 0
    result = json.loads(Path("run/result.json").read_text())
    assert result["metrics"]["accuracy"] > 0.9
    assert set(result["metrics"]["per_class"]) == {"down", "up"}


@pytest.mark.contract
def test_cifar10_trains_from_a_file_of_its_format(here, monkeypatch):
    path = Path("cache/cifar10/cifar-10-binary.tar.gz")
    path.parent.mkdir(parents=True)
    path.write_bytes(cifar_file(cifar_batches(8)))
    sums = {path.name: download.checksum(path)}
    source = download.SOURCES["cifar10"]._replace(files=sums)
    monkeypatch.setitem(download.SOURCES, "cifar10", source)
    monkeypatch.setenv("ZOO_DATA_DIR", "cache")
    command = "train cnn_cifar10 --steps 3 --batch-size 8 --out run"
    assert main(command.split()) == 0
    result = json.loads(Path("run/result.json").read_text())
    assert result["parameters"] == 167_562
    assert np.sum(result["metrics"]["confusion"]) == 8


def test_list_names_every_recipe(capsys):
    from train.recipes import RECIPES

    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for name in RECIPES:
        assert f" {name} " in out
    assert "accuracy >= 0.975" in out


@pytest.mark.contract
def test_early_stopping_restores_the_best(here, capsys):
    command = "train mlp --data iris --batch-size 16 --patience 2 --learning-rate 0.03"
    flags = "--out run --steps 4000 --eval-every 100"
    assert main([*command.split(), *flags.split()]) == 0
    result = json.loads(Path("run/result.json").read_text())
    lines = [json.loads(x) for x in Path("run/metrics.jsonl").read_text().splitlines()]
    losses = [line["watched_loss"] for line in lines if "watched_loss" in line]
    steps = [line["step"] for line in lines if "watched_loss" in line]
    assert steps == list(range(100, 100 * len(steps) + 1, 100))
    assert result["ended"] == "early" and result["steps"] < 4000
    # it chose the parameters: nobody should take it for the test data
    assert result["evaluated"] == "watched" and result["measured_on"] == "test data"
    assert "watched_loss" in capsys.readouterr().out
    assert not any(name.startswith("test_") for line in lines for name in line)
    assert min(losses) == losses[-3]  # two evaluations without a better one
    # the restored parameters are those of the best evaluation, not the last
    from train.evaluate import evaluate

    recipe, found = with_rows(Path("run")), saved.restore(Path("run"))
    best = evaluate(recipe.task, found.trained, recipe.parts.watched)["loss"]
    assert best == pytest.approx(min(losses), rel=1e-5)


MISTAKES = [
    ("trian cnn", "'train'"),
    ("train", "RECIPE"),
    ("train cnnn", "did you mean 'cnn'"),
    ("train linear --stpes 3", "--steps"),
    ("train linear --steps three", 'a whole number for --steps, found "three"'),
    ("train mlp --learning-rate fast", 'a number for --learning-rate, found "fast"'),
    ("train mlp --widths 9 b", 'for --widths, found "9 b"'),
    ("train linear --steps 0", "steps"),
    ("train linear --learning-rate -1 --optimizer sgd", "> 0, found -1"),
    ("train linear --optimizer sgd", "learning rate"),
    ("train linear --optimizer adm", "adm"),
    ("train linear --data diabets", "diabetes"),
    ("train linear --data none.csv --target y", "none.csv"),
    ("train linear --batch-size 1000 --optimizer sgd --learning-rate 0.1", "442"),
    ("train linear --seed -1", "seed"),
    ("train linear --devices 99", "devices"),
    ("train linear --process 1", "--distributed"),
    ("train linear --distributed --restarts 2", "--out"),
    ("train linear --holdout 1.5", "1.5"),
    ("train linear --data iris", "iris"),
    ("train logistic --data iris", "try softmax"),
    ("train cnn --data iris", "try mlp"),
    ("train mlp --dropout 1.0", "dropout"),
    ("train mlp --widths 0", "widths"),
    ("train ridge --alpha -1", "alpha"),
    ("train lstm --features 0", "features"),
    ("train char_lstm --layers 0", "layers"),
    ("train autoencoder --latent 0", "outputs between 1"),
    ("train vae --beta -1", "beta"),
    ("train mlp --learning-rate nan", "learning rate"),
    ("train linear --data bad.npz", "nan at index [1, 1]"),
    ("train softmax --data labels.npz", "7"),
    ("train softmax --data empty.npz", "empty"),
    ("train linear --data gaps.csv --target y --missing refuse", "1 missing"),
    ("eval nowhere", "nowhere"),
    ("predict nowhere x.npz", "nowhere"),
    ("predict", "DIR"),
    ("list all", "all"),
]


@pytest.mark.parametrize("command, words", MISTAKES)
def test_a_mistake_is_one_sentence_and_status_2(command, words, here, capsys):
    x = np.arange(20.0).reshape(10, 2)
    np.savez("bad.npz", x_train=np.where(x == 3, np.nan, x), y_train=x[:, 0] + 0.5)
    y = np.arange(10) % 2
    np.savez("labels.npz", x_train=x, y_train=y, x_test=x, y_test=y + 6)
    np.savez("empty.npz", x_train=x[:0], y_train=y[:0])
    Path("gaps.csv").write_text("a,y\n1,2\n,3\n4,5\n")
    assert main(command.split()) == 2
    said = capsys.readouterr()
    text = said.err or said.out
    assert words in text and "Traceback" not in text
    assert len(said.err.splitlines()) <= 1
    assert not Path("runs").exists() or not list(Path("runs").rglob("config.json"))


def test_a_wrong_choice_is_one_sentence_on_a_terminal_too(capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    for command, said in (
        ("train mlp --activation relo", "'relo'; did you mean 'relu'? expected one of"),
        ("train mlp --stpes 3", "Unrecognized options: --stpes, 3; perhaps you meant"),
    ):
        assert main(command.split()) == 2
        text = capsys.readouterr().err
        assert said in text and "\x1b" not in text and text.count("choice") == 0


def test_a_run_is_never_overwritten(trained, here, capsys):
    before = (trained / "result.json").read_bytes()
    short = ["--steps", "30", "--no-augment", "--out", str(trained)]
    assert main(["train", "cnn", *short]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["train", "cnn", "--resume", "--out", str(trained), "--seed", "5"]) == 2
    assert "seed" in capsys.readouterr().err
    assert main(["train", "cnn", "--resume", "--out", str(trained)]) == 0  # complete
    assert (trained / "result.json").read_bytes() == before
    Path("mine").mkdir()
    Path("mine/thesis.tex").write_text("years of work")
    assert main(["train", "linear", "--out", "mine"]) == 2
    assert "other files" in capsys.readouterr().err


def test_divergence_is_reported_and_nothing_is_called_a_result(here, capsys):
    flags = "--optimizer sgd --learning-rate 1000 --steps 200 --out run"
    assert main(["train", "linear", *flags.split()]) == 2
    said = capsys.readouterr().err
    assert "diverged" in said and "of the good states" in said
    assert not Path("run/result.json").exists()


def start(out, *more, recipe=("mlp", "--steps", "3000")):
    command = (
        "from train.cli.main import main; import sys; sys.exit(main(sys.argv[1:]))"
    )
    flags = ["train", *recipe, "--out", str(out), *more]
    path = os.environ.get("PYTHONPATH", "")
    return subprocess.Popen(
        [sys.executable, "-c", command, *flags],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{path}"},
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_for_step(out, step, seconds=120, every=30):
    """Until the run has logged a step."""
    end = time.time() + seconds
    log = out / "metrics.jsonl"
    while time.time() < end:
        if log.exists() and log.read_text().count("\n") >= step // every:
            return
        time.sleep(0.02)
    raise AssertionError(f"no step {step} after {seconds} s")


def assert_equal_runs(whole, cut):
    """The same parameters bit for bit, the same scores, a log without a seam."""
    states = (saved.restore(out).trained for out in (whole, cut))
    jax.tree.map(np.testing.assert_array_equal, *states)
    logs = [(out / "metrics.jsonl").read_text().splitlines() for out in (whole, cut)]
    steps = [[json.loads(line)["step"] for line in log] for log in logs]
    assert set(steps[0]) <= set(steps[1])
    assert steps[1] == sorted(set(steps[1]))
    results = [json.loads((out / "result.json").read_text()) for out in (whole, cut)]
    assert results[0]["metrics"] == results[1]["metrics"]


@pytest.mark.slow
def test_the_main_job_killed_halfway_ends_bit_equal(here):
    whole, cut = here / "whole", here / "cut"
    start(whole, recipe=["cnn"]).communicate(timeout=400)
    killed = start(cut, recipe=["cnn"])
    wait_for_step(cut, 1000, seconds=300, every=20)
    killed.kill()
    killed.communicate()
    assert not (cut / "result.json").exists()
    start(cut, "--resume", recipe=["cnn"]).communicate(timeout=400)
    assert_equal_runs(whole, cut)


@pytest.mark.slow
def test_killed_and_interrupted_runs_end_bit_equal_to_an_uninterrupted_one(here):
    whole, cut = here / "whole", here / "cut"
    one = start(whole)
    one.communicate(timeout=200)
    assert one.returncode == 0
    two = start(cut)
    wait_for_step(cut, 600)
    two.send_signal(signal.SIGINT)
    said = two.communicate(timeout=60)[0]
    assert two.returncode == 130
    assert "--resume" in said
    assert not (cut / "result.json").exists()
    three = start(cut, "--resume")
    wait_for_step(cut, 1500)
    three.kill()
    three.communicate()
    assert not (cut / "result.json").exists()
    four = start(cut, "--resume")
    four.communicate(timeout=200)
    assert four.returncode == 0
    assert_equal_runs(whole, cut)


@pytest.mark.parametrize(
    "switch, before, after",
    [
        ("always [madvise] never", None, "glibc.malloc.hugetlb=1"),
        ("always [madvise] never", "a.b=2", "a.b=2:glibc.malloc.hugetlb=1"),
        ("always [madvise] never", "glibc.malloc.hugetlb=0", None),
        ("[always] madvise never", None, None),
        (None, None, None),
    ],
)
def test_zoo_starts_again_where_huge_pages_are_for_who_asks(
    switch, before, after, here, monkeypatch
):
    started = []
    monkeypatch.setattr(entry.os, "execv", lambda *args: started.append(args))
    monkeypatch.setattr(entry, "SWITCH", here / "enabled")
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setenv(entry.BEGUN, "")  # and after the test it is not there
    if switch is not None:
        (here / "enabled").write_text(switch + "\n")
    if before is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", before)
    entry.huge_pages()
    command = [sys.executable, *sys.orig_argv[1:]]
    assert started == ([(sys.executable, command)] if after else [])
    assert os.environ.get("GLIBC_TUNABLES") == (after or before)


def test_zoo_starts_again_once_where_the_loader_hides_the_setting(here):
    """As from a Python with file capabilities."""
    (here / "enabled").write_text("always [madvise] never\n")
    loader, begin = here / "python", here / "begin.py"
    loader.write_text(f'#!/bin/sh\nexec env -u GLIBC_TUNABLES {sys.executable} "$@"\n')
    loader.chmod(0o700)
    begin.write_text(f"""
import os, pathlib, sys
from train import __main__ as entry
with open("starts", "a") as file:
    file.write("x")
assert os.path.getsize("starts") < 5
entry.SWITCH = pathlib.Path("enabled")
sys.executable = {str(loader)!r}
entry.huge_pages()
assert entry.BEGUN not in os.environ  # a command that this one starts is another
""")
    env = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    env |= {"PYTHONPATH": str(ROOT)}
    subprocess.run([loader, begin], env=env, cwd=here, check=True, timeout=60)
    assert (here / "starts").read_text() == "xx"


def test_the_command_is_there_as_a_module_too():
    env = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-m", "train", "tarin"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "train" in done.stderr
