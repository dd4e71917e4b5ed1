"""What is trained, in terms that need none of the libraries: shapes, data, work."""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

COMPARED_AFTER = 5  # updates from the same weights; then the losses must agree
BETAS = (0.5, 0.999)  # of the two Adams that "adversaries" are

Arrays = dict[str, np.ndarray]


class Family(NamedTuple):
    """A network, its data and its optimizer."""

    name: str
    about: str
    shape: tuple[int, ...]  # of one example, channels last
    outputs: int
    # The forward pass as matrix products for one example: [rows, in] @ [in, out].
    products: tuple[tuple[int, int, int], ...]
    attention: tuple[tuple[int, int, int], ...] = ()  # the products without a weight
    # How often training does each of `products`; 3: forward and for both gradients.
    passes: tuple[int, ...] = ()
    rows: int = 4096
    batch: int = 128
    optimizer: str = "adam"
    rate: float = 1e-3
    loss: str = "classes"
    latent: int = 0  # numbers of normal noise for one example; 0 draws none
    microbatch: int = 0  # examples that purezoo computes at a time on a CPU; 0: all

    @property
    def epoch(self) -> int:
        """Steps of one pass over the data; a full batch is passed in groups of 64."""
        return 64 if self.batch == self.rows else self.rows // self.batch

    @property
    def work(self) -> dict[int, list[tuple[int, int, int]]]:
        """The products by how often training does them."""
        work: dict[int, list[tuple[int, int, int]]] = {}
        products = self.products + self.attention
        passes = self.passes or (3,) * len(products)
        for times, product in zip(passes, products, strict=True):
            work.setdefault(times, []).append(product)
        return work

    @property
    def flops(self) -> int:
        """Of training on one example: 2 for a multiply and add."""
        return sum(n * 2 * sum(map(math.prod, each)) for n, each in self.work.items())

    def data(self) -> Arrays:
        """Seeded arrays of the right shapes: x [N, *shape], y [N] where one is learned.

        x is normal, 0 or 1 for the "elbo", between -1 and 1 for the "game".
        """
        rng = np.random.default_rng(0)
        if self.loss == "elbo":
            x = rng.integers(0, 2, (self.rows, *self.shape))
            return {"x": x.astype(np.float32)}
        if self.loss == "game":
            x = rng.uniform(-1, 1, (self.rows, *self.shape))
            return {"x": x.astype(np.float32)}
        x = rng.normal(size=(self.rows, *self.shape)).astype(np.float32)
        if self.loss == "classes":
            return {"x": x, "y": rng.integers(0, self.outputs, self.rows, np.int32)}
        y = x.reshape(self.rows, -1).mean(1) + rng.normal(size=self.rows)
        return {"x": x, "y": y.astype(np.float32)}

    def rounded(self, steps: float) -> int:
        """At least one step, and whole epochs where there are more than one."""
        steps = max(1, round(steps))
        return steps if steps <= self.epoch else steps - steps % self.epoch


class Trainer(NamedTuple):
    """A peer that is ready to train."""

    parameters: int
    step: Callable[[int], float]  # train on the i-th batch in order -> loss before it
    run: Callable[[int], Any]  # train that many steps on shuffled batches, and wait
    peak: Callable[[], float] | None = None  # the most bytes it had on a GPU
    text: Callable[[], str] | None = None  # the compiled program of `run`


def _resnet20() -> tuple[tuple[int, int, int], ...]:
    stages = [(28 * 28, 16, 16), (14 * 14, 16, 32), (7 * 7, 32, 64)]
    products = [(28 * 28, 9, 16)]
    for pixels, before, channels in stages:
        products += [(pixels, 9 * before, channels)]
        products += [(pixels, 9 * channels, channels)] * 5
    return *products, (1, 64, 10)


TOKENS, FEATURES, WIDTH, LAYERS, HEADS = 64, 16, 128, 4, 4  # of the transformer


def _transformer() -> tuple[tuple[int, int, int], ...]:
    block = [(TOKENS, WIDTH, WIDTH)] * 4
    block += [(TOKENS, WIDTH, 4 * WIDTH), (TOKENS, 4 * WIDTH, WIDTH)]
    return (TOKENS, FEATURES, WIDTH), *block * LAYERS, (1, WIDTH, 10)


