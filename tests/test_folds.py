"""Folds as members of one program, against scikit-learn's own."""

import contextlib
import warnings

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.conftest import quick
from train import data as sets
from train import loop, many, mesh, optim, source
from zoo import linear, mlp, supervised
from zoo.base import UsageError

DIABETES, CANCER = (sets.load(name).train for name in ("diabetes", "breast_cancer"))
CASES = {
    "ridge": (
        lambda strength, rows: linear.regression(l2=strength / rows),
        Ridge(),
        "alpha",
        np.geomspace(1e-1, 1e3, 5),
        DIABETES,
        "neg_mean_squared_error",
    ),
    "logistic": (
        lambda strength, rows: linear.logistic(l2=1 / (2 * rows * strength)),
        LogisticRegression(solver="newton-cholesky", tol=1e-9, max_iter=1000),
        "C",
        np.geomspace(1e-2, 1.0, 5),
        CANCER,
        "neg_log_loss",
    ),
}


def split(which):
    """The folds as scikit-learn has them."""
    return [
        (a[a >= 0], b[b >= 0]) for a, b in zip(which.train, which.test, strict=True)
    ]


@pytest.mark.parametrize("folds", quick([3, 5], 3))
@pytest.mark.parametrize("name", quick(CASES, "logistic"))
def test_scores_and_coefficients_are_scikit_learns(name, folds):
    task, estimator, flag, values, rows, scoring = CASES[name]
    which = many.folds(rows, folds, seed=1)
    lengths = {len(part) for part, _ in split(which)}
    assert len(lengths) == (2 if len(rows["x"]) % folds else 1)

    def make(strength, rows):
        return task(strength, rows), optim.optimizer("newton")

    found = many.cross_validate(
        *(make, rows, 12),
        which=which,
        axes={"strength": values},
        progress=False,
    )
    theirs = GridSearchCV(
        make_pipeline(StandardScaler(), estimator),
        {f"{type(estimator).__name__.lower()}__{flag}": values},
        cv=split(which),
        scoring=scoring,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.fit(rows["x"], rows["y"])
    each = [theirs.cv_results_[f"split{k}_test_score"] for k in range(folds)]
    np.testing.assert_allclose(found.scores, -np.transpose(each), rtol=1e-4, atol=1e-5)
    assert found.best == theirs.best_index_
    wanted = theirs.best_estimator_[-1].coef_.ravel()
    kernel = found.trained.params["dense"]["kernel"].ravel()
    np.testing.assert_allclose(kernel, wanted, atol=1e-4)
    # the rows of a fold alone scale it: by those of all it would be another score
    plain = many.cross_validate(
        *(make, source.standardized(source.full(rows)).arrays.of(rows), 12),
        which=which,
        axes={"strength": values},
        standardize=False,
        progress=False,
    )
    assert np.abs(plain.scores - found.scores).max() > 1e-4


@pytest.mark.contract
def test_a_standard_error_chooses_the_simpler():
    def make(alpha, rows):
        return linear.regression(l2=alpha / rows), optim.optimizer("newton")

    found = many.cross_validate(
        make,
        DIABETES,
        2,
        which=many.folds(DIABETES, 5, repeats=2),
        axes={"alpha": np.geomspace(1e-2, 1e4, 13)},
        simpler="alpha",
        progress=False,
    )
    assert found.scores.shape == (13, 10)
    near = found.mean <= found.mean[found.best] + found.error[found.best]
    assert found.simplest == np.flatnonzero(near)[-1] > found.best
    alpha = found.setting(found.simplest)["alpha"]
    x = StandardScaler().fit_transform(DIABETES["x"])
    wanted = Ridge(alpha).fit(x, DIABETES["y"]).coef_
    kernel = found.trained.params["dense"]["kernel"].ravel()
    np.testing.assert_allclose(kernel, wanted, atol=1e-4)
    scaled = found.scaling.of({"x": DIABETES["x"]})["x"]
    np.testing.assert_allclose(scaled, x, atol=1e-4)


@pytest.mark.contract
def test_a_fold_is_the_training_on_its_rows():
    rows = {name: array[:60] for name, array in CANCER.items()}

    def make(learning_rate):
        task = supervised.task(mlp.MLP(2, (8,)), supervised.classes)
        return task, optim.optimizer("adam", learning_rate)

    which = many.folds(rows, 4)
    axes = {"learning_rate": [1e-2], "fold": range(4)}
    data = many.varied(rows, which, 16)
    found = many.sweep(make, data, 9, seeds=[5], axes=axes, progress=False)
    for k in (0, 3):
        own = source.standardized(source.rows(rows, which.train[k], 16))
        alone = loop.fit(*make(1e-2), own, steps=9, seed=5, progress=False)
        for a, b in zip(
            *map(jax.tree.leaves, (found.trained(k), alone.trained)), strict=True
        ):
            np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.contract
def test_what_fills_a_fold_counts_for_nothing():
    rows = {name: array[:50] for name, array in DIABETES.items()}
    which = many.folds(rows, 4)  # of 37 and 38 rows
    filled = np.flatnonzero((which.train < 0).any(1))
    assert filled.size == 2

    def make(alpha):
        return linear.regression(l2=alpha), optim.optimizer("newton")

    axes = {"alpha": [0.1], "fold": range(4)}
    data = many.varied(rows, which)
    found = many.sweep(make, data, 2, axes=axes, progress=False)
    # another row in its place would
    other = many.Folds(np.where(which.train < 0, 7, which.train), which.test)
    moved = many.sweep(make, many.varied(rows, other), 2, axes=axes, progress=False)
    for k in filled:
        index = which.train[k][which.train[k] >= 0]
        x = StandardScaler().fit_transform(rows["x"][index])
        wanted = Ridge(0.1 * len(index)).fit(x, rows["y"][index]).coef_
        kernels = [
            s.trained(k).params["dense"]["kernel"].ravel() for s in (found, moved)
        ]
        np.testing.assert_allclose(kernels[0], wanted, atol=1e-4)
        assert np.abs(kernels[1] - wanted).max() > 1e-3


@pytest.mark.contract
def test_a_norm_wants_folds_of_one_length():
    rows = {name: array[:61] for name, array in CANCER.items()}

    def make():
        model = mlp.MLP(2, (8,), batch_norm=True)
        task = supervised.task(model, supervised.classes)
        return task, optim.optimizer("adam", 1e-2)

    def run(rows):
        data = many.varied(rows, many.folds(rows, 4))
        options = {"axes": {"fold": range(4)}, "progress": False}
        return many.sweep(make, data, 2, **options)

    with pytest.raises(UsageError, match="no mask in training"):
        run(rows)
    assert run({name: array[:60] for name, array in rows.items()}).ended == "finished"


def test_folds_are_stratified_grouped_and_repeated():
    which = many.folds(CANCER, 5, repeats=2, seed=3)
    again = StratifiedKFold(5, shuffle=True, random_state=4)
    for k, (_, test) in enumerate(again.split(CANCER["x"], CANCER["y"])):
        np.testing.assert_array_equal(split(which)[5 + k][1], test)
    groups = np.arange(len(CANCER["x"])) // 3
    for train, test in split(many.folds(CANCER, 4, groups=groups)):
        assert not set(groups[train]) & set(groups[test])
        assert len(train) + len(test) == len(groups)
    boots = many.bootstraps(50, 6)
    assert boots.train.shape == (6, 50)
    for train, test in split(boots):
        assert not set(train) & set(test) and len(set(train)) + len(test) == 50


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: many.folds(CANCER, 1), "expected folds between 2"),
        (lambda: many.folds({"x": np.ones((3, 1))}, 4), "4 folds cannot be made"),
        (lambda: many.folds(DIABETES, 3, stratified=True), "labels y"),
        (lambda: many.varied({"x": np.ones((3, 1))}, many.bootstraps(5, 2)), "3 rows"),
    ],
)
def test_a_mistake_is_named(call, match):
    with pytest.raises(UsageError, match=match):
        call()


