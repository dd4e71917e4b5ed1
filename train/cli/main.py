"""The command line: `zoo list | train | eval | predict | sample | translate`.

The flags of `zoo train RECIPE` are the recipe function's keywords.
"""

import csv
import inspect
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import tyro

from train.cli.flags import Directory, parse, recipe_flags
from zoo.base import UsageError, check_int, count_parameters

USAGE = """\
usage: zoo COMMAND [...]

  zoo list                     the recipes: model, data, parameters, target score
  zoo train RECIPE [flags]     train, measure and save a run; RECIPE --help for flags
  zoo eval DIR                 measure a run's model again on its test data
  zoo predict DIR INPUT [...]  predictions for .npz, .csv or image files, as CSV
  zoo sample RECIPE DIR        images or text that a model makes; --help for flags
  zoo translate RECIPE DIR WORD [...]  what a sequence becomes, and what was attended to
"""


def main(argv: list[str] | None = None) -> int:
    """Run a command; 0, 1 for a failed training, 2 for a mistake, 130 after Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    commands = {
        "list": _list,
        "train": _train,
        "eval": _eval,
        "predict": _predict,
        "sample": _sample,
        "translate": _translate,
    }
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
    from train.data.builtin import PUBLISHED
    from train.recipes import RECIPES

    parse(lambda: None, argv, "zoo list")
    rows = []
    for name, make in RECIPES.items():
        source = inspect.signature(make).parameters["data"].default
        download = source in PUBLISHED  # its sizes are known without
        recipe = make(data=sets.blank(sets.schema_of(source))) if download else make()
        goal = "" if recipe.goal is None else str(recipe.goal)
        count = f"{_parameters(recipe):,}"
        rows.append((name, recipe.model, source, count, goal))
    _table(("recipe", "model", "data", "parameters", "target"), rows)
    return 0


def _train(argv: list[str]) -> int:
    from train.cli import run
    from train.recipes import RECIPES

    if not argv or argv[0].startswith("-"):
        print(f"usage: zoo train RECIPE [flags]\n\nrecipes: {', '.join(RECIPES)}")
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    name = argv[0]
    if name not in RECIPES:
        _unknown("recipe", name, tuple(RECIPES))
    _cache()
    make, program = RECIPES[name], f"zoo train {name}"
    flags = parse(recipe_flags(make, {}), argv[1:], program)
    out = flags["out"] or Path("runs") / name
    if flags["resume"] and (out / "config.json").exists():
        began, kept = run.resumed(out)
        if began != name:
            raise UsageError(f"the run in {out} is of the recipe {began}, not {name}")
        # a run goes on with its own flags; those given again must say the same
        flags = parse(recipe_flags(make, kept), argv[1:], program)
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
    return _failed(result.get("failure"))


def _failed(failure: str | None) -> int:
    if failure:
        print(f"zoo: the training failed: {failure}", file=sys.stderr)
    return 1 if failure else 0


def _eval(argv: list[str]) -> int:
    from train.cli import run

    def flags(directory: Directory) -> Path:
        return directory

    directory = parse(flags, argv, "zoo eval")
    _cache()
    recipe, trained, config = run.restore(directory, rows=True)
    part = "training data" if recipe.data.test is None else "test data"
    scores = run.measure(recipe, trained)
    _report(scores, f"{config['recipe']} on the {part}")
    return _failed(scores.get("failure"))


def _predict(argv: list[str]) -> int:
    def flags(
        directory: Directory, inputs: tyro.conf.Positional[tuple[Path, ...]]
    ) -> tuple[Path, tuple[Path, ...]]:
        return directory, inputs

    directory, inputs = parse(flags, argv, "zoo predict")
    if not inputs:
        raise UsageError("expected an INPUT: a .npz, .csv, .png or .jpg file")

    from train import data as sets
    from train.cli import run
    from train.data import inputs as files
    from train.evaluate import predict

    _cache()
    recipe, trained, config = run.restore(directory)
    schema = recipe.data.schema
    if schema.tokens or recipe.task.predict is None:
        raise UsageError(
            f"{config['recipe']} predicts nothing: see `zoo sample` and `zoo translate`"
        )
    rows = files.read_examples(schema, inputs)
    predictions = predict(recipe.task, trained, rows)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if schema.regression:
        writer.writerow([schema.target_name])
        values = sets.restore_target(schema, predictions).reshape(len(rows["x"]))
        writer.writerows([f"{value:.7g}"] for value in values)
        return 0
    writer.writerow(["class", *(f"p({name})" for name in schema.classes)])
    for name, row in zip(
        sets.labels(schema, predictions.argmax(-1)), predictions, strict=True
    ):
        writer.writerow([name, *(f"{p:.4f}" for p in row)])
    return 0


def _sample(argv: list[str]) -> int:
    def flags(
        recipe: tyro.conf.Positional[str],
        directory: Directory,
        seed: int = 0,
        n: int | None = None,
        label: str | None = None,
        out: Path | None = None,
        prompt: str | None = None,
        length: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> dict[str, Any]:
        """Images that a model draws, or text that it writes.

        Args:
            recipe: the recipe of the run
            directory: the run's directory
            seed: of the draws
            n: images in the picture, or texts; 64 for None
            label: the class to draw, for a conditional model; all in turn for None
            out: the picture's path; DIR/sample-SEED.png for None
            prompt: of a language model, what the text begins with; "The " for None
            length: characters to write; 300 for None
            temperature: below 1 for what is likelier, 0 for the likeliest alone; 0.8
            top_k: draw from the k likeliest characters
            top_p: draw from the likeliest that have this probability together
        """
        return locals()

    asked = parse(flags, argv, "zoo sample")
    name, directory, seed = (asked.pop(k) for k in ("recipe", "directory", "seed"))
    given = {name: value for name, value in asked.items() if value is not None}
    recipe, trained = _restored(name, directory)
    if recipe.draw is None and not recipe.writes:
        raise UsageError(f"expected a recipe that draws or writes, found {name}")
    if recipe.draws_rows:
        recipe, trained = _restored(name, directory, rows=True)
    images = {"n", "label", "out"}
    wrong = given.keys() & images if recipe.draw is None else given.keys() - images
    if wrong:
        raise UsageError(f"--{min(wrong).replace('_', '-')} is not for {recipe.model}")
    if recipe.draw is not None:
        return _draw(recipe, trained, directory, seed, **given)
    from train.report import samples

    prompt, length = given.pop("prompt", "The "), given.pop("length", 300)
    given.setdefault("temperature", 0.8)
    written = samples.write(
        recipe.network, recipe.data.schema, trained, prompt, length, seed=seed, **given
    )
    print(prompt + written)
    return 0


def _draw(recipe, trained, directory, seed, n=64, label=None, out=None):
    from train.cli import run

    schema = recipe.data.schema
    check_int("n", n, 1, 10_000)
    check_int("seed", seed, 0, 2**32 - 1)
    at = None
    if label is not None:
        if schema.classes:
            _unknown("label", label, schema.classes)
        at = schema.classes.index(label) if schema.classes else 0
    drawn = recipe.draw(recipe, trained, seed, n, at)
    if isinstance(drawn, list):
        print("\n".join(drawn))
        return 0
    name = f"sample-{seed}" if label is None else f"sample-{seed}-{at}"
    path = directory / name if out is None else out.with_suffix("")
    print(run.show(drawn, path, run.columns(recipe)))
    return 0


def _translate(argv: list[str]) -> int:
    def flags(
        recipe: tyro.conf.Positional[str],
        directory: Directory,
        inputs: tyro.conf.Positional[tuple[str, ...]],
        beams: int = 4,
    ) -> tuple[str, Path, tuple[str, ...], int]:
        """What words or sentences become; pictures of the attention go to DIR.

        Args:
            recipe: the recipe of the run
            directory: the run's directory
            inputs: words or sentences, each in quotes
            beams: beginnings that the search keeps; 1 is greedy
        """
        return recipe, directory, inputs, beams

    name, directory, inputs, beams = parse(flags, argv, "zoo translate")
    if not inputs:
        raise UsageError("expected a word or a sentence to translate, found none")
    from train.report import plot, samples

    recipe, trained = _restored(name, directory)
    if not recipe.translates:
        raise UsageError(f"expected a recipe that translates, found {name}")
    schema = recipe.data.schema
    found = samples.translate(
        recipe.network, schema, trained, list(inputs), beams=beams
    )
    for source, one in zip(inputs, found, strict=True):
        print(f"{source}\t{one.text}\t{one.log_probability:.2f} nats")
        drawing = plot.attention(one.attention, one.source, one.target, source)
        name = re.sub(r"\W+", "-", source)
        path = directory / f"attention-{name}.png"
        plot.save(drawing, path)
        print(path, file=sys.stderr)
    return 0


def _restored(name, directory, rows=False):
    """The recipe and what a run trained; the run must be of the recipe named."""
    from train.cli import run
    from train.recipes import RECIPES

    if name not in RECIPES:
        _unknown("recipe", name, tuple(RECIPES))
    _cache()
    recipe, trained, config = run.restore(directory, rows=rows)
    if config["recipe"] != name:
        raise UsageError(
            f"the run in {directory} is of the recipe {config['recipe']}, not {name}"
        )
    return recipe, trained


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
        max(console.width, 110) if not console.is_terminal else console.width
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

    from train.data import download

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
