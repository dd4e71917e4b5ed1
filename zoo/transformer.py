"""Transformers: a classifier, a language model, an encoder-decoder.

Vaswani et al., "Attention is all you need", 2017, arXiv:1706.03762; with the norm
before each part: Xiong et al., "On layer normalization in the Transformer
architecture", 2020, arXiv:2002.04745.
Radford et al., "Language models are unsupervised multitask learners", 2019 (GPT-2).
Press & Wolf, "Using the output embedding to improve language models", 2017,
arXiv:1608.05859 (tied embeddings).

`extend` reads on from a `zoo.cache`.
Shapes: B batch, T target time, S source time, D features in, W width, L layers,
H heads, K outputs, V vocabulary.
"""

import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict
from jaxtyping import Bool, Float, Int

from zoo.attention import MultiHead, sinusoid
from zoo.base import UsageError, entries, float32
from zoo.cache import Cache, KeyValue, Memory, check_room, empty
from zoo.checks import check_inputs, check_sizes, check_tokens
from zoo.layers import Dropout
from zoo.types import Activation, Array, Dtype, Lengths, Number, Raw, Size, Tree
from zoo.weights import transformer_from_torch


def _norm(dtype):
    return nn.LayerNorm(epsilon=1e-5, dtype=dtype)  # torch's; Flax has 1e-6


