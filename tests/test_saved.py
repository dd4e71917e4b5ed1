"""A trained model in three lines: loaded, asked, exported, read back."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pandas
import pytest
from safetensors.numpy import load_file, save_file

import train
from tests.conftest import with_rows
from tests.test_checkpoint import listing
from train import data as sets
from train import evaluate
from train.cli import run
from train.cli.main import main
from train.recipes import RECIPES, saved
from zoo.base import UsageError

ROOT = Path(__file__).parent.parent
FLAGS = {
    "linear": {"data": "houses.csv", "target": "price", "steps": 20},
    "mlp": {"data": "digits", "widths": (16,), "steps": 30},
    "gru": {"features": 8, "steps": 5},
    "char_lstm": {"data": "rose.txt", "length": 16, "features": 8, "width": 8}
    | {"steps": 3, "batch_size": 8},
    "seq2seq_lstm": {"data": "reverse", "features": 8, "width": 4, "steps": 2}
    | {"batch_size": 8},
    "autoencoder": {"data": "digits", "latent": 4, "steps": 4},
    "mlp_norm": {"data": "digits", "widths": (8,), "batch_norm": True, "steps": 4}
    | {"ema": 0.9},
}


pytestmark = pytest.mark.contract


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A short run of each kind; the user's files are gone."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    size, colour = rng.normal(5, 2, 120), rng.choice(["red", "blue"], 120)
    lines = [f"{s},{c},{3 * s + 10 * (c == 'red')}" for s, c in zip(size, colour)]  # noqa: B905
    (folder / "houses.csv").write_text("size,colour,price\n" + "\n".join(lines))
    (folder / "rose.txt").write_text("a rose is a rose is a rose.\n" * 60)
    for name, flags in FLAGS.items():
        recipe = name.removesuffix("_norm")
        if "." in flags["data"] if "data" in flags else False:
            flags = flags | {"data": str(folder / flags["data"])}
        run.train(recipe, flags, run.Options(), folder / name, False)
    for name in ("houses.csv", "rose.txt"):
        (folder / name).unlink()
    return folder


def raw(name, n=5):
    """Rows in the data's own units."""
    data = sets.load(name)
    x = data.test["x"][:n] * np.float32(data.schema.scale) + np.float32(
        data.schema.mean
    )
    return x, {k: v[:n] for k, v in data.test.items()}


def test_predictions_are_those_of_the_run(runs):
    found, (x, rows) = train.load(runs / "mlp"), raw("digits")
    assert found.recipe == "mlp" and found.schema.name == "digits"
    experiment = with_rows(runs / "mlp")
    trained = saved.restore(runs / "mlp").trained
    exact = evaluate.predict(experiment.task, trained, rows)
    np.testing.assert_allclose(found.predict(x), exact, atol=1e-5)
    whole = found.predict(x.round().astype(np.uint8))
    np.testing.assert_allclose(whole, exact, atol=1e-5)
    # a grey image without its channel; a path; a text path
    np.testing.assert_allclose(found.predict(x[..., 0]), exact, atol=1e-5)
    np.savez(runs / "x.npz", x=x)
    for path in (runs / "x.npz", str(runs / "x.npz"), [runs / "x.npz"]):
        np.testing.assert_allclose(found.predict(path), exact, atol=1e-5)
    assert found.sample is found.write is found.translate is None


def test_columns_by_name_are_predicted_in_their_own_unit(runs):
    found = train.load(str(runs / "linear"))
    columns = {"colour": ["red", "blue"], "size": [1.0, 2], "other": ["x", "y"]}
    np.testing.assert_allclose(found.predict(columns), [13, 6], rtol=1e-4)
    with pytest.warns(match='unseen in training, as "green"'):
        assert np.isfinite(found.predict({"colour": ["green"], "size": [1]}))
    frame = pandas.DataFrame({"size": [1, 2], "colour": ["red", "blue"]})
    np.testing.assert_allclose(found.predict(frame), [13, 6], rtol=1e-4)
    with pytest.raises(UsageError, match='a column "size"'):
        found.predict({"colour": ["red"], "siz": [1]})
    for wrong in ({"colour": ["red"], "size": [1, 2]}, {}):
        with pytest.raises(UsageError, match="columns of one length"):
            found.predict(wrong)
    with pytest.raises(UsageError, match='a dict with "x", found "images"'):
        train.load(runs / "mlp").predict({"images": raw("digits")[0]})


