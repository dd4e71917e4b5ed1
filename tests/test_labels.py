"""Labels out of a model's classes are found before training, whatever the task."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from train import loop
from train.source import full
from zoo import gan, linear, rnn, seq2seq, supervised, vae
from zoo.base import UsageError

N, CLASSES = 6, 3
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(N, 2, 3)).astype(np.float32)
TOKENS = RNG.integers(3, 5, (N, 4)).astype(np.int32)
LABELS = np.arange(N, dtype=np.int32) % CLASSES


def few_labels():
    players = gan.dense((2, 3), 2, (5,), outputs=CLASSES)
    return gan.semi_supervised(players), {"x": IMAGES, "labelled": IMAGES, "y": LABELS}


def read(x, y):
    return {"x": x, "y": y}


# each with rows that can be trained on, and how many labels there are
TASKS = {
    "classes": (linear.softmax(CLASSES), read(IMAGES, LABELS), CLASSES),
    "binary": (linear.logistic(), read(IMAGES, LABELS % 2), 2),
    "neuron": (linear.neuron(), read(IMAGES, LABELS % 2), 2),
    "vae": (
        vae.task(vae.dense((2, 3), 2, (5,), classes=CLASSES)),
        read(IMAGES, LABELS),
        CLASSES,
    ),
    "gan": (
        gan.task(gan.dense((2, 3), 2, (5,), classes=CLASSES), gan.GAMES["hinge"]),
        read(IMAGES, LABELS),
        CLASSES,
    ),
    "semi_supervised": (*few_labels(), CLASSES),
    "language": (
        supervised.task(
            rnn.LanguageModel(5, rnn.RNN(rnn.ELMAN, 3), 2), supervised.classes
        ),
        read(TOKENS, TOKENS),
        5,
    ),
    "seq2seq": (
        seq2seq.task(seq2seq.Recurrent(5, 6, 4, width=2)),
        read(TOKENS, TOKENS),
        6,
    ),
}


def fit(task, data, **options):
    options = {"steps": 1, "progress": False, **options}
    return loop.fit(task, optax.sgd(0.1), full(data), **options)


@pytest.mark.parametrize("low", [True, False])
@pytest.mark.parametrize("name", TASKS)
def test_a_label_out_of_range_is_found(name, low):
    task, data, count = TASKS[name]
    wrong = -1 if low else count
    bad = data | {"y": data["y"].copy()}
    bad["y"][(4, *(2,) * (bad["y"].ndim - 1))] = wrong
    words = f"labels 0 to {count - 1} .* found {wrong} in example 4$"
    with pytest.raises(UsageError, match=words):
        fit(task, bad)
    with pytest.raises(UsageError, match=words):
        fit(task, data, evaluation=bad)


@pytest.mark.parametrize("name", ["classes", "vae", "language"])
def test_a_masked_label_is_not_looked_at(name):
    task, data, _ = TASKS[name]
    mask = (np.arange(N) != 4).astype(np.float32)
    hidden = data | {"y": data["y"].copy(), "mask": mask}
    hidden["y"][4] = -1
    with pytest.raises(UsageError, match="in example 4"):
        fit(task, hidden | {"mask": np.ones(N, np.float32)})
    assert int(fit(task, hidden).state.step) == 1


def test_labels_past_the_end_of_a_sequence_are_not_looked_at():
    class Each(nn.Module):
        """Logits of three classes at every step."""

        @nn.compact
        def __call__(self, x, length=None, *, train=False):
            return nn.Dense(CLASSES)(x)

    task = supervised.task(Each(), supervised.classes, inputs=("x", "length"))
    length = np.array([1, 2, 3, 3, 2, 1], np.int32)
    real = np.arange(3) < length[:, None]
    data = {"x": np.ones((N, 3, 2), np.float32), "length": length}
    fit(task, data | {"y": np.where(real, 2, -1).astype(np.int32)})
    with pytest.raises(UsageError, match="found -1 in example 2$"):
        y = np.where(real, 2, -1).astype(np.int32)
        y[2, 2] = -1
        fit(task, data | {"y": y})
    masked = np.ones((N, 3), np.float32)
    masked[2, 2] = 0
    fit(task, data | {"y": y, "mask": masked})


@pytest.mark.parametrize("dtype", [np.int32, np.uint8])
def test_whole_numbers_are_targets_of_a_regression(dtype):
    task, y = linear.regression(), np.array([7, 0, 3, 250, 1, 2])
    found, exact = (
        fit(task, {"x": IMAGES, "y": y.astype(kind)}, steps=3).state.params
        for kind in (dtype, np.float32)
    )
    np.testing.assert_array_equal(found["dense"]["kernel"], exact["dense"]["kernel"])


def test_an_unconditional_model_reads_no_labels():
    models = (
        vae.task(vae.dense((2, 3), 2, (5,))),
        gan.task(gan.dense((2, 3), 2, (5,)), gan.GAMES["hinge"]),
    )
    for task in models:
        assert task.classes is None
        fit(task, read(IMAGES, LABELS - 9))


def test_how_many_classes_there_are_is_known_from_shapes_alone():
    for task, data, count in TASKS.values():
        one = {name: jnp.asarray(array[:1]) for name, array in data.items()}
        variables = jax.eval_shape(task.init, jax.random.key(0), one)
        assert task.classes(*variables, one) == count
