"""Optimizers and learning-rate schedules by name, composed from optax.

Every optimizer is the same chain: clip, precondition the gradient, decay the weights
(decoupled: Loshchilov & Hutter, "Decoupled weight decay regularization", 2019,
arXiv:1711.05101), scale by the learning rate. All defaults stand here.
"""

import difflib
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from zoo.base import UsageError

Name = Literal[
    "sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw", "lion", "lbfgs"
]
ScheduleName = Literal["constant", "cosine", "warmup_cosine", "exponential", "step"]

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
    learning_rate: float | jax.Array | optax.Schedule | None = None,
    *,
    weight_decay: float | None = None,
    clip: float | None = None,
    accumulate: int = 1,
    ema: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The named optimizer over optax.

    `learning_rate` is a number or a schedule (step -> number); "lbfgs" searches along
    a line for it and takes None. `weight_decay` leaves biases and norms alone (default
    0; 1e-4 for adamw). `clip` bounds the gradient's global norm. `accumulate` averages
    the gradients of that many steps into one update. `ema` keeps a moving average of
    the parameters, decay in (0, 1), that `averaged_params` reads.
    Raises UsageError for an unknown name or a number out of range.
    """
    check_choice("optimizer", name, get_args(Name))
    _check_rate(name, learning_rate)
    if weight_decay is None:
        weight_decay = 1e-4 if name == "adamw" else 0.0
    if isinstance(weight_decay, float | int) and not 0 <= weight_decay < math.inf:
        raise UsageError(f"expected a weight decay >= 0, found {weight_decay}")
    if clip is not None and not clip > 0:
        raise UsageError(f"expected a clipping norm > 0, found {clip}")
    if accumulate < 1:
        raise UsageError(f"expected to accumulate 1 or more steps, found {accumulate}")
    if ema is not None and not 0 < ema < 1:
        raise UsageError(f"expected an averaging decay in (0, 1), found {ema}")
    if name == "lbfgs":
        if clip is not None or accumulate > 1 or weight_decay:
            raise UsageError(
                "lbfgs searches along the gradient itself: expected no clipping, "
                "accumulation or weight decay (use an l2 penalty)"
            )
        chain = optax.lbfgs(learning_rate)
    else:
        chain = optax.chain(
            optax.identity() if clip is None else optax.clip_by_global_norm(clip),
            PRECONDITIONERS[name](),
            optax.add_decayed_weights(weight_decay, mask=decayed),
            optax.scale_by_learning_rate(learning_rate),
        )
    if accumulate > 1:
        chain = optax.MultiSteps(chain, accumulate).gradient_transformation()
    return chain if ema is None else average(chain, ema)


def schedule(
    name: ScheduleName, peak: float, steps: int, *, warmup: float = 0.05
) -> optax.Schedule:
    """Learning rate by step over a run of `steps`, highest at `peak`.

    cosine: half a cosine from peak to 0 (Loshchilov & Hutter 2017, arXiv:1608.03983);
    warmup_cosine: linear from 0 over the first `warmup` share, then the cosine;
    exponential: smoothly to peak / 100; step: a tenth at 1/2 and again at 3/4 of the
    run (He et al. 2015, section 4.2). Raises UsageError for what is out of range.
    """
    check_choice("schedule", name, get_args(ScheduleName))
    _check_rate("schedule", peak)
    if steps < 1:
        raise UsageError(f"expected 1 or more steps, found {steps}")
    rise = max(1, min(round(warmup * steps), steps - 1))
    schedules: dict[str, Callable[[], optax.Schedule]] = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, steps),
        "warmup_cosine": lambda: optax.join_schedules(
            [
                optax.linear_schedule(0.0, peak, rise),
                optax.cosine_decay_schedule(peak, max(1, steps - rise)),
            ],
            [rise],
        ),
        "exponential": lambda: optax.exponential_decay(peak, steps, 0.01),
        "step": lambda: optax.piecewise_constant_schedule(
            peak, {steps // 2: 0.1, steps * 3 // 4: 0.1}
        ),
    }
    return schedules[name]()


def decayed(params: Any) -> Any:
    """Which parameters weight decay shrinks: True for two or more axes."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


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
    learning_rate: float,
    *,
    critic_steps: int = 1,
    betas: tuple[float, float] = (0.5, 0.999),
    ema: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adam for a "generator" and a "discriminator" (Radford et al. 2016).

    The generator moves at each `critic_steps`-th step; `ema` as in `optimizer`.
    Raises UsageError for a rate not in (0, 1) or other numbers out of range.
    """
    if not 0 < learning_rate < 1:
        raise UsageError(f"expected a learning rate in (0, 1), found {learning_rate}")
    if ema is not None and not 0 < ema < 1:
        raise UsageError(f"expected an averaging decay in (0, 1), found {ema}")
    first, second = (optax.adam(learning_rate, *betas) for _ in range(2))
    both = players(
        # no wrapper where it does nothing: its counter would be state
        generator=first if critic_steps == 1 else every(first, critic_steps),
        discriminator=second,
    )
    return both if ema is None else average(both, ema)


class Average(NamedTuple):
    """The state of `average`."""

    average: Any  # the parameters' moving average
    updates: jax.Array  # how many went in
    inner: Any


def average(
    inner: optax.GradientTransformation, decay: float
) -> optax.GradientTransformationExtraArgs:
    """Run `inner`, and keep a moving average of the parameters in its state.

    The effective decay is min(decay, (1 + t) / (10 + t)) after t updates, so the first
    parameters are soon forgotten. Polyak & Juditsky, SIAM J. Control Optim. 30, 1992.
    """
    inner = optax.with_extra_args_support(inner)

    def init(params):
        # a copy: donating the same buffer twice is an error
        mean = jax.tree.map(jnp.copy, params)
        return Average(mean, jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates, state, params=None, **extra):
        updates, new = inner.update(updates, state.inner, params, **extra)
        t = state.updates
        d = jnp.minimum(decay, (1 + t) / (10 + t))
        stepped = optax.apply_updates(params, updates)
        mean = optax.tree.add(
            optax.tree.scale(d, state.average), optax.tree.scale(1 - d, stepped)
        )
        return updates, Average(mean, t + 1, new)

    return optax.GradientTransformationExtraArgs(init, update)


def averaged_params(state: Any) -> Any | None:
    """The moving average of the parameters in an optimizer's state, if it keeps one."""
    return state.average if isinstance(state, Average) else None


def check_choice(what: str, name: str, choices: tuple[str, ...]) -> None:
    """Raise UsageError, with the nearest name, unless `name` is one of `choices`."""
    if name not in choices:
        near = difflib.get_close_matches(str(name), choices, 1)
        hint = f", did you mean {near[0]!r}?" if near else ";"
        raise UsageError(
            f"unknown {what} {name!r}{hint} expected one of: {', '.join(choices)}"
        )


def _check_rate(name, rate):
    if rate is None and name != "lbfgs":
        raise UsageError(f"expected a learning rate for {name}, found none")
    if isinstance(rate, str | bool) or (
        isinstance(rate, float | int) and not 0 < rate < math.inf
    ):
        raise UsageError(f"expected a learning rate > 0, found {rate!r}")
