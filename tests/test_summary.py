"""Layers, their outputs, parameters and operations, counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import train
from train.report.summary import summary
from zoo import cnn, gan, linear, mlp, rnn, supervised
from zoo.base import UsageError

SHAPES = {
    "x": jax.ShapeDtypeStruct((32, 64), jnp.float32),
    "y": jax.ShapeDtypeStruct((32,), jnp.int32),
}


def test_an_mlp_is_counted_as_by_hand():
    task = supervised.task(mlp.MLP(10, widths=(50, 20)), supervised.classes)
    found = train.summary(task, SHAPES)
    layers = [
        (name, shape, count)
        for name, kind, shape, count in found.layers
        if kind != "Dropout"
    ]
    assert layers == [
        ("MLP", "32 x 10", 65 * 50 + 51 * 20 + 21 * 10),
        ("MLP/Dense_0", "32 x 50", 65 * 50),
        ("MLP/Dense_1", "32 x 20", 51 * 20),
        ("MLP/Dense_2", "32 x 10", 21 * 10),
    ]
    assert found.parameters == layers[0][2] and found.state == 0
    assert found.flops == 2 * 32 * (64 * 50 + 50 * 20 + 20 * 10)
    params, state = jax.eval_shape(task.init, jax.random.key(0), SHAPES)
    lowered = jax.jit(task.predict).lower(params, state, SHAPES)
    # the compiler's count has biases, activations and the softmax in it: 2 % more
    assert lowered.cost_analysis()["flops"] == pytest.approx(found.flops, rel=0.05)
    lines = str(found).splitlines()
    assert lines[2].split() == ["Dense_0", "(Dense)", "32", "x", "50", "3,250"]
    assert lines[-2].split() == ["in", "all", f"{found.parameters:,}"]
    assert lines[-1].startswith(f"{found.flops:,} ")
    assert found._repr_html_() == f"<pre>{found}</pre>"


def test_convolutions_and_batch_statistics():
    task = supervised.task(cnn.resnet_cifar(8, 10), supervised.classes)
    images = np.zeros((2, 16, 16, 3), np.float32)
    found = summary(task, {"x": images, "y": np.zeros(2, np.int32)})
    # He et al. 2015, section 4.2, n = 1: shortcuts without parameters
    each = 16 * 16 * 9 * (3 * 16 + 2 * 16 * 16) + 64 * 10
    each += 8 * 8 * 9 * (16 * 32 + 32 * 32) + 4 * 4 * 9 * (32 * 64 + 64 * 64)
    assert found.flops == 2 * 2 * each
    assert found.state == 2 * (3 * 16 + 2 * 32 + 2 * 64)
    assert "and 480 of state" in str(found)


def test_a_recurrence_counts_each_of_its_steps():
    def flops(length):
        task = supervised.task(
            rnn.Classifier(3, rnn.RNN(rnn.LSTM, 8)), supervised.classes
        )
        rows = {"x": np.zeros((2, length, 4), np.float32), "y": np.zeros(2, np.int32)}
        return summary(task, rows).flops

    assert flops(20) - flops(10) == 2 * 2 * 10 * (4 + 8) * 4 * 8


def test_a_game_has_two_networks():
    players = gan.dense((4, 4, 1), latent=3, widths=(8, 8))
    found = summary(
        gan.task(players, gan.GAMES["minimax"]),
        {"x": np.zeros((5, 4, 4, 1), np.float32)},
    )
    networks = [each for each in found.layers if "/" not in each.name]
    assert [each.shape for each in networks] == ["5 x 4 x 4 x 1", "5 x 1"]
    assert sum(each.parameters for each in networks) == found.parameters


def test_a_line_of_a_task_and_what_is_no_batch():
    task = linear.regression()
    rows = {"x": np.zeros((5, 3), np.float32), "y": np.zeros(5, np.float32)}
    found = summary(task, rows)
    assert found.flops == 2 * 5 * 3 and found.parameters == 4
    for wrong in ({}, [1.0]):
        with pytest.raises(UsageError, match="expected a batch"):
            summary(task, wrong)
    with pytest.raises(UsageError, match="expected a Task .* found MLP"):
        summary(mlp.MLP(10), rows)
