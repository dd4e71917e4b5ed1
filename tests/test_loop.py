"""The loop: order, modes, evaluation, stopping, averaging, failures."""

import math
import threading
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train import loop, mesh, optim
from train.evaluate import evaluate, predict
from train.source import augmented, examples, full
from zoo import linear, mlp, rnn, supervised
from zoo.base import Aux, Mean, Task, UsageError


def line(n=24):
    """y = 2 x1 - x2 + 0.5, exactly."""
    x = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    return {"x": x, "y": (2 * x[:, 0] - x[:, 1] + 0.5).astype(np.float32)}


def fit(data=None, optimizer=None, size=None, augment=None, **options):
    options = {"steps": 50, "progress": False, **options}
    optimizer = optimizer or optim.optimizer("sgd", 0.1)
    source = augmented(examples(data or line(), size), augment)
    return loop.fit(linear.regression(), optimizer, source, **options)


@pytest.mark.parametrize("batch_size", [None, 24, 5, 1])
@pytest.mark.parametrize("name", ["sgd", "adam", "lbfgs"])
def test_every_mode_finds_the_line(batch_size, name):
    if name == "lbfgs" and batch_size not in (None, 24):
        pytest.skip("a line search wants the full batch")
    rate = None if name == "lbfgs" else 0.05
    result = fit(optimizer=optim.optimizer(name, rate), size=batch_size, steps=900)
    dense = result.trained.params["dense"]
    np.testing.assert_allclose(dense["kernel"][:, 0], [2, -1], atol=1e-3)
    np.testing.assert_allclose(dense["bias"], [0.5], atol=1e-3)
    assert int(result.state.step) == 900


def recorder(n):
    """A task that counts in its state how often each example was seen."""

    def init(key, batch):
        return {"w": jnp.zeros(())}, {"seen": jnp.zeros(n), "first": jnp.zeros(n)}

    def loss(params, state, batch, key, *, train):
        seen = state["seen"].at[batch["x"][:, 0].astype(int)].add(1.0)
        first = jnp.where(
            (seen == 1) & (state["first"] == 0), seen.sum(), state["first"]
        )
        value = params["w"] ** 2
        return value, Aux({"loss": Mean.of(value)}, {"seen": seen, "first": first})

    return Task(init, loss)


