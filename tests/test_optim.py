"""Optimizers against their update rules written out; schedules at their corners."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.linear_model import LogisticRegression

from tests.test_contract_fit import kept_programs
from train import loop, mesh, optim, source
from zoo import linear, mlp, rnn, supervised
from zoo.base import UsageError, masked

PARAMS = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([0.5])}
GRADS = [{"kernel": jnp.array([[0.3, 0.4]]), "bias": jnp.array([-1.2])}] * 3


def run(optimizer, grads=GRADS, params=PARAMS):
    state = optimizer.init(params)
    for grad in grads:
        updates, state = optimizer.update(grad, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def rule(name, g, lr, t=3):
    """The total change of a weight after t steps of a constant gradient g."""
    m, v, total = 0.0, 0.0, 0.0
    for i in range(1, t + 1):
        if name == "sgd":
            total -= lr * g
        elif name == "momentum":
            m = 0.9 * m + g
            total -= lr * m
        elif name == "nesterov":
            m = 0.9 * m + g
            total -= lr * (g + 0.9 * m)
        elif name == "rmsprop":
            v = 0.9 * v + 0.1 * g * g
            total -= lr * g / (v**0.5 + 1e-8)
        elif name == "adam":
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            total -= lr * m / (1 - 0.9**i) / ((v / (1 - 0.999**i)) ** 0.5 + 1e-8)
        elif name == "lion":
            total -= lr * np.sign(0.9 * m + 0.1 * g)
            m = 0.99 * m + 0.01 * g
    return total


@pytest.mark.parametrize(
    "name", ["sgd", "momentum", "nesterov", "rmsprop", "adam", "lion"]
)
def test_update_rules(name):
    params, _ = run(optim.optimizer(name, 0.1))
    change = jax.tree.map(lambda a, b: a - b, params, PARAMS)
    expected = jax.tree.map(
        lambda g: np.vectorize(lambda v: rule(name, v, 0.1))(np.asarray(g, float)),
        GRADS[0],
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), change, expected
    )


def test_weight_decay_leaves_biases_alone():
    plain, _ = run(optim.optimizer("sgd", 0.1), GRADS[:1])
    shrunk, _ = run(optim.optimizer("sgd", 0.1, weight_decay=0.5), GRADS[:1])
    np.testing.assert_array_equal(shrunk["bias"], plain["bias"])
    expected = plain["kernel"] - 0.1 * 0.5 * PARAMS["kernel"]
    np.testing.assert_allclose(shrunk["kernel"], expected, rtol=1e-6)


def test_clipping_bounds_the_global_norm():
    params, _ = run(optim.optimizer("sgd", 1.0, clip=0.13), GRADS[:1])
    change = jax.tree.map(lambda a, b: a - b, params, PARAMS)
    assert float(optax.tree.norm(change)) == pytest.approx(0.13, rel=1e-5)


def regression_of(widths=(8,)):
    task = supervised.task(mlp.MLP(1, widths), supervised.regression)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 3)).astype(np.float32)
    return task, {"x": x, "y": x[:, 0] + 1}


@pytest.mark.parametrize("mask", [False, True])
def test_accumulation_equals_one_large_batch(mask):
    task, batch = regression_of()
    if mask:  # parts with 8, 3 and no examples that count
        batch["mask"] = np.array([1] * 8 + [1, 1, 1] + [0] * 13)
        # of a reshaped batch, part i has the rows i, i + 3, ...
        order = np.arange(24).reshape(3, 8).T.reshape(-1)
        batch = {name: array[order] for name, array in batch.items()}
    params, state = task.init(jax.random.key(0), batch)
    loss = functools.partial(task.loss, train=True)
    whole = jax.value_and_grad(loss, has_aux=True)
    both = [
        gradient(params, state, masked(batch), jax.random.key(1))
        for gradient in (whole, optim.in_parts(whole, 3))
    ]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *both
    )


@pytest.mark.parametrize("lengths", [False, True])
def test_a_microbatch_changes_no_number(lengths):
    """With what else reads a batch: penalty, decay, clipping, average, schedule."""
    rng = np.random.default_rng(0)
    rows = {"x": rng.normal(size=(40, 6, 3)).astype("f4"), "y": np.arange(40) % 4}
    if lengths:
        rows["length"] = rng.integers(1, 7, 40)
    model = rnn.Classifier(4, rnn.RNN(rnn.GRU, 5))
    task = supervised.task(model, supervised.classes, l2=0.1)
    rate = optim.schedule("cosine", 0.05, 12)
    optimizer = optim.optimizer("adamw", rate, weight_decay=0.1, clip=0.5)
    options = {"steps": 12, "ema": 0.9, "log_every": 4, "progress": False}

    def run(**more):
        return loop.fit(task, optimizer, source.examples(rows, 20), **options, **more)

    whole, parts = run(), run(microbatch=5)
    tree = functools.partial(jax.tree.map, np.asarray)
    for a, b in zip(
        *(jax.tree.leaves(tree(f.state)) for f in (whole, parts)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
    for one, other in zip(whole.records, parts.records, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["accuracy"] == other["accuracy"]


def test_a_microbatch_is_refused_where_it_would_be_another_training():
    rows = {"x": np.ones((24, 3), "f4"), "y": np.arange(24) % 2}

    def run(size, **fields):
        task = supervised.task(mlp.MLP(2, (4,), **fields), supervised.classes)
        data = source.examples(rows, 12)
        optimizer = optim.optimizer("sgd", 0.1)
        return loop.fit(task, optimizer, data, steps=1, microbatch=size, progress=False)

    with pytest.raises(UsageError, match="batch norm would see each by itself"):
        run(4, batch_norm=True)
    with pytest.raises(UsageError, match="divides a batch of 12, found 5"):
        run(5)
    with pytest.raises(UsageError, match="microbatch"):
        run(0)
    assert run(4).ended == "finished"


def test_accumulation_keeps_the_schedule_and_the_average_in_updates():
    task, rows = regression_of()
    optimizer = optim.optimizer("sgd", optim.schedule("cosine", 0.1, 40))
    ends = [
        loop.fit(
            task,
            optimizer,
            source.full(rows),
            steps=40,
            accumulate=k,
            ema=0.9,
            progress=False,
        )
        for k in (1, 4)
    ]
    # the same updates, of all 24 rows each, at the same rates
    for a, b in zip(*map(jax.tree.leaves, (ends[0].state, ends[1].state)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert [r["step"] for r in ends[0].records] == [r["step"] for r in ends[1].records]


def test_averages_follow_their_recurrence_and_leave_counters_alone():
    average, w = {"w": jnp.float32(1.0), "n": jnp.int32(0)}, 1.0
    mean = 1.0
    for t in range(3):
        w -= 0.03
        d = min(0.15, (1 + t) / (10 + t))
        mean = d * mean + (1 - d) * w
        latest = {"w": jnp.float32(w), "n": jnp.int32(t + 1)}
        average = optim.moved(average, latest, t, 0.15)
    assert float(average["w"]) == pytest.approx(mean, rel=1e-6)
    assert int(average["n"]) == 3


@pytest.mark.parametrize(
    "name, corners",
    [
        ("constant", {0: 2.0, 100: 2.0}),
        ("cosine", {0: 2.0, 50: 1.0, 100: 0.0}),
        ("warmup_cosine", {0: 0.0, 10: 2.0, 55: 1.0, 100: 0.0}),
        ("exponential", {0: 2.0, 50: 0.2, 100: 0.02}),
        ("step", {0: 2.0, 49: 2.0, 51: 0.2, 76: 0.02}),
    ],
)
def test_schedules_at_their_corners(name, corners):
    rate = optim.schedule(name, 2.0, 100, warmup=0.1)
    for step, value in corners.items():
        assert float(rate(step)) == pytest.approx(value, abs=1e-6)


def test_a_run_of_one_step_has_its_rate():
    for name in ("constant", "cosine", "warmup_cosine", "exponential"):
        assert float(optim.schedule(name, 2.0, 1)(0)) == 2.0


def test_warmup_and_peak_may_be_traced():
    def rates(peak, warmup):
        rate = optim.schedule("warmup_cosine", peak, 40, warmup=warmup)
        return jax.vmap(rate)(jnp.arange(41))

    traced = jax.jit(rates)(0.3, 0.21)
    np.testing.assert_allclose(traced, rates(0.3, 0.21), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: optim.optimizer("adm", 0.1), "did you mean 'adam'"),
        (lambda: optim.optimizer("adam", -0.1), "> 0"),
        (lambda: optim.optimizer("adam", float("nan")), "> 0"),
        (lambda: optim.optimizer("adam", "0.1"), "> 0"),
        (lambda: optim.optimizer("adam"), "found none"),
        (lambda: optim.optimizer("sgd", 0.1, weight_decay=-1.0), ">= 0"),
        (lambda: optim.optimizer("sgd", 0.1, clip=0.0), "> 0"),
        (lambda: optim.in_parts(jax.grad(jnp.sum), 0), "1 or more"),
        (lambda: optim.schedule("warmup_cosine", 0.1, 9, warmup=2.0), "share"),
        (lambda: optim.optimizer("lbfgs", clip=1.0), "lbfgs"),
        (lambda: optim.schedule("cosin", 0.1, 10), "'cosine'"),
        (lambda: optim.schedule("cosine", 0.1, 0), "steps"),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises(UsageError, match=words):
        call()


def test_parts_of_a_batch_lie_on_their_devices():
    task, rows = regression_of()
    ends = []
    for place in (None, mesh.data_parallel(2)):
        with kept_programs() as texts:
            found = loop.fit(
                task,
                optim.optimizer("adam", 0.01),
                source.examples(rows, 12),
                steps=6,
                accumulate=3,
                progress=False,
                mesh=place,
            )
        ends.append(found.trained)
    # each device has 2 of the 4 rows of a part, and no row moves to the other
    assert " all-reduce(" in texts[-1] and "[2,3]" in texts[-1]
    assert "[12,3]" not in texts[-1] and "[4,3]" not in texts[-1]
    for move in ("all-gather", "all-to-all", "collective-permute"):
        assert move not in texts[-1]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *ends
    )


def test_a_step_wants_no_more_rows_than_there_are():
    task, rows = regression_of()
    with pytest.raises(UsageError, match="a step of 32 examples.*24"):
        batches = source.examples(rows, 32)
        loop.fit(task, optim.optimizer("sgd", 0.1), batches, steps=1, accumulate=4)


@pytest.mark.parametrize("dense", [0, 2000])
@pytest.mark.parametrize("strength", [1e-1, 1e-3])
def test_newton_reaches_the_minimum(dense, strength):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 6))
    y = (x @ rng.normal(size=6) + rng.normal(size=200) > 0).astype(np.int32)
    task = linear.logistic(l2=strength)
    rows = source.full({"x": np.float32(x), "y": y})
    options = {"steps": 12, "log_every": 1, "progress": False}
    done = loop.fit(task, optim.newton(dense=dense), rows, **options)
    known = LogisticRegression(
        C=1 / (2 * 200 * strength), solver="newton-cholesky", tol=1e-8
    ).fit(x, y)
    kernel = np.ravel(done.trained.params["dense"]["kernel"])
    np.testing.assert_allclose(kernel, known.coef_.ravel(), atol=2e-5)
    objective = [record["objective"] for record in done.records]
    assert (np.diff(objective) <= 1e-6).all()


def test_newton_stays_where_the_loss_does_not_turn():
    """The mean of all biases changes no probability: it is no way to go."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 3)).astype(np.float32)
    y = (x[:, 0] + rng.normal(size=100) > 0).astype(np.int32)
    rows = source.full({"x": x, "y": y})
    options = {"steps": 40, "log_every": 40, "progress": False}
    task = linear.softmax(2, l2=5e-3)
    done = loop.fit(task, optim.optimizer("newton"), rows, **options)
    assert np.abs(done.trained.params["dense"]["bias"]).max() < 1


def test_newton_descends_where_it_is_not_convex():
    task = supervised.task(mlp.MLP(2, (5,), activation=jax.nn.tanh), supervised.classes)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 2)).astype(np.float32)
    rows = source.full({"x": x, "y": (x[:, 0] * x[:, 1] > 0).astype(np.int32)})
    options = {"steps": 25, "log_every": 1, "progress": False}
    losses = [
        record["loss"]
        for record in loop.fit(task, optim.optimizer("newton"), rows, **options).records
    ]
    assert (np.diff(losses) < 1e-5).all() and losses[-1] < 0.96 * losses[0]
