"""Tables as people write them, marks, units and slips and all."""

import numpy as np
import pytest

from train import data
from train.data import columns
from train.data.cells import numbers
from train.data.frames import read_frame
from zoo.base import UsageError

EXCEL = """\
Größe;Anteil;Umsatz;Stück;zufrieden;Bemerkung;;
1,72;12,5 %;1.234,50 €;1.200;ja;"eine
Zeile";;
1,8;7 %;999,00 €;15;nein;gut;;
1,65;100 %;12.000,00 €;1.234.567;ja;-;;
;;;;;;;
;;;;;;;
"""


@pytest.fixture
def file(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "rows.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


def test_a_table_of_excel_is_read_as_it_is_meant(file):
    frame = read_frame(file(EXCEL.replace("\n", "\r\n"), "cp1252"))
    assert frame[3:].isna().all(axis=None)
    frame = frame[:3]
    assert list(frame) == [
        "Größe",
        "Anteil",
        "Umsatz",
        "Stück",
        "zufrieden",
        "Bemerkung",
    ]
    assert frame["Größe"].tolist() == [1.72, 1.8, 1.65]
    assert frame["Anteil"].tolist() == [12.5, 7, 100]
    assert frame["Umsatz"].tolist() == [1234.5, 999, 12000]
    assert frame["Stück"].tolist() == [1200, 15, 1234567]
    assert frame["Bemerkung"].tolist()[1:] == ["gut", "-"]
    said = " ".join(frame.attrs["notes"])
    for words in (
        "2 columns at the end",
        '"12,5 %" as 12.5',
        '"1.234,50 €" as 1234.5',
    ):
        assert words in said


@pytest.mark.parametrize(
    "cells, found",
    [
        (["1,234", "5"], [1234, 5]),
        (["$1,200.50", "-$3", "$ -4", "1e3"], [1200.5, -3, -4, 1000]),
        (["1\u00a0234", "1 234 567"], [1234, 1234567]),
        (["1,5", "2", "n.d.", "-"], [1.5, 2, np.nan, np.nan]),
        (["1.234,5", "1,5"], [1234.5, 1.5]),
        (["(1,200.50)", "$ 3", "($4)"], [-1200.5, 3, -4]),
        (["CHF 1'200.50", "-3 EUR", "\u22124"], [1200.5, -3, -4]),
        (["ABC 1", "ABC 2"], None),
        (["5%", "7.5 %"], [5, 7.5]),
        (["5%", "7"], None),
        (["1,23,4", "1"], None),
        (["12.03.2020", "13.03.2020"], None),
        (["+-5"], None),
        (["-", "+"], None),
        (["-", "--"], None),
        (["A1", "2"], None),
    ],
)
def test_cells_are_numbers_where_one_way_reads_them_all(cells, found):
    read = numbers(np.array(cells, object))
    assert (read is None) == (found is None)
    if found is not None:
        np.testing.assert_array_equal(read, found)


def test_a_row_of_units_is_left_out_and_said(file):
    rows = "\n".join(f"{i},{i / 4},{'ab'[i % 2]},x{i}" for i in range(1, 9))
    frame = read_frame(file(f"self,level,kind,name\nmg,mg/l,,\n{rows}\n"))
    assert frame["self"].tolist() == list(range(1, 9)) and len(frame) == 8
    assert frame.index[0] == 3 and frame["kind"].tolist() == list("ba" * 4)
    assert (
        'left out line 2, as its cells are units ("mg" of "self")'
        in (frame.attrs["notes"])
    )
    text = f"mass,level,kind,name\n7,mg/l,,\n{rows}\n"  # a slip is one
    assert len(read_frame(file(text))) == 9


def test_comments_above_the_header_are_left_out_and_said(file):
    frame = read_frame(file("# device 7\n# 2020, by hand\na;b\n1;2\n3;x\n"))
    assert frame.to_dict("list") == {"a": [1, 3], "b": ["2", "x"]}
    assert frame.index.tolist() == [4, 5] and "2 lines above" in frame.attrs["notes"][0]
    frame = read_frame(file("##v4.2\n#CHROM\tPOS\n1\t2\n"))
    assert list(frame) == ["#CHROM", "POS"] and len(frame) == 1
    with pytest.raises(UsageError, match="found 3: is there a line above the header"):
        read_frame(file("exported in 2020\na,b,c\n1,2,3\n"))


def test_truths_in_many_cases_are_two(file):
    answers = ["yes", "NO", "Yes", "no", "YES", "No"] * 10
    size = range(60)
    rows = "\n".join(f"{a},{i % 7}" for a, i in zip(answers, size, strict=True))
    found = data.load(file(f"well,size\n{rows}"), target="well")
    assert found.schema.classes == ("no", "yes")
    assert any("in one case" in note for note in found.schema.notes)
    found = data.load(file(f"well,size\n{rows}"), target="size", kind="regression")
    column = found.schema.columns[0]
    assert column.levels == ("no", "yes")
    new = read_frame(file("well,size\nNo,1\nYES,2\n"))
    x, said = columns.encode(new, found.schema.columns)
    np.testing.assert_array_equal(x, [[1, 0], [0, 1]])
    assert not said
