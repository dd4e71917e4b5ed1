"""One competitor in a process of its own; it speaks JSON lines with the parent.

    python -m benchmarks.worker PEER FAMILY FILE THREADS

PEER "init" writes the common data and weights to FILE, "product" measures the library
that FAMILY names. All others train: they answer {"first": loss} after one step, then to
"prepare SECONDS", to each "go" and to "end". A failure is {"error": reason}.
"""

import json
import os
import resource
import sys
import time
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.families import COMPARED_AFTER, FAMILIES

SIDE = 2048


def main(peer: str, family_name: str, file: str, threads: int) -> None:
    """Serve until the parent closes the pipe."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print must not stand between the answers

    def say(**answer: Any) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    try:
        _limit(threads, torch="torch" in (peer.split("-")[0], family_name))
        if peer == "init":
            family = FAMILIES[family_name]
            weights = import_module("benchmarks.peers.purezoo").weights(family)
            np.savez(file, **family.data(), **weights)
            say()
        elif peer == "product":
            product = _product(family_name)
            say()
            for _ in sys.stdin:
                say(rate=2 * SIDE**3 / min(_timed(product, 1) for _ in range(5)))
        else:
            _train(peer, family_name, file, say)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        say(error=f"{type(error).__name__}: {reason}")
        raise


def _train(peer, family_name, file, say):
    family = FAMILIES[family_name]
    arrays = dict(np.load(file))
    module = import_module(f"benchmarks.peers.{peer.split('-')[0]}")
    trainer = module.prepare(family, arrays, peer)
    say(first=trainer.step(0))
    steps = 0
    for line in sys.stdin:
        command, *args = line.split()
        if command == "prepare":
            loss = [trainer.step(i) for i in range(1, COMPARED_AFTER + 1)][-1]
            steps = _calibrate(family, trainer.run, float(args[0]))
            say(parameters=trainer.parameters, loss=loss, steps=steps)
        elif command == "go":
            before = _others()
            took = _timed(trainer.run, steps)
            others = (_others() - before) / took / (os.cpu_count() or 1)
            say(rate=steps * family.batch / took, others=others)
        else:
            say(peak_mib=_peak_mib())


def _product(library):
    """The machine's own rate is that of this: two matrices of SIDE x SIDE."""
    a = np.random.default_rng(0).normal(size=(SIDE, SIDE)).astype(np.float32)
    if library == "torch":
        b = import_module("torch").tensor(a)
        return lambda times: b @ b
    c = import_module("jax.numpy").asarray(a)
    return lambda times: (c @ c).block_until_ready()


def _calibrate(family, run, seconds):
    """How many steps take about that long; three at least."""
    run(2)  # what is compiled at first use is not timed
    steps, took = 2, _timed(run, 2)
    while took < seconds / 4:
        steps = family.rounded(steps * 4)
        took = _timed(run, steps)
    return family.rounded(max(3, steps * seconds / took))


def _timed(run, steps):
    began = time.perf_counter()
    run(steps)
    return time.perf_counter() - began


def _others():
    """Seconds that the cores have worked for anyone else; 0 where there is no /proc."""
    try:
        with open("/proc/stat") as stat:
            user, nice, system, _, _, *rest = map(int, stat.readline().split()[1:9])
    except (OSError, ValueError):
        return 0.0
    busy = user + nice + system + sum(rest)
    return busy / os.sysconf("SC_CLK_TCK") - time.process_time()


def _limit(threads, torch):
    """The same number of threads for all; XLA asks how many cores it may use."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    if torch:
        import_module("torch").set_num_threads(threads)


def _peak_mib():
    """VmHWM where there is /proc: ru_maxrss may hold what the parent had used."""
    try:
        with open("/proc/self/status") as status:
            line = next(line for line in status if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    except (OSError, StopIteration):
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used / (1024**2 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main(*sys.argv[1:4], threads=int(sys.argv[4]))
