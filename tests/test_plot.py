"""Pictures: written whole, drawn from any run, without a display or a warning."""

import io
import math

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from train.report import metrics, plot, several
from zoo.base import UsageError

RNG = np.random.default_rng(0)


def written(figure, tmp_path):
    """The picture in the file that a figure was saved to: [H, W, 3]."""
    assert isinstance(figure, Figure)
    path = tmp_path / "new" / "picture.png"
    plot.save(figure, path)
    plot.save(figure, path)  # over the first
    assert [p.name for p in path.parent.iterdir()] == ["picture.png"]
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("RGB"))
    assert min(pixels.shape[:2]) > 50 and len(np.unique(pixels)) > 1
    return pixels


def records(n):
    rows = []
    for i in range(1, n + 1):
        row = {"step": 10 * i, "loss": 3 / i, "accuracy": 1 - 0.9 / i, "grad_norm": 1.0}
        if i % 5 == 0:
            row |= {"eval_loss": 4 / i, "eval_accuracy": 1 - 0.95 / i}
        rows.append(row)
    return rows


def test_curves_have_a_panel_for_each_evaluated_metric(tmp_path):
    figure = plot.curves(records(100))
    assert [axes.get_title() for axes in figure.axes] == ["loss", "accuracy"]
    training, evaluation = figure.axes[1].get_lines()
    np.testing.assert_array_equal(training.get_xdata(), 10 * np.arange(1, 101))
    np.testing.assert_array_equal(evaluation.get_xdata(), 50 * np.arange(1, 21))
    assert evaluation.get_ydata()[-1] == 1 - 0.95 / 100
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear"]
    written(figure, tmp_path)


def test_curves_have_a_title_and_the_unit_of_the_loss():
    rows = [{"step": i, "loss": 0.5 / i, "eval_loss": 0.6 / i} for i in range(1, 5)]
    figure = plot.curves(rows, title="mlp on my_$_data", unit="nats")
    assert figure.get_suptitle() == "mlp on my_$_data"
    (axes,) = figure.axes
    assert axes.get_ylabel() == "loss, in nats" and not axes.child_axes
    figure = plot.curves(rows, unit="variances of price", root=("price", 20.0))
    (axes,) = figure.axes
    (beside,) = axes.child_axes
    assert beside.get_ylabel() == "root mean squared error of price"
    figure.draw_without_rendering()
    low, high = axes.get_ylim()
    assert low == 0
    np.testing.assert_allclose(beside.get_ylim(), [0, 20 * math.sqrt(high)])


def test_curves_say_which_part_was_evaluated():
    for part, label in (("eval", "evaluation"), ("test", "test"), ("watched",) * 2):
        lines = [
            {name.replace("eval", part): value for name, value in record.items()}
            for record in records(10)
        ]
        for axes in plot.curves(lines, part).axes:
            labels = [text.get_text() for text in axes.get_legend().get_texts()]
            assert [one.split(",")[0] for one in labels] == ["training", label]


@pytest.mark.parametrize(
    "rows",
    [
        records(1),
        records(4),
        records(5),
        [{"step": i, "loss": 0.5, "eval_loss": 0.5} for i in range(9)],
        [{"step": 1, "loss": 0.0}, {"step": 2, "loss": 0.0}],
        [{"step": i, "loss": (1.0, math.nan, math.inf)[i % 3]} for i in range(9)],
        [{"step": i, "loss": math.nan, "eval_loss": math.nan} for i in range(3)],
        [{"step": 10**i, "loss": 10.0 ** (-10 * i)} for i in range(5)],
    ],
    ids="one no_eval one_eval constant zero gaps nothing extreme".split(),
)
def test_curves_of_odd_runs(rows, tmp_path):
    written(plot.curves(rows), tmp_path)


def test_curves_are_linear_unless_the_loss_spans_decades_above_zero():
    def scale(*losses):
        rows = [{"step": i, "loss": loss} for i, loss in enumerate(losses)]
        return plot.curves(rows).axes[0].get_yscale()

    assert scale(1.0, 0.5, 0.1) == "linear"
    assert scale(1.0, 0.5, 0.01) == "log"
    assert scale(1.0, 0.5, 0.01, 0.0) == "linear"
    assert scale(1.0, 0.01, -0.5) == "linear"


@pytest.mark.parametrize("k", [1, 2, 3, 20, 21, 120])
def test_confusion_of_any_number_of_classes(k, tmp_path):
    matrix = RNG.integers(0, 5, (k, k))
    matrix[0] = 0  # no example of this class
    figure = plot.confusion(matrix, [f"class {i}" for i in range(k)])
    axes = figure.axes[0]
    numbers = [text.get_text() for text in axes.texts]
    assert numbers == ([str(n) for n in matrix.flat] if k <= 20 else [])
    share = axes.images[0].get_array()
    rows = share.sum(axis=1)
    np.testing.assert_allclose(rows, (matrix.sum(axis=1) > 0).astype(float))
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true", "predicted")
    written(figure, tmp_path)


def test_confusion_of_large_counts_and_strange_names(tmp_path):
    names = ["$10 to $x_{", "a_b^c", "a name that is far too long for an axis"]
    matrix = [[1234567, 1, 0], [0, 60000, 0], [3, 0, 99]]
    figure = plot.confusion(matrix, names)
    ticks = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert ticks[:2] == names[:2] and ticks[2].endswith("…")
    written(figure, tmp_path)


