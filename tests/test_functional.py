"""A number that is traced gives what the same number gives: in one program, many."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import quick
from train.data import augment
from zoo import (
    autoencoder,
    cnn,
    gan,
    language,
    layers,
    mlp,
    rnn,
    seq2seq,
    supervised,
    transformer,
    vae,
)
from zoo.base import UsageError
from zoo.recurrent_vae import RecurrentVAE, generate

B, T, V, K = 4, 5, 7, 3
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(B, 8, 8, 1)), jnp.float32)
TOKENS = jnp.asarray(RNG.integers(1, V, (B, T)), jnp.int32)
ROWS = {"x": X, "y": jnp.arange(B) % K}
STEPS = {"x": X[..., 0], "y": jnp.arange(B) % K}
TEXT = {"x": TOKENS, "y": TOKENS}


def assert_same(function, values):
    """function(value) under vmap, and one value after the other, each a constant."""
    many = jax.jit(jax.vmap(function))(jnp.array(values))
    for i, value in enumerate(values):
        one = jax.jit(lambda value=value: function(value))()
        jax.tree.map(
            # float32 sums in another order
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=2e-4, atol=2e-5),
            many,
            one,
        )
    return many


def trained(build, batch):
    """value -> (loss, its gradient) in training of the task that it builds."""
    params, state = jax.jit(build(0.1).init)(jax.random.key(0), batch)

    def run(value):
        def loss(params):
            args = (params, state, batch, jax.random.key(3))
            return build(value).loss(*args, train=True)[0]

        return jax.value_and_grad(loss)(params)

    return run


def classifier(build):
    return lambda value: supervised.task(build(value), supervised.classes)


WIDE = {"width": 8, "layers": 2, "heads": 2}
# value -> task, batch
DROPOUTS = {
    "mlp": (classifier(lambda p: mlp.MLP(K, (6, 5), dropout=p)), ROWS),
    "cnn": (classifier(lambda p: cnn.CNN(K, (3,), (4,), dropout=p)), ROWS),
    "cnn_dense": (classifier(lambda p: cnn.CNN(K, (3,), (4,), dense_dropout=p)), ROWS),
    "rnn": (
        classifier(lambda p: rnn.Classifier(K, rnn.RNN(rnn.ELMAN, 4, 2, dropout=p), p)),
        STEPS,
    ),
    "rnn_language": (
        classifier(
            lambda p: rnn.LanguageModel(V, rnn.RNN(rnn.ELMAN, 4, 2, dropout=p), 3, p)
        ),
        TEXT,
    ),
    "seq2seq": (
        lambda p: seq2seq.task(seq2seq.Recurrent(V, V, 4, width=3, dropout=p)),
        TEXT,
    ),
    "transformer": (
        classifier(lambda p: transformer.Classifier(K, dropout=p, **WIDE)),
        STEPS,
    ),
    "transformer_remat": (
        classifier(lambda p: transformer.Classifier(K, dropout=p, remat=True, **WIDE)),
        STEPS,
    ),
    "transformer_language": (
        classifier(lambda p: transformer.LanguageModel(V, dropout=p, **WIDE)),
        TEXT,
    ),
    "encoder_decoder": (
        lambda p: seq2seq.task(transformer.EncoderDecoder(V, V, dropout=p, **WIDE)),
        TEXT,
    ),
}


# of a kind with one of these; tests/test_traced.py has each recipe's dropout
ALIKE = ("cnn_dense", "rnn_language", "seq2seq", "transformer", "encoder_decoder")
ALIKE += ("transformer_language", "transformer_remat")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.contract] * (name in ALIKE))
        for name in DROPOUTS
    ],
)
def test_a_dropout_may_be_traced(name):
    losses, _ = assert_same(trained(*DROPOUTS[name]), [0.0, 0.4])
    assert len(np.unique(losses)) == 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5, 1.0])
def test_dropout_drops_or_enlarges_and_so_does_its_gradient(rate, dtype):
    x = jax.random.normal(jax.random.key(0), (40, 3, 50)).astype(dtype)

    def run(x, **how):
        rngs = {"dropout": jax.random.key(1)}
        return layers.Dropout(rate).apply({}, x, rngs=rngs, **how)

    y, back = jax.vjp(functools.partial(run, train=True), x)
    assert y.dtype == x.dtype
    mask = y != 0
    whole = x / (1 - rate) if rate < 1 else jnp.zeros_like(x)
    alike = functools.partial(
        np.testing.assert_allclose, rtol=2 * float(jnp.finfo(dtype).eps)
    )
    alike(y, jnp.where(mask, whole, 0))
    one = jnp.ones_like(x) / (1 - rate) if rate < 1 else jnp.zeros_like(x)
    alike(back(jnp.ones_like(y))[0], jnp.where(mask, one, 0))
    assert run(x, train=False) is x


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 1 / 700])
def test_dropout_drops_its_share_and_each_entry_by_itself(rate):
    """Rounded to 1/256, 0.1 would be 6 deviations off, 1/700 would drop nothing."""

    @jax.jit
    @jax.vmap
    def masks(key):
        ones = jnp.ones((64, 50))  # a word of bits is cut at the end of each row
        drop = layers.Dropout(rate)
        return drop.apply({}, ones, train=True, rngs={"dropout": key}) == 0

    dropped = np.asarray(masks(jax.random.split(jax.random.key(2), 600)), float)
    per_mask = rate * (1 - rate) / dropped[0].size + (0.5 / 256) ** 2
    deviation = math.sqrt(per_mask / len(dropped))
    assert abs(dropped.mean() - rate) < 4 * deviation
    centred = dropped - rate
    for gap in (1, 2, 3, 4):  # within a word and between two
        together = (centred[..., gap:] * centred[..., :-gap]).mean()
        spread = rate * (1 - rate) / math.sqrt(centred[..., gap:].size)
        assert abs(together) < 5 * spread + 1 / 256**2


def test_a_traced_dropout_keeps_the_type_and_all_or_nothing_have_gradients():
    def run(rate):
        def total(x):
            drop, rngs = layers.Dropout(rate), {"dropout": jax.random.key(1)}
            y = drop.apply({}, x, train=True, rngs=rngs)
            assert y.dtype == x.dtype
            return y.sum()

        return jax.grad(total)(X.astype("bfloat16"))

    all_, nothing = jax.vmap(run)(jnp.array([0.0, 1.0]))
    np.testing.assert_array_equal(all_, jnp.ones_like(all_))
    np.testing.assert_array_equal(nothing, jnp.zeros_like(nothing))


@pytest.mark.contract
def test_a_plain_zero_draws_nothing():
    """No key is asked for, and no program is larger."""
    model = mlp.MLP(K, (6,))
    variables = model.init(jax.random.key(0), X)
    assert model.apply(variables, X, train=True).shape == (B, K)
    tasks = {
        autoencoder.task(autoencoder.dense((8, 8, 1), 2, (5,))): ROWS,
        gan.task(gan.dense((8, 8, 1), 2, (5,)), gan.GAMES["hinge"]): ROWS,
    }
    for task, batch in tasks.items():
        args = (*task.init(jax.random.key(0), batch), batch, jax.random.key(0))
        program = str(jax.make_jaxpr(lambda *a, t=task: t.loss(*a, train=True))(*args))
        # of normal noise there is the generator's alone, and no mixture is drawn
        game = "generator" in args[0]
        assert program.count("erf_inv") == game
        assert program.count("random_bits") == game


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_plain_dropout_out_of_range_is_refused(rate):
    with pytest.raises(UsageError, match=r"expected a dropout in \[0, 1\], found"):
        mlp.MLP(K, dropout=rate).init(jax.random.key(0), X)


CODES = {"x": abs(X) % 1}
HALF = vae.dense((8, 8, 1), 2, (5,))
# value -> task, batch, values
STRENGTHS = {
    "beta": (lambda b: vae.task(HALF, beta=b), CODES, [0.0, 2.0]),
    "noise": (
        lambda s: autoencoder.task(autoencoder.dense((8, 8, 1), 2, (5,)), noise=s),
        CODES,
        [0.0, 0.5],
    ),
    "penalty": (
        lambda w: gan.task(
            gan.dense((8, 8, 1), 2, (5,)), gan.GAMES["wasserstein"], penalty=w
        ),
        ROWS,
        [0.0, 10.0],
    ),
    "semi_supervised": (
        lambda s: gan.semi_supervised(
            gan.dense((8, 8, 1), 2, (5,), outputs=K), noise=s
        ),
        ROWS | {"labelled": X},
        [0.0, 0.5],
    ),
    "word_dropout": (
        lambda p: vae.task(RecurrentVAE(V, 2, 4, 3, word_dropout=p)),
        TEXT,
        [0.0, 0.5, 1.0],
    ),
}


@pytest.mark.contract
@pytest.mark.parametrize("name", quick(STRENGTHS, "l1", "l2", "beta", "penalty"))
def test_a_strength_may_be_traced(name):
    build, batch, values = STRENGTHS[name]
    losses, _ = assert_same(trained(build, batch), values)
    assert len(np.unique(losses)) == len(values)


@pytest.mark.contract
@pytest.mark.parametrize("steps", [0, 3, 20])
def test_annealing_may_be_traced(steps):
    params, _ = vae.task(HALF).init(jax.random.key(0), CODES)

    def run(anneal):
        task = vae.task(HALF, beta=2.0, anneal=anneal)
        state = {"steps": jnp.float32(steps)}
        value, aux = task.loss(params, state, CODES, jax.random.key(0), train=True)
        return value, aux.metrics["kl"].value()

    losses, _ = assert_same(run, [0, 1, 10])
    # with 0 steps, the whole weight at once
    assert losses[0] == losses[2] if steps > 10 else losses[0] != losses[2]


@pytest.mark.contract
def test_hidden_words_may_be_traced_where_a_text_is_drawn():
    model = RecurrentVAE(V, 2, 4, 3)
    noise = jnp.zeros((B, 2))
    variables = jax.jit(model.init)(jax.random.key(0), TOKENS, noise)

    def run(share):
        hides = model.clone(word_dropout=share)
        return generate(hides, variables, jax.random.key(1), 8, 12)

    drawn = assert_same(run, [0.0, 0.5, 1.0])
    assert len(np.unique(drawn, axis=0)) == 3


LOGITS = jnp.asarray(3 * RNG.normal(size=(64, V)), jnp.float32)


@pytest.mark.parametrize("option", ["temperature", "top_p"])
def test_how_tokens_are_drawn_may_be_traced(option):
    values = {"temperature": [0.0, 0.5, 2.0], "top_p": [0.2, 0.9, 1.0]}[option]

    def run(value):
        return language.sample(LOGITS, jax.random.key(0), **{option: value})

    drawn = assert_same(run, values)
    assert len(np.unique(drawn, axis=0)) == 3


@pytest.mark.parametrize("name", ["rotate", "noise"])
def test_an_augmentation_may_be_traced(name):
    def run(value):
        change = {"rotate": augment.rotate, "noise": augment.noise}[name](value)
        return change(jax.random.key(0), {"x": X.astype("bfloat16")})["x"]

    assert run(1.0).dtype == jnp.bfloat16
    both = assert_same(lambda v: run(v).astype("float32"), [10.0, 90.0])
    assert both.shape == (2, *X.shape) and (both[0] != both[1]).any()
