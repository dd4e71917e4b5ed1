"""The gradient through a training is what central differences are near."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from tests.conftest import quick
from train import data as sets
from train import evaluate, loop, many, optim, source
from train import step as one
from zoo import mlp, supervised
from zoo.base import UsageError, is_weight

# compiling takes longer than what it shows
pytestmark = pytest.mark.contract

STEPS = 25
DIGITS = sets.load("digits")
FEW = {name: array[:40] for name, array in DIGITS.train.items()}
TEST = {name: array[:100] for name, array in DIGITS.test.items()}


def rows(seed, n, dtype=np.float32, noise=0.5):
    """Two classes of 5 numbers, apart by a curve; some labels are wrong."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5))
    y = x[:, 0] + x[:, 1] ** 2 - 1 + noise * rng.normal(size=n) > 0
    return {"x": x.astype(dtype), "y": y.astype(np.int32)}


def network(widths=(8,), l2=0.0, activation=nn.tanh, classes=2):
    model = mlp.MLP(classes, widths, activation)
    task = supervised.task(model, supervised.classes, l2=l2)

    def init(key, batch):  # Linen begins in float32, whatever the batch is
        params, state = task.init(key, batch)
        return jax.tree.map(lambda w: w.astype(batch["x"].dtype), params), state

    return task._replace(init=init)


def decayed(decay):
    """Decoupled weight decay, a rate for each layer by name."""

    def update(grads, params):
        def shrink(path, weighs, grad, w):
            return grad + decay[path[0].key] * w if weighs else grad

        weighs = is_weight(params)
        return jax.tree_util.tree_map_with_path(shrink, weighs, grads, params)

    return optax.stateless(update)


def make(rates, decay=0.0, l2=0.0, ema=0.8, momentum=0.9):
    optimizer = optax.chain(
        optax.trace(momentum),
        optax.add_decayed_weights(decay, mask=is_weight),
        optax.scale_by_learning_rate(lambda t: rates[t]),
    )
    return network(l2=l2), optimizer, ema


def exact(function):
    """In float64."""

    @functools.wraps(function)
    def run(*args, **options):
        with jax.enable_x64(True):
            return function(*args, **options)

    return run


# The gradient -------------------------------------------------------------------------

ROWS = rows(0, 24, np.float64)


def hypers():
    rng = np.random.default_rng(2)
    given = {"decay": 0.05, "l2": 0.01, "ema": 0.6, "momentum": 0.7}
    given["weights"] = rng.uniform(0.5, 1.5, 24)
    given["rates"] = np.linspace(0.3, 0.1, STEPS)
    return jax.tree.map(jnp.asarray, given)


@functools.cache
def programs():
    """The loss in float64, and the loss with its gradient."""
    data = many.weighted(ROWS, 16, evaluation=rows(1, 30, np.float64))
    loss = many.through(make, data, STEPS)
    return jax.jit(loss), jax.jit(jax.value_and_grad(loss))


@pytest.mark.contract
@exact
@pytest.mark.parametrize("name", quick(hypers(), "rates", "weights"))
def test_gradient_is_that_of_central_differences(name):
    loss, both = programs()
    hyper = hypers()
    value, grad = both(hyper)
    assert value == pytest.approx(float(loss(hyper)), rel=1e-12)
    # of a vector, along two directions and its last number
    shape, rng = hyper[name].shape, np.random.default_rng(0)
    ways = [rng.normal(size=shape) for _ in range(2)] if shape else []
    last = np.zeros(shape)
    last[(-1,) * len(shape)] = 1.0
    for way in [*ways, last]:
        step = 1e-5 * way
        up, down = (loss(hyper | {name: hyper[name] + s}) for s in (step, -step))
        wanted = float(up - down) / 2e-5
        assert np.sum(grad[name] * way) == pytest.approx(wanted, rel=1e-5)
        assert abs(wanted) > 1e-6


