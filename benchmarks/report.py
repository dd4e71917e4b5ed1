"""What was measured, on the terminal and in Markdown."""

import datetime
import os
import platform
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.families import COMPARED_AFTER, Family
from benchmarks.setting import Setting, cores, peak
from benchmarks.talk import without_paths


class Result(NamedTuple):
    """What is known of one peer."""

    peer: str
    rates: list[float]  # examples per second, one for each round
    failed: str = ""
    parameters: int = 0
    loss: float | None = None  # after COMPARED_AFTER updates
    steps: int = 0  # of a turn
    peak_mib: float = 0.0
    cold: float | None = None
    warm: float | None = None
    fit: float | None = None  # seconds of a whole training of `fit_steps`
    fit_steps: int = 0
    others: float = 0.0  # the largest share of the cores that other work took


class Machine(NamedTuple):
    """What is computed on."""

    product: float  # the rate of a matrix product, FLOP/s
    kind: str = ""  # of the device
    setting: Setting = Setting()

    @property
    def unit(self) -> tuple[str, float]:
        """Of rates: a name, FLOP/s."""
        return ("TFLOP/s", 1e12) if self.setting.gpu else ("GFLOP/s", 1e9)


DIFFERENT = "NOT COMPARABLE"
DISTURBED = 0.1  # a share of the cores; torch's threads then wait for one another
TURNS = """\
{kind}, with the same arrays, batch size, optimizer and initial weights.
In each round the peers take turns; only one computes at a time.

- examples/s: the median of the rounds. Ratio: that of purezoo / that of the peer, the
  median of the ratios within each round; spread: their smallest and largest.
- peak MiB: the largest {memory}, compiling included.
- cold, s: from the start of a fresh process, imports included, to the loss of its
  first step; warm: again, with the programs that the first one compiled. Once each;
  "-" where nothing is compiled or it was not asked for.
- fit, s: from the start of a fresh process to the end of a training of 1,000 steps,
  with nothing compiled before; what one waits for. purezoo's is `train.loop.fit`,
  torch's its loop. Where 1,000 steps of the slowest take over a minute it is as many
  hundreds as it does in one, at least 100; the number stands below.
- from torch: the relative difference of the loss on the next batch after
  {compared} updates from the same weights on the same batches. Above
  {tolerance:g} it is another training: {different}. A VAE and a GAN are given the noise
  that purezoo draws in these updates; timed, each draws its own inside the update.
- {unit}: examples/s times the operations of the network's matrix products, 2 for a
  multiply and add, forward and twice again for the gradients (so also where one is not
  needed, as that of the input). Of a product: their share of the rate of a product of
  two {side} x {side} matrices ({precision}), the better of jax and torch in the same
  rounds.
"""
ON_CPU = """
For all, the allocator keeps freed memory (glibc's thresholds raised), without which
eager torch is up to 40 % slower on convolutions, and asks for huge pages
(`GLIBC_TUNABLES=glibc.malloc.hugetlb=1`), as `zoo train` does.

"torch" is eager, images in the channels-last format, "torch-nchw" in the default one;
these and "torch-compile" have the fused optimizer. "keras" is `fit` on JAX. "flax" is
Linen's own layers and optax, one jitted step for each iteration of a Python loop.
purezoo computes 32 examples of a CNN's batch at a time, 16 of a Transformer's, for the
same update by all (`microbatch`): what they need stays in the processor's cache.
"""
ON_GPU = """\
- MFU: the share of {paper:.0f} TFLOP/s, the device's peak on paper for dense products
  ({precision}).

The data lie on the device from the start, the clock is read after a synchronization.
{meaning}

"torch" is eager, images in the channels-last format, "torch-nchw" in the default one;
"torch-graph" is an eager update captured once as a CUDA graph, and replayed. All have
the fused optimizer, and cudnn tries its algorithms first, as XLA does.
"""
MEANINGS = {
    "float32": "float32 is exact on both sides: neither rounds the factors of a "
    "product to TF32.",
    "tf32": "Products and convolutions of float32 may round their factors to TF32 on "
    "both sides.",
    "bfloat16": "Parameters and optimizer are float32, products bfloat16: by the "
    "`dtype` of the zoo's\nmodules, and by torch's autocast, which keeps norms and the "
    "sums of a Transformer's\nshortcuts in float32, where the zoo has bfloat16.",
}
NETWORKS = """
An LSTM has one bias for each gate: torch's second one is zero and not trained. A GRU
has two, as in torch; Linen's has one for two of the gates, 256 parameters less, which
learns a little slower and costs next to the same. torch runs both outside of what
"torch-compile" compiles.

Both of a GAN's players move at once, from the same weights. The discriminator's
products count 7 times: 3 for real and 3 for generated images, 1 for the gradient of the
generator's loss at these, which are judged once for both: in purezoo, keras and flax
XLA merges the two, eager torch is written so. "torch-compile" judges them again for the
generator (and in its running statistics), as a compiled backward pass finds all
gradients or none. "keras" has one Adam for the sum of the losses, each blind to the
other player's weights, which is the same as two.
"""


