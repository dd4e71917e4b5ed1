"""Restricted Boltzmann machines: energies between what is seen and what is hidden.

Smolensky, "Information processing in dynamical systems: foundations of harmony
theory", 1986. Hinton, "Training products of experts by minimizing contrastive
divergence", Neural Computation 14, 2002; "A practical guide to training restricted
Boltzmann machines", 2010. Persistent chains: Tieleman, "Training restricted Boltzmann
machines using approximations to the likelihood gradient", 2008. Annealed importance
sampling: Salakhutdinov & Murray, "On the quantitative analysis of deep belief
networks", 2008. Score matching: Hyvarinen, JMLR 6, 2005.

The gradient of contrastive divergence is that of a difference of free energies, where
what the chain has reached is a constant: the step of all other models.
Shapes: B batch, V visible units, H hidden units, N chains or states, n images.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.lax import stop_gradient
from jaxtyping import Float, Int, PRNGKeyArray, Shaped

from zoo.base import Aux, Task, UsageError, check_int, judged, means, parted
from zoo.checks import check_choice, check_inputs, check_unit
from zoo.types import Array, Tree

LIKELIHOODS = ("bernoulli", "gaussian")
COUNTED = 24  # units whose states are counted one by one: 2^24


class RBM(nn.Module):
    """E(v, h) = -a v - b h - v W h of binary v and h.

    A "gaussian" v is real and has |v - a|^2 / 2 in place of -a v: given h, its variance
    is 1, so standardise it. Parameters: "kernel" W [V, H], from a normal of 0.01,
    "visible_bias" a and "hidden_bias" b, at zero. Examples of several axes are
    flattened. Raises UsageError for another likelihood, and no units.
    """

    visible: int
    units: int
    likelihood: str = "bernoulli"

    def setup(self):
        check_choice("likelihood", self.likelihood, LIKELIHOODS)
        shape = (
            check_int("visible units", self.visible, 1),
            check_int("hidden units", self.units, 1),
        )
        zeros = nn.initializers.zeros
        self.kernel = self.param("kernel", nn.initializers.normal(0.01), shape)
        self.visible_bias = self.param("visible_bias", zeros, shape[:1])
        self.hidden_bias = self.param("hidden_bias", zeros, shape[1:])

    def __call__(
        self, x: Shaped[Array, "B *D"], *, train: bool = False
    ) -> Float[Array, "B"]:
        """The free energy F(v) = -log sum_h exp(-E(v, h)), nats.

        Raises UsageError for integers x, and examples of another size.
        """
        v = flat(x, self.visible)
        return self.alone(v) - nn.softplus(self.up(v)).sum(-1)

    def energy(
        self, v: Float[Array, "B V"], h: Float[Array, "B H"]
    ) -> Float[Array, "B"]:
        """E(v, h)."""
        return self.alone(v) - (self.up(v) * h).sum(-1)

    def alone(self, v: Float[Array, "B V"]) -> Float[Array, "B"]:
        """The energy of v without hidden units."""
        if self.likelihood == "bernoulli":
            return -(v @ self.visible_bias)
        return 0.5 * jnp.square(v - self.visible_bias.reshape(1, -1)).sum(-1)

    def up(self, v: Float[Array, "B V"]) -> Float[Array, "B H"]:
        """The logits of h given v."""
        return v @ self.kernel + self.hidden_bias.reshape(1, -1)

    def down(self, h: Float[Array, "B H"]) -> Float[Array, "B V"]:
        """The logits of v given h; of a Gaussian v, its means."""
        return h @ self.kernel.T + self.visible_bias.reshape(1, -1)

    def pseudo_likelihood(self, v: Float[Array, "B V"]) -> Float[Array, "B"]:
        """sum_i log p(v_i | all others), nats, of binary v (Besag 1975)."""
        up = self.up(v)

        def add(total, unit):
            kernel, bias, v = unit
            return total + _given_others(up, kernel.reshape(1, -1), bias, v), None

        units = self.kernel, self.visible_bias, v.T
        return jax.lax.scan(add, jnp.zeros_like(v[:, 0]), units)[0]

    def one_of_pseudo_likelihood(
        self, v: Float[Array, "B V"], i: Int[Array, "B"]
    ) -> Float[Array, "B"]:
        """V log p(v_i | all others): of a random i, unbiased."""
        own = jnp.take_along_axis(v, i.reshape(-1, 1), 1)[:, 0]
        unit = self.kernel[i], self.visible_bias[i], own
        return self.visible * _given_others(self.up(v), *unit)

    def score_matching(self, v: Float[Array, "B V"]) -> Float[Array, "B"]:
        """|s|^2 / 2 + div s with s = grad log p(v), of Gaussian v.

        Its mean is least for the true density, whatever the partition function
        (Hyvarinen 2005, theorem 1).
        """
        h = nn.sigmoid(self.up(v))
        slope = self.down(h) - v
        curved = (h * (1 - h)) @ jnp.square(self.kernel).sum(0)
        return 0.5 * jnp.square(slope).sum(-1) + curved - self.visible


def _given_others(up, kernel, bias, v):
    """log p(v_i | all others), of a unit's kernel [B or 1, H], bias and v [B]."""
    others = up - v.reshape(-1, 1) * kernel
    logit = bias + (nn.softplus(others + kernel) - nn.softplus(others)).sum(-1)
    return v * logit - nn.softplus(logit)


