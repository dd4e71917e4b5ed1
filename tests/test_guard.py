"""A step that is whole or not at all; what is told of it, and when it is too much."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.conftest import quick, small
from tests.test_contract import (
    assert_close,
    assert_different,
    assert_equal,
    batch_of,
    start,
)
from tests.test_resume import line, poisoned
from train import loop, mesh, optim
from train import step as one
from train.guard import SMALL, Skipped, Tally, finite, guarded
from train.source import Source, examples, full
from zoo import linear
from zoo.base import Aux, Mean, Task

TASK = linear.regression()
STEPS = 24  # four epochs of six steps


def spiked(n=24):
    """Rows of which the prediction of one has no finite square."""
    rows = line(n)
    rows["x"][7] = 1e25
    return rows


def optimizer():
    return optim.optimizer("adam", optim.schedule("cosine", 0.1, STEPS))


def fit(folder=None, rows=None, size=4, task=TASK, update=None, **options):
    source = examples(spiked() if rows is None else rows, size)
    options = {"steps": STEPS, "log_every": 4, "ema": 0.9, **options}
    options |= {"checkpoints": folder, "progress": False}
    return loop.fit(task, update or optimizer(), source, **options)


@pytest.fixture(scope="module")
def whole():
    return fit()


def assert_counted(found, count=4):
    assert sum(record.get("skipped", 0) for record in found.records) == count
    assert all(record.get("skipped", 1) for record in found.records)  # no line of 0
    finite = jax.tree.map(lambda a: np.isfinite(a).all(), found.trained)
    assert jax.tree.all(finite) and int(found.state.step) == STEPS


def test_a_row_without_a_finite_loss_is_left_out_batch_by_batch(whole):
    """As in a loop of Python that forgets each step whose numbers are not finite."""
    assert_counted(whole)
    source = examples(spiked(), 4)
    step = jax.jit(one.make_step(TASK, optimizer(), ema=0.9))
    batch = jax.jit(source.batch)
    state, _ = loop.start(TASK, optimizer(), source, average=True)
    skipped = []
    for t in range(STEPS):
        new, _ = step(state, batch(source.arrays, state.seed, np.int32(t)))
        if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(new.params)):
            state = new
        else:
            skipped.append(t // 6)
            state = state._replace(step=state.step + 1)
    assert skipped == [0, 1, 2, 3]
    assert_close(whole.state, state)


def test_a_schedule_waits_where_a_step_is_skipped(whole):
    counts = [int(a) for a in jax.tree.leaves(whole.state.optimizer) if a.ndim == 0]
    assert counts == [STEPS - 4, STEPS - 4]  # of Adam, and of the schedule


def test_what_is_resumed_among_skipped_steps_is_bit_equal(whole, tmp_path):
    fit(tmp_path, steps=10)
    again = fit(tmp_path, resume=True)
    assert_equal(again.state, whole.state)
    assert_equal(again.trained, whole.trained)


@pytest.mark.parametrize("how", quick(["accumulate", "microbatch", "mesh"], "mesh"))
def test_a_part_that_is_not_finite_leaves_out_the_whole_step(whole, how):
    found = fit(**{how: mesh.data_parallel(2) if how == "mesh" else 2})
    assert_counted(found)
    assert_close(jax.device_get(found.state), whole.state)


def players():
    """Two of them, with what a state may hold: counts, keys, statistics, a target."""

    def init(key, batch):
        params = {"generator": jnp.ones(2), "discriminator": jnp.ones(2)}
        state = {"seen": jnp.int32(0), "mean": jnp.zeros(2), "target": jnp.zeros(2)}
        return params, {**state, "key": key}

    def loss(params, state, batch, key, *, train):
        x, maker = batch["x"], params["generator"]
        value = jnp.square(x @ maker).mean() + (x @ params["discriminator"]).mean()
        state = {
            "seen": state["seen"] + 1,
            "mean": 0.9 * state["mean"] + x.mean(0),
            "target": maker,
            "key": key,
        }
        return value, Aux({"loss": Mean.of(value)}, state)

    return Task(init, loss)


def test_what_is_not_finite_is_named_among_small_and_large_arrays():
    shapes = (), (3,), (SMALL,), (SMALL + 1,), (40, 40)
    arrays = [jnp.zeros(shape) for shape in shapes]
    look = jax.jit(finite)
    assert bool(look(arrays)[0])
    for i, shape in enumerate(shapes):
        for bad in (jnp.nan, -jnp.inf):
            wrong = np.zeros(shape, np.float32)
            wrong[(-1,) * wrong.ndim] = bad  # the last of it
            fine, what = look([*arrays[:i], jnp.array(wrong), *arrays[i + 1 :]])
            assert not fine and what == i
    fine, what = look([arrays[4], arrays[4].at[1, 2].set(jnp.nan)])  # none is small
    assert not fine and what == 1


def test_all_of_a_state_stays_but_for_its_number():
    rate = optim.schedule("cosine", 0.1, 10)
    update = optim.adversaries(optim.optimizer("adam", rate), critic_steps=2)
    good, key = {"x": jnp.ones((4, 2))}, jax.random.key_data
    bad = {"x": jnp.ones((4, 2)).at[1].set(jnp.inf)}
    plain = jax.jit(one.make_step(players(), update, ema=0.5))
    step = jax.jit(guarded(one.make_step(players(), update, ema=0.5)))
    first = one.init(players(), update, 0, good, average=True)
    second, metrics = step(first, good)
    assert_close(leaves(second), leaves(plain(first, good)[0]))
    assert [int(n) for n in metrics["skipped"]] == [0, 0, 0, 1, 0]
    left, metrics = step(second, bad)
    assert_equal(leaves(left._replace(step=second.step)), leaves(second))
    assert int(left.step) == 2
    assert metrics["loss"].count == metrics["grad_norm"].count == 0
    assert [int(n) for n in metrics["skipped"]] == [1, 1, 1, 2, 0]
    # the players' turns and the schedule go on as if it had not been; noise does not
    after, straight = step(left, good)[0], step(second, good)[0]
    assert_equal(after.params, straight.params)
    assert_equal(after.optimizer, straight.optimizer)
    assert not np.array_equal(key(after.model["key"]), key(straight.model["key"]))


def leaves(tree):
    """The arrays of a tree, of keys their data."""
    data = jax.random.key_data
    keys = jax.dtypes.prng_key
    return [
        data(a) if jnp.issubdtype(a.dtype, keys) else a for a in jax.tree.leaves(tree)
    ]


def breaking(when):
    """`make_step` whose parameters are NaN after the steps that when(number) says."""
    make = one.make_step

    def broken(*args, **how):
        step = make(*args, **how)

        def sometimes(state, batch):
            new, metrics = step(state, batch)
            hurt = jnp.where(when(new.step), jnp.nan, 0)
            params = jax.tree.map(lambda a: (a + hurt).astype(a.dtype), new.params)
            return new._replace(params=params), metrics

        return sometimes

    return broken


@pytest.mark.contract
@pytest.mark.parametrize("name", ["dcgan", "ppo", "dqn"])
def test_players_worlds_memories_and_statistics_are_kept(name):
    recipe = small(name)
    batch = batch_of(recipe)
    state = start(recipe, batch=batch)
    step = breaking(lambda number: number == 2)(recipe.task, recipe.optimizer)
    step = jax.jit(guarded(step))
    second = step(state, batch)[0]
    left, metrics = step(second, batch)
    assert int(metrics["skipped"].count) == 1
    if name == "dqn":  # what was played is remembered
        memory = left.model.memory
        assert_different(memory, second.model.memory)
        played = left.model._replace(memory=second.model.memory)
        left = left._replace(model=played)
    assert_equal(left._replace(step=second.step), second)
    assert int(step(left, batch)[1]["skipped"].count) == 0


# What is told -------------------------------------------------------------------------


def test_skipped_steps_are_counted_in_order():
    def at(step, bad):
        return Skipped(bad, bad, bad, step, 5)

    total = Skipped(0, 0, 0, 0, 0)
    for step, bad in enumerate([0, 1, 1, 1, 0, 1, 1, 0], 1):
        total += at(step, bad)
    assert [int(n) for n in total] == [5, 0, 3, 7, 5]
    total = total._replace(row=2)
    assert int((total + at(9, 1)).row) == 3


@pytest.mark.parametrize(
    "size, rows, lines, why",
    [
        (24, 2400, [(0, 100, 1), (100, 200, 1)], ""),
        (24, 2400, [(0, 50, 1), (50, 100, 1)], "1 % of the 100 steps"),
        (24, 2400, [(0, 200, 2)], ""),  # may be one in each of two epochs
        (1, 1000, [(0, 990, 10)], ""),
        (1, 1000, [(0, 500, 6), (500, 1000, 5)], "1 % of the 1000 steps"),
        (5, 24, [(0, 15, 4)], ""),
        (5, 24, [(0, 15, 5)], "1 % of the 5 steps"),
        (8, 8, [(0, 40, 19)], ""),
        (8, 8, [(0, 40, 20)], "20 of them in a row"),
        (8, None, [(0, 900, 10)], ""),
        (8, None, [(0, 900, 11)], "1 % of the 1000 steps"),
        (8, 8, [(0, 5000, 1)], ""),
        (8, 8, [(0, 5000, 2)], "the last among them"),
    ],
)
def test_so_many_are_too_many(size, rows, lines, why):
    source = Source(None, lambda *args: {}, size, rows, lambda arrays: ())
    tally = Tally(source, 0, 5000)

    def see(since, now, count):
        tally.see(since, now, Skipped(count, count, count, now, 0), "the loss")

    *before, last = lines
    for line_ in before:
        see(*line_)
    if not why:
        return see(*last)
    with pytest.raises(loop.Diverged, match=f"{why}.*: the loss is not finite"):
        see(*last)


def test_a_training_of_one_step_that_is_skipped_has_failed():
    with pytest.raises(loop.Diverged, match="1 of the steps 0 to 1 were skipped"):
        fit(update=poisoned(1), rows=line(), steps=1)


def test_steps_in_a_row_are_counted_over_lines(tmp_path):
    words = "20 of them in a row: params/dense/bias is not finite in step 24"
    more = {"rows": line(), "size": None, "steps": 60, "log_every": 3}
    with pytest.raises(loop.Diverged, match=words) as caught:
        fit(tmp_path, update=poisoned(5), **more)
    left = caught.value.fit
    assert int(left.state.step) == 21 and len(left.records) == 7
    assert_equal(left.trained, fit(**{**more, "steps": 4}, update=poisoned(99)).trained)
    with pytest.raises(loop.Diverged, match="21 of them in a row"):  # steps 22 to 42
        fit(tmp_path, update=poisoned(5), resume=True, **more)


def scalar(loss, begin):
    """A task whose loss is a function of one parameter."""

    def of(params, state, batch, key, *, train):
        value = loss(params["w"])
        return value, Aux({"loss": Mean.of(value)}, state)

    return Task(lambda key, batch: ({"w": jnp.float32(begin)}, {}), of)


FAULTS = {
    "log": (jnp.log, 1.0, "the loss is not finite in step 3: NaN of log"),
    "exp": (jnp.exp, 100.0, "the loss is not finite in step 1: infinity of exp"),
    "sqrt": (jnp.sqrt, 0.0, "the gradient is not finite in step 1: infinity of "),
}


@pytest.mark.parametrize("name", quick([*FAULTS], "log"))
def test_a_fault_is_looked_for_by_step_and_operation(name):
    loss, begin, words = FAULTS[name]
    options = {"update": optax.sgd(0.6), "rows": line(), "steps": 5}
    with pytest.raises(loop.Diverged, match=words):
        fit(task=scalar(loss, begin), debug_nans=True, **options)


@pytest.mark.contract
def test_without_a_fault_steps_are_the_same_one_by_one():
    source = full(line())
    one_by_one, plain = (
        loop.fit(TASK, optimizer(), source, steps=6, progress=False, debug_nans=debug)
        for debug in (True, False)
    )
    assert_equal(one_by_one.state, plain.state)


def test_a_run_says_how_many_steps_it_skipped(zoo, monkeypatch):
    monkeypatch.setattr(one, "make_step", breaking(lambda number: number == 7))
    command = "train linear --optimizer sgd --learning-rate 0.1 --steps 40 --out run"
    status, said, _ = zoo(command)
    assert status == 0 and "skipped 1 " in said and "40 steps (1 skipped)" in said
    status, _, error = zoo(f"{command}-2 --debug-nans")
    assert status == 2 and "is not finite in step 7" in error
    assert "7: NaN of add; of the good states" in error
    assert error.count("\n") == 1
