"""Sampling, generation and beam search against probabilities counted by hand."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import quick
from zoo import language, rnn
from zoo.base import UsageError

V = 5


@functools.cache
def model(seed=0, vocabulary=V):
    made = rnn.LanguageModel(vocabulary, rnn.RNN(rnn.LSTM, 6, 2), width=4)
    variables = made.init(jax.random.key(seed), jnp.zeros((1, 2), int))
    # far from uniform, so that no two continuations are nearly as likely
    return made, jax.tree.map(lambda w: 3 * w, variables)


def write(prompt, length, key=0, **options):
    made, variables = model()
    run = jax.jit(
        lambda prompt, ends: language.generate(
            made,
            variables,
            jax.random.key(key),
            prompt,
            length,
            prompt_length=ends,
            **options,
        )
    )
    prompt = jnp.asarray(prompt)
    ends = options.pop("ends", None)
    return np.asarray(run(prompt, ends))


def test_draws_have_the_models_probabilities():
    logits = jnp.array([1.0, 0.5, -0.5, 2.0, -2.0])
    n = 20_000
    many = jnp.broadcast_to(logits.reshape(1, -1), (n, V))
    for temperature in (1.0, 0.5, 3.0):
        drawn = language.sample(many, jax.random.key(0), temperature=temperature)
        share = np.bincount(drawn, minlength=V) / n
        exact = np.exp(np.asarray(logits) / temperature)
        exact /= exact.sum()
        # five standard errors
        np.testing.assert_array_less(
            np.abs(share - exact), 5 * np.sqrt(exact * (1 - exact) / n) + 1e-9
        )


def test_top_k_and_top_p_keep_the_likeliest():
    p = np.array([0.4, 0.05, 0.3, 0.2, 0.05])
    many = jnp.broadcast_to(jnp.log(jnp.asarray(p)).reshape(1, -1), (4000, V))

    def support(**options):
        return set(np.unique(language.sample(many, jax.random.key(1), **options)))

    assert support(top_k=1) == support(temperature=0) == {0}
    assert support(top_k=3) == {0, 2, 3}
    assert support(top_p=0.39) == {0}
    assert support(top_p=0.6) == {0, 2}  # 0.4 is too little, 0.7 enough
    assert support(top_p=0.75) == {0, 2, 3}
    assert support(top_p=1.0) == support(top_k=5) == set(range(V))
    assert support(top_k=2, top_p=0.99) == {0, 2}
    kept = language.sample(many, jax.random.key(2), top_k=2)  # 4 : 3, as before
    assert np.mean(kept == 0) == pytest.approx(4 / 7, abs=0.04)


def test_wrong_options_are_named():
    logits = jnp.zeros((1, V))
    for options, match in (
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": V + 1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
    ):
        with pytest.raises(UsageError, match=match):
            language.sample(logits, jax.random.key(0), **options)
    with pytest.raises(UsageError, match="at least one token"):
        write(np.zeros((1, 0), int), 3)


def test_greedy_generation_equals_the_model_without_a_cache():
    made, variables = model()
    prompt = np.array([[1, 2, 3], [4, 0, 0]])
    whole = prompt
    for _ in range(6):
        logits = made.apply(variables, whole)
        whole = np.concatenate([whole, np.asarray(logits[:, -1:]).argmax(-1)], 1)
    np.testing.assert_array_equal(write(prompt, 6, temperature=0), whole[:, 3:])


def test_prompts_of_different_lengths_share_a_batch():
    prompts = [[1], [2, 3, 4, 0], [3, 3]]
    padded = np.zeros((3, 4), int)
    for row, prompt in zip(padded, prompts, strict=True):
        row[: len(prompt)] = prompt
    ends = jnp.array([len(prompt) for prompt in prompts])
    together = write(padded, 5, temperature=0, ends=ends)
    for row, prompt in zip(together, prompts, strict=True):
        np.testing.assert_array_equal(row, write([prompt], 5, temperature=0)[0])


def test_generation_depends_on_the_key_alone():
    prompt = np.ones((4, 1), int)
    a = write(prompt, 12)
    np.testing.assert_array_equal(a, write(prompt, 12))
    assert (a != write(prompt, 12, key=1)).any()
    assert len({tuple(row) for row in a}) > 1  # rows differ, too


def test_after_the_stop_token_comes_nothing_else():
    written = write(np.ones((32, 1), int), 20, stop=2)
    assert (written == 2).any()
    for row in written:
        if (row == 2).any():
            assert (row[np.argmax(row == 2) :] == 2).all()


def beams(width, length, seed=0, vocabulary=3):
    made, variables = model(seed, vocabulary)

    def extend(tokens, cache):
        return made.apply(variables, tokens, cache, method="extend")

    start = jnp.array([1, 0])
    run = jax.jit(
        lambda: language.search(
            extend, made.empty(2), start, length, beams=width, stop=2
        )
    )
    return jax.device_get(run())


def likelihood(seed, start, tokens, vocabulary=3):
    """log p of tokens after a start token, up to the first stop, without a cache."""
    made, variables = model(seed, vocabulary)
    whole = jnp.array([[start, *tokens]])
    p = jax.nn.log_softmax(made.apply(variables, whole)[0, :-1])
    ends = tokens.index(2) + 1 if 2 in tokens else len(tokens)
    return float(sum(p[t, tokens[t]] for t in range(ends)))


@pytest.mark.contract
@pytest.mark.parametrize("seed", quick([0, 1], 0))
def test_enough_beams_find_the_likeliest_sequence(seed):
    length = 3
    found, score = beams(3**length, length, seed)
    for row, start in enumerate((1, 0)):
        ended = {
            tuple(s[: s.index(2)]) + (2,) * (length - s.index(2)) if 2 in s else s
            for s in itertools.product(range(3), repeat=length)
        }
        exact = {s: likelihood(seed, start, s) for s in ended}
        best = sorted(exact, key=exact.get, reverse=True)
        assert [tuple(s) for s in found[row][: len(best)]] == best
        np.testing.assert_allclose(
            score[row][: len(best)], [exact[s] for s in best], atol=1e-5
        )


@pytest.mark.parametrize("seed", quick(range(4), 0))
def test_one_beam_is_greedy_and_more_are_no_worse(seed):
    made, variables = model(seed, 3)
    found, score = beams(1, 6, seed)
    greedy = language.generate(
        made,
        variables,
        jax.random.key(0),
        jnp.array([[1], [0]]),
        6,
        temperature=0,
        stop=2,
    )
    np.testing.assert_array_equal(found[:, 0], greedy)
    for row, start in enumerate((1, 0)):
        exact = likelihood(seed, start, tuple(found[row, 0].tolist()))
        assert score[row, 0] == pytest.approx(exact, abs=1e-5)
    wide, better = beams(4, 6, seed)
    assert (better[:, 0] >= score[:, 0] - 1e-6).all()
    assert (np.diff(better, axis=1) <= 0).all()
    assert all(len({tuple(s) for s in row}) == 4 for row in wide)  # no two alike


def test_a_search_wants_a_beam():
    with pytest.raises(UsageError, match="1 beam"):
        beams(0, 3)
