"""Vectors of words, learned from a text."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from train.data import Arrays, Data, Schema, views
from train.recipes.base import Built, Goal, Recipe, Training
from train.report import Measured, Report
from train.report import words as report
from train.report.measure import losses
from train.step import Trained
from zoo import embedding
from zoo.base import Number, Task, UsageError

ASKED = 5  # words of each kind, whose neighbours are written down


def word2vec(
    schema: Schema,
    *,
    width: int = 64,
    output: Literal["negative", "hierarchical"] = "negative",
    negatives: int = 5,
) -> Built:
    """A word predicts those around it, or, by `cbow`, they predict it."""
    model = embedding.Words(_counts(schema), width, output == "hierarchical")
    return _predicting(model, schema, negatives)


def fasttext(
    schema: Schema,
    *,
    width: int = 64,
    negatives: int = 5,
    buckets: int = 20_000,
) -> Built:
    """The same, of words that are made of their letters too."""
    spelling = tuple(name.lower() for name in schema.ids[0][: len(_counts(schema))])
    model = embedding.Words(schema.counts, width, subwords=spelling, buckets=buckets)
    return _predicting(model, schema, negatives)


def glove(schema: Schema, *, width: int = 64, most: Number = 3.0) -> Built:
    """Products of vectors that are the logarithms of how often words stand together."""
    _counts(schema)
    model = embedding.GloVe(len(schema.ids[0]), width)
    task = embedding.cooccurrence(model, most=most)
    return _known(task, model, schema)


def _counts(schema) -> tuple[int, ...]:
    if not schema.counts:
        raise UsageError(f"expected a text of words, found {schema.name}")
    return schema.counts


def _predicting(model, schema, negatives) -> Built:
    (columns,) = schema.shape
    if model.hierarchical:
        task = embedding.hierarchical_softmax(model, columns=columns)
    else:
        task = embedding.negative_sampling(model, columns=columns, negatives=negatives)
    return _known(task, model, schema)


def _known(task: Task, model: Any, schema: Schema) -> Built:
    """A model that is measured by what its vectors know, beside those of an SVD."""
    names = schema.ids[0][: len(schema.counts)]
    plain = losses(task)

    def vectors(trained: Trained):
        variables = {"params": trained.params, **trained.model}
        return np.asarray(embedding.vectors(model, variables), np.float64), variables

    def near(trained: Trained, text: str, n: int = 8) -> list[tuple[str, float]]:
        table, variables = vectors(trained)
        unseen = partial(embedding.unseen, model, variables)
        return report.near(names, table, text, n, unseen if model.subwords else None)

    def measure(trained: Trained, data: Data) -> Measured:
        found = plain.measure(trained, data).scores
        table, _ = vectors(trained)
        found |= report.scores(names, table)
        width = min(model.width, len(names) - 1)
        other = report.svd(together(data.train, len(names)), width)
        found |= {f"{k}_svd": v for k, v in report.scores(names, other).items()}
        files: dict[str, Callable[[], Any]] = {
            "neighbours.txt": partial(_neighbours, names, table),
            "words.png": partial(_picture, names, table),
        }
        return Measured(found, files=files)

    return Built(task, model, Report(measure, near=near), mixed=False)


def together(rows: Arrays, size: int) -> Any:
    """How often words stand together in rows: a sparse table [V, V]."""
    from scipy.sparse import coo_array

    x, y = rows["x"], rows["y"]
    if y.dtype.kind == "f":  # cells
        return coo_array((y, x.T), (size, size))
    row, column = np.nonzero(x < size)
    pairs = x[row, column], y[row]
    return coo_array((np.ones(len(row)), pairs), (size, size))


def _neighbours(names, table, n=6):
    """Some of the frequent words of each kind, and those nearest to them."""
    kinds = np.array([report.kind(name) for name in names])
    some = [np.flatnonzero(kinds == k)[:ASKED] for k in range(len(report.KINDS) - 1)]
    others = np.flatnonzero(kinds == len(report.KINDS) - 1)
    some.append(others[others >= len(names) // 20][:ASKED])  # past the, of, and
    asked = np.concatenate(some)
    n = min(n + 1, len(names))  # with itself
    near = np.asarray(
        embedding.neighbours(jnp.asarray(table), jnp.asarray(table[asked]), n)
    )
    lines = [
        f"{names[i]}: {', '.join(names[j] for j in row if j != i)}"
        for i, row in zip(asked, near, strict=True)
    ]
    return "\n".join(lines)


def _picture(names, table):
    from train.report import charts  # matplotlib takes half a second: only to draw

    return charts.words(table, names)


MIKOLOV = (
    'Mikolov et al., "Distributed representations of words and phrases and their '
    'compositionality", 2013'
)
RECIPES = {
    "word2vec": Recipe(
        word2vec,
        views.words,
        "pride_and_prejudice",
        Training(2000, 4000, "adamw", 0.02, "cosine", 0.3),
        Goal("probe", 0.72),
        "Vectors of words that tell what stands beside: skip-gram with negative "
        "sampling, or --cbow, or --output hierarchical. The share of names, verb forms "
        "and adverbs that are told apart by their vectors; probe_svd is that of an "
        "SVD. --data may be a text of your own.",
        "half a minute",
        MIKOLOV,
    ),
    "fasttext": Recipe(
        fasttext,
        views.words,
        "pride_and_prejudice",
        Training(1500, 4000, "adamw", 0.02, "cosine", 0.3),
        Goal("probe", 0.85),
        "Vectors of words that are made of their letters too, which therefore know "
        "how a word ends.",
        "a minute",
        'Bojanowski et al., "Enriching word vectors with subword information", 2017',
    ),
    "glove": Recipe(
        glove,
        views.cells,
        "pride_and_prejudice",
        Training(1500, 5000, "adamw", 0.003, "cosine", 0.5),
        Goal("probe", 0.5),
        "Vectors of words whose products are the logarithms of how often they stand "
        "together.",
        "ten seconds",
        'Pennington et al., "GloVe: Global vectors for word representation", 2014',
    ),
}
