"""Convolution and pooling against Linen's own, in numbers, gradients and lowering."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import layers
from zoo.base import UsageError

sizes = st.integers(1, 3)


@st.composite
def convolutions(draw):
    """Fields of a convolution and a shape [B, *S, C] that it fits."""
    rank = draw(st.sampled_from([1, 2]))
    kernel = tuple(draw(sizes) for _ in range(rank))
    pairs = st.tuples(st.integers(0, 2), st.integers(0, 2))
    fields = {
        "features": draw(sizes),
        "kernel_size": kernel,
        "strides": tuple(draw(sizes) for _ in range(rank)),
        "padding": draw(
            st.one_of(st.sampled_from(["SAME", "VALID"]), st.tuples(*[pairs] * rank))
        ),
        "use_bias": draw(st.booleans()),
    }
    space = tuple(k + draw(st.integers(0, 4)) for k in kernel)
    return fields, (draw(sizes), *space, draw(sizes))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(convolutions())
def test_conv_has_linens_parameters_numbers_and_gradients(case):
    fields, shape = case
    ours, theirs = layers.Conv(**fields), nn.Conv(**fields)
    x = jax.random.normal(jax.random.key(0), shape)
    params = ours.init(jax.random.key(1), x)
    linen = theirs.init(jax.random.key(1), x)
    jax.tree.map(np.testing.assert_array_equal, params, linen)

    def energy(module, params, x):
        return jnp.sum(jnp.sin(module.apply(params, x)))

    out, ref = ours.apply(params, x), theirs.apply(linen, x)
    np.testing.assert_allclose(out, ref, rtol=1e-5, atol=1e-5)
    grads = [jax.grad(energy, (1, 2))(m, params, x) for m in (ours, theirs)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *grads)


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


def test_conv_can_be_transformed_twice():
    conv = layers.Conv(2, (3,), padding="VALID")
    x = jax.random.normal(jax.random.key(0), (1, 5, 1))
    params = conv.init(jax.random.key(1), x)

    def energy(x):
        return jnp.sum(conv.apply(params, x) ** 3)

    hessian = jax.hessian(energy)(x).reshape(5, 5)
    step = 1e-2 * jnp.eye(5).reshape(5, 1, 5, 1)
    central = [(jax.grad(energy)(x + s) - jax.grad(energy)(x - s)) / 2e-2 for s in step]
    np.testing.assert_allclose(hessian, jnp.stack(central).reshape(5, 5), atol=2e-2)
    many = jax.vmap(lambda x: conv.apply(params, x))(jnp.stack([x, 2 * x]))
    np.testing.assert_allclose(many[1], conv.apply(params, 2 * x), atol=1e-6)
    _, tangent = jax.jvp(energy, (x,), (x,))
    np.testing.assert_allclose(tangent, jnp.vdot(jax.grad(energy)(x), x), rtol=1e-4)


def test_cpu_program_has_no_convolution_and_other_platforms_have_one():
    x, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 4))

    def f(kernel):
        return layers.max_pool(layers.conv(x, kernel), (2, 2)).sum()

    def program(platform):
        traced = jax.jit(jax.value_and_grad(f)).trace(kernel)
        return traced.lower(lowering_platforms=(platform,)).as_text()

    assert "stablehlo.convolution" not in program("cpu")
    assert "select_and_scatter" not in program("cpu")
    assert "stablehlo.convolution" in program("cuda")
    assert "stablehlo.convolution" in program("tpu")


def test_bfloat16_computes_in_bfloat16_with_float32_parameters():
    conv = layers.Conv(2, (3, 3), dtype=jnp.bfloat16)
    x = jax.random.normal(jax.random.key(0), (1, 6, 6, 2))
    params = conv.init(jax.random.key(1), x)
    assert params["params"]["kernel"].dtype == jnp.float32
    out = conv.apply(params, x)
    assert out.dtype == jnp.bfloat16
    full = layers.Conv(2, (3, 3)).apply(params, x)
    np.testing.assert_allclose(out.astype(jnp.float32), full, atol=0.05)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda x: layers.conv(x, jnp.zeros((3, 3, 2, 4))), r"\[B, H, W, 2\]"),
        (lambda x: layers.conv(x[..., 0], jnp.zeros((3, 3, 3, 4))), "shape"),
        (lambda x: layers.conv(x, jnp.zeros((5, 5, 3, 1)), padding="VALID"), "fit"),
        (lambda x: layers.max_pool(x, (5, 5)), "does not fit"),
        (lambda x: layers.max_pool(x, (2,)), "1 spatial"),
    ],
)
def test_shapes_that_do_not_fit_are_named(call, words):
    with pytest.raises(UsageError, match=words):
        call(jnp.zeros((2, 4, 4, 3)))
