"""The range test: losses under a growing rate, by hand; where it ends, what it says."""

import numpy as np
import optax
import pytest

from train import many, optim
from train.many.rates import Rates
from train.report import ranges
from train.source import full
from zoo import linear
from zoo.base import UsageError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 2)).astype(np.float32)
ROWS = {"x": X, "y": (X @ [3.0, -2.0] + RNG.normal(size=64)).astype(np.float32)}


def tried(scale=1.0, rows=ROWS, **options):
    def make(rate):
        return optax.chain(optax.scale(scale), optim.optimizer("sgd", rate))

    options = {"low": 1e-3, "high": 30.0, "steps": 80, **options}
    return many.range_test(linear.regression(), make, full(rows), **options)


def test_losses_are_those_of_gradient_descent_at_these_rates():
    found = tried()
    x = np.concatenate([ROWS["x"], np.ones((64, 1))], 1).astype(np.float64)
    w, losses = np.zeros(3), []
    for rate in found.rates:
        w -= rate * 2 * x.T @ (x @ w - ROWS["y"]) / 64
        losses.append(np.square(x @ w - ROWS["y"]).mean())
    # up to the edge: beyond it rounding grows with the rest
    edge = 1 / np.linalg.eigvalsh(x.T @ x / 64)[-1]
    some = found.rates < edge / 2
    # an update more or less is 0.3 % of the loss and more; rounding is 1e-6
    np.testing.assert_allclose(found.losses[some], np.array(losses)[some], rtol=1e-4)
    np.testing.assert_allclose(found.rates[:3], 1e-3 * 3e4 ** (np.arange(3) / 79))
    # it ends soon after the rate at which gradient descent diverges, before the last
    assert edge < found.rates[-1] < 10 * edge
    assert edge / 8 < found.least < 2 * edge
    assert found.suggestion < edge


def test_a_gradient_a_hundred_times_as_large_wants_a_hundredth_of_the_rate():
    one, other = tried(), tried(100.0, low=1e-5, high=0.3)
    some = one.rates < 0.3
    np.testing.assert_allclose(other.losses[some], one.losses[some], rtol=1e-3)
    assert other.suggestion == pytest.approx(one.suggestion / 100, rel=0.2)


def test_where_the_loss_never_falls_nothing_is_suggested():
    still = tried(rows={"x": X, "y": np.zeros(64, np.float32)})
    assert still.least is None and still.suggestion is None
    ranges.rates(still).draw_without_rendering()
    with pytest.raises(UsageError, match="expected a lower"):
        tried(low=1e25, high=1e30)
    for wrong in ({"low": 0.0}, {"low": 2.0, "high": 1.0}, {"steps": 3}):
        with pytest.raises(UsageError, match="expected"):
            tried(**wrong)


def test_the_picture_has_the_rates_and_what_is_suggested():
    rates = np.geomspace(1e-4, 1.0, 50)
    losses = np.append(np.linspace(2, 1, 45), [2, 5, 20, 80, 1000.0])
    axes = ranges.rates(Rates(rates, losses, losses, float(rates[44])), "a", "nats")
    axes = axes.axes[0]
    assert axes.get_xscale() == "log" and axes.get_ylabel() == "loss, in nats"
    assert axes.get_ylim()[1] < 3  # the end is cut off
    assert axes.get_lines()[2].get_xdata()[0] == pytest.approx(rates[44] / 4)


@pytest.mark.contract
def test_the_command_suggests_draws_and_refuses(zoo, tmp_path):
    status, said, _ = zoo("lr linear --optimizer adam --steps 120 --high 1000")
    assert status == 0 and "zoo train linear --learning-rate" in said
    assert (tmp_path / "lr.png").exists()
    for command, wrong in (
        ("lr linear", "lbfgs"),
        ("lr dqn", "loss that says"),
        ("lr", "RECIPE"),
        ("lr softmx", "softmax"),
        ("lr linear --learning-rate 1", "learning-rate"),
    ):
        status, _, error = zoo(command)
        assert status == 2 and wrong in error, command
