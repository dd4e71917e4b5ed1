"""Recurrent networks and a Transformer that tell sequences apart."""

from functools import partial

from train.data import Schema, views
from train.recipes.base import Built, Goal, Recipe, Training
from train.recipes.images import fitted, outputs
from train.report.forecasts import forecasts
from zoo import rnn as rnns
from zoo.base import Number, UsageError
from zoo.transformer import Classifier


def recurrent(
    name: str,
    cell: rnns.Cell,
    schema: Schema,
    *,
    features: int = 64,
    layers: int = 1,
    bidirectional: bool = True,
    dropout: Number = 0.3,
) -> Built:
    """A recurrent network of some cell reads a sequence and names its class."""
    _check_sequences(name, schema)
    rnn = rnns.RNN(cell, features, layers, bidirectional, dropout)
    return _reported(rnns.Classifier(outputs(schema), rnn, dropout), schema)


def transformer_classifier(
    schema: Schema,
    *,
    width: int = 64,
    layers: int = 2,
    heads: int = 4,
    dropout: Number = 0.2,
) -> Built:
    """A Transformer encoder and the mean of what it gives."""
    _check_sequences("transformer_classifier", schema)
    network = Classifier(
        outputs(schema), width=width, layers=layers, heads=heads, dropout=dropout
    )
    return _reported(network, schema)


def _reported(network, schema):
    built = fitted(network, schema)
    if not schema.forecast:
        return built
    return built._replace(report=forecasts(built.task, schema))


def _check_sequences(recipe, schema):
    if len(schema.shape) != 2:
        raise UsageError(
            f"{recipe} wants sequences [T, D], found examples of shape {schema.shape} "
            f"in {schema.name}; try mlp"
        )


def _cell(name: str, cell: rnns.Cell, about: str, paper: str) -> Recipe:
    return Recipe(
        partial(recurrent, name, cell),
        views.sequences,
        "japanese_vowels",
        Training(800, 32, "adamw", 3e-3, "cosine", clip=1.0),
        Goal("accuracy", 0.95),
        f"{about} reads a sequence and names its class: 370 utterances of nine "
        "speakers, after 270. The paper that published them has 0.941.",
        "ten seconds",
        paper,
    )


RECIPES = {
    "rnn": _cell(
        "rnn",
        rnns.ELMAN,
        "A simple recurrent network",
        'Elman, "Finding structure in time", 1990',
    ),
    "gru": _cell(
        "gru",
        rnns.GRU,
        "A gated recurrent network",
        'Cho et al., "Learning phrase representations using RNN encoder-decoder", 2014',
    ),
    "lstm": _cell(
        "lstm",
        rnns.LSTM,
        "An LSTM",
        'Gers et al., "Learning to forget", 2000',
    ),
    "peephole_lstm": _cell(
        "peephole_lstm",
        rnns.PEEPHOLE_LSTM,
        "An LSTM whose gates see its cell",
        'Gers & Schmidhuber, "Recurrent nets that time and count", 2000',
    ),
    "transformer_classifier": Recipe(
        transformer_classifier,
        views.sequences,
        "japanese_vowels",
        Training(1000, 32, "adamw", 1e-3, "warmup_cosine", clip=1.0),
        Goal("accuracy", 0.93),
        "A Transformer encoder and the mean of what it gives. Images, as --data "
        "mnist5k, are read row by row.",
        "twenty seconds",
        'Vaswani et al., "Attention is all you need", 2017',
    ),
}
