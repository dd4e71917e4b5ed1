"""A run and the directory it leaves: trained, measured, drawn, resumable.

DIR/config.json      recipe, arguments, data schema (with its statistics), versions
DIR/metrics.jsonl    a line per log: step, metrics of training and, now and then, of the
                     test data (test_loss) or, with patience, of the rows set aside to
                     watch (watched_loss); seconds, examples/s
DIR/checkpoints/     the newest states
DIR/result.json      final metrics, steps, seconds, examples/s, parameters
DIR/data.png         images of the user's own, as read and as augmented
DIR/*.png            curves; a confusion matrix or predictions against targets
DIR/events.out.tfevents  with --log tensorboard, the same numbers for TensorBoard
DIR/samples/         what a generative model draws at each evaluation; in progress.png
                     the first row of each
"""

import contextlib
import importlib.metadata
import platform
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from train import checkpoint, loop
from train import data as sets
from train.cli.claims import aside, claim, replaceable, settle
from train.cli.disk import FullDisk, Log, loggers
from train.disk.files import hold, read_json, whole, write_json, write_sealed
from train.machines import devices, hosts
from train.recipes import RECIPES
from train.recipes.base import Experiment, check_patience
from train.recipes.saved import FORMAT, Options, prepared, read_config, same_data
from zoo.base import UsageError, count_parameters

SHOWN = 64  # images of a picture


class Run(NamedTuple):
    """A finished or interrupted run."""

    directory: Path
    result: dict[str, Any] | None  # None when interrupted
    steps: int


def train(
    name: str,
    arguments: dict[str, Any],
    options: Options,
    out: Path,
    resume: bool,
    longer: bool = False,
    debug_nans: bool = False,
    overwrite: bool = False,
) -> Run:
    """Run a recipe in the directory `out`, or go on there with `resume`.

    With `longer` the run goes on to more steps than it began with; `debug_nans` as in
    `train.loop.fit`. With `overwrite` a run that is there is gone once all is checked.
    Raises UsageError for what cannot be right, or where the directory is taken.
    """
    data = arguments.get("data", RECIPES[name].data)
    arguments = arguments | {"data": sets.absolute(data)}
    if options.data_seed is None:
        options = options._replace(data_seed=options.seed)
    asked = (name, arguments, options)
    told = hosts.together(lambda: loggers(options.log, out) if hosts.leads() else [])
    with contextlib.ExitStack() as stack:
        config, result = hosts.told(
            lambda: _held(stack, out, asked, resume, longer, overwrite)
        )
        if result is not None:
            return Run(out, result, result["steps"])
        how = {"resume": "longer" if longer else resume, "debug_nans": debug_nans}
        return hosts.together(lambda: _train(asked, out, config, how, told))


def _held(stack, out, asked, resume, longer, overwrite):
    """The config of the run to continue in a directory that is locked, and its result.

    Both are None where there is none.
    """
    if not replaceable(out, overwrite):
        claim(out, asked, resume, longer)  # a stranger's folder gets no lock
    stack.enter_context(hold(out))
    stack.enter_context(aside(out, overwrite))
    # another run may have begun here before the lock was ours
    config, result = claim(out, asked, resume, longer), out / "result.json"
    same = config is not None and asked[1].items() <= config["arguments"].items()
    return config, read_json(result) if same and result.exists() else None


def _train(asked, out, config, how, told):
    """Run a recipe, from the beginning or, where `config` is a run's, on with it; `how`
    are options of `train.loop.fit`."""
    name, arguments, options = asked
    place = devices.asked(options.devices, options.fsdp)
    experiment = hosts.together(lambda: prepared(name, arguments, options))
    for note in experiment.schema.notes * hosts.leads():  # of what was left out, filled
        print(f"zoo: {note}", file=sys.stderr)
    if config is not None:
        same_data(config, experiment, out)
    check_patience(name, experiment, options.patience)
    data, training = experiment.parts, experiment.training
    # the test set chooses nothing: stopping watches a part of the training set
    part = "test" if options.patience is None else "watched"
    log = Log(out / "metrics.jsonl")
    # a run goes on under what was said of it, but for one that is made longer
    new = [] if config is not None and how["resume"] != "longer" else [asked]

    def describe(state, record):
        """Once, when all checks have passed, before the first step."""
        if new and hosts.leads():
            (out / "result.json").unlink(missing_ok=True)
            write_sealed(out / "config.json", _description(new.pop(), experiment))
            settle(out)
            _show_data(experiment, out / "data.png")

    draw = _drawing(experiment, part, options, out)
    with _told_of(out):
        fit = loop.fit(
            experiment.task,
            experiment.optimizer,
            experiment.source(),
            steps=training.steps,
            accumulate=training.accumulate,
            microbatch=training.microbatch,
            ema=training.ema,
            seed=options.seed,
            evaluation={"test": data.test, "watched": data.watched}[part],
            evaluated=part,
            patience=options.patience,
            eval_every=options.eval_every,
            checkpoints=out / "checkpoints",
            **how,
            callbacks=[describe, *[log] * hosts.leads(), *told, draw],
            mesh=place,
        )
    if not hosts.leads():  # the first measures, and writes
        return Run(out, None, int(fit.state.step))
    return _finished(name, experiment, fit, log, options, part, out)


