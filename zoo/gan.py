"""Generative adversarial networks: any game, as one loss for the one training step.

Goodfellow et al., "Generative adversarial nets", 2014, arXiv:1406.2661 (minimax and
non-saturating). Mao et al., "Least squares GANs", 2017, arXiv:1611.04076. Lim & Ye,
"Geometric GAN", 2017, arXiv:1705.02894 (hinge). Gulrajani et al., "Improved training of
Wasserstein GANs", 2017, arXiv:1704.00028. Radford, Metz & Chintala, 2016,
arXiv:1511.06434 (DCGAN). Mirza & Osindero, 2014, arXiv:1411.1784, and Miyato & Koyama,
2018, arXiv:1802.05637 (conditional). Salimans et al., "Improved techniques for training
GANs", 2016, arXiv:1606.03498 (semi-supervised).

The loss is the sum of the two players' losses, each blind to the other's parameters:
the gradient of the sum is each player's own. `params` has one tree for each player, so
that each can have its own optimizer. Batch norm sees real and generated images in
batches of their own, one after the other, and its running statistics are of both; the
generator's loss sees the generated batch again and changes no statistics of the
discriminator.
Shapes: B batch, Z latent dimensions, K classes.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.lax import stop_gradient
from jaxtyping import Float, PRNGKeyArray

from zoo.base import Task, apply, is_zero, judged, known, parted
from zoo.blocks import (
    ConvDecoder,
    ConvEncoder,
    DenseDecoder,
    beside,
    check_draws,
    corrupt,
    leaky,
)
from zoo.mlp import MLP
from zoo.supervised import classes as labels
from zoo.types import Array, Labels, Number, Raw, Tree

Value = Callable[[Array], Array]
Critic = Callable[..., Array]  # (x [1, ...], *others) -> a scalar; any others


class Game(NamedTuple):
    """What the players minimise, of the discriminator's logits [B]."""

    real: Value  # the discriminator, on real images
    fake: Value  # the discriminator, on generated ones
    generator: Value  # the generator, on generated ones


GAMES = {
    # log D(x) + log (1 - D(G(z))), D = sigmoid
    "minimax": Game(lambda d: nn.softplus(-d), nn.softplus, lambda d: -nn.softplus(d)),
    "non_saturating": Game(
        lambda d: nn.softplus(-d), nn.softplus, lambda d: nn.softplus(-d)
    ),
    "least_squares": Game(
        lambda d: 0.5 * jnp.square(d - 1),
        lambda d: 0.5 * jnp.square(d),
        lambda d: 0.5 * jnp.square(d - 1),
    ),
    "hinge": Game(lambda d: nn.relu(1 - d), lambda d: nn.relu(1 + d), lambda d: -d),
    "wasserstein": Game(lambda d: -d, lambda d: d, lambda d: -d),
}


class Generator(nn.Module):
    """Images in (-1, 1) from noise, with `classes` also from a label beside it."""

    decoder: nn.Module  # [B, Z (+ K)] -> [B, ...]
    latent: int
    classes: int = 0

    def __call__(
        self, z: Float[Array, "B Z"], y: Labels | None = None, *, train: bool = False
    ) -> Float[Array, "B *D"]:
        """Images from noise. Raises UsageError where labels are wanted and none."""
        z = beside(z, y, self.classes)
        return jnp.tanh(self.decoder(z, train=train))


class Players(NamedTuple):
    """Both networks. The discriminator has `train` and gives [B, 1]; of labels, [B, K]:
    a logit for each class."""

    generator: Generator
    discriminator: nn.Module


def dense(
    shape: tuple[int, ...],
    latent: int = 64,
    widths: tuple[int, ...] = (256, 512),
    *,
    classes: int = 0,
    outputs: int = 1,
) -> Players:
    """Perceptrons, for examples of any shape."""
    generator = Generator(DenseDecoder(shape, widths), latent, classes)
    return Players(generator, MLP(max(classes, outputs), widths[::-1], leaky))


