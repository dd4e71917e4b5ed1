"""Roads, cars and what is seen against circles, lines and plain loops; who drives."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import driving, environments, imitation, rollouts
from zoo.base import UsageError
from zoo.driving import HALF, LENGTH, PIXEL, REACH, SIZE, Drive

# compiling takes longer than what it shows
pytestmark = pytest.mark.contract

N = 200
WIDE = driving.BEHIND + driving.BEYOND + LENGTH + 1


@functools.cache
def roads():
    """[N, P, 2]."""
    keys = jax.random.split(jax.random.key(0), N)
    return np.asarray(jax.jit(jax.vmap(driving.road))(keys))


def straight(along=30.3, aside=0.7, turn=0.2):
    """A car on a road along x."""
    x = np.arange(WIDE, dtype=np.float32) - driving.BEHIND
    road = np.stack([x, 0 * x], 1)
    return Drive(*map(jnp.asarray, (road, [along, aside, turn], along)))


@functools.cache
def somewhere(n=20):
    """Cars anywhere on roads, as a batch of states [n], jittered off the middle."""
    rng = np.random.default_rng(0)
    along = rng.uniform(0, LENGTH, n)
    states = []
    for road, s in zip(roads()[:n], along, strict=True):
        i = int(s) + driving.BEHIND
        way = road[i + 1] - road[i]
        at = road[i] + (s % 1) * way + rng.uniform(-1, 1) * np.array([-way[1], way[0]])
        turn = math.atan2(way[1], way[0]) + rng.uniform(-0.5, 0.5)
        states.append((road, [*at, turn], s))
    return Drive(*(jnp.asarray(np.array(a, "f4")) for a in zip(*states, strict=True)))


def each(function):
    return jax.jit(jax.vmap(function))


@pytest.mark.parametrize("action", [-1.0, 0.3, 1.0])
def test_constant_steering_drives_a_circle(action):
    radius = driving.WHEELBASE / math.tan(driving.LOCK * action)
    pose, way = jnp.zeros(3), jax.jit(driving.moved)
    for i in range(1, 31):
        pose = way(pose, jnp.float32(action))
        x, y, turn = map(float, pose)
        assert math.hypot(x, y - radius) == pytest.approx(abs(radius), abs=1e-4)
        assert turn == pytest.approx(i * driving.STEP / radius, rel=1e-5)
    np.testing.assert_allclose(way(jnp.zeros(3), jnp.float32(0)), [1, 0, 0])


def test_roads_begin_alike_and_never_meet_themselves():
    way = np.diff(roads(), axis=1)
    np.testing.assert_allclose(np.linalg.norm(way, axis=-1), 1, atol=1e-4)
    np.testing.assert_allclose(roads()[:, driving.BEHIND], 0)
    np.testing.assert_allclose(way[:, driving.BEHIND, 1], 0, atol=1e-5)
    turn = np.unwrap(np.arctan2(way[..., 1], way[..., 0]))
    assert np.ptp(turn, axis=1).max() < math.pi
    assert 1 / 20 < np.abs(np.diff(turn)).max(1).mean() < 1 / 7.5  # of radii
    assert np.abs(np.diff(turn)).max() < 1 / 7


def test_a_place_is_the_nearest_of_the_road():
    state = somewhere()
    along, aside = each(driving.place)(state.road, state.pose[:, :2])
    share = np.linspace(0, 1, 500)[:, None, None]
    for road, pose, s, d in zip(*state[:2], along, aside, strict=True):
        road, at = np.asarray(road), np.asarray(pose[:2])
        fine = road[:-1] + share * np.diff(road, axis=0)  # [500, P - 1, 2]
        far = np.linalg.norm(fine - at, axis=-1)
        k, i = np.unravel_index(far.argmin(), far.shape)
        assert float(abs(d)) == pytest.approx(far.min(), abs=2e-3)
        assert float(s) == pytest.approx(i + k / 499 - driving.BEHIND, abs=5e-3)
        way = road[i + 1] - road[i]
        left = way[0] * (at - road[i])[1] - way[1] * (at - road[i])[0]
        assert np.sign(left) == np.sign(d)


def test_rays_on_a_straight_road_are_known():
    for aside, turn in ((0.7, 0.2), (-1.5, -0.4), (0.0, 0.0)):
        found = jax.jit(lambda s: driving.rays(s))(straight(30.3, aside, turn))
        for angle, share in zip(driving.ANGLES, found, strict=True):
            side = math.sin(angle + turn)
            far = (HALF - math.copysign(aside, aside * side)) / max(abs(side), 1e-9)
            assert float(share) * REACH == pytest.approx(min(far, REACH), abs=1e-3)


def test_rays_end_at_the_edge_of_a_winding_road():
    state = somewhere()
    found = np.asarray(each(driving.rays)(state)) * REACH
    turn = np.asarray(state.pose)[:, 2:] + np.array(driving.ANGLES)
    ways = np.stack([np.cos(turn), np.sin(turn)], -1)
    ends = np.asarray(state.pose)[:, None, :2] + found[..., None] * ways
    place = each(
        lambda road, points: jax.vmap(lambda p: driving.place(road, p))(points)
    )
    for share, wanted, atol in ((1.0, HALF, 0.06), (0.5, None, 0)):
        points = ends * share + np.asarray(state.pose)[:, None, :2] * (1 - share)
        _, aside = place(state.road, jnp.asarray(points, jnp.float32))
        near = found < REACH - 1e-3
        if wanted:  # an edge of chords is this near to that of arcs
            np.testing.assert_allclose(np.abs(aside)[near], wanted, atol=atol)
        else:
            assert np.abs(aside).max() < HALF + 0.06
    assert 50 < near.sum() < near.size


def test_an_image_is_how_far_the_road_is():
    state = somewhere(4)
    found = np.asarray(each(driving.image)(state))[..., 0]
    share = np.linspace(0, 1, 50)[:, None, None]
    for road, pose, along, picture in zip(*map(np.asarray, state), found, strict=True):
        begin = int(along)
        part = road[begin : begin + driving.BEHIND + driving.BEYOND + 1]
        fine = (part[:-1] + share * np.diff(part, axis=0)).reshape(-1, 2)
        cos, sin = np.cos(pose[2]), np.sin(pose[2])
        for row in range(SIZE):
            for column in range(SIZE):
                ahead = (SIZE - 3 + 0.5 - row) * PIXEL
                left = (SIZE / 2 - 0.5 - column) * PIXEL
                at = pose[:2] + ahead * np.array([cos, sin])
                at = at + left * np.array([-sin, cos])
                far = np.linalg.norm(fine - at, axis=1).min()
                inside = (HALF**2 - far**2) / (2 * HALF * PIXEL) + 0.5
                wanted = min(max(inside, 0), 1)
                assert picture[row, column] == pytest.approx(wanted, abs=1e-2)


def test_the_road_has_its_width_in_an_image():
    picture = np.asarray(driving.image(straight(30.3, 0.7, 0.0)))[..., 0]
    np.testing.assert_allclose(picture.sum(1) * PIXEL, 2 * HALF, atol=0.3)
    middle = (picture[0] * np.arange(SIZE)).sum() / picture[0].sum()
    assert ((SIZE - 1) / 2 - middle) * PIXEL == pytest.approx(-0.7, abs=0.1)


def test_a_mirrored_road_is_seen_and_driven_mirrored():
    state = somewhere()
    other = Drive(state.road * np.array([[[1, -1]]], "f4"), *state[1:])
    other = other._replace(pose=state.pose * np.array([[1, -1, -1]], "f4"))
    for function, mirror in (
        (driving.image, lambda a: a[:, :, ::-1]),
        (driving.rays, lambda a: a[:, ::-1]),
        (driving.pursue, lambda a: -a),
    ):
        one, two = each(function)(state), each(function)(other)
        np.testing.assert_allclose(mirror(np.asarray(one)), two, atol=2e-4)
        assert np.abs(np.asarray(one) - np.asarray(two)).max() > 0.1


def test_what_is_seen_is_of_the_car_wherever_the_road_lies():
    state = somewhere()
    cos, sin = math.cos(1.3), math.sin(1.3)
    turn = np.array([[cos, sin], [-sin, cos]], "f4")
    road = state.road @ turn + np.array([[[5.0, -3.0]]], "f4")
    place = state.pose[:, :2] @ turn + np.array([[5.0, -3.0]], "f4")
    pose = jnp.concatenate([place, state.pose[:, 2:] + 1.3], 1)
    other = Drive(road, pose, state.along)
    for function in (driving.image, driving.rays, driving.pursue):
        found = each(function)(other)
        np.testing.assert_allclose(found, each(function)(state), atol=5e-4)


def driven(world, teacher, n=N):
    """Returns of n drives, whose steering `teacher(state)` says, and how far aside."""

    @jax.jit
    @jax.vmap
    def drive(key):
        def body(carry, _):
            state, over, total, most = carry
            found = world.step(state, teacher(state), key)
            aside = driving.place(found.state.road, found.state.pose[:2])[1]
            total = total + jnp.where(over, 0, found.reward)
            most = jnp.maximum(most, jnp.where(over, 0, jnp.abs(aside)))
            return (found.state, over | found.terminated, total, most), None

        start = world.reset(key), jnp.zeros((), bool), jnp.zeros(()), jnp.zeros(())
        _, over, total, most = jax.lax.scan(body, start, None, length=world.limit)[0]
        return over, total, most

    return drive(jax.random.split(jax.random.key(1), n))


@pytest.mark.contract
def test_who_knows_the_road_drives_all_of_them():
    world = driving.driving()
    over, total, most = driven(world, driving.pursue)
    assert over.all() and driving.arrived(total).all()
    np.testing.assert_allclose(total, LENGTH, atol=1e-3)
    assert most.max() < 1.0
    # and no other does: straight on, half as much, too much, the other way
    for by in (0.0, 0.3, -1.0):
        _, total, _ = driven(world, lambda state, by=by: by * driving.pursue(state), 50)
        assert driving.arrived(total).mean() < 0.5, by


@pytest.mark.parametrize("view", ["rays", "image"])
def test_many_cars_are_as_one(view):
    world = driving.driving(view)
    state, key = somewhere(3), jax.random.key(0)
    actions = jnp.array([[-0.4], [0.0], [0.9]])
    together = each(lambda s, a: world.step(s, a, key))(state, actions)
    seen = each(world.observe)(state)
    assert seen.shape == (3, *world.shape)
    for i in range(3):
        one = jax.tree.map(lambda a, i=i: a[i], state)
        found = world.step(one, actions[i], key)
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=1e-4),
            (together, seen),
            (found, world.observe(one)),
        )


def test_an_episode_ends_off_the_road_or_at_its_end():
    world, key, ahead = driving.driving(), jax.random.key(0), jnp.zeros(1)
    inside = world.step(straight(50.0, 1.9, 0.0), ahead, key)
    assert not inside.terminated and float(inside.reward) == pytest.approx(1, abs=1e-4)
    off = world.step(straight(50.0, 1.9, 0.2), ahead, key)
    assert off.terminated and off.reward == 0
    last = world.step(straight(119.5, 0.0, 0.0), ahead, key)
    assert last.terminated and float(last.reward) == pytest.approx(0.5, abs=1e-4)
    assert not driving.arrived(jnp.float32(119.5)) and driving.arrived(jnp.float32(120))


def test_several_are_the_last_that_were_seen():
    one, world = driving.driving("rays"), driving.several(driving.driving("rays"), 3)
    key = jax.random.key(2)
    state, alone = world.reset(key), one.reset(key)
    seen = [one.observe(alone)] * 3
    step = jax.jit(world.step), jax.jit(one.step)
    for _ in range(4):
        np.testing.assert_allclose(world.observe(state), np.stack(seen[-3:]), atol=1e-6)
        state = step[0](state, jnp.array([0.3]), key).state
        alone = step[1](alone, jnp.array([0.3]), key).state
        seen.append(one.observe(alone))
    assert world.shape == (3, *one.shape)


# What is wrong, and which test sees it ------------------------------------------------


def by_euler(moved):
    """A step along the car's direction, which then turns."""

    def wrong(pose, action):
        ahead = driving.STEP * jnp.stack([jnp.cos(pose[2]), jnp.sin(pose[2])])
        return jnp.concatenate([pose[:2] + ahead, moved(pose, action)[2:]])

    return wrong


