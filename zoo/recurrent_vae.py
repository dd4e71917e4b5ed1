"""A recurrent variational autoencoder: sequences of tokens from a point in space.

Bowman et al., "Generating sentences from a continuous space", 2016, arXiv:1511.06349.
Shapes: B batch, T time, V vocabulary, Z latent dimensions, H units, W width.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float, Int, PRNGKeyArray, Shaped
from optax import losses

from zoo.base import float32, is_zero
from zoo.checks import check_int, check_tokens
from zoo.language import check_count
from zoo.rnn import LSTM, RNN
from zoo.types import Array, Number, Raw, Size, Tree


class RecurrentVAE(nn.Module):
    """An LSTM reads x into q(z|x), an LSTM writes x from z.

    z gives the decoder its first state and stands beside each of its inputs, the token
    before. That token is hidden from it with probability `word_dropout`, in evaluation
    too: it is a part of p(x|z), so that the ELBO is one of what is trained (Bowman et
    al., section 3.2, hide tokens in training alone; at 1, their inputless decoder).
    `latent` 0 leaves the decoder alone: a language model with the same handicap.
    """

    vocabulary: int
    latent: int = 16
    features: int = 128
    width: int = 32
    word_dropout: Number = 0.75

    classes = 0  # not conditional: as `vae.task` asks
    likelihood = "categorical"

    def setup(self):
        # a token more for "hidden", another for "the beginning"
        self.embed = nn.Embed(self.vocabulary + 2, self.width)
        if self.latent:
            self.reader = RNN(LSTM, self.features)
            self.statistics = nn.Dense(2 * self.latent)
            self.begin = nn.Dense(2 * self.features)
        self.writer = RNN(LSTM, self.features)
        self.logits = nn.Dense(self.vocabulary)

    def __call__(
        self,
        x: Shaped[Array, "B T"],
        noise: Float[Array, "B Z"],
        y: None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "B"], Float[Array, "B Z"], Float[Array, "B Z"]]:
        """Tokens, noise -> (log p(x|z), mean, logvar).

        Draws what is hidden from the key "dropout".
        """
        mean, logvar = self.encode(x)
        z = mean + jnp.exp(0.5 * logvar) * noise
        return self.log_likelihood(x, z), mean, logvar

    def encode(
        self, x: Raw, y: None = None
    ) -> tuple[Float[Array, "B Z"], Float[Array, "B Z"]]:
        """Tokens [B, T] -> mean and log-variance of q(z|x). UsageError for others."""
        check_tokens(x)
        if not self.latent:
            nothing = jnp.zeros((x.shape[0], 0))
            return nothing, nothing
        carries, _ = self.reader(self.embed(x))
        mean, logvar = jnp.split(float32(self.statistics(carries[0][0])), 2, -1)
        return mean, logvar

    def log_likelihood(
        self, x: Int[Array, "B T"], z: Float[Array, "B Z"], y: None = None
    ) -> Float[Array, "B"]:
        """log p(x|z), the sum over the tokens, nats."""
        first = jnp.full((x.shape[0], 1), self.vocabulary + 1)
        seen = jnp.concatenate([first, x[:, :-1]], 1)
        hidden = jnp.zeros(x.shape, bool)
        if not is_zero(self.word_dropout):
            key = self.make_rng("dropout")
            hidden = jax.random.bernoulli(key, self.word_dropout, x.shape)
        _, logits = self._write(seen, hidden, z, self._carry(z))
        return -losses.softmax_cross_entropy_with_integer_labels(logits, x).sum(-1)

    def draw(
        self, z: Float[Array, "B Z"], key: PRNGKeyArray, length: Size
    ) -> Int[Array, "B {length}"]:
        """Tokens drawn from p(x|z)."""
        keys = jax.random.split(key, 2 * length).reshape(length, 2)

        def step(model, carry, keys):
            token, state = carry
            hidden = jax.random.bernoulli(keys[0], model.word_dropout, token.shape)
            state, logits = model._write(token, hidden, z, state)
            token = jax.random.categorical(keys[1], logits[:, 0])[:, None]
            return (token, state), token[:, 0]

        first = jnp.full((z.shape[0], 1), self.vocabulary + 1)
        scan = nn.scan(step, variable_broadcast="params", out_axes=1)
        return scan(self, (first, self._carry(z)), keys)[1]

    def _write(self, tokens, hidden, z, carry):
        """Tokens [B, t], which of them are hidden -> (carry, logits [B, t, V])."""
        begin = tokens == self.vocabulary + 1
        x = self.embed(jnp.where(hidden & ~begin, self.vocabulary, tokens))
        beside = jnp.broadcast_to(z[:, None], (*tokens.shape, self.latent))
        carry, h = self.writer(jnp.concatenate([x, beside], -1), carry=carry)
        return carry, float32(self.logits(h))

    def _carry(self, z):
        if not self.latent:
            zero = jnp.zeros((z.shape[0], self.features))
            return [(zero, zero)]
        return [tuple(jnp.split(nn.tanh(self.begin(z)), 2, -1))]


def generate(
    model: RecurrentVAE, variables: Tree, key: PRNGKeyArray, n: int, length: Size
) -> Int[Array, "{n} {length}"]:
    """n sequences of tokens from the prior. Raises UsageError for none, or no token."""
    check_int("n", n, 1)
    check_count("length", length)
    z_key, key = jax.random.split(key)
    z = jax.random.normal(z_key, (n, model.latent))
    found = model.apply(variables, z, key, length, method="draw")
    return found  # type: ignore[return-value]
