"""Where runs go, what is there, and two of them side by side."""

import json
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import tyro

from train.checkpoint import latest, read_json
from train.cli.disk import read_log
from train.cli.flags import parse
from train.cli.tables import number, table
from train.recipes import RECIPES
from train.recipes.saved import read_config
from zoo.base import UsageError


def place(name: str, resume: bool) -> Path:
    """runs/NAME, or of NAME-2, NAME-3, ... the first that is free.

    With `resume`, the last that is there.
    """
    last = Path("runs") / name
    for i in count(1):
        path = last if i == 1 else last.with_name(f"{name}-{i}")
        if not path.exists() or not any(p.name != ".lock" for p in path.iterdir()):
            return last if resume else path
        if resume:
            last = path
    raise AssertionError


def runs(argv: list[str]) -> int:
    """`zoo runs [DIR]`: what is there, with the scores."""

    def flags(directory: tyro.conf.Positional[Path] = Path("runs")) -> Path:
        """The runs in a directory and below, the newest last.

        Args:
            directory: where to look
        """
        return directory

    directory = parse(flags, argv, "zoo runs")
    if argv and not directory.is_dir():
        raise UsageError(f"expected a directory of runs, found none at {directory}")
    found = sorted(directory.rglob("config.json"), key=lambda p: p.stat().st_mtime)
    rows = []
    for path in found:
        try:
            rows.append(_row(path.parent))
        except (UsageError, KeyError, TypeError) as error:  # a config of who knows whom
            rows.append((str(path.parent), "?", "?", "?", str(error).partition(":")[0]))
    if not rows:
        print(f"no runs in {directory}")
        return 0
    table(("run", "recipe", "data", "steps", "score"), rows)
    return 0


def _row(directory):
    config = read_config(directory)
    path = directory / "result.json"
    if path.exists():
        result = read_json(path)
        score = _score(config["recipe"], result["metrics"])
        if result.get("failure"):
            score += ", failed"
        step = result["steps"]
    else:
        step, score = latest(directory / "checkpoints") or 0, "not finished"
    steps = f"{step:,}"
    data = Path(str(config["arguments"]["data"])).name
    return str(directory), config["recipe"], data, steps, score


def _score(name, metrics):
    """The metric that the recipe is for, as "accuracy 0.98"."""
    goal = RECIPES[name].goal if name in RECIPES else None
    numbers = {k: v for k, v in metrics.items() if isinstance(v, float | int)}
    wanted = goal.metric if goal and goal.metric in numbers else next(iter(numbers), "")
    return f"{wanted} {number(numbers[wanted])}" if wanted else ""


def compare(argv: list[str]) -> int:
    """`zoo compare DIR DIR ...`: scores in a table, curves in a picture."""

    def flags(
        directories: tyro.conf.Positional[
            Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR DIR [DIR ...]")]
        ],
        out: Path = Path("compare.png"),
    ) -> tuple[tuple[Path, ...], Path]:
        """Runs side by side: what differs in their flags, scores, losses.

        Args:
            directories: of two runs or more
            out: the picture of their curves
        """
        return directories, out

    directories, out = parse(flags, argv, "zoo compare")
    if len(set(directories)) < 2:
        raise UsageError("expected the directories of two runs or more")
    from train.report import charts, plot

    configs = [read_config(directory) for directory in directories]
    logs = {str(d): read_log(d / "metrics.jsonl") for d in directories}
    if empty := [name for name, records in logs.items() if not records]:
        raise UsageError(f"expected lines in {empty[0]}/metrics.jsonl, found none")
    given: list[dict[str, Any]] = [
        {"recipe": c["recipe"], **c["arguments"], **c["options"]} for c in configs
    ]
    differ = [
        name
        for name in dict.fromkeys(name for flags in given for name in flags)
        if len({json.dumps(flags.get(name)) for flags in given}) > 1
    ]
    results = [d / "result.json" for d in directories]
    metrics = [read_json(p)["metrics"] if p.exists() else {} for p in results]
    scores = [
        name
        for name in dict.fromkeys(name for found in metrics for name in found)
        if any(isinstance(found.get(name), float | int) for found in metrics)
    ]
    rows = [(n, *(str(flags.get(n, "")) for flags in given)) for n in differ]
    rows += [
        (n, *(number(found[n]) if n in found else "" for found in metrics))
        for n in scores
    ]
    table(("", *map(str, directories)), rows)
    plot.save(charts.compared(logs), out)
    print(out)
    return 0