def explained(machine: Machine) -> str:
    """What the numbers mean."""
    setting = machine.setting
    words = {
        "kind": "All in mixed precision, bfloat16"
        if setting.precision == "bfloat16"
        else f"All in {setting.precision}",
        "memory": "allocation on the device"
        if setting.gpu
        else "resident memory of the process",
        "compared": COMPARED_AFTER,
        "tolerance": setting.tolerance,
        "different": DIFFERENT,
        "unit": machine.unit[0],
        "side": 8192 if setting.gpu else 2048,
        "precision": setting.precision,
        "meaning": MEANINGS[setting.precision],
        "paper": (peak(machine.kind, setting.precision) or float("nan")) / 1e12,
    }
    words["kind"] += f" on {machine.kind if setting.gpu else 'CPU'}"
    return (TURNS + (ON_GPU if setting.gpu else ON_CPU)).format(**words) + NETWORKS


def ratios(ours: list[float], theirs: list[float]) -> list[float]:
    """Ours over theirs within each round that both finished."""
    return [a / b for a, b in zip(ours, theirs, strict=False)]


def difference(loss: float | None, reference: float | None) -> float | None:
    """Relative; None where one is missing."""
    if loss is None or reference is None:
        return None
    return abs(loss - reference) / abs(reference)


def rows(
    family: Family, results: list[Result], machine: Machine
) -> list[dict[str, str]]:
    """Text by column for each peer that ran."""
    setting, (unit, one) = machine.setting, machine.unit
    paper = peak(machine.kind, setting.precision)
    by_name = {result.peer: result for result in results}
    reference = by_name["torch"].loss if "torch" in by_name else None
    lines = []
    for result in results:
        if result.failed:
            continue
        speed = median(result.rates)
        against = ratios(by_name["purezoo"].rates, result.rates) or [float("nan")]
        apart = difference(result.loss, reference)
        said = "not compared" if apart is None else f"{apart:.0e}"
        if apart is not None and not apart <= setting.tolerance:  # NaN too
            said += f" {DIFFERENT}"
        rate = speed * family.flops
        lines.append(
            {
                "peer": result.peer,
                "examples/s": f"{speed:,.0f}",
                "ratio": f"{median(against):.2f}",
                "spread": f"{min(against):.2f}-{max(against):.2f}",
                "peak MiB": f"{result.peak_mib:,.0f}",
                "cold, s": _seconds(result.cold),
                "warm, s": _seconds(result.warm),
                "fit, s": _seconds(result.fit),
                "from torch": said,
                "parameters": f"{result.parameters:,}",
                unit: f"{rate / one:,.3g}",
                "of a product": f"{rate / machine.product:.1%}",
            }
        )
        if setting.gpu:
            lines[-1]["MFU"] = "-" if paper is None else f"{rate / paper:.2%}"
    return lines


def _seconds(value):
    return "-" if value is None else f"{value:.1f}"


