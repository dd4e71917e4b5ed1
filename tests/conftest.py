"""Strict runs: zoo's types are checked, rank promotion raises, two CPU devices.

Compiled programs are kept, and Python's bytecode: reading all tests takes a third less.
"""

import gc
import os
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jaxtyping import install_import_hook

sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# before zoo is imported: what its signatures say of types and shapes is checked
install_import_hook("zoo", "beartype.beartype")

from train import data as sets
from train.__main__ import HUGE
from train.data import Data, Schema, views
from train.data.download import cache
from train.recipes import RECIPES, Experiment, prepare, saved

# a folder for each of pytest-xdist's workers: none reads what another still writes
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "xla")
CACHE = Path(__file__).parent.parent / ".cache" / WORKER

# a graph that is not downloaded
CORA = any((cache() / at).is_file() for at in ("cora/cora.npz", "cora.npz"))

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


def pytest_configure(config):
    """Most of the time of the small tests is compiling: they leave out slow passes.

    The workers, and what else the tests start, begin with huge pages, as `zoo` does.
    """
    os.environ.setdefault("GLIBC_TUNABLES", f"{HUGE}=1")
    os.environ.setdefault("XDG_CACHE_HOME", str(CACHE))  # not the user's
    marks = config.option.markexpr
    if "not slow" in marks or marks.startswith("contract"):
        flags = ["backend_optimization_level=0", "llvm_disable_expensive_passes=true"]
        flags.append("cpu_parallel_codegen_split_count=1")  # the workers are parallel
        if jax.__version_info__ < (0, 12):  # where the flag is known
            flags.append("cpu_use_fusion_emitters=false")
        os.environ.setdefault("XLA_FLAGS", " ".join(f"--xla_{flag}" for flag in flags))


def pytest_collection_finish():
    """What is imported by now stays: it is not looked through for garbage again."""
    gc.freeze()
    gc.set_threshold(50_000)


@pytest.fixture(autouse=True, scope="module")
def forget():
    """Drop a module's compiled programs: each maps memory, and maps are numbered.

    Past the kernel's vm.max_map_count (65,530) the compiler crashes.
    """
    yield
    jax.clear_caches()
    gc.collect()


def first(data: Data, n: int) -> Data:
    """A data set's first n rows of each part; of a text, n windows of eight or so."""

    def cut(rows):
        size = 8 * n if "tokens" in rows else n
        return {name: array[:size] for name, array in rows.items()}

    return sets.change(data, cut)


