"""The site is built without a warning, and every link in it leads somewhere."""

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """The links of a page, what it shows or loads, and where one can link to."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loaded, self.places = [], [], {""}
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.places |= {given.get("id"), tag == "a" and given.get("name")}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag != "a":
            self.loaded += [given[name] for name in ("href", "src") if name in given]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, and its pages by their paths."""
    pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = (
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--site-dir",
        folder,
    )
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # of its theme: an advertisement
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, {path: Page(path) for path in folder.rglob("*.html")}


def test_every_link_leads_somewhere(site):
    folder, pages = site
    lost = []
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "data"):
                continue
            # the page of what was not found is served from anywhere: it begins at /
            base = folder if parts.path.startswith("/") else path.parent
            target = (base / unquote(parts.path).lstrip("/")).resolve()
            target = target if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            known = target.is_file() and (
                not parts.fragment or unquote(parts.fragment) in pages[target].places
            )
            lost += [] if known else [f"{path.relative_to(folder)}: {link}"]
    assert not lost


def test_nothing_is_fetched_from_elsewhere(site):
    _, pages = site
    loaded = {link for page in pages.values() for link in page.loaded}
    assert not [link for link in loaded if link.startswith(("http", "//"))]


def test_everything_public_is_in_the_reference(site):
    from tests.test_api import SOURCES, everything

    folder, pages = site
    known = {
        place
        for path, page in pages.items()
        if path.parent.name == "reference"
        for place in page.places
    }
    found = [p for name in SOURCES for p, _ in everything(name, SOURCES[name])]
    assert len(found) > 500
    assert not [path for path in found if path not in known]
    source = (folder / "reference" / "zoo.vae.html").read_text()
    assert "Source code in" in source and "B Z" in source
