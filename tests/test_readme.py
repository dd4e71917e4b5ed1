"""What the README shows works, and names everything there is."""

import re
from pathlib import Path

from tests.test_golden import CASES
from train.recipes import RECIPES

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_examples_run(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    scope: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)
    assert len(blocks) == 3
    assert scope["params"]["Dense_0"]["kernel"].shape == (2, 4, 64, 32)
    assert "{'accuracy': 0.9" in capsys.readouterr().out
    assert scope["model"](scope["batch"]["x"][:3]).shape == (3, 10)


def test_tables_are_complete():
    for name in RECIPES:
        assert f"| `{name}` |" in README
    for name in CASES:
        assert f"| {name} |" in README
