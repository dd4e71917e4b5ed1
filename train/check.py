"""What a training, an evaluation or a prediction is given, checked before it is traced.

JAX itself is silent about most of what is found here: an index out of range is
clamped, a label out of range gives a finite loss, a NaN can vanish in a max.
What is asked of arrays alone is in `zoo.checks`.
"""

import os
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.source import Source, batch_shapes, shapes
from zoo.base import Aux, Mean, Number, Task, UsageError, check_int, nearest
from zoo.checks import check_ids, check_number, check_rows, counted, understood
from zoo.edges import check_edges

# what a batch may hold beside what its model reads
NAMES = ("x", "y", "mask", "length", "row", "edges", "edge_mask")

_fitting: weakref.WeakKeyDictionary[Callable, set] = weakref.WeakKeyDictionary()


def check_task(task: Any) -> None:
    """Raise UsageError for what is no task."""
    if not all(callable(getattr(task, name, None)) for name in ("init", "loss")):
        raise UsageError(
            f"expected a Task (zoo.base), found {type(task).__name__}: "
            "zoo.supervised.task(network, measure) makes one of a network"
        )


def check_optimizer(optimizer: Any) -> None:
    """Raise UsageError for what is no optimizer of optax."""
    if not all(callable(getattr(optimizer, name, None)) for name in ("init", "update")):
        raise UsageError(
            f"expected an optimizer of optax, found {optimizer!r}: "
            "train.optim.optimizer(name, learning_rate) makes one"
        )


def check_data(
    task: Task,
    trained: Any,
    rows: Any,
    what: str = "data",
    *,
    predicting: bool = False,
) -> int:
    """How many rows there are, {"x": [N, ...], ...}, that a task can be judged by.

    `trained` has the parameters and the model's state, or their shapes. With
    `predicting`, "y" is not read. Raises UsageError, which names the array, the row,
    what was expected and what found, for: no dict, missing, empty or unequal arrays;
    lists, texts, objects, another byte order; NaN or infinity; a mask outside [0, 1],
    or of zeros; lengths that x has not; labels, tokens, ids and edges that the model
    has not; names that are nearly right; shapes that the model cannot read.
    """
    check_task(task)
    if not all(hasattr(trained, name) for name in ("params", "model")):
        raise UsageError(
            f"expected a Trained or a State to compute with, found "
            f"{type(trained).__name__}: fit(...).trained is one"
        )
    n = check_rows(rows, what)  # before a shape is taken of them
    like = shapes({name: np.asarray(array[:1]) for name, array in rows.items()})
    _check_fits(task, trained, like, what, predicting)
    _check_values(task, trained, like, rows, "example {}".format, predicting)
    return n


def checks(task: Task, trained: Any, batch: Any, what: str) -> Callable[..., None]:
    """check(rows, at), which raises UsageError for values that cannot be right.

    The task sees batches of those shapes; at(i) names the i-th row.
    """
    _check_fits(task, trained, batch, what, False)

    def check(rows, at="example {}".format):
        check_rows(rows, what, at)
        _check_values(task, trained, batch, rows, at, False)

    return check


def check_options(
    callbacks: Any,
    checkpoints: Any,
    resume: Any,
    save_seconds: Any,
    patience: Any,
    evaluation: Any,
) -> None:
    """Raise UsageError for what of a training's options cannot be right."""
    if callable(callbacks) or not all(map(callable, callbacks)):
        raise UsageError(
            f"expected callbacks as a list of functions f(state, record), found "
            f"{callbacks!r}"
        )
    if checkpoints is not None and not isinstance(checkpoints, str | os.PathLike):
        raise UsageError(
            f"expected checkpoints as the path of a directory, found {checkpoints!r}"
        )
    if resume and checkpoints is None:
        raise UsageError("resume wants checkpoints, the directory of the states")
    check_number("save_seconds", save_seconds)
    check_patience(patience, evaluation)


def check_patience(patience: Any, evaluation: Any) -> None:
    """Raise UsageError for patience that is no number, or watches nothing."""
    if patience is None:
        return
    check_int("patience", patience, 1)
    if evaluation is None:
        raise UsageError("expected evaluation data for patience to watch, found none")


