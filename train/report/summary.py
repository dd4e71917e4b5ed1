"""What a task is made of: its layers, what they give, parameters, what a batch costs.

All of it from shapes: nothing is computed, and no array is needed.
"""

import html
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from train.check import check_task
from zoo.base import Task, UsageError, count_parameters

COLUMNS = ("layer", "gives", "parameters")


class Layer(NamedTuple):
    """A module as it is called in evaluation."""

    name: str  # of the network, then the way to it: "MLP/Dense_0"
    kind: str  # its class
    shape: str  # of its output: "64 x 10", or of several
    parameters: int  # of itself and what is within; a layer of a scan's, of one


class Summary(NamedTuple):
    """The layers of a task in the order in which they are called, and the whole."""

    layers: tuple[Layer, ...]
    parameters: int
    state: int  # numbers that the model itself changes: batch statistics
    flops: int  # of products of matrices and convolutions, a multiply-add as two

    def rows(self) -> list[tuple[str, str, str]]:
        """Name and class, output, parameters, of each layer; then the whole."""
        rows = []
        for name, kind, shape, count in self.layers:
            *above, last = name.split("/")
            rows.append(
                (
                    "  " * len(above) + (f"{last} ({kind})" if above else last),
                    shape,
                    f"{count:,}" if count else "",
                )
            )
        state = f" and {self.state:,} of state" * bool(self.state)
        return [*rows, ("in all", "", f"{self.parameters:,}{state}")]

    def __str__(self) -> str:
        rows = [COLUMNS, *self.rows()]
        wide = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [f"{a:{wide[0]}}  {b:{wide[1]}}  {c:>{wide[2]}}" for a, b, c in rows]
        return "\n".join([*lines, f"{self.flops:,} floating-point operations a batch"])

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def summary(task: Task, batch: Mapping[str, Any]) -> Summary:
    """The summary of a task, for a batch {"x": [B, ...], ...} or the shapes of one.

    Operations are those of a prediction, or of the loss of what makes its data. A loop
    whose turns are not known beforehand counts as one turn. Raises UsageError for a
    batch without arrays, and for what is no task.
    """
    check_task(task)
    if not isinstance(batch, Mapping) or not batch:
        raise UsageError(
            f'expected a batch {{"x": [B, ...], ...}}, found {type(batch).__name__}'
        )
    shapes = {
        name: jax.ShapeDtypeStruct(np.shape(a), jax.dtypes.canonicalize_dtype(a.dtype))
        for name, a in batch.items()
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, state = jax.eval_shape(task.init, key, shapes)
    layers: dict[tuple[str, ...], Layer] = {}

    def loss(params, state, batch, key):
        return task.loss(params, state, batch, key, train=False)[0]

    with nn.intercept_methods(lambda *call: _seen(layers, *call)):
        program = jax.make_jaxpr(loss)(params, state, shapes, key)
    if task.predict is not None and "x" in shapes:
        program = jax.make_jaxpr(task.predict)(params, state, shapes)
    return Summary(
        tuple(layers.values()),
        count_parameters(params),
        count_parameters(state),
        _operations(program.jaxpr),
    )


def _seen(layers, following, args, kwargs, context):
    """Call a method of a module; note what it gave, the first time."""
    module = context.module
    root = module
    while isinstance(root.parent, nn.Module):
        root = root.parent
    name = (type(root).__name__, *module.path)
    first = context.method_name == "__call__" and name not in layers
    if first:  # a layer stands before what is within
        layers[name] = Layer("/".join(name), type(module).__name__, "", 0)
    found = following(*args, **kwargs)
    if first:
        own = module.variables.get("params", {})
        layers[name] = layers[name]._replace(
            shape=_shapes(found), parameters=count_parameters(own)
        )
    return found


def _shapes(found):
    leaves = [a for a in jax.tree.leaves(found) if hasattr(a, "shape")]
    return ", ".join(" x ".join(map(str, a.shape)) or "one number" for a in leaves)


def _operations(jaxpr) -> int:
    """The multiply-adds of a program, each as two."""
    count = 0
    for equation in jaxpr.eqns:
        kind, how = equation.primitive.name, equation.params
        inner = [_operations(each) for each in _programs(how)]
        if kind == "dot_general":
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.size
            (contracted, _), _ = how["dimension_numbers"]
            count += 2 * out * int(np.prod([left[i] for i in contracted]))
        elif kind == "conv_general_dilated":
            kernel, out = equation.invars[1].aval, equation.outvars[0].aval.size
            outputs = kernel.shape[how["dimension_numbers"].rhs_spec[0]]
            count += 2 * out * kernel.size // outputs
        elif kind == "cond":
            # how a convolution is computed is a choice by platform: the plain way
            count += min(inner) if how.get("branches_platforms") else max(inner)
        else:
            count += sum(inner) * (how["length"] if kind == "scan" else 1)
    return count


def _programs(how):
    """The programs within an equation's parameters."""
    for value in how.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            each = getattr(each, "jaxpr", each)
            if hasattr(each, "eqns"):
                yield each
