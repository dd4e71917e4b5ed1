"""One competitor in a process of its own; it speaks JSON lines with the parent.

    python -m benchmarks.worker PEER FAMILY FILE SETTING

SETTING is `Setting.text`. PEER "init" writes the common data and weights of each line
"FAMILY FILE"; "product" measures the library that FAMILY names, at each line;
"fit:PEER" trains the steps of one line, and ends. All others train: they answer "first"
with {"first": loss} of one step, then "prepare SECONDS", each "go" and "end"; purezoo
also "profile SECONDS". A failure is {"error": reason}.
"""

import json
import os
import resource
import sys
import time
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.families import COMPARED_AFTER
from benchmarks.parts import profile
from benchmarks.setting import Setting, read


def main(peer: str, name: str, file: str, setting: Setting) -> None:
    """Serve until the parent closes the pipe."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print must not stand between the answers

    def say(**answer: Any) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    try:
        if not setting.gpu:
            _limit(setting.threads, torch="torch" in peer + name)
        if peer == "init":
            _init(setting, say)
        elif peer == "product":
            _serve_products(name, setting, say)
        elif peer.startswith("fit:"):
            _fit(peer.removeprefix("fit:"), name, file, setting, say)
        else:
            _train(peer, name, file, setting, say)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        say(error=f"{type(error).__name__}: {reason}")
        raise


def _init(setting, say):
    weights = import_module("benchmarks.peers.purezoo").weights
    device = import_module("jax").devices()[0]
    if device.platform != setting.device:
        raise RuntimeError(f"expected a {setting.device}, found a {device.platform}")
    say(device=device.device_kind)
    for line in sys.stdin:
        name, file = line.strip().split(" ", 1)
        family = setting.family(name)
        np.savez(file, **family.data(), **weights(family, setting))
        say()


def _library(peer):
    return import_module(f"benchmarks.peers.{peer.split('-')[0]}")


def _fit(peer, name, file, setting, say):
    """A whole training, as a user writes it."""
    family, arrays, module = setting.family(name), dict(np.load(file)), _library(peer)
    steps = int(sys.stdin.readline())
    if peer == "purezoo":
        module.fit(family, arrays, setting, steps)
    else:
        module.prepare(family, arrays, peer, setting).run(steps)
    say()


def _train(peer, name, file, setting, say):
    family = setting.family(name)
    trainer = _library(peer).prepare(family, dict(np.load(file)), peer, setting)
    steps = 0
    for line in sys.stdin:
        command, *args = line.split()
        if command == "first":
            say(first=trainer.step(0))
        elif command == "prepare":
            loss = [trainer.step(i) for i in range(1, COMPARED_AFTER + 1)][-1]
            steps = _calibrate(family, trainer.run, float(args[0]))
            say(parameters=trainer.parameters, loss=loss, steps=steps)
        elif command == "go":
            before = _others()
            took = _timed(trainer.run, steps)
            others = (_others() - before) / took / (os.cpu_count() or 1)
            # a GPU does not wait for the cores of its neighbours
            others = 0.0 if setting.gpu else others
            say(rate=steps * family.batch / took, others=others)
        elif command == "profile":
            say(**profile(trainer.run, trainer.text(), float(args[0])))
        else:
            say(peak_mib=trainer.peak() / 2**20 if trainer.peak else _peak_mib())


def _serve_products(library, setting, say):
    """The machine's own rate is that of this: two square matrices."""
    side, times = (8192, 3) if setting.gpu else (2048, 1)
    product = _product(library, setting, side)
    say()
    for _ in sys.stdin:
        least = min(_timed(product, times) for _ in range(5))
        say(rate=2 * side**3 * times / least)


def _product(library, setting, side):
    a = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
    half = setting.precision == "bfloat16"
    if library == "torch":
        torch = import_module("torch")
        device = import_module("benchmarks.peers.torch").configure(setting)
        b = torch.tensor(a, device=device)
        b = b.bfloat16() if half else b

        def multiply(times):
            for _ in range(times):
                b @ b
            if setting.gpu:
                torch.cuda.synchronize()

        return multiply

    jnp = import_module("jax.numpy")
    c = jnp.asarray(a, jnp.bfloat16 if half else jnp.float32)

    def product(times):
        for _ in range(times):
            d = c @ c
        d.block_until_ready()

    return product


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
    main(*sys.argv[1:4], read(sys.argv[4]))