def turned(piece):
    """The road turned with the car, not against it."""
    flip = np.array([1, 1, -1], "f4")
    return lambda state: piece(state._replace(pose=state.pose * flip))


def from_the_car(piece):
    """A piece of the road that has nothing behind the car."""
    more = driving.BEHIND
    return lambda state: piece(state._replace(along=state.along + more))


circle = functools.partial(test_constant_steering_drives_a_circle, 0.3)
of_rays = test_rays_on_a_straight_road_are_known
of_images = test_an_image_is_how_far_the_road_is
of_places = test_a_place_is_the_nearest_of_the_road
FAULTS = [
    ("moved", by_euler, circle),
    ("moved", lambda move: lambda pose, a: move(pose, 1.001 * a), circle),
    ("_piece", turned, of_rays),
    ("_piece", turned, of_images),
    ("_piece", from_the_car, of_images),
    ("HALF", lambda half: half - 0.01, of_rays),
    ("HALF", lambda half: half - 0.02, of_images),
    ("rays", lambda see: lambda state: see(state)[::-1], of_rays),
    ("image", lambda see: lambda state: see(state)[:, ::-1], of_images),
    ("image", lambda see: lambda state: see(state).swapaxes(0, 1), of_images),
    ("place", lambda find: lambda *a: (find(*a)[0], -find(*a)[1]), of_places),
    ("place", lambda find: lambda *a: (find(*a)[0] + 0.01, find(*a)[1]), of_places),
    (
        "pursue",
        lambda steer: lambda state: jnp.abs(steer(state)),
        test_a_mirrored_road_is_seen_and_driven_mirrored,
    ),
]


