"""Every numeric hyperparameter of every recipe may be traced, as a sweep does."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import SMALL, batch_of, each, small
from train import optim
from train import step as one
from train.recipes import RECIPES, build, parameters

# where the default is None, or would be off
GIVEN = {"weight_decay": 1e-2, "clip": 0.5, "ema": 0.9, "dropout": 0.2, "anneal": 4.0}
GIVEN["smoothing"] = 0.1


def numbers(name):
    """The numeric hyperparameters of a recipe, by name, with a value for each."""
    found = {}
    known = parameters(RECIPES[name])
    for key, parameter in known.items():
        if jax.Array in get_args(parameter.annotation) or key == "anneal":
            default = parameter.default
            # not the default: a recipe that falls back to it is seen
            found[key] = GIVEN.get(key, default and 0.9 * default)
    if known["optimizer"].default == "lbfgs":
        found["learning_rate"] = 0.05
    return found


@pytest.mark.parametrize("name", each("linear", "mlp"))
def test_every_number_may_be_traced(name):
    given = numbers(name)
    assert all(isinstance(value, float) for value in given.values()), given
    # where a bias stands before a norm of the batch, its gradient is rounding, of which
    # Adam makes a step
    optimizer = "sgd" if name in ("simclr", "barlow_twins") else "adam"
    flags = SMALL.get(name, {}) | {"optimizer": optimizer}
    flags = {key: value for key, value in flags.items() if key != "data"}
    example = small(name, 16)
    batch = batch_of(example)

    def train(given):
        recipe = build(RECIPES[name], example.schema, **flags | given)
        task, optimizer, ema = recipe.task, recipe.optimizer, recipe.training.ema
        update = one.make_step(task, optimizer, ema=ema)
        state = one.init(task, optimizer, 0, batch, average=ema is not None)
        for _ in range(2):
            state, _ = update(state, batch)
        return state

    traced = jax.jit(train)({key: jnp.float32(v) for key, v in given.items()})
    plain = jax.jit(lambda: train(given))()
    for a, b in zip(*map(jax.tree.leaves, (traced, plain)), strict=True):
        if jnp.issubdtype(a.dtype, jnp.inexact):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["constant", "cosine", "warmup_cosine", "exponential"])
def test_rates_may_be_traced(name):
    def rates(peak):
        return jax.vmap(optim.schedule(name, peak, 20))(jnp.arange(21))

    np.testing.assert_allclose(jax.jit(rates)(0.3), rates(0.3), rtol=1e-6, atol=1e-7)
