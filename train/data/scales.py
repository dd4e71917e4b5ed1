"""Series that differ in scale, each by its own.

Where one counts thousands and another ones, a deviation in common leaves nothing of the
second to be seen. A channel is scaled by each series where that in common is ten times
the least of their own, unless it is constant in one of them.
Shapes: S series, T steps of one, C channels.
"""

import warnings
from collections.abc import Sequence

import numpy as np

from train.data.schema import Schema, moments

FAR = 10.0
Scales = tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...]


def learn(
    past: Sequence[np.ndarray], names: Sequence[str]
) -> tuple[tuple[float, ...], tuple[float, ...], Scales]:
    """Arrays [T, C] -> the mean and deviation [C] in common, and what each has alone.

    The former are 0 and 1 of channels that each series scales; the latter is (name,
    center [C], unit [C]), 0 and 1 of the others, or () where there is no such channel.
    """
    mean, scale = moments(np.concatenate(past))
    each = [np.stack(of) for of in zip(*map(moments, past), strict=True)]
    varies = np.all([np.ptp(one, 0) > 0 for one in past], 0)
    far = varies & (scale > FAR * each[1].min(0))
    still = 0.0, 1.0
    mean, scale = (
        np.where(far, s, v) for s, v in zip(still, (mean, scale), strict=True)
    )
    common = tuple(mean.tolist()), tuple(scale.tolist())
    if not far.any():
        return *common, ()
    rows = [np.where(far, v, s) for s, v in zip(still, each, strict=True)]
    center, unit = (tuple(map(tuple, own.tolist())) for own in rows)
    names = names or [str(i) for i in range(len(past))]
    return *common, tuple(zip(names, center, unit, strict=True))


def known(schema: Schema) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(center, unit) of each series that was trained on, by its name."""
    return {name: (np.array(c), np.array(u)) for name, c, u in schema.scales}


def of(
    scales: dict[str, tuple[np.ndarray, np.ndarray]], name: str, steps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(center, unit) [C] of a series [T, C] as in training, a new one's by its own."""
    if not scales:
        return np.zeros(steps.shape[1]), np.ones(steps.shape[1])
    if name in scales:
        return scales[name]
    warnings.warn(
        f'the series "{name}" was not in training: scaled by its {len(steps):,} steps',
        stacklevel=2,
    )
    far = np.any([unit != 1 for _, unit in scales.values()], 0)
    center, unit = moments(steps)
    return np.where(far, center, 0.0), np.where(far, unit, 1.0)


def beside(center: np.ndarray, unit: np.ndarray, n: int) -> dict[str, np.ndarray]:
    """What undoes the scale of a series, in each of its n rows: [n, T] of T targets."""
    return {"center": np.tile(center, (n, 1)), "width": np.tile(unit, (n, 1))}
