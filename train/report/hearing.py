"""What a model that hears says: words of sound, and when they were said."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train import evaluate
from train.data import Schema, speech
from train.step import Trained
from zoo import ctc
from zoo.base import Task, UsageError, check_int

LONGEST = 100  # words that are looked for in a file, by beams


class Transcript(NamedTuple):
    """What was heard in one file."""

    text: str
    log_probability: float  # nats
    picture: Any  # a function that draws the sound, and when each word was said


def words(schema: Schema, text: Any) -> list[str]:
    """A text [L], whose end is filled with blanks, by the names of its tokens."""
    return [schema.target_tokens[token] for token in text if token != ctc.BLANK]


def greedy(log_p: np.ndarray) -> np.ndarray:
    """Log-probabilities [N, T, K] -> the texts [N, T] of the likeliest paths."""
    return np.asarray(jax.jit(ctc.greedy)(log_p))


def search(
    log_p: np.ndarray, longest: int = 8, beams: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities [N, T, K] -> texts [N, longest] by beams, and log p [N]."""
    text, score = _search(longest, beams)(log_p)
    return np.asarray(text), np.asarray(score)


@functools.cache
def _search(longest, beams):
    return jax.jit(functools.partial(ctc.search, longest=longest, beams=beams))


def transcribe(
    task: Task, schema: Schema, trained: Trained, paths: list[Any], *, beams: int = 8
) -> list[Transcript]:
    """What is said in .wav files, by a search of beams; 1 is the likeliest path.

    Raises UsageError for files that are none, or have another rate or more channels.
    """
    check_int("beams", beams, 1)
    if isinstance(paths, str):
        raise UsageError(f"expected a list of files to transcribe, found {paths!r}")
    found = []
    for path in paths:
        rows = speech.heard(schema, path)
        log_p = evaluate.predict(task, trained, rows)
        if beams == 1:
            text = greedy(log_p)[0]
            score = ctc.probability(log_p[0], text)
        else:
            (text,), (score,) = search(log_p, min(LONGEST, log_p.shape[1]), beams)
        draw = functools.partial(
            picture, schema, rows["x"][0], int(rows["length"][0]), log_p[0], text
        )
        found.append(Transcript(" ".join(words(schema, text)), float(score), draw))
    return found


def picture(
    schema: Schema, x: np.ndarray, length: int, log_p: np.ndarray, text: Any = None
) -> Any:
    """A spectrogram [T, M], the tokens' probabilities [N, K] and a text's alignment.

    The text is that of the likeliest path for None.
    """
    from train.report import charts  # matplotlib takes half a second: only to draw

    text = greedy(log_p[None])[0] if text is None else np.asarray(text)
    text = text[text != ctc.BLANK]
    path = np.asarray(ctc.align(jnp.asarray(log_p), jnp.asarray(text)))
    stack = -(-len(x) // len(log_p))
    steps = -(-length // stack)
    return charts.alignment(
        (x * np.array(schema.scale) + np.array(schema.mean))[:length],
        np.exp(log_p[:steps]),
        path[:steps],
        schema.target_tokens,
        speech.HOP / schema.rate,
    )
