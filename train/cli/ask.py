"""What a trained model is asked for on the command line."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro

from train.cli.flags import Directory, parse
from train.cli.predict import predict
from train.cli.tables import failed, scores, table
from zoo.base import UsageError, count_parameters, plain


def info(argv: list[str]) -> int:
    """`zoo info DIR`: what was trained, on what, its scores, size and versions."""
    from train.checkpoint import read_json
    from train.recipes import saved

    def flags(directory: Directory) -> Path:
        return directory

    directory = parse(flags, argv, "zoo info")
    config = saved.read_config(directory)
    path = directory / "result.json"
    result = read_json(path) if path.exists() else {}
    with saved.understood(directory):
        _tell(directory, config, result)
    return failed(result.get("failure")) if result else 0


def _tell(directory, config, result):
    from train.checkpoint import latest
    from train.recipes import saved

    experiment = saved.described(config)
    schema, step = experiment.schema, latest(directory / "checkpoints")
    like = saved.shapes(config, experiment)[0]
    rows = [
        ("recipe", config["recipe"]),
        ("data", f"{schema.name}, {schema.rows:,} to train on"),
        ("examples", _shape(schema)),
        ("steps", f"{step or 0:,} of {experiment.training.steps:,}"),
        ("parameters", f"{count_parameters(like.params):,}"),
        ("flags", _flags(config)),
        ("versions", ", ".join(f"{k} {v}" for k, v in config["versions"].items())),
        ("device", str(config["device"])),
        *[("table", note) for note in schema.notes],
    ]
    table(("", str(directory)), rows)
    if not result:
        print("not finished: zoo train --resume goes on")
        return
    known = result.get("baselines", {})  # older runs have none
    scores(result["metrics"], f"on the {result['measured_on']}", known)


def _shape(schema):
    if schema.tokens:
        return f"sequences of {len(schema.tokens)} tokens"
    if schema.ids:
        return "ids of " + " and ".join(str(len(names)) for names in schema.ids)
    kinds = f", {len(schema.classes)} classes" if schema.classes else ", a quantity"
    if schema.targets:
        what = "labels" if schema.multilabel else "quantities"
        kinds = f", {len(schema.targets)} {what}"
    return f"{list(schema.shape)}{kinds}"


def _flags(config):
    given = config["arguments"] | config["options"]
    return ", ".join(f"{name} {value}" for name, value in given.items())


def evaluate(argv: list[str]) -> int:
    """`zoo eval DIR`: measure again."""
    from train.recipes import saved

    def flags(directory: Directory) -> Path:
        return directory

    directory = parse(flags, argv, "zoo eval")
    found = saved.restore(directory)
    experiment = saved.with_rows(found.config, directory)
    part = "training data" if experiment.parts.test is None else "test data"
    measured = experiment.report.measure(found.trained, experiment.parts)
    known = experiment.report.baselines(experiment.parts)
    scores(measured.scores, f"{found.config['recipe']} on the {part}", known)
    return failed(measured.failure)


def sample(argv: list[str]) -> int:
    """`zoo sample DIR`: a picture, or text."""

    def flags(
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
    directory, seed = asked.pop("directory"), asked.pop("seed")
    given = {name: value for name, value in asked.items() if value is not None}

    from train.recipes import saved

    found = saved.load(directory)
    if found.sample is None and found.write is None:
        raise UsageError(f"expected a model that draws or writes, found {found.recipe}")
    images = {"n", "label", "out"}
    wrong = given.keys() & images if found.sample is None else given.keys() - images
    if wrong:
        raise UsageError(f"--{min(wrong).replace('_', '-')} is not for {found.recipe}")
    if found.sample is not None:
        return _draw(found, directory, seed, **given)
    assert found.write is not None
    prompt, length = given.pop("prompt", "The "), given.pop("length", 300)
    given.setdefault("temperature", 0.8)
    print(plain(prompt + found.write(prompt, length, seed=seed, **given)))
    return 0


def _draw(found, directory, seed, n=64, label=None, out=None):
    from train import data as sets
    from train.cli import run

    drawn = found.sample(n, seed=seed, label=label)
    if isinstance(drawn, list):
        print(plain("\n".join(drawn)))
        return 0
    at = sets.label_of(found.schema, label)
    name = f"sample-{seed}" if at is None else f"sample-{seed}-{at}"
    path = directory / name if out is None else out.with_suffix("")
    print(run.show(drawn, path, found.columns))
    return 0


def _able(command, flags, argv, wanted, kind):
    """A run's model that has the function of a command's name, and what was asked."""
    directory, given, number = parse(flags, argv, f"zoo {command}")
    if not given:
        raise UsageError(f"expected {wanted}, found none")
    from train.recipes import saved

    found = saved.load(directory)
    if getattr(found, command) is None:
        raise UsageError(f"expected a model {kind}, found {found.recipe}")
    return found, directory, given, number


def _tell_one(given, one, drawing, path):
    """Print what was said of an input; its picture goes to a path."""
    from train.report import plot

    print(f"{given}\t{plain(one.text)}\t{one.log_probability:.2f} nats")
    plot.save(drawing, path)
    print(path, file=sys.stderr)


def translate(argv: list[str]) -> int:
    """`zoo translate DIR WORD ...`: each with its log-probability."""

    def flags(
        directory: Directory,
        inputs: tyro.conf.Positional[tuple[str, ...]],
        beams: int = 4,
    ) -> tuple[Path, tuple[str, ...], int]:
        """What words or sentences become; pictures of the attention go to DIR.

        Args:
            directory: the run's directory
            inputs: words or sentences, each in quotes
            beams: beginnings that the search keeps; 1 is greedy
        """
        return directory, inputs, beams

    wanted = "a word or a sentence to translate", "that translates"
    found, directory, inputs, beams = _able("translate", flags, argv, *wanted)
    from train.report import plot

    said = found.translate(list(inputs), beams=beams)
    for source, one in zip(inputs, said, strict=True):
        drawing = plot.attention(one.attention, one.source, one.target, source)
        name = re.sub(r"\W+", "-", source)
        _tell_one(source, one, drawing, directory / f"attention-{name}.png")
    return 0


def transcribe(argv: list[str]) -> int:
    """`zoo transcribe DIR FILE ...`: the words of each, with their log-probability."""

    def flags(
        directory: Directory,
        files: tyro.conf.Positional[tuple[Path, ...]],
        beams: int = 8,
    ) -> tuple[Path, tuple[Path, ...], int]:
        """What is said in files of sound; pictures of when go to DIR.

        Args:
            directory: the run's directory
            files: .wav, 8,000 samples a second, one channel, 16 bits
            beams: beginnings that the search keeps; 1 is the likeliest path
        """
        return directory, files, beams

    wanted = "a .wav file to transcribe", "that hears strings"
    found, directory, files, beams = _able("transcribe", flags, argv, *wanted)
    said = found.transcribe(list(files), beams=beams)
    for file, one in zip(files, said, strict=True):
        _tell_one(file, one, one.picture(), directory / f"alignment-{file.stem}.png")
    return 0


def near(argv: list[str]) -> int:
    """`zoo near DIR WORD ...`: the words whose vectors are most like each."""

    def flags(
        directory: Directory, inputs: tyro.conf.Positional[tuple[str, ...]], n: int = 8
    ) -> tuple[Path, tuple[str, ...], int]:
        """Words that are used alike, with the cosines of their vectors.

        Args:
            directory: the run's directory
            inputs: words, or a sum of words: king - man + woman
            n: words to name
        """
        return directory, inputs, n

    found, _, inputs, n = _able("near", flags, argv, "a word", "of words")
    for text in [" ".join(inputs)] if {"+", "-"} & set(inputs) else inputs:
        alike = [f"{plain(word)} {cosine:.2f}" for word, cosine in found.near(text, n)]
        print(f"{plain(text)}: {', '.join(alike)}")
    return 0


def export(argv: list[str]) -> int:
    """`zoo export DIR`: a program or weights for elsewhere."""

    def flags(
        directory: Directory, stablehlo: Path | None = None, weights: Path | None = None
    ) -> tuple[Path, Path | None, Path | None]:
        """A trained model for elsewhere.

        Args:
            directory: the run's directory
            stablehlo: a file for a program of raw inputs that needs JAX alone
            weights: a .safetensors file; `train.load` reads it
        """
        return directory, stablehlo, weights

    directory, program, weights = parse(flags, argv, "zoo export")
    if program is None and weights is None:
        raise UsageError("expected --stablehlo FILE or --weights FILE, found neither")
    if weights is not None and weights.suffix != ".safetensors":
        raise UsageError(f"expected a file .safetensors for weights, found {weights}")
    from train.recipes import export, saved

    config, experiment, trained = saved.restore(directory)
    if program is not None:
        export.stablehlo(experiment.task, trained, experiment.schema, program)
        print(program)
    if weights is not None:
        export.write_weights(trained, config, weights)
        print(weights)
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "info": info,
    "eval": evaluate,
    "predict": predict,
    "sample": sample,
    "translate": translate,
    "transcribe": transcribe,
    "near": near,
    "export": export,
}