@pytest.mark.parametrize("n, batch_size", [(10, 4), (10, 10), (7, 1), (3, 2)])
def test_each_example_is_drawn_once_before_any_is_drawn_again(n, batch_size):
    rows = {"x": np.arange(n, dtype=np.float32)[:, None]}
    epochs = 4
    for steps in range(1, epochs * n // batch_size + 1):
        if steps % 3:  # some lengths are enough
            continue
        state = loop.fit(
            recorder(n),
            optax.sgd(0.1),
            examples(rows, batch_size),
            steps=steps,
            log_every=5,
            progress=False,
        ).state
        seen = state.model["seen"]
        assert seen.sum() == steps * batch_size
        assert seen.max() - seen.min() <= 1


def test_a_dict_of_arrays_is_no_source():
    with pytest.raises(
        UsageError, match=r"found dict: source.examples\(arrays, size\)"
    ):
        loop.fit(linear.regression(), optim.optimizer("sgd", 0.1), line(), steps=1)


def test_evaluation_counts_every_example_once():
    data = line(23)
    state = fit(data, steps=3).state
    x, y = data["x"], data["y"]
    dense = state.params["dense"]
    error = x @ dense["kernel"][:, 0] + dense["bias"] - y
    for size in (1, 4, 23, 500):
        scores = evaluate(linear.regression(), state, data, batch_size=size)
        assert scores["loss"] == pytest.approx(float(np.mean(error**2)), rel=1e-5)
        values = predict(linear.regression(), state, x, batch_size=size)
        np.testing.assert_allclose(values[:, 0], y + error, rtol=1e-4, atol=1e-6)


def test_a_record_has_no_number_of_what_was_not_counted():
    def rare(params, state, batch, key, *, train):
        """Counted in every other step, as episodes that end."""
        own = Mean(state["t"], state["t"] % 2)
        metrics = {"loss": Mean.of(params["w"] ** 2), "return": own}
        return params["w"] ** 2, Aux(metrics, {"t": state["t"] + 1})

    task = Task(lambda key, batch: ({"w": jnp.ones(())}, {"t": jnp.ones(())}), rare)
    options = {"steps": 3, "log_every": 1, "progress": False}
    records = loop.fit(task, optax.sgd(0.1), examples(line(), 4), **options).records
    assert [record.get("return") for record in records] == [1, None, 3]


def test_records_hold_what_happened():
    seen = []
    result = fit(
        steps=10,
        log_every=4,
        eval_every=5,
        evaluation=line(),
        callbacks=[lambda state, record: record and seen.append(record)],
    )
    assert seen == result.records
    assert [record["step"] for record in seen] == [4, 5, 8, 10]
    assert ["eval_loss" in record for record in seen] == [False, True, False, True]
    losses = [record["loss"] for record in seen]
    assert losses == sorted(losses, reverse=True)


def test_records_name_what_was_evaluated():
    last = fit(steps=4, evaluation=line(), evaluated="test").records[-1]
    assert "test_loss" in last and "eval_loss" not in last


def test_early_stopping_returns_the_best_parameters():
    noise = line()
    noise["y"] = np.random.default_rng(1).normal(size=24).astype(np.float32)
    task = supervised.task(mlp.MLP(1, (64,)), supervised.regression)
    result = loop.fit(
        task,
        optim.optimizer("adam", 0.02),
        examples(noise, None),
        steps=2000,
        evaluation=line(40),
        patience=3,
        eval_every=10,
        progress=False,
    )
    losses = [r["eval_loss"] for r in result.records if "eval_loss" in r]
    assert result.ended == "early"
    assert int(np.argmin(losses)) == len(losses) - 4
    found = evaluate(task, result.trained, line(40))["loss"]
    assert found == pytest.approx(min(losses), rel=1e-6)


def test_averages_are_what_is_predicted_with():
    plain = fit(steps=30)
    averaged = fit(steps=30, ema=0.9)
    jax.tree.map(
        np.testing.assert_array_equal, averaged.trained, averaged.state.average
    )
    jax.tree.map(np.testing.assert_array_equal, plain.state.params, plain.trained[0])
    assert averaged.trained[0]["dense"]["bias"] != plain.trained[0]["dense"]["bias"]
    with pytest.raises(UsageError, match="averaging decay"):
        fit(ema=1.0)


def test_batch_statistics_are_averaged_with_the_parameters():
    task = supervised.task(mlp.MLP(1, (8,), batch_norm=True), supervised.regression)
    means = []
    result = loop.fit(
        task,
        optim.optimizer("sgd", 0.05),
        examples(line(), 8),
        steps=4,
        ema=0.9,
        log_every=1,
        evaluation=line(),
        eval_every=1,
        callbacks=[lambda state, record: means.append(loop.trained(state).model)],
        progress=False,
    )
    raw = jax.tree.leaves(result.state.model)
    average = jax.tree.leaves(result.trained.model)
    assert any(np.any(a != b) for a, b in zip(raw, average, strict=True))
    # what a callback keeps is its own: still there, and not the same
    firsts = [float(jax.tree.leaves(model)[0].sum()) for model in means]
    assert len(set(firsts)) == 5


def test_what_a_training_leaves_shares_no_buffer():
    result = fit(steps=5, ema=0.9)
    seen = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(result.state)]
    seen += [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(result.trained)]
    assert len(set(seen)) == len(seen)
    jax.jit(lambda s: jax.tree.map(lambda a: a + 1, s), donate_argnums=0)(result.state)
    assert np.isfinite(result.trained.params["dense"]["bias"]).all()


def test_augmentation_changes_training_batches_alone():
    def shift(key, batch):
        return batch | {"y": batch["y"] + 1}

    result = fit(steps=600, augment=shift, evaluation=line())
    assert result.trained.params["dense"]["bias"][0] == pytest.approx(1.5, abs=1e-3)
    assert result.records[-1]["loss"] < 1e-6
    assert result.records[-1]["eval_loss"] == pytest.approx(1.0, abs=1e-3)


