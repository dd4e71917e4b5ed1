"""Sources of data larger than the device or the memory, read block by block.

A block of the batches of the next steps is read, and checked, by a thread while the one
before it is learned from: three are in memory at most.
Shapes: N rows, B examples that a step reads, C steps of a block.
"""

import functools
import itertools
import math
import mmap
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.source import Arrays, Source, Stream, count_rows, order, shapes
from zoo.base import UsageError, check_int

BLOCK = 2**24  # bytes of a block
PIECE = 2048  # rows read of a file at once: each may map 64 KiB of it


def streamed(arrays: Arrays, size: int) -> Source:
    """`examples` of arrays larger than the device, or, memory-mapped, than the memory.

    The same order, and the same training to the bit: {"x": np.load("x.npy",
    mmap_mode="r"), ...}. Raises UsageError as `examples` does.
    """
    n, size = count_rows(arrays), check_int("size", size, 1)

    def start(seed, first, part=slice):
        steps = itertools.count(first)

        def take(count):
            at = np.array(list(itertools.islice(steps, count)), np.int32)
            found = np.asarray(_orders(np.uint32(seed), at, size, n))
            rows = np.arange(n)[None].repeat(count, 0) if size == n else found
            rows = rows[:, part(size)]  # each process reads its own
            return {k: _gather(a, rows) for k, a in arrays.items()}, rows

        return take

    def describe():
        some = np.linspace(0, n - 1, 100).astype(int)
        return {
            k: f"{a.dtype} {list(a.shape)} {zlib.crc32(a[some].tobytes()):08x}"
            for k, a in sorted(arrays.items())
        }

    like = {
        k: jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype)
        for k, a in arrays.items()
    }
    return _stream(like, n, Stream(start, describe))


def batches(make: Iterable | Callable[[], Iterator], size: int | None = None) -> Source:
    """Batches {"x": [B, ...], ...} of an iterable, or of the iterators of `make()`.

    With `size`, of examples {"x": [...], ...}, so many to a batch. Where it ends, it
    begins again. A training that is resumed begins where it was in what can be cut,
    a list or a grain `MapDataset` (of ArrayRecord files), and reads past what it had
    read of all else. Raises UsageError for what yields no such thing.
    """
    begin = make if callable(make) else lambda: iter(make)
    once = not callable(make) and iter(make) is make  # an iterator, read but once
    opened = begin()
    kept = next(opened, None)
    if not isinstance(kept, dict) or not kept:
        found = type(kept).__name__
        raise UsageError(f"expected an iterable of dicts of arrays, found {found}")
    like = shapes({k: np.asarray(a) for k, a in kept.items()})
    passes = [itertools.chain([kept], opened)] if once else None
    cut: Any = make if hasattr(make, "__getitem__") and not once else None

    def items(first):
        if passes is not None:
            if not passes:
                raise UsageError("expected a function: the iterator has been read")
            yield from passes.pop()
            return
        if cut is not None and first:
            yield from cut[first % len(cut) :]
        while (found := next(one := begin(), None)) is not None:
            yield found
            yield from one

    def checked(one):
        one = {k: np.asarray(a) for k, a in one.items()}
        if shapes(one) != batch:
            raise UsageError(f"expected batches of {batch}, found {shapes(one)}")
        return one

    def start(seed, first, part=slice):
        past = first if cut is None else 0
        found = _grouped(items((first - past) * (size or 1)), size)
        found = itertools.islice(found, past, None)

        def take(count):
            got: list[Arrays] = []
            # slow data are not waited for, but where all processes must have as many
            until = time.monotonic() + (0.5 if jax.process_count() == 1 else math.inf)
            while len(got) < count and (not got or time.monotonic() < until):
                if (one := next(found, None)) is None:
                    break
                got.append({k: a[part(len(a))] for k, a in checked(one).items()})
            return {k: np.stack([one[k] for one in got]) for k in batch if got}, None

        return take

    lead = () if size is None else (check_int("size", size, 1),)
    batch = {k: jax.ShapeDtypeStruct(lead + a.shape, a.dtype) for k, a in like.items()}
    return _stream(batch, None, Stream(start, lambda: "an iterator"))


def _grouped(found, size):
    """Examples, as batches of that size; batches as they are, for None."""
    while size is not None and len(part := list(itertools.islice(found, size))):
        if len(part) == size:
            yield {k: np.stack([one[k] for one in part]) for k in part[0]}
    yield from found


def _stream(like, rows, found):
    """A source that reads blocks of batches like shapes [B, ...]."""
    like = shapes(like)
    (size, *_), *_ = (a.shape for a in like.values())
    bytes_ = sum(a.size * a.dtype.itemsize for a in like.values())
    count = min(max(1, BLOCK // max(bytes_, 1)), 1024)
    block = {
        k: jax.ShapeDtypeStruct((count, *a.shape), a.dtype) for k, a in like.items()
    }

    def batch(arrays, seed, t):
        first, block = arrays
        return jax.tree.map(lambda a: a[t - first], block)

    first = jax.ShapeDtypeStruct((), jnp.int32)
    return Source((first, block), batch, size, rows, lambda arrays: (), found)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _orders(seed, t, size, n):
    return jax.vmap(lambda t: order(seed, t, size, n))(t)


def _gather(array, rows):
    """array[rows]; of a file, in its order, so that little of it lies in memory."""
    if not isinstance(array, np.memmap) or array.mode != "r" or os.name != "posix":
        return array[rows]
    file: Any = array
    while not isinstance(file, mmap.mmap):
        file = file.base
    flat = rows.reshape(-1)
    found = np.empty((len(flat), *array.shape[1:]), array.dtype)
    ascending = np.argsort(flat, kind="stable")
    for i in range(0, len(flat), PIECE):
        at = ascending[i : i + PIECE]
        found[at] = array[flat[at]]
        file.madvise(mmap.MADV_DONTNEED)  # the kernel keeps it, this process does not
    return found.reshape(*rows.shape, *array.shape[1:])
