"""What `benchmarks.sweep` trains, and the contenders that train it.

`where` is "cpu" or "cuda", for PyTorch; JAX has its device by the environment.
"""

import functools
import os
from typing import Any, NamedTuple

import numpy as np


class Case(NamedTuple):
    """Trainings that differ by seed and rate alone."""

    about: str
    shape: tuple[int, ...]
    classes: int
    seeds: int
    rates: tuple[float, ...]
    steps: int
    batch: int
    rows: int = 1437

    @property
    def runs(self) -> int:
        """Trainings in all."""
        return self.seeds * len(self.rates)

    def data(self) -> dict[str, np.ndarray]:
        """Normal x [N, *shape], labels y [N]."""
        rng = np.random.default_rng(0)
        x = rng.normal(size=(self.rows, *self.shape)).astype(np.float32)
        return {"x": x, "y": rng.integers(self.classes, size=self.rows).astype("int32")}


CASES = {
    "mlp": Case(
        "MLP 64-32-10, 32 seeds x 4 rates",
        *((64,), 10, 32, (1e-3, 3e-3, 1e-2, 3e-2), 1000, 32),
    ),
    "cnn": Case("CNN `two_conv` 28x28, 8 seeds", (28, 28, 1), 10, 8, (1e-3,), 300, 64),
    "gru": Case("GRU 12 - 32, 20 steps, 16 seeds", (20, 12), 9, 16, (3e-3,), 1000, 32),
}


# Contenders ---------------------------------------------------------------------------


def _task(name):
    from zoo import cnn, mlp, rnn, supervised

    model = {
        "mlp": lambda: mlp.MLP(10, (32,)),
        "cnn": lambda: cnn.two_conv(),
        "gru": lambda: rnn.Classifier(9, rnn.RNN(rnn.GRU, 32)),
    }[name]()
    return supervised.task(model, supervised.classes)


def swept(name: str, case: Case, rows: dict, runs: int, where: str) -> Any:
    """`train.many.sweep`: one program."""
    from train import many, optim
    from train.source import examples

    def make(rate):
        return _task(name), optim.optimizer("adam", rate)

    rates = case.rates[:runs]
    seeds = runs // len(rates)
    source = examples(rows, case.batch)
    found = many.sweep(
        *(make, source, case.steps),
        seeds=seeds,
        axes={"rate": rates},
        log_every=case.steps,
        progress=False,
    )
    return found.history["loss"][:, -1]


def alone(name: str, case: Case, rows: dict, one: tuple, where: str) -> float:
    """`train.loop.fit`, one training after the other."""
    from train import loop, optim
    from train.source import examples

    seed, rate = one
    done = loop.fit(
        *(_task(name), optim.optimizer("adam", rate), examples(rows, case.batch)),
        steps=case.steps,
        seed=seed,
        log_every=case.steps,
        progress=False,
    )
    return done.records[-1]["loss"]


@functools.cache
def _gru():
    """One class for all: `stack_module_state` wants that."""
    from torch import nn

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru, self.out = nn.GRU(12, 32, batch_first=True), nn.Linear(32, 9)

        def forward(self, x):
            return self.out(self.gru(x)[0][:, -1])

    return Last


def _torch_model(name, where):
    import torch
    from torch import nn

    def cnn():
        return nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(64 * 49, 64), nn.ReLU(), nn.Linear(64, 10)),
        )

    def mlp():
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    torch.set_num_threads(2)
    return {"mlp": mlp, "cnn": cnn, "gru": _gru()}[name]().to(where)


def _tensors(case, rows, where):
    import torch

    x = torch.from_numpy(
        np.moveaxis(rows["x"], -1, 1) if len(case.shape) == 3 else rows["x"]
    )
    return x.contiguous().to(where), torch.from_numpy(rows["y"]).long().to(where)


def _done(value, where):
    """It, once the device has done all that it was given."""
    import torch

    if where == "cuda":
        torch.cuda.synchronize()
    return value


def torch(name: str, case: Case, rows: dict, one: tuple, where: str) -> float:
    """PyTorch, eager, fused Adam, one training after the other."""
    import torch
    from torch.nn.functional import cross_entropy

    seed, rate = one
    x, y = _tensors(case, rows, where)
    torch.manual_seed(seed)
    model = _torch_model(name, where)
    adam = torch.optim.Adam(model.parameters(), rate, fused=True)
    per = len(x) // case.batch
    for t in range(case.steps):
        if t % per == 0:
            order = torch.randperm(len(x), device=where)
        index = order[t % per * case.batch :][: case.batch]
        loss = cross_entropy(model(x[index]), y[index])
        adam.zero_grad()
        loss.backward()
        adam.step()
    return _done(float(loss), where)


