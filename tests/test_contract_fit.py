"""What every recipe holds to in the loop: chunks, devices, a fresh process."""

import contextlib
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.conftest import batch_of, each, small
from tests.test_contract import assert_close, assert_equal
from train import loop, mesh
from zoo import contrastive


def size_of(recipe):
    """A batch of a training: 14 examples, or all where the recipe takes all."""
    return None if recipe.training.batch_size is None else 14


def fit(recipe, **options):
    source = recipe.batches(recipe.parts.train, size_of(recipe))
    options = {"progress": False, **options}
    return loop.fit(recipe.task, recipe.optimizer, source, **options)


def test_chunks_of_any_length_are_bit_equal(recipe):
    assert_equal(*(fit(recipe, steps=6, log_every=every).state for every in (1, 4)))


@contextlib.contextmanager
def kept_programs():
    """The text of each program that the loop runs, in a list."""
    texts, plain = [], mesh.compiled

    def keep(*args, **options):
        program, name = plain(*args, **options)
        texts.append(program.as_text())
        return program, name

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mesh, "compiled", keep)
        yield texts


def fit_on(devices, recipe):
    """Three steps, and the program that ran them."""
    with kept_programs() as texts:
        split = None if devices == 1 else mesh.data_parallel(devices)
        found = fit(recipe, steps=3, mesh=split)
    return found, texts[-1]


def assert_split(program, recipe):
    """Each of two devices has half of the batch, and what they find is added up."""
    x = batch_of(recipe, size_of(recipe) or len(recipe.parts.train["x"]))["x"]
    size = len(x)
    shapes = {
        tuple(map(int, found.split(",")))
        for found in re.findall(r"\w\[([\d,]+)\]", program)
    }
    assert " all-reduce(" in program
    # in whatever shape
    assert size // 2 * x[0].size in map(math.prod, shapes)
    # the data themselves lie whole on both; two views of a half are as many as a whole
    views = 2 if isinstance(recipe.network, contrastive.Twins) else 1
    assert (views * size, *x.shape[1:]) not in shapes or size_of(recipe) is None


def test_two_devices_share_a_batch_and_equal_one(recipe):
    alone, _ = fit_on(1, recipe)
    shared, program = fit_on(2, recipe)
    assert_split(program, recipe)
    assert_close(alone.state.params, jax.device_get(shared.state.params))
    # Adam takes no notice of the size of a gradient
    for name in ("loss", "grad_norm"):
        one, two = ([r[name] for r in found.records] for found in (alone, shared))
        assert two == pytest.approx(one, rel=1e-3) and len(one) == 3


@pytest.mark.parametrize("name", ["linear", "mlp", "lstm"])
def test_a_batch_that_is_not_shared_is_seen(name, monkeypatch):
    monkeypatch.setattr(mesh, "rows", lambda mesh, batch: batch)
    recipe = small(name)
    _, program = fit_on(2, recipe)
    with pytest.raises(AssertionError):
        assert_split(program, recipe)


RESUME = """
import json, sys
import numpy as np, jax
from tests.conftest import small
from tests.test_contract_fit import trained
for name, folder in json.loads(sys.argv[1]).items():
    leaves = jax.tree.leaves(trained(small(name), 6, folder))
    np.savez(folder + ".npz", *map(np.asarray, leaves))
"""


def trained(recipe, steps, folder=None):
    """The state after `steps`, continued from the checkpoints in a folder."""
    more = {"checkpoints": folder, "resume": folder is not None}
    return fit(recipe, steps=steps, ema=recipe.training.ema, seed=7, **more).state


@pytest.fixture(scope="module")
def resumed(request, tmp_path_factory):
    """Each recipe asked for: 3 steps and a save, 3 more in one fresh process."""
    folder = tmp_path_factory.mktemp("resume")
    asked = [
        item.callspec.params["name"]
        for item in request.session.items
        if "resumed" in getattr(item, "fixturenames", ())
    ]
    folders = {name: str(folder / name) for name in asked}
    for name in asked:
        trained(small(name), 3, folders[name])
    subprocess.run(
        [sys.executable, "-c", RESUME, json.dumps(folders)],
        cwd=Path(__file__).parent.parent,
        check=True,
    )
    return folders


@pytest.mark.parametrize("name", each("mlp"))
def test_resumed_in_a_fresh_process_is_bit_equal(name, resumed):
    straight = jax.tree.leaves(trained(small(name), 6))
    with np.load(resumed[name] + ".npz") as saved:
        assert_equal([saved[key] for key in saved.files], straight)
