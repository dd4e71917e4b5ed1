"""Devices: where the state and the batch lie. The step itself does not change.

Data parallelism by sharding: every device holds the whole state and its rows of each
batch, and the compiler adds the sums between devices.
"""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from zoo.base import UsageError


def data_parallel(devices: int | None = None) -> Mesh:
    """A mesh of the first `devices` local devices (all of them for None).

    Raises UsageError where there are fewer.
    """
    found = jax.local_devices()
    count = len(found) if devices is None else devices
    if not 1 <= count <= len(found):
        raise UsageError(f"expected 1 to {len(found)} devices, asked for {count}")
    # Auto: ordinary model code, the compiler propagates the shardings
    return jax.make_mesh((count,), ("data",), (AxisType.Auto,), devices=found[:count])


def replicate(mesh: Mesh, tree: Any) -> Any:
    """The tree, whole on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def rows(mesh: Mesh, batch: Any) -> Any:
    """Inside a compiled program: split each array of a batch over the devices."""
    split = NamedSharding(mesh, PartitionSpec("data"))
    return jax.lax.with_sharding_constraint(batch, split)
