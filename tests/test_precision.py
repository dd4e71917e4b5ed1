"""Mixed precision: what is computed in bfloat16, and what must not be."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.conftest import quick
from tests.test_contract import assert_equal
from train import loop, optim
from train.cli.disk import read_log
from train.disk.files import read_sealed
from train.source import examples
from zoo import cnn, layers, mlp, precision, supervised
from zoo.base import UsageError

KEY = jax.random.key(0)


def rows(shape=(8,), n=64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, *shape)).astype(np.float32)
    return {"x": x, "y": x.reshape(n, -1)[:, :4].argmax(1).astype(np.int32)}


def normed():
    return supervised.task(mlp.MLP(4, (32, 32), batch_norm=True), supervised.classes)


def slope(task, params, state, batch):
    """(gradient, state) of a step of training."""

    def loss(params):
        value, aux = task.loss(params, state, batch, KEY, train=True)
        return value, aux.state

    return jax.jit(jax.grad(loss, has_aux=True))(params)


def distance(a, b):
    """|a - b| / |b|."""
    both = jax.tree.map(
        lambda p, q: (jnp.square(p - q).sum(), jnp.square(q).sum()), a, b
    )
    far, size = np.array(jax.tree.leaves(both)).reshape(-1, 2).sum(0)
    return float(np.sqrt(far / size))


class Coarse(nn.Module):
    """A network whose input has half of bfloat16's bits: a fault to be seen."""

    network: nn.Module

    def __call__(self, x, train=False):
        return self.network(jax.lax.reduce_precision(x, 8, 4), train=train)


@pytest.mark.parametrize("kind", quick(["mlp", "cnn"], "mlp"))
def test_gradients_are_near_those_of_float32(kind):
    network = mlp.MLP(4, (32, 32)) if kind == "mlp" else cnn.CNN(4, (4, 8), (16,))
    batch = rows() if kind == "mlp" else rows((12, 12, 1), 16)

    def task(network):
        return supervised.task(network, supervised.classes)

    params, state = task(network).init(KEY, batch)
    exact, _ = slope(task(network), params, state, batch)
    near, _ = slope(precision.mixed(task(network)), params, state, batch)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(near)} == {"float32"}
    # a rounding to 8 bits is off by 2^-9 at most, and there are some twelve of them:
    # of what is given, parameters and products, forwards and backwards. Measured: 8 and
    # 2 of these; 18 with an input of half the bits
    assert 0 < distance(near, exact) < 12 * 2**-9

    def coarse(params):
        found = Coarse(network).apply({"params": {"network": params}}, batch["x"])
        return supervised.classes.values(found, batch["y"])["loss"].mean()

    assert distance(jax.jit(jax.grad(coarse))(params), exact) > 12 * 2**-9


def test_products_are_in_bfloat16_and_the_task_itself_is_as_it_was():
    batch, task = rows(), normed()
    params, state = jax.eval_shape(task.init, KEY, batch)

    def text(task, train=True):
        def loss(params, state, batch):
            return task.loss(params, state, batch, KEY, train=train)[0]

        return jax.jit(jax.grad(loss)).lower(params, state, batch).as_text()

    before, mixed = text(task), text(precision.mixed(task))
    products = [line for line in mixed.splitlines() if "dot_general" in line]
    # forwards, and backwards by weights and by all inputs but the first
    assert len(products) == 8 and all("bf16" in line for line in products)
    assert "bf16" not in before and text(task) == before
    assert text(precision.mixed(task), train=False) == text(task, train=False)
    assert precision.mixed(task).predict is task.predict


class Spoilt(nn.Module):
    """What only float32 can: a mean far from 0, a target, a choice of one layer."""

    see: Any  # told what is there

    @nn.compact
    def __call__(self, x, length, train=False):
        normal = layers.batch_norm(train=train)(x)
        own = nn.Dense(4, dtype=jnp.float32)(normal)
        self.see([length.dtype.name, normal.dtype.name, own.dtype.name])
        return nn.Dense(1)(own)


def test_what_no_layer_has_to_do_with_stays_as_it_was():
    seen = []
    batch = rows() | {"length": np.full(64, 257, np.int32)}
    batch["x"] = batch["x"] + 300
    batch["y"] = 257 + batch["x"][:, 0] / 1000  # of 8 bits: 256 or 258
    batch["mask"] = np.linspace(0.1, 1, 64, dtype=np.float32)

    def values(outputs, y):
        seen.extend([outputs.dtype.name, y.dtype.name])
        return {"loss": jnp.square(outputs[:, 0] - y)}

    measure = supervised.regression._replace(values=values)
    task = supervised.task(Spoilt(seen.extend), measure, inputs=("x", "length"))
    params, state = task.init(KEY, batch)
    del seen[:]
    _, exact = slope(task, params, state, batch)
    assert set(seen) == {"int32", "float32"}
    del seen[:]
    gradient, near = slope(precision.mixed(task), params, state, batch)
    assert seen == ["int32", "bfloat16", "float32", "float32", "float32"]
    assert_equal(near, exact)  # the norm's mean and variance
    assert {leaf.dtype.name for leaf in jax.tree.leaves(gradient)} == {"float32"}


@pytest.mark.contract
def test_a_mixed_training_falls_and_goes_on_as_such(tmp_path):
    def fit(task, steps, **more):
        optimizer, source = optim.optimizer("adam", 1e-2), examples(rows(), 32)
        options = {"steps": steps, "progress": False, "checkpoints": tmp_path}
        return loop.fit(task, optimizer, source, **options, **more)

    begun = fit(precision.mixed(normed()), 20)
    with pytest.raises(UsageError, match="another model"):
        fit(normed(), 60, resume=True)
    done = fit(precision.mixed(normed()), 60, resume=True)
    assert done.records[-1]["loss"] < 0.2 * begun.records[0]["loss"]
    leaves = jax.tree.leaves((done.state.params, done.state.model))
    assert {leaf.dtype.name for leaf in leaves} == {"float32"}


@pytest.mark.contract
def test_a_run_keeps_its_precision(zoo):
    words = "train mlp --data digits --widths 16 --steps 30 --out runs/half"
    assert zoo(f"{words} --dtype bfloat16")[0] == 0
    out = Path("runs/half")
    assert read_sealed(out / "config.json")["arguments"]["dtype"] == "bfloat16"
    said = read_log(out / "metrics.jsonl")
    result = json.loads((out / "result.json").read_text())
    # the scores are of the same parameters in float32
    assert result["metrics"]["log_loss"] == pytest.approx(
        said[-1]["test_loss"], rel=1e-5
    )
    assert zoo(f"{words} --longer 40")[0] == 0
    assert read_sealed(out / "config.json")["arguments"]["dtype"] == "bfloat16"
    status, _, error = zoo(f"{words} --longer 50 --dtype None")
    assert status == 2 and "began with another" in error


@pytest.mark.parametrize("name", ["linear", "kmeans", "ppo"])
def test_a_recipe_without_deep_layers_refuses(name, zoo):
    status, _, error = zoo(f"train {name} --dtype bfloat16")
    assert status == 2 and "expected a recipe of deep layers" in error
