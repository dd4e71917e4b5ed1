"""Recurrent networks: the equations in numpy, torch's layers, padding, continuing."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.conftest import quick
from zoo import rnn, supervised
from zoo.base import UsageError

CELLS = pytest.mark.parametrize("cell", list(rnn.CELLS))
TORCH = Path(__file__).parent / "golden" / "torch_recurrent.npz"


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def randomized(variables):
    """Every parameter random, for some begin at zero."""
    leaves, tree = jax.tree.flatten(variables)
    values = [normal(i, *leaf.shape) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(tree, [jnp.asarray(value) for value in values])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_hand(cell, w, x):
    """Each paper's equations for one sequence x [T, D], in float64 -> h [T, H]."""
    w = {k: np.asarray(v, np.float64) for k, v in w.items()}
    units = w["recurrent"].shape[0]
    gates = w["recurrent"].shape[1] // units
    h, c, out = np.zeros(units), np.zeros(units), []
    kernel = np.split(w["kernel"], gates, 1)
    recurrent = np.split(w["recurrent"], gates, 1)
    bias = np.split(w["bias"], gates)
    for entry in np.asarray(x, np.float64):

        def gate(k, h=h, entry=entry):
            return kernel[k].T @ entry + recurrent[k].T @ h + bias[k]

        if cell == "elman":
            h = np.tanh(gate(0))
        elif cell == "gru":
            r, z = (sigmoid(gate(k) + w["recurrent_bias"][k]) for k in (0, 1))
            inner = recurrent[2].T @ h + w["recurrent_bias"][2]
            n = np.tanh(kernel[2].T @ entry + bias[2] + r * inner)
            h = (1 - z) * n + z * h
        else:
            p = w.get("peephole", np.zeros((3, units)))
            i, f = sigmoid(gate(0) + p[0] * c), sigmoid(gate(1) + p[1] * c)
            c = f * c + i * np.tanh(gate(2))
            h = sigmoid(gate(3) + p[2] * c) * np.tanh(c)
        out.append(h)
    return np.array(out)


@CELLS
def test_a_layer_equals_its_equations(cell):
    layer, x = rnn.Layer(rnn.CELLS[cell], 4), normal(0, 2, 6, 3)
    variables = randomized(layer.init(jax.random.key(0), x))
    _, y = layer.apply(variables, x)
    for i in range(2):
        exact = by_hand(cell, variables["params"], x[i])
        np.testing.assert_allclose(y[i], exact, atol=2e-6)


