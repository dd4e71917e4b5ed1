"""Ways to plant a fault in a golden case: see test_planted.py.

A plant is a function (monkeypatch, name of the case) that patches what it must.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax.traverse_util import unflatten_dict
from jax.lax import stop_gradient

from tests import test_golden
from tests.golden import generative
from tests.test_golden import Case
from train import optim
from zoo import gan, supervised, vae

Plant = Callable[[pytest.MonkeyPatch, str], None]


def remade(make: Callable[[Case], Case]) -> Plant:
    """make(case) in place of the golden test's."""

    def plant(patch, name):
        patch.setitem(test_golden.CASES, name, make(test_golden.CASES[name]))

    return plant


def replaced(where, name, make) -> Plant:
    """where.name is make(what it was)."""
    return lambda patch, case: patch.setattr(where, name, make(getattr(where, name)))


def through(change) -> Plant:
    """The model sees change({path: array}) for its parameters."""

    def bad(params):
        return unflatten_dict(change(test_golden.flat(params)), sep="/")

    def make(case):
        def outputs(variables, x):
            wrong = {**variables, "params": bad(variables["params"])}
            return case.model.apply(wrong, x)

        def loss(params, *rest, **how):
            return case.task.loss(bad(params), *rest, **how)

        def predict(params, *rest):
            return case.task.predict(bad(params), *rest)

        task = case.task._replace(loss=loss, predict=predict)
        return case._replace(model=generative.Outputs(outputs), task=task)

    return remade(make)


def at(path, change) -> Plant:
    """One array of the parameters is changed."""
    return through(lambda params: params | {path: change(params[path])})


def held(path) -> Plant:
    """No gradient for one array."""
    return at(path, stop_gradient)


def judged(case, measure) -> Case:
    """The case with a task of its model under a measure."""
    return case._replace(task=supervised.task(case.model, measure))


def measured(measure, values) -> Plant:
    """The values of a measure are values(what they were)."""
    return remade(lambda c: judged(c, measure._replace(values=values(measure.values))))


def fields(**changed) -> Plant:
    """A classifier whose module has other fields."""

    def make(case):
        model = case.model.clone(**changed)
        return judged(case._replace(model=model), supervised.classes)

    return remade(make)


def block(**changed) -> Plant:
    """A layer of a Transformer with other fields."""

    def make(case):
        model = test_golden.Rows(case.model.block.clone(**changed))
        return judged(case._replace(model=model), supervised.regression)

    return remade(make)


def cell(change) -> Plant:
    """A recurrent classifier whose cell has another step."""

    def make(case):
        rnn = case.model.rnn
        wrong = rnn.cell._replace(step=change(rnn.cell.step))
        model = case.model.clone(rnn=rnn.clone(cell=wrong))
        return judged(case._replace(model=model), supervised.classes)

    return remade(make)


def norms(**changed) -> Plant:
    """Every batch norm has other fields, whatever its maker says."""
    return replaced(nn, "BatchNorm", lambda module: other(module, changed))


def other(function, changed):
    """A function with some arguments of its own."""
    return lambda *args, **how: function(*args, **how | changed)


def optimizer(make) -> Plant:
    """make(rule, rate) in place of train.optim.optimizer."""
    return lambda patch, case: patch.setattr(test_golden, "optimizer", make)


def rule(name, make) -> Plant:
    """make() for what an optimizer of that name does to the gradient."""
    return lambda patch, case: patch.setitem(optim.PRECONDITIONERS, name, make)


def gates(order) -> Plant:
    """The gates stand in another order in all arrays of a layer."""

    def reorder(path, array):
        axis = 0 if path.endswith("recurrent_bias") else -1
        parts = jnp.split(array, len(order), axis)
        return jnp.concatenate([parts[i] for i in order], axis)

    return through(
        lambda params: {
            path: reorder(path, array) if path.startswith("rnn/") else array
            for path, array in params.items()
        }
    )


def rates(by) -> Plant:
    return optimizer(lambda name, rate: optim.optimizer(name, by * rate))


def options(**changed) -> Plant:
    return optimizer(lambda name, rate: optim.optimizer(name, rate, **changed))


def divergence(make) -> Plant:
    return replaced(vae, "divergence", make)


def likelihood(change) -> Plant:
    """log p(x|z) [B] is change(what it was, pixels)."""

    def make(plain):
        def wrong(self, x, *args, **how):
            return change(plain(self, x, *args, **how), x[0].size)

        return wrong

    return replaced(vae.VAE, "log_likelihood", make)


def penalty(of_square) -> Plant:
    """Another function of the squared norm of the critic's gradient."""

    def make(_):
        def wrong(critic, x):
            slopes = jax.vmap(jax.grad(lambda x: critic(x[None])))(x)
            square = jnp.square(slopes).reshape(len(x), -1).sum(-1)
            return of_square(square)

        return wrong

    return replaced(gan, "gradient_penalty", make)
