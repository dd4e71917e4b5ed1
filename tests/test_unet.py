"""U-Net against sums written out, its Dice against counts; bad images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.test_recipes import scores_of
from train.evaluate import evaluate
from train.recipes import RECIPES, prepare
from train.report import scenes
from train.step import Trained
from zoo import unet
from zoo.base import UsageError

RNG = np.random.default_rng(0)
MODEL = unet.UNet(3, (2, 3, 4))
X = RNG.normal(size=(2, 12, 8, 1)).astype(np.float32)


def moved(params):
    """Weights away from where they begin: biases are zero there."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda p: p + 0.1 * rng.normal(size=p.shape).astype(p.dtype), params
    )


PARAMS = jax.tree.map(
    np.asarray, moved(jax.jit(MODEL.init)(jax.random.key(0), X)["params"])
)
FOUND = np.asarray(jax.jit(MODEL.apply)({"params": PARAMS}, X))


def plain(params, x, fault=None):
    """The network of three levels in numpy, with a fault if one is wanted."""

    def conv(x, layer):
        size = len(layer["kernel"])
        pad = [(0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)]
        x = np.pad(x, pad, mode="edge" if fault == "edges" else "constant")
        seen = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))
        return np.einsum("bhwcij,ijcf->bhwf", seen, layer["kernel"]) + layer["bias"]

    def double(x, layer):
        for name in ("Conv_0", "Conv_1"):
            x = np.maximum(conv(x, layer[name]), 0)
        return x

    def pool(x):
        parts = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1)
        return parts.mean((2, 4)) if fault == "mean" else parts.max((2, 4))

    def up(x, layer):
        # that of zeros between: each pixel becomes the kernel, turned by half
        kernel = layer["kernel"]
        kernel = kernel if fault == "turned" else kernel[::-1, ::-1]
        y = np.einsum("bhwc,ijcf->bhiwjf", x, kernel)
        return y.reshape(len(x), 2 * x.shape[1], 2 * x.shape[2], -1) + layer["bias"]

    def beside(a, b):
        return np.concatenate((b, a) if fault == "order" else (a, b), -1)

    body = params["body"]
    first = double(x, body["Double_0"])
    second = double(pool(first), body["Double_1"])
    x = double(pool(second), body["Double_2"])
    x = double(beside(second, up(x, body["ConvTranspose_0"])), body["Double_3"])
    x = double(beside(first, up(x, body["ConvTranspose_1"])), body["Double_4"])
    return conv(x, params["head"])


def error(fault=None):
    return np.abs(FOUND - plain(PARAMS, X, fault)).max() / np.abs(FOUND).max()


def test_it_is_the_network_written_out():
    assert error() < 1e-5


@pytest.mark.parametrize("fault", ["edges", "mean", "turned"])
def test_a_fault_is_seen(fault):
    assert error(fault) > 1e-3


def test_what_stands_beside_has_its_order():
    # 3 and 3 channels: swapped they fit as well
    assert error("order") > 1e-3


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_an_image_comes_out_smaller_by_the_stride(stride):
    body = unet.DownAndUp((2, 3, 4), stride)
    shape = jax.eval_shape(
        lambda x: body.init_with_output(jax.random.key(0), x)[0],
        jnp.zeros((5, 8, 20, 3)),
    ).shape
    assert shape == (5, 8 // stride, 20 // stride, {1: 2, 2: 3, 4: 4}[stride])


@pytest.mark.parametrize("sides", [(12, 10), (9, 8), (2, 4)])
def test_an_image_that_does_not_halve_is_refused(sides):
    with pytest.raises(UsageError, match=f"multiples of 4, found {sides[0]} x"):
        jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, *sides, 1)))


def test_a_stride_is_a_power_of_two():
    body, x = unet.DownAndUp((2, 3, 4), 3), jnp.zeros((1, 8, 8, 1))
    with pytest.raises(UsageError, match="power of 2 up to 4, found 3"):
        jax.eval_shape(body.init, jax.random.key(0), x)


def test_images_moved_by_the_stride_move_what_comes_out():
    x = np.zeros((1, 96, 96, 1), np.float32)
    x[:, 44:52, 44:52] = RNG.normal(size=(1, 8, 8, 1))
    apply = jax.jit(lambda x: MODEL.apply({"params": PARAMS}, x))

    def apart(by):
        """The largest difference, away from the borders, of both ways."""
        after = apply(np.roll(x, (by, -by), (1, 2)))
        before = jnp.roll(apply(x), (by, -by), (1, 2))
        return float(jnp.abs(after - before)[:, 36:60, 36:60].max())

    assert apart(4) < 1e-5 and apart(8) < 1e-5
    assert apart(1) > 1e-3


# Dice ---------------------------------------------------------------------------------


