"""Texts with labels: sentences to tell apart, by words or by characters.

    text,mood
    "I liked it, and so will you.",good

Everything here is numpy, on the host. Token 0 is one that training had not, and what
follows a text's end.
Shapes: N texts, L length of the longest, V tokens.
"""

import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from train.data.columns import Column
from train.data.frames import read_frame
from train.data.parts import split
from train.data.schema import Arrays, Data, Schema, Split, given, request
from train.data.tables import as_numbers, quoted, targets
from train.data.text import UNKNOWN, read_text
from zoo.base import UsageError, check_choice, nearest
from zoo.checks import check_int

LABELLED = ("dialogue",)
TABLES = (".csv", ".tsv")
RARE = 2  # tokens that training has less often are none
Units = Literal["words", "characters"]

WORD = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")
UNITS: dict[str, Callable[[str], list[str]]] = {
    "words": lambda text: WORD.findall(text.lower()),  # and each mark by itself
    "characters": list,
}
# Mr. and the like end no sentence
ENDS = re.compile(r"(?<!\bMr\.)(?<!\bMrs\.)(?<!\bDr\.)(?<=[.!?])\s+(?=[A-Z])")


class Texts(NamedTuple):
    """As stored."""

    texts: list[str]
    labels: np.ndarray  # [N] texts or numbers
    names: tuple[str, str] = ("text", "label")  # of the columns
    train: int | None = None  # so many are for training, the others are the test part


def load_labelled(
    source: str | os.PathLike[str] | Data | Split = "dialogue",
    *,
    target: str | None = None,
    units: Units = "words",
    length: int = 48,
    vocabulary: int = 5000,
    holdout: float | None = None,
) -> Data:
    """Tokens "x" [N, L] int32, "length" [N] int32 and labels "y" [N] int32.

    "dialogue" is whole sentences of a novel, said by someone or told by the author, the
    last fifth of them to test on. A .csv or .tsv has two columns, of which `target` is
    the label: for None, that of fewer distinct values. `length` tokens of a text count.
    The `vocabulary` is the most frequent tokens of the training part that stand there
    twice or more. `holdout`, a fifth for None, is drawn by class. Raises UsageError.
    """
    wanted = request(source)
    if isinstance(wanted.source, Data):
        return given(wanted.source, wanted)
    check_choice("units", units, tuple(UNITS))
    check_int("length", length, 1, 10_000)
    check_int("vocabulary", vocabulary, 1, 1_000_000)
    if holdout is not None and not 0 <= holdout < 1:
        raise UsageError(f"expected a holdout of at least 0, below 1, found {holdout}")
    name = os.fspath(wanted.source)
    found = read_labelled(name, target)
    y, _, classes = targets(
        found.labels, None, "classes", f'"{found.names[1]}" of {name}'
    )
    parts = _parted(found, y, wanted, holdout)
    each = [UNITS[units](text) for text in parts[0]["text"]]
    tokens, counts = _vocabulary(each, vocabulary)
    schema = Schema(
        name,
        (min(length, max(1, *map(len, each))),),
        classes,
        (),
        (),
        columns=(Column(found.names[0]),),
        target_name=found.names[1],
        tokens=tokens,
        counts=counts,
        lengths=True,
        rows=len(each),
        units=units,
    )

    def rows(part: Arrays | None) -> Arrays | None:
        return part and {**encode(schema, part["text"]), "y": part["y"]}

    train, test, watched = map(rows, parts)
    assert train is not None
    return Data(schema, train, test, watched)


def _parted(found, y, wanted, holdout):
    """Training, test and watched rows, before a vocabulary is made of them."""
    train, test, watched = {"text": np.array(found.texts, object), "y": y}, None, None
    if found.train is not None:
        if holdout:
            raise UsageError(
                f"expected no holdout for {wanted.source}, which has a test part of "
                f"its own, found {holdout}"
            )
        test = {name: array[found.train :] for name, array in train.items()}
        train = {name: array[: found.train] for name, array in train.items()}
    elif share := 0.2 if holdout is None else holdout:
        train, test = split(train, share, wanted.seed)
    if wanted.watched:
        train, watched = split(train, wanted.watched, wanted.seed)
    return train, test, watched


def _vocabulary(texts, size):
    """The most frequent tokens, and in how many texts each stands: (names, counts)."""
    often = Counter(token for text in texts for token in text)
    within = Counter(token for text in texts for token in set(text))
    order = sorted(often, key=lambda token: (-often[token], token))
    names = [t for t in order if often[t] >= RARE and t != UNKNOWN][:size]
    if not names:
        raise UsageError(f"expected tokens that stand {RARE} times, found none")
    return (UNKNOWN, *names), (0, *(within[name] for name in names))


