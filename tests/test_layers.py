"""Convolution and pooling against Linen's own, in numbers, gradients and lowering."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import quick
from zoo import cnn, layers
from zoo.base import UsageError

sizes = st.integers(1, 3)
pairs = st.tuples(st.integers(0, 2), st.integers(0, 2))


@st.composite
def convolutions(draw, transposed=False):
    """Fields of a convolution and a shape [B, *S, C] that it fits."""
    rank = draw(st.sampled_from([1, 2]))
    kernel = tuple(draw(sizes) for _ in range(rank))
    dilation = tuple(draw(st.sampled_from([1, 1, 2])) for _ in range(rank))
    fields = {
        "kernel_size": kernel,
        "strides": tuple(draw(sizes) for _ in range(rank)),
        "padding": draw(
            st.one_of(st.sampled_from(["SAME", "VALID"]), st.tuples(*[pairs] * rank))
        ),
        "kernel_dilation": dilation,
        "use_bias": draw(st.booleans()),
    }
    if transposed:
        channels, fields["features"] = draw(sizes), draw(sizes)
    else:
        # 8 channels and more take another way through the program
        groups = draw(st.sampled_from([1, 1, 2, 4]))
        channels = groups * draw(st.sampled_from([1, 2, 8]))
        fields |= {"features": groups * draw(sizes), "feature_group_count": groups}
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    space = tuple(n + draw(st.integers(0, 4)) for n in spans)
    return fields, (draw(sizes), *space, channels)


@functools.partial(jax.jit, static_argnums=0)
def outputs(module, params, x):
    """Outputs, and the gradients by both: one program compiles sooner."""

    def energy(params, x):
        return jnp.sum(jnp.sin(module.apply(params, x)))

    return module.apply(params, x), jax.grad(energy, (0, 1))(params, x)


def assert_same_layer(ours, theirs, shape):
    """One set of weights in both: the same parameters, outputs, gradients."""
    x = jax.random.normal(jax.random.key(0), shape)
    params, linen = (jax.jit(m.init)(jax.random.key(1), x) for m in (ours, theirs))
    jax.tree.map(np.testing.assert_array_equal, params, linen)
    (out, grads), (ref, known) = outputs(ours, params, x), outputs(theirs, linen, x)
    np.testing.assert_allclose(out, ref, rtol=1e-5, atol=1e-5)

    def close(a, b):  # a weight's gradient is a sum over all positions
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * max(1, abs(b).max()))

    jax.tree.map(close, grads, known)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(convolutions())
def test_conv_has_linens_parameters_numbers_and_gradients(case):
    fields, shape = case
    assert_same_layer(layers.Conv(**fields), nn.Conv(**fields), shape)


@pytest.mark.contract
@settings(max_examples=8, deadline=None, derandomize=True)
@given(convolutions(transposed=True))
def test_transposed_conv_has_linens_parameters_numbers_and_gradients(case):
    fields, shape = case
    ours, theirs = layers.ConvTranspose(**fields), nn.ConvTranspose(**fields)
    assert_same_layer(ours, theirs, shape)


@pytest.mark.parametrize("strides", [None, 1, (2, 1)])
@pytest.mark.parametrize("padding", ["VALID", "SAME", ((1, 1), (0, 1))])
@pytest.mark.parametrize("pool", ["max_pool", "avg_pool"])
def test_pools_equal_linens(pool, padding, strides):
    x = jax.random.normal(jax.random.key(0), (2, 7, 6, 3))
    steps = {None: (3, 2), 1: (1, 1)}.get(strides, strides)

    def ours(x):
        return getattr(layers, pool)(x, (3, 2), strides, padding)

    def theirs(x):
        return getattr(nn, pool)(x, (3, 2), steps, padding)

    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-6)
    grads = [jax.grad(lambda x, f=f: jnp.sum(f(x) ** 2))(x) for f in (ours, theirs)]
    np.testing.assert_allclose(*grads, rtol=1e-5, atol=1e-6)


def test_pooling_ties_share_the_gradient():
    grad = jax.grad(lambda x: layers.max_pool(x, (2,)).sum())(jnp.ones((1, 2, 1)))
    np.testing.assert_array_equal(grad.ravel(), [0.5, 0.5])


LAYERS = {
    "one_sided": layers.Conv(2, (3,), padding="VALID"),
    "two_sided": layers.Conv(2, (3, 2), padding="VALID"),
    "strided": layers.Conv(2, (2, 2), strides=2),
    "grouped": layers.Conv(4, (3,), feature_group_count=2),
    "depthwise": layers.Conv(8, (2, 2), feature_group_count=8),
    "transposed": layers.ConvTranspose(2, (3, 3), strides=2),
}


@pytest.mark.contract
@pytest.mark.parametrize("name", quick(LAYERS, "transposed"))
def test_layers_can_be_transformed_twice(name):
    layer = LAYERS[name]
    shape = (1, 4, 8) if len(layer.kernel_size) == 1 else (1, 4, 3, 8)
    x = jax.random.normal(jax.random.key(0), shape)
    params = layer.init(jax.random.key(1), x)

    def energy(x):
        return jnp.sum(layer.apply(params, x) ** 3)

    # sum y^3 is cubic: along any direction its Taylor series ends after three terms
    along = jax.random.normal(jax.random.key(2), shape)
    grad, hessian = jax.jit(jax.grad(energy))(x), jax.hessian(energy)(x)
    second = jnp.tensordot(jnp.tensordot(hessian, along, x.ndim), along, x.ndim)
    even = energy(x + along) + energy(x - along)
    np.testing.assert_allclose(second, even - 2 * energy(x), rtol=1e-3, atol=1e-3)
    _, tangent = jax.jvp(energy, (x,), (along,))
    np.testing.assert_allclose(tangent, jnp.vdot(grad, along), rtol=1e-4, atol=1e-4)
    many = jax.vmap(lambda x: layer.apply(params, x))(jnp.stack([x, 2 * x]))
    np.testing.assert_allclose(many[1], layer.apply(params, 2 * x), atol=1e-5)
    weights = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), params)
    many = jax.vmap(lambda params: layer.apply(params, x))(weights)
    np.testing.assert_allclose(many[1], 2 * layer.apply(params, x), atol=1e-5)


def test_a_sharded_batch_gives_the_same_numbers():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.NamedSharding(mesh, jax.P("data"))
    x = jax.random.normal(jax.random.key(0), (4, 6, 6, 8))
    conv = layers.Conv(3, (3, 3))
    params = conv.init(jax.random.key(1), x)

    def energy(params, x):
        return jnp.sum(jnp.sin(layers.max_pool(conv.apply(params, x), (2, 2))))

    whole = jax.grad(energy)(params, x)
    x = jax.device_put(x, rows)
    program = jax.jit(jax.grad(energy)).lower(params, x).compile()
    text = program.as_text()
    # each device has its half, and what they find is added up
    assert " all-reduce(" in text and "[4,6,6,8]" not in text
    split = program(params, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), split, whole)


SLOW_ON_CPU = ("stablehlo.convolution", "select_and_scatter", "reduce_window")


def program(layer, x, platform):
    """The text of the gradient's program, as it is lowered for a platform."""
    params = jax.eval_shape(layer.init, jax.random.key(0), x)

    def energy(params, x):
        return layer.apply(params, x).sum()

    traced = jax.jit(jax.value_and_grad(energy, (0, 1))).trace(params, x)
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("name", LAYERS)
def test_convolution_is_a_product_on_cpu_and_itself_elsewhere(name):
    layer = LAYERS[name]
    x = jax.ShapeDtypeStruct((2, *(8,) * (len(layer.kernel_size) + 1)), jnp.float32)
    cpu = program(layer, x, "cpu")
    assert not [word for word in SLOW_ON_CPU if word in cpu]
    assert "stablehlo.convolution" in program(layer, x, "cuda")
    assert "stablehlo.convolution" in program(layer, x, "tpu")


