"""Single examples: their gradients, and what becomes of a model without one of them."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from sklearn.linear_model import LinearRegression, Ridge

from tests.conftest import quick
from train import data as sets
from train import loop, many, optim, source
from train.step import Trained
from zoo import linear, mlp, rnn, supervised
from zoo.base import UsageError

# compiling takes longer than what it shows
pytestmark = pytest.mark.contract

DIABETES, CANCER = (
    jax.tree.map(np.asarray, source.standardized(source.full(rows)).arrays.of(rows))
    for rows in (sets.load(name).train for name in ("diabetes", "breast_cancer"))
)
RANDOM = np.random.default_rng(0)


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0])


def matrix(gradients):
    """[B, P] of a tree [B, ...]."""
    return np.asarray(jax.vmap(lambda tree: ravel_pytree(tree)[0])(gradients))


def sequences(n=6):
    x = RANDOM.normal(size=(n, 5, 3)).astype(np.float32)
    length = 1 + np.arange(n, dtype=np.int32) % 5
    return {"x": x, "length": length, "y": np.arange(n, dtype=np.int32) % 4}


def lstm():
    model = rnn.Classifier(4, rnn.RNN(rnn.LSTM, 8))
    return supervised.task(model, supervised.classes, inputs=("x", "length"))


def steps():
    """A value at every step: examples of different weight."""
    model = rnn.Regressor(2, rnn.RNN(rnn.GRU, 4))
    return supervised.task(model, supervised.regression, inputs=("x", "length"))


def vectors(n=6):
    x = RANDOM.normal(size=(n, 3)).astype(np.float32)
    return {"x": x, "y": np.arange(n, dtype=np.int32) % 4}


def perceptron(**options):
    return supervised.task(mlp.MLP(4, (5,), jnp.tanh), supervised.classes, **options)


CASES = {
    "mlp": (perceptron, vectors),
    "lstm": (lstm, sequences),
    "steps": (steps, lambda: sequences() | {"y": np.ones((6, 5, 2), np.float32)}),
}


def begun(name):
    task, batch = (make() for make in CASES[name])
    return task, Trained(*jax.jit(task.init)(jax.random.key(1), batch)), batch


# Gradients ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_examples_add_up_to_the_batch(name):
    task, trained, batch = begun(name)

    def whole(params, batch):
        key = jax.random.key(0)
        return task.loss(params, trained.model, batch, key, train=False)[0]

    each = jax.jit(lambda batch: many.per_example(task, trained, batch))
    gradient = jax.jit(jax.grad(whole))
    weight = batch["length"] if name == "steps" else np.ones(6)
    for mask in (np.ones(6), np.array([1, 0, 1, 1, 0, 1])):
        some = batch | {"mask": mask.astype(np.float32)}
        # what is dropped may be anything
        some["x"] = np.where(
            mask.reshape(6, *[1] * (batch["x"].ndim - 1)), some["x"], 9
        )
        found = matrix(each(some))
        wanted = flat(gradient(trained.params, some))
        mean = np.average(found, 0, weights=weight * mask)
        np.testing.assert_allclose(mean, wanted, atol=1e-6)
        assert (np.abs(found).max(1) > 1e-4).tolist() == (mask > 0).tolist()


def test_in_training_each_has_the_penalty():
    task, batch = perceptron(l2=0.3), vectors()
    trained = Trained(*task.init(jax.random.key(1), batch))

    def whole(params):
        return task.loss(params, {}, batch, jax.random.key(0), train=True)[0]

    each = jax.jit(many.per_example, static_argnames=("task", "train"))
    found = matrix(each(task, trained, batch, train=True)).mean(0)
    np.testing.assert_allclose(
        found, flat(jax.jit(jax.grad(whole))(trained.params)), atol=1e-6
    )
    bare = matrix(each(task, trained, batch)).mean(0)
    assert np.abs(found - bare).max() > 0.1


def test_noise_scale_is_unbiased():
    """Gradients of known mean and covariance: of few examples each, many times."""
    random = np.random.default_rng(0)
    mean = np.array([1.0, -0.5, 0.2], np.float32)
    root = random.normal(size=(3, 3)).astype(np.float32)
    noise = random.normal(size=(40_000, 5, 3)).astype(np.float32) @ root
    found = jax.vmap(many.noise_scale)({"a": noise + mean[None, None]})
    trace, square = np.trace(root.T @ root), np.sum(mean**2)
    for values, wanted in ((found.trace, trace), (found.square, square)):
        error = np.std(values) / np.sqrt(len(values))
        assert abs(np.mean(values) - wanted) < 4 * error < 0.05 * wanted
    assert np.isinf(found.scale[found.square <= 0]).all()
    # of many examples the quotient too; a mask drops some
    rows = noise.reshape(-1, 3) + mean[None]
    mask = np.arange(len(rows)) % 2
    rows = np.where(mask[:, None], rows, 7)
    scale = many.noise_scale({"a": rows[:, :1], "b": rows[:, 1:]}, mask).scale
    np.testing.assert_allclose(scale, trace / square, rtol=0.05)


# A row left out -----------------------------------------------------------------------


def fitted(task, rows, steps=12):
    found = loop.fit(
        *(task, optim.optimizer("newton"), source.full(rows)),
        steps=steps,
        progress=False,
    )
    return found.trained


def logits(x):
    def of(params):
        dense = params["dense"]
        return (x @ dense["kernel"] + dense["bias"][None])[:, 0]

    return of


@pytest.mark.parametrize("alpha", quick([0.0, 20.0], 20.0))
@pytest.mark.parametrize("dense", quick([2000, 1], 2000))
def test_of_least_squares_it_is_exact(alpha, dense):
    rows = {name: a[:60] for name, a in DIABETES.items()}
    n, x = 60, DIABETES["x"][60:65]
    weight = rows["weight"] = np.linspace(0.5, 1.5, n, dtype=np.float32)
    task = linear.regression(l2=alpha / n)
    found = many.influence(task, fitted(task, rows), rows, logits(x), dense=dense)

    def theirs(index):
        # the penalty of a mean over fewer rows
        strength = alpha / n * weight[index].sum()
        model = Ridge(strength) if alpha else LinearRegression()
        x64, y64 = (rows[k][index].astype(np.float64) for k in ("x", "y"))
        return model.fit(x64, y64, weight[index]).predict(x.astype(np.float64))

    every = np.arange(n)
    wanted = np.array([theirs(every[every != i]) - theirs(every) for i in every])
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(found.newton, wanted, atol=1e-4 * scale)
    assert np.abs(found.plain - wanted).max() > 0.02 * scale


@pytest.mark.contract
def test_of_one_logit_it_is_the_plain_step_by_leverage():
    n, random = 50, np.random.default_rng(0)
    x = random.normal(size=(n, 3)).astype(np.float32)
    y = (x[:, 0] + random.normal(size=n) > 0).astype(np.int32)
    rows, task = {"x": x, "y": y}, linear.logistic()
    trained = fitted(task, rows)
    # what a mask drops has no influence, and is not there for the others
    some = {name: np.concatenate([a[:1], a]) for name, a in rows.items()}
    some["mask"] = np.float32(np.arange(n + 1) > 0)
    found = many.influence(task, trained, some, lambda p: ravel_pytree(p)[0])
    assert not np.any(found.newton[0]) and not np.any(found.plain[0])
    p = 1 / (1 + np.exp(-logits(x)(trained.params)))
    design = np.concatenate([np.ones((n, 1)), x], 1)
    weight = p * (1 - p)
    inverse = np.linalg.inv(design.T * weight[None] @ design)
    leverage = weight * np.sum(design @ inverse * design, 1)
    plain = -(y - p)[:, None] * design @ inverse * n / (n - 1)
    np.testing.assert_allclose(found.plain[1:], plain, atol=1e-4)
    wanted = (1 - 1 / n) * plain / (1 - leverage)[:, None]
    np.testing.assert_allclose(found.newton[1:], wanted, atol=1e-4)
    assert np.abs(plain - wanted).max() > 0.02


@pytest.fixture(scope="module")
def retrained():
    """Logistic regression (C = 1 of scikit-learn) without each of 60 rows: (task,
    trained, functional, what it changes by). It is of 20 logits, and their losses."""
    n = len(CANCER["x"])
    task = linear.logistic(l2=1 / (2 * n))
    trained = fitted(task, CANCER, 20)
    every = np.arange(n, dtype=np.int32)
    kept = np.stack([np.delete(every, i) for i in range(60)])
    ran = many.sweep(
        lambda: (task, optim.optimizer("newton")),
        many.varied(CANCER, many.Folds(kept, every[:60, None]), standardize=False),
        20,
        axes={"fold": range(60)},
        progress=False,
    )
    parts = sets.load("breast_cancer")
    test = source.standardized(source.full(parts.train)).arrays.of(
        {name: array[:20] for name, array in parts.test.items()}
    )
    logit, sign = logits(test["x"]), 1 - 2 * test["y"].astype(np.float32)

    def both(params):
        return jnp.concatenate([logit(params), jax.nn.softplus(sign * logit(params))])

    true = jax.vmap(both)(ran.trained().params) - both(trained.params)[None]
    return task, trained, both, true


def assert_close(predicted, true, within):
    r = np.corrcoef(np.ravel(predicted), np.ravel(true))[0, 1]
    error = np.linalg.norm(predicted - true) / np.linalg.norm(true)
    print(said := f"r {r:.4f}, error {error:.3f} of the change")
    assert r > 0.98 and error < within, said


@pytest.mark.contract
def test_it_is_what_training_without_a_row_does(retrained, monkeypatch):
    task, trained, functional, true = retrained

    def run():
        return many.influence(task, trained, CANCER, functional)

    def is_close(changes):
        assert_close(changes[:60, :20], true[:, :20], 0.12)
        assert_close(changes[:60, 20:], true[:, 20:], 0.05)

    found = run()
    is_close(found.newton)
    # to first order it is too small
    with pytest.raises(AssertionError, match="of the change"):
        is_close(found.plain)
    # and so is a step whose Hessian has the row left in it
    module = importlib.import_module("train.many.influence")
    monkeypatch.setattr(module, "_without", lambda whole, *rest: whole)
    with pytest.raises(AssertionError, match="of the change"):
        is_close(run().newton)


@pytest.mark.contract
def test_of_a_network_too():
    rows = {name: a[:150] for name, a in DIABETES.items()}
    x = DIABETES["x"][200:210]
    model = mlp.MLP(1, (4,), jnp.tanh)
    task = supervised.task(model, supervised.regression, l2=0.05)

    def fit(rows, **options):
        found = loop.fit(
            *(task, optim.optimizer("lbfgs"), source.full(rows)),
            steps=300,
            progress=False,
            **options,
        )
        return found.trained

    def f(params):
        return model.apply({"params": params}, x)[:, 0]

    trained = fit(rows)
    found = many.influence(task, trained, rows, f)
    most = np.argsort(-np.abs(found.newton).max(1))[:6]
    without = [
        fit({k: np.delete(a, i, 0) for k, a in rows.items()}, init=trained.params)
        for i in most
    ]
    true = np.stack([f(other.params) - f(trained.params) for other in without])
    assert_close(found.newton[most], true, 0.2)


def normed(function, *args, **options):
    model = mlp.MLP(4, (5,), batch_norm=True)
    task, batch = supervised.task(model, supervised.classes), vectors()
    trained = Trained(*task.init(jax.random.key(0), batch))
    matrix(many.per_example(task, trained, batch))  # in evaluation it may
    function(task, trained, batch, *args, **options)


def dropped():
    return supervised.task(mlp.MLP(1, (9,), dropout=0.5), supervised.binary)


def spread():
    """With labels smoothed, started where its objective differs by row."""
    return supervised.task(mlp.MLP(2, (3,)), supervised.smoothed(0.3))


def began(task, functional=lambda p: ravel_pytree(p)[0], n=20):
    rows = {name: a[:n] for name, a in CANCER.items()}
    trained = Trained(*task.init(jax.random.key(0), rows))
    many.influence(task, trained, rows, functional)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: normed(many.per_example, train=True), "the model has batch norm"),
        (lambda: normed(many.influence, flat), "the model has batch norm"),
        (lambda: many.noise_scale({"a": np.ones((1, 3))}), "2 or more examples"),
        (lambda: began(linear.logistic()), "found a gradient of"),
        (lambda: began(linear.logistic(), n=1), "expected 2 or more rows"),
        (lambda: began(linear.logistic(), lambda p: jnp.ones(())), r"found \(\)"),
        (lambda: began(dropped()), "found .*: dropout"),
        (lambda: began(spread()), "as smoothed labels have"),
        (lambda: many.largest(lambda v: v, np.ones(3), 4), "expected n <= steps <= 3"),
    ],
)
def test_a_mistake_is_named(call, match):
    with pytest.raises(UsageError, match=match):
        call()


# Curvature ----------------------------------------------------------------------------


def curved(name):
    """(product, parameters, the Hessian as a matrix [P, P])."""
    if name == "ridge":
        rows, task = DIABETES, linear.regression(l2=0.1)
    else:
        rows, task = vectors(30), perceptron()
    trained = Trained(*task.init(jax.random.key(2), rows))
    w, restore = ravel_pytree(trained.params)
    if name == "ridge":  # a bias stands before the kernel
        x = np.concatenate([np.ones((len(rows["x"]), 1)), rows["x"]], 1)
        hessian = 2 * x.T @ x / len(x)
    else:

        def loss(w):
            key = jax.random.key(0)
            return task.loss(restore(w), {}, rows, key, train=False)[0]

        hessian = jax.jit(jax.hessian(loss))(w)
    return many.hessian_vector(task, trained, rows), trained.params, hessian


@pytest.mark.contract
@pytest.mark.parametrize("name", quick(["ridge", "mlp"], "mlp"))
def test_curvature_is_that_of_the_whole_matrix(name):
    product, params, hessian = curved(name)
    w, restore = ravel_pytree(params)
    v = np.random.default_rng(0).normal(size=w.size).astype(np.float32)
    np.testing.assert_allclose(flat(product(restore(v))), hessian @ v, atol=1e-5)
    wanted = np.linalg.eigvalsh(hessian)[::-1]
    n, steps = {"ridge": (w.size, None), "mlp": (2, 16)}[name]
    values, bounds = many.largest(product, params, n, steps=steps)
    wrong = np.abs(values - wanted[:n])
    assert (wrong <= bounds + 1e-5 * wanted[0]).all()
    assert max(wrong.max(), bounds.max()) < 1e-2 * wanted[0]
    found, error = many.trace(product, params, samples=200)
    assert abs(found - np.trace(hessian)) < 4 * error + 1e-4
    assert error < 0.1 * np.trace(hessian)


def test_trace_and_its_error_are_unbiased():
    a = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    a = a + a.T
    found, error = jax.vmap(
        lambda seed: many.trace(lambda v: a @ v, np.ones(8), samples=20, seed=seed)
    )(np.arange(400))
    # of random signs: twice the squares beside the diagonal
    deviation = np.sqrt(2 * (np.sum(a**2) - np.sum(np.diag(a) ** 2)) / 20)
    assert abs(np.mean(found) - np.trace(a)) < 4 * deviation / 20
    np.testing.assert_allclose(np.std(found), deviation, rtol=0.15)
    np.testing.assert_allclose(np.sqrt(np.mean(error**2)), deviation, rtol=0.05)


def test_eigenvalues_that_are_equal_are_all_found():
    scale = np.array([5.0, 5, 5, 3, 3, 1, 0, 0, -2], np.float32)
    values, _ = many.largest(lambda v: scale * v, np.ones(9, np.float32), 9)
    np.testing.assert_allclose(values, scale, atol=1e-4)
