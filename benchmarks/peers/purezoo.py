"""This project, as `train.loop.fit` runs it: compiled chunks of its one step."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from benchmarks.families import (
    BETAS,
    COMPARED_AFTER,
    HEADS,
    LAYERS,
    WIDTH,
    Arrays,
    Family,
    Trainer,
)
from benchmarks.setting import Setting
from train import loop, mesh, optim, source
from train.guard import guarded
from train.step import make_step
from zoo import cnn, gan, linear, mlp, rnn, supervised, transformer, vae
from zoo.base import count_parameters


def _recurrent(cell, dtype):
    network = rnn.Classifier(10, rnn.RNN(cell, 128, dtype=dtype))
    return supervised.task(network, supervised.classes)


def _transformer(dtype):
    model = transformer.Classifier(
        10, width=WIDTH, layers=LAYERS, heads=HEADS, dtype=dtype
    )
    return supervised.task(model, supervised.classes)


def _vae(dtype):
    model = vae.dense((784,), 20, (400,))
    parts = {
        name: getattr(model, name).clone(dtype=dtype) for name in ("encoder", "decoder")
    }
    return vae.task(model.clone(**parts))


def _gan(dtype):
    generator, discriminator = gan.dcgan((28, 28, 1))
    decoder = generator.decoder.clone(dtype=dtype)
    players = gan.Players(
        generator.clone(decoder=decoder), discriminator.clone(dtype=dtype)
    )
    return gan.task(players, gan.GAMES["non_saturating"])


def _classes(make):
    return lambda dtype=None: supervised.task(make(dtype=dtype), supervised.classes)


# Each takes what its products are computed in: None, that of its inputs, or bfloat16.
MODELS = {
    "linear": lambda dtype=None: linear.regression(),
    "mlp": _classes(functools.partial(mlp.MLP, 10)),
    "cnn": _classes(cnn.two_conv),
    "resnet20": _classes(functools.partial(cnn.resnet_cifar, 20)),
    "lstm": lambda dtype=None: _recurrent(rnn.LSTM, dtype),
    "gru": lambda dtype=None: _recurrent(rnn.GRU, dtype),
    "transformer": lambda dtype=None: _transformer(dtype),
    "vae": lambda dtype=None: _vae(dtype),
    "gan": lambda dtype=None: _gan(dtype),
}
NAMES = {  # ours and those of the peers
    "batch_stats/": "",
    "rnn/forward_0": "rnn",
    "encoder/Dense": "encode/Dense",  # apart from a Transformer's encoder
    "decoder/MLP_0": "decode",
    "generator/decoder": "generator",
    "discriminator/convs": "discriminator/Conv",
    "discriminator/norms_1": "discriminator/BatchNorm_0",
    "discriminator/dense": "discriminator/Dense_0",
}


def _made(family, setting):
    """A task and its optimizer."""
    dtype = jnp.bfloat16 if setting.precision == "bfloat16" else None
    task = MODELS[family.name](dtype)
    if family.optimizer == "adversaries":
        optimizer = optim.adversaries(optim.optimizer("adam", family.rate, betas=BETAS))
    else:
        optimizer = optim.optimizer(family.optimizer, family.rate)
    return task, optimizer


def _start(family, data, setting):
    task, optimizer = _made(family, setting)
    return task, optimizer, loop.start(task, optimizer, source.full(data))[0]


def fit(family: Family, arrays: Arrays, setting: Setting, steps: int) -> loop.Fit:
    """All of a training: to a log line for each hundredth, and finite states."""
    data = {name: arrays[name] for name in "xy" if name in arrays}
    drawn = source.examples(data, family.batch)
    options = {"microbatch": _microbatch(family, setting), "progress": False}
    return loop.fit(*_made(family, setting), drawn, steps=steps, **options)


def _microbatch(family, setting):
    """The examples that a CPU computes at a time: what they need fits its cache."""
    smaller = 0 < family.microbatch < family.batch
    return family.microbatch if smaller and not setting.gpu else None


def weights(family: Family, setting: Setting) -> Arrays:
    """The arrays that every peer starts from, by path: params/..., stats/...

    And "noise" [updates, batch, latent], what our own first updates draw.
    """
    state = _start(family, family.data(), setting)[2]
    arrays = by_path({"params": state.params, "stats": state.model})
    return arrays | (noise(family) if family.latent else {})


def noise(family: Family) -> Arrays:
    """For the comparison: `step(i)` of each peer is given the i-th."""

    def drawn(update):  # by the keys of train.step and of both tasks
        key = jax.random.fold_in(jax.random.key(0), update)
        shape = (family.batch, family.latent)
        return jax.random.normal(jax.random.split(key)[0], shape)

    updates = jnp.arange(1, COMPARED_AFTER + 2)
    return {"noise": np.asarray(jax.vmap(drawn)(updates))}


def by_path(tree: Any) -> Arrays:
    """A Transformer's layers apart, "encoder_0/..."; others as in NAMES."""
    arrays = {}
    for path, a in flatten_dict(tree, sep="/").items():
        a = np.asarray(a)
        for ours, theirs in NAMES.items():
            path = path.replace(ours, theirs)
        if "encoder/" in path:
            for i, layer in enumerate(a):
                arrays[path.replace("encoder", f"encoder_{i}")] = layer
        else:
            arrays[path] = a.ravel() if path.endswith("/recurrent_bias") else a
    return arrays


def prepare(family: Family, arrays: Arrays, peer: str, setting: Setting) -> Trainer:
    """The weights are its own, from the seed that wrote `arrays`."""
    data = {name: arrays[name] for name in "xy" if name in arrays}
    task, optimizer, state = _start(family, data, setting)
    rows = jax.tree.map(jnp.asarray, data)
    parts = optim.pieces(family.batch, 1, _microbatch(family, setting))
    one_step = guarded(make_step(task, optimizer, parts=parts))
    drawn = source.examples(rows, family.batch)

    def in_order(arrays, seed, t):
        # a full batch is all of the rows, at each of the steps of its "epoch"
        first = t % family.epoch * family.batch % family.rows
        return jax.tree.map(lambda a: a[first + jnp.arange(family.batch)], arrays)

    metrics = jax.eval_shape(one_step, state, source.batch_shapes(drawn))[1]
    zero = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), metrics)
    parameters, now = count_parameters(state.params), 0
    alone, many = (
        jax.jit(mesh.make_chunk(one_step, found), donate_argnums=0)
        for found in (drawn._replace(batch=in_order), drawn)
    )

    def advance(run_chunk, steps):
        nonlocal state, now
        state, total = run_chunk(state, zero, rows, now + steps)
        now += steps
        return total

    def step(i):
        return float(advance(alone, 1)["loss"].value())

    def run(steps):
        jax.block_until_ready(advance(many, steps))

    def peak():
        found = jax.devices()[0].memory_stats() or {}
        return found.get("peak_bytes_in_use", float("nan"))

    def text():
        return many.lower(state, zero, rows, now).compile().as_text()

    return Trainer(parameters, step, run, peak if setting.gpu else None, text)
