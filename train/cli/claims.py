"""Whether a directory is free for a run, or holds the one that is to go on."""

from pathlib import Path
from typing import Any

from train.recipes.saved import read_config
from zoo.base import UsageError

DEVICES = ("devices", "fsdp")  # on others it is the same training, but for rounding


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
    if others - {"checkpoints", "config.json.part", ".lock"}:  # of a killed start
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
