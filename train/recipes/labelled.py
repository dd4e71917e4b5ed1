"""Texts told apart: by the words in them, in order or not."""

from train.data import Schema, views
from train.recipes.base import Built, Goal, Recipe, Training
from train.recipes.images import fitted
from train.report.measure import predictions
from zoo import bag, rnn, supervised, transformer
from zoo.base import Number, UsageError, concrete


def bag_of_words(schema: Schema, *, penalty: Number = 1.0) -> Built:
    """Softmax regression on tf-idf weights; `penalty` is scikit-learn's 1 / C."""
    if concrete(penalty) and not penalty >= 0:
        raise UsageError(f"expected penalty >= 0, found {penalty}")
    outputs = _outputs(schema)
    network = bag.Bag(outputs, schema.counts, schema.rows)
    # of two classes scikit-learn has one vector, the difference of our two
    each = 2 if outputs == 2 else 1
    task = supervised.task(
        network,
        supervised.classes,
        inputs=("x", "length"),
        l2=each * penalty / (2 * schema.rows),
    )
    return Built(task, network, predictions(task, schema), mixed=False)


def text_lstm(
    schema: Schema,
    *,
    features: int = 64,
    layers: int = 1,
    bidirectional: bool = True,
    width: int = 64,
    dropout: Number = 0.5,
) -> Built:
    """An LSTM reads the tokens of a text, and names its class."""
    cells = rnn.RNN(rnn.LSTM, features, layers, bidirectional, dropout)
    outputs, vocabulary = _outputs(schema), len(schema.tokens)
    return fitted(rnn.Classifier(outputs, cells, dropout, vocabulary, width), schema)


def text_transformer(
    schema: Schema,
    *,
    width: int = 64,
    layers: int = 1,
    heads: int = 4,
    dropout: Number = 0.3,
) -> Built:
    """A Transformer encoder on the tokens of a text, and the mean of what it gives."""
    network = transformer.Classifier(
        _outputs(schema),
        width=width,
        layers=layers,
        heads=heads,
        dropout=dropout,
        vocabulary=len(schema.tokens),
    )
    return fitted(network, schema)


def _outputs(schema):
    if not schema.units:
        raise UsageError(f"expected texts with labels, found {schema.name}")
    return len(schema.classes)


OWN = "--data may be a .csv of two columns, a text and its label."
RECIPES = {
    "bag_of_words": Recipe(
        bag_of_words,
        views.labelled,
        "dialogue",
        Training(1500, 64, "adamw", 0.03, "cosine", 0.0),
        Goal("accuracy", 0.94),
        "Softmax regression on a text's words, weighted by how rare they are: is a "
        f"sentence of a novel said by someone, or told? {OWN}",
        "ten seconds",
        'Salton & Buckley, "Term-weighting approaches in automatic text retrieval", '
        "1988",
    ),
    "text_lstm": Recipe(
        text_lstm,
        views.labelled,
        "dialogue",
        Training(400, 64, "adamw", 2e-3, "cosine", clip=1.0),
        Goal("accuracy", 0.94),
        f"An LSTM that tells texts apart, by words or characters. {OWN}",
        "thirty seconds",
        'Gers et al., "Learning to forget", 2000',
    ),
    "text_transformer": Recipe(
        text_transformer,
        views.labelled,
        "dialogue",
        Training(300, 64, "adamw", 1e-3, "warmup_cosine", clip=1.0),
        Goal("accuracy", 0.93),
        f"A Transformer encoder that tells texts apart, by words or characters. {OWN}",
        "thirty seconds",
        'Vaswani et al., "Attention is all you need", 2017',
    ),
}