def test_divergence_raises_and_names_the_steps():
    with pytest.raises(loop.Diverged, match=r"steps \d+ to \d+.*learning rate"):
        fit(optimizer=optim.optimizer("sgd", 1e6), steps=200)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"steps": 0}, "steps"),
        ({"steps": 2.5}, "whole number"),
        ({"size": 25}, "larger than the 24"),
        ({"size": 0}, "size"),
        ({"seed": 2**40}, "seed"),
        ({"seed": -1}, "seed"),
        ({"patience": 2}, "patience"),
        ({"log_every": 0}, "log_every"),
        ({"eval_every": 0, "evaluation": line()}, "eval_every"),
        ({"resume": True}, "checkpoints"),
        ({"accumulate": 5}, "24 does not divide into 5 parts"),
        ({"data": {"x": np.zeros((0, 2), np.float32)}}, "empty"),
        ({"data": {"y": np.zeros(3)}}, '"x"'),
        ({"data": line() | {"y": line()["y"][:5]}}, "24 entries in 'y'"),
        ({"data": line() | {"y": line()["y"] * np.nan}}, "24 NaN"),
        ({"evaluation": {"x": np.full((2, 2), np.inf)}}, "evaluation data"),
        ({"data": line() | {"x": line()["x"].astype(int)}}, "floating"),
        ({"data": line() | {"y": np.zeros((24, 3), np.float32)}}, "shape"),
    ],
)
def test_mistakes_are_found_before_compiling(change, words):
    with pytest.raises(UsageError, match=words):
        fit(**change)


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_range_are_found(label):
    data = {"x": line()["x"], "y": np.array([0, 1, 2] * 8, np.int32)}
    data["y"][5] = label
    with pytest.raises(UsageError, match=f"found {label} in example 5"):
        loop.fit(linear.softmax(3), optax.sgd(0.1), full(data), steps=1, progress=False)


@pytest.mark.parametrize("token", [-1, 5, 1000])
def test_tokens_outside_the_vocabulary_are_found(token):
    model = rnn.LanguageModel(5, rnn.RNN(rnn.GRU, 4), width=3)
    task = supervised.task(model, supervised.classes)
    x = np.arange(40).reshape(8, 5) % 5
    y = np.roll(x, 1, 1).astype(np.int32)
    wrong = x.astype(np.int32)
    wrong[3, 2] = token
    with pytest.raises(UsageError, match=f"found {token} in example 3"):
        rows = full({"x": wrong, "y": y})
        loop.fit(task, optax.sgd(0.1), rows, steps=1, progress=False)
    rows = full({"x": x, "y": y})
    loop.fit(task, optax.sgd(0.1), rows, steps=1, progress=False)


def test_fit_runs_outside_the_main_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(fit(steps=5)))
    thread.start()
    thread.join()
    assert int(results[0].state.step) == 5


def test_meshes_are_checked():
    with pytest.raises(UsageError, match="1 to 2 devices"):
        mesh.data_parallel(3)
    with pytest.raises(UsageError, match="does not divide"):
        fit(size=5, mesh=mesh.data_parallel(2))
    assert mesh.data_parallel().size == 2


