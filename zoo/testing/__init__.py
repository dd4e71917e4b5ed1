"""What every task holds to, as a function for a model of your own: `check_task`.

    from zoo import testing

    def test_my_task():
        testing.check_task(my_task, {"x": x, "y": y})

`CHECKS` are functions of a `Case` by name; each says in its docstring what holds. They
compile the loss a few times: seconds for a small model. What is a model's own, its
mathematics, is for a test of its own. scikit-learn's `check_estimator` is the pattern.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from zoo.base import Batch
from zoo.checks import check_rows, nearest
from zoo.testing import learning, outputs
from zoo.testing.case import Case as Case

CHECKS: dict[str, Callable[[Case], None]] = {
    check.__name__: check for check in (*outputs.CHECKS, *learning.CHECKS)
}


def check_task(
    task: Any, batch: Batch, *, skip: Sequence[str] = (), seed: int = 0
) -> None:
    """Raise AssertionError, which names them, for the checks that a task fails.

    `batch` is of four rows or more, no two alike, without a mask. `skip` names checks
    that cannot hold: of a game "falls_along_its_gradient", for one. Raises UsageError
    for a batch that cannot be right, and ValueError for a name that there is not.
    """
    for name in skip:
        if name not in CHECKS:
            raise ValueError(f"no check is named {name!r}{nearest(name, [*CHECKS])}")
    check_rows(batch, "batch")
    failed = dict(failures(Case(task, batch, seed), skip))
    if failed:
        lines = "\n".join(f"  {name}: {said}" for name, said in failed.items())
        raise AssertionError(f"{len(failed)} of {len(CHECKS)} checks fail:\n{lines}")


def failures(case: Case, skip: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """(name, what failed) of each check that does not hold."""
    for name, holds in CHECKS.items():
        if name in skip:
            continue
        try:
            holds(case)
        except Exception as error:  # what a task raises is its failure
            said = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            yield name, f"{holds.__doc__} ({said[:200]})"
            if holds is outputs.is_a_task:
                return  # all others would fail, too