@pytest.mark.parametrize("name, plant, test", FAULTS)
def test_a_planted_fault_is_seen(name, plant, test, monkeypatch):
    monkeypatch.setattr(driving, name, plant(getattr(driving, name)))
    with pytest.raises(AssertionError):
        test()


# Lessons ------------------------------------------------------------------------------


def told(act=None, pushed=0.0, n=6, steps=60):
    """Lessons in a world that shows where the car is, what is right and how far."""
    world = driving.driving()
    world = world._replace(
        observe=lambda s: jnp.concatenate([s.pose, driving.pursue(s), s.along[None]])
    )
    run = functools.partial(imitation.lessons, world, driving.pursue, act=act)
    return jax.jit(lambda key: run(key, n, steps, pushed=pushed))(jax.random.key(0))


def leads(seen, action):
    """Which steps [T - 1, N] an action, as it is told, leads to what is seen next."""
    way = jax.vmap(jax.vmap(driving.moved))(seen[:-1, :, :3], jnp.asarray(action[:-1]))
    return np.abs(np.asarray(way) - seen[1:, :, :3]).max(-1) < 1e-4


def test_lessons_are_what_the_teacher_does_and_says():
    seen, action = map(np.asarray, told())
    np.testing.assert_allclose(seen[..., 3], action[..., 0])
    assert leads(seen, action[..., 0]).all()