def test_soft_dice_has_its_closed_forms():
    y = jnp.array([[[0, 1], [2, 2]]])
    right = jax.nn.one_hot(y, 3)
    assert float(unet.soft_dice(right, y)[0]) == 0
    # nothing found: 1 - 1 / (3 + 1); nothing right, 4 pixels found: 1 - 1 / (4 + 3 + 1)
    nothing = jax.nn.one_hot(jnp.zeros_like(y), 3)
    assert float(unet.soft_dice(nothing, y)[0]) == pytest.approx(1 - 1 / 4)
    wrong = jax.nn.one_hot(jnp.array([[[1, 2], [1, 1]]]), 3)
    assert float(unet.soft_dice(wrong, y)[0]) == pytest.approx(1 - 1 / 8)
    # a third each: both 1, found 8 / 3, there 3
    even = jnp.full((1, 2, 2, 3), 1 / 3)
    assert float(unet.soft_dice(even, y)[0]) == pytest.approx(1 - 3 / (8 / 3 + 4))


def test_dice_of_batches_adds_up_to_that_of_all():
    logits = jnp.asarray(RNG.normal(size=(6, 5, 4, 3)), jnp.float32)
    y = jnp.asarray(RNG.integers(0, 3, (6, 5, 4)))
    found = np.asarray(logits.argmax(-1))
    both = ((found == y) & (y > 0)).sum()
    exact = 2 * both / ((found > 0).sum() + (y > 0).sum())
    dice = jax.jit(unet.dice)
    whole = dice(logits, y)
    assert float(whole.value()) == pytest.approx(float(exact), rel=1e-6)
    parts = dice(logits[:3], y[:3]) + dice(logits[3:], y[3:])
    assert parts == whole
    mask = jnp.array([1, 0, 1, 1, 0, 1])
    kept = np.flatnonzero(mask)
    assert dice(logits, y, mask) == dice(logits[kept], y[kept])


def small(**flags):
    return prepare(
        RECIPES["unet"], data="shape_scenes", channels=(4, 8, 8), batch_size=16, **flags
    )


@pytest.mark.contract
def test_dice_is_the_same_in_batches_of_any_size():
    recipe = small()
    task, rows = recipe.task, {k: v[:20] for k, v in recipe.parts.test.items()}
    init = jax.jit(task.init)(jax.random.key(0), rows)
    trained = Trained(moved(init[0]), init[1])
    whole, parts = (evaluate(task, trained, rows, batch_size=n) for n in (20, 7))
    assert parts["dice"] == pytest.approx(whole["dice"], abs=1e-6)
    probabilities = np.asarray(jax.jit(task.predict)(*trained, rows))
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    found, y = probabilities.argmax(-1), rows["y"]
    both = ((found == y) & (y > 0)).sum()
    exact = 2 * both / ((found > 0).sum() + (y > 0).sum())
    assert whole["dice"] == pytest.approx(exact, abs=1e-6)


def test_scores_of_pixels_are_scikit_learns():
    from sklearn.metrics import f1_score

    found, y = RNG.integers(0, 4, (2, 3, 6, 5))
    scores = scenes.segmentation(found, y, ("background", "a", "b", "c"))
    each = f1_score(y.ravel(), found.ravel(), average=None)
    assert scores["dice"] == pytest.approx(each[1:].mean())
    assert scores["per_class"]["b"]["f1"] == pytest.approx(each[2])
    assert scores["accuracy"] == (found == y).mean()
    # a class that is neither there nor found says nothing
    more = scenes.segmentation(found, y, ("background", "a", "b", "c", "d"))
    assert more["dice"] == scores["dice"]
    assert scenes.segmentation(y, y, ("background", "a", "b", "c"))["dice"] == 1
    with pytest.raises(UsageError, match="classes of pixels"):
        scenes.segmentation(found, y[:1], ("background", "a", "b", "c"))


@pytest.mark.contract
def test_shapes_are_told_apart():
    scores = scores_of(small(steps=300, learning_rate=0.01))
    assert scores["dice"] > 0.9


# What is not right --------------------------------------------------------------------


def test_other_targets_are_refused():
    task = unet.task(MODEL, 3)
    x = {"x": X}
    for y in (np.zeros((2, 12, 9), int), np.zeros((2, 12, 8), np.float32)):
        with pytest.raises(UsageError, match="integer classes of pixels"):
            task.loss(PARAMS, {}, x | {"y": y}, jax.random.key(0), train=True)
    with pytest.raises(UsageError, match="dice_weight >= 0"):
        unet.task(MODEL, 3, dice_weight=-1.0)


@pytest.mark.parametrize(
    ("data", "flags", "said"),
    [
        ("shape_scenes", {"channels": (2,) * 6}, "multiples of 32, found 16 x 16"),
        ("digits_scene", {}, "did you mean 'digit_scenes'"),
        ("shape_scenes", {"holdout": 0.3}, "expected no holdout"),
        ("shape_scenes", {"dice_weight": -1.0}, "dice_weight >= 0"),
    ],
)
def test_a_mistake_is_one_sentence(data, flags, said):
    with pytest.raises(UsageError, match=said):
        prepare(RECIPES["unet"], data=data, **flags)
