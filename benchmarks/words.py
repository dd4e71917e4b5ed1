"""Vectors of words of one text, beside gensim's and those of an SVD.

    pip install gensim
    python -m benchmarks.words [--seeds 3] [--out benchmarks/WORDS.md]

All read the same words of Pride and Prejudice, its first nine tenths (GloVe all of
it), in windows of two to either side, 64 numbers a word; gensim's negatives and number
of passes are those of the recipe. All vectors are less their mean. Scores are of
`train.report.words`. A word read is one of the text; of ours without compilation, of
gensim's without counting the words. One after the other, with two threads. A deviation
is that of seeds alone. Judged are 35 names and 139 pairs of forms, of 111 verbs: drawn
anew (10,000 times, a verb's pairs together), the names of skip-gram, of three seeds,
less those of the SVD are -0.016 with a standard error of 0.023, the forms 0.017 with
one of 0.015; those of CBOW 0.074 with one of 0.025, and 0.025 with one of 0.023; a
difference below twice such an error tells nothing.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from train import loop
from train.data import words as texts
from train.data.text import read_text
from train.recipes import RECIPES, Experiment, prepare
from train.recipes.words import together
from train.report import words as report
from zoo import embedding

Measured = tuple[dict[str, float], float]  # scores, passes over the text a second
SCORES = ("names", "forms", "probe")
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "skip-gram": ("word2vec", {}),
    "CBOW": ("word2vec", {"cbow": True}),
    "skip-gram, hierarchical softmax": ("word2vec", {"output": "hierarchical"}),
    "fastText": ("fasttext", {}),
    "GloVe": ("glove", {}),
}
GENSIM: dict[str, tuple[str, dict[str, int]]] = {
    "skip-gram": ("Word2Vec", {"sg": 1}),
    "CBOW": ("Word2Vec", {"sg": 0}),
    "skip-gram, hierarchical softmax": ("Word2Vec", {"sg": 1, "hs": 1, "negative": 0}),
    "fastText": ("FastText", {"sg": 1, "bucket": 20_000}),
}


def ours(name: str, flags: dict[str, Any], seed: int) -> Measured:
    """Scores of a recipe, and how often it reads its text a second."""
    recipe = prepare(RECIPES[name], **flags)
    training = recipe.training
    fit = loop.fit(
        recipe.task,
        recipe.optimizer,
        recipe.source(),
        steps=training.steps,
        ema=training.ema,
        seed=seed,
        progress=False,
    )
    rate = np.median([record["examples_per_second"] for record in fit.records])
    variables = {"params": fit.trained.params}
    table = np.asarray(embedding.vectors(recipe.network, variables), np.float64)
    scores = report.scores(recipe.schema.ids[0][: len(table)], table)
    return scores, float(rate) / rows_of_a_pass(recipe)


def rows_of_a_pass(recipe: Experiment) -> float:
    """How many rows are one window of each word, as gensim reads them; or all cells."""
    windows = 1 if recipe.schema.regression else 2  # of a word: see `load_words`
    return len(recipe.parts.train["y"]) / windows


def passes_of(name: str, flags: dict[str, Any]) -> int:
    """How often a recipe reads each of its words, about."""
    recipe = prepare(RECIPES[name], **flags)
    read = recipe.training.steps * recipe.training.batch_size
    return max(1, round(read / rows_of_a_pass(recipe)))


def gensims(
    kind: str, flags: dict[str, int], passes: int, text: list[str], seed: int
) -> Measured:
    """The same of a model of gensim, of as many passes."""
    from gensim import models  # type: ignore[import-not-found]

    parts = [text[i : i + 1000] for i in range(0, len(text), 1000)]
    options = {
        "vector_size": 64,
        "window": 2,
        "min_count": 1,
        "negative": 5,
        "workers": 2,
    }
    model = getattr(models, kind)(**options | flags, sample=0, seed=seed)
    model.build_vocab(parts)
    began = time.perf_counter()
    model.train(parts, total_examples=len(parts), epochs=passes)
    seconds = time.perf_counter() - began
    names = tuple(model.wv.index_to_key)
    table = model.wv.vectors.astype(np.float64)
    return report.scores(names, table - table.mean(0)), passes / seconds


def lines(seeds: int) -> Iterator[str]:
    """The rows of the table, as they are measured."""
    whole = read_text("pride_and_prejudice")
    part = whole[: round(0.9 * len(whole))]
    known = texts.vocabulary(part, 5)
    text = [known.names[i] for i in texts.ids(known, part)]

    def row(who: str, what: str, measure: Callable[[int], Measured]) -> str:
        found = [measure(seed) for seed in range(seeds)]
        cells = []
        for score in SCORES:
            each = [scores[score] for scores, _ in found]
            cells.append(f"{np.mean(each):.3f} ± {np.std(each):.3f}")
        speed = statistics.median(rate for _, rate in found) * len(text)
        cells.append(f"{speed:,.0f}" if np.isfinite(speed) else "-")
        return f"| {who} | {what} | {' | '.join(cells)} |"

    data = prepare(RECIPES["word2vec"]).parts
    table = report.svd(together(data.train, len(known.names)), 64)
    scores = report.scores(known.names, table)
    yield row("purezoo", "SVD of positive information", lambda seed: (scores, np.inf))
    for what, (name, flags) in OURS.items():
        yield row("purezoo", what, partial(ours, name, flags))
        if what in GENSIM:
            kind, more = GENSIM[what]
            passes = passes_of(name, flags)
            yield row("gensim", what, partial(gensims, kind, more, passes, text))


def main() -> int:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/WORDS.md"))
    options = parser.parse_args()
    about = (__doc__ or "").split("\n\n")
    heads = ["| by | vectors | names | forms | probe | words a second |"]
    heads += ["|---|---|---|---|---|--:|"]
    found = [*heads]
    for line in lines(options.seeds):
        print(line, flush=True)
        found.append(line)
    page = ["# Vectors of words", "", about[2].strip(), "", *found]
    options.out.write_text("\n".join(page) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
