"""Attention and Transformers: the equations, what may be seen, caches, positions."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import attention, transformer
from zoo.attention import Attention, MultiHead
from zoo.base import UsageError, count_parameters
from zoo.transformer import Block, Classifier, EncoderDecoder, LanguageModel

TORCH = Path(__file__).parent / "golden" / "torch_attention.npz"
KEY = jax.random.key(0)
POSITIONS = pytest.mark.parametrize("positions", ["rotary", "learned"])


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def tokens(seed, *shape, low=1, high=11):
    return jax.random.randint(jax.random.key(seed), shape, low, high)


def spread(params):
    """Parameters none of which is zero or alike, so that none hides a mistake."""
    leaves, tree = jax.tree.flatten(params)
    leaves = [p + 0.3 * normal(i, *p.shape) for i, p in enumerate(leaves)]
    return jax.tree.unflatten(tree, leaves)


@functools.partial(jax.jit, static_argnames="model")
def initial(model, *inputs):
    return spread(model.init(KEY, *inputs))


maps_of = jax.jit(transformer.attention_maps, static_argnames="model")


@functools.partial(jax.jit, static_argnames=("model", "method", "train", "causal"))
def run(model, variables, *inputs, method=None, **options):
    """model.apply, compiled: one operation after the other takes seconds."""
    return model.apply(variables, *inputs, method=method, **options)


@functools.cache
def language_model(**fields):
    """A small model and its variables."""
    small = {"vocabulary": 11, "width": 16, "layers": 2, "heads": 4, "context": 8}
    model = LanguageModel(**(small | fields))
    return model, initial(model, jnp.zeros((1, 2), jnp.int32))


@functools.cache
def encoder_decoder():
    model = EncoderDecoder(11, 9, width=16, layers=2, heads=4)
    one = jnp.ones((1, 2), jnp.int32)
    return model, initial(model, one, one)


@functools.cache
def classifier():
    model = Classifier(3, width=16, layers=2, heads=4)
    return model, initial(model, jnp.zeros((1, 2, 5)))


# -- Scores and the weighted mean ------------------------------------------------------


def transcribed(name, q, k, w_query, w_key, v):
    """One score of one query and one key, as in the papers."""
    if name == "additive":
        return v @ np.tanh(q @ w_query + k @ w_key)
    if name == "bilinear":
        return q @ (w_query @ w_key.T) @ k
    return q @ k / (np.sqrt(len(q)) if name == "scaled_dot" else 1)


@pytest.mark.parametrize("name", ["dot", "scaled_dot", "bilinear", "additive"])
def test_scores_and_the_mean_are_the_papers(name):
    q, k, v = normal(1, 2, 3, 4), normal(2, 2, 5, 4), normal(3, 2, 5, 6)
    w_query, w_key, vector = normal(4, 4, 7), normal(5, 4, 7), normal(6, 7)
    score = {
        "dot": attention.dot,
        "scaled_dot": attention.scaled_dot,
        "bilinear": attention.bilinear(w_query @ w_key.T),
        "additive": attention.additive(w_query, w_key, vector),
    }[name]
    weights = [np.asarray(w, np.float64) for w in (w_query, w_key, vector)]
    pairs = np.asarray(q, np.float64), np.asarray(k, np.float64)
    expected = np.array(
        [[[transcribed(name, a, b, *weights) for b in y] for a in x]
         for x, y in zip(*pairs, strict=True)]
    )  # fmt: skip
    np.testing.assert_allclose(score(q, k), expected, rtol=1e-4, atol=1e-5)
    shares = np.exp(expected) / np.exp(expected).sum(-1, keepdims=True)
    outputs, found = attention.attention(q, k, v, score)
    np.testing.assert_allclose(found, shares, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs, shares @ np.asarray(v), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["dot", "scaled_dot", "bilinear", "additive"])
def test_a_learned_score_is_the_function_with_its_parameters(name):
    q, k, v = normal(1, 2, 3, 4), normal(2, 2, 5, 4), normal(3, 2, 5, 6)
    mask = jnp.arange(5).reshape(1, 1, 5) < jnp.array([3, 5]).reshape(2, 1, 1)
    layer = Attention(name, features=7)
    variables = layer.init(KEY, q, k, v, mask)
    params = variables.get("params", {})
    score = {
        "dot": lambda: attention.dot,
        "scaled_dot": lambda: attention.scaled_dot,
        "bilinear": lambda: attention.bilinear(params["kernel"]),
        "additive": lambda: attention.additive(
            params["query"], params["key"], params["vector"][:, 0]
        ),
    }[name]()
    found = run(layer, variables, q, k, v, mask)
    expected = attention.attention(q, k, v, score, mask)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert not np.any(found[1][0, :, 3:])
    assert count_parameters(params) == {"bilinear": 16, "additive": 63}.get(name, 0)


def test_who_may_see_nothing_gets_zeros_and_a_finite_gradient():
    q, k, v = normal(1, 2, 3, 4), normal(2, 2, 5, 4), normal(3, 2, 5, 6)
    mask = jnp.ones((3, 5), bool).at[1].set(False)

    def energy(q, k, v):
        outputs, weights = attention.attention(q, k, v, mask=mask)
        return jnp.sum(outputs**2), (outputs, weights)

    grads, (outputs, weights) = jax.grad(energy, (0, 1, 2), has_aux=True)(q, k, v)
    assert not np.any(outputs[:, 1]) and not np.any(weights[:, 1])
    np.testing.assert_allclose(weights[:, [0, 2]].sum(-1), 1, rtol=1e-6)
    assert all(np.isfinite(g).all() for g in grads)
    assert not np.any(grads[0][:, 1]) and np.any(grads[0][:, 0])


# -- Many heads ------------------------------------------------------------------------


@pytest.mark.parametrize("kv_heads", [None, 2, 1])
def test_heads_are_jax_nns(kv_heads):
    x, memory = normal(1, 2, 3, 8), normal(2, 2, 5, 8)
    mask = jnp.arange(5).reshape(1, 1, 1, 5) < jnp.array([3, 5]).reshape(2, 1, 1, 1)
    layer = MultiHead(8, 4, kv_heads)
    params = initial(layer, x)["params"]
    own = jnp.broadcast_to(mask, (2, 4, 3, 5)).at[:, 1, :, 0].set(False)
    for source, options in (
        (None, {"causal": True}),
        (memory, {"mask": mask}),
        (memory, {"mask": own}),  # of each head
    ):

        def heads(name, x):
            y = x @ params[name]["kernel"] + params[name]["bias"].reshape(1, 1, -1)
            return y.reshape(*x.shape[:2], -1, 2)

        other = x if source is None else source
        expected = jax.nn.dot_product_attention(
            heads("query", x),
            heads("key", other),
            heads("value", other),
            mask=options.get("mask"),
            is_causal="causal" in options,
        ).reshape(2, 3, 8)
        expected = expected @ params["out"]["kernel"]
        expected = expected + params["out"]["bias"].reshape(1, 1, -1)
        found, cache = run(layer, {"params": params}, x, source, **options)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert cache is None


def test_what_is_remembered_equals_the_memory():
    x, memory = normal(1, 2, 3, 8), normal(2, 2, 5, 8)
    layer = MultiHead(8, 4, 2, rotary=True)
    params = initial(layer, x, memory)
    kept = run(layer, params, memory, method="remember")
    assert kept.key.shape == (2, 2, 5, 2)
    jax.tree.map(
        np.testing.assert_array_equal,
        run(layer, params, x, kept),
        run(layer, params, x, memory),
    )


def test_self_attention_without_positions_is_permutation_equivariant():
    x, order = normal(1, 2, 5, 8), jnp.array([3, 0, 4, 1, 2])
    block = Block(8, 2)
    params = initial(block, x)
    y, _ = run(block, params, x)
    np.testing.assert_allclose(
        run(block, params, x[:, order])[0], y[:, order], rtol=1e-4, atol=1e-5
    )


def test_rotary_products_depend_on_distances_alone():
    q, k = normal(1, 1, 3, 8), normal(2, 1, 3, 8)
    at = jnp.array([0, 4, 9])
    products = [
        attention.rotary(q, at + shift) @ attention.rotary(k, at + shift).mT
        for shift in (0, 37)
    ]
    np.testing.assert_allclose(*products, atol=1e-4)
    lengths = (jnp.linalg.norm(y, axis=-1) for y in (q, attention.rotary(q, at)))
    np.testing.assert_allclose(*lengths, rtol=1e-5)
    moved = attention.rotary(q, at) @ attention.rotary(k, at + 1).mT
    assert np.abs(moved - products[0]).max() > 0.1


def test_a_model_with_rotary_positions_sees_distances_alone():
    x = normal(1, 1, 4, 8)
    block = Block(8, 2, rotary=True, causal=True)
    params = initial(block, x)
    near, far = (
        run(block, params, x, positions=start + jnp.arange(4))[0] for start in (0, 50)
    )
    np.testing.assert_allclose(near, far, rtol=1e-3, atol=1e-4)
    wide = run(block, params, x, positions=2 * jnp.arange(4))[0]
    assert np.abs(wide - near).max() > 0.01


def test_sinusoids_are_the_papers():
    found = np.asarray(attention.sinusoid(jnp.arange(7), 6))
    t, i = np.arange(7).reshape(-1, 1), np.arange(3).reshape(1, -1)
    angles = t / 10_000 ** (2 * i / 6)
    np.testing.assert_allclose(found[:, :3], np.sin(angles), atol=1e-6)
    np.testing.assert_allclose(found[:, 3:], np.cos(angles), atol=1e-6)
    assert attention.sinusoid(jnp.arange(2), 5).shape == (2, 5)


# -- Torch's layers --------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, layer",
    [
        ("multi_head", MultiHead(6, 2)),
        ("transformer_encoder", Block(6, 2, causal=True)),
        ("transformer_decoder", Block(6, 2, causal=True, cross=True)),
    ],
)
def test_weights_come_from_torch(name, layer):
    with np.load(TORCH) as file:
        arrays = dict(file)
    weights = {
        key.removeprefix(f"{name}/"): array
        for key, array in arrays.items()
        if key.startswith(f"{name}/")
    }
    x, memory = jnp.asarray(arrays["x"], jnp.float32), None
    if name == "transformer_decoder":
        x, memory = jnp.split(x, 2, 1)
    params = transformer.from_torch(weights)
    made = jax.eval_shape(lambda: layer.init(KEY, x, memory=memory)["params"])
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, params)
    found, _ = run(layer, {"params": params}, x, memory=memory)
    expected = arrays[f"outputs/{name}"].reshape(found.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    weights.popitem()
    with pytest.raises(UsageError, match="expected an array"):
        transformer.from_torch(weights)


# -- Models ----------------------------------------------------------------------------


@pytest.mark.contract
@POSITIONS
def test_no_logit_depends_on_a_later_token(positions):
    model, variables = language_model(positions=positions, tied=False, vocabulary=6)
    params, x = variables["params"], jnp.arange(6).reshape(1, -1)

    def logits(table):  # each token has a row of its own
        new = {**params, "embed": {"embedding": table}}
        return run(model, {"params": new}, x)[0]

    jacobian = jax.jit(jax.jacobian(logits))(params["embed"]["embedding"])
    seen = np.abs(jacobian).sum((1, 3)) > 0
    np.testing.assert_array_equal(seen, np.tri(6, dtype=bool))

    model, variables = language_model(positions=positions)
    x = tokens(1, 2, 6)
    changed = run(model, variables, x.at[:, 4].set((x[:, 4] + 1) % 11))
    same = changed == run(model, variables, x)
    assert same[:, :4].all() and not same[:, 4:].all((-2, -1)).any()


@pytest.mark.contract
@pytest.mark.parametrize(
    "positions, kv_heads",
    [
        ("rotary", 2),
        pytest.param("rotary", None, marks=pytest.mark.contract),
        pytest.param("learned", 1, marks=pytest.mark.contract),
    ],
)
def test_pieces_through_a_cache_equal_the_whole(positions, kv_heads):
    model, variables = language_model(positions=positions, kv_heads=kv_heads)
    x = tokens(1, 3, 8)
    cache, pieces = model.empty(3, 8), []
    assert all(a.shape[0] == 3 for a in jax.tree.leaves(cache) if a.ndim)
    assert cache.layers.key.shape == (3, 2, kv_heads or 4, 8, 4)
    for piece in jnp.split(x, [3, 4, 5], 1):
        logits, cache = run(model, variables, piece, cache, method="extend")
        pieces.append(logits)
    whole = run(model, variables, x)
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), whole, rtol=1e-4, atol=1e-4)
    assert cache.position == 8


@pytest.mark.contract
def test_tokens_one_by_one_inside_a_scan_with_rows_reordered():
    model, variables = language_model()
    x, order = tokens(1, 3, 8), jnp.array([2, 0, 0])

    def step(cache, token):
        token = token.reshape(-1, 1)
        logits, cache = run(model, variables, token, cache, method="extend")
        return cache, logits[:, 0]

    cache, first = jax.lax.scan(step, model.empty(3, 8), x[:, :5].T)
    cache = jax.tree.map(lambda a: a[order] if a.ndim else a, cache)
    _, second = jax.lax.scan(step, cache, x[:, 5:].T)
    mixed = jnp.concatenate([x[order, :5], x[:, 5:]], 1)
    np.testing.assert_allclose(
        second.swapaxes(0, 1), run(model, variables, mixed)[:, 5:], atol=1e-4
    )
    np.testing.assert_allclose(
        first.swapaxes(0, 1), run(model, variables, x)[:, :5], atol=1e-4
    )


@pytest.mark.contract
def test_a_translation_through_a_cache_equals_the_whole():
    model, variables = encoder_decoder()
    source = tokens(1, 2, 5).at[0, 3:].set(0)
    target = tokens(2, 2, 6, high=9)
    memory = run(model, variables, source, method="encode")
    cache, pieces = model.empty(memory, 6), []
    assert all(a.shape[0] == 2 for a in jax.tree.leaves(cache) if a.ndim)
    for piece in jnp.split(target, [3, 4, 5], 1):
        logits, cache = run(model, variables, piece, cache, method="extend")
        pieces.append(logits)
    whole = run(model, variables, source, target)
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.contract
def test_padding_of_source_and_target_changes_nothing():
    model, variables = encoder_decoder()
    source, target = tokens(1, 2, 4), tokens(2, 2, 3, high=9)
    plain = run(model, variables, source, target)
    longer = (jnp.pad(t, ((0, 0), (0, 2))) for t in (source, target))
    found = run(model, variables, *longer)[:, :3]
    np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.contract
def test_padding_of_a_sequence_changes_nothing():
    model, variables = classifier()
    x = normal(1, 2, 4, 5)
    plain = run(model, variables, x)
    junk = jnp.concatenate([x, 1e3 * normal(2, 2, 3, 5)], 1)
    length = jnp.array([4, 4])
    np.testing.assert_allclose(
        run(model, variables, junk, length), plain, rtol=1e-4, atol=1e-4
    )
    empty = run(model, variables, junk, jnp.array([4, 0]))
    assert np.isfinite(empty).all()
    grad = jax.grad(lambda x: run(model, variables, x, length).sum())(junk)
    assert not np.any(grad[:, 4:]) and np.any(grad[:, :4])


def test_a_classifier_reads_tokens_and_their_order():
    model = Classifier(3, width=16, layers=1, heads=2, vocabulary=11)
    x = tokens(1, 2, 5)
    params = initial(model, x)
    logits = run(model, params, x)
    assert logits.shape == (2, 3)
    assert np.abs(run(model, params, x[:, ::-1]) - logits).max() > 1e-3


@pytest.mark.contract
def test_weights_of_attention_are_shares_of_what_may_be_seen():
    model, variables = encoder_decoder()
    source, target = tokens(1, 2, 5).at[0, 3:].set(0), tokens(2, 2, 4, high=9)
    maps = maps_of(model, variables, source, target)
    assert {name: w.shape for name, w in maps.items()} == {
        "encoder": (2, 2, 4, 5, 5),
        "decoder": (2, 2, 4, 4, 4),
        "cross": (2, 2, 4, 4, 5),
    }
    for weights in maps.values():
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    assert not np.any(np.triu(maps["decoder"], 1))
    assert not np.any(maps["cross"][:, 0, :, :, 3:])
    assert np.all(maps["cross"][:, 1] > 0)

    model, variables = language_model(kv_heads=2)
    maps = maps_of(model, variables, tokens(1, 2, 6))
    assert {name: w.shape for name, w in maps.items()} == {"decoder": (2, 2, 4, 6, 6)}
    model, variables = classifier()
    x, length = normal(1, 2, 4, 5), jnp.array([2, 4])
    maps = maps_of(model, variables, x, length)
    assert not np.any(maps["encoder"][:, 0, :, :, 2:])


def loss_and_grad(model, variables, x):
    def loss(variables):
        key = {"dropout": jax.random.key(3)}
        return jnp.sum(jnp.sin(run(model, variables, x, train=True, rngs=key)))

    return jax.jit(jax.value_and_grad(loss))(variables)


@pytest.mark.contract
def test_remat_changes_no_number():
    x = tokens(1, 2, 6)
    plain, variables = language_model(dropout=0.5)
    again, _ = language_model(dropout=0.5, remat=True)
    (loss, grad), (same, too) = (
        loss_and_grad(model, variables, x) for model in (plain, again)
    )
    np.testing.assert_allclose(loss, same, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), grad, too)
    assert np.abs(loss - run(plain, variables, x).sum()) > 0.1  # dropout was on


@pytest.mark.contract
def test_bfloat16_computes_near_float32_with_float32_parameters():
    x = tokens(1, 2, 6)
    full, variables = language_model()
    half, _ = language_model(dtype=jnp.bfloat16)
    made = jax.eval_shape(half.init, KEY, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {np.dtype("float32")}
    logits, expected = run(half, variables, x), run(full, variables, x)
    assert logits.dtype == jnp.float32
    assert half.empty(2, 8).layers.key.dtype == jnp.bfloat16
    scale = np.abs(expected).max()
    assert 0 < np.abs(logits - expected).max() < 0.05 * scale
    _, grad = loss_and_grad(half, variables, x)
    _, near = loss_and_grad(full, variables, x)
    size = max(np.abs(g).max() for g in jax.tree.leaves(near))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=0.1 * size), grad, near
    )


def test_the_program_does_not_grow_with_the_layers():
    def program(layers):
        model = LanguageModel(11, width=16, heads=4, layers=layers)
        x = jax.ShapeDtypeStruct((2, 6), jnp.int32)
        variables = jax.eval_shape(model.init, KEY, x)

        def loss(variables, x):
            return run(model, variables, x).sum()

        text = jax.jit(jax.grad(loss)).lower(variables, x).as_text()
        return count_parameters(variables), len(text)

    (few, short), (many, long) = program(8), program(16)
    block = 4 * (16 + 1) * 16 + (16 + 1) * 64 + (64 + 1) * 16 + 4 * 16
    assert few == 8 * block + 11 * 16 + 2 * 16
    assert many - few == 8 * block
    assert long < 1.02 * short


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: language_model(heads=3), "divide the width 16, found 3"),
        (lambda: language_model(kv_heads=3), "divide the 4 heads, found 3"),
        (lambda: language_model(positions="none"), "rotary or learned"),
        (lambda: language_model(width=4), "even width"),
        (lambda: Attention("sum").init(KEY, *[normal(1, 1, 2, 3)] * 3), "'sum'"),
        (lambda: _apply(positions="learned", length=9), "at most 8 .*found 9"),
        (lambda: language_model(positions="learned")[0].empty(1, 9), "at most 8"),
        (lambda: _apply(dtype=jnp.float32), "integer tokens"),
        (lambda: _extend(5), "at most 4 more .*found 5"),
        (lambda: _extend(3, 2), "at most 1 more .*found 2"),
        (lambda: classifier()[0].init(KEY, tokens(1, 1, 2)), "floating"),
    ],
)
def test_what_cannot_be_right_is_named(call, words):
    with pytest.raises(UsageError, match=words):
        call()


def _apply(length=4, dtype=jnp.int32, **fields):
    model, variables = language_model(**fields)
    return model.apply(variables, jnp.zeros((1, length), dtype))


def _extend(*lengths):
    model, variables = language_model()
    cache = model.empty(1, 4)
    for length in lengths:
        x = jnp.zeros((1, length), jnp.int32)
        _, cache = model.apply(variables, x, cache, method="extend")
