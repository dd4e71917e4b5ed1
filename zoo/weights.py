"""Weights of other libraries, by their names and layouts -> parameters of our models.

torch keeps a kernel as [outputs, inputs]; here it is [inputs, outputs].
Shapes: D inputs, H units, G gates, W width.
"""

from collections.abc import Iterable, Mapping

import jax.numpy as jnp

from zoo.base import UsageError
from zoo.types import Array, Tree


def rnn_from_torch(arrays: Mapping[str, Array]) -> Tree:
    """The arrays of a torch.nn.RNN, GRU or LSTM by its names -> params of an `RNN`.

    weight_ih [G H, D], weight_hh [G H, H] and two biases [G H] for each layer. Of
    `RNN(nonlinearity="tanh")` and the others, any number of layers, one or both
    directions. torch's two biases are added but for the GRU, which needs both. Raises
    UsageError where an array is missing.
    """
    params = {}
    names = [n.removeprefix("weight_ih_") for n in arrays if n.startswith("weight_ih_")]
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    for name in names or ["l0"]:
        w, r, b, c = _take(arrays, (f"{kind}_{name}" for kind in kinds))
        weights = {"kernel": w.T, "recurrent": r.T, "bias": b + c}
        if len(w) == 3 * r.shape[1]:
            weights |= {"bias": b, "recurrent_bias": c.reshape(3, -1)}
        number, _, reverse = name.removeprefix("l").partition("_")
        params[f"{'backward' if reverse else 'forward'}_{number}"] = weights
    return params


def attention_from_torch(arrays: Mapping[str, Array], prefix: str = "") -> Tree:
    """The arrays of a torch MultiheadAttention by its names -> params of a `MultiHead`.

    torch has the kernels of query, key and value as one [3 W, W]. Raises UsageError
    where an array is missing.
    """
    kinds = ("weight", "bias")
    w, b = _take(arrays, (f"{prefix}in_proj_{kind}" for kind in kinds))
    out = _take(arrays, (f"{prefix}out_proj.{kind}" for kind in kinds))
    pairs = [*zip(jnp.split(w, 3), jnp.split(b, 3), strict=True), out]
    names = ("query", "key", "value", "out")
    return {
        name: {"kernel": kernel.T, "bias": bias}
        for name, (kernel, bias) in zip(names, pairs, strict=True)
    }


def transformer_from_torch(arrays: Mapping[str, Array]) -> Tree:
    """A torch layer's arrays by its names -> params of a `Block` or a `MultiHead`.

    Of a TransformerEncoderLayer or TransformerDecoderLayer of width [W] with
    norm_first=True, or a MultiheadAttention. Raises UsageError where an array is
    missing.
    """
    if "in_proj_weight" in arrays:
        return attention_from_torch(arrays)
    params = {"attention": attention_from_torch(arrays, "self_attn.")}
    names = {"attention_norm": "norm1", "mlp_norm": "norm2"}
    if "norm3.weight" in arrays:
        names = {"attention_norm": "norm1", "cross_norm": "norm2", "mlp_norm": "norm3"}
        params["cross_attention"] = attention_from_torch(arrays, "multihead_attn.")
    for ours, theirs in (names | {"up": "linear1", "down": "linear2"}).items():
        w, b = _take(arrays, (f"{theirs}.weight", f"{theirs}.bias"))
        params[ours] = {"kernel" if w.ndim > 1 else "scale": w.T, "bias": b}
    return params


def _take(arrays: Mapping[str, Array], names: Iterable[str]) -> list[Array]:
    try:
        return [jnp.asarray(arrays[name]) for name in names]
    except KeyError as error:
        raise UsageError(f"expected an array {error}, found {list(arrays)}") from None