@exact
def test_forward_is_reverse():
    hyper = hypers()
    few = {name: hyper[name] for name in ("decay", "l2", "momentum")}
    loss, both = programs()
    forward = jax.jit(jax.jacfwd(lambda few: loss(hyper | few)))(few)
    for name, found in forward.items():
        np.testing.assert_allclose(found, both(hyper)[1][name], rtol=1e-9)


def test_it_is_the_loss_of_the_training_alone():
    given = {"rates": jnp.linspace(0.3, 0.1, STEPS), "decay": 0.05, "l2": 0.01}
    shuffled = source.examples(rows(0, 24), 10)
    test = rows(1, 30)
    loss = jax.jit(many.through(make, shuffled, STEPS, evaluation=test))
    task, optimizer, ema = make(**given)
    options = {"steps": STEPS, "ema": ema, "progress": False}
    for seed in (0, 5):
        alone = loop.fit(task, optimizer, shuffled, seed=seed, **options)
        wanted = evaluate.evaluate(task, alone.trained, test)["loss"]
        assert loss(given, seed) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.contract
def test_seeds_side_by_side():
    loss = many.through(make, source.full(rows(0, 24)), 4, evaluation=rows(1, 30))
    given = {"rates": jnp.full(4, 0.2)}
    gradient = jax.grad(loss)
    found = jax.jit(jax.vmap(gradient, (None, 0)))(given, np.arange(3))["rates"]
    alone = jax.jit(gradient)(given, 2)["rates"]
    np.testing.assert_allclose(found[2], alone, rtol=1e-4, atol=1e-7)
    assert np.ptp(found[:, 0]) > 1e-4


# Memory -------------------------------------------------------------------------------


def adamw(learning_rate):
    optimizer = optax.adamw(learning_rate, eps_root=1e-8, mask=is_weight)
    return network((64,), classes=10), optimizer


def plain(learning_rate, steps):
    """The same training as a plain scan, of which all is kept."""
    task, optimizer = adamw(learning_rate)
    step = one.make_step(task, optimizer)
    data = source.examples(FEW, 32)
    state = one.init(task, optimizer, 0, jax.tree.map(jnp.asarray, FEW))

    def go_on(state, t):
        return step(state, data.batch(FEW, state.seed, t))[0], None

    state, _ = jax.lax.scan(go_on, state, jnp.arange(steps))
    return evaluate.make_eval(task)(state, TEST)["loss"].value()


def segmented(steps, segment=None):
    data = source.examples(FEW, 32)
    options = {"evaluation": TEST, "segment": segment}
    loss = many.through(adamw, data, steps, **options)
    return lambda rate: loss({"learning_rate": rate})


def gradient(loss):
    return jax.jit(jax.value_and_grad(loss)).lower(jnp.float32(0.01)).compile()


@pytest.mark.contract
def test_memory_is_that_of_few_steps():
    def bytes_(program):
        return program.memory_analysis().temp_size_in_bytes

    whole = gradient(functools.partial(plain, steps=100))
    few, more = gradient(segmented(100)), gradient(segmented(400))
    assert bytes_(few) < bytes_(whole) / 6
    assert bytes_(more) < 2.2 * bytes_(few)
    for a, b in zip(few(jnp.float32(0.01)), whole(jnp.float32(0.01)), strict=True):
        assert a == pytest.approx(float(b), rel=1e-3)


@pytest.mark.contract
def test_segments_change_nothing():
    rate = jnp.float32(0.01)
    one_, seven = (gradient(segmented(20, size))(rate) for size in (1, 7))
    np.testing.assert_allclose(one_, seven, rtol=1e-4)


# What is learned ----------------------------------------------------------------------


def tuned(loss, hyper, steps):
    """What it is after some gradient steps, and the losses on the way."""
    outer, values = optax.adam(0.5), []
    state, both = outer.init(hyper), jax.jit(jax.value_and_grad(loss))
    for _ in range(steps):
        value, grad = both(hyper)
        updates, state = outer.update(grad, state)
        hyper = optax.apply_updates(hyper, updates)
        values.append(float(value))
    return hyper, values


