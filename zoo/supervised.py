"""Tasks whose batch has an input and a target: {"x": [B, ...], "y": [B] or [B, K]}.

Of sequences: {"x": [B, T, ...], "length": [B], "y": [B], [B, T] or [B, T, K]}.
Shapes: B batch, T time, K classes or outputs.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float
from optax import losses

from zoo.base import (
    Aux,
    Mean,
    Model,
    Task,
    UsageError,
    apply,
    check_number,
    concrete,
    entries,
    is_weight,
    is_zero,
    masked,
    means,
    parted,
)
from zoo.types import Array, Number, Tree


class Measure(NamedTuple):
    """How a model's outputs are judged, and what they mean.

    values(outputs, y) -> {"loss": [B], ...} per example, or [B, T] per entry of a
    sequence, with an "objective" where training minimizes another; mean(outputs)
    -> prediction, the mean function of a generalised linear model (McCullagh & Nelder,
    1989); classes(shape of outputs) -> how many labels there are, None where y is no
    label. `values` raises UsageError where y does not fit.
    """

    values: Callable[[Array, Array], dict[str, Array]]
    mean: Callable[[Array], Array]
    classes: Callable[[tuple[int, ...]], int | None] = lambda shape: None


def task(
    model: Model,
    measure: Measure,
    *,
    inputs: tuple[str, ...] = ("x",),
    l1: Number = 0.0,
    l2: Number = 0.0,
) -> Task:
    """Fits `model(x, train=...)` to "y" under a measure; see `zoo.base.Task`.

    `inputs` names the model's arguments in the batch: ("x", "length") for sequences
    with padding. Where the measure has a value for every entry of a sequence, those
    past its "length" do not count.

    The loss is mean(values["loss"]) + l1 sum|w| + l2 sum w^2 over the weights w (see
    `zoo.base.is_weight`: no bias, no scale of a norm). The penalty is part of the loss
    in training alone; the metric "loss" never has it. Raises UsageError below 0.
    """
    check_number("l1", l1)
    check_number("l2", l2)
    penalised = not (is_zero(l1) and is_zero(l2))

    def arguments(batch):
        return [batch[name] for name in inputs]

    def init(key, batch):
        return parted(model.init(key, *arguments(batch), train=False))

    def loss(params, state, batch, key, *, train):
        batch = masked(batch)
        inputs = arguments(batch)
        outputs, state = apply(model, params, state, *inputs, key=key, train=train)
        values = measure.values(outputs, batch["y"])
        metrics = means(values, _mask(batch, values["loss"]))
        total, count = metrics.pop("objective", metrics["loss"])
        if not train:
            return metrics["loss"].value(), Aux(metrics, state)
        if penalised:
            total += count * penalty(params, l1, l2)
        if penalised or "objective" in values:
            metrics["objective"] = Mean(total, count)
        return Mean(total, count).value(), Aux(metrics, state)

    def outputs(params, state, batch):
        return apply(model, params, state, *arguments(batch))[0]

    def predict(params, state, batch):
        return measure.mean(outputs(params, state, batch))

    def count(params, state, batch):
        return measure.classes(jax.eval_shape(outputs, params, state, batch).shape)

    return Task(init, loss, predict, count)


def _mask(batch, values):
    """Which values [B] or [B, T] count: the batch's mask, and no padding."""
    mask, length = batch.get("mask"), batch.get("length")
    if length is None or values.ndim == 1:
        return mask
    real = entries(length, values)
    return real if mask is None else real * mask.reshape(len(mask), -1)


def penalty(params: Tree, l1: Number, l2: Number) -> Float[Array, ""]:
    """l1 sum|w| + l2 sum w^2 over the weights, without biases: a scalar."""

    def shrink(weighs, w):
        return l1 * jnp.sum(jnp.abs(w)) + l2 * jnp.sum(jnp.square(w)) if weighs else 0.0

    terms = jax.tree.map(shrink, is_weight(params), params)
    return sum(jax.tree.leaves(terms), start=jnp.zeros(()))


