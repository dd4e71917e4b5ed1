"""Optimizers and learning-rate schedules by name, composed from optax.

Every optimizer is the same chain: clip, precondition the gradient, decay the weights
(decoupled: Loshchilov & Hutter, "Decoupled weight decay regularization", 2019,
arXiv:1711.05101), scale by the learning rate. All defaults stand here.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from zoo.base import (
    Aux,
    Mean,
    Number,
    UsageError,
    check_choice,
    check_int,
    concrete,
    float32,
    is_weight,
)

Name = Literal[
    "sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw", "lion", "lbfgs", "newton"
]
ScheduleName = Literal["constant", "cosine", "warmup_cosine", "exponential", "step"]

SEARCHES = ("lbfgs", "newton")  # for their rate, along a line
SEARCHING = optax.ScaleByLBFGSState | optax.ScaleByBacktrackingLinesearchState

PRECONDITIONERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "sgd": optax.identity,
    "momentum": lambda: optax.trace(decay=0.9),
    "nesterov": lambda: optax.trace(decay=0.9, nesterov=True),
    # epsilon outside the root, as in torch (whose decay, "alpha", is 0.99)
    "rmsprop": lambda: optax.scale_by_rms(decay=0.9, eps=1e-8, eps_in_sqrt=False),
    "adam": optax.scale_by_adam,
    "adamw": optax.scale_by_adam,
    "lion": optax.scale_by_lion,
}


def optimizer(
    name: Name,
    learning_rate: Number | optax.Schedule | None = None,
    *,
    weight_decay: Number | None = None,
    clip: Number | None = None,
    betas: tuple[float, float] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The named optimizer over optax. Numbers may be traced.

    `learning_rate` is a number or a schedule (step -> number); "lbfgs" and "newton"
    search along a line for it and take None. `weight_decay` shrinks what
    `zoo.base.is_weight` says (default 0; 1e-4 for adamw). `clip` bounds the gradient's
    global norm. `betas` are the decays of Adam's two moments (default 0.9 and 0.999).
    Raises UsageError for an unknown name or a number out of range.
    """
    check_choice("optimizer", name, get_args(Name))
    _check_rate(name, learning_rate)
    if weight_decay is None:
        weight_decay = 1e-4 if name == "adamw" else 0.0
    if concrete(weight_decay) and not 0 <= weight_decay < math.inf:
        raise UsageError(f"expected a weight decay >= 0, found {weight_decay}")
    if clip is not None and concrete(clip) and not clip > 0:
        raise UsageError(f"expected a clipping norm > 0, found {clip}")
    if betas is not None:
        if name not in ("adam", "adamw"):
            raise UsageError(f"expected no betas (None) for {name}, found {betas}")
        if np.shape(betas) != (2,):
            raise UsageError(f"expected two betas, found {betas}")
        if not all(0 <= beta < 1 for beta in betas if concrete(beta)):
            raise UsageError(f"expected betas in [0, 1), found {betas}")
    if name in SEARCHES:
        if clip is not None or not concrete(weight_decay) or weight_decay:
            raise UsageError(
                f"{name} searches along the gradient itself: expected no clipping "
                "or weight decay (use an l2 penalty)"
            )
        return optax.lbfgs(learning_rate) if name == "lbfgs" else newton()
    return optax.chain(
        optax.identity() if clip is None else optax.clip_by_global_norm(clip),
        optax.scale_by_adam(*betas) if betas else PRECONDITIONERS[name](),
        optax.add_decayed_weights(weight_decay, mask=is_weight),
        optax.scale_by_learning_rate(learning_rate),
    )


