"""Images as they were read, and as a training step reads them.

Shapes: N images, H height, W width, C channels.
"""

from collections.abc import Callable

import jax
import numpy as np

from train.data import Arrays, Schema
from train.source import Source

CLASSES, EACH = 10, 4  # so many at most


def sheet(
    schema: Schema, rows: Arrays, batches: Callable[[Arrays, int | None], Source]
) -> tuple[np.ndarray, list[str] | None]:
    """Images [8 K, H, W, C] in [0, 1], and the titles of K rows of eight.

    A row for each class: four of its images, and beside them the same, augmented.

    Without augmentation there are eight of them. Of a quantity, the first in order.
    """
    labels = rows["y"] if schema.classes and rows["y"].ndim == 1 else None
    places = [np.arange(len(rows["x"]))]
    if labels is not None:
        places = [np.flatnonzero(labels == k) for k in range(len(schema.classes))]
        places = [at for at in places if len(at)][:CLASSES]
    picked = [np.resize(at, 2 * EACH) for at in places]
    index = np.stack(picked)
    shown = {name: array[index[:, :EACH].ravel()] for name, array in rows.items()}
    changed = _changed(shown, batches)
    if changed is None:
        x = rows["x"][index]
    else:
        halves = [v.reshape(len(index), EACH, *schema.shape) for v in changed]
        x = np.concatenate(halves, 1)
    titles = None
    if labels is not None:
        titles = [schema.classes[labels[at[0]]] for at in places]
    return _grey_levels(schema, x.reshape(-1, *schema.shape)), titles


def _changed(rows, batches):
    """x, and what a step reads of it; None where that is the same, or no image."""
    if "known" in rows:  # a step pairs images with others
        return None
    source = batches(rows, None)
    batch = jax.jit(source.batch)(source.arrays, np.uint32(0), np.int32(0))
    x, after = rows["x"], np.asarray(batch["x"])
    same = after.shape != x.shape or np.allclose(after, x, atol=1e-3)
    return None if same else (x, after)


def _grey_levels(schema, x):
    """Standardised images [N, H, W, C] -> in [0, 1], of 1 or 3 channels."""
    x = x * np.array(schema.scale, "f4") + np.array(schema.mean, "f4")
    low, high = float(x.min()), float(x.max())
    if low > -1 and 1 < high < 256:  # rounding, and what interpolates, aside
        low, high = 0.0, 255.0
    x = ((x - low) / max(high - low, 1e-6)).clip(0, 1)
    return x[..., :3] if x.shape[-1] >= 3 else x[..., :1]
