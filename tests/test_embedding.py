"""Embeddings against loops written out, closed forms, and the optima of the papers."""

import heapq
import re
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.test_recipes import fit, scores_of
from train import loop, optim
from train.data import Split
from train.data import words as texts
from train.evaluate import evaluate, predict
from train.recipes import RECIPES, prepare
from train.recipes.words import _neighbours, together
from train.report import words as report
from train.source import full
from zoo import embedding
from zoo.base import UsageError

# compiling takes longer than what it shows
pytestmark = pytest.mark.contract

COUNTS = (50, 20, 20, 7, 4, 1)
V = len(COUNTS)
EVERY = np.argwhere(np.ones((V, V))).astype(np.int32)  # all pairs of words


def random(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def params_of(model, seed=0):
    """Random vectors for every table of a model."""
    like = model.init(
        jax.random.key(0), jnp.zeros((1, 1), int), method=embedding._every
    )
    leaves, tree = jax.tree.flatten(like["params"])
    made = [random(leaf.shape, seed + i) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(tree, made)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# Negative sampling --------------------------------------------------------------------


def plain_loss(params, x, y, drawn):
    """Equation 4, in loops: [B]. A word past the vocabulary is none."""
    words, contexts = (params[k]["embedding"] for k in ("words", "contexts"))
    found = []
    for around, own, others in zip(x, y, drawn, strict=True):
        h = np.mean([words[i] for i in around if i < len(words)], 0)
        loss = -np.log(sigmoid(contexts[own] @ h))
        for other in others:
            loss -= np.log(sigmoid(-contexts[other] @ h))
        found.append(loss)
    return np.array(found)


@pytest.mark.parametrize("x", [[[0], [5], [3]], [[0, 1, 6], [5, 6, 6], [2, 2, 4]]])
def test_negative_sampling_equals_a_plain_loop(x):
    model = embedding.Words(COUNTS, 4)
    task = embedding.negative_sampling(model, columns=len(x[0]), negatives=3)
    params, key = params_of(model), jax.random.key(7)
    batch = {"x": jnp.array(x), "y": jnp.array([1, 0, 5])}
    found, aux = task.loss(params, {}, batch, key, train=True)
    ends = jnp.cumsum(embedding.noise(COUNTS))
    drawn = np.asarray(embedding.draw(key, ends, (3, 3)))
    each = plain_loss(params, x, [1, 0, 5], drawn)
    np.testing.assert_allclose(found, each.mean(), rtol=1e-5)
    assert abs(each.mean() / plain_loss(params, x, [1, 0, 4], drawn).mean() - 1) > 0.01
    # what a mask drops is not counted
    masked = batch | {"mask": jnp.array([1.0, 0.0, 1.0])}
    found, _ = task.loss(params, {}, masked, key, train=True)
    np.testing.assert_allclose(found, each[[0, 2]].mean(), rtol=1e-5)
    # an evaluation has the expectation of the draws, each word as often as it is drawn
    q = np.array(COUNTS) ** 0.75 / np.sum(np.array(COUNTS) ** 0.75)
    whole = [
        plain_loss(params, [row], [y], [[n]])[0]
        for row, y in zip(x, [1, 0, 5], strict=True)
        for n in range(V)
    ]
    right = plain_loss(params, x, [1, 0, 5], [[]] * 3)
    wrong = 3 * ((np.reshape(whole, (3, V)) - right[:, None]) @ q)
    _, aux = task.loss(params, {}, batch, key, train=False)
    np.testing.assert_allclose(
        aux.metrics["loss"].value(), (right + wrong).mean(), rtol=1e-5
    )


def test_negatives_are_drawn_by_the_power_of_their_counts():
    q = np.array(COUNTS) ** 0.75 / np.sum(np.array(COUNTS) ** 0.75)
    np.testing.assert_allclose(embedding.noise(COUNTS), q, rtol=1e-6)
    n = 40_000
    drawn = embedding.draw(jax.random.key(0), jnp.cumsum(embedding.noise(COUNTS)), (n,))
    found = np.bincount(drawn, minlength=V) / n
    # five deviations; the plain shares are 26 of them away
    deviation = np.sqrt(q * (1 - q) / n)
    assert (np.abs(found - q) < 5 * deviation).all()
    assert (np.abs(found - np.array(COUNTS) / sum(COUNTS)) > 5 * deviation).any()


def shifted(table, q, k):
    """log #(w, c) / (k #(w) q(c)): what negative sampling is said to factorise."""
    return np.log(table / (k * table.sum(1, keepdims=True) * q))


def gradient_at(scores, table, k, power):
    """The size of the expected objective's gradient where the products are scores.

    A pair of words is an example, its count a mask that weighs it.
    """
    model = embedding.Words(COUNTS, V)
    task = embedding.negative_sampling(model, negatives=k, power=power)
    batch = {"x": EVERY[:, :1], "y": EVERY[:, 1], "mask": table.ravel().astype("f4")}
    tables = {"words": scores.astype("f4"), "contexts": np.eye(V, dtype="f4")}
    params = {name: {"embedding": jnp.array(a)} for name, a in tables.items()}

    def loss(params):
        return task.loss(params, {}, batch, jax.random.key(0), train=False)[0]

    return max(jnp.abs(g).max() for g in jax.tree.leaves(jax.grad(loss)(params)))


@pytest.mark.parametrize("power", [0.75, 1.0])
def test_the_optimum_of_negative_sampling_is_shifted_information(power):
    """Levy & Goldberg 2014, equation 11, for q of any power."""
    table = np.random.default_rng(0).integers(1, 30, (V, V)).astype(float)
    q = embedding.noise(COUNTS, power)
    exact = shifted(table, q, 3)
    assert gradient_at(exact, table, 3, power) < 1e-6
    # information without the shift, of other noise, or turned, is no optimum
    other = embedding.noise(COUNTS, power - 0.25)
    for wrong in (shifted(table, q, 1), shifted(table, other, 3), exact.T):
        assert gradient_at(wrong, table, 3, power) > 1e-3
    # and it is what predictions are made of: p(c | w) exactly
    model = embedding.Words(COUNTS, V)
    task = embedding.negative_sampling(model, negatives=3, power=power)
    tables = {"words": exact.astype("f4"), "contexts": np.eye(V, dtype="f4")}
    params = {name: {"embedding": a} for name, a in tables.items()}
    p = task.predict(params, {}, {"x": np.arange(V)[:, None]})
    np.testing.assert_allclose(p, table / table.sum(1, keepdims=True), rtol=1e-4)


# Hierarchical softmax -----------------------------------------------------------------


@pytest.mark.parametrize("counts", [COUNTS, (1,) * 8, (5, 3), (64, 32, 16, 8, 4, 2, 2)])
def test_no_prefix_code_is_shorter(counts):
    nodes, turns = embedding.huffman(counts)
    lengths = (turns != 0).sum(1)
    # Kraft: a whole binary tree; its mean length is the sum of what Huffman merges
    assert (0.5**lengths).sum() == 1
    queue, merged = list(counts), 0
    heapq.heapify(queue)
    while len(queue) > 1:
        both = heapq.heappop(queue) + heapq.heappop(queue)
        merged += both
        heapq.heappush(queue, both)
    assert lengths @ np.array(counts) == merged
    # paths that agree so far are at the same node, and no two are the same
    seen = {}
    for path, turn, n in zip(nodes.tolist(), turns.tolist(), lengths, strict=True):
        for i in range(n):
            assert seen.setdefault(tuple(turn[:i]), path[i]) == path[i]
    assert sorted(seen.values()) == list(range(len(counts) - 1))
    ends = {tuple(turn) for turn in turns.tolist()}  # a path's zeros are its end
    assert len(ends) == len(counts)


def test_a_hierarchical_softmax_is_a_distribution():
    model = embedding.Words(COUNTS, 4, hierarchical=True)
    task = embedding.hierarchical_softmax(model)
    params, x = params_of(model), np.arange(V)[:, None].astype(np.int32)
    p = np.asarray(task.predict(params, {}, {"x": x}))
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    nodes, turns = embedding.huffman(COUNTS)
    words, inner = (params[k]["embedding"] for k in ("words", "contexts"))
    assert inner.shape == (V - 1, 4)
    for w, y in EVERY:
        steps = [
            sigmoid(turn * inner[node] @ words[w])
            for node, turn in zip(nodes[y], turns[y], strict=True)
            if turn
        ]
        np.testing.assert_allclose(p[w, y], np.prod(steps), rtol=1e-4)
    # the loss is of it, in training and evaluation
    batch = {"x": x, "y": x[::-1, 0]}
    for train in (True, False):
        found, _ = task.loss(params, {}, batch, jax.random.key(0), train=train)
        wanted = -np.log(p[np.arange(V), x[::-1, 0]]).mean()
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    # a path that ends too late or a turn that is wrong would be seen
    assert len(set((turns != 0).sum(1))) > 2


# Subwords -----------------------------------------------------------------------------


def test_a_word_is_the_mean_of_itself_and_its_subwords():
    assert embedding.ngrams("where", 3, 3) == ["<wh", "whe", "her", "ere", "re>"]
    assert len(embedding.ngrams("where")) == 5 + 4 + 3 + 2
    assert embedding.ngrams("a") == [] and embedding.ngrams("of") == ["<of", "of>"]
    # the published values of FNV-1a
    assert embedding.bucket("", 2**32) == 0x811C9DC5
    assert embedding.bucket("foobar", 2**32) == 0xBF9CF968
    names = ("where", "a", "her")
    model = embedding.Words((3, 2, 1), 4, subwords=names, buckets=17)
    params = params_of(model)
    found, means = embedding.vectors(model, {"params": params}), []
    for i, name in enumerate(names):
        which = [embedding.bucket(gram, 17) for gram in embedding.ngrams(name)]
        each = [params["words"]["embedding"][i]]
        each += [params["parts"]["embedding"][b] for b in which]
        means.append(np.mean(each, 0))
    middle = np.mean(means, 0)
    np.testing.assert_allclose(found, means - middle, rtol=1e-5, atol=1e-6)
    new = embedding.unseen(model, {"params": params}, "hers")
    which = [embedding.bucket(gram, 17) for gram in embedding.ngrams("hers")]
    mean = np.mean(params["parts"]["embedding"][which], 0)
    np.testing.assert_allclose(new, mean - middle, rtol=1e-5, atol=1e-6)
    for wrong in (model, embedding.Words((3, 2, 1), 4)):
        with pytest.raises(UsageError, match="a model of subwords"):
            embedding.unseen(wrong, {"params": params}, "")


# GloVe --------------------------------------------------------------------------------


@pytest.mark.contract
def test_glove_finds_a_table_of_low_rank():
    left, right, bias = random((V, 2), 1), random((V, 2), 2), random((2, V), 3)
    logs = left @ right.T + bias[0][:, None] + bias[1]
    rows = {"x": EVERY, "y": np.exp(logs).ravel().astype("f4")}

    def error(width):
        model = embedding.GloVe(V, width)
        task = embedding.cooccurrence(model, most=0.01)  # all cells weigh the same
        optimizer = optim.optimizer("lbfgs")
        done = loop.fit(task, optimizer, full(rows), steps=150, progress=False)
        found = predict(task, done.trained, rows)
        return np.abs(np.log(found) - logs.ravel()).max()

    assert error(2) < 1e-2
    assert error(1) > 0.3  # of rank one it cannot be


def test_gloves_loss_equals_a_plain_loop():
    model = embedding.GloVe(V, 3)
    task = embedding.cooccurrence(model, most=10.0)
    count = np.random.default_rng(0).uniform(0.5, 40, V * V).astype("f4")
    params = params_of_glove(model)
    w, c = (params[k]["embedding"] for k in ("words", "contexts"))
    b, d = (params[f"bias_of_{k}"]["embedding"][:, 0] for k in ("words", "contexts"))
    each = [
        min(1, (n / 10) ** 0.75) * (w[i] @ c[j] + b[i] + d[j] - np.log(n)) ** 2
        for (i, j), n in zip(EVERY, count, strict=True)
    ]
    batch = {"x": EVERY, "y": count}
    found, _ = task.loss(params, {}, batch, jax.random.key(0), train=True)
    np.testing.assert_allclose(found, np.mean(each), rtol=1e-5)
    # neither the power nor the bound could be another
    plain = [e / min(1, (n / 10) ** 0.75) for e, n in zip(each, count, strict=True)]
    assert abs(np.mean(plain) / np.mean(each) - 1) > 0.05
    found = embedding.vectors(model, {"params": params})
    np.testing.assert_allclose(found, w - w.mean(0), rtol=1e-5, atol=1e-6)
    # a count that a mask drops may be none
    mask = jnp.ones(V * V).at[0].set(0.0)
    junk = {"x": EVERY, "y": jnp.array(count).at[0].set(jnp.nan), "mask": mask}
    found, _ = task.loss(params, {}, junk, jax.random.key(0), train=True)
    np.testing.assert_allclose(found, np.mean(each[1:]), rtol=1e-5)
    with pytest.raises(UsageError, match="expected most > 0"):
        embedding.cooccurrence(model, most=0.0)


def params_of_glove(model):
    like = model.init(jax.random.key(0), jnp.zeros((1, 2), int))["params"]
    leaves, tree = jax.tree.flatten(like)
    return jax.tree.unflatten(tree, [random(a.shape, i) for i, a in enumerate(leaves)])


# The text -----------------------------------------------------------------------------

TEXT = """The hat of Mrs. Hill was old. Old hats, said Hill, are of use.
The old hat, it's said by Hill, was the hat of the use."""


def test_words_are_counted_and_written_as_inside_sentences():
    known = texts.vocabulary(TEXT, 2)
    found = dict(zip(known.names, known.counts, strict=True))
    wanted = {"the": 4, "hat": 3, "of": 3, "old": 3, "Hill": 3, "was": 2}
    assert found == wanted | {"said": 2, "use": 2}
    assert list(known.counts) == sorted(known.counts, reverse=True)
    # those that are too few are no words of the text
    said = [known.names[i] for i in texts.ids(known, "Mrs. Hill's hat, HAT of it's")]
    assert said == ["hat", "hat", "of"]
    assert report.kind("Hill") == 0 and report.kind("I'm") == 4
    assert [report.kind(w) for w in ("walked", "being", "truly", "bed", "I")] == [
        *(1, 2, 3, 4, 4)
    ]


def test_windows_equal_a_plain_loop():
    tokens, reach = np.array([4, 0, 2, 2, 1], np.int32), np.array([3, 1, 2, 3, 1])
    around = texts.windows(tokens, 3, V, reach)
    wanted = [
        (t, tokens[j])
        for i, (t, r) in enumerate(zip(tokens, reach, strict=True))
        for j in range(len(tokens))
        if 0 < abs(i - j) <= r
    ]
    rows = texts.pairs(around, tokens, V)
    found = np.stack([rows["x"][:, 0], rows["y"]], 1)
    assert list(map(tuple, found.tolist())) == wanted
    assert around.shape == (5, 6) and (around == V).sum() == 30 - len(wanted)
    assert around.dtype == np.int32
    # the same counts, of both kinds of rows
    both = [together(r, V).toarray() for r in (rows, {"x": around, "y": tokens})]
    np.testing.assert_array_equal(both[0], both[1].T)


@pytest.mark.parametrize("window", [1, 2, 5])
def test_a_window_and_its_counterpart_reach_as_far_together(tmp_path, window):
    path = tmp_path / "t.txt"
    path.write_text(text := "one two three four five six seven eight nine ten " * 9)
    data = texts.load_words(path, window=window, min_count=1, holdout=0)
    found = together(data.train, 10).toarray()
    np.testing.assert_allclose(found.sum(1)[1:-1], 9 * 2 * (window + 1), atol=30)
    if window < 3:  # no draw is left: words d apart are there 2 / d times
        tokens = texts.ids(texts.vocabulary(text, 1), text)
        cells = together(texts.cells(tokens, window, 10), 10).toarray()
        np.testing.assert_allclose(found, 2 * cells)


def test_cells_equal_a_plain_loop():
    tokens = np.random.default_rng(0).integers(0, V, 40)
    table = np.zeros((V, V))
    for i, a in enumerate(tokens):
        for j, b in enumerate(tokens):
            if 0 < abs(i - j) <= 3:
                table[a, b] += 1 / abs(i - j)
    rows = texts.cells(tokens, 3, V)
    np.testing.assert_allclose(together(rows, V).toarray(), table, rtol=1e-6)
    assert (rows["y"] > 0).all() and len(rows["y"]) == (table > 0).sum()


def test_frequent_words_are_left_out_at_times():
    counts = (900, 90, 10)
    np.testing.assert_allclose(
        texts.kept(counts, 0.09), [np.sqrt(0.1), 1, 1], rtol=1e-6
    )
    np.testing.assert_array_equal(texts.kept(counts, 0.0), 1)
    few, all_ = (
        texts.load_words(min_count=100, subsample=s, window=1) for s in (1e-3, 0.0)
    )
    share = [np.bincount(d.train["y"]).max() / len(d.train["y"]) for d in (few, all_)]
    assert len(few.train["y"]) < 0.5 * len(all_.train["y"]) and share[0] < share[1]


@pytest.mark.parametrize("cbow", [False, True])
def test_a_text_is_parted_before_its_words_are_counted(tmp_path, cbow):
    path = tmp_path / "t.txt"
    path.write_text("one two three. " * 60 + "four " * 100)
    options = {"window": 2, "cbow": cbow, "min_count": 2, "subsample": 0.0}
    data = texts.load_words(Split(path, 0.25), holdout=0.6, **options)
    assert data.schema.ids[0][:3] == ("one", "two", "three")
    assert set(data.schema.ids) == {("one", "two", "three", *[""] * cbow)}
    assert len(data.schema.ids) == data.train["x"].shape[1] == (4 if cbow else 1)
    assert data.schema.counts == (28, 28, 28)  # of 0.3 of 1400 characters
    assert all(len(part["y"]) for part in data[1:])
    again = texts.load_words(Split(path, 0.25), holdout=0.6, **options)
    np.testing.assert_array_equal(data.train["x"], again.train["x"])
    cells = texts.load_cells(Split(path, 0.25), window=2, min_count=2)
    assert cells.test is None and len(cells.watched["y"]) == 3
    assert cells.schema.regression and len(cells.train["y"]) == 8


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"window": 0}, "a window of 1 to 100 words, found 0"),
        ({"min_count": 0}, "a min_count of at least 1, found 0"),
        ({"min_count": 10**6}, "3 words or more that stand 1000000 times"),
        ({"subsample": -1.0}, "expected subsample >= 0, found -1.0"),
        ({"holdout": 1.0}, "a holdout of at least 0, below 1, found 1.0"),
        ({"negatives": 0}, "expected negatives between 1"),
        ({"data": "absent.txt"}, "expected a text file or one of"),
    ],
)
def test_what_cannot_be_right_is_refused(flags, said):
    with pytest.raises(UsageError, match=said):
        prepare(RECIPES["word2vec"], **{"min_count": 500} | flags)


