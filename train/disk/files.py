"""Small files that are whole or not there, seals, and the lock of a directory.

What is said to be written here has reached the disk: files and their folders are
synced, for after a power cut a rename alone may be of an empty file.
"""

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from zoo.base import UsageError

# JSON -------------------------------------------------------------------------------


def read_json(path: Path) -> Any:
    """A JSON file's content, lists as tuples. Raises UsageError if it is damaged."""
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:  # nested too deeply
        raise UsageError(f"{path} cannot be read as JSON: {error}") from error


def from_json(text: str) -> Any:
    """What JSON says, lists as tuples. Raises ValueError if it is damaged."""

    def freeze(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: freeze(v) for name, v in value.items()}
        return tuple(map(freeze, value)) if isinstance(value, list) else value

    return freeze(json.loads(text))


def write_json(path: Path, value: Any) -> None:
    """Write a file that is whole or not there."""
    with whole(path) as part:
        part.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write, which becomes `path` if nothing failed and is gone if it did."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        yield part
        sync(part)
        os.replace(part, path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if os.name == "nt":  # it syncs no folder, and no file that is only read
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# Seals ------------------------------------------------------------------------------


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object with the SHA-256 of what it says, as "seal"."""
    write_json(path, value | {"seal": _digest(value)})


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote. Raises UsageError where it says something else."""
    value = read_json(path)
    seal = value.pop("seal", None) if isinstance(value, dict) else None
    if seal is None or seal != _digest(value):
        raise UsageError(f"{path} is damaged, or was edited: its seal does not fit")
    return value


def _digest(value):
    text = json.dumps(json.loads(json.dumps(value)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def seal(folder: Path, about: dict[str, Any]) -> None:
    """Sync all files of a folder, and write what they and `about` are to SEAL.json."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "SEAL.json":
            files[path.relative_to(folder).as_posix()] = _sum(path)
        sync(path)
    write_sealed(folder / "SEAL.json", about | {"files": files})


def sealed(folder: Path) -> dict[str, Any]:
    """What was sealed of a folder. Raises UsageError naming the first thing damaged."""
    found = read_sealed(folder / "SEAL.json")
    listed = found.get("files", {})
    if not isinstance(listed, dict):
        raise UsageError(f"{folder / 'SEAL.json'} seals no files")
    for name, digest in listed.items():
        path = folder / name
        if not path.is_file():  # gone, or a device without an end
            raise UsageError(f"{path} cannot be read: there is no such file")
        try:
            same = _sum(path) == digest
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error}") from error
        if not same:
            raise UsageError(f"{path} has other bytes than were saved")
    return found


def _sum(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# The lock ---------------------------------------------------------------------------


@contextlib.contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory, which is made if need be.

    Two runs in one directory would overwrite each other's states. The lock, and the
    folders made for it, go again where nothing else came into the directory. Raises
    UsageError that names who holds it.
    """
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    found, lock = set(os.listdir(directory)), directory / ".lock"
    with _locked(lock):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # who else came, or an open file
                if found == set(os.listdir(directory)) - {lock.name}:
                    lock.unlink()
                    for folder in made:
                        folder.rmdir()


def _locked(path: Path) -> IO[str]:
    """A file that no other process has so, until it is closed or this process ends."""
    file = path.open("a+", encoding="utf-8", errors="replace")
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        with file:
            file.seek(0)
            who = file.read(200) or "unknown"
        raise UsageError(
            f"another process is running in {path.parent}: {who}"
        ) from error
    except (ImportError, OSError):  # Windows, or a file system without locks
        return file
    if not (path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())):
        file.close()
        return _locked(path)  # who had it took it away meanwhile
    me = f"pid {os.getpid()} on {platform.node()}"
    file.seek(0)
    if file.read() != me:
        with contextlib.suppress(OSError):  # a full disk
            file.truncate(0)
            file.write(me)
            file.flush()
    return file


def check_free(directory: Path | str) -> None:
    """Raise UsageError, naming who, where another process holds a directory."""
    if (lock := Path(directory) / ".lock").exists():
        _locked(lock).close()