def sinusoid() -> np.ndarray:
    """The transformer's positions [T, W]: sines, then cosines."""
    rates = 10_000.0 ** (-np.arange(WIDTH // 2) / (WIDTH // 2))
    angles = np.arange(TOKENS)[:, None] * rates
    return np.concatenate([np.sin(angles), np.cos(angles)], -1).astype(np.float32)


# Of the GAN; a transposed convolution from the pixels that it begins with.
GENERATOR = ((1, 64, 7 * 7 * 128), (7 * 7, 128, 16 * 64), (14 * 14, 64, 16))
DISCRIMINATOR = ((14 * 14, 16, 64), (7 * 7, 16 * 64, 128), (1, 7 * 7 * 128, 1))

FAMILIES = {
    family.name: family
    for family in (
        Family(
            "linear",
            "linear regression, 10 features, 442 rows, full batch, SGD 0.1",
            (10,),
            1,
            ((1, 10, 1),),
            rows=442,
            batch=442,
            optimizer="sgd",
            rate=0.1,
            loss="squared",
        ),
        Family(
            "mlp",
            "784 - 256 relu - 10, batch 128, Adam 0.001",
            (784,),
            10,
            ((1, 784, 256), (1, 256, 10)),
        ),
        Family(
            "cnn",
            "28x28x1: conv32 - pool - conv64 - pool - dense64 - 10, batch 128, "
            "Adam 0.001",
            (28, 28, 1),
            10,
            ((26 * 26, 9, 32), (11 * 11, 9 * 32, 64), (1, 1600, 64), (1, 64, 10)),
            microbatch=32,
        ),
        Family(
            "resnet20",
            "ResNet-20 for 28x28x1, option A shortcuts, batch 128, Adam 0.001",
            (28, 28, 1),
            10,
            _resnet20(),
        ),
        Family(
            "lstm",
            "28 steps of 28 features: LSTM 128 - 10, batch 128, Adam 0.001",
            (28, 28),
            10,
            ((28, 28, 4 * 128), (28, 128, 4 * 128), (1, 128, 10)),
        ),
        Family(
            "gru",
            "28 steps of 28 features: GRU 128 - 10, batch 128, Adam 0.001",
            (28, 28),
            10,
            ((28, 28, 3 * 128), (28, 128, 3 * 128), (1, 128, 10)),
        ),
        Family(
            "transformer",
            f"{TOKENS} tokens of {FEATURES} features: {LAYERS} blocks, norm first, of "
            f"width {WIDTH}, {HEADS} heads, MLP {4 * WIDTH} - norm - mean - 10, "
            "batch 32, Adam 0.001",
            (TOKENS, FEATURES),
            10,
            _transformer(),
            (
                (TOKENS, WIDTH // HEADS, TOKENS),
                (TOKENS, TOKENS, WIDTH // HEADS),
            )
            * HEADS
            * LAYERS,
            batch=32,
            microbatch=16,
        ),
        Family(
            "vae",
            "Bernoulli VAE: 784 - 400 relu - 2 x 20, 20 - 400 relu - 784, batch 128, "
            "Adam 0.001",
            (784,),
            784,
            ((1, 784, 400), (1, 400, 2 * 20), (1, 20, 400), (1, 400, 784)),
            loss="elbo",
            latent=20,
        ),
        Family(
            "gan",
            "DCGAN for 28x28x1, batch norm: dense 64 - 7x7x128, transposed conv64 - "
            "conv1; conv64 - conv128 - 1; the non-saturating game, both players at "
            "once, batch 64, each with Adam 0.0002, b1 0.5",
            (28, 28, 1),
            1,
            GENERATOR + DISCRIMINATOR,
            # The discriminator: 3 on real and on generated images, and 1 for the
            # gradient of the generator's loss at the images.
            passes=(3,) * len(GENERATOR) + (7,) * len(DISCRIMINATOR),
            batch=64,
            optimizer="adversaries",
            rate=2e-4,
            loss="game",
            latent=64,
        ),
    )
}


def sized(family: Family, batch: int) -> Family:
    """With that batch size, and rows for 32 batches of it at least.

    A full batch stays one: it has that many rows.
    """
    if family.batch == family.rows:
        about = family.about.replace(f"{family.rows} rows", f"{batch} rows")
        return family._replace(batch=batch, rows=batch, about=about)
    about = re.sub(r"batch \d+", f"batch {batch}", family.about)
    rows = max(family.rows, 32 * batch)
    return family._replace(batch=batch, rows=rows, about=about)


def under(arrays: Arrays, part: str) -> Arrays:
    """The arrays whose path begins with "part/", by the rest of their paths."""
    start = part + "/"
    return {k[len(start) :]: v for k, v in arrays.items() if k.startswith(start)}
