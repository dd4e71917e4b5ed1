"""What a run leaves, read again: the model that it trained. Nothing here writes.

DIR/config.json has the recipe, its flags and the schema of its data; DIR/checkpoints
the states. Both are enough: the rows may be gone.
"""

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np

from train import checkpoint, evaluate, loop
from train import data as sets
from train import log as logs
from train import source as sources
from train import step as one
from train.data import Schema, Split, inputs, series
from train.data.formats import most
from train.disk.files import read_sealed
from train.mesh import Best
from train.recipes import RECIPES, export
from train.recipes.base import Experiment, build, prepare
from train.shown.html import as_html
from train.step import Trained
from zoo.base import Task, UsageError, check_choice, check_int, count_parameters

FORMAT = 3  # of the directory; 1 had no number, 2 no seals
LARGEST = 2**26  # bytes of a config.json, which has the words of a data set


class Options(NamedTuple):
    """What every recipe can be run with."""

    seed: int = 0
    patience: int | None = None
    devices: int = 1
    data_seed: int | None = None  # that of the run for None
    log: logs.Name | None = None
    fsdp: bool = False
    eval_every: int | None = None  # a twentieth of the steps for None


class Saved(NamedTuple):
    """A run's config, the experiment that it was, and what it trained."""

    config: dict[str, Any]
    experiment: Experiment
    trained: Trained


class Loaded(NamedTuple):
    """A trained model as functions of what a user has; None where it cannot.

    predict(inputs) -> probabilities [N, K], or values [N] in their own unit, of a
    series [N, H], or [N, H, T] of several targets; `inputs` are those of
    `train.data.inputs.examples`: raw arrays, columns, texts or files.
    sample(n, *, seed=0, label=None) -> images [n, H, W, C] in [0, 1], or n texts.
    write(prompt, length, *, seed=0, temperature=1.0, top_k=None, top_p=None) -> text.
    translate(sources, *, beams=4) -> one `train.report.samples.Translation` for each.
    transcribe(paths, *, beams=8) -> one `train.report.hearing.Transcript` for each.
    near(text, n=8) -> n words like one, or like a sum of words, with their cosines.
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
    near: Callable[..., list[tuple[str, float]]] | None
    columns: int  # of a picture of samples
    lines: Callable[[np.ndarray], list[list[str]]] | None  # as `Report` has it

    def _repr_html_(self) -> str:
        asked = ("predict", "sample", "write", "translate", "transcribe", "near")
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
        if schema.forecast:
            values = series.restored(schema, found, rows)
            return values if schema.targets else values[..., 0]
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
        bound(report.near),
        report.columns,
        report.lines,
    )


def restore(directory: Path) -> Saved:
    """A run's model, without its rows. Raises UsageError where none is trained."""
    directory = Path(directory)
    weights = directory.suffix == ".safetensors"
    if weights:
        trained, config = export.read_weights(directory)
        _check(config, directory)
    else:
        config = read_config(directory)
    with understood(directory):
        experiment = described(config)
        like = shapes(config, experiment)
    if weights:
        wanted = Trained(like[0].params, like[0].model)
        if sources.shapes(export.named(trained)) != sources.shapes(
            export.named(wanted)
        ):
            raise UsageError(f"the weights in {directory} are not of its own config")
        return Saved(config, experiment, trained)
    folder = directory / "checkpoints"
    if checkpoint.latest(folder) is None:
        raise UsageError(f"the run in {directory} has saved no state yet")
    _check_size(folder, like)
    return Saved(config, experiment, loop.trained(*checkpoint.read(folder, like)))


def shapes(config: dict[str, Any], experiment: Experiment) -> Any:
    """What the states of a run are like: a state, and the best if it watches.

    Nothing of that size is computed, or held.
    """
    options = Options(**config["options"])
    task, average = experiment.task, experiment.training.ema is not None
    batch = sources.batch_shapes(sources.full(sets.blank(experiment.schema)))

    def begin(batch):
        seed = np.uint32(0)
        state = one.init(task, experiment.optimizer, seed, batch, average=average)
        trained = state.average or Trained(state.params, state.model)
        best = Best(jnp.float32(0), state.step, trained)
        return state, best if options.patience is not None else None

    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here),
        jax.eval_shape(begin, batch),
    )


def _check_size(folder, like):
    """Raise UsageError for files that are too small for the states they promise."""
    found = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # a run that trains deletes old ones
            found += path.stat().st_size
    wanted = sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(like))
    if wanted > most(found):
        raise UsageError(
            f"expected states of {wanted:,} bytes in {folder}, as its config says, "
            f"found files of {found:,}"
        )


@contextlib.contextmanager
def understood(path: Path) -> Iterator[None]:
    """What goes wrong here is the config's fault: raise UsageError, naming its path."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # made up, it can say anything, of any type
        said = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise UsageError(
            f"{path} describes no run that can be built here: {said}"
        ) from error


def described(config: dict[str, Any]) -> Experiment:
    """The experiment that a config describes, without its rows."""
    flags = {k: v for k, v in config["arguments"].items() if k != "data"}
    schema = sets.from_json(config["schema"])
    if not _fits(schema, Schema):
        raise UsageError(f"the schema of {schema.name} has values of other types")
    width = (*schema.shape[-1:], len(schema.mean), len(schema.scale))
    if not schema.integer:
        np.broadcast_shapes(*((size,) for size in width))
    if schema.targets:  # classes, or a mean and a scale of each
        each = (schema.classes,) if schema.classes else schema.target
        sizes = {np.shape(one) for one in each}
        wide = len(schema.targets) * (schema.horizon if schema.forecast else 1)
        if sizes != {(wide,)} or schema.target_shape not in sizes:
            raise UsageError(f"the targets of {schema.name} do not fit each other")
    return build(RECIPES[config["recipe"]], schema, **flags)


def _fits(value, hint):
    """Whether a value is of a type, as `Schema` has them."""
    inner = get_args(hint)
    if get_origin(hint) is UnionType:
        return any(_fits(value, kind) for kind in inner)
    if get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            return False
        inner = inner[:1] * len(value) if inner[-1] is ... else inner
        same = len(value) == len(inner)
        return same and all(map(_fits, value, inner))
    if hasattr(hint, "_fields"):
        fields = _hints(hint)
        return isinstance(value, hint) and all(
            _fits(getattr(value, name), kind) for name, kind in fields.items()
        )
    kinds = (float, int) if hint is float else hint
    return isinstance(value, kinds) and (hint is bool or not isinstance(value, bool))


_hints = functools.cache(get_type_hints)  # columns are many


def with_rows(config: dict[str, Any], directory: Any) -> Experiment:
    """A run's experiment with its data loaded again. Raises UsageError for others."""
    with understood(Path(directory)):
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
    if (size := path.stat().st_size) > LARGEST:
        raise UsageError(
            f"expected at most {LARGEST:,} bytes in {path}, found {size:,}"
        )
    config = checkpoint.read_json(path)
    _check(config, path)
    return read_sealed(path) if config["format"] > 2 or "seal" in config else config


def _check(config, path):
    """Raise UsageError for a config that is not of this format."""
    if not isinstance(config, dict) or not isinstance(config.get("recipe"), str):
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
