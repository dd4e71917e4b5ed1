"""A wheel and an sdist are whole: they install and train without the checkout."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*command, cwd):
    """What a command prints that ends well, in a folder without the checkout."""
    kept = {name: v for name, v in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=kept, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sources():
    """What belongs into a wheel: the packages' files, without what running leaves."""
    found = [path for top in ("zoo", "train") for path in (ROOT / top).rglob("*")]
    kept = [p for p in found if p.is_file() and "__pycache__" not in p.parts]
    return {path.relative_to(ROOT).as_posix() for path in kept}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(wheel, sdist), the wheel made of the sdist, that of a copy of the checkout.

    A list of files from an earlier build would add to the sdist.
    """
    folder = tmp_path_factory.mktemp("built")
    leave = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "runs")
    shutil.copytree(ROOT, folder / "copy", ignore=leave)
    run(sys.executable, "-m", "build", "--outdir", "..", cwd=folder / "copy")
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


@pytest.mark.slow
def test_they_hold_the_packages_their_data_and_the_licences(built):
    wheel, sdist = built
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    info = f"purezoo-{PROJECT['version']}.dist-info"
    assert {name for name in inside if not name.startswith(info)} == sources()
    assert {f"{info}/licenses/{name}" for name in ("LICENSE", "NOTICE")} <= inside
    with tarfile.open(sdist) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    beside = {"LICENSE", "NOTICE", "README.md", "CITATION.cff", "CHANGELOG.md"}
    assert sources() | beside <= files
    assert not [name for name in files if name.startswith(("tests", "notebooks"))]


@pytest.mark.slow
def test_the_wheel_trains_in_an_empty_environment(built, tmp_path):
    run(sys.executable, "-m", "venv", "venv", cwd=tmp_path)
    binary = tmp_path / "venv" / "bin"
    quick = "--quiet", "--no-compile"  # compiling all of them takes a minute
    run(binary / "pip", "install", *quick, built[0], cwd=tmp_path)
    run(binary / "pip", "check", cwd=tmp_path)
    assert "softmax" in run(binary / "zoo", "list", cwd=tmp_path)
    said = run(binary / "zoo", "train", "softmax", "--steps", "50", cwd=tmp_path)
    assert re.search(r"accuracy.*0\.[89]", said), said
    assert (tmp_path / "runs" / "softmax" / "result.json").is_file()
    # data of the package, which scikit-learn's are not
    program = "from train.data import load; print(len(load('mnist5k').test['y']))"
    assert run(binary / "python", "-c", program, cwd=tmp_path) == "1000\n"


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == PROJECT["version"]
    assert cited["license"] == PROJECT["license"]
    assert cited["keywords"] == PROJECT["keywords"]
