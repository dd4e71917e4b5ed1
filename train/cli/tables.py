"""Tables of scores as the command line prints them, and its exit status."""

import math
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from zoo.base import plain


def failed(failure: str | None) -> int:
    """The exit status; says why a training failed."""
    if failure:
        print(f"zoo: the training failed: {plain(failure)}", file=sys.stderr)
    return 1 if failure else 0


def scores(
    metrics: dict[str, Any], title: str, baselines: dict[str, Any] | None = None
) -> None:
    """Tables of the metrics: single numbers, then one row for each class.

    Beside the numbers stand those of the baselines, as `Report.baselines` has them.
    """
    numbers = {k: v for k, v in metrics.items() if isinstance(v, float | int)}
    print(f"\n{title}:")
    known = {k: v for k, v in (baselines or {}).items() if not isinstance(v, str)}
    if not known:
        table(tuple(numbers), [tuple(map(number, numbers.values()))])
    else:
        columns = {"model": numbers, **known}
        rows = [
            (k, *(number(v[k]) if k in v else "" for v in columns.values()))
            for k in numbers
        ]
        table(("", *columns), rows)
    for name, said in (baselines or {}).items():
        if name not in known:
            print(f"no {name} to compare with: {said}")
    for name, score in (("majority", "accuracy"), ("mean", "r2")):
        if name in known and score in numbers and known[name][score] >= numbers[score]:
            print(f"the {score} is no better than that of the {name}")
    targets = metrics.get("per_target", {})
    if targets:
        heads = next(iter(targets.values()))
        rows = [
            (name, *("" if row[k] is None else number(row[k]) for k in heads))
            for name, row in targets.items()
        ]
        table(("target", *heads), rows)
    classes = metrics.get("per_class", {})
    if 0 < len(classes) <= 20:
        heads = ("class", "precision", "recall", "f1", "support")
        rows = [
            (name, *(f"{row[k]:.3f}" for k in heads[1:4]), str(row["support"]))
            for name, row in classes.items()
        ]
        table(heads, rows)


def number(value: float) -> str:
    """A score as it is shown."""
    return f"{value:.4f}"


def table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows under their heads, numbers to the right."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(header_style="bold")
    for i, head in enumerate(heads):
        values = [row[i].replace(",", "").replace(".", "") for row in rows]
        right = all(value.lstrip("-").isdigit() for value in values)
        last = i == len(heads) - 1  # a long one: it is broken where it must be
        side: Any = "right" if right else "left"
        table.add_column(escape(plain(head)), justify=side, no_wrap=not last)
    for row in rows:
        table.add_row(*(escape(plain(cell)) for cell in row))
    console = Console()
    console.width = (
        max(console.width, 140) if not console.is_terminal else console.width
    )
    console.print(table)


def spread(values: Sequence[float]) -> str:
    """Mean and deviation of scores, two digits of it: "0.0768 ± 0.0035"."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:.4g}"
    deviation = statistics.stdev(values)
    if deviation < 1e-4 * abs(mean) or deviation < 1e-6:
        return f"{mean:.4g} ± 0"
    digits = max(0, 1 - math.floor(math.log10(deviation)))
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}"
