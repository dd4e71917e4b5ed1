"""The karate club, Cora, a graph of one's own; runs; trees of sampled neighbours."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import train
from tests.conftest import CORA
from tests.test_graph import community
from train import loop, optim
from train.data import graphs
from train.data.inputs import examples
from train.data.schema import Split, blank
from train.evaluate import evaluate
from train.recipes import RECIPES, prepare
from zoo import edges as lists
from zoo import graph, supervised
from zoo.base import UsageError


def test_the_karate_club_is_zacharys():
    club = graphs.karate()
    a = np.zeros((34, 34))
    both = lists.undirected(club.edges)
    a[both[:, 0], both[:, 1]] = 1
    # counts that are published of it
    assert len(both) == 2 * 78 and np.trace(a @ a @ a) == 6 * 45  # triangles
    assert a.sum(0)[[0, 32, 33]].tolist() == [16, 12, 17] and a.sum(0).min() == 1
    assert np.bincount(club.y).tolist() == [16, 18]
    # a faction has few friends in the other: the cut of the paper is of ten
    assert (club.y[club.edges[:, 0]] != club.y[club.edges[:, 1]]).sum() == 10


def test_two_known_members_tell_the_others():
    recipe = prepare(RECIPES["karate"])
    assert recipe.data.train["mask"].sum() == 2
    fit = loop.fit(
        recipe.task,
        recipe.optimizer,
        recipe.source(),
        steps=recipe.training.steps,
        progress=False,
    )
    assert evaluate(recipe.task, fit.trained, recipe.data.test)["accuracy"] == 1.0
    assert evaluate(recipe.task, fit.trained, recipe.data.train)["accuracy"] == 1.0


@pytest.mark.contract
def test_a_run_of_a_graph_shows_its_nodes_and_is_loaded_again(zoo, tmp_path):
    status, out, _ = zoo("train karate --network gat --steps 60 --out run")
    assert status == 0 and "accuracy" in out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert np.sum(result["metrics"]["confusion"]) == 32  # all but those that are known
    assert (tmp_path / "run" / "embedding.png").stat().st_size > 5000
    model = train.load(tmp_path / "run")
    club = graphs.karate()
    both = lists.undirected(club.edges)
    p = model.predict({"x": club.x, "edges": both})
    assert p.shape == (1, 34, 2)
    right = (p[0].argmax(-1) == club.y)[graphs.karate().test].mean()
    assert right == pytest.approx(result["metrics"]["accuracy"])
    with pytest.raises(UsageError, match="expected a dict with x and edges"):
        model.predict(club.x)
    with pytest.raises(UsageError, match="nodes 0 to 33, found node 34"):
        model.predict({"x": club.x, "edges": both + 1})
    export = "export run --stablehlo karate.bin --weights karate.safetensors"
    assert zoo(export)[0] == 0
    program = jax.export.deserialize((tmp_path / "karate.bin").read_bytes())
    inputs = club.x[None].astype(np.float32), both[None].astype(np.int32)
    np.testing.assert_allclose(program.call(*inputs), p, atol=1e-5)


def test_a_graph_to_predict_of_is_read_of_a_file(tmp_path):
    schema = graphs.load_graph(Split("karate")).schema
    club, path = graphs.karate(), tmp_path / "club.npz"
    np.savez(path, x=club.x, edges=club.edges)
    rows = examples(schema, [path])  # as the command line gives it
    np.testing.assert_array_equal(rows["x"][0], club.x)
    assert rows["edges"].shape == (1, 156, 2)
    np.savez(path, x=club.x)
    for given, said in (
        ([path], r"x and edges, found \['x'\]"),
        ([path, path], "one graph, found 2"),
        ([tmp_path / "other.npz"], "found no file at"),
    ):
        with pytest.raises(UsageError, match=said):
            examples(schema, given)


@pytest.mark.parametrize(
    "command, said",
    [
        ("train karate --data karat", "did you mean 'karate'?"),
        ("train karate --patience 3", "expected labels to watch in karate, found none"),
        ("train mlp --data karate", "expected a file or one of the data sets"),
        ("train karate --layers 0", "expected layers between 1 and"),
        ("train gat --data karate --features 12", "8 heads and 12 features"),
        ("train gcn", "cora.npz, found no file: it is not downloaded"),
    ],
)
def test_a_mistake_is_one_sentence(zoo, monkeypatch, tmp_path, command, said):
    monkeypatch.setenv("ZOO_DATA_DIR", str(tmp_path / "nothing"))
    status, _, error = zoo(command)
    assert status == 2 and said in error and error.count("\n") == 1


@pytest.mark.skipif(not CORA, reason="Cora is not on this computer")
def test_cora_is_planetoids():
    data = graphs.load_graph(Split("cora", 0.1))
    y = data.train["y"][0]
    assert np.bincount(y[data.train["mask"][0] > 0]).tolist() == [20] * 7
    np.testing.assert_allclose(data.train["x"].sum(-1), 1, atol=1e-5)
    parts = [part["mask"] for part in (data.train, data.watched, data.test)]
    assert np.sum(parts, axis=0).max() == 1
    assert np.bincount(y).tolist() == [351, 217, 418, 818, 426, 298, 180]


def own(tmp_path, **other):
    edges, y = community()
    arrays = {"x": np.eye(20), "edges": edges, "y": y}
    arrays |= {
        "train": np.arange(6),
        "test": np.arange(10, 20),
        "val": np.arange(6, 10),
    }
    path = tmp_path / "own.npz"
    np.savez(path, **{k: v for k, v in (arrays | other).items() if v is not None})
    return path


@pytest.mark.contract
def test_a_graph_of_ones_own_is_learned(zoo, tmp_path):
    command = f"train gcn --data {own(tmp_path)} --steps 200 --patience 5 --out run"
    assert zoo(command)[0] == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["metrics"]["accuracy"] >= 0.8 and result["evaluated"] == "watched"


ONES = {"x": None, "x_row": np.arange(2), "x_col": np.arange(2), "shape": [20, 3]}


def test_a_part_may_be_a_mask(tmp_path):
    parts = {"train": np.arange(20) < 6, "test": np.arange(20) >= 10}
    data, right = (
        graphs.load_graph(Split(str(own(tmp_path, **other)))) for other in (parts, {})
    )
    np.testing.assert_array_equal(data.train["mask"], right.train["mask"])
    np.testing.assert_array_equal(data.test["mask"], right.test["mask"])


@pytest.mark.parametrize(
    "other, said",
    [
        ({"edges": None}, "found no edges"),
        ({"edges": np.array([[0, 20]])}, "nodes 0 to 19, found node 20"),
        ({"y": np.zeros(19, int)}, r"found shapes \(20, 20\) and \(19,\)"),
        ({"y": np.full(20, -1)}, "expected labels from 0"),
        ({"y": np.zeros(20, int)}, "two classes or more in .* 0 to 0 of 20 nodes"),
        ({"y": np.arange(20) * 10**8}, "found 0 to 1900000000 of 20 nodes"),
        ({"edges": np.zeros((0, 2), int)}, "expected edges in .* found none"),
        ({"train": np.array([20])}, 'in train of .* nodes, 0 to 19, .* found "20"'),
        ({"test": np.zeros(0, int)}, "in test of .* found none"),
        ({"test": np.ones(19, bool)}, "in test of .* or a mask of them"),
        ({"test": np.arange(5, 20)}, "in one part of .* found 5 twice"),
        (ONES | {"shape": None}, "or shape with what it has of x"),
        (ONES | {"x_col": np.array([0, 9])}, "x_col of .* in 0 to 2, found 0 to 9"),
        (
            ONES | {"x_col": np.array([0.0, 1.0])},
            r"expected integers x_row, x_col \[M\]",
        ),
        ({"x": np.full((20, 2), np.nan)}, "expected finite numbers"),
    ],
)
def test_a_graph_that_is_not_whole_is_named(tmp_path, other, said):
    with pytest.raises(UsageError, match=said):
        graphs.load_graph(Split(str(own(tmp_path, **other))))


def test_a_blank_graph_is_like_the_rows():
    data = graphs.load_graph(Split("karate"))
    rows = {name: data.train[name] for name in blank(data.schema)}
    for name, array in blank(data.schema).items():
        assert (array.shape, array.dtype) == (rows[name].shape, rows[name].dtype)


# Sampled neighbours -------------------------------------------------------------------


def sampled(fans=(3, 2), size=4):
    """Of a graph in which 5 has no senders and x is the node's number."""
    edges = np.array([[0, 1], [2, 1], [3, 1], [1, 0], [5, 0], [4, 3], [0, 2], [1, 4]])
    x, y = np.arange(6.0)[:, None].astype(np.float32), np.arange(6, dtype=np.int32)
    return edges, graphs.neighbours(x, edges, y, np.arange(6), fans, size)


