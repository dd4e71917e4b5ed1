"""t-SNE: places in the plane, near each other where rows are.

van der Maaten & Hinton, "Visualizing data using t-SNE", 2008. All pairs are computed,
N^2 of them at each step: some thousands of rows. Shapes: N rows, D features, E axes of
the picture, mostly 2.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Shaped

from zoo.base import Aux, Mean, Task, UsageError, concrete, judged
from zoo.checks import check_inputs, check_int
from zoo.types import Array, Number

ROUNDS = 40  # halvings of the logarithm of a width, from 40 to nothing in float32


def affinities(
    x: Shaped[Array, "N D"], perplexity: Number = 30.0
) -> Float[Array, "N N"]:
    """How likely rows are neighbours, P: symmetric, its sum 1 (section 2 and 3.1).

    Each row has a Gaussian around it of the width at which exp(entropy) is the
    perplexity: how many neighbours it has. Raises UsageError for integers, and for a
    perplexity that is not from 1 to N - 1.
    """
    x = jnp.asarray(check_inputs(x, "N D"))
    n = len(x)
    if concrete(perplexity) and not 1 <= perplexity < n:
        raise UsageError(
            f"expected a perplexity from 1 to {n - 1}, of {n} rows, found {perplexity}"
        )
    wanted = jnp.log(perplexity)

    def one(i):
        # by differences: those of near rows keep their digits
        distance = jnp.square(x - x[i][None]).sum(-1)
        other = jnp.arange(n) != i
        distance = distance - jnp.min(distance, where=other, initial=jnp.inf)
        scale = jnp.maximum(jnp.mean(distance, where=other), 1e-30)
        distance = distance / scale

        def odds(log_width):
            return jnp.where(other, jnp.exp(-jnp.exp(-log_width) * distance), 0)

        def halve(_, bounds):
            low, high = bounds
            middle = (low + high) / 2
            p = odds(middle)
            total = p.sum()
            mean = (p * jnp.where(other, distance, 0)).sum() / total
            entropy = jnp.log(total) + jnp.exp(-middle) * mean
            wide = entropy > wanted
            return jnp.where(wide, low, middle), jnp.where(wide, middle, high)

        bounds = jnp.asarray(-20.0, x.dtype), jnp.asarray(20.0, x.dtype)
        p = odds(sum(jax.lax.fori_loop(0, ROUNDS, halve, bounds)) / 2)
        return p / p.sum()

    each = jax.vmap(one)(jnp.arange(n))
    return (each + each.T) / (2 * n)


def divergence(p: Float[Array, "N N"], y: Float[Array, "N E"]) -> Float[Array, "N"]:
    """The share of each row in KL(P || Q), nats; Q are Student's odds (equation 4)."""
    log_odds = _log_odds(y)
    own = jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1)), 0)
    return (own - p * (log_odds - jax.nn.logsumexp(log_odds))).sum(-1)


def _log_odds(y):
    """-log(1 + |y_i - y_j|^2); of a place and itself, next to nothing."""
    apart = y.T[:, :, None] - y.T[:, None]  # rows last: an axis of two is slow
    log_odds = -jnp.log1p(jnp.square(apart).sum(0))
    return jnp.where(jnp.eye(len(y), dtype=bool), -1e9, log_odds)


def task(axes: int = 2, *, exaggeration: Number = 12.0, early: int = 250) -> Task:
    """KL(P || Q) of the `affinities` "x" [N, N] and places, the parameters "y" [N, E].

    In the first `early` steps P counts `exaggeration` times, so that clusters move as
    one (section 3.4): the objective then is no KL divergence. A batch is all rows;
    raises UsageError for others.
    """
    check_int("axes", axes, 1)

    def init(key, batch):
        p = check_inputs(batch["x"], "N N")  # of one row, or of all
        y = 1e-4 * jax.random.normal(key, (p.shape[1], axes), p.dtype)
        return {"y": y}, {"step": jnp.zeros(())}

    def loss(params, state, batch, key, *, train):
        p, y = _square(batch["x"]), params["y"]
        if not train:  # the mean is over rows: of the sum, each has a share
            return judged({"loss": len(p) * divergence(p, y)}, batch.get("mask"), state)
        log_odds = _log_odds(y)
        total = jax.nn.logsumexp(log_odds)
        close = (p * log_odds).sum()
        known = jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1)), 0).sum()
        more = jnp.where(state["step"] < early, exaggeration, 1.0)
        objective = total - more * close
        metrics = {"loss": Mean.of(known + total - close)}
        return objective, Aux(metrics, {"step": state["step"] + 1})

    return Task(init, loss)


def _square(p):
    if check_inputs(p, "N N").shape[0] != p.shape[1]:
        raise UsageError(f"expected the affinities [N, N] of all rows, found {p.shape}")
    return p
