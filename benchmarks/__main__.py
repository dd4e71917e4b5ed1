"""`python -m benchmarks [FAMILY ...]`: purezoo and its peers train in turn, timed.

Each peer is a process of its own. All are kept and take turns, so that what else the
machine does falls on all of them; only one computes at a time. On CPU.
"""

import argparse
import contextlib
import shlex
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from benchmarks import report
from benchmarks.families import FAMILIES, Family
from benchmarks.report import Result
from benchmarks.talk import Failed, Worker
from zoo.base import UsageError, check_choice

# Peers by name, and the package that each needs.
PEERS = {
    "purezoo": "jax",
    "torch": "torch",
    "torch-nchw": "torch",
    "torch-compile": "torch",
    "keras": "keras",
    "flax": "flax",
}
EAGER = ("torch", "torch-nchw")  # nothing is compiled, so nothing is kept


def main(argv: list[str] | None = None) -> int:
    """0, or 1 if purezoo fails, 2 after a user's mistake, 130 after Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        args = _parsed(argv)
        command = shlex.join(["python", "-m", "benchmarks", *argv])
        text = report.head(command, args.rounds, args.threads)
        for name in args.families or FAMILIES:
            family, found = FAMILIES[name], _measure(FAMILIES[name], args)
            lines = report.rows(family, found[0], median(found[1]))
            notes = report.remarks(found[0], lines)
            report.show(name, lines, notes)
            text += report.section(family, found[0], lines, notes, found[1])
            args.out.write_text(text)
    except (UsageError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except Failed as error:
        print(f"benchmarks: purezoo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("benchmarks: interrupted", file=sys.stderr)
        return 130
    print(f"written to {args.out}")
    return 0


def _parsed(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "families", nargs="*", metavar="FAMILY", help=", ".join(FAMILIES)
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.5, help="a turn of a peer")
    parser.add_argument("--peers", nargs="+", default=list(PEERS), metavar="PEER")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/RESULTS.md"))
    args = parser.parse_args(argv)
    for name in args.families:
        check_choice("family", name, tuple(FAMILIES))
    for name in args.peers:
        check_choice("peer", name, tuple(PEERS))
    for name in ("rounds", "threads", "seconds"):
        least = 1 if name != "seconds" else 0.01
        if not least <= getattr(args, name) <= 1000:
            raise UsageError(
                f"expected --{name} of {least} to 1000, found {getattr(args, name)}"
            )
    if not args.out.parent.is_dir():
        raise UsageError(f"expected a folder for --out, found {args.out.parent}")
    args.peers = list(dict.fromkeys(["purezoo", *args.peers]))
    return args


def _measure(family: Family, args) -> tuple[list[Result], list[float]]:
    """What became of each peer, and the rate of a matrix product in each round."""
    results, products = {}, []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        def start(peer, name, cache="cache"):
            file, cache = folder / "arrays.npz", folder / cache
            return stack.enter_context(Worker(peer, name, file, args.threads, cache))

        def attempt(peer, action, *words):
            """What the action answers; {} if the peer fails, which is noted."""
            try:
                return action(*words)
            except Failed as error:
                results[peer] = results[peer]._replace(failed=f"failed: {error}")
                return {}

        start("init", family.name).answer()
        multipliers = [
            start("product", lib) for lib in ("jax", "torch") if find_spec(lib)
        ]
        for multiplier in multipliers:
            multiplier.answer()
        workers = {}
        for peer in args.peers:
            if peer == "torch-nchw" and len(family.shape) < 3:
                continue  # without images there is one format
            results[peer] = Result(peer, [])
            if find_spec(PEERS[peer]) is None:
                results[peer] = Result(peer, [], failed="not installed")
                continue
            worker = start(peer, family.name)
            if attempt(peer, worker.answer):
                known = attempt(peer, worker.ask, "prepare", args.seconds)
                results[peer] = results[peer]._replace(**known)
                workers[peer] = worker
        for _ in range(args.rounds):
            for peer, worker in workers.items():
                if not results[peer].failed:
                    known = attempt(peer, worker.ask, "go")
                    if known:
                        results[peer].rates.append(known["rate"])
                        others = max(known["others"], results[peer].others)
                        results[peer] = results[peer]._replace(others=others)
            products.append(max(m.ask("go")["rate"] for m in multipliers))
        for peer, worker in workers.items():
            if not results[peer].failed:
                known = attempt(peer, worker.ask, "end")
                results[peer] = results[peer]._replace(**known)
            worker.close()
        for peer in workers:
            for name in ("cold", "warm"):
                if results[peer].failed or (name == "warm" and peer in EAGER):
                    continue
                worker = start(peer, family.name, f"cache-{peer}")
                if attempt(peer, worker.answer):
                    results[peer] = results[peer]._replace(**{name: worker.seconds()})
                worker.close()
    return list(results.values()), products


if __name__ == "__main__":
    sys.exit(main())