def encode(schema: Schema, texts: Iterable[str]) -> Arrays:
    """Texts -> "x" [N, L] and "length" [N]: 1 for a text without any token."""
    texts = list(texts)
    number = {name: i for i, name in enumerate(schema.tokens)}
    x = np.zeros((len(texts), *schema.shape), np.int32)
    length = np.ones(len(texts), np.int32)
    for i, text in enumerate(texts):
        ids = [number.get(t, 0) for t in UNITS[schema.units](text)[: x.shape[1]]]
        x[i, : len(ids)] = ids
        length[i] = max(1, len(ids))
    return {"x": x, "length": length}


def read_labelled(name: str, target: str | None = None) -> Texts:
    """The texts of a data set by its name or path. Raises UsageError."""
    if name in LABELLED:
        if target is not None:
            raise UsageError(f'expected no target for {name}, found "{target}"')
        return dialogue()
    path = Path(name)
    if path.suffix.lower() not in TABLES:
        raise UsageError(
            f"expected texts with labels, a .csv or .tsv file, or {LABELLED[0]}, found "
            f"{name}" + nearest(name, LABELLED)
        )
    columns = read_columns(path)
    if len(columns) != 2:
        raise UsageError(
            f"expected two columns in {path}, a text and its label, found "
            f"{quoted([*columns])}"
        )
    if target is None:
        kinds = {column: len(set(cells)) for column, cells in columns.items()}
        target, other = sorted(columns, key=kinds.__getitem__)
        # few kinds of both: neither need be a text
        if kinds[other] <= min(2 * kinds[target], len(columns[other]) // 2):
            said = f'the column "{target}" of {path} is read as the label, "{other}" as'
            warnings.warn(f"{said} the text: --target says otherwise", stacklevel=2)
    if target not in columns:
        raise UsageError(
            f"expected as target one of the columns {quoted([*columns])} of {path}, "
            f'found "{target}"' + nearest(target, [*columns])
        )
    (column,) = (each for each in columns if each != target)
    cells = [cell.strip() for cell in columns[target]]
    if "" in cells:
        raise UsageError(
            f'expected a label in each row of {path}, found none in "{target}" of row '
            f"{cells.index('') + 1}"
        )
    numbers = as_numbers(np.array(cells, object))
    labels = np.array(cells) if np.isnan(numbers).any() else numbers
    texts = columns[column]
    some = [i for i, text in enumerate(texts) if text.strip()]
    if len(some) < len(texts):
        said = f"left out {len(texts) - len(some)} rows of {path} without a text"
        warnings.warn(said, stacklevel=2)
    return Texts([texts[i] for i in some], labels[some], (column, target))


def read_columns(path: Path) -> dict[str, list[str]]:
    """The columns of a table as texts, by name; "" for a gap. Raises UsageError."""
    frame = read_frame(path)
    for note in frame.attrs["notes"]:
        warnings.warn(note, stacklevel=2)
    whole = frame.astype(object).where(frame.notna(), "")
    return {str(name): whole[name].map(str).tolist() for name in whole}


def dialogue() -> Texts:
    """Whole sentences of Pride and Prejudice: "said", within quotes, or "told".

    Of four words or more, from a capital to a full stop, question or exclamation mark,
    without the quotes; in the order of the book, its last fifth for testing.
    """
    texts, labels = [], []
    for paragraph in re.split(r"\n\s*\n", read_text("pride_and_prejudice")):
        plain = " ".join(paragraph.replace("_", "").split())
        for i, part in enumerate(plain.split('"')):
            for sentence in map(str.strip, ENDS.split(part)):
                whole = re.fullmatch(r"[A-Z].*[.!?]", sentence)
                if whole and len(sentence.split()) >= 4:
                    texts.append(sentence)
                    labels.append(("told", "said")[i % 2])
    return Texts(texts, np.array(labels), train=len(texts) * 4 // 5)


def examples(schema: Schema, given: Any) -> Arrays:
    """Texts to predict -> "x", "length": texts, columns by name, or paths of files.

    A .csv or .tsv has the column of texts, a .txt a text in each line; {"x", "length"}
    are tokens. Raises UsageError.
    """
    if isinstance(given, dict) and "x" in given:
        return {name: np.asarray(given[name], np.int32) for name in ("x", "length")}
    if isinstance(given, dict):
        return encode(schema, _column(schema, given, "the inputs"))
    texts: list[str] = []
    for one in [given] if isinstance(given, str | os.PathLike) else given:
        texts += _read(schema, Path(one)) if isinstance(one, os.PathLike) else [one]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise UsageError(f"expected texts to tell apart, found {quoted(texts)}")
    return encode(schema, texts)


def _read(schema, path):
    if path.suffix.lower() == ".txt":
        lines = read_text(str(path)).splitlines()
        return [line for line in lines if line.strip()]
    if path.suffix.lower() not in TABLES:
        raise UsageError(f"expected a file .csv, .tsv or .txt, found {path}")
    return _column(schema, read_columns(path), path)


def _column(schema, columns, where):
    name = schema.columns[0].name
    if name not in columns:
        raise UsageError(
            f'expected a column "{name}" in {where}, found {quoted([*columns])}'
            + nearest(name, [*columns])
        )
    return [str(text) for text in columns[name]]
