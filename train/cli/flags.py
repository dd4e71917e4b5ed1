"""Flags from signatures: what `zoo COMMAND --help` shows and what a mistake says."""

import contextlib
import inspect
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import jax
import tyro

from train.recipes.base import Recipe, parameters
from train.recipes.saved import Options
from zoo.base import UsageError, check_choice

Directory = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DIR")]]

HELP = {
    "data": "a data set's name, or the path of a file of your own (.npz; a table: .csv,"
    " .tsv, .txt, .parquet, also .gz, - for standard input; a text, .txt; pairs, .tsv) "
    "or folder: of pictures, a folder for each class",
    "target": "the column of a table to predict, or several that are numbers: a,b",
    "class_weight": "balanced: each class counts as much in training, however rare it "
    "is; by scikit-learn's weights",
    "group": "the column of a table that tells its sequences, or series, apart",
    "time": "the column of a table that orders the steps of a sequence, or series",
    "season": "steps after which a series repeats itself, for the forecast that it "
    "does; looked for unless given",
    "kind": "what numbers to predict are, where they may be classes or a quantity",
    "drop": "columns of a table to leave out: a,b",
    "category": "columns of a table whose numbers are names, as of a zip code: a,b",
    "id": "the column of a table that says which row it is: it stands beside what is "
    "predicted, and is not learned from",
    "missing": "what gaps of a table are: filled with the training part's median and "
    "marked, refused, or a reason to drop their rows",
    "gap": "what stands for a gap in the cells of a table, in predictions too: "
    "--gap=-999,unknown",
    "scale": "what numbers of a table are divided by: their deviation, the range of "
    "their middle half (robust to outliers), or not but read as ranks",
    "separator": "between a table's columns, as ; or tab; None to find it",
    "encoding": "of a table's text, as cp1252; None to find it",
    "dates": "what comes first in dates as 01/02/2020, where no row says it; None for "
    "the month, and a warning",
    "size": "height and width of pictures of your own, scaled and cut; None: theirs, "
    "where all have one up to 64, else 32",
    "grey": "pictures of your own without their colours",
    "speaker": "the number of one whose recordings are all for testing",
    "holdout": "share of the data kept for testing, where the set has no test part",
    "steps": "updates in all",
    "batch_size": "examples of a batch; None is all of them; unless given, of data of "
    "your own a quarter of the rows at most",
    "optimizer": "what makes an update of a gradient",
    "learning_rate": "the highest rate of the schedule; None with lbfgs and newton",
    "schedule": "of the learning rate, over all of the steps",
    "weight_decay": "decoupled; biases, norms and peepholes are left alone",
    "clip": "bound on the gradient's global norm",
    "betas": "decays of Adam's two moments",
    "accumulate": "batches that a step reads, one after the other, for one update",
    "microbatch": "examples of a batch that are computed at a time: the same update in "
    "less memory, on a CPU often sooner; must divide the batch",
    "ema": "decay of a moving average, of batch statistics too, to predict with",
    "dtype": "of layers in training; parameters, norms' statistics, losses and what is "
    "measured and predicted stay float32. Faster on a GPU or TPU, slower on most CPUs",
    "alpha": "strength of the penalty, as scikit-learn has it",
    "penalty": "its strength: scikit-learn's 1 / C, that of the critic's gradient, or "
    "of a graph's network, half of it times the squares of the weights",
    "network": "which of the networks",
    "augment": "change the training images, or sounds, at random",
    "activation": "of the hidden layers",
    "batch_norm": "between each layer and its activation",
    "dropout": "share of hidden units dropped in training",
    "smoothing": "share of each label that is spread over all classes",
    "depth": "layers: 6n + 2",
    "widths": "units of each hidden layer",
    "width": "of embeddings, of a Transformer, or of the dense layer",
    "channels": "of each convolution, or of each level of a U-Net",
    "features": "units of each recurrent layer, in each direction; of a graph's hidden "
    "layers, of all heads",
    "layers": "one on the other",
    "heads": "of attention, in each layer",
    "last_heads": "of attention in the last layer, whose mean is the answer",
    "kv_heads": "of keys and values; fewer than heads share them; None for as many",
    "stack": "frames of sound, side by side, that are one step",
    "bidirectional": "read sequences in both directions",
    "length": "characters of a training window; tokens of a text that count",
    "units": "what a text is cut into",
    "vocabulary": "tokens that are told apart, at most: the most frequent",
    "positions": "how a Transformer knows them",
    "latent": "dimensions of the hidden cause, of the noise, or of the middle; hidden "
    "units of a Boltzmann machine",
    "likelihood": "of a pixel: black or white, or grey",
    "beta": "weight of the KL divergence",
    "turns": "of Gibbs sampling in each step",
    "chains": "Markov chains that go on from step to step; 0 begins at the examples",
    "components": "of the mixture, or of what rows are made of",
    "clusters": "how many centres there are",
    "keep": "the only columns of a table to learn from: a,b; of k-means, the share of "
    "the rows of earlier steps that count in a centre's mean: 0 with all rows at once, "
    "1 with mini-batches",
    "word_dropout": "share of the characters that the decoder does not see",
    "anneal": "steps until the KL divergence has its full weight",
    "noise": "standard deviation of what is added to images",
    "game": "what the players' losses are",
    "critic_steps": "of the critic, to one of the generator",
    "score": "how likely a triple is, of the embeddings of its three parts; or how "
    "queries and keys are compared",
    "reciprocal": "whether the way back of a relation has parameters of its own",
    "implicit": "whether what a user has rated says something, however it is rated",
    "l2": "penalty on the embeddings, that of a ridge regression of all ratings",
    "bias_l2": "the same of the biases of users, items and what else is known",
    "negatives": "drawn beside each that was chosen, or that stands there",
    "window": "how many words to either side a word stands beside, at most; of a "
    "series to forecast, the steps that are read",
    "cbow": "words around a word predict it, in place of each other way round",
    "output": "how a word is predicted: among some drawn, or on the path of a tree",
    "min_count": "how often a word must stand in the text to have a vector",
    "subsample": "share of a word above which it is left out at times; 0 for never",
    "buckets": "for runs of letters, which are hashed",
    "most": "count from which on cells weigh the same",
    "dice_weight": "of the soft Dice loss, beside the cross entropy of pixels",
    "size_weight": "of the error of a box's height and width, in pixels",
    "tasks": "that one network learns; the first is predicted",
    "weighting": "of tasks: their sum, by weights that are learned, or each gradient "
    "without what goes against others (PCGrad)",
    "weight": "of the tasks after the first",
    "n3": "weight of the sum of cubes of a triple's embeddings",
    "labels": "how many images have theirs, of each class as many",
    "temperature": "that cosines of embeddings are divided by",
    "redundancy": "weight of what two dimensions of an embedding say alike",
    "environments": "played side by side",
    "horizon": "steps of each environment that are played, and then learned from; of a "
    "series, those that are predicted: 1 unless given",
    "epochs": "times that steps played are read",
    "parts": "that steps played are read in, each for one update",
    "discount": "of a reward, for each step until it comes",
    "decay": "of what is expected to come, for each step: 1 is all that came",
    "trust": "bound on the change of an action's odds, as a share",
    "entropy_weight": "of the entropy of what is done",
    "memory": "steps that are remembered",
    "warmup": "updates before the first that changes something",
    "exploring": "updates in which the share of random actions falls",
    "exploration": "share of random actions in the end",
    "refresh": "updates between two targets",
    "double": "the network that learns chooses, the target says what it is worth",
    "dueling": "a state's worth and what actions add to it, each for itself",
    "drivers": "drives that are learned from",
    "pushed": "share of the drives in which noise steers now and then",
    "frames": "images that are seen at once, the newest and those before it",
    "pace": "share of the way to what is learned that a target goes at each update",
    "target_entropy": "of an action in (-1, 1), in nats, that the temperature keeps to",
    "out": "the run's directory; runs/RECIPE, or RECIPE-2 and so on, for None",
    "overwrite": "replace the run in the directory, with pictures made of it, and "
    "nothing else; not if refused",
    "resume": "go on with the run in the directory",
    "longer": "go on with the run in the directory, finished or not, to so many steps "
    "in all; its schedule is then one over these",
    "restarts": "train in another process, and start it again where it crashes, so "
    "many times at most",
    "debug_nans": "end at the first step that is not finite, and name the operation: "
    "slowly, a step at a time",
    "seed": "of the initial weights, the order of the examples, dropout, augmentation",
    "patience": "stop after so many evaluations without a lower loss on a tenth of the "
    "training data, which is watched instead, and restore the best",
    "eval_every": "steps from an evaluation to the next; a twentieth of all for None",
    "data_seed": "of the holdout, the watched part and the few labels; follows --seed "
    "unless given",
    "devices": "split each batch over that many devices",
    "log": "write what metrics.jsonl has where TensorBoard reads it, too: `tensorboard "
    "--logdir runs` shows all runs (pip install 'purezoo[tensorboard]')",
    "fsdp": "cut large arrays of the state over the devices too: less memory in each",
    "distributed": "train together with other processes, on all of their devices; on "
    "Slurm, Open MPI, Kubernetes and TPUs, who is who is found",
    "coordinator": "HOST:PORT where the processes meet, on the host of process 0",
    "processes": "how many there are",
    "process": "which of them this one is, from 0",
}


