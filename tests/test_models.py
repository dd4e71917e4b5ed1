"""What each model is about: sizes from its paper, and its mathematics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from zoo import cnn, linear, mlp, supervised
from zoo.base import UsageError, count_parameters


def parameters(model, *shape):
    def init(key):
        return model.init(key, jnp.zeros((1, *shape)))["params"]

    return count_parameters(jax.eval_shape(init, jax.random.key(0)))


@pytest.mark.parametrize(
    "model, shape, count",
    [
        # by hand: (9 + 1) 32 + (9 * 32 + 1) 64 + (5 * 5 * 64 + 1) 64 + (64 + 1) 10
        (cnn.two_conv(), (28, 28, 1), 320 + 18_496 + 102_464 + 650),
        (cnn.one_conv(), (28, 28, 1), 320 + (13 * 13 * 32 + 1) * 128 + 1_290),
        (cnn.two_conv_dropout(), (32, 32, 3), 896 + 18_496 + 147_520 + 650),
        (cnn.two_conv(rank=1), (28, 1), 128 + 6_208 + (5 * 64 + 1) * 64 + 650),
        # 0.27 M in table 6 of the paper; the others as torchvision counts them
        (cnn.resnet_cifar(20), (32, 32, 3), 269_722),
        (cnn.resnet_cifar(56), (32, 32, 3), 853_018),
        (cnn.resnet_imagenet(18), (224, 224, 3), 11_689_512),
        (cnn.resnet_imagenet(34), (224, 224, 3), 21_797_672),
        (cnn.resnet_imagenet(50), (224, 224, 3), 25_557_032),
        (mlp.MLP(10, (256,)), (28, 28, 1), 785 * 256 + 2_570),
        (mlp.MLP(10, (16, 16), mlp.prelu), (4,), 5 * 16 + 17 * 16 + 170 + 2),
    ],
)
def test_parameters_are_counted_as_in_the_literature(model, shape, count):
    assert parameters(model, *shape) == count


def test_relu_commutes_with_pooling():
    x = jax.random.normal(jax.random.key(0), (2, 12, 12, 1))
    model = cnn.CNN(3, channels=(4,), widths=())
    params = model.init(jax.random.key(1), x)["params"]
    y = nn.Conv(4, (3, 3), padding="VALID").apply({"params": params["Conv_0"]}, x)
    y = nn.max_pool(nn.relu(y), (2, 2), (2, 2)).reshape(2, -1)
    y = nn.Dense(3).apply({"params": params["Dense_0"]}, y)
    np.testing.assert_allclose(model.apply({"params": params}, x), y, atol=1e-5)


def test_batch_norm_statistics_are_the_models_state():
    model = cnn.resnet_cifar(8, width=4)
    task = supervised.task(model, supervised.classes)
    x = 3 + jax.random.normal(jax.random.key(0), (8, 8, 8, 1))
    batch = {"x": x, "y": jnp.arange(8)}
    params, state = jax.jit(task.init)(jax.random.key(1), batch)
    assert set(state) == {"batch_stats"}
    loss = jax.jit(task.loss, static_argnames="train")
    _, aux = loss(params, state, batch, jax.random.key(2), train=True)
    stem = params["Conv_0"]["kernel"]
    out = nn.Conv(4, (3, 3), use_bias=False).apply({"params": {"kernel": stem}}, x)
    new = aux.state["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(new["mean"], 0.1 * out.mean((0, 1, 2)), rtol=1e-4)
    expected = 0.9 + 0.1 * out.var((0, 1, 2))
    np.testing.assert_allclose(new["var"], expected, rtol=1e-4)


def test_penalties_leave_biases_alone():
    params = {"a": jnp.array([[1.0, -2.0]]), "bias": jnp.array([100.0])}
    assert float(supervised.penalty(params, 0.5, 0.1)) == pytest.approx(1.5 + 0.5)


def test_penalty_strengths_can_be_traced():
    batch = {"x": jnp.eye(3), "y": jnp.ones(3)}

    def value(l2):
        task = linear.regression(l2=l2)
        params, state = task.init(jax.random.key(0), batch)
        params = jax.tree.map(jnp.ones_like, params)
        return task.loss(params, state, batch, jax.random.key(0), train=True)[0]

    values = jax.vmap(value)(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(values, [1.0, 1.0 + 3.0])


def test_predictions_are_probabilities():
    x = jax.random.normal(jax.random.key(0), (5, 4))
    batch, rng = {"x": x, "y": jnp.zeros(5, int)}, np.random.default_rng(0)
    for task in (linear.logistic(), linear.softmax(2), linear.neuron()):
        params, state = task.init(jax.random.key(0), batch)
        params = jax.tree.map(lambda p: rng.normal(size=p.shape).astype("f"), params)
        logits = x @ params["dense"]["kernel"] + params["dense"]["bias"][None]
        if logits.shape[1] == 1:  # one logit is the odds against 0
            logits = jnp.concatenate([0 * logits, logits], 1)
        p = task.predict(params, state, batch)
        np.testing.assert_allclose(p, jax.nn.softmax(logits), rtol=1e-5)


def test_logistic_is_softmax_over_two_classes():
    key = jax.random.key(0)
    w, x = jax.random.normal(key, (4, 1)), jax.random.normal(key, (6, 4))
    y = jnp.array([0, 1, 1, 0, 1, 0])
    one = supervised.binary.values(x @ w, y)
    two = supervised.classes.values(jnp.concatenate([0 * x @ w, x @ w], -1), y)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), one, two)


@pytest.mark.parametrize(
    "model, x, words",
    [
        (cnn.two_conv(), jnp.zeros((2, 28, 28)), r"x\[\.\.\., None\]"),
        (cnn.two_conv(rank=1), jnp.zeros((2, 28, 28, 1)), r"\[B, L, C\]"),
        (cnn.two_conv(), jnp.zeros((2, 28, 28, 1), jnp.uint8), "x / 255"),
        (mlp.MLP(3), jnp.zeros((2, 4), int), "floating-point"),
        (linear.Linear(3), jnp.zeros((2, 4), bool), "floating-point"),
        (cnn.two_conv(), jnp.zeros((2, 4, 4, 1)), "does not fit"),
    ],
)
def test_inputs_that_do_not_fit_are_named(model, x, words):
    with pytest.raises(UsageError, match=words):
        model.init(jax.random.key(0), x)


@pytest.mark.parametrize(
    "measure, outputs, y, words",
    [
        ("classes", (4, 3), jnp.zeros((4, 1), int), "one integer label"),
        ("classes", (4, 3), jnp.zeros(4), "integer class labels"),
        ("classes", (4, 3), jnp.zeros(1, int), "one integer label"),
        ("binary", (4, 2), jnp.zeros(4, int), "one output"),
        ("regression", (4, 3), jnp.zeros(4), "one output"),
        ("regression", (4, 3), jnp.zeros((4, 1)), "outputs' shape"),
    ],
)
def test_targets_never_broadcast(measure, outputs, y, words):
    with pytest.raises(UsageError, match=words):
        getattr(supervised, measure).values(jnp.zeros(outputs), y)


def test_impossible_depths_are_refused():
    for make in (lambda: cnn.resnet_cifar(21), lambda: cnn.resnet_imagenet(20)):
        with pytest.raises(UsageError, match="depth"):
            make()


@pytest.mark.contract
def test_bridges_to_nnx():
    x = jax.random.normal(jax.random.key(0), (2, 28, 28, 1))
    model = cnn.two_conv()
    params = model.init(jax.random.key(1), x)
    module = nnx.bridge.ToNNX(model, rngs=nnx.Rngs(0)).lazy_init(x)
    nnx.update(module, params["params"])
    np.testing.assert_allclose(module(x), model.apply(params, x), atol=1e-6)


@pytest.mark.contract
def test_bfloat16_models_keep_float32_parameters_and_outputs():
    x = jax.random.normal(jax.random.key(0), (2, 12, 12, 1))
    for model in (
        cnn.CNN(3, channels=(4,), widths=(8,), dtype=jnp.bfloat16),
        cnn.resnet_cifar(8, 3, width=4, dtype=jnp.bfloat16),
        mlp.MLP(3, (8,), dtype=jnp.bfloat16),
    ):
        variables = jax.jit(model.init)(jax.random.key(1), x)
        types = {leaf.dtype for leaf in jax.tree.leaves(variables)}
        assert types == {jnp.dtype("float32")}
        assert jax.eval_shape(model.apply, variables, x).dtype == jnp.float32
