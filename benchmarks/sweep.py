"""Many small trainings: one program against one after the other, here and elsewhere.

`python -m benchmarks.sweep [CASE ...]`, after `pip install -e '.[bench]'`: a contender
trains the same networks on the same rows in a fresh process, one at a time, and says
its seconds with compilation and without. Writes benchmarks/SWEEP.md.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PAGE = Path(__file__).parent / "SWEEP.md"
MEMBERS = [2**k for k in range(11)]


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
    "cnn": Case("CNN `two_conv` 28x28, 8 seeds", (28, 28, 1), 10, 8, (1e-3,), 60, 64),
    "gru": Case("GRU 12 - 32, 20 steps, 16 seeds", (20, 12), 9, 16, (3e-3,), 300, 32),
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


def swept(name: str, case: Case, rows: dict, runs: int) -> Any:
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


def alone(name: str, case: Case, rows: dict, seed: int, rate: float) -> float:
    """`train.loop.fit`, one training after the other."""
    from train import loop, optim
    from train.source import examples

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


def _torch_model(name):
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
    return {"mlp": mlp, "cnn": cnn, "gru": _gru()}[name]()


def _tensors(case, rows):
    import torch

    x = torch.from_numpy(
        np.moveaxis(rows["x"], -1, 1) if len(case.shape) == 3 else rows["x"]
    )
    return x.contiguous(), torch.from_numpy(rows["y"]).long()


def torch(name: str, case: Case, rows: dict, seed: int, rate: float) -> float:
    """PyTorch, eager, fused Adam, one training after the other."""
    import torch
    from torch.nn.functional import cross_entropy

    x, y = _tensors(case, rows)
    torch.manual_seed(seed)
    model = _torch_model(name)
    adam = torch.optim.Adam(model.parameters(), rate, fused=True)
    per = len(x) // case.batch
    for t in range(case.steps):
        if t % per == 0:
            order = torch.randperm(len(x))
        index = order[t % per * case.batch :][: case.batch]
        loss = cross_entropy(model(x[index]), y[index])
        adam.zero_grad()
        loss.backward()
        adam.step()
    return float(loss)


def stacked(name: str, case: Case, rows: dict, runs: int) -> Any:
    """PyTorch, `torch.func`: stacked parameters, vmap of grad, Adam on the stack."""
    import torch
    from torch.func import functional_call, grad_and_value, stack_module_state, vmap
    from torch.nn.functional import cross_entropy

    x, y = _tensors(case, rows)
    each = [(seed, rate) for seed in range(case.seeds) for rate in case.rates][:runs]
    models = []
    for seed, _ in each:
        torch.manual_seed(seed)
        models.append(_torch_model(name))
    params, _ = stack_module_state(models)
    base = _torch_model(name).to("meta")

    def loss(params, x, y):
        return cross_entropy(functional_call(base, params, (x,)), y)

    step = vmap(grad_and_value(loss), randomness="different")
    rate = torch.tensor([rate for _, rate in each])
    params = {k: p.detach() for k, p in params.items()}
    m = {k: torch.zeros_like(p) for k, p in params.items()}
    v = {k: torch.zeros_like(p) for k, p in params.items()}
    per = len(x) // case.batch
    with torch.no_grad():
        for t in range(case.steps):
            if t % per == 0:
                order = torch.stack([torch.randperm(len(x)) for _ in each])
            index = order[:, t % per * case.batch :][:, : case.batch]
            grads, values = step(params, x[index], y[index])
            for k, p in params.items():
                g = grads[k]
                m[k].mul_(0.9).add_(g, alpha=0.1)
                v[k].mul_(0.999).addcmul_(g, g, value=0.001)
                scale = rate.reshape(-1, *[1] * (p.ndim - 1)) / (1 - 0.9 ** (t + 1))
                root = (v[k] / (1 - 0.999 ** (t + 1))).sqrt_().add_(1e-8)
                p.sub_(scale * m[k] / root)
    return values.tolist()


def keras(name: str, case: Case, rows: dict, seed: int, rate: float) -> float:
    """Keras on JAX: `fit`, one training after the other."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras
    from keras import layers

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


# Timing -------------------------------------------------------------------------------


