"""`zoo lr`: which learning rate to begin with, by a training whose rate grows."""

from pathlib import Path
from typing import Any

from train.cli.flags import ASKED, HELP, Shown, collected, parse, typed
from train.recipes import RECIPES, Recipe, build, parameters, prepare
from zoo.base import UsageError, check_choice

OWN: list[tuple[str, Any, Any, str]] = [
    ("low", float, 1e-6, "the rate of the first step"),
    ("high", float, 10.0, "that of the last, unless the loss has risen before"),
    ("steps", int, 200, "from the one to the other"),
    ("seed", int, 0, HELP["seed"]),
    ("out", Path, Path("lr.png"), "the picture"),
]


def lr(argv: list[str]) -> int:
    """`zoo lr RECIPE`: a rate, what it was found by, and a picture."""
    if argv is ASKED:
        raise Shown(_flags(RECIPES["linear"]))
    if not argv or argv[0].startswith("-"):
        raise UsageError(f"expected zoo lr RECIPE [flags], one of {', '.join(RECIPES)}")
    name = argv[0]
    check_choice("recipe", name, tuple(RECIPES))
    recipe = RECIPES[name]
    flags = parse(_flags(recipe), argv[1:], f"zoo lr {name}")
    own = {row[0]: flags.pop(row[0]) for row in OWN}
    found, title, unit = _tested(name, recipe, flags, own)
    from train.report import plot, ranges

    plot.save(ranges.rates(found, title, unit), own["out"])
    return _told(name, recipe, found, own["out"])


def _tested(name, recipe, flags, own):
    """The range test, what its picture is of, and the unit of its loss."""
    from train import data, many, optim

    wanted = data.Split(flags.pop("data"), 0.0, own["seed"])
    optimizer = flags["optimizer"]
    if optimizer in optim.SEARCHES:
        raise UsageError(
            f"expected an optimizer with a learning rate, found {optimizer}, which "
            "searches for its own at each step"
        )
    begin = flags | {"schedule": "constant", "learning_rate": own["low"]}
    experiment = prepare(recipe, wanted, **begin)
    if not experiment.stoppable:
        raise UsageError(f"expected a loss that says how good a model of {name} is")
    training, source = experiment.training, experiment.source()

    def make(rate):
        given = begin | {"learning_rate": rate}
        return build(recipe, experiment.schema, **given).optimizer

    parts = optim.pieces(source.size, training.accumulate, training.microbatch)
    limits = {k: own[k] for k in ("low", "high", "steps", "seed")}
    found = many.range_test(experiment.task, make, source, accumulate=parts, **limits)
    title = f"{name} on {Path(experiment.schema.name).name}, {optimizer}"
    return found, title, experiment.report.unit


def _told(name, recipe, found, out):
    if found.suggestion is None:
        print(f"the loss fell at none of the rates; {out} shows it")
        return 1
    usual = recipe.training.learning_rate
    known = f" (the recipe's own: {usual:g})" if usual else ""
    print(
        f"learning rate {found.suggestion:.2g}{known}, a quarter of {found.least:.2g}, "
        f"where the loss was lowest; {out} shows it\n"
        f"zoo train {name} --learning-rate {found.suggestion:.2g}"
    )
    return 0


def _flags(recipe: Recipe) -> Any:
    """The recipe's flags, but for what says the rate of a step, and our own."""
    theirs = [
        (p.name, typed(p.annotation), p.default, HELP[p.name])
        for p in parameters(recipe).values()
        if p.name not in ("learning_rate", "schedule", "steps")
    ]
    about = "A training whose learning rate grows at each step, and what it suggests."
    return collected(theirs + OWN, about)
