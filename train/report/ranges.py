"""The picture of a range test."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from train.report.plot import EVALUATION, INK, TRAINING, Picture, dress


def rates(found: Any, title: str = "", unit: str = "") -> Figure:
    """Losses against the learning rate, of a `train.many.Rates`; what it suggests.

    The steep end is cut off, where the loss is above all that it was before.
    """
    figure = Picture(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.plot(found.rates, found.losses, color=TRAINING, lw=0.8, label="of each batch")
    axes.plot(found.rates, found.smooth, color=EVALUATION, lw=1.6, label="smoothed")
    if found.suggestion is not None:
        label = f"suggested {found.suggestion:.2g}"
        axes.axvline(found.suggestion, color=INK, lw=1, label=label)
        axes.axvline(found.least, color=INK, lw=1, ls=":", label="the lowest loss")
    before = found.losses[: int(np.argmin(found.smooth)) + 1]
    low, high = found.smooth.min(), before.max()
    room = 0.1 * (high - low) or 0.1
    axes.set(xscale="log", ylim=(min(low, before.min()) - room, high + 3 * room))
    dress(axes, title or None, "learning rate", f"loss, in {unit}" if unit else "loss")
    axes.legend(frameon=False, fontsize=8)
    return figure
