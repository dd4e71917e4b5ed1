"""Scores of what is found in images: classes of pixels, and boxes.

Everything here is numpy, on the host.
Shapes: N images, H height, W width, K classes, M boxes of an image, P boxes found.
"""

from typing import Any

import numpy as np

from zoo.base import UsageError


def segmentation(found: Any, y: Any, classes: tuple[str, ...]) -> dict[str, Any]:
    """Classes of pixels found and there, [N, H, W] both, of all images as of one.

    "dice" is the mean over the classes but the first, the background, of 2 |A B| /
    (|A| + |B|), which is the F1 of the pixels; of those that occur at all. Raises
    UsageError for shapes that differ, and labels that are none.
    """
    found, y, k = np.asarray(found), np.asarray(y), len(classes)
    if found.shape != y.shape or y.ndim != 3 or not y.size:
        raise UsageError(
            f"expected classes of pixels [N, H, W], found shapes {found.shape} and "
            f"{y.shape}"
        )
    if min(found.min(), y.min()) < 0 or max(found.max(), y.max()) >= k:
        raise UsageError(f"expected classes of pixels from 0 to {k - 1}")
    pairs = k * y.ravel().astype(np.int64) + found.ravel()
    confusion = np.bincount(pairs, minlength=k * k).reshape(k, k)
    right, there, said = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    occurs = (there + said)[1:] > 0
    f1 = 2 * right / np.maximum(there + said, 1)
    each = {
        name: {
            "precision": float(right[c] / max(said[c], 1)),
            "recall": float(right[c] / max(there[c], 1)),
            "f1": float(f1[c]),
            "support": int(there[c]),
        }
        for c, name in enumerate(classes)
    }
    return {
        "dice": float(f1[1:][occurs].mean()) if occurs.any() else None,
        "accuracy": float(right.sum() / y.size),
        "per_class": each,
    }


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What boxes a [..., P, 4] and b [..., M, 4] share, over what they cover.

    [..., P, M]; 0 where a box has no area.
    """
    a, b = a[..., :, None, :], b[..., None, :, :]
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    shared = np.maximum(high - low, 0).prod(-1)
    areas = [np.maximum(c[..., 2:] - c[..., :2], 0).prod(-1) for c in (a, b)]
    union = areas[0] + areas[1] - shared
    return np.where(shared > 0, shared / np.where(union > 0, union, 1), 0.0)


def average_precisions(
    found: Any, y: Any, classes: int, least: float = 0.5
) -> np.ndarray:
    """The average precision of each class [K]: the area under the highest precision at
    each recall or a higher one; NaN for a class that no image has.

    found [N, P, 6]: four edges, class, score; y [N, M, 5]: four edges and class. In the
    order of their scores, of all images, boxes are right whose IoU with a box of their
    class is `least` or more, if no earlier one had that: Everingham et al., "The PASCAL
    visual object classes challenge", 2010, section 4.2 (as from 2010 on, at all
    recalls). Raises UsageError for other shapes.
    """
    found, y = np.asarray(found, np.float64), np.asarray(y)
    if (
        found.ndim != 3
        or y.ndim != 3
        or len(found) != len(y)
        or ((found.shape[-1], y.shape[-1]) != (6, 5))
    ):
        raise UsageError(
            f"expected boxes found [N, P, 6] and boxes [N, M, 5], found shapes "
            f"{found.shape} and {y.shape}"
        )
    real = (y[..., 2:4] > y[..., :2]).all(-1)
    overlap = iou(found[..., :4], y[..., :4].astype(np.float64))
    same = (found[..., 4, None] == y[:, None, :, 4]) & real[:, None]
    overlap = np.where(same, overlap, 0)
    best, at = overlap.max(-1, initial=0), _argmax(overlap)
    precisions = np.full(classes, np.nan)
    for k in range(classes):
        total = int((real & (y[..., 4] == k)).sum())
        if total:
            image, place = np.nonzero(found[..., 4] == k)
            order = np.argsort(-found[image, place, 5], kind="stable")
            image, place = image[order], place[order]
            hit = best[image, place] >= least
            # of those that hit one box, the first alone
            box = image * y.shape[1] + at[image, place]
            first = np.zeros(len(box), bool)
            first[np.flatnonzero(hit)[np.unique(box[hit], return_index=True)[1]]] = True
            precisions[k] = _area(first, total)
    return precisions


def _argmax(overlap):
    return (
        overlap.argmax(-1) if overlap.shape[-1] else np.zeros(overlap.shape[:-1], int)
    )


def _area(right, total):
    """Of what is right, best first, the area under the curve of precision."""
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return float(highest[right].sum() / total)


def detection(found: Any, y: Any, classes: tuple[str, ...]) -> dict[str, Any]:
    """Boxes found [N, P, 6] and there [N, M, 5] -> scores, as `average_precisions`.

    "map" is the mean over the classes that occur at an IoU of one half, "map_75" at
    three quarters. Raises UsageError.
    """
    half, three = (
        average_precisions(found, y, len(classes), least) for least in (0.5, 0.75)
    )
    occurs = ~np.isnan(half)
    return {
        "map": float(half[occurs].mean()) if occurs.any() else None,
        "map_75": float(three[occurs].mean()) if occurs.any() else None,
        "average_precision": {
            name: float(value)
            for name, value, some in zip(classes, half, occurs, strict=True)
            if some
        },
    }
