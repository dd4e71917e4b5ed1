"""What is continued, what is refused, and what an ending leaves."""

import signal
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.test_checkpoint import listing
from train import checkpoint, loop, optim
from train.disk import files, origin
from train.source import augmented, examples
from zoo import linear, mlp, supervised
from zoo.base import Aux, Mean, Task, UsageError


def line(n=24):
    x = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    return {"x": x, "y": (2 * x[:, 0] - x[:, 1] + 0.5).astype(np.float32)}


def fit(folder=None, rows=None, size=4, augment=None, **options):
    options = {
        "task": linear.regression(),
        "optimizer": optim.optimizer("adam", 0.1),
        "source": augmented(examples(rows or line(), size), augment),
        "steps": 20,
        "progress": False,
        "checkpoints": folder,
        **options,
    }
    return loop.fit(**options)


def assert_equal(one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)


def resealed(directory, change):
    """As if the newest state were of another training; what it is said to be of."""
    path = max(directory.glob("step_*/SEAL.json"))
    about = files.read_sealed(path)
    origin = None if change is None else {**about["origin"], **change}
    files.write_sealed(path, about | {"origin": origin})
    return origin


def test_states_are_continued_only_if_asked(tmp_path):
    fit(tmp_path, steps=10)
    before = listing(tmp_path)
    with pytest.raises(UsageError, match="step 10: resume=True.*another directory"):
        fit(tmp_path)
    assert listing(tmp_path) == before
    assert_equal(fit(tmp_path, resume=True).state, fit().state)


def test_resume_of_an_empty_directory_starts_afresh(tmp_path):
    assert_equal(fit(tmp_path, resume=True).state, fit().state)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A training's folder after ten steps, which every refusal must leave as it is."""
    folder = tmp_path_factory.mktemp("begun")
    fit(folder, steps=10)
    return folder, listing(folder)


def shifted(key, batch):
    return batch | {"x": batch["x"] + 1}


OTHERS = {
    "another seed: 0, now 4": {"seed": 4},
    "another number of training examples: 24, now 25": {"rows": line(25)},
    "other training data": {"rows": line() | {"y": line()["y"] + 1}},
    "another batch size: 4, now 8": {"size": 8},
    "another number of parts of a batch: 1, now 2": {"accumulate": 2},
    "another averaging decay: None, now 0.9": {"ema": 0.9},
    "another use of patience: False, now True": {"patience": 2, "evaluation": line()},
    "another optimizer or schedule": {"optimizer": optim.optimizer("adam", 0.2)},
}
RATES = [
    {"optimizer": optim.optimizer("sgd", 0.1)},
    {"optimizer": optim.optimizer("adam", optim.schedule("cosine", 0.1, 40))},
]
MODELS = [
    {"task": linear.regression(l2=0.1)},
    {"task": supervised.task(mlp.MLP(1, (4,)), supervised.regression)},
    {"augment": shifted},
]


@pytest.mark.parametrize(
    "words, change",
    [
        *OTHERS.items(),
        *(("another optimizer or schedule", change) for change in RATES),
        *(("another model, objective", change) for change in MODELS),
    ],
)
def test_another_training_is_not_continued(begun, words, change):
    folder, before = begun
    with pytest.raises(UsageError, match=f"began with {words}.*another directory"):
        fit(folder, resume=True, **change)
    assert listing(folder) == before


def test_the_same_training_in_other_words_is_continued(tmp_path):
    fit(tmp_path, steps=10)
    task = linear.regression()  # an equal one, made anew
    options = {"log_every": 3, "evaluation": line(40), "eval_every": 7}
    done = fit(tmp_path, steps=20, resume=True, task=task, **options)
    assert_equal(done.state, fit().state)


def test_what_goes_on_is_lowered_once(tmp_path, monkeypatch):
    asked, text = [], origin.text

    def counted(*args):
        asked.append(args)
        return text(*args)

    monkeypatch.setattr(origin, "text", counted)
    fit(tmp_path, steps=10)
    assert len(asked) == 2
    known = resealed(tmp_path, {})
    fit(tmp_path, resume=True)
    assert len(asked) == 3 and resealed(tmp_path, {}) == known
    fit(tmp_path, resume="longer", steps=25, optimizer=optim.optimizer("adam", 0.2))
    longer = resealed(tmp_path, {})
    assert longer.pop("program") != known.pop("program") and longer == known


