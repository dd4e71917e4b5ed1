"""Mixtures: clusters as a density; of Bernoullis for binary examples, of Gaussians.

Everitt & Hand, "Finite mixture distributions", 1981; Dempster, Laird & Rubin, "Maximum
likelihood from incomplete data via the EM algorithm", 1977; Bishop, "Pattern
recognition and machine learning", 2006, sections 9.2 and 9.3.3. Log-likelihoods are in
nats. Shapes: B batch, N rows, D features or pixels, K components.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float, Int, PRNGKeyArray, Shaped

from zoo import cluster
from zoo.base import Model, Task, apply, judged, parted
from zoo.checks import check_inputs, check_int, check_unit
from zoo.types import Array, Number, Tree


class BernoulliMixture(nn.Module):
    """p(x) = sum_k pi_k prod_d Bernoulli(x_d; mu_kd), mu and pi by their logits."""

    components: int = 100

    @nn.compact
    def __call__(
        self, x: Float[Array, "B *D"], *, train: bool = False
    ) -> Float[Array, "B"]:
        """log p(x) of x in [0, 1], nats (equation 9.47)."""
        x = x.reshape(x.shape[0], -1)

        def spread(key, shape):
            # dark, and a little apart: components that are alike stay alike, and of
            # those far apart one takes all examples
            return 0.2 * jax.random.normal(key, shape) - 1.5

        mu = self.param("mu", spread, (self.components, x.shape[1]))
        pi = self.param("pi", nn.initializers.zeros, (self.components,))
        each = x @ mu.T - nn.softplus(mu).sum(-1).reshape(1, -1)
        return jax.nn.logsumexp(each + nn.log_softmax(pi).reshape(1, -1), -1)


def task(model: Model) -> Task:
    """Minimises -log p(x) of batch["x"], nats per example, of either mixture."""

    def init(key, batch):
        return parted(model.init(key, batch["x"]))

    def loss(params, state, batch, key, *, train):
        likelihood, _ = apply(model, params, state, batch["x"])
        return judged({"loss": -likelihood}, batch.get("mask"), state)

    unit = isinstance(model, BernoulliMixture)
    return Task(init, loss, check=check_unit if unit else None)


def generate(
    model: BernoulliMixture, variables: Tree, key: PRNGKeyArray, n: int
) -> Float[Array, "{n} D"]:
    """The means mu of n components drawn by pi. Raises UsageError for none."""
    check_int("n", n, 1)
    params = variables["params"]
    k = jax.random.categorical(key, params["pi"], shape=(n,))
    return nn.sigmoid(jnp.asarray(params["mu"])[k])


# Of Gaussians ------------------------------------------------------------------------


class Gaussians(NamedTuple):
    """A mixture of Gaussians, as EM has it."""

    weights: Float[Array, "K"]
    means: Float[Array, "K D"]
    covariances: Float[Array, "K D D"]


class Fitted(NamedTuple):
    """What EM has found."""

    mixture: Gaussians
    likelihood: Float[Array, ""]  # mean log p(x) before the last step
    steps: Int[Array, ""]


class GaussianMixture(nn.Module):
    """p(x) = sum_k pi_k N(x; mu_k, S_k), by gradient: S_k^-1 = U U^T, U triangular.

    U has its diagonal by logarithms, and nothing else where it is `diagonal`. As of all
    such mixtures p(x) has no bound: a component on one row alone shrinks for ever.
    """

    components: int = 10
    diagonal: bool = False

    @nn.compact
    def __call__(
        self, x: Shaped[Array, "B *D"], *, train: bool = False
    ) -> Float[Array, "B"]:
        """log p(x), nats. Raises UsageError for integers x."""
        x = check_inputs(x).reshape(x.shape[0], -1)
        zeros, shape = nn.initializers.zeros, (self.components, x.shape[1])
        mu = self.param("mu", nn.initializers.normal(1.0), shape)
        pi = self.param("pi", zeros, shape[:1])
        log = self.param("log_scale", zeros, shape)
        upper = jax.vmap(jnp.diag)(jnp.exp(log))
        if not self.diagonal:
            upper += jnp.triu(self.param("upper", zeros, (*shape, shape[1])), 1)
        return nn.logsumexp(_joint(nn.log_softmax(pi), mu, upper, x), -1)


def _joint(log_pi, mu, upper, x):
    """log pi_k N(x; mu_k, (U U^T)^-1): [B, K]."""

    def one(mu, upper):
        scaled = (x - mu[None]) @ upper
        size = jnp.log(jnp.diagonal(upper)).sum()
        constant = 0.5 * x.shape[1] * jnp.log(2 * jnp.pi)
        return size - constant - 0.5 * jnp.square(scaled).sum(-1)

    return (jax.vmap(one)(mu, upper) + log_pi[:, None]).T


def _upper(mixture):
    """U of each component: S = L L^T, U = L^-T."""
    eye = jnp.eye(mixture.means.shape[1], dtype=mixture.means.dtype)
    factor = jnp.linalg.cholesky(mixture.covariances)
    return jax.vmap(
        lambda low: jax.scipy.linalg.solve_triangular(low, eye, lower=True).T
    )(factor)


def log_joint(mixture: Gaussians, x: Float[Array, "N D"]) -> Float[Array, "N K"]:
    """log pi_k N(x; mu_k, S_k): its logsumexp is log p(x), its softmax p(k|x)."""
    log_pi = jnp.log(mixture.weights)
    return _joint(log_pi, mixture.means, _upper(mixture), x)


def maximized(
    x: Float[Array, "N D"],
    share: Float[Array, "N K"],
    *,
    diagonal: bool = False,
    floor: Number = 1e-6,
) -> Gaussians:
    """The M step: the best mixture for rows that are components' by these shares.

    `floor` is added to variances (equations 9.24 to 9.26).
    """
    count = share.sum(0) + 1e-6
    means = share.T @ x / count[:, None]
    eye = jnp.eye(x.shape[1], dtype=x.dtype)

    def covariance(share, mean, count):
        apart = x - mean[None]
        found = (share[:, None] * apart).T @ apart / count
        return (found * eye if diagonal else found) + floor * eye

    each = jax.vmap(covariance, (1, 0, 0))(share, means, count)
    return Gaussians(count / count.sum(), means, each)


def em(
    x: Shaped[Array, "N D"],
    begin: Gaussians,
    *,
    diagonal: bool = False,
    floor: Number = 1e-6,
    tolerance: Number = 1e-3,
    most: int = 100,
) -> Fitted:
    """Expectation and maximisation in turn, until log p(x) gains no more.

    It ends where a step changes the mean of log p(x) by less than `tolerance`, as in
    scikit-learn. Raises UsageError for integers.
    """
    check_inputs(x, "N D")

    def going(carry):
        _, before, now, step = carry
        return (step < most) & (jnp.abs(now - before) >= tolerance)

    def move(carry):
        mixture, _, before, step = carry
        joint = log_joint(mixture, x)
        share = nn.softmax(joint, -1)
        new = maximized(x, share, diagonal=diagonal, floor=floor)
        return new, before, nn.logsumexp(joint, -1).mean(), step + 1

    low = jnp.finfo(x.dtype).min  # infinities would have no difference
    carry = (begin, jnp.asarray(low / 2, x.dtype), jnp.asarray(low / 4, x.dtype))
    mixture, _, likelihood, step = jax.lax.while_loop(
        going, move, (*carry, jnp.int32(0))
    )
    return Fitted(mixture, likelihood, step)


def gaussian_mixture(
    key: PRNGKeyArray,
    x: Shaped[Array, "N D"],
    components: int,
    *,
    restarts: int = 1,
    diagonal: bool = False,
    floor: Number = 1e-6,
    tolerance: Number = 1e-3,
    most: int = 100,
) -> Fitted:
    """The best of several mixtures by `em`, each from clusters of k-means: one `vmap`.

    Raises UsageError for integers, and for more components than rows.
    """
    check_int("restarts", restarts, 1)
    cluster.check_clusters(components, len(check_inputs(x, "N D")))

    def one(key):
        labels = cluster.kmeans(key, x, components, restarts=1).labels
        share = jax.nn.one_hot(labels, components, dtype=x.dtype)
        begin = maximized(x, share, diagonal=diagonal, floor=floor)
        return em(
            x,
            begin,
            diagonal=diagonal,
            floor=floor,
            tolerance=tolerance,
            most=most,
        )

    found = jax.vmap(one)(jax.random.split(key, restarts))
    best = jnp.argmax(found.likelihood)
    return jax.tree.map(lambda a: a[best], found)


def variables_of(mixture: Gaussians, *, diagonal: bool = False) -> Tree:
    """The variables of a `GaussianMixture` (U [K, D, D] and so on) that is this one.

    So that gradients go on from EM, or from the clusters of k-means.
    """
    upper = _upper(mixture)
    params = {
        "mu": mixture.means,
        "pi": jnp.log(mixture.weights),
        "log_scale": jnp.log(jax.vmap(jnp.diagonal)(upper)),
    }
    return {"params": params if diagonal else params | {"upper": jnp.triu(upper, 1)}}
