"""Graph networks: the papers' equations in numpy, symmetries, padding, what 1-WL tells.

The references are dense matrices in float64, which know no lists of edges.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train import loop, optim
from train.evaluate import evaluate
from train.source import full
from zoo import edges as lists
from zoo import graph, supervised
from zoo.base import UsageError

LAYERS = {
    "gcn": graph.GCN,
    "sage": graph.SAGE,
    "gin": graph.GIN,
    "gat": partial(graph.GAT, heads=2),
    "gatv2": partial(graph.GAT, heads=2, second=True),
}
KINDS = pytest.mark.parametrize("kind", LAYERS)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # float32 beside float64; the faults are 1e-2


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def randomized(variables):
    """Every parameter random, for some begin at zero."""
    leaves, tree = jax.tree.flatten(variables)
    values = [0.5 * normal(i, *leaf.shape) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(tree, [jnp.asarray(value) for value in values])


def example(seed=0, nodes=7, chance=0.3):
    """x [1, N, 5], edges [1, E, 2] in one direction; the last node sends nothing."""
    rng = np.random.default_rng(seed)
    there = rng.random((nodes, nodes)) < chance
    there[-1] = False
    np.fill_diagonal(there, False)
    return normal(seed, 1, nodes, 5), np.argwhere(there).astype(np.int32)[None]


def network(kind, *features):
    return graph.Network(tuple(LAYERS[kind](f) for f in features), jnp.tanh)


def started(model, *inputs):
    variables = model.init(jax.random.key(0), *map(jnp.asarray, inputs))
    return {"params": randomized(variables["params"])}


# The equations ------------------------------------------------------------------------


def matrix(edges, nodes):
    """A[i, j] = 1 where j sends to i."""
    a = np.zeros((nodes, nodes))
    np.add.at(a, (edges[0, :, 1], edges[0, :, 0]), 1)
    return a


def attended(scores, a, slope=0.2):
    scores = np.where(scores > 0, scores, slope * scores)
    weights = np.where(a, np.exp(scores - scores.max()), 0)
    return weights / weights.sum(1, keepdims=True)


def by_hand(kind, w, x, a, fault=None):
    """The layer in float64; a fault is one that people make."""
    eye = np.eye(len(x)) * (fault != "no loops")
    if kind == "gcn":
        degree = (
            (a + eye).sum(1) if fault != "degrees of A" else np.maximum(a.sum(1), 1)
        )
        if fault == "no loops":
            degree = np.maximum(degree, 1)
        scaled = (a + eye) / np.sqrt(np.outer(degree, degree))
        if fault == "rows alone":
            scaled = (a + eye) / degree[:, None]
        return scaled @ x @ w["dense"]["kernel"] + w["bias"]
    if kind == "sage":
        count = a.sum(1, keepdims=True) + (fault == "itself counted")
        mean = a @ x / np.maximum(count, 1)
        own, others = w["own"]["kernel"], w["neighbours"]["kernel"]
        return x @ own + mean @ others + w["bias"]
    if kind == "gin":
        h = (1 + (fault != "no epsilon") * w["epsilon"]) * x + a @ x
        for i, name in enumerate(("Dense_0", "Dense_1")):
            h = (np.maximum(h, 0) if i else h) @ w[name]["kernel"] + w[name]["bias"]
        return h
    heads = []
    slope = 0.01 if fault == "slope" else 0.2
    for i in range(2):
        columns = slice(2 * i, 2 * i + 2)
        h = x @ w["dense"]["kernel"][:, columns]
        if kind == "gat":
            query, key = w["query"][i], w["key"][i]
            query, key = (key, query) if fault == "query for key" else (query, key)
            weights = attended((h @ query)[:, None] + (h @ key)[None], a + eye, slope)
        else:
            both = (x @ w["asking"]["kernel"][:, columns])[:, None] + h[None]
            both = np.where(both > 0, both, slope * both) @ w["vector"][i]
            weights = attended(both, a + eye, 1)
        heads.append(weights @ h)
    return np.concatenate(heads, 1) + w["bias"]


def found_and_hand(kind, fault=None):
    x, edges = example()
    model = network(kind, 4)
    variables = started(model, x, edges)
    w = jax.tree.map(lambda p: np.asarray(p, np.float64), variables["params"])
    found = model.apply(variables, x, edges)[0]
    a = matrix(edges, x.shape[1])
    return found, by_hand(kind, w["layers_0"], x[0].astype(np.float64), a, fault)


@KINDS
def test_a_layer_is_its_papers_equation(kind):
    np.testing.assert_allclose(*found_and_hand(kind), **CLOSE)


FAULTS = {
    "gcn": ("no loops", "degrees of A", "rows alone"),
    "sage": ("itself counted",),
    "gin": ("no epsilon",),
    "gat": ("slope", "query for key"),
    "gatv2": ("slope",),
}


@pytest.mark.parametrize(
    "kind, fault", [(k, f) for k, fs in FAULTS.items() for f in fs]
)
def test_a_fault_is_seen(kind, fault):
    found, hand = found_and_hand(kind, fault)
    assert np.abs(found - hand).max() > 1e-2


def test_the_gradient_of_gcn_is_that_of_matrices():
    x, edges = example()
    model = network("gcn", 4)
    variables, c = started(model, x, edges), normal(9, 1, 7, 4)

    def value(variables, x):
        return (model.apply(variables, x, edges) * c).sum()

    grads, slope = jax.grad(value, (0, 1))(variables, jnp.asarray(x))
    a = matrix(edges, 7) + np.eye(7)
    scaled = a / np.sqrt(np.outer(a.sum(1), a.sum(1)))
    w = variables["params"]["layers_0"]["dense"]["kernel"]
    grads = grads["params"]["layers_0"]
    np.testing.assert_allclose(
        grads["dense"]["kernel"], (scaled @ x[0]).T @ c[0], **CLOSE
    )
    np.testing.assert_allclose(grads["bias"], c[0].sum(0), **CLOSE)
    np.testing.assert_allclose(slope[0], scaled.T @ c[0] @ w.T, **CLOSE)


def test_gcn_of_a_complete_graph_is_the_mean():
    x, _ = example()
    edges = np.array([list(itertools.permutations(range(7), 2))], np.int32)
    model = network("gcn", 4)
    variables = started(model, x, edges)
    w = variables["params"]["layers_0"]
    mean = x[0].mean(0) @ w["dense"]["kernel"] + w["bias"]
    found = model.apply(variables, x, edges)[0]
    np.testing.assert_allclose(found, np.tile(mean, (7, 1)), **CLOSE)


def test_softmax_in_numbers():
    edges = lists.edges_of(jnp.array([[[0, 1], [2, 1], [1, 0], [2, 0], [0, 0]]]), 3)
    edges = edges._replace(real=jnp.array([[True, True, True, True, False]]))
    scores = jnp.array([0, np.log(3), 1000, 1000 + np.log(4), jnp.nan])
    found = lists.softmax(scores.reshape(1, 5, 1), edges, 3)[0, :, 0]
    np.testing.assert_allclose(found, [0.25, 0.75, 0.2, 0.8, 0], rtol=1e-4)

    def largest(scores):
        return lists.softmax(scores.reshape(1, 5, 1), edges, 3)[0, 1, 0]

    slope = jax.grad(largest)(scores)  # p (1 - p), and no NaN of what does not count
    np.testing.assert_allclose(slope, [-0.1875, 0.1875, 0, 0, 0], atol=1e-6)


@pytest.mark.parametrize("kind", ["gat", "gatv2"])
def test_attention_sums_to_one(kind):
    x, edges = example()
    model = network(kind, 4, 6)
    variables = started(model, x, edges)
    maps = graph.attention_maps(model, variables, x, edges)
    assert [m.shape for m in maps] == [(1, edges.shape[1] + 7, 2)] * 2
    target = np.concatenate([edges[0, :, 1], np.arange(7)])
    for weights in maps:
        sums = np.zeros((7, 2))
        np.add.at(sums, target, weights[0])
        np.testing.assert_allclose(sums, 1, rtol=1e-5)
        assert np.ptp(weights[0]) > 0.05


def ranks(kind):
    """Whether all nodes of a complete graph have one favourite."""
    x = 3 * normal(1, 1, 6, 5)
    edges = np.array([list(itertools.permutations(range(6), 2))], np.int32)
    model = network(kind, 4)
    weights = graph.attention_maps(model, started(model, x, edges), x, edges)[0][0]
    dense = np.zeros((6, 6, 2))
    dense[edges[0, :, 1], edges[0, :, 0]] = weights[:30]
    dense[np.arange(6), np.arange(6)] = weights[30:]
    return len(set(dense[..., 0].argmax(1))) == 1


def test_only_the_second_attention_ranks_for_each_node():
    # Brody et al. 2022, theorem 1
    assert ranks("gat") and not ranks("gatv2")


# Symmetries ---------------------------------------------------------------------------


@KINDS
def test_nodes_may_be_permuted_and_edges_in_any_order(kind):
    x, edges = example()
    model = network(kind, 4, 6)
    variables = started(model, x, edges)
    plain = model.apply(variables, x, edges)
    shuffled = np.random.default_rng(0).permutation(edges, axis=1)
    np.testing.assert_allclose(model.apply(variables, x, shuffled), plain, **CLOSE)
    order = np.random.default_rng(1).permutation(7)  # new node i is the old order[i]
    renumbered = np.argsort(order)[edges].astype(np.int32)
    found = model.apply(variables, x[:, order], renumbered)
    np.testing.assert_allclose(found, plain[:, order], **CLOSE)
    assert np.abs(plain[:, order] - plain).max() > 0.1


READOUTS = pytest.mark.parametrize("readout", ["sum", "mean", "max"])


@READOUTS
def test_a_graph_is_read_out_whatever_its_order(readout):
    x, edges = example()
    model = graph.Classifier(3, network("gin", 4, 6), readout)
    variables = started(model, x, edges)
    order = np.random.default_rng(1).permutation(7)
    found = model.apply(variables, x[:, order], np.argsort(order)[edges])
    np.testing.assert_allclose(found, model.apply(variables, x, edges), **CLOSE)


@KINDS
@pytest.mark.parametrize("readout", [None, "sum", "mean", "max"])
def test_padding_changes_nothing_whatever_it_holds(kind, readout):
    x, edges = example()
    model = network(kind, 4, 6)
    model = model if readout is None else graph.Classifier(3, model, readout)
    variables = started(model, x, edges)
    wide = np.concatenate([x, np.full((1, 3, 5), np.nan, np.float32)], 1)
    # past the end, among the padding, from it, and one between nodes that is masked
    junk = np.array([[[99, -5], [8, 9], [8, 0], [1, 2]]], np.int32)
    more = np.concatenate([edges, junk], 1)
    mask = np.array([[1] * edges.shape[1] + [0, 1, 1, 0]], np.float32)
    padded = wide, more, np.array([7], np.int32), mask

    def value(variables, *inputs):
        found = model.apply(variables, *inputs)
        found = found[:, :7] if readout is None else found
        return jnp.sin(found).sum(), found

    slope = jax.jit(jax.grad(value, has_aux=True))
    (plain, a), (grads, b) = slope(variables, x, edges), slope(variables, *padded)
    np.testing.assert_allclose(a, b, **CLOSE)
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, **CLOSE), plain, grads)


# What can be told ---------------------------------------------------------------------


def told(pairs, nodes, readout="sum", kind="gin"):
    """The outputs of graphs without features, each a set of pairs of nodes: [B, 4]."""
    size = max(2 * max(map(len, pairs)), 1)
    edges, mask = (
        np.zeros((len(pairs), size, 2), np.int32),
        np.zeros((len(pairs), size)),
    )
    for i, some in enumerate(pairs):
        both = [*some, *((b, a) for a, b in some)]
        edges[i, : len(both)] = np.reshape(both, (-1, 2))
        mask[i, : len(both)] = 1
    x = np.ones((len(pairs), nodes, 1), np.float32)
    length = np.full(len(pairs), nodes, np.int32)
    model = graph.Classifier(4, network(kind, 8, 8, 8), readout)
    inputs = x, edges, length, mask.astype(np.float32)
    variables = started(model, *(a[:1] for a in inputs))
    return np.asarray(jax.jit(model.apply)(variables, *inputs))


def groups(outputs):
    """How many outputs differ by more than rounding."""
    found = []
    for row in outputs:
        if not any(np.abs(row - other).max() < 1e-4 for other in found):
            found.append(row)
    return len(found)


@pytest.mark.contract
def test_gin_tells_every_two_graphs_of_five_nodes():
    # of 1,024 labelled ones 34 differ (OEIS A000088), and 1-WL tells all of these
    pairs = list(itertools.combinations(range(5), 2))
    chosen = itertools.product([False, True], repeat=len(pairs))
    graphs = [list(itertools.compress(pairs, some)) for some in chosen]
    assert len(graphs) == 1024
    assert groups(told(graphs, 5)) == 34
    # the mean and the maximum cannot count
    assert groups(told(graphs, 5, "mean", "sage")) < 34
    assert groups(told(graphs, 5, "max", "gcn")) < 34


def test_gin_tells_no_more_than_weisfeiler_and_lehman():
    hexagon = [(i, (i + 1) % 6) for i in range(6)]
    triangles = [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3)]
    prism = [*triangles, (0, 3), (1, 4), (2, 5)]
    bipartite = [(i, j) for i in range(3) for j in range(3, 6)]  # K(3, 3)
    path = hexagon[:-1]
    outputs = told([hexagon, triangles, prism, bipartite, path], 6)
    np.testing.assert_allclose(outputs[0], outputs[1], **CLOSE)
    np.testing.assert_allclose(outputs[2], outputs[3], **CLOSE)
    assert groups(outputs) == 3


# Learning -----------------------------------------------------------------------------


@pytest.mark.contract
def test_labels_that_a_mask_drops_teach_nothing_but_their_nodes_do():
    x, edges = example()
    task = supervised.task(
        network("gcn", 4, 3), supervised.classes, inputs=graph.INPUTS[:2]
    )
    mask = np.array([[1, 1, 0, 0, 0, 0, 1]], np.float32)
    y = np.array([[0, 1, 2, 0, 1, 2, 2]], np.int32)
    params, state = task.init(jax.random.key(0), {"x": x, "edges": edges})

    def loss(params, x, y):
        batch = {"x": x, "edges": edges, "y": y, "mask": mask}
        return task.loss(params, state, batch, jax.random.key(0), train=True)[0]

    slope = jax.grad(loss, (0, 1))
    others = np.where(mask, y, (y + 1) % 3).astype(np.int32)
    (a, by_node), (b, _) = slope(params, x, y), slope(params, x, others)
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert np.abs(by_node[0, 2:6]).max() > 0
    logits = network("gcn", 4, 3).apply({"params": params}, x, edges)[0]
    picked = [(0, 0), (1, 1), (6, 2)]
    exact = -np.mean([jax.nn.log_softmax(logits[i])[k] for i, k in picked])
    assert loss(params, x, y) == pytest.approx(exact, rel=1e-5)


def community(nodes=20):
    """Two groups, thick inside: edges [E, 2] both ways, labels."""
    rng = np.random.default_rng(0)
    y = np.arange(nodes) % 2
    chance = np.where(y[:, None] == y[None], 0.6, 0.05)
    there = np.triu(rng.random((nodes, nodes)) < chance, 1)
    return lists.undirected(np.argwhere(there)).astype(np.int32), y.astype(np.int32)


@pytest.mark.contract
def test_graphs_are_classified():
    """A ring or a star, of any size."""
    rng = np.random.default_rng(0)
    n, nodes = 64, 9
    y = np.arange(n, dtype=np.int32) % 2
    length = rng.integers(4, nodes + 1, n).astype(np.int32)
    edges, mask = (
        np.zeros((n, 2 * nodes, 2), np.int32),
        np.zeros((n, 2 * nodes), np.float32),
    )
    for i, size in enumerate(length):
        ring = [(j, (j + 1) % size) for j in range(size)]
        both = lists.undirected(
            np.array([(0, j) for j in range(1, size)] if y[i] else ring)
        )
        edges[i, : len(both)], mask[i, : len(both)] = both, 1
    rows = {"x": np.ones((n, nodes, 1), np.float32), "edges": edges, "length": length}
    rows |= {"edge_mask": mask, "y": y}
    model = graph.Classifier(2, graph.Network((graph.GIN(8), graph.GIN(8))), "mean")
    task = supervised.task(model, supervised.classes, inputs=graph.INPUTS)
    adam = optim.optimizer("adam", 1e-2)
    fit = loop.fit(task, adam, full(rows), steps=100, progress=False)
    assert evaluate(task, fit.trained, rows)["accuracy"] == 1.0


def pairs_of(edges, nodes):
    """Each edge once, y = 1, and as many pairs that are none."""
    there = edges[edges[:, 0] < edges[:, 1]]
    known = set(map(tuple, edges))
    others = [p for p in itertools.combinations(range(nodes), 2) if p not in known]
    others = np.random.default_rng(0).permutation(others)[: len(there)]
    y = np.repeat(np.array([1, 0], np.int32), (len(there), len(others)))
    return np.concatenate([there, others]).astype(np.int32), y


@pytest.mark.contract
def test_links_are_told():
    edges, _ = community()
    pairs, y = pairs_of(edges, 20)
    rows = {"x": np.eye(20, dtype=np.float32), "edges": edges, "pairs": pairs, "y": y}
    rows = {name: array[None] for name, array in rows.items()}
    task = graph.links(network("gcn", 16, 8))
    adam = optim.optimizer("adam", 1e-2)
    fit = loop.fit(task, adam, full(rows), steps=150, progress=False)
    p = task.predict(fit.trained.params, {}, rows)[0]
    assert p.shape == y.shape
    wins = (p[y == 1][:, None] > p[y == 0][None]).mean()  # the area under the curve
    assert wins > 0.9
    turned = rows | {"pairs": rows["pairs"][..., ::-1]}
    np.testing.assert_allclose(
        task.predict(fit.trained.params, {}, turned)[0], p, **CLOSE
    )


@pytest.mark.contract
def test_the_loss_of_links_in_numbers():
    edges, _ = community()
    pairs, y = pairs_of(edges, 20)
    rows = {"x": np.eye(20, dtype=np.float32), "edges": edges, "pairs": pairs, "y": y}
    rows = {name: jnp.asarray(array)[None] for name, array in rows.items()}
    task, key = graph.links(network("gcn", 16, 8)), jax.random.key(3)
    params, state = task.init(key, rows)
    z = np.asarray(
        network("gcn", 16, 8).apply({"params": params}, rows["x"], rows["edges"])
    )[0]

    def nats(pairs, label):
        logits = (z[pairs[:, 0]] * z[pairs[:, 1]]).sum(-1)
        return np.log1p(np.exp(-logits if label else logits))

    value, aux = task.loss(params, state, rows, key, train=False)
    exact = np.concatenate([nats(pairs[y == 1], 1), nats(pairs[y == 0], 0)])
    assert value == pytest.approx(exact.mean(), rel=1e-4)
    assert aux.metrics["loss"].count == len(y)
    mask = (np.arange(len(y)) < 5).astype(np.float32)[None]
    value, aux = task.loss(params, state, rows | {"mask": mask}, key, train=False)
    assert value == pytest.approx(nats(pairs[:5], 1).mean(), rel=1e-4)
    value, aux = task.loss(params, state, rows, key, train=True)
    drawn, apart = graph.negatives(jax.random.split(key)[1], rows, len(y))
    others = np.asarray(drawn)[0, np.asarray(apart[0]) & (y == 1)]
    exact = np.concatenate([nats(pairs[y == 1], 1), nats(others, 0)])
    assert value == pytest.approx(exact.mean(), rel=1e-4)


def test_pairs_that_are_drawn_are_even_and_no_edges():
    edges, _ = community()
    batch = {"x": jnp.zeros((2, 20, 1)), "edges": jnp.asarray(np.stack([edges, edges]))}
    drawn, apart = graph.negatives(jax.random.key(0), batch, 20_000)
    known = set(map(tuple, edges))
    exact = [tuple(map(int, pair)) not in known for pair in np.asarray(drawn[0])]
    np.testing.assert_array_equal(apart[0], exact)
    assert not np.array_equal(drawn[0], drawn[1])
    counts = np.bincount(np.asarray(drawn[0]) @ [20, 1], minlength=400)
    assert np.sum((counts - 50) ** 2 / 50) < 399 + 5 * np.sqrt(2 * 399)  # chi-square
    # of a padded graph, none of the padding; an edge that is masked is none
    some = {
        "length": jnp.array([5, 20]),
        "edge_mask": jnp.zeros(batch["edges"].shape[:2]),
    }
    drawn, apart = graph.negatives(jax.random.key(0), batch | some, 100)
    assert drawn[0].max() == 4 and drawn[1].max() > 15 and apart.all()
    with pytest.raises(UsageError, match="at most 46340 nodes"):
        graph.negatives(jax.random.key(0), {"x": jnp.zeros((1, 46_341, 0))}, 1)


# Mistakes -----------------------------------------------------------------------------

X = np.zeros((1, 3, 2), np.float32)


@pytest.mark.parametrize(
    "x, edges, said",
    [
        (X, [[[0, 3]]], "expected edges between nodes 0 to 2, found node 3"),
        (X, [[[-1, 1]]], "expected edges between nodes 0 to 2, found node -1"),
        (X, [[[0.0, 1.0]]], "expected integer edges, pairs of nodes, found float"),
        (X, [[[0, 1, 2]]], r"expected edges \[..., E, 2\], found shape \(1, 1, 3\)"),
        (X[0], [[[0, 1]]] * 3, r"expected inputs \[B, N, D\], found shape \(3, 2\)"),
        (X.astype(int), [[[0, 1]]], "expected floating-point inputs"),
    ],
)
def test_a_mistake_is_one_sentence(x, edges, said):
    with pytest.raises(UsageError, match=said):
        network("gcn", 2).init(jax.random.key(0), x, np.array(edges))


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(UsageError, match="2 heads and 3 features"):
        network("gat", 3).init(jax.random.key(0), X, np.array([[[0, 1]]]))


def test_edges_are_looked_at_before_a_training():
    rows = {"x": X, "edges": np.array([[[0, 3]]], np.int32), "y": np.zeros((1, 3), int)}
    task = supervised.task(
        network("gcn", 2), supervised.classes, inputs=graph.INPUTS[:2]
    )
    adam = optim.optimizer("adam", 1e-2)
    with pytest.raises(UsageError, match="nodes 0 to 2, found node 3"):
        loop.fit(task, adam, full(rows), steps=1, progress=False)
    # of what does not count anything goes
    fine = rows | {"edge_mask": np.zeros((1, 1), np.float32), "length": np.array([3])}
    padded = supervised.task(network("gcn", 2), supervised.classes, inputs=graph.INPUTS)
    loop.fit(padded, adam, full(fine), steps=1, progress=False)
