"""The house holds: one gradient of a loss, imports one way, a small step."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
ABOVE = ("data", "recipes", "report", "cli")
SOURCES = sorted([*ROOT.glob("zoo/**/*.py"), *ROOT.glob("train/**/*.py")])


def walk(path, *kinds):
    tree = ast.walk(ast.parse(path.read_text()))
    return [node for node in tree if isinstance(node, kinds)]


def test_one_gradient_of_a_loss():
    found = [
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        for call in walk(path, ast.Call)
        if ast.unparse(call.func).split(".")[-1] in ("grad", "value_and_grad")
    ]
    # the penalty's is with respect to images, inside a loss
    assert found == ["train/step.py", "zoo/gan.py"]


def test_imports_run_one_way():
    rules = {"optax": "optim step base", "orbax": "checkpoint", "matplotlib": "plot"}
    for path in SOURCES:
        for node in walk(path, ast.Import, ast.ImportFrom):
            names = [a.name for a in node.names]
            names = [node.module] if isinstance(node, ast.ImportFrom) else names
            roots = {name.split(".")[0] for name in names}
            if "zoo" in path.relative_to(ROOT).parts:
                assert not roots & {"train", "rich", "tyro", "matplotlib"}, path
            else:
                for library, homes in rules.items():
                    assert library not in roots or path.stem in homes.split(), path
    for path in ROOT.glob("train/*.py"):  # the loop knows no data set, and no recipe
        found = walk(path, ast.ImportFrom)
        names = {
            f"{node.module}.{alias.name}" for node in found for alias in node.names
        }
        above = {name for name in names if name.split(".")[1] in ABOVE}
        assert not above or path.stem == "__main__", path
    step = walk(ROOT / "train" / "step.py", ast.ImportFrom)
    assert {node.module for node in step} <= {"typing", "zoo.base", "train.optim"}


def test_files_stay_small():
    lines = {path.name: len(path.read_text().splitlines()) for path in SOURCES}
    assert lines["step.py"] <= 60
    assert not {name: n for name, n in lines.items() if n > 400}
