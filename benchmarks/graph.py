"""A step of GCN and GAT on a graph of Cora's size, beside PyTorch Geometric.

    pip install torch torch_geometric
    python -m benchmarks.graph [--rounds 3] [--out benchmarks/GRAPH.md]

Full batch, Adam, the papers' dropout and L2 penalty. Each contender runs in a process
of its own, in turns. Cora is read from $ZOO_DATA_DIR/cora/cora.npz; where it is not, a
random graph of its size stands in, which costs as much. Before anything is timed, both
have the same outputs from the same weights.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from train.data import graphs
from zoo.base import UsageError
from zoo.edges import undirected

NETWORKS = {"gcn": (16, 1, 0.5, 1e-2), "gat": (64, 8, 0.6, 5e-3)}
CHUNK, CHUNKS = 20, 6


def problem():
    """x [N, F], edges [E, 2] both ways, y [N], indices to train on, and its name."""
    try:
        found = graphs.cora()
    except UsageError:
        rng = np.random.default_rng(0)
        x = (rng.random((2708, 1433)) < 0.0127).astype(np.float32)
        edges, y = rng.integers(0, 2708, (5278, 2)), rng.integers(0, 7, 2708)
        return x, undirected(edges), y, np.arange(140), "a random graph of Cora's size"
    return found.x, undirected(found.edges), found.y, found.train, "Cora"


def purezoo(name, x, edges, y, train):
    """(seconds of a step, of the first chunk, outputs from given weights)."""
    import jax
    import jax.numpy as jnp

    from train import optim, step
    from zoo import graph, supervised

    features, heads, dropout, rate = NETWORKS[name]
    if name == "gcn":
        layers, act = (graph.GCN(features), graph.GCN(7)), jax.nn.relu
    else:
        first = graph.GAT(features, heads, dropout=dropout)
        layers, act = (first, graph.GAT(7, dropout=dropout)), jax.nn.elu
    model = graph.Network(layers, act, dropout)
    task = supervised.task(
        model, supervised.classes, inputs=graph.INPUTS[:2], l2=2.5e-4
    )
    mask = np.isin(np.arange(len(x)), train)
    batch = {"x": x.astype("f4"), "edges": edges.astype("i4"), "y": y.astype("i4")}
    batch |= {"mask": mask.astype("f4")}
    batch = {k: jnp.asarray(v)[None] for k, v in batch.items()}
    optimizer = optim.optimizer("adam", rate)
    update = step.make_step(task, optimizer)
    state = step.init(task, optimizer, 0, batch)
    given = weights(name, x.shape[1])
    params = {"layers_0": {}, "layers_1": {}}
    for path, value in given.items():
        layer, _, kind = path.partition("/")
        params[layer][kind] = {"kernel": value} if kind == "dense" else value
    params = jax.tree.map(jnp.asarray, params)
    outputs = model.apply({"params": params}, batch["x"], batch["edges"])[0]

    @jax.jit
    def chunk(state, batch):
        return jax.lax.scan(
            lambda s, _: (update(s, batch)[0], None), state, None, length=CHUNK
        )[0]

    times = []
    for _ in range(CHUNKS + 1):
        began = time.perf_counter()
        state = jax.block_until_ready(chunk(state, batch))
        times.append(time.perf_counter() - began)
    return float(np.median(times[1:])) / CHUNK, times[0], np.asarray(outputs)


def geometric(name, x, edges, y, train):
    """The same of PyTorch Geometric, eager."""
    import torch
    from torch.nn import functional
    from torch_geometric.nn import GATConv, GCNConv

    torch.set_num_threads(2)
    features, heads, dropout, rate = NETWORKS[name]

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            if name == "gcn":  # the degrees are computed once
                self.layers_0 = GCNConv(x.shape[1], features, cached=True)
                self.layers_1 = GCNConv(features, 7, cached=True)
            else:
                each = features // heads
                self.layers_0 = GATConv(x.shape[1], each, heads, dropout=dropout)
                self.layers_1 = GATConv(features, 7, dropout=dropout)

        def forward(self, x, edges):
            act = functional.relu if name == "gcn" else functional.elu
            x = functional.dropout(x, dropout, self.training)
            x = act(self.layers_0(x, edges))
            x = functional.dropout(x, dropout, self.training)
            return self.layers_1(x, edges)

    model = Network()
    own = {"dense": "lin.weight", "key": "att_src", "query": "att_dst", "bias": "bias"}
    state = {}
    for path, value in weights(name, x.shape[1]).items():
        layer, _, kind = path.partition("/")
        value = value.T if kind == "dense" else value
        value = value[None] if kind in ("key", "query") else value
        state[f"{layer}.{own[kind]}"] = torch.tensor(value)
    model.load_state_dict(state)
    x, edges = torch.tensor(x, dtype=torch.float32), torch.tensor(edges.T.copy())
    y, train = torch.tensor(y).long(), torch.tensor(train).long()
    with torch.no_grad():
        outputs = model.eval()(x, edges.long()).numpy()
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, weight_decay=5e-4)
    edges, times = edges.long(), []
    for _ in range(CHUNKS + 1):
        began = time.perf_counter()
        for _ in range(CHUNK):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x, edges)[train], y[train])
            loss.backward()
            optimizer.step()
        times.append(time.perf_counter() - began)
    return float(np.median(times[1:])) / CHUNK, times[0], outputs


def weights(name, inputs):
    """Random parameters by the names of zoo.graph, the same for both."""
    features, heads, *_ = NETWORKS[name]
    rng, found = np.random.default_rng(0), {}
    for i, (d, f, h) in enumerate([(inputs, features, heads), (features, 7, 1)]):
        shapes = {"dense": (d, f), "bias": (f,)}
        if name == "gat":
            shapes |= {"query": (h, f // h), "key": (h, f // h)}
        for kind, shape in shapes.items():
            drawn = rng.normal(0, 0.3, shape).astype(np.float32)
            found[f"layers_{i}/{kind}"] = drawn
    return found


CONTENDERS = {"purezoo": purezoo, "geometric": geometric}


def work(contender, name, out):
    """One process: its seconds as JSON, its outputs in a file."""
    seconds, first, outputs = CONTENDERS[contender](name, *problem()[:4])
    np.save(out, outputs)
    print(json.dumps([seconds, first]))


def measure(name, rounds, folder):
    """{contender: [[seconds of a step, of the first chunk], ...]} in turns."""
    found = {contender: [] for contender in CONTENDERS}
    for _ in range(rounds):
        for contender in CONTENDERS:
            command = [sys.executable, "-m", "benchmarks.graph", "--work", contender]
            command += ["--network", name, "--out", str(folder / f"{contender}.npy")]
            said = subprocess.run(command, check=True, capture_output=True, text=True)
            found[contender].append(json.loads(said.stdout.splitlines()[-1]))
    a, b = (np.load(folder / f"{contender}.npy") for contender in CONTENDERS)
    off = float(np.abs(a - b).max() / np.abs(b).max())
    if off > 1e-4:
        raise SystemExit(f"{name}: the outputs differ by {off:.0e} of the largest")
    return found, off


def main():
    """The table, printed or written to a page."""
    import tempfile

    parser = argparse.ArgumentParser(prog="python -m benchmarks.graph")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", choices=CONTENDERS)
    parser.add_argument("--network", choices=NETWORKS, default="gcn")
    asked = parser.parse_args()
    if asked.work:
        work(asked.work, asked.network, asked.out)
        return
    lines = ["| network | purezoo, ms | PyTorch Geometric, ms | ratio | spread |"]
    lines += ["|---|--:|--:|--:|--:|"]
    with tempfile.TemporaryDirectory() as folder:
        for name in NETWORKS:
            found, off = measure(name, asked.rounds, Path(folder))
            ours, theirs = (np.array(found[c])[:, 0] * 1e3 for c in CONTENDERS)
            ratio = theirs / ours
            first = np.median([first for _, first in found["purezoo"]])
            cells = f"{np.median(ours):.1f} | {np.median(theirs):.1f}"
            spread = f"{ratio.min():.2f}-{ratio.max():.2f}"
            lines.append(f"| {name} | {cells} | {np.median(ratio):.2f} | {spread} |")
            print(lines[-1], f"first {first:.1f} s, outputs {off:.0e}", flush=True)
    text = f"On {problem()[4]}: above 1 purezoo is faster.\n\n" + "\n".join(lines)
    if asked.out:
        title = "# Graph networks beside PyTorch Geometric"
        told = f"{time.strftime('%Y-%m-%d')}: `python -m benchmarks.graph`, two cores."
        about = __doc__.split("\n\n", 2)[2].strip()
        asked.out.write_text("\n\n".join([title, told, about, text]) + "\n")
    else:
        print(text)


if __name__ == "__main__":
    main()
