"""The same things over and over in one process: a program.

`python -m tests.soak FOLDER SHARE` does SHARE of 1,000 saves, 200 loads, 20,000 steps
and 100 fits, and prints what the process held after each tenth of each, as JSON.
"""

import gc
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from tests.strangers import memory
from train import checkpoint, optim
from train.loop import fit
from train.source import examples
from zoo import mlp, supervised

COUNTS = {"saves": 1000, "loads": 200, "steps": 20_000, "fits": 100}
RNG = np.random.default_rng(0)
ROWS = {"x": RNG.normal(size=(64, 8)).astype("f4"), "y": RNG.integers(0, 3, 64)}
ROWS["y"] = ROWS["y"].astype("i4")
TREE = {f"layer {i}": jnp.ones((64, 64)) for i in range(4)}


def held() -> dict[str, int]:
    """Bytes of memory, threads and open files of this process."""
    gc.collect()
    files = len(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    return {"memory": memory("VmRSS"), "threads": threads, "files": files}


def trained(steps: int, **options) -> None:
    """A training from the beginning, of a task and an optimizer of its own."""
    task = supervised.task(mlp.MLP(3, widths=(16,)), supervised.classes)
    optimizer = optim.optimizer("adam", 1e-3)
    source = examples(ROWS, 16)
    fit(task, optimizer, source, steps=steps, progress=False, **options)


def works(folder: Path) -> dict[str, Callable[[int, int], None]]:
    """Of each kind what does things number `start` up to `stop`."""
    saver = checkpoint.Checkpoints(folder)

    def saves(start, stop):
        for step in range(start + 1, stop + 1):
            saver.save(step, TREE, last=step == stop)  # the last of them is waited for

    def loads(start, stop):
        for _ in range(start, stop):
            checkpoint.read(folder, TREE)

    def steps(start, stop):
        trained(stop - start, log_every=20)

    def fits(start, stop):
        for _ in range(start, stop):
            trained(20, evaluation=ROWS)

    return {"saves": saves, "loads": loads, "steps": steps, "fits": fits}


def run(folder: Path, share: float) -> dict:
    """What was held after each tenth, and the seconds."""
    found: dict = {"seconds": {}}
    for kind, work in works(folder).items():
        ends = np.linspace(0, max(10, round(COUNTS[kind] * share)), 11).astype(int)
        began, found[kind] = time.perf_counter(), []
        for start, stop in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
            work(start, stop)
            found[kind].append(held())
        found["seconds"][kind] = round(time.perf_counter() - began, 1)
    return found


if __name__ == "__main__":
    out, sys.stdout = sys.stdout, open(os.devnull, "w")
    print(json.dumps(run(Path(sys.argv[1]), float(sys.argv[2])), indent=1), file=out)
