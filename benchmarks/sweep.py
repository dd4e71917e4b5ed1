"""Many small trainings: one program against one after the other, here and elsewhere.

`python -m benchmarks.sweep [PART ...]`, after `pip install -e '.[bench]'`: a contender
trains the same networks on the same rows in a fresh process, one at a time, and says
its seconds with compilation and without. Writes benchmarks/SWEEP.md, with `--device
gpu` benchmarks/SWEEP-gpu.md. What fails is "cannot", and the reason is said.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.penalties import PEERS, searched
from benchmarks.trainings import CASES, NETWORKS, SINGLE, WHOLE, population

HERE = Path(__file__).parent
LIMIT = {"cpu": 600, "gpu": 100}  # seconds of a contender
MEMBERS = {"cpu": [2**k for k in range(11)], "gpu": [4**k for k in range(7)]}
DEVICES = {"cpu": (1, 2), "gpu": (1,)}  # a CPU is as many as it is told to be
PARTS = [*CASES, "folds", "mapping", "knee"]
CACHE = Path(tempfile.gettempdir()) / "benchmarks-sweep-programs"

Record = dict[str, Any]  # {"part", "peer", "number"} and what it said, or "reason"


# In a process of its own --------------------------------------------------------------


def timed(name: str, peer: str, runs: int, where: str) -> Record:
    """Seconds of so many trainings in this process, and of as many again.

    One after the other, of 128 eight are timed: each is as long as the next, but for
    the first of each rate, which may compile.
    """
    case = CASES[name]
    rows, seconds = case.data(), []
    if peer in WHOLE:
        for _ in range(2):
            began = time.perf_counter()
            losses = np.asarray(WHOLE[peer](name, case, rows, runs, where))
            seconds.append(time.perf_counter() - began)
        return {"first": seconds[0], "again": seconds[1], "loss": float(losses.mean())}
    losses = []
    for one in [(s, r) for s in range(case.seeds) for r in case.rates][:8]:
        began = time.perf_counter()
        losses.append(SINGLE[peer](name, case, rows, one, where))
        seconds.append(time.perf_counter() - began)
    compiled = len(case.rates)
    each = float(np.median(seconds[compiled:]))
    first = sum(seconds[:compiled]) + (runs - compiled) * each
    return {"first": first, "again": runs * each, "loss": float(np.mean(losses))}


def mapped(network: str, mapping: str) -> Record:
    """Steps a second of eight members together; the operations of one step of one."""
    members = population(network, mapping)
    rates = []
    for _ in range(5):  # the first compiles, the second says how long a second is
        members.on(10**9)
        rates.append(8 * members.pace)
    return {"rate": float(np.median(rates[2:])), "work": members.work()}


def about(device: str) -> Record:
    """The device that JAX has, and the versions of what is compared."""
    from importlib import metadata

    import jax

    if jax.default_backend() != device:
        raise ValueError(f"expected a {device}, found {jax.devices()}")

    names = [n for n in ("jax", "torch", "keras") if _installed(n)]
    found = [f"{name} {metadata.version(name)}" for name in names]
    python = ".".join(map(str, sys.version_info[:3]))
    device = jax.devices()[0].device_kind
    return {"device": device, "versions": ", ".join([f"Python {python}", *found])}


def _installed(name):
    from importlib.util import find_spec

    return find_spec(name) is not None


def said(part: str, peer: str, number: int, device: str) -> Record:
    """What a contender finds in this process."""
    where = "cuda" if device == "gpu" else "cpu"
    if part == "about":
        return about(device)
    if part == "folds":
        return searched(peer)
    if part == "mapping":
        return mapped(*peer.split())
    return timed("mlp" if part == "knee" else part, peer, number, where)


# All of them --------------------------------------------------------------------------


def measured(part: str, peer: str, number: int, device: str) -> Record:
    """`said` in a fresh process, with the device for it, or the "reason" why not."""
    environment = os.environ | {
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
        "JAX_PLATFORMS": "cuda,cpu" if device == "gpu" else "cpu",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    count = number if part == "mapping" else 2 if peer == "sweep" else 1
    if device == "cpu" and count > 1:
        flag = f"--xla_force_host_platform_device_count={count}"
        environment["XLA_FLAGS"] = flag
    if part == "folds":  # 0: nothing is compiled yet, 1: all of it is
        if number == 0:
            shutil.rmtree(CACHE, ignore_errors=True)
        environment["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    words = [part, peer, str(number), "--device", device]
    command = [sys.executable, "-m", "benchmarks.sweep", "--one", *words]
    own: Record = {"part": part, "peer": peer, "number": number}
    options: dict[str, Any] = {"env": environment, "capture_output": True, "text": True}
    try:
        ran = subprocess.run(command, timeout=LIMIT[device], **options)
        found = own | json.loads(ran.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        found = own | {"reason": f"over {LIMIT[device]} s"}
    except (IndexError, ValueError):
        why = [line for line in ran.stderr.splitlines() if line.strip()] or ["nothing"]
        print(f"{part} {peer} {number}: {why[-1]}", file=sys.stderr, flush=True)
        found = own | {"reason": "cannot"}
    print(json.dumps(found), flush=True)
    return found


def jobs(part: str, device: str) -> list[tuple[str, int]]:
    """The contenders of a part, each with its number: of trainings, or of devices."""
    if part == "mapping":
        return [
            (f"{network} {mapping}", count)
            for count in DEVICES[device]
            for network in NETWORKS
            for mapping in ("vmap", "map")
        ]
    if part == "folds":
        return [("cross_validate", 0), *((peer, 1) for peer in PEERS)]
    if part == "knee":
        return [("sweep", members) for members in MEMBERS[device]]
    peers = [p for p in (*WHOLE, *SINGLE) if device == "cpu" or p != "keras"]
    return [(peer, CASES[part].runs) for peer in peers]


# The page -----------------------------------------------------------------------------


def race(name: str, records: list[Record]) -> list[str]:
    """A case: the contenders' seconds, and their ratios in rounds side by side."""
    case = CASES[name]
    lines = [
        f"## {case.about}: {case.runs} trainings of {case.steps:,} steps",
        "",
        "| contender | s | of them compiling | sweep is faster by | spread |",
        "|---|--:|--:|--:|--:|",
    ]
    ours = [r["first"] for r in records if r["peer"] == "sweep" and "first" in r]
    for peer in dict.fromkeys(r["peer"] for r in records):
        results = [r for r in records if r["peer"] == peer]
        failed = [r["reason"] for r in results if "reason" in r]
        if failed:
            lines.append(f"| {peer} | {failed[0]} | | | |")
            continue
        first = np.array([r["first"] for r in results])
        compiling = first - np.array([r["again"] for r in results])
        cells = [f"{np.median(first):.1f}", f"{np.median(compiling):.1f}", "", ""]
        if rounds := min(len(ours), len(first)):
            ratio = first[:rounds] / ours[:rounds]
            cells[2:] = [
                f"{np.median(ratio):.2f}",
                f"{ratio.min():.2f}-{ratio.max():.2f}",
            ]
        lines.append(f"| {peer} | {' | '.join(cells)} |")
    return [*lines, ""]