def test_plain_output_is_lines(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(steps=40, size=8, progress=True, evaluation=line())
    lines = capsys.readouterr().out.splitlines()
    assert 18 <= len(lines) <= 22
    assert lines[-1].startswith("step 40/40  loss ")
    assert "eval_loss" in lines[-1] and lines[-1].endswith("examples/s")


def test_examples_per_second_are_finite():
    assert all(math.isfinite(r["examples_per_second"]) for r in fit().records)


# The generator, and its consumers -----------------------------------------------------


def test_a_training_is_consumed_by_hand():
    source = examples(line(), 8)
    run = loop.training(
        linear.regression(), optim.optimizer("sgd", 0.1), source, steps=20, log_every=6
    )
    state, record = next(run)
    assert (int(state.step), record) == (0, None)  # checked and compiled
    time.sleep(1)
    events, seconds = [], []
    for state, record in run:
        events.append((int(state.step), record and record["step"]))
        seconds += [record["seconds"]] if record else []
    lines = [step for _, step in events if step]
    assert lines == [6, 12, 18, 20]
    assert [step for step, _ in events] == sorted(step for step, _ in events)
    assert 0 < seconds[0] and seconds[-1] < 1  # neither compiling nor waiting
    # one and the same as fit
    *_, (state, record) = loop.training(
        linear.regression(), optim.optimizer("sgd", 0.1), source, steps=20
    )
    alone = fit(size=8, steps=20)
    jax.tree.map(np.testing.assert_array_equal, loop.trained(state), alone.trained)
    assert record["loss"] == alone.records[-1]["loss"]


def test_a_training_by_hand_goes_on_from_a_state():
    task, optimizer = linear.regression(), optim.optimizer("adam", 0.1)
    source = examples(line(), 5)
    whole = fit(optimizer=optimizer, size=5, steps=20, seed=3)
    half = fit(optimizer=optimizer, size=5, steps=9, seed=3).state
    *_, (state, _) = loop.training(task, optimizer, source, steps=20, begin=half)
    jax.tree.map(np.testing.assert_array_equal, state, whole.state)
    assert int(half.step) == 9  # left alone


def test_states_are_donated_to_the_next_chunk():
    seen = []
    fit(steps=4, log_every=1, callbacks=[lambda state, record: seen.append(state)])
    assert [leaf.is_deleted() for leaf in map(lambda s: s.step, seen)] == [True] * 4 + [
        False
    ]


@pytest.mark.parametrize("at", [0, 8, 20])
def test_a_callback_of_three_lines_stops_and_loses_nothing(tmp_path, at):
    def stop(state, record):
        if state.step == at:
            return True

    options = {"size": 5, "steps": 20, "log_every": 4}
    left = fit(checkpoints=tmp_path, callbacks=[stop], **options)
    assert left.ended == ("finished" if at == 20 else "stopped")
    assert [record["step"] for record in left.records] == list(range(4, at + 1, 4))
    assert int(left.state.step) == at
    done = fit(checkpoints=tmp_path, resume=True, **options)
    jax.tree.map(np.testing.assert_array_equal, done.state, fit(**options).state)


def test_a_callback_may_stop_between_two_lines(tmp_path, monkeypatch):
    on = loop.Chunks.on  # a step at a time
    monkeypatch.setattr(loop.Chunks, "on", lambda run, now, _: on(run, now, now + 1))
    seen = []

    def stop(state, record):
        seen.append((int(state.step), record is None))
        return state.step == 7

    options = {"size": 5, "steps": 20, "log_every": 5}
    left = fit(checkpoints=tmp_path, callbacks=[stop], **options)
    assert left.ended == "stopped" and int(left.state.step) == 7
    assert [record["step"] for record in left.records] == [5, 7]
    assert seen == [(0, True), *((t, t != 5) for t in range(1, 8)), (7, False)]
    done = fit(checkpoints=tmp_path, resume=True, **options)
    jax.tree.map(np.testing.assert_array_equal, done.state, fit(**options).state)


# What is begun with -------------------------------------------------------------------


def network(outputs=1, batch_norm=False):
    return supervised.task(
        mlp.MLP(outputs, (6,), batch_norm=batch_norm), supervised.regression
    )


def begun(task, **options):
    """The first state, in which nothing has been learned."""
    run = loop.training(task, optax.sgd(0.1), full(line()), steps=1, **options)
    return jax.tree.map(jnp.copy, next(run)[0])


def test_a_training_begins_with_what_another_has_trained():
    task = network(batch_norm=True)
    first = loop.fit(task, optax.sgd(0.01), full(line()), steps=5, progress=False)
    state = begun(task, init=first.trained, seed=1)
    jax.tree.map(
        np.testing.assert_array_equal, (state.params, state.model), tuple(first.trained)
    )
    assert state.step == 0 and state.seed == 1
    average = begun(task, init=first.trained, ema=0.9).average
    jax.tree.map(np.testing.assert_array_equal, average, first.trained)
    done = loop.fit(
        task, optax.sgd(0.0), full(line()), steps=1, init=first.trained, progress=False
    )
    jax.tree.map(np.testing.assert_array_equal, done.trained.params, first.trained[0])


def test_a_part_of_the_parameters_may_be_begun_with():
    body = begun(network(), seed=1).params["Dense_0"]
    fresh = begun(network(outputs=1), seed=2).params
    state = begun(network(outputs=1), seed=2, init={"Dense_0": body})
    jax.tree.map(np.testing.assert_array_equal, state.params["Dense_0"], body)
    jax.tree.map(
        np.testing.assert_array_equal, state.params["Dense_1"], fresh["Dense_1"]
    )
    assert (fresh["Dense_0"]["kernel"] != body["kernel"]).any()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"Dense_0": {"kernel": np.zeros((3, 6))}}, r"Dense_0.*\[3, 6\].*\[2, 6\]"),
        ({"Dense_9": {"kernel": np.zeros((3, 6))}}, "Dense_9.*no such.*leave out"),
        ({"kernel": np.zeros(3)}, "kernel.*no such"),
    ],
)
def test_what_the_model_has_not_is_not_begun_with(change, words):
    with pytest.raises(UsageError, match=words):
        begun(network(), init=change)
    other = loop.start(network(outputs=2), optax.sgd(0.1), full(line()))[0].params
    with pytest.raises(UsageError, match="leave out what is to begin afresh"):
        begun(network(), init=other)
