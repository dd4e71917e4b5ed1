"""Devices and programs: where the state and the batch lie, and what runs there.

Data parallelism by sharding: every device holds the whole state and its rows of each
batch, and the compiler adds the sums between devices.

`jax.jit` keeps a program with the function it was given, and so all that the function
closes over, for ever; and an equal function is compiled anew. Here a program is known
by its text: what is equal is compiled once, and no model or data is kept alive.
"""

import hashlib
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from zoo.base import UsageError

KEPT = 64  # programs, the least recently used go first

_programs: OrderedDict[str, Any] = OrderedDict()
_seen: weakref.WeakKeyDictionary[Callable, dict] = weakref.WeakKeyDictionary()


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


# Programs ---------------------------------------------------------------------------


def compiled(function: Callable, *args: Any, **options: Any) -> tuple[Any, str]:
    """The program of function(*args), and its hash; `options` as `jax.jit` has them."""
    lowered = jax.jit(function, **options).lower(*args)
    # the same operations may stand between other trees, or lie on other devices
    frame = (_kind(args), lowered.out_tree, sorted(options.items()))
    text = f"{lowered.as_text()}\n{frame}"
    name = hashlib.sha256(text.encode()).hexdigest()
    if name not in _programs:
        _programs[name] = lowered.compile()
    _programs.move_to_end(name)
    if len(_programs) > KEPT:
        _programs.popitem(last=False)
    return _programs[name], name


def call(owner: Callable, function: Callable, *args: Any) -> Any:
    """function(*args), compiled; traced once for each `owner` and kind of arguments.

    `function` must follow from `owner`, a function that lives as long as this is of
    use: its program is found again without tracing, and forgotten with it.
    """
    kind, known = _kind(args), _seen.setdefault(owner, {})
    if kind not in known:
        known[kind] = compiled(function, *args)[0]
    return known[kind](*args)


def _kind(args):
    """What a program depends on of its arguments: structure, shapes, types, places."""
    leaves, tree = jax.tree.flatten(args)
    places = [a.sharding if isinstance(a, jax.Array) else None for a in leaves]
    return tree, tuple(map(jax.typeof, leaves)), tuple(places)
