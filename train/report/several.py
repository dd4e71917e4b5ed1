"""Pictures of several targets, a panel for each.

Shapes: N examples, T targets.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from train.report.plot import EVALUATION, INK, TRAINING, Picture, dress, equality
from zoo.base import UsageError

MOST = 12  # panels
BINS = np.linspace(0, 1, 21)


def quantities(prediction: Any, y: Any, names: Sequence[str]) -> Figure:
    """Predictions against targets, both [N, T], each in its own units, with its R2.

    Raises UsageError for other shapes and NaN or infinity.
    """
    figure = Picture(layout="constrained")
    for axes, name, found, true in _panels(figure, prediction, y, names):
        equality(axes, found, true, name)
        axes.locator_params(nbins=5)
    return figure


def labels(p: Any, y: Any, names: Sequence[str]) -> Figure:
    """How probable each label is, p [N, T], for the rows with it and those without.

    y [N, T] is 0 or 1. Raises UsageError for other shapes and NaN or infinity.
    """
    figure = Picture(layout="constrained")
    for axes, name, found, true in _panels(figure, p, y, names):
        for value, colour in (0, TRAINING), (1, EVALUATION):
            own = found[true == value]
            label = f"{'with it' if value else 'without it'}, {len(own):,}"
            style = {"color": colour, "alpha": 0.7, "label": label}
            axes.hist(
                own, BINS, weights=np.full(len(own), 1 / max(1, len(own))), **style
            )
        axes.axvline(0.5, color=INK, lw=1, ls=":")
        right = np.mean((found > 0.5) == true)
        dress(axes, f"{name}: {right:.1%} right", "probability", "share of the rows")
        axes.set(xlim=(0, 1), ylim=(0, 1.25 * axes.get_ylim()[1]))  # under the legend
        axes.legend(frameon=False, loc="upper center")
    return figure


def _panels(figure, found, y, names) -> Iterator[tuple[Any, str, Any, Any]]:
    """(axes, name, what is predicted, what is true) of each target; of the first 12."""
    found, y = np.asarray(found, np.float64), np.asarray(y, np.float64)
    if found.shape != y.shape or found.shape[1:] != (len(names),) or not found.size:
        raise UsageError(
            f"expected predictions and targets [N, {len(names)}], found {found.shape} "
            f"and {y.shape}"
        )
    if not np.isfinite(found).all():
        raise UsageError("expected finite predictions, found NaN or infinity")
    shown = names[:MOST]
    across = min(4, len(shown))
    down = -(-len(shown) // across)
    figure.set_size_inches(4.2 * across, 4.2 * down)
    every = figure.subplots(down, across, squeeze=False).ravel()
    for axes in every[len(shown) :]:
        axes.set_visible(False)
    if len(names) > MOST:
        figure.suptitle(f"the first {MOST} of {len(names):,}", fontsize=11, color=INK)
    yield from zip(every, shown, found.T, y.T, strict=False)
