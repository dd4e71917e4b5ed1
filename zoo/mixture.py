"""A mixture of Bernoullis: clusters of binary examples, as a density.

Everitt & Hand, "Finite mixture distributions", 1981; Bishop, "Pattern recognition and
machine learning", 2006, section 9.3.3. Shapes: B batch, D pixels, K components.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float, PRNGKeyArray

from zoo.base import Task, apply, judged, parted
from zoo.types import Array, Tree


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


def task(model: BernoulliMixture) -> Task:
    """Minimises -log p(x) of batch["x"], nats per example."""

    def init(key, batch):
        return parted(model.init(key, batch["x"]))

    def loss(params, state, batch, key, *, train):
        likelihood, _ = apply(model, params, state, batch["x"])
        return judged({"loss": -likelihood}, batch.get("mask"), state)

    return Task(init, loss)


def generate(
    model: BernoulliMixture, variables: Tree, key: PRNGKeyArray, n: int
) -> Float[Array, "{n} D"]:
    """The means mu of n components drawn by pi."""
    params = variables["params"]
    k = jax.random.categorical(key, params["pi"], shape=(n,))
    return nn.sigmoid(jnp.asarray(params["mu"])[k])