def test_a_push_lasts_and_the_teacher_says_the_way_back():
    seen, action = map(np.asarray, told(pushed=0.5, steps=160))
    np.testing.assert_allclose(seen[..., 3], action[..., 0])
    fresh = seen[1:, :, 4] == 0  # another road
    right = (leads(seen, action[..., 0]) | fresh).all(0)
    np.testing.assert_array_equal(right, [False] * 3 + [True] * 3)
    when, how = imitation.pushes(jax.random.key(0), 83, 400, 0.5)
    assert when.shape == how.shape == (83, 400, 1)
    blocks = np.asarray(jnp.where(when, how, 0))[:80].reshape(10, imitation.HOLD, 400)
    assert (blocks == blocks[:, :1]).all()
    assert blocks[:, 0, :200].any() and not blocks[..., 200:].any()
    assert (blocks[:, 0, :200] != 0).mean() == pytest.approx(0.25, abs=0.04)


def test_a_learner_drives_and_is_told_what_was_right():
    seen, action = map(np.asarray, told(act=lambda seen: 0 * seen[:, :1] + 0.05))
    np.testing.assert_allclose(seen[..., 3], action[..., 0])
    own = leads(seen, 0 * action[..., 0] + 0.05)
    fresh = seen[1:, :, 4] == 0  # it leaves the road, and begins another
    assert (own | fresh).all() and fresh.sum() > 3


