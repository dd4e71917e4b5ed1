"""Flax as its examples use it: Linen's layers, optax, one jitted step per iteration."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.training import train_state
from flax.traverse_util import flatten_dict, unflatten_dict

from benchmarks.families import (
    BETAS,
    HEADS,
    LAYERS,
    WIDTH,
    Arrays,
    Family,
    Trainer,
    sinusoid,
    under,
)
from benchmarks.setting import Setting


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


class LSTM(nn.Module):
    """An LSTM, and a dense layer on its last state."""

    @nn.compact
    def __call__(self, x, train):
        cell = nn.OptimizedLSTMCell(128, name="rnn")
        (_, h), _ = nn.RNN(cell, return_carry=True)(x)
        return nn.Dense(10)(h)


class GRU(nn.Module):
    """A GRU, and a dense layer on its last state."""

    @nn.compact
    def __call__(self, x, train):
        h, _ = nn.RNN(nn.GRUCell(128, name="rnn"), return_carry=True)(x)
        return nn.Dense(10)(h)


class Encoder(nn.Module):
    """Attention and a hidden layer, each behind a norm and beside a shortcut."""

    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm(epsilon=1e-5, name="attention_norm")(x)
        x = x + nn.MultiHeadDotProductAttention(HEADS, name="attention")(y)
        y = nn.LayerNorm(epsilon=1e-5, name="mlp_norm")(x)
        y = nn.gelu(nn.Dense(4 * WIDTH, name="up")(y))
        return x + nn.Dense(WIDTH, name="down")(y)


class Transformer(nn.Module):
    """Blocks, a norm, the mean over time."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(WIDTH, name="embed")(x) + sinusoid()[None]
        for i in range(LAYERS):
            x = Encoder(name=f"encoder_{i}")(x)
        x = nn.LayerNorm(epsilon=1e-5, name="norm")(x).mean(1)
        return nn.Dense(10, name="dense")(x)


class Half(nn.Module):
    """One hidden layer of the VAE's encoder or decoder."""

    outputs: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(400)(x))
        return nn.Dense(self.outputs)(x)


class VAE(nn.Module):
    """Logits of x, mean and log-variance."""

    @nn.compact
    def __call__(self, x, noise):
        mean, logvar = jnp.split(Half(40, name="encode")(x), 2, -1)
        z = mean + jnp.exp(0.5 * logvar) * noise
        return Half(784, name="decode")(z), mean, logvar


class Generator(nn.Module):
    """A dense layer and two transposed convolutions."""

    @nn.compact
    def __call__(self, z, train):
        norm = functools.partial(nn.BatchNorm, not train, momentum=0.9, epsilon=1e-5)
        x = nn.Dense(7 * 7 * 128, use_bias=False)(z).reshape(-1, 7, 7, 128)
        x = nn.relu(norm()(x))
        x = nn.ConvTranspose(64, (4, 4), (2, 2), use_bias=False)(x)
        x = nn.relu(norm()(x))
        return jnp.tanh(nn.ConvTranspose(1, (4, 4), (2, 2))(x))


