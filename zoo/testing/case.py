"""A task on a batch, and how two trees are compared."""

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zoo.base import Batch, Mean, masked

CLOSE: dict[str, Any] = {"rtol": 2e-4, "atol": 2e-5}  # float32 sums in another order


class Case:
    """A task on a batch, with what several checks need computed once."""

    def __init__(self, task: Any, batch: Batch, seed: int = 0):
        self.task, self.batch, self.seed = task, jax.tree.map(jnp.asarray, batch), seed
        self.rows = len(batch["x"])

    def key(self, i: int = 0) -> Any:
        """The i-th key."""
        return jax.random.fold_in(jax.random.key(self.seed), i)

    @cached_property
    def begun(self) -> Any:
        """(params, state) of a fresh model."""
        return jax.jit(self.task.init)(self.key(), self.batch)

    @cached_property
    def moved(self) -> Any:
        """Parameters a little away: zeros would hide what stands before them."""
        rng = np.random.default_rng(self.seed)
        return jax.tree.map(
            lambda p: p + 0.05 * rng.normal(size=p.shape).astype(p.dtype), self.begun[0]
        )

    @cached_property
    def trains(self) -> Callable[..., Any]:
        """((value, Aux), gradient) of (params, state, batch, key), in training."""
        loss = partial(self.task.loss, train=True)
        return jax.jit(jax.value_and_grad(loss, has_aux=True))

    @cached_property
    def judges(self) -> Callable[..., Any]:
        """(value, Aux) of (params, state, batch, key), in evaluation."""
        return jax.jit(partial(self.task.loss, train=False))

    @cached_property
    def trained(self) -> Any:
        """What `trains` gives of the batch."""
        return self.trains(self.moved, self.begun[1], self.batch, self.key(1))

    @cached_property
    def judged(self) -> Any:
        """What `judges` gives of the batch."""
        return self.judges(self.moved, self.begun[1], self.batch, self.key(1))

    @cached_property
    def predicts(self) -> Callable[..., Any]:
        """predict(params, state, batch), compiled."""
        predict: Any = self.task.predict
        return jax.jit(predict)

    @cached_property
    def predicted(self) -> Any:
        """What is predicted of the batch."""
        return self.predicts(self.moved, self.begun[1], self.batch)

    def alone(self, batch: Batch) -> dict[str, Mean]:
        """Metrics of a batch, each row of it by itself, with a key of its own."""
        rows = masked(batch)
        keys = jax.vmap(partial(jax.random.fold_in, self.key(2)))(
            jnp.arange(len(rows["x"]))
        )

        def one(row, key):
            lone = jax.tree.map(lambda a: a[None], row)
            return self.judges(self.moved, self.begun[1], lone, key)[1].metrics

        return jax.tree.map(lambda a: a.sum(0), jax.vmap(one)(rows, keys))

    @cached_property
    def each(self) -> dict[str, Mean]:
        """`alone` of the batch."""
        return self.alone(self.batch)

    @cached_property
    def padded(self) -> Batch:
        """The batch with two rows of junk behind it, which a mask drops."""

        def pad(a):
            junk = jnp.nan if jnp.issubdtype(a.dtype, jnp.inexact) else 1
            return jnp.concatenate([a, jnp.full_like(a[:2], junk)])

        mask = jnp.array([1.0] * self.rows + [0.0] * 2)
        return jax.tree.map(pad, self.batch) | {"mask": mask}

    @property
    def still(self) -> bool:
        """Whether evaluation draws nothing, as that of a task that predicts."""
        return self.task.predict is not None


def same(a: Any, b: Any, **close: Any) -> None:
    """Raise AssertionError unless two trees are equal, or close."""
    trees: Any = jax.tree.structure(a), jax.tree.structure(b)
    assert trees[0] == trees[1], "other trees"
    for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(p, q, **({"rtol": 0.0, "atol": 0.0} | close))


def kinds(tree: Any) -> Any:
    """The shape and the type of each array."""
    return jax.tree.map(lambda a: (np.shape(a), jnp.asarray(a).dtype.name), tree)


def finite(tree: Any) -> bool:
    """Whether all numbers are."""
    return all(bool(jnp.isfinite(a).all()) for a in jax.tree.leaves(tree))


def turned(batch: Batch) -> Batch:
    """The rows in the other order."""
    return jax.tree.map(lambda a: a[::-1], batch)
