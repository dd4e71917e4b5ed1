"""Recurrent networks: Elman, GRU, LSTM, LSTM with peepholes; in one or both directions.

Elman, "Finding structure in time", 1990.
Hochreiter & Schmidhuber, "Long short-term memory", 1997; with forget gates: Gers,
Schmidhuber & Cummins, 2000; with peepholes: Gers & Schmidhuber, "Recurrent nets that
time and count", 2000.
Cho et al., "Learning phrase representations using RNN encoder-decoder", 2014,
arXiv:1406.1078; the gate after the product, as in torch and cuDNN.
Shapes: B batch, T time, D features in, H units, G gates, K outputs, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jaxtyping import Float

from zoo.base import UsageError, float32
from zoo.checks import check_inputs, check_sizes, check_tokens
from zoo.layers import Dropout, recur
from zoo.types import Array, Dtype, Lengths, Number, Raw, Size
from zoo.weights import rnn_from_torch

Weights = dict[str, Array]


class Cell(NamedTuple):
    """One step of a recurrence and the weights that it wants.

    step(weights, carry, x [B, D]) -> (carry, h [B, H]); the carry is a tuple of
    `carries` arrays [B, H], the first of them h. Weights: "kernel" [D, G H], LeCun
    normal, "recurrent" [H, G H], orthogonal for each gate, "bias" [G H], and `vectors`
    [n, H] by name, zero. torch has two biases where there is one here, and draws all
    from a uniform distribution.
    """

    step: Callable[[Weights, tuple, Array], tuple[tuple, Array]]
    biases: tuple[float, ...]  # of each gate, at first
    carries: int = 1
    vectors: tuple[tuple[str, int], ...] = ()


def _elman(w, carry, x):
    h = jnp.tanh(_product(w, x, carry[0]))
    return (h,), h


def _gru(w, carry, x):
    (h,) = carry
    r, z, n = jnp.split(_affine(x, w["kernel"], w["bias"]), 3, -1)
    b = w["recurrent_bias"].reshape(-1)
    hr, hz, hn = jnp.split(_affine(h, w["recurrent"], b), 3, -1)
    r, z = nn.sigmoid(r + hr), nn.sigmoid(z + hz)
    h = (1 - z) * jnp.tanh(n + r * hn) + z * h
    return (h,), h


def _lstm(w, carry, x):
    h, c = carry
    i, f, g, o = jnp.split(_product(w, x, h), 4, -1)
    c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
    h = nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def _peephole_lstm(w, carry, x):
    h, c = carry
    i, f, g, o = jnp.split(_product(w, x, h), 4, -1)
    pi, pf, po = jnp.split(w["peephole"], 3)  # [1, H] each: diagonal matrices
    c = nn.sigmoid(f + pf * c) * c + nn.sigmoid(i + pi * c) * jnp.tanh(g)
    h = nn.sigmoid(o + po * c) * jnp.tanh(c)
    return (h, c), h


def _product(w, x, h):
    """x W + h R + b as one product: the fastest form on CPU."""
    both = jnp.concatenate([w["kernel"], w["recurrent"]])
    return _affine(jnp.concatenate([x, h], -1), both, w["bias"])


def _affine(x, kernel, bias):
    return x @ kernel + bias.reshape(1, -1)


ELMAN = Cell(_elman, (0.0,))
"""h' = tanh(x W + h R + b)."""

GRU = Cell(_gru, (0.0, 0.0, 0.0), vectors=(("recurrent_bias", 3),))
"""Gates r, z, n: h' = (1 - z) n + z h, n = tanh(x W + b + r (h R + b_h))."""

LSTM = Cell(_lstm, (0.0, 1.0, 0.0, 0.0), carries=2)
"""Gates i, f, g, o: c' = f c + i g, h' = o tanh(c'). The forget gate's bias starts at 1
(Jozefowicz et al., "An empirical exploration of recurrent network architectures", 2015;
torch: about 0)."""

PEEPHOLE_LSTM = Cell(
    _peephole_lstm, (0.0, 1.0, 0.0, 0.0), carries=2, vectors=(("peephole", 3),)
)
"""An LSTM whose gates i and f also see c, and whose gate o sees c', through a weight
for each unit: "peephole" [3, H]."""

CELLS = {"elman": ELMAN, "gru": GRU, "lstm": LSTM, "peephole_lstm": PEEPHOLE_LSTM}


class Layer(nn.Module):
    """A cell over time, in one direction."""

    cell: Cell
    features: int
    reverse: bool = False
    dtype: Dtype = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], length: Lengths | None = None, carry: Any = None
    ) -> tuple[tuple, Float[Array, "B T {self.features}"]]:
        """(carry, h of every step); carry None begins at zero."""
        weights = self._weights(x.shape[-1])
        values = promote_dtype(x, *weights.values(), dtype=self.dtype)
        x, weights = values[0], dict(zip(weights, values[1:], strict=True))
        if carry is None:
            zero = jnp.zeros((x.shape[0], self.features), x.dtype)
            carry = (zero,) * self.cell.carries

        def step(carry, x):
            return self.cell.step(weights, carry, x)

        return recur(step, carry, x, length=length, reverse=self.reverse)

    def _weights(self, inputs):
        units, biases = self.features, jnp.array(self.cell.biases)
        columns = units * len(self.cell.biases)

        def orthogonal(key, shape):
            keys = jax.random.split(key, len(biases))
            init = nn.initializers.orthogonal()
            return jnp.concatenate([init(k, (units, units)) for k in keys], -1)

        lecun = nn.initializers.lecun_normal()
        weights = {
            "kernel": self.param("kernel", lecun, (inputs, columns)),
            "recurrent": self.param("recurrent", orthogonal, (units, columns)),
            "bias": self.param("bias", lambda key: jnp.repeat(biases, units)),
        }
        for name, rows in self.cell.vectors:
            zeros = nn.initializers.zeros_init()
            weights[name] = self.param(name, zeros, (rows, units))
        return weights


