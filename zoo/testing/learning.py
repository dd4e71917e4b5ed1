"""Checks of a task's gradient, of what it makes of rows and masks, of predictions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zoo.base import entries, masked
from zoo.checks import check_ids
from zoo.testing.case import CLOSE, finite, same, turned

LEARNT = 60  # steps of Adam in which a loss falls on one batch

# The gradient -------------------------------------------------------------------------


def has_a_finite_gradient(case):
    """The gradient is finite."""
    assert finite(case.trained[1])


def reaches_every_parameter(case):
    """No parameter is without a gradient, for two keys."""
    args = case.moved, case.begun[1], case.batch
    grads = case.trained[1], case.trains(*args, case.key(3))[1]
    reached = jax.tree.map(lambda *g: bool(sum(jnp.abs(x).sum() for x in g)), *grads)
    off = [
        jax.tree_util.keystr(path)
        for path, some in jax.tree_util.tree_leaves_with_path(reached)
        if not some
    ]
    assert not off, off


def along(case, size):
    """The training's value, so far down its gradient."""
    grad = case.trained[1]
    norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grad)))
    there = jax.tree.map(lambda p, g: p - size * g / norm, case.moved, grad)
    return case.trains(there, case.begun[1], case.batch, case.key(1))[0][0], norm


def falls_along_its_gradient(case):
    """Along the gradient the value falls, as fast as the gradient is long."""
    size = 1e-2
    (after, norm), (before, _) = along(case, size), along(case, -size)
    slope = (before - after) / (2 * size)
    assert abs(slope - norm) <= 0.1 * norm + 1e-2, (float(slope), float(norm))


def learns_a_batch(case):
    """Sixty steps of Adam on one batch lower its loss."""
    params, state = case.begun
    m = v = jax.tree.map(jnp.zeros_like, params)
    values: list[Any] = []
    for t in range(1, LEARNT + 1):
        args = params, state, case.batch, case.key(t)
        (_, aux), grad = case.trains(*args)
        values.append(aux.metrics["loss"].value())
        state = aux.state
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grad)
        v = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g**2, v, grad)
        a, b = 1 - 0.9**t, 1 - 0.99**t
        params = jax.tree.map(
            lambda p, m, v, a=a, b=b: p - 0.01 * m / a / (jnp.sqrt(v / b) + 1e-8),
            *(params, m, v),
        )
    assert values[-1] < values[0], (float(values[0]), float(values[-1]))


def runs_side_by_side(case):
    """vmap over two models has the value of each."""
    params = [case.moved, case.begun[0]]
    both = jax.tree.map(lambda *a: jnp.stack(a), *params)
    rest = case.begun[1], case.batch, case.key(1)
    found = jax.vmap(lambda p: case.judges(p, *rest)[0])(both)
    one = [case.judges(p, *rest)[0] for p in params]
    np.testing.assert_allclose(found, jnp.stack(one), **CLOSE)


# Rows, masks and lengths --------------------------------------------------------------


def judges_rows_alone(case):
    """Metrics of a batch are those of its rows, each by itself, merged."""
    if case.still:
        same(case.each, case.judged[1].metrics, **CLOSE)


def judges_in_any_order(case):
    """The order of the rows changes no metric."""
    if case.still:
        args = case.moved, case.begun[1], turned(case.batch), case.key(1)
        same(case.judges(*args)[1].metrics, case.judged[1].metrics, **CLOSE)


def drops_what_is_masked(case):
    """Rows that a mask drops, NaN too, change no metric."""
    same(case.alone(case.padded), case.each, **CLOSE)


def drops_masked_rows_together(case):
    """The same where all rows are one batch: none is seen by another."""
    if case.still:
        args = case.moved, case.begun[1], masked(case.padded), case.key(1)
        same(case.judges(*args)[1].metrics, case.judged[1].metrics, **CLOSE)


def counts_what_is_kept(case):
    """A mask of ones is none; one that drops a row counts one less."""
    ones = jnp.ones(case.rows).at[0].set(0)
    less = case.alone(case.batch | {"mask": ones})["loss"].count
    same = case.alone(case.batch | {"mask": jnp.ones(case.rows)})["loss"].count
    assert less < case.each["loss"].count == same