def check_numbers(
    source: Source,
    steps: int,
    accumulate: int,
    ema: Number | None,
    mesh: jax.sharding.Mesh | None,
    task: Task | None = None,
) -> None:
    """Raise UsageError for numbers that cannot be right, or do not fit each other."""
    if not isinstance(source, Source):
        raise UsageError(
            f"expected a Source, found {type(source).__name__}: source.examples("
            "arrays, size) of train.source makes one of arrays"
        )
    check_int("steps", steps, 1)
    check_int("accumulate", accumulate, 1)
    if task is not None:
        check_parts(task, accumulate)
    if ema is not None:
        check_number("averaging decay", ema, high=1.0)
        if ema in (0, 1):
            raise UsageError(f"expected an averaging decay in (0, 1), found {ema}")
    if source.rows is not None and source.size > source.rows:
        raise UsageError(
            f"a step of {source.size} examples is larger than the {source.rows} "
            "training examples"
        )
    if mesh is not None and not isinstance(mesh, jax.sharding.Mesh):
        raise UsageError(
            f"expected a mesh of devices, found {mesh!r}: train.mesh.data_parallel("
            "devices) makes one"
        )
    devices = 1 if mesh is None else mesh.size
    for size in {a.shape[0] for a in jax.tree.leaves(batch_shapes(source))}:
        if size % (accumulate * devices):
            parts = f"{accumulate} parts over " * (accumulate > 1)
            unit = accumulate * devices
            near = sorted({max(size // unit, 1) * unit, (size // unit + 1) * unit})
            raise UsageError(
                f"a batch of {size} does not divide into {parts}{devices} devices: "
                f"the nearest to do so is {' or '.join(map(str, near))}"
            )


def check_parts(task: Task, parts: int) -> None:
    """Raise UsageError for parts of a batch whose loss is of it as a whole."""
    if parts > 1 and task.together:
        raise UsageError(
            "expected whole batches, without accumulate or microbatch, for a loss that "
            "compares the examples of a batch with each other, or the gradients of "
            f"tasks, found {parts} parts"
        )


def _kept(rows):
    """The rows of which a mask counts something."""
    if "mask" not in rows:
        return rows
    some = (np.asarray(rows["mask"]) != 0).reshape(len(rows["mask"]), -1).any(1)
    return {name: np.asarray(array)[some] for name, array in rows.items()}


def _check_edges(data):
    """Raise UsageError for edges of graphs that name no node: JAX would clamp them."""
    if "edges" in data and "x" in data:
        edges = np.asarray(data["edges"])
        real = np.asarray(data.get("edge_mask", np.ones(edges.shape[:-1]))) != 0
        if "length" in data and edges.ndim == 3:
            inside = edges < np.asarray(data["length"]).reshape(-1, 1, 1)
            real &= inside.all(-1)
        check_edges(edges, np.shape(data["x"])[1], real)


def _check_values(task, trained, batch, rows, at, predicting):
    """Raise UsageError for what a task that sees such batches has no number for."""
    params, model = trained.params, trained.model
    if not predicting:
        _check_labels(task, params, model, batch, rows, at)
    _check_tokens(task, params, model, batch, rows, at, predicting)
    _check_edges(rows)
    if task.check is not None:
        task.check(_kept(rows))


def _check_fits(task, trained, batch, what, predicting):
    """Trace the function of shapes without running it: once for each task and kind."""
    function = task.predict if predicting else task.loss
    params, state = trained.params, trained.model
    kind = jax.tree.map(lambda a: (a.shape, str(a.dtype)), (params, state, batch))
    kind = str(kind)
    if kind in _fitting.setdefault(function, set()):
        return
    key = jax.eval_shape(lambda: jax.random.key(0))

    def run(params, state, batch, key):
        if predicting:
            return function(params, state, batch)
        return function(params, state, batch, key, train=False)

    with understood(what, batch):
        found = jax.eval_shape(run, params, state, batch, key)
        if not predicting:
            _check_loss(found)
        near = {k: nearest(k, NAMES) for k in batch if k not in NAMES}
        for name in filter(near.get, near):
            if not _reads(run, name, params, state, batch, key):
                raise UsageError(
                    f"the model does not read {name!r} of the {what}{near[name]}"
                )
    _fitting[function].add(kind)


def _check_loss(found):
    """Raise UsageError for what a loss cannot give; `found` is of shapes."""
    pair = isinstance(found, tuple) and len(found) == 2
    if not pair or not isinstance(found[1], Aux):
        said = f"{type(found[1]).__name__} in place of Aux" if pair else "no such pair"
    else:
        metrics = found[1].metrics
        named = metrics.items() if isinstance(metrics, dict) else [("", metrics)]
        kinds = {name: type(each) for name, each in named}
        if "loss" in kinds and {*kinds.values()} == {Mean}:
            return
        said = ", ".join(f"{n} {kind.__name__}".strip() for n, kind in kinds.items())
        said = f"as metrics {said or 'none'}"
    raise UsageError(
        "expected a loss to give (a number, Aux(metrics, state)), the metrics Means by "
        f'name, "loss" among them (zoo.base), found {said}: zoo.testing.check_task '
        "says all that a task lacks"
    )


def _reads(run, name, params, state, batch, key):
    """Whether anything is computed of an array of a batch."""
    rest = {k: a for k, a in batch.items() if k not in (name, "mask")}  # it reads all

    def of(array, params, state, rest, key):
        return run(params, state, rest | {name: array}, key)

    traced = jax.make_jaxpr(of)(batch[name], params, state, rest, key).jaxpr
    used = [v for eqn in traced.eqns for v in eqn.invars] + traced.outvars
    return any(v is traced.invars[0] for v in used)


def _check_labels(task, params, state, batch, data, at):
    """Raise UsageError where a label is none of the task's classes.

    `batch` supplies the shapes that the task sees. What a mask drops is not looked at,
    and nothing past a sequence's length. at(i) names the i-th example.
    """
    y = np.asarray(data["y"]) if "y" in data else None
    if task.classes is None or y is None:
        return
    classes = task.classes(params, state, batch)
    if classes is None or (0 <= y.min() and y.max() <= classes - 1):
        return
    wrong = np.argwhere(((y < 0) | (y > classes - 1)) & _counts(data, y))
    if len(wrong):
        raise UsageError(
            f"expected labels 0 to {classes - 1} for a model with {classes} classes, "
            f"found {y[tuple(wrong[0])]} in {at(wrong[0][0])}"
        )


def _counts(data, y):
    """Which labels [N] or [N, T] a loss counts."""
    mask = np.asarray(data.get("mask", np.ones(len(y)))) != 0
    if y.ndim > 1 and "length" in data:
        length = np.asarray(data["length"]).reshape(-1, 1)
        mask = mask.reshape(len(y), -1) & (np.arange(y.shape[1]) < length)
    return counted(mask, y.shape)


def _check_tokens(task, params, state, batch, data, at, predicting):
    """Raise UsageError where an integer in "x" has no embedding in the model.

    `batch` supplies the shapes that the task sees, at(i) names the i-th example. Flax
    gives NaN for a token past the end of a table, and the last for -1.
    """
    x = np.asarray(data.get("x", 0))
    if "x" not in data or not np.issubdtype(x.dtype, np.integer):
        return
    if task.ids is not None:
        check_ids(x, task.ids, at=at)
        return
    rows = x.reshape(len(x), -1)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    tables = [len(leaf) for path, leaf in leaves if "'embedding'" in str(path[-1])]
    most, first = rows.max(), int(rows.max(1).argmax())
    known = rows.min() >= 0 and most < min(tables, default=0)
    if not known and rows.min() >= 0 and most < max(tables, default=2**31):
        # which table it is, the model knows
        one = {k: jnp.zeros((1, *a.shape[1:]), a.dtype) for k, a in batch.items()}
        one |= {k: jnp.asarray(a[first : first + 1]) for k, a in data.items()}
        known = _finite(task, params, state, one, predicting)
    if not known:
        least = rows.min(), rows.min(1).argmin()
        wrong, first = (most, first) if rows.min() >= 0 else least
        raise UsageError(
            f"expected tokens of the model's vocabulary, found {wrong} in {at(first)}"
        )


def _finite(task, params, state, one, predicting):
    """Whether what is computed of one example is."""
    params, state = jax.tree.map(_made, (params, state))
    if predicting:
        return bool(jnp.isfinite(jax.jit(task.predict)(params, state, one)).all())
    loss = jax.jit(task.loss, static_argnames="train")
    value, _ = loss(params, state, one, jax.random.key(0), train=False)
    return bool(jnp.isfinite(value))


def _made(leaf):
    """An array of this process; zeros where the shape alone is known, as of a sweep."""
    known = not isinstance(leaf, jax.ShapeDtypeStruct)
    known = known and getattr(leaf, "is_fully_addressable", True)
    return leaf if known else jnp.zeros(leaf.shape, leaf.dtype)