def test_sequences_have_lengths(runs):
    found, (x, rows) = train.load(runs / "gru"), raw("japanese_vowels")
    given = {"x": x, "length": rows["length"]}
    assert found.predict(given).shape == (5, 9)
    junk = x.copy()
    junk[0, rows["length"][0] :] = 77.0
    np.testing.assert_array_equal(
        found.predict(given), found.predict(given | {"x": junk})
    )
    assert (found.predict(x) != found.predict(given)).any()


def test_a_model_of_text_writes_and_predicts_characters(runs):
    found = train.load(runs / "char_lstm")
    said = found.write("a rose", 20, seed=3)
    assert len(said) == 20 and said == found.write("a rose", 20, seed=3)
    p = found.predict(["a rose", "is a r"])
    assert p.shape == (2, 6, len(found.schema.tokens))
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(found.predict("a rose")[0], p[0], rtol=1e-5)
    with pytest.raises(UsageError, match=r"one length, found \[1, 6\]"):
        found.predict(["a rose", "a"])
    with pytest.raises(UsageError, match="'Z'"):
        found.predict("Zoo")


def test_a_model_of_pairs_translates(runs):
    found = train.load(runs / "seq2seq_lstm")
    (one,) = found.translate(["abc"], beams=2)
    assert one.source == list("abc") and found.predict is None


def test_a_model_that_draws_rows_loads_them(runs):
    found = train.load(runs / "autoencoder")
    images = found.sample(16, seed=1)
    assert images.shape == (16, 8, 8, 1) and 0 <= images.min() <= images.max() <= 1
    with pytest.raises(UsageError, match="not conditional"):
        found.sample(16, label=3)
    with pytest.raises(UsageError, match="n between 1 and"):
        found.sample(0)


def test_loading_writes_nothing(runs):
    before = listing(runs / "mlp")
    found = train.load(runs / "mlp")
    found.predict(raw("digits")[0])
    assert listing(runs / "mlp") == before


# Exports ------------------------------------------------------------------------------

ALONE = """
import sys
import jax, numpy as np
given = np.load(sys.argv[2])
call = jax.export.deserialize(open(sys.argv[1], "rb").read()).call
found = call(*(given[name] for name in sorted(given.files)))
np.save(sys.argv[3], np.asarray(found))
ours = {m for m in sys.modules if m.split(".")[0] in ("zoo", "train", "flax", "optax")}
assert not ours, ours
"""


def given(name, found):
    """Raw inputs of a run, and what is predicted of them here."""
    if name == "linear":
        columns = {"size": [1.0, 2.0, 7.5], "colour": ["red", "blue", "red"]}
        # the features of a row, as the schema's columns say
        order = [column.name for column in found.schema.columns]
        features = []
        for column, known, *_ in found.schema.columns:
            values = columns[column]
            features += [[v == k for v in values] for k in known] if known else [values]
        assert order
        return {"a": np.array(features, np.float32).T}, found.predict(columns)
    if name == "char_lstm":
        texts = ["a rose is", "rose is a"]
        codes = [[found.schema.tokens.index(c) for c in t] for t in texts]
        return {"a": np.array(codes, np.int32)}, found.predict(texts)
    x, rows = raw("japanese_vowels" if name == "gru" else "digits", 3)
    if name == "gru":
        both = {"x": x, "length": rows["length"]}
        return {"a": x, "b": rows["length"]}, found.predict(both)
    return {"a": x}, found.predict(x)


