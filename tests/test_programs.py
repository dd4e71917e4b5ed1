"""Programs are compiled once for what is equal, and keep nothing alive."""

import gc
import weakref
from collections import OrderedDict

import jax
import numpy as np

from train import loop, optim
from train import mesh as programs
from train.evaluate import evaluate, predict
from train.source import examples
from zoo import mlp, supervised


def rows():
    x = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    return {"x": x, "y": x[:, 0]}


def train(rate=0.1, width=5):
    task = supervised.task(mlp.MLP(1, (width,)), supervised.regression)
    optimizer = optim.optimizer("adam", optim.schedule("cosine", rate, 12))
    found = loop.fit(
        task,
        optimizer,
        examples(rows(), 8),
        steps=12,
        evaluation=rows(),
        progress=False,
    )
    evaluate(task, found.trained, rows(), batch_size=10)
    predict(task, found.trained, rows()["x"], batch_size=10)
    return task


def compilations(caplog, call):
    """What XLA compiled meanwhile, read from or missed in any cache of JAX's."""
    caplog.clear()
    with jax.log_compiles():
        result = call()
    texts = [record.getMessage() for record in caplog.records]
    return result, [text for text in texts if text.startswith("Finished XLA")]


def test_equal_trainings_compile_once_and_leave_nothing(caplog):
    train()
    kept, alive = len(programs._programs), []
    for _ in range(5):
        task, compiled = compilations(caplog, train)
        assert compiled == []
        alive.append(weakref.ref(task.loss))
        del task
    gc.collect()
    assert [ref() for ref in alive] == [None] * 5
    assert len(programs._programs) == kept
    # and what is not equal is another program
    for change in ({"rate": 0.2}, {"width": 6}):
        assert compilations(caplog, lambda change=change: train(**change))[1]


def test_programs_not_used_for_long_are_forgotten(monkeypatch):
    monkeypatch.setattr(programs, "KEPT", 2)
    monkeypatch.setattr(programs, "_programs", OrderedDict())
    names = [programs.compiled(lambda x, n=n: x + n, 1.0)[1] for n in (0, 1, 0, 2)]
    assert list(programs._programs) == [names[0], names[3]]


def test_another_tree_is_another_program():
    a = programs.compiled(lambda t: (t, t), 1.0)[0](1.0)
    b = programs.compiled(lambda t: [t, t], 1.0)[0](1.0)
    assert isinstance(a, tuple) and isinstance(b, list)
