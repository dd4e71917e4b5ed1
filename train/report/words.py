"""What vectors of words know of the words: whose neighbours are alike, and a probe.

The words are judged by what can be seen of them in the text, not by lists: a name is
one that is written with a capital inside sentences, verb forms have a common stem.
Shapes: V words, D width, N examples, P pairs.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from zoo.base import UsageError, check_int, nearest

KINDS = ("name", "-ed", "-ing", "-ly", "other")
NEAR = 10
FOLDS = 5


class Judged(NamedTuple):
    """Which of the words are judged: a half of each, the other is to choose by."""

    kinds: np.ndarray  # [V], an index of KINDS; the last is not judged
    some: np.ndarray  # bool [V]
    pairs: np.ndarray  # [P, 2], forms of a verb


def judged(names: tuple[str, ...], choosing: bool = False) -> Judged:
    """What is judged of words; or, for `choosing`, the other half."""
    kinds = np.array([kind(name) for name in names])
    half = np.random.default_rng(0).permutation(len(names)) % 2 == choosing
    pairs = forms(names)
    own = np.random.default_rng(1).permutation(len(pairs)) % 2 == choosing
    return Judged(kinds, half & (kinds < len(KINDS) - 1), pairs[own])


def kind(name: str) -> int:
    """A word's kind, by how it is written and how it ends: an index of KINDS."""
    if name[0].isupper() and len(name.split("'")[0].split("’")[0]) > 1:
        return 0
    if len(name) > 4 and name.islower():
        for i, end in enumerate(KINDS[1:4], 1):
            if name.endswith(end[1:]):
                return i
    return len(KINDS) - 1


def forms(names: tuple[str, ...]) -> np.ndarray:
    """Pairs of words [P, 2], of walk, walked and walking, that are there.

    A stem loses an e, or doubles its last letter, as English has it.
    """
    number = {name: i for i, name in enumerate(names) if name.islower()}
    found = set()
    for stem in number:
        short = stem[:-1] if stem.endswith("e") else stem
        if len(short) < 3:
            continue
        doubled = short + short[-1]
        for root in (short, doubled) if short == stem else (short,):
            there = [w for w in (stem, root + "ed", root + "ing") if w in number]
            found |= {(number[a], number[b]) for a in there for b in there if a < b}
    return np.array(sorted(found), np.int64).reshape(-1, 2)


def scores(
    names: tuple[str, ...], table: np.ndarray, choosing: bool = False
) -> dict[str, float]:
    """ "names", "forms" and "probe" of vectors [V, D], each a share, of 1 at best.

    names: of the ten words nearest to a name, the share of names. forms: how often one
    form of a verb is among the ten nearest to another. probe: accuracy of a logistic
    regression, in five folds, that tells KINDS apart of the vectors. Vectors are scaled
    to one length. A score is left out where there are too few such words.
    """
    found, which = {}, judged(names, choosing)
    unit = _unit(table)

    def alike(some):
        """The cosines of some words with each; of a word with itself, none."""
        cosines = unit[some] @ unit.T
        cosines[np.arange(len(some)), some] = -np.inf
        return cosines

    name = np.flatnonzero(which.some & (which.kinds == 0))
    if len(name) and len(names) > NEAR:
        near = np.argpartition(-alike(name), NEAR, 1)[:, :NEAR]
        found["names"] = float((which.kinds[near] == 0).mean())
    if len(which.pairs):
        a, b = np.concatenate([which.pairs, which.pairs[:, ::-1]]).T
        cosines = alike(a)
        before = (cosines > cosines[np.arange(len(a)), b][:, None]).sum(1)
        found["forms"] = float((before < NEAR).mean())
    y = which.kinds[which.some]
    if len(y) and np.bincount(y)[np.unique(y)].min() >= FOLDS and len(set(y)) > 1:
        found["probe"] = _probe(unit[which.some], y)
    return found


def _probe(x, y):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    parts = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    return float(cross_val_score(model, x, y, cv=parts).mean())


def near(
    names: tuple[str, ...],
    table: np.ndarray,
    text: str,
    n: int = 8,
    unseen: Callable[[str], Any] | None = None,
) -> list[tuple[str, float]]:
    """The n words [V] whose vectors [V, D] have the largest cosines with a word's.

    `text` is a word or a sum, "king - man + woman", of vectors of length 1 (Mikolov et
    al., "Linguistic regularities in continuous space word representations", 2013); its
    words are not among those found. unseen(word) is the vector [D] of a word that is
    not in the table. Raises UsageError for no word, and those without a vector.
    """
    terms = re.findall(r"([+-]?)\s*([^\s+-]+)", text)
    if not terms:
        raise UsageError(f"expected a word, found {text!r}")
    number = {name.lower(): i for i, name in enumerate(names)}
    unit, query = _unit(table), np.zeros(table.shape[1])
    for sign, word in terms:
        if word.lower() in number:
            vector = unit[number[word.lower()]]
        elif unseen is not None:
            vector = _unit(np.asarray(unseen(word.lower())))
        else:
            raise UsageError(
                f"expected words of the text, found {word!r}{nearest(word, names)}"
            )
        query = query - vector if sign == "-" else query + vector
    cosines = unit @ _unit(query)
    own = [number.get(word.lower(), -1) for _, word in terms]
    best = [i for i in np.argsort(-cosines, kind="stable") if i not in own]
    return [(names[i], float(cosines[i])) for i in best[: check_int("n", n, 1)]]


def _unit(vectors):
    size = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(size, 1e-9)


def svd(counts, width: int, *, power: float = 0.75, root: float = 1.0) -> np.ndarray:
    """Vectors [V, width] of the singular values of positive mutual information.

    Of a sparse table [V, V] of how often words stand together: its positive
    log(p(x, y) / (p(x) q(y))), q the share of y to the `power`; u s^root of its largest
    singular values s (Levy, Goldberg & Dagan, "Improving distributional similarity with
    lessons learned from word embeddings", 2015), less their mean as
    `zoo.embedding.vectors` are. Raises UsageError for a width that is not below V.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.linalg import svds

    size = counts.shape[0]
    if not 1 <= width < size:
        raise UsageError(f"expected a width below the {size} words, found {width}")
    table = coo_array(counts, dtype=np.float64)
    table.sum_duplicates()
    x = np.asarray(table.sum(1)).ravel()
    q = np.asarray(table.sum(0)).ravel() ** power
    i, j = table.row, table.col
    information = np.log(table.data / (x[i] * q[j]) * q.sum())
    some = information > 0
    positive = coo_array((information[some], (i[some], j[some])), (size, size))
    u, s, _ = svds(positive.tocsr(), width, v0=np.ones(size))
    vectors = u * s[None] ** root
    return vectors - vectors.mean(0)
