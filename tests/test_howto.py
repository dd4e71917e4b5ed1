"""What the pages of how-to's show is done, in their order, and works."""

import re
import shlex
from pathlib import Path

import matplotlib
import pytest

from train.cli.main import main

PAGES = sorted((Path(__file__).parent.parent / "docs" / "howto").glob("*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
# a minute of searches, for a release
MARKS = {"sweep": [pytest.mark.long]}
EACH = [pytest.param(p, id=p.stem, marks=MARKS.get(p.stem, ())) for p in PAGES]


@pytest.mark.slow
@pytest.mark.parametrize("page", EACH)
def test_a_page_works(page, tmp_path, monkeypatch):
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("train.cli.main._cache", lambda: None)
    scope, commands = {}, 0
    for kind, text in BLOCK.findall(page.read_text()):
        if kind == "python":
            exec(compile(text, page.name, "exec"), scope)
            continue
        assert kind == "sh", f"a block that nothing tests: {text}"
        for line in text.splitlines():
            program, *argv = shlex.split(line)
            assert (program, main(argv)) == ("zoo", 0), line
            commands += 1
    assert commands
