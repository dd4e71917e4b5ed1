"""What single examples do to a training: their gradients, the noise of these, and what
becomes of predictions where a row is left out.

Shapes: B examples of a batch, N rows of a training, M outputs, P parameters.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg

from train.evaluate import row_key
from train.many.curvature import SINGULAR, curvature
from train.source import count_rows
from train.step import State, Trained
from zoo.base import Batch, Number, Task, UsageError, concrete, masked
from zoo.types import Array, Tree


def per_example(
    task: Task,
    trained: Trained | State,
    batch: Batch,
    seed: int | Array = 0,
    *,
    train: bool = False,
) -> Tree:
    """The gradient of each example's own loss: a tree like the parameters, [B, ...].

    Each example is a batch by itself, with the key that an evaluation gives it
    (`train.evaluate.make_eval`); one that the mask drops has gradient 0. Their mean, by
    what counts in each, is the batch's gradient. In training each has the penalty.
    Raises UsageError for batch norm in training, whose loss is no mean of examples'.
    """
    _check_alone(trained, train)
    examples = masked(batch)
    rows = examples.pop("row", jnp.arange(len(batch["x"])))

    def alone(params, row, example):
        one, key = jax.tree.map(lambda a: a[None], example), row_key(seed, row)
        return task.loss(params, trained.model, one, key, train=train)

    each = jax.vmap(jax.grad(alone, has_aux=True), (None, 0, 0))
    return each(trained.params, rows, examples)[0]


class Noise(NamedTuple):
    """How noisy the gradient of one example is: scalars.

    To average over batches, average the last two, and divide.
    """

    scale: Array  # trace / square: of a batch of as many, noise is as large as gradient
    trace: Array  # of the covariance of an example's gradient
    square: Array  # |G|^2 of the true gradient G; below 0 by chance


def noise_scale(gradients: Tree, mask: Array | None = None) -> Noise:
    """The simple noise scale tr(Sigma) / |G|^2 of gradients [B, ...] of examples.

    McCandlish et al., "An empirical model of large-batch training", 2018,
    arXiv:1812.06162, section 2.2. Trace and square are unbiased, their quotient nearly;
    it is infinite where the square is not above 0. A mask [B] drops examples. Raises
    UsageError for fewer than two.
    """
    g = jax.vmap(lambda tree: ravel_pytree(tree)[0])(gradients)
    keep = jnp.ones(len(g), bool) if mask is None else jnp.asarray(mask) != 0
    n = jnp.sum(keep)
    if concrete(n) and n < 2:
        raise UsageError(f"expected gradients of 2 or more examples, found {n}")
    mean = jnp.mean(g, 0, where=keep[:, None])
    trace = jnp.sum(jnp.square(g - mean[None]), where=keep[:, None]) / (n - 1)
    square = jnp.sum(jnp.square(mean)) - trace / n
    scale = jnp.where(square > 0, trace / jnp.where(square > 0, square, 1), jnp.inf)
    return Noise(scale, trace, square)


# A row left out -----------------------------------------------------------------------


class Influence(NamedTuple):
    """The predicted change of each output where a row is left out of the training."""

    plain: Array  # [N, M]: to first order
    newton: Array  # [N, M]: by a Newton step


def influence(
    task: Task,
    trained: Trained | State,
    rows: Batch,
    functional: Callable[[Tree], Array],
    *,
    damping: Number = 0.0,
    dense: int = 2000,
) -> Influence:
    """What functional(params) -> [M] changes by where a row is left out of N.

    `trained` is at a minimum of the task's loss in training on all the rows. Without
    row i it would be at one of the same loss on the others: a mean over N - 1, with the
    same l1 and l2 (scikit-learn's alpha is l2 times the number of rows: it shrinks).

    `newton` is one Newton step on that loss: exact for least squares; for one logit,
    without penalty, (1 - 1/N) / (1 - leverage) of the plain step (Pregibon, "Logistic
    regression diagnostics", 1981). `plain` steps by the Hessian of all rows (Koh &
    Liang, 2017, arXiv:1703.04730): it is there to be compared with, and not good. Of
    logistic regression of breast_cancer (C = 1) without each of 60 rows, the error is
    3% of what training anew changes in 20 test losses, that of `plain` 26%; 9% and 21%
    in logits (correlations .9999 and .998; .997 and .996): it is too small. Of networks
    hardly penalised, the Hessian without a row may be near singular, and the step far
    off: `damping` is added to its diagonal.

    The equations are solved by conjugate gradients: for fewer than `dense` parameters
    after the inverse for all rows, else by products over all rows, up to hundreds for
    each row and output. Raises UsageError for fewer than two rows, a loss that is no
    mean of theirs (batch norm, dropout), parameters at no minimum, outputs not [M].
    """
    _check_alone(trained, True)
    count_rows(rows)
    w, restore = ravel_pytree(trained.params)
    rows = masked(jax.tree.map(jnp.asarray, rows), trained.model)

    def loss(w, rows):
        """The objective; the mean of the rows' own losses, without the penalty."""
        state, key = trained.model, jax.random.key(0)
        value, aux = task.loss(restore(w), state, rows, key, train=True)
        return value, aux.metrics["loss"]

    if len(shape := jax.eval_shape(functional, trained.params).shape) != 1:
        raise UsageError(f"expected a functional of outputs [M], found {shape}")
    found = jax.jit(lambda w, rows: _slopes(loss, w, rows))(w, rows)
    (slope, (mean, extra)), (slopes, (each, extras)) = found
    other = jnp.where(each.count > 0, jnp.abs(extras - extra), 0)
    if other.max() > 1e-4 * (1 + abs(extra)):
        raise UsageError(
            "expected an objective that is the loss and a penalty, found another of "
            "each row, as smoothed labels have"
        )
    _check_minimum(slope, mean, slopes, each)

    @jax.jit
    def changes(w, rows, slopes, counts):
        small, outputs = w.size < dense, lambda w: functional(restore(w))
        return _changes(loss, outputs, w, rows, slopes, counts, damping, small)

    found, lowest = changes(w, rows, slopes, each.count)
    if lowest < -1e-3:
        raise UsageError(
            "expected parameters at a minimum of the training's loss, found a Hessian "
            f"with an eigenvalue of {lowest:.2g} times the largest: try damping"
        )
    return found


def _own(w, loss, row):
    value, mean = loss(w, jax.tree.map(lambda a: a[None], row))
    return mean.total, (mean, value - mean.value())


def _slopes(loss, w, rows):
    """(gradient [P], (Mean, penalty)) of the objective; the same of each row's loss."""

    def whole(w):
        value, mean = loss(w, rows)
        return value, (mean, value - mean.value())

    each = jax.vmap(lambda row: jax.grad(_own, has_aux=True)(w, loss, row))
    return jax.grad(whole, has_aux=True)(w), each(rows)


def _check_minimum(slope, mean, slopes, each):
    if (some := jnp.sum(each.count > 0)) < 2:
        raise UsageError(f"expected 2 or more rows to leave one out, found {some}")
    together, alone = mean.value(), each.total.sum() / each.count.sum()
    if not jnp.allclose(together, alone, rtol=1e-3, atol=1e-6):
        raise UsageError(
            "expected a loss in training that is the mean of the rows' own, "
            f"{alone:.4g}, found {together:.4g}: dropout, or rows that see each other"
        )
    size = jnp.sqrt(jnp.sum(jnp.square(slopes)) / some)
    if (found := jnp.linalg.norm(slope)) > 0.1 * size:
        raise UsageError(
            "expected parameters at a minimum of the training's loss, found a gradient "
            f"of {found:.2g} there, beside {size:.2g} of a row"
        )


def _changes(loss, outputs, w, rows, slopes, counts, damping, small):
    """(Influence, the least eigenvalue of the Hessian, of its largest).

    Row i has a total t and a count c. Without it the objective is
    J + t_all / (c_all - c) - t / (c_all - c) - t_all / c_all, J that of all rows.
    """
    rest = counts.sum() - counts
    # of the objective without a row: without what slope is left where training stopped
    mean = slopes.sum(0)[None] / counts.sum()
    pushes = (counts[:, None] * mean - slopes) / rest[:, None]
    whole = curvature(lambda w: loss(w, rows)[0] + damping * (w @ w) / 2, w)
    bare = curvature(lambda w: loss(w, rows)[1].value(), w)
    before, lowest = None, jnp.zeros(())
    if small:
        matrix, bare = (jax.lax.map(f, jnp.eye(w.size)) for f in (whole, bare))
        whole, bare = matrix.__matmul__, bare.__matmul__
        before, lowest = _inverse(matrix)

    def solve(times, b):
        return cg(times, b, tol=1e-6, maxiter=min(2 * w.size, 200), M=before)[0]

    def change(args):
        row, push, count, rest = args
        its = curvature(lambda w: _own(w, loss, row)[0], w)
        step = -solve(_without(whole, bare, its, count, rest), push)
        # halfway its slope is the change to third order; differences would cancel
        return jax.jvp(outputs, (w + step / 2,), (step,))[1]

    def each(function, args):  # side by side, where a product does not read all rows
        return jax.vmap(function)(args) if small else jax.lax.map(function, args)

    adjoint = each(lambda b: solve(whole, b), jax.jacrev(outputs)(w))
    newton = each(change, (rows, pushes, counts, rest))
    return Influence(-pushes @ adjoint.T, newton), lowest


def _without(whole, bare, its, count, rest):
    """v -> Hv of the objective without a row, which has a Hessian of its own."""
    return lambda v: whole(v) + (count * bare(v) - its(v)) / rest


def _inverse(matrix):
    """v -> what a matrix takes to v, 0 where singular; its least eigenvalue, scaled."""
    values, vectors = jnp.linalg.eigh(matrix)
    good = values > SINGULAR * values[-1]
    scale = jnp.where(good, 1 / jnp.where(good, values, 1), 0)
    return lambda v: vectors @ (scale * (v @ vectors)), values[0] / values[-1]


def _check_alone(trained, train):
    if train and "batch_stats" in str(jax.tree.structure(trained.model)):
        raise UsageError("expected a loss of each example: the model has batch norm")
