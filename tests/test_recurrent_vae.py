"""The recurrent variational autoencoder: its equations, its draws, what it hides."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import vae
from zoo.base import UsageError
from zoo.recurrent_vae import RecurrentVAE, generate

# compiling takes longer than what it shows
pytestmark = pytest.mark.contract

VOCABULARY, LATENT, TIME = 3, 2, 4


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@functools.cache
def variables():
    """Random ones, as large as to make every token matter."""
    model = RecurrentVAE(VOCABULARY, LATENT, features=6, width=3)
    noise, x = jnp.zeros((1, LATENT)), jnp.zeros((1, TIME), int)
    made = jax.eval_shape(model.init, jax.random.key(0), x, noise)
    leaves, tree = jax.tree.flatten(made)
    leaves = [normal(i, *leaf.shape) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(tree, leaves)


def fixed(word_dropout):
    return RecurrentVAE(
        VOCABULARY, LATENT, features=6, width=3, word_dropout=word_dropout
    )


def every(length):
    """All sequences of tokens."""
    return jnp.array(list(itertools.product(range(VOCABULARY), repeat=length)))


def log_likelihood(model, x, z, seed=0):
    """Of many x [N, T] for one z [Z], in a given model."""
    z = jnp.tile(z[None], (len(x), 1))
    rngs = {"dropout": jax.random.key(seed)}
    run = functools.partial(model.apply, method="log_likelihood", rngs=rngs)
    return jax.jit(run)(variables(), x, z)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_hand(x, z, hide=False):
    """log p(x|z) of one sequence, token by token, in float64."""
    p = jax.tree.map(lambda v: np.asarray(v, np.float64), variables()["params"])
    h, c = np.split(np.tanh(z @ p["begin"]["kernel"] + p["begin"]["bias"]), 2)
    lstm, total, token = p["writer"]["forward_0"], 0.0, VOCABULARY + 1
    for following in x:
        entry = np.concatenate([p["embed"]["embedding"][token], z])
        gates = entry @ lstm["kernel"] + h @ lstm["recurrent"] + lstm["bias"]
        i, f, g, o = np.split(gates, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        logits = h @ p["logits"]["kernel"] + p["logits"]["bias"]
        total += logits[following] - np.log(np.exp(logits).sum())
        token = VOCABULARY if hide else following
    return total


@pytest.mark.parametrize("word_dropout", [0.0, 1.0])
def test_the_likelihood_is_the_sum_over_the_tokens(word_dropout):
    x, z = every(TIME), normal(1, LATENT)
    found = log_likelihood(fixed(word_dropout), x, z)
    hide = word_dropout == 1
    exact = [by_hand(tokens, np.asarray(z, np.float64), hide) for tokens in x.tolist()]
    np.testing.assert_allclose(found, exact, rtol=1e-5)


@pytest.mark.parametrize("word_dropout", [0.0, 0.5, 1.0])
def test_the_probabilities_of_all_sequences_sum_to_one(word_dropout):
    """For what is hidden alike from all of them."""
    x, z = every(TIME), normal(1, LATENT)
    model = fixed(word_dropout)
    if word_dropout == 0.5:  # hides by place in the batch: one sequence at a time

        def one(tokens):
            return log_likelihood(model, tokens[None], z)[0]

        found = jax.vmap(one)(x)
    else:
        found = log_likelihood(model, x, z)
    np.testing.assert_allclose(jnp.exp(found).sum(), 1, rtol=1e-5)


def test_a_decoder_that_sees_nothing_has_independent_tokens():
    x = jnp.array([[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 2, 0], [1, 0, 2, 0]])
    z = normal(1, LATENT)

    def excess(word_dropout):
        none, first, third, both = log_likelihood(fixed(word_dropout), x, z)
        return abs(float(both - first - third + none))

    assert excess(1.0) < 1e-5
    assert excess(0.0) > 1e-2


def test_what_is_hidden_is_drawn_from_the_key():
    x, z = every(TIME), normal(1, LATENT)

    def run(word_dropout, seed):
        return np.asarray(log_likelihood(fixed(word_dropout), x, z, seed))

    np.testing.assert_array_equal(run(0.5, 0), run(0.5, 0))
    assert (run(0.5, 0) != run(0.5, 1)).any()
    for share in (0.0, 1.0):
        np.testing.assert_array_equal(run(share, 0), run(share, 1))


@pytest.mark.parametrize("word_dropout", [0.0, 0.5, 1.0])
def test_draws_are_as_frequent_as_they_are_likely(word_dropout):
    n, length, z = 20_000, 2, normal(1, LATENT)
    model, x = fixed(word_dropout), every(length)
    many = jnp.tile(z[None], (n, 1))
    drawn = model.apply(variables(), many, jax.random.key(0), length, method="draw")
    assert drawn.shape == (n, length)
    codes = np.asarray(drawn) @ [VOCABULARY, 1]
    found = np.bincount(codes, minlength=len(x)) / n
    # the first token is seen or hidden; what comes after the last does not matter
    z, share = np.asarray(z, np.float64), word_dropout
    exact = np.array(
        [
            share * np.exp(by_hand(tokens, z, True))
            + (1 - share) * np.exp(by_hand(tokens, z))
            for tokens in x.tolist()
        ]
    )
    # five standard errors
    assert (abs(found - exact) < 5 * np.sqrt(exact * (1 - exact) / n) + 1e-9).all()


def test_what_is_drawn_of_sharp_probabilities_is_certain():
    model, z = fixed(0.0), normal(1, 8, LATENT)
    params = variables()["params"]
    logits = jax.tree.map(lambda v: 1e4 * v, params["logits"])
    sharp = {"params": params | {"logits": logits}}

    @jax.jit
    def run(key):
        drawn = model.apply(sharp, z, key, 6, method="draw")
        return model.apply(sharp, drawn, z, method="log_likelihood")

    np.testing.assert_allclose(run(jax.random.key(0)), 0, atol=1e-3)


def test_the_code_depends_on_every_token():
    x = jnp.zeros((TIME + 1, TIME), int).at[jnp.arange(TIME), jnp.arange(TIME)].set(1)
    mean, logvar = fixed(0.0).apply(variables(), x, method="encode")
    for values in (mean, logvar):
        assert values.shape == (TIME + 1, LATENT)
        assert (abs(values[:-1] - values[-1:]).max(-1) > 1e-4).all()


@pytest.mark.contract
def test_without_a_code_it_is_a_language_model():
    model = RecurrentVAE(VOCABULARY, 0, features=6, width=3, word_dropout=0.0)
    task, x = vae.task(model), every(TIME)
    params, state = jax.jit(task.init)(jax.random.key(0), {"x": x})
    assert sorted(params) == ["embed", "logits", "writer"]
    loss = jax.jit(functools.partial(task.loss, train=True))
    value, aux = loss(params, state, {"x": x}, jax.random.key(0))
    assert aux.metrics["kl"].value() == 0
    np.testing.assert_allclose(value, aux.metrics["nll"].value(), rtol=1e-6)
    # its probabilities sum to one, too
    noise = jnp.zeros((len(x), 0))
    log_p, *_ = model.apply({"params": params}, x, noise)
    np.testing.assert_allclose(jnp.exp(log_p).sum(), 1, rtol=1e-5)
    drawn = generate(model, {"params": params}, jax.random.key(0), 3, 5)
    assert drawn.shape == (3, 5)


def test_masked_sequences_do_not_count():
    model, x = fixed(0.0), every(TIME)[20:25]
    task, params = vae.task(model), variables()["params"]
    key, mask = jax.random.key(0), jnp.array([1, 1, 1, 0, 0])
    loss = jax.jit(functools.partial(task.loss, train=True))
    value, aux = loss(params, {}, {"x": x, "mask": mask}, key)
    other = x.at[3:].set(0)
    np.testing.assert_array_equal(
        value, loss(params, {}, {"x": other, "mask": mask}, key)[0]
    )
    assert aux.metrics["loss"].count == 3


def test_texts_are_a_function_of_the_key():
    run = jax.jit(
        lambda seed: generate(fixed(0.5), variables(), jax.random.key(seed), 5, 12)
    )
    assert run(0).shape == (5, 12)
    assert 0 <= run(0).min() <= run(0).max() < VOCABULARY
    np.testing.assert_array_equal(run(0), run(0))
    assert (run(0) != run(1)).any()


def test_what_is_no_sequence_of_tokens_is_refused():
    for x in (jnp.zeros((2, 3)), jnp.zeros((2, 3, 1), int)):
        with pytest.raises(UsageError, match=r"integer tokens \[B, T\], found"):
            fixed(0.0).apply(variables(), x, method="encode")


def test_the_bound_hides_other_tokens_with_another_key():
    """What is hidden is a part of p(x|z): each draw of z comes with one of it."""
    x = every(TIME)[20:24]
    # a posterior without width: z is the same for every key
    params = variables()["params"]
    narrow = jax.tree.map(jnp.zeros_like, params["statistics"])
    narrow["bias"] = jnp.repeat(jnp.array([0.0, -60.0]), LATENT)
    known = {"params": params | {"statistics": narrow}}

    def likelihoods(word_dropout, seed):
        model = fixed(word_dropout)
        found = vae.bound(model, known, x, jax.random.key(seed), 1)
        # the noise cancels but for its square
        noise = jax.random.normal(jax.random.split(jax.random.key(seed))[0], (4, 2))
        return found - 0.5 * jnp.square(noise).sum(-1)

    np.testing.assert_allclose(likelihoods(0.0, 0), likelihoods(0.0, 1), rtol=1e-5)
    assert (abs(likelihoods(0.5, 0) - likelihoods(0.5, 1)) > 1e-3).any()