@pytest.mark.parametrize("eps_root", [0.0, 1e-8])
def test_adam_has_a_gradient_where_its_root_has(eps_root):
    def own(rate):
        return network(), optax.adam(rate, eps_root=eps_root)

    data, test = rows(0, 24), rows(1, 30)
    data["x"][:, 0] = 0  # whose weights have no gradient
    loss = many.through(own, source.full(data), 4, evaluation=test)
    value, grad = jax.jit(jax.value_and_grad(loss))({"rate": jnp.float32(0.01)})
    assert np.isfinite(value) and np.isfinite(grad["rate"]) == (eps_root > 0)


@pytest.mark.contract
def test_decay_of_each_layer_is_learned():
    def own(log_decay):
        decay = jax.tree.map(jnp.exp, log_decay)
        optimizer = optax.chain(
            optax.scale_by_adam(eps_root=1e-8),
            decayed(decay),
            optax.scale_by_learning_rate(0.03),
        )
        return network((16,)), optimizer

    few = source.full(rows(3, 30, noise=1.0))
    loss = many.through(own, few, 60, evaluation=rows(4, 200))
    begin = {name: jnp.float32(-4) for name in ("Dense_0", "Dense_1")}
    hyper, values = tuned(loss, {"log_decay": begin}, 8)
    assert values[-1] < 0.85 * values[0]
    first, second = hyper["log_decay"].values()
    assert abs(first - second) > 0.01


@pytest.mark.contract
def test_rows_of_wrong_labels_are_found():
    x, held = rows(5, 60)["x"], rows(6, 200)["x"]
    wrong = np.arange(60) < 15
    data = {"x": x, "y": ((x[:, 0] > 0) ^ wrong).astype(np.int32)}
    test = {"x": held, "y": (held[:, 0] > 0).astype(np.int32)}

    def own():
        return network(()), optax.sgd(0.5, momentum=0.9)

    loss = many.through(own, many.weighted(data, evaluation=test), 25)

    def of_logits(logits):
        return loss({"weights": nn.sigmoid(logits)})

    logits, values = tuned(of_logits, jnp.zeros(60), 10)
    assert values[-1] < 0.7 * values[0]
    assert logits[wrong].mean() < -0.4 and logits[~wrong].mean() > 0.3
    # more of all is nothing
    grad = jax.jit(jax.grad(loss))({"weights": jnp.ones(60)})["weights"]
    assert abs(grad.sum()) < 1e-4 * np.abs(grad).sum()


# Mistakes -----------------------------------------------------------------------------


def shaped(learning_rate, layers):
    return network((8,) * int(layers)), optax.sgd(learning_rate)


def searching(learning_rate):
    return network(), optim.optimizer("newton")


@pytest.mark.parametrize(
    ("own", "options", "hyper", "match"),
    [
        (make, {}, {"rate": 0.1}, "did you mean 'rates'"),
        (make, {"evaluation": None}, {"rates": 0.1}, "expected an evaluation"),
        (make, {"steps": 0}, {}, "expected steps between 1 and"),
        (make, {"segment": 0}, {}, "expected segment between 1 and 10"),
        (make, {"segment": 11}, {}, "expected segment between 1 and 10"),
        (make, {"evaluation": {"x": TEST["x"] * np.nan}}, {}, "NaN"),
        (shaped, {}, {"learning_rate": 0.1, "layers": 2.0}, "shapes it"),
        (searching, {}, {"learning_rate": 0.1}, "found along a line"),
    ],
)
def test_a_mistake_is_named(own, options, hyper, match):
    with pytest.raises(UsageError, match=match):
        options = {"steps": 10, "evaluation": rows(1, 8), **options}
        loss = many.through(own, source.full(rows(0, 8)), **options)
        jax.jit(loss)(hyper)


def test_weights_are_the_mask():
    data = rows(0, 8)
    with pytest.raises(UsageError, match="without a mask"):
        many.weighted(data | {"mask": np.ones(8)})
    loss = many.through(make, many.weighted(data, evaluation=data), 4)
    with pytest.raises(UsageError, match="expected weights of the data"):
        loss({"rates": jnp.ones(4)})
