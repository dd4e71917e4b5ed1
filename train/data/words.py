"""A text as words, and what each of them stands beside: to learn their vectors from.

Everything here is numpy, on the host.
Shapes: N examples, T words of a text, V words of the vocabulary, W of a window.
"""

import os
import re
from collections import Counter
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from train.data.parts import split
from train.data.schema import Arrays, Data, Schema, Split, given, request
from train.data.text import read_text
from zoo.base import UsageError

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
SEED = 2**16  # of what is left out of windows, beside those of who parts rows


class Vocabulary(NamedTuple):
    """The words of a text that are frequent enough, the most frequent first."""

    names: tuple[str, ...]  # as they are mostly written inside a sentence
    counts: tuple[int, ...]
    number: dict[str, int]  # of a word in lower case


def load_words(
    source: str | os.PathLike[str] | Data | Split = "pride_and_prejudice",
    *,
    window: int = 2,
    cbow: bool = False,
    min_count: int = 5,
    subsample: float = 0.0,
    holdout: float = 0.1,
) -> Data:
    """Words "x" of a text and a word "y" [N] beside them, as their ids.

    Bundled, or a UTF-8 file of the user's. Of skip-gram x [N, 1] is a word and y one of
    those around it; of `cbow` x [N, 2 W] is the words around y, filled with V. Words
    that stand fewer than `min_count` times are left out first, then occurrences of the
    frequent ones: a word of share f is kept with probability sqrt(s / f) of s =
    `subsample`, always for 0. A window reaches r of 1 to W words to either side, drawn
    for each word (Mikolov et al. 2013); beside it stands its counterpart of W + 1 - r,
    so that of W = 2 all are there. The last `holdout` of the text is the test part, of
    the words that the rest has; the watched part, if a `Split` asks for one, is the end
    of the rest. Raises UsageError.
    """
    wanted = request(source)
    if isinstance(wanted.source, Data):
        return given(wanted.source, wanted)
    _check(window, min_count, holdout)
    if not subsample >= 0:
        raise UsageError(f"expected subsample >= 0, found {subsample}")
    name = os.fspath(wanted.source)
    train, watched, test = _parted(read_text(name), holdout, wanted.watched)
    known = vocabulary(train, min_count, name)
    keep = kept(known.counts, subsample)
    size = len(known.names)

    def rows(text, seed):
        draw, tokens = np.random.default_rng(seed), ids(known, text)
        tokens = tokens[draw.uniform(size=len(tokens)) < keep[tokens]]
        reach = draw.integers(1, window + 1, len(tokens))
        both = (windows(tokens, window, size, r) for r in (reach, window + 1 - reach))
        around, tokens = np.concatenate([*both]), np.tile(tokens, 2)
        found = {"x": around, "y": tokens} if cbow else pairs(around, tokens, size)
        if not len(found["y"]):
            raise UsageError(f"expected words beside words in {name}, found none")
        return found

    parts = [
        None if part is None else rows(part, SEED + i)
        for i, part in enumerate((train, test, watched))
    ]
    columns = parts[0]["x"].shape[1]  # type: ignore[index]
    padded = (*known.names, "") if cbow else known.names
    return Data(_schema(name, known, (padded,) * columns, parts[0]), *parts)  # type: ignore[arg-type]


def load_cells(
    source: str | os.PathLike[str] | Data | Split = "pride_and_prejudice",
    *,
    window: int = 2,
    min_count: int = 5,
) -> Data:
    """Cells of the table of which words stand together: "x" [N, 2] and counts "y" [N].

    Two words that are d <= W apart count 1 / d (Pennington et al. 2014). All of the
    text is trained on. The watched part, if a `Split` asks for one, is of cells, drawn
    by its seed. Raises UsageError.
    """
    wanted = request(source)
    if isinstance(wanted.source, Data):
        return given(wanted.source, wanted)
    _check(window, min_count, 0.0)
    name = os.fspath(wanted.source)
    text = read_text(name)
    known = vocabulary(text, min_count, name)
    train, watched = cells(ids(known, text), window, len(known.names)), None
    if wanted.watched:
        train, watched = split(train, wanted.watched, wanted.seed)
    schema = _schema(name, known, (known.names,) * 2, train)
    schema = schema._replace(classes=(), target_name="count")
    return Data(schema, train, None, watched)