def flat(x: Shaped[Array, "B *D"], visible: int) -> Float[Array, "B {visible}"]:
    """Examples as they are seen. Raises UsageError for integers and other sizes."""
    v = check_inputs(x).reshape(x.shape[0], -1)
    if v.shape[1] != visible:
        raise UsageError(
            f"expected examples of {visible} visible units, found shape {x.shape[1:]}"
        )
    return v


def draw(
    likelihood: str, key: PRNGKeyArray, natural: Float[Array, "*S"]
) -> Float[Array, "*S"]:
    """Units of given logits, 0 or 1; or, Gaussian, of given means and variance 1."""
    if likelihood == "gaussian":
        return natural + jax.random.normal(key, natural.shape, natural.dtype)
    return jax.random.bernoulli(key, nn.sigmoid(natural)).astype(natural.dtype)


def gibbs(
    model: RBM,
    variables: Tree,
    key: PRNGKeyArray,
    v: Float[Array, "N V"],
    turns: int = 1,
) -> Float[Array, "N V"]:
    """What v becomes when h is drawn given v, and v given h, so many times."""
    run: Any = partial(model.apply, variables)

    def turn(v, key):
        keys = jax.random.split(key)
        h = draw("bernoulli", keys[0], run(v, method="up"))
        return draw(model.likelihood, keys[1], run(h, method="down")), None

    return jax.lax.scan(turn, v, jax.random.split(key, turns))[0]


def fantasies(
    model: RBM,
    variables: Tree,
    key: PRNGKeyArray,
    v: Float[Array, "N V"],
    turns: int = 1000,
) -> Float[Array, "N V"]:
    """The means of v given the hidden units that chains of so many turns reach."""
    run: Any = partial(model.apply, variables)
    walk, last = jax.random.split(key)
    reached = gibbs(model, variables, walk, v, turns)
    down = run(draw("bernoulli", last, run(reached, method="up")), method="down")
    return nn.sigmoid(down) if model.likelihood == "bernoulli" else down


def task(model: RBM, *, turns: int = 1, chains: int = 0) -> Task:
    """Contrastive divergence of batch["x"], with so many turns of Gibbs sampling.

    They begin at the examples (CD); or, with `chains`, where as many persistent ones,
    the state's "chains" [N, V], have been left (PCD). Metrics: "loss" is minus the
    pseudo-likelihood, nats an example, estimated in training by one unit of each, or of
    Gaussian units the objective of score matching; "objective", in training, the
    difference of free energies whose gradient is the step. Raises UsageError.
    """
    check_int("turns", turns, 1)
    check_int("chains", chains, 0)
    binary = model.likelihood == "bernoulli"

    def init(key, batch):
        own, noise = jax.random.split(key)
        params, _ = parted(model.init(own, batch["x"]))
        if not chains:
            return params, {}
        began = draw(model.likelihood, noise, jnp.zeros((chains, model.visible)))
        # bool: a moving average keeps the newest as they are
        return params, {"chains": began.astype(bool) if binary else began}

    def judge(variables, x, key=None):
        run: Any = partial(model.apply, variables, x)
        if not binary:
            return run(method="score_matching")
        if key is None:
            return -run(method="pseudo_likelihood")
        i = jax.random.randint(key, x.shape[:1], 0, model.visible)
        return -run(i, method="one_of_pseudo_likelihood")

    def loss(params, state, batch, key, *, train):
        x, mask = flat(batch["x"], model.visible), batch.get("mask")
        held = {"params": stop_gradient(params)}
        if not train:
            return judged({"loss": judge(held, x)}, mask, state)
        walk, pick = jax.random.split(key)
        begin = state["chains"].astype(x.dtype) if chains else x
        # a constant: what the chain has reached is no function of the parameters
        reached = stop_gradient(gibbs(model, held, walk, begin, turns))
        free: Any = partial(model.apply, {"params": params})
        dreamt = free(reached).mean() if chains else free(reached)
        values = {"objective": free(x) - dreamt, "loss": judge(held, x, pick)}
        metrics = means(values, mask)
        if chains:
            state = {"chains": reached.astype(state["chains"].dtype)}
        return metrics["objective"].value(), Aux(metrics, state)

    return Task(init, loss, check=check_unit if binary else None)


