"""Pictures of what was seen and found: masks and boxes over images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from train.report.plot import INK, Picture
from zoo.base import UsageError


def masks(x: Any, y: Any, found: Any, classes: Sequence[str]) -> Figure:
    """Images [N, H, W, C], a column each, with masks y and those found [N, H, W].

    A colour for each class but the first, the background. Raises UsageError.
    """
    figure, panels = _sheet(x, y, ("image", "true", "found"))
    for i, image in enumerate(_grey(x)):
        for axes, mask in zip(panels[:, i], (None, y[i], found[i]), strict=True):
            axes.imshow(image, cmap="gray", vmin=0, vmax=1)
            if mask is not None:
                axes.imshow(_coloured(np.asarray(mask)))
    shown = sorted({int(c) for part in (y, found) for c in np.unique(part)} - {0})
    _legend(figure, [(_colour(c - 1), classes[c]) for c in shown])
    return figure


def boxes(
    x: Any, y: Any, found: Any, classes: Sequence[str], least: float = 0.3
) -> Figure:
    """Images [N, H, W, C], with boxes y [N, M, 5], and those found [N, P, 6] below.

    Of these the ones whose score is `least` or more, with it. Raises UsageError.
    """
    figure, panels = _sheet(x, y, ("true", "found"))
    seen = set()
    for i, image in enumerate(_grey(x)):
        parts = (
            [row for row in np.asarray(y[i]) if (row[2:4] > row[:2]).all()],
            [row for row in np.asarray(found[i]) if row[5] >= least],
        )
        for axes, rows in zip(panels[:, i], parts, strict=True):
            axes.imshow(image, cmap="gray", vmin=0, vmax=1)
            for top, left, bottom, right, label, *score in rows:
                colour = _colour(int(label))
                seen.add(int(label))
                across = np.array([left, right, right, left, left]) - 0.5
                down = np.array([top, top, bottom, bottom, top]) - 0.5
                axes.plot(across, down, color=colour, lw=1.2)
                for value in score:
                    axes.text(left, top - 1, f"{value:.2f}", color=colour, fontsize=6)
            axes.set(
                xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5)
            )
    _legend(figure, [(_colour(k), classes[k]) for k in sorted(seen)])
    return figure


def _sheet(x, y, names):
    """Axes for N images, a row for each name."""
    x = np.asarray(x)
    if x.ndim != 4 or not len(x) or len(x) != len(y) or x.shape[-1] not in (1, 3):
        raise UsageError(
            f"expected images [N, H, W, 1 or 3] and as many targets, found shape "
            f"{x.shape} and {len(y)}"
        )
    size = 1.2 * len(x) + 0.9, 1.25 * len(names) + 0.2
    figure = Picture(figsize=size, layout="constrained")
    panels = figure.subplots(len(names), len(x), squeeze=False)
    for axes in panels.ravel():
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes, name in zip(panels[:, 0], names, strict=True):
        axes.set_ylabel(name, color=INK, fontsize=8)
    return figure, panels


def _grey(x):
    """Images from black to white over the whole set, without an axis of one channel."""
    x = np.asarray(x, np.float64)
    x = (x - x.min()) / (np.ptp(x) or 1)
    return x[..., 0] if x.shape[-1] == 1 else x


def _colour(kind):
    return colormaps["tab20"]((2 * kind + kind // 10) % 20)


def _coloured(mask):
    """A mask [H, W] as colours [H, W, 4], clear where it is the background."""
    colours = np.array([(0, 0, 0, 0), *((*_colour(k)[:3], 0.7) for k in range(20))])
    return colours[np.where(mask > 0, 1 + (mask - 1) % 20, 0)]


def _legend(figure, pairs):
    handles = [Line2D([], [], marker="s", ls="", color=c, label=n) for c, n in pairs]
    figure.legend(
        handles=handles, loc="outside right center", frameon=False, fontsize=7
    )