def _finished(name, experiment, fit, log, options, part, out):
    """The run with its result measured and written, if it was not interrupted."""
    done = int(log.records[-1]["step"]) if log.records else 0
    if fit.ended == "interrupted":
        return Run(out, None, done)
    if not log.records:
        raise UsageError(f"{log.path} has lost the lines of this run")
    try:
        rest = _result(name, experiment, fit, log.records, options, part, out)
    except KeyboardInterrupt:  # what was trained is saved
        return Run(out, None, done)
    result = {"recipe": name, **rest}
    write_json(out / "result.json", result)  # the last: it says that all is done
    return Run(out, result, done)


@contextlib.contextmanager
def _told_of(out):
    """What diverges says which of its good states is saved."""
    try:
        yield
    except loop.Diverged as error:
        step = checkpoint.latest(out / "checkpoints")
        left = "none was saved" if step is None else f"that of step {step} is saved"
        raise UsageError(f"{error}; of the good states {left} in {out}") from error


def _show_data(experiment, path):
    """Thumbnails of images of the user's own, before anything is trained."""
    schema = experiment.schema
    if schema.image and Path(schema.name).is_absolute():
        from train.report import plot, thumbnails

        rows = experiment.parts.train
        images, titles = thumbnails.sheet(schema, rows, experiment.batches)
        plot.save(plot.tiles(images, titles=titles), path)


def _drawing(experiment: Experiment, part: str, options: Options, out: Path):
    """A callback that draws what a generative model makes, at each evaluation."""
    disk, report = FullDisk("a picture was not written"), experiment.report

    def draw(state, record):
        if report.sample and record and f"{part}_loss" in record:
            trained = loop.trained(state)
            if not hosts.leads():
                return
            drawn = report.sample(trained, experiment.data, options.seed, SHOWN, None)
            frame = out / "samples" / f"{record['step']:06d}"
            with disk:
                show(drawn, frame, report.columns, film=True)

    return draw


def _result(name, experiment, fit, records, options, part, out):
    """What result.json says of a run, with its pictures drawn beside it."""
    # matplotlib takes half a second: not before the training
    from train.report import plot

    report, data = experiment.report, experiment.parts
    measured = report.measure(fit.trained, data)
    for file, make in measured.files.items():
        _write(out / file, make())
    plot.save(_curves(experiment, records, part, name), out / "curves.png")
    if report.sample is not None:
        drawn = report.sample(fit.trained, data, options.seed, SHOWN, None)
        show(drawn, out / "samples", report.columns)
        _film(out / "samples", report.columns)
    speeds = [record["examples_per_second"] for record in records]
    return {
        "failure": measured.failure,
        "files": list(measured.files),
        "metrics": measured.scores,
        "baselines": report.baselines(data),
        "measured_on": "training data" if data.test is None else "test data",
        "evaluated": part if part == "watched" or data.test else None,
        "steps": int(records[-1]["step"]),
        "skipped": sum(int(record.get("skipped", 0)) for record in records),
        "seconds": records[-1]["seconds"],
        "examples_per_second": float(np.median(speeds)),
        "parameters": count_parameters(fit.trained.params),
        "ended": fit.ended,
    }


def _curves(experiment, records, part, name):
    """The curves of a run, with the unit of its loss."""
    from train.report import plot

    schema, unit = experiment.schema, experiment.report.unit
    title = f"{name} on {Path(schema.name).name}"
    # of a quantity, the root of the loss has its unit
    one = unit and schema.regression and not (schema.targets or schema.scales)
    root = (schema.target_name, schema.target[1]) if one else None
    return plot.curves(records, part, title=title, unit=unit, root=root)


def _write(path, made):
    """A text, or a figure."""
    if isinstance(made, str):
        path.write_text(made + "\n", encoding="utf-8")
        return
    from train.report import plot

    plot.save(made, path)


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


def resumed(directory: Path) -> tuple[str, dict[str, Any]]:
    """The recipe's name, and the flags by name, of the run in a directory."""
    config = read_config(directory)
    return config["recipe"], config["arguments"] | config["options"]


def _description(asked, experiment):
    """What config.json says of a run."""
    name, arguments, options = asked
    names = ("purezoo", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    versions = {name: importlib.metadata.version(name) for name in names}
    size = experiment.training.batch_size  # it may follow the rows
    return {
        "format": FORMAT,
        "recipe": name,
        "arguments": {"batch_size": size} | arguments,
        "options": options._asdict(),
        "schema": sets.to_json(experiment.schema),
        "versions": {"python": platform.python_version(), **versions},
        "device": str(jax.devices()[0].device_kind),
    }