SMALL = {
    "resnet20": {"data": "digits", "depth": 8},
    **dict.fromkeys(("rnn", "gru", "lstm", "peephole_lstm"), {"features": 16}),
    # without jit, a scan over layers draws other dropout: none here
    "transformer_classifier": {"width": 16, "heads": 2, "dropout": 0.0},
    "char_lstm": {"length": 12, "features": 32, "width": 16},
    "char_transformer": {"length": 12, "width": 32, "heads": 2, "dropout": 0.0},
    "text_lstm": {"features": 8, "width": 8, "vocabulary": 100, "length": 8},
    "text_transformer": {"width": 16, "heads": 2, "vocabulary": 100, "length": 8}
    | {"dropout": 0.0},
    "bag_of_words": {"vocabulary": 100, "length": 24},
    "seq2seq_lstm": {"data": "reverse", "features": 32, "width": 16},
    "seq2seq_transformer": {"data": "reverse", "width": 32, "dropout": 0.0},
    "copy": {"width": 32, "layers": 1, "heads": 2},
    **dict.fromkeys(
        ("autoencoder", "denoising_autoencoder"), {"data": "digits", "latent": 4}
    ),
    # where all rows stand at a centre, a gradient is rounding
    "kmeans": {"data": "iris", "clusters": 3, "keep": 0.9, "learning_rate": 0.5},
    "pca": {"components": 7},
    "multitask": {"data": "digits", "widths": (32,), "dropout": 0.0}
    | {"weighting": "pcgrad"},
    "bernoulli_mixture": {"data": "digits", "components": 12, "learning_rate": 0.01},
    **dict.fromkeys(
        ("vae", "conditional_vae"), {"data": "digits", "latent": 4, "widths": (32,)}
    ),
    "rbm": {"data": "digits", "latent": 32, "chains": 32},
    "conv_vae": {"data": "digits", "latent": 4, "channels": (4, 8)},
    "recurrent_vae": {"length": 12, "latent": 4, "features": 16, "anneal": 4},
    "keyword": {"data": "tones", "channels": (4, 8), "width": 16, "dropout": 0.0}
    | {"augment": False},
    "ctc": {"data": "tones", "features": 16, "layers": 1, "stack": 4, "dropout": 0.0}
    | {"augment": False},
    **dict.fromkeys(("karate", "gcn"), {"features": 32, "dropout": 0.0}),
    "gat": {"features": 16, "heads": 2, "dropout": 0.0},
    "gan": {"data": "digits", "latent": 4},
    **dict.fromkeys(
        ("dcgan", "wgan_gp", "conditional_gan"),
        {"data": "digits", "latent": 4, "channels": (8, 4)},
    ),
    "semi_supervised_gan": {"data": "digits", "latent": 4, "channels": (8, 4)}
    | {"labels": 1000},
    "few_labels": {"data": "digits", "channels": (8, 4), "labels": 1000},
    **dict.fromkeys(
        ("simclr", "barlow_twins"),
        {"data": "digits", "channels": (4, 8), "width": 16, "labels": 1000},
    ),
    "ppo": {"environments": 2, "horizon": 8, "epochs": 2, "parts": 2, "widths": (8,)},
    "dqn": {"environments": 2, "memory": 40, "batch_size": 8, "widths": (8,)}
    | {"warmup": 0, "refresh": 2, "exploring": 4.0},
    "sac": {"environments": 2, "memory": 40, "batch_size": 8, "widths": (8,)}
    | {"warmup": 0},
    **dict.fromkeys(
        ("drive_cnn", "drive_lstm"),
        {"drivers": 2, "channels": (4, 8), "widths": (8,), "features": 8},
    ),
    **dict.fromkeys(
        ("matrix_factorization", "factorization_machine"),
        {"data": "tastes", "width": 4, "l2": 0.0, "bias_l2": 0.0},
    ),
    "bpr": {"data": "tastes", "width": 4, "negatives": 1, "l2": 0.0, "bias_l2": 0.0},
    "neumf": {"data": "tastes", "width": 4, "widths": (8,), "dropout": 0.0}
    | {"l2": 0.0, "bias_l2": 0.0},
    **dict.fromkeys(
        ("unet", "centernet"), {"data": "shape_scenes", "channels": (4, 8, 8)}
    ),
    "knowledge_graph": {"data": "clock", "width": 16, "dropout": 0.0},
    "word2vec": {"width": 8, "min_count": 100},
    "fasttext": {"width": 8, "min_count": 100, "buckets": 50},
    "glove": {"width": 8, "min_count": 100},
}
# they learn from no rows: their contracts are in test_acting.py
ACTING = ("ppo", "dqn", "sac")
OF_ROWS = [name for name in RECIPES if name not in ACTING]


