"""What a run leaves, read again: the model that it trained. Nothing here writes.

DIR/config.json has the recipe, its flags and the schema of its data; DIR/checkpoints
the states. Both are enough: the rows may be gone.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from train import checkpoint, evaluate, loop
from train import data as sets
from train import source as sources
from train.data import Schema, Split, inputs
from train.data.shown import as_html
from train.files import read_sealed
from train.recipes import RECIPES, export
from train.recipes.base import Experiment, build, prepare
from train.step import Trained
from zoo.base import Task, UsageError, check_choice, check_int, count_parameters

FORMAT = 3  # of the directory; 1 had no number, 2 no seals


class Options(NamedTuple):
    """What every recipe can be run with."""

    seed: int = 0
    patience: int | None = None
    devices: int = 1
    data_seed: int | None = None  # that of the run for None


class Saved(NamedTuple):
    """A run's config, the experiment that it was, and what it trained."""

    config: dict[str, Any]
    experiment: Experiment
    trained: Trained


class Loaded(NamedTuple):
    """A trained model as functions of what a user has; None where it cannot.

    predict(inputs) -> probabilities [N, K], or values [N] in their own unit; `inputs`
    are those of `train.data.inputs.examples`: raw arrays, columns, texts or files.
    sample(n, *, seed=0, label=None) -> images [n, H, W, C] in [0, 1], or n texts.
    write(prompt, length, *, seed=0, temperature=1.0, top_k=None, top_p=None) -> text.
    translate(sources, *, beams=4) -> one `train.report.samples.Translation` for each.
    transcribe(paths, *, beams=8) -> one `train.report.hearing.Transcript` for each.
    """

    recipe: str
    task: Task
    network: Any
    params: Any
    state: Any  # batch statistics; {} if none
    schema: Schema
    config: dict[str, Any]
    predict: Callable[[Any], np.ndarray] | None
    sample: Callable[..., np.ndarray | list[str]] | None
    write: Callable[..., str] | None
    translate: Callable[..., Sequence[Any]] | None
    transcribe: Callable[..., Sequence[Any]] | None
    columns: int  # of a picture of samples
    lines: Callable[[np.ndarray], list[list[str]]] | None  # as `Report` has it

    def _repr_html_(self) -> str:
        asked = ("predict", "sample", "write", "translate", "transcribe")
        given = self.config["arguments"].items()
        known = {
            "can": ", ".join(name for name in asked if getattr(self, name)),
            "parameters": f"{count_parameters(self.params):,}",
            "data": self.schema.name,
            **self.schema.told(),
            "flags": ", ".join(f"{k} {v}" for k, v in given if v is not None),
        }
        return as_html(f"Trained: {self.recipe}", known)


def load(path: str | os.PathLike[str]) -> Loaded:
    """The model that a run trained, by its directory or its weights (.safetensors).

    Raises UsageError where there is none.
    """
    config, experiment, trained = restore(Path(path))
    schema, report = experiment.schema, experiment.report

    def predict(given: Any) -> np.ndarray:
        rows = inputs.examples(schema, given)
        found = evaluate.predict(experiment.task, trained, rows)
        if not schema.regression:
            return found
        shape = (len(rows["x"]), *schema.target_shape)
        return sets.restore_target(schema, found).reshape(shape)

    def sample(n: int, *, seed: int = 0, label: str | int | None = None) -> Any:
        check_int("n", n, 1, 10_000)
        check_int("seed", seed, 0, 2**32 - 1)
        assert report.sample is not None
        rows = with_rows(config, path).data if report.of_rows else None
        return report.sample(trained, rows, seed, n, sets.label_of(schema, label))

    # what it says is text, which `translate` or `transcribe` has
    says = report.translate is not None or report.transcribe is not None
    predicts = experiment.task.predict is not None and not says

    def bound(function):
        def run(*args: Any, **more: Any) -> Any:
            check_int("seed", more.get("seed", 0), 0, 2**32 - 1)
            return function(trained, *args, **more)

        return function and run

    return Loaded(
        config["recipe"],
        experiment.task,
        experiment.network,
        trained.params,
        trained.model,
        schema,
        config,
        predict if predicts else None,
        sample if report.sample is not None else None,
        bound(report.write),
        bound(report.translate),
        bound(report.transcribe),
        report.columns,
        report.lines,
    )


