"""Knowledge graphs: entities and relations as vectors, and links that were not seen.

TransE: Bordes et al., "Translating embeddings for modeling multi-relational data",
2013. DistMult: Yang et al., "Embedding entities and relations for learning and
inference in knowledge bases", 2015, arXiv:1412.6575. ComplEx: Trouillon et al.,
"Complex embeddings for simple link prediction", 2016, arXiv:1606.06357. RotatE: Sun et
al., 2019, arXiv:1902.10197. Reciprocal relations and the N3 penalty: Lacroix, Usunier &
Obozinski, "Canonical tensor decomposition for knowledge base completion", 2018,
arXiv:1806.07297.

Of a triple (head, relation, tail) either end is asked for: (h, r) -> t, and (t, r + R)
-> h. All four scores have score(h, r, t) = score(t, inverse(r), h), so both are one.
Shapes: B queries, E entities, R relations, D width, P that of a relation, K known
answers, "..." any. A complex vector [D] is D / 2 real parts, then the imaginary ones.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Bool, Float, Int, Shaped

from zoo.base import Aux, Task, apply, concrete, known, masked, means, parted
from zoo.checks import UsageError, check_choice, check_tokens
from zoo.layers import Dropout
from zoo.supervised import classes
from zoo.types import Array, Number, Tree


class Score(NamedTuple):
    """How likely a triple is: compare(compose(head, relation), tail).

    compose(head [..., D], relation [..., P]) -> where the tail should be, [..., D];
    compare(that, tail [..., D]) -> [...]; inverse(relation) -> that of the way back.
    `parts`: P is this share of D; `even`: D is of complex numbers.
    """

    compose: Callable[[Array, Array], Array]
    compare: Callable[[Array, Array], Array]
    inverse: Callable[[Array], Array]
    parts: int = 1
    even: bool = False

    def __call__(
        self,
        head: Float[Array, "... D"],
        relation: Float[Array, "... P"],
        tail: Float[Array, "... D"],
    ) -> Float[Array, "..."]:
        """The score of triples of embeddings."""
        return self.compare(self.compose(head, relation), tail)


def _halves(x):
    return jnp.split(x, 2, -1)


def _times(a, b):
    """The product of complex numbers."""
    (ar, ai), (br, bi) = _halves(a), _halves(b)
    return jnp.concatenate([ar * br - ai * bi, ar * bi + ai * br], -1)


def _conjugate(a):
    real, imaginary = _halves(a)
    return jnp.concatenate([real, -imaginary], -1)


def _turn(head, phase):
    return _times(head, jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], -1))


def _near(a, b):
    return -jnp.abs(a - b).sum(-1)


def _near_complex(a, b):
    real, imaginary = _halves(a - b)
    # the root has no slope at 0, where a triple fits exactly
    return -jnp.sqrt(jnp.square(real) + jnp.square(imaginary) + 1e-12).sum(-1)


SCORES = {
    "transe": Score(jnp.add, _near, jnp.negative),  # -|h + r - t|_1
    "distmult": Score(jnp.multiply, jnp.vecdot, jnp.positive),  # sum h r t
    # Re sum h r conj(t): the real parts' products and the imaginary ones'
    "complex": Score(_times, jnp.vecdot, _conjugate, even=True),
    # -sum |h e^(i r) - t|: a relation is angles
    "rotate": Score(_turn, _near_complex, jnp.negative, parts=2, even=True),
}


class Graph(nn.Module):
    """Queries (entity, relation) -> a score of each entity as their answer.

    `reciprocal`: the way back of a relation has parameters of its own; else it is the
    relation's exact inverse. `dropout` is of where the answer should be. All entities
    are compared at once: of distances (TransE, RotatE) that takes B E D numbers. A
    query that names none has NaN; `Task.ids` refuses it before. Raises UsageError for
    an unknown score, and an odd width of complex numbers.
    """

    entities: int
    relations: int
    score: str = "complex"
    width: int = 256
    reciprocal: bool = True
    dropout: Number = 0.0

    def setup(self):
        check_choice("score", self.score, tuple(SCORES))
        kind = SCORES[self.score]
        if self.even and self.width % 2:
            raise UsageError(f"expected an even width, found {self.width}")
        small = nn.initializers.normal(self.width**-0.5)
        size = self.relations * (1 + self.reciprocal)
        turn = nn.initializers.uniform(2 * jnp.pi)
        begin = turn if self.score == "rotate" else small
        narrow = self.width // kind.parts
        self.entity = nn.Embed(self.entities, self.width, embedding_init=small)
        self.relation = nn.Embed(size, narrow, embedding_init=begin)
        self.drop = Dropout(self.dropout)

    @property
    def even(self) -> bool:
        """Whether the width counts the parts of complex numbers."""
        return SCORES[self.score].even

    def query(
        self, x: Int[Array, "B 2"]
    ) -> tuple[Float[Array, "B D"], Float[Array, "B P"]]:
        """The embeddings of (entity, relation), those of a way back turned around."""
        head, which = self.entity(x[:, 0]), x[:, 1]
        if self.reciprocal:
            return head, self.relation(which)
        there = self.relation(which % self.relations)
        back = which.reshape(-1, 1) >= self.relations
        return head, jnp.where(back, SCORES[self.score].inverse(there), there)

    def __call__(
        self, x: Shaped[Array, "B ..."], *, train: bool = False
    ) -> Float[Array, "B {self.entities}"]:
        """The scores of all entities. Raises UsageError where x is not ids [B, 2]."""
        head, relation = self.query(check_tokens(x, "B 2"))
        kind = SCORES[self.score]
        wanted = self.drop(kind.compose(head, relation), train=train)
        each = jax.vmap(kind.compare, (None, 0))  # a query, all entities
        return jax.vmap(each, (0, None))(wanted, self.entity.embedding)

    def norms(self, x: Int[Array, "B 2"], y: Int[Array, "B"]) -> Float[Array, "B"]:
        """sum |h|^3 + |r|^3 + |t|^3 of triples: N3, equation 4 of Lacroix et al."""
        head, relation = self.query(x)
        return sum(_cubes(v, self.even) for v in (head, relation, self.entity(y)))


def _cubes(x, even):
    if even:
        x = jnp.sqrt(sum(jnp.square(half) for half in _halves(x)) + 1e-12)
    return (jnp.abs(x) ** 3).sum(-1)


def task(model: Graph, *, n3: Number = 0.0) -> Task:
    """Cross-entropy of the answer "y" [B] among all entities, nats, of "x" [B, 2].

    In training n3 times the N3 penalty is added; it is meant for products (DistMult,
    ComplEx). Where a batch has "known" [B, K], the metrics of an evaluation are of the
    filtered ranks: "mrr", "hits1", "hits3", "hits10". Raises UsageError for n3 < 0.
    """
    if concrete(n3) and not n3 >= 0:
        raise UsageError(f"expected n3 >= 0, found {n3}")

    def init(key, batch):
        return parted(model.init(key, batch["x"]))

    def loss(params, state, batch, key, *, train):
        batch = masked(batch)
        x, y, mask = batch["x"], batch["y"], batch.get("mask")
        scores, _ = apply(model, params, state, x, key=key, train=train)
        values = classes.values(scores, y)
        if train:
            cubes: Any = model.apply({"params": params}, x, y, method="norms")
            values["objective"] = values["loss"] + n3 * cubes
            metrics = means(values, mask)
            return metrics["objective"].value(), Aux(metrics, state)
        if "known" in batch:
            values |= measures(rank(scores, y, batch["known"]))
        metrics = means(values, mask)
        return metrics["loss"].value(), Aux(metrics, state)

    def predict(params, state, batch):
        return nn.softmax(apply(model, params, state, batch["x"])[0])

    sizes = model.entities, 2 * model.relations
    return Task(init, loss, predict, known(model.entities), sizes)


def rank(
    scores: Float[Array, "B E"], y: Int[Array, "B"], known: Int[Array, "B K"]
) -> Float[Array, "B"]:
    """The filtered rank of each answer y, from 1: other `known` answers do not count.

    Of equal scores it is the mean rank, so that a constant is no better than chance;
    what is not a number is worst.
    """
    own = jnp.take_along_axis(scores, y.reshape(-1, 1), 1)
    rows = jnp.arange(scores.shape[0]).reshape(-1, 1)
    other = jnp.ones(scores.shape, bool).at[rows, known].set(False)
    other = other.at[rows[:, 0], y].set(False)
    before: Bool[Array, "B E"] = ~(scores <= own) & other
    equal = (scores == own) & other
    return 1 + before.sum(-1) + 0.5 * equal.sum(-1)


def measures(ranks: Float[Array, "B"]) -> dict[str, Float[Array, "B"]]:
    """Ranks -> the reciprocal, and whether it is among the first 1, 3, 10: [B] each."""
    hits = {f"hits{k}": (ranks <= k).astype(ranks.dtype) for k in (1, 3, 10)}
    return {"mrr": 1 / ranks, **hits}


def answers(
    model: Graph, variables: Tree, x: Int[Array, "B 2"], n: int
) -> tuple[Int[Array, "B {n}"], Float[Array, "B {n}"]]:
    """The n likeliest answers to queries, best first, and their probabilities."""
    scores: Any = model.apply(variables, x)
    p = nn.softmax(scores)
    best, which = jax.lax.top_k(p, n)
    return which, best
