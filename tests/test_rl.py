"""The policy's gradient against plain loops and closed forms; what PPO learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train import loop, many, optim
from train import source as sources
from train import step as one
from zoo import actors, environments, rl, rollouts, tables
from zoo.base import UsageError

T, N = 20, 3


@pytest.fixture
def played():
    """Rewards, values and ends of no environment, [T, N] each."""
    random = np.random.default_rng(0)
    reward, value, following = random.normal(size=(3, T, N)).astype(np.float32)
    terminated = random.random((T, N)) < 0.15
    ended = terminated | (random.random((T, N)) < 0.1)
    return reward, value, following, terminated, ended


def slowly(reward, value, following, terminated, ended, discount, decay):
    """Equation 16 as it stands: sums forward from each step, to its episode's end."""
    found = np.zeros((T, N))
    for n in range(N):
        for t in range(T):
            weight = 1.0
            for s in range(t, T):
                after = 0.0 if terminated[s, n] else following[s, n]
                surprise = reward[s, n] + discount * after - value[s, n]
                found[t, n] += weight * surprise
                weight *= discount * decay
                if ended[s, n]:
                    break
    return found


# a sum that runs on past an episode's end is 0.1 away
@pytest.mark.parametrize("decay", [0.0, 0.9, 1.0])
def test_advantages_are_those_of_a_double_loop(played, decay):
    own = rl.advantages(*played, discount=0.97, decay=decay)
    np.testing.assert_allclose(own, slowly(*played, 0.97, decay), atol=1e-5)


def test_returns_are_those_of_a_double_loop(played):
    reward, _, _, _, ended = played
    last = np.array([1.0, -2.0, 0.5], np.float32)
    own = rl.returns(reward, ended, last, 0.9)
    for n in range(N):
        for t in range(T):
            total, weight = 0.0, 1.0
            for s in range(t, T):
                total += weight * reward[s, n]
                weight *= 0.9
                if ended[s, n]:
                    break
            else:
                total += weight * last[n]
            assert float(own[t, n]) == pytest.approx(total, abs=1e-5)


def test_scores_are_of_whole_episodes():
    reward = np.arange(12, dtype=np.float32).reshape(6, 2)
    ended = np.zeros((6, 2), bool)
    ended[2, 0] = ended[4, 0] = ended[5, 1] = True
    seen = rollouts.Transition(reward, reward, reward, reward, ended, ~ended & False)
    score, mean = rollouts.scores(jnp.array([100.0, 0.0]), seen)
    np.testing.assert_array_equal(score, [10.0, 0.0])
    assert float(mean.count) == 3
    assert float(mean.total) == (100 + 0 + 2 + 4) + (6 + 8) + reward[:, 1].sum()


def test_odds_and_entropy_are_those_of_the_distributions():
    from scipy import stats

    random = np.random.default_rng(0)
    logits = random.normal(size=(4, 3)).astype(np.float32)
    action = np.array([0, 2, 1, 1])
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    odds = actors.log_odds(jnp.asarray(logits), jnp.asarray(action))
    np.testing.assert_allclose(odds, np.log(p[np.arange(4), action]), atol=1e-5)
    spread = actors.entropy(jnp.asarray(logits), real=False)
    np.testing.assert_allclose(spread, stats.entropy(p.T), atol=1e-5)
    real, taken = logits[:, :2], random.normal(size=(4, 1)).astype(np.float32)
    normal = stats.norm(real[:, :1], np.exp(real[:, 1:]))
    odds = actors.log_odds(jnp.asarray(real), jnp.asarray(taken))
    np.testing.assert_allclose(odds, normal.logpdf(taken)[:, 0], atol=1e-4)
    spread = actors.entropy(jnp.asarray(real), real=True)
    np.testing.assert_allclose(spread, normal.entropy()[:, 0], atol=1e-5)


def start(task, seed=0):
    optimizer = optim.optimizer("sgd", 1.0)
    return one.init(task, optimizer, seed, {}), jax.random.key(5)


def at(step):
    return {"step": jnp.array([step], jnp.int32)}


def gradient(task):
    """(params, model, batch, key) -> (gradient, Aux), compiled once."""

    def loss(params, *given):
        return task.loss(params, *given, train=True)

    return jax.jit(jax.grad(loss, has_aux=True))


@pytest.mark.contract
def test_one_part_read_once_is_the_plain_policy_gradient():
    """Of A2C: the clipped ratio is 1, and its gradient that of the log-probability."""
    world = environments.cart_pole()
    net = actors.network(world, (16,))
    options = {"environments": 3, "horizon": 16, "epochs": 1, "parts": 1}
    task = rl.task(world, net, **options, normalize=False, entropy_weight=0.0)
    state, key = start(task)
    found, aux = gradient(task)(state.params, state.model, at(0), key)
    part = aux.state.rollout

    def plain(params):
        logits, value = net.apply({"params": params}, part.observation)
        odds = jax.nn.log_softmax(logits)[jnp.arange(48), part.action]
        target = part.advantage + part.value
        wrong = 0.5 * jnp.square(value - jax.lax.stop_gradient(target))
        return jnp.mean(-odds * part.advantage + 0.5 * wrong)

    expected = jax.grad(plain)(state.params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4),
        found,
        expected,
    )


