"""What is known of a vocabulary before training: noise, a tree of it, its spelling.

All of it is numpy, on the host. Noise and trees of words: Mikolov et al., 2013,
arXiv:1310.4546. Subwords: Bojanowski et al., 2017, arXiv:1607.04606.
Shapes: V words, L length of a path, S subwords of all words together.
"""

import functools
import heapq
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from zoo.checks import UsageError


def noise(counts: tuple[int, ...], power: float = 0.75) -> Float[np.ndarray, "V"]:
    """The distribution of negatives: that of the words, to the power of 3/4."""
    share = np.array(counts, np.float64) ** power
    return (share / share.sum()).astype(np.float32)


class Paths(NamedTuple):
    """From the root of a binary tree to each word: the nodes, and where to turn there.

    A turn is 1 or -1; 0 where a path is at its end, where the node is 0.
    """

    nodes: Int[np.ndarray, "V L"]
    turns: Float[np.ndarray, "V L"]


@functools.cache
def huffman(counts: tuple[int, ...]) -> Paths:
    """The tree in which the mean path of words that stand so often is shortest.

    Huffman, "A method for the construction of minimum-redundancy codes", 1952. Its
    V - 1 inner nodes are numbered from 0. Raises UsageError for fewer than two words.
    """
    if len(counts) < 2:
        raise UsageError(f"expected 2 words or more for a tree, found {len(counts)}")
    queue = [(count, word) for word, count in enumerate(counts)]
    heapq.heapify(queue)
    above: dict[int, tuple[int, int]] = {}
    for node in range(len(counts), 2 * len(counts) - 1):
        total = 0
        for turn in (1, -1):
            count, child = heapq.heappop(queue)
            above[child] = (node, turn)
            total += count
        heapq.heappush(queue, (total, node))
    paths = []
    for word in range(len(counts)):
        path, at = [], word
        while at in above:
            at, turn = above[at]
            path.append((at - len(counts), turn))
        paths.append(path[::-1])
    table = np.zeros((len(counts), max(map(len, paths)), 2), np.int32)
    for word, path in enumerate(paths):
        table[word, : len(path)] = path
    return Paths(table[..., 0], table[..., 1].astype(np.float32))


def ngrams(word: str, low: int = 3, high: int = 6) -> list[str]:
    """The runs of 3 to 6 characters of <word>, whose ends are marked (section 3.2)."""
    marked = f"<{word}>"
    return [
        marked[i : i + n]
        for n in range(low, high + 1)
        for i in range(len(marked) - n + 1)
        if n < len(marked)
    ]


def bucket(text: str, buckets: int) -> int:
    """Where a string is hashed to: FNV-1a, of 32 bits, of its UTF-8."""
    found = 2166136261
    for byte in text.encode():
        found = (found ^ byte) * 16777619 % 2**32
    return found % buckets


@functools.cache
def spelled(
    words: tuple[str, ...], buckets: int
) -> tuple[Int[np.ndarray, "S"], Int[np.ndarray, "S"]]:
    """The subwords of all words: which word each is of, in order, and its bucket."""
    pairs = [
        (i, bucket(gram, buckets))
        for i, word in enumerate(words)
        for gram in ngrams(word)
    ]
    of, which = np.array(pairs, np.int32).reshape(-1, 2).T
    return of, which
