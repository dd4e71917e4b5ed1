"""Clusters of rows that have no labels: k-means, and DBSCAN.

k-means: Lloyd, "Least squares quantization in PCM", 1982; its seeds: Arthur &
Vassilvitskii, "k-means++: the advantages of careful seeding", 2007; as a descent of
gradients: Bottou & Bengio, "Convergence properties of the k-means algorithms", 1995;
by mini-batches: Sculley, "Web-scale k-means clustering", 2010. DBSCAN: Ester et al., "A
density-based algorithm for discovering clusters", 1996.

Inertia is the sum of squared distances to the nearest centre, in the square of the
rows' unit. Shapes: N rows, D features, K clusters, B rows of a batch.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, PRNGKeyArray, Shaped

from zoo.base import Aux, Mean, Task, UsageError, concrete, float32, means
from zoo.checks import check_inputs, check_int
from zoo.types import Array, Number, Tree


class Clusters(NamedTuple):
    """What k-means has found."""

    centres: Float[Array, "K D"]
    labels: Int[Array, "N"]
    inertia: Float[Array, ""]
    steps: Int[Array, ""]


def distances(
    x: Float[Array, "N D"], centres: Float[Array, "K D"]
) -> Float[Array, "N K"]:
    """Squared distances |x|^2 - 2 x c + |c|^2, as a product of matrices.

    They are off by 1e-7 of the squares: take the rows' mean from both, or from neither.
    """
    squares = jnp.square(x).sum(-1, keepdims=True)
    own = jnp.square(centres).sum(-1).reshape(1, -1)
    return jnp.maximum(squares - 2 * x @ centres.T + own, 0)


def nearest(x: Float[Array, "N D"], centres: Float[Array, "K D"]) -> Int[Array, "N"]:
    """The number of the centre that each row is nearest to: the first of several."""
    # |x|^2 is the same for all of them
    own = 0.5 * jnp.square(centres).sum(-1).reshape(1, -1)
    return jnp.argmin(own - x @ centres.T, -1)


def apart(x: Float[Array, "N D"], to: Float[Array, "#N D"]) -> Float[Array, "N"]:
    """Squared distances, of rows or of one, by differences: near ones keep digits."""
    return jnp.square(x - to).sum(-1)


def seeds(
    key: PRNGKeyArray,
    x: Float[Array, "N D"],
    clusters: int,
    weight: Shaped[Array, "N"] | None = None,
) -> Float[Array, "{clusters} D"]:
    """Rows to begin at, each drawn by its squared distance to those before it.

    Of 2 + log K candidates the one is taken that leaves the least inertia, as
    scikit-learn does (Arthur & Vassilvitskii 2007, end). Rows of weight 0 are not
    drawn. Raises UsageError for more clusters than rows.
    """
    check_clusters(clusters, len(x))
    weight = jnp.ones(len(x)) if weight is None else (weight != 0) * 1.0
    tries = 2 + int(math.log(clusters))
    x = jnp.asarray(x)
    y = x - x.mean(0)[None]  # far from the origin, float32 would lose distances
    first, *keys = jax.random.split(key, clusters)
    at = jax.random.categorical(first, jnp.log(weight))
    far = weight * distances(y, y[at][None])[:, 0]
    if clusters == 1:
        return x[at][None]

    def draw(far, key):
        # where all rows are centres already, any will do
        chance = jnp.where(far.sum() > 0, far, weight)
        at = jax.random.categorical(key, jnp.log(chance), shape=(tries,))
        left = jnp.minimum(far[:, None], weight[:, None] * distances(y, y[at]))
        inertia = left.sum(0)
        # of those that only rounding tells apart, the first: it is drawn, rounding not
        best = jnp.argmax(inertia <= (1 + 1e-5) * inertia.min())
        return left[:, best], at[best]

    _, rest = jax.lax.scan(draw, far, jnp.stack(keys))
    return x[jnp.concatenate([at[None], rest])]


def check_clusters(clusters: int, rows: int) -> int:
    """The number of clusters, from 1 to that of rows. Raises UsageError."""
    check_int("clusters", clusters, 1)
    if clusters > rows:
        raise UsageError(
            f"expected at most {rows} clusters of {rows} rows, found {clusters}"
        )
    return clusters


def lloyd(
    x: Shaped[Array, "N D"],
    centres: Float[Array, "K D"],
    *,
    tolerance: Number = 1e-4,
    most: int = 300,
) -> Clusters:
    """From some centres to a minimum of the inertia: labels, means, labels, ...

    It ends where the squares of the centres' steps add up to no more than `tolerance`
    times the mean variance of a feature, as in scikit-learn; a centre of no row stays
    where it is. Raises UsageError for integers, and for more centres than rows.
    """
    check_clusters(len(centres), len(check_inputs(x, "N D")))
    middle = x.mean(0)
    x, centres = x - middle[None], centres - middle[None]
    enough = tolerance * x.var(0).mean()

    def going(carry):
        _, step, moved = carry
        return (step < most) & (moved > enough)

    def move(carry):
        centres, step, _ = carry
        each = jax.nn.one_hot(nearest(x, centres), len(centres), dtype=x.dtype)
        new = _means(each, x, centres)
        return new, step + 1, jnp.square(new - centres).sum()

    begin = (centres, jnp.int32(0), jnp.asarray(jnp.inf, x.dtype))
    centres, step, _ = jax.lax.while_loop(going, move, begin)
    labels = nearest(x, centres)
    inertia = apart(x, centres[labels]).sum()
    return Clusters(centres + middle[None], labels, inertia, step)


def _means(each, x, otherwise):
    """Those of the rows of each cluster, each [N, K]; of none, what it was."""
    count = each.sum(0)[:, None]
    return jnp.where(count > 0, each.T @ x / jnp.maximum(count, 1), otherwise)


def kmeans(
    key: PRNGKeyArray,
    x: Shaped[Array, "N D"],
    clusters: int,
    *,
    restarts: int = 10,
    tolerance: Number = 1e-4,
    most: int = 300,
) -> Clusters:
    """The best of several starts, all of them at once: one `vmap` of `lloyd`.

    Raises UsageError for integers, and for more clusters than rows.
    """
    check_clusters(clusters, len(check_inputs(x, "N D")))
    check_int("restarts", restarts, 1)

    def one(key):
        begin = seeds(key, x, clusters)
        return lloyd(x, begin, tolerance=tolerance, most=most)

    found = jax.vmap(one)(jax.random.split(key, restarts))
    best = jnp.argmin(found.inertia)
    return jax.tree.map(lambda a: a[best], found)


# As a task ----------------------------------------------------------------------------


def task(clusters: int, *, keep: Number = 1.0) -> Task:
    """The mean squared distance of "x" [B, ...] to the nearest of K centres.

    At rate 1 a step of gradient descent is one of k-means. Its objective divides the
    rows of a cluster by 2 n_k, the number that it has had: then the gradient is
    sum (c_k - x) / n_k, and the centre goes to the mean of all its rows so far (Bottou
    & Bengio 1995, equation 7; Sculley 2010). `keep` is the share of earlier rows that
    still count: 1 for mini-batches; 0 is Lloyd's algorithm, where a batch is all rows.
    In parts of a batch, steps are as many times shorter.

    The first batch says where centres begin (`seeds`): they are the model's state, and
    the parameters what they have moved since; see `centres_of`. Raises UsageError for a
    first batch with fewer rows, and for `keep` outside of [0, 1].
    """
    check_int("clusters", clusters, 1)
    if concrete(keep) and not 0 <= keep <= 1:
        raise UsageError(f"expected keep in [0, 1], found {keep}")

    def init(key, batch):
        x = _flat(batch["x"])
        zeros = jnp.zeros((clusters, x.shape[1]), x.dtype)
        return {"moved": zeros}, {"seeds": zeros, "count": jnp.zeros(clusters)}

    def loss(params, state, batch, key, *, train):
        x, mask = _flat(batch["x"]), batch.get("mask")
        if train:
            state = {**state, "seeds": _begun(state, key, x, clusters, mask)}
        centres = state["seeds"] + params["moved"]
        labels = nearest(x, jax.lax.stop_gradient(centres))
        distance = apart(x, centres[labels])
        metrics = means({"loss": distance}, mask)
        if not train:
            return metrics["loss"].value(), Aux(metrics, state)
        weight = jnp.ones(len(x)) if mask is None else mask * 1.0
        each = weight @ jax.nn.one_hot(labels, clusters)
        count = keep * state["count"] + each
        share = weight / (2 * jnp.maximum(count, 1e-30)[labels])
        objective = (share * float32(distance)).sum()
        metrics["objective"] = Mean.of(objective)
        return objective, Aux(metrics, {**state, "count": count})

    return Task(init, loss)


def _flat(x):
    return check_inputs(x).reshape(x.shape[0], -1)


def _begun(state, key, x, clusters, mask):
    """Where the centres begin: drawn of the first batch that counts a row."""
    if len(x) < clusters:
        raise UsageError(
            f"expected a batch of {clusters} rows or more for as many clusters, found "
            f"{len(x)}"
        )
    x = jax.lax.stop_gradient(x)
    return jax.lax.cond(
        state["count"].any(),
        lambda: state["seeds"],
        lambda: seeds(key, x, clusters, mask).astype(state["seeds"].dtype),
    )


def centres_of(variables: Tree) -> Float[Array, "K D"]:
    """The centres of {"params": ..., **state} of a `task`."""
    return jnp.asarray(variables["seeds"]) + jnp.asarray(variables["params"]["moved"])


# By density ---------------------------------------------------------------------------


def dbscan(x: Shaped[Array, "N D"], radius: Number, least: int = 5) -> Int[Array, "N"]:
    """The cluster of each row, from 0; -1 for noise. As scikit-learn numbers them.

    A row with `least` rows within the radius, itself too, is a core; cores within the
    radius of each other are of one cluster, and other rows of the first with a core
    that is so near. Clusters are numbered by their first cores. N^2 distances are
    computed, N^2 bits kept. Raises UsageError for integers and radii not above 0.
    """
    check_int("least", least, 1)
    if concrete(radius) and not radius > 0:
        raise UsageError(f"expected a radius > 0, found {radius}")
    x, n = check_inputs(x, "N D"), len(x)
    close = jax.lax.map(lambda row: jnp.sqrt(apart(x, row[None])) <= radius, x)
    core = close.sum(1) >= least
    linked = close & core.reshape(1, -1)
    rows = jnp.arange(n)

    def lowest(labels):
        """The least label of the cores around each row; n where there is none."""
        return jnp.where(linked, labels.reshape(1, -1), n).min(1)

    def spread(carry):
        labels, _ = carry
        new = jnp.where(core, jnp.minimum(labels, lowest(labels)), n)
        # its label is a core's number, whose label may be lower by now
        new = jnp.where(core, new[jnp.minimum(new, n - 1)], n)
        return new, (new != labels).any()

    begin = jnp.where(core, rows, n), jnp.bool(True)
    labels, _ = jax.lax.while_loop(lambda carry: carry[1], spread, begin)
    number = jnp.cumsum(core & (labels == rows)) - 1  # of the clusters' first cores
    found = lowest(jnp.where(core, number[jnp.minimum(labels, n - 1)], n))
    return jnp.where(found < n, found, -1)
