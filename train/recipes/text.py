"""Language models that write, and encoder-decoders that transduce."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from flax import linen as nn

from train import optim
from train.data import Data, text
from train.evaluate import evaluate
from train.recipes.base import Goal, Recipe, Source, scheduled
from train.report import metrics, samples
from train.step import Trained
from zoo import rnn, seq2seq, supervised, transformer


def char_lstm(
    *,
    data: Source = "pride_and_prejudice",
    holdout: float | None = None,
    length: int = 64,
    features: int = 256,
    layers: int = 1,
    width: int = 64,
    dropout: float = 0.1,
    optimizer: optim.Name = "adamw",
    schedule: optim.ScheduleName = "warmup_cosine",
    learning_rate: float = 4e-3,
    weight_decay: float | None = None,
    clip: float | None = 1.0,
    ema: float | None = None,
    batch_size: int | None = 16,
    steps: int = 4500,
) -> Recipe:
    """An LSTM that writes character by character.

    Pride and Prejudice, its last tenth, in nats per character: below the 4-gram's 1.46.
    `data` may be a text file of your own.
    """
    rows = _text(data, length, holdout)
    vocabulary = len(rows.schema.tokens)
    model = rnn.LanguageModel(
        vocabulary, rnn.RNN(rnn.LSTM, features, layers, dropout=dropout), width, dropout
    )
    step = scheduled(
        optimizer,
        schedule,
        learning_rate,
        steps,
        weight_decay=weight_decay,
        clip=clip,
    )
    name = f"LSTM {layers} x {features}"
    return _writer(name, model, step, rows, steps, batch_size)._replace(ema=ema)


def char_transformer(
    *,
    data: Source = "pride_and_prejudice",
    holdout: float | None = None,
    length: int = 128,
    width: int = 128,
    layers: int = 4,
    heads: int = 4,
    kv_heads: int | None = None,
    positions: Literal["rotary", "learned"] = "rotary",
    dropout: float = 0.1,
    optimizer: optim.Name = "adamw",
    schedule: optim.ScheduleName = "warmup_cosine",
    learning_rate: float = 2e-3,
    weight_decay: float | None = None,
    clip: float | None = 1.0,
    ema: float | None = None,
    batch_size: int | None = 16,
    steps: int = 4000,
) -> Recipe:
    """A decoder-only Transformer that writes character by character.

    Pride and Prejudice, its last tenth, in nats per character: below the 4-gram's 1.46.
    There after four minutes, at the end after fifteen.
    """
    rows = _text(data, length, holdout)
    model = transformer.LanguageModel(
        len(rows.schema.tokens),
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        context=length,
        positions=positions,
        dropout=dropout,
    )
    step = scheduled(
        optimizer,
        schedule,
        learning_rate,
        steps,
        weight_decay=weight_decay,
        clip=clip,
    )
    name = f"Transformer {layers} x {width}"
    return _writer(name, model, step, rows, steps, batch_size)._replace(ema=ema)


def seq2seq_lstm(
    *,
    data: Source = "cmudict",
    features: int = 256,
    layers: int = 1,
    width: int = 64,
    score: Literal["additive", "bilinear", "dot", "scaled_dot"] = "bilinear",
    dropout: float = 0.2,
    optimizer: optim.Name = "adamw",
    schedule: optim.ScheduleName = "warmup_cosine",
    learning_rate: float = 2e-3,
    weight_decay: float | None = None,
    clip: float | None = 1.0,
    ema: float | None = None,
    batch_size: int | None = 128,
    steps: int = 6000,
) -> Recipe:
    """LSTMs read and write, with attention between: spelling to sound.

    CMUdict, words not trained on: phoneme error rate ("per") <= 0.15. `data` may be
    ui_en_fr, copy, reverse or a .tsv file of your own.
    """
    rows = text.load_pairs(data)
    model = seq2seq.Recurrent(
        len(rows.schema.tokens),
        len(rows.schema.target_tokens),
        features,
        layers,
        width,
        score=score,
        dropout=dropout,
    )
    step = scheduled(
        optimizer,
        schedule,
        learning_rate,
        steps,
        weight_decay=weight_decay,
        clip=clip,
    )
    name = f"LSTM {layers} x {features}, attention"
    goal = Goal("per", 0.15, at_most=True)
    return _transducer(name, model, step, rows, steps, batch_size, goal)._replace(
        ema=ema
    )


def seq2seq_transformer(
    *,
    data: Source = "cmudict",
    width: int = 128,
    layers: int = 3,
    heads: int = 4,
    dropout: float = 0.1,
    optimizer: optim.Name = "adamw",
    schedule: optim.ScheduleName = "warmup_cosine",
    learning_rate: float = 1e-3,
    weight_decay: float | None = None,
    clip: float | None = 1.0,
    ema: float | None = None,
    batch_size: int | None = 128,
    steps: int = 2000,
) -> Recipe:
    """A Transformer reads and writes (Vaswani et al. 2017): spelling to sound.

    CMUdict, words not trained on: phoneme error rate ("per") <= 0.15.
    """
    goal = Goal("per", 0.15, at_most=True)
    return _transformer(**locals())


def copy(
    *,
    data: Source = "reverse",
    width: int = 64,
    layers: int = 2,
    heads: int = 4,
    dropout: float = 0.0,
    optimizer: optim.Name = "adamw",
    schedule: optim.ScheduleName = "warmup_cosine",
    learning_rate: float = 2e-3,
    weight_decay: float | None = None,
    clip: float | None = 1.0,
    ema: float | None = None,
    batch_size: int | None = 128,
    steps: int = 2000,
) -> Recipe:
    """A Transformer turns strings around, or copies them (`--data copy`).

    500 strings not trained on, of lengths trained on: all exact.
    """
    goal = Goal("wer", 0.0, at_most=True)
    return _transformer(**locals())


def _transformer(
    *,
    data,
    width,
    layers,
    heads,
    dropout,
    optimizer,
    schedule,
    learning_rate,
    batch_size,
    steps,
    goal,
    ema,
    **options,
):
    rows = text.load_pairs(data)
    model = transformer.EncoderDecoder(
        len(rows.schema.tokens),
        len(rows.schema.target_tokens),
        width=width,
        layers=layers,
        heads=heads,
        dropout=dropout,
    )
    step = scheduled(optimizer, schedule, learning_rate, steps, **options)
    name = f"Transformer {layers} + {layers} x {width}"
    return _transducer(name, model, step, rows, steps, batch_size, goal)._replace(
        ema=ema
    )


def _text(data, length, holdout):
    share = {} if holdout is None else {"holdout": holdout}
    return text.load_text(data, length=length, **share)


def _writer(name, model, step, rows, steps, batch_size):
    return Recipe(
        name,
        supervised.task(model, supervised.classes),
        step,
        rows,
        steps,
        batch_size,
        Goal("loss", 1.46, at_most=True),
        measure=_measure_text,
        network=model,
        writes=True,
    )


def _transducer(
    name: str,
    model: nn.Module,
    step: Any,
    rows: Data,
    steps: int,
    size: int | None,
    goal: Goal,
) -> Recipe:
    return Recipe(
        name,
        seq2seq.task(model),
        step,
        rows,
        steps,
        size,
        goal,
        measure=_measure_pairs,
        network=model,
        translates=True,
    )


def _measure_text(recipe: Recipe, trained: Trained, out: Path | None) -> dict[str, Any]:
    """Nats per character and accuracy on the test part; a sample in sample.txt."""
    data = recipe.data
    rows = data.train if data.test is None else data.test
    scores = evaluate(recipe.task, trained, rows, batch_size=64)
    scores["perplexity"] = float(np.exp(scores["loss"]))
    if out is not None:
        start = text.decode(data.schema.tokens, rows["x"][0][:20])
        sample = start + samples.write(recipe.network, data.schema, trained, start, 400)
        (out / "sample.txt").write_text(sample + "\n", encoding="utf-8")
    return scores


def _measure_pairs(
    recipe: Recipe, trained: Trained, out: Path | None
) -> dict[str, Any]:
    """Error rates of what is written greedily; in samples.tsv, the first fifty."""
    schema = recipe.data.schema
    rows = recipe.data.train if recipe.data.test is None else recipe.data.test
    variables = {"params": trained.params, **trained.model}
    assert recipe.network is not None
    found = [
        text.target_names(schema, row)
        for row in samples.decode_all(recipe.network, schema, variables, rows["x"])
    ]
    sources = [
        text.decode(schema.tokens, row[row != text.PAD].tolist()) for row in rows["x"]
    ]
    known = text.pronunciations() if schema.name == "cmudict" else {}
    wanted = [
        known.get(source, (tuple(text.target_names(schema, row)),))
        for source, row in zip(sources, rows["y"], strict=True)
    ]
    if out is not None:
        between = " " if schema.name == "cmudict" else ""
        lines = [
            "\t".join((source, between.join(one), between.join(right[0])))
            for source, one, right in zip(sources, found, wanted, strict=True)
        ]
        table = "\n".join(["source\tfound\texpected", *lines[:50]])
        (out / "samples.tsv").write_text(table + "\n", encoding="utf-8")
    scores = evaluate(recipe.task, trained, rows)
    return metrics.transduction(found, wanted) | scores
