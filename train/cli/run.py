"""A run and the directory it leaves: trained, measured, drawn, resumable.

DIR/config.json      recipe, arguments, data schema (with its statistics), versions
DIR/metrics.jsonl    a line per log: step, metrics of training and, now and then, of the
                     test data (test_loss) or, with patience, of the rows set aside to
                     watch (watched_loss); seconds, examples/s
DIR/checkpoints/     the newest states
DIR/result.json      final metrics, steps, seconds, examples/s, parameters
DIR/*.png            curves; a confusion matrix or predictions against targets
DIR/samples/         what a generative model draws at each evaluation; in progress.png
                     the first row of each
"""

import importlib.metadata
import inspect
import platform
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from train import checkpoint, loop, mesh
from train import data as sets
from train.checkpoint import read_json, whole, write_json
from train.cli.disk import FullDisk, Log, locked
from train.data import text
from train.evaluate import predict
from train.recipes import RECIPES, Recipe
from train.report import metrics
from train.source import augmented, examples, full
from train.step import State, Trained
from zoo.base import UsageError, count_parameters

SHOWN = 64  # images of a picture


class Options(NamedTuple):
    """What every recipe can be run with."""

    seed: int = 0
    patience: int | None = None
    devices: int = 1
    data_seed: int | None = None  # that of the run for None


class Run(NamedTuple):
    """A finished or interrupted run."""

    directory: Path
    result: dict[str, Any] | None  # None when interrupted
    steps: int


def train(
    name: str, arguments: dict[str, Any], options: Options, out: Path, resume: bool
) -> Run:
    """Run a recipe in the directory `out`, or go on there with `resume`.

    Raises UsageError for what cannot be right, or where the directory is taken.
    """
    arguments = _absolute(arguments)
    if options.data_seed is None:
        options = options._replace(data_seed=options.seed)
    _claim(out, name, arguments, options, resume)  # a stranger's folder gets no lock
    with locked(out):
        # another run may have begun here before the lock was ours
        config = _claim(out, name, arguments, options, resume)
        if (out / "result.json").exists():
            result = read_json(out / "result.json")
            return Run(out, result, result["steps"])
        return _train(name, arguments, options, out, config, resume)


def _train(name, arguments, options, out, config, resume):
    """Run a recipe, from the beginning or, where `config` is a run's, on with it."""
    recipe = RECIPES[name](**_parted(name, arguments, options))
    if config is not None:
        _same_data(config, recipe, out)
    if options.patience is not None and not recipe.stoppable:
        raise UsageError(
            f"expected no patience for {name}, whose losses do not say how good its "
            f"images are, found {options.patience}"
        )
    data = recipe.data
    # the test set chooses nothing: stopping watches a part of the training set
    part = "test" if options.patience is None else "watched"
    evaluation = {"test": data.test, "watched": data.watched}[part]
    log, drawing = Log(out / "metrics.jsonl"), FullDisk("a picture was not written")

    began = False

    def tell(state: State, record: dict[str, float] | None) -> None:
        nonlocal began
        if not began:
            began = True
            if config is None:
                described = _describe(name, arguments, options, recipe)
                write_json(out / "config.json", described)
            log.open(int(state.step))
        if record is None:
            return
        if recipe.draw is not None and f"{part}_loss" in record:
            trained = loop.trained(state)
            drawn = recipe.draw(recipe, trained, options.seed, SHOWN, None)
            frame = out / "samples" / f"{int(record['step']):06d}"
            with drawing:
                show(drawn, frame, columns(recipe), film=True)
        log(record)

    size = None if recipe.batch_size is None else recipe.batch_size * recipe.accumulate
    try:
        fit = loop.fit(
            recipe.task,
            recipe.optimizer,
            augmented(examples(data.train, size), recipe.augment),
            steps=recipe.steps,
            accumulate=recipe.accumulate,
            ema=recipe.ema,
            seed=options.seed,
            evaluation=evaluation,
            evaluated=part,
            patience=options.patience,
            checkpoints=out / "checkpoints",
            resume=resume,
            callbacks=[tell],
            mesh=mesh.data_parallel(options.devices) if options.devices != 1 else None,
        )
    except loop.Diverged as error:
        step = checkpoint.latest(out / "checkpoints")
        left = "none was saved" if step is None else f"that of step {step} is saved"
        raise UsageError(f"{error}; of the good states {left} in {out}") from error
    done = int(log.records[-1]["step"]) if log.records else 0
    if fit.ended == "interrupted":
        return Run(out, None, done)
    if not log.records:
        raise UsageError(f"{log.path} has lost the lines of this run")
    try:
        result = {
            "recipe": name,
            **_report(recipe, fit, log.records, options, part, out),
        }
    except KeyboardInterrupt:  # what was trained is saved
        return Run(out, None, done)
    write_json(out / "result.json", result)  # the last: it says that all is done
    return Run(out, result, done)


