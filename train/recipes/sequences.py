"""Recurrent networks and a Transformer that tell sequences apart."""

from collections.abc import Callable

from train import data as sets
from train import optim
from train.recipes.base import Goal, Recipe, Source, fitted, scheduled
from zoo import rnn as rnns
from zoo.base import UsageError
from zoo.transformer import Classifier


def _recurrent(name: str, cell: rnns.Cell, goal: float, doc: str) -> Callable:
    """The recipe of a cell: four recipes with one set of flags."""

    def recipe(
        *,
        data: Source = "japanese_vowels",
        target: str | None = None,
        holdout: float | None = None,
        features: int = 64,
        layers: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.3,
        optimizer: optim.Name = "adamw",
        schedule: optim.ScheduleName = "cosine",
        learning_rate: float = 3e-3,
        weight_decay: float | None = None,
        clip: float | None = 1.0,
        ema: float | None = None,
        batch_size: int | None = 32,
        steps: int = 800,
    ) -> Recipe:
        rows = _sequences(name, data, target, holdout)
        rnn = rnns.RNN(cell, features, layers, bidirectional, dropout)
        step = scheduled(
            optimizer,
            schedule,
            learning_rate,
            steps,
            weight_decay=weight_decay,
            clip=clip,
        )
        task = fitted(lambda n: rnns.Classifier(n, rnn, dropout), rows, _inputs(rows))
        label = f"{layers} x {features}{', both ways' if bidirectional else ''}"
        target_score = Goal("accuracy", goal)
        return Recipe(
            label, task, step, rows, steps, batch_size, target_score
        )._replace(ema=ema)

    recipe.__name__, recipe.__doc__ = name, doc
    return recipe


rnn = _recurrent(
    "rnn",
    rnns.ELMAN,
    0.95,
    """A simple recurrent network (Elman 1990) reads a sequence and names its class.

    Japanese Vowels (270 utterances of nine speakers, 370 to tell): accuracy >= 0.95.
    """,
)
gru = _recurrent(
    "gru",
    rnns.GRU,
    0.95,
    """A gated recurrent network (Cho et al. 2014) reads a sequence and names its class.

    Japanese Vowels: accuracy >= 0.95 (0.941 in the paper that published them).
    """,
)
lstm = _recurrent(
    "lstm",
    rnns.LSTM,
    0.95,
    """An LSTM (Gers et al. 2000) reads a sequence and names its class.

    Japanese Vowels: accuracy >= 0.95.
    """,
)
peephole_lstm = _recurrent(
    "peephole_lstm",
    rnns.PEEPHOLE_LSTM,
    0.95,
    """An LSTM whose gates see its cell (Gers & Schmidhuber 2000) names a class.

    Japanese Vowels: accuracy >= 0.95.
    """,
)


def transformer_classifier(
    *,
    data: Source = "japanese_vowels",
    target: str | None = None,
    holdout: float | None = None,
    width: int = 64,
    layers: int = 2,
    heads: int = 4,
    dropout: float = 0.2,
    optimizer: optim.Name = "adamw",
    schedule: optim.ScheduleName = "warmup_cosine",
    learning_rate: float = 1e-3,
    weight_decay: float | None = None,
    clip: float | None = 1.0,
    ema: float | None = None,
    batch_size: int | None = 32,
    steps: int = 1000,
) -> Recipe:
    """A Transformer encoder (Vaswani et al. 2017) and the mean of what it gives.

    Japanese Vowels: accuracy >= 0.93. Images, as `--data mnist5k`, are read row by row.
    """
    rows = _sequences("transformer_classifier", data, target, holdout)
    step = scheduled(
        optimizer,
        schedule,
        learning_rate,
        steps,
        weight_decay=weight_decay,
        clip=clip,
    )

    def build(outputs):
        return Classifier(
            outputs, width=width, layers=layers, heads=heads, dropout=dropout
        )

    task = fitted(build, rows, _inputs(rows))
    name = f"Transformer {layers} x {width}"
    return Recipe(
        name, task, step, rows, steps, batch_size, Goal("accuracy", 0.93)
    )._replace(ema=ema)


def _inputs(rows):
    return ("x", "length") if rows.schema.lengths else ("x",)


def _sequences(recipe, data, target, holdout):
    rows = sets.load(data, target=target, holdout=holdout)
    if rows.schema.image and rows.schema.shape[-1] == 1:
        rows = sets.as_sequence(rows)
    if len(rows.schema.shape) != 2:
        raise UsageError(
            f"{recipe} wants sequences [T, D], found examples of shape "
            f"{rows.schema.shape} in {rows.schema.name}; try mlp"
        )
    return rows
