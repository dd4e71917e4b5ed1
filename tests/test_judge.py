"""A judge is kept beside the data: the same one as a training gives, or none."""

import jax
import numpy as np
import pytest

from tests.conftest import first
from train import data as sets
from train.report import judge


@pytest.fixture(scope="module")
def few():
    return first(sets.load("digits"), 100)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_DATA_DIR", str(tmp_path))
    return tmp_path / "judges"


@pytest.fixture
def trainings(monkeypatch):
    began, fit = [], judge.loop.fit
    monkeypatch.setattr(
        judge.loop, "fit", lambda *a, **kw: began.append(1) or fit(*a, **kw)
    )
    return began


def assert_equal(one, two):
    jax.tree.map(np.testing.assert_array_equal, one.variables, two.variables)
    assert one.accuracy == two.accuracy


@pytest.mark.contract
def test_a_kept_judge_is_the_trained_one(few, folder, trainings):
    made = judge.train(few)
    for _ in range(3):
        assert_equal(judge.kept(few), made)
    assert len(trainings) == 2
    assert [file.suffix for file in folder.iterdir()] == [".safetensors"]


@pytest.mark.contract
def test_other_rows_labels_or_seeds_have_another(few, folder, trainings):
    judge.kept(few)
    x, y = few.train["x"].copy(), np.roll(few.train["y"], 1)
    x[0] += 1
    judge.kept(few._replace(train=few.train | {"x": x}))
    judge.kept(few._replace(train=few.train | {"y": y}))
    judge.kept(few, seed=1)
    assert len(trainings) == len(list(folder.iterdir())) == 4
    # what it is tested by changes its accuracy alone
    test = few.test | {"y": few.test["y"] * 0}
    assert judge.kept(few._replace(test=test)).accuracy < 0.3
    assert len(trainings) == 4


@pytest.mark.contract
@pytest.mark.parametrize(
    "damage",
    [
        "cut",
        *(
            pytest.param(how, marks=pytest.mark.contract)
            for how in ("empty", "flipped", "foreign")
        ),
    ],
)
def test_a_damaged_file_is_made_anew(damage, few, folder, trainings):
    made = judge.kept(few)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    flipped = whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:]
    bad = {"cut": whole[:-50], "empty": b"", "flipped": flipped, "foreign": b"a" * 99}
    path.write_bytes(bad[damage])
    assert_equal(judge.kept(few), made)
    assert len(trainings) == 2 and path.read_bytes() == whole


@pytest.mark.contract
def test_a_folder_that_cannot_be_written_keeps_none(few, folder, trainings):
    folder.write_text("a file")
    assert_equal(judge.kept(few), judge.kept(few))
    assert len(trainings) == 2
