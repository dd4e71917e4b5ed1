"""Flax as its examples use it: Linen's layers, optax, one jitted step per iteration."""

import functools

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.training import train_state
from flax.traverse_util import unflatten_dict

from benchmarks.families import Arrays, Family, Trainer, under


class Linear(nn.Module):
    """One dense layer."""

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(1, name="dense")(x)


class MLP(nn.Module):
    """One hidden layer."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.Dense(256)(x))
        return nn.Dense(10)(x)


class CNN(nn.Module):
    """Two convolutions, each with a pool, and two dense layers."""

    @nn.compact
    def __call__(self, x, train):
        for channels in (32, 64):
            x = nn.relu(nn.Conv(channels, (3, 3), padding="VALID")(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(64)(x.reshape(len(x), -1)))
        return nn.Dense(10)(x)


def _conv_norm(x, channels, stride, train):
    pads = ((1, 1), (1, 1))
    x = nn.Conv(channels, (3, 3), stride, padding=pads, use_bias=False)(x)
    return nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5)(x)


class Block(nn.Module):
    """Two convolutions beside a shortcut without parameters."""

    channels: int
    stride: int

    @nn.compact
    def __call__(self, x, train):
        y = nn.relu(_conv_norm(x, self.channels, self.stride, train))
        y = _conv_norm(y, self.channels, 1, train)
        if self.stride > 1:
            more = (self.channels - x.shape[-1]) // 2
            x = jnp.pad(x[:, ::2, ::2], ((0, 0),) * 3 + ((more, more),))
        return nn.relu(x + y)


class ResNet20(nn.Module):
    """Three stages of three blocks."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(_conv_norm(x, 16, 1, train))
        for channels, strides in ((16, (1, 1, 1)), (32, (2, 1, 1)), (64, (2, 1, 1))):
            for stride in strides:
                x = Block(channels, stride)(x, train)
        return nn.Dense(10)(x.mean((1, 2)))


MODELS = {"linear": Linear, "mlp": MLP, "cnn": CNN, "resnet20": ResNet20}
LOSSES = {
    "classes": optax.softmax_cross_entropy_with_integer_labels,
    "squared": lambda outputs, y: jnp.square(outputs[:, 0] - y),
}


class State(train_state.TrainState):
    """Flax's own, with the statistics of batch norm."""

    stats: dict


@functools.partial(jax.jit, static_argnums=3, donate_argnums=0)
def _update(state, x, y, loss):
    def mean(params):
        variables = {"params": params, "batch_stats": state.stats}
        outputs, new = state.apply_fn(variables, x, True, mutable=["batch_stats"])
        return LOSSES[loss](outputs, y).mean(), new.get("batch_stats", {})

    (value, stats), grads = jax.value_and_grad(mean, has_aux=True)(state.params)
    return state.apply_gradients(grads=grads).replace(stats=stats), value


def prepare(family: Family, arrays: Arrays, peer: str) -> Trainer:
    """Initialised by Flax, then given the weights of `arrays`."""
    model = MODELS[family.name]()
    x, y = jnp.asarray(arrays["x"]), jnp.asarray(arrays["y"])
    jax.jit(model.init, static_argnums=2)(jax.random.key(0), x[:1], False)
    params, stats = (
        jax.tree.map(jnp.asarray, unflatten_dict(under(arrays, part), sep="/"))
        for part in ("params", "stats")
    )
    make = {"adam": optax.adam, "sgd": optax.sgd}[family.optimizer]
    state = State.create(
        apply_fn=model.apply, params=params, tx=make(family.rate), stats=stats
    )
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    full, size, key = family.batch == family.rows, family.batch, jax.random.key(0)

    def step(i):
        nonlocal state
        at = i % family.epoch * size
        batch = (x, y) if full else (x[at : at + size], y[at : at + size])
        state, value = _update(state, *batch, family.loss)
        return float(value)

    def run(steps):
        nonlocal state, key
        for i in range(steps):
            batch = (x, y)
            if not full:
                if i % family.epoch == 0:
                    key, now = jax.random.split(key)
                    order = jax.random.permutation(now, family.rows)
                    order = order[: family.epoch * size].reshape(-1, size)
                at = order[i % family.epoch]
                batch = x[at], y[at]
            state, value = _update(state, *batch, family.loss)
        value.block_until_ready()

    return Trainer(parameters, step, run)
