"""Attention: scores, the weighted mean, many heads, positions.

Bahdanau, Cho & Bengio, "Neural machine translation by jointly learning to align and
translate", 2015, arXiv:1409.0473 (additive scores).
Luong, Pham & Manning, "Effective approaches to attention-based neural machine
translation", 2015, arXiv:1508.04025 (dot and bilinear scores).
Vaswani et al., "Attention is all you need", 2017, arXiv:1706.03762.
Su et al., "RoFormer", 2021, arXiv:2104.09864 (rotary positions).
Ainslie et al., "GQA", 2023, arXiv:2305.13245 (heads that share keys and values).
Shapes: B batch, H heads, Q queries, K keys, D features of a query and a key, W width.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jaxtyping import Bool, Float, Int, Shaped

from zoo.base import UsageError
from zoo.cache import KeyValue as KeyValue
from zoo.cache import write
from zoo.types import Array, Dtype
from zoo.weights import attention_from_torch

Queries = Float[Array, "... Q D"]
Keys = Float[Array, "... K D"]
Scores = Float[Array, "... Q K"]
Score = Callable[[Array, Array], Array]
"""Queries [..., Q, Dq] and keys [..., K, Dk] -> scores [..., Q, K]."""


def dot(q: Queries, k: Keys) -> Scores:
    """q . k (Luong et al. 2015, equation 8, "dot")."""
    # bfloat16 has 8 bits: too few for what goes through an exponential
    return jnp.matmul(q, k.mT, preferred_element_type=_at_least_float32(q))


def scaled_dot(q: Queries, k: Keys) -> Scores:
    """q . k / sqrt(D), of variance 1 where q and k have it (Vaswani et al., eq. 1)."""
    return dot(q, k) / math.sqrt(q.shape[-1])


def bilinear(w: Float[Array, "Dq Dk"]) -> Score:
    """q W k with W [Dq, Dk] (Luong et al. 2015, equation 8, "general")."""
    return lambda q, k: dot(q @ w, k)


def additive(
    w_query: Float[Array, "Dq F"], w_key: Float[Array, "Dk F"], v: Float[Array, "F"]
) -> Score:
    """v . tanh(q W + k U), W and U by w_query and w_key (Bahdanau et al., A.1.2)."""

    def score(q, k):
        hidden = jnp.tanh((q @ w_query)[..., :, None, :] + (k @ w_key)[..., None, :, :])
        return hidden @ v

    return score


def attention(
    q: Float[Array, "... Q Dq"],
    k: Float[Array, "... K Dk"],
    v: Float[Array, "... K Dv"],
    score: Score = scaled_dot,
    mask: Shaped[Array, "..."] | None = None,
) -> tuple[Float[Array, "... Q Dv"], Float[Array, "... Q K"]]:
    """softmax(score(q, k)) v, and the weights softmax(score(q, k)).

    Where `mask`, which broadcasts to the weights, is False, the weight is 0; a query
    that may see nothing gets zeros. The softmax is in float32 at least.
    """
    scores = score(q, k)
    scores = scores.astype(_at_least_float32(scores))
    if mask is not None:
        mask = mask.reshape((1,) * (scores.ndim - mask.ndim) + mask.shape)
        # finite: a row of -inf would be NaN, and so would its gradient
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    if mask is not None:
        weights = jnp.where(mask, weights, 0)
    total = weights.sum(-1, keepdims=True)
    total = jnp.where(total == 0, 1, total)
    # the outputs are divided, not the weights: fewer numbers, there and in the gradient
    outputs = weights.astype(v.dtype) @ v / total.astype(v.dtype)
    return outputs, weights / total


class Attention(nn.Module):
    """`attention` by a score that it knows by name and whose weights it learns.

    "dot", "scaled_dot", "bilinear" (W [Dq, Dk]) or "additive" with `features` hidden
    units. Weights start LeCun normal. Raises UsageError for another name.
    """

    score: str = "additive"
    features: int = 64
    dtype: Dtype = None

    @nn.compact
    def __call__(
        self,
        q: Float[Array, "... Q Dq"],
        k: Float[Array, "... K Dk"],
        v: Float[Array, "... K Dv"],
        mask: Shaped[Array, "..."] | None = None,
    ) -> tuple[Float[Array, "... Q Dv"], Float[Array, "... Q K"]]:
        """As `attention`: (outputs, weights)."""
        q, k, v = promote_dtype(q, k, v, dtype=self.dtype)
        return attention(q, k, v, self._score(q, k), mask)

    def _score(self, q, k):
        def weight(name, rows, columns):
            init = nn.initializers.lecun_normal()
            return self.param(name, init, (rows, columns)).astype(q.dtype)

        if self.score == "dot":
            return dot
        if self.score == "scaled_dot":
            return scaled_dot
        if self.score == "bilinear":
            return bilinear(weight("kernel", q.shape[-1], k.shape[-1]))
        if self.score == "additive":
            return additive(
                weight("query", q.shape[-1], self.features),
                weight("key", k.shape[-1], self.features),
                weight("vector", self.features, 1).reshape(-1),
            )
        known = "dot, scaled_dot, bilinear or additive"
        raise UsageError(f"expected a score {known}, found {self.score!r}")


def sinusoid(positions: Shaped[Array, "T"], width: int) -> Float[Array, "T {width}"]:
    """Of width W for each position: sines, then cosines (Vaswani et al., section 3.5).

    The paper alternates the two: the same up to the order of the features.
    """
    angles = _angles(positions, math.ceil(width / 2))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)[:, :width]


def rotary(
    x: Float[Array, "*B T D"], positions: Shaped[Array, "T"]
) -> Float[Array, "*B T D"]:
    """Turns the pairs in D by their positions (Su et al. 2021, equation 34).

    Then q . k depends on the distance of the two alone. The pair that turns together
    is (i, i + D/2), where the paper has (2i, 2i + 1): the same up to their order.
    Raises UsageError for an odd D.
    """
    if x.shape[-1] % 2:
        raise UsageError(
            f"expected heads of even width for rotary positions, found {x.shape[-1]}"
        )
    angles = _angles(positions, x.shape[-1] // 2)
    angles = angles.reshape((1,) * (x.ndim - 2) + angles.shape)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    a, b = jnp.split(x.astype(_at_least_float32(x)), 2, -1)
    turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
    return turned.astype(x.dtype)


def _angles(positions, n):
    """[T] -> [T, n]: wavelengths from 2 pi towards 10000 * 2 pi."""
    rates = 10_000.0 ** (-jnp.arange(n) / n)
    return positions.astype(rates.dtype).reshape(-1, 1) * rates.reshape(1, -1)


class MultiHead(nn.Module):
    """Attention in `heads` subspaces of a width (Vaswani et al., section 3.2.2).

    With `kv_heads` < `heads`, groups of heads share keys and values. `rotary` turns
    queries and keys by their positions. Kernels start LeCun normal, biases at zero
    (torch: Glorot uniform over the three projections as one). torch's `dropout`, of
    weights, is left out. Raises UsageError for heads that do not divide the width, or
    kv_heads that do not divide the heads.

    The softmax is `attention`'s, not jax.nn.dot_product_attention's: that one is in
    float32 even for float64, and on CPU it is the same two products.
    """

    width: int
    heads: int
    kv_heads: int | None = None
    rotary: bool = False
    use_bias: bool = True
    dtype: Dtype = None

    def setup(self):
        if self.heads < 1 or self.width % self.heads:
            raise UsageError(
                f"expected heads that divide the width {self.width}, found {self.heads}"
            )
        if self.heads % self._kv_heads():
            raise UsageError(
                f"expected kv_heads that divide the {self.heads} heads, "
                f"found {self.kv_heads}"
            )

        def dense(width):
            return nn.Dense(width, use_bias=self.use_bias, dtype=self.dtype)

        shared = self._kv_heads() * (self.width // self.heads)
        self.query, self.out = dense(self.width), dense(self.width)
        self.key, self.value = dense(shared), dense(shared)

    def __call__(
        self,
        x: Float[Array, "B Q _"],
        memory: Float[Array, "B K _"] | KeyValue | None = None,
        *,
        mask: Bool[Array, "#B #H #Q #K"] | None = None,
        causal: bool = False,
        positions: Int[Array, "Q"] | None = None,
        cache: KeyValue | None = None,
    ) -> tuple[Float[Array, "B Q {self.width}"], KeyValue | None]:
        """x looks at memory, or at itself -> (outputs, cache).

        `mask` says what may be seen; with `causal` also no
        entry sees a later one. `positions` [Q] are x's, 0, 1, ... by default.
        A `cache` has room for K entries and holds those before positions[0]; x follows
        them, causally, and the cache with x in it is returned, else None. The weights
        [B, H, Q, K] are sown into "intermediates".
        """
        if positions is None:
            positions = jnp.arange(x.shape[1])
        q = self._split(self.query(x), self.heads)
        if self.rotary and memory is None:
            q = rotary(q, positions)
        if memory is None:
            kv = self.remember(x, positions)
        else:
            kv = memory if isinstance(memory, KeyValue) else self.remember(memory)
        seen = positions
        if cache is not None:
            cache = kv = write(cache, kv, positions[0])
            seen = jnp.arange(kv.key.shape[2])  # what is not yet written is later
        if causal or cache is not None:
            past = positions.reshape(1, 1, -1, 1) >= seen.reshape(1, 1, 1, -1)
            mask = past if mask is None else mask & past

        # [B, H_kv, heads that share, Q, D]: keys and values are not repeated
        q = q.reshape(q.shape[0], self._kv_heads(), -1, *q.shape[2:])
        k, v = kv.key[:, :, None], kv.value[:, :, None]
        if mask is not None:
            groups = (1, 1) if mask.shape[1] == 1 else q.shape[1:3]
            mask = mask.reshape(mask.shape[0], *groups, *mask.shape[2:])
        y, weights = attention(q, k, v, mask=mask)
        weights = weights.reshape(x.shape[0], self.heads, *weights.shape[3:])
        self.sow("intermediates", "weights", weights, reduce_fn=_last, init_fn=tuple)
        y = y.reshape(x.shape[0], self.heads, *y.shape[3:])
        return self.out(jnp.swapaxes(y, 1, 2).reshape(*x.shape[:2], -1)), cache

    def remember(
        self, memory: Float[Array, "B K _"], positions: Int[Array, "K"] | None = None
    ) -> KeyValue:
        """Keys and values of a memory; rotary keys turn by positions, if any."""
        key, value = (
            self._split(layer(memory), self._kv_heads())
            for layer in (self.key, self.value)
        )
        if self.rotary and positions is not None:
            key = rotary(key, positions)
        return KeyValue(key, value)

    def _kv_heads(self):
        return self.kv_heads or self.heads

    def _split(self, x, heads):
        """[B, T, heads D] -> [B, heads, T, D]."""
        return jnp.swapaxes(x.reshape(*x.shape[:2], heads, -1), 1, 2)


def _last(_, new):
    return new


def _at_least_float32(x):
    return jnp.promote_types(x.dtype, "float32")


from_torch = attention_from_torch
