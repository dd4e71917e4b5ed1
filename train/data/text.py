"""Text as tokens: one long text to go on writing, or pairs to learn the second from.

A language model's tokens are characters; 0 is one that training did not have. Pairs
have 0 for padding, 1 for the start, 2 for the end of a target. Everything here is
numpy, on the host.
Shapes: N examples, T length of a window or of the longest target, S longest source.
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
from train.data.tables import nearest
from zoo.base import UsageError

UNKNOWN = "\ufffd"
SPECIAL = ("<pad>", "<start>", "<end>")
PAD, START, END = 0, 1, 2
TEXTS = ("pride_and_prejudice",)
Source = tuple[str, ...]
Pair = tuple[Source, tuple[str, ...]]


# One text ---------------------------------------------------------------------------


def load_text(
    source: str | os.PathLike[str] | Data | Split = "pride_and_prejudice",
    *,
    length: int = 128,
    holdout: float = 0.1,
) -> Data:
    """A text: "tokens" [N] to train on, and windows of it to test on.

    Bundled, or a UTF-8 file of the user's (.txt, .txt.gz). The last `holdout` of the
    text is the test part: windows "x" [M, T] and what comes after each of their
    characters, "y". They overlap by half, and "mask" [M, T] counts every character (but
    the first) once, with at least half a window before it where there is so much. The
    watched part, if a `Split` asks for one, is the end of the rest, in such windows.
    Raises UsageError.
    """
    wanted = request(source)
    if not 0 < holdout < 1:
        raise UsageError(f"expected a holdout between 0 and 1, found {holdout}")
    if length < 2:
        raise UsageError(f"expected a length of at least 2, found {length}")
    if isinstance(wanted.source, Data):
        return _watched(wanted.source, wanted, length)
    source = os.fspath(wanted.source)
    text = _read(source)
    if len(text) < 20:
        raise UsageError(f"expected a text in {source}, found {len(text)} characters")
    cut = round(len(text) * (1 - holdout))
    end = round(cut * (1 - wanted.watched))  # of what is trained on
    short = min(end, cut - end or end, len(text) - cut)
    if short <= length:
        raise UsageError(
            f"expected more than {length} characters (length) in each part of "
            f"{source}, found {short} of {len(text)}"
        )
    names = (UNKNOWN, *sorted(set(text[:end]) - {UNKNOWN}))
    shape = (length,)
    schema = Schema(
        source,
        shape,
        (),
        (),
        (),
        tokens=names,
        target_tokens=names,
        target_shape=shape,
        rows=end,
    )
    tokens = _tokens(names, text)
    watched = _test_windows(tokens[end:cut], length) if end < cut else None
    test = _test_windows(tokens[cut:], length)
    return Data(schema, {"tokens": tokens[:end]}, test, watched)


def _watched(data, wanted, length):
    """A text at hand, with its end to watch if that is wanted and it lacks one."""
    if not wanted.watched or data.watched is not None:
        return data
    tokens = data.train["tokens"]
    end = round(len(tokens) * (1 - wanted.watched))
    if min(end, len(tokens) - end) <= length:
        raise UsageError(
            f"expected more than {length} characters (length) to train on and to "
            f"watch, found {len(tokens)}"
        )
    watched = _test_windows(tokens[end:], length)
    schema = data.schema._replace(rows=end)
    return data._replace(schema=schema, train={"tokens": tokens[:end]}, watched=watched)


def _test_windows(tokens, length):
    """Windows that begin every half length, the last where the text ends."""
    last = len(tokens) - 1 - length
    starts = np.unique([*range(0, last, length - length // 2), last])
    every = np.lib.stride_tricks.sliding_window_view(tokens, length)
    rows = {"x": every[starts], "y": every[starts + 1]}
    # the first character that a window is the first to predict
    new = np.concatenate([[0], starts[:-1] + length - starts[1:]])
    mask = np.arange(length) >= new[:, None]
    return rows | {"mask": mask.astype(np.float32)}


def _read(source):
    if source in TEXTS:
        with as_file(files("train.data.files") / f"{source}.txt.gz") as path:
            return gzip.decompress(path.read_bytes()).decode()
    path = Path(source)
    if not path.is_file():
        raise UsageError(
            f"expected a text file or one of {', '.join(TEXTS)}, found no file at "
            f"{source}" + nearest(source, list(TEXTS))
        )
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UsageError(f"expected text in UTF-8, found {path} ({error})") from None


def _tokens(names, text):
    """Characters as their indices, 0 for others."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    known = np.array([ord(name) for name in names], np.uint32)
    order = np.argsort(known)
    at = np.minimum(np.searchsorted(known[order], codes), len(known) - 1)
    found = order[at]
    return np.where(known[found] == codes, found, 0).astype(np.int32)


def encode(schema: Schema, text: str) -> np.ndarray:
    """Characters -> tokens [T] int32. Raises UsageError for none or unknown ones."""
    if not text:
        raise UsageError("expected a prompt of at least one character, found none")
    unknown = sorted(set(text) - set(schema.tokens[1:]))
    if unknown:
        raise UsageError(
            f"expected characters that {schema.name} has, found "
            + ", ".join(map(repr, unknown[:5]))
            + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        )
    return _tokens(schema.tokens, text)


def decode(names: tuple[str, ...], tokens: Iterable[int]) -> str:
    """Tokens -> characters."""
    return "".join(names[token] for token in tokens)


# Pairs ------------------------------------------------------------------------------


def load_pairs(
    source: str | os.PathLike[str] | Data | Split = "cmudict", *, longest: int = 60
) -> Data:
    """Sources "x" [N, S] and targets "y" [N, T], each of the latter with its end.

    "cmudict": the letters of 120,000 words and their phonemes, stress left out; one
    word in twenty is for testing, whatever its pronunciations. "ui_en_fr": sentences of
    user interfaces in English and French, by characters. "copy", "reverse": strings of
    1 to 12 of ten letters, made here, those of the test part none of training. Or a
    .tsv file of the user's: two columns, by characters. One sentence in ten, of the
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
    parts: tuple[list[Pair], ...] = [], [], []
    for pair in pairs:
        watch = _hash(pair[0], wanted.seed) // 1000 % 1000 < 1000 * wanted.watched
        parts[2 if held(pair[0]) else watch].append(pair)
    train = parts[0]
    readable = {token for pair in train for token in pair[0]}
    watched, test = (
        [pair for pair in part if readable.issuperset(pair[0])] for part in parts[1:]
    )
    kept = (train, test, watched) if wanted.watched else (train, test)
    if not all(kept):
        raise UsageError(
            f"expected pairs of at most {longest} tokens to train and to test on"
            f"{' and to watch' if wanted.watched else ''} in {source}, found "
            + " and ".join(str(len(part)) for part in kept)
        )
    left = len(found) - len(train) - len(watched) - len(test)
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
    return [(tuple(a), tuple(b)) for a, b in dict(rows).items()], _hashed(10, seed)


def _ui_en_fr(seed):
    with as_file(files("train.data.files") / "ui_en_fr.tsv") as path:
        return _sentences(path, seed)


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
