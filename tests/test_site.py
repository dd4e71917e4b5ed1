"""The site is built without a warning, and every link in it leads somewhere."""

import asyncio
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from tornado.websocket import websocket_connect

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


WHOLE = """document.querySelector("h1") !== null
&& document.documentElement.scrollWidth <= innerWidth
&& [...document.images].every(image => image.complete && image.naturalWidth > 0)"""


async def looked_at(address, pages):
    """What is wrong with pages in a browser that is told so at an address."""
    link, count, wrong = await websocket_connect(address), itertools.count(), []

    async def heard(wanted):
        while wanted(said := json.loads(await link.read_message())) is False:
            if said.get("method") == "Runtime.exceptionThrown":
                wrong.append(said["params"]["exceptionDetails"]["text"])
            elif said.get("method") == "Log.entryAdded":
                entry = said["params"]["entry"]
                wrong.extend([entry["text"]] * (entry["level"] == "error"))
        return said

    async def ask(method, **params):
        number = next(count)
        message = {"id": number, "method": method, "params": params}
        await link.write_message(json.dumps(message))
        said = await heard(lambda said: said.get("id") == number)
        return said["result"]

    for domain in ("Page", "Runtime", "Log"):
        await ask(f"{domain}.enable")
    for page in pages:
        await ask("Page.navigate", url=page.as_uri())
        await heard(lambda said: said.get("method") == "Page.loadEventFired")
        found = await ask("Runtime.evaluate", expression=WHOLE)
        wrong += [] if found["result"]["value"] else [f"{page} is not whole"]
    link.close()
    while await link.read_message() is not None:
        pass
    return wrong


def test_a_browser_opens_every_page(site, tmp_path):
    """Headless, where there is one: headings, pictures, widths, and no script fails."""
    names = "chromium", "google-chrome", "chromium-browser"
    found = [os.environ.get("CHROMIUM_OF_TESTS"), *map(shutil.which, names)]
    if not any(found):
        pytest.skip("no Chromium: CHROMIUM_OF_TESTS may name one")
    browser = next(filter(None, found))
    options = "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1300,1000"
    options += "--remote-debugging-port=0", f"--user-data-dir={tmp_path / 'user'}"
    port = tmp_path / "user" / "DevToolsActivePort"
    with subprocess.Popen([browser, *options], stderr=subprocess.DEVNULL) as running:
        try:
            end = time.time() + 60
            while not port.exists() or "\n" not in port.read_text():
                assert time.time() < end
                time.sleep(0.1)
            base = f"127.0.0.1:{port.read_text().split()[0]}/json/new?about:blank"
            new = urllib.request.Request(f"http://{base}", method="PUT")
            with urllib.request.urlopen(new) as answer:
                address = json.load(answer)["webSocketDebuggerUrl"]
            # what is not found is served from anywhere: its links begin at /
            pages = [path for path in site[1] if path.name != "404.html"]
            assert asyncio.run(looked_at(address, pages)) == []
        finally:
            running.kill()
