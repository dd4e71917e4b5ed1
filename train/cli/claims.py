"""Whether a directory is free for a run, or holds the one to go on, or to replace."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train import log
from train.disk.files import read_json
from train.recipes.saved import read_config
from zoo.base import UsageError

DEVICES = ("devices", "fsdp")  # on others it is the same training, but for rounding
OLD = ".old"  # where a run is while the one that replaces it is checked
# a run's own, beside pictures and what its result says that it wrote
FILES = {"config.json", "metrics.jsonl", "result.json", "checkpoints", "samples"}
FILES |= {".lock", OLD, "data.png", "curves.png", "progress.png", log.FILE}
# of `zoo sample`, `zoo translate` and `zoo transcribe`, beside the run that they ask
ASKED = re.compile(r"(sample-\d+(-\d+)?|(attention|alignment)-.*)\.png")


def claim(out: Path, asked: tuple, resume: bool, longer: bool) -> dict[str, Any] | None:
    """The config of the run to continue; None for a new one in a free directory.

    `asked` are a recipe's name, its arguments and the run's options. Raises UsageError
    for a directory that holds another run, or other files.
    """
    if (out / "config.json").exists():
        if not resume:
            raise UsageError(
                f"{out} already holds a run: --resume continues it, another --out "
                "starts afresh"
            )
        config = read_config(out)
        _same_flags(config, asked, out, longer)
        return config
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; --out wants a directory")
    others = {p.name for p in out.iterdir()} if out.is_dir() else set()
    if others - {"checkpoints", "config.json.part", ".lock", OLD}:  # of a killed start
        raise UsageError(f"{out} has other files in it; choose another --out")
    kept = (out / "checkpoints").iterdir() if "checkpoints" in others else ()
    if any(not path.name.startswith(".") for path in kept):  # of a killed start, too
        raise UsageError(
            f"{out} holds states of a run whose config.json is gone: they are not "
            "continued; choose another --out"
        )
    return None


def _same_flags(config, asked, out, longer):
    """Raise UsageError where a run goes on with other flags than it began with."""
    name, arguments, options = asked
    began = config["arguments"] | config["options"]
    now = arguments | options._asdict()
    differ = ["recipe"] if config["recipe"] != name else []
    differ += [k for k in now if k not in DEVICES and now[k] != began.get(k)]
    if differ == ["steps"] and longer:
        if now["steps"] > began["steps"]:
            return
        raise UsageError(
            f"expected more than the {began['steps']} steps that the run in {out} has, "
            f"found {now['steps']}"
        )
    if differ:
        raise UsageError(
            f"the run in {out} began with another {differ[0]}: --resume continues it "
            "unchanged (--longer STEPS to more steps), another --out starts afresh"
        )


# Another run in its place -------------------------------------------------------------


def replaceable(out: Path, overwrite: bool) -> bool:
    """Whether a run may be set aside in a directory, or was by a start that died.

    Raises UsageError for a directory that is there, and holds no run to overwrite.
    """
    killed = (out / OLD / "config.json").exists()
    if overwrite and out.exists() and not (killed or (out / "config.json").exists()):
        raise UsageError(f"expected a run to overwrite in {out}, found none")
    return overwrite or killed


@contextlib.contextmanager
def aside(out: Path, overwrite: bool) -> Iterator[None]:
    """With `overwrite`, the run in a directory whose lock is held makes room inside.

    It is back at the end, or by the next start after a kill, unless `settle` found
    that another has begun. Raises UsageError for files that are no run's.
    """
    settle(out)
    if overwrite and (out / "config.json").exists():
        result = out / "result.json"
        own = FILES | set(read_json(result).get("files", ()) if result.exists() else ())
        found = {path.name for path in out.iterdir()}
        if others := sorted(n for n in found - own if not ASKED.fullmatch(n)):
            raise UsageError(
                f"expected nothing but a run in {out}, found {others[0]} beside it: "
                "--overwrite removes no file of yours"
            )
        (out / OLD).mkdir(exist_ok=True)
        for name in sorted(found - {".lock", OLD}, key="config.json".__ne__):  # first
            os.replace(out / name, out / OLD / name)
    try:
        yield
    finally:
        settle(out)


def settle(out: Path) -> None:
    """Remove a run that was set aside, if another has begun; else put it back."""
    old = out / OLD
    if (out / "config.json").exists():
        shutil.rmtree(old, ignore_errors=True)
    elif old.exists():
        for path in sorted(old.iterdir(), key=lambda path: path.name == "config.json"):
            if (place := out / path.name).is_dir():  # of the start that was refused
                shutil.rmtree(place)
            os.replace(path, place)
        old.rmdir()