class RNN(nn.Module):
    """Layers of a cell, one on the other, with dropout between them.

    `bidirectional` runs each layer in both directions side by side: 2 H units out, and
    raises UsageError where it is to be continued.
    """

    cell: Cell
    features: int
    layers: int = 1
    bidirectional: bool = False
    dropout: Number = 0.0
    dtype: Dtype = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        length: Lengths | None = None,
        carry: Any = None,
        *,
        train: bool = False,
    ) -> tuple[list[tuple], Float[Array, "B T H"]]:
        """(carries, h of every step); of both directions, 2 H units.

        `length` counts the entries that are no padding. `carries` are those after
        the last entry (in reverse, the first), one for each layer and direction in
        turn; given back, they continue a sequence that runs forward.
        """
        check_sizes(features=self.features, layers=self.layers)
        if carry is not None and self.bidirectional:
            raise UsageError("a sequence read in both directions cannot be continued")
        carries = []
        directions = ("forward", "backward")[: 1 + self.bidirectional]
        for i in range(self.layers):
            if i:
                x = Dropout(self.dropout)(x, train=train)
            outputs = []
            for name in directions:
                layer = Layer(
                    self.cell,
                    self.features,
                    reverse=name == "backward",
                    dtype=self.dtype,
                    name=f"{name}_{i}",
                )
                begin = None if carry is None else carry[i]
                last, y = layer(x, length, begin)
                carries.append(last)
                outputs.append(y)
            x = jnp.concatenate(outputs, -1) if self.bidirectional else outputs[0]
        return carries, x

    def empty(self, batch: Size) -> list[tuple]:
        """The carries before the first entry: zeros."""
        zero = jnp.zeros((batch, self.features), self.dtype or jnp.float32)
        return [(zero,) * self.cell.carries for _ in range(self.layers)]


class Classifier(nn.Module):
    """An RNN and a dense layer on what it has read at the end, of each direction.

    With a `vocabulary` it reads tokens, by embeddings of `width`.
    """

    outputs: int
    rnn: RNN
    dropout: Number = 0.0
    vocabulary: int | None = None
    width: int = 64

    @nn.compact
    def __call__(
        self, x: Raw, length: Lengths | None = None, *, train: bool = False
    ) -> Float[Array, "B {self.outputs}"]:
        """Of x [B, T, D] or tokens [B, T]. Raises UsageError for others."""
        if self.vocabulary is None:
            x = check_inputs(x, "B T D")
        else:
            embed = nn.Embed(self.vocabulary, self.width, dtype=self.rnn.dtype)
            x = Dropout(self.dropout)(embed(check_tokens(x)), train=train)
        carries, _ = self.rnn(x, length, train=train)
        last = carries[-1 - self.rnn.bidirectional :]
        h = jnp.concatenate([carry[0] for carry in last], -1)
        h = Dropout(self.dropout)(h, train=train)
        return float32(nn.Dense(self.outputs, dtype=self.rnn.dtype)(h))


class Regressor(nn.Module):
    """An RNN and a dense layer at every step: with y_t = x_{t+1}, one step ahead."""

    outputs: int
    rnn: RNN

    @nn.compact
    def __call__(
        self, x: Raw, length: Lengths | None = None, *, train: bool = False
    ) -> Float[Array, "B T {self.outputs}"]:
        """Of each step of x [B, T, D]. Raises UsageError for another shape or dtype."""
        _, h = self.rnn(check_inputs(x, "B T D"), length, train=train)
        return float32(nn.Dense(self.outputs, dtype=self.rnn.dtype)(h))


class LanguageModel(nn.Module):
    """Embedding, dropout, RNN, dropout, dense: what comes after each token.

    Dropout around the RNN as in Zaremba et al., "Recurrent neural network
    regularization", 2014, arXiv:1409.2329.
    """

    vocabulary: int
    rnn: RNN
    width: int = 64  # of the embedding
    dropout: Number = 0.0

    def setup(self):
        self.embed = nn.Embed(self.vocabulary, self.width, dtype=self.rnn.dtype)
        self.drop = Dropout(self.dropout)
        self.dense = nn.Dense(self.vocabulary, dtype=self.rnn.dtype)

    def __call__(
        self, tokens: Raw, *, train: bool = False
    ) -> Float[Array, "B T {self.vocabulary}"]:
        """Tokens [B, T] -> logits. Raises UsageError for what are no tokens."""
        return self._run(tokens, None, train)[0]

    def empty(self, batch: Size, length: Size = 0) -> list[tuple]:
        """The cache before the first token; it does not grow with `length`."""
        return self.rnn.empty(batch)

    def extend(
        self, tokens: Raw, cache: Any
    ) -> tuple[Float[Array, "B t {self.vocabulary}"], Any]:
        """The next tokens [B, t] -> (logits, the cache after them)."""
        return self._run(tokens, cache, train=False)

    def _run(self, tokens, carry, train):
        x = self.drop(self.embed(check_tokens(tokens)), train=train)
        carry, h = self.rnn(x, None, carry, train=train)
        h = self.drop(h, train=train)
        return float32(self.dense(h)), carry


from_torch = rnn_from_torch
