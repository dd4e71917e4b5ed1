"""Recommenders: what someone will think of an item, from what all thought of others.

Biases and matrix factorisation: Koren, Bell & Volinsky, "Matrix factorization
techniques for recommender systems", 2009. SVD++: Koren, "Factorization meets the
neighborhood", 2008, equation 15. Factorisation machines: Rendle, 2010. NeuMF: He et
al., "Neural collaborative filtering", 2017, arXiv:1708.05031. BPR: Rendle et al.,
"BPR: Bayesian personalized ranking from implicit feedback", 2009, arXiv:1205.2618.

An example x is ids, one of each column: the user, the item, and for factorisation
machines more. Shapes: B batch, F columns, U users, I items, D width, N numbers.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Bool, Float, Int, Shaped

from zoo.base import (
    Aux,
    Mean,
    Model,
    Task,
    UsageError,
    apply,
    concrete,
    masked,
    means,
    parted,
)
from zoo.checks import check_int, check_tokens
from zoo.layers import Dropout
from zoo.supervised import penalty, regression
from zoo.types import Array, Number, Tree


def _small(width):
    return nn.initializers.normal(0.1 / width**0.5)


def _table(size, width, name):
    return nn.Embed(size, width, embedding_init=_small(width), name=name)


def _bias(x, size, i):
    """That of the ids of column i: [B]."""
    begin = nn.initializers.zeros
    return nn.Embed(size, 1, embedding_init=begin, name=f"bias_of_{i}")(x[:, i])[:, 0]


def _biases(model, sizes, x):
    """mu + b_u + b_i + ..., of a constant and a table for each column: [B]."""
    mean = model.param("bias", nn.initializers.zeros, ())
    return mean + sum(_bias(x, size, i) for i, size in enumerate(sizes))


def _ids(x, sizes):
    """x, once it is ids [B, F or more]; columns that a model does not read are left."""
    x = check_tokens(x, "B F")
    if x.shape[1] < len(sizes):
        raise UsageError(f"expected {len(sizes)} columns of ids, found {x.shape}")
    return x


class Factorization(nn.Module):
    """r = mu + b_u + b_i + q_i . p_u: of width 0, the biases alone.

    `implicit` is SVD++: p_u + |N(u)|^-1/2 sum of y_j over the items j in N(u), those
    that the user has rated. Training finds out which: they are the model's state,
    "rated" [U, I], after the first epoch whole. All users are summed over at each step,
    2 U I D operations. `ranks`: items alone have a bias, as all else cancels where
    those of one user are compared.
    """

    sizes: tuple[int, int]
    width: int = 16
    implicit: bool = False
    ranks: bool = False

    @nn.compact
    def __call__(
        self,
        x: Shaped[Array, "B ..."],
        mask: Shaped[Array, "B"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "B 1"]:
        """The rating. Raises UsageError where x is not ids [B, 2 or more]."""
        x = _ids(x, self.sizes)
        if self.ranks:
            rating = _bias(x, self.sizes[1], 1)
        else:
            rating = _biases(self, self.sizes, x)
        if self.width:
            user = _table(self.sizes[0], self.width, "user")(x[:, 0])
            if self.implicit:
                user = user + self._implicit(x, mask, train)
            item = _table(self.sizes[1], self.width, "item")(x[:, 1])
            rating = rating + jnp.vecdot(user, item)
        return rating.reshape(-1, 1)

    def _implicit(self, x, mask, train):
        rated = self.variable("rated", "items", jnp.zeros, self.sizes)
        if train and not self.is_initializing():
            seen = jnp.ones(x.shape[0]) if mask is None else (mask != 0) * 1.0
            rated.value = rated.value.at[x[:, 0], x[:, 1]].max(seen)
        each = self.param("implicit", _small(self.width), (self.sizes[1], self.width))
        count = jnp.maximum(rated.value.sum(1, keepdims=True), 1)
        return ((rated.value @ each) / jnp.sqrt(count))[x[:, 0]]


class FactorizationMachine(nn.Module):
    """r = w_0 + sum_f w_f + sum_{f < g} v_f . v_g over the columns of x (equation 1).

    Each column is an id, whose one-hot vector is Rendle's x; `interactions` is of any
    numbers. Of two columns it is `Factorization`.
    """

    sizes: tuple[int, ...]
    width: int = 16

    @nn.compact
    def __call__(
        self, x: Shaped[Array, "B ..."], *, train: bool = False
    ) -> Float[Array, "B 1"]:
        """The rating. Raises UsageError where x is not ids [B, F or more]."""
        x = _ids(x, self.sizes)
        tables = [
            _table(size, self.width, f"factors_{i}")(x[:, i])
            for i, size in enumerate(self.sizes)
        ]
        rating = _biases(self, self.sizes, x) + interactions(jnp.stack(tables, 1))
        return rating.reshape(-1, 1)


def interactions(v: Float[Array, "... F D"]) -> Float[Array, "..."]:
    """sum_{f < g} v_f . v_g, in F D operations; v_f may be a vector times a number.

    It is half of |sum_f v_f|^2 - sum_f |v_f|^2 (Rendle 2010, lemma 3.1).
    """
    return 0.5 * (jnp.square(v.sum(-2)).sum(-1) - jnp.square(v).sum((-2, -1)))


class NeuMF(nn.Module):
    """The product of two embeddings beside an MLP of two others (equation 12)."""

    sizes: tuple[int, int]
    width: int = 16
    widths: tuple[int, ...] = (32, 16)
    dropout: Number = 0.0

    @nn.compact
    def __call__(
        self, x: Shaped[Array, "B ..."], *, train: bool = False
    ) -> Float[Array, "B 1"]:
        """The rating, or its logit. Raises UsageError where x is not ids."""
        x = _ids(x, self.sizes)

        def embedded(kind):
            return [
                _table(size, self.width, f"{kind}_{i}")(x[:, i])
                for i, size in enumerate(self.sizes)
            ]

        user, item = embedded("product")
        hidden = jnp.concatenate(embedded("mlp"), -1)
        for width in self.widths:
            hidden = nn.relu(nn.Dense(width)(hidden))
            hidden = Dropout(self.dropout)(hidden, train=train)
        both = jnp.concatenate([user * item, hidden], -1)
        return nn.Dense(1)(both) + _biases(self, self.sizes, x).reshape(-1, 1)


def ratings(
    model: Model, sizes: tuple[int, ...], *, l2: Number = 0.0, bias_l2: Number = 0.0
) -> Task:
    """Squared error of "x" [B, F] and "y" [B], of ids below the `sizes` of the columns.

    In training l2 sum w^2 is added, and bias_l2 sum b^2 of the biases of ids: each,
    times N, is the strength of a ridge regression of N ratings. Raises UsageError for
    a strength below 0.
    """
    _at_least_zero(l2=l2, bias_l2=bias_l2)

    def init(key, batch):
        return parted(model.init(key, batch["x"]))

    def loss(params, state, batch, key, *, train):
        batch = masked(batch)
        x, mask = batch["x"], batch.get("mask")
        inputs = (x, mask) if isinstance(model, Factorization) else (x,)
        rating, state = apply(model, params, state, *inputs, key=key, train=train)
        metrics = means(regression.values(rating, batch["y"]), mask)
        if not train:
            return metrics["loss"].value(), Aux(metrics, state)
        return _penalised(metrics, params, state, l2, bias_l2)

    def predict(params, state, batch):
        return apply(model, params, state, batch["x"])[0]

    return Task(init, loss, predict, ids=sizes)


def _penalised(metrics, params, state, l2, bias_l2):
    """What a loss returns in training: its objective, or "loss", and the penalties."""
    parts: tuple[dict, dict] = {}, {}
    for name, leaf in params.items():
        parts[name.startswith("bias_of")][name] = leaf
    total, count = metrics.pop("objective", metrics["loss"])
    total += count * (penalty(parts[0], 0.0, l2) + penalty(parts[1], 0.0, bias_l2))
    metrics["objective"] = Mean(total, count)
    return metrics["objective"].value(), Aux(metrics, state)


def _at_least_zero(**numbers):
    for name, value in numbers.items():
        if concrete(value) and not value >= 0:
            raise UsageError(f"expected {name} >= 0, found {value}")


# Ranking ------------------------------------------------------------------------------


def bpr(
    model: Model,
    sizes: tuple[int, ...],
    *,
    negatives: int = 1,
    l2: Number = 0.0,
    bias_l2: Number = 0.0,
) -> Task:
    """-log sigmoid(s_ui - s_uj): the item i of "x" [B, 2] before another (section 4).

    j is drawn evenly of all other items, those that the user has too: few, as a rule.
    Of n `negatives` the objective is -log(e^s_ui / (e^s_ui + sum_j e^s_uj)), which of
    one is the same.
    In evaluation each example is judged by the same hundred draws; "accuracy" is how
    often i is before j, the area under the ROC curve. Raises UsageError as `ratings`.
    """
    _at_least_zero(l2=l2, bias_l2=bias_l2)
    check_int("negatives", negatives, 1)
    items = sizes[1]

    def init(key, batch):
        return parted(model.init(key, batch["x"]))

    def loss(params, state, batch, key, *, train):
        batch = masked(batch)
        x, mask = batch["x"], batch.get("mask")
        # dropout has another key than what is drawn
        draw, key = jax.random.split(key if train else jax.random.key(0))
        shape = (x.shape[0], negatives) if train else (1, 100)
        step = jax.random.randint(draw, shape, 1, items)  # never i itself
        other = (x[:, 1:2] + step) % items
        user = jnp.broadcast_to(x[:, :1], other.shape)
        pairs = jnp.stack([user, other], -1).reshape(-1, 2)
        own, state = apply(model, params, state, x, key=key, train=train)
        others, _ = apply(model, params, state, pairs, key=key, train=train)
        apart = own - others.reshape(other.shape)
        right = (apart > 0) + 0.5 * (apart == 0)
        values = {"loss": nn.softplus(-apart).mean(1), "accuracy": right.mean(1)}
        if train:
            # log(1 + sum e^-a): the gap that is left to all of them together
            values["objective"] = nn.softplus(nn.logsumexp(-apart, 1))
        metrics = means(values, mask)
        if not train:
            return metrics["loss"].value(), Aux(metrics, state)
        return _penalised(metrics, params, state, l2, bias_l2)

    def predict(params, state, batch):
        return apply(model, params, state, batch["x"])[0]

    return Task(init, loss, predict, ids=sizes)


def scores_of(
    model: Model, variables: Tree, user: Int[Array, "B"], items: int
) -> Float[Array, "B {items}"]:
    """What users are thought to think of every item."""

    def alone(u):
        every = jnp.arange(items, dtype=user.dtype)
        return model.apply(variables, jnp.stack([jnp.full_like(every, u), every], 1))

    return jax.vmap(alone)(user)[..., 0]


def recommend(
    scores: Float[Array, "B I"], seen: Bool[Array, "B I"], n: int
) -> Int[Array, "B {n}"]:
    """The n items of the highest scores, best first, of those not seen."""
    return jax.lax.top_k(jnp.where(seen, -jnp.inf, scores), n)[1]


def ranking(
    scores: Float[Array, "B I"],
    seen: Bool[Array, "B I"],
    wanted: Bool[Array, "B I"],
    k: int = 20,
) -> dict[str, Float[Array, "B"]]:
    """How well the k best of items not seen are those wanted: "recall", "ndcg".

    recall: the share of what is wanted. ndcg: a hit at place p counts 1 / log2(1 + p),
    over the most that there could be. NaN for who wants nothing.
    """
    hits = jnp.take_along_axis(wanted, recommend(scores, seen, k), 1)
    worth = (1 / jnp.log2(jnp.arange(k) + 2)).reshape(1, -1)
    count = wanted.sum(1)
    best = jnp.where(jnp.arange(k).reshape(1, -1) < count.reshape(-1, 1), worth, 0)
    gain = jnp.where(hits, worth, 0).sum(1)
    return {"recall": hits.sum(1) / count, "ndcg": gain / best.sum(1)}


def similar(vectors: Float[Array, "N D"], which: int, n: int) -> Int[Array, "{n}"]:
    """The n rows most like one by the cosine, most like first: "who liked X ..."."""
    unit = vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    likeness = (unit @ unit[which]).at[which].set(-jnp.inf)
    return jax.lax.top_k(likeness, n)[1]
