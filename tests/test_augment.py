"""Augmentations: what they do to each image, and that they touch nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.data import augment
from zoo.base import UsageError

KEY = jax.random.key(7)
ALL = {
    "crop": augment.crop(2),
    "flip": augment.flip(),
    "rotate": augment.rotate(20),
    "affine": augment.affine(20, 1.2, 0.2, 1.0),
    "noise": augment.noise(0.5),
    "cutout": augment.cutout(3),
    "compose": augment.compose(augment.crop(1), augment.flip(), augment.noise(0.1)),
}
every = pytest.mark.parametrize("change", [*map(jax.jit, ALL.values())], ids=ALL)


def batch_of(*shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return {"x": jnp.asarray(x), "y": jnp.arange(shape[0]), "mask": jnp.ones(shape[0])}


def run(change, batch, key=KEY):
    """The augmented x, on the host."""
    return np.asarray(jax.jit(change)(key, batch)["x"])


@every
def test_changes_x_alone_as_the_key_says(change):
    batch = batch_of(16, 8, 6, 3)
    new = change(KEY, batch)
    assert new.keys() == batch.keys()
    assert new["x"].shape == batch["x"].shape and new["x"].dtype == batch["x"].dtype
    assert np.array_equal(new["y"], batch["y"])
    assert np.array_equal(new["mask"], batch["mask"])
    assert not np.array_equal(new["x"], batch["x"])
    np.testing.assert_array_equal(new["x"], change(KEY, batch)["x"])
    other = change(jax.random.key(8), batch)
    assert not np.array_equal(new["x"], other["x"])


@pytest.mark.parametrize("change", ALL.values(), ids=ALL)
def test_the_batch_that_was_given_is_left_as_it_was(change):
    def traced(key, batch):  # what is compiled gets another dict than the caller's
        before = dict(batch)
        new = change(key, batch)
        assert new is not batch and batch.keys() == before.keys()
        assert all(batch[name] is before[name] for name in before)
        return new

    jax.eval_shape(traced, KEY, batch_of(2, 8, 6, 3))


@every
def test_examples_draw_for_themselves(change):
    batch = batch_of(16, 8, 6, 3)
    batch["x"] = jnp.broadcast_to(batch["x"][:1], batch["x"].shape)
    assert len(np.unique(np.asarray(change(KEY, batch)["x"]), axis=0)) > 1


@every
def test_vmap_equals_one_by_one(change):
    batch, keys = batch_of(16, 8, 6, 3), jax.random.split(KEY, 2)
    both = jax.jit(jax.vmap(change, in_axes=(0, None)))(keys, batch)
    for key, x in zip(keys, both["x"], strict=True):
        np.testing.assert_allclose(change(key, batch)["x"], x, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [augment.crop(0), augment.noise(0), augment.cutout(0), augment.compose()],
    ids=["crop", "noise", "cutout", "compose"],
)
def test_identity_at_zero_strength(change):
    batch = batch_of(4, 8, 6, 2)
    np.testing.assert_array_equal(jax.jit(change)(KEY, batch)["x"], batch["x"])


@pytest.mark.parametrize("space", [(6, 5), (7,)], ids=["image", "sequence"])
def test_crop_is_a_shift_and_every_shift_occurs(space):
    batch = batch_of(300, *space, 2)
    x, new = np.asarray(batch["x"]), run(augment.crop(1), batch)
    wide = np.pad(x, [(0, 0), *[(1, 1)] * len(space), (0, 0)], mode="edge")
    found = np.zeros(len(x), int)
    for corner in np.ndindex((3,) * len(space)):
        window = tuple(slice(c, c + n) for c, n in zip(corner, space, strict=True))
        hits = (wide[:, *window] == new).reshape(len(x), -1).all(axis=1)
        assert hits.mean() > 0.5 / 3 ** len(space)
        found += hits
    assert (found == 1).all()


def test_crop_of_a_sequence_stays_within_its_length():
    lengths = jnp.repeat(jnp.array([7, 4, 1]), 100)
    real = np.arange(7) < np.asarray(lengths)[:, None]
    batch = batch_of(300, 7, 2) | {"length": lengths}
    batch["x"] = jnp.where(real[..., None], batch["x"], 0)
    x, new = np.asarray(batch["x"]), run(augment.crop(2), batch)
    assert (new[~real] == 0).all()
    for n in (7, 4, 1):
        rows = np.asarray(lengths) == n
        wide = np.pad(x[rows, :n], [(0, 0), (2, 2), (0, 0)], mode="edge")
        shifted = [wide[:, c : c + n] == new[rows, :n] for c in range(5)]
        hits = np.stack([hit.all((1, 2)) for hit in shifted])
        assert hits.any(0).all() and hits.any(1).all()
        assert (hits.sum(0) == (5 if n == 1 else 1)).all()
    whole = batch | {"length": jnp.full(300, 7)}
    alone = {name: whole[name] for name in ("x", "y", "mask")}
    changed = (run(augment.crop(2), rows) for rows in (whole, alone))
    np.testing.assert_array_equal(*changed)


def test_flip_mirrors_about_half():
    batch = batch_of(400, 4, 5, 2)
    x, new = np.asarray(batch["x"]), run(augment.flip(), batch)
    same = (new == x).all(axis=(1, 2, 3))
    mirrored = (new == x[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert 0.4 < mirrored.mean() < 0.6
    np.testing.assert_array_equal(run(augment.flip(), {"x": new}), x)


def test_rotated_by_right_angles_is_rot90():
    image = np.random.default_rng(0).normal(size=(7, 7, 3)).astype(np.float32)
    rotated = jax.jit(augment.rotated)
    for turns in range(-2, 3):
        new = rotated(image, 90.0 * turns)
        np.testing.assert_allclose(new, np.rot90(image, turns), atol=1e-5)
    wide = image[:4]
    np.testing.assert_array_equal(rotated(wide, 0.0), wide)
    np.testing.assert_allclose(rotated(wide, 180.0), wide[::-1, ::-1], atol=1e-5)


def test_a_plane_is_warped_into_the_plane_that_the_matrix_says():
    """Bilinear interpolation is exact of an image that rises evenly."""
    matrix, move = np.array([[1.1, 0.2], [-0.3, 0.9]]), np.array([0.4, -0.7])
    rows, columns = np.mgrid[:9, :7].astype(float)
    p = np.stack([rows - 4, columns - 3])
    image = jnp.asarray(2 * p[0] - 3 * p[1] + 1, "f4")[..., None]
    found = augment.warped(image, jnp.asarray(matrix), jnp.asarray(move))[2:7, 2:5, 0]

    def plane(matrix, move):
        at = np.tensordot(matrix, p, 1) + move[:, None, None]
        return (2 * at[0] - 3 * at[1] + 1)[2:7, 2:5]

    np.testing.assert_allclose(found, plane(matrix, move), atol=1e-4)
    for wrong in ((matrix.T, move), (matrix, move[::-1]), (matrix[::-1, ::-1], move)):
        assert np.abs(plane(*wrong) - found).max() > 0.1


def test_affine_stays_within_what_it_is_told():
    x = np.broadcast_to(np.mgrid[-4:5, -4:5][1][..., None], (400, 9, 9, 1))
    batch = {"x": jnp.asarray(x, "f4")}  # rises to the right by 1 a pixel
    middle = run(augment.affine(pixels=2.0), batch)[:, 4, 4, 0]
    assert np.abs(middle).max() <= 2 + 1e-5 and np.abs(middle).max() > 1.8
    slope = np.diff(run(augment.affine(stretch=1.25), batch)[:, 4, 3:6, 0], axis=1)
    assert 0.8 - 1e-5 <= slope.min() < 0.83 and 1.2 < slope.max() <= 1.25 + 1e-5
    lean = np.diff(run(augment.affine(slant=0.5), batch)[:, 3:6, 4, 0], axis=1)
    assert 0.45 < np.abs(lean).max() <= 0.5 + 1e-5


def test_rotate_of_a_constant_is_constant_and_stays_within_the_angle():
    flat = {"x": jnp.full((8, 9, 9, 1), -0.4)}
    turned = jax.jit(augment.rotate(180))(KEY, flat)
    np.testing.assert_allclose(turned["x"], -0.4, rtol=1e-6)
    # in a ramp the value right of the centre says the angle: sin(angle) up
    rows = -(np.arange(21.0, dtype=np.float32) - 10).reshape(1, 21, 1, 1)
    ramp = {"x": jnp.asarray(np.broadcast_to(rows, (500, 21, 21, 1)))}
    new = np.asarray(jax.jit(augment.rotate(30))(KEY, ramp)["x"])
    angle = np.rad2deg(np.arcsin(-new[:, 10, 15, 0] / 5))
    assert np.abs(angle).max() <= 30.001
    assert angle.min() < -28 and angle.max() > 28 and abs(angle.mean()) < 2


@pytest.mark.parametrize("shape", [(5000, 4), (50, 20, 20, 1)], ids=str)
def test_noise_has_its_scale(shape):
    batch = batch_of(*shape)
    added = run(augment.noise(0.5), batch) - np.asarray(batch["x"])
    assert abs(added.mean()) < 0.02
    assert abs(added.std() - 0.5) < 0.02


@pytest.mark.parametrize("size", [2, 5])
def test_cutout_zeroes_one_clipped_square(size):
    batch = {"x": jnp.ones((300, 7, 5, 2))}
    holes = run(augment.cutout(size), batch) == 0
    np.testing.assert_array_equal(holes[..., 0], holes[..., 1])
    extents = set()
    for hole in holes[..., 0]:
        rows, columns = hole.any(axis=1), hole.any(axis=0)
        np.testing.assert_array_equal(hole, rows[:, None] & columns[None, :])
        for side in (rows, columns):
            (at,) = np.nonzero(side)
            assert len(at) == at[-1] - at[0] + 1  # no gap
            clipped = at[0] == 0 or at[-1] == len(side) - 1
            assert len(at) == size or (clipped and len(at) < size)
        extents.add((int(rows.argmax()), int(columns.argmax())))
    assert (size, size) in {(h.any(1).sum(), h.any(0).sum()) for h in holes[..., 0]}
    assert holes.any(axis=(0, 3)).all()  # every pixel is hit by some
    assert len(extents) > 5


def test_compose_splits_its_key_once():
    batch = batch_of(4, 8, 6, 1)
    first, second = jax.random.split(KEY)
    by_hand = run(augment.flip(), {"x": run(augment.crop(2), batch, first)}, second)
    composed = run(augment.compose(augment.crop(2), augment.flip()), batch)
    np.testing.assert_array_equal(composed, by_hand)


@pytest.mark.parametrize(
    "build",
    [
        lambda: augment.crop(-1),
        lambda: augment.crop(1.5),
        lambda: augment.rotate(0),
        lambda: augment.rotate(181),
        lambda: augment.rotate(float("nan")),
        lambda: augment.affine(181),
        lambda: augment.affine(stretch=0.9),
        lambda: augment.affine(slant=float("nan")),
        lambda: augment.affine(pixels=-1),
        lambda: augment.noise(-0.1),
        lambda: augment.noise(float("inf")),
        lambda: augment.cutout(-1),
    ],
)
def test_bad_parameters_are_refused(build):
    with pytest.raises(UsageError, match="expected .*, found"):
        build()


@pytest.mark.parametrize(
    "change, shape",
    [
        (augment.crop(1), (4, 5)),
        (augment.flip(), (4, 8, 8)),
        (augment.rotate(5), (4, 8, 8)),
        (augment.affine(pixels=1), (4, 8, 8)),
        (augment.cutout(2), (4, 8)),
        (augment.cutout(6), (4, 8, 5, 1)),
    ],
)
def test_bad_shapes_are_refused_while_tracing(change, shape):
    with pytest.raises(UsageError, match="expected .*, found"):
        jax.eval_shape(change, KEY, batch_of(*shape))


@every
def test_raw_pixels_are_refused(change):
    with pytest.raises(UsageError, match="expected floating-point inputs"):
        change(KEY, {"x": jnp.zeros((2, 8, 8, 1), jnp.uint8)})
