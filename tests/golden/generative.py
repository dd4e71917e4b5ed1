"""The generative models as cases of tests/test_golden.py: what is random is an input.

Tasks draw their noise from a key, which torch cannot follow. A row of x holds the
pixels of an image, then the noise, then a label, and the modules here take the noise
from there: a VAE is called with it, a generator finds it in its state.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from zoo import gan, vae
from zoo.autoencoder import ConvEncoder, leaky
from zoo.base import Aux, Task, means
from zoo.mlp import MLP


class Outputs(NamedTuple):
    """apply(variables, x) -> what a golden file calls outputs."""

    apply: Callable


class Beside(nn.Module):
    """A VAE on rows; the noise that its task draws is not used."""

    model: vae.VAE
    shape: tuple[int, ...]

    classes = 0  # the label is in the row, too

    @property
    def latent(self):
        return self.model.latent

    def setup(self):
        nn.share_scope(self, self.model)

    def __call__(self, x, noise=None, y=None, *, train=False):
        pixels = math.prod(self.shape)
        x, noise, y = jnp.split(x, [pixels, pixels + self.latent], -1)
        y = y[:, 0].astype(int) if self.model.classes else None
        return self.model(x.reshape(-1, *self.shape), noise, y, train=train)


def autoencoder(model, shape):
    """(what gives outputs, task) of a VAE."""
    model = Beside(model, shape)

    def outputs(variables, x):
        log_likelihood, mean, logvar = model.apply(variables, x)
        return jnp.concatenate([log_likelihood[:, None], mean, logvar], -1)

    def predict(params, state, batch):
        _, mean, logvar = model.apply({"params": params}, batch["x"])
        return vae.divergence(mean, logvar)

    return Outputs(outputs), vae.task(model)._replace(predict=predict)


def penalized(model):
    """A critic f that minimises f^2 + penalty."""

    def both(params, x):
        def critic(x):
            return model.apply({"params": params}, x)[0, 0]

        value = model.apply({"params": params}, x)[:, 0]
        return value, gan.gradient_penalty(critic, x)

    def init(key, batch):
        return model.init(key, batch["x"])["params"], {}

    def loss(params, state, batch, key, *, train):
        value, penalty = both(params, batch["x"])
        metrics = means({"loss": jnp.square(value) + penalty}, None)
        return metrics["loss"].value(), Aux(metrics, state)

    def outputs(variables, x):
        return jnp.stack(both(variables["params"], x), -1)

    def predict(params, state, batch):
        return both(params, batch["x"])[1]

    return Outputs(outputs), Task(init, loss, predict)


class Given(nn.Module):
    """A decoder of the noise in the state."""

    decoder: nn.Module

    @nn.compact
    def __call__(self, z, *, train=False):
        nn.share_scope(self, self.decoder)
        z = self.variable("noise", "z", lambda: z).value
        return self.decoder(z, train=train)


def game(players, shape):
    """Two players, non-saturating; the statistics of both are one tree."""
    decoder = Given(players.generator.decoder)
    players = players._replace(generator=players.generator.clone(decoder=decoder))
    task = gan.task(players, gan.GAMES["non_saturating"])

    def parts(x):
        x, z = jnp.split(x, [math.prod(shape)], -1)
        return x.reshape(-1, *shape), z

    def to_task(stats, z):
        state = {name: {"batch_stats": stats[name]} for name in players._fields}
        state["generator"]["noise"] = {"decoder": {"z": z}}
        return state

    def from_task(state):
        return {"batch_stats": {name: v["batch_stats"] for name, v in state.items()}}

    def init(key, batch):
        params, state = task.init(key, {"x": parts(batch["x"])[0]})
        return params, from_task(state)

    def loss(params, state, batch, key, *, train):
        x, z = parts(batch["x"])
        state = to_task(state["batch_stats"], z)
        value, aux = task.loss(params, state, {"x": x}, key, train=train)
        return value, aux._replace(state=from_task(aux.state))

    def outputs(variables, x):
        x, z = parts(x)
        state = to_task(variables["batch_stats"], z)
        made, judge = (
            {"params": variables["params"][name], **state[name]}
            for name in players._fields
        )
        fake = players.generator.apply(made, z)
        judged = [players.discriminator.apply(judge, images) for images in (x, fake)]
        return jnp.concatenate([*judged, fake.reshape(len(x), -1)], -1)

    def predict(params, state, batch):
        return nn.sigmoid(outputs({"params": params, **state}, batch["x"])[:, :1])

    return Outputs(outputs), Task(init, loss, predict)


DENSE, IMAGE = (3, 4), (8, 8, 1)
CASES = {
    "vae_dense": autoencoder(
        vae.dense(DENSE, 2, (5,), classes=3, likelihood="gaussian"), DENSE
    ),
    "vae_conv": autoencoder(vae.conv(IMAGE, 3, (3, 4)), IMAGE),
    "penalty_dense": penalized(MLP(1, (7, 5), leaky)),
    "penalty_conv": penalized(ConvEncoder(1, (3, 4), leaky)),
    "dcgan": game(gan.dcgan(IMAGE, 3, (4, 3)), IMAGE),
}
