"""Text and pairs: every character counted once, splits that share no word, errors."""

import functools
import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from train import data
from train.data import pairs, text
from train.report import metrics
from zoo.base import UsageError

load_pairs = functools.cache(pairs.load_pairs)


@pytest.fixture(scope="module")
def novel():
    return text.load_text(length=64)


@pytest.fixture
def file(tmp_path):
    def write(content, name="my.txt"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def test_windows_are_the_text_and_what_comes_after(novel):
    tokens, test = novel.train["tokens"], novel.test
    start = text.decode(novel.schema.tokens, tokens[:64])
    assert start.startswith("PRIDE AND PREJUDICE\n\nBy Jane Austen")
    assert tokens.dtype == np.int32 and tokens.min() >= 1
    assert novel.schema.rows == len(tokens)
    np.testing.assert_array_equal(test["x"][:, 1:], test["y"][:, :-1])
    # a window begins every half of its length
    np.testing.assert_array_equal(test["x"][1, :-32], test["x"][0, 32:])


def test_a_text_at_hand_has_its_end_watched(novel):
    found = text.load_text(data.Split(novel, 0.1), length=64)
    n = len(novel.train["tokens"])
    assert len(found.train["tokens"]) == found.schema.rows == round(0.9 * n)
    assert found.watched["mask"].sum() == n - round(0.9 * n) - 1
    assert text.load_text(data.Split(found, 0.1), length=64) is found
    short = novel._replace(train={"tokens": novel.train["tokens"][:600]})
    with pytest.raises(UsageError, match="more than 64 characters .* found 600"):
        text.load_text(data.Split(short, 0.1), length=64)


@pytest.mark.parametrize("length", [2, 7, 64, 90])
def test_every_test_character_counts_once_and_with_what_stands_before(file, length):
    # all characters differ from their neighbours, so that a window says where it is
    content = "".join(chr(0x4E00 + i) for i in range(1000))
    rows = text.load_text(file(content * 2), length=length, holdout=0.25)
    test, names = rows.test, rows.schema.tokens
    counted = test["y"][test["mask"] > 0]
    expected = [names.index(c) for c in (content * 2)[1501:]]
    np.testing.assert_array_equal(np.sort(counted), np.sort(expected))
    before = np.argmax(test["mask"], 1)
    assert (before[1:] >= length - length // 2 - 1).all()
    ends = np.cumsum(test["mask"][:, ::-1], 1)[:, ::-1]
    np.testing.assert_array_equal(ends[:, -1], 1)


def test_a_text_goes_there_and_back(novel):
    schema, words = novel.schema, 'It is a truth; "so" said\nMr. Bennet!'
    tokens = text.encode(schema, words)
    assert tokens.dtype == np.int32 and text.decode(schema.tokens, tokens) == words
    assert data.from_json(json.loads(json.dumps(data.to_json(schema)))) == schema
    blank = data.blank(schema)
    for name in ("x", "y"):
        assert blank[name].shape[1:] == novel.test[name].shape[1:]
        assert blank[name].dtype == novel.test[name].dtype


def test_a_replacement_character_of_the_text_is_an_unknown_one(file):
    path = Path(file("ab\r\nc\ufffd" * 40, "my.TXT"))
    rows = text.load_text(path, length=5)
    assert rows.schema.tokens == (text.UNKNOWN, "\n", "a", "b", "c")
    assert rows.schema.name == str(path)
    first = rows.train["tokens"][:5]
    assert text.decode(rows.schema.tokens, first) == "ab\nc\ufffd"


def test_characters_of_the_test_part_alone_are_unknown(file):
    rows = text.load_text(file("abcab" * 40 + "xyz" * 7), length=5, holdout=0.1)
    assert rows.schema.tokens == (text.UNKNOWN, "a", "b", "c")
    assert (rows.test["x"] == 0).any()


def test_text_that_cannot_be_used_is_named(file, novel):
    for content, match in (
        ("", "found 0 characters"),
        (b"\xff\xfe\x00long enough to be a text", "UTF-8"),
        ("short " * 5, "more than 64 characters"),
    ):
        with pytest.raises(UsageError, match=match):
            text.load_text(file(content), length=64)
    with pytest.raises(UsageError, match="pride_and_prejudice"):
        text.load_text("pride_and_prejudise")
    with pytest.raises(UsageError, match="UTF-8"):
        text.load_text(file(b"no gzip", "my.txt.gz"))
    for options, match in (({"length": 1}, "length"), ({"holdout": 1.0}, "holdout")):
        with pytest.raises(UsageError, match=match):
            text.load_text(**options)
    with pytest.raises(UsageError, match="at least one character"):
        text.encode(novel.schema, "")
    with pytest.raises(UsageError, match="'é', '€'"):
        text.encode(novel.schema, "caf€é")


@pytest.mark.contract
@pytest.mark.parametrize("name", list(pairs.PAIRS))
def test_pairs_share_no_source_and_targets_end(name):
    rows = load_pairs(name)
    schema = rows.schema
    sources = [
        {text.decode(schema.tokens, row[row > 0]) for row in part["x"]}
        for part in (rows.train, rows.test)
    ]
    assert not sources[0] & sources[1]
    assert 0.01 < len(sources[1]) / len(sources[0]) < 0.2
    for part in (rows.train, rows.test):
        y = part["y"]
        assert ((y == pairs.END).sum(1) == 1).all()
        ended = np.cumsum(y == pairs.END, 1) - (y == pairs.END)
        assert (y[ended > 0] == 0).all() and (y[ended == 0] > 0).all()
        assert part["x"].dtype == y.dtype == np.int32
    assert rows.train["x"].shape[1:] == schema.shape
    assert rows.train["y"].shape[1:] == schema.target_shape
    assert data.from_json(json.loads(json.dumps(data.to_json(schema)))) == schema
    again = pairs.load_pairs(name)
    np.testing.assert_array_equal(again.test["x"], rows.test["x"])


@pytest.mark.parametrize("name, share", [("ui_en_fr", 1 / 10), ("cmudict", 1 / 20)])
def test_no_source_to_test_on_is_trained_on_with_other_case_or_marks(name, share):
    rows = load_pairs(name)
    train, test = (
        ["".join(rows.schema.tokens[i] for i in row if i) for row in part["x"]]
        for part in (rows.train, rows.test)
    )
    plain = {_plain(source) for source in train}
    assert [source for source in test if _plain(source) in plain] == []
    assert len(test) / (len(train) + len(test)) == pytest.approx(share, rel=0.1)


def _plain(source):
    return "".join(filter(str.isalnum, source.casefold())) or source


def test_a_users_sources_that_differ_in_case_or_marks_stay_together(file):
    lines = "".join(f"{w}\tb\n{w.upper()}!\tb\n" for w in map("w{}".format, range(99)))
    marks = "".join(f"{'?' * i}\tb\n" for i in range(1, 60))  # told by themselves
    rows = pairs.load_pairs(file(lines + marks, "my.tsv"))
    sources = [
        text.decode(rows.schema.tokens, row[row > 0].tolist()) for row in rows.test["x"]
    ]
    words = [source for source in sources if source.strip("?")]
    assert words and sorted(words) == sorted(
        {w for word in words for w in (_plain(word), _plain(word).upper() + "!")}
    )
    assert 0 < len(sources) - len(words) < 30


def test_a_source_may_have_several_targets(file):
    lines = "".join(f"{'ab' * i}\t{t}\n" for i in range(1, 31) for t in "xyx")
    rows = pairs.load_pairs(file(lines, "my.tsv"))
    schema, whole = rows.schema, [rows.train, rows.test]
    assert [len(part["x"]) % 2 for part in whole] == [0, 0]  # both in one part
    x, y = (np.concatenate([part[name] for part in whole]) for name in "xy")
    found = {
        (*row, pairs.decode_target(schema, to)) for row, to in zip(x, y, strict=True)
    }
    assert len(found) == len(x) == 60


def test_words_become_phonemes():
    rows = load_pairs("cmudict")
    schema = rows.schema
    assert len(schema.target_tokens) == 3 + 39  # ARPAbet without stress
    source = pairs.encode_source(schema, "Hello")
    known = pairs.pronunciations()
    assert known["hello"] == (("HH", "AH", "L", "OW"), ("HH", "EH", "L", "OW"))
    x = np.concatenate([rows.train["x"], rows.test["x"]])
    y = np.concatenate([rows.train["y"], rows.test["y"]])
    at = np.flatnonzero((x[:, :5] == source).all(1) & (x[:, 5] == 0))
    assert [pairs.decode_target(schema, y[i]) for i in at] == ["HH AH L OW"]


def test_strings_are_copied_and_turned_around():
    for name, change in (("copy", str), ("reverse", lambda s: s[::-1])):
        rows = load_pairs(name)
        for x, y in zip(rows.test["x"][:50], rows.test["y"], strict=False):
            source = text.decode(rows.schema.tokens, x[x > 0])
            assert pairs.decode_target(rows.schema, y) == change(source)


def test_lines_of_pairs_end_where_a_line_ends(file):
    lines = [f"a\u2028b{i % 7}{'a' * (i % 11)}\t{i}" for i in range(70)]
    path = file("\ufeff" + "\r\n".join([*lines[:3], "", *lines[3:]]), "my.TSV")
    rows = pairs.load_pairs(path)
    letters = set("ab\u20280123456")
    assert set(rows.schema.tokens[3:]) == letters
    assert set(rows.schema.target_tokens[3:]) == set("0123456789")
    wrong = file("a\tb\n\nc\n", "my.tsv")
    with pytest.raises(UsageError, match="found 1 in line 3"):
        pairs.load_pairs(wrong)


def test_no_word_to_test_on_is_left_unread(file):
    held, rows = "qz", "".join(f"{'ab'[i % 2] * (i + 1)}\tc\n" for i in range(50))
    while zlib.crc32("\t".join(held).encode()) % 10:
        held += "z"
    with pytest.warns(UserWarning, match="1 of 51 pairs in .*my.tsv are left out"):
        found = pairs.load_pairs(file(f"{rows}{held}\tc\n", "my.tsv"))
    assert set(found.schema.tokens[3:]) == {"a", "b"}
    assert all(row[row > 0].all() for row in found.test["x"])
    total = len(found.train["x"]) + len(found.test["x"])
    assert total == 50
    with pytest.raises(UsageError, match="found 1 and 0"):
        pairs.load_pairs(file(f"a\tc\n{held}\tc\n", "my.tsv"))


def test_a_users_own_pairs(file):
    lines = "".join(f"{i}x\t{i * i}y\n" for i in range(200))
    rows = pairs.load_pairs(file(lines, "my.tsv"))
    assert len(rows.train["x"]) + len(rows.test["x"]) == 200
    source = rows.test["x"][0]
    word = text.decode(rows.schema.tokens, source[source > 0])
    expected = f"{int(word[:-1]) ** 2}y"
    assert pairs.decode_target(rows.schema, rows.test["y"][0]) == expected
    for content, name, match in (
        ("a\tb\tc\n", "my.tsv", "two columns.*found 3 in line 1"),
        ("a\tb\n", "my.tsv", "to train and to test"),
        (b"\xff\tb\n", "my.tsv", "UTF-8"),
        ("a\tb\n", "my.csv", r"\.tsv file or one of"),
    ):
        with pytest.raises(UsageError, match=match):
            pairs.load_pairs(file(content, name))
    with pytest.raises(UsageError, match="cmudict"):
        pairs.load_pairs("cmudikt")
    for word, match in (
        ("", "nothing"),
        ("a b", "found 'a', ' ', 'b'|found ' ', 'a', 'b'"),
        ("1" * 99, "at most"),
    ):
        with pytest.raises(UsageError, match=match):
            pairs.encode_source(rows.schema, word)


def test_lengths_of_the_users_sequences(tmp_path):
    rng = np.random.default_rng(0)
    x, length = rng.normal(size=(40, 6, 2)), rng.integers(1, 7, 40)
    path, y = tmp_path / "my.npz", np.arange(40) % 2
    np.savez(path, x_train=x, y_train=y, length_train=length)
    rows = data.load(path, holdout=0.25)
    assert rows.schema.lengths and len(rows.test["length"]) == 10
    real = np.arange(6) < rows.train["length"][:, None]
    assert (rows.train["x"][~real] == 0).all()
    np.testing.assert_allclose(rows.train["x"][real].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(rows.train["x"][real].std(0), 1, atol=1e-5)
    for wrong, match in (
        (length[:5], "for each sequence"),
        (length * 0.5, "whole number"),
        (length + 5, r"in 1\.\.6"),
        (length * 0, r"in 1\.\.6"),
    ):
        np.savez(path, x_train=x, y_train=y, length_train=wrong)
        with pytest.raises(UsageError, match=match):
            data.load(path)


def test_images_are_read_row_by_row():
    rows = data.load("digits")
    sequence = data.as_sequence(rows)
    assert sequence.schema.shape == (8, 8)
    np.testing.assert_array_equal(sequence.test["x"], rows.test["x"][..., 0])
    with pytest.raises(UsageError, match="grey images"):
        data.as_sequence(data.load("iris"))


def test_error_rates_count_edits_to_the_nearest_answer():
    assert metrics.distance("kitten", "sitting") == 3
    assert metrics.distance("", "abc") == metrics.distance("abc", "") == 3
    assert metrics.distance("ab", "ba") == 2 and metrics.distance("ab", "ab") == 0
    scores = metrics.transduction(["abc", "x"], [["abd", "zzzz"], ["x", "y"]])
    assert scores == {"per": 1 / 4, "wer": 1 / 2}
    with pytest.raises(UsageError, match="as many"):
        metrics.transduction([], [])
