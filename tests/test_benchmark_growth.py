import pytest

from benchmarks import growth
from benchmarks.growth import CURVES, Curve, Knee


def test_the_knee_is_where_the_step_takes_twice_as_long():
    assert growth.knee((1, 2, 4, 8), [1.0, 1.1, 3.0, 6.0]) == Knee(4, 1.0)
    assert growth.knee((1, 2, 8), [1.0, 1.5, 1.5]) == Knee(None, 0.0)


def test_what_is_told_was_measured():
    curve = Curve("a network", "width", (16, 32, 64), lambda n: None)
    text = growth.section("x", curve, [1.0, 1.5, 6.0])
    assert "| 32 | 1.5 | 1.50 |" in text
    assert "The knee is at 64: up to 32 a step takes less than twice" in text
    assert "as width to the power 2.00" in text
    assert "No knee: from 16 to 64" in growth.told(curve, [1.0, 1.0, 1.5])


@pytest.mark.parametrize("name", CURVES)
def test_each_curve_grows_what_it_says(name):
    curve = CURVES[name]
    task, shape, rows, batch = curve.at(curve.sizes[-1])
    grown = {"batch": batch, "rows": rows, "length": shape[0], "width": None}
    assert grown[curve.by] in (curve.sizes[-1], None) and batch <= rows
    assert list(curve.sizes) == sorted(curve.sizes)


def test_the_page_and_its_picture(tmp_path, monkeypatch):
    small = CURVES["mlp by rows"]._replace(sizes=(64, 256))
    monkeypatch.setitem(growth.CURVES, "mlp by rows", small)
    monkeypatch.setattr(growth, "SECONDS", 0.01)
    out = tmp_path / "G.md"
    assert growth.main(["mlp by rows", "--out", str(out)]) == 0
    assert "| 256 | " in out.read_text() and "(G.png)" in out.read_text()
    assert (tmp_path / "G.png").stat().st_size > 1000
