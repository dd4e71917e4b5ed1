"""Devices that train one state, and what of it lies where.

Data parallelism by sharding: every device holds the whole state, or its part, and its
rows of each batch, and the compiler adds the sums between devices.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from zoo.base import UsageError

LARGE = 2**16  # numbers of an array that is worth cutting


def data_parallel(devices: int | None = None, *, fsdp: bool = False) -> Mesh:
    """A mesh of `devices` local devices; for None, of all, of other processes too.

    With `fsdp` its axis is named so, and what is large of a state lies in parts on it
    (`layout`). Raises UsageError where there are fewer devices.
    """
    found, most = jax.devices(), jax.process_count()
    found.sort(key=lambda device: (device.process_index, device.id))
    count = len(found) if devices is None else devices
    if not 1 <= count <= len(found):
        there = "1 device" if len(found) == 1 else f"1 to {len(found)} devices"
        raise UsageError(
            f"expected {there}, asked for {count} (as many on a CPU: "
            f"JAX_NUM_CPU_DEVICES={count})"
        )
    if most > 1 and (count < len(found) or count != most * jax.local_device_count()):
        raise UsageError(
            f"expected all of the {len(found)} devices of {most} processes, as many in "
            f"each, asked for {count}"
        )
    # Auto: ordinary model code, the compiler propagates the shardings
    kind, name = (AxisType.Auto,), "fsdp" if fsdp else "data"
    return Mesh(np.array(found[:count]), (name,), axis_types=kind)


def asked(devices: int, fsdp: bool) -> Mesh | None:
    """The mesh of `zoo train --devices --fsdp`; None for one device. As above."""
    count = devices if devices != 1 or jax.process_count() == 1 else None
    if count == 1 and fsdp:
        raise UsageError("expected --devices to cut the state over, found one")
    return None if count == 1 else data_parallel(count, fsdp=fsdp)


def replicate(mesh: Mesh, tree: Any) -> Any:
    """The tree, whole on every device of the mesh."""
    return jax.tree.map(lambda a: _put(a, NamedSharding(mesh, PartitionSpec())), tree)


def rows(mesh: Mesh, batch: Any) -> Any:
    """Inside a compiled program: split each array of a batch over the devices."""
    split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    return jax.lax.with_sharding_constraint(batch, split)


def layout(mesh: Mesh, state: Any) -> Any:
    """Where the arrays of a state lie: whole on every device of the mesh.

    But in parts on an axis "fsdp", where they have LARGE numbers or more: cut along
    the longest of their axes that divides (ZeRO, Rajbhandari et al. 2020,
    arXiv:1910.02054). What a step needs of the others' parts, the compiler fetches.
    """

    def spec(a):
        parts = mesh.shape.get("fsdp", 1)
        axes = sorted(range(a.ndim), key=lambda i: -a.shape[i])
        axes = [i for i in axes if a.shape[i] % parts == 0]
        if parts == 1 or a.size < LARGE or not axes:
            return PartitionSpec()
        return PartitionSpec(*[None] * axes[0], "fsdp")

    return jax.tree.map(lambda a: NamedSharding(mesh, spec(a)), state)


def laid(mesh: Mesh | None, state: Any) -> Any:
    """A state, on the devices that it is trained on."""
    if mesh is not None:
        return jax.tree.map(_put, state, layout(mesh, state))
    if jax.process_count() > 1:
        raise UsageError("expected a mesh: processes train together (data_parallel())")
    return state


def local(tree: Any) -> Any:
    """What lies on other processes' devices too, whole on one of this process.

    Each of them must ask.
    """

    def one(a):
        if getattr(a, "is_fully_addressable", True):
            return a
        whole = NamedSharding(a.sharding.mesh, PartitionSpec())
        return jax.device_put(a, whole).addressable_data(0)

    return jax.tree.map(one, tree)


def _put(a, where):
    if where.is_fully_addressable or not getattr(a, "is_fully_addressable", True):
        return jax.device_put(a, where)
    # of what it is given on the host, device_put would first ask all processes
    a = np.asarray(a, jax.dtypes.canonicalize_dtype(a.dtype))
    return jax.make_array_from_callback(a.shape, where, lambda index: a[index])
