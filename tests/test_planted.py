"""Faults of the kind people make, planted: each tolerance of the golden tests sees one.

A fault names the columns of tests/test_golden.py that see it. Those of one batch (idle,
forward, gradient) are taken together, and the ones that are not named must not see it:
so a wrong gradient is known by its own tolerance, not by outputs that tell as well.
What stands under FLOAT64 is what float32 cannot tell from rounding.
"""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from tests import faults as wrong
from tests import test_attention, test_golden, test_rnn
from tests.planting import (
    at,
    block,
    cell,
    divergence,
    fields,
    gates,
    held,
    likelihood,
    measured,
    norms,
    options,
    penalty,
    rates,
    remade,
    replaced,
    rule,
    through,
)
from zoo import attention, autoencoder, cnn, gan, rnn, supervised, transformer, vae

ONCE = ("idle", "forward", "gradient")
ALL = "forward gradient"
NODES = "model/network/layers"

# by case: what is wrong, the columns that see it, how it is planted
FLOAT32 = {
    "linear_regression": [
        ("half the square", ALL, measured(supervised.regression, wrong.times(0.5))),
        ("a bias without gradient", "gradient", held("dense/bias")),
        ("a rate of 0.101", "sgd", rates(1.01)),
        ("gradients clipped", "sgd momentum", options(clip=0.5)),
        ("decay", "sgd momentum rmsprop adam", options(weight_decay=0.01)),
        (
            "nesterov",
            "momentum",
            rule("momentum", lambda: optax.trace(0.9, nesterov=True)),
        ),
        (
            "dampening",
            "momentum",
            rule("momentum", lambda: optax.ema(0.9, False)),
        ),
        (
            "a decay of 0.99",
            "rmsprop",
            rule("rmsprop", lambda: optax.scale_by_rms(0.99, 1e-8, eps_in_sqrt=False)),
        ),
        ("no bias correction", "adam", rule("adam", wrong.uncorrected_adam)),
        (
            "b2 of 0.99",
            "adam",
            rule("adam", lambda: optax.scale_by_adam(b2=0.99)),
        ),
    ],
    "logistic_regression": [
        ("classes reversed", "forward", remade(wrong.reversed_classes)),
        ("in bits", ALL, measured(supervised.binary, wrong.times(1 / np.log(2)))),
    ],
    "softmax_regression": [
        ("smoothed labels", ALL, measured(supervised.classes, wrong.smoothed)),
        ("a NaN", ALL, at("dense/bias", lambda bias: jnp.nan * bias)),
    ],
    "mlp_sigmoid": [
        (
            "s (1 + s)",
            "gradient",
            fields(
                activation=wrong.sloped(
                    nn.sigmoid, lambda x: nn.sigmoid(x) * (1 + nn.sigmoid(x))
                )
            ),
        ),
        ("a layer without bias", ALL, at("Dense_1/bias", jnp.zeros_like)),
    ],
    "mlp_tanh": [
        (
            "1 - t",
            "gradient",
            fields(activation=wrong.sloped(jnp.tanh, lambda x: 1 - jnp.tanh(x))),
        )
    ],
    "mlp_relu": [
        (
            "a slope below zero",
            "gradient",
            fields(activation=wrong.sloped(nn.relu, jnp.ones_like)),
        ),
        ("softplus", ALL, fields(activation=nn.softplus)),
    ],
    "mlp_leaky_relu": [("a slope of 0.2", ALL, fields(activation=autoencoder.leaky))],
    "mlp_prelu": [("a fixed slope", "gradient", held("PReLU_1/negative_slope"))],
    "mlp_gelu": [("the exact form", ALL, fields(activation=wrong.exact_gelu))],
    "mlp_batch_norm": [
        ("always the running mean", "idle", norms(use_running_average=True)),
        ("an epsilon of 1e-3", ALL, norms(epsilon=1e-3)),
        ("no scale", ALL, at("BatchNorm_1/scale", jnp.ones_like)),
        ("a momentum of 0.99", "statistics", norms(momentum=0.99)),
        (
            "the unbiased variance",
            "statistics",
            replaced(nn.BatchNorm, "__call__", wrong.unbiased),
        ),
    ],
    "cnn_1d": [
        ("a turned kernel", ALL, at("Conv_1/kernel", lambda kernel: kernel[::-1])),
        ("channels first", ALL, at("Dense_0/kernel", wrong.channels_first)),
    ],
    "cnn_2d": [
        ("height for width", ALL, at("Conv_0/kernel", lambda k: k.swapaxes(0, 1))),
        ("mean pooling", ALL, replaced(cnn, "max_pool", wrong.mean_pool)),
        ("half a gradient", "gradient", at("Conv_0/kernel", wrong.half)),
    ],
    "gcn": [
        (
            "an edge too many",
            ALL,
            replaced(test_golden, "EDGES", lambda edges: (*edges, (3, 0))),
        ),
        ("a layer without gradient", "gradient", held(f"{NODES}_0/dense/kernel")),
    ],
    "gat": [
        ("query for key", ALL, through(wrong.queries_for_keys)),
        (
            "a slope of 0.01",
            ALL,
            replaced(nn, "leaky_relu", lambda leaky: lambda x, slope: leaky(x, 0.01)),
        ),
        ("no gradient of a query", "gradient", held(f"{NODES}_1/query")),
    ],
    "resnet_cifar": [
        ("one end padded less", ALL, replaced(cnn, "Conv", wrong.same_padding)),
        ("channels at the end", ALL, replaced(jnp, "pad", wrong.at_the_end)),
        ("a momentum of 0.99", "statistics", norms(momentum=0.99)),
    ],
    "resnet_bottleneck": [
        ("the pool padded less", ALL, replaced(cnn, "max_pool", wrong.same_pool)),
        ("a shortcut held", "gradient", held("Block_1/Conv_3/kernel")),
    ],
    "elman": [
        ("h R transposed", ALL, cell(wrong.transposed)),
        ("no gradient through time", "gradient", cell(wrong.truncated)),
    ],
    "gru": [
        ("gates r and z swapped", ALL, gates((1, 0, 2))),
        ("the reset gate before the product", ALL, cell(wrong.papers_gru)),
        ("z for 1 - z", ALL, cell(wrong.turned_update)),
    ],
    "gru_deep": [("twice forward", ALL, replaced(rnn, "recur", wrong.forward_only))],
    "lstm": [
        ("gates f and g swapped", ALL, gates((0, 2, 1, 3))),
        ("gates i and o swapped", ALL, gates((3, 1, 2, 0))),
        ("1 more in the forget gate", ALL, cell(wrong.more_forget)),
        ("no gradient through time", "gradient", cell(wrong.truncated)),
    ],
    "lstm_deep": [
        ("directions swapped", ALL, at("Dense_0/kernel", lambda k: jnp.roll(k, 4, 0)))
    ],
    "multi_head": [
        ("no 1 / sqrt(d)", ALL, replaced(attention, "attention", wrong.unscaled)),
        ("1 / sqrt(W)", ALL, replaced(attention, "attention", wrong.scaled_by_width)),
        ("over queries", "idle", replaced(attention, "attention", wrong.over_queries)),
        (
            "heads interleaved",
            ALL,
            replaced(attention.MultiHead, "_split", wrong.interleaved),
        ),
        ("values held", "gradient", held("block/value/kernel")),
    ],
    "transformer_encoder": [
        ("not causal", ALL, block(causal=False)),
        ("sees one ahead", ALL, replaced(attention, "attention", wrong.one_ahead)),
        ("the exact gelu", ALL, block(activation=wrong.exact_gelu)),
        (
            "Flax's epsilon",
            "forward",
            replaced(transformer, "_norm", lambda _: lambda dtype: nn.LayerNorm(1e-6)),
        ),
        ("a norm held", "gradient", held("block/mlp_norm/scale")),
    ],
    "transformer_decoder": [
        (
            "no look at the memory",
            ALL,
            replaced(attention.MultiHead, "__call__", wrong.alone),
        ),
        ("the memory held", "gradient", held("block/cross_attention/value/kernel")),
    ],
    "vae_dense": [
        ("no log(2 pi)", "forward", likelihood(wrong.without_constant)),
        ("log of the deviation", ALL, divergence(wrong.of_deviation)),
        ("a draw held", "gradient", replaced(vae.VAE, "__call__", wrong.sampled)),
    ],
    "vae_conv": [
        ("twice the divergence", ALL, divergence(wrong.doubled)),
        ("the mean of pixels", ALL, likelihood(lambda values, n: values / n)),
        (
            "a turned kernel",
            ALL,
            at("decoder/ConvTranspose_0/kernel", lambda kernel: kernel[::-1, ::-1]),
        ),
    ],
    "penalty_dense": [
        ("no root", ALL, penalty(lambda square: (square - 1) ** 2)),
        (
            "first order",
            "gradient",
            replaced(gan, "gradient_penalty", wrong.first_order),
        ),
    ],
    "penalty_conv": [
        ("one-sided", ALL, penalty(lambda s: nn.relu(jnp.sqrt(s) - 1) ** 2))
    ],
    "dcgan": [
        ("players that see", "gradient", replaced(gan, "stop_gradient", wrong.seeing)),
        ("saturating", ALL, remade(wrong.saturating)),
        ("fakes twice", "statistics", replaced(gan._Apply, "__call__", wrong.traced)),
    ],
}
FLOAT64 = {
    "linear_regression": [
        ("rates in float32", "sgd momentum rmsprop", rates(1 + 1e-8)),
        ("a decay of 1e-7", "sgd", options(weight_decay=1e-7)),
        (
            "epsilon in the root",
            "rmsprop",
            rule("rmsprop", lambda: optax.scale_by_rms(0.9, 1e-8)),
        ),
        (
            "an epsilon of 1e-7",
            "adam",
            rule("adam", lambda: optax.scale_by_adam(eps=1e-7)),
        ),
    ],
    "softmax_regression": [
        ("log(p + 1e-7)", ALL, measured(supervised.classes, wrong.guarded))
    ],
    "mlp_gelu": [("a rough constant", ALL, fields(activation=wrong.rough_gelu))],
    "mlp_batch_norm": [
        (
            "float32",
            "statistics sgd",
            replaced(nn.BatchNorm, "__call__", wrong.in_float32),
        ),
    ],
    "cnn_2d": [("float32", ALL, replaced(cnn, "max_pool", wrong.in_float32))],
    "lstm": [("a state in float32", ALL, cell(wrong.in_float32))],
    "transformer_encoder": [
        ("gelu in float32", ALL, block(activation=wrong.in_float32(nn.gelu))),
        (
            "a softmax in float32",
            "idle",
            replaced(attention, "_at_least_float32", lambda _: lambda x: np.float32),
        ),
    ],
    "vae_dense": [
        ("a rough 2 pi", "forward", likelihood(wrong.rough_constant)),
    ],
    "penalty_dense": [
        (
            "no 1e-12 in the root",
            ALL,
            penalty(lambda square: (jnp.sqrt(square) - 1) ** 2),
        )
    ],
    "dcgan": [("float32", ALL, replaced(jnp, "tanh", wrong.in_float32))],
}
TABLES = {np.float32: FLOAT32, np.float64: FLOAT64}