def _classes(logits, y):
    if logits.ndim != y.ndim + 1 or logits.shape[:-1] != y.shape:
        raise UsageError(
            f"expected one integer label per example beside logits {logits.shape}, "
            f"found labels of shape {y.shape}"
        )
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise UsageError(f"expected integer class labels, found {y.dtype}")
    return {
        "loss": losses.softmax_cross_entropy_with_integer_labels(logits, y),
        "accuracy": (jnp.argmax(logits, -1) == y).astype(logits.dtype),
    }


def smoothed(smoothing: Number) -> Measure:
    """`classes`, trained towards labels of which a share is spread over all classes.

    The objective is (1 - s) * loss + s * the mean of -log p over the K classes (Szegedy
    et al., "Rethinking the inception architecture", 2015, arXiv:1512.00567); the metric
    "loss" stays that of the labels. Raises UsageError for s outside [0, 1).
    """
    if concrete(smoothing) and not 0 <= smoothing < 1:
        raise UsageError(f"expected a smoothing in [0, 1), found {smoothing}")
    if is_zero(smoothing):
        return classes

    def values(logits, y):
        found = _classes(logits, y)
        spread = nn.logsumexp(logits, -1) - logits.mean(-1)
        found["objective"] = (1 - smoothing) * found["loss"] + smoothing * spread
        return found

    return classes._replace(values=values)


def _single(outputs, y):
    """[B, 1] beside labels [B] -> [B]."""
    if outputs.shape != (*y.shape, 1):
        raise UsageError(
            f"expected one output per example and labels [B], found outputs of shape "
            f"{outputs.shape} and labels of shape {y.shape}"
        )
    return outputs[..., 0]


def _binary(logits, y):
    logit = _single(logits, y)
    return {
        "loss": losses.sigmoid_binary_cross_entropy(logit, y.astype(logit.dtype)),
        "accuracy": ((logit > 0) == (y > 0)).astype(logit.dtype),
    }


def _labels(logits, y):
    if logits.ndim != 2 or logits.shape != y.shape:
        raise UsageError(
            f"expected labels [B, K] of the logits' shape {logits.shape}, found "
            f"{y.shape}"
        )
    y = y.astype(logits.dtype)
    return {
        "loss": losses.sigmoid_binary_cross_entropy(logits, y).mean(-1),
        "accuracy": ((logits > 0) == (y > 0)).astype(logits.dtype).mean(-1),
    }


def _neuron(logits, y):
    logit = _single(logits, y)
    return {
        "loss": jnp.square(nn.sigmoid(logit) - y),
        "accuracy": ((logit > 0) == (y > 0)).astype(logit.dtype),
    }


def _regression(outputs, y):
    single = outputs.ndim == y.ndim + 1
    outputs = _single(outputs, y) if single else outputs
    if outputs.shape != y.shape:
        raise UsageError(
            f"expected targets of the outputs' shape {outputs.shape}, found {y.shape}"
        )
    error = jnp.square(outputs - y)
    return {"loss": error if single or error.ndim == 1 else error.mean(-1)}


def _two_columns(logits):
    p = nn.sigmoid(logits[..., 0])
    return jnp.stack([1 - p, p], axis=-1)


def _two(shape):
    return 2


classes = Measure(_classes, nn.softmax, lambda shape: shape[-1])
"""Cross-entropy of logits [B, K] and labels y [B] in nats, accuracy; softmax [B, K].
Also of logits [B, T, V] and tokens y [B, T]: a language model's, in nats per token."""

binary = Measure(_binary, _two_columns, _two)
"""Cross-entropy of one logit [B, 1] and y [B] in {0, 1}, nats; probabilities [B, 2]."""

labels = Measure(_labels, nn.sigmoid, _two)
"""K labels that exclude none: the mean of their cross-entropies, of logits [B, K] and y
[B, K] in {0, 1}, nats; accuracy, the share that is right; probabilities [B, K]."""

neuron = Measure(_neuron, _two_columns, _two)
"""Squared error of sigmoid(logit [B, 1]) and y [B] in {0, 1}; probabilities [B, 2]."""

regression = Measure(_regression, lambda outputs: outputs)
"""Squared error (no factor 1/2) of outputs [B, K] or [B, 1], y [B, K] or [B]; of
sequences, outputs [B, T, K] or [B, T, 1] and y [B, T, K] or [B, T], at every step."""
