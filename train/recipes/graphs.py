"""Graph neural networks that tell the classes of nodes."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import numpy as np
from flax import linen as nn

from train import evaluate
from train.data import Data, Schema, views
from train.recipes.base import Built, Goal, Recipe, Training, expect_classes
from train.report import Measured, Report, baselines, metrics
from train.report.measure import tested
from train.step import Trained
from zoo import graph as graphs
from zoo import supervised
from zoo.base import Number, UsageError, check_choice, check_int

Name = Literal["gcn", "sage", "gat", "gatv2", "gin"]
LAYERS: dict[str, Callable[..., nn.Module]] = {
    "gcn": graphs.GCN,
    "sage": graphs.SAGE,
    "gat": graphs.GAT,
    "gatv2": partial(graphs.GAT, second=True),
    "gin": graphs.GIN,
}


def classifier(
    schema: Schema,
    *,
    network: Name = "gcn",
    features: int = 16,
    layers: int = 2,
    heads: int = 8,
    last_heads: int = 1,
    dropout: Number = 0.5,
    penalty: Number = 5e-4,
) -> Built:
    """Layers on a graph, the last of which gives each node's class.

    The penalty is half of it times the sum of the squared weights, as the papers have
    it; heads are of attention alone, whose last layer has others: their mean.
    """
    classes = expect_classes(schema)
    if not schema.edges:
        raise UsageError(
            f"expected a graph, found examples of shape {schema.shape} in "
            f"{schema.name}; try mlp"
        )
    check_int("layers", layers, 1, 100)
    check_choice("network", network, tuple(LAYERS))
    attends = network.startswith("gat")
    made = LAYERS[network]
    hidden, last = {}, {}
    if attends:
        hidden = {"heads": heads, "dropout": dropout}
        last = hidden | {"heads": last_heads, "average": True}
    body = [made(features, **hidden) for _ in range(layers - 1)]
    act = nn.elu if attends else nn.relu
    found = graphs.Network((*body, made(classes, **last)), act, dropout)
    inputs = graphs.INPUTS if schema.lengths else graphs.INPUTS[:2]
    task = supervised.task(found, supervised.classes, inputs=inputs, l2=penalty / 2)
    return Built(task, found, _report(task, found, inputs, schema))


def _report(task, network, inputs, schema):
    def measure(trained: Trained, data: Data) -> Measured:
        """Scores of the nodes that count, and a picture of what all nodes are."""
        rows = tested(data)
        real = _counted(rows)
        found = evaluate.predict(task, trained, rows)
        scores = metrics.classification(found[real], rows["y"][real], schema.classes)

        def confusion():
            return _plot().confusion(scores["confusion"], schema.classes)

        def embedding():
            one = [rows[name][:1] for name in inputs]
            hidden = _hidden(network, trained, one)
            real = _counted({k: v for k, v in rows.items() if k != "mask"})[0]
            return _plot().embedding(hidden[real], rows["y"][0][real], schema.classes)

        files = {"confusion.png": confusion, "embedding.png": embedding}
        return Measured(scores, files=files)

    def compared(data: Data):
        """Of the nodes by themselves, without their edges."""
        train, test = (
            {name: rows[name][_counted(rows)] for name in ("x", "y")}
            for rows in (data.train, tested(data))
        )
        return baselines.found(schema, train, test)

    return Report(measure, baselines=compared, unit="nats")


def _counted(rows):
    """The nodes [B, N] that are no padding, and whose labels a mask counts."""
    real = rows.get("mask", np.ones(rows["y"].shape)) > 0
    if "length" in rows:
        real = real & (np.arange(real.shape[1]) < rows["length"][:, None])
    return real


def _hidden(network, trained, inputs):
    """What the layer before the last makes of the nodes of one graph: [N, F]."""
    variables = {"params": trained.params, **trained.model}
    each = jax.jit(partial(network.apply, method="each"))(variables, *inputs)
    return np.asarray(each[-2] if len(each) > 1 else each[-1])[0]


def _plot():
    from train.report import plot  # matplotlib takes half a second: only to draw

    return plot


KIPF = (
    'Kipf & Welling, "Semi-supervised classification with graph convolutional '
    'networks", 2017'
)
RECIPES = {
    "karate": Recipe(
        classifier,
        views.graph,
        "karate",
        Training(200, None, "adam", 1e-2, ema=0.95),
        Goal("accuracy", 1.0),
        "A graph convolutional network (or --network sage, gat, gatv2, gin) tells the "
        "two factions of a karate club from two known members: all of the others at "
        "eight seeds of ten, else all but one.",
        "two seconds",
        KIPF,
    ),
    "gcn": Recipe(
        partial(classifier, dropout=0.8, penalty=1e-3),
        views.graph,
        "cora",
        Training(400, None, "adam", 1e-2, ema=0.95),
        Goal("accuracy", 0.82),
        "A graph convolutional network (or --network sage, gat, gatv2, gin) tells the "
        "subjects of papers from 140 known ones and the citations. It has 0.815 there.",
        "ten seconds",
        KIPF,
    ),
    "gat": Recipe(
        partial(classifier, network="gat", features=64, dropout=0.6),
        views.graph,
        "cora",
        Training(300, None, "adam", 5e-3, ema=0.95),
        Goal("accuracy", 0.82),
        "A graph attention network tells the subjects of papers. The paper has 0.830.",
        "twenty seconds",
        'Velickovic et al., "Graph attention networks", 2018',
    ),
}