# every tolerance has one here; the others are compiled with the contracts
QUICK = "linear_regression", "softmax_regression", "mlp_relu", "mlp_batch_norm", "lstm"


def every():
    for dtype, table in TABLES.items():
        for case, faults in table.items():
            for what, seen, plant in faults:
                name = f"{case}-{what}-{dtype.__name__}".replace(" ", "_")
                marks = [] if case in QUICK else [pytest.mark.contract]
                planted = case, seen.split(), plant, dtype
                yield pytest.param(*planted, id=name, marks=marks)


def columns_off(case, wanted, dtype):
    """The columns that see what is planted, of those that the wanted ones come with."""
    off = set()

    def note(check, *args):
        try:
            check(*args)
        except AssertionError as error:
            off.add(str(error).split()[0])

    with test_golden.precision(dtype):
        if set(wanted) & set(ONCE):

            def both():
                errors = test_golden.once.__wrapped__(case, dtype)
                for column, error in zip(ALL.split(), errors, strict=True):
                    note(test_golden.compare, column, error, dtype)

            note(both)
        rules = [rule for rule in test_golden.OPTIMIZERS if rule in wanted]
        for rule in rules or ["sgd"] * ("statistics" in wanted):
            found = test_golden.steps(case, rule, dtype)
            note(test_golden.compare, rule, found.weights, dtype)
            note(test_golden.compare, "statistics", found.statistics, dtype)
    return off


