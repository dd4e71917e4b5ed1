"""The command line: `zoo list | train | sweep | info | eval | predict | sample | ...`.

The flags of `zoo train RECIPE` are the recipe's keywords.
"""

import os
import re
import sys
import warnings
from importlib import metadata
from pathlib import Path

USAGE = """\
usage: zoo COMMAND [...]

  zoo list                     the recipes: data, target score, time, what they are
  zoo train RECIPE [flags]     train, measure and save a run; RECIPE --help for flags
  zoo sweep RECIPE [flags]     many trainings at once: --learning-rate 1e-4,1e-3 ...
  zoo cross-validate RECIPE    every setting on every fold: --folds 5 --alpha 0.1,1
  zoo tune RECIPE --budget 10m search the numbers of a recipe, for who has no idea
  zoo lr RECIPE [flags]        which learning rate to begin with, and a picture of it
  zoo results [RECIPE ...]     scores over five seeds, and the table of them
  zoo runs [DIR]               the runs that are there, with their scores
  zoo compare DIR DIR [...]    their flags and scores in a table, curves in a picture
  zoo info DIR                 what a run trained, on what, its scores and size
  zoo eval DIR                 measure a run's model again on its test data
  zoo predict DIR INPUT [...]  predictions for .npz, .csv, images or texts, as CSV
  zoo sample DIR [flags]       images or text that a model makes; --help for flags
  zoo translate DIR WORD [...] what a sequence becomes, and what was attended to
  zoo transcribe DIR WAV [...] the words that are said in files of sound
  zoo near DIR WORD [...]      words that are used like one, or: king - man + woman
  zoo export DIR [flags]       a program or weights for elsewhere; --help for flags
  zoo help RECIPE|COMMAND      what its flags are
  zoo completion SHELL         a script for bash, zsh or fish: what can be typed next
  zoo --version
"""