def test_a_program_is_not_compared_between_compilers(tmp_path):
    fit(tmp_path, steps=10)
    resealed(tmp_path, {"jax": "0.1", "program": "another"})
    with pytest.raises(UsageError, match="another seed"):
        fit(tmp_path, resume=True, seed=1)
    assert_equal(fit(tmp_path, resume=True).state, fit().state)
    assert resealed(tmp_path, {})["jax"] == jax.__version__


def test_states_that_belong_to_nothing_known_are_refused(tmp_path):
    fit(tmp_path, steps=10)
    resealed(tmp_path, None)
    with pytest.raises(UsageError, match="does not say what training"):
        fit(tmp_path, resume=True)


def test_fewer_steps_than_were_trained_are_refused(tmp_path):
    fit(tmp_path, steps=10)
    with pytest.raises(UsageError, match="is at step 10, past the 5 steps asked for"):
        fit(tmp_path, steps=5, resume=True)
    done = fit(tmp_path, steps=10, resume=True)
    assert done.ended == "finished" and int(done.state.step) == 10


def test_a_state_of_other_shapes_is_refused(tmp_path):
    fit(tmp_path, steps=10)
    resealed(tmp_path, {"jax": "0.1"})
    words = r"does not fit this model and.*expected nothing at \[0\]\.optimizer"
    with pytest.raises(UsageError, match=words):
        fit(tmp_path, resume=True, optimizer=optim.optimizer("sgd", 0.1))


def breaking(at):
    """A task that is fine until an update breaks the model state, from then on."""

    def init(key, batch):
        return {"w": jnp.ones(())}, {"seen": jnp.zeros(())}

    def loss(params, state, batch, key, *, train):
        seen = state["seen"] + 1.0
        bad = jnp.where(seen == at, jnp.float32(jnp.inf), 0.0)
        value = params["w"] ** 2
        return value, Aux({"loss": Mean.of(value)}, {"seen": seen + bad})

    return Task(init, loss)


def poisoned(at):
    """An optimizer whose updates from number `at` on are not finite, which it counts
    only where they are applied; loss and gradient are."""

    def update(grads, count, params=None):
        value = jnp.where(count + 1 == at, jnp.inf, -0.1)
        return jax.tree.map(lambda g: value * g, grads), count + 1

    return optax.GradientTransformation(lambda params: jnp.int32(0), update)


@pytest.mark.parametrize("where", ["params", "state"])
@pytest.mark.parametrize("log_every", [1, 4])
def test_updates_that_break_the_last_states_are_no_finish(tmp_path, where, log_every):
    of = {"task": breaking(19), "optimizer": optax.sgd(0.1)}
    of = of if where == "state" else {"optimizer": poisoned(19)}
    options = {"log_every": log_every, "eval_every": log_every, **of}
    words = f"of the steps {20 - log_every} to 20 .*{where}/.* not finite in step 20"
    with pytest.raises(loop.Diverged, match=words):
        fit(tmp_path, **options)
    assert checkpoint.latest(tmp_path) == 20 - log_every


def test_a_state_that_is_not_finite_is_never_saved(tmp_path):
    with pytest.raises(loop.Diverged) as caught:
        fit(tmp_path, optimizer=poisoned(11), save_seconds=0.0, log_every=1)
    left = caught.value.fit
    # an epoch of six steps may skip one: the second is too many
    assert left.ended == "failed" and int(left.state.step) == 11
    assert [record["step"] for record in left.records] == list(range(1, 12))
    good = fit(optimizer=poisoned(99), steps=10).state
    assert_equal(left.state._replace(step=good.step), good)
    assert_equal(left.trained.params, left.state.params)
    assert checkpoint.latest(tmp_path) == 11
    with pytest.raises(loop.Diverged):
        fit(tmp_path, optimizer=poisoned(11), log_every=1, resume=True)


@pytest.mark.contract
def test_states_are_saved_between_two_lines_too(tmp_path, monkeypatch):
    on = loop.Chunks.on  # a step at a time
    monkeypatch.setattr(loop.Chunks, "on", lambda run, now, _: on(run, now, now + 1))

    def fails(state, record):
        if state.step == 13:
            raise ValueError("mine")

    options = {"save_seconds": 0.0, "log_every": 10}
    with pytest.raises(ValueError, match="mine") as caught:
        fit(tmp_path, callbacks=[fails], **options)
    assert int(caught.value.fit.state.step) == 10
    assert checkpoint.latest(tmp_path) == 12
    assert_equal(fit(tmp_path, resume=True, **options).state, fit().state)


def test_a_run_that_diverges_at_once_saves_nothing(tmp_path):
    with pytest.raises(loop.Diverged) as caught:
        fit(tmp_path, optimizer=poisoned(1), log_every=5)
    assert int(caught.value.fit.state.step) == 0
    assert checkpoint.latest(tmp_path) is None