@pytest.mark.parametrize("name", ["word2vec", "glove"])
@pytest.mark.parametrize("wrong", [-1, 10**6])
def test_an_id_past_the_table_is_refused(name, wrong):
    recipe = prepare(RECIPES[name], min_count=500, batch_size=8)
    rows = {k: a.copy() for k, a in recipe.parts.train.items()}
    rows["x"][5] = wrong
    with pytest.raises(UsageError, match=f"found {wrong} in example 5"):
        fit(recipe._replace(data=recipe.parts._replace(train=rows)))
    with pytest.raises(UsageError, match="expected integer tokens"):
        recipe.network.init(jax.random.key(0), jnp.zeros((2, 2)))


def test_a_recipe_of_words_wants_words():
    data = prepare(RECIPES["knowledge_graph"], data="clock").parts
    for name in ("word2vec", "fasttext", "glove"):
        with pytest.raises(UsageError, match="expected a text of words, found clock"):
            prepare(RECIPES[name], data=data)


# What is measured ---------------------------------------------------------------------


def test_forms_of_a_verb_are_pairs():
    names = ("love", "walk", "loved", "stopping", "Walked", "stop", "walking")
    names += ("loving", "bed", "bing", "nation")
    found = {tuple(names[i] for i in pair) for pair in report.forms(names)}
    assert found == {
        *(("love", "loved"), ("love", "loving"), ("loved", "loving")),
        *(("walk", "walking"), ("stop", "stopping")),
    }


