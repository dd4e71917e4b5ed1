"""Word embeddings: words as vectors, learned from the words that they stand beside.

Skip-gram and CBOW: Mikolov, Chen, Corrado & Dean, "Efficient estimation of word
representations in vector space", 2013, arXiv:1301.3781. Negative sampling and
hierarchical softmax: Mikolov, Sutskever, Chen, Corrado & Dean, "Distributed
representations of words and phrases and their compositionality", 2013,
arXiv:1310.4546. What negative sampling factorises: Levy & Goldberg, "Neural word
embedding as implicit matrix factorization", 2014. Subwords: Bojanowski, Grave, Joulin &
Mikolov, "Enriching word vectors with subword information", 2017, arXiv:1607.04606.
Less their mean: Mu, Bhat & Viswanath, "All-but-the-top: Simple and effective
postprocessing for word representations", 2018, arXiv:1702.01417.
GloVe: Pennington, Socher & Manning, "GloVe: Global vectors for word representation",
2014.

Words are ids, V of them. Shapes: B batch, F words that predict, V words, D width,
L length of a path, S subwords of all words together, "..." any.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, Int, PRNGKeyArray, Shaped

from zoo.base import Task, apply, concrete, judged, known, masked, parted
from zoo.checks import UsageError, check_int, check_tokens
from zoo.types import Array, Number, Tree
from zoo.vocabulary import bucket as bucket
from zoo.vocabulary import huffman as huffman
from zoo.vocabulary import ngrams as ngrams
from zoo.vocabulary import noise as noise
from zoo.vocabulary import spelled as spelled


class Words(nn.Module):
    """Words [B, F] -> the mean of their vectors, [B, D], which predicts another word.

    Of skip-gram F is 1; of CBOW they are the words around, and the id V is none. In
    params "words" is what is wanted; "contexts" are the vectors of what is predicted,
    or of the inner nodes of a hierarchical softmax's tree, which begin at zero.
    With `subwords`, words as they are spelled, a word's vector is the mean of its own
    and those of its `ngrams`, hashed into `buckets`.
    """

    counts: tuple[int, ...]  # how often each word stands in the text
    width: int = 64
    hierarchical: bool = False
    subwords: tuple[str, ...] = ()
    buckets: int = 20_000

    def setup(self) -> None:
        """Two tables, and one of subwords."""
        size, width = len(self.counts), self.width
        begin = nn.initializers.uniform(1 / width)

        def centred(key, shape, dtype=jnp.float32):
            return begin(key, shape, dtype) - 0.5 / width

        self.words = nn.Embed(size, width, embedding_init=centred)
        self.contexts = nn.Embed(
            size - self.hierarchical, width, embedding_init=nn.initializers.zeros
        )
        if self.subwords:
            self.parts = nn.Embed(self.buckets, width, embedding_init=centred)

    def __call__(
        self, x: Shaped[Array, "B ..."], *, train: bool = False
    ) -> Float[Array, "B D"]:
        """The vector that predicts. Raises UsageError where x is not ids [B, F]."""
        x = check_tokens(x, "B F")
        table = self.table()
        if x.shape[1] == 1:
            return table[x[:, 0]]
        some = (x < len(table)).astype(table.dtype)
        each = table[jnp.minimum(x, len(table) - 1)] * some[..., None]
        return each.sum(1) / jnp.maximum(some.sum(1, keepdims=True), 1)

    def table(self) -> Float[Array, "V D"]:
        """The vector of every word."""
        own = self.words.embedding
        if not self.subwords:
            return own
        of, which = spelled(self.subwords, self.buckets)
        parts = jax.ops.segment_sum(
            self.parts.embedding[which], of, len(own), indices_are_sorted=True
        )
        count = 1 + np.bincount(of, minlength=len(own))
        return (own + parts) / count.astype(np.float32)[:, None]

    def against(self, which: Int[Array, "..."] | None = None) -> Float[Array, "... D"]:
        """The vectors of contexts, or of inner nodes: of some, or all."""
        table = self.contexts.embedding
        return table if which is None else table[which]


def vectors(model: nn.Module, variables: Tree) -> Float[Array, "V D"]:
    """The vector of every word, less the mean of all."""
    table = _table(model, variables)
    return table - table.mean(0, keepdims=True)


def _table(model, variables) -> Any:
    """The vector of every word, as it was learned."""
    return model.apply(variables, method="table")


# Negative sampling --------------------------------------------------------------------


def negative_sampling(
    model: Words, *, columns: int = 1, negatives: int = 5, power: float = 0.75
) -> Task:
    """-log s(u_y . h) - sum of k negatives n of log s(-u_n . h), equation 4 of 2013.

    h is the model's vector of "x" [B, F = `columns`], y a word [B]; negatives are drawn
    of `noise`, y among them. In evaluation their sum is its expectation, of all words.
    Its minimum over all h . u is at log p(y | x) / (k q(y)), of noise q, so predictions
    are q(y) e^(h . u_y), normalised. Raises UsageError for numbers out of range.
    """
    check_int("negatives", negatives, 1)
    q = noise(model.counts, power)
    ends = np.cumsum(q, dtype=np.float64).astype(np.float32)

    def scores(params, h):
        return h @ _against(model, params).T

    def values(params, h, y, key, train):
        if train:
            own = _against(model, params, y)
            right = jnp.vecdot(h, own)
            drawn = draw(key, jnp.asarray(ends), (len(y), negatives))
            other = _against(model, params, drawn)
            wrong = jnp.einsum("bd,bkd->bk", h, other)
            return {"loss": nn.softplus(-right) + nn.softplus(wrong).sum(1)}
        every = scores(params, h)
        right = jnp.take_along_axis(every, y[:, None], 1)[:, 0]
        wrong = negatives * (nn.softplus(every) @ q)
        return {"loss": nn.softplus(-right) + wrong}

    def log_p(params, h):
        return nn.log_softmax(scores(params, h) + jnp.log(q)[None])

    return _task(model, columns, values, log_p)


def draw(
    key: PRNGKeyArray, ends: Float[Array, "V"], shape: tuple[int, ...]
) -> Int[Array, "..."]:
    """Words drawn of a distribution whose cumulative sums are `ends`."""
    found = jnp.searchsorted(ends, jax.random.uniform(key, shape))
    return jnp.minimum(found, len(ends) - 1)  # where rounding leaves the last below 1


def _task(model, columns, values, log_p) -> Task:
    """A task of words [B, columns] and the word "y" [B] that they predict."""
    size = len(model.counts)
    check_int("columns", columns, 1)

    def init(key, batch):
        return parted(model.init(key, batch["x"], method=_every))

    def loss(params, state, batch, key, *, train):
        batch = masked(batch)
        h, _ = apply(model, params, state, batch["x"], key=key, train=train)
        found = values(params, h, batch["y"], key, train)
        return judged(found, batch.get("mask"), state)

    def predict(params, state, batch):
        h, _ = apply(model, params, state, batch["x"])
        return jnp.exp(log_p(params, h))

    sizes = (size + (columns > 1),) * columns
    return Task(init, loss, predict, known(size), sizes)


def _against(model, params, which=None) -> Any:
    """The vectors of contexts, or of nodes."""
    return model.apply({"params": params}, which, method="against")


def _every(model, x):
    """All tables, to initialise them."""
    return model(x), model.against()


# Hierarchical softmax -----------------------------------------------------------------


def hierarchical_softmax(model: Words, *, columns: int = 1) -> Task:
    """-log p(y | x), p the product of s(turn u_node . h) on y's path (equation 3).

    In nats; h is the model's vector of "x" [B, F = `columns`], y a word [B].
    """
    nodes, turns = huffman(model.counts)

    def log_p(params, h):
        every = h @ _against(model, params).T
        steps = nn.log_sigmoid(turns[None] * every[:, nodes])
        return jnp.where(turns[None] != 0, steps, 0).sum(-1)

    def values(params, h, y, key, train):
        if train:
            turn, node = jnp.asarray(turns)[y], jnp.asarray(nodes)[y]
            own = _against(model, params, node)
            steps = nn.log_sigmoid(turn * jnp.einsum("bd,bld->bl", h, own))
            return {"loss": -jnp.where(turn != 0, steps, 0).sum(1)}
        every = log_p(params, h)
        right = jnp.take_along_axis(every, y[:, None], 1)[:, 0]
        return {"loss": -right}

    return _task(model, columns, values, log_p)


# Subwords -----------------------------------------------------------------------------


def unseen(model: Words, variables: Tree, word: str) -> Float[Array, "D"]:
    """The vector of a word that training had not: the mean of those of its subwords.

    It is less the mean of the words, as their `vectors` are. Raises UsageError for a
    model without subwords, or a word of no letter.
    """
    grams = ngrams(word)
    if not model.subwords or not grams:
        raise UsageError(f"expected a model of subwords, and a word, found {word!r}")
    which = np.array([bucket(gram, model.buckets) for gram in grams])
    own = jnp.asarray(variables["params"]["parts"]["embedding"])[which].mean(0)
    return own - _table(model, variables).mean(0)


# GloVe --------------------------------------------------------------------------------


class GloVe(nn.Module):
    """Two words [B, 2] -> the logarithm of how often they stand together, [B].

    w_i . v_j + b_i + c_j, equation 7.
    """

    size: int  # V
    width: int = 64

    subwords = ()  # words are whole, as those of `Words` may not be

    def setup(self) -> None:
        """Two tables of vectors, and two of biases."""
        begin = nn.initializers.uniform(1 / self.width)

        def centred(key, shape, dtype=jnp.float32):
            return begin(key, shape, dtype) - 0.5 / self.width

        def table(width):
            return nn.Embed(self.size, width, embedding_init=centred)

        self.words, self.contexts = table(self.width), table(self.width)
        self.bias_of_words, self.bias_of_contexts = table(1), table(1)

    def __call__(
        self, x: Shaped[Array, "B ..."], *, train: bool = False
    ) -> Float[Array, "B"]:
        """The logarithm. Raises UsageError where x is not ids [B, 2]."""
        i, j = check_tokens(x, "B F").T
        biases = self.bias_of_words(i) + self.bias_of_contexts(j)
        return jnp.vecdot(self.words(i), self.contexts(j)) + biases[:, 0]

    def table(self) -> Float[Array, "V D"]:
        """The vector of every word: its own.

        In the sum of both (section 4.2) words that stand side by side are alike too,
        not those alone that stand in like places.
        """
        return self.words.embedding


def cooccurrence(model: GloVe, *, most: Number = 100.0, power: Number = 0.75) -> Task:
    """f(X) (w_i . v_j + b_i + c_j - log X)^2 of counts X > 0, "y" [B] (equation 8).

    f(X) = (X / most)^power, 1 at the most. Raises UsageError for most that is not
    above 0.
    """
    if concrete(most) and not most > 0:
        raise UsageError(f"expected most > 0, found {most}")

    def init(key, batch):
        return parted(model.init(key, batch["x"]))

    def loss(params, state, batch, key, *, train):
        batch = masked(batch)
        x, mask = batch["x"], batch.get("mask")
        count = batch["y"] if mask is None else jnp.where(mask != 0, batch["y"], 1)
        found, _ = apply(model, params, state, x, key=key, train=train)
        weight = jnp.minimum(1, (count / most) ** power)
        return judged(
            {"loss": weight * jnp.square(found - jnp.log(count))}, mask, state
        )

    def predict(params, state, batch):
        return jnp.exp(apply(model, params, state, batch["x"])[0])

    return Task(init, loss, predict, ids=(model.size,) * 2)


# Asking -------------------------------------------------------------------------------


def neighbours(
    table: Float[Array, "V D"], query: Float[Array, "B D"], n: int
) -> Int[Array, "B {n}"]:
    """The n words whose vectors have the largest cosine with each query, best first."""
    return jax.lax.top_k(_unit(query) @ _unit(table).T, n)[1]


def _unit(v):
    return v / jnp.maximum(jnp.linalg.norm(v, axis=-1, keepdims=True), 1e-9)
