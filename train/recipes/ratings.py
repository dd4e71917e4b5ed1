"""Recommenders: ratings that will be given, and rankings of what will be chosen."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from train.data import Arrays, Data, Schema, views
from train.recipes.base import Built, Goal, Recipe, Training
from train.report import Measured, Report
from train.report.measure import predictions, tested
from train.step import Trained
from zoo import recommender
from zoo.base import Number, UsageError

USERS = 64  # whose rankings are made at once
FEW = 20  # ratings of an item, below which no one is told of it


def matrix_factorization(
    schema: Schema,
    *,
    width: int = 16,
    implicit: bool = False,
    l2: Number = 14.0,
    bias_l2: Number = 4.0,
) -> Built:
    """Biases, and the product of a user's vector and an item's."""
    model = recommender.Factorization(_pair(schema), width, implicit)
    return _rated(model, schema, "item" if width else None, l2, bias_l2)


def factorization_machine(
    schema: Schema, *, width: int = 16, l2: Number = 24.0, bias_l2: Number = 4.0
) -> Built:
    """Products of each two of all that is known of a rating."""
    model = recommender.FactorizationMachine(_sizes(schema), width)
    return _rated(model, schema, "factors_1", l2, bias_l2)


def neumf(
    schema: Schema,
    *,
    width: int = 8,
    widths: tuple[int, ...] = (32,),
    dropout: Number = 0.5,
    l2: Number = 100.0,
    bias_l2: Number = 4.0,
) -> Built:
    """A product of vectors beside an MLP of others."""
    model = recommender.NeuMF(_pair(schema), width, widths, dropout)
    return _rated(model, schema, None, l2, bias_l2)


def bpr(
    schema: Schema,
    *,
    width: int = 32,
    negatives: int = 32,
    l2: Number = 2.0,
    bias_l2: Number = 1.0,
) -> Built:
    """Matrix factorisation that puts what was chosen before what was not."""
    model = recommender.Factorization(_pair(schema), width, ranks=True)
    strengths = {"l2": l2 / schema.rows, "bias_l2": bias_l2 / schema.rows}
    task = recommender.bpr(model, _sizes(schema), negatives=negatives, **strengths)
    return Built(task, model, Report(partial(_ranked, model, schema)), mixed=False)


def _sizes(schema) -> tuple[int, ...]:
    if len(schema.ids) < 2 or not schema.regression:
        raise UsageError(f"expected ratings of items by users, found {schema.name}")
    return tuple(map(len, schema.ids))


def _pair(schema) -> tuple[int, int]:
    users, items, *_ = _sizes(schema)
    return users, items


def _rated(model, schema, vectors, l2, bias_l2) -> Built:
    strengths = {"l2": l2 / schema.rows, "bias_l2": bias_l2 / schema.rows}
    task = recommender.ratings(model, _sizes(schema), **strengths)
    plain = predictions(task, schema)

    def measure(trained: Trained, data: Data) -> Measured:
        found = plain.measure(trained, data)
        if vectors is None:
            return found
        text = partial(_liked, schema, vectors, trained, data)
        return found._replace(files=found.files | {"liked.txt": text})

    return Built(task, model, plain._replace(measure=measure), mixed=False)


def _ranked(model, schema, trained: Trained, data: Data) -> Measured:
    """Recall and NDCG at 20 of each user's test items; and of the most popular."""
    rows = tested(data)
    variables = {"params": trained.params, **trained.model}
    items = len(schema.ids[1])

    @jax.jit
    def scores(user):
        return recommender.scores_of(model, variables, user, items)

    counts = np.bincount(data.train["x"][:, 1], minlength=items).astype(np.float32)
    found = rankings(schema, data.train, rows, scores)
    common = rankings(
        schema, data.train, rows, lambda u: jnp.tile(counts[None], (len(u), 1))
    )
    found |= {f"{name}_popular": value for name, value in common.items()}
    text = partial(_liked, schema, "item", trained, data)
    return Measured(found, files={"liked.txt": text})


def rankings(
    schema: Schema, train: Arrays, test: Arrays, scores: Callable, k: int = 20
) -> dict[str, float]:
    """ "recall" and "ndcg" at k, means over the users [U] who have rows in `test`.

    `scores` of users [B] are [B, items]; items of their rows in `train` do not count,
    unless these are the test rows.
    """
    shape = tuple(len(names) for names in schema.ids[:2])
    seen, wanted = np.zeros(shape, bool), np.zeros(shape, bool)
    wanted[tuple(test["x"][:, :2].T)] = True
    if test is not train:
        seen[tuple(train["x"][:, :2].T)] = True
    users = np.flatnonzero(wanted.any(1)).astype(np.int32)
    measure = jax.jit(recommender.ranking, static_argnums=3)
    parts = [
        measure(scores(part), seen[part], wanted[part], min(k, shape[1]))
        for part in (users[i : i + USERS] for i in range(0, len(users), USERS))
    ]
    return {
        name: float(np.concatenate([part[name] for part in parts]).mean())
        for name in parts[0]
    }


def _liked(schema, vectors, trained, data, n=5):
    """Whoever liked the most rated items also liked, in words."""
    counts = np.bincount(data.train["x"][:, 1], minlength=len(schema.ids[1]))
    n = min(n, len(counts) - 1)  # there are no more
    often = np.flatnonzero(counts >= min(FEW, np.sort(counts)[-n - 1]))
    table = jnp.asarray(trained.params[vectors]["embedding"])[often]
    lines = []
    for which in np.argsort(-counts[often], kind="stable")[:10]:
        near = recommender.similar(table, int(which), n)
        names = [schema.ids[1][often[i]] for i in (which, *near)]
        lines.append(f"People who liked {names[0]} liked {'; '.join(names[1:])}.")
    return "\n".join(lines) + "\n"


def _training(steps: int, learning_rate: float) -> Training:
    return Training(steps, 2000, "adam", learning_rate, "cosine")


RECIPES = {
    "matrix_factorization": Recipe(
        matrix_factorization,
        views.ratings,
        "movielens_small",
        _training(600, 0.02),
        Goal("rmse", 0.885, at_most=True),
        "Ratings that will be given: biases, and the product of a user's vector and a "
        "film's; --width 0 is the biases alone, --implicit SVD++. --data may be "
        "tastes, or an .npz file of user, item and rating.",
        "ten seconds",
        'Koren et al., "Matrix factorization techniques for recommender systems", 2009',
    ),
    "factorization_machine": Recipe(
        factorization_machine,
        views.ratings,
        "movielens_small",
        _training(600, 0.03),
        Goal("rmse", 0.885, at_most=True),
        "Ratings that will be given, of the user, the film, its genres and its year.",
        "ten seconds",
        'Rendle, "Factorization machines", 2010',
    ),
    "neumf": Recipe(
        neumf,
        views.ratings,
        "movielens_small",
        _training(600, 0.005),
        Goal("rmse", 0.885, at_most=True),
        "Ratings that will be given: a product of vectors beside an MLP of others.",
        "ten seconds",
        'He et al., "Neural collaborative filtering", 2017',
    ),
    "bpr": Recipe(
        bpr,
        views.ratings,
        "movielens_small",
        Training(1500, 500, "adam", 0.01, "cosine"),
        Goal("recall", 0.2),
        "What someone will choose, of what was chosen: the share of it among twenty "
        "that are recommended; recall_popular is that of the most popular.",
        "half a minute",
        'Rendle et al., "BPR: Bayesian personalized ranking from implicit feedback", '
        "2009",
    ),
}