# Partition functions ------------------------------------------------------------------


def log_partition(model: RBM, variables: Tree) -> Float[Array, ""]:
    """log Z, Z = sum_h sum_v exp(-E(v, h)): the smaller layer's states are counted.

    Of Gaussian v, an integral, the hidden layer's. Raises UsageError where that has
    more than 24 units.
    """
    run: Any = partial(model.apply, variables)
    a = variables["params"]["visible_bias"]
    b = variables["params"]["hidden_bias"].reshape(-1, 1)
    binary = model.likelihood == "bernoulli"

    def hidden(h):  # the sum over v, or the integral
        down = run(h, method="down")
        if binary:
            return (h @ b)[:, 0] + nn.softplus(down).sum(-1)
        square = jnp.square(down).sum(-1) - jnp.square(a).sum()
        return (h @ b)[:, 0] + 0.5 * (square + model.visible * math.log(2 * math.pi))

    over_v = binary and model.visible < model.units
    units = model.visible if over_v else model.units
    if units > COUNTED:
        raise UsageError(
            f"expected a layer of at most {COUNTED} units to count the states of, "
            f"found {units}: `annealed` estimates the sum"
        )
    block = min(units, 12)
    states = jnp.arange(2**units).reshape(-1, 2**block)

    def summed(some):
        bits = (some.reshape(-1, 1) >> jnp.arange(units).reshape(1, -1)) & 1
        bits = bits.astype(a.dtype)
        return jax.nn.logsumexp(-run(bits) if over_v else hidden(bits))

    return jax.nn.logsumexp(jax.lax.map(summed, states))


def annealed(
    model: RBM,
    variables: Tree,
    key: PRNGKeyArray,
    *,
    chains: int = 100,
    temperatures: int = 1000,
    base: Float[Array, "V"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """log Z by annealed importance sampling, and its standard error, nats.

    From a machine without weights, whose visible biases are `base` (zero; logits of the
    data's means are nearer), to this one in so many steps, by the mean of the chains'
    weights (Salakhutdinov & Murray 2008, section 3). Raises UsageError.
    """
    check_int("chains", chains, 2)
    check_int("temperatures", temperatures, 1)
    params, kind = variables["params"], model.likelihood
    bias = jnp.zeros(model.visible) if base is None else base
    bare = {"params": {**params, "visible_bias": bias}}
    run: Any = partial(model.apply, variables)
    simple: Any = partial(model.apply, bare)

    def log_density(v, beta):  # without its constant (equation 16)
        alone = (1 - beta) * simple(v, method="alone") + beta * run(v, method="alone")
        return nn.softplus(beta * run(v, method="up")).sum(-1) - alone

    def cool(carry, now):
        (v, weight), (before, beta, key) = carry, now
        weight += log_density(v, beta) - log_density(v, before)
        keys = jax.random.split(key)
        h = draw("bernoulli", keys[0], beta * run(v, method="up"))
        down = (1 - beta) * bias.reshape(1, -1) + beta * run(h, method="down")
        return (draw(kind, keys[1], down), weight), None

    first, rest = jax.random.split(key)
    v = draw(kind, first, jnp.tile(bias.reshape(1, -1), (chains, 1)))
    betas = jnp.linspace(0, 1, temperatures + 1)
    steps = betas[:-1], betas[1:], jax.random.split(rest, temperatures)
    weight = jax.lax.scan(cool, (v, jnp.zeros(chains)), steps)[0][1]
    binary, normal = (
        nn.softplus(bias).sum(),
        0.5 * model.visible * math.log(2 * math.pi),
    )
    begun = binary if kind == "bernoulli" else normal
    share = jnp.exp(weight - jax.nn.logsumexp(weight) + math.log(chains))  # mean 1
    error = share.std(ddof=1) / math.sqrt(chains)
    mean = jax.nn.logsumexp(weight) - math.log(chains)
    return mean + begun + model.units * math.log(2), error
