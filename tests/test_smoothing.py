"""Label smoothing is the cross-entropy to labels that are spread, in training alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zoo import linear, supervised
from zoo.base import UsageError

RNG = np.random.default_rng(0)
BATCH = {
    "x": jnp.asarray(RNG.normal(size=(6, 4)), jnp.float32),
    "y": jnp.array([0, 1, 2, 2, 1, 0]),
    "mask": jnp.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0]),
}
PARAMS = {
    "dense": {
        "kernel": jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32),
        "bias": jnp.asarray(RNG.normal(size=3), jnp.float32),
    }
}


def loss(smoothing, train, l2=0.0):
    model = linear.Linear(3)
    task = supervised.task(model, supervised.smoothed(smoothing), l2=l2)
    return task.loss(PARAMS, {}, BATCH, jax.random.key(0), train=train)


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_the_objective_is_optax_of_smoothed_labels(l2):
    logits = linear.Linear(3).apply({"params": PARAMS}, BATCH["x"])[:5]
    spread = optax.smooth_labels(jax.nn.one_hot(BATCH["y"][:5], 3), 0.2)
    wanted = optax.softmax_cross_entropy(logits, spread).mean()
    wanted += l2 * jnp.sum(PARAMS["dense"]["kernel"] ** 2)
    value, aux = loss(0.2, True, l2)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["objective"].value(), wanted, rtol=1e-5)


def test_the_loss_stays_that_of_the_labels():
    for train in (True, False):
        _, aux = loss(0.2, train)
        _, plain = loss(0.0, train)
        assert aux.metrics["loss"].value() == plain.metrics["loss"].value()
        assert (
            "objective" in aux.metrics
        ) == train and "objective" not in plain.metrics
    assert loss(0.2, False)[0] == loss(0.0, False)[0]


def test_a_traced_share_is_that_share_and_others_are_refused():
    traced = jax.jit(lambda s: loss(s, True)[0])
    for share in (0.0, 0.3):
        np.testing.assert_allclose(traced(share), loss(share, True)[0], rtol=1e-6)
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(UsageError, match=r"smoothing in \[0, 1\)"):
            supervised.smoothed(share)
