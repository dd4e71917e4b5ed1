"""Each check of `zoo.testing` sees the fault planted for it; right models pass all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.conftest import batch_of, quick, small
from zoo import rnn, supervised, testing
from zoo.base import Aux, Mean, UsageError
from zoo.testing import Case

N, K = 6, 3
RNG = np.random.default_rng(0)
BATCH = {
    "x": RNG.normal(size=(N, 4)).astype(np.float32),
    "y": np.arange(N, dtype=np.int32) % K,
}
SERIES = {
    "x": RNG.normal(size=(N, 5, 4)).astype(np.float32),
    "length": np.array([5, 3, 2, 5, 1, 4], np.int32),
    "y": np.arange(N, dtype=np.int32) % K,
}


class Normed(nn.Module):
    """Logits of x, and a running mean of it."""

    @nn.compact
    def __call__(self, x, *, train=False):
        mean = self.variable("stats", "mean", jnp.zeros, (4,))
        if train:
            mean.value = 0.9 * mean.value + 0.1 * x.mean(0)
        return nn.Dense(K)(x - mean.value.reshape(1, -1))


TASK = supervised.task(Normed(), supervised.classes)
READER = supervised.task(
    rnn.Classifier(K, rnn.RNN(rnn.GRU, 4)), supervised.classes, inputs=("x", "length")
)


def begins(change):
    """params and state are changed."""
    return TASK._replace(
        init=lambda key, batch: change(*TASK.init(key, batch), key, batch)
    )


def loses(change, when=None):
    """The loss is change(what it gave, batch, key), where train is `when`."""

    def loss(params, state, batch, key, *, train):
        found = TASK.loss(params, state, batch, key, train=train)
        return change(found, batch, key) if when in (None, train) else found

    return TASK._replace(loss=loss)


def sees(change, when=None, task=TASK):
    """The loss of change(batch)."""

    def loss(params, state, batch, key, *, train):
        batch = change(batch) if when in (None, train) else batch
        return task.loss(params, state, batch, key, train=train)

    return task._replace(loss=loss)


def predicts(change):
    """What is predicted is change(found, batch)."""
    return TASK._replace(predict=lambda p, s, b: change(TASK.predict(p, s, b), b))


def value(change):
    return lambda found, batch, key: (change(found[0]), found[1])


def metrics(change):
    return lambda found, batch, key: (
        found[0],
        found[1]._replace(metrics=change(dict(found[1].metrics))),
    )


def state(change):
    return lambda found, batch, key: (
        found[0],
        found[1]._replace(state=jax.tree.map(change, found[1].state)),
    )


def noisy(found, batch, key):
    more = jax.random.normal(key)
    losses = found[1].metrics["loss"]
    mean = Mean(losses.total + losses.count * more, losses.count)
    return found[0] + more, Aux(found[1].metrics | {"loss": mean}, found[1].state)


def scaled(by):
    """The gradient is so much longer."""

    def change(v):
        return by * v - jax.lax.stop_gradient((by - 1) * v)

    return loses(value(change), True)


def traced(a, by):
    return by if isinstance(a, jax.core.Tracer) else 1.0


def held(params, *rest):
    return {"Dense_0": params["Dense_0"] | {"more": jnp.ones(3)}}, *rest


def centred(batch):
    return batch | {"x": batch["x"] - batch["x"].mean(0, keepdims=True)}


def spread(batch):
    """x by its deviation, which one row has not."""
    x = batch["x"]
    return batch | {"x": x / jnp.sqrt(jnp.sum(jnp.square(x - x.mean(0)[None])))}


def counter():
    """Each call of the loss is another."""
    calls = []

    def loss(*args, train):
        calls.append(1)
        found, aux = TASK.loss(*args, train=train)
        return found * len(calls), aux

    return TASK._replace(loss=loss)


def leaking():
    kept = []

    def change(found, batch, key):
        kept.append(found[0])
        return found[0] + 0 * kept[0], found[1]

    return loses(change)


def greedy(params, state, batch, key, *, train):
    """Pops y from its batch."""
    y = batch["y"]
    found = TASK.loss(params, state, dict(batch), key, train=train)
    batch.pop("y", y)
    return found


def flipped():
    """Uphill."""
    return scaled(-1.0)


NAN = jnp.float32(jnp.nan)
SMOOTH = begins(lambda p, s, key, batch: (jax.tree.map(lambda a: a * NAN, p), s))

FAULTS = {
    "is_a_task": tuple(TASK),
    "begins_with_a_pair": begins(lambda p, s, *_: [p, s]),
    "has_parameters": begins(lambda p, s, *_: (p | {"none": jnp.zeros((0, 3))}, s)),
    "has_real_parameters": begins(lambda p, s, *_: (p | {"steps": jnp.int32(0)}, s)),
    "begins_finite": SMOOTH,
    "begins_the_same": TASK._replace(
        init=lambda key, batch: TASK.init(jax.random.key(RNG.integers(99)), batch)
    ),
    "begins_by_its_key": TASK._replace(
        init=lambda key, batch: TASK.init(jax.random.key(0), batch)
    ),
    "begins_whatever_the_rows": begins(
        lambda p, s, key, batch: (p, {"stats": {"mean": batch["x"].mean(0)}})
    ),
    "begins_as_it_reads": begins(
        lambda p, s, key, batch: (jax.tree.map(lambda a: a * traced(a, 1.01), p), s)
    ),
    "gives_a_value_and_aux": loses(lambda found, *_: (*found, 1.0)),
    "gives_a_scalar": loses(value(lambda v: v.astype(jnp.bfloat16))),
    "trains_finite": loses(value(lambda v: v * NAN), True),
    "judges_finite": loses(value(lambda v: v * NAN), False),
    "has_means": loses(metrics(lambda m: {k: v.value() for k, v in m.items()})),
    "has_a_loss": loses(metrics(lambda m: {"nll": m["loss"]})),
    "counts_each_row": loses(
        metrics(lambda m: {k: Mean(v.value(), jnp.ones(())) for k, v in m.items()})
    ),
    "judges_by_its_loss": loses(value(lambda v: v + 0.01), False),
    "trains_the_same": counter(),
    "judges_without_noise": loses(noisy, False),
    "trains_as_it_reads": loses(value(lambda v: v * traced(v, 1.01)), True),
    "judges_as_it_reads": loses(value(lambda v: v * traced(v, 1.01)), False),
    "leaves_its_arguments": TASK._replace(loss=greedy),
    "leaks_nothing": leaking(),
    "takes_one_row": sees(spread),
    "keeps_the_kind_of_its_state": loses(state(lambda a: a.astype(jnp.bfloat16)), True),
    "keeps_its_state_finite": loses(state(lambda a: a / 0), True),
    "judges_without_a_trace": loses(state(lambda a: a + 1), False),
    "has_a_finite_gradient": loses(value(lambda v: v + jnp.sqrt(0 * v)), True),
    "reaches_every_parameter": begins(held),
    "falls_along_its_gradient": scaled(1.3),
    "learns_a_batch": flipped(),
    "runs_side_by_side": loses(value(lambda v: _by_batch(v)), False),
    "judges_rows_alone": sees(centred, False),
    "judges_in_any_order": sees(
        lambda b: b | {"x": b["x"] * (1 + jnp.arange(len(b["x"]))[:, None])}
    ),
    "drops_what_is_masked": sees(lambda b: {k: a for k, a in b.items() if k != "mask"}),
    "drops_masked_rows_together": sees(centred, False),
    "counts_what_is_kept": loses(
        metrics(
            lambda m: {k: Mean(v.total, v.count + 1 - v.count) for k, v in m.items()}
        )
    ),
    "has_no_gradient_of_what_is_masked": sees(centred, False),
    "stops_at_the_length": sees(
        lambda b: b | {"length": jnp.full_like(b["length"], 5)}, task=READER
    ),
    "predicts_each_row": predicts(lambda found, b: found.mean(0)),
    "predicts_without_y": predicts(lambda found, b: found + 0 * b["y"][:, None]),
    "predicts_rows_alone": predicts(lambda f, b: f / f.max()),
    "predicts_as_it_reads": predicts(lambda f, b: f * traced(f, 1.01)),
    "knows_its_classes": TASK._replace(classes=lambda p, s, b: 1),
    "predicts_probabilities": predicts(lambda f, b: 2 * f),
    "has_the_labels": TASK._replace(classes=lambda p, s, b: 2),
    "takes_its_rows": TASK._replace(ids=(3, 3)),
}


@jax.custom_batching.custom_vmap
def _by_batch(v):
    return v


@_by_batch.def_vmap
def _(size, batched, v):
    return v + 1, True


def test_each_check_has_a_fault():
    assert FAULTS.keys() == testing.CHECKS.keys()
    assert len(testing.CHECKS) >= 40


@pytest.mark.parametrize("name", quick(FAULTS, *list(FAULTS)[:5]))
def test_a_planted_fault_is_seen(name):
    batch = SERIES if name == "stops_at_the_length" else BATCH
    case = Case(FAULTS[name], batch)
    others = [other for other in testing.CHECKS if other != name]
    assert [seen for seen, _ in testing.failures(case, skip=others)] == [name]


@pytest.mark.parametrize(
    "task, batch",
    [
        (TASK, BATCH),
        pytest.param(READER, SERIES, marks=[pytest.mark.contract]),
    ],
)
def test_a_right_task_passes(task, batch):
    testing.check_task(task, batch)


def test_what_fails_is_named():
    wrong = predicts(lambda f, b: 2 * f)
    skip = [n for n in testing.CHECKS if not n.startswith("predicts")]
    with pytest.raises(
        AssertionError, match="1 of 47.*\n  predicts_probabilities: With"
    ):
        testing.check_task(wrong, BATCH, skip=skip)
    testing.check_task(wrong, BATCH, skip=[*skip, "predicts_probabilities"])
    with pytest.raises(ValueError, match="did you mean 'learns_a_batch'"):
        testing.check_task(TASK, BATCH, skip=["learns_batch"])
    with pytest.raises(UsageError, match="NaN"):
        testing.check_task(TASK, BATCH | {"x": BATCH["x"] * np.nan})


# players, and chains, have no value that falls along what is taken for its gradient
GAMES = ("falls_along_its_gradient", "learns_a_batch")


@pytest.mark.contract
@pytest.mark.parametrize("name", ["autoencoder", "vae", "gan", "knowledge_graph"])
def test_models_of_the_zoo_pass(name):
    recipe = small(name)
    skip = GAMES if name == "gan" else ()
    testing.check_task(recipe.task, batch_of(recipe, 6), skip=skip)
