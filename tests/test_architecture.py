"""The house holds: one gradient of a loss, imports one way, a small step, no file or
function that cannot be read in a sitting."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("zoo/**/*.py"), *ROOT.glob("train/**/*.py")])
TOP = "step source loop optim mesh check checkpoint evaluate guard log".split()
# who may import what of this project: the first two words of a module's name
FLOORS = {
    "zoo": {"zoo"},
    "train": {"zoo", "train"},
    "train.data": {"zoo", "train", "train.data"},
    "train.many": {"zoo", "train", "train.many"},
    "train.report": {"zoo", "train", "train.data", "train.report"},
}
FLOORS["train.recipes"] = {*FLOORS["train.report"], "train.many", "train.recipes"}
FLOORS["train.cli"] = FLOORS["train.recipes"] | {"train.cli"}
# longer for a reason: a signature that takes a third of it
LONG = {"fit": 75, "training": 52, "batches": 52, "sweep": 56}
LONG |= {"cross_validate": 58, "evolve": 57}


def walk(path, *kinds):
    tree = ast.walk(ast.parse(path.read_text()))
    return [node for node in tree if isinstance(node, kinds)]


def floor(name):
    """zoo.rnn -> zoo; train.step -> train; train.data.text -> train.data."""
    words = name.split(".")
    packages = [f.split(".")[1] for f in FLOORS if "." in f]
    return ".".join(words[: 2 if len(words) > 1 and words[1] in packages else 1])


def imported(node):
    """The modules of an import, by their names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    # `from train import data` names a module too
    return [f"{node.module}.{alias.name}" for alias in node.names]


def test_one_gradient_of_a_loss():
    taken = ("grad", "value_and_grad", "vjp", "jacrev")
    found = [
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        for call in walk(path, ast.Call)
        if ast.unparse(call.func).split(".")[-1] in taken
    ]
    # the penalty's is with respect to images, inside a loss; Newton's is of a gradient;
    # those of examples, of a loss that curves, and of checks, train nothing; those of
    # tasks are what a loss says its gradient is
    assert found == [
        "train/many/curvature.py",
        *["train/many/influence.py"] * 4,
        *("train/optim.py", "train/step.py", "zoo/gan.py", "zoo/multitask.py"),
        *("zoo/testing/case.py", "zoo/testing/learning.py"),
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    libraries = {
        "optax": "optim step base",
        "orbax": "states",
        "matplotlib": "plot charts overlays ranges several",
    }
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    own = floor(module.removesuffix(".__init__"))
    entry = module in ("train.__init__", "train.__main__")  # doors, opened when called
    for node in walk(path, ast.Import, ast.ImportFrom):
        for name in imported(node):
            library = name.split(".")[0]
            if library in ("zoo", "train"):
                assert floor(name) in FLOORS[own] or entry, name
            if own == "zoo":
                assert library not in ("train", "rich", "tyro", "matplotlib"), name
            elif library in libraries:
                known = path.stem in libraries[library].split()
                assert known or own == "train.recipes" and library == "optax", name


@pytest.mark.parametrize(
    "program, light",
    [
        ("import train.__main__", "jax flax zoo"),
        ("from train.cli.main import main; main(['--help'])", "jax flax zoo"),
        ("import zoo, train.loop, train.many, train.data", "orbax tyro"),
        ("import train.recipes.saved, train.cli.run", "orbax tyro"),
        ("from train.cli import ask, flags, results, search", "orbax"),
    ],
)
def test_what_is_long_to_import_waits_until_it_is_needed(program, light):
    absent = {*light.split(), *"matplotlib sklearn scipy.stats pandas PIL".split()}
    program += f"; import sys; assert not {absent} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_step_knows_little():
    step = walk(ROOT / "train" / "step.py", ast.ImportFrom)
    known = {"functools", "typing", "zoo.base", "train.optim", "train.shown.html"}
    assert {node.module for node in step} <= known
    assert len((ROOT / "train" / "step.py").read_text().splitlines()) <= 60


def test_the_top_of_train_is_read_in_one_sitting():
    found = {path.stem for path in ROOT.glob("train/*.py")}
    assert found == {"__init__", "__main__", *TOP}


def test_files_and_functions_stay_small():
    lines = {p.relative_to(ROOT): len(p.read_text().splitlines()) for p in SOURCES}
    assert not {path: n for path, n in lines.items() if n > 350}
    functions = {
        f"{path.relative_to(ROOT)}: {node.name}": length(node)
        for path in SOURCES
        for node in walk(path, ast.FunctionDef)
        if length(node) > LONG.get(node.name, 50)
    }
    assert not functions


def length(function):
    """The lines of a function but for its docstring."""
    first, said = function.body[0], ast.get_docstring(function)
    docstring = first.end_lineno - first.lineno + 1 if said else 0
    return function.end_lineno - function.lineno + 1 - docstring