def test_scores_are_of_the_words_that_are_alike():
    kinds = ("Ann{}", "w{}xed", "w{}xing", "w{}xly", "w{}x")
    letters = "abcdefghijklmnopqrst"
    names = tuple(kind.format(a) for a in letters for kind in kinds)
    which = np.array([report.kind(name) for name in names])
    table = np.eye(5)[which] + 0.1 * random((len(names), 5))
    found = report.scores(names, table)
    assert found["names"] == 1.0 and found["probe"] == 1.0
    # in this table a form is as near as any other
    assert found["forms"] < 0.1
    same = np.arange(len(names)) // 5
    table = np.eye(20)[same] + 0.01 * random((len(names), 20))
    found = report.scores(names, table)
    assert found["forms"] == 1.0 and found["probe"] < 0.5
    # each half is judged by itself
    halves = [report.judged(names, choosing) for choosing in (False, True)]
    assert not (halves[0].some & halves[1].some).any()
    every = np.sort(np.concatenate([half.pairs for half in halves]), 0)
    assert len(every) == len(report.forms(names))
    # too few words for any of it
    assert report.scores(("a", "b", "c"), np.eye(3)) == {}


def test_svd_is_that_of_positive_information():
    table = np.random.default_rng(0).integers(0, 9, (V, V)).astype(float)
    p, q = table / table.sum(), table.sum(0) ** 0.75
    with np.errstate(divide="ignore"):
        information = np.log(p / p.sum(1, keepdims=True) / (q / q.sum()))
    u, s, _ = np.linalg.svd(np.maximum(information, 0))
    found = report.svd(table, 3, root=0.5)
    wanted = u[:, :3] * s[:3] ** 0.5
    wanted -= wanted.mean(0)
    np.testing.assert_allclose(found @ found.T, wanted @ wanted.T, atol=1e-8)
    with pytest.raises(UsageError, match="a width below the 6 words, found 6"):
        report.svd(table, V)