def test_a_tree_is_of_neighbours():
    edges, source = sampled()
    known = set(map(tuple, edges))
    draw = jax.jit(source.batch)
    seen, roots = set(), []
    for t in range(60):
        batch = jax.device_get(draw(source.arrays, np.uint32(1), np.int32(t)))
        assert batch["x"].shape == (4, 1 + 3 + 6, 1)
        assert batch["edges"].shape == (4, 9, 2)
        roots += batch["y"].tolist()
        nodes = batch["x"][..., 0].astype(int)
        np.testing.assert_array_equal(nodes[:, 0], batch["y"])
        for row, tree, mask in zip(
            nodes, batch["edges"], batch["edge_mask"], strict=True
        ):
            for (child, parent), real in zip(tree, mask, strict=True):
                pair = row[child], row[parent]
                assert bool(real) == (pair[1] != 5)
                assert not real or pair in known
                seen |= {tuple(map(int, pair))} if real else set()
    assert seen == known  # all are drawn at some time
    for epoch in np.reshape(roots, (-1, 6)):
        assert sorted(epoch) == list(range(6))


def test_a_tree_is_a_function_of_seed_and_step():
    _, source = sampled()
    draw = jax.jit(source.batch)

    def x(seed, t):
        return np.asarray(draw(source.arrays, np.uint32(seed), np.int32(t))["x"])

    np.testing.assert_array_equal(x(0, 7), x(0, 7))
    assert not np.array_equal(x(0, 7), x(1, 7)) and not np.array_equal(x(0, 7), x(0, 8))


