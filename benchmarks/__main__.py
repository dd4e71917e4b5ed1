"""`python -m benchmarks [FAMILY ...]`: purezoo and its peers train in turn, timed.

Each peer is a process of its own. All are kept and take turns, so that what else the
machine does falls on all of them; only one computes at a time. On CPU, or with
`--device gpu`. With `--profile` purezoo trains alone, and the operations are shown that
its step is made of.
"""

import argparse
import contextlib
import functools
import shlex
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks import measure, parts, report
from benchmarks.families import FAMILIES
from benchmarks.setting import DEVICES, PLAIN, TOLERANCES, Setting, cores
from benchmarks.talk import Failed, Worker
from zoo.base import UsageError, check_choice

OUT = {"cpu": "RESULTS.md", "gpu": "RESULTS-gpu.md"}
BOUNDS = {"rounds": (1, 1000), "threads": (1, 1000), "seconds": (0.01, 1000)}


def main(argv: list[str] | None = None) -> int:
    """0, or 1 if purezoo fails, 2 after a user's mistake, 130 after Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        args = _parsed(argv)
        if args.profile:
            _profile(args)
            return 0
        _compare(args, shlex.join(["python", "-m", "benchmarks", *argv]))
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


def _compare(args, command):
    """All families, one after the other; what is known stands in the file."""
    setting = Setting(args.device, args.precision, args.threads, args.batch)
    plan = measure.Plan(args.peers, args.rounds, args.seconds, args.start)
    tell = functools.partial(print, flush=True)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        helpers = measure.Helpers(stack, folder, setting)
        machine = report.Machine(0.0, helpers.device, setting)
        text = report.head(command, args.rounds, machine)
        for name in args.families:
            family = setting.family(name)
            found, products = measure.measure(name, plan, setting, helpers, tell)
            machine = machine._replace(product=median(products))
            lines = report.rows(family, found, machine)
            notes = report.remarks(found, lines)
            report.show(name, lines, notes)
            text += report.section(family, found, lines, notes, products, machine)
            args.out.write_text(text)


def _profile(args):
    """The longest operations of a step of each family, on the terminal."""
    setting = Setting(args.device, args.precision, args.threads, args.batch)
    for name in args.families:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            helpers = measure.Helpers(stack, folder, setting, products=False)
            helpers.write(name, folder / "arrays.npz")
            words = "purezoo", name, folder / "arrays.npz", setting, folder / "cache"
            found = stack.enter_context(Worker(*words)).ask("profile", args.seconds)
        print(f"{name}: {setting.family(name).about}\n\n{parts.table(found)}")


def _parsed(argv):
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "families", nargs="*", metavar="FAMILY", help=", ".join(FAMILIES)
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.5, help="a turn of a peer")
    parser.add_argument("--peers", nargs="+", metavar="PEER")
    parser.add_argument("--threads", type=int, help="2; on a GPU all")
    parser.add_argument("--device", default="cpu", help=", ".join(DEVICES))
    parser.add_argument("--precision", default="float32", help=", ".join(TOLERANCES))
    parser.add_argument("--batch", type=int, default=0, help="in place of a family's")
    parser.add_argument(
        "--no-start", dest="start", action="store_false", help="time no fresh process"
    )
    parser.add_argument("--profile", action="store_true", help="see above")
    parser.add_argument("--out", type=Path)
    return _checked(parser.parse_args(argv))


def _checked(args):
    check_choice("device", args.device, DEVICES)
    check_choice("precision", args.precision, tuple(TOLERANCES))
    gpu = args.device == "gpu"
    if args.precision == "tf32" and not gpu:
        raise UsageError("expected --device gpu for --precision tf32, found cpu")
    for name in args.families:
        check_choice("family", name, tuple(FAMILIES))
        if args.precision == "bfloat16" and name in PLAIN:
            raise UsageError(f"expected a family with bfloat16, found {name}")
    if not args.families:
        left = PLAIN if args.precision == "bfloat16" else ()
        args.families = [name for name in FAMILIES if name not in left]
    possible = measure.ON_GPU if gpu else measure.ON_CPU
    if args.precision == "bfloat16":
        possible = tuple(p for p in possible if p not in ("keras", "flax"))
    for name in args.peers or ():
        check_choice("peer", name, possible)
    args.peers = list(dict.fromkeys(["purezoo", *(args.peers or possible)]))
    if args.threads is None:
        args.threads = cores() if gpu else 2
    for name, (least, most) in BOUNDS.items():
        if not least <= getattr(args, name) <= most:
            raise UsageError(
                f"expected --{name} of {least} to {most}, found {getattr(args, name)}"
            )
    if args.batch < 0:
        raise UsageError(f"expected --batch of 1 or more, found {args.batch}")
    args.out = args.out or Path("benchmarks") / OUT[args.device]
    if not args.out.parent.is_dir():
        raise UsageError(f"expected a folder for --out, found {args.out.parent}")
    return args


if __name__ == "__main__":
    sys.exit(main())
