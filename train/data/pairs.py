"""Pairs of sequences as tokens, to learn the second from the first.

0 is padding, 1 the start, 2 the end of a target. Everything here is numpy, on the host.
Shapes: N examples, S length of the longest source, T of the longest target.
"""

import gzip
import os
import re
import warnings
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import NamedTuple

import numpy as np

from train.data.schema import Arrays, Data, Schema, Split, given, request
from train.data.text import decode
from zoo.base import UsageError, nearest

SPECIAL = ("<pad>", "<start>", "<end>")
PAD, START, END = 0, 1, 2
Source = tuple[str, ...]
Pair = tuple[Source, tuple[str, ...]]


def load_pairs(
    source: str | os.PathLike[str] | Data | Split = "cmudict", *, longest: int = 60
) -> Data:
    """Sources "x" [N, S] and targets "y" [N, T], each of the latter with its end.

    "cmudict": the letters of 120,000 words and their phonemes, stress left out; one
    word in twenty is for testing, whatever its pronunciations. "ui_en_fr": sentences of
    user interfaces in English and French, by characters. "copy", "reverse": strings of
    1 to 12 of ten letters, made here, those of the test part none of training. Or a
    .tsv file of the user's: two columns, by characters; a source may stand in several
    pairs, which fall into one part. One sentence in ten, of the
    user's too, is for testing; sources that differ in case, blanks or punctuation alone
    are in one part. Pairs with a side of no token or more than `longest` are left out,
    and so are those not trained on whose source has a character unknown in training; of
    the user's, a warning says how many. Raises UsageError.
    """
    wanted = request(source)
    if isinstance(wanted.source, Data):
        return given(wanted.source, wanted)
    source = os.fspath(wanted.source)
    own = Pairs(partial(_own, source))
    kind = PAIRS.get(source, own)
    found, held = kind.load(wanted.seed)
    pairs = [p for p in found if 0 < len(p[0]) <= longest and 0 < len(p[1]) <= longest]
    kept = _parted(pairs, held, wanted)
    if not all(kept):
        raise UsageError(
            f"expected pairs of at most {longest} tokens to train and to test on"
            f"{' and to watch' if wanted.watched else ''} in {source}, found "
            + " and ".join(str(len(part)) for part in kept)
        )
    train, left = kept[0], len(found) - sum(map(len, kept))
    if left and kind is own:
        warnings.warn(
            f"{left} of {len(found)} pairs in {source} are left out: empty, longer "
            f"than {longest} characters, or with a character unknown in training",
            stacklevel=2,
        )
    names = [
        SPECIAL + tuple(sorted({token for pair in train for token in pair[side]}))
        for side in (0, 1)
    ]
    sizes = [max(len(p[0]) for p in pairs), max(len(p[1]) for p in pairs) + 1]
    schema = Schema(
        source,
        (sizes[0],),
        (),
        (),
        (),
        tokens=names[0],
        target_tokens=names[1],
        target_shape=(sizes[1],),
        rows=len(train),
        lower=kind.lower,
        spaced=kind.spaced,
    )
    return Data(schema, *(_rows(schema, part) for part in kept))


def _parted(pairs, held, wanted):
    """Training and test pairs, and watched ones if they are wanted.

    Of those not trained on, the ones whose source can be read.
    """
    parts: tuple[list[Pair], ...] = [], [], []
    for pair in pairs:
        watch = _hash(pair[0], wanted.seed) // 1000 % 1000 < 1000 * wanted.watched
        parts[2 if held(pair[0]) else watch].append(pair)
    readable = {token for pair in parts[0] for token in pair[0]}
    watched, test = (
        [pair for pair in part if readable.issuperset(pair[0])] for part in parts[1:]
    )
    return (parts[0], test, watched) if wanted.watched else (parts[0], test)


def _rows(schema, pairs):
    """Tokens [N, S] and [N, T] with the end, filled with padding."""
    arrays = {}
    columns = (("x", schema.tokens, 0, ()), ("y", schema.target_tokens, 1, (END,)))
    for name, names, side, end in columns:
        index = {token: i for i, token in enumerate(names)}
        width = (schema.shape if side == 0 else schema.target_shape)[0]
        array = np.zeros((len(pairs), width), np.int32)
        for row, pair in zip(array, pairs, strict=True):
            # a target that training never had can only be wrong: no token is its own
            tokens = [index.get(token, START) for token in pair[side]]
            row[: len(tokens) + len(end)] = (*tokens, *end)
        arrays[name] = array
    return arrays


def _hashed(share: int, seed: int) -> Callable[[Source], bool]:
    """One source in `share` is for testing, the same on every computer."""
    return lambda source: _hash(source, seed) % share == 0


def _hash(source: Source, seed: int) -> int:
    """A number of a source's letters and digits, case folded; of all, if it has none.

    So what differs in case, blanks or punctuation alone falls into the same part.
    """
    whole = "".join(source)
    plain = "".join(filter(str.isalnum, whole.casefold())) or whole
    return zlib.crc32("\t".join(plain).encode(), seed)


