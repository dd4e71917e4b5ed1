"""What is asked of arrays and numbers, before anything is traced of them.

JAX would compute on with most of what is wrong, and say something else of the rest.
"""

import contextlib
import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Integer, Shaped

from zoo.types import Array, Labels

# what a terminal obeys and does not show, but for ends of lines and tabs; marks that
# turn the direction of writing; halves of characters, as in names that are no UTF-8
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    "\ud800-\udfff]"
)


def plain(text: object) -> str:
    """Text to show, its control characters as Python writes them: "\\x1b"."""
    return _CONTROLS.sub(
        lambda found: found[0].encode("unicode_escape").decode(), str(text)
    )


class UsageError(ValueError):
    """What the caller gave cannot be right; says what was expected and what found.

    Names out of files stand in it: its text is `plain`.
    """

    def __str__(self) -> str:
        return plain(super().__str__())


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
    if x.dtype.kind not in "iu":
        raise UsageError(f"expected integer {what}, found {x.dtype} {x.shape}")
    if x.shape[1:] != (len(sizes),):
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


def concrete(value: Any) -> bool:
    """Whether Python may look at a number: inside `jit` or `vmap` it may be traced."""
    return not isinstance(value, jax.core.Tracer)


def check_number(
    name: str, value: Any, low: float = 0.0, high: float = math.inf
) -> None:
    """Raise UsageError unless a number is finite, in [low, high]; a traced one is."""
    if not concrete(value):
        return
    if isinstance(value, str) or np.ndim(value):
        raise UsageError(f"expected a number for {name}, found {value!r}")
    if not (low <= value <= high and math.isfinite(value)):
        bounds = f"in [{low:g}, {high:g}]" if high < math.inf else f">= {low:g}"
        raise UsageError(f"expected a finite {name} {bounds}, found {value}")


def check_sizes(**sizes: Any) -> None:
    """Raise UsageError unless each is 1 or more, or a tuple of such, by its name."""
    for name, size in sizes.items():
        for one in size if isinstance(size, tuple | list) else (size,):
            if isinstance(one, int | np.integer):  # not the symbol of an export
                check_int(name, one, 1)


