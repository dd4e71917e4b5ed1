"""Graphs whose nodes are classified: built in, or the user's own .npz file.

A data set is one graph, and one graph is one row: "x" [1, N, F], "edges" [1, E, 2], "y"
[1, N], and a "mask" [1, N] of the labels that a part may see. The parts share all but
the mask: learning is transductive, a node without its label still has neighbours. A
batch is the whole graph.
Shapes: N nodes, E edges, F features, K classes, M nodes of a tree, B trees, D nodes to
begin trees at.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train import source as sources
from train.data.download import SYSTEM, cache
from train.data.formats import numbers, open_npz, quoted
from train.data.schema import Arrays, Data, Schema, Split
from zoo.base import UsageError, check_int, nearest
from zoo.edges import check_edges, undirected

PARTS = ("train", "test", "val")


class Graph(NamedTuple):
    """A graph as stored, and whose labels are for what: indices of nodes."""

    x: np.ndarray  # [N, F]
    edges: np.ndarray  # [E, 2]: of each edge, one or both directions
    y: np.ndarray  # [N] labels
    classes: tuple[str, ...]
    train: np.ndarray
    test: np.ndarray
    watched: np.ndarray | None = None


# Zachary, "An information flow model for conflict and fission in small groups", 1977:
# of each member those of a higher number who are seen with him outside of the club
_FRIENDS = (
    *("1 2 3 4 5 6 7 8 10 11 12 13 17 19 21 31", "2 3 7 13 17 19 21 30"),
    *("3 7 8 9 13 27 28 32", "7 12 13", "6 10", "6 10 16", "16", "", "30 32 33", "33"),
    *("", "", "", "33", "32 33", "32 33", "", "", "32 33", "33", "32 33", "", "32 33"),
    *("25 27 29 32 33", "25 27 31", "31", "29 33", "33", "31 33", "32 33", "32 33"),
    *("32 33", "33", ""),
)
_OFFICERS = (8, 9, 14, 15, 18, 20, *range(22, 34))
_CORA = (
    *("theory", "reinforcement learning", "genetic algorithms", "neural networks"),
    *("probabilistic methods", "case based", "rule learning"),
)


def karate() -> Graph:
    """The karate club: 34 members, 78 friendships, two factions, two known labels.

    Those are the instructor's (0) and the president's (33). The factions are those of
    the paper's table 1: member 8 sides with the officers, though he later joined the
    instructor's club. A node's features say which node it is.
    """
    pairs = [(i, int(j)) for i, line in enumerate(_FRIENDS) for j in line.split()]
    y = np.isin(np.arange(34), _OFFICERS).astype(np.int32)
    known = np.array([0, 33])
    rest = np.setdiff1d(np.arange(34), known)
    names = ("instructor", "officers")
    return Graph(np.eye(34), np.array(pairs), y, names, known, rest)


def cora() -> Graph:
    """2,708 papers on machine learning, 5,278 citations, the words of each: 1,433.

    The split of Yang et al., "Revisiting semi-supervised learning with graph
    embeddings", 2016 ("Planetoid"): 140 labels to train on, 500 to watch, 1,000 to test
    on. The words of a paper have the sum 1. It is read from cora.npz, whose arrays
    `read_graph` describes, and is not downloaded. Raises UsageError.
    """
    places = [cache() / "cora", cache(), SYSTEM / "cora"]
    path = next((p for p in (at / "cora.npz" for at in places) if p.is_file()), None)
    if path is None:
        raise UsageError(
            f"expected the graph of Cora in {places[0] / 'cora.npz'}, found no file: "
            "it is not downloaded (train.data.graphs says what is in it; --data karate "
            "needs none)"
        )
    graph = read_graph(path)
    parts = [0 if part is None else len(part) for part in graph[4:]]
    found = (*graph.x.shape, len(undirected(graph.edges)) // 2, *parts)
    if found != (2708, 1433, 5278, 140, 1000, 500):
        raise UsageError(
            f"expected Cora's 2708 nodes of 1433 words, 5278 edges and 140, 1000 and "
            f"500 labels in {path}, found {found}"
        )
    counts = graph.x.sum(1, keepdims=True)
    return graph._replace(x=graph.x / np.maximum(counts, 1), classes=_CORA)


def read_graph(path: Path) -> Graph:
    """The graph of an .npz file. Raises UsageError for one that is not whole.

    It has "x" [N, F] (or where it is 1, "x_row" and "x_col", and its "shape" [2]),
    "edges" [E, 2], in one direction or both, "y" [N], and indices of nodes, or masks
    [N]: "train", "test" and, if some are to be watched, "val", which share no node.
    """
    arrays = open_npz(path)
    wanted = {"edges", "y", "train", "test"} - set(arrays)
    if wanted or not {"x", "x_row", "x_col", "shape"} & set(arrays):
        missing = ", ".join(sorted(wanted)) or "x"
        raise UsageError(f"expected a graph in {path}, found no {missing}")
    x = numbers(arrays["x"], f"x of {path}") if "x" in arrays else _sparse(arrays, path)
    y, edges = arrays["y"], arrays["edges"]
    if x.ndim != 2 or y.shape != x.shape[:1] or y.dtype.kind not in "iu":
        raise UsageError(
            f"expected x [N, F] and integer labels y [N] in {path}, found shapes "
            f"{x.shape} and {y.shape} ({y.dtype})"
        )
    check_edges(edges, len(x))
    if not edges.size:
        raise UsageError(f"expected edges in {path}, found none")
    low, high = y.min(), y.max()
    if low < 0 or not 0 < high < max(2, len(x)):  # as many classes as nodes, at most
        raise UsageError(
            f"expected labels from 0 of two classes or more in {path}, found {low} to "
            f"{high} of {len(x)} nodes"
        )
    parts = [_part(arrays[n], n, len(x), path) for n in PARTS if n in arrays]
    nodes, often = np.unique(np.concatenate(parts), return_counts=True)
    if (twice := nodes[often > 1]).size:
        raise UsageError(
            f"expected each node in one part of {path}, once, found {twice[0]} twice"
        )
    classes = tuple(map(str, range(high + 1)))
    return Graph(x, edges, y.astype(np.int32), classes, *parts)


def _sparse(arrays, path):
    """x [N, F] of its shape and the places of ones."""
    if absent := {"x_row", "x_col", "shape"} - set(arrays):
        raise UsageError(
            f"expected x in {path}, or {min(absent)} with what it has of x"
        )
    at = [arrays["x_row"], arrays["x_col"]]
    shape = arrays["shape"]
    whole = all(a.dtype.kind in "iu" for a in (*at, shape))
    if shape.shape != (2,) or not whole or at[0].shape != at[1].shape:
        raise UsageError(f"expected integers x_row, x_col [M] and shape [2] in {path}")
    for name, each, size in zip(("x_row", "x_col"), at, shape, strict=True):
        if each.size and not 0 <= each.min() <= each.max() < size:
            raise UsageError(
                f"expected {name} of {path} in 0 to {size - 1}, found {each.min()} to "
                f"{each.max()}"
            )
    x = np.zeros(tuple(shape))
    x[tuple(at)] = 1
    return x


def _part(nodes, name, count, path):
    """Indices of nodes; of a mask [N], where it is True."""
    if nodes.dtype.kind == "b" and nodes.shape == (count,):
        nodes = np.flatnonzero(nodes)
    known = nodes.dtype.kind in "iu" and nodes.ndim == 1 and nodes.size
    if not known or not 0 <= nodes.min() <= nodes.max() < count:
        raise UsageError(
            f"expected in {name} of {path} nodes, 0 to {count - 1}, or a mask of them, "
            f"found {quoted(nodes.ravel()[-3:].tolist()) if nodes.size else 'none'}"
        )
    return nodes


def graph_examples(schema: Schema, given: Any) -> Arrays:
    """A graph to predict of, as rows of one: {"x" [1, N, F], "edges" [1, E, 2]}.

    A dict of x [N, F] and edges [E, 2], in one direction or both, or the path of an
    .npz file with these; N may be another than in training. Raises UsageError.
    """
    if isinstance(given, list | tuple):
        if len(given) != 1:
            raise UsageError(f"expected one graph, found {len(given)}")
        (given,) = given
    if isinstance(given, str | os.PathLike):
        if not Path(given).is_file():
            raise UsageError(f"expected a graph, a file .npz, found no file at {given}")
        given = open_npz(Path(given))
    if not isinstance(given, Mapping) or not {"x", "edges"} <= set(given):
        found = sorted(given) if isinstance(given, Mapping) else type(given).__name__
        raise UsageError(f"expected a dict with x and edges, found {found}")
    x, edges = numbers(np.asarray(given["x"]), "x"), np.asarray(given["edges"])
    if x.ndim != 2 or x.shape[1] != schema.shape[1]:
        raise UsageError(
            f"expected nodes of {schema.shape[1]} features as in {schema.name}, found "
            f"x of shape {x.shape}"
        )
    check_edges(edges, len(x))
    both = undirected(edges).astype(np.int32)
    rows: Arrays = {"x": x.astype(np.float32)[None], "edges": both[None]}
    if schema.lengths:
        rows["length"] = np.full(1, len(x), np.int32)
        rows["edge_mask"] = np.ones((1, len(both)), np.float32)
    return rows


GRAPHS: dict[str, Callable[[], Graph]] = {"karate": karate, "cora": cora}


def load_graph(request: Split) -> Data:
    """A graph by its name in GRAPHS, or its path (.npz); a `Data` as it is.

    Its features stay as they are. Raises UsageError, also where labels are to be
    watched, as early stopping wants it, and there are none.
    """
    if isinstance(request.source, Data):
        return request.source
    name = os.fspath(request.source)
    if name not in GRAPHS and not (name.endswith(".npz") and Path(name).is_file()):
        raise UsageError(
            f"expected a graph, a file .npz or one of {', '.join(GRAPHS)}, found "
            f'"{name}"' + nearest(name, list(GRAPHS))
        )
    graph = GRAPHS[name]() if name in GRAPHS else read_graph(Path(name))
    if request.watched and graph.watched is None:
        raise UsageError(f"expected labels to watch in {name}, found none")
    x, edges = graph.x.astype(np.float32), undirected(graph.edges).astype(np.int32)
    nodes, features = x.shape

    def part(index):
        mask = np.isin(np.arange(nodes), index).astype(np.float32)
        rows = {"x": x, "edges": edges, "y": graph.y, "mask": mask}
        return {name: array[None] for name, array in rows.items()}

    schema = Schema(
        name,
        x.shape,
        graph.classes,
        (0.0,) * features,
        (1.0,) * features,
        target_shape=(nodes,),
        edges=len(edges),
    )
    watched = None if graph.watched is None else part(graph.watched)
    return Data(schema, part(graph.train), part(graph.test), watched)


# Graphs that are too large for a batch ------------------------------------------------


class Table(NamedTuple):
    """The arrays of `neighbours`; i's senders are from offsets[i] to offsets[i + 1]."""

    x: Any  # [N, F]
    y: Any  # [N]
    roots: Any  # [D]
    offsets: Any  # [N + 1]
    senders: Any  # [E]


