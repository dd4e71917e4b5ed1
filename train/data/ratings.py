"""Ratings: who gave which item how much, and what is known of the items.

Everything here is numpy, on the host.
Shapes: N ratings, U users, I items, F columns of ids.
"""

import os
import pickletools
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import numpy as np

from train.data.download import by_hand
from train.data.formats import numbers, open_npz
from train.data.parts import split
from train.data.schema import Data, Schema, Split, given, moments, request
from train.data.tables import quoted
from zoo.base import UsageError, nearest
from zoo.checks import check_ids

RATINGS = ("movielens_small", "tastes")
MOST = 10_000_000  # ids without names: each has a vector


class Ratings(NamedTuple):
    """A table as stored: ids x [N, F], of a user, an item, and more; ratings y [N]."""

    x: np.ndarray
    y: np.ndarray
    ids: tuple[tuple[str, ...], ...]


def load_ratings(
    source: str | os.PathLike[str] | Data | Split = "movielens_small",
    *,
    holdout: float | None = None,
) -> Data:
    """Ids "x" [N, F] of a user, an item, and what else is known, and ratings "y" [N].

    "movielens_small" is read of movielens_small.npz, which has to be in the folder of
    downloaded files: user, film, genres, year. "tastes" is made here, of rank two. Or
    an .npz file of the user's: user [N], item [N], rating [N] and, where there are any,
    the names users [U] and items [I]. `holdout`, a fifth for None, is the share of the
    ratings to test on; ratings are standardised by those of training. Raises
    UsageError.
    """
    wanted = request(source)
    if isinstance(wanted.source, Data):
        return given(wanted.source, wanted)
    name = os.fspath(wanted.source)
    if holdout is not None and not 0 <= holdout < 1:
        raise UsageError(f"expected a holdout of at least 0, below 1, found {holdout}")
    found = read_ratings(name)
    train, test, watched = {"x": found.x, "y": found.y.astype(np.float64)}, None, None
    if share := 0.2 if holdout is None else holdout:
        train, test = split(train, share, wanted.seed)
    if wanted.watched:
        train, watched = split(train, wanted.watched, wanted.seed)
    mean, scale = (v.item() for v in moments(train["y"][:, None]))
    schema = Schema(
        name,
        found.x.shape[1:],
        (),
        (),
        (),
        (mean, scale),
        target_name="rating",
        rows=len(train["x"]),
        ids=found.ids,
    )

    def rows(part):
        y = ((part["y"] - mean) / scale).astype(np.float32)
        return part and {"x": part["x"], "y": y}

    parts = (None if part is None else rows(part) for part in (train, test, watched))
    return Data(schema, *parts)  # type: ignore[arg-type]


def read_ratings(name: str) -> Ratings:
    """A table by its name or its path, in its own units. Raises UsageError."""
    if name == "tastes":
        return _tastes()
    path = Path(name)
    if name == "movielens_small":
        return _films(by_hand(f"{name}.npz"))
    if not path.is_file():
        raise UsageError(
            f"expected an .npz file or one of the ratings {', '.join(RATINGS)}, found "
            f'"{name}"' + nearest(name, RATINGS)
        )
    arrays = open_npz(path)
    if absent := [k for k in ("user", "item", "rating") if k not in arrays]:
        raise UsageError(
            f"expected {' and '.join(absent)} in {path}, found {quoted(list(arrays))}"
        )
    columns = [arrays["user"], arrays["item"], arrays["rating"]]
    if any(c.ndim != 1 or c.shape != columns[0].shape for c in columns):
        found = [c.shape for c in columns]
        raise UsageError(f"expected columns [N] of one length in {path}, found {found}")
    y = numbers(columns.pop(), f"rating of {path}")
    ids = tuple(
        tuple(map(str, arrays.get(key, range(_count(column)))))
        for key, column in zip(("users", "items"), columns, strict=True)
    )
    sizes = tuple(map(len, ids))
    x = check_ids(np.stack(columns, 1), sizes, f"ids of {path}", "rating {}".format)
    return Ratings(x.astype(np.int32), y, ids)


def _count(column):
    """How many ids there are; floats are refused later, with their column."""
    if column.dtype.kind not in "iu":
        return 0
    if (last := int(column.max(initial=-1))) >= MOST:
        raise UsageError(
            f"expected ids that count from 0, below {MOST:,}, found {last}: number them"
        )
    return last + 1


def _films(path) -> Ratings:
    """MovieLens: a film's genres together are one id, and so is its year."""
    file = open_npz(path)
    with ZipFile(path) as archive:  # of a known checksum; two arrays are pickled
        titles, genres = (
            _texts(archive.read(f"{name}.npy")) for name in ("title", "genres")
        )
    film = file["movie"]
    kinds, genre = np.unique(genres, return_inverse=True)
    years, year = np.unique(file["year"], return_inverse=True)
    x = np.stack([file["user"], film, genre[film], year[film]], 1).astype(np.int32)
    films = zip(titles, file["year"], strict=True)
    ids = (
        tuple(f"user {i}" for i in range(int(file["user"].max()) + 1)),
        tuple(f"{title} ({when})" for title, when in films),
        tuple(kinds.tolist()),
        tuple(map(str, years)),
    )
    return Ratings(x, file["rating"], ids)


def _texts(npy: bytes) -> list[str]:
    """The texts of an array of Python objects, without unpickling it.

    Of the steps of the pickle those that put a text into the list are followed.
    """
    start = 10 + int.from_bytes(npy[8:10], "little")
    seen: list[Any] = []  # what later steps refer to, by its number
    found: list[str] | None = None
    last: Any = None
    argument: Any
    for step, argument, _ in pickletools.genops(npy[start:]):
        if step.name == "MEMOIZE":
            seen.append(last)
            continue
        text = step.name.endswith("BINUNICODE")
        known = text or step.name.endswith("BINGET")
        last = argument if text else seen[argument] if known else None
        if step.name == "EMPTY_LIST":
            found = []
        elif known and found is not None:
            found.append(last)
    return found or []


def _tastes() -> Ratings:
    """60 people and 40 dishes, three in five of whose ratings are known.

    A rating is 3, what a person gives and a dish gets more, whether the person likes
    what the dish is, in two ways, and noise of a tenth.
    """
    draw = np.random.default_rng(0)
    people, dishes = draw.normal(size=(60, 2)), draw.normal(size=(40, 2))
    gives, gets = 0.5 * draw.normal(size=(60, 1)), 0.5 * draw.normal(size=(1, 40))
    y = 3 + gives + gets + people @ dishes.T + 0.1 * draw.normal(size=(60, 40))
    user, item = np.nonzero(draw.uniform(size=y.shape) < 0.6)
    names = (
        tuple(f"person {i}" for i in range(60)),
        tuple(f"dish {i}" for i in range(40)),
    )
    x = np.stack([user, item], 1).astype(np.int32)
    return Ratings(x, y[user, item], names)
