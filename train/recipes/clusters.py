"""What rows without labels are made of: clusters, and components."""

import math
from functools import partial

import numpy as np

from train import evaluate
from train.data import Data, Schema, views
from train.recipes.base import Built, Goal, Recipe, Training
from train.report import Measured, Report
from train.report.measure import tested
from train.step import Trained
from zoo import cluster, decomposition
from zoo.base import Number, UsageError

LEAST = 1e-9  # of an error that is 0: as many clusters as different rows


def kmeans(schema: Schema, *, clusters: int = 10, keep: Number = 0.0) -> Built:
    """Centres, each the mean of the rows that it is nearest to."""
    _expect_numbers(schema)
    cluster.check_clusters(clusters, schema.rows)
    task = cluster.task(clusters, keep=keep)
    return Built(task, None, Report(partial(_of_clusters, task, schema)))


def pca(schema: Schema, *, components: int = 8) -> Built:
    """The axes along which rows differ most, in their order."""
    _expect_numbers(schema)
    count = math.prod(schema.shape)
    decomposition.check_components(components, count, f"{count} features")
    task = decomposition.task(components)
    return Built(task, None, Report(partial(_of_components, task, schema)))


def _expect_numbers(schema):
    if schema.integer or schema.lengths or schema.edges:
        raise UsageError(
            f"expected rows of as many numbers each, found {schema.name}; try digits"
        )


def _flat(rows):
    return np.asarray(rows["x"], np.float64).reshape(len(rows["x"]), -1)


def _ratio(loss, reference):
    """Of errors of standardised rows; 1 where neither leaves anything."""
    return (loss + LEAST) / (reference + LEAST)


def _of_clusters(task, schema, trained: Trained, data: Data) -> Measured:
    """Squared distance to the nearest centre, beside scikit-learn's at ten restarts."""
    from sklearn.cluster import KMeans  # a second to import
    from sklearn.metrics import adjusted_rand_score

    rows = tested(data)
    centres = cluster.centres_of({"params": trained.params, **trained.model})
    loss = evaluate.evaluate(task, trained, {"x": rows["x"]})["loss"]
    model = KMeans(len(centres), n_init=10, random_state=0).fit(_flat(data.train))
    reference = -model.score(_flat(rows)) / len(rows["x"])
    scores = {"loss": loss, "sklearn": reference, "of_sklearn": _ratio(loss, reference)}
    x = _flat(rows)
    labels = np.asarray(cluster.nearest(x.astype(np.float32), centres))
    if schema.classes:
        scores["rand"] = float(adjusted_rand_score(rows["y"], labels))
    names = [f"cluster {i + 1}" for i in range(len(centres))]
    files = {"clusters.png": lambda: _plot().embedding(x, labels, names)}
    return Measured(scores, files=files | _images(schema, "centres", centres))


def _of_components(task, schema, trained: Trained, data: Data) -> Measured:
    """Squared error of rows made of K numbers, beside scikit-learn's."""
    from sklearn.decomposition import PCA  # a second to import

    rows = tested(data)
    axes = np.asarray(trained.params["axes"])
    loss = evaluate.evaluate(task, trained, {"x": rows["x"]})["loss"]
    model, x = PCA(len(axes), random_state=0).fit(_flat(data.train)), _flat(rows)
    left = x - model.inverse_transform(model.transform(x))
    reference = float(np.square(left).sum(1).mean())
    # 1 where each axis is scikit-learn's, in the same order
    size = np.linalg.norm(axes, axis=1) * np.linalg.norm(model.components_, axis=1)
    cosine = np.abs((axes * model.components_).sum(1)) / size
    scores = {"loss": loss, "pca": reference, "of_pca": _ratio(loss, reference)}
    scores["cosine"] = float(cosine.min())
    files = _images(schema, "axes", axes)
    if schema.classes:
        places = (x - np.asarray(trained.params["mean"])) @ axes.T
        files["places.png"] = lambda: _plot().embedding(
            places, rows["y"], schema.classes
        )
    return Measured(scores, files=files)


def _images(schema, name, rows):
    """Rows [K, D] as a file of images, where they are some."""
    if not schema.image or schema.shape[-1] not in (1, 3):
        return {}
    x = np.asarray(rows).reshape(-1, *schema.shape)
    return {f"{name}.png": lambda: _plot().images(x)}


def _plot():
    from train.report import plot  # matplotlib takes half a second: only to draw

    return plot


RECIPES = {
    "kmeans": Recipe(
        kmeans,
        views.points,
        "digits",
        Training(60, None, "sgd", 1.0),
        Goal("of_sklearn", 1.05, at_most=True),
        "k-means: the squared distance of rows not trained on to the nearest of "
        "--clusters centres, beside scikit-learn's best of ten. With --batch-size, "
        "--keep 1 is mini-batch k-means.",
        "a second",
        'Bottou & Bengio, "Convergence properties of the k-means algorithms", 1995',
    ),
    "pca": Recipe(
        pca,
        views.table,
        "digits",
        Training(300, optimizer="lbfgs"),
        Goal("cosine", 0.999),
        "Principal components in their order, by gradient: the least cosine of an axis "
        "with that of a singular value decomposition, and the squared error.",
        "three seconds",
        'Rippel et al., "Learning ordered representations with nested dropout", 2014',
    ),
}
