"""Objects as points: closed forms of the loss, boxes back from maps, precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.test_recipes import scores_of
from train.recipes import RECIPES, prepare
from train.report import scenes
from zoo import detect
from zoo.base import UsageError

# compiling takes longer than what it shows
pytestmark = pytest.mark.contract

RNG = np.random.default_rng(0)
NONE = [0, 0, 0, 0, 0]
BOXES = np.array(
    [
        [[0, 0, 12, 8, 1], [20, 9, 31, 32, 0], [3, 21, 9, 29, 1]],
        [[5, 6, 14, 27, 2], NONE, NONE],
    ],
    np.int32,
)
TARGETS = jax.jit(detect.targets, static_argnums=(1, 2, 3))
DECODE = jax.jit(detect.decode, static_argnums=(1, 2))
RADIUS = jax.jit(detect.radius)
LOSSES = jax.jit(detect.losses_of, static_argnums=2)


def exact(boxes=BOXES, classes=3):
    """The maps that a network without faults would give of images 32 x 32."""
    wanted = TARGETS(boxes, (8, 8), classes, 4)
    at = np.asarray(wanted.cell)
    size, offset = np.zeros((2, len(boxes), 8, 8, 2), np.float32)
    for b, m in np.argwhere(wanted.real):
        size[b, at[b, m, 0], at[b, m, 1]] = wanted.size[b, m]
        offset[b, at[b, m, 0], at[b, m, 1]] = wanted.offset[b, m]
    p = jnp.clip(wanted.heat, 1e-6, 1 - 1e-6)
    return detect.Maps(jnp.log(p / (1 - p)), jnp.asarray(size), jnp.asarray(offset))


def test_exact_maps_give_the_boxes_back():
    found = np.asarray(DECODE(exact(), 4, 5))
    for b, count in enumerate((3, 1)):
        best = found[b, :count]
        np.testing.assert_allclose(best[:, 5], 1, atol=1e-5)
        assert (found[b, count:, 5] < 0.5).all()
        order = np.lexsort(best.T[:5]), np.lexsort(BOXES[b, :count].T)
        np.testing.assert_allclose(
            best[order[0], :5], BOXES[b, :count][order[1]], atol=1e-4
        )
    # without their offsets they are off, by less than the stride
    rough = exact()._replace(offset=jnp.zeros((2, 8, 8, 2)))
    apart = np.abs(np.asarray(DECODE(rough, 4, 1)) - found[:, :1])[..., :4]
    assert 0.5 < apart.max() <= 4


def test_a_peak_is_no_lower_than_what_is_around_it():
    heat = np.full((1, 5, 5, 2), -9.0, np.float32)
    heat[0, 2, 2, 0], heat[0, 2, 3, 0], heat[0, 1, 1, 0] = 2, 1.9, -1
    heat[0, 2, 3, 1], heat[0, 4, 0, 0] = 1, 0.5
    flat = jnp.zeros((1, 5, 5, 2))
    found = np.asarray(DECODE(detect.Maps(heat, flat, flat), 4, 4))[0]
    assert found[:3, 4].tolist() == [0, 1, 0]  # of another class it is one
    wanted = 1 / (1 + np.exp(-np.array([2, 1, 0.5])))
    np.testing.assert_allclose(found[:3, 5], wanted, rtol=1e-5)
    assert found[3, 5] < 1e-3


def share(a, b):
    """The IoU of two boxes, in numbers of a plain formula."""
    high = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    inside = np.prod(np.maximum(high, 0))
    areas = [np.prod(c[2:] - c[:2]) for c in (a, b)]
    return inside / (sum(areas) - inside)


@pytest.mark.parametrize("least", [0.3, 0.7])
def test_corners_within_the_radius_leave_the_overlap(least):
    for height, width in RNG.uniform(2, 30, (20, 2)):
        r = float(RADIUS(jnp.float32(height), jnp.float32(width), least))
        box = np.array([0, 0, height, width])
        ways = np.array([[1, 1, 1, 1], [1, 1, -1, -1], [-1, -1, 1, 1]])
        shares = [share(box, box + r * way) for way in ways]
        assert min(shares) == pytest.approx(least, abs=1e-4)
        wide = [share(box, box + 1.1 * r * way) for way in ways]
        assert min(wide) < least - 1e-3


def test_targets_are_gaussians_around_centres():
    wanted = TARGETS(BOXES, (8, 8), 3, 4)
    heat = np.zeros((2, 8, 8, 3))
    for b, m in ((0, 0), (0, 1), (0, 2), (1, 0)):
        top, left, bottom, right, kind = BOXES[b, m]
        cell = (top + bottom) // 2 // 4, (left + right) // 2 // 4
        assert wanted.cell[b, m].tolist() == list(cell)
        r = float(RADIUS(jnp.float32(bottom - top) / 4, jnp.float32(right - left) / 4))
        sigma = (2 * r + 1) / 6
        for i in range(8):
            for j in range(8):
                far = (i - cell[0]) ** 2 + (j - cell[1]) ** 2
                own = np.exp(-far / (2 * sigma**2))
                heat[b, i, j, kind] = max(heat[b, i, j, kind], own)
    np.testing.assert_allclose(wanted.heat, heat, atol=1e-5)
    assert (np.asarray(wanted.heat) == 1).sum() == 4
    assert np.asarray(wanted.real).tolist() == [[True] * 3, [True, False, False]]
    assert ((wanted.offset >= 0) & (wanted.offset < 1))[wanted.real].all()


def plain_focal(logits, heat, alpha=2.0, beta=4.0):
    p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    here = (1 - p) ** alpha * np.log(p)
    there = (1 - heat) ** beta * p**alpha * np.log(1 - p)
    return -np.where(heat == 1, here, there).sum((1, 2, 3))


def test_focal_loss_is_equation_1():
    heat = RNG.uniform(size=(2, 4, 5, 3)).astype(np.float32)
    heat[0, 1, 2, 0] = heat[0, 3, 3, 2] = heat[1, 0, 0, 1] = 1
    logits = RNG.normal(size=heat.shape).astype(np.float32)
    found = detect.focal(jnp.asarray(logits), jnp.asarray(heat))
    np.testing.assert_allclose(found, plain_focal(logits, heat), rtol=1e-5)
    for fault in ({"alpha": 1.0}, {"beta": 2.0}):
        other = plain_focal(logits, heat, **fault)
        assert (np.abs(other / np.asarray(found) - 1) > 1e-2).all()
    # one centre, p one half everywhere: (1/2)^2 log 2 for each of nine cells
    point = np.zeros((1, 3, 3, 1), np.float32)
    point[0, 1, 1] = 1
    even = detect.focal(jnp.zeros((1, 3, 3, 1)), jnp.asarray(point))
    assert float(even[0]) == pytest.approx(9 * np.log(2) / 4)
    # beside a centre, where Y is one half, it counts (1/2)^4 as much
    near = detect.focal(jnp.zeros((1, 1, 1, 1)), jnp.full((1, 1, 1, 1), 0.5))
    assert float(near[0]) == pytest.approx(np.log(2) / 4 / 16)
    # certain and right, it is nothing; certain and wrong, it is finite
    sure = np.where(point == 1, 40, -40).astype(np.float32)
    assert float(detect.focal(jnp.asarray(sure), jnp.asarray(point))[0]) < 1e-6
    assert np.isfinite(detect.focal(jnp.asarray(-1e4 * sure), jnp.asarray(point))[0])


def test_sizes_and_offsets_are_learned_where_centres_are():
    maps = exact()
    right = LOSSES(maps, BOXES, 4)
    for name in ("size", "offset"):
        np.testing.assert_allclose(right[name], 0, atol=1e-5)
    # elsewhere they say nothing; at a centre each counts, over the objects
    cell = (6 // 4, 4 // 4)  # of the first box
    for name, at, counts in (("size", cell, True), ("offset", (7, 0), False)):
        other = getattr(maps, name).at[0, at[0], at[1], 1].add(3.0)
        changed = LOSSES(maps._replace(**{name: other}), BOXES, 4)
        wanted = [1.0 if counts else 0.0, 0.0]  # a third of 3
        np.testing.assert_allclose(changed[name], wanted, atol=1e-5)


def test_padding_of_boxes_changes_nothing():
    maps = exact()
    more = np.pad(BOXES, ((0, 0), (0, 2), (0, 0)))
    more[0, 3:] = [[7, 9, 7, 20, 2], [5, 9, 3, 12, 1]]  # no area, or less
    a, b = (LOSSES(maps, y, 4) for y in (BOXES, more))
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-6), a, b)
    nothing = LOSSES(maps, jnp.zeros((2, 3, 5), jnp.int32), 4)
    assert all(np.isfinite(v).all() for v in nothing.values())


def test_at_first_little_is_a_centre():
    model, x = detect.CenterNet(3, (4, 8, 8)), jnp.zeros((2, 32, 24, 1))
    maps, _ = jax.jit(model.init_with_output)(jax.random.key(0), x)
    assert maps.heat.shape == (2, 8, 6, 3) and maps.size.shape == (2, 8, 6, 2)
    np.testing.assert_allclose(jax.nn.sigmoid(maps.heat), 0.1, atol=1e-3)
    with pytest.raises(UsageError, match="multiples of 4, found 30 x 24"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 30, 24, 1)))


@pytest.mark.contract
def test_boxes_move_with_their_image():
    model = detect.CenterNet(3, (4, 8, 8))
    x = np.zeros((1, 64, 64, 1), np.float32)
    x[:, 24:36, 26:34] = RNG.normal(size=(1, 12, 8, 1))
    params = jax.jit(model.init)(jax.random.key(0), x)["params"]
    apply = jax.jit(lambda x: model.apply({"params": params}, x))
    before, after = apply(x), apply(np.roll(x, (8, 4), (1, 2)))
    for a, b in zip(before, after, strict=True):
        moved = jnp.roll(a, (2, 1), (1, 2))
        np.testing.assert_allclose(b[:, 4:12, 4:12], moved[:, 4:12, 4:12], atol=1e-5)


# Average precision --------------------------------------------------------------------


def scored(boxes, scores):
    boxes = np.asarray(boxes, np.float64)
    return np.concatenate([boxes, np.asarray(scores)[..., None]], -1)


def test_boxes_that_are_right_have_precision_1():
    real = (BOXES[..., 2] > 0) * 1.0  # what has no area is wrong, and last
    found = scored(BOXES, np.random.default_rng(1).uniform(0.1, 1, real.shape) * real)
    np.testing.assert_allclose(scenes.average_precisions(found, BOXES, 3), 1)
    scores = scenes.detection(found, BOXES, ("a", "b", "c"))
    assert scores["map"] == scores["map_75"] == 1
    # a class that no image has does not count
    with_more = scenes.detection(found, BOXES, ("a", "b", "c", "d"))
    assert with_more["map"] == 1 and "d" not in with_more["average_precision"]


def test_average_precision_is_as_computed_by_hand():
    y = np.array([[[0, 0, 10, 10, 0], [20, 20, 30, 30, 0]], [[0, 0, 10, 10, 0], NONE]])
    # by score: right, a duplicate of it, right (of the second image), one too far off
    found = np.array(
        [
            [[0, 0, 10, 10, 0, 0.9], [0, 1, 10, 11, 0, 0.8], [20, 26, 30, 36, 0, 0.6]],
            [[0, 2, 10, 12, 0, 0.7], NONE + [0.0], NONE + [0.0]],
        ]
    )
    # IoU of boxes shifted by 2 of 10: 8 / 12; by 6: 4 / 16
    np.testing.assert_allclose(
        scenes.iou(found[..., :4], y[..., :4])[[0, 1, 0], [0, 0, 2], [0, 0, 1]],
        [1, 8 / 12, 4 / 16],
    )
    # right at places 1 and 3 of 3 objects: (1 + 2/3) / 3
    assert scenes.average_precisions(found, y, 1)[0] == pytest.approx(5 / 9)
    # at 0.7 the second is off too: right at place 1 alone
    assert scenes.average_precisions(found, y, 1, 0.7)[0] == pytest.approx(1 / 3)
    # a duplicate before what is right would cost: places 1 and 2 without it
    alone = np.delete(found, 1, 1)
    assert scenes.average_precisions(alone, y, 1)[0] == pytest.approx(2 / 3)
    # another class is none of it
    other = found.copy()
    other[..., 4] = 1
    assert scenes.average_precisions(other, y, 2)[0] == 0
    assert np.isnan(scenes.average_precisions(other, y, 2)[1])


def plain_precision(found, y, kind, least):
    """Matched anew at each score; the area of the highest precision to the right."""
    real = [[b for b in rows if b[2] > b[0] and b[4] == kind] for rows in y]
    total = sum(map(len, real))
    rows = [(s[5], i, s) for i, some in enumerate(found) for s in some if s[4] == kind]
    points = []
    for threshold in sorted({row[0] for row in rows}, reverse=True):
        kept = sorted((r for r in rows if r[0] >= threshold), key=lambda r: -r[0])
        used, right = set(), 0
        for _, i, box in kept:
            shares = [share(box[:4], b[:4]) for b in real[i]]
            best = int(np.argmax(shares)) if shares else -1
            if best >= 0 and shares[best] >= least and (i, best) not in used:
                used.add((i, best))
                right += 1
        points.append((right / total, right / len(kept)))
    area, before = 0.0, 0.0
    for recall, _ in points:
        area += (recall - before) * max(p for r, p in points if r >= recall)
        before = recall
    return area


@pytest.mark.parametrize("least", [0.3, 0.5])
def test_average_precision_equals_a_plain_loop(least):
    rng = np.random.default_rng(2)
    corner, size = rng.integers(0, 30, (6, 4, 2)), rng.integers(7, 14, (6, 4, 2))
    kind = rng.integers(0, 2, (6, 4, 1))
    y = np.concatenate([corner, corner + size, kind], -1)
    near = y[:, [0, 1, 2, 3, 0, 1]] + rng.integers(-3, 4, (6, 6, 5)) * [1, 1, 1, 1, 0]
    y[0, 2:] = 0
    found = scored(near, rng.uniform(size=(6, 6)))
    exact = [plain_precision(found, y, kind, least) for kind in range(2)]
    ours = scenes.average_precisions(found, y, 2, least)
    np.testing.assert_allclose(ours, exact, rtol=1e-9)
    assert 0.1 < ours.min() and ours.max() < 0.95


def test_boxes_of_other_shapes_are_refused():
    with pytest.raises(UsageError, match="boxes found"):
        scenes.average_precisions(np.zeros((2, 3, 5)), BOXES, 3)
    task = detect.task(detect.CenterNet(3, (2, 2, 2)), 3)
    batch = {"x": np.zeros((2, 8, 8, 1), np.float32), "y": np.zeros((2, 8, 8), int)}
    with pytest.raises(UsageError, match="integer boxes"):
        task.loss({}, {}, batch, jax.random.key(0), train=True)
    with pytest.raises(UsageError, match="expected scenes"):
        prepare(
            RECIPES["centernet"], data=prepare(RECIPES["unet"], "shape_scenes").data
        )


@pytest.mark.contract
def test_shapes_are_found():
    flags = {"channels": (4, 8, 8), "batch_size": 16, "learning_rate": 0.01}
    recipe = prepare(RECIPES["centernet"], "shape_scenes", steps=300, **flags)
    assert scores_of(recipe)["map"] > 0.6  # 0.77