def newton(*, dense: int = 2000) -> optax.GradientTransformationExtraArgs:
    """Newton's method with a line search, for small convex losses of all the data.

    Its equations are solved by conjugate gradients: with the Hessian as a matrix for
    fewer than `dense` parameters, with its products otherwise. Nocedal & Wright,
    "Numerical optimization", 2006, chapter 7.
    """

    def update(updates, state, params=None, *, value_fn, **extra):
        w, restore = ravel_pytree(params)
        down = -ravel_pytree(updates)[0]

        def value(w):
            return value_fn(restore(w))

        def curvature(v):  # the Hessian times v
            return jax.jvp(jax.grad(value), (w,), (v,))[1]

        times, scale = curvature, jnp.ones(())
        if w.size < dense:
            hessian = jax.vmap(curvature)(jnp.eye(w.size, dtype=w.dtype))
            # what the loss does not turn on, as the mean of all logits, stays
            floor = 1e-6 * jnp.max(jnp.diagonal(hessian))
            hessian += floor * jnp.eye(w.size, dtype=w.dtype)
            scale = jnp.where(jnp.diagonal(hessian) > 0, jnp.diagonal(hessian), 1)
            times = hessian.__matmul__
        # not by a factorization: batches of LAPACK's calls on two devices of one CPU
        # wait for each other for ever
        step = jax.scipy.sparse.linalg.cg(
            times, down, tol=1e-6, maxiter=2 * min(w.size, 100), M=lambda v: v / scale
        )[0]
        # where it is not convex, down the gradient
        good = jnp.isfinite(step).all() & (step @ down > 0)
        return restore(jnp.where(good, step, down)), state

    return optax.chain(
        optax.GradientTransformationExtraArgs(
            lambda params: optax.EmptyState(), update
        ),
        # rtol: near the minimum, what rounding makes of a descent is no ascent
        optax.scale_by_backtracking_linesearch(
            20, decrease_factor=0.5, increase_factor=math.inf, rtol=1e-6
        ),
    )


def schedule(
    name: ScheduleName, peak: float, steps: int, *, warmup: float = 0.05
) -> optax.Schedule:
    """Learning rate by step over a run of `steps`, highest at `peak`.

    cosine: half a cosine from peak to 0 (Loshchilov & Hutter 2017, arXiv:1608.03983);
    warmup_cosine: linear from 0 over the first `warmup` share, then the cosine;
    exponential: smoothly to peak / 100; step: a tenth at 1/2 and again at 3/4 of the
    run (He et al. 2015, section 4.2). Peak and warmup may be traced, `steps` not.
    Raises UsageError for what is out of range.
    """
    check_choice("schedule", name, get_args(ScheduleName))
    _check_rate("schedule", peak)
    if steps < 1:
        raise UsageError(f"expected 1 or more steps, found {steps}")
    if concrete(warmup) and not 0 <= warmup <= 1:
        raise UsageError(f"expected a share of warmup in [0, 1], found {warmup}")

    def warmup_cosine(step):
        # at least one step up where there is one to spare, and one down
        rise = jnp.clip(jnp.round(jnp.float32(warmup) * steps), 1, steps - 1)
        angle = jnp.pi * jnp.clip(step - rise, 0, steps - rise) / (steps - rise)
        cosine = peak * (0.5 * (1 + jnp.cos(angle)))
        line = peak - peak * (1 - step / jnp.maximum(rise, 1))
        return jnp.where(step < rise, line, cosine)

    schedules: dict[str, Callable[[], optax.Schedule]] = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, steps),
        "warmup_cosine": lambda: warmup_cosine,
        "exponential": lambda: lambda step: peak * 0.01 ** (step / steps),
        "step": lambda: optax.piecewise_constant_schedule(
            peak, {steps // 2: 0.1, steps * 3 // 4: 0.1}
        ),
    }
    return schedules[name]()


