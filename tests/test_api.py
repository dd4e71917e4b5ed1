"""docs/api.md is what the sources say, and they say enough."""

import ast
import re
import runpy
from pathlib import Path

import pytest

api = runpy.run_path(str(Path(__file__).parent.parent / "docs" / "make_api.py"))
SOURCES = api["sources"]()


def everything(name, node):
    """(path, node) of all that is public in a module or a class."""
    for member in api["public"](node):
        path = f"{name}.{member.name}"
        yield path, member
        if isinstance(member, ast.ClassDef):
            yield from everything(path, member)


def test_the_page_is_what_the_sources_say():
    assert api["PAGE"].read_text() == api["page"](), "run python docs/make_api.py"


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_public_has_a_docstring(name):
    found = everything(name, SOURCES[name])
    assert not [path for path, node in found if not ast.get_docstring(node)]


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("zoo")])
def test_what_takes_or_gives_arrays_says_their_shapes(name):
    """In its types or, in brackets, in its docstring."""
    known = api["names"](SOURCES)

    def silent(node):
        types = [ast.unparse(a) for a in _annotations(node)]
        words = set(re.findall(r"\w+", " ".join(types)))
        arrays = words & {"Array", *known}
        texts = [
            ast.get_docstring(node),
            *(api["shapes"](a, known) for a in _annotations(node)),
        ]
        return arrays and not any("[" in (text or "") for text in texts)

    found = everything(name, SOURCES[name])
    functions = [(path, n) for path, n in found if isinstance(n, ast.FunctionDef)]
    assert not [path for path, node in functions if silent(node)]


def _annotations(function):
    arguments = [n for n in ast.walk(function.args) if isinstance(n, ast.arg)]
    return [a for a in (*(n.annotation for n in arguments), function.returns) if a]
