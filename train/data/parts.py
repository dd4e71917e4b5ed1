"""Rows parted at random, or a text at its end: what is held out, what is watched."""

import numpy as np

from zoo.base import UsageError

Arrays = dict[str, np.ndarray]

OVERLAP = 8  # so many windows of a text, at most, have a character in common


def _windows_of_text(arrays):
    """Whether every y is its x one later: windows that overlap, in the text's order."""
    x, y = arrays["x"], arrays["y"]
    return y.ndim == 2 and x.shape == y.shape and bool((x[:, 1:] == y[:, :-1]).all())


def split(arrays: Arrays, fraction: float, seed: int = 0) -> tuple[Arrays, Arrays]:
    """Rows -> (the rest, a random fraction of them); by class where y is labels.

    Of the windows of one text, the last instead: none of the characters that they
    predict is in the rest. Raises UsageError where either part would lack a class or be
    empty.
    """
    if _windows_of_text(arrays):
        cut = round(len(arrays["y"]) * (1 - fraction))
        if not OVERLAP <= cut < len(arrays["y"]):
            raise UsageError(
                f"expected enough text to set a fraction of {fraction:g} aside, found "
                f"{len(arrays['y'])} windows"
            )
        at = slice(cut - OVERLAP + 1), slice(cut, None, OVERLAP)
        rest, part = ({k: v[rows] for k, v in arrays.items()} for rows in at)
        return rest, part
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
            _, counts = np.unique(y, return_counts=True)
            found += f" of {len(counts)} classes, the rarest with {counts.min()}"
        raise UsageError(
            f"expected enough rows to set a fraction of {fraction:g} aside, each part "
            f"with examples of every class, found {found}"
        ) from None
    rest, part = ({k: v[rows] for k, v in arrays.items()} for rows in parts)
    return rest, part