def pronunciations() -> dict[str, tuple[tuple[str, ...], ...]]:
    """Every word of letters of the dictionary with all its pronunciations."""
    with as_file(files("train.data.files") / "cmudict.dict.gz") as path:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    found: dict[str, tuple[tuple[str, ...], ...]] = {}
    for line in lines:
        head, _, rest = line.partition("#")[0].strip().partition(" ")
        word = re.sub(r"\(\d+\)$", "", head)
        if re.fullmatch(r"[a-z']{2,20}", word):
            phones = tuple(phone.rstrip("012") for phone in rest.split())
            if phones not in found.get(word, ()):
                found[word] = (*found.get(word, ()), phones)
    return found


def _cmudict(seed):
    pairs = [(tuple(word), all[0]) for word, all in pronunciations().items()]
    return pairs, _hashed(20, seed)


def _sentences(path, seed):
    # splitlines would also break at a character such as U+2028 within a sentence
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    rows = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            rows.append(line.split("\t"))
            if len(rows[-1]) != 2:
                raise UsageError(
                    f"expected two columns in {path}, found {len(rows[-1])} in line "
                    f"{number}"
                )
    pairs = dict.fromkeys((tuple(a), tuple(b)) for a, b in rows)
    return [*pairs], _hashed(10, seed)


def _ui_en_fr(seed):
    with as_file(files("train.data.files") / "ui_en_fr.tsv") as path:
        found, held = _sentences(path, seed)
    return [*dict(found).items()], held  # one translation of each


def _own(source, seed):
    path = Path(source)
    if path.suffix.lower() != ".tsv" or not path.is_file():
        raise UsageError(
            f"expected a .tsv file or one of {', '.join(PAIRS)}, found "
            f"{'no file at ' if not path.is_file() else ''}{source}"
            + nearest(source, list(PAIRS))
        )
    try:
        return _sentences(path, seed)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"expected text in UTF-8, found {path} ({error})") from None


def strings(count: int, shortest: int, longest: int, seed: int) -> list[str]:
    """Different random strings of the letters a to j, lengths evenly spread."""
    rng = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        size = int(rng.integers(shortest, longest + 1))
        found["".join("abcdefghij"[i] for i in rng.integers(0, 10, size))] = None
    return list(found)


def _synthetic(change):
    def pairs(seed):
        made = [tuple(s) for s in strings(8500, 1, 12, seed)]
        # there are too few shorter strings to keep some from training
        held = set([s for s in made if len(s) >= 3][-500:])
        return [(s, change(s)) for s in made], held.__contains__

    return pairs


class Pairs(NamedTuple):
    """A data set of pairs, and what is particular about it."""

    load: Callable  # (seed) -> the pairs, and which sources are for testing
    lower: bool = False  # its sources are lower case
    spaced: bool = False  # its targets' tokens are words
    answers: Callable[[], dict] | None = None  # all targets that are right


PAIRS = {
    "cmudict": Pairs(_cmudict, lower=True, spaced=True, answers=pronunciations),
    "ui_en_fr": Pairs(_ui_en_fr),
    "copy": Pairs(_synthetic(lambda s: s)),
    "reverse": Pairs(_synthetic(lambda s: s[::-1])),
}


def answers(schema: Schema) -> dict[str, tuple[tuple[str, ...], ...]]:
    """By source, all targets that are right, where more than one may be."""
    known = PAIRS[schema.name].answers if schema.name in PAIRS else None
    return {} if known is None else known()


def sources_of(schema: Schema, rows: Arrays) -> list[str]:
    """The sources of rows, "x" [N, S], as text."""
    return [decode(schema.tokens, row[row != PAD].tolist()) for row in rows["x"]]


def encode_source(schema: Schema, text: str) -> np.ndarray:
    """A user's word or sentence -> tokens [S']; in lower case, if the data are.

    Raises UsageError for an empty one and for characters unknown in training.
    """
    text = text.lower() if schema.lower else text
    index = {token: i for i, token in enumerate(schema.tokens)}
    unknown = sorted({c for c in text if c not in index})
    if not text or unknown:
        found = ", ".join(map(repr, unknown[:5])) if text else "nothing"
        raise UsageError(
            f"expected characters that {schema.name} has, found {found}"
            + (f" in {text!r}" if text else "")
        )
    if len(text) > schema.shape[0]:
        raise UsageError(
            f"expected at most {schema.shape[0]} characters as in {schema.name}, found "
            f"{len(text)} in {text!r}"
        )
    return np.array([index[c] for c in text], np.int32)


def target_names(schema: Schema, tokens: Iterable[int]) -> list[str]:
    """A target's tokens up to its end, by name."""
    names = []
    for token in tokens:
        if token == END:
            break
        names.append(schema.target_tokens[token])
    return names


def decode_target(schema: Schema, tokens: Iterable[int]) -> str:
    """A target up to its end: phonemes with blanks between, characters without."""
    return joined(schema, target_names(schema, tokens))


def joined(schema: Schema, names: Iterable[str]) -> str:
    """A target's tokens by name as text: words with blanks between."""
    return (" " if schema.spaced else "").join(names)
