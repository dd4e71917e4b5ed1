"""Pictures of many runs: bands over seeds, a map of two settings, reliability; of an
episode, of sound."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from train.report.calibration import bins
from train.report.plot import EVALUATION, INK, TRAINING, Picture, dress
from train.report.words import KINDS, kind
from zoo.base import UsageError
from zoo.driving import ANGLES, REACH

TINT = to_rgb(TRAINING)
SEVERAL = 10  # settings that are told apart by colour


def reliability(probabilities: Mapping[str, Any], y: Any, m: int = 15) -> Figure:
    """Accuracy against confidence, a panel for each name: [N, K] and labels [N].

    Below the line a model says more than it knows. Raises UsageError.
    """
    figure = Picture(figsize=(3.6 * len(probabilities), 3.8), layout="constrained")
    panels = figure.subplots(1, len(probabilities), squeeze=False, sharey=True)[0]
    for axes, (name, p) in zip(panels, probabilities.items(), strict=True):
        found = bins(p, y, m)
        some = found.size > 0
        share = found.size[some] / found.size.max()
        axes.plot([0, 1], [0, 1], color=INK, lw=1)
        axes.bar(
            (np.arange(m)[some] + 0.5) / m,
            found.accuracy[some],
            width=0.9 / m,
            color=[(*TINT, 0.25 + 0.75 * s) for s in share],
        )
        axes.plot(
            found.confidence[some], found.accuracy[some], "o", color=EVALUATION, ms=3
        )
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        dress(axes, f"{name}\ncalibration error {found.error:.3f}", "confidence", "")
    panels[0].set_ylabel("accuracy")
    return figure


def heat(table: Mapping[str, Any], across: str, up: str, value: str) -> Figure:
    """The mean of a column at each pair of two settings, written into a map.

    `table` is that of a sweep, [S] each. Raises UsageError for a column it has not.
    """
    x, y, z = (_column(table, name) for name in (across, up, value))
    xs, ys = np.unique(x), np.unique(y)
    cells = np.full((len(ys), len(xs)), np.nan)
    for i, b in enumerate(ys):
        for j, a in enumerate(xs):
            found = z[(x == a) & (y == b)]
            found = found[np.isfinite(found)]
            cells[i, j] = found.mean() if len(found) else np.nan
    figure = Picture(
        figsize=(1.6 + 0.8 * len(xs), 1.3 + 0.5 * len(ys)), layout="constrained"
    )
    axes = figure.subplots()
    drawn = axes.pcolormesh(cells, cmap="Blues", edgecolors="white", lw=1)
    axes.set_xticks(np.arange(len(xs)) + 0.5, [f"{v:.3g}" for v in xs])
    axes.set_yticks(np.arange(len(ys)) + 0.5, [f"{v:.3g}" for v in ys])
    low, high = np.nanmin(cells), np.nanmax(cells)
    for (i, j), v in np.ndenumerate(cells):
        dark = high > low and (v - low) / (high - low) > 0.6
        text = f"{v:.3g}" if np.isfinite(v) else "-"
        axes.text(
            *(j + 0.5, i + 0.5, text),
            ha="center",
            va="center",
            fontsize=8,
            color="white" if dark else INK,
        )
    axes.set(xlabel=across, ylabel=up)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(drawn, ax=axes, label=value)
    return figure


def bands(
    steps: Any, values: Any, settings: Any, name: str, metric: str = "loss"
) -> Figure:
    """A metric [S, L] against steps [L]: mean and range of seeds, a colour a setting.

    `settings` [S] is what `name` was; of more than ten settings, ten are drawn.
    """
    steps, values = np.asarray(steps), np.asarray(values, np.float64)
    found = np.unique(settings)
    some = found[np.unique(np.linspace(0, len(found) - 1, SEVERAL).astype(int))]
    figure = Picture(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    colours = colormaps["viridis"](np.linspace(0, 0.9, len(some)))
    for setting, colour in zip(some, colours, strict=True):
        own = np.where(np.isfinite(values), values, np.nan)[settings == setting]
        some = np.isfinite(own).any(0)  # the others are gaps
        if not some.any():
            continue
        at, own = steps[some], own[:, some]
        middle, low, high = (f(own, 0) for f in (np.nanmean, np.nanmin, np.nanmax))
        axes.plot(at, middle, color=colour, lw=1.4, label=f"{setting:.3g}")
        axes.fill_between(at, low, high, color=colour, alpha=0.15, lw=0)
    positive = values[np.isfinite(values)]
    if len(positive) and positive.min() > 0 and positive.max() > 20 * positive.min():
        axes.set_yscale("log")
    dress(axes, None, "step", metric)
    axes.legend(frameon=False, title=name, fontsize=8)
    return figure


def compared(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """The losses of runs by name, their log lines: in training and as evaluated."""
    figure = Picture(figsize=(9.6, 3.8), layout="constrained")
    colours = colormaps["tab10" if len(runs) <= SEVERAL else "viridis"]
    ends = ("loss",), ("test_loss", "watched_loss")
    panels = zip(figure.subplots(1, 2), ends, ("training", "evaluated"), strict=True)
    for axes, names, title in panels:
        for i, (run, records) in enumerate(runs.items()):
            colour = colours(i if len(runs) <= SEVERAL else i / (len(runs) - 1))
            at = [(r["step"], r[n]) for r in records for n in names if n in r]
            steps, losses = zip(*at, strict=True) if at else ((), ())
            axes.plot(steps, losses, color=colour, lw=1.4, label=run)
        positive = [v for line in axes.lines for v in line.get_ydata() if v == v]
        if positive and min(positive) > 0 and max(positive) > 20 * min(positive):
            axes.set_yscale("log")
        dress(axes, title, "step", "loss")
    axes.legend(frameon=False, fontsize=8)
    return figure


def film(name: str, observations: Any, frames: int = 10) -> Figure:
    """An episode [T, D] of an environment as a strip of pictures, by their steps.

    Of one that has no picture, the observations against the step.
    """
    seen = np.asarray(observations, np.float64)
    if name not in SCENES:
        figure = Picture(figsize=(6.4, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.plot(seen, lw=1.2)
        dress(axes, name, "step", "observed")
        return figure
    at = np.unique(np.linspace(0, len(seen) - 1, frames).astype(int))
    figure = Picture(figsize=(1.5 * len(at), 1.8), layout="constrained")
    panels = figure.subplots(1, len(at), squeeze=False)[0]
    for axes, t in zip(panels, at, strict=True):
        SCENES[name](axes, seen[t])
        axes.set_title(f"{t}", fontsize=8, color=INK)
        axes.set(aspect="equal", xticks=[], yticks=[])
    return figure


def words(points: Any, names: Sequence[str], most: int = 250) -> Figure:
    """Words in two dimensions by their vectors [V, D], coloured by their kind.

    The first of each kind, `most` in all; near are those of a large cosine (t-SNE: van
    der Maaten & Hinton, "Visualizing data using t-SNE", 2008). Raises UsageError for
    another number of names.
    """
    from sklearn.manifold import TSNE  # long to import

    points = np.asarray(points, np.float64)
    if points.ndim != 2 or len(points) != len(names):
        raise UsageError(
            f"expected vectors [V, D] and V names, found {points.shape}, {len(names)}"
        )
    kinds = np.array([kind(name) for name in names])
    each = [np.flatnonzero(kinds == k)[: most // len(KINDS)] for k in range(len(KINDS))]
    some = np.concatenate(each)
    unit = points[some] / np.maximum(
        np.linalg.norm(points[some], axis=1, keepdims=True), 1e-9
    )
    begin = "pca" if min(unit.shape) > 1 else "random"
    close = min(15, (len(some) - 1) / 3)
    flat = TSNE(perplexity=close, init=begin, random_state=0).fit_transform(unit)
    figure = Picture(figsize=(9.6, 8.0), layout="constrained")
    axes = figure.subplots()
    for k, name in enumerate(KINDS):
        colour = colormaps["Dark2"](k)
        axes.plot([], [], "o", color=colour, ms=5, label=name)
        for i in np.flatnonzero(kinds[some] == k):
            axes.text(
                flat[i, 0],
                flat[i, 1],
                names[some[i]],
                color=colour,
                ha="center",
                va="center",
                fontsize=7,
            )
    axes.update_datalim(flat)
    axes.autoscale_view()
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure


def _cart(axes, seen):
    x, angle = seen[0], seen[2]
    axes.plot([-2.4, 2.4], [0, 0], color=INK, lw=0.7)
    axes.plot([x - 0.35, x + 0.35], [0, 0], color=TRAINING, lw=6)
    # drawn twice as long as it is
    tip = x + 2 * np.sin(angle), 2 * np.cos(angle)
    axes.plot([x, tip[0]], [0, tip[1]], color=EVALUATION, lw=2.5)
    axes.set(xlim=(-2.6, 2.6), ylim=(-0.6, 2.4))


def _links(axes, seen):
    down, side = [0.0], [0.0]
    first = np.arctan2(seen[1], seen[0])
    for angle in (first, first + np.arctan2(seen[3], seen[2])):
        down.append(down[-1] - np.cos(angle))
        side.append(side[-1] + np.sin(angle))
    axes.axhline(1, color=INK, lw=0.7)
    axes.plot(side, down, color=EVALUATION, lw=2.5, marker="o", ms=3)
    axes.set(xlim=(-2.2, 2.2), ylim=(-2.2, 2.2))


def _pendulum(axes, seen):
    axes.plot([0, seen[1]], [0, seen[0]], color=EVALUATION, lw=3, marker="o", ms=3)
    axes.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2))


def _hill(axes, seen):
    x = np.linspace(-1.2, 0.6, 60)
    axes.plot(x, np.sin(3 * x), color=INK, lw=0.7)
    axes.plot(seen[0], np.sin(3 * seen[0]), "o", color=EVALUATION, ms=6)


def _rays(axes, seen):
    """What is free of the road, of a car that drives upwards."""
    ahead, left = np.cos(ANGLES) * seen * REACH, np.sin(ANGLES) * seen * REACH
    axes.fill([0, *-left], [0, *ahead], color=TRAINING, lw=0)
    axes.plot(0, 0, marker="^", color=EVALUATION, ms=6)
    axes.set(xlim=(-12, 12), ylim=(-4, REACH))


def _road(axes, seen):
    """Two rows of an image are behind the car."""
    h, w = seen.shape[:2]
    axes.imshow(seen[..., 0], cmap="gray", vmin=0, vmax=1)
    axes.plot((w - 1) / 2, h - 2.5, marker="^", color=EVALUATION, ms=6)


SCENES = {
    "cartpole": _cart,
    "acrobot": _links,
    "pendulum": _pendulum,
    "mountain_car": _hill,
    "driving": _rays,
    "driving_image": _road,
}


def _column(table, name):
    if name not in table:
        raise UsageError(f"expected one of {', '.join(table)} to draw, found {name}")
    return np.asarray(table[name], np.float64)


def alignment(
    spectrogram: Any, p: Any, path: Any, names: Sequence[str], seconds: float
) -> Figure:
    """Log-mels [T, M] of frames so many seconds apart; below, when what was said.

    p [N, K] are the probabilities of the tokens at each step, path [N] the token that
    is said there, 0 for none. Raises UsageError where they do not fit.
    """
    spectrogram, p, path = (np.asarray(a) for a in (spectrogram, p, path))
    if p.shape != (len(path), len(names)) or spectrogram.ndim != 2:
        raise UsageError(
            f"expected probabilities [{len(path)}, {len(names)}], found {p.shape}"
        )
    end = len(spectrogram) * seconds
    step = end / len(p)
    figure = Picture(figsize=(max(4.5, 2.6 * end), 4.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    box = (0, end, 0, spectrogram.shape[1])
    above.imshow(spectrogram.T, origin="lower", aspect="auto", extent=box, cmap="magma")
    above.set_ylabel("mel")
    at = (np.arange(len(p)) + 0.5) * step
    below.plot(at, p[:, 0], color="#bbbbbb", lw=1)
    for token in np.unique(path[path != 0]):
        below.plot(at, p[:, token], color=EVALUATION, lw=1.2)
    begins = np.flatnonzero((path != 0) & (path != np.pad(path, (1, 0))[:-1]))
    for i in begins:
        above.axvline(i * step, color="white", lw=0.8, ls=":")
        below.annotate(names[path[i]], (at[i], 1.04), ha="center", color=INK)
    below.set_ylim(0, 1.2)
    dress(below, None, "seconds", "probability")
    return figure


def forecasts(
    times: Any,
    values: Any,
    found: Any,
    ahead: Mapping[str, Any],
    *,
    across: str,
    names: Sequence[str],
    most: int = 240,
) -> Figure:
    """A series [T, K] and forecasts [N, H, K] of its windows; errors of steps ahead.

    The first of window i is for step i, and T is N + H - 1; windows drawn have no step
    in common, and the last `most` steps are shown. `ahead` has mean errors [H, K] by
    name; each of the K names has a row. Raises UsageError for other shapes.
    """
    times, values, found = np.asarray(times), np.asarray(values), np.asarray(found)
    count, horizon, k = found.shape if found.ndim == 3 else (0, 0, 0)
    if values.shape != (count + horizon - 1, k) or len(times) != len(values):
        raise UsageError(
            f"expected a series [T, K] with its times and forecasts [N, H, K] of it, "
            f"found {values.shape}, {times.shape} and {found.shape}"
        )
    figure = Picture(figsize=(11, 3.8 * k), layout="constrained")
    rows = figure.subplots(k, 2, squeeze=False, width_ratios=(2.4, 1))
    for i, (panels, name) in enumerate(zip(rows, names, strict=True)):
        own = {n: np.asarray(each)[:, i] for n, each in ahead.items()}
        drawn = times, values[:, i], found[..., i], own
        _forecast(panels, *drawn, across, name, max(0, len(values) - most))
    return figure


def _forecast(panels, times, values, found, ahead, across, up, shown):
    (left, right), (count, horizon) = panels, found.shape
    left.plot(times[shown:], values[shown:], color=INK, lw=1, label="measured")
    for i in range(count - 1, shown - 1, -horizon):
        label = f"forecast, {horizon} step{'s' * (horizon > 1)} each" * (i == count - 1)
        style = {"marker": "o", "ms": 2.5, "lw": 1.2, "color": EVALUATION}
        left.plot(times[i : i + horizon], found[i], label=label, **style)
    dress(left, None, across, up)
    left.legend(frameon=False)
    steps = np.arange(1, horizon + 1)
    colours = {"model": EVALUATION, "naive": TRAINING, "seasonal": INK}
    for name, error in ahead.items():
        right.plot(steps, error, marker="o", ms=3, color=colours[name], label=name)
    dress(right, None, "steps ahead", f"mean absolute error of {up}")
    right.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    right.set_ylim(bottom=0)
    right.legend(frameon=False)