def _report(recipe, fit, records, options, part, out):
    """What result.json says of a run, with its pictures drawn beside it."""
    # matplotlib takes half a second: not before the training
    from train.report import plot

    scores = measure(recipe, fit.trained, out)
    plot.save(plot.curves(records, part), out / "curves.png")
    if recipe.draw is not None:
        drawn = recipe.draw(recipe, fit.trained, options.seed, SHOWN, None)
        show(drawn, out / "samples", columns(recipe))
        _film(out / "samples", columns(recipe))
    return {
        "failure": scores.pop("failure", None),
        "metrics": scores,
        "measured_on": "training data" if recipe.data.test is None else "test data",
        "evaluated": part if part == "watched" or recipe.data.test else None,
        "steps": int(records[-1]["step"]),
        "seconds": records[-1]["seconds"],
        "examples_per_second": _speed(records),
        "parameters": count_parameters(fit.trained.params),
        "ended": fit.ended,
    }


def measure(
    recipe: Recipe, trained: Trained, out: Path | None = None
) -> dict[str, Any]:
    """Final metrics on the whole test set (the training set where there is none).

    With `out`, also draws confusion.png or predictions.png there.
    """
    if recipe.measure is not None:
        return recipe.measure(recipe, trained, out)
    from train.report import plot

    schema = recipe.data.schema
    rows = recipe.data.train if recipe.data.test is None else recipe.data.test
    predictions = predict(recipe.task, trained, rows)
    if schema.regression:
        y, values = (sets.restore_target(schema, v) for v in (rows["y"], predictions))
        values = values.reshape(y.shape)
        if out is not None:
            plot.save(plot.regression(values, y), out / "predictions.png")
        return metrics.regression(values, y)
    scores = metrics.classification(predictions, rows["y"], schema.classes)
    if out is not None:
        drawing = plot.confusion(scores["confusion"], schema.classes)
        plot.save(drawing, out / "confusion.png")
    return scores


def columns(recipe: Recipe) -> int:
    """Of a picture: each label has its own, where the model is conditional."""
    return 10 if getattr(recipe.network, "classes", 0) == 10 else 8


