"""Boltzmann machines against all of their states, counted one by one in float64."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import BernoulliRBM

from tests.conftest import quick
from tests.test_recipes import fit
from train.data import Split
from train.recipes import RECIPES, prepare
from zoo import belief, energy
from zoo.base import UsageError

# compiling takes longer than what it shows
pytestmark = pytest.mark.contract

V, H = 5, 3


def states(n):
    """All of {0, 1}^n, float64 [2^n, n]."""
    return np.array(list(itertools.product((0.0, 1.0), repeat=n)))


def machine(likelihood="bernoulli", visible=V, units=H, size=1.0, seed=0):
    """A machine of random parameters."""
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (visible, units), "visible_bias": visible}
    shapes["hidden_bias"] = units
    params = {k: rng.normal(0, size, s).astype("f4") for k, s in shapes.items()}
    model = energy.RBM(visible, units, likelihood)
    return model, {"params": jax.tree.map(jnp.asarray, params)}


def arrays(variables):
    """W, a, b in float64."""
    names = ("kernel", "visible_bias", "hidden_bias")
    return (np.asarray(variables["params"][name], np.float64) for name in names)


def joint(variables):
    """p(v, h) of a binary machine [2^V, 2^H], and log Z: by the definition alone."""
    w, a, b = arrays(variables)
    v, h = states(len(a)), states(len(b))
    minus = v @ a[:, None] + (h @ b)[None] + v @ w @ h.T
    log_z = np.log(np.exp(minus).sum())
    return np.exp(minus - log_z), log_z


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# Energies -----------------------------------------------------------------------------


def test_a_free_energy_sums_over_hidden_states():
    model, variables = machine()
    p, log_z = joint(variables)
    close(
        model.apply(variables, jnp.asarray(states(V), "f4")) + np.log(p.sum(1)), -log_z
    )
    h = states(H)
    for i in (0, 3, 7):
        v, each = (jnp.asarray(s, "f4") for s in (states(V), np.tile(h[i], (2**V, 1))))
        found = model.apply(variables, v, each, method="energy")
        close(found, -np.log(p[:, i]) - log_z)


def test_units_given_the_other_layer_are_those_of_the_joint():
    model, variables = machine()
    p, _ = joint(variables)
    v, h = states(V), states(H)
    up = jax.nn.sigmoid(model.apply(variables, jnp.asarray(v, "f4"), method="up"))
    close(up, (p @ h) / p.sum(1, keepdims=True))
    down = jax.nn.sigmoid(model.apply(variables, jnp.asarray(h, "f4"), method="down"))
    close(down, (p.T @ v) / p.sum(0)[:, None])


def test_a_gaussian_machine_is_a_mixture_of_normals():
    model, variables = machine("gaussian", units=3)
    w, a, b = arrays(variables)
    h, v = states(3), np.random.default_rng(1).normal(size=(7, V))
    means = a + h @ w.T
    # the weight of each state, and of v the sum of normals with them
    log_weight = h @ b + 0.5 * ((means**2).sum(1) - (a**2).sum())
    square = ((v[:, None] - means[None]) ** 2).sum(-1)
    density = (np.exp(log_weight - 0.5 * square)).sum(1)
    close(model.apply(variables, jnp.asarray(v, "f4")), -np.log(density))
    log_z = np.log(np.exp(log_weight).sum()) + V / 2 * np.log(2 * np.pi)
    close(energy.log_partition(model, variables), log_z)


def test_the_pseudo_likelihood_is_that_of_the_joint():
    model, variables = machine()
    p = joint(variables)[0].sum(1)
    v = states(V)
    number = (v @ 2 ** np.arange(V)[::-1]).astype(int)  # of a state in their order
    each = np.zeros((2**V, V))
    for i in range(V):
        flipped = v.copy()
        flipped[:, i] = 1 - v[:, i]
        other = p[(flipped @ 2 ** np.arange(V)[::-1]).astype(int)]
        each[:, i] = np.log(p[number] / (p[number] + other))
    x = jnp.asarray(v, "f4")
    close(model.apply(variables, x, method="pseudo_likelihood"), each.sum(1))
    for i in range(V):
        one = jnp.full(2**V, i), "one_of_pseudo_likelihood"
        close(model.apply(variables, x, one[0], method=one[1]), V * each[:, i])


def test_the_objective_of_score_matching_is_that_of_derivatives():
    model, variables = machine("gaussian")
    x = jnp.asarray(np.random.default_rng(2).normal(size=(4, V)), "f4")

    def log_density(v):
        return -model.apply(variables, v[None])[0]

    slope = jax.jit(jax.vmap(jax.grad(log_density)))(x)
    bend = jax.jit(jax.vmap(jax.hessian(log_density)))(x)
    wanted = 0.5 * (slope**2).sum(1) + jnp.trace(bend, axis1=1, axis2=2)
    close(model.apply(variables, x, method="score_matching"), wanted, 1e-4)


# Learning -----------------------------------------------------------------------------


def exact_gradient(variables, x):
    """Of -log p(x), the mean over x [N, V]: <dF>_data - <dF>_model, by counting."""
    w, a, b = arrays(variables)
    p = joint(variables)[0]
    v, h = states(V), states(H)

    def expected(v, weight):
        up = 1 / (1 + np.exp(-(v @ w + b)))
        return {
            "kernel": (v * weight[:, None]).T @ up,
            "visible_bias": weight @ v,
            "hidden_bias": weight @ up,
        }

    model = expected(v, p.sum(1))
    close(model["kernel"], v.T @ p @ h)  # of the joint itself
    data = expected(x, np.full(len(x), 1 / len(x)))
    return {name: model[name] - data[name] for name in data}


@partial(jax.jit, static_argnums=0)
def gradient(task, variables, state, x, key=0):
    """Of a step's loss, and what else it gives."""

    def loss(params):
        return task.loss(params, state, {"x": x}, jax.random.key(key), train=True)

    return jax.grad(loss, has_aux=True)(variables["params"])


