"""Training in mixed precision: layers compute in bfloat16, all else in float32.

Micikevicius et al., "Mixed precision training", 2018, arXiv:1710.03740; with bfloat16,
which has float32's range and 8 bits of its precision, without their scaling of the loss
(Kalamkar et al., "A study of bfloat16 for deep learning training", 2019,
arXiv:1905.12322).
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from zoo.base import Batch, Task, float32
from zoo.types import Tree

HALF = jnp.bfloat16


def mixed(task: Task) -> Task:
    """The task, trained with the products of its layers in bfloat16.

    Layers are Linen modules with a field `dtype`, whoever wrote them; one that has said
    a dtype keeps it. Parameters, their gradients and the optimizer are float32, as are
    the statistics of norms, what the loss is made of and what the task predicts. In
    evaluation nothing changes: scores are those of the same parameters in float32.
    """

    def loss(params: Tree, state: Tree, batch: Batch, key: Any, /, *, train: bool):
        with halved() if train else contextlib.nullcontext():
            return task.loss(params, state, batch, key, train=train)

    return task._replace(loss=loss)


@contextlib.contextmanager
def halved() -> Iterator[None]:
    """Layers that are traced inside compute in bfloat16; networks give float32.

    A layer casts what it is given, and its own parameters as it uses them: what is no
    layer's, such as targets, masks and keys, is as it was.
    """
    inside: list[nn.Module] = []  # a module calls others

    def call(method, args, kwargs, context):
        module, outermost = context.module, not inside
        free = getattr(module, "dtype", HALF) is None
        inside.append(module)
        # of a copy: modules that compute are bound to their parameters; a clone that is
        # bound to the same could not declare again what their setup has declared
        if free:
            object.__setattr__(module, "dtype", HALF)
        try:
            found = method(*args, **kwargs)
        finally:
            inside.pop()
            if free:
                object.__setattr__(module, "dtype", None)
        return jax.tree.map(_whole, found) if outermost else found

    with nn.intercept_methods(call):
        yield


def _whole(value):
    """An array of bfloat16 in float32: a loss that is made of it is, too."""
    return float32(value) if getattr(value, "dtype", None) == HALF else value
