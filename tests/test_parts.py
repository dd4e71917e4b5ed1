"""Training, watched and test part: drawn by a seed, parted before anything is built."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from tests.conftest import with_rows
from train import data as sets
from train.cli import run
from train.cli.main import main
from train.data import pairs, text
from train.recipes import RECIPES, prepare
from zoo.base import UsageError


def raw(data, part):
    """A part's rows in their own units, each as bytes: they can be told apart."""
    x = part["x"] * np.float64(data.schema.scale) + np.float64(data.schema.mean)
    return {row.round(4).tobytes() for row in x + 0.0}


def same(a, b):
    assert a.schema == b.schema
    for one, other in zip(a[1:3], b[1:3], strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("name", ["diabetes", "digits", "japanese_vowels"])
def test_a_request_without_wishes_is_the_name(name):
    found = sets.load(sets.Split(name))
    assert found.watched is None
    same(found, sets.load(name))


def test_the_watched_part_is_parted_before_the_statistics():
    whole = sets.load("diabetes")
    found = sets.load(sets.Split("diabetes", watched=0.1))
    parts = [raw(found, part) for part in (found.train, found.watched, found.test)]
    assert [len(part["x"]) for part in found[1:4]] == [317, 89, 36]
    assert not set.intersection(*parts[:2]) and not set.intersection(*parts[1:])
    assert parts[0] | parts[1] == raw(whole, whole.train)
    assert parts[2] == raw(whole, whole.test)
    np.testing.assert_allclose(found.train["x"].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(found.train["x"].std(0), 1, atol=1e-5)
    assert found.train["y"].std() == pytest.approx(1, abs=1e-5)
    assert np.abs(found.watched["x"].mean(0)).max() > 0.02


def test_a_seed_draws_the_parts():
    def parts(seed):
        found = sets.load(sets.Split("iris", 0.1, seed))
        return found.test["x"].tobytes(), found.watched["x"].tobytes()

    one, other = parts(0), parts(1)
    assert parts(0) == one and one[0] != other[0] and one[1] != other[1]


def test_a_data_set_stays_as_it_is_but_for_a_watched_part():
    rows = sets.load("iris")
    assert sets.load(sets.Split(rows)) is rows
    found = sets.load(sets.Split(rows, 0.1))
    assert found.test is rows.test and found.schema == rows.schema._replace(rows=108)
    assert (len(found.train["x"]), len(found.watched["x"])) == (108, 12)
    assert sets.load(sets.Split(found, 0.1)) is found


def test_the_watched_part_of_a_text_is_the_last_tenth_before_its_test_part(tmp_path):
    words, path = "abcdefgh" * 90 + "x" * 80 + "y" * 200, tmp_path / "my.txt"
    path.write_text(words)
    whole = text.load_text(str(path), length=10, holdout=0.2)
    same(text.load_text(sets.Split(str(path)), length=10, holdout=0.2), whole)
    found = text.load_text(sets.Split(str(path), 0.1), length=10, holdout=0.2)
    assert found.schema.tokens == (text.UNKNOWN, *"abcdefgh")
    watched = found.watched
    assert watched["mask"].sum() == 80 - 1 and not watched["y"].any()
    assert found.test["mask"].sum() == whole.test["mask"].sum()
    assert len(found.train["tokens"]) == 720
    with pytest.raises(UsageError, match="in each part.*found 80 of 1000"):
        text.load_text(sets.Split(str(path), 0.1), length=80, holdout=0.2)


@pytest.mark.parametrize("name", ["ui_en_fr", "reverse"])
def test_the_watched_part_of_pairs_shares_no_source(name):
    whole, found = pairs.load_pairs(name), pairs.load_pairs(sets.Split(name, 0.1))

    def sources(data, part):
        rows = [text.decode(data.schema.tokens, row[row > 0]) for row in part["x"]]
        return {"".join(filter(str.isalnum, row.casefold())) or row for row in rows}

    train, watched, test = (
        sources(found, part) for part in (found.train, found.watched, found.test)
    )
    assert not train & watched and not train & test and not watched & test
    assert 0.08 < len(watched) / (len(train) + len(watched)) < 0.12
    known = {tokens for row in found.train["x"] for tokens in row}
    assert known == set(range(len(found.schema.tokens))) - {1, 2}
    assert test <= sources(whole, whole.test)
    again = pairs.load_pairs(sets.Split(name, 0.1, seed=5))
    assert sources(again, again.test) != test
    assert sources(again, again.watched) != watched


def test_what_is_made_of_the_data_is_made_of_the_watched_part_too():
    request = sets.Split("digits", 0.1)
    rows = sets.load(request)
    low = sets.between(rows, 0, 1).watched["x"]
    assert low.shape == rows.watched["x"].shape and 0 <= low.min() < low.max() <= 1
    black = prepare(RECIPES["vae"], data=request, widths=(8,)).data.watched["x"]
    np.testing.assert_array_equal(black, (low > 0.5).astype(np.float32))
    assert sets.as_sequence(rows).watched["x"].shape == low.shape[:-1]
    request = sets.Split("pride_and_prejudice", 0.1)
    windows = prepare(RECIPES["recurrent_vae"], data=request, features=8).data
    assert set(windows.watched) == {"x", "y"} and len(windows.watched["x"]) > 2000


def test_a_penalty_counts_the_rows_that_are_fitted():
    from tests.test_recipes import weights

    request = sets.Split("diabetes", watched=0.1)
    recipe = prepare(RECIPES["ridge"], data=request, alpha=100.0)
    assert len(recipe.data.train["x"]) == 397
    w, _, x, y = weights(recipe)
    np.testing.assert_allclose(w[:, 0], Ridge(100.0).fit(x, y).coef_, atol=1e-5)


def test_few_labels_are_drawn_and_neither_they_nor_their_images_are_watched():
    def few(seed):
        request = sets.Split("digits", 0.1, seed)
        return prepare(RECIPES["semi_supervised_gan"], data=request, labels=20).parts

    def rows(part, name="x"):
        return {row.tobytes() for row in part[name]}

    data, other = few(0), few(1)

    def known(data):
        return rows({"x": data.train["x"][data.train["known"]]})

    shown, watched = known(data), rows(data.watched)
    assert len(shown) == 20 and set(data.watched) == {"x", "y"}
    assert not watched & rows(data.train)
    # drawn from all of the images of a class, not the first
    first = rows({"x": data.train["x"][:200]})
    assert len(shown - first) > 10
    assert shown != known(other)


# Runs ---------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("train.cli.main._cache", lambda: None)  # the tests have theirs
    return tmp_path


def test_patience_fits_and_watches_different_rows(runs, monkeypatch):
    seen = {}

    def fit(task, optimizer, source, **options):
        seen.update(train=source.arrays, watched=options["evaluation"])
        return whole(task, optimizer, source, **options)

    whole = run.loop.fit
    monkeypatch.setattr(run.loop, "fit", fit)
    flags = "train ridge --alpha 100 --patience 3 --seed 4 --out run"
    assert main(flags.split()) == 0
    config = json.loads(Path("run/config.json").read_text())
    assert config["options"]["data_seed"] == 4
    data = with_rows(Path("run")).parts
    expected = sets.load(sets.Split("diabetes", 0.1, 4), holdout=0.0)
    assert len(expected.train["x"]) == 397
    for rows in (seen["train"], data.train):
        np.testing.assert_array_equal(rows["x"], expected.train["x"])
    for rows in (seen["watched"], data.watched):
        np.testing.assert_array_equal(rows["x"], expected.watched["x"])


@pytest.mark.contract
def test_the_seed_reaches_the_holdout_and_data_seed_parts_it_from_the_rest(runs):
    def train(out, *flags):
        assert main(["train", "softmax", "--data", "iris", "--out", out, *flags]) == 0
        return with_rows(Path(out)).parts.test["x"].tobytes()

    one, other = train("a", "--seed", "0"), train("b", "--seed", "1")
    assert one != other
    assert train("c", "--seed", "1", "--data-seed", "0") == one
    scores = [json.loads(Path(f"{d}/result.json").read_text()) for d in "ac"]
    assert scores[0]["metrics"] == scores[1]["metrics"]  # it begins at zero
    assert main("train softmax --data iris --out c --resume --seed 2".split()) == 2


@pytest.mark.parametrize("name", ["gan", "dcgan", "wgan_gp", "conditional_gan"])
def test_a_game_has_no_loss_to_stop_by(runs, capsys, name):
    command = f"train {name} --data digits --steps 1 --patience 2 --out run"
    assert main(command.split()) == 2
    said = capsys.readouterr().err
    assert "expected no patience" in said and said.count("\n") == 1
    assert not Path("run/config.json").exists()
