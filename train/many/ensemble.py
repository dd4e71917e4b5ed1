"""Several models of one kind as one: their mean prediction, their mean parameters.

Lakshminarayanan et al., "Simple and scalable predictive uncertainty estimation using
deep ensembles", 2017, arXiv:1612.01474.
Shapes: S members, N rows, K classes.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.evaluate import predict
from train.loop import Callback, trained
from train.step import State, Trained
from zoo.base import Model, Task, UsageError, apply, check_int


def stacked(members: Any) -> Trained:
    """A list of `Trained` -> one of arrays [S, ...], as `Sweep.trained` has it."""
    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *members)


def predictions(
    task: Task, members: Trained, x: Any, *, batch_size: int = 500
) -> np.ndarray:
    """What each of S stacked members predicts: probabilities [S, N, K], or values.

    Their mean over S is the ensemble's. `x` is as in `train.evaluate.predict`.
    """
    if task.predict is None:
        raise UsageError("this task has no predictions")
    one = task.predict

    def all_of(params, state, batch):
        each = jax.vmap(one, (0, 0, None))(params, state, batch)
        return jnp.moveaxis(each, 0, 1)

    whole = task._replace(predict=all_of)
    return np.moveaxis(predict(whole, members, x, batch_size=batch_size), 1, 0)


def snapshots(every: int) -> tuple[Callback, list[Trained]]:
    """A callback that keeps what a training has after each `every` steps, and the list.

    With a rate that falls and rises again they are a snapshot ensemble (Huang et al.
    2017, arXiv:1704.00109); their `mean` is stochastic weight averaging. Log lines must
    fall on these steps.
    """
    check_int("every", every, 1)
    kept: list[Trained] = []

    def keep(state: State, record: dict | None) -> None:
        if record is not None and record["step"] % every == 0:
            kept.append(trained(state))

    return keep, kept


def mean(members: Trained) -> Trained:
    """The mean of S stacked members' parameters: one model (Izmailov et al. 2018).

    "Averaging weights leads to wider optima and better generalization",
    arXiv:1803.05407. Of one training, past the fall of its loss: the mean of trainings
    from different seeds is no model. Statistics of batch norm are averaged too.
    """

    def middle(a):
        return (
            a.mean(0).astype(a.dtype) if jnp.issubdtype(a.dtype, jnp.inexact) else a[0]
        )

    return jax.tree.map(middle, members)


def dropped(
    model: Model,
    link: Callable[[Any], Any],
    found: Trained,
    x: Any,
    *,
    samples: int,
    seed: int = 0,
) -> np.ndarray:
    """Predictions [S, N, K] of S networks that dropout draws (Gal & Ghahramani 2016).

    "Dropout as a Bayesian approximation", arXiv:1506.02142. `link` makes predictions of
    outputs: softmax, for classes. Row i of sample s has a mask of its own. Raises
    UsageError for a model with batch norm, which would see other statistics.
    """
    if found.model:
        raise UsageError("expected a model without batch norm to draw by dropout")
    keys = jax.random.split(jax.random.key(seed), check_int("samples", samples, 1))

    @jax.jit
    def draw(params, x, key):
        outputs, _ = apply(model, params, {}, x, key=key, train=True)
        return link(outputs)

    return np.stack([draw(found.params, jnp.asarray(x), key) for key in keys])