def vocabulary(text: str, min_count: int, name: str = "the text") -> Vocabulary:
    """The words of a text that stand in it at least `min_count` times.

    A word is inside a sentence where blanks or a comma part it from the one before.
    Raises UsageError for fewer than three.
    """
    count: Counter[str] = Counter()
    forms: dict[str, Counter[str]] = {}
    found = list(WORD.finditer(text))
    for before, word in pairwise([None, *found]):
        lower = word.group().lower()  # type: ignore[union-attr]
        count[lower] += 1
        between = text[before.end() : word.start()] if before else "."  # type: ignore[union-attr]
        if not set(between) - set(" ,;\n") and between.count("\n") < 2:
            forms.setdefault(lower, Counter())[word.group()] += 1  # type: ignore[union-attr]
    some = [(word, n) for word, n in count.most_common() if n >= min_count]
    if len(some) < 3:
        raise UsageError(
            f"expected 3 words or more that stand {min_count} times (min_count) in "
            f"{name}, found {len(some)}"
        )
    names = tuple(_usual(word, forms.get(word, Counter())) for word, _ in some)
    number = {word: i for i, (word, _) in enumerate(some)}
    return Vocabulary(names, tuple(n for _, n in some), number)


def _usual(word, forms):
    """A word as nine tenths of its uses inside a sentence are written; or in lower
    case."""
    if not forms:
        return word
    form, n = forms.most_common(1)[0]
    return form if n >= 2 and n >= 0.9 * forms.total() else word


def ids(known: Vocabulary, text: str) -> np.ndarray:
    """The known words of a text, in its order: int32 [T]."""
    numbers = (known.number.get(w.group().lower(), -1) for w in WORD.finditer(text))
    found = np.fromiter(numbers, np.int32)
    return found[found >= 0]


def kept(counts: tuple[int, ...], subsample: float) -> np.ndarray:
    """The probability [V] with which an occurrence of a word stays in the text."""
    share = np.array(counts) / sum(counts)
    return (
        np.minimum(1, np.sqrt(subsample / share)) if subsample else np.ones(len(share))
    )


def windows(
    tokens: np.ndarray, window: int, size: int, reach: np.ndarray
) -> np.ndarray:
    """The words around each of tokens [T], in their order: int32 [T, 2 W].

    The window of each reaches `reach` [T] of 1 to W far; what is out of it is `size`.
    """
    steps = np.array([d for d in range(-window, window + 1) if d])
    at = np.arange(len(tokens))[:, None] + steps
    inside = (at >= 0) & (at < len(tokens)) & (np.abs(steps) <= reach[:, None])
    return np.where(inside, tokens[at * inside], size).astype(np.int32)


def pairs(around: np.ndarray, tokens: np.ndarray, size: int) -> Arrays:
    """Each word with each of those around it: "x" [N, 1], "y" [N] int32."""
    row, column = np.nonzero(around < size)
    return {"x": tokens[row][:, None], "y": around[row, column]}


def cells(tokens: np.ndarray, window: int, size: int) -> Arrays:
    """How often two words stand together: "x" int32 [N, 2], "y" float32 [N] > 0."""
    codes, weights = [], []
    for d in range(1, min(window, len(tokens) - 1) + 1):
        a, b = tokens[:-d].astype(np.int64), tokens[d:].astype(np.int64)
        codes += [a * size + b, b * size + a]
        weights += [np.full(2 * len(a), 1 / d)]
    if not codes:
        raise UsageError("expected words beside words, found none")
    every, which = np.unique(np.concatenate(codes), return_inverse=True)
    count = np.bincount(which, np.concatenate(weights))
    x = np.stack(np.divmod(every, size), 1).astype(np.int32)
    return {"x": x, "y": count.astype(np.float32)}


def _parted(text, holdout, watched):
    """Text to train on, to watch and to test on; None for parts not asked for."""
    cut = round(len(text) * (1 - holdout))
    end = round(cut * (1 - watched))
    return (
        text[:end],
        text[end:cut] if watched else None,
        text[cut:] if holdout else None,
    )


def _schema(name, known, columns, train):
    return Schema(
        name,
        (len(columns),),
        known.names,
        (),
        (),
        target_name="word",
        ids=columns,
        rows=len(train["y"]),
        counts=known.counts,
    )


def _check(window, min_count, holdout):
    if not 1 <= window <= 100:
        raise UsageError(f"expected a window of 1 to 100 words, found {window}")
    if min_count < 1:
        raise UsageError(f"expected a min_count of at least 1, found {min_count}")
    if not 0 <= holdout < 1:
        raise UsageError(f"expected a holdout of at least 0, below 1, found {holdout}")