def has_no_gradient_of_what_is_masked(case):
    """Masked rows, NaN too, reach no gradient."""
    if not case.still:
        return

    def loss(params, batch):
        args = params, case.begun[1], batch, case.key(1)
        return case.task.loss(*args, train=False)[0]

    gradient = jax.jit(jax.grad(loss))
    found = gradient(case.moved, masked(case.padded))
    same(found, gradient(case.moved, case.batch), **CLOSE)


def stops_at_the_length(case):
    """What stands in x past its length changes no metric."""
    if "length" not in case.batch:
        return
    x = case.batch["x"]
    real = entries(case.batch["length"], x).reshape(x.shape[:2] + (1,) * (x.ndim - 2))
    junk = 1 if jnp.issubdtype(x.dtype, jnp.integer) else 3
    other = case.batch | {"x": jnp.where(real, x, jnp.asarray(junk, x.dtype))}
    same(case.alone(other), case.each, **CLOSE)


# Predictions and labels ---------------------------------------------------------------


def predicts_each_row(case):
    """There is a prediction for each row, and it is finite."""
    if case.still:
        assert case.predicted.shape[:1] == (case.rows,), case.predicted.shape
        assert finite(case.predicted)


def predicts_without_y(case):
    """A prediction does not read y."""
    if case.still:
        blind = {name: a for name, a in case.batch.items() if name != "y"}
        found = case.predicts(case.moved, case.begun[1], blind)
        same(found, case.predicted, **CLOSE)


def predicts_rows_alone(case):
    """The prediction of a row is its own, whatever else is in the batch."""
    if case.still:
        last = jax.tree.map(lambda a: a[-1:], case.batch)
        found = case.predicts(case.moved, case.begun[1], last)
        same(found, case.predicted[-1:], **CLOSE)


def predicts_as_it_reads(case):
    """Without jit a prediction is the same."""
    if case.still:
        found = case.task.predict(case.moved, case.begun[1], case.batch)
        same(found, case.predicted, rtol=1e-3, atol=1e-4)


def classes(case):
    """How many there are, of shapes alone; None where "y" is no label."""
    if case.task.classes is None:
        return None
    shapes = jax.eval_shape(lambda b: b, case.batch)
    return case.task.classes(*case.begun, shapes)


def knows_its_classes(case):
    """`classes` is a number of two or more, or None, of shapes alone."""
    found = classes(case)
    assert found is None or (isinstance(found, int) and found >= 2), found


def predicts_probabilities(case):
    """With labels of each row, predictions [B, K] are probabilities."""
    count = classes(case)
    if case.still and count and case.batch["y"].ndim == 1:
        assert case.predicted.shape == (case.rows, count), case.predicted.shape
        assert (case.predicted >= 0).all()
        np.testing.assert_allclose(case.predicted.sum(-1), 1, rtol=1e-4)


def has_the_labels(case):
    """Labels are among the classes."""
    count = classes(case)
    if count and "y" in case.batch:
        y = np.asarray(case.batch["y"])
        assert y.min() >= 0 and y.max() < count, (y.min(), y.max(), count)


def takes_its_rows(case):
    """`ids` and `check` take the batch."""
    if case.task.ids is not None:
        check_ids(case.batch["x"], case.task.ids)
    if case.task.check is not None:
        case.task.check(case.batch)


CHECKS = (
    has_a_finite_gradient,
    reaches_every_parameter,
    falls_along_its_gradient,
    learns_a_batch,
    runs_side_by_side,
    judges_rows_alone,
    judges_in_any_order,
    drops_what_is_masked,
    drops_masked_rows_together,
    counts_what_is_kept,
    has_no_gradient_of_what_is_masked,
    stops_at_the_length,
    predicts_each_row,
    predicts_without_y,
    predicts_rows_alone,
    predicts_as_it_reads,
    knows_its_classes,
    predicts_probabilities,
    has_the_labels,
    takes_its_rows,
)