def test_what_is_refused_leaves_no_folder_and_no_lock(tmp_path):
    folder = tmp_path / "deep" / "down"
    nan = line() | {"y": np.full(24, np.nan, np.float32)}
    for wrong in ({"rows": nan}, {"size": 99}, {"size": 4, "accumulate": 3}):
        with pytest.raises(UsageError):
            fit(folder, **wrong)
        assert not folder.parent.exists()
    fit(folder, steps=10)
    (folder / ".lock").unlink()  # as where it was copied
    before = sorted(folder.rglob("*"))
    for wrong in ({}, {"resume": True, "seed": 1}):
        with pytest.raises(UsageError):
            fit(folder, **wrong)
        assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_of_a_callback_loses_no_more_than_its_line(tmp_path, error):
    records = []

    def fails(state, record):
        if record and record["step"] == 7:
            raise error("mine")

    def keep(state, record):
        if record:
            records.append(record)

    options = {"evaluation": line(), "eval_every": 1, "log_every": 1, "patience": 50}
    with pytest.raises(error, match="mine") as caught:
        fit(tmp_path, callbacks=[fails], **options)
    left = caught.value.fit
    assert left.ended == ("failed" if error is ValueError else "interrupted")
    assert len(left.records) == 6 and int(left.state.step) == 6
    assert checkpoint.latest(tmp_path) == 6
    done = fit(tmp_path, resume=True, callbacks=[keep], **options)
    assert [record["step"] for record in records] == list(range(7, 21))
    whole = fit(**options)
    assert_equal((done.state, done.trained), (whole.state, whole.trained))


def test_an_error_without_checkpoints_carries_what_was_reached():
    def fails(state, record):
        if record and record["step"] == 8:
            raise ValueError("mine")

    with pytest.raises(ValueError) as caught:
        fit(callbacks=[fails])
    assert_equal(caught.value.fit.state, fit(steps=7).state)


def test_ctrl_c_twice_leaves_the_last_line(tmp_path):
    def press(state, record):
        if record and record["step"] == 5:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        fit(tmp_path, callbacks=[press], log_every=1)
    assert caught.value.fit.ended == "interrupted"
    assert checkpoint.latest(tmp_path) == 4
    assert_equal(fit(tmp_path, resume=True).state, fit().state)


def test_a_full_disk_at_the_end_loses_nothing_to_python(tmp_path, monkeypatch):
    def full(self):
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint.Checkpoints, "_check_space", full)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UsageError, match="step 20 was not saved") as caught:
            fit(tmp_path)
    assert_equal(caught.value.fit.state, fit().state)


# More steps, and other beginnings -----------------------------------------------------


def cosine(steps):
    return optim.optimizer("adam", optim.schedule("cosine", 0.1, steps))


@pytest.mark.parametrize("at", [4, 10])  # unfinished, and finished
def test_a_training_goes_on_to_more_steps_by_another_schedule(tmp_path, at):
    fit(tmp_path, steps=at, optimizer=cosine(10))
    longer = {"steps": 20, "optimizer": cosine(20)}
    with pytest.raises(UsageError, match='optimizer or schedule; resume="longer" goes'):
        fit(tmp_path, resume=True, **longer)
    done = fit(tmp_path, resume="longer", **longer)
    assert done.ended == "finished" and int(done.state.step) == 20
    begin = fit(steps=at, optimizer=cosine(10)).state
    source = examples(line(), 4)
    *_, (state, _) = loop.training(
        linear.regression(), source=source, begin=begin, **longer
    )
    assert_equal(done.state, state)
    assert_equal(fit(tmp_path, resume=True, **longer).state, state)  # it is of that now


@pytest.mark.parametrize(
    "words, change",
    [*list(OTHERS.items())[:-1], *(("another model", m) for m in MODELS)],
)
def test_all_else_must_be_equal_of_a_longer_training(begun, words, change):
    folder, before = begun
    with pytest.raises(UsageError, match=f"began with {words}"):
        fit(folder, resume="longer", steps=30, **change)
    assert listing(folder) == before


def test_other_parameters_to_begin_with_are_another_training(tmp_path):
    init = fit(steps=3).trained
    whole = fit(init=init)
    fit(tmp_path, steps=10, init=init)
    for other in (None, init.params, fit(steps=4).trained):
        with pytest.raises(UsageError, match="began with other parameters"):
            fit(tmp_path, resume=True, init=other)
    assert_equal(fit(tmp_path, resume=True, init=init).state, whole.state)
