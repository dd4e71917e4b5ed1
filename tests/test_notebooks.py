"""The notebooks run from start to end, and are stored with what they show."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import CACHE

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def outputs(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [output for cell in cells for output in cell.outputs]


def check(notebook):
    """No error, nothing on stderr, no path of the machine; pictures are there."""
    found = outputs(notebook)
    assert {output.output_type for output in found} <= {
        "stream",
        "execute_result",
        "display_data",
    }
    text = [output.text for output in found if output.output_type == "stream"]
    assert not any(o.get("name") == "stderr" for o in found), text
    for path in ("/root/", "/home/", "/tmp/", "Traceback"):
        assert path not in "".join(text)
    assert sum("image/png" in output.get("data", {}) for output in found) >= 4


# the kernel's libraries, not ours: sockets that the client leaves to the collector, and
# event loops that ipykernel sets up in ways that newer Pythons deprecate
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(CACHE))
    notebook = nbformat.read(path, as_version=4)
    check(notebook)
    resources = {"metadata": {"path": str(tmp_path)}}
    client = NotebookClient(notebook, timeout=300, resources=resources)
    client.execute()
    check(notebook)


def test_there_are_notebooks():
    names = ["attention", "embeddings", "games", "generative", "graphs"]
    names += [
        "many_runs",
        "quickstart",
        "sequences",
        "sound_and_scenes",
        "your_own_data",
    ]
    assert [path.stem for path in NOTEBOOKS] == names
