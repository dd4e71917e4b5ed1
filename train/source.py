"""Where batches come from: a batch is a pure function of the step.

`source.batch(arrays, seed, t)` carries nothing from step to step, so any step of any
run can be asked for alone: resuming, scanning, vmapping over seeds and sharding need no
more state than the step's number. The order of the rows is a keyed bijection that is
evaluated at the rows of the batch alone: nothing is sorted or stored.
Shapes: N rows, B examples that a step reads, T length of a window, K folds or keys.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from zoo.base import Batch, UsageError, check_int, concrete
from zoo.checks import count_rows as count_rows

Arrays = dict[str, Any]
Augment = Callable[[jax.Array, Batch], Batch]
"""(key, batch) -> batch: pure; `train.data.augment` has some."""

# Named streams of randomness. A step's own keys are fold_in(key(seed), t), t < 2^31.
STREAMS = {"order": 2**31, "augmentation": 2**31 + 1, "evaluation": 2**31 + 2}

ROUNDS = 32  # of 50 rows in 20,000 orders, 8 are seen to be unfair, 16 are not
GOLDEN = 0x9E3779B9


class Source(NamedTuple):
    """What is learned from, as batches by the number of the step.

    batch(arrays, seed, t) -> the batch of step t = 0, 1, ...: pure and traced.
    """

    arrays: Any  # a pytree, an argument of compiled programs; a stream's: shapes
    batch: Callable[[Any, jax.Array, jax.Array], Batch]
    size: int  # examples that a step reads
    rows: int | None  # examples of an epoch; None where there is no end
    # parts(arrays) -> what the examples are made of, as dicts of rows, to be checked
    parts: Callable[[Any], tuple[Arrays, ...]]
    stream: "Stream | None" = None  # where the arrays come block by block


class Stream(NamedTuple):
    """Host data that is read block by block (`train.data.stream`).

    start(seed, first, part) -> take; take(count) -> (block, rows): the next batches,
    `count` or fewer, {"x": [C, B, ...], ...}, and their row numbers [C, B] if they have
    some. Of B rows only those of the slice part(B). An empty block is the end.
    """

    start: Callable[..., Callable[[int], tuple[Arrays, np.ndarray | None]]]
    describe: Callable[[], Any]  # what data they are, for JSON


def stream(seed: int | jax.Array, name: str, i: int | jax.Array) -> jax.Array:
    """The i-th key of a named stream of randomness."""
    key = jax.random.fold_in(jax.random.key(seed), STREAMS[name])
    return jax.random.fold_in(key, i)


# Order ------------------------------------------------------------------------------


def mix(x: jax.Array) -> jax.Array:
    """A hash of 32 bits in which each bit turns on all (the end of MurmurHash3)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def shuffled(
    keys: jax.Array, i: jax.Array, n: int, which: Any = 0, *, rounds: int = ROUNDS
) -> jax.Array:
    """The i-th of range(n), int32 [...], in the order that a key stands for.

    It is keys[which], of keys uint32 [K, 2] and `which` like i. Each round pairs the
    numbers, and swaps a pair or not (Hoang, Morris & Rogaway, "An enciphering scheme
    based on a card shuffle", CRYPTO 2012). Raises UsageError for n not in [1, 2^31).
    """
    _check_rows(n)
    size, i = jnp.uint32(n), jnp.asarray(i, jnp.uint32)
    number = jnp.arange(1, rounds + 1, dtype=jnp.uint32)[:, None]
    words = mix(mix(keys[None, :, 0] + jnp.uint32(GOLDEN) * number) ^ keys[None, :, 1])
    sums, salts = words % size, mix(words)

    def swap(r, x):
        total, salt = (_pick(table[r], which) for table in (sums, salts))
        partner = jnp.where(total >= x, total - x, total + (size - x))
        coin = mix(jnp.maximum(x, partner) ^ salt) & 1
        return jnp.where(coin == 1, partner, x)

    # a loop: unrolled rounds take seconds to compile
    return jax.lax.fori_loop(0, rounds, swap, i).astype(jnp.int32)


def _pick(table, which):
    """table[which]; of two, by a choice, which is faster than a gather."""
    return (
        jnp.where(which == 1, table[1], table[0]) if len(table) == 2 else table[which]
    )


def _check_rows(n):
    if not 1 <= n < 2**31:
        raise UsageError(f"expected 1 to {2**31 - 1} rows to shuffle, found {n}")


