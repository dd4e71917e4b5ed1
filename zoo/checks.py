"""What a model asks of its inputs: JAX would compute on with most of what is wrong."""

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Integer, Shaped

from zoo.types import Array, Labels


class UsageError(ValueError):
    """What the caller gave cannot be right; says what was expected and what found."""


def check_inputs(
    x: Shaped[Array, "..."], axes: str | None = None
) -> Shaped[Array, "..."]:
    """x itself, once its dtype is floating and it has the named axes ("B H W C").

    Raises UsageError: JAX would compute on, with raw pixels 0..255 as if they were
    scaled, or with an image's width as if it were its channels.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise UsageError(
            f"expected floating-point inputs, found {x.dtype}: "
            "scale integer data first (pixels: x / 255)"
        )
    if axes is not None and x.ndim != len(axes.split()):
        grey = x.ndim == len(axes.split()) - 1
        hint = ": a single channel needs an axis of its own, x[..., None]"
        raise UsageError(
            f"expected inputs [{', '.join(axes.split())}], found shape {x.shape}"
            + hint * grey
        )
    return x


def check_tokens(
    tokens: Shaped[Array, "..."], axes: str = "B T"
) -> Integer[Array, "..."]:
    """tokens themselves, once they are integers with the named axes.

    Raises UsageError: an embedding would round, or see another axis as time.
    """
    names = axes.split()
    if not jnp.issubdtype(tokens.dtype, jnp.integer) or tokens.ndim != len(names):
        raise UsageError(
            f"expected integer tokens [{', '.join(names)}], "
            f"found {tokens.dtype} {tokens.shape}"
        )
    return tokens


def check_ids(
    x: Any,
    sizes: tuple[int, ...],
    what: str = "ids",
    at: Callable[[int], str] = "row {}".format,
) -> Integer[np.ndarray, "N F"]:
    """Ids x [N, F] themselves, on the host, each below the size of its column.

    Raises UsageError: of an index past the end of a table JAX takes the last row, and
    of a negative one another. at(i) names the i-th row.
    """
    x = np.asarray(x)
    check_tokens(x, "N F")
    if x.shape[1] != len(sizes):
        raise UsageError(f"expected {len(sizes)} columns of {what}, found {x.shape}")
    wrong = np.argwhere((x < 0) | (x >= np.array(sizes).reshape(1, -1)))
    if len(wrong):
        row, column = wrong[0]
        raise UsageError(
            f"expected {what} from 0 to {sizes[column] - 1} in column {column}, found "
            f"{x[row, column]} in {at(row)}"
        )
    return x


def check_labels(y: Labels | None, classes: int) -> Labels:
    """Labels y [B] themselves; raises UsageError where a conditional model has none."""
    if y is None:
        raise UsageError(f"expected labels y [B], one of {classes} classes")
    return y


def check_choice(what: str, name: str, choices: tuple[str, ...]) -> None:
    """Raise UsageError, with the nearest name, unless `name` is one of `choices`."""
    if name not in choices:
        hint = nearest(name, choices) or ";"
        raise UsageError(
            f"unknown {what} {name!r}{hint} expected one of: {', '.join(choices)}"
        )


def nearest(name: str, names: Sequence[str]) -> str:
    """The end of a message that suggests the name of names that is most like name."""
    found = difflib.get_close_matches(str(name), names, 1)
    return f"; did you mean {found[0]!r}?" if found else ""


def check_int(name: str, value: Any, low: int, high: int = 2**31 - 1) -> int:
    """The value, an integer in [low, high]. Raises UsageError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise UsageError(f"expected a whole number for {name}, found {value!r}")
    if not low <= value <= high:
        raise UsageError(f"expected {name} between {low} and {high}, found {value}")
    return int(value)