class Block(nn.Module):
    """x + attention(norm(x)), where there is a memory + cross(norm(x)), + mlp(norm(x)).

    The MLP has 4 W hidden units. Dropout is where torch has it: after each part and
    inside the MLP. torch: norm_first=True, and relu or the exact gelu.
    """

    width: int
    heads: int
    kv_heads: int | None = None
    rotary: bool = False
    causal: bool = False
    cross: bool = False
    activation: Activation = nn.gelu  # the tanh approximation
    dropout: Number = 0.0
    dtype: Dtype = None

    def setup(self):
        def heads(**fields):
            return MultiHead(
                self.width, self.heads, self.kv_heads, dtype=self.dtype, **fields
            )

        self.attention_norm, self.mlp_norm = _norm(self.dtype), _norm(self.dtype)
        self.attention = heads(rotary=self.rotary)
        if self.cross:
            self.cross_norm, self.cross_attention = _norm(self.dtype), heads()
        self.up = nn.Dense(4 * self.width, dtype=self.dtype)
        self.down = nn.Dense(self.width, dtype=self.dtype)
        self.drop = Dropout(self.dropout)

    def __call__(
        self,
        x: Float[Array, "B T W"],
        cache: KeyValue | None = None,
        memory: Float[Array, "B S W"] | KeyValue | None = None,
        mask: Bool[Array, "#B #H #T #K"] | None = None,
        memory_mask: Bool[Array, "#B #H #T #S"] | None = None,
        positions: Int[Array, "T"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B T W"], KeyValue | None]:
        """(outputs, cache); the arguments as in `MultiHead`."""

        def drop(y):
            return self.drop(y, train=train)

        y, cache = self.attention(
            self.attention_norm(x),
            mask=mask,
            causal=self.causal,
            positions=positions,
            cache=cache,
        )
        x = x + drop(y)
        if self.cross:
            y = self.cross_norm(x)
            x = x + drop(self.cross_attention(y, memory, mask=memory_mask)[0])
        y = drop(self.activation(self.up(self.mlp_norm(x))))
        return x + drop(self.down(y)), cache

    def remember(
        self, memory: Float[Array, "B S W"]
    ) -> tuple[Float[Array, "B S W"], KeyValue]:
        """(memory, its keys and values for this block): a step of a scan."""
        return memory, self.cross_attention.remember(memory)


def stack(layers: int, remat: bool = False, **fields) -> nn.Module:
    """Blocks one on the other, with `Block(**fields)`'s methods.

    A scan, four blocks a turn, as one alone spends a fifth of its time (CPU) copying
    what it keeps for the backward pass: past four the program does not grow with the
    layers. Parameters and intermediates have the layers as axis 0, caches and memories
    as axis 1. `remat` computes the inside of a block once more in the backward pass.
    """
    check_sizes(layers=layers, width=fields["width"], heads=fields["heads"])
    same = nn.broadcast
    axes: dict[str, Any] = {
        "variable_axes": {"params": 0, "intermediates": 0},
        "split_rngs": {"params": True, "dropout": True},
        "length": layers,
        "out_axes": 1,
        "unroll": 1 if remat else min(4, layers),
    }
    block = Block
    if remat:
        # a scan already keeps the two passes apart; argument 7 is `train`
        block = nn.remat(Block, prevent_cse=False, static_argnums=(7,))
    methods = {
        "__call__": axes | {"in_axes": (1, 1, same, same, same, same)},
        "remember": axes | {"in_axes": ()},
    }
    return nn.scan(block, methods=methods)(**fields)


class Classifier(nn.Module):
    """Dense, or with a `vocabulary` embedding; encoder; mean over time; dense.

    Positions are sinusoids, so a sequence has any length.
    """

    outputs: int
    width: int = 64
    layers: int = 2
    heads: int = 4
    dropout: Number = 0.0
    vocabulary: int | None = None
    remat: bool = False
    dtype: Dtype = None

    def setup(self):
        if self.vocabulary is None:
            self.embed = nn.Dense(self.width, dtype=self.dtype)
        else:
            self.embed = _embed(self, self.vocabulary)
        self.encoder = stack(self.layers, **_fields(self))
        self.norm = _norm(self.dtype)
        self.dense = nn.Dense(self.outputs, dtype=self.dtype)
        self.drop = Dropout(self.dropout)

    def __call__(
        self, x: Raw, length: Lengths | None = None, *, train: bool = False
    ) -> Float[Array, "B {self.outputs}"]:
        """Of x [B, T, D] or tokens [B, T], without padding; UsageError for others."""
        x = check_inputs(x, "B T D") if self.vocabulary is None else check_tokens(x)
        real = jnp.ones(x.shape[:2], bool)
        if length is not None:
            real = entries(length, x)
        x = _place(self, self.embed, x, jnp.arange(x.shape[1]), train)
        mask = None if length is None else real[:, None, None]
        x, _ = self.encoder(x, None, None, mask, None, None, train)
        x = jnp.where(real[..., None], self.norm(x), 0).sum(1)
        x = x / jnp.maximum(real.sum(1, keepdims=True), 1).astype(x.dtype)
        return float32(self.dense(x))


class LanguageModel(nn.Module):
    """A causal Transformer: what comes after each token.

    `positions` are "rotary", for any length, or "learned", for at most `context`
    tokens. With `tied`, the logits are products with the embeddings. Embeddings start
    normal with standard deviation 0.02 (GPT-2).
    """

    vocabulary: int
    width: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int | None = None
    context: int = 256
    positions: str = "rotary"
    tied: bool = True
    dropout: Number = 0.0
    remat: bool = False
    dtype: Dtype = None

    def setup(self):
        normal = nn.initializers.normal(0.02)
        self.embed = _embed(self, self.vocabulary, embedding_init=normal)
        if self.positions == "learned":
            self.places = _embed(self, self.context, embedding_init=normal)
        elif self.positions != "rotary":
            raise UsageError(
                f"expected positions rotary or learned, found {self.positions!r}"
            )
        self.decoder = stack(
            self.layers,
            **_fields(self),
            kv_heads=self.kv_heads,
            rotary=self.positions == "rotary",
            causal=True,
        )
        self.norm = _norm(self.dtype)
        if not self.tied:
            self.dense = nn.Dense(self.vocabulary, use_bias=False, dtype=self.dtype)
        self.drop = Dropout(self.dropout)

    def __call__(
        self, tokens: Raw, *, train: bool = False
    ) -> Float[Array, "B T {self.vocabulary}"]:
        """Tokens [B, T] -> logits. UsageError for no tokens, and for too many."""
        self._check_length(check_tokens(tokens).shape[1])
        return self._run(tokens, None, 0, train)[0]

    def empty(self, batch: Size, length: Size) -> Cache:
        """The cache before the first token, with room for `length` tokens."""
        self._check_length(length)
        return empty(self, batch, length, kv_heads=self.kv_heads)

    def extend(
        self, tokens: Raw, cache: Cache
    ) -> tuple[Float[Array, "B t {self.vocabulary}"], Cache]:
        """The next tokens [B, t] -> (logits, the cache after them).

        Raises UsageError where they do not fit the cache; inside a compiled function,
        which does not know the position, only where they never would.
        """
        layers, start, _ = check_room(check_tokens(tokens), cache)
        logits, layers = self._run(tokens, layers, start, train=False)
        return logits, Cache(layers, start + tokens.shape[1])

    def _run(self, tokens, layers, start, train):
        positions = start + jnp.arange(tokens.shape[1])
        x = self.embed(tokens)
        if self.positions == "learned":
            x = x + self.places(positions)[None]
        x = self.drop(x, train=train)
        x, layers = self.decoder(x, layers, None, None, None, positions, train)
        x = self.norm(x)
        return float32(self.embed.attend(x) if self.tied else self.dense(x)), layers

    def _check_length(self, length):
        if self.positions == "learned" and length > self.context:
            raise UsageError(
                f"expected at most {self.context} tokens (context), found {length}"
            )


class EncoderDecoder(nn.Module):
    """From a source to a target; token 0 is padding, after the end of either.

    Positions are sinusoids; embeddings are multiplied by sqrt(W), and the logits are
    products with the target's (Vaswani et al., sections 3.4 and 3.5).
    """

    source_vocabulary: int
    target_vocabulary: int
    width: int = 128
    layers: int = 2
    heads: int = 4
    dropout: Number = 0.0
    remat: bool = False
    dtype: Dtype = None

    def setup(self):
        self.source_embed = _embed(self, self.source_vocabulary)
        self.target_embed = _embed(self, self.target_vocabulary)
        self.encoder = stack(self.layers, **_fields(self))
        self.encoder_norm = _norm(self.dtype)
        self.decoder = stack(self.layers, **_fields(self), causal=True, cross=True)
        self.decoder_norm = _norm(self.dtype)
        self.drop = Dropout(self.dropout)

    def __call__(
        self, source: Raw, target: Raw, *, train: bool = False
    ) -> Float[Array, "B T {self.target_vocabulary}"]:
        """Sources [B, S], the decoder's inputs [B, T] -> logits; UsageError for others.

        The inputs are the target moved one to the right, behind a first token.
        """
        memory = self.encode(source, train=train)
        return self._decode(check_tokens(target), memory, None, 0, train)[0]

    def encode(self, source: Raw, *, train: bool = False) -> Memory:
        """[B, S] -> what the decoder looks at: each layer's keys and values."""
        real = check_tokens(source, "B S") != 0
        positions = jnp.arange(source.shape[1])
        x = _place(self, self.source_embed, source, positions, train)
        x, _ = self.encoder(x, None, None, real[:, None, None], None, None, train)
        return Memory(self.decoder.remember(self.encoder_norm(x))[1], real)

    def empty(self, memory: Memory, length: Size) -> Cache:
        """The cache before the first token, with room for `length` tokens."""
        return empty(self, memory.real.shape[0], length, memory=memory)

    def extend(
        self, tokens: Raw, cache: Cache
    ) -> tuple[Float[Array, "B t {self.target_vocabulary}"], Cache]:
        """The next tokens [B, t] -> (logits, cache); raises as above."""
        layers, start, memory = check_room(check_tokens(tokens), cache)
        logits, layers = self._decode(tokens, memory, layers, start, train=False)
        return logits, Cache(layers, start + tokens.shape[1], memory)

    def _decode(self, tokens, memory, layers, start, train):
        """Its own padding needs no mask: it comes last, and nothing sees ahead."""
        positions = start + jnp.arange(tokens.shape[1])
        x = _place(self, self.target_embed, tokens, positions, train)
        mask = memory.real[:, None, None]
        x, layers = self.decoder(x, layers, memory.layers, None, mask, positions, train)
        return float32(self.target_embed.attend(self.decoder_norm(x))), layers


def _fields(model):
    names = ("width", "heads", "dropout", "remat", "dtype")
    return {name: getattr(model, name) for name in names}


def _embed(model, vocabulary, **fields):
    return nn.Embed(vocabulary, model.width, dtype=model.dtype, **fields)


def _place(model, embed, x, positions, train):
    """Tokens [B, T] or x [B, T, D] -> [B, T, W]: embedded, plus sinusoids; dropout."""
    scale = math.sqrt(model.width) if x.ndim == 2 else 1
    x = embed(x) * scale
    x = x + sinusoid(positions, model.width).astype(x.dtype)[None]
    return model.drop(x, train=train)


def attention_maps(
    model: nn.Module, variables: Tree, *inputs: Raw
) -> dict[str, Float[Array, "L B H queries keys"]]:
    """The weights of "encoder", "decoder", "cross", if there."""
    _, sown = model.apply(variables, *inputs, mutable="intermediates")
    maps = {}
    for path, weights in flatten_dict(sown["intermediates"]).items():
        maps["cross" if "cross_attention" in path else path[0]] = weights
    return maps


from_torch = transformer_from_torch
