"""Soft actor-critic: its densities, its targets, and closed forms that it finds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.test_rl import at
from train import many, optim
from train import source as sources
from train import step as one
from zoo import environments, sac
from zoo.base import UsageError

# compiling takes longer than what it shows
pytestmark = pytest.mark.contract

BEST, SHARP = 0.3, 4.0  # of an action in (-1, 1): what a bandit pays is -4 (a - 0.3)^2


def bandit():
    """A step that ends at once, and pays by the square of how far one is off."""

    def step(state, action, key):
        reward = -SHARP / 4 * jnp.square(action[0] - 2 * BEST)
        return environments.Outcome(state, reward, jnp.ones((), bool))

    return environments.checked(
        environments.Environment(
            *("bandit", lambda key: jnp.ones(1), step, lambda state: state),
            *((1,), 0, 1, 2.0),
        )
    )


class Quadratic(nn.Module):
    """Critics that can be exactly right about the bandit."""

    @nn.compact
    def __call__(self, x, action):
        return nn.Dense(2)(jnp.concatenate([action, jnp.square(action)], -1))


BANDIT = sac.Networks(sac.Actor(1, ()), Quadratic())


# -- Densities -------------------------------------------------------------------------


def density_is_that_of_a_change_of_variables():
    from scipy import stats

    random = np.random.default_rng(0)
    found = random.normal(size=(200, 4)).astype(np.float32) * 0.7
    noise = random.normal(size=(200, 2)).astype(np.float32)
    action, own = sac.squashed(jnp.asarray(found), jnp.asarray(noise))
    mean, scale = np.split(found.astype(np.float64), 2, 1)
    z = mean + np.exp(scale) * noise
    np.testing.assert_allclose(action, np.tanh(z), atol=1e-6)
    slope = np.log(np.cosh(z)) * 2  # log dz/da, a = tanh z
    expected = stats.norm(mean, np.exp(scale)).logpdf(z) + slope
    np.testing.assert_allclose(own, expected.sum(1), atol=1e-4)


def density_sums_to_1():
    noise = np.linspace(-8, 8, 20_001, dtype=np.float32)[:, None]
    for mean, scale in ((0.0, 0.0), (1.0, -1.0), (-0.5, 0.6)):
        found = np.tile(np.float32([mean, scale]), (len(noise), 1))
        action, own = sac.squashed(jnp.asarray(found), jnp.asarray(noise))
        total = np.trapezoid(np.exp(np.float64(own)), np.float64(action)[:, 0])
        assert total == pytest.approx(1, abs=2e-3)


def test_the_density_is_that_of_a_change_of_variables():
    density_is_that_of_a_change_of_variables()


def test_the_density_sums_to_1():
    density_sums_to_1()


def test_the_density_is_finite_where_tanh_is_1():
    found, noise = jnp.array([[30.0, 0.0], [-30.0, 0.0]]), jnp.zeros((2, 1))

    def density(found):
        return sac.squashed(found, noise)[1].sum()

    # log(1 - tanh(z)^2) is 2 (log 2 - |z|) there
    normal = -0.5 * np.log(2 * np.pi)
    expected = 2 * (normal - 2 * (np.log(2) - 30))
    assert float(density(found)) == pytest.approx(expected, rel=1e-6)
    slope = jax.grad(density)(found)
    np.testing.assert_allclose(slope, [[2, -1], [-2, -1]], atol=1e-5)


# -- What actions turned out to be worth -----------------------------------------------


def targets_are_those_of_a_loop():
    random = np.random.default_rng(0)
    reward, density = random.normal(size=(2, 20)).astype(np.float32)
    over, later = random.random(20) < 0.3, random.normal(size=(20, 2))
    found = sac.targets(reward, over, later.astype(np.float32), density, 0.2, 0.9)
    for i in range(20):
        soft = min(later[i]) - 0.2 * density[i]
        expected = reward[i] + (0.0 if over[i] else 0.9 * soft)
        assert float(found[i]) == pytest.approx(expected, abs=1e-5)


def test_targets_are_those_of_a_loop():
    targets_are_those_of_a_loop()


class Sure(nn.Module):
    """An actor whose noise is nothing."""

    @nn.compact
    def __call__(self, x):
        mean = nn.Dense(1)(x)
        return jnp.concatenate([mean, jnp.full_like(mean, -15.0)], -1)


def surprise_is_that_of_numpy():
    """Without noise and temperature a step of the pendulum is all that it learns of."""
    world = environments.pendulum()
    model = sac.Networks(Sure(), sac.Critics((4,)))
    options = {"memory": 1, "batch_size": 3, "temperature": 0.0, "warmup": 0}
    task = sac.task(world, model, **options, discount=0.9, pace=0.25)
    state = one.init(task, optim.optimizer("sgd", 1.0), 0, {})
    params = jax.tree.map(lambda a: a + 0.1, state.params)
    loss = jax.jit(functools.partial(task.loss, train=True))
    aux = loss(params, state.model, at(0), jax.random.key(1))[1]
    target = jax.tree.map(
        lambda old, new: 0.75 * old + 0.25 * new,
        state.model.target,
        params["critic"],
    )
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5),
        aux.state.target,
        target,
    )
    seen = jax.tree.map(lambda a: np.asarray(a[0], np.float64), aux.state.memory)

    def worth(critic, x, action):
        def net(name):
            first, last = critic[name]["Dense_0"], critic[name]["Dense_1"]
            inputs = np.concatenate([x, action])
            hidden = np.maximum(inputs @ first["kernel"] + first["bias"], 0)
            return (hidden @ last["kernel"] + last["bias"])[0]

        return np.array([net("a"), net("b")])

    def act(x):
        dense = params["actor"]["Dense_0"]
        return np.tanh(x @ dense["kernel"] + dense["bias"])

    later = worth(target, seen.following, act(seen.following)).min()
    found = seen.reward + 0.9 * later
    q = worth(params["critic"], seen.observation, seen.action)
    best = worth(params["critic"], seen.observation, act(seen.observation)).min()
    metrics = {name: float(mean.value()) for name, mean in aux.metrics.items()}
    assert metrics["critic"] == pytest.approx(0.5 * ((q - found) ** 2).sum(), rel=1e-4)
    assert metrics["actor"] == pytest.approx(-best, rel=1e-4, abs=1e-5)
    assert metrics["q"] == pytest.approx(q.mean(), rel=1e-4, abs=1e-5)
    torque = 2 * act(seen.observation)
    np.testing.assert_allclose(2 * seen.action, torque, atol=1e-4)


def test_the_surprise_is_that_of_numpy():
    surprise_is_that_of_numpy()


# -- Whose gradient it is --------------------------------------------------------------


def each_part_has_its_own_gradient():
    """The derivatives of each part of the loss by each part of the parameters."""
    world = environments.pendulum()
    task = sac.task(world, sac.networks((8,)), memory=4, batch_size=8, warmup=0)
    state = one.init(task, optim.optimizer("sgd", 1.0), 0, {})

    def losses(params):
        key = jax.random.key(1)
        value, aux = task.loss(params, state.model, at(0), key, train=True)
        parts = {name: aux.metrics[name].value() for name in ("critic", "actor")}
        return parts | {"log_temperature": value - sum(parts.values())}

    found = jax.jit(jax.jacrev(losses))(state.params)
    for part, slopes in found.items():
        for name, slope in slopes.items():
            size = max(float(np.abs(a).max()) for a in jax.tree.leaves(slope))
            # the difference of losses is rounded, and its derivatives cancel
            assert size > 1e-3 if name == part else size < 1e-5, (part, name, size)


def test_each_part_has_its_own_gradient():
    each_part_has_its_own_gradient()


def test_playing_is_uniform_and_nothing_moves_before_the_warmup_is_over():
    options = {"environments": 500, "memory": 1000, "warmup": 2}
    task = sac.task(bandit(), BANDIT, **options)
    optimizer = optim.optimizer("adam", 1e-2)
    state = one.init(task, optimizer, 0, {})
    update = jax.jit(one.make_step(task, optimizer))
    begin, moved = state.params, []
    for step in range(3):
        state, _ = update(state, at(step))
        moved.append(
            not jax.tree.all(jax.tree.map(np.array_equal, begin, state.params))
        )
        if step == 1:
            action = np.asarray(state.model.memory.action)
            ranks = np.sort(action[:, 0])  # 1,000 uniform numbers: deviations of 0.03
            np.testing.assert_allclose(ranks, np.linspace(-1, 1, 1000), atol=0.12)
            pays = -SHARP * (action[:, 0] - BEST) ** 2
            np.testing.assert_allclose(state.model.memory.reward, pays, atol=1e-5)
    assert moved == [False, False, True]


# -- What it finds ---------------------------------------------------------------------


def learned(seeds, steps, **options):
    """Parameters of several seeds, one program; mean and deviation of their actions."""
    options |= {"environments": 4, "memory": 4 * steps, "batch_size": 128}
    task = sac.task(bandit(), BANDIT, **options, warmup=400)
    optimizer = optim.optimizer("adam", optim.schedule("cosine", 2e-2, steps))
    update = one.make_step(task, optimizer)

    def train(seed):
        state = one.init(task, optimizer, seed, {})

        def body(rest, t):
            return update(one.State(t, *rest), at(t))[0][1:], None

        return jax.lax.scan(body, tuple(state)[1:], jnp.arange(steps))[0][0]

    def at(t):
        return {"step": t[None]}

    params = jax.jit(jax.vmap(train))(jnp.arange(seeds))
    found = jax.vmap(lambda p: BANDIT.actor.apply({"params": p}, jnp.ones((1, 1))))
    mean, scale = np.split(np.asarray(found(params["actor"]), np.float64)[:, 0], 2, 1)
    noise, weight = np.polynomial.hermite_e.hermegauss(60)
    action = np.tanh(mean + np.exp(scale) * noise)
    weight /= weight.sum()
    middle = action @ weight
    spread = np.sqrt(np.square(action - middle[:, None]) @ weight)
    return params, middle, spread


def it_finds_the_soft_optimal_policy():
    """exp(reward / temperature): normal about the best, variance temperature / 8."""
    heat = 0.08
    params, middle, spread = learned(3, 2000, temperature=heat)
    kernel = np.asarray(params["critic"]["Dense_0"]["kernel"])
    np.testing.assert_allclose(kernel[:, 0], 2 * SHARP * BEST, rtol=3e-2)
    np.testing.assert_allclose(kernel[:, 1], -SHARP, rtol=3e-2)
    np.testing.assert_allclose(middle, BEST, atol=0.01)
    np.testing.assert_allclose(spread, np.sqrt(heat / (2 * SHARP)), rtol=0.05)


def it_finds_the_temperature_of_an_entropy():
    """An entropy has one variance, and that has one temperature."""
    entropy = -0.8
    params, middle, spread = learned(3, 2000, target_entropy=entropy)
    deviation = np.exp(entropy) / np.sqrt(2 * np.pi * np.e)
    np.testing.assert_allclose(middle, BEST, atol=0.015)
    np.testing.assert_allclose(spread, deviation, rtol=0.06)
    heat = np.exp(np.asarray(params["log_temperature"]))
    np.testing.assert_allclose(heat, 2 * SHARP * deviation**2, rtol=0.12)


@pytest.mark.contract
def test_it_finds_the_soft_optimal_policy_with_several_seeds():
    it_finds_the_soft_optimal_policy()


@pytest.mark.contract
def test_it_finds_the_temperature_of_an_entropy_with_several_seeds():
    it_finds_the_temperature_of_an_entropy()


# -- Faults of the kind people make ----------------------------------------------------


def with_no_slope(squashed):
    """The density of what comes before tanh."""

    def wrong(found, noise):
        action, density = squashed(found, noise)
        z = jnp.arctanh(jnp.clip(action, -0.999999, 0.999999))
        return action, density - 2 * jnp.log(jnp.cosh(z)).sum(-1)

    return wrong


def of_tanh(squashed):
    """1 - tanh(action)^2 for 1 - action^2."""

    def wrong(found, noise):
        action, density = squashed(found, noise)
        more = jnp.log(1 - jnp.square(action) + 1e-6)
        return action, density + (more - 2 * -jnp.log(jnp.cosh(action))).sum(-1)

    return wrong


def less(targets):
    """Entropy is a cost."""
    return lambda r, over, later, density, *rest: targets(
        r, over, later, -density, *rest
    )


def believing(targets):
    """The mean of the critics is believed."""

    def wrong(r, over, later, *rest):
        mean = later.mean(-1, keepdims=True)
        return targets(r, over, jnp.concatenate([mean, mean], -1), *rest)

    return wrong


def endless(targets):
    """Something follows an end."""
    return lambda r, over, *rest: targets(r, over & False, *rest)


def halved(squashed):
    def wrong(found, noise):
        action, density = squashed(found, noise)
        return action, density / 2

    return wrong


def backward(slowly):
    return lambda target, params, pace: slowly(params, target, pace)


FAULTS = [
    ("slope", density_is_that_of_a_change_of_variables, "squashed", with_no_slope),
    ("slope of a slope", density_sums_to_1, "squashed", of_tanh),
    ("entropy a cost", targets_are_those_of_a_loop, "targets", less),
    ("the mean critic", targets_are_those_of_a_loop, "targets", believing),
    ("no end", targets_are_those_of_a_loop, "targets", endless),
    ("the mean critic", surprise_is_that_of_numpy, "targets", believing),
    ("a pace of 0.75", surprise_is_that_of_numpy, "slowly", backward),
    (
        "parts that see each other",
        each_part_has_its_own_gradient,
        *("stop_gradient", lambda _: lambda x: x),
    ),
]


@pytest.mark.parametrize("name, holds, where, make", FAULTS)
def test_a_planted_fault_is_seen(name, holds, where, make, monkeypatch):
    monkeypatch.setattr(sac, where, make(getattr(sac, where)))
    with pytest.raises(AssertionError):
        holds()


@pytest.mark.contract
@pytest.mark.parametrize(
    "holds", [it_finds_the_soft_optimal_policy, it_finds_the_temperature_of_an_entropy]
)
def test_closed_forms_see_half_an_entropy(holds, monkeypatch):
    monkeypatch.setattr(sac, "squashed", halved(sac.squashed))
    with pytest.raises(AssertionError):
        holds()


# -- What cannot be right --------------------------------------------------------------


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("cartpole", {}, "expected an environment of real actions within a bound, "),
        (
            "pendulum",
            {"memory": 15, "environments": 10},
            "expected a memory of whole steps of 10, found one of 15",
        ),
        ("pendulum", {"pace": 2.0}, r"expected pace in \[0, 1\], found 2"),
        ("pendulum", {"batch_size": 0}, "expected batch_size between 1 and"),
        ("pendulum", {"temperature": -1.0}, "expected a temperature >= 0, found -1"),
    ],
)
def test_what_cannot_be_right_is_refused(name, options, message):
    world = environments.ENVIRONMENTS[name]()
    with pytest.raises(UsageError, match=message):
        sac.task(world, sac.networks(), **options)


@pytest.mark.long
@pytest.mark.slow
def test_it_swings_the_pendulum_up_with_every_seed(capsys):
    world, steps = environments.pendulum(), 10_000

    def make():
        task = sac.task(world, sac.networks(), discount=0.95, pace=0.01)
        return task, optim.optimizer("adam", 1e-3)

    rows = {"x": np.asarray(environments.starts(world, 100))}
    options = {"seeds": 8, "evaluation": rows, "mapping": "vmap", "progress": False}
    found = many.sweep(make, sources.nothing(1), steps, **options)
    with capsys.disabled():
        print(f"\nSAC: returns {found.scores['return']}")
    assert found.scores["return"].min() >= -150
