"""Devices: a state that lies on them whole, or in parts, trains to the same numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from train import checkpoint, loop, mesh, optim, source
from train.machines import devices
from zoo import mlp, supervised
from zoo.base import UsageError

WIDE = 256  # [WIDE, WIDE] are just as many numbers as are cut


def task():
    return supervised.task(mlp.MLP(1, (WIDE, 8)), supervised.regression)


ADAM = optim.optimizer("adam", 1e-3)


def data(size=24, huge=False):
    x = np.random.default_rng(0).normal(size=(96, WIDE)).astype(np.float32)
    y = x[:, 0] * x[:, 1]
    x[5] *= 1e30 if huge else 1  # of which the loss is infinite
    return source.examples({"x": x, "y": y}, size)


def fit(place, *, steps=48, size=24, huge=False, **options):
    more = {"log_every": 1, "mesh": place, "progress": False, **options}
    return loop.fit(task(), ADAM, data(size, huge), steps=steps, **more)


def read(directory, place):
    """The newest state, on the devices of a mesh."""
    like = loop.start(task(), ADAM, data())
    return checkpoint.read(directory, devices.laid(place, like))[0]


def kernels(state):
    """The large arrays: the first layer, and Adam's two moments of it."""
    found = jax.tree.leaves((state.params, state.optimizer))
    return [a for a in found if a.shape == (WIDE, WIDE)]


def test_what_is_large_is_cut_along_an_axis_that_divides():
    place = mesh.data_parallel(2, fsdp=True)
    shapes = [(256, 512), (512, 256), (257, 510), (255, 257), (64, 64), ()]
    tree = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    P = jax.sharding.PartitionSpec
    found = [where.spec for where in devices.layout(place, tree)]
    assert found == [P(None, "fsdp"), P("fsdp"), P(None, "fsdp"), P(), P(), P()]
    whole = devices.layout(mesh.data_parallel(2), tree)
    assert {where.spec for where in whole} == {P()}


def test_a_cut_state_skips_as_one_and_is_saved_and_read_whole(tmp_path):
    place = mesh.data_parallel(2, fsdp=True)
    cut = fit(place, steps=4, huge=True, checkpoints=tmp_path)
    alone, found = fit(None, steps=4, huge=True), cut.state
    skipped = [[r.get("skipped", 0) for r in one.records] for one in (cut, alone)]
    assert skipped[0] == skipped[1] and sum(skipped[0]) == 1  # of the steps of an epoch
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(alone.state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert len(kernels(found)) == 3
    for a in kernels(found):
        assert [s.data.shape for s in a.addressable_shards] == [(128, 256)] * 2
    jax.tree.map(np.testing.assert_array_equal, found, read(tmp_path, None))


def test_sizes_that_do_not_divide_are_told_those_that_do():
    for size, more, words in [
        (23, {}, "a batch of 23 .* into 2 devices: the nearest to do so is 22 or 24"),
        (1, {}, "the nearest to do so is 2$"),
        (6, {"accumulate": 2}, "into 2 parts over 2 devices: .* 4 or 8"),
    ]:
        with pytest.raises(UsageError, match=words):
            fit(mesh.data_parallel(2), steps=1, size=size, **more)


# Eight devices ------------------------------------------------------------------------

EIGHT = """
import json, sys
import jax, numpy as np
from tests.test_contract_fit import kept_programs
from tests.test_mesh import fit, kernels, read
from train import loop, mesh
jax.config.update("jax_num_cpu_devices", 8)
folder, told, same = sys.argv[1], {}, []
for kind, counts, others in (
    ("whole", (1, 2, 4, 8), (3,)), ("cut", (1, 2, 3, 8), (1, 2, 3, 8))
):
    for n in counts:
        at = f"{folder}/{kind}-{n}"
        with kept_programs() as texts:
            found = fit(mesh.data_parallel(n, fsdp=kind == "cut"), checkpoints=at)
        told[f"{kind} {n}"] = {
            "losses": [record["loss"] for record in found.records],
            "reduced": " all-reduce(" in texts[-1],
            "gathered": " all-gather(" in texts[-1],
            "bytes": sum(a.addressable_shards[0].data.nbytes
                         for a in jax.tree.leaves(found.state)),
        }
        for m in others:
            again = read(at, mesh.data_parallel(m, fsdp=kind == "cut"))
            parts = len({str(s.index) for s in kernels(again)[0].addressable_shards})
            one, two = ([np.asarray(a).tobytes() for a in jax.tree.leaves(state)]
                        for state in (found.state, again))
            same.append([kind, n, m, parts, one == two])
told["alone"] = [record["loss"] for record in fit(None).records]
print(json.dumps({"same": same, **told}))
"""


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """What eight devices of one process tell."""
    done = subprocess.run(
        [sys.executable, "-c", EIGHT, str(tmp_path_factory.mktemp("eight"))],
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whole", "cut"])
def test_losses_do_not_depend_on_the_number_of_devices(kind, eight):
    assert len(eight["alone"]) == 48
    for n in (1, 2, 4, 8) if kind == "whole" else (1, 2, 3, 8):
        losses = eight[f"{kind} {n}"]["losses"]
        # a device whose rows do not count, or count twice, moves them by percents
        np.testing.assert_allclose(losses, eight["alone"], rtol=1e-5)


@pytest.mark.slow
def test_the_program_is_split_and_the_state_smaller_on_each(eight):
    for n in (2, 8):
        whole, cut = eight[f"whole {n}"], eight[f"cut {n}"]
        assert whole["reduced"] and not whole["gathered"] and cut["gathered"]
        # of the three large arrays each device has its part
        large = 3 * 4 * WIDE**2
        assert whole["bytes"] == eight["whole 1"]["bytes"]
        assert whole["bytes"] - cut["bytes"] == large - large // n


@pytest.mark.slow
def test_what_some_devices_saved_others_read_to_the_bit(eight):
    assert len(eight["same"]) == 20
    for kind, n, m, parts, same in eight["same"]:
        # 256 does not divide by three: whole on each
        assert same and parts == (1 if m == 3 or kind == "whole" else m), (kind, n, m)
