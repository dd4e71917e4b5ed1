"""What a step is made of: its operations by the time they run, from JAX's profiler."""

import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.report import markdown

SHOWN = 10
INSIDE = ("while", "call", "conditional")  # their time is that of what they call
Span = tuple[str, float, float]  # an operation, its start and its end in ns


class Part(NamedTuple):
    """An operation of the compiled program."""

    name: str
    ms: float  # a step
    times: float  # a step
    source: str = ""  # what of the model it is


def alone(spans: Iterable[Span]) -> list[tuple[str, float]]:
    """(operation, ns) of what ran on one thread, without what ran inside of it."""
    found: list[list[Any]] = []
    open_: list[tuple[float, int]] = []  # ends, and places in `found`
    for name, start, end in sorted(spans, key=lambda s: (s[1], -s[2])):
        while open_ and open_[-1][0] <= start:
            open_.pop()
        if open_:
            found[open_[-1][1]][1] -= end - start
        open_.append((end, len(found)))
        found.append([name, end - start])
    return [(name, ns) for name, ns in found]


def parts(threads: Iterable[Iterable[Span]], steps: int, text: str) -> list[Part]:
    """The operations of all threads, the longest first; `text` is the program's."""
    total: dict[str, list[float]] = {}
    for spans in threads:
        for name, ns in alone(spans):
            if not name.startswith(INSIDE):
                ms, times = total.get(name, (0.0, 0))
                total[name] = [ms + ns / 1e6, times + 1]
    known = sources(text)
    found = [
        Part(name, ms / steps, times / steps, known.get(name, ""))
        for name, (ms, times) in total.items()
    ]
    return sorted(found, key=lambda part: -part.ms)


def sources(text: str) -> dict[str, str]:
    """By operation of a compiled program: where in the model it comes from."""
    found = {}
    pattern = r'%?([\w.\-]+) = .*metadata=\{[^}]*op_name="([^"]*)"'
    for name, source in re.findall(pattern, text):
        last = source.split("/")[-3:]
        backward = "transpose(" in source and "transpose(" not in "/".join(last)
        found[name] = "/".join(["backward"] * backward + last)
    return found


def profile(run: Callable[[int], Any], text: str, seconds: float) -> dict[str, Any]:
    """{"ms": of a step on the clock, "parts": the longest, "kinds": of `kinds`, and
    "all": ms of all}."""
    import jax

    run(2)
    began = time.perf_counter()
    run(2)
    steps = max(2, round(2 * seconds / (time.perf_counter() - began)))
    with tempfile.TemporaryDirectory() as folder:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0
        with jax.profiler.trace(folder, profiler_options=options):
            began = time.perf_counter()
            run(steps)
            took = time.perf_counter() - began
        (file,) = Path(folder).rglob("*.xplane.pb")
        found = parts(_threads(str(file)), steps, text)
    return {
        "ms": 1000 * took / steps,
        "all": sum(part.ms for part in found),
        "parts": found[:SHOWN],
        "kinds": kinds(found)[:SHOWN],
    }


def kinds(found: Iterable[Part]) -> list[tuple[str, float, float]]:
    """(what it computes, ms a step, times a step) summed over a program's operations.

    Forward and backward passes are apart; what a compiled operation computes is the
    last word of its source, so a fusion counts for what it ends in.
    """
    total: dict[str, list[float]] = {}
    for part in found:
        way, *_, last = *part.source.split("/"), part.source.split("/")[-1]
        name = f"backward {last}" if way == "backward" else last or "without a source"
        ms, times = total.get(name, (0.0, 0.0))
        total[name] = [ms + part.ms, times + part.times]
    sums = [(name, ms, times) for name, (ms, times) in total.items()]
    return sorted(sums, key=lambda kind: -kind[1])


def _threads(file):
    from jax.profiler import ProfileData

    planes = list(ProfileData.from_file(file).planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    with warnings.catch_warnings():  # of the types in the profiler itself
        warnings.simplefilter("ignore", DeprecationWarning)
        return [
            [
                (dict(e.stats)["hlo_op"], e.start_ns, e.start_ns + e.duration_ns)
                for e in line.events
                if "hlo_op" in dict(e.stats) and not e.name.startswith("end: ")
            ]
            for plane in devices or planes
            for line in plane.lines
        ]


def table(found: dict[str, Any]) -> str:
    """Of what `profile` found, in Markdown."""
    shown = [Part(*part) for part in found["parts"]]
    lines = [
        {
            "operation": part.name,
            "ms a step": f"{part.ms:.3f}",
            "share": f"{part.ms / found['all']:.1%}",
            "times a step": f"{part.times:.3g}",
            "of": part.source,
        }
        for part in shown
    ]
    rest = found["all"] - sum(part.ms for part in shown)
    alike = [
        {
            "all of a kind": name,
            "ms a step": f"{ms:.3f}",
            "share": f"{ms / found['all']:.1%}",
            "times a step": f"{times:.3g}",
        }
        for name, ms, times in found["kinds"]
    ]
    return (
        f"{markdown(lines)}\n{markdown(alike)}\nA step: {found['ms']:.3f} ms. "
        f"Operations: {found['all']:.3f} ms, {rest:.3f} of them in those not shown; "
        "on a CPU several run at a time.\n"
    )