def recipe_flags(recipe: Recipe, kept: dict[str, Any]) -> Callable[..., dict]:
    """A function with the recipe's keywords and the run's: tyro makes flags of it.

    Values in `kept` replace the defaults.
    """
    own = [(p.name, p.annotation, p.default) for p in parameters(recipe).values()]
    hints, defaults = Options.__annotations__, Options._field_defaults
    runs = [(name, hints[name], defaults[name]) for name in Options._fields]
    runs += [
        ("out", Path | None, None),
        ("overwrite", bool, False),
        ("resume", bool, False),
        ("longer", int | None, None),
        ("restarts", int, 0),
        ("debug_nans", bool, False),
        ("distributed", bool, False),
        ("coordinator", str | None, None),
        ("processes", int | None, None),
        ("process", int | None, None),
    ]
    rows = [(n, typed(a), kept.get(n, d), HELP[n]) for n, a, d in own + runs]
    about = [recipe.about, f"Takes {recipe.cost}." * bool(recipe.cost), recipe.paper]
    return collected(rows, "\n\n".join(filter(None, about)))


def collected(rows: Sequence[tuple[str, Any, Any, str]], about: str) -> Callable:
    """A function that returns its keywords, each of (name, type, default, help)."""
    flags = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[annotation, tyro.conf.arg(help=help)],
        )
        for name, annotation, default, help in rows
    ]

    def collect(**flags: Any) -> dict:
        return flags

    collect.__signature__ = inspect.Signature(flags)  # type: ignore[attr-defined]
    collect.__annotations__ = {p.name: p.annotation for p in flags}
    collect.__doc__ = about
    return collect


