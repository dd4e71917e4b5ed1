"""A text as tokens, to go on writing: characters, 0 for one that training had not.

Everything here is numpy, on the host.
Shapes: N tokens, M windows, T length of a window.
"""

import gzip
import os
import zlib
from collections.abc import Iterable
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from train.data.formats import unpacked
from train.data.schema import Data, Schema, Split, request
from zoo.base import UsageError, nearest

UNKNOWN = "\ufffd"
TEXTS = ("pride_and_prejudice",)


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
    text = read_text(source)
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


def read_text(source: str) -> str:
    """A text by its name, or of a file in UTF-8. Raises UsageError."""
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
        return unpacked(path).decode("utf-8-sig").replace("\r\n", "\n")
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