def check_int(name: str, value: Any, low: int, high: int = 2**31 - 1) -> int:
    """The value, an integer in [low, high]. Raises UsageError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise UsageError(f"expected a whole number for {name}, found {value!r}")
    if not low <= value <= high:
        raise UsageError(f"expected {name} between {low} and {high}, found {value}")
    return int(value)


# Rows -------------------------------------------------------------------------------


def count_rows(arrays: Any, what: str = "data") -> int:
    """N of {"x": [N, ...], "y": [N, ...]}, of arrays or their shapes.

    Raises UsageError for no dict, what is no array of numbers, and for missing, empty
    or unequal arrays.
    """
    if not isinstance(arrays, dict) or "x" not in arrays:
        found = sorted(arrays) if isinstance(arrays, dict) else type(arrays).__name__
        raise UsageError(f'expected {what} as a dict with "x", found {found}')
    for name, array in arrays.items():
        _check_kind(array, name, what)
    n = len(arrays["x"]) if np.ndim(arrays["x"]) else 0
    if n == 0:
        raise UsageError(f"the {what} is empty: x has shape {np.shape(arrays['x'])}")
    for name, array in arrays.items():
        if np.ndim(array) == 0 or len(array) != n:
            raise UsageError(
                f"expected {n} entries in {name!r} as in 'x', found {np.shape(array)}"
            )
    return n


def _check_kind(array, name, what):
    """Raise UsageError for what is no array that a device can hold."""
    dtype = getattr(array, "dtype", None)
    if dtype is None:
        found = type(array).__name__
        raise UsageError(
            f"expected an array for {name!r} of the {what}, found {found}: "
            "numpy.asarray makes one of numbers"
        )
    kinds = jnp.floating, jnp.integer, jnp.bool_
    if not any(jnp.issubdtype(dtype, kind) for kind in kinds):
        raise UsageError(
            f"expected numbers for {name!r} of the {what}, found {dtype}: real, or "
            "whole ones that stand for names"
        )
    if not getattr(dtype, "isnative", True):
        raise UsageError(
            f"expected the byte order of this machine in {name!r} of the {what}, found "
            f"{dtype.str}: array.astype(array.dtype.newbyteorder('=')) has it"
        )


def check_rows(
    data: Any,
    what: str = "data",
    at: Callable[[int], str] = "example {}".format,
) -> int:
    """The number of examples in {"x": [N, ...], "y": [N, ...]}.

    Raises UsageError for missing, empty or unequal arrays, for NaN or infinity (but
    what "mask" [N] or [N, T] leaves out may be anything), and for a mask, a "length"
    [N] or a "weight" [N] that cannot be one. at(i) names the i-th.
    """
    n = count_rows(data, what)
    data = {name: np.asarray(array) for name, array in data.items()}
    for name, array in data.items():
        wrong = ~np.isfinite(array)
        if name != "mask" and "mask" in data:
            wrong &= counted(data["mask"] != 0, wrong.shape)
        bad = np.argwhere(wrong)
        if len(bad):
            raise UsageError(
                f"the {what} has {len(bad)} NaN or infinite values in {name!r}, the "
                f"first in {at(bad[0][0])}"
            )
    if "mask" in data:
        _check_mask(data, what, at)
    if "length" in data:
        _check_length(data, what, at)
    if "weight" in data:
        _check_weight(data["weight"], what)
    return n


def _check_mask(data, what, at):
    mask = data["mask"]
    axes = {array.shape[: mask.ndim] for name, array in data.items() if name != "mask"}
    if mask.shape not in axes:
        raise UsageError(
            f"expected a mask [N], or one of the first axes of another array, in the "
            f"{what}, found shape {mask.shape}"
        )
    wrong = np.argwhere((mask < 0) | (mask > 1))
    if len(wrong):
        raise UsageError(
            f"expected a mask of 0 (dropped) to 1 (counts) in the {what}, found "
            f"{mask[tuple(wrong[0])]:g} in {at(wrong[0][0])}"
        )
    if not mask.any():
        raise UsageError(
            f"expected a mask that keeps some of the {what}, found no entry but 0"
        )


def _check_weight(weight, what):
    if weight.ndim != 1:
        raise UsageError(
            f"expected a weight for each example of the {what}, [N], found "
            f"{weight.shape}"
        )
    if (wrong := weight[weight < 0]).size:
        raise UsageError(
            f"expected weights of 0 or more in the {what}, found {wrong[0]:g}"
        )
    if not weight.any():
        raise UsageError(
            f"expected a weight above 0 in the {what}, found {len(weight)} of 0"
        )


def _check_length(data, what, at):
    length, x = data["length"], data["x"]
    if length.shape != (len(x),) or x.ndim < 2:
        raise UsageError(
            f"expected one length [N] for each x [N, T, ...] of the {what}, found "
            f"shape {length.shape} beside {x.shape}"
        )
    if not np.issubdtype(length.dtype, np.integer):
        raise UsageError(
            f"expected whole numbers as length in the {what}, found {length.dtype}"
        )
    wrong: Any = (length < 1) | (length > x.shape[1])
    if "mask" in data:
        wrong &= counted(data["mask"] != 0, wrong.shape)
    if wrong.any():
        first = int(wrong.argmax())
        raise UsageError(
            f"expected each length from 1 to the {x.shape[1]} entries of x in the "
            f"{what}, found {length[first]} in {at(first)}"
        )


def counted(mask: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Which entries of an array [N, ...] a mask [N, ...] counts, of its rank.

    Where their axes are not the same, all of a row of which it counts one.
    """
    if mask.shape != shape[: mask.ndim]:
        mask = mask.reshape(len(mask), -1).any(1)
    return mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim))


def check_unit(rows: Mapping[str, Any]) -> None:
    """Raise UsageError unless x is in [0, 1]: a Bernoulli's probabilities."""
    x = np.asarray(rows["x"])
    low, high = x.min(), x.max()
    if low < 0 or high > 1:
        raise UsageError(
            f"expected x in [0, 1] for a Bernoulli likelihood, found values {low:g} to "
            f"{high:g}: scale them, or choose a Gaussian"
        )


@contextlib.contextmanager
def understood(what: str, batch: Any) -> Iterator[None]:
    """What fails in here, fails of this batch: a UsageError says so.

    `batch` is of arrays or their shapes, by name.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        have = batch if isinstance(batch, dict) else {}
        found = ", ".join(
            f"{name} {a.dtype}{list(np.shape(a))}" for name, a in have.items()
        )
        missing = error.args[0] if isinstance(error, KeyError) and error.args else have
        if isinstance(missing, str) and missing not in have:
            raise UsageError(
                f"expected {missing!r}, which the model reads, in the {what}, found "
                f"{', '.join(have)}" + nearest(missing, [*have])
            ) from error
        said = str(error).split(" (https://")[0].strip().splitlines() or [""]
        raise UsageError(
            f"the model and its parameters cannot read the {what}, {found}: "
            f"{type(error).__name__}: {said[0]}"
        ) from error
