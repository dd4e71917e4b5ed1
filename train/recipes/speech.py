"""Networks that hear: a spoken digit, or a string of them."""

from functools import partial

import numpy as np

from train import evaluate
from train import source as sources
from train.data import Arrays, Data, Schema, speech, views
from train.recipes.base import Built, Goal, Recipe, Training, expect_classes
from train.report import Measured, Report, hearing, metrics
from train.report.measure import predictions, tested
from train.step import Trained
from zoo import ctc, rnn, supervised
from zoo import speech as models
from zoo.base import Batch, Number, UsageError


def keyword(
    schema: Schema,
    *,
    channels: tuple[int, ...] = (16, 32),
    width: int = 64,
    dropout: Number = 0.2,
    augment: bool = True,
) -> Built:
    """Convolutions over time and mels tell one word from others."""
    _check_sound("keyword", schema)
    network = models.Keyword(expect_classes(schema), channels, width, dropout)
    task = supervised.task(network, supervised.classes, inputs=("x", "length"))
    return Built(
        task,
        network,
        predictions(task, schema),
        source=lambda rows, size: _masked(sources.examples(rows, size), augment),
    )


def transcriber(
    schema: Schema,
    *,
    features: int = 64,
    layers: int = 2,
    stack: int = 2,
    dropout: Number = 0.2,
    augment: bool = True,
) -> Built:
    """A bidirectional LSTM writes down what is said, aligned by CTC."""
    _check_sound("ctc", schema)
    if not schema.target_tokens:
        raise UsageError(
            f"expected strings of words, found {schema.name} of single ones"
        )
    cells = rnn.RNN(rnn.LSTM, features, layers, bidirectional=True, dropout=dropout)
    network = models.Transcriber(len(schema.target_tokens), cells, stack, dropout)
    task = ctc.task(network)
    quiet = speech.silence(schema)

    def source(rows: Arrays, size: int | None) -> sources.Source:
        return _masked(speech.strings(quiet, rows, size), augment)

    report = Report(
        partial(_error_rates, task, schema),
        transcribe=partial(hearing.transcribe, task, schema),
        unit="nats a recording",
    )
    return Built(task, network, report, source=source)


def _masked(source: sources.Source, augment: bool) -> sources.Source:
    """A source whose batches SpecAugment changes."""

    def change(key, batch: Batch) -> Batch:
        return batch | {"x": models.spec_augment(key, batch["x"], batch["length"])}

    return sources.augmented(source, change if augment else None)


def _check_sound(recipe, schema):
    if not schema.rate:
        raise UsageError(
            f"{recipe} wants recordings, one of {', '.join(speech.SPEECH)}, found "
            f"{schema.name}"
        )


def _error_rates(task, schema, trained: Trained, data: Data) -> Measured:
    """Word error rates of greedy decoding and of beams; an alignment, and samples."""
    rows = tested(data)
    if rows is data.train:
        rows = speech.read_out(schema, rows)
    scores = evaluate.evaluate(task, trained, rows)
    log_p = evaluate.predict(task, trained, rows)
    wanted = [hearing.words(schema, y) for y in rows["y"]]
    texts = {"wer": hearing.greedy(log_p), "wer_beams": hearing.search(log_p)[0]}
    for name, found in texts.items():
        said = [hearing.words(schema, text) for text in found]
        scores[name] = metrics.transduction(said, [(one,) for one in wanted])["per"]
    said = [hearing.words(schema, text) for text in texts["wer"]]

    def table():
        lines = [
            f"{' '.join(a)}\t{' '.join(b)}" for a, b in zip(said, wanted, strict=True)
        ]
        return "\n".join(["found\texpected", *lines[:50]])

    def picture():
        longest = int(np.argmax(rows["length"]))
        return hearing.picture(
            schema, rows["x"][longest], int(rows["length"][longest]), log_p[longest]
        )

    return Measured(scores, files={"alignment.png": picture, "samples.tsv": table})


RECIPES = {
    "keyword": Recipe(
        keyword,
        views.recordings,
        "fsdd",
        Training(800, 64, "adamw", 3e-3, "warmup_cosine", clip=1.0),
        Goal("accuracy", 0.97),
        "A convolutional network on log-mels tells spoken digits apart; --speaker N "
        "tests on a speaker not trained on.",
        "a minute",
        'Sainath & Parada, "Convolutional neural networks for small-footprint keyword '
        'spotting", 2015',
    ),
    "ctc": Recipe(
        transcriber,
        views.spoken,
        "fsdd",
        Training(500, 32, "adamw", 3e-3, "warmup_cosine", clip=1.0),
        Goal("wer", 0.05, at_most=True),
        "A bidirectional LSTM writes down strings of one to five spoken digits, which "
        "CTC aligns: word error rate of strings of recordings not trained on; zoo "
        "transcribe hears a .wav file.",
        "two minutes",
        'Graves et al., "Connectionist temporal classification", 2006',
    ),
}