def test_neighbours_are_drawn_evenly():
    edges, source = sampled((30,), 6)
    draw = jax.vmap(lambda t: source.batch(source.arrays, jnp.uint32(0), t))
    found = jax.device_get(jax.jit(draw)(jnp.arange(100)))
    drawn = found["x"][found["y"] == 1][:, 1:].astype(int).ravel()
    counts = np.bincount(drawn, minlength=4)
    assert counts[1] == 0 and len(drawn) == 3000  # node 1 hears 0, 2 and 3
    assert np.abs(counts[[0, 2, 3]] - 1000).max() < 130  # five deviations


@pytest.mark.contract
def test_what_trees_taught_holds_on_the_whole_graph():
    edges, y = community(40)
    x = np.eye(40, dtype=np.float32)
    body = graph.Network((graph.SAGE(16), graph.SAGE(2)))
    roots = np.arange(0, 20)
    source = graphs.neighbours(x, edges, y, roots, (5, 5), 10)
    model = graph.Classifier(2, body, "first")
    task = supervised.task(model, supervised.classes, inputs=graph.INPUTS)
    adam = optim.optimizer("adam", 1e-2)
    fit = loop.fit(task, adam, source, steps=150, progress=False)
    params = fit.trained.params["network"]
    logits = body.apply({"params": params}, x[None], edges[None])[0]
    assert (logits.argmax(-1) == y)[20:].mean() > 0.9


@pytest.mark.parametrize("roots, fans", [([20], (2,)), ([0], ()), ([0], (0,))])
def test_wrong_trees_are_refused(roots, fans):
    edges, y = community()
    with pytest.raises(UsageError, match="roots|fans"):
        graphs.neighbours(np.eye(20)[:, :2], edges, y, roots, fans, 1)
