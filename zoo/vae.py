"""Variational autoencoders: Bernoulli or Gaussian, of any encoder and decoder.

Kingma & Welling, "Auto-encoding variational Bayes", 2014, arXiv:1312.6114.
Higgins et al., "beta-VAE", 2017. Sohn, Lee & Yan, "Learning structured output
representation using deep conditional generative models", 2015 (on the label).
Burda, Grosse & Salakhutdinov, "Importance weighted autoencoders", 2016,
arXiv:1509.00519. Rybkin, Daniilidis & Levine, "Simple and effective VAE training with
calibrated decoders", 2021, arXiv:2006.13202 (one learned scale).
Likelihoods are in nats per example. Shapes: B batch, Z latent dimensions, K classes.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float, PRNGKeyArray, Shaped

from zoo.base import (
    Task,
    UsageError,
    apply,
    check_number,
    is_zero,
    judged,
    known,
    parted,
)
from zoo.blocks import ConvDecoder, ConvEncoder, DenseDecoder, beside, check_draws
from zoo.checks import check_int, check_labels, check_unit
from zoo.mlp import MLP
from zoo.types import Array, Labels, Number, Tree

LIKELIHOODS = ("bernoulli", "gaussian")


class VAE(nn.Module):
    """q(z|x) = N(mean, exp(logvar)) by the encoder, p(x|z) by the decoder.

    `encoder` gives [B, 2 Z] for x, `decoder` something like x for [B, Z]: logits of a
    "bernoulli" likelihood, or the means of a "gaussian" one, whose one scale is
    learned. With `classes`, both are conditional on a label y [B]: it shifts the
    encoder's outputs and stands beside z. Raises UsageError without one, and for
    another likelihood.
    """

    encoder: nn.Module
    decoder: nn.Module
    latent: int
    likelihood: str = "bernoulli"
    classes: int = 0

    def setup(self):
        if self.likelihood not in LIKELIHOODS:
            raise UsageError(
                f"expected a likelihood bernoulli or gaussian, found "
                f"{self.likelihood!r}"
            )
        if self.classes:
            # a dense layer over [features, one-hot y] is that of the features + this
            self.shift = nn.Embed(self.classes, 2 * self.latent)
        if self.likelihood == "gaussian":
            self.log_scale = self.param("log_scale", nn.initializers.zeros, (1,))

    def __call__(
        self,
        x: Shaped[Array, "B *D"],
        noise: Float[Array, "B Z"],
        y: Labels | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "B"], Float[Array, "B Z"], Float[Array, "B Z"]]:
        """x, standard normal noise -> (log p(x|z), mean, logvar).

        z = mean + exp(logvar / 2) noise (the reparametrisation, section 2.4).
        """
        mean, logvar = self.encode(x, y, train=train)
        z = mean + jnp.exp(0.5 * logvar) * noise
        return self.log_likelihood(x, z, y, train=train), mean, logvar

    def encode(
        self, x: Shaped[Array, "B *D"], y: Labels | None = None, *, train: bool = False
    ) -> tuple[Float[Array, "B Z"], Float[Array, "B Z"]]:
        """Mean and log-variance of q(z|x)."""
        outputs = self.encoder(x, train=train)
        if self.classes:
            outputs = outputs + self.shift(check_labels(y, self.classes))
        mean, logvar = jnp.split(outputs, 2, -1)
        return mean, logvar

    def decode(
        self, z: Float[Array, "B Z"], y: Labels | None = None, *, train: bool = False
    ) -> Float[Array, "B *D"]:
        """What the decoder says of x: logits or means."""
        return self.decoder(beside(z, y, self.classes), train=train)

    def log_likelihood(
        self,
        x: Float[Array, "B *D"],
        z: Float[Array, "B Z"],
        y: Labels | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "B"]:
        """log p(x|z), nats. A Bernoulli's x is in [0, 1]."""
        outputs = self.decode(z, y, train=train)
        if self.likelihood == "bernoulli":
            values = x * outputs - nn.softplus(outputs)
        else:
            log_scale = self.log_scale.reshape((1,) * x.ndim)
            square = jnp.square((x - outputs) * jnp.exp(-log_scale))
            values = -0.5 * (square + math.log(2 * math.pi)) - log_scale
        return values.reshape(x.shape[0], -1).sum(-1)

    def mean(
        self, z: Float[Array, "B Z"], y: Labels | None = None
    ) -> Float[Array, "B *D"]:
        """The mean of p(x|z)."""
        outputs = self.decode(z, y)
        return nn.sigmoid(outputs) if self.likelihood == "bernoulli" else outputs


def dense(
    shape: tuple[int, ...],
    latent: int,
    widths: tuple[int, ...] = (512,),
    *,
    classes: int = 0,
    likelihood: str = "bernoulli",
) -> VAE:
    """Perceptrons, for examples of any shape."""
    decoder = DenseDecoder(shape, widths[::-1])
    return VAE(MLP(2 * latent, widths), decoder, latent, likelihood, classes)


def conv(
    shape: tuple[int, ...],
    latent: int,
    channels: tuple[int, ...] = (32, 64),
    *,
    classes: int = 0,
    likelihood: str = "bernoulli",
) -> VAE:
    """Convolutions, for images [H, W, C]."""
    decoder = ConvDecoder(shape, channels[::-1])
    encoder = ConvEncoder(2 * latent, channels)
    return VAE(encoder, decoder, latent, likelihood, classes)


def divergence(
    mean: Float[Array, "B Z"], logvar: Float[Array, "B Z"]
) -> Float[Array, "B"]:
    """KL(N(mean, exp(logvar)) || N(0, 1)), appendix B, nats."""
    return 0.5 * jnp.sum(jnp.exp(logvar) + jnp.square(mean) - 1 - logvar, -1)


