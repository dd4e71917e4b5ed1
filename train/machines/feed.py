"""Data on their way to the devices: all of them once, or a stream block by block.

Where processes train together, each reads its own rows of a stream's batches.
Shapes: C steps of a block, B examples that a step reads.
"""

import functools
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from train.machines import hosts
from train.machines.devices import replicate
from train.source import Source
from zoo.base import UsageError


def feed(
    source: Source, seed: int, first: int, steps: int, mesh: Mesh | None, check: Any
) -> Generator[tuple[Any, int], None, None]:
    """(arrays on the device, the step before which they end), from step `first` on.

    Of a stream the next ones are read, and checked by check(rows, at), while those
    before them are used; at(i) says which row the i-th is. Raises UsageError where it
    ends before `steps`.
    """
    if source.stream is None:
        whole = source.arrays if mesh is None else replicate(mesh, source.arrays)
        yield jax.tree.map(jnp.asarray, whole), steps
        return
    part = functools.partial(own, mesh)
    count, take = _length(source.arrays[1]), source.stream.start(seed, first, part)

    def load(first):
        block, rows = take(count)
        flat = {k: a.reshape(-1, *a.shape[2:]) for k, a in block.items()}

        def at(i):
            step, i_ = divmod(int(i), len(range(source.size)[part(source.size)]))
            row = f"example {i_}" if rows is None else f"row {rows.flat[i]}"
            return f"{row} of step {first + step}"

        if block:
            check(flat, at)
        return block

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(load, first)
        while True:
            block = hosts.together(ahead.result)
            found = -int(hosts.most(-_length(block) if block else 0))
            if found == 0:
                raise UsageError(f"expected {steps} batches, found {first}")
            start, first = np.int32(first), first + found
            if first < steps:
                ahead = pool.submit(load, first)
            if found < count:
                rest = [(0, count - found)]
                block = {
                    k: np.pad(a, rest + [(0, 0)] * (a.ndim - 1))
                    for k, a in block.items()
                }
            on = jax.device_put(start) if mesh is None else replicate(mesh, start)
            yield (on, _spread(mesh, block)), first


def _length(block):
    return len(next(iter(block.values()))) if isinstance(block, dict) else 0


def own(mesh: Mesh | None, size: int) -> slice:
    """Which rows of a batch lie on the devices of this process."""
    if mesh is None or not mesh.is_multi_process:
        return slice(0, size)
    ours = jax.process_index()
    at = [i for i, d in enumerate(mesh.devices.flat) if d.process_index == ours]
    return slice(at[0] * size // mesh.size, (at[-1] + 1) * size // mesh.size)


def _spread(mesh, block):
    """A block [C, B, ...], of whose rows each process has its own, on the devices."""
    if mesh is None:
        return jax.device_put(block)
    split = NamedSharding(mesh, PartitionSpec(None, mesh.axis_names))
    parts = mesh.size // len(mesh.local_devices)

    def one(a):
        a = np.asarray(a, jax.dtypes.canonicalize_dtype(a.dtype))
        shape = (len(a), a.shape[1] * parts, *a.shape[2:])
        return jax.make_array_from_process_local_data(split, a, shape)

    return jax.tree.map(one, block)