def test_with_decay_1_the_advantages_are_returns_less_the_baseline():
    """REINFORCE (Williams 1992) on an episode of one step each."""
    task = rl.task(
        tables.environment(tables.bandit((0.3, 0.6))),
        actors.ActorCritic(2, (8,)),
        **{"environments": 5, "horizon": 4, "epochs": 1, "parts": 1, "decay": 1.0},
    )
    state, key = start(task)
    _, aux = gradient(task)(state.params, state.model, at(0), key)
    part = aux.state.rollout
    total = part.advantage + part.value
    assert set(np.round(np.asarray(total), 5).tolist()) == {0.0, 1.0}
    assert float(aux.metrics["return"].count) == 20  # an episode each
    assert float(aux.metrics["return"].value()) == pytest.approx(
        float(total.mean()), abs=1e-5
    )


def test_steps_are_played_anew_each_time_that_all_parts_were_read():
    world = environments.cart_pole()
    options = {"environments": 2, "horizon": 8, "epochs": 3, "parts": 2}
    task = rl.task(world, actors.network(world, (8,)), **options)
    state, key = start(task)
    seen, model, each = [], state.model, gradient(task)
    for step in range(7):
        key = jax.random.key(step)
        _, aux = each(state.params, model, at(step), key)
        model = aux.state
        seen.append(jax.tree.map(np.asarray, model))
    first, last = seen[0], seen[5]
    jax.tree.map(np.testing.assert_array_equal, first, last)
    assert not np.array_equal(seen[6].rollout.observation, first.rollout.observation)
    order = first.order.reshape(3, 16)  # each epoch reads each step once
    np.testing.assert_array_equal(np.sort(order, 1), np.tile(np.arange(16), (3, 1)))
    assert not np.array_equal(order[0], order[1])
    # what was seen first is what the last rollout stopped before
    flat = seen[6].rollout.observation.reshape(8, 2, 4)
    np.testing.assert_array_equal(flat[0], first.playing.state)


def test_playing_is_no_part_of_the_gradient():
    """It is the same in the step that plays as in one that finds it played."""
    world = environments.cart_pole()
    task = rl.task(world, actors.network(world, (8,)), environments=2, horizon=8)
    state, key = start(task)
    each = gradient(task)
    found, aux = each(state.params, state.model, at(0), key)
    again = aux.state._replace(order=jnp.roll(aux.state.order, 1, 0))
    same, _ = each(state.params, again, at(1), key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, same)
    assert np.abs(found["policy"]["Dense_0"]["bias"]).max() > 1e-6


def test_a_sweep_plays_only_every_kth_step():
    """The condition on the step stays one where members are mapped by vmap."""
    world = environments.cart_pole()
    task = rl.task(world, actors.network(world, (8,)), environments=2, horizon=8)
    update = one.make_step(task, optim.optimizer("adam", 1e-3))
    states = jax.vmap(
        lambda seed: one.init(task, optim.optimizer("adam", 1e-3), seed, {})
    )(jnp.arange(3))

    def step(t, rest):
        return update(one.State(t, *rest), at(t))[0][1:]

    text = str(jax.make_jaxpr(jax.vmap(step, (None, 0)))(jnp.int32(0), states[1:]))
    assert "cond[" in text
    assert text.count("scan[") == str(
        jax.make_jaxpr(step)(jnp.int32(0), jax.tree.map(lambda a: a[0], states[1:]))
    ).count("scan[")


@pytest.mark.contract
def test_ppo_finds_the_better_arm_and_the_end_of_a_chain():
    for table, best in ((tables.bandit((0.2, 0.8)), 0.8), (tables.chain(4), 1.0)):
        world = tables.environment(table)
        task = rl.task(world, actors.network(world, (16,)), horizon=32)
        optimizer = optim.optimizer("adam", 1e-2)
        options = {"steps": 320, "progress": False}
        done = loop.fit(task, optimizer, sources.nothing(128), **options)
        act = actors.policy(world, actors.network(world, (16,)), done.trained.params)
        found = rollouts.episodes(world, act, jax.random.key(0), 400)
        # 400 games with odds of 0.8: a deviation of 0.02
        assert abs(float(found.reward.mean()) - best) < 0.08


@pytest.mark.parametrize(
    "options, message",
    [
        ({"parts": 3}, "expected parts that divide 512 steps, found 3"),
        ({"horizon": 0}, "expected horizon between 1 and"),
        ({"discount": 1.5}, r"expected discount in \[0, 1\], found 1.5"),
        ({"decay": -1}, r"expected decay in \[0, 1\], found -1"),
    ],
)
def test_numbers_that_cannot_be_right_are_refused(options, message):
    world = environments.cart_pole()
    with pytest.raises(UsageError, match=message):
        rl.task(world, actors.network(world), **options)


@pytest.mark.slow
def test_ppo_balances_the_pole_with_every_seed(capsys):
    world, steps = environments.cart_pole(), 15_616  # 500,000 steps of environments

    def make():
        rate = optim.schedule("cosine", 1e-3, steps)
        return rl.task(world, actors.network(world)), optim.optimizer(
            "adam", rate, clip=0.5
        )

    rows = {"x": np.asarray(environments.starts(world, 100))}
    options = {"seeds": 8, "evaluation": rows, "mapping": "vmap", "progress": False}
    found = many.sweep(make, sources.nothing(512), steps, **options)
    with capsys.disabled():
        print(f"\nPPO: returns {found.scores['return']}")
    assert found.scores["return"].mean() >= 490
    assert found.scores["return"].min() >= 475