def task(model: Any, *, beta: Number = 1.0, anneal: Number = 0) -> Task:
    """Minimises nll + beta KL of batch["x"] (and "y" for a conditional model).

    `model(x, noise, y, train=...)` gives (log p(x|z), mean, logvar), as a `VAE` does.
    With `anneal`, beta grows linearly from 0 over that many steps of training, counted
    in the state as "steps". Metrics in nats per example: "loss", "nll", "kl" and
    "elbo" = -nll - kl. In evaluation the noise is drawn too, from the key given. Raises
    UsageError for a negative beta or anneal.
    """
    check_number("beta", beta)
    check_number("anneal", anneal)
    annealed = not is_zero(anneal)

    def arguments(batch, noise):
        return batch["x"], noise, batch["y"] if model.classes else None

    def init(key, batch):
        noise = jnp.zeros((batch["x"].shape[0], model.latent))
        variables = model.init(key, *arguments(batch, noise), train=False)
        params, state = parted(variables)
        return params, state | ({"steps": jnp.float32(0)} if annealed else {})

    def weight(state, dtype, train):
        """Of the KL: a traced `anneal` of 0 is none, and no division by it."""
        if not (annealed and train):
            return jnp.asarray(beta, dtype)
        share = (state["steps"] + (anneal == 0)) / jnp.maximum(anneal, 1)
        return beta * jnp.minimum(1, share)

    def loss(params, state, batch, key, *, train):
        noise_key, key = jax.random.split(key)
        noise = jax.random.normal(noise_key, (batch["x"].shape[0], model.latent))
        inner = {k: v for k, v in state.items() if k != "steps"}
        inputs = arguments(batch, noise)
        outputs, new = apply(model, params, inner, *inputs, key=key, train=train)
        likelihood, mean, logvar = outputs
        kl = divergence(mean, logvar)
        if annealed:
            new |= {"steps": state["steps"] + train}
        values = {
            "loss": weight(state, mean.dtype, train) * kl - likelihood,
            "nll": -likelihood,
            "kl": kl,
            "elbo": likelihood - kl,
        }
        return judged(values, batch.get("mask"), new)

    unit = getattr(model, "likelihood", None) == "bernoulli"  # one's own may have none
    check = check_unit if unit else None
    return Task(init, loss, classes=known(model.classes), check=check)


def variables_of(params: Tree, state: Tree) -> dict[str, Any]:
    """The variables that the functions below want, of a task's params and state."""
    return {"params": params, **{k: v for k, v in state.items() if k != "steps"}}


def bound(
    model: Any,
    variables: Tree,
    x: Shaped[Array, "B *D"],
    key: PRNGKeyArray,
    samples: int = 500,
    y: Labels | None = None,
) -> Float[Array, "B"]:
    """log (1/k) sum_k p(x, z_k) / q(z_k|x) with z_k from q(z|x), nats.

    Its expectation grows with k towards log p(x) (Burda et al. 2016, theorem 1); for
    one sample it is the ELBO.
    """
    mean, logvar = model.apply(variables, x, y, method="encode")

    def add(total, keys):
        noise = jax.random.normal(keys[0], mean.shape)
        z = mean + jnp.exp(0.5 * logvar) * noise
        likelihood = model.apply(
            variables, x, z, y, method="log_likelihood", rngs={"dropout": keys[1]}
        )
        # log p(z) - log q(z|x): the constants of the two normals cancel
        ratio = 0.5 * jnp.sum(jnp.square(noise) - jnp.square(z) + logvar, -1)
        return jnp.logaddexp(total, likelihood + ratio), None

    keys = jax.random.split(key, 2 * samples).reshape(2, samples).T
    total, _ = jax.lax.scan(add, jnp.full(x.shape[0], -jnp.inf), keys)
    return total - math.log(samples)


def generate(
    model: VAE, variables: Tree, key: PRNGKeyArray, n: int, y: Labels | None = None
) -> Float[Array, "n *D"]:
    """The means of p(x|z) for n draws of z from the prior, of labels y if conditional.

    Raises UsageError for other labels, and no draw.
    """
    check_draws(n, y, model.classes)
    z = jax.random.normal(key, (n, model.latent))
    return model.apply(variables, z, y, method="mean")  # type: ignore[return-value]


def encode(
    model: VAE, variables: Tree, x: Shaped[Array, "B *D"], y: Labels | None = None
) -> Float[Array, "B Z"]:
    """The means of q(z|x)."""
    return model.apply(variables, x, y, method="encode")[0]


def reconstruct(
    model: VAE, variables: Tree, x: Shaped[Array, "B *D"], y: Labels | None = None
) -> Float[Array, "B *D"]:
    """The means of p(x|z) at the means of q(z|x)."""
    z = encode(model, variables, x, y)
    return model.apply(variables, z, y, method="mean")  # type: ignore[return-value]


def interpolate(
    model: VAE,
    variables: Tree,
    a: Shaped[Array, "B *D"],
    b: Shaped[Array, "B *D"],
    steps: int = 8,
    y: Labels | None = None,
) -> Float[Array, "B {steps} *D"]:
    """From a to b along a line of the latent space, in so many steps.

    With labels y, of both ends alike. Raises UsageError for no step.
    """
    check_int("steps", steps, 1)
    ends = encode(model, variables, a, y), encode(model, variables, b, y)

    def at(t):
        z = (1 - t) * ends[0] + t * ends[1]
        return model.apply(variables, z, y, method="mean")

    return jax.vmap(at, out_axes=1)(jnp.linspace(0, 1, steps))