# What is refused ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "action, message",
    [
        ([1.5], r"expected steering in \[-1, 1\] in driving, found 1.5"),
        ([-7.0], r"expected steering in \[-1, 1\] in driving, found -7"),
        (0.5, r"expected an action of shape \(1,\) for driving, found shape \(\)"),
        ([math.nan], "expected a finite action of driving"),
    ],
)
def test_what_is_no_steering_is_refused(action, message):
    with pytest.raises(UsageError, match=message):
        driving.driving().step(straight(), jnp.asarray(action), jax.random.key(0))


def test_steering_out_of_range_is_clipped_where_it_is_traced():
    world, key = driving.driving(), jax.random.key(0)
    step = jax.jit(world.step)
    found = step(straight(), jnp.array([9.0]), key)
    most = step(straight(), jnp.array([1.0]), key)
    np.testing.assert_array_equal(found.state.pose, most.state.pose)


def test_an_image_of_another_size_is_refused():
    network = imitation.Driver((SIZE, SIZE, 1))
    message = r"expected images \[B, 24, 24, 1\], found shape \(2, 32, 32, 1\)"
    with pytest.raises(UsageError, match=message):
        network.init(jax.random.key(0), jnp.zeros((2, 32, 32, 1)))
    with pytest.raises(UsageError, match="expected floating-point inputs"):
        network.init(jax.random.key(0), jnp.zeros((2, SIZE, SIZE, 1), "uint8"))


def test_other_numbers_are_refused():
    with pytest.raises(UsageError, match="unknown view 'rais'; did you mean 'rays'"):
        driving.driving("rais")
    with pytest.raises(UsageError, match="expected frames between 1"):
        driving.several(driving.driving(), 0)
    world = environments.pendulum()
    for more, message in (
        ({"n": 0, "steps": 3}, "expected n between 1"),
        ({"n": 2, "steps": 0}, "expected steps between 1"),
        ({"n": 2, "steps": 3, "pushed": 2}, r"expected a share pushed in \[0, 1\]"),
    ):
        with pytest.raises(UsageError, match=message):
            imitation.lessons(world, driving.pursue, jax.random.key(0), **more)


def test_an_episode_can_be_recorded():
    world = driving.driving("image")
    seen = jax.jit(
        lambda key: rollouts.recorded(world, lambda x: 0 * x[:, 0, :1, 0], key)
    )(jax.random.key(0))
    assert seen.observation.shape == (world.limit, SIZE, SIZE, 1)
