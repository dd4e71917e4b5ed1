"""What the README shows works, and names everything there is."""

import re
from pathlib import Path

import numpy as np

from tests.test_golden import CASES
from train.cli.main import main
from train.data import load
from train.recipes import RECIPES

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_examples_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main("train mlp --data digits --steps 30".split()) == 0
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    digits = load("digits")
    two = {"x": digits.train["x"], "y": digits.train["y"] % 2}
    scope: dict = {"images": np.zeros((5, 8, 8), np.uint8), "rows": two}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)
    assert len(blocks) == 6
    assert scope["probabilities"].shape == (5, 10)
    assert scope["swept"].scores["accuracy"].shape == (8,)
    dense = scope["done"].trained.params
    assert dense["Dense_0"]["kernel"].shape == (64, 512)
    assert dense["Dense_1"]["kernel"].shape == (512, 2)
    assert scope["params"]["Dense_0"]["kernel"].shape == (2, 4, 64, 32)
    assert "{'accuracy': 0.9" in capsys.readouterr().out
    assert scope["nnx_model"](scope["batch"]["x"][:3]).shape == (3, 10)


def test_tables_are_complete():
    for name in RECIPES:
        assert f"`{name}`" in README
    for name in CASES:
        assert f"| {name} |" in README