def dcgan(
    shape: tuple[int, ...],
    latent: int = 64,
    channels: tuple[int, ...] = (128, 64),
    *,
    classes: int = 0,
    outputs: int = 1,
    batch_norm: bool = True,
) -> Players:
    """Convolutions with batch norm, weights from N(0, 0.02) (Radford et al. 2016).

    A gradient penalty wants a critic whose examples do not mix: `batch_norm` False
    leaves it out of the discriminator, which then starts LeCun normal.
    """
    normal = nn.initializers.normal(0.02)
    decoder = ConvDecoder(shape, channels, batch_norm=True, kernel_init=normal)
    discriminator = ConvEncoder(
        max(classes, outputs), channels[::-1], leaky, batch_norm
    )
    if batch_norm:
        discriminator = discriminator.clone(kernel_init=normal)
    return Players(Generator(decoder, latent, classes), discriminator)


def task(players: Players, game: Game, *, penalty: Number = 0.0) -> Task:
    """Two players of a game on batch["x"] in [-1, 1] (and "y", if conditional).

    A conditional discriminator says of an image and a label the logit of that class
    (a projection onto the label's own weights: Miyato & Koyama 2018). `penalty` is the
    weight of the critic's `gradient_penalty`, in training alone. Metrics: "loss", the
    sum; "discriminator", "generator"; "real" and "fake", the discriminator's mean
    logits. In evaluation the noise is drawn too, from the key given.
    """
    generator = players.generator

    def inputs(batch, key):
        x, y = batch["x"], batch["y"] if generator.classes else None
        return x, jax.random.normal(key, (x.shape[0], generator.latent)), y

    def init(key, batch):
        keys = jax.random.split(key, 3)
        x, z, y = inputs(batch, keys[2])
        return _parted(players, keys, x, z, y)

    def loss(params, state, batch, key, *, train):
        noise_key, mix_key, *keys = jax.random.split(key, 6)
        x, z, y = inputs(batch, noise_key)
        both = _Apply(players, params, state, train)
        fake = both("generator", z, y, key=keys[0])

        def judge(x, key, **how):
            logits = both("discriminator", x, key=key, **how)
            return _of_class(logits, y)

        real_logit = judge(x, keys[1])
        fake_logit = judge(stop_gradient(fake), keys[2])
        critic = game.real(real_logit) + game.fake(fake_logit)
        if train and not is_zero(penalty):
            mixed = mix(x, stop_gradient(fake), mix_key)
            critic = critic + penalty * gradient_penalty(
                lambda x, i: both.plain("discriminator", x)[0, i],
                mixed,
                jnp.zeros(x.shape[0], int) if y is None else y,
            )
        maker = game.generator(judge(fake, keys[3], frozen=True))
        values = {"loss": critic + maker, "discriminator": critic, "generator": maker}
        values |= {"real": real_logit, "fake": fake_logit}
        return judged(values, batch.get("mask"), both.state)

    return Task(init, loss, classes=known(generator.classes))


def semi_supervised(players: Players, *, noise: Number = 0.5) -> Task:
    """Classifies by few labels and many images without (Salimans et al. 2016, sec. 5).

    The discriminator has a logit for each of K classes; an image is real with the odds
    sum(exp(logits)), generated being class K + 1 with logit 0. A training batch has
    images "x", and beside them "labelled" images [B, ...] with labels "y"; where there
    are none, to evaluate, "y" is of "x". In training the discriminator sees all images
    with normal `noise` of that standard deviation. The generator plays the
    non-saturating game against the odds: with few images without labels it taught more
    than matching their features (section 3.1) did. Metrics: "loss", the sum in
    training, and in evaluation the cross-entropy; "accuracy".
    """
    generator, game = players.generator, GAMES["non_saturating"]

    def init(key, batch):
        x = batch["x"]
        z = jnp.zeros((x.shape[0], generator.latent))
        return _parted(players, jax.random.split(key), x, z)

    def loss(params, state, batch, key, *, train):
        both = _Apply(players, params, state, train)
        keys = jax.random.split(key, 9)  # the last five for dropout

        def judge(x, noise_key, key, **how):
            seen = corrupt(x, noise_key, noise) if train else x
            return both("discriminator", seen, key=key, **how)

        logits = judge(_with_labels(batch), keys[0], keys[4])
        values = labels.values(logits, batch["y"])
        if not train:
            return judged(values, batch.get("mask"), state)
        z = jax.random.normal(keys[1], (logits.shape[0], generator.latent))
        fake = both("generator", z, key=keys[5])
        real = jax.nn.logsumexp(judge(batch["x"], keys[2], keys[6]), -1)
        false = jax.nn.logsumexp(judge(stop_gradient(fake), keys[3], keys[7]), -1)
        critic = 0.5 * (game.real(real) + game.fake(false))
        fooled = judge(fake, keys[3], keys[8], frozen=True)
        maker = game.generator(jax.nn.logsumexp(fooled, -1))
        values |= {"discriminator": critic, "generator": maker}
        values["loss"] = values["loss"] + critic + maker
        return judged(values, batch.get("mask"), both.state)

    def predict(params, state, batch):
        both = _Apply(players, params, state, train=False)
        return nn.softmax(both("discriminator", _with_labels(batch)))

    def classes(params, state, batch):
        return jax.eval_shape(predict, params, state, batch).shape[-1]

    return Task(init, loss, predict, classes)


