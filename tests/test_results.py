"""`zoo results`: scores over seeds, kept, shown, and put into a page."""

import json
from pathlib import Path

import numpy as np
import pytest

from train.checkpoint import read_json
from train.cli import results, tables
from train.data import Split
from train.loop import fit
from train.recipes import RECIPES, prepare
from zoo.base import UsageError

ROOT = Path(__file__).parent.parent
AWAY = (
    "cifar10",
    "cora",
    "umls",
    "movielens_small",
    "fsdd",
)  # data that may not be at hand
RESULTS = ROOT / "benchmarks" / "results"
PAGE = f"# Page\n\nbefore\n\n{results.BEGIN}\nold\n{results.END}\n\nafter\n"


@pytest.mark.contract
def test_scores_over_seeds_are_kept_and_shown(zoo, tmp_path):
    (tmp_path / "page.md").write_text(PAGE)
    command = "results logistic linear --seeds 3 --out r --page page.md"
    status, out, _ = zoo(command)
    assert status == 0 and "logistic" in out
    found = json.loads((tmp_path / "r" / "logistic.json").read_text())
    assert found["parted"] == "by seed" and found["metric"] == "accuracy"
    for seed in (0, 2):  # each has rows and weights of its own
        recipe = prepare(RECIPES["logistic"], Split("breast_cancer", 0.0, seed))
        alone = fit(
            *(recipe.task, recipe.optimizer, recipe.source()),
            steps=recipe.training.steps,
            seed=seed,
            progress=False,
        )
        wanted = recipe.report.measure(alone.trained, recipe.parts).scores
        for name in ("accuracy", "log_loss"):
            score = found["scores"][name][seed]
            assert score == pytest.approx(wanted[name], rel=1e-3)
    assert len(set(found["scores"]["log_loss"])) == 3
    whole = json.loads((tmp_path / "r" / "linear.json").read_text())
    assert whole["parted"] == "once" and np.std(whole["scores"]["r2"]) < 1e-6
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("# Page\n\nbefore\n") and page.endswith("\nafter\n")
    # in the order of the table of recipes, whatever was asked for first
    assert page.index("| `linear` |") < page.index("| `logistic` |")
    mean = np.mean(found["scores"]["accuracy"])
    assert f"accuracy {mean:.3f}" in page and "old" not in page
    assert not (tmp_path / "r" / ".members" / "logistic").exists()


@pytest.mark.contract
def test_what_is_there_is_trained_again_only_if_it_is_old(zoo, tmp_path, monkeypatch):
    assert zoo("results ridge --seeds 2 --out r")[0] == 0
    path = tmp_path / "r" / "ridge.json"
    found = json.loads(path.read_text())
    assert not results.old("ridge", found)
    path.write_text(json.dumps(found | {"date": "then"}))
    assert zoo("results ridge --seeds 2 --out r")[0] == 0
    assert json.loads(path.read_text())["date"] == "then"
    # a setting that came later had its default, one that is gone was another training
    training = dict(found["training"])
    assert results.old("ridge", found | {"training": training | {"gone": 1}})
    del training["microbatch"]
    assert not results.old("ridge", found | {"training": training})
    others = {k: 1.01 * value for k, value in found["probe"].items()}
    path.write_text(json.dumps(found | {"date": "then", "probe": others}))
    assert zoo("results ridge --seeds 2 --out r")[0] == 0
    assert json.loads(path.read_text()) == found | {
        "seconds": json.loads(path.read_text())["seconds"]
    }
    assert "then" not in zoo("results --out r")[1]


@pytest.mark.contract
def test_a_probe_tells_another_training():
    def numbers(**other):
        split = Split(other.pop("data", "digits"), 0.0, 0)
        return results.probe(prepare(RECIPES["mlp"], split, **other))

    first = numbers()
    assert numbers() == first

    def moved(**other):
        now = numbers(**other)
        return max(abs(now[k] / first[k] - 1) for k in first)

    for other in (
        {"learning_rate": 1.001e-3},
        {"dropout": 0.31},
        {"widths": (513,)},
        {"batch_size": 65},
        {"smoothing": 0.01},
        {"data": "mnist5k"},
    ):
        assert moved(**other) > results.NEAR, other


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((0.07, 0.08), "0.0750 ± 0.0071"),
        ((140.0, 150.0), "145.0 ± 7.1"),
        ((1000.0, 1400.0), "1200 ± 283"),
        ((1.0, 1.0, 1.0), "1 ± 0"),
        ((0.25,), "0.25"),
        ((0.5177, 0.5177 + 1e-9), "0.5177 ± 0"),
    ],
)
def test_a_score_has_the_digits_of_its_deviation(values, text):
    assert tables.spread(values) == text


def test_the_readme_has_the_scores_that_were_measured():
    """Every recipe that was measured, as `zoo results --page README.md` has it.

    Only those whose data may not be at hand may lack a measurement.
    """
    names = [name for name in RECIPES if (RESULTS / f"{name}.json").exists()]
    assert all(RECIPES[name].data in AWAY for name in RECIPES if name not in names)
    found = [read_json(RESULTS / f"{name}.json") for name in names]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text[text.index(results.BEGIN) : text.index(results.END)]
    assert results.markdown(found) in table.replace(results.OLDER, "")
    for each in found:
        assert len(set(map(len, each["scores"].values()))) == 1
        goal = RECIPES[each["recipe"]].goal
        assert each["goal"] == str(goal or "")


@pytest.mark.contract
def test_the_readme_says_which_scores_are_older_than_the_code():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in RESULTS.glob("*.json"):
        name = path.stem
        line = next(x for x in text.splitlines() if x.startswith(f"| `{name}` |"))
        try:
            older = results.old(name, read_json(path))
        except UsageError:  # its data are not at hand
            assert RECIPES[name].data in AWAY
            continue
        assert (results.OLDER in line) == older, name


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("results lineer", "unknown recipe 'lineer'; did you mean 'linear'?"),
        ("results linear --seeds 1", "expected seeds between 2 and 1000"),
        ("results --out none", "there are no results in none"),
    ],
)
def test_a_mistake_is_one_sentence(zoo, command, said):
    status, _, error = zoo(command)
    assert status == 2 and said in error and error.count("\n") == 1


@pytest.mark.contract
def test_a_page_needs_its_marks(zoo, tmp_path):
    (tmp_path / "page.md").write_text("no marks")
    status, _, error = zoo("results ridge --seeds 2 --out r --page page.md")
    assert status == 2 and "each once" in error
    assert (tmp_path / "r" / "ridge.json").exists()
