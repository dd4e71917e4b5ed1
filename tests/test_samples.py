"""What is written after a prompt: what of it was read, and what is compiled for it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import quick
from train.data import Schema
from train.report import samples
from train.step import Trained
from zoo import language, rnn
from zoo.base import is_weight
from zoo.transformer import LanguageModel

LETTERS = tuple("?abcdefg")  # the first stands for what is unknown
SCHEMA = Schema("letters", (8,), (), (), (), tokens=LETTERS, target_tokens=LETTERS)
CONTEXT = 8
PROMPT = "gabcdefa"


def built(positions="learned"):
    fields = {"width": 8, "layers": 1, "heads": 2, "context": CONTEXT}
    return LanguageModel(len(LETTERS), **fields, positions=positions, tied=False)


@functools.cache
def trained(positions="learned"):
    """A model, and weights that make every token matter."""
    model = built(positions)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2), int))
    params, rng = variables["params"], np.random.default_rng(2)
    params = jax.tree.map(
        lambda p, w: rng.normal(size=p.shape).astype(p.dtype) if w else p,
        params,
        is_weight(params),
    )
    return model, Trained(params, {})


def write(model, what, prompt, length, **options):
    options = {"context": CONTEXT, **options}
    return samples.write(model, SCHEMA, what, prompt, length, **options)


def endless(model, what, prompt, length, **options):
    """What a model writes that has no context."""
    return write(model, what, prompt, length, context=None, **options)


def likeliest(model, what, prompt, length):
    """The likeliest tokens, each from all that is in the context."""
    tokens, begin = [LETTERS.index(letter) for letter in prompt], 0
    for _ in range(length):
        if len(tokens) - begin > CONTEXT:  # full, and the last one not yet read
            begin = len(tokens) - CONTEXT // 2
        seen = jnp.array([tokens[begin:]])
        logits = model.apply({"params": what.params}, seen)[0, -1]
        tokens.append(int(logits.argmax()))
    return "".join(LETTERS[token] for token in tokens[len(prompt) :])


@pytest.mark.contract
@pytest.mark.parametrize("positions", quick(["learned", "rotary"], "rotary"))
@pytest.mark.parametrize("count", quick([5, 7, 8], 7))
def test_the_first_piece_has_read_the_whole_prompt(count, positions):
    model, what = trained(positions)
    room = CONTEXT - count + 1  # the last token is written, not read
    prompt = PROMPT[:count]
    exact = likeliest(model, what, prompt, room)
    assert write(model, what, prompt, room, temperature=0) == exact
    # all that follows, too: a full context begins again with its last half
    longer = write(model, what, prompt, 20, temperature=0)
    assert longer[:room] == exact and len(longer) == 20
    second = (prompt + exact)[-CONTEXT // 2 :]
    assert longer[room:][: CONTEXT // 2] == likeliest(model, what, second, CONTEXT // 2)


def test_every_letter_of_a_full_prompt_counts():
    model, what = trained()
    found = {
        write(model, what, first + PROMPT[1:], 1, temperature=0)
        for first in LETTERS[1:]
    }
    assert len(found) > 1


def test_a_context_of_one_token_is_written_past():
    model = LanguageModel(len(LETTERS), width=8, layers=1, heads=2, context=1)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), int))
    assert len(write(model, Trained(variables["params"], {}), "a", 5)) == 5


@pytest.mark.parametrize(
    "options", [{"temperature": 0.7}, {"top_k": 3, "top_p": 0.8}, {"temperature": 0}]
)
def test_what_is_drawn_is_what_generate_draws(options):
    model, what = trained()
    tokens = jnp.array([[LETTERS.index(letter) for letter in "bad"]])
    key = jax.random.fold_in(jax.random.key(5), 0)
    variables = {"params": what.params}
    drawn = language.generate(model, variables, key, tokens, 4, **options)
    exact = "".join(LETTERS[token] for token in drawn[0])
    assert write(model, what, "bad", 4, seed=5, **options) == exact


def test_equal_models_and_lengths_are_compiled_once():
    traces = []

    class Counting(rnn.LanguageModel):
        def extend(self, tokens, cache):
            traces.append(1)
            return super().extend(tokens, cache)

    def model():
        return Counting(len(LETTERS), rnn.RNN(rnn.ELMAN, 4), 3)

    variables = jax.jit(model().init)(jax.random.key(0), jnp.zeros((1, 2), int))
    what = Trained(variables["params"], {})
    texts = [
        endless(model(), what, "abc", 30, seed=seed, temperature=heat, top_p=p)
        for seed, heat, p in ((0, 0.5, 0.5), (0, 0.9, 0.9), (1, 0.9, 0.9))
    ]
    assert len(set(texts)) == 3
    first = len(traces)
    endless(model(), what, "bca", 30, temperature=2.0, top_p=1.0)
    assert len(traces) == first
    once = first
    endless(model(), what, "abc", 31, temperature=2.0, top_p=1.0)
    assert len(traces) == 2 * once
