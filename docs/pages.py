"""The pages of the site that are not in docs/, and its navigation; mkdocs calls it.

README.md is the front page, a notebook a tutorial, a module a page of the reference.
Each is read where it is kept; links between them lead to their pages.
"""

import ast
import os
import re
from pathlib import Path

import nbformat
from mkdocs.structure.files import File
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parent.parent
FIRST = ["quickstart", "many_runs"]  # of the notebooks; the others follow by name
HOWTO = "table pictures series texts model resume log sweep export".split()
NOTEBOOKS = sorted(
    (path.stem for path in ROOT.glob("notebooks/*.ipynb")),
    key=lambda name: (name not in FIRST, FIRST.index(name) if name in FIRST else name),
)
RESULTS = sorted(path.name for path in ROOT.glob("benchmarks/*.md"))
# where a file of the repository is in the site
PLACES = {"README.md": "index.md", "NOTICE": "notice.md"}
PLACES["benchmarks/GROWTH.png"] = "results/GROWTH.png"
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
PLACES |= {name: name.lower() for name in PAGES}
PLACES |= {f"notebooks/{name}.ipynb": f"tutorials/{name}.md" for name in NOTEBOOKS}
PLACES |= {f"benchmarks/{name}": f"results/{name}" for name in RESULTS}
ONE_PAGE = {"docs/api.md": "reference/index.md"}  # of the repository, not of the site
LINK = re.compile(r"(?<=\]\()[^\s()#:]+")

LETTERS = """Every public function, with its source. A type `Float[Array, "B T D"]`, or
brackets in the text, are the shape of an array, by the letters that the text on top of
the module explains."""


def on_files(files, config):
    """Add the pages."""
    for uri, content in pages():
        files.append(File.generated(config, uri, content=content))
    config.nav = navigation()
    return files


def pages():
    """(where it is in the site, its content) of each page and picture."""
    for path, uri in PLACES.items():
        if path.endswith(".ipynb"):
            yield from notebook(ROOT / path, uri)
        elif path.endswith(".md"):
            yield uri, linked(path, uri)
        elif path == "NOTICE":
            yield uri, f"# Notice\n\n```text\n{(ROOT / path).read_text()}```\n"
        else:
            yield uri, (ROOT / path).read_bytes()
    known = modules()
    for name in known:
        yield f"reference/{name}.md", f"# {name}\n\n::: {name}\n"
    rows = [f"| [`{name}`]({name}.md) | {said} |" for name, said in known.items()]
    head = ["# Reference", "", LETTERS, "", "| module | |", "|---|---|"]
    yield "reference/index.md", "\n".join([*head, *rows, ""])


def linked(path, uri):
    """A page of Markdown, whose links between files become links between pages."""

    def place(found):
        target = os.path.normpath(os.path.join(os.path.dirname(path), found[0]))
        to = (PLACES | ONE_PAGE).get(target, target.removeprefix("docs/"))
        known = target in PLACES or target.startswith("docs/")
        return os.path.relpath(to, os.path.dirname(uri) or ".") if known else found[0]

    return LINK.sub(place, (ROOT / path).read_text())


def notebook(path, uri):
    """Its page, and the pictures that it shows."""
    resources = {"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"}
    read = nbformat.read(path, as_version=4)
    text, left = MarkdownExporter().from_notebook_node(read, resources)
    yield uri, text
    for name, content in left["outputs"].items():
        yield f"tutorials/{name}", content


def modules():
    """What the modules say that have something to call; but for the command line."""
    said = {}
    for path in sorted(ROOT.glob("zoo/**/*.py")) + sorted(ROOT.glob("train/**/*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        tree = ast.parse(path.read_text())
        members = [
            n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)
        ]
        public = any(not node.name.startswith("_") for node in members)
        if public and not name.startswith(("train.cli", "train.__main__")):
            text = ast.get_docstring(tree).split("\n\n")[0]
            said[name.removesuffix(".__init__")] = " ".join(text.split())
    return said


def navigation():
    """The tabs of the site."""
    known = modules()
    parts = {
        part: [f"reference/{n}.md" for n in known if n.split(".")[0] == part]
        for part in ("zoo", "train")
    }
    return [
        {"purezoo": "index.md"},
        {"Tutorials": [f"tutorials/{name}.md" for name in NOTEBOOKS]},
        {"How to": [f"howto/{name}.md" for name in HOWTO]},
        {"Reference": ["reference/index.md", *({p: n} for p, n in parts.items())]},
        {
            "Why": [
                *("why.md", "security.md", "contributing.md", "changelog.md"),
                {"Measured": [f"results/{name}" for name in RESULTS]},
            ]
        },
    ]
