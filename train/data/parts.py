"""Rows parted at random: what is held out, what is watched."""

from collections.abc import Sequence

import numpy as np

from zoo.base import UsageError

Arrays = dict[str, np.ndarray]


def split(
    arrays: Arrays, fraction: float, seed: int = 0, classes: Sequence[str] = ()
) -> tuple[Arrays, Arrays]:
    """Rows -> (the rest, a random fraction of them); by class where y is labels.

    Raises UsageError where either part would lack a class or be empty; it names the
    rarest of `classes`, where these are given.
    """
    from sklearn.model_selection import train_test_split  # a second to import

    y = arrays["y"]
    by_class = y if y.dtype.kind in "iu" and y.ndim == 1 else None
    try:
        parts = train_test_split(
            np.arange(len(y)),
            test_size=float(fraction),
            random_state=seed,
            stratify=by_class,
        )
    except ValueError:
        found = f"{len(y)} rows"
        if by_class is not None:
            labels, counts = np.unique(y, return_counts=True)
            rarest = labels[counts.argmin()]
            name = f', "{classes[rarest]}",' if classes else ""
            found += f" of {len(counts)} classes, the rarest{name} with {counts.min()}"
        raise UsageError(
            f"expected enough rows to set a fraction of {fraction:g} aside, each part "
            f"with examples of every class, found {found}"
        ) from None
    rest, part = ({k: v[rows] for k, v in arrays.items()} for rows in parts)
    return rest, part