def show(
    drawn: np.ndarray | list[str], path: Path, columns: int, *, film: bool = False
) -> Path:
    """Write images [n, H, W, C] as PATH.png, or texts as PATH.txt; that path.

    With `film`, the first row also as an array: a resumed run has all frames.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(drawn, list):
        path = path.with_name(path.name + ".txt")
        path.write_text("\n".join(drawn) + "\n", encoding="utf-8")
        return path
    from train.report import plot

    if film:
        with (
            whole(path.with_name(path.name + ".npy")) as part,
            part.open("wb") as file,
        ):
            np.save(file, np.uint8(255 * drawn[:columns]))
    path = path.with_name(path.name + ".png")
    plot.save(plot.tiles(drawn, columns), path)
    return path


def _film(folder, columns):
    """A row of images for each evaluation, in progress.png."""
    from train.report import plot

    frames = sorted(folder.glob("*.npy"))
    if frames:
        images = np.concatenate([np.load(frame) for frame in frames]) / 255
        titles = [f"{int(frame.stem):,}" for frame in frames]
        plot.save(plot.tiles(images, columns, titles), folder.parent / "progress.png")


def restore(directory: Path, *, rows: bool = False) -> tuple[Recipe, Trained, dict]:
    """A run's recipe, what it trained, and its config.

    With `rows` the data are loaded again; without, the recipe's data are blank and the
    file they came from may be gone. Writes nothing: the run may be one that trains.
    Raises UsageError where there is no trained run.
    """
    config = _config(directory)
    arguments, options = config["arguments"], Options(**config["options"])
    build = RECIPES[config["recipe"]]
    data = sets.blank(sets.from_json(config["schema"]))
    recipe = build(**arguments | {"data": data})
    folder = directory / "checkpoints"
    if checkpoint.latest(folder) is None:
        raise UsageError(f"the run in {directory} has saved no state yet")
    like = loop.start(
        recipe.task,
        recipe.optimizer,
        full(data.train),
        options.seed,
        average=recipe.ema is not None,
        watch=options.patience is not None,
    )
    trained = loop.trained(*checkpoint.read(folder, like))
    if rows:
        recipe = build(**_parted(config["recipe"], arguments, options))
        _same_data(config, recipe, directory)
    return recipe, trained, config


def _same_data(config, recipe, directory):
    """Raise UsageError where other data were loaded than the run began with."""
    if sets.from_json(config["schema"]) != recipe.data.schema:
        raise UsageError(f"the data have changed since the run in {directory} began")


def resumed(directory: Path) -> tuple[str, dict[str, Any]]:
    """The recipe's name, and the flags by name, of the run in a directory."""
    config = _config(directory)
    return config["recipe"], config["arguments"] | config["options"]


def _describe(name, arguments, options, recipe):
    """What config.json says of a run."""
    return {
        "recipe": name,
        "arguments": arguments,
        "options": options._asdict(),
        "schema": sets.to_json(recipe.data.schema),
        "versions": _versions(),
        "device": str(jax.devices()[0].device_kind),
    }


def _claim(out, name, arguments, options, resume):
    """The config of the run to continue; None for a new one in a free directory."""
    if (out / "config.json").exists():
        if not resume:
            raise UsageError(
                f"{out} already holds a run: --resume continues it, another --out "
                "starts afresh"
            )
        config = _config(out)
        began = (config["recipe"], config["arguments"], Options(**config["options"]))
        if began != (name, arguments, options):
            asked = arguments | options._asdict()
            kept = config["arguments"] | config["options"]
            differ = [k for k in asked if asked[k] != kept.get(k)] or ["recipe"]
            raise UsageError(
                f"the run in {out} began with another {differ[0]}: --resume continues "
                "it unchanged, another --out starts afresh"
            )
        return config
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; --out wants a directory")
    others = {p.name for p in out.iterdir()} if out.is_dir() else set()
    if others - {"checkpoints", "config.json.part", ".lock"}:  # of a killed start
        raise UsageError(f"{out} has other files in it; choose another --out")
    if "checkpoints" in others and any((out / "checkpoints").iterdir()):
        raise UsageError(
            f"{out} holds states of a run whose config.json is gone: they are not "
            "continued; choose another --out"
        )
    return None


def _config(directory):
    if not (directory / "config.json").exists():
        raise UsageError(f"there is no run in {directory} (no config.json)")
    config = read_json(directory / "config.json")
    if not isinstance(config, dict) or config.get("recipe") not in RECIPES:
        raise UsageError(f"{directory}/config.json names no recipe of this version")
    return config


def _absolute(arguments):
    """The arguments with the path of a user's own data made independent of the cwd."""
    source, built_in = arguments.get("data"), (*sets.NAMES, *text.TEXTS, *text.PAIRS)
    if isinstance(source, str) and source not in built_in and Path(source).is_file():
        return arguments | {"data": str(Path(source).resolve())}
    return arguments


def _parted(name, arguments, options):
    """The arguments, with the data as a request for the parts that the options want."""
    default = inspect.signature(RECIPES[name]).parameters["data"].default
    source = arguments.get("data", default)
    watched = 0.0 if options.patience is None else 0.1
    return arguments | {"data": sets.Split(source, watched, options.data_seed or 0)}


def _versions():
    names = ("purezoo", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"python": platform.python_version(), **found}


def _speed(records):
    """Examples per second, the median over the log lines."""
    return float(np.median([record["examples_per_second"] for record in records]))