def neighbours(
    x: Any, edges: Any, y: Any, roots: Any, fans: tuple[int, ...], size: int
) -> sources.Source:
    """Trees of sampled neighbours, `size` a step, each to classify its root, node 0.

    A root draws fans[0] of those with an edge to it, each of these fans[1], and so on,
    evenly and with replacement, anew at each step: Hamilton et al. 2017, section 3.1.
    A batch is of graphs, {"x" [B, M, F], "edges" [B, M - 1, 2], "edge_mask" [B, M - 1],
    "length" [B], "y" [B]}: a node that nothing sends to has edges that count for
    nothing. For `zoo.graph.Classifier` with the readout "first". Raises UsageError.
    """
    check_edges(edges, len(x))
    edges, roots = np.asarray(edges), np.asarray(roots)
    if not fans or roots.ndim != 1 or not np.isin(roots, np.arange(len(x))).all():
        raise UsageError(f"expected fans, and roots 0 to {len(x) - 1}, found {fans}")
    fans = tuple(check_int("fans", fan, 1) for fan in fans)
    order = np.argsort(edges[:, 1], kind="stable")
    counts = np.bincount(edges[:, 1], minlength=len(x))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    senders = edges[order, 0].astype(np.int32)
    tree = jnp.asarray(_tree(fans))

    def batch(arrays, seed, t):
        rows = sources.order(seed, t, size, len(roots))
        level = jnp.asarray(arrays.roots)[rows][:, None]
        nodes, real = [level], []
        for hop, fan in enumerate(fans):
            key = jax.random.fold_in(sources.stream(seed, "order", t), hop)
            level, some = _draw(arrays, level, fan, key)
            nodes.append(level)
            real.append(some)
        found = jnp.concatenate(nodes, 1)
        return {
            "x": jnp.asarray(arrays.x)[found],
            "edges": jnp.broadcast_to(tree[None], (size, *tree.shape)),
            "edge_mask": jnp.concatenate(real, 1).astype(jnp.float32),
            "length": jnp.full(size, found.shape[1], jnp.int32),
            "y": jnp.asarray(arrays.y)[found[:, 0]],
        }

    arrays = Table(x, y, roots, offsets, senders)
    return sources.Source(
        arrays,
        batch,
        check_int("size", size, 1, len(roots)),
        len(roots),
        lambda arrays: ({"x": arrays.x, "y": arrays.y},),
    )


def _tree(fans):
    """The edges from each node to the one before it that drew it: [M - 1, 2]."""
    found, first, count = [], 0, 1
    for fan in fans:
        parents = first + np.repeat(np.arange(count), fan)
        first, count = first + count, count * fan
        found.append(np.stack([first + np.arange(count), parents], 1))
    return np.concatenate(found).astype(np.int32)


def _draw(arrays, level, fan, key):
    """Of nodes [B, L] each its `fan` senders [B, L fan], and whether it has any."""
    offsets, senders = jnp.asarray(arrays.offsets), jnp.asarray(arrays.senders)
    first, count = offsets[level], offsets[level + 1] - offsets[level]
    shape = (*level.shape, fan)
    most = jnp.maximum(count, 1)[..., None]
    at = first[..., None] + jax.random.randint(key, shape, 0, most)
    some = jnp.broadcast_to((count > 0)[..., None], shape)
    # who has no senders draws any node, whose edge counts for nothing
    drawn = senders[jnp.minimum(at, len(senders) - 1)]
    return (a.reshape(len(level), -1) for a in (drawn, some))