def errors(found, wanted):
    """The largest error of each array."""
    return {k: np.abs(np.asarray(found[k]) - wanted[k]).max() for k in wanted}


N = 40_000  # a mean of so many units has a deviation of at most .5 / 200 = .0025
NEAR = 4.5 * 0.5 / N**0.5


@pytest.mark.parametrize("chains", quick([0, N], 0))
def test_long_chains_give_the_gradient_of_the_likelihood(chains):
    model, variables = machine(size=0.7)
    x = np.random.default_rng(3).integers(0, 2, (8, V)).astype("f4")
    rows = jnp.tile(x, (1 if chains else N // 8, 1))
    task = energy.task(model, turns=30, chains=chains)
    _, state = task.init(jax.random.key(1), {"x": rows})
    found, aux = gradient(task, variables, state, rows)
    wanted = exact_gradient(variables, x)
    assert max(errors(found, wanted).values()) < NEAR
    # what people get wrong is seen: too short a chain, a sign, no model's part
    short = energy.task(model, turns=1)
    biased, _ = gradient(short, variables, {}, jnp.tile(x, (N // 8, 1)))
    assert max(errors(biased, wanted).values()) > 3 * NEAR
    free = jax.grad(lambda p: model.apply({"params": p}, rows).mean())
    assert max(errors(free(variables["params"]), wanted).values()) > 3 * NEAR


def test_persistent_chains_reach_the_model_and_are_left_there():
    model, variables = machine(size=1.2)
    x = jnp.zeros((4, V))
    task = energy.task(model, turns=1, chains=N)
    _, state = task.init(jax.random.key(1), {"x": x})
    wanted = exact_gradient(variables, np.zeros((4, V)))
    far = gradient(task, variables, state, x)[0]
    assert max(errors(far, wanted).values()) > 3 * NEAR
    for key in range(30):
        found, aux = gradient(task, variables, state, x, key)
        state = aux.state
    assert state["chains"].dtype == bool and state["chains"].shape == (N, V)
    assert max(errors(found, wanted).values()) < NEAR
    p = joint(variables)[0].sum(1)
    number = np.asarray(state["chains"]) @ 2 ** np.arange(V)[::-1]
    share = np.bincount(number, minlength=2**V) / N
    assert np.abs(share - p).max() < 4.5 * (0.25 / N) ** 0.5


@pytest.mark.contract
def test_gaussian_chains_have_the_moments_of_the_mixture():
    model, variables = machine("gaussian", size=0.7)
    w, a, b = arrays(variables)
    h = states(H)
    means = a + h @ w.T
    log_weight = h @ b + 0.5 * (means**2).sum(1)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    mean = weight @ means
    second = np.einsum("k,ki,kj->ij", weight, means, means) + np.eye(V)
    v = jnp.zeros((N, V))
    v = np.asarray(energy.gibbs(model, variables, jax.random.key(0), v, 40))
    spread = np.sqrt(np.diag(second).max())
    close(v.mean(0), mean, 4.5 * spread / N**0.5)
    assert np.abs(v.T @ v / N - second).max() < 15 * spread**2 / N**0.5


@pytest.mark.parametrize("likelihood", energy.LIKELIHOODS)
def test_a_step_is_the_difference_of_correlations(likelihood):
    """CD's gradient as Hinton 2002 writes it: <v h>_reached - <v h>_data."""
    model, variables = machine(likelihood)
    rng = np.random.default_rng(4)
    x = jnp.asarray(rng.integers(0, 2, (6, V)), "f4")
    task, key = energy.task(model, turns=2), jax.random.key(0)
    found, _ = gradient(task, variables, {}, x)
    walk = jax.random.split(key)[0]
    reached = np.asarray(energy.gibbs(model, variables, walk, x, 2), np.float64)
    w, a, b = arrays(variables)

    def correlation(v):
        return v.T @ (1 / (1 + np.exp(-(v @ w + b)))) / len(v)

    close(found["kernel"], correlation(reached) - correlation(np.asarray(x)))
    close(found["visible_bias"], reached.mean(0) - np.asarray(x).mean(0))


def test_the_loss_of_training_is_an_unbiased_one_of_evaluation():
    model, variables = machine()
    x = jnp.tile(jnp.asarray(states(V)[5:9], "f4"), (5000, 1))
    task, params = energy.task(model), variables["params"]
    losses = [
        task.loss(params, {}, {"x": x}, jax.random.key(0), train=train)[1]
        for train in (True, False)
    ]
    found, wanted = (aux.metrics["loss"].value() for aux in losses)
    assert abs(found - wanted) < 0.1 and wanted > 1


# Partition functions ------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 14)])
def test_a_partition_function_counts_every_state(shape):
    model, variables = machine("bernoulli", *shape)
    close(energy.log_partition(model, variables), joint(variables)[1])


@pytest.mark.contract
@pytest.mark.parametrize("likelihood", quick(energy.LIKELIHOODS, "bernoulli"))
def test_annealing_finds_the_partition_function(likelihood):
    model, variables = machine(likelihood, 12, 8, size=0.8)
    exact = energy.log_partition(model, variables)
    run = jax.jit(energy.annealed, static_argnums=0, static_argnames=("temperatures",))
    key = jax.random.key(0)
    found, error = run(model, variables, key, temperatures=1000)
    assert abs(found - exact) < 0.1 and error < 0.05
    near = run(model, variables, key, temperatures=1000, base=0.5 + jnp.zeros(12))
    assert abs(near[0] - exact) < 0.1
    # a hundredth of a unit's bias, or one temperature for all, would be seen
    wrong = {
        **variables["params"],
        "hidden_bias": variables["params"]["hidden_bias"] + 0.1,
    }
    assert abs(run(model, {"params": wrong}, key, temperatures=1000)[0] - exact) > 0.2
    rough, doubt = run(model, variables, key, temperatures=2)
    assert abs(rough - exact) > 0.2 and doubt > error


# Beside scikit-learn ------------------------------------------------------------------


def digits(part=0.0, seed=0, **flags):
    """The recipe, small, on black and white digits."""
    return prepare(RECIPES["rbm"], Split("digits", part, seed), latent=64, **flags)


def of_sklearn(machine):
    """Its machine as one of ours."""
    params = {"kernel": machine.components_.T, "hidden_bias": machine.intercept_hidden_}
    params["visible_bias"] = machine.intercept_visible_
    model = energy.RBM(*params["kernel"].shape)
    return model, {"params": jax.tree.map(lambda a: jnp.asarray(a, "f4"), params)}


def test_a_machine_of_scikit_learn_has_the_same_features_and_likelihood():
    x = digits().parts.train["x"].reshape(-1, 64)[:200]
    theirs = BernoulliRBM(16, n_iter=2, random_state=0).fit(x)
    model, variables = of_sklearn(theirs)
    close(belief.features(model, variables, jnp.asarray(x)), theirs.transform(x))
    exact = model.apply(variables, jnp.asarray(x), method="pseudo_likelihood").mean()
    # theirs is of a random unit, like ours in training
    theirs.set_params(random_state=np.random.RandomState(0))
    drawn = [theirs.score_samples(x).mean() for _ in range(100)]
    assert abs(np.mean(drawn) - exact) < 4 * np.std(drawn) / 10


def likelihood(machine, x):
    """The mean pseudo-likelihood of x [N, 64]."""
    model, variables = machine
    run = jax.jit(model.apply, static_argnames="method")
    found = run(variables, jnp.asarray(x), method="pseudo_likelihood")
    return float(found.mean())


def judged(machine, data):
    """That of test rows, and how well their features tell the classes."""
    flat = [part["x"].reshape(-1, 64) for part in (data.train, data.test)]
    train, test = (np.asarray(belief.features(*machine, jnp.asarray(x))) for x in flat)
    readout = LogisticRegression(max_iter=1000).fit(train, data.train["y"])
    return likelihood(machine, flat[1]), readout.score(test, data.test["y"])


@pytest.mark.slow
def test_a_machine_is_no_worse_than_one_of_scikit_learn(capsys):
    """Means of three seeds; the rate of each is chosen on watched rows."""

    def ours(rate, data, seed):
        recipe = digits(0.2, seed, learning_rate=rate)
        return recipe.network, {"params": fit(recipe, seed).trained.params}

    def theirs(rate, data, seed):
        fields = {"learning_rate": rate, "n_iter": 60, "random_state": seed}
        x = data.train["x"].reshape(-1, 64)
        return of_sklearn(BernoulliRBM(64, **fields).fit(x))

    kinds = {ours: (0.005, 0.01), theirs: (0.01, 0.03, 0.1)}
    found = {kind.__name__: [] for kind in kinds}
    for seed in range(3):
        data = digits(0.2, seed).parts
        watched = data.watched["x"].reshape(-1, 64)
        for kind, rates in kinds.items():
            tried = [kind(rate, data, seed) for rate in rates]
            scores = [likelihood(machine, watched) for machine in tried]
            best = tried[int(np.argmax(scores))]
            found[kind.__name__].append(judged(best, data))
    mean = {name: np.mean(each, 0) for name, each in found.items()}
    with capsys.disabled():
        print(f"\nnats an image, accuracy: {mean}, of {found}")
    assert (mean["ours"] >= mean["theirs"]).all()


# The recipe ---------------------------------------------------------------------------


@pytest.mark.contract
@pytest.mark.parametrize("likelihood", energy.LIKELIHOODS)
def test_a_run_says_the_likelihood_and_draws_what_it_should(likelihood):
    flags = {"latent": 8, "steps": 300, "likelihood": likelihood}
    recipe = prepare(RECIPES["rbm"], data="digits", **flags)
    trained, data = fit(recipe).trained, recipe.parts
    found = recipe.report.measure(trained, data)
    variables = {"params": trained.params}
    exact = energy.log_partition(recipe.network, variables)
    assert abs(found.scores["log_z"] - exact) < 0.1
    free = recipe.network.apply(variables, data.test["x"]).mean()
    assert abs(found.scores["log_likelihood"] + free + exact) < 0.1
    begun = jax.jit(recipe.task.init)(jax.random.key(0), {"x": data.train["x"][:1]})[0]
    other = recipe.report.measure(trained._replace(params=begun), data)
    assert found.scores["log_likelihood"] > other.scores["log_likelihood"] + 5
    drawn = recipe.report.sample(trained, None, 0, 9)
    assert drawn.shape == (9, 8, 8, 1) and drawn.min() >= 0 and drawn.max() <= 1
    assert np.ptp(drawn, 0).max() > 1e-3  # not all one image
    for name, make in found.files.items():
        assert name in ("filters.png", "recall.png") and make().axes


def test_what_a_machine_sees_is_black_and_white_or_standardised():
    x = digits().parts.train["x"]
    assert set(np.unique(x)) == {0, 1}
    x = digits(likelihood="gaussian").parts.train["x"]
    assert abs(x.mean()) < 1e-5 and abs(x.std() - 1) < 1e-5


@pytest.mark.parametrize(
    "flags, words",
    [
        ({"data": "wine"}, "images"),
        ({"likelihood": "poisson"}, "unknown likelihood 'poisson'"),
        ({"latent": 0}, "hidden units"),
        ({"turns": 0}, "turns"),
        ({"chains": -1}, "chains"),
    ],
)
def test_a_recipe_refuses_what_cannot_be(flags, words):
    with pytest.raises(UsageError, match=words):
        recipe = prepare(RECIPES["rbm"], **{"data": "digits"} | flags)
        recipe.task.init(jax.random.key(0), {"x": recipe.parts.train["x"][:2]})


# Mistakes -----------------------------------------------------------------------------


def begun(visible=V, units=H, likelihood="bernoulli", dtype=None, size=V):
    model = energy.RBM(visible, units, likelihood)
    return model.init(jax.random.key(0), jnp.zeros((2, size), dtype))


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: begun(likelihood="poisson"), "unknown likelihood 'poisson'"),
        (lambda: begun(size=4), r"5 visible units, found shape \(4,\)"),
        (lambda: begun(dtype=int), "floating-point"),
        (lambda: begun(units=0), "hidden units"),
        (lambda: energy.task(machine()[0], turns=0), "turns"),
        (lambda: energy.task(machine()[0], chains=-1), "chains"),
        (lambda: energy.log_partition(*machine(visible=30, units=30)), "at most 24"),
        (lambda: energy.annealed(*machine(), jax.random.key(0), chains=1), "chains"),
    ],
)
def test_a_mistake_is_a_sentence(make, words):
    with pytest.raises(UsageError, match=words):
        make()
