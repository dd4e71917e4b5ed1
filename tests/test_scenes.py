"""Scenes: a pure function of a seed; boxes and masks agree; one's own files."""

import numpy as np
import pytest

from train.data import Split, scenes
from train.data.scenes import SCENES, Style, compose, load_scenes
from train.recipes import RECIPES, prepare
from zoo.base import UsageError

SHAPES = SCENES["shape_scenes"]
STYLE = Style(scenes._shapes, 24, (7, 10), 4)
TRAIN = scenes._shapes().train


def areas(boxes):
    return np.maximum(boxes[..., 2:4] - boxes[..., :2], 0).prod(-1)


def test_scenes_follow_from_their_seed():
    a, b, c = (compose(TRAIN, 12, seed, STYLE) for seed in (5, 5, 6))
    for one, same, other in zip(a, b, c, strict=True):
        np.testing.assert_array_equal(one, same)
        assert (one != other).any()


def test_masks_and_boxes_say_the_same():
    found = compose(TRAIN, 200, 0, STYLE)
    x, mask, boxes = found
    assert x.shape == (200, 24, 24, 1) and x.min() >= 0 and x.max() <= 255
    assert set(np.unique(mask)) == {0, 1, 2, 3}
    real = areas(boxes) > 0
    assert real[:, 0].all() and 1.5 < real.sum(1).mean() < 3
    assert (boxes[..., :4] >= 0).all() and (boxes[..., 2:4] <= 24).all()
    longer = (boxes[..., 2:4] - boxes[..., :2]).max(-1)[real]
    assert longer.min() == 7 and longer.max() == 10
    for i in range(200):
        covered = np.zeros((24, 24, 4), bool)
        for top, left, bottom, right, kind in boxes[i][real[i]]:
            covered[top:bottom, left:right, 1 + kind] = True
            inside = mask[i, top:bottom, left:right] == 1 + kind
            assert inside.mean() > 0.1
        at = np.argwhere(mask[i] > 0)
        assert covered[at[:, 0], at[:, 1], mask[i][mask[i] > 0]].all()
    # ink is bright, what is behind it dark
    assert x[..., 0][mask > 0].min() >= 127 and x[..., 0][mask == 0].mean() < 50


def test_objects_overlap_little():
    boxes = compose(TRAIN, 200, 1, STYLE).boxes
    size = areas(boxes)
    for a in range(4):
        for b in range(a):
            low = np.maximum(boxes[:, a, :2], boxes[:, b, :2])
            high = np.minimum(boxes[:, a, 2:4], boxes[:, b, 2:4])
            shared = np.maximum(high - low, 0).prod(-1)
            assert (shared <= 0.1 * np.minimum(size[:, a], size[:, b])).all()


@pytest.mark.parametrize(
    ("name", "share"),
    [("digit_scenes", 1 / 3), ("mixed_scenes", 1), ("clothes_scenes", 1)],
)
def test_what_is_dark_in_clothes_is_theirs(name, share):
    x = np.zeros((1, 16, 16), np.float32)
    x[:, 2:-2, 2:-2], x[:, 2:6, 2:-2] = 0.4, 1
    found = compose({"x": x, "y": np.zeros(1)}, 20, 0, SCENES[name])
    height, width = (
        (found.boxes[..., i + 2] - found.boxes[..., i])[areas(found.boxes) > 0]
        for i in (0, 1)
    )
    # a margin of one pixel, of 16, on each side
    np.testing.assert_allclose(height / width, (12 * share + 2) / 14, atol=0.05)
    inside = (found.mask > 0).sum() / areas(found.boxes).sum()
    assert abs(inside - 12 * share * 12 / (12 * share + 2) / 14) < 0.1


def test_shrinking_takes_means():
    # rows 2 to 10 are seen at 3 to 7
    found = scenes._weights(np.array([[3], [4], [2], [8]]), 12, 16)[0]
    wanted = np.zeros((12, 16))
    for i in range(4):
        wanted[3 + i, 2 + 2 * i : 4 + 2 * i] = 0.5
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    third = scenes._weights(np.array([[0], [2], [0], [3]]), 2, 3)[0]
    np.testing.assert_allclose(third, [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]], rtol=1e-5)


