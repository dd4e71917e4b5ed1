"""What a search is to look for: flags whose numbers are lists or ranges."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import jax
import tyro

from train import many, optim
from train.check import check_numbers
from train.cli.flags import ASKED, HELP, Shown, parse, typed
from train.data import Split
from train.recipes import RECIPES, Experiment, Recipe, parameters, prepare
from train.recipes.base import check_patience
from train.recipes.members import numbers
from train.source import batch_shapes
from zoo.base import UsageError, check_choice

OWN: dict[str, tuple[Any, Any, str]] = {
    "seeds": (int, 1, "trainings of each setting, from seeds 0, 1, ..."),
    "samples": (int | None, None, "settings to draw, where an axis is a range"),
    "folds": (int, 5, "parts of the training rows, each tested on once"),
    "repeats": (int, 1, "times that the rows are parted anew"),
    "simpler": (str | None, None, "the axis of which more is a simpler model: of those "
                "within a standard error of the best, the simplest is chosen"),
    "patience": (int | None, None, "end a training after so many evaluations without "
                 "a lower loss on the rows set aside, and keep its best"),
    "eval_every": (int | None, None, HELP["eval_every"]),
    "budget": (str, "5m", "time to spend, as 90s, 10m or 1h"),
    "seed": (int, 0, "of the rows set aside, the folds and what is drawn"),
    "out": (Path | None, None, "the directory; runs/RECIPE-COMMAND for None"),
    "resume": (bool, False, "go on with the sweep in the directory"),
}  # fmt: skip


class Asked(NamedTuple):
    """What a command is to search."""

    recipe: Recipe
    command: str  # to train the best
    axes: dict[str, Any]  # of numbers: lists and ranges
    given: dict[str, Any]  # the recipe's other flags that were given
    own: dict[str, Any]  # the command's
    out: Path


def asked(
    command: str, argv: list[str], own: tuple[str, ...], watched: float = 0.1
) -> tuple[Asked, Experiment]:
    """The search, and the experiment with a part of its rows set aside."""
    if argv is ASKED:  # those of all recipes would be a script of megabytes
        raise Shown(_flags(RECIPES["linear"], own, command))
    if not argv or argv[0].startswith("-"):
        raise UsageError(f"expected zoo {command} RECIPE [flags], one of {_names()}")
    check_choice("recipe", argv[0], tuple(RECIPES))
    name, recipe = argv[0], RECIPES[argv[0]]
    _refuse_lists(recipe, argv)
    _refuse_log(command, argv)
    flags = parse(_flags(recipe, own), argv[1:], f"zoo {command} {name}")
    known, swept = parameters(recipe), numbers(recipe)
    texts = {n: flags[n] for n in swept if flags[n] != str(known[n].default)}
    axes = {n: _axis(known[n], text) for n, text in texts.items()}
    given = {n: flags[n] for n in known if n not in swept}
    given = {n: v for n, v in given.items() if v != known[n].default}
    fixed = {n: a[0] for n, a in axes.items() if isinstance(a, list) and len(a) == 1}
    axes = {n: a for n, a in axes.items() if n not in fixed}
    data = given.pop("data", recipe.data)
    given |= fixed
    out = flags["out"] or Path("runs") / f"{name}-{command}"
    _claim(out, flags.get("resume", False))
    experiment = prepare(recipe, Split(data, watched, flags["seed"]), **given)
    task, training = experiment.task, experiment.training
    source = experiment.source()
    check_numbers(source, training.steps, training.accumulate, None, None, task)
    if training.microbatch is not None:
        key = jax.eval_shape(jax.random.key, 0)
        state = jax.eval_shape(task.init, key, batch_shapes(source))[1]
        optim.pieces(source.size, training.accumulate, training.microbatch, state)
    check_patience(name, experiment, flags.get("patience"))
    words = [f"zoo train {name}"] + [f"--data {data}"] * (data != recipe.data)
    words += [flag(n, v) for n, v in given.items()]
    for name in ("patience", "eval_every"):
        if (value := flags.get(name)) is not None:
            words.append(flag(name, value))
    command = " ".join(words)
    mine = {n: flags[n] for n in own}
    return Asked(recipe, command, axes, given, mine, out), experiment


def _names():
    return ", ".join(RECIPES)


def _flags(
    recipe: Recipe, own: tuple[str, ...], command: str | None = None
) -> Callable[..., dict]:
    """A function whose signature has the recipe's flags, numbers as texts, and ours.

    For a command itself, also which recipe.
    """
    swept = numbers(recipe)
    rows = [
        (p.name, str, str(p.default), f"{HELP[p.name]}; as 0.1,0.3 or 1e-4..1e-1")
        if p.name in swept
        else (p.name, typed(p.annotation), p.default, HELP[p.name])
        for p in parameters(recipe).values()
    ]
    rows += [(name, *OWN[name]) for name in own]
    if command:
        names: Any = Literal[tuple(RECIPES)]
        kind: Any = tyro.conf.Positional[names]  # type: ignore[misc]
        rows = [("recipe", kind, "linear", ""), *rows]
    found = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[kind, tyro.conf.arg(help=about)],
        )
        for name, kind, default, about in rows
    ]

    def collect(**flags: Any) -> dict:
        return flags

    collect.__signature__ = inspect.Signature(found)  # type: ignore[attr-defined]
    collect.__annotations__ = {p.name: p.annotation for p in found}
    collect.__doc__ = recipe.about
    return collect


def _refuse_lists(recipe, argv):
    """Raise UsageError for several values of what shapes the program."""
    texts = {n for n, p in parameters(recipe).items() if str in _kinds(p.annotation)}
    others = parameters(recipe).keys() - {*numbers(recipe)} - texts  # x1,x2 are columns
    for flag, value in re.findall(r"--([\w-]+)[ =](\S+)", " ".join(argv)):
        name = flag.replace("-", "_")
        if name in others and re.search(r"\d,\S*\d|\d\.\.\d", value):
            raise UsageError(
                f"{name} shapes the program: one search for each of its values "
                f"(numbers to search are {', '.join(numbers(recipe))})"
            )


def _kinds(annotation):
    return annotation, *get_args(annotation)


def _refuse_log(command, argv):
    """Raise UsageError for a log: it would have a curve for each of the trainings."""
    if any(word.partition("=")[0] == "--log" for word in argv):
        raise UsageError(
            f"expected no --log: zoo {command} writes members.csv and curves.png of "
            "its trainings; zoo train logs that of the best"
        )


def _axis(parameter, text):
    """ "0.1,0.3" -> [0.1, 0.3]; "1e-4..1e-1" -> a range; "None" where it may be."""
    if text == "None" and type(None) in get_args(parameter.annotation):
        return [None]
    low, dots, high = text.partition("..")
    try:
        if dots:
            return many.LogUniform(float(low), float(high))
        return [float(value) for value in text.split(",")]
    except ValueError:
        raise UsageError(
            f"expected numbers for {parameter.name}, as 0.1,0.3 or 1e-4..1e-1, found "
            f"{text!r}"
        ) from None


def _claim(out, resume):
    """Raise UsageError for a directory that has something else in it."""
    known = set() if not resume else {"members"}
    if resume and not (out / "search.json").exists():  # the last that is written
        known |= {"members.csv", "settings.csv", "curves.png", "map.png"}
    if out.exists() and (not out.is_dir() or {p.name for p in out.iterdir()} - known):
        hint = ": --resume goes on with an unfinished sweep" * (not resume)
        raise UsageError(f"{out} is taken{hint}; choose another --out")


def judged_by(experiment: Experiment) -> tuple[str, bool]:
    """The metric of a recipe's goal, the loss without one; whether more is better."""
    goal, schema = experiment.goal, experiment.schema
    if goal is None or (goal.metric == "accuracy" and schema.regression):
        return "loss", False
    return goal.metric, not goal.at_most