@pytest.mark.parametrize("name", ["linear", "mlp", "mlp_norm", "gru", "char_lstm"])
def test_a_program_needs_only_jax(name, runs, capsys):
    file = runs / f"{name}.bin"
    assert main(["export", str(runs / name), "--stablehlo", str(file)]) == 0
    inputs, exact = given(name, train.load(runs / name))
    np.savez(runs / "given.npz", **inputs)
    paths = [str(p) for p in (file, runs / "given.npz", runs / "found.npy")]
    subprocess.run([sys.executable, "-c", ALONE, *paths], check=True, cwd=runs)
    # statistics in float32 here, in float64 there
    np.testing.assert_allclose(np.load(runs / "found.npy"), exact, rtol=1e-4, atol=1e-5)
    platforms = jax.export.deserialize(bytearray(file.read_bytes())).platforms
    assert set(platforms) == {"cpu", "cuda", "tpu"}


@pytest.mark.parametrize("name", ["mlp", "mlp_norm", "char_lstm"])
def test_weights_are_read_back(name, runs, capsys):
    path = runs / f"{name}.safetensors"
    assert main(["export", str(runs / name), "--weights", str(path)]) == 0
    whole, again = train.load(runs / name), train.load(path)
    jax.tree.map(np.testing.assert_array_equal, whole.params, again.params)
    jax.tree.map(np.testing.assert_array_equal, whole.state, again.state)
    given_, exact = given(name.removesuffix("_norm"), whole)
    _, found = given(name.removesuffix("_norm"), again)
    np.testing.assert_array_equal(exact, found)
    names = load_file(path)
    assert any(key.startswith("params/") for key in names)
    assert any(key.startswith("state/") for key in names) == (name == "mlp_norm")


def test_weights_that_changed_are_refused(runs, tmp_path):
    good = tmp_path / "good.safetensors"
    assert main(["export", str(runs / "mlp"), "--weights", str(good)]) == 0
    blob = bytearray(good.read_bytes())
    blob[-3] ^= 1
    (tmp_path / "bad.safetensors").write_bytes(blob)
    with pytest.raises(UsageError, match="not those that were written"):
        train.load(tmp_path / "bad.safetensors")
    save_file({"a": np.ones(3)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match="does not say what"):
        train.load(tmp_path / "other.safetensors")
    (tmp_path / "half.safetensors").write_bytes(good.read_bytes()[:-9])
    with pytest.raises(UsageError, match="cannot be read as weights"):
        train.load(tmp_path / "half.safetensors")


@pytest.mark.parametrize(
    "command, words",
    [
        ("export mlp", "--stablehlo FILE or --weights FILE"),
        ("export mlp --weights a.bin", ".safetensors for weights"),
        ("export autoencoder --stablehlo a.bin", "a model that predicts"),
        ("export nowhere --stablehlo a.bin", "no run in nowhere"),
        ("info nowhere", "no run in nowhere"),
    ],
)
def test_mistakes_are_one_sentence(command, words, runs, monkeypatch, capsys):
    monkeypatch.chdir(runs)
    assert main(command.split()) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_info_says_what_a_run_is(runs, capsys):
    assert main(["info", str(runs / "mlp_norm")]) == 0
    said = capsys.readouterr().out
    for words in ("digits", "1,437", "10 classes", "4 of 4", "jax", "accuracy"):
        assert words in said, words
    assert (
        f"{sum(a.size for a in jax.tree.leaves(train.load(runs / 'mlp_norm').params))}"
    )


# Formats ------------------------------------------------------------------------------


def test_a_run_of_this_format_is_loaded():
    """Stored when the format had its number: whatever changes, it can be read."""
    found = train.load(ROOT / "tests" / "runs" / "format2")
    expected = json.loads((ROOT / "tests" / "runs" / "format2.json").read_text())
    np.testing.assert_allclose(
        found.predict(np.array(expected["x"])), expected["found"], rtol=1e-5
    )


def test_a_run_of_another_format_is_named(runs, tmp_path):
    for number in (None, 1, 99):
        config = json.loads((runs / "mlp" / "config.json").read_text())
        config.pop("format") if number is None else config.update(format=number)
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(UsageError, match=f"the format {number or 1} of another"):
            train.load(tmp_path)


@pytest.mark.parametrize("name", RECIPES)
def test_every_flag_has_a_help_text(name):
    from train.cli.flags import recipe_flags

    assert recipe_flags(RECIPES[name], {})
