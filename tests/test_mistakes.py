"""A wrong call is told in a sentence, by every model: none is silent, none is raw."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from tests import mistakes
from tests.conftest import OF_ROWS, batch_of, quick, small
from train import evaluate
from train.recipes import saved
from train.step import Trained
from zoo.base import UsageError

# without y beside it, not wrong; x alone is what is predicted of
EXEMPT = ("fewer x than y", "rows that are x alone", "rows in a list")
LATER = ("generate", "sweep", "VAE")  # they take seconds to trace
# of each kind of batch one, soon; all of them for a release
SOON = ("mlp", "lstm")
KINDS = (
    *("logistic", "kmeans", "transformer_classifier", "karate", "seq2seq_lstm"),
    *("vae", "semi_supervised_gan", "matrix_factorization", "word2vec"),
)
MARKS = {name: [] for name in SOON} | {name: [pytest.mark.contract] for name in KINDS}
LONG = [pytest.mark.contract, pytest.mark.long]
NAMES = [pytest.param(name, marks=MARKS.get(name, LONG)) for name in OF_ROWS]


def model_of(name):
    """A small recipe's model with its rows, its parameters as shapes alone."""
    recipe = small(name, 12)
    rows = jax.tree.map(np.asarray, batch_of(recipe, 8))
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(recipe.task.init, key, rows)
    count = recipe.task.classes

    def loss(*args):
        return recipe.task.loss(*args, train=False)

    def reads(name):
        less = {k: a for k, a in rows.items() if k != name}
        try:
            jax.eval_shape(
                lambda *a: recipe.task.loss(*a, train=False), *state, less, key
            )
        except Exception:
            return True
        return False

    return mistakes.Model(
        recipe.task,
        Trained(*state),
        rows,
        count and count(*state, rows),
        frozenset(filter(reads, rows)),
    )


def untold(rows, call):
    """What was not told, or not in the words that it should be."""
    found = []
    for what, says, argument in rows:
        kind, said = mistakes.outcome(lambda argument=argument: call(argument))
        short = 20 < len(said) < 500 and "\n" not in said
        if kind != "told" or not short or not re.search(says, said):
            found.append(f"{what}: {kind}: {said[:300]}")
    return "\n".join(found)


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_cannot_be_right_are_told(name):
    model = model_of(name)
    task, trained = model.task, model.trained
    made = [(what, says, make(model)) for what, says, make in mistakes.ROWS]
    made = [row for row in made if row[2] is not None]
    assert len(made) >= 20

    def predict(rows):
        beside = ("y", "mask", "maks")
        if isinstance(rows, dict):
            rows = {name: array for name, array in rows.items() if name not in beside}
        evaluate.predict(task, trained, rows)

    assert not untold(made, lambda rows: evaluate.evaluate(task, trained, rows))
    if task.predict is not None:
        inputs = {what for what, *_ in mistakes.INPUTS} - {*EXEMPT}
        assert not untold([row for row in made if row[0] in inputs], predict)


@pytest.mark.parametrize("which", quick(["first", "later"], "first"))
def test_calls_that_cannot_be_right_are_told(which):
    assert len(mistakes.ROWS) + len(mistakes.CALLS) >= 80
    later = which == "later"
    rows = [row for row in mistakes.CALLS if row[0].startswith(LATER) == later]
    assert not untold(rows, lambda call: call())


RUN = Path(__file__).parent / "runs" / "format2" / "config.json"


def without(name):
    return lambda config: {k: v for k, v in config.items() if k != name}


@pytest.mark.parametrize(
    "change, words",
    [
        *((without(n), n) for n in ("arguments", "options", "schema", "versions")),
        (lambda config: config | {"arguments": {}}, "'data'"),
        (lambda config: config | {"options": {"sed": 1}}, "did you mean 'seed'"),
        (lambda config: config | {"schema": {"name": "a"}}, "'classes' is missing"),
        (lambda config: config | {"schema": [1]}, "schema"),
        (lambda config: config | {"arguments": {"data": "iris", "stps": 1}}, "stps"),
        (lambda config: list(config), "does not describe a run"),
    ],
)
def test_a_config_that_cannot_be_right_is_told(change, words, tmp_path):
    config = change(json.loads(RUN.read_text()))
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=words):
        saved.restore(str(tmp_path))  # a path as a text, too


def test_json_that_is_nested_too_deeply_is_told(tmp_path):
    (tmp_path / "config.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(UsageError, match="cannot be read as JSON"):
        saved.restore(tmp_path)
