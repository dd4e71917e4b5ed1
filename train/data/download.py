"""Public data files: found on this computer, or downloaded once and checked.

A file is looked for in the cache folder, then where Debian's `dataset-*` packages put
it, and is downloaded otherwise. Nothing reaches the cache before its checksum agrees.
"""

import hashlib
import os
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError

from zoo.base import UsageError


class Source(NamedTuple):
    """Where the files of a data set are published: a folder's URL, and their MD5."""

    url: str
    files: dict[str, str]


SOURCES = {
    "mnist": Source(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    "fashion_mnist": Source(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
    "cifar10": Source(  # the binary version: the Python one is a pickle, code to run
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
    ),
}
# files that may not be passed on, or have no address: put where they are looked for
BY_HAND = {
    "fsdd.npz": "816f28be50921384ba99c5a09ec5b84c",
    "knowledge_graphs.npz": "155dc1dab95f96490b313e23836819e7",
    "movielens_small.npz": "d071af14094ce6dcb10f6cf9b0af3ca9",
}
SYSTEM = Path("/usr/share/datasets")  # Debian: dataset-fashion-mnist and the like
CHUNK = 1 << 18  # bytes


def cache() -> Path:
    """The folder of downloaded files: $ZOO_DATA_DIR, or the user's cache folder."""
    if folder := os.environ.get("ZOO_DATA_DIR"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "purezoo"


def fetch(name: str, file: str) -> Path:
    """The path of a data set's file, downloaded if this computer does not have it.

    Raises UsageError for a cached file whose checksum is wrong, or as `download` does.
    """
    source, path = SOURCES[name], cache() / name / file
    if path.is_file():
        if (found := checksum(path)) != source.files[file]:
            raise UsageError(
                f"expected {path} to have the MD5 checksum {source.files[file]}, found "
                f"{found}: delete it, and the next run downloads it again"
            )
        return path
    # A package compresses anew, so its checksum says nothing; gzip carries its own.
    installed = SYSTEM / name.replace("_", "-") / file
    if installed.is_file():
        return installed
    return download(source.url + file, path, source.files[file])


def by_hand(file: str) -> Path:
    """The path of a file of BY_HAND, in the folder of downloaded files.

    Raises UsageError where it is not there, or is another.
    """
    path = cache() / file
    if not path.is_file():
        raise UsageError(
            f"expected {file} in {path.parent}, found no such file: it does not come "
            "with this package; put it there, or set ZOO_DATA_DIR to its folder"
        )
    if (found := checksum(path)) != BY_HAND[file]:
        raise UsageError(
            f"expected {path} to have the MD5 checksum {BY_HAND[file]}, found {found}"
        )
    return path


def checksum(path: Path) -> str:
    """The MD5 of a file, as published for these data sets; 32 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.md5(usedforsecurity=False)
        ).hexdigest()


def download(
    url: str,
    path: Path,
    md5: str,
    *,
    attempts: int = 4,
    pause: float = 0.5,
    timeout: float = 30.0,
) -> Path:
    """Download url to path, through path.part, which a later attempt resumes.

    `pause` and `timeout` are in seconds. Raises UsageError when the server does not
    answer or refuses, when every attempt broke off, and when the checksum is wrong.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"expected a folder to write {path.name} to, found {path.parent} "
            f"({error.strerror}): set ZOO_DATA_DIR to another"
        ) from None
    hint = f"{path.name} may be put into {path.parent} by hand"
    for attempt in range(attempts):
        time.sleep(attempt * pause)
        resumed = part.exists()
        try:
            reason = transfer(url, part, timeout)
        except (OSError, HTTPException) as error:
            why = getattr(error, "reason", None) or error
            raise UsageError(f"could not download {url} ({why}): {hint}") from None
        if reason:
            continue
        if (found := checksum(part)) == md5:
            os.replace(part, path)
            return path
        part.unlink()  # if it was resumed, its beginning may be of an older file
        if not resumed:
            raise UsageError(
                f"expected {url} to have the MD5 checksum {md5}, found {found}: the "
                f"download was deleted; {hint}"
            )
        reason = "what was kept did not fit what followed"
    kept = part.stat().st_size if part.exists() else 0
    raise UsageError(
        f"could not download {url} in {attempts} attempts ({reason}): {kept} bytes are "
        f"kept in {part} and the next run resumes from them; {hint}"
    )


def transfer(url: str, part: Path, timeout: float) -> str:
    """Append to part what it lacks of url -> "", or why the transfer broke off.

    Raises OSError or HTTPException when it did not begin.
    """
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "purezoo"} | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except HTTPError as error:
        error.close()
        if error.code == 416 and have:  # nothing beyond what we have
            return ""
        raise
    with response:
        begins = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if not (response.status == 206 and begins):
            have = 0  # the whole file comes, from its beginning
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with (
            part.open("ab" if have else "wb") as file,
            progress(url, have, total) as up,
        ):
            try:
                while piece := response.read(CHUNK):
                    file.write(piece)
                    up(len(piece))
            except (OSError, HTTPException) as error:
                return str(error) or type(error).__name__
            size = file.tell()
    return "" if total in (None, size) else f"{size} of {total} bytes arrived"


@contextmanager
def progress(url: str, have: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """A function to call with each number of bytes; a bar where a person looks on."""
    if not sys.stderr.isatty():
        size = f" ({total / 1e6:.1f} MB)" if total else ""
        print(f"downloading {url}{size}", file=sys.stderr)
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(url.rpartition("/")[2], total=total, completed=have)
        yield lambda count: bar.advance(task, count)
