"""Checks on the host: what is refused before anything is compiled, and what is not."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train import check, optim
from train.step import Trained
from zoo.base import Aux, Mean, Task, UsageError
from zoo.checks import check_rows

PARAMS = {"w": jnp.ones(3)}


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_line_search_wants_the_full_batch(wrapped):
    optimizer = optim.optimizer("lbfgs", None)
    if wrapped:
        optimizer = optax.chain(optax.clip(1.0), optax.masked(optimizer, {"w": True}))
    state = optimizer.init(PARAMS)
    optim.full_batch(state, 9, 9)
    with pytest.raises(
        UsageError, match="all 9 examples for lbfgs and newton.*found 8"
    ):
        optim.full_batch(state, 8, 9)


@pytest.mark.parametrize("name", ["sgd", "adam", "lion"])
def test_other_optimizers_take_any_batch(name):
    optim.full_batch(optim.optimizer(name, 0.1).init(PARAMS), 1, 9)


def rows(**changes):
    return {"x": np.ones((3, 4, 2)), "y": np.ones((3, 4)), **changes}


def test_what_a_mask_leaves_out_may_be_nan():
    x = np.ones((3, 4, 2))
    x[1] = np.nan
    assert check_rows(rows(x=x, mask=np.array([1.0, 0.0, 1.0]))) == 3
    x[2, 3, 1] = np.inf
    with pytest.raises(UsageError, match="1 NaN or infinite values in 'x', .* 2"):
        check_rows(rows(x=x, mask=np.array([1.0, 0.0, 1.0])))
    counts = np.ones((3, 4))
    counts[1], counts[2, 3] = 0, 0
    assert check_rows(rows(x=x, mask=counts)) == 3
    y = np.ones((3, 4))
    y[0, 2] = np.nan
    with pytest.raises(UsageError, match="1 NaN or infinite values in 'y', .* 0"):
        check_rows(rows(x=x, y=y, mask=counts))


def test_a_mask_of_targets_leaves_out_whole_rows_of_what_has_other_lengths():
    x, counts = np.ones((3, 7)), np.ones((3, 4))
    x[1], counts[1], counts[2, 1:] = np.nan, 0, 0
    assert check_rows(rows(x=x, mask=counts)) == 3
    x[2, 6] = np.nan
    with pytest.raises(UsageError, match="'x', the first in example 2"):
        check_rows(rows(x=x, mask=counts))


def test_the_mask_itself_is_numbers():
    with pytest.raises(UsageError, match="'mask', the first in example 1"):
        check_rows(rows(mask=np.array([0.0, np.nan, 1.0])))
    with pytest.raises(UsageError, match="3 entries in 'mask'"):
        check_rows(rows(mask=np.ones(2)))


@pytest.mark.parametrize(
    "give, said",
    [
        (lambda loss: loss, "found no such pair"),
        (lambda loss: (loss, {"loss": Mean.of(loss)}), "found dict in place of Aux"),
        (lambda loss: (loss, Aux({}, {"loss": Mean.of(loss)})), "as metrics none"),
        (lambda loss: (loss, Aux({"loss": loss}, {})), "as metrics loss Shape"),
        (lambda loss: (loss, Aux({"rmse": Mean.of(loss)}, {})), "metrics rmse Mean"),
    ],
)
def test_a_loss_that_gives_another_thing_is_a_sentence(give, said):
    def init(key, batch):
        return {"w": np.zeros(2, np.float32)}, {}

    def loss(params, state, batch, key, *, train):
        return give((batch["x"] @ params["w"]).sum())

    rows = {"x": np.ones((4, 2), np.float32)}
    trained = Trained(*init(None, rows))
    with pytest.raises(UsageError, match=said):
        check.check_data(Task(init, loss), trained, rows)