@pytest.mark.parametrize("case, seen, plant, dtype", list(every()))
def test_a_planted_fault_is_seen(case, seen, plant, dtype, monkeypatch):
    plant(monkeypatch, case)
    assert columns_off(case, seen, dtype) == set(seen)
    if dtype == np.float64:
        assert not columns_off(case, seen, np.float32)


def test_every_model_and_every_column_has_its_fault():
    assert FLOAT32.keys() == test_golden.CASES.keys()
    for table in TABLES.values():
        named = {
            name for rows in table.values() for row in rows for name in row[1].split()
        }
        columns = {*ONCE, "statistics", *test_golden.OPTIMIZERS}
        assert named >= columns


@pytest.mark.parametrize(
    "plant",
    [
        replaced(test_golden, "golden", wrong.rates_exchanged),
        replaced(optax, "adam", lambda adam: lambda rate, b1: adam(rate)),
    ],
    ids=["rates exchanged", "b1 of 0.9"],
)
def test_each_player_is_told_from_the_other(plant, monkeypatch):
    plant(monkeypatch, "dcgan")
    with pytest.raises(AssertionError, match="^players is off"):
        test_golden.test_each_player_has_its_own_optimizer(np.float32)


# outputs of torch's own layers, and equations by hand
@pytest.mark.parametrize(
    "where, make, test",
    [
        (
            (transformer, "from_torch"),
            wrong.shifted,
            lambda: test_attention.test_weights_come_from_torch(
                "multi_head", attention.MultiHead(6, 2)
            ),
        ),
        (
            (attention, "attention"),
            wrong.one_ahead,
            lambda: test_attention.test_weights_come_from_torch(
                "transformer_encoder", transformer.Block(6, 2, causal=True)
            ),
        ),
        (
            (rnn, "from_torch"),
            wrong.shifted,
            lambda: test_rnn.test_weights_of_torch_give_its_outputs("lstm"),
        ),
        (
            (rnn, "recur"),
            wrong.forward_only,
            lambda: test_rnn.test_weights_of_torch_give_its_outputs("gru"),
        ),
        (
            (rnn, "PEEPHOLE_LSTM"),
            lambda cell: cell._replace(step=wrong.old_peephole),
            lambda: test_rnn.test_a_layer_equals_its_equations("peephole_lstm"),
        ),
    ],
)
def test_layers_of_torch_are_told_apart(where, make, test, monkeypatch):
    replaced(*where, make)(monkeypatch, "")
    monkeypatch.setitem(rnn.CELLS, "peephole_lstm", rnn.PEEPHOLE_LSTM)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        test()
