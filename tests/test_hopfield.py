"""Hopfield networks: what they hold, what they lose, and that energies only fall."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import attention, hopfield
from zoo.base import UsageError

# compiling takes longer than what it shows
pytestmark = pytest.mark.contract


def patterns(n, d, seed=0):
    """n random memories of -1 and 1."""
    return jnp.asarray(np.random.default_rng(seed).choice([-1.0, 1.0], (n, d)), "f4")


def damaged(x, share, seed=1):
    """The states with a share of their units flipped."""
    rng = np.random.default_rng(seed)
    return jnp.where(rng.random(x.shape) < share, -x, x)


KEY = jax.random.key(0)


def overlap(a, b):
    return np.asarray((a * b).mean(1))


# Classical ----------------------------------------------------------------------------


def test_hebb_stores_the_mean_of_outer_products():
    x = np.asarray(patterns(3, 8))
    w = np.zeros((8, 8))
    for i in range(8):
        for j in range(8):
            if i != j:
                w[i, j] = sum(x[n, i] * x[n, j] for n in range(3)) / 8
    np.testing.assert_allclose(hopfield.store(jnp.asarray(x)), w, atol=1e-6)


def test_few_memories_are_recalled_from_a_fifth_of_their_units_flipped():
    x = patterns(10, 200)
    w, key = hopfield.store(x), jax.random.key(0)
    np.testing.assert_array_equal(hopfield.recall(w, x, key, 1), x)
    found = hopfield.recall(w, damaged(x, 0.2), key)
    assert overlap(found, x).min() == 1


def test_the_energy_never_rises_and_ends_at_a_fixed_point():
    w, x = hopfield.store(patterns(30, 100)), patterns(20, 100, seed=2)
    one = jax.jit(hopfield.update)
    energies = [hopfield.energy(w, x)]
    order = np.random.default_rng(0).integers(0, 100, 400)
    for i in order:
        x = one(w, x, i)
        energies.append(hopfield.energy(w, x))
    assert (np.diff(np.array(energies), axis=0) <= 1e-4).all()
    assert (energies[-1] < energies[0] - 5).all()
    end = hopfield.recall(w, x, jax.random.key(0), 20)
    np.testing.assert_array_equal(hopfield.recall(w, end, jax.random.key(1), 1), end)
    # all at once, which people write instead, a network may go back and forth
    pair = jnp.array([[0.0, -1.0], [-1.0, 0.0]])
    both = jnp.sign(jnp.ones((1, 2)) @ pair)
    np.testing.assert_array_equal(jnp.sign(both @ pair), jnp.ones((1, 2)))
    settled = hopfield.recall(pair, jnp.ones((1, 2)), jax.random.key(0), 3)
    assert hopfield.energy(pair, settled) < hopfield.energy(pair, jnp.ones((1, 2)))


def test_a_unit_that_nothing_moves_stays():
    x = patterns(2, 5)
    np.testing.assert_array_equal(hopfield.recall(jnp.zeros((5, 5)), x, KEY), x)


def test_past_its_capacity_a_network_forgets_everything():
    """Amit et al. 1985: up to 0.138 D memories end near themselves, more do not."""
    d = 400
    kept = {}
    for load in (0.08, 0.11, 0.2, 0.3):
        x = patterns(int(load * d), d)
        found = hopfield.recall(hopfield.store(x), x, jax.random.key(0), 30)
        kept[load] = overlap(found, x).mean()
    assert kept[0.08] > 0.99 and kept[0.11] > 0.95
    assert kept[0.2] < 0.8 and kept[0.3] < 0.6


# Modern -------------------------------------------------------------------------------


def test_an_update_is_attention():
    memories, x = jax.random.normal(jax.random.key(0), (2, 6, 16))
    found = hopfield.retrieve(memories, x, 16**-0.5)
    wanted, _ = attention.attention(x, memories, memories)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_many_memories_are_recalled_in_one_step():
    """Ten times as many as units, of which a tenth is damaged (theorem 4)."""
    memories = patterns(640, 64)
    found = hopfield.retrieve(memories, damaged(memories, 0.1), 1.0)
    assert np.abs(found - memories).max(1).mean() < 0.05
    # as the classical network cannot
    w = hopfield.store(memories)
    lost = hopfield.recall(w, damaged(memories, 0.1), jax.random.key(0))
    assert overlap(lost, memories).mean() < 0.8


def test_an_error_is_below_the_bound_of_the_paper():
    """|f(x) - x_i| <= 2 (N - 1) exp(-beta (Delta_i - 2 max(|x - x_i|, ...) M)) M."""
    memories, beta = patterns(50, 100), 0.5
    x = memories + 0.02 * jax.random.normal(jax.random.key(0), memories.shape)
    found = hopfield.retrieve(memories, x, beta)
    error = np.linalg.norm(found - memories, axis=1)
    products = np.array(memories @ memories.T)
    own = np.diag(products).copy()
    np.fill_diagonal(products, -np.inf)
    apart = own - products.max(1)
    size = 10.0  # of every memory
    fixed = hopfield.retrieve(memories, x, beta, steps=20)
    both = (np.linalg.norm(v - memories, axis=1) for v in (x, fixed))
    near = np.maximum(*both)
    bound = 2 * 49 * np.exp(-beta * (apart - 2 * near * size)) * size
    assert (error <= bound + 1e-5).all() and bound.max() < 0.01


def test_the_modern_energy_never_rises_nor_falls_below_zero():
    memories = jax.random.normal(jax.random.key(0), (12, 8))
    x = 2 * jax.random.normal(jax.random.key(1), (30, 8))
    energies = [hopfield.modern_energy(memories, x, 1.5)]
    step = jax.jit(hopfield.retrieve)
    for _ in range(15):
        x = step(memories, x, 1.5)
        energies.append(hopfield.modern_energy(memories, x, 1.5))
    found = np.array(energies)
    assert (np.diff(found, axis=0) <= 1e-5).all() and (found >= 0).all()
    assert (found[-1] < found[0] - 0.1).mean() > 0.9


def test_the_modern_update_is_where_the_energy_is_stationary():
    memories = jax.random.normal(jax.random.key(0), (12, 8))
    x = hopfield.retrieve(memories, jnp.ones((3, 8)), 0.5, steps=200)
    slope = jax.grad(lambda x: hopfield.modern_energy(memories, x, 0.5).sum())(x)
    np.testing.assert_allclose(slope, jnp.zeros((3, 8)), atol=1e-4)
    twice = hopfield.retrieve(memories, jnp.ones((3, 8)), 0.5, steps=2)
    one = hopfield.retrieve(memories, jnp.ones((3, 8)), 0.5)
    np.testing.assert_allclose(hopfield.retrieve(memories, one, 0.5), twice, atol=1e-6)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: hopfield.store(jnp.ones((2, 3), int)), "floating-point"),
        (lambda: hopfield.store(jnp.full((2, 3), 0.5)), "-1 and 1"),
        (
            lambda: hopfield.recall(jnp.eye(3), jnp.eye(3), KEY, 0),
            "sweep",
        ),
        (lambda: hopfield.retrieve(jnp.ones((2, 3)), jnp.ones((1, 3)), 0.0), "beta"),
        (lambda: hopfield.modern_energy(jnp.eye(3), jnp.eye(3), -1.0), "beta > 0"),
        (lambda: hopfield.retrieve(jnp.eye(3), jnp.eye(3), 1.0, 0), "steps"),
    ],
)
def test_a_mistake_is_a_sentence(make, words):
    with pytest.raises(UsageError, match=words):
        make()
