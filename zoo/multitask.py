"""Several tasks of one network: what they share, and how their losses become one.

Hard sharing: Caruana, "Multitask learning", Machine Learning 28, 1997. Weights that are
learned: Kendall, Gal & Cipolla, "Multi-task learning using uncertainty to weigh losses
for scene geometry and semantics", 2018, arXiv:1705.07115. PCGrad: Yu et al., "Gradient
surgery for multi-task learning", 2020, arXiv:2001.06782.

The gradient of a loss is one vector. PCGrad wants one for each task: its loss has their
sum as its value, and as its gradient what surgery makes of theirs (`with_gradient`).
Shapes: B batch, T tasks, K outputs of a task.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.lax import stop_gradient
from jaxtyping import Float, Int, PRNGKeyArray, Shaped

from zoo import supervised
from zoo.base import (
    Aux,
    Batch,
    Mean,
    Model,
    Task,
    UsageError,
    apply,
    check_choice,
    concrete,
    float32,
    known,
    masked,
    means,
    parted,
)
from zoo.layers import Dropout
from zoo.types import Activation, Array, Number, Tree

Weighting = Literal["sum", "uncertainty", "pcgrad"]
WEIGHTINGS: tuple[Weighting, ...] = ("sum", "uncertainty", "pcgrad")
LOG_VARIANCE = "log_variance"  # among the parameters, [T]


class Head(NamedTuple):
    """A task: so many outputs, judged by a measure beside target(batch)."""

    outputs: int
    target: Callable[[Batch], Array] = lambda batch: batch["y"]
    measure: supervised.Measure = supervised.classes


class Shared(nn.Module):
    """A body that all tasks share, activation, dropout, and a dense layer for each."""

    body: nn.Module
    outputs: tuple[tuple[str, int], ...]  # a task's name, and K
    activation: Activation = nn.relu
    dropout: Number = 0.0

    @nn.compact
    def __call__(
        self, x: Shaped[Array, "B *D"], *, train: bool = False
    ) -> dict[str, Float[Array, "B K"]]:
        """Outputs [B, K] by the names of the tasks."""
        h = self.activation(self.body(x, train=train))
        h = Dropout(self.dropout)(h, train=train)
        return {
            name: float32(nn.Dense(k, name=f"to_{name}")(h)) for name, k in self.outputs
        }


def task(
    network: Model,
    heads: Mapping[str, Head],
    *,
    weighting: Weighting = "sum",
    weight: Number = 1.0,
    labels: int = 0,
) -> Task:
    """The losses of all heads, joined, of a network that gives outputs by their names.

    "sum" adds them up, all but the first times `weight`; "uncertainty" learns a weight
    of each (`by_uncertainty`); "pcgrad" takes from each task's gradient by the shared
    parameters, which are params["body"], what goes against another's (`surgery`).

    Metrics are "NAME_loss" and what else a measure has; "loss", the weighted sum; and
    "together", whether all with an accuracy are right. `predict` gives the first task's
    predictions; `labels` is how many classes "y" has. Raises UsageError for no heads, a
    negative weight, and one beside learned weights.
    """
    _check(heads, weighting, weight)
    first, *_ = heads
    learned = weighting == "uncertainty"

    def init(key, batch):
        params, state = parted(network.init(key, batch["x"], train=False))
        if weighting == "pcgrad" and "body" not in params:
            raise UsageError(
                f"expected parameters of a body, found {', '.join(params)}"
            )
        more = {LOG_VARIANCE: jnp.zeros(len(heads))} if learned else {}
        return {**params, **more}, state

    def outputs(params, state, x, **how):
        own = {k: p for k, p in params.items() if k != LOG_VARIANCE}
        return apply(network, own, state, x, **how)

    def each(params, state, batch, key, train):
        """Losses [T], and (these, metrics, state)."""
        found, state = outputs(params, state, batch["x"], key=key, train=train)
        losses, metrics = _judged(heads, found, batch, weight)
        return losses, (losses, metrics, state)

    def loss(params, state, batch, key, *, train):
        order, drop = jax.random.split(key)
        rest = state, masked(batch), drop, train
        if train and weighting == "pcgrad":
            value, (_, metrics, state) = _operated(each, order, params, *rest)
            return value, Aux(metrics, state)
        losses, (_, metrics, state) = each(params, *rest)
        if train and learned:
            value = by_uncertainty(losses, params[LOG_VARIANCE])
            metrics["objective"] = Mean.of(value)
            return value, Aux(metrics, state)
        return losses.sum(), Aux(metrics, state)

    def predict(params, state, batch):
        found, _ = outputs(params, state, batch["x"])
        return heads[first].measure.mean(found[first])

    together = weighting == "pcgrad"  # surgery part by part is not that of the batch
    return Task(init, loss, predict, known(labels), together=together)


def _check(heads, weighting, weight):
    check_choice("weighting", weighting, WEIGHTINGS)
    if not heads:
        raise UsageError("expected a task or more, found none")
    own = weighting != "uncertainty"
    if concrete(weight) and not (weight >= 0 if own else weight == 1):
        raise UsageError(
            f"expected a weight >= 0, and 1 where weights are learned, found {weight}"
        )


def _operated(each, key, params, *rest):
    """The sum of the losses each(params, *rest), whose gradient is surgery's; and aux.

    The inner gradient is of parameters that stand still: it is not differentiated.
    """
    slopes, aux = jax.jacrev(each, has_aux=True)(stop_gradient(params), *rest)
    gradient = jax.tree.map(lambda g: g.sum(0), slopes)
    gradient["body"] = surgery(key, slopes["body"])
    return with_gradient(aux[0].sum(), params, gradient), aux


def _judged(heads, outputs, batch, weight):
    """The weighed losses [T] of all heads, and metrics by their names."""
    values: dict[str, Array] = {}
    mask = batch.get("mask")
    for name, head in heads.items():
        found = head.measure.values(outputs[name], head.target(batch))
        values |= {f"{name}_{key}": value for key, value in found.items()}
    first, *others = heads
    factors = {first: 1.0, **dict.fromkeys(others, weight)}
    terms = [factors[name] * values[f"{name}_loss"] for name in heads]
    values["loss"] = jnp.stack(terms).sum(0)
    right = [value for key, value in values.items() if key.endswith("_accuracy")]
    if right:
        values["together"] = jnp.stack(right).min(0)
    return jnp.stack([Mean.of(t, mask).value() for t in terms]), means(values, mask)


# How losses become one ----------------------------------------------------------------


def by_uncertainty(
    losses: Float[Array, "T"], log_variance: Float[Array, "T"]
) -> Float[Array, ""]:
    """sum of exp(-s) L + s, s a task's log variance: least where s = log L.

    There it is the sum of 1 + log L, and each task weighs 1 / L. Of a squared error it
    is twice the negative log likelihood of a normal distribution (Kendall et al.,
    equation 5); the paper halves one or both of its terms, which moves s by log 2.
    """
    return (jnp.exp(-log_variance) * losses + log_variance).sum()


def surgery(key: PRNGKeyArray, gradients: Tree) -> Tree:
    """The sum of T gradients, a tree of [T, ...], each without what is against others.

    From the gradient of each task, for all others in an order drawn for it, what lies
    along theirs is taken away if their product is negative: Yu et al., algorithm 1.
    """
    rows = [float32(g).reshape(len(g), -1) for g in jax.tree.leaves(gradients)]
    shares = projected(key, jnp.stack([a @ a.T for a in rows]).sum(0))
    total = shares.sum(0)
    return jax.tree.map(lambda g: jnp.tensordot(total.astype(g.dtype), g, 1), gradients)


def projected(key: PRNGKeyArray, products: Float[Array, "T T"]) -> Float[Array, "T T"]:
    """Which sum of gradients each one becomes, of their products g_i . g_j alone."""
    tasks = len(products)

    def one(i, key):
        def project(share, j):
            along = share @ products[:, j]  # of what is left of g_i with g_j
            against = (j != i) & (along < 0)
            square = jnp.where(against, products[j, j], 1)
            return share.at[j].add(-jnp.where(against, along / square, 0)), None

        begin = jax.nn.one_hot(i, tasks, dtype=products.dtype)
        return jax.lax.scan(project, begin, jax.random.permutation(key, tasks))[0]

    return jax.vmap(one)(jnp.arange(tasks), jax.random.split(key, tasks))


def with_gradient(value: Float[Array, ""], params: Tree, gradient: Tree) -> Array:
    """The value, whose gradient by the parameters is the one given."""

    def along(p, g):
        return ((p - stop_gradient(p)) * stop_gradient(g)).sum()

    slopes = jax.tree.leaves(jax.tree.map(along, params, gradient))
    return stop_gradient(value) + sum(slopes)


def pcgrad(seed: int = 0) -> optax.GradientTransformationExtraArgs:
    """Gradients [T, ...] of T tasks -> one update [...]: `surgery`, first in a chain.

    For a loop of one's own that has them; the orders follow from the seed and the step.
    """

    def init(params: Any) -> Int[Array, ""]:
        return jnp.int32(0)

    def update(updates, state, params=None, **more):
        key = jax.random.fold_in(jax.random.key(seed), state)
        return surgery(key, updates), state + 1

    return optax.GradientTransformationExtraArgs(init, update)


# Tasks of a digit ---------------------------------------------------------------------

PARITY = (0, 1) * 5
# closed loops of 0 to 9: a 4 is written open more often than not, and has none
LOOPS = (1, 0, 0, 0, 0, 0, 1, 0, 2, 1)


def of_label(table: Sequence[int]) -> Head:
    """The task of the classes that a table gives to labels."""

    def target(batch):
        return jnp.asarray(table, jnp.int32)[batch["y"]]

    return Head(max(table) + 1, target)


def noise(classes: int = 10) -> Head:
    """A task that says nothing: each example has a class by a hash of its numbers.

    Rows can be learned by heart, and nothing else: what that costs other tasks.
    """

    def target(batch):
        x = batch["x"].reshape(len(batch["x"]), -1).astype(jnp.float32)
        odd = jax.random.bits(jax.random.key(0), x.shape[1:]) | 1
        bits = (jax.lax.bitcast_convert_type(x, jnp.uint32) * odd[None]).sum(1)
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            bits = (bits ^ (bits >> shift)) * jnp.uint32(factor)
        return ((bits ^ (bits >> 16)) % classes).astype(jnp.int32)

    return Head(classes, target)


DIGITS = {
    "digit": of_label(range(10)),
    "parity": of_label(PARITY),
    "loops": of_label(LOOPS),
    "noise": noise(),
}
"""Tasks of images whose labels are the digits 0 to 9."""
