"""Recommenders against closed forms, sums written out, and plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.test_recipes import fit, scores_of
from train import loop, many, optim
from train.data import Split, inputs, ratings, restore_target
from train.recipes import RECIPES, prepare
from train.recipes.ratings import rankings
from train.source import examples, full
from train.step import Trained
from zoo import recommender
from zoo.base import UsageError, is_weight

# compiling takes longer than what it shows
pytestmark = pytest.mark.contract

TASTES = ratings.read_ratings("tastes")
SIZES = tuple(map(len, TASTES.ids))
ROWS = {"x": TASTES.x, "y": TASTES.y.astype(np.float32)}


def trained(task, optimizer, steps, rows=ROWS, size=None, **options):
    source = full(rows) if size is None else examples(rows, size)
    return loop.fit(task, optimizer, source, steps=steps, progress=False, **options)


@pytest.mark.contract
def test_biases_solve_the_ridge_regression():
    l2, n = 3.0, len(TASTES.x)
    model = recommender.Factorization(SIZES, 0)
    task = recommender.ratings(model, SIZES, bias_l2=l2 / n)
    params = trained(task, optim.optimizer("newton"), 12).trained.params
    # a column of ones, which is not shrunk, and one of each user and item
    columns = np.zeros((n, 1 + sum(SIZES)))
    columns[:, 0] = 1
    columns[np.arange(n), 1 + TASTES.x[:, 0]] = 1
    columns[np.arange(n), 1 + SIZES[0] + TASTES.x[:, 1]] = 1
    shrunk = l2 * np.diag(np.arange(1 + sum(SIZES)) > 0)
    exact = np.linalg.solve(columns.T @ columns + shrunk, columns.T @ TASTES.y)
    tables = (params[f"bias_of_{i}"]["embedding"][:, 0] for i in range(2))
    found = np.concatenate([[params["bias"]], *tables])
    np.testing.assert_allclose(found, exact, atol=1e-4)
    assert np.abs(exact).max() > 1


def test_interactions_are_the_double_sum():
    v = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
    wanted = [sum(one[f] @ one[g] for g in range(6) for f in range(g)) for one in v]
    np.testing.assert_allclose(recommender.interactions(v), wanted, rtol=1e-4)


def test_a_machine_of_two_columns_is_a_factorization():
    x = jnp.array([[1, 2], [3, 0]])
    machine = recommender.FactorizationMachine(SIZES, 4)
    params = machine.init(jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda a: a + 0.1, params)
    same = {"factors_0": "user", "factors_1": "item"}
    params_ = {same.get(name, name): leaf for name, leaf in params.items()}
    model = recommender.Factorization(SIZES, 4)
    np.testing.assert_allclose(
        machine.apply({"params": params}, x),
        model.apply({"params": params_}, x),
        rtol=1e-5,
    )


@pytest.mark.contract
def test_svd_plus_plus_adds_what_was_rated():
    model = recommender.Factorization((3, 4), 2, implicit=True)
    x = jnp.array([[0, 1], [0, 3], [2, 1], [1, 0]])
    mask = jnp.array([1.0, 1.0, 1.0, 0.0])
    variables = model.init(jax.random.key(0), x)
    assert not variables["rated"]["items"].any()
    _, state = model.apply(variables, x, mask, train=True, mutable=["rated"])
    rated = np.zeros((3, 4))
    rated[[0, 0, 2], [1, 3, 1]] = 1  # not what the mask drops
    np.testing.assert_array_equal(state["rated"]["items"], rated)
    params = jax.tree.map(lambda a: a + 0.1, variables["params"])
    found = model.apply({"params": params, **state}, x)[:, 0]
    y, user, item = (
        np.asarray(a)
        for a in (
            params["implicit"],
            params["user"]["embedding"],
            params["item"]["embedding"],
        )
    )
    extra = {0: (y[1] + y[3]) / np.sqrt(2), 1: 0 * y[0], 2: y[1]}
    wanted = [0.3 + (user[u] + extra[u]) @ item[i] for u, i in x.tolist()]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert is_weight(params)["implicit"]


@pytest.mark.contract
@pytest.mark.parametrize("implicit", [False, True])
def test_a_table_of_low_rank_is_completed(implicit):
    flags = {"data": "tastes", "width": 2, "l2": 0.3, "bias_l2": 1.0}
    flags |= {"implicit": implicit, "batch_size": 100, "steps": 600}
    scores = scores_of(prepare(RECIPES["matrix_factorization"], **flags))
    # so dear that only the biases are left
    alone = scores_of(prepare(RECIPES["matrix_factorization"], **flags | {"l2": 1e4}))
    # the noise is 0.1, what biases cannot say is of deviation 1.4
    assert scores["rmse"] < 0.3 and alone["rmse"] > 1.0


@pytest.mark.contract
def test_folds_of_ratings_are_one_program():
    which = many.folds(ROWS, 3, stratified=False, seed=0)

    def make(l2):
        model = recommender.Factorization(SIZES, 2, implicit=True)
        task = recommender.ratings(model, SIZES, l2=l2)
        return task, optim.optimizer("adam", 0.05)

    found = many.cross_validate(
        *(make, ROWS, 150),
        which=which,
        axes={"l2": [1e-4, 1.0]},
        size=100,
        standardize=False,
        progress=False,
    )
    assert found.scores.shape == (2, 3) and found.best == 0
    # a fold, alone: what the fold is tested on is no item that a user is said to have
    rated = found.sweep.state.model["rated"]["items"]
    for fold in range(3):
        train = TASTES.x[which.train[fold][which.train[fold] >= 0]]
        assert rated[fold].sum() == len(train)
        assert rated[fold][tuple(train.T)].all()


def plain(scores, seen, wanted, k):
    """Recall and NDCG of one user."""
    order = sorted(np.flatnonzero(~seen), key=lambda i: -scores[i])[:k]
    hits = [wanted[i] for i in order]
    gain = sum(1 / np.log2(2 + p) for p, hit in enumerate(hits) if hit)
    best = sum(1 / np.log2(2 + p) for p in range(min(k, wanted.sum())))
    return sum(hits) / wanted.sum(), gain / best


def test_rankings_equal_a_plain_loop():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(20, 30)).astype(np.float32)
    seen = rng.uniform(size=scores.shape) < 0.3
    wanted = (rng.uniform(size=scores.shape) < 0.3) & ~seen
    found = recommender.ranking(scores, seen, wanted, 5)
    exact = [plain(*row, 5) for row in zip(scores, seen, wanted, strict=True)]
    np.testing.assert_allclose(
        np.stack([found["recall"], found["ndcg"]], 1), exact, rtol=1e-5
    )
    # all that is wanted, first: 1
    perfect = recommender.ranking(wanted * 1.0, seen, wanted, 30)
    np.testing.assert_allclose(perfect["recall"], 1)
    np.testing.assert_allclose(perfect["ndcg"], 1, rtol=1e-6)


def test_what_was_seen_is_not_recommended():
    scores, seen = jnp.arange(5.0)[None], jnp.array([[0, 0, 0, 1, 0]], bool)
    assert recommender.recommend(scores, seen, 3).tolist() == [[4, 2, 1]]


@pytest.mark.contract
def test_bpr_puts_what_was_chosen_first():
    """Two circles of people choose of two halves of the items."""
    rng = np.random.default_rng(0)
    x = np.argwhere(np.kron(np.eye(2), np.ones((20, 15))) > 0).astype(np.int32)
    x = rng.permutation(x)
    model = recommender.Factorization((40, 30), 4, ranks=True)
    task = recommender.bpr(model, (40, 30))
    done = trained(task, optim.optimizer("adam", 0.03), 300, {"x": x[:400]}, 100)
    variables = {"params": done.trained.params}
    names = tuple(tuple(map(str, range(n))) for n in (40, 30))
    schema = prepare(RECIPES["bpr"], data="tastes").schema._replace(ids=names)

    def scores(user):
        return recommender.scores_of(model, variables, user, 30)

    parts = {"x": x[:400]}, {"x": x[400:]}
    found = rankings(schema, *parts, scores, k=15)
    assert found["recall"] == 1.0
    assert (
        recommender.similar(done.trained.params["item"]["embedding"], 3, 14).max() < 15
    )
    full_ = scores(np.array([0, 39], np.int32))
    pairs = jnp.array([[0, 7], [39, 7]])
    np.testing.assert_allclose(
        full_[:, 7], model.apply(variables, pairs)[:, 0], rtol=1e-5
    )


@pytest.mark.contract
def test_of_one_negative_the_objective_is_bprs():
    model = recommender.Factorization((40, 30), 4, ranks=True)
    batch = {"x": jnp.array([[0, 7], [39, 2]])}

    def found(n):
        task = recommender.bpr(model, (40, 30), negatives=n)
        params, state = task.init(jax.random.key(0), batch)
        return task.loss(params, state, batch, jax.random.key(1), train=True)[0]

    def metrics(n):
        task = recommender.bpr(model, (40, 30), negatives=n)
        params, state = task.init(jax.random.key(0), batch)
        _, aux = task.loss(params, state, batch, jax.random.key(1), train=True)
        return aux.metrics

    np.testing.assert_allclose(found(1), metrics(1)["loss"].value(), rtol=1e-6)
    # of n scores that are nearly equal, log(1 + n)
    np.testing.assert_allclose(found(9), np.log(10), rtol=0.05)
    with pytest.raises(UsageError, match="negatives"):
        recommender.bpr(model, (40, 30), negatives=0)


def test_a_table_of_the_users_has_its_names(tmp_path):
    names = {"users": np.array(["ann", "bob"]), "items": np.array(["tea", "milk"])}
    user, item = np.array([0, 0, 1, 1] * 5), np.array([0, 1, 0, 1] * 5)
    arrays = {"user": user, "item": item, "rating": np.arange(20) / 4, **names}
    path = tmp_path / "r.npz"
    np.savez(path, **arrays)
    data = ratings.load_ratings(path)
    assert data.schema.ids == (("ann", "bob"), ("tea", "milk"))
    assert len(data.train["y"]) == 16 and len(data.test["y"]) == 4
    given = np.concatenate([data.train["y"], data.test["y"]])
    assert sorted(restore_target(data.schema, given)) == pytest.approx(
        sorted(arrays["rating"]), abs=1e-5
    )
    x = inputs.examples(data.schema, [("bob", "tea"), ("ann", "milk")])["x"]
    assert x.tolist() == [[1, 0], [0, 1]]
    with pytest.raises(UsageError, match="found 'mlk'; did you mean 'milk'"):
        inputs.examples(data.schema, [("bob", "mlk")])
    with pytest.raises(UsageError, match="from 0 to 1 in column 1, found 2"):
        inputs.examples(data.schema, np.array([[0, 2]]))
    watched = ratings.load_ratings(Split(path, 0.25)).watched
    assert len(watched["y"]) == 4
    found = prepare(RECIPES["matrix_factorization"], data)
    first = Trained(*found.task.init(jax.random.key(0), data.train))
    text = found.report.measure(first, data).files["liked.txt"]()  # of two items
    assert text.count("\n") == 2 and "who liked tea liked milk." in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"user": np.array([0, -1, 1])}, "column 0, found -1 in rating 1"),
        ({"items": np.array(["tea"])}, "from 0 to 0 in column 1, found 1"),
        ({"user": np.array([0.0, 1.0, 1.0])}, "expected integer ids of"),
        ({"user": np.array([0, 1, 10**9])}, "below 10,000,000, found 1000000000"),
        ({"user": np.array([0, 1])}, "columns .N. of one length"),
        ({"rating": np.array([1.0, np.nan, 2.0])}, "rating"),
        ({"rating": None}, "expected rating in"),
    ],
)
def test_ratings_that_cannot_be_right_are_refused(change, said, tmp_path):
    arrays = {"user": np.array([0, 1, 1]), "item": np.array([0, 1, 0])}
    arrays |= {"rating": np.array([1.0, 2.0, 3.0])} | change
    arrays = {name: a for name, a in arrays.items() if a is not None}
    np.savez(tmp_path / "r.npz", **arrays)
    with pytest.raises(UsageError, match=said):
        ratings.load_ratings(tmp_path / "r.npz")


def test_ratings_that_are_not_there_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_DATA_DIR", str(tmp_path))
    with pytest.raises(UsageError, match=r"expected movielens_small.npz in .*put it"):
        ratings.load_ratings()


@pytest.mark.parametrize("name", ["matrix_factorization", "bpr"])
@pytest.mark.parametrize("wrong", [[60, 0], [0, 40], [-1, 0], [0, -1]])
def test_an_id_past_its_table_is_refused(name, wrong):
    recipe = prepare(RECIPES[name], data="tastes", batch_size=8)
    rows = {k: a.copy() for k, a in recipe.parts.train.items()}
    rows["x"][5] = wrong
    with pytest.raises(UsageError, match=f"found {max(wrong, key=abs)} in example 5"):
        fit(recipe._replace(data=recipe.parts._replace(train=rows)))


@pytest.mark.parametrize("name", ["matrix_factorization", "neumf", "bpr"])
def test_ids_are_whole_numbers_of_every_column(name):
    recipe = prepare(RECIPES[name], data="tastes")
    for x in (jnp.zeros((2, 2)), jnp.zeros((2, 1), int)):
        with pytest.raises(UsageError, match="expected (integer|2 columns)"):
            recipe.network.init(jax.random.key(0), x)


@pytest.mark.parametrize("flags", [{"l2": -1.0}, {"bias_l2": -1.0}, {"data": "digits"}])
def test_what_cannot_be_right_is_refused(flags):
    with pytest.raises(UsageError):
        prepare(RECIPES["bpr"], **{"data": "tastes"} | flags)


@pytest.mark.contract
def test_a_report_says_what_else_was_liked():
    flags = {"data": "tastes", "width": 2, "steps": 20, "batch_size": 100}
    recipe = prepare(RECIPES["bpr"], **flags)
    measured = recipe.report.measure(fit(recipe).trained, recipe.parts)
    assert {"recall", "ndcg", "recall_popular", "ndcg_popular"} == set(measured.scores)
    text = measured.files["liked.txt"]()
    assert text.startswith("People who liked dish ")
    assert len(text.splitlines()) == 10 and text.count(";") == 40
