"""Deep Q-learning: its targets, its memory, and what it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.test_rl import at, gradient
from train import loop, many, optim
from train import source as sources
from train import step as one
from zoo import dqn, environments, rollouts, tables
from zoo.base import UsageError


@pytest.mark.parametrize("double", [False, True])
def test_targets_are_those_of_a_loop(double):
    random = np.random.default_rng(0)
    reward = random.normal(size=20).astype(np.float32)
    over = random.random(20) < 0.3
    online, target = random.normal(size=(2, 20, 3)).astype(np.float32)
    found = dqn.targets(reward, over, online, target, 0.9, double=double)
    for i in range(20):
        best = (online if double else target)[i].argmax()
        later = 0.0 if over[i] else 0.9 * target[i, best]
        assert float(found[i]) == pytest.approx(reward[i] + later, abs=1e-6)


def test_a_dueling_network_says_a_state_and_differences_from_its_mean():
    net = dqn.QNetwork(3, (8,), dueling=True)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), jnp.float32)
    params = net.init(jax.random.key(0), x)["params"]
    hidden = jax.nn.relu(x @ params["Dense_0"]["kernel"])
    state = (hidden @ params["state"]["kernel"])[:, 0]
    found = net.apply({"params": params}, x)
    np.testing.assert_allclose(found.mean(1), state, atol=1e-5)


def test_the_memory_is_a_ring():
    ring = dqn.Remembered(
        *(jnp.zeros((6, 2)), jnp.zeros(6, jnp.int32), jnp.zeros(6)),
        *(jnp.zeros((6, 2)), jnp.zeros(6, bool)),
    )
    for step in range(5):
        row = 10.0 * step + jnp.arange(2.0).reshape(1, 2)
        seen = rollouts.Transition(
            jnp.stack([row, row], -1),
            row.astype(int),
            row,
            jnp.stack([row, row], -1) + 1,
            row > 30,
            row > 1000,
        )
        ring = dqn.remember(ring, seen, jnp.int32(step))
    # steps 3 and 4 lie over 0 and 1
    np.testing.assert_array_equal(ring.reward, [30, 31, 40, 41, 20, 21])
    np.testing.assert_array_equal(ring.terminated, [0, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(ring.observation[:, 1], ring.reward)
    np.testing.assert_array_equal(ring.following[:, 0], ring.reward + 1)
    broken = seen._replace(reward=row.at[0, 1].set(jnp.nan))
    ring = dqn.remember(ring, broken, jnp.int32(5))
    np.testing.assert_array_equal(ring.reward, [30, 31, 40, 41, 40, 21])
    np.testing.assert_array_equal(ring.terminated, [0, 1, 1, 1, 1, 0])


def test_the_target_is_what_was_learned_some_steps_ago():
    world = environments.cart_pole()
    net = dqn.QNetwork(2, (8,))
    task = dqn.task(world, net, environments=2, memory=64, warmup=0, refresh=3)
    optimizer = optim.optimizer("adam", 1e-2)
    state = one.init(task, optimizer, 0, {})
    update = jax.jit(one.make_step(task, optimizer))
    params = []
    for step in range(5):
        params.append(state.params)
        state, _ = update(state, at(step))
        was = params[step // 3 * 3]
        jax.tree.map(np.testing.assert_array_equal, state.model.target, was)


def test_nothing_moves_before_there_is_enough_to_learn_from():
    world = environments.cart_pole()
    task = dqn.task(world, dqn.QNetwork(2, (8,)), memory=100, warmup=2)
    optimizer = optim.optimizer("adam", 1e-2)
    state = one.init(task, optimizer, 0, {})
    update = jax.jit(one.make_step(task, optimizer))
    begin, moved = state.params, []
    for step in range(3):
        state, _ = update(state, at(step))
        same = jax.tree.map(np.array_equal, begin, state.params)
        moved.append(not jax.tree.all(same))
    assert moved == [False, False, True]


def test_the_loss_is_the_squared_surprise_of_what_it_remembers():
    table = tables.chain(3)
    world = tables.environment(table)
    net = dqn.QNetwork(2, ())  # a table: one weight for each state and action
    options = {"environments": 4, "memory": 4, "batch_size": 64, "warmup": 0}
    task = dqn.task(world, net, **options, discount=0.9, refresh=100)
    state = one.init(task, optim.optimizer("sgd", 1.0), 0, {})
    _, aux = gradient(task)(state.params, state.model, at(0), jax.random.key(1))
    q = np.asarray(net.apply({"params": state.params}, jnp.eye(3)))
    ring = jax.tree.map(np.asarray, aux.state.memory)
    each = []
    for seen, a, r, after, over in zip(*ring, strict=True):
        s, then = seen.argmax(), after.argmax()
        each.append((r + 0.9 * (1 - over) * q[then].max() - q[s, a]) ** 2)
    # the mean of 64 draws of four
    assert min(each) - 1e-6 <= float(aux.metrics["loss"].value()) <= max(each) + 1e-6


@pytest.mark.contract
def test_it_finds_the_values_of_a_chain():
    table = tables.chain(4)
    world = tables.environment(table)
    task = dqn.task(
        world,
        dqn.QNetwork(2, ()),
        discount=0.9,
        exploration=1.0,
        memory=2000,
        warmup=50,
    )
    options = {"steps": 1500, "progress": False}
    done = loop.fit(task, optim.optimizer("adam", 1e-2), sources.nothing(10), **options)
    q = task.predict(done.trained.params, {}, {"x": jnp.eye(4)})
    exact = tables.value_iteration(table, 0.9)
    np.testing.assert_allclose(q, exact, atol=1e-2)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("pendulum", {}, "expected an environment of some actions, found pendulum"),
        (
            "cartpole",
            {"memory": 15},
            "expected a memory of whole steps of 10, found one",
        ),
        ("cartpole", {"exploration": 2}, r"expected exploration in \[0, 1\], found 2"),
        ("cartpole", {"refresh": 0}, "expected refresh between 1 and"),
    ],
)
def test_what_cannot_be_right_is_refused(name, options, message):
    world = environments.ENVIRONMENTS[name]()
    with pytest.raises(UsageError, match=message):
        dqn.task(world, dqn.QNetwork(2), **options)


@pytest.mark.long
@pytest.mark.slow
def test_it_balances_the_pole_with_every_seed(capsys):
    world, steps = environments.cart_pole(), 40_000  # 400,000 steps of environments

    def make():
        task = dqn.task(world, dqn.QNetwork(2), exploring=10_000)
        return (
            task,
            optim.optimizer("adam", optim.schedule("cosine", 1e-3, steps)),
            0.999,
        )

    rows = {"x": np.asarray(environments.starts(world, 100))}
    options = {"seeds": 8, "evaluation": rows, "mapping": "vmap", "progress": False}
    found = many.sweep(make, sources.nothing(10), steps, **options)
    with capsys.disabled():
        print(f"\nDQN: returns {found.scores['return']}")
    assert found.scores["return"].mean() >= 489
