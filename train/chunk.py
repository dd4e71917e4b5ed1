"""The compiled part of a training: chunks of the one step.

A chunk is one program that runs any number of steps over data that lies on the device;
chunked, single-stepped and resumed runs are therefore bit-equal on one device.
"""

import operator
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from train import mesh as meshes
from train import programs
from train.data.augment import Augment

# Streams of keys beside the steps' own, which are numbered below 2^31.
ORDER, AUGMENT = 2**31, 2**31 + 1


def permutations(seed: jax.Array, epoch: jax.Array, count: int, n: int) -> jax.Array:
    """The order of the examples in epochs epoch, epoch + 1, ...: [count * n] indices.

    A pure function of the seed and the epoch; each epoch is a permutation of range(n).
    """
    key = jax.random.fold_in(jax.random.key(seed), ORDER)

    def order(e):
        return jax.random.permutation(jax.random.fold_in(key, e), n)

    return jax.vmap(order)(epoch + jnp.arange(count)).reshape(-1)


def augmented(step: Callable, augment: Augment | None) -> Callable:
    """The step on batches that are augmented, by a key of the seed and the step."""
    if augment is None:
        return step

    def update(state, batch):
        key = jax.random.fold_in(jax.random.key(state.seed), AUGMENT)
        return step(state, augment(jax.random.fold_in(key, state.step), batch))

    return update


def make_chunk(step: Callable, size: int, mesh: jax.sharding.Mesh | None = None):
    """chunk(state, total, data, order, offset, stop) -> (state, total): pure.

    Runs a step (`train.step`) on data[order[offset : offset + size]], the next `size`,
    ... until `stop`, adding the metrics to `total`; order None means all of the data
    each time. A traced bound makes one program serve every length.
    """

    def chunk(state, total, data, order, offset, stop):
        begin = state.step

        def body(t, carry):
            state, total = carry
            batch = data
            if order is not None:
                at = jax.lax.dynamic_slice_in_dim(
                    order, offset + (t - begin) * size, size
                )
                batch = jax.tree.map(lambda a: a[at], data)
            if mesh is not None:
                batch = meshes.rows(mesh, batch)
            state, metrics = step(state, batch)
            return state, jax.tree.map(operator.add, total, metrics)

        return jax.lax.fori_loop(begin, stop, body, (state, total))

    return chunk


def _finite(tree):
    """Whether all numbers are finite: a bool scalar."""
    floats = [a for a in jax.tree.leaves(tree) if jnp.issubdtype(a.dtype, jnp.inexact)]
    return jnp.all(jnp.array([jnp.isfinite(a).all() for a in floats]))


class Runner:
    """A compiled chunk with what it needs at hand: data, order, running metrics."""

    def __init__(self, step, data, n, size, length, mesh, state):
        self._data, self._n, self._size, self._length = data, n, size, length
        # the next `length` batches may begin anywhere in an epoch: one epoch more
        self._count = -(-length * size // n) + 1
        self._epoch, self._order = None, None
        self._pace, self._busy, self._examples = 1.0, 0.0, 0
        self._permutations = jax.jit(permutations, static_argnums=(2, 3))
        chunk = make_chunk(step, size, mesh)

        def checked(*args):
            state, total = chunk(*args)
            return state, total, _finite((state.params, state.model))

        one_batch = jax.tree.map(lambda a: a[:size], data)
        shapes = jax.eval_shape(step, state, one_batch)[1]
        self._zero = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
        self._total = self._zero
        args = (state, self._total, data, *self._batches(state, int(state.step)), 0)
        self._run, _ = programs.compiled(checked, *args, donate_argnums=0)
        self._finite = np.True_

    def _batches(self, state, now):
        """The order of the examples from step `now` on, and where that step begins."""
        if self._size == self._n:
            return None, 0
        epoch, offset = divmod(now * self._size, self._n)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = self._permutations(
                np.uint32(state.seed), np.int32(epoch), self._count, self._n
            )
        return self._order, offset

    def __call__(self, state, now, boundary):
        """Train until `boundary`, or for about a second; the new state and step."""
        stop = min(boundary, now + self._length, now + max(1, int(self._pace)))
        began = time.perf_counter()
        order, offset = self._batches(state, now)
        state, self._total, self._finite = self._run(
            state, self._total, self._data, order, offset, stop
        )
        # reading a number would block signals until the chunk ends; this does not
        jax.block_until_ready(self._total)
        seconds = time.perf_counter() - began
        self._pace = (stop - now) / seconds
        self._busy += seconds
        self._examples += (stop - now) * self._size
        return state, stop

    def finite(self):
        """Whether parameters and model state are, after the last step."""
        return bool(self._finite)

    def metrics(self):
        """The means since the last call, and the speed of the steps alone."""
        values = {name: float(mean.value()) for name, mean in self._total.items()}
        values["examples_per_second"] = self._examples / max(self._busy, 1e-9)
        self._total, self._busy, self._examples = self._zero, 0.0, 0
        return values
