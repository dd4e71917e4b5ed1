"""What the members of a sweep are: seeds, grids, samples of ranges.

Shapes: S members, K values of an axis.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from zoo.base import UsageError, check_int

Settings = dict[str, np.ndarray]
"""One entry for each member, [S], by name; "seed" is among them."""


class LogUniform(NamedTuple):
    """An axis that is drawn: evenly in the logarithm. `low` may not be 0."""

    low: float
    high: float


def settings(
    seeds: int | Sequence[int],
    axes: Mapping[str | tuple[str, ...], Any],
    *,
    samples: int | None = None,
    seed: int = 0,
) -> Settings:
    """Seeds x axes: what each member of a grid, or of a random search, is.

    `seeds` are so many, or these. An axis is a list of numbers; of several names in a
    tuple, a list of tuples, paired; or a `LogUniform`. With ranges, `samples` settings
    are drawn by `seed`, evenly spread along each of them; lists are gone through, too,
    in a random order. Raises UsageError for an axis that is none.
    """
    chosen = range(check_int("seeds", seeds, 1)) if isinstance(seeds, int) else seeds
    if len(chosen) == 0 or len(set(chosen)) < len(chosen):
        raise UsageError(f"expected seeds, each once, found {list(chosen)}")
    for number in chosen:
        check_int("seed", number, 0, 2**32 - 1)
    drawn = [name for name, axis in axes.items() if isinstance(axis, LogUniform)]
    if bool(drawn) != (samples is not None):
        raise UsageError(
            f"expected samples with the range of {drawn[0]}"
            if drawn
            else f"expected a range of which to draw {samples} samples"
        )
    columns: list[tuple[Any, np.ndarray]]
    columns = [("seed", np.asarray(chosen, np.uint32))]
    if samples is None:
        columns += [(name, _axis(name, axis)) for name, axis in axes.items()]
    else:
        table = _drawn(axes, check_int("samples", samples, 1), seed)
        columns.append((tuple(table), np.stack(list(table.values()), 1)))
    picks = np.indices([len(v) for _, v in columns]).reshape(len(columns), -1)
    found: Settings = {}
    for (name, values), at in zip(columns, picks, strict=True):
        each = values[at]
        if isinstance(name, tuple):
            found |= {n: each[:, j] for j, n in enumerate(name)}
        else:
            found[name] = each
    return found


def _axis(name, axis):
    """The values of a listed axis, [K] or, of several names, [K, names]."""
    values = np.asarray(axis)
    width = values.shape[1:] if isinstance(name, tuple) else ()
    wanted = (len(name),) if isinstance(name, tuple) else ()
    numbers = values.dtype.kind in "iuf"
    if values.ndim == 0 or values.size == 0 or width != wanted or not numbers:
        raise UsageError(f"expected numbers along the axis {name}, found {axis!r}")
    if not np.isfinite(values).all():
        raise UsageError(f"expected finite numbers along the axis {name}, found {axis}")
    if len(np.unique(values, axis=0)) < len(values):
        raise UsageError(f"expected each value of {name} once, found {axis}")
    return values if values.dtype.kind in "iu" else values.astype(np.float64)


def _drawn(axes, samples, seed):
    """A Latin hypercube: `samples` settings, each axis divided evenly among them."""
    random, table = np.random.default_rng(seed), {}
    for name, axis in axes.items():
        order = random.permutation(samples)
        if isinstance(axis, LogUniform):
            if not 0 < axis.low < axis.high < np.inf:
                raise UsageError(f"expected 0 < low < high for {name}, found {axis}")
            share = (order + random.uniform(size=samples)) / samples
            values = axis.low * (axis.high / axis.low) ** share
            table[name] = values
        elif isinstance(name, tuple):
            raise UsageError(f"expected no pairs beside a range, found {name}")
        else:
            values = _axis(name, axis)
            table[name] = values[order % len(values)]
    return table
