"""Checks of how a task begins, and of what its loss gives."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zoo.base import Aux, Mean, Task
from zoo.testing.case import CLOSE, finite, kinds, same

# The beginning ------------------------------------------------------------------------


def is_a_task(case):
    """It is a `zoo.base.Task` whose init and loss are functions."""
    assert isinstance(case.task, Task)
    assert callable(case.task.init) and callable(case.task.loss)


def begins_with_a_pair(case):
    """init(key, batch) is (params, state)."""
    assert isinstance(case.begun, tuple) and len(case.begun) == 2


def has_parameters(case):
    """There are parameters, and each has entries."""
    leaves = jax.tree.leaves(case.begun[0])
    assert leaves and all(leaf.size for leaf in leaves), kinds(case.begun[0])


def has_real_parameters(case):
    """Parameters are floating-point arrays: a gradient is taken of them."""
    leaves = jax.tree.leaves(case.begun[0])
    assert all(jnp.issubdtype(a.dtype, jnp.floating) for a in leaves)


def begins_finite(case):
    """Parameters and state begin with finite numbers."""
    assert finite(case.begun)


def begins_the_same(case):
    """One key gives one beginning."""
    again = jax.jit(lambda *args: case.task.init(*args))  # traced anew
    same(again(case.key(), case.batch), case.begun)


def begins_by_its_key(case):
    """Another key gives others, unless all are zeros."""
    params, other = case.begun[0], jax.jit(case.task.init)(case.key(9), case.batch)[0]
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(other), strict=True)
    some = any(np.any(a) for a in jax.tree.leaves(params))
    assert not some or any(not np.array_equal(a, b) for a, b in pairs)


def begins_whatever_the_rows(case):
    """The batch supplies shapes: other rows, the same beginning."""
    other = jax.tree.map(lambda a: jnp.zeros_like(a[:1]), case.batch)
    same(jax.jit(case.task.init)(case.key(), other), case.begun)


def begins_as_it_reads(case):
    """Without jit it begins the same."""
    same(case.task.init(case.key(), case.batch), case.begun, **CLOSE)


# The loss -----------------------------------------------------------------------------


def gives_a_value_and_aux(case):
    """loss(...) is (value, Aux), in training and in evaluation."""
    for train in (True, False):
        args = *case.begun, case.batch, case.key()
        found = jax.eval_shape(partial(case.task.loss, train=train), *args)
        assert isinstance(found, tuple) and len(found) == 2
        assert isinstance(found[1], Aux), type(found[1]).__name__


def gives_a_scalar(case):
    """The value is a scalar of float32 or more: bfloat16 loses what it adds."""
    for value in (case.trained[0][0], case.judged[0]):
        assert value.shape == () and value.dtype.name in ("float32", "float64"), value


def trains_finite(case):
    """In training the value and the metrics are finite."""
    value, aux = case.trained[0]
    assert finite((value, aux.metrics))


def judges_finite(case):
    """In evaluation the value and the metrics are finite."""
    assert finite((case.judged[0], case.judged[1].metrics))


def has_means(case):
    """Metrics are `Mean`s of scalars, by name: batches merge exactly."""
    for aux in (case.trained[0][1], case.judged[1]):
        assert isinstance(aux.metrics, dict)
        for name, mean in aux.metrics.items():
            assert isinstance(name, str) and isinstance(mean, Mean), name
            assert mean.total.shape == mean.count.shape == (), name


def has_a_loss(case):
    """ "loss" is among the metrics, "grad_norm" is not: the step adds it."""
    for aux in (case.trained[0][1], case.judged[1]):
        assert "loss" in aux.metrics and "grad_norm" not in aux.metrics


def counts_each_row(case):
    """Each metric of the evaluation counts every row, or more for its entries."""
    for name, mean in case.judged[1].metrics.items():
        assert mean.count >= case.rows, (name, float(mean.count))


def judges_by_its_loss(case):
    """The value of the evaluation is the metric "loss"."""
    found = case.judged[1].metrics["loss"].value()
    np.testing.assert_allclose(case.judged[0], found, **CLOSE)


def trains_the_same(case):
    """One key gives one value, also where it is traced anew."""
    args = case.moved, case.begun[1], case.batch, case.key(1)
    again = jax.jit(lambda *args: case.task.loss(*args, train=True)[0])
    same(again(*args), case.trained[0][0], **CLOSE)


def judges_without_noise(case):
    """A task that predicts draws nothing in evaluation: any key, one value."""
    if case.still:
        args = case.moved, case.begun[1], case.batch
        same(case.judges(*args, case.key(7))[0], case.judged[0])


def trains_as_it_reads(case):
    """Without jit the training's value is the same."""
    args = case.moved, case.begun[1], case.batch, case.key(1)
    value, _ = case.task.loss(*args, train=True)
    np.testing.assert_allclose(value, case.trained[0][0], rtol=1e-3, atol=1e-4)


def judges_as_it_reads(case):
    """Without jit the evaluation's value is the same."""
    args = case.moved, case.begun[1], case.batch, case.key(1)
    value, _ = case.task.loss(*args, train=False)
    np.testing.assert_allclose(value, case.judged[0], rtol=1e-3, atol=1e-4)


def leaves_its_arguments(case):
    """Neither params, state nor batch are changed in place."""
    args = jax.tree.map(lambda a: a, (*case.begun, dict(case.batch)))
    before: Any = jax.tree.structure(args)
    for train in (True, False):
        jax.eval_shape(partial(case.task.loss, *args, train=train), case.key())
    assert jax.tree.structure(args) == before


def leaks_nothing(case):
    """What one call has traced is not used by the next."""
    for _ in range(2):
        jax.jit(lambda *a: case.task.loss(*a, train=True)[0])(
            *case.begun, case.batch, case.key()
        )


def takes_one_row(case):
    """A batch of one row is a batch."""
    row = jax.tree.map(lambda a: a[:1], case.batch)
    value, _ = case.judges(case.moved, case.begun[1], row, case.key())
    assert jnp.isfinite(value)


# The state ----------------------------------------------------------------------------


def keeps_the_kind_of_its_state(case):
    """Training gives a state of the same names, shapes and types: a scan carries it."""
    assert kinds(case.trained[0][1].state) == kinds(case.begun[1])


def keeps_its_state_finite(case):
    """The state after a step of training is finite."""
    assert finite(case.trained[0][1].state)


def judges_without_a_trace(case):
    """Evaluation leaves the state alone."""
    same(case.judged[1].state, case.begun[1])


CHECKS = (
    is_a_task,
    begins_with_a_pair,
    has_parameters,
    has_real_parameters,
    begins_finite,
    begins_the_same,
    begins_by_its_key,
    begins_whatever_the_rows,
    begins_as_it_reads,
    gives_a_value_and_aux,
    gives_a_scalar,
    trains_finite,
    judges_finite,
    has_means,
    has_a_loss,
    counts_each_row,
    judges_by_its_loss,
    trains_the_same,
    judges_without_noise,
    trains_as_it_reads,
    judges_as_it_reads,
    leaves_its_arguments,
    leaks_nothing,
    takes_one_row,
    keeps_the_kind_of_its_state,
    keeps_its_state_finite,
    judges_without_a_trace,
)
