"""Flags from signatures: what `zoo COMMAND --help` shows and what a mistake says."""

import contextlib
import inspect
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from zoo.base import UsageError

Directory = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DIR")]]

HELP = {
    "data": "a data set's name, or the path of a .npz or .csv file of your own",
    "target": "the column of a .csv to predict",
    "holdout": "share of the data kept for testing, where the set has no test part",
    "batch_size": "examples per step; None is the full batch",
    "steps": "updates in all",
    "learning_rate": "the highest rate of the schedule; None with lbfgs",
    "weight_decay": "decoupled; biases, norms and peepholes are left alone",
    "clip": "bound on the gradient's global norm",
    "accumulate": "batches that a step reads, one after the other, for one update",
    "ema": "decay of a moving average, of batch statistics too, to predict with",
    "augment": "change the training images at random",
    "dropout": "share of hidden units dropped in training",
    "widths": "units of each hidden layer",
    "width": "of embeddings, or of a Transformer",
    "features": "units of each recurrent layer, in each direction",
    "layers": "one on the other",
    "heads": "of attention, in each layer",
    "kv_heads": "of keys and values; fewer than heads share them; None for as many",
    "bidirectional": "read sequences in both directions",
    "length": "characters of a training window",
    "positions": "how a Transformer knows them",
    "score": "how queries and keys are compared",
    "out": "the run's directory; runs/RECIPE for None",
    "resume": "go on with the run in the directory",
    "seed": "of the initial weights, the order of the examples, dropout, augmentation",
    "patience": "stop after so many evaluations without a lower loss on a tenth of the "
    "training data, which is watched instead, and restore the best",
    "data_seed": "of the holdout, the watched part and the few labels; follows --seed "
    "unless given",
    "devices": "split each batch over that many devices",
}


def recipe_flags(make: Callable[..., Any], kept: dict[str, Any]) -> Callable[..., dict]:
    """A function with the recipe's keywords and the run's: tyro makes flags of it.

    Values in `kept` replace the defaults.
    """
    from train.cli import run

    def flag(name: str, annotation: Any, default: Any) -> inspect.Parameter:
        annotation = str if name == "data" else annotation
        help = tyro.conf.arg(help=HELP.get(name))
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(
            name,
            kind,
            default=kept.get(name, default),
            annotation=Annotated[annotation, help],
        )

    recipe = inspect.signature(make, eval_str=True).parameters.values()
    parameters = [flag(p.name, p.annotation, p.default) for p in recipe]
    hints, defaults = run.Options.__annotations__, run.Options._field_defaults
    parameters += [flag(n, hints[n], defaults[n]) for n in run.Options._fields]
    parameters += [flag("out", Path | None, None), flag("resume", bool, False)]

    def collect(**flags: Any) -> dict:
        return flags

    collect.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    collect.__annotations__ = {p.name: p.annotation for p in parameters}
    collect.__doc__ = make.__doc__
    return collect


def parse(function: Callable[..., Any], argv: list[str], program: str) -> Any:
    """Call a function with flags parsed from its signature.

    Raises UsageError with what the parser says, in a line.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(function, args=argv, prog=program)
    except SystemExit as end:
        if not end.code:
            raise
        raise UsageError(
            f"{_sentence(said.getvalue())} (see {program} --help)"
        ) from None


def _sentence(text: str) -> str:
    """What the parser says in a box: its first paragraph, and the flag it suggests."""
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        line = line.strip("│| ")
        if not line or not set(line) - set("─-╰╯+"):
            blocks.append([])
        elif not line.startswith(("╭", "For full", "Argument")):
            blocks[-1].append(line)
    said = [" ".join(block) for block in blocks if any(":" in line for line in block)]
    said = said or [" ".join(line for block in blocks for line in block)]
    near = re.search(r"Perhaps you meant.*?(--[\w-]+)", " ".join(said))
    return said[0].rstrip(":.") + (f"; perhaps you meant {near[1]}" if near else "")