@pytest.mark.contract
def test_an_interrupted_cross_validation_chooses_nothing(tmp_path, monkeypatch):
    def make(alpha, rows):
        return linear.regression(l2=alpha / rows), optim.optimizer("newton")

    def run(**options):
        which = many.folds(DIABETES, 3)
        axes = {"alpha": [0.1, 1.0]}
        return many.cross_validate(
            *(make, DIABETES, 3), which=which, axes=axes, progress=False, **options
        )

    whole = run()
    with monkeypatch.context() as patch:
        stop = contextlib.nullcontext(lambda: True)
        patch.setattr("train.many.sweeps.interrupts", lambda: stop)
        with pytest.raises(KeyboardInterrupt):
            run(checkpoints=tmp_path)
    again = run(checkpoints=tmp_path, resume=True)
    np.testing.assert_array_equal(again.scores, whole.scores)
    jax.tree.map(np.testing.assert_array_equal, again.trained, whole.trained)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all", "folds"]


@pytest.mark.contract
def test_more_partings_do_not_shrink_the_error():
    def make(alpha, rows):
        return linear.regression(l2=alpha / rows), optim.optimizer("newton")

    which = many.folds(DIABETES, 4, repeats=3)
    options = {"axes": {"alpha": [1.0]}, "progress": False}
    found = many.cross_validate(make, DIABETES, 2, which=which, **options)
    each = found.scores[0].reshape(3, 4).std(1, ddof=1) / 2
    assert found.error[0] == pytest.approx(each.mean())


@pytest.mark.contract
def test_nothing_judges_the_training_on_all_rows(monkeypatch):
    names, plain = [], mesh.compiled

    def count(function, *args, **options):
        program, name = plain(function, *args, **options)
        names.append(name)
        return program, name

    monkeypatch.setattr(mesh, "compiled", count)

    def make(alpha, rows):
        return linear.regression(l2=alpha / rows), optim.optimizer("newton")

    which = many.folds(DIABETES, 3)
    axes = {"alpha": [1.0, 2.0]}
    many.cross_validate(make, DIABETES, 2, which=which, axes=axes, progress=False)
    # initial states and steps, twice; evaluation of the folds alone
    assert len(names) == len(set(names)) == 5