def graphs(n: int) -> Data:
    """Padded graphs of 6 to 9 nodes of 3 classes, which the neighbours tell."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 9, 6)).astype(np.float32)
    length = rng.integers(6, 10, n).astype(np.int32)
    edges = np.sort(rng.integers(0, length[:, None, None], (n, 16, 2)), 1)
    mask = (rng.random((n, 16)) < 0.9).astype(np.float32)
    around = x.copy()
    for graph, node in np.argwhere(mask):
        i, j = edges[graph, node]
        around[graph, j] += x[graph, i]
    y = around[..., :3].argmax(-1).astype(np.int32)
    x *= np.arange(9)[None, :, None] < length[:, None, None]
    rows = {"x": x, "edges": edges.astype(np.int32), "y": y}
    rows |= {"length": length, "edge_mask": mask}
    still = (0.0,) * 6, (1.0,) * 6
    schema = Schema("graphs", (9, 6), ("a", "b", "c"), *still, target_shape=(9,))
    return Data(schema._replace(lengths=True, edges=16, rows=n), rows, rows)


def small(name: str, n: int = 32) -> Experiment:
    """A small recipe on n rows of its data; for CIFAR-10, a download, on noise.

    What learns of one graph learns here of many: contracts ask for rows.
    """
    recipe, flags = RECIPES[name], SMALL.get(name, {})
    if name == "cnn_cifar10":
        schema: Schema = sets.schema_of("cifar10")
        x = np.random.default_rng(0).normal(size=(n, 32, 32, 3)).astype(np.float32)
        rows = {"x": x, "y": np.arange(n, dtype=np.int32) % 10}
        return prepare(recipe, data=Data(schema, rows, rows))
    if recipe.load is views.graph:
        return prepare(recipe, data=graphs(n), **flags)
    found = prepare(recipe, **flags)
    return found._replace(data=first(found.parts, n))


BATCHES: list = [None, {}]  # of the recipe asked for last: each is a program


def batch_of(recipe: Experiment, n: int = 8) -> dict:
    """n examples of a small recipe, fewer where it has not as many."""
    if BATCHES[0] is not recipe:
        BATCHES[:] = recipe, {}
    if n not in BATCHES[1]:
        rows = recipe.parts.train
        source = recipe.batches(rows, min(n, *map(len, rows.values())))
        batch = jax.jit(source.batch)
        BATCHES[1][n] = batch(source.arrays, np.uint32(0), np.int32(0))
    return dict(BATCHES[1][n])


# put through the contracts apart, as compiling them takes minutes; of the quick ones,
# one has a model much alike
ALIKE = (
    *("ridge", "lasso", "logistic", "neuron", "denoising_autoencoder", "resnet20"),
    *("kmeans", "pca", "multitask", "cnn"),
    *("cnn_cifar10", "rnn", "gru", "softmax", "conditional_vae"),
    *("peephole_lstm", "transformer_classifier", "char_lstm", "char_transformer"),
    *("seq2seq_lstm", "seq2seq_transformer", "copy"),
    *("bag_of_words", "text_lstm", "text_transformer"),
    *("autoencoder", "bernoulli_mixture", "vae"),
    *("conv_vae", "recurrent_vae", "gan", "dcgan", "wgan_gp", "conditional_gan"),
    *("semi_supervised_gan", "few_labels", "gcn", "gat", "keyword", "ctc"),
    *("matrix_factorization", "factorization_machine", "neumf", "bpr"),
    *("knowledge_graph", "rbm", "drive_cnn", "drive_lstm"),
    *("word2vec", "fasttext", "glove"),
    *("unet", "centernet", "simclr", "barlow_twins"),
)
MARKS = dict.fromkeys(ALIKE, [pytest.mark.contract])
# of programs that differ from another recipe's by a loss or a size, a release alone
# asks everything
TWINS = (
    *("ridge", "lasso", "neuron", "denoising_autoencoder", "cnn_cifar10", "gru"),
    *("peephole_lstm", "conditional_vae", "dcgan", "conditional_gan", "few_labels"),
    *("gcn", "factorization_machine", "bpr", "drive_cnn", "fasttext", "char_lstm"),
    *("seq2seq_transformer", "copy", "wgan_gp", "recurrent_vae", "sac"),
    *("text_lstm", "text_transformer", "barlow_twins", "unet"),
)
MARKS |= dict.fromkeys(TWINS, [pytest.mark.contract, pytest.mark.long])
EVERY = [pytest.param(name, marks=MARKS.get(name, ())) for name in OF_ROWS]


def quick(values, *some):
    """Parameters of a test: the others than some wait for the contracts."""
    later = [pytest.mark.contract]
    return [pytest.param(v, marks=[] if v in some else later) for v in values]


def each(*some, among=RECIPES):
    """Every recipe's name: the others than some wait, the twins for a release."""
    long = [pytest.mark.contract, pytest.mark.long]
    late = {name: long if name in TWINS else long[:1] for name in among}
    return [pytest.param(n, marks=[] if n in some else late[n]) for n in among]


@pytest.fixture(params=EVERY, scope="module")
def recipe(request):
    """Every recipe in turn, small."""
    return small(request.param)


def with_rows(directory: Path) -> Experiment:
    """A run's experiment with its data loaded again."""
    return saved.with_rows(saved.read_config(directory), directory)


@pytest.fixture
def zoo(tmp_path, monkeypatch, capsys):
    """zoo(command) in a folder of its own -> (status, what it printed, its errors)."""
    from train.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("train.cli.main._cache", lambda: None)
    monkeypatch.setattr("jax.config.update", lambda *setting: None)  # devices are there

    def run(command):
        status = main(command.split())
        said = capsys.readouterr()
        return status, said.out, said.err

    return run
