"""Data sets: what load gives, and what it says of what is wrong."""

import json
import operator
from pathlib import Path

import numpy as np
import pytest
from sklearn import datasets
from sklearn.model_selection import train_test_split

from train import data
from train.data import inputs, parts
from zoo.base import UsageError

TABLES = {
    "diabetes": (442, (10,), 0),
    "breast_cancer": (569, (30,), 2),
    "wine": (178, (13,), 3),
    "iris": (150, (4,), 3),
    "digits": (1797, (8, 8, 1), 10),
}


def refused(message, *args, **kwargs):
    """load raises UsageError with a message of one line that matches."""
    with pytest.raises(UsageError, match=message) as error:
        data.load(*args, **kwargs)
    assert "\n" not in str(error.value)


def original(schema, x):
    return x * np.array(schema.scale) + np.array(schema.mean)


# Built in -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_built_in_tables_are_split_and_standardised(name):
    count, shape, classes = TABLES[name]
    schema, train, test, *_ = data.load(name)
    assert schema.name == name and schema.shape == shape
    assert schema.image == (name == "digits")
    assert schema.regression == (name == "diabetes")
    assert len(schema.classes) == classes
    assert len(test["x"]) == -(-count // 5)
    assert len(train["x"]) + len(test["x"]) == count
    for part in train, test:
        assert part["x"].shape == (len(part["y"]), *shape)
        assert part["x"].dtype == np.float32
        assert part["y"].dtype == (np.float32 if schema.regression else np.int32)
    flat = train["x"].reshape(-1, shape[-1])
    np.testing.assert_allclose(flat.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(flat.std(0), 1, atol=1e-5)


def test_the_split_is_the_stratified_one_of_the_reference_scores():
    found = datasets.load_breast_cancer()
    x, _, y, _ = train_test_split(
        found.data,
        found.target,
        test_size=0.2,
        random_state=0,
        stratify=found.target,
    )
    schema, train, test, *_ = data.load("breast_cancer")
    np.testing.assert_allclose(original(schema, train["x"]), x, 1e-4, 1e-6)
    np.testing.assert_allclose(schema.mean, x.mean(0))
    np.testing.assert_allclose(schema.scale, x.std(0))
    assert (train["y"] == y).all()


def test_regression_targets_are_standardised_and_restored():
    schema, train, test, *_ = data.load("diabetes")
    found = datasets.load_diabetes(scaled=False)
    _, _, y, y_test = train_test_split(
        found.data, found.target, test_size=0.2, random_state=0
    )
    np.testing.assert_allclose(schema.target, (y.mean(), y.std()))
    np.testing.assert_allclose([train["y"].mean(), train["y"].std()], [0, 1], atol=1e-6)
    restored = data.restore_target(schema, test["y"])
    np.testing.assert_allclose(restored, y_test, rtol=1e-5)


def test_images_keep_their_units_in_the_schema():
    schema, train, test, *_ = data.load("mnist5k")
    assert schema.shape == (28, 28, 1) and schema.classes == tuple("0123456789")
    assert len(train["x"]) == 4000 and len(test["x"]) == 1000
    assert (np.bincount(train["y"]) == 400).all()
    pixels = original(schema, train["x"])
    np.testing.assert_allclose([pixels.min(), pixels.max()], [0, 255], atol=1e-4)
    digits = data.load("digits")
    pixels = original(digits.schema, digits.train["x"])
    np.testing.assert_allclose([pixels.min(), pixels.max()], [0, 16], atol=1e-5)


@pytest.mark.parametrize(
    "name, rule", [("and", operator.and_), ("or", operator.or_), ("xor", operator.xor)]
)
def test_truth_tables_are_as_they_stand(name, rule):
    schema, train, test, *_ = data.load(name)
    assert schema.classes == ("0", "1") and test is None
    assert train["x"].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert train["y"].tolist() == [rule(*map(int, row)) for row in train["x"]]
    assert schema.mean == (0, 0) and schema.scale == (1, 1)


def test_holdout_is_a_fraction_of_what_has_no_test_part():
    everything = data.load("iris", holdout=0.0)
    assert len(everything.train["x"]) == 150 and everything.test is None
    half = data.load("iris", holdout=0.5)
    assert np.bincount(half.test["y"]).tolist() == [25, 25, 25]
    refused("test part of its own, found 0.5", "mnist5k", holdout=0.5)
    refused("below 1, found 1.0", "iris", holdout=1.0)
    refused("found -0.1", "iris", holdout=-0.1)


def test_load_takes_data_as_it_is():
    found = data.load("iris")
    assert data.load(found) is found


def test_wrong_names_and_options():
    refused("found \"iriss\"; did you mean 'iris'?", "iriss")
    refused("data sets diabetes, .*xor", "nothing like it")
    refused("found no file at there/is.npz", "there/is.npz")
    refused('a table, as a .csv file, with the target "y", found', "iris", target="y")
    refused('a table, .* with the scale "rank", found iris', "iris", scale="rank")
    refused("kind classes for iris, found regression", "iris", kind="regression")
    refused('found "clases"', "iris", kind="clases")
    assert data.load("iris", kind="classes").schema.classes[0] == "setosa"


def test_an_unknown_kind_of_file_is_named(tmp_path):
    (tmp_path / "a.doc").write_text("1 2 3")
    refused(r"\.npz or \.csv, found .*a\.doc", tmp_path / "a.doc")


# Records ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["diabetes", "digits", "and"])
def test_schema_survives_json(name):
    schema = data.load(name).schema
    assert data.from_json(json.loads(json.dumps(data.to_json(schema)))) == schema
    hash(schema)


def test_blank_has_the_shapes_and_types_of_an_example():
    for name in "diabetes", "digits":
        schema, train, *_ = data.load(name)
        found = data.blank(schema)
        for key in "x", "y":
            assert found[key].shape == (1, *train[key].shape[1:])
            assert found[key].dtype == train[key].dtype


def test_schema_of_needs_no_rows_of_published_sets(monkeypatch):
    for name in "mnist", "fashion_mnist", "cifar10":
        monkeypatch.setitem(data.NAMES, name, None)  # calling it would raise
        schema = data.schema_of(name)
        assert len(schema.classes) == 10 and schema.image
        assert set(schema.mean) == {0.0} and set(schema.scale) == {1.0}
    assert data.schema_of("iris") == data.load("iris").schema


def test_labels_are_named():
    schema = data.load("iris").schema
    assert data.labels(schema, [[2], [0]]).tolist() == [["virginica"], ["setosa"]]
    for wrong in 3, -1:
        with pytest.raises(UsageError, match=f"labels 0..2 of iris, found {wrong}$"):
            data.labels(schema, [0, wrong])
    with pytest.raises(UsageError, match="labels of iris, found float64"):
        data.labels(schema, [0.0])
    with pytest.raises(UsageError, match="found a regression"):
        data.labels(data.load("diabetes").schema, [0])


def test_apply_refuses_another_shape():
    schema = data.load("digits").schema
    with pytest.raises(UsageError, match=r"\(8, 8, 1\) as in digits, found \(8, 8\)"):
        data.standardize(schema, np.zeros((3, 8, 8)))


def test_split_keeps_rows_together_and_classes_even():
    y = np.repeat([0, 1], [90, 10])
    arrays = {"x": np.arange(100)[:, None], "y": y, "length": np.arange(100)}
    rest, part = parts.split(arrays, 0.2)
    assert np.bincount(part["y"]).tolist() == [18, 2]
    for half in rest, part:
        assert (half["x"][:, 0] == half["length"]).all()
        assert (half["y"] == y[half["length"]]).all()
    assert sorted([*rest["length"], *part["length"]]) == list(range(100))
    assert (parts.split(arrays, 0.2)[1]["x"] == part["x"]).all()
    assert (parts.split(arrays, 0.2, seed=1)[1]["x"] != part["x"]).any()


@pytest.mark.parametrize("fraction, y", [(0.2, [0, 0, 0, 1]), (0.0, [0.0] * 9)])
def test_split_says_what_is_too_few(fraction, y):
    arrays = {"x": np.zeros((len(y), 1)), "y": np.array(y)}
    with pytest.raises(
        UsageError, match=f"fraction of {fraction:g} aside.*found {len(y)} r"
    ):
        parts.split(arrays, fraction)


def test_split_of_pairs_is_random_rows():
    x = np.random.default_rng(0).integers(3, 9, (100, 4))
    rest, part = parts.split({"x": x, "y": x * 2}, 0.2)
    assert len(part["x"]) == 20 and (rest["y"] == 2 * rest["x"]).all()
    assert (part["x"] != x[-20:]).any()


# Sequences ----------------------------------------------------------------------------


def test_japanese_vowels_are_standardised_without_their_padding():
    schema, train, test, *_ = data.load("japanese_vowels")
    assert schema.shape == (29, 12) and schema.lengths
    assert schema.classes == tuple("123456789")
    assert (np.bincount(train["y"]) == 30).all() and len(test["y"]) == 370
    for part in train, test:
        assert part["x"].dtype == np.float32
        assert part["length"].dtype == part["y"].dtype == np.int32
        assert part["length"].min() == 7 and part["length"].max() <= 29
        real = np.arange(29) < part["length"][:, None]
        assert (part["x"][~real] == 0).all() and part["x"][real].all(-1).mean() > 0.99
    frames = train["x"][np.arange(29) < train["length"][:, None]]
    np.testing.assert_allclose(frames.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(frames.std(0), 1, atol=1e-5)
    assert data.from_json(json.loads(json.dumps(data.to_json(schema)))) == schema
    found = data.blank(schema)
    for key, array in train.items():
        assert found[key].shape == (1, *array.shape[1:])
        assert found[key].dtype == array.dtype
    assert found["length"].tolist() == [29]


def test_sequences_to_predict_have_lengths(tmp_path):
    schema, _, test, *_ = data.load("japanese_vowels")
    x, path = original(schema, test["x"][:5]), tmp_path / "some.npz"
    np.savez(path, x=x, length=test["length"][:5])
    found = inputs.read_examples(schema, [path, path])
    assert (found["length"] == np.tile(test["length"][:5], 2)).all()
    np.testing.assert_allclose(found["x"][5:], test["x"][:5], atol=1e-5)
    past = np.arange(29) >= found["length"][:, None]
    assert (found["x"][past] == 0).all()
    np.savez(path, x=x)
    assert (inputs.read_examples(schema, [path])["length"] == 29).all()
    np.savez(path, x=x, length=[30] * 5)
    with pytest.raises(UsageError, match=r"length of .* in 1\.\.29, found 30"):
        inputs.read_examples(schema, [path])


# .npz ---------------------------------------------------------------------------------


@pytest.fixture
def npz(tmp_path):
    """npz(x_train=..., ...) writes a file, by default of 20 good rows -> its path."""

    def write(**arrays):
        path = tmp_path / "rows.npz"
        good = {"x_train": np.arange(40.0).reshape(20, 2), "y_train": np.arange(20) % 2}
        arrays = good | arrays
        np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
        return str(path)

    return write


@pytest.mark.parametrize(
    "x, shape",
    [
        (np.arange(20.0), (1,)),
        (np.ones((20, 3), np.float16), (3,)),
        (np.ones((20, 3), bool), (3,)),
        (np.ones((20, 7, 3)), (7, 3)),
        (np.ones((20, 7, 3), np.uint8), (7, 3, 1)),
        (np.ones((20, 7, 3), bool), (7, 3, 1)),
        (np.ones((20, 7, 5, 3), np.float32), (7, 5, 3)),
    ],
)
def test_shapes_of_x(npz, x, shape):
    found = data.load(npz(x_train=x))
    assert found.schema.shape == shape and found.train["x"].shape == (16, *shape)
    assert found.train["x"].dtype == np.float32
    assert found.schema.name.endswith("rows.npz")


@pytest.mark.parametrize(
    "y, kind, names",
    [
        (np.tile([-3, 40], 10), None, ("-3", "40")),
        (np.tile([True, False], 10), None, ("False", "True")),
        (np.tile(["dog", "cat"], 10), None, ("cat", "dog")),
        (np.tile([2.0, 1.0], 10), None, ("1", "2")),
        (np.tile([[1], [2]], (10, 1)), None, ("1", "2")),
        (np.tile([0.5, 1.0], 10), None, ()),
        (np.tile([0.5, 1.0], 10), "classes", ("0.5", "1.0")),
        (np.tile([2, 1], 10), "regression", ()),
        (np.tile([2.0, 1.0], 10), "regression", ()),
    ],
)
def test_what_y_means(npz, y, kind, names):
    schema, train, *_ = data.load(npz(y_train=y), kind=kind, holdout=0.0)
    assert schema.classes == names and schema.regression == (names == ())
    if names:
        shown = data.labels(schema, train["y"])
        assert train["y"].dtype == np.int32
        if y.dtype.kind == "f" and kind is None:
            y = y.astype(int)
        assert shown.tolist() == [str(v) for v in y.ravel().tolist()]
    else:
        assert train["y"].dtype == np.float32
        np.testing.assert_allclose(data.restore_target(schema, train["y"]), y)


def test_many_whole_floats_are_a_quantity(npz):
    x, y = np.zeros((42, 1)), np.repeat(np.arange(21.0), 2)
    assert data.load(npz(x_train=x, y_train=y)).schema.regression
    found = data.load(npz(x_train=x[2:], y_train=y[2:]), holdout=0.5)
    assert len(found.schema.classes) == 20
    schema = data.load(npz(x_train=x, y_train=y), kind="classes", holdout=0.5).schema
    assert len(schema.classes) == 21


def test_the_test_part_is_standardised_as_the_training_part(npz):
    x = np.array([[1.0, 0.1], [3.0, 0.1]])
    path = npz(
        x_train=x,
        y_train=np.array(["b", "a"]),
        x_test=np.array([[5.0, 0.3]]),
        y_test=np.array(["a"]),
    )
    schema, train, test, *_ = data.load(path)
    assert schema.mean == (2.0, 0.1) and schema.scale == (1.0, 1.0)
    assert train["x"].tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    np.testing.assert_allclose(test["x"], [[3.0, 0.2]], rtol=1e-6)
    assert test["y"].tolist() == [0]
    refused("test part of its own", path, holdout=0.2)
    assert len(data.load(path, holdout=0.0).test["y"]) == 1  # nothing is taken


def test_a_constant_feature_has_scale_one_however_it_rounds(npz):
    x = np.stack([np.full(20, 0.1), np.full(20, 1e9), np.arange(20) * 1e-12], 1)
    schema, train, *_ = data.load(npz(x_train=x), holdout=0.0)
    assert schema.scale[:2] == (1.0, 1.0) and schema.mean[:2] == (0.1, 1e9)
    assert (train["x"][:, :2] == 0).all()
    np.testing.assert_allclose(train["x"][:, 2].std(), 1, rtol=1e-5)


def test_statistics_of_large_values_with_a_small_spread(npz):
    x = 1e9 + np.arange(20.0)  # float32 could not tell these apart
    schema, train, *_ = data.load(npz(x_train=x), holdout=0.0)
    np.testing.assert_allclose(schema.scale, [np.arange(20).std()])
    assert len(np.unique(train["x"])) == 20


def test_channels_are_standardised_each_on_its_own(npz):
    x = np.random.default_rng(0).normal([0, 5], [1, 9], (20, 4, 4, 2))
    schema = data.load(npz(x_train=x), holdout=0.0).schema
    np.testing.assert_allclose(schema.mean, x.mean((0, 1, 2)))
    np.testing.assert_allclose(schema.scale, x.std((0, 1, 2)))


GOOD = np.arange(40.0).reshape(20, 2)


@pytest.mark.parametrize(
    "message, arrays",
    [
        ('x_train and y_train in .*found "a"', dict(x_train=None, y_train=None, a=[1])),
        ("expected y_test in", dict(x_test=GOOD)),
        (r"nan at index \[3, 1\] \(2 such", dict(x_train=(3, 1, np.nan))),
        (r"-inf at index \[3, 1\] \(2 such", dict(x_train=(3, 1, -np.inf))),
        (r"float32's range.*-1e\+39 at index \[3, 1\]", dict(x_train=(3, 1, -1e39))),
        ("found shape .0, 2.: empty", dict(x_train=GOOD[:0], y_train=GOOD[:0, 0])),
        ("x_train as in y_train of .*20 and 19", dict(y_train=np.arange(19))),
        ("numbers in x_train of .*rows.npz, found comp", dict(x_train=GOOD * 1j)),
        ("numbers in x_train of .*, found <U4", dict(x_train=GOOD.astype("U4"))),
        ("Python objects", dict(x_train=GOOD.astype(object))),
        ("Python objects", dict(y_train=np.array(["a", None] * 10))),
        (r"found shape \(20, 1, 1, 1, 2\)", dict(x_train=GOOD[:, None, None, None])),
        (r"y_train of .* found shape \(20, 2, 1\) of", dict(y_train=GOOD[..., None])),
        ("found shape .20,. of complex128", dict(y_train=GOOD[:, 0] * 1j)),
        ("nan at index .0.", dict(y_train=np.full(20, np.nan))),
        ('two classes or more in .*found "7" alone', dict(y_train=np.full(20, 7))),
        (
            r"x_test .* shape \(2,\) as x_train has, found \(3,\)",
            dict(x_test=np.ones((2, 3)), y_test=np.arange(2)),
        ),
        (
            'only the classes of y_train .* found "2", "5"',
            dict(x_test=np.ones((3, 2)), y_test=np.array([5, 1, 2])),
        ),
        (
            "both text or both numbers, found int64 and <U1",
            dict(x_test=np.ones((2, 2)), y_test=np.array(["0", "1"])),
        ),
        (
            "nan at index .1.",
            dict(x_test=np.ones((2, 2)), y_test=np.array([0, np.nan])),
        ),
        (
            "nan at index .0, 0.",
            dict(x_test=np.full((1, 2), np.nan), y_test=np.array([0])),
        ),
    ],
)
def test_what_is_wrong_in_an_npz_is_named(npz, message, arrays):
    for key, value in arrays.items():
        if isinstance(value, tuple):  # row, column, value: there and in a later row
            arrays = arrays | {key: GOOD.copy()}
            arrays[key][value[0], value[1]] = arrays[key][9, 0] = value[2]
    refused(message, npz(**arrays))


def test_kind_cannot_contradict_y(npz):
    text, real = np.tile(["a", "b"], 10), np.arange(42) / 7
    refused('regression, found the text "a"', npz(y_train=text), kind="regression")
    path = npz(x_train=np.ones((42, 2)), y_train=real)
    refused("42 distinct fractional numbers", path, kind="classes")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x05\x06" + bytes(18), "npy"])
def test_what_is_no_npz_is_named(tmp_path, content):
    path = tmp_path / "rows.npz"
    empty = content[:2] == b"PK"  # an archive, without a file in it
    wanted = "an .npz file as numpy.savez writes.*rows.npz"
    wanted = "x_train and y_train in .*rows.npz, found none" if empty else wanted
    if content == "npy":
        with path.open("wb") as file:
            np.save(file, GOOD)
    else:
        path.write_bytes(content)
    refused(f"expected {wanted}", path)


def test_a_truncated_npz_is_named(npz, tmp_path):
    body = Path(npz()).read_bytes()
    (tmp_path / "cut.npz").write_bytes(body[: len(body) // 2])
    refused(
        "expected an .npz file as numpy.savez writes it, found .*cut.npz",
        tmp_path / "cut.npz",
    )


# .csv ---------------------------------------------------------------------------------


@pytest.fixture
def csv(tmp_path):
    """csv(text) writes a file -> its path."""

    def write(text, name="rows.csv"):
        (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
        return str(tmp_path / name)

    return write


TOWNS = """size,town,price
1.5,"Oslo, N",10.5
2.5,Bern,20
3.5,"Oslo, N",30
4.5,Rome,40
"""


def test_columns_become_features(csv):
    path = csv("\ufeff" + TOWNS.replace("\n", "\r\n"))
    schema, train, test, *_ = data.load(path, target="price", holdout=0.0)
    known = [column[:2] for column in schema.columns]
    assert known == [("size", ()), ("town", ("Bern", "Oslo, N", "Rome"))]
    assert schema.shape == (4,) and schema.target_name == "price"
    assert schema.regression and test is None
    np.testing.assert_allclose(
        original(schema, train["x"]),
        [[1.5, 0, 1, 0], [2.5, 1, 0, 0], [3.5, 0, 1, 0], [4.5, 0, 0, 1]],
        atol=1e-6,
    )
    np.testing.assert_allclose(schema.mean, [3, 0.25, 0.5, 0.25])
    restored = data.restore_target(schema, train["y"])
    np.testing.assert_allclose(restored, [10.5, 20, 30, 40], rtol=1e-6)
    assert data.from_json(json.loads(json.dumps(data.to_json(schema)))) == schema


def test_targets_of_a_csv_may_be_classes(csv):
    rows = "".join(f"{i},{'yes' if i % 3 else 'no'},{i % 2}\n" for i in range(30))
    path = csv("a,b,c\n" + rows)
    assert data.load(path, target="b").schema.classes == ("no", "yes")
    assert data.load(path, target="c").schema.classes == ("0", "1")
    assert data.load(path, target="a").schema.regression
    assert data.load(path, target="c", kind="regression").schema.regression
    test = data.load(path, target="b").test
    assert np.bincount(test["y"]).tolist() == [2, 4]
    refused("for regression, found the text", path, target="b", kind="regression")


def test_a_level_that_only_the_test_part_has_is_none_of_those_known(csv):
    tested = 0
    for rare in range(10):
        levels = ["rare" if i == rare else ("often", "well")[i % 2] for i in range(10)]
        rows = [f"{level},{i / 8}" for i, level in enumerate(levels)]
        path = csv("\n".join(["a,b", *rows]))
        schema, _, test, *_ = data.load(path, target="b", holdout=0.5)
        (column,) = schema.columns
        if column.levels == ("often", "well"):
            tested += 1
            assert original(schema, test["x"]).sum(1).min() < 1e-6
            assert schema.notes[0].startswith("of the test part, 1 of 5 values of")
        else:
            assert column.levels == ("often", "rare", "well") and not schema.notes
    assert tested == 5


@pytest.mark.parametrize(
    "message, text, target",
    [
        (
            'columns "size", "town", "price" of .*, found none was named$',
            TOWNS,
            None,
        ),
        ("found \"pirce\"; did you mean 'price'?", TOWNS, "pirce"),
        ("distinct columns in .*'a'. twice", "a,a,b\n1,2,3\n", "b"),
        ("3 values in line 4 of .*, found 2", "a,b,c\n1,2,3\n\n1,2\n", "a"),
        ('name every column, found "1", "2"', "1,2\n3,4\n", "1"),
        ('found "a", "": is it a line above the header', "a,\n3,4\n", "a"),
        ("header and at least one row in .*, found 1", "a,b\n", "a"),
        ("found 0 lines", "", "a"),
        ('beside "a", found none', "a\n1\n2\n", "a"),
        (
            'finite .* in the column "b" of .*, found "inf" in line 3',
            "a,b\n1,2\n2,inf\n" + "1,2\n2,3\n" * 9,
            "a",
        ),
        ("expected a table, found .*unexpected end", 'a,b\n1,"2\n', "a"),
        ("rows without gaps in .*, found none", "a,b\n1,\n2,NA\n", "b"),
        ("to learn from in .*: it has no values", "a,b\n" + ",1\n?,2\n" * 9, "b"),
        ('two classes or more in the column "b" of', "a,b\n1,x\n2,x\n", "b"),
    ],
)
def test_what_is_wrong_in_a_csv_is_named(csv, message, text, target):
    refused(message, csv(text), target=target)


@pytest.mark.parametrize(
    "message, text, target",
    [
        (
            r'columns "a" \(2 missing, first in line 3\), "b" \(1 missing, first in '
            r"line 2\):",
            "a,b,c\n1,NA,1\n?,2,2\nNaN,2,3\n",
            "c",
        ),
        (r'column "c" \(1 missing, first in line 3\)', "a,c\n1,1\n2,\n", "c"),
        (r'"a" \(1 missing, first in line 2\)', "a,c\nnull,1\n2,1\n", "c"),
    ],
)
def test_gaps_may_be_refused(csv, message, text, target):
    refused(message, csv(text), target=target, missing="refuse")


@pytest.mark.parametrize("column", ["a", "b"])
def test_a_slip_in_a_column_of_numbers_makes_no_categories(csv, column):
    rows = [f"{i}.5,{i}.5" for i in range(30)]
    rows[7] = {"a": "1_000,7.5", "b": "7.5,1_000"}[column]
    path = csv("\n".join(["a,b", *rows]))
    refused(f'column "{column}".*"1_000" in line 9', path, target="b")


def test_csv_targets_are_for_csv(npz):
    refused('a table, as a .csv file, with the target "y"', npz(), target="y")


def test_a_column_of_names_is_left_out_and_said(csv):
    lines = [f"name{i},{i},{i / 8}" for i in range(101)]
    path = csv("\n".join(["a,c,b", *lines]))
    schema = data.load(path, target="b").schema
    assert schema.shape == (1,)
    numbering, left = schema.notes
    assert 'the column "c" numbers the rows' in numbering
    assert left == 'left out the column "a": 80 of its 80 values are distinct'
    schema = data.load(path, target="b", category="a", drop="c").schema
    assert schema.shape == (80,)
    refused('column "a".*101 distinct', path, target="a")


# Prediction ---------------------------------------------------------------------------


def test_inputs_of_a_csv_find_their_columns_by_name(csv):
    schema, train, *_ = data.load(csv(TOWNS), target="price", holdout=0.0)
    other = csv("extra,town,size\nx,Rome,4.5\n,Bern,2.5\n", "other.csv")
    x = inputs.read_inputs(schema, [other, other])
    assert x.dtype == np.float32
    assert (x == train["x"][[3, 1, 3, 1]]).all()
    for message, text in [
        (
            'column "size" in .*, found "town", "sizes".*mean \'sizes\'',
            "town,sizes\na,1",
        ),
        (
            'a number in the column "size".*"big" in line 3',
            "town,size\nRome,1\nRome,big",
        ),
    ]:
        with pytest.raises(UsageError, match=message):
            inputs.read_inputs(schema, csv(text, "wrong.csv"))
    with pytest.warns() as said:
        x = inputs.read_inputs(schema, csv("town,size\nOslo,1\n,", "new.csv"))
    one, two, three = (str(warning.message) for warning in said)
    assert '1 gap in the column "size"' in one
    assert '1 of 2 values of the column "town" unseen in training, as "Oslo"' in two
    assert '1 gap in the column "town"' in three
    found = original(schema, x)
    np.testing.assert_allclose(found, [[1, 0, 0, 0], [3, 0, 0, 0]], atol=1e-6)


def test_inputs_of_an_npz(npz, tmp_path):
    schema, train, *_ = data.load("digits", holdout=0.0)
    images = datasets.load_digits().images
    for key, x in ("x", images), ("x_test", images[..., None]), ("x_train", images):
        path = tmp_path / "inputs.npz"
        np.savez(path, **{key: x, "other": [1]})
        assert (inputs.read_inputs(schema, path) == train["x"]).all()
    for message, arrays in [
        (r"\(8, 8, 1\) as digits has, found shape \(20, 2\)", {}),
        (r'x, x_test or x_train in .*, found "y_train"', {"x_train": None}),
        ("nan at index", {"x": np.full((1, 8, 8), np.nan)}),
        ("found shape .0, 8, 8.: empty", {"x": images[:0]}),
    ]:
        with pytest.raises(UsageError, match=message):
            inputs.read_inputs(schema, npz(**arrays))


@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_pictures_become_examples(npz, tmp_path, channels, mode):
    from PIL import Image

    draw = np.random.default_rng(0)
    x = draw.integers(0, 256, (20, 6, 5, channels), dtype=np.uint8)
    schema, train, *_ = data.load(npz(x_train=x), holdout=0.0)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, pixels in zip(paths, x, strict=False):
        Image.fromarray(pixels.squeeze()).save(path)
    with Image.open(paths[0]) as image:
        assert image.mode == mode
    assert (inputs.read_inputs(schema, paths) == train["x"][:3]).all()
    Image.new("RGB", (50, 40), (7, 7, 7)).save(tmp_path / "large.jpg")
    large = original(schema, inputs.read_inputs(schema, str(tmp_path / "large.jpg")))
    assert large.shape == (1, 6, 5, channels)
    np.testing.assert_allclose(large[..., 0], 7, atol=1.01)


def test_pictures_are_refused_where_they_mean_nothing(npz, tmp_path):
    from PIL import Image

    path = tmp_path / "a.png"
    Image.new("L", (8, 8)).save(path)
    depth = tmp_path / "deep.png"
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(depth)
    (tmp_path / "text.png").write_text("text")
    pixels = np.random.default_rng(0).integers(0, 256, (90, 90), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 2), np.uint8)
    two = data.load(npz(x_train=pixels)).schema
    mnist = data.load("mnist5k").schema
    for message, schema, file in [
        (r"shape \(4,\) as in iris, found the picture", data.load("iris").schema, path),
        ("digits are not pixels 0..255", data.load("digits").schema, path),
        ("1, 3 or 4 channels for the picture .*, found 2", two, path),
        ("8 bits a channel in .*deep.png", mnist, depth),
        ("expected a picture, found .*text.png", mnist, tmp_path / "text.png"),
        ("expected a picture, found .*cut.png", mnist, tmp_path / "cut.png"),
    ]:
        with pytest.raises(UsageError, match=message):
            inputs.read_inputs(schema, file)


def test_inputs_that_cannot_be_read_are_named(csv, tmp_path):
    schema = data.load("iris").schema
    for message, paths in [
        ("found none", []),
        ("found no file at nowhere.csv", "nowhere.csv"),
        ("as iris has no named columns, found .*rows.csv", csv(TOWNS)),
        (".png or .jpg, found .*rows.doc", csv(TOWNS, "rows.doc")),
    ]:
        with pytest.raises(UsageError, match=message):
            inputs.read_inputs(schema, paths)
