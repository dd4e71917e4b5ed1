"""`zoo sweep`, `cross-validate` and `tune`: what is printed, written and refused."""

import csv
import json

import numpy as np
import pytest

from train.cli.asked import asked
from zoo.base import UsageError

DIGITS = "mlp --data digits --widths 8 --steps 40"


def columns(path):
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.contract
def test_a_sweep_leaves_tables_pictures_and_a_command(zoo, tmp_path):
    flags = "--learning-rate 1e-6,1e-2 --dropout 0,0.2 --seeds 3 --out s"
    flags += " --patience 9 --eval-every 4"
    status, out, _ = zoo(f"sweep {DIGITS} {flags}")
    assert status == 0
    wanted = {"search.json", "members", "members.csv", "settings.csv", "curves.png"}
    assert {path.name for path in (tmp_path / "s").iterdir()} == wanted | {"map.png"}
    members = columns(tmp_path / "s" / "members.csv")
    assert len(members["seed"]) == 12 and {"loss", "best_step"} < members.keys()
    best = columns(tmp_path / "s" / "settings.csv")
    scores = best["accuracy"].astype(float)
    assert len(scores) == 4 and (np.diff(scores) <= 0).all()
    assert set(best["learning_rate"][:2]) == {"0.01"}
    own = members["accuracy"].astype(float)[
        (members["learning_rate"] == "0.01")
        & (members["dropout"] == best["dropout"][0])
    ]
    assert scores[0] == pytest.approx(own.mean())
    assert float(best["deviation"][0]) == pytest.approx(own.std(ddof=1))
    said = json.loads((tmp_path / "s" / "search.json").read_text())["best"]
    assert said in out and said.startswith("zoo train mlp --data digits --widths 8")
    assert "--learning-rate 0.01" in said and "--patience 9 --eval-every 4" in said
    # and that command is one
    status, _, error = zoo(said.removeprefix("zoo ") + " --out t")
    assert status == 0, error


@pytest.mark.contract
def test_a_sweep_that_is_cut_goes_on(zoo, tmp_path, monkeypatch):
    from train.many import Population

    command = f"sweep {DIGITS} --learning-rate 1e-3,1e-2 --out s"
    on, calls = Population.on, []
    with monkeypatch.context() as patch:

        def cut(self, boundary):
            on(self, boundary)
            calls.append(boundary)
            if (
                len(calls) == 2
            ):  # after a save: before one there is nothing to go on with
                raise KeyboardInterrupt

        patch.setattr("train.many.sweeps.SECONDS", 0.0)
        patch.setattr(Population, "on", cut)
        assert zoo(command)[0] == 130
    status, _, error = zoo(command)
    assert status == 2 and "--resume" in error
    assert zoo(f"{command} --resume")[0] == 0
    assert zoo(command.replace("--out s", "--out whole"))[0] == 0
    one, two = (columns(tmp_path / name / "members.csv") for name in ("s", "whole"))
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


@pytest.mark.contract
def test_cross_validation_chooses_by_folds(zoo, tmp_path):
    flags = "--alpha 0.1,10,1e5 --folds 4 --simpler alpha --out c"
    status, out, _ = zoo(f"cross-validate ridge {flags}")
    assert status == 0
    found = columns(tmp_path / "c" / "settings.csv")
    assert found["alpha"][-1] == "100000.0" and len(found["alpha"]) == 3
    assert len(columns(tmp_path / "c" / "members.csv")["fold"]) == 12
    assert "zoo train ridge --alpha 10\n" in out  # the simplest of two alike


@pytest.mark.contract
def test_tuning_finds_a_rate(zoo, tmp_path):
    status, out, _ = zoo(
        f"tune {DIGITS} --learning-rate 1e-7..1e-1 --budget 2s --out t"
    )
    assert status == 0
    rate = float(out.split("--learning-rate ")[1].split()[0])
    assert 1e-3 < rate < 0.1
    reached = columns(tmp_path / "t" / "members.csv")
    assert len(reached["learning_rate"]) >= 4


