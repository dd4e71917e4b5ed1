"""Encoder-decoders: padding, the cache, the task's loss, translation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import quick
from zoo import rnn, seq2seq
from zoo.base import UsageError
from zoo.transformer import EncoderDecoder

SOURCE = jnp.array([[3, 4, 5, 6, 7], [5, 3, 0, 0, 0], [7, 7, 7, 7, 0]])
TARGET = jnp.array([[4, 3, 5, 2], [3, 2, 0, 0], [5, 5, 4, 2]])
BEFORE = jnp.array([[1, 4, 3, 5], [1, 3, 2, 0], [1, 5, 5, 4]])

MODELS = {
    **{
        score: seq2seq.Recurrent(8, 6, 8, 2, 6, score=score)
        for score in ("dot", "scaled_dot", "bilinear", "additive")
    },
    "gru": seq2seq.Recurrent(8, 6, 8, 1, 6, rnn.GRU),
    "transformer": EncoderDecoder(8, 6, width=8, layers=2, heads=2),
}
EVERY = pytest.mark.parametrize("name", quick(MODELS, "additive"))


@functools.cache
def variables(name):
    made = jax.jit(MODELS[name].init)(jax.random.key(0), SOURCE, BEFORE)
    # far from uniform, so that greedy choices are clear
    return jax.tree.map(lambda w: 3 * w, made)


@functools.partial(jax.jit, static_argnames=("model", "method"))
def run(model, variables, *args, method=None):
    """model.apply, compiled: one operation after the other takes seconds."""
    return model.apply(variables, *args, method=method)


def apply(name, *args, method=None):
    return run(MODELS[name], variables(name), *args, method=method)


@pytest.mark.contract
@EVERY
def test_padding_of_the_source_changes_nothing(name):
    logits = apply(name, SOURCE, BEFORE)
    more = jnp.pad(SOURCE, ((0, 0), (0, 3)))
    np.testing.assert_allclose(apply(name, more, BEFORE), logits, atol=2e-5)
    alone = apply(name, SOURCE[1:2, :2], BEFORE[1:2])
    np.testing.assert_allclose(alone[0], logits[1], atol=2e-5)


@EVERY
def test_writing_with_a_cache_equals_writing_without(name):
    model = MODELS[name]
    cache = model.empty(apply(name, SOURCE, method="encode"), 4)
    found = []
    for piece in (BEFORE[:, :1], BEFORE[:, 1:3], BEFORE[:, 3:]):
        logits, cache = apply(name, piece, cache, method="extend")
        found.append(logits)
    whole = apply(name, SOURCE, BEFORE)
    np.testing.assert_allclose(jnp.concatenate(found, 1), whole, atol=2e-5)


@EVERY
def test_a_target_token_sees_none_after_it(name):
    logits = apply(name, SOURCE, BEFORE)
    changed = apply(name, SOURCE, BEFORE.at[:, 2].set(4))
    np.testing.assert_allclose(changed[:, :2], logits[:, :2], atol=1e-6)
    assert np.abs(changed[:, 2] - logits[:, 2]).min(0).max() > 1e-4


@EVERY
def test_the_loss_is_the_mean_over_the_targets_tokens(name):
    task = seq2seq.task(MODELS[name])
    batch = {"x": SOURCE, "y": TARGET, "mask": jnp.array([1.0, 1.0, 0.0])}
    params = variables(name)["params"]
    loss = jax.jit(functools.partial(task.loss, train=False))
    value, aux = loss(params, {}, batch, jax.random.key(0))
    p = np.asarray(jax.nn.log_softmax(apply(name, SOURCE, BEFORE)))
    nats = [-p[i, t, TARGET[i, t]] for i, n in ((0, 4), (1, 2)) for t in range(n)]
    assert float(value) == pytest.approx(np.mean(nats), rel=1e-5)
    assert float(aux.metrics["accuracy"].count) == 6


@pytest.mark.contract
@EVERY
def test_translations_have_the_probability_that_is_said(name):
    model, length = MODELS[name], 6
    scores = []
    for beams in (1, 4):
        found, score = jax.jit(
            lambda variables, source, beams=beams: seq2seq.translate(
                model, variables, source, length, beams=beams
            )
        )(variables(name), SOURCE)
        before = np.pad(found, ((0, 0), (1, 0)), constant_values=1)[:, :-1]
        p = np.asarray(jax.nn.log_softmax(apply(name, SOURCE, jnp.asarray(before))))
        for row in range(3):
            written = found[row].tolist()
            ends = written.index(2) + 1 if 2 in written else length
            exact = sum(p[row, t, written[t]] for t in range(ends))
            assert float(score[row]) == pytest.approx(exact, abs=1e-4)
            assert set(written[ends:]) <= {2}
            if beams == 1:
                assert written[:ends] == p[row, :ends].argmax(-1).tolist()
        scores.append(score)
    assert (scores[1] >= scores[0] - 1e-5).all()
    task = seq2seq.task(model)

    @jax.jit
    def both(variables):
        predicted = task.predict(variables["params"], {}, {"x": SOURCE})
        return predicted, seq2seq.translate(model, variables, SOURCE, 20, beams=1)[0]

    greedy, written = both(variables(name))
    assert greedy.shape == (3, 20)
    np.testing.assert_array_equal(greedy, written)


def test_an_alignment_looks_at_no_padding():
    weights = apply("additive", SOURCE, BEFORE, method="align")
    assert weights.shape == (3, 4, 5)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    assert (weights[1, :, 2:] == 0).all() and (weights[0] > 0).all()


def test_wrong_inputs_are_named():
    with pytest.raises(UsageError, match="even number of features"):
        seq2seq.Recurrent(8, 6, 7).init(jax.random.key(0), SOURCE, BEFORE)
    with pytest.raises(UsageError, match="integer tokens"):
        seq2seq.translate(MODELS["dot"], {}, jnp.ones((2, 3)), 4)