@pytest.mark.parametrize("cell", ["elman", "gru", "lstm"])
def test_weights_of_torch_give_its_outputs(cell):
    with np.load(TORCH) as file:
        arrays = {
            k.removeprefix(f"{cell}/"): file[k] for k in file if k.startswith(cell)
        }
    x, y = arrays.pop("x"), arrays.pop("y")
    model = rnn.RNN(rnn.CELLS[cell], 4, 2, bidirectional=cell != "elman")
    params = rnn.from_torch(arrays)
    made = model.init(jax.random.key(0), x)["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, made)
    np.testing.assert_allclose(model.apply({"params": params}, x)[1], y, atol=1e-6)
    with pytest.raises(UsageError, match="bias_hh_l1"):
        rnn.from_torch({k: v for k, v in arrays.items() if k != "bias_hh_l1"})


@CELLS
@pytest.mark.parametrize("bidirectional", quick([False, True], True))
def test_padding_changes_nothing(cell, bidirectional):
    model = rnn.Classifier(5, rnn.RNN(rnn.CELLS[cell], 4, 2, bidirectional))
    x, length = normal(0, 3, 7, 2), jnp.array([7, 3, 1])
    variables = randomized(model.init(jax.random.key(0), x, length))
    apply = jax.jit(model.apply)
    logits = apply(variables, x, length)
    junk = jnp.where(jnp.arange(7).reshape(1, 7, 1) < length.reshape(3, 1, 1), x, 1e3)
    np.testing.assert_array_equal(apply(variables, junk, length), logits)
    for i, n in enumerate(length):  # and the padding need not be there at all
        alone = model.apply(variables, x[i : i + 1, :n], length[i : i + 1])
        np.testing.assert_allclose(alone[0], logits[i], rtol=1e-5, atol=1e-5)


def test_the_backward_direction_is_the_forward_one_on_the_reversed_sequence():
    x = normal(0, 2, 5, 3)
    forward = rnn.Layer(rnn.GRU, 4)
    variables = randomized(forward.init(jax.random.key(0), x))
    backward = rnn.Layer(rnn.GRU, 4, reverse=True)
    y = backward.apply(variables, x)[1]
    np.testing.assert_allclose(y, forward.apply(variables, x[:, ::-1])[1][:, ::-1])


@CELLS
def test_a_sequence_is_continued_where_it_ended(cell):
    model, x = rnn.RNN(rnn.CELLS[cell], 4, 2), normal(0, 2, 9, 3)
    variables = randomized(model.init(jax.random.key(0), x))
    whole = model.apply(variables, x)[1]
    carry, first = model.apply(variables, x[:, :4], None, model.empty(2))
    _, rest = model.apply(variables, x[:, 4:], None, carry)
    np.testing.assert_allclose(jnp.concatenate([first, rest], 1), whole, atol=1e-6)
    both = rnn.RNN(rnn.LSTM, 4, bidirectional=True)
    with pytest.raises(UsageError, match="both directions"):
        both.init(jax.random.key(0), x, None, model.empty(2))


def test_a_regressor_and_a_language_model_see_no_future():
    x = normal(0, 1, 6, 2)
    model = rnn.Regressor(2, rnn.RNN(rnn.LSTM, 4, 2))
    variables = randomized(model.init(jax.random.key(0), x))
    # [1, T, K, 1, T, D]: of every output with respect to every input
    jacobian = jax.jacrev(lambda x: model.apply(variables, x))(x)
    size = np.abs(jacobian).sum((0, 2, 3, 5))
    assert not np.triu(size, 1).any() and np.diag(size).all()

    language = rnn.LanguageModel(5, rnn.RNN(rnn.GRU, 4), width=3)
    tokens = jnp.array([[0, 1, 2, 3, 4, 0]])
    variables = language.init(jax.random.key(0), tokens)
    changed = language.apply(variables, tokens.at[0, 3].set(1))
    same = (changed == language.apply(variables, tokens)).all((0, 2))
    np.testing.assert_array_equal(same, [True] * 3 + [False] * 3)


def test_padded_steps_do_not_count_in_a_sequences_loss():
    model = rnn.Regressor(2, rnn.RNN(rnn.GRU, 4))
    task = supervised.task(model, supervised.regression, inputs=("x", "length"))
    x, length = normal(0, 2, 6, 2), jnp.array([6, 3])
    batch = {"x": x[:, :-1], "y": x[:, 1:], "length": length - 1}
    params, state = task.init(jax.random.key(0), batch)
    value, aux = task.loss(params, state, batch, jax.random.key(1), train=False)
    y = np.asarray(task.predict(params, state, batch))
    error = np.square(y - batch["y"]).mean(-1)
    expected = np.concatenate([error[0], error[1, :2]]).mean()
    assert float(aux.metrics["loss"].count) == 5 + 2
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_a_masked_example_or_entry_does_not_count():
    logits = normal(0, 3, 4, 5)

    class Constant(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            return jnp.asarray(logits)[: len(x)] + self.param("w", nn.zeros, ())

    task = supervised.task(Constant(), supervised.classes)
    y = jnp.arange(12).reshape(3, 4) % 5
    loss = -np.take_along_axis(
        logits - np.log(np.exp(logits).sum(-1, keepdims=True)),
        np.asarray(y)[..., None],
        -1,
    )[..., 0]
    for mask in (np.array([1.0, 0, 1]), np.tri(3, 4)):
        batch = {"x": y, "y": y, "mask": jnp.asarray(mask, jnp.float32)}
        value, _ = task.loss({"w": 0.0}, {}, batch, jax.random.key(0), train=False)
        weight = np.broadcast_to(mask.reshape(3, -1), loss.shape)
        assert float(value) == pytest.approx(
            (loss * weight).sum() / weight.sum(), rel=1e-5
        )


def test_the_forget_gate_is_open_and_the_recurrence_is_orthogonal_at_first():
    layer = rnn.Layer(rnn.LSTM, 6)
    params = layer.init(jax.random.key(0), normal(0, 1, 2, 3))["params"]
    np.testing.assert_array_equal(params["bias"].reshape(4, 6).sum(1), [0, 6, 0, 0])
    for gate in np.split(np.asarray(params["recurrent"]), 4, 1):
        np.testing.assert_allclose(gate.T @ gate, np.eye(6), atol=1e-5)


@pytest.mark.contract
def test_half_precision_and_second_derivatives():
    x = normal(0, 2, 5, 3)
    full = rnn.Classifier(4, rnn.RNN(rnn.PEEPHOLE_LSTM, 8))
    half = rnn.Classifier(4, rnn.RNN(rnn.PEEPHOLE_LSTM, 8, dtype=jnp.bfloat16))
    variables = full.init(jax.random.key(0), x)
    a, b = full.apply(variables, x), half.apply(variables, x)
    assert b.dtype == jnp.float32
    np.testing.assert_allclose(a, b, atol=0.03)

    def loss(x):
        return full.apply(variables, x).sum()

    hessian = jax.hessian(loss)(x[:1, :2])
    swapped = hessian.transpose(3, 4, 5, 0, 1, 2)
    np.testing.assert_allclose(hessian, swapped, atol=1e-5)
    assert np.abs(hessian).max() > 1e-4


def test_dropout_stands_between_layers_alone():
    x = normal(0, 2, 5, 3)
    keys = {"dropout": jax.random.key(1)}
    one, two = (rnn.RNN(rnn.GRU, 8, n, dropout=0.5) for n in (1, 2))
    variables = two.init(jax.random.key(0), x)
    plain = two.apply(variables, x)[1]
    assert not np.array_equal(two.apply(variables, x, train=True, rngs=keys)[1], plain)
    first = {"params": {"forward_0": variables["params"]["forward_0"]}}
    dropped = one.apply(first, x, train=True, rngs=keys)[1]
    np.testing.assert_array_equal(dropped, one.apply(first, x)[1])


def test_wrong_inputs_are_named():
    model = rnn.Classifier(3, rnn.RNN(rnn.LSTM, 4))
    with pytest.raises(UsageError, match=r"\[B, T, D\]"):
        model.init(jax.random.key(0), normal(0, 2, 3))
    language = rnn.LanguageModel(5, rnn.RNN(rnn.LSTM, 4))
    with pytest.raises(UsageError, match="integer tokens"):
        language.init(jax.random.key(0), normal(0, 2, 3))
