"""The command line: `zoo list | train | eval | predict`.

The flags of `zoo train RECIPE` are the recipe function's keywords.
"""

import contextlib
import csv
import inspect
import io
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from zoo.base import UsageError, count_parameters

USAGE = """\
usage: zoo COMMAND [...]

  zoo list                     the recipes: model, data, parameters, target score
  zoo train RECIPE [flags]     train, measure and save a run; RECIPE --help for flags
  zoo eval DIR                 measure a run's model again on its test data
  zoo predict DIR INPUT [...]  predictions for .npz, .csv or image files, as CSV
"""

Directory = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DIR")]]

HELP = {
    "data": "a data set's name, or the path of a .npz or .csv file of your own",
    "target": "the column of a .csv to predict",
    "holdout": "share of the data kept for testing, where the set has no test part",
    "batch_size": "examples per step; None is the full batch",
    "steps": "updates in all",
    "learning_rate": "the highest rate of the schedule; None with lbfgs",
    "weight_decay": "decoupled; biases and norms are left alone",
    "clip": "bound on the gradient's global norm",
    "accumulate": "steps whose gradients make one update",
    "ema": "decay of a moving average of the parameters to predict with",
    "augment": "change the training images at random",
    "dropout": "share of hidden units dropped in training",
    "widths": "units of each hidden layer",
    "out": "the run's directory; runs/RECIPE for None",
    "resume": "go on with the run in the directory",
    "seed": "of the initial weights, the order of the examples, dropout, augmentation",
    "patience": "stop after so many evaluations without a lower loss on a tenth of the "
    "training data, and restore the best",
    "devices": "split each batch over that many devices",
}


def main(argv: list[str] | None = None) -> int:
    """Run a command; 0, or 2 after a user's mistake, or 130 after Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    commands = {"list": _list, "train": _train, "eval": _eval, "predict": _predict}
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if argv else 2
    try:
        if argv[0] not in commands:
            _unknown("command", argv[0], tuple(commands))
        _quiet()
        return commands[argv[0]](argv[1:])
    except UsageError as error:
        print(f"zoo: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output left, as `head` does
        sys.stderr.close()
        return 0
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"zoo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("zoo: interrupted", file=sys.stderr)
        return 130


def _list(argv: list[str]) -> int:
    from train import data as sets
    from train.recipes import RECIPES

    _parse(lambda: None, argv, "zoo list")
    rows = []
    for name, make in RECIPES.items():
        source = inspect.signature(make).parameters["data"].default
        recipe = make(data=sets.blank(sets.schema_of(source)))
        goal = "" if recipe.goal is None else str(recipe.goal)
        count = f"{_parameters(recipe):,}"
        rows.append((name, recipe.model, source, count, goal))
    _table(("recipe", "model", "data", "parameters", "target"), rows)
    return 0


def _train(argv: list[str]) -> int:
    from train import run
    from train.recipes import RECIPES

    if not argv or argv[0].startswith("-"):
        print(f"usage: zoo train RECIPE [flags]\n\nrecipes: {', '.join(RECIPES)}")
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    name = argv[0]
    if name not in RECIPES:
        _unknown("recipe", name, tuple(RECIPES))
    _cache()
    make, program = RECIPES[name], f"zoo train {name}"
    flags = _parse(_flags(make, {}), argv[1:], program)
    out = flags["out"] or Path("runs") / name
    if flags["resume"] and (out / "config.json").exists():
        began, kept = run.resumed(out)
        if began != name:
            raise UsageError(f"the run in {out} is of the recipe {began}, not {name}")
        # a run goes on with its own flags; those given again must say the same
        flags = _parse(_flags(make, kept), argv[1:], program)
    own = {k: v for k, v in flags.items() if k in inspect.signature(make).parameters}
    options = run.Options(**{k: flags[k] for k in run.Options._fields})
    done = run.train(name, own, options, out, flags["resume"])
    if done.result is None:
        print(f"stopped at step {done.steps}, saved; {_again(argv, out)} goes on")
        return 130
    result = done.result
    _report(result["metrics"], f"{name} on the {result['measured_on']}")
    print(
        f"{result['steps']:,} steps in {result['seconds']:.1f} s, "
        f"{result['examples_per_second']:,.0f} examples/s, "
        f"{result['parameters']:,} parameters; saved in {out}"
    )
    return 0


def _eval(argv: list[str]) -> int:
    from train import run

    def flags(directory: Directory) -> Path:
        return directory

    directory = _parse(flags, argv, "zoo eval")
    _cache()
    recipe, state, config = run.restore(directory, rows=True)
    part = "training data" if recipe.data.test is None else "test data"
    _report(run.measure(recipe, state), f"{config['recipe']} on the {part}")
    return 0


def _predict(argv: list[str]) -> int:
    def flags(
        directory: Directory, inputs: tyro.conf.Positional[tuple[Path, ...]]
    ) -> tuple[Path, tuple[Path, ...]]:
        return directory, inputs

    directory, inputs = _parse(flags, argv, "zoo predict")
    if not inputs:
        raise UsageError("expected an INPUT: a .npz, .csv, .png or .jpg file")

    from train import data as sets
    from train import run
    from train.evaluate import predict

    _cache()
    recipe, state, _ = run.restore(directory)
    schema = recipe.data.schema
    x = sets.read_inputs(schema, inputs)
    predictions = predict(recipe.task, state, x)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if schema.regression:
        writer.writerow([schema.target_name])
        values = sets.restore_target(schema, predictions).reshape(len(x))
        writer.writerows([f"{value:.7g}"] for value in values)
        return 0
    writer.writerow(["class", *(f"p({name})" for name in schema.classes)])
    for name, row in zip(
        sets.labels(schema, predictions.argmax(-1)), predictions, strict=True
    ):
        writer.writerow([name, *(f"{p:.4f}" for p in row)])
    return 0


def _flags(make: Callable[..., Any], kept: dict[str, Any]) -> Callable[..., dict]:
    """A function with the recipe's keywords and the run's: tyro makes flags of it.

    Values in `kept` replace the defaults.
    """
    from train import run

    def flag(name: str, annotation: Any, default: Any) -> inspect.Parameter:
        annotation = str if name == "data" else annotation
        help = tyro.conf.arg(help=HELP.get(name))
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(
            name,
            kind,
            default=kept.get(name, default),
            annotation=Annotated[annotation, help],
        )

    recipe = inspect.signature(make, eval_str=True).parameters.values()
    parameters = [flag(p.name, p.annotation, p.default) for p in recipe]
    hints, defaults = run.Options.__annotations__, run.Options._field_defaults
    parameters += [flag(n, hints[n], defaults[n]) for n in run.Options._fields]
    parameters += [flag("out", Path | None, None), flag("resume", bool, False)]

    def collect(**flags: Any) -> dict:
        return flags

    collect.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    collect.__annotations__ = {p.name: p.annotation for p in parameters}
    collect.__doc__ = make.__doc__
    return collect


def _parse(function: Callable[..., Any], argv: list[str], program: str) -> Any:
    """Call a function with flags parsed from its signature.

    Raises UsageError with what the parser says, in a line.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(function, args=argv, prog=program)
    except SystemExit as end:
        if not end.code:
            raise
        raise UsageError(
            f"{_sentence(said.getvalue())} (see {program} --help)"
        ) from None