def judged_in_batches(experiment: Experiment, axes: dict[str, Any]) -> tuple[str, bool]:
    """The accuracy, or the loss. Raises UsageError where it says not what is good."""
    if not experiment.stoppable:
        raise UsageError("expected a recipe whose loss says how good its model is")
    metric, greatest = judged_by(experiment)
    if metric == "accuracy":
        return metric, greatest
    for name in ("beta", "noise", "anneal"):
        if name in axes:
            raise UsageError(
                f"expected numbers that the loss is not made of, found {name}: zoo "
                "sweep judges by what the recipe is for"
            )
    return "loss", False


def searched(recipe: Recipe, given: dict[str, Any]) -> dict[str, many.LogUniform]:
    """The ranges that `zoo tune` looks in: around the recipe's numbers, by ten."""
    found = {}
    known = parameters(recipe)
    for name in ("learning_rate", "weight_decay", "alpha", "penalty"):
        value = known[name].default if name in known and name not in given else None
        if name == "weight_decay" and known["optimizer"].default == "adamw":
            value = value or 1e-2
        if isinstance(value, float | int) and value > 0:
            found[name] = many.LogUniform(value / 10, value * 10)
    if not found:
        raise UsageError(
            "expected numbers to tune: this recipe has none but those given"
        )
    return found


def seconds(text: str) -> float:
    """Of "90s", "10m" or "1h". Raises UsageError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not match or float(match[1]) == 0:
        raise UsageError(f"expected a budget as 90s, 10m or 1h, found {text!r}")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def flag(name: str, value: Any) -> str:
    """A flag as it is typed."""
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return flag if value else f"--no-{flag[2:]}"
    if isinstance(value, tuple | list):
        return f"{flag} {' '.join(map(str, value))}"
    return f"{flag} {value:.6g}" if isinstance(value, float) else f"{flag} {value}"
