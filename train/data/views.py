"""Rows as a family of models wants them: a view loads, parts and changes a data set.

Each is a function of a request (`train.data.Split`) whose keywords are flags: `target`,
the column of a table to predict, `holdout`, the share kept for testing where the set
has no test part; more say how a table is read, and how pictures are seen. All
raise UsageError for data that cannot be right.
"""

from typing import Any

import numpy as np

from train.data.builtin import SERIES
from train.data.graphs import load_graph
from train.data.labelled import load_labelled
from train.data.load import load
from train.data.long import load_groups
from train.data.pairs import load_pairs
from train.data.prepare import Dates, tabular
from train.data.ratings import load_ratings
from train.data.scenes import load_scenes
from train.data.schema import Data, Split, as_sequence, between, change
from train.data.series import load_series
from train.data.speech import load_recordings, load_strings
from train.data.tables import Kind
from train.data.text import load_text
from train.data.triples import load_triples
from train.data.words import load_cells, load_words
from zoo.base import UsageError


@tabular()
def table(
    request: Split,
    *,
    target: str | None = None,
    kind: Kind | None = None,
    holdout: float | None = None,
    **wishes: Any,
) -> Data:
    """Classes or a quantity, or several, as the data has it."""
    wishes |= {"kind": kind, "holdout": holdout}
    return load(request, target=target, several=True, **wishes)


@tabular("keep")
def points(
    request: Split,
    *,
    target: str | None = None,
    kind: Kind | None = None,
    holdout: float | None = None,
    **wishes: Any,
) -> Data:
    """The same, for a model that has a `keep` of its own."""
    return load(request, target=target, kind=kind, holdout=holdout, **wishes)


@tabular()
def quantity(
    request: Split,
    *,
    target: str | None = None,
    holdout: float | None = 0.0,
    **wishes: Any,
) -> Data:
    """A quantity to predict, or several."""
    wishes |= {"kind": "regression", "holdout": holdout}
    return load(request, target=target, several=True, **wishes)


@tabular()
def classes(
    request: Split,
    *,
    target: str | None = None,
    holdout: float | None = None,
    **wishes: Any,
) -> Data:
    """Classes to tell apart."""
    return load(request, target=target, kind="classes", holdout=holdout, **wishes)


def sequences(
    request: Split,
    *,
    target: str | None = None,
    holdout: float | None = None,
    size: int | None = None,
    grey: bool = False,
    group: str | None = None,
    time: str | None = None,
    window: int | None = None,
    horizon: int | None = None,
    season: int | None = None,
    dates: Dates | None = None,
) -> Data:
    """Sequences [T, D]; grey images are read row by row.

    With a group and a time those of a long table; with a window, or a horizon, what
    comes next in a series.
    """
    ahead = any(given is not None for given in (window, horizon, season))
    if isinstance(request.source, Data) or request.source in SERIES or ahead:
        return load_series(
            request,
            target=target,
            group=group,
            time=time,
            window=window,
            horizon=horizon,
            season=season,
            dates=dates,
            holdout=holdout,
        )
    if group is not None and time is not None:
        return load_groups(
            request,
            target=target,
            holdout=holdout,
            group=group,
            time=time,
            dates=dates,
        )
    if group is not None or time is not None:
        raise UsageError(
            "expected --group and --time of a long table together, or --time and a "
            "--window of a series to forecast, found one of them alone"
        )
    data = load(request, target=target, holdout=holdout, size=size, grey=grey)
    grey = data.schema.image and data.schema.shape[-1] == 1
    return as_sequence(data) if grey else data


def unit_images(
    request: Split,
    *,
    holdout: float | None = None,
    size: int | None = None,
    grey: bool = False,
) -> Data:
    """Images with values in [0, 1]."""
    data = load(request, holdout=holdout, size=size, grey=grey)
    return between(data, 0, 1)


def signed_images(
    request: Split,
    *,
    holdout: float | None = None,
    size: int | None = None,
    grey: bool = False,
) -> Data:
    """Images with values in [-1, 1]."""
    data = load(request, holdout=holdout, size=size, grey=grey)
    return between(data, -1, 1)


def pixels(
    request: Split,
    *,
    holdout: float | None = None,
    size: int | None = None,
    grey: bool = False,
    likelihood: str = "bernoulli",
) -> Data:
    """Images in [0, 1]; black and white, at one half, for a Bernoulli likelihood."""
    data = unit_images(request, holdout=holdout, size=size, grey=grey)
    if likelihood != "bernoulli":
        return data
    return change(data, lambda rows: rows | {"x": (rows["x"] > 0.5).astype(np.float32)})


def few_labels(
    request: Split,
    *,
    labels: int,
    holdout: float | None = None,
    size: int | None = None,
    grey: bool = False,
) -> Data:
    """Images in [-1, 1], of which `labels` have "known" [N]: of each class as many.

    They are drawn by the seed of the request.
    """
    data = signed_images(request, holdout=holdout, size=size, grey=grey)
    schema, y = data.schema, data.train["y"]
    count = len(schema.classes)
    if not count:
        raise UsageError(f"expected classes, found a quantity in {schema.name}")
    if labels < count or labels % count:
        raise UsageError(
            f"expected a multiple of the {count} classes as the number of labels, "
            f"found {labels}"
        )
    order = np.random.default_rng(request.seed).permutation(len(y))
    at = [order[y[order] == k][: labels // count] for k in range(count)]
    if min(map(len, at)) < labels // count:
        raise UsageError(
            f"expected {labels // count} examples of each class in {schema.name}, "
            f"found {min(map(len, at))}"
        )
    known = np.zeros(len(y), bool)
    known[np.concatenate(at)] = True
    return data._replace(train=data.train | {"known": known})


def apart(request: Split, *, length: int) -> Data:
    """A text whose windows to test on have no character in common."""
    data = load_text(request, length=length)

    def every_second(rows):  # they overlap by half, and their mask says what is new
        return {name: rows[name][::2] for name in ("x", "y")}

    parts = (data.test, data.watched)
    test, watched = (None if rows is None else every_second(rows) for rows in parts)
    return data._replace(test=test, watched=watched)


def pairs(request: Split) -> Data:
    """Sequences, and what each becomes."""
    return load_pairs(request)


def masks(request: Split, *, holdout: float | None = None) -> Data:
    """Images, and the class of each of their pixels."""
    return load_scenes(request, holdout=holdout)


def boxes(request: Split, *, holdout: float | None = None) -> Data:
    """Images, and boxes around what is in them."""
    return load_scenes(request, boxes=True, holdout=holdout)


# These give rows as they are wanted.
text, labelled, words, cells = load_text, load_labelled, load_words, load_cells
graph, triples, ratings = load_graph, load_triples, load_ratings
recordings, spoken = load_recordings, load_strings