def test_dilated_transposed_convolution_falls_back():
    layer = layers.ConvTranspose(2, (3,), kernel_dilation=2)
    x = jax.ShapeDtypeStruct((2, 8, 2), jnp.float32)
    assert "stablehlo.convolution" in program(layer, x, "cpu")


@pytest.mark.parametrize(
    "model, shape",
    [
        (cnn.two_conv(), (2, 28, 28, 1)),
        (cnn.two_conv_dropout(), (2, 32, 32, 3)),
        (cnn.resnet_cifar(8), (2, 16, 16, 3)),
        (cnn.resnet_imagenet(18, outputs=10), (2, 64, 64, 3)),
    ],
)
def test_models_take_the_fast_way_on_cpu(model, shape):
    cpu = program(model, jax.ShapeDtypeStruct(shape, jnp.float32), "cpu")
    assert not [word for word in SLOW_ON_CPU if word in cpu]


def test_bfloat16_computes_in_bfloat16_with_float32_parameters():
    conv = layers.Conv(2, (3, 3), dtype=jnp.bfloat16)
    x = jax.random.normal(jax.random.key(0), (1, 6, 6, 2))
    params = conv.init(jax.random.key(1), x)
    assert params["params"]["kernel"].dtype == jnp.float32
    out = conv.apply(params, x)
    assert out.dtype == jnp.bfloat16
    full = layers.Conv(2, (3, 3)).apply(params, x)
    np.testing.assert_allclose(out.astype(jnp.float32), full, atol=0.05)