def _sentence(text: str) -> str:
    """What the parser says in a box: its first paragraph, and the flag it suggests."""
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        line = line.strip("│| ")
        if not line or not set(line) - set("─-╰╯+"):
            blocks.append([])
        elif not line.startswith(("╭", "For full", "Argument")):
            blocks[-1].append(line)
    said = [" ".join(block) for block in blocks if any(":" in line for line in block)]
    said = said or [" ".join(line for block in blocks for line in block)]
    near = re.search(r"Perhaps you meant.*?(--[\w-]+)", " ".join(said))
    return said[0].rstrip(":.") + (f"; perhaps you meant {near[1]}" if near else "")


def _report(metrics: dict[str, Any], title: str) -> None:
    """Tables of the metrics: single numbers, then one row for each class."""
    numbers = {k: v for k, v in metrics.items() if isinstance(v, float | int)}
    print(f"\n{title}:")
    _table(tuple(numbers), [tuple(f"{v:.4f}" for v in numbers.values())])
    classes = metrics.get("per_class", {})
    if 0 < len(classes) <= 20:
        heads = ("class", "precision", "recall", "f1", "support")
        rows = [
            (name, *(f"{row[k]:.3f}" for k in heads[1:4]), str(row["support"]))
            for name, row in classes.items()
        ]
        _table(heads, rows)


def _table(heads, rows):
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(header_style="bold")
    for i, head in enumerate(heads):
        values = [row[i].replace(",", "").replace(".", "") for row in rows]
        right = all(value.lstrip("-").isdigit() for value in values)
        table.add_column(escape(head), justify="right" if right else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    console = Console()
    console.width = (
        max(console.width, 100) if not console.is_terminal else console.width
    )
    console.print(table)


def _parameters(recipe):
    import jax

    key = jax.eval_shape(lambda: jax.random.key(0))
    params, _ = jax.eval_shape(recipe.task.init, key, recipe.data.train)
    return count_parameters(params)


def _again(argv, out):
    return f"`zoo train {argv[0]} --out {out} --resume`"


def _unknown(what, name, choices):
    from train.optim import check_choice

    check_choice(what, name, choices)


def _cache():
    """Compiled programs stay in the user's cache: a second run starts fast."""
    import jax

    from train import download

    folder = download.cache() / "xla"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return  # no home to write to: compile anew
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _quiet():
    """Warnings of the project's own are lines, not source positions."""
    warnings.showwarning = lambda message, *rest, **kw: print(
        f"zoo: warning: {message}", file=sys.stderr
    )


if __name__ == "__main__":
    sys.exit(main())
