"""Knowledge graphs: triples (head, relation, tail) as queries for either end.

Everything here is numpy, on the host.
Shapes: N triples, E entities, R relations, K answers that are known, M queries.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from train.data.download import by_hand
from train.data.formats import open_npz
from train.data.schema import Arrays, Data, Schema, Split, given, request
from train.data.tables import quoted
from zoo.base import UsageError, nearest
from zoo.checks import check_ids

PUBLISHED = ("kinships", "nations", "umls")
TRIPLES = (*PUBLISHED, "clock")
PARTS = ("train", "valid", "test")
HOURS = 24
STEPS = (1, 2, 3, 5, 7, -4)


class Triples(NamedTuple):
    """A graph as stored: triples [N, 3] of each part, and what the ids name."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    entities: tuple[str, ...]
    relations: tuple[str, ...]


def load_triples(source: str | os.PathLike[str] | Data | Split = "umls") -> Data:
    """Queries "x" [M, 2] of a graph, (entity, relation), and their answers "y" [M].

    Each triple gives two: (h, r) -> t and, back, (t, r + R) -> h. "kinships", "nations"
    and "umls" are read of knowledge_graphs.npz, which has to be in the folder of
    downloaded files; "clock" is made here: how many hours after an hour another is. Or
    an .npz file of the user's: train, valid, test [N, 3], entities [E], relations [R].

    The watched part, if a `Split` asks for one, is the graph's own ("valid"), of
    whatever size; it is never trained on. There, and in the test part, "known" [M, K]
    is all right answers of the whole graph, filled with "y". Raises UsageError.
    """
    wanted = request(source)
    if isinstance(wanted.source, Data):
        return given(wanted.source, wanted)
    name = os.fspath(wanted.source)
    found = _clock() if name == "clock" else _read(name)
    there = found.relations
    back = tuple(f"{relation} (back)" for relation in there)
    train, valid, test = (queries(part, len(there)) for part in found[:3])
    schema = Schema(
        name,
        (2,),
        found.entities,
        (),
        (),
        ids=(found.entities, there + back),
        rows=len(train["x"]),
    )
    every = [train, valid, test]
    watched, test = (part | {"known": known(part, every)} for part in every[1:])
    return Data(schema, train, test, watched if wanted.watched else None)


def queries(triples: np.ndarray, relations: int) -> Arrays:
    """Triples [N, 3] -> both ends asked for: "x" [2N, 2], "y" [2N] int32."""
    head, relation, tail = triples.astype(np.int32).T
    there = np.stack([head, relation], 1)
    back = np.stack([tail, relation + relations], 1)
    return {
        "x": np.concatenate([there, back]).astype(np.int32),
        "y": np.concatenate([tail, head]),
    }


def known(asked: Arrays, parts: list[Arrays]) -> np.ndarray:
    """All answers to each query in some parts: int32 [M, K], filled with its "y"."""
    answers: dict[tuple[int, int], set[int]] = {}
    for part in parts:
        for query, answer in zip(part["x"].tolist(), part["y"].tolist(), strict=True):
            answers.setdefault(tuple(query), set()).add(answer)
    found = [answers.get(tuple(query), set()) for query in asked["x"].tolist()]
    width = max(map(len, found), default=1) or 1
    table = np.repeat(asked["y"][:, None], width, 1)
    for row, each in zip(table, found, strict=True):
        row[: len(each)] = sorted(each)
    return table.astype(np.int32)


def _read(name) -> Triples:
    """A graph by its name, or of a file. Raises UsageError."""
    path, prefix = Path(name), ""
    if name in PUBLISHED:
        path, prefix = by_hand("knowledge_graphs.npz"), f"{name}_"
    elif not path.is_file():
        raise UsageError(
            f"expected an .npz file or one of the graphs {', '.join(TRIPLES)}, found "
            f'"{name}"' + nearest(name, TRIPLES)
        )
    arrays = open_npz(path)
    keys = [prefix + part for part in (*PARTS, "entities", "relations")]
    if absent := [key for key in keys if key not in arrays]:
        raise UsageError(
            f"expected {' and '.join(absent)} in {path}, found {quoted(list(arrays))}"
        )
    train, valid, test, entities, relations = (arrays[key] for key in keys)
    sizes = len(entities), len(relations), len(entities)
    for key, part in zip(keys, (train, valid, test), strict=False):
        check_ids(part, sizes, f"ids of {key} in {path}", "triple {}".format)
        if not len(part):
            raise UsageError(f"expected triples in {key} of {path}, found none")
    names = tuple(map(str, entities)), tuple(map(str, relations))
    return Triples(train, valid, test, *names)


def _clock() -> Triples:
    """(a, "+k", b): it is b o'clock k hours after a. A tenth to watch, one to test."""
    a, which = (g.ravel() for g in np.mgrid[:HOURS, : len(STEPS)])
    triples = np.stack([a, which, (a + np.array(STEPS)[which]) % HOURS], 1)
    triples = np.random.default_rng(0).permutation(triples).astype(np.int32)
    tenth = len(triples) // 10
    names = tuple(f"{hour}:00" for hour in range(HOURS))
    parts = triples[2 * tenth :], triples[:tenth], triples[tenth : 2 * tenth]
    return Triples(*parts, names, tuple(f"{step:+d} h" for step in STEPS))
