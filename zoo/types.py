"""The names that signatures of this package share.

A type says an array's shape by letters, `Float[Array, "B T"]`, which the docstring of
its module explains: jaxtyping's notation. Shapes: B batch.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
from jaxtyping import Int, Shaped

if TYPE_CHECKING:
    from jax import Array as Array

    Size = int
else:  # the tests check what functions are given: numpy's arrays too, symbolic sizes
    from jax.typing import ArrayLike as Array

    Size = Any

Tree = Any
"""Nested dicts, tuples, lists of arrays: parameters, a model's state, its variables."""
Raw = Shaped[Array, "B ..."]
"""What `zoo.checks` has yet to see: its message is better than a type's."""
Labels = Int[Array, "B"]
Lengths = Int[Array, "B"]
Number = float | int | Array
"""A number, or an array [] that may be traced: see `concrete`."""
Dtype = jax.typing.DTypeLike | None
"""What a layer computes in; None: its inputs and parameters, promoted."""
Activation = Callable[[Array], Array]
Initializer = jax.nn.initializers.Initializer