def folds(records: list[Record]) -> list[str]:
    """A search over penalties: seconds, and how far the scores are from ours."""
    lines = [
        "## Logistic regression, 5 folds x 20 penalties (breast cancer)",
        "",
        "| contender | s, first | s, again in the process | scores differ by at most |",
        "|---|--:|--:|--:|",
    ]
    ours = next((r["scores"] for r in records if "scores" in r), None)
    for r in records:
        cold = " (nothing compiled before)" * (r["number"] == 0)
        cells = [r.get("reason", ""), "", ""]
        if "scores" in r:
            apart = np.abs(np.subtract(r["scores"], ours)).max()
            cells = [f"{r['first']:.1f}", f"{r['again']:.1f}", f"{apart:.0e}"]
        lines.append(f"| {r['peer']}{cold} | {' | '.join(cells)} |")
    return [*lines, ""]


def mappings(records: list[Record]) -> list[str]:
    """Steps a second of eight members, by how they are mapped on so many devices."""
    lines = [
        "## Steps a second of eight members, by `mapping`",
        "",
        "| network | operations of a step | devices | vmap | map | map is faster by |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for count in dict.fromkeys(r["number"] for r in records):
        for network, (title, *_) in NETWORKS.items():
            cells, rates, work = [], [], 0.0
            for mapping in ("vmap", "map"):
                own = (f"{network} {mapping}", count)
                found = [r for r in records if (r["peer"], r["number"]) == own]
                failed = [r["reason"] for r in found if "reason" in r]
                rates.append(np.median([r["rate"] for r in found if "rate" in r] or 0))
                work = max([work, *(r["work"] for r in found if "work" in r)])
                cells.append(failed[0] if failed else f"{rates[-1]:,.0f}")
            ratio = f"{rates[1] / rates[0]:.2f}" if min(rates) else ""
            middle = f"{work:.1e} | {count} | {cells[0]} | {cells[1]}"
            lines.append(f"| {title} | {middle} | {ratio} |")
    return [*lines, ""]


def knee(records: list[Record]) -> list[str]:
    """Trainings a second by the number of members, compiling apart."""
    lines = [
        "## Trainings a second, by the members of one program (MLP)",
        "",
        "| members | a second |",
        "|--:|--:|",
    ]
    for r in records:
        rate = r.get("reason") or f"{r['number'] / r['again']:.2f}"
        lines.append(f"| {r['number']:,} | {rate} |")
    return [*lines, ""]


def page(records: list[Record], device: str) -> str:
    """What was measured, part by part."""
    found = {"device": "a device", "versions": ""}
    found |= next((r for r in records if r["part"] == "about"), {})
    on_gpu = device == "gpu"
    machine = found["device"] if on_gpu else "two cores"
    command = "python -m benchmarks.sweep" + " --device gpu" * on_gpu
    lines = [
        "# Many trainings" + f": {machine}" * on_gpu,
        "",
        f"{time.strftime('%Y-%m-%d')}: `{command}`, {machine}, float32;",
        f"{found['versions']}.",
        "",
        *HEAD.splitlines(),
        "",
    ]
    for part in PARTS:
        own = [record for record in records if record["part"] == part]
        if part in CASES and own:
            lines += race(part, own)
        elif own:
            lines += {"folds": folds, "mapping": mappings, "knee": knee}[part](own)
    return "\n".join(lines).rstrip() + "\n"


HEAD = """\
Each contender trains the same networks on the same rows with Adam, in a fresh process,
the contenders in turns. "sweep" is `train.many.sweep`, one program; "fit" is
`train.loop.fit`, one training after the other; "torch" is PyTorch, eager; "torch.func"
stacks the parameters and maps the gradient. Seconds are of all trainings with what is
compiled for them; one after the other, eight are timed, and the rest is as long. A
ratio above 1: the sweep is faster."""


def main(argv: list[str] | None = None) -> int:
    """Measure the parts, or one contender with `--one`."""
    parser = argparse.ArgumentParser(prog="benchmarks.sweep", description=__doc__)
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--rounds", type=int, default=3, help="of each case")
    parser.add_argument("--peers", nargs="+", help="these contenders alone")
    parser.add_argument("--keep", type=Path, help="add to the results in this file")
    parser.add_argument("--one", nargs=3, metavar=("PART", "PEER", "NUMBER"))
    flags = parser.parse_args(argv)
    if flags.one:
        part, peer, number = flags.one
        print(json.dumps(said(part, peer, int(number), flags.device)))
        return 0
    # the folds are LAPACK's in scikit-learn, and a CPU's
    parts = flags.parts or [p for p in PARTS if p != "folds" or flags.device == "cpu"]
    for part in parts:
        if part not in PARTS:
            parser.error(f"unknown part {part}, expected {', '.join(PARTS)}")
    records: list[Record] = []
    if flags.keep and flags.keep.exists():
        records = [json.loads(line) for line in flags.keep.read_text().splitlines()]
    found = HERE / ("SWEEP-gpu.md" if flags.device == "gpu" else "SWEEP.md")

    def measure(part, peer, number):
        records.append(measured(part, peer, number, flags.device))
        if flags.keep:
            flags.keep.write_text("".join(json.dumps(r) + "\n" for r in records))
        found.write_text(page(records, flags.device))  # what is done is not lost

    if not any(record["part"] == "about" for record in records):
        measure("about", "-", 0)
        if "reason" in records[-1]:
            return 1
    for part in parts:
        for _ in range(flags.rounds if part in CASES else 1):
            for peer, number in jobs(part, flags.device):
                if flags.peers is None or peer in flags.peers:
                    measure(part, peer, number)
    return 0


if __name__ == "__main__":
    sys.exit(main())
