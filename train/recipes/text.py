"""Language models that write, and encoder-decoders that transduce."""

from functools import partial
from typing import Literal

import numpy as np

from train import evaluate
from train import source as sources
from train.data import Arrays, Data, Schema, pairs, text, views
from train.recipes.base import Built, Goal, Recipe, Training
from train.report import Measured, Report, metrics, samples
from train.report.measure import tested
from train.step import Trained
from zoo import rnn, seq2seq, supervised, transformer
from zoo.base import Number


def char_lstm(
    schema: Schema,
    *,
    length: int = 64,
    features: int = 256,
    layers: int = 1,
    width: int = 64,
    dropout: Number = 0.1,
) -> Built:
    """An LSTM that writes character by character."""
    cells = rnn.RNN(rnn.LSTM, features, layers, dropout=dropout)
    model = rnn.LanguageModel(len(schema.tokens), cells, width, dropout)
    return _writer(model, schema, length)


def char_transformer(
    schema: Schema,
    *,
    length: int = 128,
    width: int = 128,
    layers: int = 4,
    heads: int = 4,
    kv_heads: int | None = None,
    positions: Literal["rotary", "learned"] = "rotary",
    dropout: Number = 0.1,
) -> Built:
    """A decoder-only Transformer that writes character by character."""
    model = transformer.LanguageModel(
        len(schema.tokens),
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        context=length,
        positions=positions,
        dropout=dropout,
    )
    return _writer(model, schema, length, context=length)


def windows(length: int, rows: Arrays, size: int | None) -> sources.Source:
    """Batches of a text's windows, which begin every eighth of their length."""
    tokens, every = rows["tokens"], -(-length // 8)
    if size is None:
        size = (len(tokens) - length - 1) // every + 1
    return sources.windows(tokens, length, size, every=every)


def seq2seq_lstm(
    schema: Schema,
    *,
    features: int = 256,
    layers: int = 1,
    width: int = 64,
    score: Literal["additive", "bilinear", "dot", "scaled_dot"] = "bilinear",
    dropout: Number = 0.2,
) -> Built:
    """LSTMs read and write, with attention between."""
    vocabularies = len(schema.tokens), len(schema.target_tokens)
    model = seq2seq.Recurrent(
        *vocabularies, features, layers, width, score=score, dropout=dropout
    )
    return _transducer(model, schema)


def seq2seq_transformer(
    schema: Schema,
    *,
    width: int = 128,
    layers: int = 3,
    heads: int = 4,
    dropout: Number = 0.1,
) -> Built:
    """A Transformer reads and writes."""
    model = transformer.EncoderDecoder(
        len(schema.tokens),
        len(schema.target_tokens),
        width=width,
        layers=layers,
        heads=heads,
        dropout=dropout,
    )
    return _transducer(model, schema)


def _writer(model, schema, length, context=None):
    task = supervised.task(model, supervised.classes)
    write = partial(samples.write, model, schema, context=context)
    report = Report(
        partial(_nats_per_character, task, schema, write),
        write=write,
        unit="nats a character",
    )
    return Built(task, model, report, source=partial(windows, length))


def _nats_per_character(task, schema, write, trained: Trained, data: Data) -> Measured:
    """Nats per character and accuracy on the test part; a sample in sample.txt."""
    rows = tested(data)
    scores = evaluate.evaluate(task, trained, rows, batch_size=64)
    scores["perplexity"] = float(np.exp(scores["loss"]))
    start = text.decode(schema.tokens, rows["x"][0][:20])
    return Measured(
        scores, files={"sample.txt": lambda: start + write(trained, start, 400)}
    )


def _transducer(model, schema):
    task = seq2seq.task(model)
    report = Report(
        partial(_error_rates, task, model, schema),
        translate=partial(samples.translate, model, schema),
        unit="nats a token",
    )
    return Built(task, model, report)


def _error_rates(task, model, schema, trained: Trained, data: Data) -> Measured:
    """Error rates of what is written greedily; in samples.tsv, the first fifty."""
    rows = tested(data)
    variables = {"params": trained.params, **trained.model}
    found = [
        pairs.target_names(schema, row)
        for row in samples.decode_all(model, schema, variables, rows["x"])
    ]
    sources_, known = pairs.sources_of(schema, rows), pairs.answers(schema)
    given: dict[str, list] = {}  # where a source stands more than once, each is right
    for source, row in zip(sources_, rows["y"], strict=True):
        given.setdefault(source, []).append(tuple(pairs.target_names(schema, row)))
    wanted = [known.get(source, given[source]) for source in sources_]
    scores = metrics.transduction(found, wanted)
    scores |= evaluate.evaluate(task, trained, rows)

    def table():
        lines = [
            "\t".join((source, *(pairs.joined(schema, s) for s in (one, right[0]))))
            for source, one, right in zip(sources_, found, wanted, strict=True)
        ]
        return "\n".join(["source\tfound\texpected", *lines[:50]])

    return Measured(scores, files={"samples.tsv": table})


def _training(steps: int, batch_size: int, learning_rate: float) -> Training:
    return Training(
        steps, batch_size, "adamw", learning_rate, "warmup_cosine", clip=1.0
    )


VASWANI = 'Vaswani et al., "Attention is all you need", 2017'
RECIPES = {
    "char_lstm": Recipe(
        char_lstm,
        views.text,
        "pride_and_prejudice",
        _training(4500, 16, 4e-3),
        Goal("loss", 1.46, at_most=True),
        "An LSTM that writes character by character: nats per character of the last "
        "tenth of a text, below the 4-gram's 1.46. --data may be a text of your own.",
        "three minutes",
        'Graves, "Generating sequences with recurrent neural networks", 2013',
    ),
    "char_transformer": Recipe(
        char_transformer,
        views.text,
        "pride_and_prejudice",
        _training(4000, 16, 2e-3),
        Goal("loss", 1.46, at_most=True),
        "A decoder-only Transformer that writes character by character: nats per "
        "character of the last tenth of a text, below the 4-gram's 1.46.",
        "fifteen minutes",
        VASWANI,
    ),
    "seq2seq_lstm": Recipe(
        seq2seq_lstm,
        views.pairs,
        "cmudict",
        _training(6000, 128, 2e-3),
        Goal("per", 0.15, at_most=True),
        "LSTMs read and write, with attention between, from spelling to sound: phoneme "
        "error rate of words not trained on. --data may be ui_en_fr, copy, reverse or "
        "a .tsv file of your own.",
        "fifteen minutes",
        'Luong et al., "Effective approaches to attention-based neural machine '
        'translation", 2015',
    ),
    "seq2seq_transformer": Recipe(
        seq2seq_transformer,
        views.pairs,
        "cmudict",
        _training(2000, 128, 1e-3),
        Goal("per", 0.15, at_most=True),
        "A Transformer reads and writes, from spelling to sound: phoneme error rate of "
        "words not trained on.",
        "fifteen minutes",
        VASWANI,
    ),
    "copy": Recipe(
        partial(seq2seq_transformer, width=64, layers=2, dropout=0.0),
        views.pairs,
        "reverse",
        _training(2000, 128, 2e-3),
        Goal("wer", 0.0, at_most=True),
        "A Transformer turns strings around, or copies them (--data copy): 500 not "
        "trained on, of lengths trained on, all exact.",
        "two minutes",
        VASWANI,
    ),
}
