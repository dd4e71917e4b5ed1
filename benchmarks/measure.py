"""The peers of one family take turns; what became of each."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.report import Result
from benchmarks.setting import Setting
from benchmarks.talk import Failed, Worker

# Peers by name, and the package that each needs.
PEERS = {
    "purezoo": "jax",
    "torch": "torch",
    "torch-nchw": "torch",
    "torch-compile": "torch",
    "torch-graph": "torch",
    "keras": "keras",
    "flax": "flax",
}
ON_CPU = tuple(peer for peer in PEERS if peer != "torch-graph")
ON_GPU = tuple(peer for peer in PEERS if peer not in ("keras", "flax"))
EAGER = ("torch", "torch-nchw", "torch-graph")  # no program is kept


FITTED = ("purezoo", "torch", "torch-compile")  # a whole training is timed
STEPS, PATIENCE = 1000, 60  # of it, and the seconds that the slowest may take


class Plan(NamedTuple):
    """What is asked of each family."""

    peers: Sequence[str]
    rounds: int
    seconds: float  # of a turn
    start: bool  # whether fresh processes are timed


class Helpers:
    """Kept for all families: who writes weights, who multiplies matrices."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        folder: Path,
        setting: Setting,
        products: bool = True,
    ):
        """Started within the stack. Raises Failed if purezoo does not start."""

        def start(peer, name):
            worker = Worker(peer, name, folder / "none", setting, folder / "helpers")
            return stack.enter_context(worker)

        self._init = start("init", "any")
        libraries = ("jax", "torch") if products else ()
        found = [start("product", lib) for lib in libraries if find_spec(lib)]
        self.device = self._init.answer()["device"]
        self._multipliers = []
        for worker in found:
            with contextlib.suppress(Failed):  # the other one is asked
                worker.answer()
                self._multipliers.append(worker)

    def write(self, name: str, file: Path) -> None:
        """The arrays of a family into a file. Raises Failed."""
        self._init.ask(name, file)

    def product(self) -> float:
        """The rate of a matrix product now, FLOP/s; NaN if none can be had."""
        rates = []
        for worker in self._multipliers:
            with contextlib.suppress(Failed):
                rates.append(worker.ask("go")["rate"])
        return max(rates, default=float("nan"))


class _Family:
    """The results so far of one family, and the processes that are kept."""

    def __init__(self, name, folder, setting, stack):
        self.name, self.folder, self.setting, self.stack = name, folder, setting, stack
        self.results: dict[str, Result] = {}
        self.workers: dict[str, Worker] = {}

    def start(self, peer, cache="cache"):
        words = peer, self.name, self.folder / "arrays.npz", self.setting
        return self.stack.enter_context(Worker(*words, self.folder / cache))

    def note(self, peer, **known):
        self.results[peer] = self.results[peer]._replace(**known)

    def attempt(self, peer, action, *words) -> dict[str, Any]:
        """What the action answers; {} if the peer fails, which is noted."""
        try:
            return action(*words)
        except Failed as error:
            self.note(peer, failed=f"failed: {error}")
            return {}

    def alive(self):
        return [peer for peer in self.workers if not self.results[peer].failed]


def measure(
    name: str,
    plan: Plan,
    setting: Setting,
    helpers: Helpers,
    tell: Callable[[str], None] = print,
) -> tuple[list[Result], list[float]]:
    """What became of each peer, and the rate of a matrix product in each round.

    Raises Failed if the weights cannot be had; a peer that fails says so in its result.
    """
    began = time.perf_counter()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        family, products = _Family(name, folder, setting, stack), []
        helpers.write(name, folder / "arrays.npz")
        _begin(family, plan, tell)
        for _ in range(plan.rounds):
            for peer in family.alive():
                known = family.attempt(peer, family.workers[peer].ask, "go")
                if known:
                    result = family.results[peer]
                    result.rates.append(known["rate"])
                    family.note(peer, others=max(known["others"], result.others))
            products.append(helpers.product())
        for peer in family.alive():
            known = family.attempt(peer, family.workers[peer].ask, "end")
            family.note(peer, **known)
        for worker in family.workers.values():
            worker.close()
        if plan.start:
            _time_starts(family)
            _time_fits(family)
        tell(f"{name}: {time.perf_counter() - began:.0f} s")
        return list(family.results.values()), products


def _begin(family, plan, tell):
    """Start the peers, and let each train until it knows how long a turn is.

    None of this is timed. On a GPU, whose machines have many cores, all start at once,
    and torch compiles beside the others.
    """
    for peer in plan.peers:
        if peer == "torch-nchw" and len(family.setting.family(family.name).shape) < 3:
            continue  # without images there is one format
        family.results[peer] = Result(peer, [])
        if find_spec(PEERS[peer]) is None:
            family.note(peer, failed="not installed")
            continue
        family.workers[peer] = family.start(peer)
        if not family.setting.gpu:
            family.workers[peer].send("first")
            _make_ready(family, peer, plan.seconds, tell)
    late = [p for p in family.workers if family.setting.gpu and p == "torch-compile"]
    for peer in late:
        family.workers[peer].send("first")
    for peer in sorted(family.workers, key=late.count) if family.setting.gpu else ():
        if peer not in late:
            family.workers[peer].send("first")
        _make_ready(family, peer, plan.seconds, tell)


def _make_ready(family, peer, seconds, tell):
    worker = family.workers[peer]
    if family.attempt(peer, worker.answer):
        family.note(peer, **family.attempt(peer, worker.ask, "prepare", seconds))
    tell(f"{family.name}: {peer} {family.results[peer].failed or 'is ready'}")


def _time_starts(family):
    """From a fresh process to its first step; twice where programs are kept."""
    for peer in family.alive():
        for name in ("cold", "warm"):
            if family.results[peer].failed or (name == "warm" and peer in EAGER):
                continue
            worker = family.start(peer, f"cache-{peer}")
            if family.attempt(peer, worker.ask, "first"):
                family.note(peer, **{name: worker.seconds()})
            worker.close()


def _time_fits(family):
    """From a fresh process to the end of a training of the same steps for all."""
    peers = [peer for peer in family.alive() if peer in FITTED]
    batch = family.setting.family(family.name).batch
    rates = [min(family.results[peer].rates) / batch for peer in peers]
    steps = fitted(min(rates, default=1.0))
    for peer in peers:
        worker = family.start(f"fit:{peer}", f"cache-fit-{peer}")
        family.attempt(peer, worker.ask, steps)
        family.note(peer, fit=worker.seconds(), fit_steps=steps)
        worker.close()


def fitted(rate: float) -> int:
    """STEPS, or at that many a second whole hundreds that take PATIENCE seconds."""
    return min(STEPS, max(100, int(rate * PATIENCE) // 100 * 100))
