"""The gradient of a validation loss through all steps of a training.

A training is a pure function of its hyperparameters, and so has a gradient: in reverse
(Maclaurin, Duvenaud & Adams, "Gradient-based hyperparameter optimization through
reversible learning", 2015, arXiv:1502.03492), of thousands at once, or forward
(Franceschi et al., "Forward and reverse gradient-based hyperparameter optimization",
2017, arXiv:1703.01785), of a few in little memory. Shapes: N rows, T steps.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from train import source as sources
from train import step as one
from train.check import check_numbers
from train.evaluate import make_eval
from train.many.member import Member, Varied, check_names, same
from train.optim import SEARCHING
from train.source import Arrays, Source, batch_shapes
from zoo.base import UsageError, check_int
from zoo.checks import check_rows


def through(
    make: Callable[..., Any],
    source: Source | Varied,
    steps: int,
    *,
    evaluation: Arrays | None = None,
    segment: int | None = None,
) -> Callable[..., jax.Array]:
    """loss(hyper, seed=0) -> scalar: of `evaluation`, after a training of `steps`.

    It is pure: take `jax.grad` or, of a few numbers, `jax.jacfwd`; `jax.jit` that, and
    `jax.vmap` it over seeds. `hyper` is a dict of arrays, or trees: `make(**hyper)` is
    as in `sweep`, and a `Varied` reads what it names. What may be among them:

        rates [T]              optax.sgd(lambda t: rates[t])
        a decay of each layer  optax.stateless(lambda grads, params: ...) in a chain
        weights [N] of rows    `weighted`

    Backwards, a state is kept every `segment` steps (sqrt(steps) for None) and what is
    between is computed again: the memory of 2 sqrt(steps) states, and of one step.

    Adam and RMSprop divide by a root, without a derivative where a gradient has been 0
    from the first step on, as of an input that is always 0: all is NaN, unless `make`
    has an optax.adamw(..., eps_root=1e-8), or so. At relu's kinks the gradient is of
    one side, and differences that move a unit across one are not near it. Where
    training is chaotic, at too high a rate, the gradient is right, huge, and no use.

    Raises UsageError for data that cannot be right and, when called, for names that
    `make` does not know, what would shape the program, and lbfgs and newton.
    """
    steps = check_int("steps", steps, 1)
    root = math.isqrt(steps - 1) + 1
    size = root if segment is None else check_int("segment", segment, 1, steps)
    if isinstance(source, Source):
        _check_data(source, evaluation)
    data = source if isinstance(source, Varied) else same(source, evaluation)
    arrays = jax.tree.map(jnp.asarray, data.arrays)

    def loss(hyper: Mapping[str, Any], seed: Any = 0) -> jax.Array:
        if missing := {*data.names} - {*hyper}:
            raise UsageError(f"expected {min(missing)} of the data, found {[*hyper]}")
        given = {k: v for k, v in hyper.items() if k not in data.names}
        check_names(make, given)
        own = {**hyper, "seed": seed}
        rows = data.evaluation(arrays, own)
        if rows is None:
            raise UsageError("expected an evaluation, whose loss has the gradient")
        try:
            member = Member(*make(**given))
            state = _trained(member, data.source(arrays, own), seed, steps, size)
            found = make_eval(member.task)(state.average or state, rows)
        except jax.errors.JAXTypeError as error:
            raise UsageError(
                "expected hyperparameters that a program reads as numbers: one of "
                f"{', '.join(hyper)} shapes it"
            ) from error
        return found["loss"].value()

    return loss


def weighted(
    arrays: Arrays,
    size: int | None = None,
    *,
    evaluation: Arrays | None = None,
    name: str = "weights",
) -> Varied:
    """Data whose training rows {"x": [N, ...], ...} count by a setting, weights [N].

    A step reads `size` rows, all for None: its loss is their mean by weight, in which
    a common factor of the weights is nothing. A weight that is 0 exactly drops its row,
    as padding, and has no gradient: let it be the exp, or sigmoid, of what is learned.
    Raises UsageError for rows that have a mask.
    """
    if "mask" in arrays:
        raise UsageError("expected rows without a mask, which the weights are to be")
    _check_data(sources.examples(arrays, size), evaluation)

    def source(shared, own):
        return sources.examples({**shared[0], "mask": own[name]}, size)

    return Varied((arrays, evaluation), source, lambda shared, own: shared[1], (name,))


def _trained(member, source, seed, steps, size):
    """The state after `steps`, of which, backwards, each `size`-th is kept."""
    task, optimizer, ema, _ = member
    like = batch_shapes(source)
    zeros = jax.tree.map(lambda a: jnp.zeros((1, *a.shape[1:]), a.dtype), like)
    state = one.init(task, optimizer, seed, zeros, average=ema is not None)
    if any(map(_is_search, jax.tree.leaves(state.optimizer, is_leaf=_is_search))):
        raise UsageError(
            "expected an optimizer that is given its rate: the steps of lbfgs and "
            "newton, found along a line, have no gradient"
        )
    update = member.step()

    def step(state, _):
        batch = source.batch(source.arrays, state.seed, state.step)
        return update(state, batch)[0], None

    def run(state, count):
        # backwards, a step keeps its state, and not what it computed
        return jax.lax.scan(again(step), state, length=count)[0]

    def again(function):  # a scan needs no help against common subexpressions
        return jax.checkpoint(function, prevent_cse=False)

    whole, rest = divmod(steps, size)
    segments = again(lambda state, _: (run(state, size), None))
    state = jax.lax.scan(segments, state, length=whole)[0]
    return run(state, rest) if rest else state


def _is_search(part):
    return isinstance(part, SEARCHING)


def _check_data(source, evaluation):
    check_numbers(source, 1, 1, None, None)
    for part in source.parts(source.arrays):
        check_rows(part, "training data")
    if evaluation is not None:
        check_rows(evaluation, "evaluation data")