def stacked(name: str, case: Case, rows: dict, runs: int, where: str) -> Any:
    """PyTorch, `torch.func`: stacked parameters, vmap of grad, Adam on the stack."""
    import torch
    from torch.func import functional_call, grad_and_value, stack_module_state, vmap
    from torch.nn.functional import cross_entropy

    x, y = _tensors(case, rows, where)
    each = [(seed, rate) for seed in range(case.seeds) for rate in case.rates][:runs]
    models = []
    for seed, _ in each:
        torch.manual_seed(seed)
        models.append(_torch_model(name, where))
    params, _ = stack_module_state(models)
    base = _torch_model(name, "meta")

    def loss(params, x, y):
        return cross_entropy(functional_call(base, params, (x,)), y)

    step = vmap(grad_and_value(loss), randomness="different")
    rate = torch.tensor([rate for _, rate in each], device=where)
    params = {k: p.detach() for k, p in params.items()}
    m = {k: torch.zeros_like(p) for k, p in params.items()}
    v = {k: torch.zeros_like(p) for k, p in params.items()}
    per = len(x) // case.batch
    with torch.no_grad():
        for t in range(case.steps):
            if t % per == 0:
                orders = [torch.randperm(len(x), device=where) for _ in each]
                order = torch.stack(orders)
            index = order[:, t % per * case.batch :][:, : case.batch]
            grads, values = step(params, x[index], y[index])
            for k, p in params.items():
                g = grads[k]
                m[k].mul_(0.9).add_(g, alpha=0.1)
                v[k].mul_(0.999).addcmul_(g, g, value=0.001)
                scale = rate.reshape(-1, *[1] * (p.ndim - 1)) / (1 - 0.9 ** (t + 1))
                root = (v[k] / (1 - 0.999 ** (t + 1))).sqrt_().add_(1e-8)
                p.sub_(scale * m[k] / root)
    return _done(values.tolist(), where)


def keras(name: str, case: Case, rows: dict, one: tuple, where: str) -> float:
    """Keras on JAX: `fit`, one training after the other."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras
    from keras import layers

    seed, rate = one
    keras.utils.set_random_seed(seed)

    def convolution(channels):
        return layers.Conv2D(channels, 3, padding="same", activation="relu")

    body = {
        "mlp": lambda: [layers.Dense(32, "relu"), layers.Dense(10)],
        "cnn": lambda: [
            *(
                convolution(32),
                layers.MaxPool2D(2),
                convolution(64),
                layers.MaxPool2D(2),
            ),
            *(layers.Flatten(), layers.Dense(64, "relu"), layers.Dense(10)),
        ],
        "gru": lambda: [layers.GRU(32), layers.Dense(9)],
    }[name]()
    model = keras.Sequential([keras.Input(case.shape), *body])
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    size = case.batch * case.steps
    index = np.random.default_rng(seed).integers(len(rows["x"]), size=size)
    x, y = rows["x"][index], rows["y"][index]
    return model.fit(x, y, batch_size=case.batch, verbose=0).history["loss"][-1]


WHOLE = {"sweep": swept, "torch.func": stacked}
SINGLE = {"fit": alone, "torch": torch, "keras": keras}


# Networks that a sweep maps in two ways -----------------------------------------------

NETWORKS = {  # about it, the shape of an example, the batch
    "mlp": ("MLP 64-32-10, batch 32", (64,), 32),
    "large": ("MLP 784-1024-1024-10, batch 128", (784,), 128),
    "cnn": ("CNN `two_conv` 28x28, batch 64", (28, 28, 1), 64),
    "lstm": ("LSTM 28 - 128, 28 steps, batch 64", (28, 28), 64),
    "transformer": (
        "Transformer, 2 blocks, width 64, 32 tokens, batch 32",
        (32, 16),
        32,
    ),
}


def population(network: str, mapping: str | None, members: int = 8) -> Any:
    """Members of a network, before their first step."""
    from train import optim
    from train.many.axes import settings
    from train.many.member import same
    from train.many.population import Population
    from train.source import examples
    from zoo import cnn, mlp, rnn, supervised, transformer

    _, shape, batch = NETWORKS[network]
    model = {
        "mlp": lambda: mlp.MLP(10, (32,)),
        "large": lambda: mlp.MLP(10, (1024, 1024)),
        "cnn": lambda: cnn.two_conv(),
        "lstm": lambda: rnn.Classifier(10, rnn.RNN(rnn.LSTM, 128)),
        "transformer": lambda: transformer.Classifier(10),
    }[network]()

    def make():
        task = supervised.task(model, supervised.classes)
        return task, optim.optimizer("adam", 1e-3)

    source = examples(Case("", shape, 10, 1, (), 0, batch).data(), batch)
    found = Population(make, same(source), settings(members, {}), mapping=mapping)
    return found.begin()