def elman(carry, x):
    """h' = tanh([x, h] W): a cell to run."""
    width = carry.shape[-1] + x.shape[-1]
    weights = jnp.sin(jnp.arange(width * carry.shape[-1])).reshape(width, -1)
    carry = jnp.tanh(jnp.concatenate([x, carry], -1) @ weights)
    return carry, 2 * carry


@pytest.mark.parametrize("reverse", [False, True])
def test_recur_runs_the_cell_over_what_counts_of_each_sequence(reverse):
    x = jax.random.normal(jax.random.key(0), (3, 5, 2))
    length = jnp.array([5, 2, 0])
    start = jnp.zeros((3, 4))

    def run(x):
        return layers.recur(elman, start, x, length=length, reverse=reverse)

    carry, y = jax.jit(run)(x)
    for row, count in enumerate(length):
        h, expected = start[:1], np.zeros((5, 4))
        order = range(count)
        for t in reversed(order) if reverse else order:
            h, out = elman(h, x[row : row + 1, t])
            expected[t] = out[0]
        np.testing.assert_allclose(carry[row], h[0], atol=1e-6)
        np.testing.assert_allclose(y[row], expected, atol=1e-6)

    def energy(x):
        return jnp.sum(run(x)[1] ** 2)

    grad = jax.grad(energy)(x)
    assert not np.any(grad[1, 2:]) and not np.any(grad[2])
    along = jax.random.normal(jax.random.key(1), x.shape)
    _, tangent = jax.jvp(energy, (x,), (along,))
    np.testing.assert_allclose(tangent, jnp.vdot(grad, along), rtol=1e-4)


def test_recur_without_lengths_equals_full_lengths():
    x = jax.random.normal(jax.random.key(0), (2, 6, 3))
    plain = layers.recur(elman, jnp.ones((2, 3)), x)
    full = layers.recur(elman, jnp.ones((2, 3)), x, length=jnp.array([6, 6]))
    jax.tree.map(np.testing.assert_array_equal, plain, full)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda x: layers.conv(x, jnp.zeros((3, 3, 2, 4))), r"\[B, H, W, 2\]"),
        (lambda x: layers.conv(x[..., 0], jnp.zeros((3, 3, 3, 4))), "shape"),
        (lambda x: layers.conv(x, jnp.zeros((5, 5, 3, 1)), padding="VALID"), "fit"),
        (lambda x: layers.conv(x, jnp.zeros((3, 3, 1, 4)), groups=3), "3 group"),
        (lambda x: layers.conv_transpose(x, jnp.zeros((2, 3, 2))), r"\[B, L, 3\]"),
        (lambda x: layers.max_pool(x, (5, 5)), "does not fit"),
        (lambda x: layers.max_pool(x, (2,)), "1 spatial"),
    ],
)
def test_shapes_that_do_not_fit_are_named(call, words):
    with pytest.raises(UsageError, match=words):
        call(jnp.zeros((2, 4, 4, 3)))