def main(argv: list[str] | None = None) -> int:
    """Run a command; 0, 1 for a failed training, 2 for a mistake, 130 after Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["--version"]:
        print(f"purezoo {metadata.version('purezoo')}")
        return 0
    if not argv or argv[0] in ("-h", "--help") or argv == ["help"]:
        print(USAGE, end="")
        return 0 if argv else 2
    if argv[0] == "help":  # of a command or of a recipe
        argv = [*argv[1:], "--help"]
    # JAX: not to say how it is used
    from zoo.base import UsageError, check_choice, plain

    try:
        from train.cli import ask, completion, rates, runs
        from train.recipes import RECIPES

        searches = {
            name: lambda rest, name=name: _search(name, rest)
            for name in ("sweep", "cross-validate", "tune", "results")
        }
        commands = {"list": _list, "train": _train, **searches, **ask.COMMANDS}
        commands |= {"runs": runs.runs, "compare": runs.compare, "lr": rates.lr}
        commands |= {"completion": lambda rest: completion.completion(rest, commands)}
        if argv[1:] == ["--help"] and argv[0] not in commands:  # `zoo help RECIPE`
            check_choice("command or recipe", argv[0], (*commands, *RECIPES))
            argv = ["train", *argv]
        check_choice("command", argv[0], tuple(commands))
        _quiet()
        _cache()
        return commands[argv[0]](argv[1:])
    except UsageError as error:
        print(f"zoo: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output left, as `head` does
        sys.stderr.close()
        return 0
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"zoo: {plain(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("zoo: interrupted", file=sys.stderr)
        return 130


def _list(argv: list[str]) -> int:
    from train.cli.flags import parse
    from train.cli.tables import table
    from train.recipes import RECIPES

    parse(lambda: None, argv, "zoo list")
    rows = [
        (
            name,
            row.data,
            str(row.goal or ""),
            row.cost,
            re.split("[.:;,]", row.about)[0],
        )
        for name, row in RECIPES.items()
    ]
    table(("recipe", "data", "target", "time", "what it is"), rows)
    return 0


def _train(argv: list[str]) -> int:
    from train.cli import restart, runs
    from train.cli.flags import parse, recipe_flags
    from train.machines import hosts
    from train.recipes import RECIPES
    from zoo.base import UsageError, check_choice, check_int

    if not argv or argv[0].startswith("-"):
        print(f"usage: zoo train RECIPE [flags]\n\nrecipes: {', '.join(RECIPES)}")
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    name = argv[0]
    check_choice("recipe", name, tuple(RECIPES))
    flags = parse(recipe_flags(RECIPES[name], {}), argv[1:], f"zoo train {name}")
    resume = flags["resume"] or flags["longer"] is not None
    if flags["overwrite"] and resume:
        raise UsageError("expected --overwrite or --resume, found both")
    together, who = flags["distributed"], ("coordinator", "processes", "process")
    if not together and any(flags[which] is not None for which in who):
        raise UsageError(f"expected --distributed beside --{', --'.join(who)}")

    def place():
        return flags["out"] or runs.place(name, resume or flags["overwrite"])

    if check_int("restarts", flags["restarts"], 0):
        if together and flags["out"] is None:
            raise UsageError(
                "expected --out beside --distributed and --restarts: it is where all "
                "processes go on"
            )
        return restart.restarted(argv, place(), flags["restarts"])
    if together:
        hosts.join(*(flags[which] for which in who))
    with hosts.one_fate():
        hosts.same({k: v for k, v in flags.items() if k != "process"})
        out = Path(hosts.told(lambda: str(place())))
        return _trained(name, argv, flags, out)


def _trained(name, argv, flags, out):
    """Train into a directory, and print what became of it; the exit status."""
    from train.cli import run
    from train.cli.flags import parse, recipe_flags
    from train.machines import hosts
    from train.recipes import RECIPES
    from zoo.base import UsageError

    recipe, longer = RECIPES[name], flags["longer"] is not None
    resume = flags["resume"] or longer

    def begun():
        if resume and (out / "config.json").exists():
            return run.resumed(out)
        return None

    kept: dict = {}
    if found := hosts.told(begun):
        began, kept = found
        if began != name:
            raise UsageError(f"the run in {out} is of the recipe {began}, not {name}")
        # a run goes on with its own flags; those given again must say the same
        flags = parse(recipe_flags(recipe, kept), argv[1:], f"zoo train {name}")
    elif longer:
        raise UsageError(f"expected a run in {out} to train longer, found none")
    elif resume and hosts.leads():
        print(f"zoo: no run in {out} to go on with: one begins", file=sys.stderr)
    own = _own(flags, recipe, argv, kept)
    options = run.Options(**{k: flags[k] for k in run.Options._fields})
    how = (resume, longer, flags["debug_nans"], flags["overwrite"])
    done = run.train(name, own, options, out, *how)
    if not hosts.leads():
        return 0
    if done.result is None:
        again = f"`zoo train {name} --out {out} --resume`"
        print(f"stopped at step {done.steps}, saved; {again} goes on")
        return 130 if hosts.alone() else 0  # who asked is a scheduler
    return _told(name, done.result, out)


def _told(name, result, out):
    """Print the scores of a run; the exit status."""
    from train.cli import tables

    title = f"{name} on the {result['measured_on']}"
    tables.scores(result["metrics"], title, result.get("baselines", {}))
    skipped = f" ({result['skipped']:,} skipped)" if result.get("skipped") else ""
    print(
        f"{result['steps']:,} steps{skipped} in {result['seconds']:.1f} s, "
        f"{result['examples_per_second']:,.0f} examples/s, "
        f"{result['parameters']:,} parameters; saved in {out}"
    )
    return tables.failed(result.get("failure"))


def _own(flags, recipe, argv, kept):
    """The recipe's flags; a batch size that nobody asked for follows the rows."""
    from train.recipes import parameters

    own = {k: flags[k] for k in parameters(recipe)}
    asked = kept or any(re.match("--batch[-_]size(=|$)", word) for word in argv)
    if not asked and own["batch_size"] == recipe.training.batch_size:
        del own["batch_size"]
    if flags["longer"] is not None:
        own["steps"] = flags["longer"]
    return own


def _search(command: str, argv: list[str]) -> int:
    import jax

    # each core is a device, which trains its share of the members
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    from train.cli import results, search

    run = {"sweep": search.sweep, "cross-validate": search.cross_validate}
    run |= {"tune": search.tune, "results": results.results}
    return run[command](argv)


def _cache():
    """Compiled programs stay in the user's cache: a second run starts fast."""
    import jax

    from train.data import download

    folder = download.cache() / "xla"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return  # no home to write to: compile anew
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _quiet():
    """Warnings of the project's own are lines, not source positions."""
    from zoo.base import plain

    warnings.showwarning = lambda message, *rest, **kw: print(
        f"zoo: warning: {plain(message)}", file=sys.stderr
    )


if __name__ == "__main__":
    sys.exit(main())