def timed(name: str, peer: str, runs: int) -> dict[str, Any]:
    """Seconds of so many trainings in this process, and of as many again.

    One after the other, of 128 eight are timed: each is as long as the next, but for
    the first of each rate, which may compile.
    """
    case = CASES[name]
    rows, seconds = case.data(), []
    if peer in WHOLE:
        for _ in range(2):
            began = time.perf_counter()
            losses = np.asarray(WHOLE[peer](name, case, rows, runs))
            seconds.append(time.perf_counter() - began)
        return {"first": seconds[0], "again": seconds[1], "loss": float(losses.mean())}
    losses = []
    for seed, rate in [(s, r) for s in range(case.seeds) for r in case.rates][:8]:
        began = time.perf_counter()
        losses.append(SINGLE[peer](name, case, rows, seed, rate))
        seconds.append(time.perf_counter() - began)
    compiled = len(case.rates)
    each = float(np.median(seconds[compiled:]))
    first = sum(seconds[:compiled]) + (runs - compiled) * each
    return {"first": first, "again": runs * each, "loss": float(np.mean(losses))}


def measured(name: str, peer: str, runs: int) -> dict[str, Any] | None:
    """`timed` in a fresh process, each core a device; None where it cannot."""
    flags = "--xla_force_host_platform_device_count=2"
    environment = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    if peer in ("sweep",):
        environment["XLA_FLAGS"] = flags
    command = [sys.executable, "-m", "benchmarks.sweep", "--one", name, peer, str(runs)]
    said = subprocess.run(command, env=environment, capture_output=True, text=True)
    if said.returncode:
        print(said.stderr.strip().splitlines()[-1], file=sys.stderr)
        return None
    return json.loads(said.stdout.splitlines()[-1])


def table(name: str, rounds: int) -> list[str]:
    """A section of the page: the contenders in turns, and their ratios."""
    case = CASES[name]
    found: dict[str, list] = {peer: [] for peer in (*WHOLE, *SINGLE)}
    for _ in range(rounds):
        for peer, results in found.items():
            results.append(measured(name, peer, case.runs))
            print(name, peer, results[-1], flush=True)
    lines = [
        f"## {case.about}: {case.runs} trainings of {case.steps} steps",
        "",
        "| contender | s | of them compiling | sweep is faster by | spread |",
        "|---|--:|--:|--:|--:|",
    ]
    ours = [result["first"] for result in found["sweep"]]
    for peer, results in found.items():
        if None in results:
            lines.append(f"| {peer} | cannot | | | |")
            continue
        first = np.array([result["first"] for result in results])
        again = np.array([result["again"] for result in results])
        ratio = first / ours
        lines.append(
            f"| {peer} | {np.median(first):.1f} | {np.median(first - again):.1f} | "
            f"{np.median(ratio):.2f} | {ratio.min():.2f}-{ratio.max():.2f} |"
        )
    return [*lines, ""]


def knee() -> list[str]:
    """Trainings per second by the number of members, MLP, compiling apart."""
    rows = []
    for members in MEMBERS:
        result = measured("mlp", "sweep", members)
        assert result is not None
        rows.append(f"| {members:,} | {members / result['again']:.2f} |")
        print(rows[-1], flush=True)
    head = ["## Trainings a second, by the members of one program (MLP)", ""]
    return [*head, "| members | a second |", "|--:|--:|", *rows, ""]


def main(argv: list[str] | None = None) -> int:
    """Measure the cases, or one contender with `--one`."""
    parser = argparse.ArgumentParser(prog="benchmarks.sweep", description=__doc__)
    parser.add_argument("cases", nargs="*", default=[*CASES], help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=3, metavar=("CASE", "PEER", "RUNS"))
    flags = parser.parse_args(argv)
    if flags.one:
        name, peer, runs = flags.one
        print(json.dumps(timed(name, peer, int(runs))))
        return 0
    for name in flags.cases:
        if name not in CASES:
            parser.error(f"unknown case {name}, expected {', '.join(CASES)}")
    lines = [*HEAD.splitlines(), ""]
    for name in flags.cases:
        lines += table(name, flags.rounds)
    lines += knee()
    PAGE.write_text("\n".join(lines).rstrip() + "\n")
    return 0


HEAD = f"""\
# Many trainings

{time.strftime("%Y-%m-%d")}: `python -m benchmarks.sweep`, two cores, float32.

Each contender trains the same networks on the same rows with Adam, in a fresh process,
the contenders in turns. "sweep" is `train.many.sweep`, one program; "fit" is
`train.loop.fit`, one training after the other; "torch" is PyTorch, eager; "torch.func"
stacks the parameters and maps the gradient. Seconds are of all trainings with what is
compiled for them; one after the other, eight are timed, and the rest is as long. A
ratio above 1: the sweep is faster.
"""


if __name__ == "__main__":
    sys.exit(main())