@pytest.mark.contract
def test_a_quantity_is_judged_by_its_loss(zoo, tmp_path):
    flags = "--data diabetes --widths 4 --steps 20"
    status, out, _ = zoo(f"sweep mlp {flags} --seeds 2 --out o")
    tests = columns(tmp_path / "o" / "members.csv")["test_rmse"].astype(float)
    assert status == 0 and f"rmse {tests.mean():.4g}"[:8] in out.splitlines()[-1]
    flags += " --learning-rate 1e-3,1e-2"
    assert zoo(f"sweep mlp {flags} --out s")[0] == 0
    assert zoo(f"cross-validate mlp {flags} --batch-size 32 --folds 3 --out c")[0] == 0
    for name in ("s", "c"):
        assert "loss" in columns(tmp_path / name / "settings.csv")


def test_none_is_a_value_and_a_default_is_no_axis(tmp_path):
    flags = f"--ema None --learning-rate 0.01 --dropout 0.1,0.2 --out {tmp_path / 's'}"
    own = ("out", "seed"), 0.0
    wanted, experiment = asked("sweep", ["karate", *flags.split()], *own)
    assert experiment.training.ema is None and "--ema None" in wanted.command
    assert wanted.axes == {"dropout": [0.1, 0.2]}
    with pytest.raises(UsageError, match="expected numbers for dropout, as 0.1,0.3"):
        asked("sweep", ["karate", "--dropout", "None"], *own)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            "sweep mlp --batch-norm --microbatch 32 --learning-rate 0.1,1",
            "batch norm would see each by itself",
        ),
        ("sweep", "expected zoo sweep RECIPE [flags], one of linear, ridge"),
        ("sweep mpl", "unknown recipe 'mpl'; did you mean 'mlp'?"),
        ("sweep mlp --batch-size 16,32", "batch_size shapes the program"),
        ("sweep mlp --learning-rate 1e-3..", "as 0.1,0.3 or 1e-4..1e-1"),
        ("sweep mlp --learning-rate fast", "expected numbers for learning_rate"),
        ("sweep mlp --learning-rate 1e-3..1e-1", "expected samples with the range"),
        ("sweep mlp --learning-rate 1e-3,-1 --data digits", "learning rate > 0"),
        ("sweep mlp --data digits --seeds 0", "expected seeds between 1 and"),
        ("sweep mlp --data digits --eval-every 0", "expected eval_every"),
        ("sweep mlp --learning-rat 1", "perhaps you meant --learning-rate"),
        ("cross-validate cnn --data digits", "learns from rows, each by itself"),
        ("cross-validate karate", "share nothing, found the nodes of a graph"),
        (
            "cross-validate knowledge_graph --data clock --batch-size 9",
            "a fact asked from both ends",
        ),
        ("cross-validate ridge --folds 1", "expected folds between 2 and"),
        ("cross-validate ridge --simpler alpah --alpha 1,2", "did you mean 'alpha'"),
        ("tune mlp --data digits --budget soon", "a budget as 90s, 10m or 1h"),
        ("tune gan --data digits", "whose loss says how good"),
        ("sweep gan --data digits --patience 3", "expected no patience for gan"),
        ("tune linear", "numbers to tune: this recipe has none"),
        ("tune vae --data digits --beta 0.1..10", "that the loss is not made of"),
        ("sweep mlp --data digits --ema 1.5", "averaging decay in (0, 1), found 1.5"),
        ("cross-validate ridge --alpha 1,1,10", "each value of alpha once"),
        ("sweep lasso --accumulate 3", "does not divide into 3 parts"),
        ("cross-validate softmax --batch-size 32", "for lbfgs and newton"),
        ("cross-validate ridge --microbatch 221", "a batch size beside microbatch"),
        ("sweep linear --data t.csv --target y1,y2", "found no file at t.csv"),
    ],
)
def test_a_mistake_is_one_sentence(zoo, command, said):
    status, _, error = zoo(command)
    assert status == 2 and said in error and error.count("\n") == 1