def players(
    **optimizers: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer for each top-level key of the parameters, by its name."""
    return optax.partition(optimizers, lambda params: {name: name for name in params})


def every(
    inner: optax.GradientTransformation, steps: int
) -> optax.GradientTransformationExtraArgs:
    """Update by `inner` at each `steps`-th step; between, stand still and forget.

    A GAN's generator, that many critic steps apart. Raises UsageError below 1.
    """
    if steps < 1:
        raise UsageError(f"expected an update every 1 or more steps, found {steps}")
    return optax.conditionally_mask(inner, lambda step: (step + 1) % steps == 0)


def adversaries(
    optimizer: optax.GradientTransformation, *, critic_steps: int = 1
) -> optax.GradientTransformationExtraArgs:
    """An optimizer of its own for a "generator" and for a "discriminator".

    The generator moves at each `critic_steps`-th step. Raises UsageError below 1.
    """
    # no wrapper where it does nothing: its counter would be state
    slow = optimizer if critic_steps == 1 else every(optimizer, critic_steps)
    return players(generator=slow, discriminator=optimizer)


def moved(average: Any, latest: Any, updates: jax.Array, decay: float) -> Any:
    """A moving average after `updates` others, as `latest` joins it: trees of arrays.

    The effective decay is min(decay, (1 + t) / (10 + t)) after t updates, so the first
    values are soon forgotten. Polyak & Juditsky, SIAM J. Control Optim. 30, 1992.
    """
    d = jnp.minimum(decay, (1 + updates) / (10 + updates))

    def move(old, new):
        if not jnp.issubdtype(new.dtype, jnp.inexact):
            return new  # a counter has no mean
        return (d * old + (1 - d) * new).astype(new.dtype)

    return jax.tree.map(move, average, latest)


def in_parts(gradient: Callable[..., Any], parts: int) -> Callable[..., Any]:
    """gradient(params, state, batch, key) -> ((value, aux), grad), by parts of a batch.

    The same numbers, in the memory of one part; where a part fits a processor's cache,
    sooner. Parts are weighed by what counts in them, so that padding changes nothing.
    Noise and batch norm are each part's own. Raises UsageError below 1.
    """
    if parts < 1:
        raise UsageError(f"expected to accumulate 1 or more batches, found {parts}")
    if parts == 1:
        return gradient

    def whole(params, state, batch, key):
        def cut(a):  # on several devices, each keeps its rows
            return a.reshape(-1, parts, *a.shape[1:]).swapaxes(0, 1)

        def add(carry, part):
            state, sums = carry
            (value, aux), grad = gradient(params, state, *part)
            n = aux.metrics["loss"].count
            found = jax.tree.map(lambda a: jnp.where(n > 0, n * a, 0), (value, grad))
            return (aux.state, jax.tree.map(jnp.add, sums, (*found, n))), aux.metrics

        zeros = jax.tree.map(lambda a: jnp.zeros_like(float32(a)), params)
        carry = state, (jnp.float32(0), zeros, jnp.float32(0))
        inputs = jax.tree.map(cut, batch), jax.random.split(key, parts)
        (state, (total, grad, count)), metrics = jax.lax.scan(add, carry, inputs)

        def mean(a, like):
            return jnp.where(count > 0, a / jnp.maximum(count, 1e-30), 0).astype(like)

        grad = jax.tree.map(lambda a, p: mean(a, p.dtype), grad, params)
        metrics = jax.tree.map(lambda a: a.sum(0), metrics)
        return (Mean(total, count).value(), Aux(metrics, state)), grad

    return whole


def pieces(
    size: int, accumulate: int, microbatch: int | None, state: Any = None
) -> int:
    """How many parts a batch of `size` examples is read in.

    Raises UsageError for a microbatch that does not divide it, or beside batch norm,
    which a model's `state` tells.
    """
    if microbatch is None:
        return accumulate
    if "batch_stats" in str(jax.tree.structure(state)):
        raise UsageError("expected no microbatch: batch norm would see each by itself")
    if check_int("microbatch", microbatch, 1) and size % microbatch:
        raise UsageError(
            f"expected a microbatch that divides a batch of {size}, found {microbatch}"
        )
    return size // microbatch


def full_batch(optimizer_state: Any, size: int, n: int | None) -> None:
    """Raise UsageError where a line is to be searched on `size` of the n examples.

    It compares losses and gradients of several steps: they must be of one function.
    """

    def search(state):
        return isinstance(state, SEARCHING)

    if size != n and any(map(search, jax.tree.leaves(optimizer_state, is_leaf=search))):
        raise UsageError(
            f"expected a batch of all {n or ''} examples for lbfgs and newton, which "
            f"compare the losses of steps, found {size}"
        )


def _check_rate(name, rate):
    if rate is None and name not in SEARCHES:
        raise UsageError(f"expected a learning rate for {name}, found none")
    number = isinstance(rate, float | int | np.ndarray | np.generic | jax.Array)
    if isinstance(rate, str | bool) or (
        number and concrete(rate) and not 0 < rate < math.inf
    ):
        raise UsageError(f"expected a learning rate > 0, found {rate!r}")
