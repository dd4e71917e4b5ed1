"""Several columns to predict: quantities, or labels that exclude none.

Shapes: N examples, T targets.
"""

from collections.abc import Sequence

import numpy as np

from train.data.formats import numbers, quoted
from zoo.base import UsageError


def check_targets(names: Sequence[str], what: str) -> Sequence[str]:
    """The names of targets. Raises UsageError for one that stands twice."""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(
            f"expected each target of {what} once, found {quoted(twice)} twice"
        )
    return names


def several(
    y: np.ndarray, names: tuple[str, ...], kind: str | None, what: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Numbers [N, T] by their names -> (y, the names of labels, () for quantities).

    Where all are 0 or 1 they are labels, int32, else float64; with the kind
    "regression" quantities whatever they are. Raises UsageError for a name that stands
    twice, for what is no number, and for labels beside quantities.
    """
    check_targets(names, what)
    numbers(y, what)
    label = [bool(np.isin(each, (0, 1)).all()) for each in y.T]
    if kind == "regression" or (not any(label) and kind is None):
        return y.astype(np.float64), ()
    if not all(label):
        both = [[n for n, is_ in zip(names, label, strict=True) if is_ == k]
                for k in (True, False)]  # fmt: skip
        raise UsageError(
            f"expected in {what} labels that are all 0 or 1, or quantities alone, "
            f"found {quoted(both[0])} of 0 and 1, {quoted(both[1])} of other numbers: "
            "the kind regression reads all as quantities"
        )
    return y.astype(np.int32), names
