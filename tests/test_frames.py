"""Files of tables as they come: separators, encodings, indices, what is too large."""

import gzip
import io
import sys
import time

import numpy as np
import pytest

from train.data import frames, inputs, load
from train.data.frames import read_frame
from zoo.base import UsageError

PLAIN = "size,town,price\n1.5,Zürich,10\n,?,20\n3,Bern,NA\n"


@pytest.fixture
def file(tmp_path):
    """file(content, name) writes a file -> its path."""

    def write(content, name="rows.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def same(frame, index=(2, 3, 4)):
    """Whether a frame is PLAIN's."""
    assert list(frame.columns) == ["size", "town", "price"]
    assert frame["size"].tolist()[::2] == [1.5, 3]
    assert np.isnan(frame["size"][index[1]]) and np.isnan(frame["price"][index[2]])
    assert frame["town"].tolist()[::2] == ["Zürich", "Bern"]
    assert frame["town"].isna().tolist() == [False, True, False]
    assert [kind.kind for kind in frame.dtypes] == ["f", "O", "f"]
    assert tuple(frame.index) == tuple(index)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", " "])
def test_separators_are_found(file, separator):
    same(read_frame(file(PLAIN.replace(",", separator), "rows.txt")))
    same(read_frame(file(PLAIN.replace(",", "#")), separator="#"))


def test_encodings_are_found_or_given(file):
    for code in "utf-8", "utf-8-sig", "utf-16":
        frame = read_frame(file(PLAIN.encode(code)))
        same(frame)
        assert not frame.attrs["notes"]
    frame = read_frame(file(PLAIN.encode("cp1252")))
    same(frame)
    assert frame.attrs["notes"] == ["read as cp1252, as it is no UTF-8"]
    same(read_frame(file(PLAIN.encode("mac_roman")), encoding="mac_roman"))
    assert read_frame(file(PLAIN.encode("mac_roman")))["town"][2] != "Zürich"


def test_what_is_packed_or_piped_is_unpacked(file, monkeypatch):
    packed = gzip.compress(PLAIN.encode())
    for path in file(packed, "rows.csv.gz"), file(packed):
        same(read_frame(path))
    for raw in PLAIN.encode(), packed:
        piped = io.TextIOWrapper(io.BufferedReader(io.BytesIO(raw)))
        monkeypatch.setattr(sys, "stdin", piped)
        frame = read_frame("-")
        same(frame)
        assert frame.attrs["path"] == "standard input"


@pytest.mark.parametrize("engine", ["file", "nullable"])
def test_parquet_is_the_same_table(file, tmp_path, engine):
    pytest.importorskip("pyarrow")
    frame = read_frame(file(PLAIN))
    if engine == "nullable":
        frame = frame.convert_dtypes()
    frame.attrs = {}
    frame.to_parquet(tmp_path / "rows.parquet")
    same(read_frame(tmp_path / "rows.parquet"), (1, 2, 3))
    with pytest.raises(UsageError, match="expected a .parquet file"):
        read_frame(file(PLAIN, "wrong.parquet"))


def test_an_index_without_a_name_is_left_out_and_said(file):
    for header in ",size,town,price\n", "Unnamed: 0,size,town,price\n":
        rows = [f"{i},{row}" for i, row in enumerate(PLAIN.splitlines()[1:])]
        frame = read_frame(file(header + "\n".join(rows)))
        same(frame)
        assert "an index without a name" in frame.attrs["notes"][0]
    r = '"size" "town"\n"1" 2 "New York"\n"2" 3 "Rome"\n'  # as write.table does
    frame = read_frame(file(r, "rows.txt"))
    assert frame.to_dict("list") == {"size": [2, 3], "town": ["New York", "Rome"]}


@pytest.mark.parametrize(
    "text, given, value, told",
    [
        ("a;b\n1.500;2,5\n", "", 1500, ","),
        ("a\tb\n1.500\t2,5\r\n", "", 1500, ","),
        ('a,b\n1.500,"2,5"\n', "", 1500, ","),
        ('a,b\n1.500,"2,500"\n', "", 1.5, ""),
        ("a\tb\n1,500\t2.5\n", "", 1500, "."),
        ("a;b\n1,500;2\n", "", 1.5, ","),
        # what a model was trained on, where no cell tells
        ("a\tb\n1.500\t2\n", "", 1.5, ""),
        ("a\tb\n1.500\t2\n", ",", 1500, ","),
        ("a;b\n1,500;2\n", ".", 1500, "."),
        ("a\tb\n1.500\t2.5\n", ",", 1.5, "."),
        ("a\tb\n1.500\t2,5\n", ".", 1500, ","),
    ],
)
def test_a_comma_is_what_it_is_in_other_cells(file, text, given, value, told):
    frame = read_frame(file(text), decimal=given)
    assert frame["a"].tolist() == [value] and frame.attrs["decimal"] == told


def test_a_comma_of_new_rows_is_that_of_the_training(file, tmp_path):
    lines = "".join(f"{i},{i % 4};{i}\n" for i in range(1, 21))
    schema = load(file("size;price\n" + lines), target="price", holdout=0).schema
    assert schema.decimal == ","
    (tmp_path / "new.tsv").write_text("size\tcolour\n1.500\tred\n")
    assert inputs.read_raw(schema, tmp_path / "new.tsv").tolist() == [[1500]]


def test_cells_are_numbers_where_all_are(file):
    text = "a;b;c;d\n1,5;01; N/a ;TRUE\n-2,25;7;3;false\n\n7,0;1;4;\n"
    frame = read_frame(file(text), texts=["b"])
    assert frame["a"].tolist() == [1.5, -2.25, 7]
    assert frame["b"].tolist() == ["01", "7", "1"]
    assert frame["c"].tolist()[1:] == [3, 4] and frame["c"].dtype == float
    assert frame["d"].tolist()[:2] == ["TRUE", "false"]
    assert frame.index.tolist() == [2, 3, 5]
    assert read_frame(file("a;b\n1.5;1,5\n"))["a"].tolist() == [1.5]
    exact = read_frame(file("a,b\n0.1234567890123456789,9007199254740993\n"))
    assert exact["a"].item() == pytest.approx(0.1234567890123456789, rel=1e-15)
    assert exact["b"].item() == 9007199254740993
    lines = read_frame(file('a,b\n1,"two\nlines"\n2, "three, four"\n'))
    assert lines["b"].tolist() == ["two\nlines", "three, four"]
    assert lines.index.tolist() == [3, 4]


@pytest.mark.parametrize(
    "message, content, options",
    [
        ("MiB in .*, found a longer one", b"a,b\n1," + b"x" * (frames.LINE + 9), {}),
        (
            "a line of at most 16 MiB",
            gzip.compress(b"a,b\n" + bytes(2**28), 1),
            {},
        ),
        (
            "at most 100,000 columns in .*, found 300,000",
            ",".join(f"c{i}" for i in range(300_000)) + "\n",
            {},
        ),
        ("one character between columns, or tab, found", PLAIN, {"separator": "::"}),
        ('name of an encoding, found "utf9"', PLAIN, {"encoding": "utf9"}),
        ("in ascii, found other bytes", PLAIN, {"encoding": "ascii"}),
        ("unless it is no text", b"a,b\n\x00\x01,2\n", {}),
        ("expected a table, found .*ended before", gzip.compress(b"a" * 99)[:-9], {}),
        ("2 values in line 3 of .*, found 3", "a,b\n1,2\n1,2,3\n", {}),
        ("2 values in line 2 of .*, found 3", "a,b\n1,2,\n1,2,\n", {}),
    ],
)
def test_what_is_no_table_is_one_sentence(file, message, content, options):
    with pytest.raises(UsageError, match=message) as error:
        read_frame(file(content), **options)
    assert "\n" not in str(error.value)


def wide(count, rows=4, separator=",", seed=0):
    """A table of more numbers than rows, a label last, as of genes."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(rows, count)).round(3)
    x[:, 0] += 5 * (np.arange(rows) % 2)
    heads = separator.join([*(f"gene{i}" for i in range(count)), "kind"])
    cells = [[*map(str, row), "ab"[i % 2]] for i, row in enumerate(x.tolist())]
    return "\n".join([heads, *map(separator.join, cells)]), x


def test_more_columns_than_rows_are_read_whole(file):
    text, x = wide(12_000, separator=";")
    frame = read_frame(file(text))
    np.testing.assert_array_equal(frame.iloc[:, :-1].to_numpy(), x)
    assert frame["kind"].tolist() == ["a", "b"] * 2


@pytest.mark.slow
@pytest.mark.long
def test_50_000_columns_are_learned_from_in_bounded_time(file, zoo, record_property):
    file(wide(50_000, 200)[0], "genes.csv")
    began = time.perf_counter()
    status, said, wrong = zoo(
        "train softmax --data genes.csv --target kind --penalty 100 --out run"
    )
    assert status == 0, wrong
    status, said, wrong = zoo("predict run genes.csv")
    assert status == 0, wrong
    seconds = time.perf_counter() - began
    found = [line.split(",")[0] for line in said.split()[1:]]
    # those of training, four of five; one gene of so many is not found for the others
    assert np.mean(np.array(found) == ["a", "b"] * 100) > 0.8
    record_property("figure", f"{seconds:.0f} s")
    assert seconds < 120  # on a busy machine, where 10,000 took 73 s


def test_a_file_larger_than_memory_is_refused_before_it_is_read(file, monkeypatch):
    monkeypatch.setattr(frames, "BYTES", 10**6)
    packed = gzip.compress(b"a,b\n" + b"1,2\n" * 10**7, 1)
    with pytest.raises(UsageError, match="a table of at most 1 MiB"):
        read_frame(file(packed))


def test_a_quantity_of_one_value_is_refused(tmp_path):
    (tmp_path / "one.csv").write_text("a;b\n1;2\n2;2\n")
    with pytest.raises(UsageError, match='to row in the column "b" of .*found 2 alone'):
        load(tmp_path / "one.csv", target="b", kind="regression")
