"""A run seen from its terminal: a bar, or plain lines; and Ctrl-C."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

Show = Callable[[int, dict | None], None]


@contextlib.contextmanager
def bar(steps: int, start: int = 0, *, enabled: bool = True) -> Iterator[Show]:
    """Yields show(step, record); record is None, or the metrics logged at that step.

    A terminal shows one bar, and beside it what its width has room for; other output a
    line for each record.
    """
    console, skipped = Console(file=sys.stdout), 0

    def counted(record: dict | None) -> dict:
        """The record with all steps that were skipped, so far."""
        nonlocal skipped
        skipped += (record or {}).get("skipped", 0)
        return {**(record or {}), **({"skipped": skipped} if skipped else {})}

    if not enabled:
        yield lambda step, record: None
    elif console.is_terminal or console.is_jupyter:
        width = min(24, console.width // 6)
        # the rest of the line, beside the numbers, "0:00:00 left" and the gaps
        room = console.width - width - 2 * len(f"{steps:,}") - 17
        columns = (
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            BarColumn(bar_width=width),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            TextColumn("left"),
        )
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("compiling", total=steps, completed=start)

            newest: dict = {}

            def show(step: int, record: dict | None) -> None:
                newest.update(counted(record))
                progress.update(
                    task, completed=step, description=describe(newest, room)
                )

            yield show
    else:
        printed = start

        def line(step: int, record: dict | None) -> None:
            nonlocal printed
            record = record and counted(record)
            if record and (step >= printed + steps / 20 or step == steps):
                printed = step
                print(f"step {step:,}/{steps:,}  {describe(record)}", flush=True)

        yield line


def describe(record: dict, room: int | None = None) -> str:
    """A record in a line: "loss 0.231  test_loss 0.24  accuracy 0.934  99 examples/s".

    The loss first, then what was evaluated; in `room` characters, as many as fit.
    """
    hidden = {"step", "seconds", "examples_per_second", "grad_norm"}
    parts_of = tuple(n[: -len("loss")] for n in record if n.endswith("_loss"))
    first = ("loss", "skipped")  # what evaluations gave follows
    order = sorted(record, key=lambda n: (n not in first, not n.startswith(parts_of)))
    parts = [f"{name} {record[name]:.4g}" for name in order if name not in hidden]
    if record.get("examples_per_second"):
        parts.append(f"{record['examples_per_second']:,.0f} examples/s")
    line = "  ".join(parts)
    while room is not None and len(line) > room and len(parts) > 1:
        line = "  ".join(parts := parts[:-1])
    return line


@contextlib.contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM become a question asked between chunks; a second one kills."""
    asked: list[int] = []

    def handle(number, frame):
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread may set handlers
        return
    kept = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
