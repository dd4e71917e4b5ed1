"""Pictures of a run; the only module that knows matplotlib.

Each function returns a figure that stands by itself: no pyplot, no global state, so it
works without a display, and in a notebook it shows itself.
Shapes: N examples, K classes or outputs, H height, W width, C channels.
"""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from zoo.base import UsageError

DPI = 130
TRAINING, EVALUATION, INK = "#8fb4d9", "#c8501e", "#444444"


class Picture(Figure):
    """A figure that a notebook draws; it prints matplotlib's own as a mere name."""

    def _repr_png_(self) -> bytes:
        data = io.BytesIO()
        self.savefig(data, format="png", dpi=DPI)
        return data.getvalue()


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as a PNG file that is whole or not there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    figure.savefig(part, format="png", dpi=DPI)
    os.replace(part, path)


def curves(
    records: Sequence[dict[str, Any]],
    evaluated: str = "eval",
    *,
    title: str = "",
    unit: str = "",
    root: tuple[str, float] | None = None,
) -> Figure:
    """The loss, and each metric that was evaluated too, against the step.

    Records are log lines: {"step": 10, "loss": 0.3, ...}, with "eval_loss" on some, or
    what else `evaluated` says that the rows were: "test", "watched". `unit` is that of
    the loss; of a squared error `root` is what its root is of, and the deviation that
    is 1 in it: a second axis. Raises UsageError where no record has a loss.
    """
    found = dict.fromkeys(name for record in records for name in record)
    if "loss" not in found:
        raise UsageError(f"expected log lines with a loss, found {list(found)}")
    label = "evaluation" if evaluated == "eval" else evaluated
    names = ["loss", *(n for n in found if f"{evaluated}_{n}" in found and n != "loss")]
    figure = Picture(figsize=(5.2 * len(names), 3.8), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        values = _line(axes, records, name, TRAINING, "training")
        if (measured := f"{evaluated}_{name}") in found:
            scores = _line(axes, records, measured, EVALUATION, label)
            values = np.concatenate([values, scores])
        values = values[np.isfinite(values)]
        if name == "loss" and values.size and values.min() > 0:
            if np.log10(values.max()) - np.log10(values.min()) > 1.5:
                axes.set_yscale("log")
        up = f"loss, in {unit}" if name == "loss" and unit else None
        dress(axes, name, "step", up)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.legend(frameon=False)
    if root is not None:
        _rooted(panels[0], *root)
    if title:
        figure.suptitle(title, fontsize=11, color=INK, parse_math=False)
    return figure


def _rooted(axes, name, scale):
    """Beside a squared error its root, in the unit of what is predicted."""
    beside = axes.secondary_yaxis(
        "right",
        functions=(
            lambda error: scale * np.sqrt(np.maximum(error, 0)),
            lambda error: np.square(error / scale),
        ),
    )
    if axes.get_yscale() == "linear":
        axes.set_ylim(bottom=0)
        beside.yaxis.set_major_locator(MaxNLocator(4))
    beside.set_ylabel(f"root mean squared error of {name}", parse_math=False)
    beside.spines["right"].set_visible(False)


def _line(axes, records, name, colour, label):
    """Draw one quantity, with a gap where it is not finite; its values."""
    points = [(r["step"], r[name]) for r in records if name in r]
    steps, values = np.array(points, np.float64).T
    values = np.where(np.isfinite(values), values, np.nan)
    style = {"color": colour, "marker": "o" if len(steps) <= 30 else "", "ms": 3.5}
    axes.plot(steps, values, label=f"{label}, last {values[-1]:.4g}", **style)
    return values


def confusion(matrix: Any, classes: Sequence[str]) -> Figure:
    """Counts [K, K], true classes down, predicted across, coloured by their share.

    A cell's colour is its share of its row; numbers are written for up to 20 classes.
    Raises UsageError for a matrix that is not [K, K].
    """
    matrix, k = np.asarray(matrix), len(classes)
    if matrix.shape != (k, k) or k == 0:
        raise UsageError(f"expected counts [{k}, {k}], found shape {matrix.shape}")
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    names = [n if len(n) <= 18 else n[:17] + "…" for n in map(str, classes)]
    longest = max(map(len, names))
    cell = min(max(0.5, 3 / k), 8 / k)  # inches
    size = min(10, 50 * cell)  # points
    side = cell * k + 0.009 * size * longest + 0.6
    figure = Picture(figsize=(side + 0.9, side), layout="constrained")
    axes = figure.subplots()
    # a root: errors are rare, and what one looks for
    drawn = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    bar = figure.colorbar(drawn, shrink=0.8, pad=0.02, label="share of the true class")
    bar.outline.set_visible(False)
    if k <= 100:
        turn = 90 if longest * 0.009 * size > cell else 0
        axes.set_xticks(range(k), names, rotation=turn)
        axes.set_yticks(range(k), names)
        for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            label.set(fontsize=size, parse_math=False)
    if k <= 20:
        digits = len(str(int(matrix.max())))
        for (row, column), count in np.ndenumerate(matrix):
            dark = share[row, column] > 0.25
            colour = "white" if dark else INK if count else "#bbbbbb"
            style: dict[str, Any] = {"ha": "center", "va": "center", "color": colour}
            style["fontsize"] = min(10, 110 * cell / digits)
            axes.text(column, row, str(count), **style)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return figure


def images(x: Any, titles: Sequence[str] | None = None, columns: int = 8) -> Figure:
    """A grid of images [N, H, W, C], C 1 or 3, from black to white over the whole set.

    Raises UsageError for other shapes, NaN or infinity, and titles that are not N.
    """
    x = np.asarray(x, np.float64)
    if x.ndim != 4 or x.size == 0 or x.shape[-1] not in (1, 3):
        raise UsageError(f"expected images [N, H, W, 1 or 3], found shape {x.shape}")
    if not np.isfinite(x).all():
        raise UsageError("expected finite images, found NaN or infinity")
    if columns < 1 or (titles is not None and len(titles) != len(x)):
        raise UsageError(
            f"expected {len(x)} titles, one for each image, and at least 1 column, "
            f"found {len(titles or ())} and {columns}"
        )
    x = (x - x.min()) / (np.ptp(x) or 1)
    x = x[..., 0] if x.shape[-1] == 1 else x
    columns = min(columns, len(x))
    rows = -(-len(x) // columns)
    # the axes fill the figure and their unit is the inch
    gap, wide, high = 0.08, 1.0, x.shape[1] / x.shape[2]
    head = 0.0 if titles is None else 0.16 * max(t.count("\n") + 1 for t in titles)
    width, height = columns * (wide + gap) + gap, rows * (high + head + gap) + gap
    figure = Picture(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    for n, image in enumerate(x):
        left = gap + (n % columns) * (wide + gap)
        top = gap + (n // columns) * (high + head + gap) + head
        extent = (left, left + wide, top + high, top)
        axes.imshow(image, cmap="gray", vmin=0, vmax=1, extent=extent)
        if titles is not None:
            axes.text(
                left + wide / 2,
                top - 0.02,
                titles[n],
                color=INK,
                fontsize=8,
                ha="center",
                va="bottom",
                parse_math=False,
            )
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return figure


def tiles(x: Any, columns: int = 8, titles: Sequence[str] | None = None) -> Figure:
    """Images [N, H, W, C] in [0, 1], C 1 or 3, side by side, each pixel a square.

    `titles` stand beside the rows. Raises UsageError for other shapes and values.
    """
    x = np.asarray(x, np.float64)
    if x.ndim != 4 or x.size == 0 or x.shape[-1] not in (1, 3):
        raise UsageError(f"expected images [N, H, W, 1 or 3], found shape {x.shape}")
    if not (np.isfinite(x).all() and x.min() >= 0 and x.max() <= 1):
        raise UsageError(
            f"expected images in [0, 1], found values {x.min():.3g} to {x.max():.3g}"
        )
    columns = min(columns, len(x))
    rows = -(-len(x) // columns)
    # white between them, and where there is none
    missing = rows * columns - len(x)
    x = np.pad(x, ((0, missing), (1, 0), (1, 0), (0, 0)), constant_values=1)
    n, height, width, channels = x.shape
    sheet = x.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    sheet = sheet.reshape(rows * height, columns * width, channels)
    scale = max(1, round(64 / width)) / DPI  # inches a pixel
    side = 0.0 if titles is None else 0.085 * max(map(len, titles)) + 0.1
    size = side + sheet.shape[1] * scale, sheet.shape[0] * scale
    figure = Picture(figsize=size)
    axes = figure.add_axes((side / size[0], 0, 1 - side / size[0], 1))
    drawn = sheet[..., 0] if channels == 1 else sheet
    axes.imshow(drawn, cmap="gray", vmin=0, vmax=1, aspect="auto")
    axes.set_axis_off()
    for i, title in enumerate(titles or ()):
        middle = 1 - (i + 0.5) / rows
        style: dict[str, Any] = {"va": "center", "fontsize": 8, "color": INK}
        figure.text(0.05 / size[0], middle, title, parse_math=False, **style)
    return figure


def regression(prediction: Any, y: Any, name: str = "") -> Figure:
    """Predictions against targets, both [N] or [N, K], beside the line of equality.

    `name` is the target's; R2 is of all that is drawn. Raises UsageError for shapes
    that differ or nothing finite to show.
    """
    prediction, y = np.asarray(prediction, np.float64), np.asarray(y, np.float64)
    if prediction.shape != y.shape:
        raise UsageError(
            f"expected predictions of the targets' shape {y.shape}, found "
            f"{prediction.shape}"
        )
    finite = np.isfinite(prediction) & np.isfinite(y)
    if not finite.any():
        raise UsageError("expected predictions and targets, found none that is finite")
    figure = Picture(figsize=(4.8, 4.6), layout="constrained")
    equality(figure.subplots(), prediction[finite], y[finite], name)
    return figure


def equality(axes: Any, prediction: np.ndarray, y: np.ndarray, name: str) -> None:
    """Draw finite predictions against targets, both [N], and the line of equality."""
    low, high = min(prediction.min(), y.min()), max(prediction.max(), y.max())
    margin = 0.05 * (high - low) or 0.5
    ends = low - margin, high + margin
    axes.plot(ends, ends, color=INK, lw=1, label="predicted = true", zorder=1)
    alpha = min(0.8, max(0.05, 12 / math.sqrt(y.size)))
    axes.scatter(y, prediction, s=18, color=EVALUATION, alpha=alpha, lw=0)
    axes.set(xlim=ends, ylim=ends, aspect="equal")
    off = np.square(y - y.mean()).sum()
    r2 = f"R2 {1 - np.square(y - prediction).sum() / off:.4f}" if off > 0 else None
    dress(axes, r2, f"true {name}".rstrip(), f"predicted {name}".rstrip())
    axes.legend(frameon=False)


def dress(axes: Any, title: str | None, across: str, up: str | None) -> None:
    """A title, labels and a light grid; no box."""
    axes.set_title(title, color=INK, parse_math=False)
    axes.set_xlabel(across, parse_math=False)
    axes.set_ylabel(up, parse_math=False)
    axes.grid(color="#e5e5e5", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def attention(
    weights: Any, source: Sequence[str], target: Sequence[str], title: str = ""
) -> Figure:
    """Attention weights [T, S] or [panels, T, S]: what is read across, written down.

    Panels are heads or layers. Raises UsageError where the tokens do not fit.
    """
    weights = np.asarray(weights)
    weights = weights[None] if weights.ndim == 2 else weights
    if weights.ndim != 3 or weights.shape[1:] != (len(target), len(source)):
        raise UsageError(
            f"expected weights [{len(target)}, {len(source)}], found {weights.shape}"
        )
    columns = min(4, len(weights))
    rows = -(-len(weights) // columns)
    cell = min(0.32, 6 / max(len(source), len(target), 1))
    size = (columns * (cell * len(source) + 0.9), rows * (cell * len(target) + 0.9))
    size = size[0] + 1.2, max(size[1] + 0.4, 1.6)  # with the labels and the bar
    figure = Picture(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(weights) :]:
        axes.set_visible(False)
    for i, (axes, drawn) in enumerate(zip(panels, weights, strict=False)):
        seen = axes.imshow(drawn, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(source)), source)
        axes.set_yticks(range(len(target)), target)
        for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            label.set(fontsize=min(9, 32 * cell), parse_math=False)
        axes.tick_params(length=0)
        if len(weights) > 1:
            axes.set_title(f"head {i + 1}", fontsize=9)
    bar = figure.colorbar(seen, ax=panels, pad=0.02, label="weight")
    bar.outline.set_visible(False)
    figure.supxlabel("read", fontsize=10, color=INK)
    figure.supylabel("written", fontsize=10, color=INK)
    if title:
        figure.suptitle(title, fontsize=10, parse_math=False)
    return figure


def embedding(points: Any, y: Any, classes: Sequence[str]) -> Figure:
    """Points [N, F] on their two principal axes, coloured by their labels y [N].

    Raises UsageError where they are not as many.
    """
    points, y = np.asarray(points, np.float64), np.asarray(y)
    if points.ndim != 2 or y.shape != points.shape[:1]:
        raise UsageError(
            f"expected points [N, F] and labels [N], found {points.shape}, {y.shape}"
        )
    centred = points - points.mean(0)
    _, size, axes_ = np.linalg.svd(centred, full_matrices=False)
    flat = centred @ axes_[:2].T
    share = size[:2] ** 2 / max((size**2).sum(), 1e-300)
    figure = Picture(figsize=(6.4, 5.0), layout="constrained")
    axes = figure.subplots()
    colours = colormaps["tab10" if len(classes) <= 10 else "viridis"]
    for k, name in enumerate(classes):
        at = flat[y == k]
        colour = colours(k if len(classes) <= 10 else k / (len(classes) - 1))
        axes.plot(at[:, 0], at[:, -1], "o", color=colour, ms=4, mew=0, alpha=0.7)
        axes.plot([], [], "o", color=colour, ms=5, label=str(name))
    labels = [f"axis {i + 1}: {s:.0%} of the variance" for i, s in enumerate(share)]
    dress(axes, None, labels[0], labels[-1])
    for label in axes.legend(frameon=False, fontsize=8).get_texts():
        label.set_parse_math(False)
    return figure
