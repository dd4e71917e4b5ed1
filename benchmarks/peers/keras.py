"""Keras 3 on its JAX backend, trained by `fit`."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import jax  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402
from keras import layers  # noqa: E402

from benchmarks.families import (  # noqa: E402
    BETAS,
    HEADS,
    LAYERS,
    WIDTH,
    Arrays,
    Family,
    Trainer,
    sinusoid,
    under,
)
from benchmarks.setting import Setting


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


class Drawing(keras.Model):
    """Its examples come alone, or (for the comparison) with the noise."""

    latent: int

    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(0)

    def noise(self, inputs):
        """The examples and their noise."""
        if isinstance(inputs, tuple | list):
            return inputs
        shape = (keras.ops.shape(inputs)[0], self.latent)
        return inputs, keras.random.normal(shape, seed=self.seeds)


def _half(x, outputs, path):
    x = layers.Dense(400, activation="relu", name=f"{path}.Dense_0")(x)
    return layers.Dense(outputs, name=f"{path}.Dense_1")(x)


class VAE(Drawing):
    """Logits of x, mean and log-variance."""

    latent = 20

    def __init__(self):
        super().__init__()
        x, z = keras.Input((784,)), keras.Input((20,))
        self.encode = keras.Model(x, _half(x, 40, "encode"))
        self.decode = keras.Model(z, _half(z, 784, "decode"))

    def call(self, inputs):
        x, noise = self.noise(inputs)
        mean, logvar = keras.ops.split(self.encode(x), 2, -1)
        logits = self.decode(mean + keras.ops.exp(0.5 * logvar) * noise)
        return x, logits, mean, logvar

    def compute_loss(self, x, y, y_pred, *others, **fields):
        x, logits, mean, logvar = y_pred
        error = keras.ops.binary_crossentropy(x, logits, from_logits=True)
        kl = 0.5 * (keras.ops.exp(logvar) + keras.ops.square(mean) - 1 - logvar)
        return keras.ops.mean(keras.ops.sum(error, -1) + keras.ops.sum(kl, -1))


def _generator(z):
    def norm(x, i):
        name = f"generator.BatchNorm_{i}"
        x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)
        return keras.ops.relu(x)

    def double(x, channels, i, **fields):
        name = f"generator.ConvTranspose_{i}"
        return layers.Conv2DTranspose(channels, 4, 2, "same", name=name, **fields)(x)

    x = layers.Dense(7 * 7 * 128, use_bias=False, name="generator.Dense_0")(z)
    x = norm(layers.Reshape((7, 7, 128))(x), 0)
    x = norm(double(x, 64, 0, use_bias=False), 1)
    return double(x, 1, 1, activation="tanh")


def _discriminator(x):
    def leaky(x):
        return keras.ops.leaky_relu(x, 0.2)

    x = leaky(layers.Conv2D(64, 4, 2, "same", name="discriminator.Conv_0")(x))
    name = "discriminator.Conv_1"
    x = layers.Conv2D(128, 4, 2, "same", use_bias=False, name=name)(x)
    name = "discriminator.BatchNorm_0"
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)
    x = layers.Flatten()(leaky(x))
    return layers.Dense(1, name="discriminator.Dense_0")(x)


class GAN(Drawing):
    """The discriminator's logits; each loss is blind to the other player's weights.

    So the gradient of their sum is each player's own, and one Adam is two.
    """

    latent = 64

    def __init__(self):
        super().__init__()
        z, x = keras.Input((64,)), keras.Input((28, 28, 1))
        self.generator = keras.Model(z, _generator(z))
        self.discriminator = keras.Model(x, _discriminator(x))

    def call(self, inputs, training=False):
        x, noise = self.noise(inputs)
        fake, judge = self.generator(noise, training=training), self.discriminator
        real = judge(x, training=training)
        false = judge(jax.lax.stop_gradient(fake), training=training)
        frozen = [jax.lax.stop_gradient(v.value) for v in judge.trainable_variables]
        others = [v.value for v in judge.non_trainable_variables]
        seen, _ = judge.stateless_call(frozen, others, fake, training=training)
        return real, false, seen

    def compute_loss(self, x, y, y_pred, *others, **fields):
        real, false, seen = y_pred
        softplus = keras.ops.softplus
        return keras.ops.mean(softplus(-real) + softplus(false) + softplus(-seen))


MODELS = {
    "linear": _linear,
    "mlp": _mlp,
    "cnn": _cnn,
    "resnet20": _resnet20,
    "lstm": _lstm,
    "gru": _gru,
    "transformer": _transformer,
    "vae": VAE,
    "gan": GAN,
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
    if "ConvTranspose" in path and array.ndim > 1:  # the gradient of a convolution
        array = np.flip(array, (0, 1)).swapaxes(2, 3)
    if path.startswith("rnn/") and "rnn/recurrent_bias" in known:
        if path == "rnn/bias":
            array = np.stack([array, known["rnn/recurrent_bias"]])
        r, z, n = np.split(array, 3, -1)
        array = np.concatenate([z, r, n], -1)
    return array.reshape(weight.shape)


def prepare(family: Family, arrays: Arrays, peer: str, setting: Setting) -> Trainer:
    """Initialised by Keras, then given the weights of `arrays`."""
    make = MODELS[family.name]
    if family.latent:
        model = make()
    else:
        inputs = keras.Input(family.shape)
        model = keras.Model(inputs, make(inputs))
    known = under(arrays, "params") | under(arrays, "stats")
    model.set_weights([_array(weight, known) for weight in model.weights])
    rate, epsilon = family.rate, 1e-8  # Keras's own is 1e-7
    if family.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(rate)
    elif family.optimizer == "adversaries":
        optimizer = keras.optimizers.Adam(rate, *BETAS, epsilon=epsilon)
    else:
        optimizer = keras.optimizers.Adam(rate, epsilon=epsilon)
    model.compile(optimizer, None if family.latent else LOSSES[family.loss]())
    size = family.batch
    data = [arrays[name] for name in "xy" if name in arrays]
    if family.loss == "squared":
        data[1] = data[1][:, None]
    full = size == family.rows
    if full:  # once per fit's epoch would time little but the start of an epoch
        data = [np.concatenate([a] * family.epoch) for a in data]

    def step(i):
        at = i % family.epoch * size
        model.reset_metrics()  # else the mean of all losses so far comes back
        batch = [a[at : at + size] for a in data]
        if family.latent:  # else each update draws its own
            batch = [(*batch, arrays["noise"][i])]
        return float(model.train_on_batch(*batch))

    def run(steps):
        rows, epochs = min(steps, family.epoch) * size, max(1, steps // family.epoch)
        model.fit(
            *(a[:rows] for a in data),
            batch_size=size,
            epochs=epochs,
            shuffle=not full,
            verbose=0,
        )

    parameters = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    return Trainer(parameters, step, run)
