"""How the time of a step grows: `python -m benchmarks.growth`.

By batch size, width, length and rows, on one machine, one size at a time; the least of
three turns each. Writes benchmarks/GROWTH.md and its picture.
"""

import argparse
import datetime
import math
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.families import FAMILIES
from benchmarks.peers import purezoo
from benchmarks.report import markdown
from train import loop, mesh, optim, source
from train.guard import guarded
from train.step import make_step
from zoo import mlp, rnn, supervised, transformer
from zoo.base import Task

PAGE = Path(__file__).parent / "GROWTH.md"
SECONDS = 0.15  # of a turn


class Curve(NamedTuple):
    """What grows, and at(size) -> a task, the shape of an example, rows and batch."""

    about: str
    by: str
    sizes: tuple[int, ...]
    at: Callable[[int], tuple[Task, tuple[int, ...], int, int]]


class Knee(NamedTuple):
    """Of a curve: where it bends, and how steep it ends."""

    size: int | None  # the first whose step takes twice that of the smallest
    power: float  # time grows as size ** power at the end


def _batch(name):
    family = FAMILIES[name]
    return lambda n: (purezoo.MODELS[name](), family.shape, max(1024, n), n)


def _perceptron(width):
    return supervised.task(mlp.MLP(10, widths=(width, width)), supervised.classes)


def _lstm(length):
    network = rnn.Classifier(10, rnn.RNN(rnn.LSTM, 64))
    return supervised.task(network, supervised.classes), (length, 16), 256, 32


def _attention(length):
    network = transformer.Classifier(10, width=64, layers=2, heads=4)
    return supervised.task(network, supervised.classes), (length, 16), 64, 8


POWERS = tuple(2**k for k in range(21))
CURVES = {
    "mlp by batch": Curve("MLP 784 - 256 - 10", "batch", POWERS[3:11], _batch("mlp")),
    "cnn by batch": Curve("CNN `two_conv` 28x28", "batch", POWERS[3:11], _batch("cnn")),
    "mlp by width": Curve(
        "MLP 64 - width - width - 10, batch 64",
        "width",
        POWERS[4:12],
        lambda n: (_perceptron(n), (64,), 1024, 64),
    ),
    "lstm by length": Curve("LSTM 64, batch 32", "length", POWERS[3:10], _lstm),
    "transformer by length": Curve(
        "Transformer, 2 blocks of 64, batch 8", "length", POWERS[4:11], _attention
    ),
    "mlp by rows": Curve(
        "MLP 64 - 64 - 64 - 10, batch 64",
        "rows",
        POWERS[8:21:2],
        lambda n: (_perceptron(64), (64,), n, 64),
    ),
}


def step_ms(task: Task, shape: tuple[int, ...], rows: int, batch: int) -> float:
    """Milliseconds of a step with Adam, as `fit` runs it: the least of three turns."""
    rng = np.random.default_rng(0)
    data = {
        "x": jnp.asarray(rng.normal(size=(rows, *shape)).astype(np.float32)),
        "y": jnp.asarray(rng.integers(0, 10, rows, np.int32)),
    }
    optimizer, drawn = optim.optimizer("adam", 1e-3), source.examples(data, batch)
    state, now = loop.start(task, optimizer, source.full(data))[0], 0
    step = guarded(make_step(task, optimizer))
    metrics = jax.eval_shape(step, state, source.batch_shapes(drawn))[1]
    zero = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), metrics)
    chunk = jax.jit(mesh.make_chunk(step, drawn), donate_argnums=0)

    def seconds(steps):
        nonlocal state, now
        began = time.perf_counter()
        state, total = chunk(state, zero, data, now + steps)
        jax.block_until_ready(total)
        now += steps
        return time.perf_counter() - began

    seconds(1)
    steps, took = 2, seconds(2)
    while took < SECONDS / 4:
        steps *= 4
        took = seconds(steps)
    steps = max(2, round(steps * SECONDS / took))
    return 1000 * min(seconds(steps) for _ in range(3)) / steps


def knee(sizes: tuple[int, ...], ms: list[float]) -> Knee:
    """Where the time is twice that of the smallest size, and the last exponent."""
    late = next((n for n, t in zip(sizes, ms, strict=True) if t > 2 * ms[0]), None)
    return Knee(late, math.log(ms[-1] / ms[-2]) / math.log(sizes[-1] / sizes[-2]))