def mix(
    real: Float[Array, "B *D"], fake: Float[Array, "B *D"], key: PRNGKeyArray
) -> Float[Array, "B *D"]:
    """A point between each real and its generated example, uniform on the line."""
    share = jax.random.uniform(key, (real.shape[0], *(1,) * (real.ndim - 1)))
    return share * real + (1 - share) * fake


def gradient_penalty(
    critic: Critic, x: Float[Array, "B *D"], *others: Raw
) -> Float[Array, "B"]:
    """(|gradient of the critic at x| - 1)^2 for each example.

    `critic(x [1, ...], *others)` is a scalar, of one example alone (Gulrajani et al.
    2017, equation 3).
    """

    def slope(x, *others):
        gradient = jax.grad(lambda x: critic(x[None], *others))(x)
        # the root has no derivative at 0
        return jnp.sqrt(jnp.sum(jnp.square(gradient)) + 1e-12)

    return jnp.square(jax.vmap(slope)(x, *others) - 1)


def generate(
    generator: Generator,
    params: Tree,
    state: Tree,
    key: PRNGKeyArray,
    n: int,
    y: Labels | None = None,
) -> Float[Array, "n *D"]:
    """n images in (-1, 1) from a task's params and state; labels y if conditional.

    Raises UsageError for other labels, and no image.
    """
    check_draws(n, y, generator.classes)
    z = jax.random.normal(key, (n, generator.latent))
    inner = state.get("generator", {})
    return apply(generator, params["generator"], inner, z, y)[0]


class _Apply:
    """Both players with their variables; collects the statistics that they change."""

    def __init__(self, players, params, state, train):
        self.players, self.train = players, train
        self.params, self.state = params, dict(state)

    def __call__(self, name, *inputs, key=None, frozen=False):
        """The player's outputs, with dropout from a key of its own.

        `frozen`: no gradient for it, no statistics from it.
        """
        params = self.params[name]
        params = stop_gradient(params) if frozen else params
        outputs, new = self._apply(name, params, *inputs, key=key, train=self.train)
        if new and not frozen:
            self.state[name] = new
        return outputs

    def plain(self, name, *inputs):
        """In evaluation mode: each example for itself."""
        return self._apply(name, self.params[name], *inputs)[0]

    def _apply(self, name, params, *inputs, **how):
        module, state = getattr(self.players, name), self.state.get(name, {})
        return apply(module, params, state, *inputs, **how)


def _parted(players, keys, x, *inputs):
    """Both players' params and state, by name; no state where a player has none."""
    pairs = {
        "generator": parted(players.generator.init(keys[0], *inputs, train=False)),
        "discriminator": parted(players.discriminator.init(keys[1], x, train=False)),
    }
    params = {name: pair[0] for name, pair in pairs.items()}
    return params, {name: pair[1] for name, pair in pairs.items() if pair[1]}


def _with_labels(batch):
    return batch["labelled"] if "labelled" in batch else batch["x"]


def _of_class(logits, y):
    """Logits [B, 1], or [B, K] and labels -> [B]."""
    return (
        logits[:, 0] if y is None else jnp.take_along_axis(logits, y[:, None], 1)[:, 0]
    )