def test_parts_are_of_different_pictures(monkeypatch):
    seen = {}

    def kept(pictures, count, seed, style):
        seen[seed] = pictures["x"]
        return compose(pictures, min(count, 20), seed, style)

    monkeypatch.setattr(scenes, "compose", kept)
    data = load_scenes(Split("digit_scenes", 0.1, 3), boxes=True)
    assert [len(seen[seed]) for seed in (0, 1, 2)] == [3600, 1000, 400]
    flat = [{row.tobytes() for row in seen[seed]} for seed in (0, 1, 2)]
    assert not flat[0] & flat[1] and not flat[0] & flat[2] and not flat[1] & flat[2]
    assert data.schema.shape == (48, 48, 1) and data.schema.target_shape == (4, 5)
    assert data.schema.classes == tuple("0123456789")
    x = data.train["x"] * data.schema.scale[0] + data.schema.mean[0]
    assert abs(data.train["x"].mean()) < 1e-3 and -1e-3 < x.min() < 1 and x.max() > 250


def test_the_first_class_of_pixels_is_the_background():
    data = load_scenes("shape_scenes")
    assert data.schema.classes == ("background", "square", "frame", "cross")
    assert data.train["y"].shape == (256, 16, 16) and len(data.test["x"]) == 64


def own(tmp_path, **arrays):
    found = compose(TRAIN, 30, 0, SHAPES)
    arrays = {"x": found.x[..., 0], "mask": found.mask, "boxes": found.boxes} | arrays
    path = tmp_path / "own.npz"
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return str(path)


def test_a_file_of_ones_own(tmp_path):
    path = own(tmp_path, classes=np.array(["s", "f", "c"]))
    masks, boxes = load_scenes(path), load_scenes(Split(path, 0.25), boxes=True)
    assert masks.schema.classes == ("background", "s", "f", "c")
    assert boxes.schema.classes == ("s", "f", "c")
    assert [len(p["x"]) for p in (boxes.train, boxes.test, boxes.watched)] == [18, 6, 6]
    assert load_scenes(path, holdout=0.0).test is None
    assert prepare(RECIPES["unet"], path, channels=(2, 2)).schema.shape == (16, 16, 1)


@pytest.mark.parametrize(
    ("arrays", "kind", "said"),
    [
        ({"mask": None}, "mask", "expected mask in"),
        ({"boxes": np.zeros((30, 2, 4), int)}, "boxes", r"boxes \[N, M, 5\]"),
        ({"mask": np.zeros((30, 16, 15), int)}, "mask", r"mask \[N, H, W\]"),
        ({"mask": np.full((30, 16, 16), -1)}, "mask", "from 0 to 0 .* found -1"),
        (
            {"mask": np.full((30, 16, 16), 5), "classes": ["a"]},
            "mask",
            "from 0 to 1 .* found 5",
        ),
        ({"boxes": np.full((30, 1, 5), [0, 0, 17, 4, 0])}, "boxes", "within images"),
        (
            {"boxes": np.full((30, 1, 5), [5, 0, 3, 4, 0])},
            "boxes",
            "right and class in",
        ),
        (
            {"boxes": np.full((30, 1, 5), [0, 0, 9, 4, -1])},
            "boxes",
            "from 0 to 0 .* found -1",
        ),
        ({"x": np.full((30, 16, 16), np.nan)}, "mask", "finite"),
    ],
)
def test_a_file_that_cannot_be_right_is_refused(tmp_path, arrays, kind, said):
    with pytest.raises(UsageError, match=said):
        load_scenes(own(tmp_path, **arrays), boxes=kind == "boxes")


def test_pictures_want_images():
    from train.report import overlays

    for draw in (overlays.masks, overlays.boxes):
        with pytest.raises(UsageError, match="expected images"):
            draw(np.zeros((2, 8, 8)), [], [], ("a",))


@pytest.mark.contract
def test_a_run_has_pictures_and_predicts(zoo, tmp_path):
    """Masks and boxes over scenes; of an image of another size, a sentence."""
    np.savez(tmp_path / "two.npz", x=compose(TRAIN, 2, 9, SHAPES).x)
    np.savez(tmp_path / "odd.npz", x=np.zeros((1, 16, 15, 1)))
    for name in ("unet", "centernet"):
        flags = "--data shape_scenes --channels 4 4 4 --steps 3 --batch-size 8"
        status, said, _ = zoo(f"train {name} {flags} --out {name}")
        assert status == 0 and ("dice" if name == "unet" else "map") in said
        assert (tmp_path / name / "scenes.png").stat().st_size > 5000
        status, said, _ = zoo(f"predict {name} two.npz")
        heads, *lines = said.splitlines()
        assert status == 0 and heads.startswith("image,")
        if name == "unet":
            assert [sum(map(int, line.split(",")[1:])) for line in lines] == [256, 256]
        status, _, error = zoo(f"predict {name} odd.npz")
        assert status == 2 and error.count("\n") == 1 and "(16, 16, 1)" in error
