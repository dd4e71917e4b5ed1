"""Texts with labels: what stands in a file, as tokens, and told apart."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from train import loop
from train.cli.main import main
from train.data import Split, inputs, labelled
from train.data.labelled import UNITS, load_labelled
from train.evaluate import predict
from train.recipes import RECIPES, prepare
from zoo import bag, rnn
from zoo.base import UsageError

GOOD = "I liked it. What a fine, fine day!", "We liked what he did; it's fine."
BAD = "I did not like it.", "What a bad day it was..."


@pytest.fixture
def moods(tmp_path, monkeypatch):
    """Fifteen good texts, ten bad ones."""
    monkeypatch.chdir(tmp_path)
    rows = [f'"{text} No. {i}",good' for i in range(8) for text in GOOD][:15]
    rows += [f'"{text} No. {i}",bad' for i in range(5) for text in BAD]
    path = tmp_path / "moods.csv"
    path.write_text("\n".join(["said,mood", *rows]))
    return path


def test_dialogue_is_whole_sentences_in_the_order_of_the_book():
    found = labelled.dialogue()
    assert len(found.texts) == 5170 and found.train == 4136
    assert (found.labels == "said").sum() == 3078
    assert found.texts[0].startswith("It is a truth universally acknowledged, that a")
    assert found.labels[0] == "told"
    for text, label in [
        ("Mr. Bennet replied that he had not.", "told"),  # an end that is none
        ("You want to tell me, and I have no objection to hearing it.", "said"),
        ("Is that his design in settling here?", "said"),
    ]:
        assert found.labels[found.texts.index(text)] == label
    # what is half said, and half told, is no whole sentence
    assert not any('"' in t or "said his lady" in t for t in found.texts)


def test_a_table_becomes_tokens(moods):
    data = load_labelled(moods, vocabulary=6, length=7, holdout=0.2)
    schema, train, test, _ = data
    assert schema.classes == ("bad", "good") and schema.rows == len(train["x"]) == 20
    assert np.bincount(train["y"]).tolist() == [8, 12]
    assert np.bincount(test["y"]).tolist() == [2, 3]
    assert train["x"].dtype == train["length"].dtype == np.int32
    assert len(schema.tokens) == 7 and schema.shape == (7,)
    found = labelled.encode(schema, ["What it was: . LIKED", "", "it " * 9])
    assert found["length"].tolist() == [6, 1, 7]
    names = [[schema.tokens[t] for t in row] for row in found["x"]]
    assert (
        names[0][1] == "it" and names[0][4] == "." and names[0][3] == schema.tokens[0]
    )
    assert set(names[1]) == {schema.tokens[0]} and set(names[2]) == {"it"}
    # of how many texts: "fine" stands twice in some
    for token, count in zip(schema.tokens[1:], schema.counts[1:], strict=True):
        rows = [token in row for row in (r[:n] for r, n in cut(data))]
        assert count >= sum(rows)


def cut(data):
    return zip(
        [[data.schema.tokens[t] for t in row] for row in data.train["x"]],
        data.train["length"],
        strict=True,
    )


def test_the_vocabulary_is_of_the_training_part_alone(moods):
    watched = load_labelled(Split(moods, 0.3, 1), length=40)
    texts = [" ".join(row[:n]) for row, n in cut(watched)]
    numbers = {t for t in watched.schema.tokens if t.isdigit()}
    # a text's number is a token where training has it twice
    assert numbers == {
        n for n in map(str, range(8)) if sum(f" {n}" in t for t in texts) > 1
    }
    assert len(watched.train["x"]) == 14 and len(watched.watched["x"]) == 6


def test_characters_are_those_of_the_text(moods):
    schema = load_labelled(moods, units="characters", length=100).schema
    x = labelled.encode(schema, ["I like Ü"])["x"][0]
    assert "".join(schema.tokens[t] for t in x[:8]) == "I like \ufffd"
    assert UNITS["words"]("Don't  go: (now)!") == [
        "don't",
        "go",
        ":",
        "(",
        "now",
        ")",
        "!",
    ]


def test_weights_are_those_of_scikit_learn():
    data = load_labelled("dialogue", length=200)
    found = labelled.dialogue()
    texts, new = found.texts[: found.train], found.texts[found.train :][:50]
    exact = TfidfVectorizer(
        tokenizer=UNITS["words"],
        token_pattern=None,
        vocabulary={name: i for i, name in enumerate(data.schema.tokens)},
    )
    exact.fit(texts)
    x = {name: array[:50] for name, array in data.test.items()}
    weights = bag.tf_idf(x["x"], x["length"], data.schema.counts, data.schema.rows)
    # float32; with one document more, 3e-5 beside it
    right = exact.transform(new).toarray()
    np.testing.assert_allclose(weights, right, atol=1e-6)
    wrong = bag.tf_idf(x["x"], x["length"], data.schema.counts, data.schema.rows + 9)
    assert np.abs(np.asarray(wrong) - right).max() > 1e-5


@pytest.mark.contract
def test_a_bag_of_words_is_scikit_learns_regression(moods):
    recipe = prepare(
        RECIPES["bag_of_words"],
        moods,
        **{"optimizer": "lbfgs", "batch_size": None, "learning_rate": None},
        **{"schedule": "constant", "steps": 60, "weight_decay": None},
    )
    fit = loop.fit(
        recipe.task, recipe.optimizer, recipe.source(), steps=60, progress=False
    )
    rows = recipe.data.train
    x = np.asarray(
        bag.tf_idf(rows["x"], rows["length"], recipe.schema.counts, recipe.schema.rows)
    )
    exact = LogisticRegression(tol=1e-8).fit(x, rows["y"]).predict_proba(x)
    np.testing.assert_allclose(
        predict(recipe.task, fit.trained, rows), exact, atol=1e-3
    )


@pytest.mark.contract
def test_what_follows_a_text_is_not_read():
    import jax

    model = rnn.Classifier(3, rnn.RNN(rnn.LSTM, 4, 1, True), vocabulary=9, width=5)
    x = np.random.default_rng(0).integers(0, 9, (2, 8)).astype(np.int32)
    length = np.int32([8, 5])
    params = model.init(jax.random.key(0), x, length)
    other = x.copy()
    other[1, 5:] = (other[1, 5:] + 1) % 9
    assert (model.apply(params, x, length) == model.apply(params, other, length)).all()
    other[1, 4] = (other[1, 4] + 1) % 9
    assert (model.apply(params, x, length) != model.apply(params, other, length)).any()


@pytest.mark.contract
def test_a_run_predicts_new_texts(moods, capsys, tmp_path):
    flags = "--batch-size 20 --steps 60 --learning-rate 0.1 --out run"
    assert main(f"train bag_of_words --data moods.csv {flags}".split()) == 0
    moods.unlink()
    capsys.readouterr()
    (tmp_path / "new.txt").write_text("a fine day\n\nnot a bad day\n")
    (tmp_path / "new.csv").write_text('id,said\n3,"I liked, I liked it"\n')
    assert main(["predict", "run", "What a bad day...", "new.txt", "new.csv"]) == 0
    head, *rows = capsys.readouterr().out.split()
    assert head == "class,p(bad),p(good)"
    assert [row.split(",")[0] for row in rows] == ["bad", "good", "bad", "good"]
    for wrong, said in [
        ("old.csv", "found no file"),
        ("old.txt", "found no file"),
    ]:
        assert main(["predict", "run", wrong]) == 2
        assert said in capsys.readouterr().err


def test_raw_texts_and_columns_are_examples(moods):
    schema = load_labelled(moods).schema
    texts = ["I liked it.", "bad"]
    found = inputs.examples(schema, texts)
    for given in ({"said": texts}, found):
        again = inputs.examples(schema, given)
        assert all(np.array_equal(found[name], again[name]) for name in found)
    for given, said in [
        ({"text": texts}, 'a column "said" in the inputs, found "text"'),
        ([], "expected texts to tell apart, found none"),
        ([1], 'texts to tell apart, found "1"'),
    ]:
        with pytest.raises(UsageError, match=said):
            inputs.examples(schema, given)


def test_rows_without_a_text_are_left_out_and_said(moods):
    moods.write_text(moods.read_text() + "\n,bad\nn/a,good")
    with pytest.warns(UserWarning, match="left out 2 rows of .* without a text"):
        assert len(labelled.read_labelled(str(moods)).texts) == 25


def test_a_text_that_could_be_the_label_is_named(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("place,mood\n" + "in the hall,good\nat sea,bad\nat sea,so so\n" * 9)
    with pytest.warns(UserWarning, match='"place" of .* the label, "mood" as the text'):
        assert labelled.read_labelled(str(path)).names == ("mood", "place")
    assert labelled.read_labelled(str(path), "mood").names == ("place", "mood")


def test_mistakes_are_sentences(tmp_path):
    cases = [
        ("a,b,c\n1,2,3", {}, 'two columns in .*, found "a", "b", "c"'),
        ("a,b\nx,1\ny,1", {}, 'two classes or more in "b" of .*"1" alone'),
        ("a,b\nx y,1\nz,", {"target": "b"}, 'found none in "b" of row 2'),
        ("a,b\nx,1\ny,2", {"target": "B"}, 'the columns "a", "b" of .*, found "B"'),
        ("a,b\nx,1\ny,2", {}, "enough rows to set a fraction"),
        ("a,b\nx,1\ny,2", {"holdout": 0}, "tokens that stand 2 times, found none"),
        ('a,b\n"x,1', {}, "expected a (table|header)"),
        ("", {}, "expected a (table|header)"),
    ]
    for text, flags, said in cases:
        path = tmp_path / "a.csv"
        path.write_text(text)
        with pytest.raises(UsageError, match=said):
            load_labelled(path, **flags)
    for name, flags, said in [
        ("dialog", {}, "a .csv or .tsv file, or dialogue, .*did you mean 'dialogue'"),
        ("dialogue", {"holdout": 0.1}, "a test part of its own"),
        ("dialogue", {"target": "a"}, "no target for dialogue"),
        ("dialogue", {"units": "pieces"}, "units"),
    ]:
        with pytest.raises(UsageError, match=said):
            load_labelled(name, **flags)
    with pytest.raises(UsageError, match="expected texts with labels, found iris"):
        prepare(RECIPES["text_lstm"], data=__import__("train").data.load("iris"))