@pytest.mark.contract
@pytest.mark.parametrize("name", ["word2vec", "fasttext", "glove"])
def test_a_report_says_which_words_are_near(name):
    recipe = prepare(RECIPES[name], min_count=40, width=8, steps=20, batch_size=100)
    trained = fit(recipe).trained
    measured = recipe.report.measure(trained, recipe.parts)
    wanted = {"names", "forms"}
    assert wanted | {f"{k}_svd" for k in wanted} < set(measured.scores)
    lines = measured.files["neighbours.txt"]().splitlines()
    assert 10 < len(lines) <= 25 and all(line.count(", ") == 5 for line in lines)
    assert lines[0].startswith("Mr: ")
    assert measured.files["words.png"]().axes
    near = partial(recipe.report.near, trained)
    assert len(near("she - he + Mr", 3)) == 3
    if name == "fasttext":
        assert len(near("unheardof")) == 8
    else:
        with pytest.raises(UsageError, match="expected words of the text"):
            near("unheardof")


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("flags", [{"cbow": True}, {"output": "hierarchical"}])
def test_the_other_ways_to_predict_learn_too(flags):
    recipe = prepare(RECIPES["word2vec"], **flags)
    scores = scores_of(recipe)
    assert scores["probe"] > 0.6


def test_of_cbow_padding_says_nothing():
    model = embedding.Words(COUNTS, 4)
    params = {"params": params_of(model)}
    a, b = (model.apply(params, jnp.array([x])) for x in ([1, 2], [2, V, 1, V]))
    np.testing.assert_allclose(a, b, rtol=1e-6)
    assert (model.apply(params, jnp.array([[V, V]])) == 0).all()
    rows = {"x": np.array([[0, V], [1, 2]], np.int32), "y": np.array([1, 0], np.int32)}
    task = embedding.negative_sampling(model, columns=2)
    optimizer = optim.optimizer("adam", 0.1)
    done = loop.fit(task, optimizer, full(rows), steps=2, progress=False)
    assert set(evaluate(task, done.trained, rows)) == {"loss"}


