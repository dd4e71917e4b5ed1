"""A recipe: a row of a table, built from the schema of its data and not from rows.

A function says what is a model's own: `build(schema, **hyperparameters) -> Built`. All
else is data beside it. `prepare` makes an `Experiment` of a recipe, its data and what
the user asked for; `build` does without rows, to list, restore, serve or export.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import optax

from train import optim
from train import source as sources
from train.data import Arrays, Data, Schema, Split, own, request
from train.report import Report
from train.source import Source
from zoo import precision
from zoo.base import Number, Task, UsageError, check_choice
from zoo.checks import check_sizes

# flags of which there is 1 or more
SIZES = (
    *("widths", "width", "channels", "features", "layers", "heads", "kv_heads"),
    *("stack", "length", "components", "clusters", "turns", "environments", "memory"),
    *("horizon", "epochs", "parts", "negatives", "window", "critic_steps", "min_count"),
    "last_heads",
)

SMALLEST = 8  # batch that a default becomes


class Training(NamedTuple):
    """How a model is trained; each field is a flag. A `Number` may be traced."""

    steps: int  # updates in all
    batch_size: int | None = None  # examples of a batch; None: all of them
    optimizer: optim.Name = "adamw"
    learning_rate: Number | None = None  # the highest of the schedule
    schedule: optim.ScheduleName = "constant"
    weight_decay: Number | None = None  # of `zoo.base.is_weight`; the optimizer's own
    clip: Number | None = None  # bound on the gradient's global norm
    betas: tuple[float, float] | None = None  # decays of Adam's two moments
    accumulate: int = 1  # batches that a step reads, for one update by all
    microbatch: int | None = None  # examples computed at a time; None: a whole batch
    ema: Number | None = None  # decay of a moving average to predict with
    class_weight: Literal["balanced"] | None = None  # of the rows of a class
    dtype: Literal["bfloat16"] | None = None  # of layers in training; None: float32


class Goal(NamedTuple):
    """The score that a recipe should reach on its own data."""

    metric: str
    score: float
    at_most: bool = False  # as for a loss; else at least

    def reached(self, value: float) -> bool:
        """Whether a measured value is as good, to four digits."""
        value = round(value, 4)
        return value <= self.score if self.at_most else value >= self.score

    def __str__(self) -> str:
        return f"{self.metric} {'<=' if self.at_most else '>='} {self.score}"


class Built(NamedTuple):
    """A model with its objective, and all that is its own."""

    task: Task
    network: Any  # the Flax module
    report: Report
    source: Callable[[Arrays, int | None], Source] = sources.examples
    players: Callable[..., optax.GradientTransformation] = lambda optimizer: optimizer
    stoppable: bool = True  # its loss on rows not trained on says how good it is
    mixed: bool = True  # bfloat16 is precise enough for its layers


class Recipe(NamedTuple):
    """A row of the table."""

    build: Callable[..., Built]  # build(schema, **hyperparameters)
    load: Callable[..., Data]  # load(request, **flags): rows as this family wants them
    data: str  # what `zoo train` loads unless told otherwise
    training: Training
    goal: Goal | None
    about: str
    cost: str = ""  # on two CPU cores
    paper: str = ""


class Experiment(NamedTuple):
    """A recipe with all choices made: what a training needs, beside its seed."""

    task: Task
    network: Any
    report: Report
    optimizer: optax.GradientTransformation
    training: Training
    schema: Schema
    data: Data | None  # None where the rows are not at hand
    goal: Goal | None
    stoppable: bool
    batches: Callable[[Arrays, int | None], Source]  # `Built.source`

    def source(self, rows: Arrays | None = None) -> Source:
        """What a step reads: `accumulate` batches of the training rows, or of others.

        Raises UsageError where there are fewer, and for no classes to weigh.
        """
        rows = self.weighed(self.parts.train if rows is None else rows)
        size, times = self.training.batch_size, self.training.accumulate
        return self.batches(rows, None if size is None else size * times)

    def weighed(self, rows: Arrays) -> Arrays:
        """The rows, with a "weight" [N] where one is asked for. Raises UsageError."""
        if self.training.class_weight is None:
            return rows
        check_choice("class_weight", self.training.class_weight, ("balanced",))
        return _balanced(rows, self.schema)

    @property
    def parts(self) -> Data:
        """The data, which must be at hand."""
        assert self.data is not None, "built without rows"
        return self.data


def parameters(recipe: Recipe) -> dict[str, inspect.Parameter]:
    """Every keyword of a recipe by name: of its data, its model and its training.

    A keyword of both the loader and the model has its default with the model.
    """
    kind = inspect.Parameter.KEYWORD_ONLY
    data = inspect.Parameter("data", kind, default=recipe.data, annotation=str)
    training = {
        name: inspect.Parameter(name, kind, default=value, annotation=hint)
        for (name, hint), value in zip(
            Training.__annotations__.items(), recipe.training, strict=True
        )
    }
    own = _keywords(recipe.load) | _keywords(recipe.build)
    return {"data": data, **own, **training}


def prepare(
    recipe: Recipe, data: str | Path | Data | Split | None = None, **given: Any
) -> Experiment:
    """Load the data of a recipe, or others, and build all that follows from them.

    Unless one is given, a batch of the user's own rows is at most a quarter of them, or
    eight. Raises UsageError for unknown names, and for data and numbers that cannot be
    right.
    """
    flags = _resolved(recipe, given)
    wanted = request(recipe.data if data is None else data)
    rows = recipe.load(wanted, **_picked(recipe.load, flags))
    count, size = len(rows.train.get("x", ())), recipe.training.batch_size
    # of 48 rows, batches of 64 would be the same gradient again and again
    if size and count and own(wanted.source) and "batch_size" not in given:
        given["batch_size"] = min(size, count, max(SMALLEST, count // 16 * 4))
    return build(recipe, rows.schema, **given)._replace(data=rows)


def build(recipe: Recipe, schema: Schema, **given: Any) -> Experiment:
    """What follows from a schema alone; `data` is None. Raises UsageError."""
    flags = _resolved(recipe, given)
    check_sizes(**{k: v for k, v in flags.items() if k in SIZES})
    built = recipe.build(schema, **_picked(recipe.build, flags))
    training = Training(**{name: flags[name] for name in Training._fields})
    return Experiment(
        _mixed(built, training.dtype),
        built.network,
        built.report,
        built.players(_optimizer(training)),
        training,
        schema,
        None,
        recipe.goal,
        built.stoppable,
        built.source,
    )


def _mixed(built: Built, dtype: str | None) -> Task:
    """The task of a recipe, its layers computing in what is asked for."""
    if dtype is None:
        return built.task
    check_choice("dtype", dtype, ("bfloat16",))
    if built.network is None or not built.mixed:
        raise UsageError(
            "expected a recipe of deep layers for --dtype bfloat16: distances, counts, "
            "vectors looked up in tables and returns are worth more than 8 bits"
        )
    return precision.mixed(built.task)


def _balanced(rows: Arrays, schema: Schema) -> Arrays:
    """The rows with scikit-learn's "weight" [N] of their classes, N / (K N_c).

    N_c of the N are of one of the K classes: the mean is 1.
    """
    if not schema.classes or np.ndim(rows.get("y", 0)) != 1:
        raise UsageError(
            f"expected one class for each row of {schema.name} to balance, found none"
        )
    counts = np.bincount(rows["y"])
    weight = len(rows["y"]) / (np.count_nonzero(counts) * counts[rows["y"]])
    return rows | {"weight": (weight * rows.get("weight", 1)).astype(np.float32)}


def _optimizer(training: Training) -> optax.GradientTransformation:
    rate: Any = training.learning_rate
    if training.schedule != "constant":
        rate = optim.schedule(training.schedule, rate, training.steps)
    return optim.optimizer(
        training.optimizer,
        rate,
        weight_decay=training.weight_decay,
        clip=training.clip,
        betas=training.betas,
    )


def _resolved(recipe, given):
    """All keywords of a recipe with their values. Raises UsageError."""
    known = parameters(recipe)
    for name in given:
        check_choice("keyword", name, tuple(known))
    return {name: given.get(name, p.default) for name, p in known.items()}


def _keywords(function) -> dict[str, inspect.Parameter]:
    found = inspect.signature(function).parameters
    return {k: p for k, p in found.items() if p.kind == p.KEYWORD_ONLY}


def _picked(function, flags):
    return {name: flags[name] for name in _keywords(function)}


def check_patience(name: str, experiment: Experiment, patience: int | None) -> None:
    """Raise UsageError for a training whose loss says nothing of when to stop."""
    if patience is not None and not experiment.stoppable:
        raise UsageError(
            f"expected no patience for {name}, whose losses do not say how good its "
            f"images are, found {patience}"
        )


def expect_images(schema: Schema) -> None:
    """Raise UsageError for a schema of other examples than images [H, W, C]."""
    if not schema.image:
        raise UsageError(
            f"expected images [H, W, C], found examples of shape {schema.shape} in "
            f"{schema.name}"
        )


def expect_classes(schema: Schema) -> int:
    """How many classes a schema has. Raises UsageError for a quantity."""
    if not schema.classes:
        raise UsageError(f"expected classes, found a quantity in {schema.name}")
    return len(schema.classes)
