"""Scenes: pictures of known classes, shrunk and put at random places before noise.

Everything here is numpy, on the host. A scene is a pure function of the pictures and a
seed: scenes to test on are made of pictures that none to train on has.
Shapes: G pictures, N scenes, M objects of a scene, H height, W width, C channels.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from train.data import builtin
from train.data.formats import numbers, open_npz
from train.data.parts import split
from train.data.schema import (
    Arrays,
    Data,
    Schema,
    Split,
    given,
    moments,
    request,
    standardize,
)
from train.data.tables import quoted
from zoo.base import UsageError, nearest

TRIES = 30  # places that are drawn for an object before it is left out
MARGIN = 1  # pixels of a picture around its ink: a 1 would be narrow
BACKGROUND = "background"


class Pictures(NamedTuple):
    """Grey pictures x [G, h, w] in [0, 1], labels y [G], and those to test with."""

    train: Arrays
    test: Arrays
    classes: tuple[str, ...]


class Style(NamedTuple):
    """What scenes are like."""

    pictures: Callable[[], Pictures]
    side: int = 48  # pixels of a scene, each way
    sizes: tuple[int, int] = (14, 20)  # of an object's longer side, in pixels
    most: int = 4  # objects of a scene; the fewest are one
    rows: tuple[int, int] = (8000, 1000)  # scenes to train and to test on
    ink: float = 0.5  # what is brighter in a picture is its object


class Scenes(NamedTuple):
    """Scenes as they are made, or read."""

    x: np.ndarray  # [N, H, W, C], pixels 0..255
    mask: np.ndarray | None  # [N, H, W] int32: 0 for the background, or 1 + class
    boxes: np.ndarray | None  # [N, M, 5] int32: top, left, bottom, right, class


def load_scenes(
    source: str | os.PathLike[str] | Data | Split = "digit_scenes",
    *,
    boxes: bool = False,
    holdout: float | None = None,
) -> Data:
    """Images "x" [N, H, W, C], and as "y" their masks [N, H, W] or boxes [N, M, 5].

    A mask has a class for each pixel, 0 for what is behind. Of a box the edges are in
    pixels, the lower and the right one outside; one without an area is none. By a name
    in SCENES, or an .npz file of the user's: x, its pixels 0..255, "mask" or "boxes"
    like these, and "classes", their names, of which a share `holdout`, a fifth for
    None, is to test on. Raises UsageError.
    """
    wanted = request(source)
    if isinstance(wanted.source, Data):
        return given(wanted.source, wanted)
    name = os.fspath(wanted.source)
    kind = "boxes" if boxes else "mask"
    if name in SCENES:
        if holdout:
            raise UsageError(
                f"expected no holdout for {name}, which has a test part, found "
                f"{holdout}"
            )
        classes, *parts = _made(SCENES[name], wanted)
    else:
        share = 0.2 if holdout is None else holdout
        if not 0 <= share < 1:
            raise UsageError(f"expected a holdout of 0 or more, below 1, found {share}")
        classes, *parts = _parted(*read_scenes(name, kind), wanted, share)
    x, y = parts[0].x, getattr(parts[0], kind)
    mean, scale = (tuple(v.tolist()) for v in moments(x))
    schema = Schema(
        name,
        x.shape[1:],
        classes if boxes else (BACKGROUND, *classes),
        mean,
        scale,
        target_shape=y.shape[1:],
        rows=len(x),
    )

    def rows(part):
        return {"x": standardize(schema, part.x), "y": getattr(part, kind)}

    test, watched = (None if part is None else rows(part) for part in parts[1:])
    return Data(schema, rows(parts[0]), test, watched)


def _made(style, wanted):
    """Classes, and scenes to train, to test and to watch, of different pictures."""
    train, test, classes = style.pictures()
    count, tests = style.rows
    watched = None
    if wanted.watched:
        train, kept = split(train, wanted.watched, wanted.seed)
        few = max(1, round(count * wanted.watched))
        count, watched = count - few, compose(kept, few, 2, style)
    return (
        classes,
        compose(train, count, 0, style),
        compose(test, tests, 1, style),
        watched,
    )


def _parted(scenes, classes, wanted, share):
    found = {k: v for k, v in scenes._asdict().items() if v is not None}
    # boxes and masks are no labels to part by
    found["y"] = np.zeros((len(found["x"]), 0), np.int32)
    test = watched = None
    if share:
        found, test = split(found, share, wanted.seed)
    if wanted.watched:
        found, watched = split(found, wanted.watched, wanted.seed)

    def scenes_of(part):
        return part and Scenes(part["x"], part.get("mask"), part.get("boxes"))

    return classes, *map(scenes_of, (found, test, watched))


def compose(pictures: Arrays, count: int, seed: int, style: Style) -> Scenes:
    """`count` scenes of pictures x [G, h, w] in [0, 1] with labels y [G].

    Of two objects at most a tenth of the smaller's box is in the other's; what finds no
    such place is left out. The later is in front.
    """
    draw = np.random.default_rng(seed)
    shape = (count, style.most)
    which = draw.integers(len(pictures["x"]), size=shape)
    first, size = (a[which] for a in _ink(pictures["x"], style.ink))  # [N, M, 2]
    longer = draw.integers(style.sizes[0], style.sizes[1] + 1, size=shape)
    scaled = size * (longer / size.max(-1))[..., None]
    extent = np.maximum(1, np.round(scaled)).astype(int)
    some = np.arange(style.most) < draw.integers(1, style.most + 1, size=(count, 1))
    corner, some = _places(draw, extent, some, style.side)

    canvas = draw.uniform(0, 0.25, (count, style.side, style.side)).astype(np.float32)
    mask = np.zeros(canvas.shape, np.int32)
    label = pictures["y"][which].astype(np.int32)
    for m in range(style.most):
        at = np.flatnonzero(some[:, m])
        places = np.stack([corner, extent, first, size])[:, at, m]
        rows, columns = (
            _weights(places[..., axis], style.side, pictures["x"].shape[1 + axis])
            for axis in (0, 1)
        )
        ink = rows @ pictures["x"][which[at, m]] @ columns.swapaxes(1, 2)
        canvas[at] = ink + (1 - ink) * canvas[at]
        front = 1 + label[at, m][:, None, None]
        mask[at] = np.where(ink > style.ink, front, mask[at])
    boxes = np.concatenate([corner, corner + extent, label[..., None]], -1)
    boxes = np.where(some[..., None], boxes, 0).astype(np.int32)
    return Scenes(np.round(255 * canvas)[..., None], mask, boxes)


def _ink(x, least):
    """Of pictures [G, h, w] the first row and column of the ink's box, and its size.

    With a margin, which may be outside of the picture: [G, 2] both.
    """
    first, last = [], []
    for axis in (2, 1):
        inked = (x > least).any(axis)
        first.append(inked.argmax(1) - MARGIN)
        last.append(inked.shape[1] - inked[:, ::-1].argmax(1) + MARGIN)
    start, end = (np.stack(a, 1).astype(np.float32) for a in (first, last))
    return start, end - start


def _places(draw, extent, some, side):
    """Where objects of extents [N, M, 2] are, [N, M, 2], and which are at all [N, M].

    One after the other: of the places drawn, the first that is free enough.
    """
    free = side + 1 - extent[:, :, None]
    tries = np.floor(draw.uniform(size=(*extent.shape[:2], TRIES, 2)) * free)
    corner, some = tries[:, :, 0].astype(int), some.copy()
    area = extent.prod(-1)
    for m in range(1, extent.shape[1]):
        at, own = tries[:, m].astype(int), extent[:, m, None]
        good = np.ones(at.shape[:2], bool)
        for other in range(m):
            low = np.maximum(at, corner[:, other, None])
            high = np.minimum(at + own, (corner + extent)[:, other, None])
            shared = np.maximum(high - low, 0).prod(-1)
            smaller = np.minimum(area[:, m], area[:, other])[:, None]
            good &= (shared <= 0.1 * smaller) | ~some[:, other, None]
        corner[:, m] = at[np.arange(len(at)), good.argmax(1)]
        some[:, m] &= good.any(1)
    return corner, some


def _weights(places, side, length):
    """How much each pixel of a scene has of a picture's rows: [n, side, length].

    `places` [4, n] are corner, extent, first, size: `size` rows of the picture, from
    `first` on, are seen from `corner` on, in `extent` pixels, each the mean of what it
    covers.
    """
    corner, extent, first, size = places.astype(np.float32)[..., None, None]
    pixel, row = np.arange(side)[None, :, None], np.arange(length)[None, None]
    step = size / extent
    low = first + (pixel - corner) * step
    covered = np.minimum(low + step, row + 1) - np.maximum(low, row)
    inside = (pixel >= corner) & (pixel < corner + extent)
    return np.where(inside, np.maximum(covered, 0) / step, 0).astype(np.float32)


# Where scenes come from ---------------------------------------------------------------


def read_scenes(name: str, kind: str) -> tuple[Scenes, tuple[str, ...]]:
    """A file of scenes with their "mask" or "boxes", and the classes' names.

    Raises UsageError for what cannot be that.
    """
    path = Path(name)
    if path.suffix != ".npz" or not path.is_file():
        raise UsageError(
            f"expected an .npz file or one of the scenes {', '.join(SCENES)}, found "
            f'"{name}"' + nearest(name, list(SCENES))
        )
    arrays = open_npz(path)
    if absent := [key for key in ("x", kind) if key not in arrays]:
        raise UsageError(
            f"expected {' and '.join(absent)} in {path}, found {quoted(list(arrays))}"
        )
    x, y = numbers(arrays["x"], f"x of {path}"), arrays[kind]
    x = x[..., None] if x.ndim == 3 else x
    shape = x.shape[:3] if kind == "mask" else (len(x), *y.shape[1:2], 5)
    if x.ndim != 4 or y.shape != shape or y.dtype.kind not in "iu":
        wanted = "[N, H, W]" if kind == "mask" else "[N, M, 5]"
        raise UsageError(
            f"expected images x [N, H, W, C] and integers {kind} {wanted} in {path}, "
            f"found shapes {x.shape} and {y.shape}"
        )
    first = kind == "mask"  # of whose labels 0 is the background
    labels = y if first else y[..., 4][_areas(y) > 0]
    named = arrays.get("classes", range(int(labels.max(initial=0)) + 1 - first))
    classes = tuple(map(str, named))
    most = len(classes) - 1 + first
    if (wrong := labels[(labels < 0) | (labels > most)]).size:
        raise UsageError(
            f"expected labels from 0 to {most} in {kind} of {path}, found {wrong[0]}"
        )
    ends = np.array([*x.shape[1:3]] * 2)
    if kind == "boxes" and ((y[..., :4] < 0) | (y[..., :4] > ends)).any():
        raise UsageError(f"expected boxes within images {x.shape[1:3]} in {path}")
    if kind == "boxes" and (turned := y[(y[..., 2:4] < y[..., :2]).any(-1)]).size:
        raise UsageError(
            f"expected boxes of top, left, bottom, right and class in {path}, found "
            f"{turned[0].tolist()}"
        )
    y = y.astype(np.int32)
    return Scenes(x, *((y, None) if kind == "mask" else (None, y))), classes


def _areas(boxes):
    sides = boxes[..., 2:4].astype(int) - boxes[..., :2]
    return np.where((sides > 0).all(-1), sides.prod(-1), 0)


def _real(*names: str) -> Pictures:
    """The pictures of data sets, each with classes of its own, and their test parts."""
    found = [builtin.NAMES[name]() for name in names]
    parts: tuple[list[Arrays], ...] = [], []
    before = 0
    for rows in found:
        assert rows.test is not None
        for part, (x, y) in zip(parts, ((rows.x, rows.y), rows.test), strict=True):
            x = x.reshape(len(x), 28, 28).astype(np.float32) / 255
            part.append({"x": x, "y": y + before})
        before += len(rows.classes)

    def joined(part: list[Arrays]) -> Arrays:
        return {key: np.concatenate([each[key] for each in part]) for key in part[0]}

    classes = sum((rows.classes for rows in found), ())
    return Pictures(joined(parts[0]), joined(parts[1]), classes)


def _shapes() -> Pictures:
    """A square, a frame and a cross, drawn here: for tests, and to look at."""
    x = np.zeros((3, 8, 8), np.float32)
    x[:2] = 1
    x[1, 2:-2, 2:-2] = 0
    x[2, 3:5] = x[2, :, 3:5] = 1
    rows: Arrays = {"x": np.tile(x, (4, 1, 1)), "y": np.tile(np.arange(3), 4)}
    return Pictures(rows, rows, ("square", "frame", "cross"))


SCENES = {
    "digit_scenes": Style(partial(_real, "mnist5k")),
    "clothes_scenes": Style(partial(_real, "fashion_mnist"), ink=0.1),  # some are dark
    "mixed_scenes": Style(partial(_real, "mnist5k", "fashion_mnist"), ink=0.25),
    "shape_scenes": Style(_shapes, 16, (6, 9), 2, (256, 64)),
}
"""Of the clothes the files may have to be downloaded; the others are at hand."""