def test_images_lie_in_reading_order_and_share_one_scale(tmp_path):
    x = np.zeros((5, 4, 4, 1))
    x[:, :, :, 0] = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])[:, None, None]
    pixels = written(plot.images(x, columns=3), tmp_path)
    height, width, _ = pixels.shape
    rows, columns = [height // 4, 3 * height // 4], [width // 6, width // 2]
    grey = [pixels[r, c, 0] for r in rows for c in (*columns, 5 * width // 6)]
    np.testing.assert_allclose(grey[:5], [0, 64, 128, 191, 255], atol=2)
    assert grey[5] == 255  # the empty place


@pytest.mark.parametrize(
    "shape, titles",
    [
        ((1, 28, 28, 1), None),
        ((9, 20, 30, 3), [f"{i}\nnot $ {i}" for i in range(9)]),
        ((3, 30, 10, 3), ["a", "", "b"]),
    ],
)
def test_images_of_any_shape(shape, titles, tmp_path):
    written(plot.images(RNG.normal(size=shape), titles), tmp_path)
    written(plot.images(RNG.integers(0, 256, shape, np.uint8), titles), tmp_path)
    written(plot.images(np.ones(shape), titles), tmp_path)


@pytest.mark.parametrize("n", [1, 2, 500])
def test_regression_of_any_size(n, tmp_path):
    y = 100 + RNG.normal(size=n)
    figure = plot.regression(y + 0.1, y)
    points = figure.axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(points, np.stack([y, y + 0.1], axis=1))
    named = plot.regression(y + 0.1, y, "a_price_$").axes[0]
    assert named.get_xlabel() == "true a_price_$"
    assert named.get_ylabel() == "predicted a_price_$"
    r2 = metrics.regression(y + 0.1, y)["r2"] if n > 1 else None
    assert named.get_title() == ("" if r2 is None else f"R2 {r2:.4f}")
    written(figure, tmp_path)
    written(plot.regression(np.ones(n), np.ones(n)), tmp_path)
    written(plot.regression(np.ones((n, 2)), np.zeros((n, 2))), tmp_path)


def test_several_targets_have_a_panel_each(tmp_path):
    names = ["a", "b_$", "c"]
    y = RNG.normal(size=(200, 3)) * [1, 1000, 1e-3]
    found = y + RNG.normal(size=y.shape) * [0.1, 500, 1e-3]
    figure = several.quantities(found, y, names)
    exact = 1 - np.square(found - y).sum(0) / np.square(y - y.mean(0)).sum(0)
    for axes, name, r2 in zip(figure.axes, names, exact, strict=True):
        assert axes.get_title() == f"R2 {r2:.4f}"
        assert axes.get_xlabel() == f"true {name}"
    written(figure, tmp_path)
    truth = RNG.integers(0, 2, (200, 14))
    p = np.clip(0.3 + 0.4 * truth + 0.2 * RNG.normal(size=truth.shape), 0, 1)
    names = [f"label{i}" for i in range(14)]
    figure = several.labels(p, truth, names)
    assert len(figure.axes) == 12
    right = ((p > 0.5) == truth)[:, 3].mean()
    assert figure.axes[3].get_title() == f"label3: {right:.1%} right"
    for wrong in (p[:, :1], np.full_like(p, np.nan)):
        with pytest.raises(UsageError, match="expected .*predictions"):
            several.labels(wrong, truth, names)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plot.curves([]),
        lambda: plot.curves([{"step": 1, "accuracy": 0.5}]),
        lambda: plot.confusion([[1, 2]], ["a", "b"]),
        lambda: plot.confusion(np.zeros((0, 0)), []),
        lambda: plot.images(np.zeros((2, 8, 8))),
        lambda: plot.images(np.zeros((0, 8, 8, 1))),
        lambda: plot.images(np.zeros((2, 8, 8, 2))),
        lambda: plot.images(np.full((2, 8, 8, 1), np.nan)),
        lambda: plot.images(np.zeros((2, 8, 8, 1)), ["one"]),
        lambda: plot.images(np.zeros((2, 8, 8, 1)), columns=0),
        lambda: plot.regression(np.zeros((4, 1)), np.zeros(4)),
        lambda: plot.regression([], []),
        lambda: plot.regression([np.nan], [1.0]),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw):
    with pytest.raises(UsageError, match="expected .*, found"):
        draw()


def test_names_of_classes_are_no_mathematics(tmp_path):
    names = ["$x_{$", "b"]  # such is an error in mathematics
    written(plot.tiles(np.zeros((2, 2, 2, 1)), 1, names), tmp_path)
    written(plot.embedding(np.eye(2), np.arange(2), names), tmp_path / "other")


def test_notebooks_get_a_png():
    data = plot.regression([1.0, 2.0], [1.0, 2.5])._repr_png_()
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "PNG"


def test_a_failed_write_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    figure = plot.regression([1.0], [1.0])
    plot.save(figure, path)
    before = path.read_bytes()

    def fail(part, **_):
        part.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plot.save(figure, path)
    assert path.read_bytes() == before


def test_attention_has_its_tokens_on_the_axes():
    weights = np.array([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5]])
    figure = plot.attention(weights, ["a", "$b", "c"], ["A", "<end>"], "a word")
    axes, bar = figure.axes
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("read", "written")
    assert bar.get_ylabel() == "weight"
    assert [t.get_text() for t in axes.get_xticklabels()] == ["a", "$b", "c"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["A", "<end>"]
    np.testing.assert_array_equal(axes.images[0].get_array(), weights)
    heads = plot.attention(np.stack([weights] * 5), ["a", "b", "c"], ["A", "B"])
    titles = [a.get_title() for a in heads.axes if a.get_visible() and a.images]
    assert titles == [f"head {i}" for i in range(1, 6)]
    with pytest.raises(UsageError, match=r"expected weights \[1, 3\]"):
        plot.attention(weights, ["a", "b", "c"], ["A"])