def restore(directory: Path) -> Saved:
    """A run's model, without its rows. Raises UsageError where none is trained."""
    directory = Path(directory)
    if directory.suffix == ".safetensors":
        trained, config = export.read_weights(directory)
        _check(config, directory)
        return Saved(config, described(config), trained)
    config = read_config(directory)
    folder = directory / "checkpoints"
    experiment = described(config)
    if checkpoint.latest(folder) is None:
        raise UsageError(f"the run in {directory} has saved no state yet")
    like = start(config, experiment)
    return Saved(config, experiment, loop.trained(*checkpoint.read(folder, like)))


def start(config: dict[str, Any], experiment: Experiment) -> Any:
    """What the states of a run are like: a state, and the best if it watches."""
    options = Options(**config["options"])
    return loop.start(
        experiment.task,
        experiment.optimizer,
        sources.full(sets.blank(experiment.schema)),
        options.seed,
        average=experiment.training.ema is not None,
        watch=options.patience is not None,
    )


def described(config: dict[str, Any]) -> Experiment:
    """The experiment that a config describes, without its rows."""
    flags = {k: v for k, v in config["arguments"].items() if k != "data"}
    schema = sets.from_json(config["schema"])
    return build(RECIPES[config["recipe"]], schema, **flags)


def with_rows(config: dict[str, Any], directory: Any) -> Experiment:
    """A run's experiment with its data loaded again. Raises UsageError for others."""
    options = Options(**config["options"])
    experiment = prepared(config["recipe"], config["arguments"], options)
    same_data(config, experiment, directory)
    return experiment


def prepared(name: str, arguments: dict[str, Any], options: Options) -> Experiment:
    """A recipe with its data, of which patience wants a tenth to watch."""
    flags = dict(arguments)
    watched = 0.0 if options.patience is None else 0.1
    wanted = Split(flags.pop("data"), watched, options.data_seed or 0)
    return prepare(RECIPES[name], wanted, **flags)


def same_data(config: dict[str, Any], experiment: Experiment, directory: Any) -> None:
    """Raise UsageError where other data were loaded than the run began with."""
    if sets.from_json(config["schema"]) != experiment.schema:
        raise UsageError(f"the data have changed since the run in {directory} began")


def read_config(directory: Path) -> dict[str, Any]:
    """What config.json says of a run. Raises UsageError where there is none."""
    path = Path(directory) / "config.json"
    if not path.exists():
        raise UsageError(f"there is no run in {directory} (no config.json)")
    config = checkpoint.read_json(path)
    _check(config, path)
    return read_sealed(path) if config["format"] > 2 or "seal" in config else config


def _check(config, path):
    """Raise UsageError for a config that is not of this format."""
    if not isinstance(config, dict) or "recipe" not in config:
        raise UsageError(f"{path} does not describe a run")
    found = config.get("format", 1)
    if found not in (2, FORMAT):
        raise UsageError(
            f"{path} has the format {found} of another version; this one reads the "
            f"formats 2 and {FORMAT}: train it again"
        )
    check_choice("recipe", config["recipe"], tuple(RECIPES))
    for name in ("arguments", "options", "schema", "versions"):
        if not isinstance(config.get(name), dict):
            raise UsageError(f"expected {name!r} in {path}, found {config.get(name)!r}")
    if "data" not in config["arguments"]:
        raise UsageError(f"expected 'data' in the arguments of {path}, found none")
    for name in config["options"]:
        check_choice("option", name, Options._fields)
