"""The table of promises is what the tests say."""

import ast
from pathlib import Path

import pytest

from benchmarks import promises
from tests.test_architecture import walk
from zoo.base import UsageError

CASE = (
    '<testcase classname="tests.test_a" name="{name}" time="1.4"><properties>'
    "{more}</properties>{child}</testcase>"
)
FIGURE = '<property name="figure" value="3 of 3"/>'


def told(*cases):
    made = [CASE.format(**{"more": "", "child": ""} | case) for case in cases]
    return promises.cases(f"<testsuites>{''.join(made)}</testsuites>")


@pytest.fixture(autouse=True)
def two(monkeypatch):
    known = {"It holds": ("test_a test_x",), "It is exact": ("test_a test_y",)}
    monkeypatch.setattr(promises, "PROMISES", known)


def test_a_row_for_each_promise():
    names = [{"name": "test_x[1]"}, {"name": "test_x[2]"}]
    other = {"name": "test_z", "child": "<failure/>"}  # of a whole suite
    found = told(*names, {"name": "test_y", "more": FIGURE}, other)
    assert promises.table(found).splitlines()[2:] == [
        "| It holds | `tests/test_a.py`: `test_x` | 2 of 2 cases pass, 3 s |",
        "| It is exact | `tests/test_a.py`: `test_y` | 3 of 3, 1 s |",
    ]


@pytest.mark.parametrize("child", ["<failure/>", "<error/>", "<skipped/>"])
def test_nothing_is_written_that_does_not_hold(child, tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"a\n{promises.BEGIN}\n{promises.END}\nb\n")
    x, y = {"name": "test_x"}, {"name": "test_y"}
    monkeypatch.setattr(promises, "run", lambda short: told(x, y))
    assert promises.main(["--page", str(page)]) == 0
    right = page.read_text()
    assert "| It holds |" in right and right.startswith("a\n") and right.endswith("b\n")
    monkeypatch.setattr(promises, "run", lambda short: told(x, y | {"child": child}))
    junit = [str(tmp_path / name) for name in "xy"]
    for path, name in zip(junit, ("test_x", "test_y"), strict=True):
        case = CASE.format(name=name, more="", child="")
        Path(path).write_text(f"<testsuites>{case}</testsuites>")
    page.write_text(f"a\n{promises.BEGIN}\n{promises.END}\nb\n")
    assert promises.main(["--page", str(page), "--read", *junit]) == 0
    assert page.read_text() == right
    with pytest.raises(UsageError, match="test_y"):
        promises.table(promises.run(True))
    assert promises.main(["--page", str(page)]) == 1
    assert page.read_text() == right and "promises: expected" in capsys.readouterr().err


def test_there_are_such_tests(monkeypatch):
    monkeypatch.undo()
    for test in [each for some in promises.PROMISES.values() for each in some]:
        file, name = test.split()
        functions = walk(Path(__file__).with_name(f"{file}.py"), ast.FunctionDef)
        assert name in {function.name for function in functions}, test
