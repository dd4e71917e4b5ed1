"""What a trained model can be asked for, and what is said and shown of it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from train.data import Data
from train.step import Trained


class Measured(NamedTuple):
    """Scores of a model, and the files that show them."""

    scores: dict[str, Any]
    failure: str | None = None  # a sentence: the run has not succeeded
    files: dict[str, Callable[[], Any]] = {}  # by name; each makes a text, or a figure


class Report(NamedTuple):
    """What a model can do, as functions; None where it cannot.

    measure(trained, data) -> Measured, on the test rows, or on those of training where
    there are no others.
    sample(trained, data, seed, n, label) -> images [n, H, W, C] in [0, 1], or n texts.
    write(trained, prompt, length, *, seed, temperature, top_k, top_p) -> text.
    translate(trained, sources, *, beams) -> one Translation for each.
    transcribe(trained, paths, *, beams) -> one Transcript for each.
    near(trained, text, n) -> n words like a word, or a sum of words, with cosines.
    lines(predictions) -> rows of a table, heads first, of what is neither a class nor a
    quantity.
    baselines(data) -> scores to hold those of `measure` against, by the name of what
    has them; or a sentence that says why it has none.
    unit: of the loss, as a picture's axis has it; "" where it has none that is known.
    """

    measure: Callable[[Trained, Data], Measured]
    sample: Callable[..., np.ndarray | list[str]] | None = None
    of_rows: bool = False  # sample shows what becomes of test rows, which it needs
    columns: int = 8  # of a picture of samples: each label has its own
    write: Callable[..., str] | None = None
    translate: Callable[..., Sequence[Any]] | None = None
    transcribe: Callable[..., Sequence[Any]] | None = None
    near: Callable[..., list[tuple[str, float]]] | None = None
    lines: Callable[[np.ndarray], list[list[str]]] | None = None
    baselines: Callable[[Data], dict[str, dict[str, Any] | str]] = lambda data: {}
    unit: str = ""
