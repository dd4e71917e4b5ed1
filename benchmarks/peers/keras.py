"""Keras 3 on its JAX backend, trained by `fit`."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import keras  # noqa: E402
import numpy as np  # noqa: E402
from keras import layers  # noqa: E402

from benchmarks.families import (  # noqa: E402
    HEADS,
    LAYERS,
    WIDTH,
    Arrays,
    Family,
    Trainer,
    sinusoid,
    under,
)


def _linear(x):
    return layers.Dense(1, name="dense")(x)


def _mlp(x):
    x = layers.Dense(256, activation="relu", name="Dense_0")(x)
    return layers.Dense(10, name="Dense_1")(x)


def _cnn(x):
    for i, channels in enumerate((32, 64)):
        x = layers.Conv2D(channels, 3, activation="relu", name=f"Conv_{i}")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Dense(64, activation="relu", name="Dense_0")(layers.Flatten()(x))
    return layers.Dense(10, name="Dense_1")(x)


def _resnet20(x):
    def conv_norm(x, channels, stride, path, i):
        # "same" with stride 2 would pad one end less
        x = layers.ZeroPadding2D(1)(x)
        name = f"{path}Conv_{i}"
        x = layers.Conv2D(channels, 3, stride, use_bias=False, name=name)(x)
        name = f"{path}BatchNorm_{i}"
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)

    x = keras.ops.relu(conv_norm(x, 16, 1, "", 0))
    for block in range(9):
        channels, stride = 16 * 2 ** (block // 3), 2 if block in (3, 6) else 1
        path = f"Block_{block}."
        y = keras.ops.relu(conv_norm(x, channels, stride, path, 0))
        y = conv_norm(y, channels, 1, path, 1)
        if stride > 1:
            more = channels // 4
            x = keras.ops.pad(x[:, ::2, ::2], ((0, 0),) * 3 + ((more, more),))
        x = keras.ops.relu(x + y)
    return layers.Dense(10, name="Dense_0")(layers.GlobalAveragePooling2D()(x))


def _lstm(x):
    return layers.Dense(10, name="Dense_0")(layers.LSTM(128, name="rnn")(x))


def _gru(x):
    return layers.Dense(10, name="Dense_0")(layers.GRU(128, name="rnn")(x))


def _transformer(x):
    def norm(x, name):
        return layers.LayerNormalization(epsilon=1e-5, name=name)(x)

    def gelu(x):  # Keras's own is the exact one
        return keras.activations.gelu(x, approximate=True)

    x = layers.Dense(WIDTH, name="embed")(x) + sinusoid()
    for i in range(LAYERS):
        path = f"encoder_{i}."
        y = norm(x, f"{path}attention_norm")
        attention = layers.MultiHeadAttention(
            HEADS, WIDTH // HEADS, name=f"{path}attention"
        )
        x = x + attention(y, y)
        y = norm(x, f"{path}mlp_norm")
        y = layers.Dense(4 * WIDTH, activation=gelu, name=f"{path}up")(y)
        x = x + layers.Dense(WIDTH, name=f"{path}down")(y)
    x = layers.GlobalAveragePooling1D()(norm(x, "norm"))
    return layers.Dense(10, name="dense")(x)


MODELS = {
    "linear": _linear,
    "mlp": _mlp,
    "cnn": _cnn,
    "resnet20": _resnet20,
    "lstm": _lstm,
    "gru": _gru,
    "transformer": _transformer,
}
LOSSES = {
    "classes": lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    "squared": keras.losses.MeanSquaredError,
}
NAMES = {  # Keras's and ours
    "lstm_cell/": "",
    "gru_cell/": "",
    "attention_output": "out",
    "recurrent_kernel": "recurrent",
    "gamma": "scale",
    "beta": "bias",
    "moving_mean": "mean",
    "moving_variance": "var",
}


def _array(weight, known):
    """What a Keras weight begins with; a GRU's gates are z, r, n there."""
    path = weight.path.replace(".", "/")
    for theirs, ours in NAMES.items():
        path = path.replace(theirs, ours)
    array = known[path]
    if path.startswith("rnn/") and "rnn/recurrent_bias" in known:
        if path == "rnn/bias":
            array = np.stack([array, known["rnn/recurrent_bias"]])
        r, z, n = np.split(array, 3, -1)
        array = np.concatenate([z, r, n], -1)
    return array.reshape(weight.shape)


def prepare(family: Family, arrays: Arrays, peer: str) -> Trainer:
    """Initialised by Keras, then given the weights of `arrays`."""
    inputs = keras.Input(family.shape)
    model = keras.Model(inputs, MODELS[family.name](inputs))
    known = under(arrays, "params") | under(arrays, "stats")
    model.set_weights([_array(weight, known) for weight in model.weights])
    if family.optimizer == "adam":  # Keras's own epsilon is 1e-7
        optimizer = keras.optimizers.Adam(family.rate, epsilon=1e-8)
    else:
        optimizer = keras.optimizers.SGD(family.rate)
    model.compile(optimizer, LOSSES[family.loss]())
    x, y, size = arrays["x"], arrays["y"], family.batch
    y = y if family.loss == "classes" else y[:, None]
    full = size == family.rows
    if full:  # once per fit's epoch would time little but the start of an epoch
        x, y = np.concatenate([x] * family.epoch), np.concatenate([y] * family.epoch)

    def step(i):
        at = i % family.epoch * size
        model.reset_metrics()  # else the mean of all losses so far comes back
        return float(model.train_on_batch(x[at : at + size], y[at : at + size]))

    def run(steps):
        rows, epochs = min(steps, family.epoch) * size, max(1, steps // family.epoch)
        model.fit(
            x[:rows],
            y[:rows],
            batch_size=size,
            epochs=epochs,
            shuffle=not full,
            verbose=0,
        )

    parameters = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    return Trainer(parameters, step, run)