NAMES = ("king", "queen", "man", "woman", "Jane", "boy")
TABLE = np.array([[1, 1, 0], [1, -1, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 1, 0.5]])


def test_words_near_a_word_or_a_sum_of_words():
    cosines = TABLE @ TABLE.T / np.outer(*[np.linalg.norm(TABLE, axis=1)] * 2)
    found = report.near(NAMES, TABLE, "KING", 2)
    assert [word for word, _ in found] == ["man", "boy"]
    assert [c for _, c in found] == pytest.approx([cosines[0, 2], cosines[0, 5]])
    for text in ("king - man + woman", "king-man+woman"):
        # (1, 1) / sqrt 2 - (0, 2): the length of each is 1
        query = np.array([1, 1, 0]) / np.sqrt(2) - [0, 2, 0]
        ((word, cosine),) = report.near(NAMES, TABLE, text, 1)
        assert word == "queen"
        assert cosine == pytest.approx(
            query @ [1, -1, 0] / np.linalg.norm(query) / 2**0.5
        )
    assert len(report.near(NAMES, TABLE, "jane", 20)) == 5
    with pytest.raises(UsageError, match="found 'womn'; did you mean 'woman'"):
        report.near(NAMES, TABLE, "king + womn")
    with pytest.raises(UsageError, match="expected a word, found '- '"):
        report.near(NAMES, TABLE, "- ")
    ((word, _),) = report.near(
        NAMES, TABLE, "girl", 1, lambda word: TABLE[4] * len(word)
    )
    assert word == "Jane"


def test_the_command_asks_for_words(zoo, monkeypatch):
    def near(text, n=8):
        return report.near(NAMES, TABLE, text, n)

    found = SimpleNamespace(near=near, recipe="ridge")
    monkeypatch.setattr("train.recipes.saved.load", lambda path: found)
    status, out, _ = zoo("near runs/words king - man + woman --n 2")
    assert status == 0
    assert re.fullmatch(r"king - man \+ woman: queen 0\.\d\d, Jane -?0\.00\n", out)
    _, out, _ = zoo("near runs/words man Jane")
    assert [line.split(":")[0] for line in out.splitlines()] == ["man", "Jane"]
    status, _, error = zoo("near runs/words man womn")
    assert status == 2 and "did you mean 'woman'" in error
    assert zoo("near runs/words")[2] == "zoo: expected a word, found none\n"
    found.near = None
    assert "a model of words, found ridge" in zoo("near runs/ridge she")[2]


def test_of_few_words_there_are_fewer_neighbours():
    said = _neighbours(("the", "tea"), np.eye(2, dtype=np.float32))
    assert sorted(said.splitlines()) == ["tea: the", "the: tea"]