def locate(t: jax.Array, size: int, n: int) -> tuple[jax.Array, jax.Array]:
    """divmod(t * size, n) as uint32, for t < 2^31, where the product is larger.

    Raises UsageError for n not in [1, 2^31).
    """
    _check_rows(n)
    # of 2^k steps, known before: t is a sum of them, added two by two
    powers = [divmod(size << k, n) for k in range(32)]
    bits = (jnp.asarray(t, jnp.uint32) >> jnp.arange(32, dtype=jnp.uint32)) & 1
    epoch = bits * jnp.array([e % 2**32 for e, _ in powers], jnp.uint32)
    at = bits * jnp.array([a for _, a in powers], jnp.uint32)
    while at.size > 1:
        half = at.size // 2
        epoch, at = epoch[:half] + epoch[half:], at[:half] + at[half:]
        over = at >= n
        epoch, at = epoch + over, jnp.where(over, at - n, at)
    return epoch[0], at[0]


def order(seed: jax.Array, t: jax.Array, size: int, n: int) -> jax.Array:
    """Which of n rows step t reads, int32 [B]: each is read once before any again."""
    epoch, at = locate(t, size, n)
    at = at + jnp.arange(size, dtype=jnp.uint32)  # may run into the next epochs
    epochs = epoch + jnp.arange((n + size - 2) // n + 1, dtype=jnp.uint32)
    # seed and epoch are hashed: those of neighbours, added, would be the same
    keys = jax.vmap(lambda e: stream(seed, "order", e))(epochs)
    words = jax.random.key_data(keys)[:, -2:]
    return shuffled(words, at % n, n, at // n)


# Sources ----------------------------------------------------------------------------


def examples(arrays: Arrays, size: int | None) -> Source:
    """`size` rows of {"x": [N, ...], ...} a step, in a new order each epoch.

    None, and N, are all of them in their own order, as `full` has it. Raises
    UsageError for what is no dict of as many rows each.
    """
    if (n := count_rows(arrays)) == size or size is None:
        return full(arrays)

    def batch(arrays, seed, t):
        return _take(arrays, order(seed, t, size, n))

    return Source(arrays, batch, check_int("size", size, 1), n, lambda a: (a,))


def full(arrays: Arrays) -> Source:
    """All of {"x": [N, ...], ...} at each step."""
    n = count_rows(arrays)
    return Source(
        arrays, lambda a, seed, t: jax.tree.map(jnp.asarray, a), n, n, lambda a: (a,)
    )


class Rows(NamedTuple):
    """Some of the rows of a table: the arrays of `rows`."""

    table: Arrays
    index: Any  # int [N]


def rows(arrays: Arrays, index: Any, size: int | None) -> Source:
    """`size` a step (None: all) of the rows of an index [N], which may be traced.

    A fold, or a bootstrap: vmap over a table of indices [K, N] trains K of them.
    Raises UsageError where it is not traced and names no row.
    """
    count, n = count_rows(arrays), len(index)
    if concrete(index):
        index = np.asarray(index)
        if n == 0 or index.min() < 0 or index.max() >= count:
            raise UsageError(f"expected an index of {count} rows, found {index}")

    def batch(arrays, seed, t):
        index = jnp.asarray(arrays.index)
        if size is not None and size != n:
            index = index[order(seed, t, size, n)]
        return _take(arrays.table, index)

    def parts(arrays):
        return (_take(arrays.table, jnp.asarray(arrays.index)),)

    size_ = n if size is None else check_int("size", size, 1)
    return Source(Rows(arrays, index), batch, size_, n, parts)


def windows(tokens: Any, length: int, size: int, *, every: int = 1) -> Source:
    """Windows of one array of tokens [N]: "x" [B, T] and the next ones, "y" [B, T].

    One begins at each `every`-th token; they are cut where they are read, not copied.
    Raises UsageError where not one fits.
    """
    length, every = check_int("length", length, 1), check_int("every", every, 1)
    if np.ndim(tokens) != 1 or not length < len(tokens) < 2**31:
        found = np.shape(tokens)
        raise UsageError(f"expected tokens [N], {length} < N < 2^31, found {found}")
    n = (len(tokens) - length - 1) // every + 1

    def batch(tokens, seed, t):
        first = every * order(seed, t, size, n)
        found = _take(tokens, first[:, None] + jnp.arange(length + 1)[None])
        found = found.astype(jnp.int32)
        return {"x": found[:, :-1], "y": found[:, 1:]}

    def parts(tokens):  # side by side, and the last
        view = np.lib.stride_tricks.sliding_window_view(np.asarray(tokens), length + 1)
        return tuple(
            {"x": v[:, :-1], "y": v[:, 1:]} for v in (view[::length], view[-1:])
        )

    return Source(tokens, batch, check_int("size", size, 1), n, parts)


def labelled(first: Batch, second: Batch) -> Batch:
    """Labelled examples beside others: {"labelled", "y"} and "x"."""
    return {"x": second["x"], "labelled": first["x"], "y": first["y"]}


def pair(
    first: Source, second: Source, join: Callable[[Batch, Batch], Batch] = labelled
) -> Source:
    """join(batch of one source, batch of another), each in an order of its own."""
    if first.stream is not None or second.stream is not None:
        raise UsageError("expected a pair of sources in memory, found a stream")

    def batch(arrays, seed, t):
        # other seeds, and others again where pairs are paired
        seed = jnp.asarray(seed, jnp.uint32)
        a = first.batch(arrays[0], mix(seed ^ jnp.uint32(GOLDEN)), t)
        b = second.batch(arrays[1], mix(seed ^ jnp.uint32(2 * GOLDEN % 2**32)), t)
        return join(a, b)

    endless = first.rows is None or second.rows is None
    return Source(
        (first.arrays, second.arrays),
        batch,
        max(first.size, second.size),
        None if endless else max(first.rows, second.rows),  # type: ignore[type-var]
        lambda arrays: (*first.parts(arrays[0]), *second.parts(arrays[1])),
    )


def augmented(source: Source, augment: Augment | None) -> Source:
    """The batches of a source, changed by a key of the seed and the step."""
    if augment is None:
        return source

    def batch(arrays, seed, t):
        key = stream(seed, "augmentation", t)
        return augment(key, source.batch(arrays, seed, t))

    return source._replace(batch=batch)


class Standardized(NamedTuple):
    """The arrays of `standardized`: (x - mean) / scale is what is learned from."""

    arrays: Any
    mean: Arrays
    scale: Arrays

    def of(self, rows: Arrays) -> Arrays:
        """These or other rows, with each entry as it is learned from."""
        return rows | {
            name: (rows[name] - mean[None]) / self.scale[name][None]
            for name, mean in self.mean.items()
        }


def standardized(source: Source, names: tuple[str, ...] = ("x",)) -> Source:
    """Entries of mean 0 and variance 1, by the statistics of the source's rows alone.

    What never changes becomes 0. Raises UsageError for a stream, or a pair.
    """
    found = () if source.stream is not None else source.parts(source.arrays)
    if len(found) != 1:
        raise UsageError("expected rows in memory to standardize")
    mask = found[0].get("mask")
    each = {name: _moments(jnp.asarray(found[0][name]), mask) for name in names}
    mean, scale = ({name: both[i] for name, both in each.items()} for i in (0, 1))
    return source._replace(
        arrays=Standardized(source.arrays, mean, scale),
        batch=lambda arrays, seed, t: arrays.of(source.batch(arrays.arrays, seed, t)),
        parts=lambda arrays: source.parts(arrays.arrays),
    )


def _moments(x, mask):
    """Mean and standard deviation (1 where nothing changes) of what the mask counts."""
    count = jnp.ones(len(x), bool) if mask is None else mask.reshape(len(x), -1).any(1)
    count = count.reshape(-1, *[1] * (x.ndim - 1))
    mean = jnp.mean(x, 0, where=count)
    low = jnp.min(x, 0, where=count, initial=jnp.inf)
    high = jnp.max(x, 0, where=count, initial=-jnp.inf)
    return mean, jnp.where(high > low, jnp.std(x, 0, where=count), 1)


def nothing(size: int = 1) -> Source:
    """No data: of a model that makes its own. A batch is the step, "step" int32 [1]."""
    return Source({}, lambda _, seed, t: {"step": t[None]}, size, None, lambda _: ())


def shapes(tree: Any) -> Any:
    """The shapes and types that arrays have on a device."""

    def shape(a):
        dtype = jax.dtypes.canonicalize_dtype(a.dtype)
        return jax.ShapeDtypeStruct(np.shape(a), dtype)

    return jax.tree.map(shape, tree)


def batch_shapes(source: Source) -> Any:
    """The shapes and types of a batch."""
    numbers = jax.ShapeDtypeStruct((), jnp.uint32), jax.ShapeDtypeStruct((), jnp.int32)
    return jax.eval_shape(source.batch, shapes(source.arrays), *numbers)


def _take(arrays, i):
    return jax.tree.map(lambda a: jnp.asarray(a)[i], arrays)
