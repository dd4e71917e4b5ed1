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

    A terminal shows one bar, other output a line for each record.
    """
    console = Console(file=sys.stdout)
    if not enabled:
        yield lambda step, record: None
    elif console.is_terminal or console.is_jupyter:
        columns = (
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            TextColumn("left"),
        )
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("compiling", total=steps, completed=start)

            newest: dict = {}

            def show(step: int, record: dict | None) -> None:
                newest.update(record or {})
                progress.update(task, completed=step, description=describe(newest))

            yield show
    else:
        printed = start

        def line(step: int, record: dict | None) -> None:
            nonlocal printed
            if record and (step >= printed + steps / 20 or step == steps):
                printed = step
                print(f"step {step:,}/{steps:,}  {describe(record)}", flush=True)

        yield line


def describe(record: dict) -> str:
    """A record in a line: "loss 0.231  accuracy 0.934  5,120 examples/s"."""
    hidden = {"step", "seconds", "examples_per_second", "grad_norm"}
    record = {"loss": record.get("loss"), **record} if "loss" in record else record
    parts = [
        f"{name} {value:.4g}" for name, value in record.items() if name not in hidden
    ]
    if record.get("examples_per_second"):
        parts.append(f"{record['examples_per_second']:,.0f} examples/s")
    return "  ".join(parts)


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
