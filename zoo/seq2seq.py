"""From one sequence to another: recurrent encoder-decoder with attention; its task.

Bahdanau, Cho & Bengio, "Neural machine translation by jointly learning to align and
translate", 2015, arXiv:1409.0473; Luong, Pham & Manning, "Effective approaches to
attention-based neural machine translation", 2015, arXiv:1508.04025: attention after the
decoder's step, without feeding it back, so that training is one product for all steps.

Tokens: 0 is padding, 1 the start, 2 the end. A source has neither start nor end; a
target ends with the end, then padding. A model here has `__call__(source, target)`,
`encode(source) -> memory`, `empty(memory, length) -> cache` and
`extend(tokens, cache) -> (logits, cache)`; `EncoderDecoder` of zoo.transformer has too.
Shapes: B batch, S source, T target, H units, V target vocabulary, W beams.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, Int

from zoo import language
from zoo.attention import Attention
from zoo.base import Task, UsageError, apply, concrete, float32, judged, known, parted
from zoo.checks import check_tokens, understood
from zoo.layers import Dropout
from zoo.rnn import LSTM, RNN, Cell
from zoo.supervised import classes
from zoo.types import Array, Dtype, Number, Raw, Size, Tree

PAD, START, END = 0, 1, 2


class Recurrent(nn.Module):
    """A bidirectional RNN reads, an RNN writes, attending to what was read.

    The decoder begins with a dense layer of the encoder's last states. Raises
    UsageError for an odd number of `features`: half are read in each direction.
    """

    source_vocabulary: int
    target_vocabulary: int
    features: int = 128
    layers: int = 1
    width: int = 64  # of the embeddings
    cell: Cell = LSTM
    score: str = "additive"
    dropout: Number = 0.0
    dtype: Dtype = None

    def setup(self):
        units, dtype = self.features, self.dtype
        if units % 2:
            raise UsageError(f"expected an even number of features, found {units}")
        layers, dropout = self.layers, self.dropout
        self.embed_source = nn.Embed(self.source_vocabulary, self.width, dtype=dtype)
        self.embed_target = nn.Embed(self.target_vocabulary, self.width, dtype=dtype)
        self.encoder = RNN(self.cell, units // 2, layers, True, dropout, dtype)
        self.decoder = RNN(self.cell, units, layers, False, dropout, dtype)
        self.bridge = nn.Dense(self.layers * self.cell.carries * units, dtype=dtype)
        self.attention = Attention(self.score, units)
        self.mix = nn.Dense(units, dtype=dtype)
        self.drop = Dropout(self.dropout)
        self.dense = nn.Dense(self.target_vocabulary, dtype=dtype)

    def __call__(
        self,
        source: Int[Array, "B S"],
        target: Int[Array, "B T"],
        *,
        train: bool = False,
    ) -> Float[Array, "B T {self.target_vocabulary}"]:
        """Logits; `target` is what stands before each target token."""
        cache = self._encode(source, train)
        return self._decode(target, cache, train)[0]

    def encode(self, source: Int[Array, "B S"]) -> Any:
        """What `empty` wants of a source."""
        return self._encode(source, train=False)

    def empty(self, memory: Any, length: Size = 0) -> Any:
        """The cache before the first token; it does not grow with `length`."""
        return memory

    def extend(
        self, tokens: Int[Array, "B t"], cache: Any
    ) -> tuple[Float[Array, "B t {self.target_vocabulary}"], Any]:
        """The next target tokens -> (logits, the cache after them)."""
        return self._decode(tokens, cache, train=False)[:2]

    def align(
        self, source: Int[Array, "B S"], target: Int[Array, "B T"]
    ) -> Float[Array, "B T S"]:
        """Attention weights while writing `target`."""
        return self._decode(target, self._encode(source, train=False), train=False)[2]

    def _encode(self, source, train):
        x = self.drop(self.embed_source(source), train=train)
        length = (source != PAD).sum(-1)
        carries, memory = self.encoder(x, length, train=train)
        last = jnp.concatenate([a for carry in carries for a in carry], -1)
        begin = jnp.tanh(self.bridge(last))
        shape = (last.shape[0], self.layers, self.cell.carries, self.features)
        begin = begin.reshape(shape)
        carry = [
            tuple(begin[:, i, j] for j in range(self.cell.carries))
            for i in range(self.layers)
        ]
        return carry, memory, source != PAD

    def _decode(self, tokens, cache, train):
        carry, memory, real = cache
        x = self.drop(self.embed_target(tokens), train=train)
        carry, h = self.decoder(x, None, carry, train=train)
        context, weights = self.attention(h, memory, memory, real[:, None, :])
        h = jnp.tanh(self.mix(jnp.concatenate([h, context], -1)))
        logits = float32(self.dense(self.drop(h, train=train)))
        return logits, (carry, memory, real), weights


def task(model: Any) -> Task:
    """Next-token cross-entropy, in nats per target token, end included, padding not.

    Batches {"x": source [B, S], "y": target [B, T]}. `predict` is greedy: [B, T'] with
    T' = 2 S + 10.
    """

    def init(key, batch):
        return parted(model.init(key, batch["x"], batch["y"]))

    def loss(params, state, batch, key, *, train):
        target = batch["y"]
        before = jnp.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=START)
        inputs = batch["x"], before
        logits, state = apply(model, params, state, *inputs, key=key, train=train)
        counts = target != PAD
        if "mask" in batch:
            counts = counts * batch["mask"].reshape(-1, 1)
        return judged(classes.values(logits, target), counts, state)

    def predict(params, state, batch):
        source = batch["x"]
        length = 2 * source.shape[1] + 10
        return translate(model, {"params": params, **state}, source, length)[0]

    return Task(init, loss, predict, known(model.target_vocabulary))


def translate(
    model: Any, variables: Tree, source: Raw, length: Size, *, beams: int = 1
) -> tuple[Int[Array, "B T"], Float[Array, "B"]]:
    """Source [B, S] -> (the best target found, its log p in nats).

    Greedy with one beam. A target ends with the end, which then fills the row. Raises
    UsageError for what is no source of the model, and numbers that cannot be right.
    """
    _check_source(model, source)
    for name, size in (("length", length), ("beams", beams)):
        language.check_count(name, size)
    source = jnp.asarray(source)
    with understood("source", {"source": source}):
        memory = model.apply(variables, source, method="encode")
    cache = model.empty(memory, length)

    def extend(tokens, cache):
        return model.apply(variables, tokens, cache, method="extend")

    start = jnp.full(source.shape[0], START, source.dtype)
    found = language.search(extend, cache, start, length, beams=beams, stop=END)
    return found[0][:, 0], found[1][:, 0]


def _check_source(model, source):
    """Raise UsageError for what is no source [B, S]; what is traced has no values."""
    if not all(check_tokens(source, "B S").shape):
        raise UsageError(f"expected a source of some tokens, found {source.shape}")
    language.check_vocabulary("a source", source, model.source_vocabulary)
    if not concrete(source):
        return
    real = np.asarray(source) != PAD
    wrong = ~real[:, 0] | (~real[:, :-1] & real[:, 1:]).any(1)
    if wrong.any():
        first = int(wrong.argmax())
        raise UsageError(
            f"expected padding ({PAD}) behind a source alone, found "
            f"{source[first].tolist()} in row {first}"
        )