def remarks(results: list[Result], lines: list[dict[str, str]]) -> list[str]:
    """A line for each peer without a row, and for what makes rows meaningless."""
    found = [f"{result.peer}: {result.failed}" for result in results if result.failed]
    if wrong := [line["peer"] for line in lines if DIFFERENT in line["from torch"]]:
        found.append(f"{DIFFERENT}, the losses differ: {', '.join(wrong)}")
    counts = [(line["peer"], line["parameters"]) for line in lines]
    if other := [peer for peer, count in counts if count != counts[0][1]]:
        found.append(
            f"{DIFFERENT}, the numbers of parameters differ from that of "
            f"{counts[0][0]}: {', '.join(other)}"
        )
    if late := [r.peer for r in results if not r.failed and r.others > DISTURBED]:
        most = max(result.others for result in results)
        found.append(
            f"DISTURBED, measure again: other work took up to {most:.0%} of the cores "
            f"in turns of {', '.join(late)}"
        )
    return found


def show(title: str, lines: list[dict[str, str]], notes: list[str]) -> None:
    """The first columns, which fit a terminal."""
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    console = Console()
    columns = list(lines[0])[:7] if lines else []
    for name in columns:
        words = [*name.split(), *(line[name] for line in lines)]
        side = "left" if name == "peer" else "right"
        table.add_column(name, justify=side, min_width=max(map(len, words)))
    for line in lines:
        wrong = DIFFERENT in line["from torch"]
        table.add_row(*(line[c] for c in columns), style="bold red" if wrong else None)
    console.print(table)
    for note in notes:
        console.print(note, style="bold red", markup=False)


def markdown(lines: list[dict[str, str]]) -> str:
    """The rows as a table."""
    if not lines:
        return ""
    bars = ("---", *("--:",) * (len(lines[0]) - 1))
    cells = (tuple(lines[0]), bars, *(line.values() for line in lines))
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def section(
    family: Family,
    results: list[Result],
    lines: list[dict[str, str]],
    notes: list[str],
    products: list[float],
    machine: Machine,
) -> str:
    """One family in RESULTS.md."""
    unit, one = machine.unit
    work = []
    for times, each in family.work.items():
        counts = Counter("x".join(map(str, product)) for product in each)
        terms = (f"{n} x {p}" if n > 1 else p for p, n in counts.items())
        work.append(f"{times} x 2 x ({' + '.join(terms)})")
    steps = ", ".join(f"{r.peer} {r.steps:,}" for r in results if not r.failed)
    low, middle, high = (f(products) / one for f in (min, median, max))
    return (
        f"\n## {family.name}\n\n{family.about}.\n\n{markdown(lines)}\n"
        + "".join(f"**{note}.**\n\n" for note in notes)
        + f"Operations for one example: {' + '.join(work)} = {family.flops:,}. A "
        f"product in these rounds: {middle:.0f} {unit} ({low:.0f} to {high:.0f}). "
        f"Steps of a turn: {steps}.{_of_fit(results)}\n"
    )


def _of_fit(results):
    counts = {result.fit_steps for result in results} - {0}
    return "".join(f" Of fit: {count:,}." for count in counts)


def head(command: str, rounds: int, machine: Machine) -> str:
    """What was run, with what, on what; no name of a machine, no path."""
    setting = machine.setting
    found = [f"python {platform.python_version()}"]
    names = ("jax", "flax", "torch", "keras")
    for name in names[:3] if setting.gpu else names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    device = f"{machine.kind}; " if setting.gpu else ""
    count = cores() if setting.gpu else os.cpu_count()
    title = "Training speed" + (" on a GPU" if setting.gpu else "")
    return (
        f"# {title}\n\n{datetime.date.today()}: `{without_paths(command)}`\n\n"
        f"{', '.join(found)}; {device}{_cpu()}, {count} cores. Rounds: {rounds}; "
        f"threads: {setting.threads}.\n\n{explained(machine)}"
    )


def _cpu():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line for line in lines if line.startswith("model name")]
        return names[0].split(":")[1].strip()
    except (OSError, IndexError):
        return platform.processor() or platform.machine()