class Discriminator(nn.Module):
    """Two convolutions and a dense layer."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.leaky_relu(nn.Conv(64, (4, 4), 2)(x), 0.2)
        x = nn.Conv(128, (4, 4), 2, use_bias=False)(x)
        x = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5)(x)
        return nn.Dense(1)(nn.leaky_relu(x, 0.2).reshape(len(x), -1))


MODELS = {
    "linear": Linear,
    "mlp": MLP,
    "cnn": CNN,
    "resnet20": ResNet20,
    "lstm": LSTM,
    "gru": GRU,
    "transformer": Transformer,
    "vae": VAE,
}
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


@functools.partial(jax.jit, donate_argnums=0)
def _update_vae(state, x, noise=None):
    if noise is None:
        noise = _drawn(state, x, 20)

    def mean(params):
        logits, mean, logvar = state.apply_fn({"params": params}, x, noise)
        error = optax.sigmoid_binary_cross_entropy(logits, x).sum(-1)
        kl = 0.5 * (jnp.exp(logvar) + jnp.square(mean) - 1 - logvar).sum(-1)
        return (error + kl).mean()

    value, grads = jax.value_and_grad(mean)(state.params)
    return state.apply_gradients(grads=grads), value


@functools.partial(jax.jit, donate_argnums=0)
def _update_gan(players, x, noise=None):
    generator, discriminator = players
    if noise is None:
        noise = _drawn(generator, x, 64)

    def apply(state, params, stats, x):
        variables = {"params": params, "batch_stats": stats}
        outputs, new = state.apply_fn(variables, x, True, mutable=["batch_stats"])
        return outputs, new["batch_stats"]

    def maker(params):
        fake, stats = apply(generator, params, generator.stats, noise)
        judge = discriminator.params, discriminator.stats
        logits, _ = apply(discriminator, *judge, fake)
        return nn.softplus(-logits).mean(), (fake, stats)

    def critic(params):
        real, stats = apply(discriminator, params, discriminator.stats, x)
        false, stats = apply(discriminator, params, stats, fake)
        return (nn.softplus(-real) + nn.softplus(false)).mean(), stats

    # the compiler sees that both judge the same images, and does it once
    found = jax.value_and_grad(maker, has_aux=True)(generator.params)
    (made, (fake, stats)), grads = found
    generator = generator.apply_gradients(grads=grads).replace(stats=stats)
    found = jax.value_and_grad(critic, has_aux=True)(discriminator.params)
    (value, stats), grads = found
    discriminator = discriminator.apply_gradients(grads=grads).replace(stats=stats)
    return (generator, discriminator), made + value


def _drawn(state, x, latent):
    key = jax.random.fold_in(jax.random.key(0), state.step)
    return jax.random.normal(key, (len(x), latent))


def _array(path, shape, params):
    """What a Linen array begins with; an RNN's are apart for each gate.

    Its GRU has one bias where ours and torch's has two, for the gates r and z.
    """
    if not path.startswith("rnn/"):
        return params[path].reshape(shape)
    gates = "rzn" if "rnn/recurrent_bias" in params else "ifgo"
    (side, gate), kind = path.split("/")[1:]
    if side == "h" and (kind == "kernel" or gates == "rzn"):
        kind = {"kernel": "recurrent", "bias": "recurrent_bias"}[kind]
    array = params[f"rnn/{kind}"].reshape(-1, len(gates), shape[-1])
    return array[:, gates.index(gate)].reshape(shape)


def copied(first: Any, arrays: Arrays) -> Any:
    """The arrays in the place of Linen's first ones."""
    found = flatten_dict(first, sep="/")
    found = {k: jnp.asarray(_array(k, a.shape, arrays)) for k, a in found.items()}
    return unflatten_dict(found, sep="/")


def _state(family, model, inputs, params, stats):
    """Initialised by Flax, then given those weights."""
    first = jax.jit(lambda key: model.init(key, *inputs))(jax.random.key(0))
    make = {
        "adam": optax.adam,
        "sgd": optax.sgd,
        "adversaries": lambda rate: optax.adam(rate, *BETAS),
    }
    return State.create(
        apply_fn=model.apply,
        params=copied(first["params"], params),
        tx=make[family.optimizer](family.rate),
        stats=copied(first.get("batch_stats", {}), stats),
    )


def _start(family, arrays):
    """The state, its parameters, and update(state, *batch) -> (state, loss)."""
    params, stats = under(arrays, "params"), under(arrays, "stats")
    one = jnp.asarray(arrays["x"][:1])
    if family.loss == "game":
        noise = jnp.asarray(arrays["noise"][0, :1])
        players = tuple(
            _state(family, model, inputs, under(params, name), under(stats, name))
            for name, model, inputs in (
                ("generator", Generator(), (noise, False)),
                ("discriminator", Discriminator(), (one, False)),
            )
        )
        return players, [player.params for player in players], _update_gan
    if family.loss == "elbo":
        inputs, update = (one, jnp.asarray(arrays["noise"][0, :1])), _update_vae
    else:
        inputs = one, False

        def update(state, x, y):
            return _update(state, x, y, family.loss)

    state = _state(family, MODELS[family.name](), inputs, params, stats)
    return state, state.params, update


def prepare(family: Family, arrays: Arrays, peer: str, setting: Setting) -> Trainer:
    """One jitted update for each iteration, on batches gathered before it."""
    state, params, update = _start(family, arrays)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    data = [jnp.asarray(arrays[name]) for name in "xy" if name in arrays]
    full, size, key = family.batch == family.rows, family.batch, jax.random.key(0)

    def step(i):
        nonlocal state
        at = i % family.epoch * size
        batch = data if full else [a[at : at + size] for a in data]
        if family.latent:  # else each update draws its own
            batch = [*batch, jnp.asarray(arrays["noise"][i])]
        state, value = update(state, *batch)
        return float(value)

    def run(steps):
        nonlocal state, key
        for i in range(steps):
            batch = data
            if not full:
                if i % family.epoch == 0:
                    key, now = jax.random.split(key)
                    order = jax.random.permutation(now, family.rows)
                    order = order[: family.epoch * size].reshape(-1, size)
                at = order[i % family.epoch]
                batch = [a[at] for a in data]
            state, value = update(state, *batch)
        value.block_until_ready()

    return Trainer(parameters, step, run)
