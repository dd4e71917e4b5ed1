"""Clusters and components beside scikit-learn's, in seconds.

    python -m benchmarks.unsupervised [--rounds 3] [--out benchmarks/UNSUPERVISED.md]

Both compute in one process, in turns, on the same rows: ours in float32, theirs in
float64. `first` is our first call, which compiles; the other columns are medians of the
calls after it. Scores are what both minimise or find, and should be alike.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
from sklearn import cluster as clusters
from sklearn import datasets, manifold
from sklearn import decomposition as parts
from sklearn import mixture as mixtures

from train import loop, optim
from train.data import load
from train.source import full
from zoo import cluster, decomposition, mixture, tsne

KEY = jax.random.key(0)


def rows():
    """Rows [N, D] by the names of data sets."""
    rng = np.random.default_rng(1)
    images = load("mnist5k", holdout=0).train["x"]
    found = {
        "digits": datasets.load_digits().data / 16,
        "mnist5k": images.reshape(len(images), -1),
        "iris": datasets.load_iris().data,
        "moons": datasets.make_moons(3000, noise=0.08, random_state=0)[0],
        "signals": rng.laplace(size=(20_000, 8)) @ rng.normal(size=(8, 8)),
    }
    return {name: x.astype(np.float32) for name, x in found.items()}


def incremental(components, x):
    """The variance of components of ten parts of the rows."""
    known = decomposition.nothing(components, x.shape[1])
    tenths = x.reshape(10, -1, x.shape[1])
    more = decomposition.more
    return jax.lax.scan(lambda c, x: (more(c, x), 0), known, tenths)[0].variance.sum()


def picture(affinities, x):
    """The divergence of a picture of all rows."""
    optimizer = optim.optimizer("adam", optim.schedule("cosine", 1.0, 750))
    source = full({"x": np.asarray(affinities(x, 30.0))})
    fit = loop.fit(tsne.task(), optimizer, source, steps=750, progress=False)
    return fit.records[-1]["loss"]


def ours():
    """score(x) by the names of methods."""
    rbf = decomposition.kernel("rbf", gamma=0.05)

    def absolute(x):
        return abs(decomposition.ica(KEY, x, 8).mixing).sum()

    compiled = {
        "k-means": lambda x: cluster.kmeans(KEY, x, 10).inertia,
        "3 Gaussians": lambda x: mixture.gaussian_mixture(KEY, x, 3).likelihood,
        "DBSCAN": lambda x: cluster.dbscan(x, 0.1).max() + 1,
        "PCA": lambda x: decomposition.pca(x, 32).variance.sum(),
        "incremental PCA": partial(incremental, 32),
        "kernel PCA": lambda x: decomposition.kernel_pca(x, 8, rbf).variance.sum(),
        "ICA": absolute,
    }
    found = {name: jax.jit(score) for name, score in compiled.items()}
    return found | {"t-SNE": partial(picture, jax.jit(tsne.affinities))}


def theirs():
    """The same by scikit-learn, whose t-SNE looks at near pairs alone."""
    gaussians = partial(mixtures.GaussianMixture, 3)
    incremental = partial(parts.IncrementalPCA, 32, batch_size=500)
    kernel = partial(parts.KernelPCA, 8, kernel="rbf", gamma=0.05)
    ica = partial(parts.FastICA, 8, whiten="unit-variance")
    tsne = partial(manifold.TSNE, init="random", max_iter=750)
    return {
        "k-means": lambda x: clusters.KMeans(10, n_init=10).fit(x).inertia_,
        "3 Gaussians": lambda x: gaussians().fit(x).lower_bound_,
        "DBSCAN": lambda x: clusters.DBSCAN(eps=0.1).fit(x).labels_.max() + 1,
        "PCA": lambda x: parts.PCA(32).fit(x).explained_variance_.sum(),
        "incremental PCA": lambda x: incremental().fit(x).explained_variance_.sum(),
        "kernel PCA": lambda x: kernel().fit(x).eigenvalues_.sum(),
        "ICA": lambda x: np.abs(ica().fit(x).mixing_).sum(),
        "t-SNE": lambda x: tsne().fit(x).kl_divergence_,
    }


PLAN = {
    **{"k-means": ("digits", "mnist5k"), "3 Gaussians": ("iris",)},
    **{"DBSCAN": ("moons",), "PCA": ("digits", "mnist5k")},
    **{"incremental PCA": ("mnist5k",), "kernel PCA": ("digits",)},
    **{"ICA": ("signals",), "t-SNE": ("digits",)},
}


def timed(score, x):
    """(seconds, score)"""
    began = time.perf_counter()
    value = float(score(x))
    return time.perf_counter() - began, value


def lines(rounds):
    """A row of the table for each method and data set."""
    mine, other, data = ours(), theirs(), rows()
    yield "| method | rows | first, s | ours, s | scikit-learn, s | scores |"
    yield "|---|---|--:|--:|--:|---|"
    for name, sets in PLAN.items():
        for at in sets:
            x, wide = data[at], data[at].astype(float)
            first, _ = timed(mine[name], x)
            both = [
                (timed(mine[name], x), timed(other[name], wide)) for _ in range(rounds)
            ]
            seconds, scores = np.moveaxis(np.array(both), 2, 0)
            a, b = np.median(seconds, 0)
            told = " beside ".join(f"{value:.5g}" for value in np.median(scores, 0))
            size = f"{at} {list(x.shape)}"
            yield f"| {name} | {size} | {first:.2f} | {a:.3f} | {b:.3f} | {told} |"


def main():
    """The table, printed and, where it is asked for, written to a page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.unsupervised")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    table = []
    for line in lines(asked.rounds):
        print(line, flush=True)
        table.append(line)
    if asked.out:
        title = "# Clusters and components beside scikit-learn's"
        command = f"`python -m benchmarks.unsupervised --rounds {asked.rounds}`"
        told = f"{time.strftime('%Y-%m-%d')}: {command}, two cores."
        about = __doc__.split("\n\n", 2)[2].strip()
        page = [title, told, about, "\n".join(table)]
        asked.out.write_text("\n\n".join(page) + "\n")


if __name__ == "__main__":
    main()