def told(curve: Curve, ms: list[float]) -> str:
    """What was measured, in one or two sentences."""
    found = knee(curve.sizes, ms)
    first, last = curve.sizes[0], curve.sizes[-1]
    if found.size is None:
        text = (
            f"No knee: from {first:,} to {last:,} a step never takes twice the "
            f"{ms[0]:.3g} ms of the first."
        )
    else:
        before = curve.sizes[curve.sizes.index(found.size) - 1]
        text = (
            f"The knee is at {found.size:,}: up to {before:,} a step takes less than "
            f"twice the {ms[0]:.3g} ms of {first:,}, for {before / first:.0f} times "
            "the size."
        )
    text += f" At the end it grows as {curve.by} to the power {found.power:.2f}."
    if curve.by == "batch":
        rates = [1000 * n / t for n, t in zip(curve.sizes, ms, strict=True)]
        best = max(rates)
        at = curve.sizes[rates.index(best)]
        text += f" Most examples a second, {best:,.0f}, are at {at:,}"
        text += "." if at == last else f"; {last:,} has {rates[-1] / best:.0%} of them."
    return text


def section(name: str, curve: Curve, ms: list[float]) -> str:
    """A table of the curve, and what it says."""
    lines = []
    for n, t in zip(curve.sizes, ms, strict=True):
        of_smallest = f"{t / ms[0]:.2f}"
        line = {
            curve.by: f"{n:,}",
            "ms a step": f"{t:.3g}",
            "of the first": of_smallest,
        }
        if curve.by == "batch":
            line["examples/s"] = f"{1000 * n / t:,.0f}"
        lines.append(line)
    about = f"{curve.about}."
    return f"\n## {name}\n\n{about}\n\n{markdown(lines)}\n{told(curve, ms)}\n"


def draw(measured: dict[str, list[float]], file: Path) -> None:
    """A panel for each curve, both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.6), layout="constrained")
    for axes, (name, ms) in zip(
        figure.subplots(2, 3).flat, measured.items(), strict=False
    ):
        sizes = CURVES[name].sizes
        axes.loglog(sizes, ms, "o-", base=2)
        bend = knee(sizes, ms).size
        if bend is not None:
            axes.axvline(bend, color="0.7", linestyle="--")
        steepest = [ms[-1] * n / sizes[-1] for n in sizes]
        axes.loglog(sizes, steepest, ":", color="0.5", base=2)
        axes.set_ylim(min(ms) / 1.5, max(ms) * 1.5)
        axes.set(title=name, xlabel=CURVES[name].by, ylabel="ms a step")
    figure.savefig(file, dpi=110)


def main(argv: list[str] | None = None) -> int:
    """Measure, write the page and the picture; 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth")
    parser.add_argument("curves", nargs="*", metavar="CURVE", help=", ".join(CURVES))
    parser.add_argument("--out", type=Path, default=PAGE)
    args = parser.parse_args(argv)
    if wrong := set(args.curves) - set(CURVES):
        parser.error(f"unknown curve {min(wrong)!r}; expected {', '.join(CURVES)}")
    measured: dict[str, list[float]] = {}
    device = jax.devices()[0].device_kind
    text = (
        f"# Growth of a step\n\n{datetime.date.today()}: "
        f"`python -m benchmarks.growth`, python {platform.python_version()}, "
        f"jax {jax.__version__}, {device}.\n\n"
        "Milliseconds of one training step with Adam, its batch drawn and its metrics "
        "added:\nthe least of three turns. Dashed: the knee, the first size whose step "
        "takes twice as\nlong as that of the smallest; dotted: proportional to the "
        f"size.\n\n![Step time by size]({args.out.with_suffix('.png').name})\n"
    )
    for name in args.curves or CURVES:
        curve, ms = CURVES[name], []
        for size in curve.sizes:
            ms.append(step_ms(*curve.at(size)))
            print(f"{name} {size:,}: {ms[-1]:.3g} ms", flush=True)
        measured[name] = ms
        text += section(name, curve, ms)
        args.out.write_text(text)
    draw(measured, args.out.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