def typed(annotation: Any) -> Any:
    """The type of a flag: of what may be a traced number, a float."""
    kinds = get_args(annotation)
    if jax.Array not in kinds:
        return annotation
    return float | None if type(None) in kinds else float


class Shown(Exception):
    """The function whose signature has a command's flags, in place of a call."""


ASKED: list[str] = []  # given for flags: `parse` shows them


KINDS = {"FLOAT FLOAT": "two numbers", r"\bint\b|INT": "a whole number"}
KINDS |= {"float|FLOAT": "a number", "": "other values"}  # as the parser names them


def parse(function: Callable[..., Any], argv: list[str], program: str) -> Any:
    """Call a function with flags parsed from its signature.

    Raises UsageError with what the parser says, in a line.
    """
    if argv is ASKED:
        raise Shown(function)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(function, args=argv, prog=program)
    except SystemExit as end:
        if not end.code:
            raise
        text = re.sub(r"\x1b\[[\d;]*m", "", said.getvalue())  # colours, on a terminal
        raise UsageError(f"{_sentence(text)} (see {program} --help)") from None


def _sentence(text: str) -> str:
    """What the parser says in a box: its first paragraph, and the flag it suggests.

    Raises UsageError, with the nearest, for what is none of a flag's choices.
    """
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        line = line.strip("│| ")
        if not line or not set(line) - set("─-╰╯+"):
            blocks.append([])
        elif not line.startswith(("╭", "For full", "Argument")):
            blocks[-1].append(line)
    said = [" ".join(block) for block in blocks if any(":" in line for line in block)]
    whole = " ".join(line for block in blocks for line in block)
    if wrong := re.search(r"choice '(.*)' for .*'(\S+)'\. Expected one of (.*)", whole):
        check_choice(wrong[2], wrong[1], tuple(re.findall(r"'(.*?)'", wrong[3])))
    if wrong := re.search(r"Error parsing (--[\w-]+): (.*'.*')", whole):
        kind = next((k for k in KINDS if re.search(k, wrong[2])), "")
        values = re.findall(r"'(.*?)'", wrong[2].partition("]")[0])
        found = " ".join(values)
        return f'expected {KINDS[kind]} for {wrong[1]}, found "{found}"'
    said = said or [whole]
    near = re.search(r"Perhaps you meant.*?(--[\w-]+)", " ".join(said))
    return said[0].rstrip(":.") + (f"; perhaps you meant {near[1]}" if near else "")
