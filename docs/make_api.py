"""Makes docs/api.md of the sources, which it only reads: `python docs/make_api.py`."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "api.md"
HEAD = """# API

Made from the docstrings by `python docs/make_api.py`. In brackets: the shape of an
array, by the letters that the docstring of its module explains.
"""


def sources() -> dict[str, ast.Module]:
    """The modules a user calls, by name: zoo, and train but for its command line."""
    trees = {}
    some = *ROOT.glob("zoo/*.py"), ROOT / "zoo" / "testing" / "__init__.py"
    for path in [*sorted(some), *sorted(ROOT.glob("train/**/*.py"))]:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if not name.startswith(("train.cli", "train.__main__")):
            trees[name.removesuffix(".__init__")] = ast.parse(path.read_text())
    return trees


def public(node: ast.Module | ast.ClassDef) -> list[ast.FunctionDef | ast.ClassDef]:
    """A module's functions and classes, or a class's methods.

    Neither Linen's `setup`, nor the `__call__` of a Protocol: its class documents it.
    """
    called = "Protocol" not in map(ast.unparse, getattr(node, "bases", []))
    members = [n for n in node.body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    hidden = ("_", "setup")
    named = [n for n in members if not n.name.startswith(hidden)]
    return named + [n for n in members if n.name == "__call__" and called]


def shapes(annotation: ast.expr | None, known: dict[str, str]) -> str:
    """Of `Float[Array, "B T"]`, or a name for that, in a tuple or a union: [B, T]."""
    found = []
    for node in ast.walk(annotation) if annotation else ():
        if isinstance(node, ast.Name) and node.id in known:
            found.append(known[node.id])
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):
            array, letters, *_ = node.slice.elts
            if ast.unparse(array) == "Array" and isinstance(letters, ast.Constant):
                found.append(f"[{', '.join(letters.value.split())}]")
    marks = str.maketrans("", "", "{}#")  # an expression, "may be broadcast"
    return ", ".join(found).replace("self.", "").translate(marks)


def signature(function: ast.FunctionDef, known: dict[str, str]) -> str:
    """`name(x: [B, D], *, train=False) -> [B, K]`."""
    args = function.args
    args.args = [a for a in args.args if a.arg not in ("self", "cls")]
    for node in [n for n in ast.walk(args) if isinstance(n, ast.arg)]:
        text = shapes(node.annotation, known)
        node.annotation = ast.Name(text) if text else None
    result = shapes(function.returns, known)
    return f"{function.name}({ast.unparse(args)})" + (result and f" -> {result}")


def entry(node: ast.AST, known: dict[str, str], indent: str = "") -> list[str]:
    """A line for a function; for a class one, and one for each of its methods."""
    is_class = isinstance(node, ast.ClassDef)
    what = f"class {node.name}" if is_class else signature(node, known)
    lines = [f"{indent}- `{what}`: {summary(node)}"]
    methods = public(node) if is_class else []
    return lines + [line for m in methods for line in entry(m, known, indent + "  ")]


def summary(node: ast.AST) -> str:
    """The first paragraph of a docstring, as one line."""
    return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())


def names(trees: dict[str, ast.Module]) -> dict[str, str]:
    """The names that modules give to types with a shape, and those shapes."""
    assigned = [n for t in trees.values() for n in t.body if isinstance(n, ast.Assign)]
    pairs = {ast.unparse(n.targets[0]): shapes(n.value, {}) for n in assigned}
    return {name: text for name, text in pairs.items() if text}


def page() -> str:
    """The text of docs/api.md."""
    trees, lines = sources(), [HEAD]
    for name, tree in trees.items():
        if members := public(tree):
            lines += [f"## {name}\n", f"{summary(tree)}\n"]
            lines += [line for m in members for line in entry(m, names(trees))] + [""]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
