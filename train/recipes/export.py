"""A trained model for elsewhere: a program that needs only JAX, or its weights.

A program is StableHLO with weights and standardisation inside, of any batch size, for
CPU, GPU and TPU; weights are a .safetensors file that says what they are of.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from train.checkpoint import from_json, whole
from train.data import Schema
from train.step import Trained
from zoo.base import Task, UsageError

PLATFORMS = ("cpu", "cuda", "tpu")


def program(task: Task, trained: Trained, schema: Schema) -> Callable[..., jax.Array]:
    """What predicts from raw inputs: x [B, *shape] float32, tokens or ids [B, T] int32.

    Of sequences with padding also length [B] int32, of graphs edges [B, E, 2] int32
    (with padding also length, and edge_mask [B, E]). It gives probabilities [B, K], of
    nodes [B, N, K], or values [B] in their own unit. Raises UsageError where nothing is
    predicted.
    """
    if task.predict is None:
        raise UsageError("expected a model that predicts, found one that does not")
    if schema.scales:
        raise UsageError("expected one scale for all series, found one for each")
    predict, (center, unit) = task.predict, schema.target
    mean, scale = (np.array(v, np.float32) for v in (schema.mean, schema.scale))

    def call(x: jax.Array, *more: jax.Array) -> jax.Array:
        if not schema.integer:
            x = (x - _beside(mean, x)) / _beside(scale, x)
        names = ("edges", "length", "edge_mask") if schema.edges else ("length",)
        batch = {"x": x, **dict(zip(names, more, strict=False))}
        if "length" in batch:
            real = jnp.arange(x.shape[1])[None] < batch["length"][:, None]
            real = real.reshape(*real.shape, *(1,) * (x.ndim - 2))
            batch["x"] = jnp.where(real, x, 0)
        found = predict(trained.params, trained.model, batch)
        if not schema.regression:
            return found
        found = found.reshape(-1, *schema.target_shape)
        return found * _beside(unit, found) + _beside(center, found)

    return call


def _beside(statistics, x):
    return jnp.asarray(statistics).reshape((1,) * (x.ndim - 1) + (-1,))


def stablehlo(task: Task, trained: Trained, schema: Schema, path: Path) -> None:
    """Write `program` to a file; `jax.export.deserialize(bytes).call(x)` runs it.

    Raises UsageError where nothing is predicted.
    """
    call = program(task, trained, schema)
    *sizes, edges = jax.export.symbolic_shape("b, t, e")
    sizes = sizes[: 1 + bool(schema.lengths or schema.tokens or schema.edges)]
    kind = jnp.int32 if schema.integer else jnp.float32
    shape = (*sizes, *schema.shape[len(sizes) - 1 :])
    inputs = [jax.ShapeDtypeStruct(shape, kind)]
    if schema.edges:
        inputs.append(jax.ShapeDtypeStruct((sizes[0], edges, 2), jnp.int32))
    if schema.lengths:
        inputs.append(jax.ShapeDtypeStruct((sizes[0],), jnp.int32))
    if schema.edges and schema.lengths:
        inputs.append(jax.ShapeDtypeStruct((sizes[0], edges), jnp.float32))
    made = jax.export.export(jax.jit(call), platforms=PLATFORMS)(*inputs)
    with whole(path) as part:
        part.write_bytes(made.serialize())


def write_weights(trained: Trained, config: dict[str, Any], path: Path) -> None:
    """Write parameters and model state by name: "params/dense/kernel", "state/...".

    The file says what they are of: the run's config, and a checksum.
    """
    from safetensors.numpy import save

    arrays = {
        name: np.ascontiguousarray(array)
        for name, array in named(jax.device_get(trained)).items()
    }
    about = {
        "config": json.dumps(config),
        "recipe": config["recipe"],
        "version": config["versions"]["purezoo"],
        "sha256": checksum(arrays),
    }
    with whole(path) as part:
        part.write_bytes(save(arrays, about))


def named(trained: Trained) -> dict[str, Any]:
    """Parameters and model state by the names that a file has."""
    return flatten_dict({"params": trained.params, "state": trained.model}, sep="/")


def read_weights(path: Path) -> tuple[Trained, dict[str, Any]]:
    """What `write_weights` wrote, and the config. Raises UsageError for other files."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            about = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError) as error:  # a type that numpy has not
        raise UsageError(f"{path} cannot be read as weights: {error}") from None
    if "config" not in about:
        raise UsageError(f"{path} does not say what its weights are of")
    if about.get("sha256") != checksum(arrays):
        raise UsageError(f"the weights in {path} are not those that were written")
    try:
        tree = jax.tree.map(jnp.asarray, unflatten_dict(arrays, sep="/"))
        config = from_json(about["config"])
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        # "a" beside "a/b"; a config that is no JSON
        raise UsageError(f"{path} cannot be read as weights: {error}") from None
    return Trained(tree.get("params", {}), tree.get("state", {})), config


def checksum(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of arrays by name: their names, types, shapes and bytes."""
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
