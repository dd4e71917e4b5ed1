"""Makes the golden files of attention and the Transformer's layers: see make_golden.py.

    python tests/golden/make_attention.py

The networks are torch's own layers: x [B, T, D] in, outputs as one row [B, T D].
torch_attention.npz holds the weights of the same layers by torch's names, as
LAYER/NAME, an input and their outputs, for `zoo.transformer.from_torch`.
"""

import functools
from pathlib import Path

import make_golden as golden
import numpy as np
import torch
from torch import nn
from torch.nn import functional

WIDTH, HEADS = 6, 2
# torch keeps query, key and value in one array
PARTS = ("query", "key", "value")
NAMES = {
    "self_attn": "attention",
    "multihead_attn": "cross_attention",
    "linear1": "up",
    "linear2": "down",
}
RENAME = {"weight": "kernel", "bias": "bias"}
NORMS = {
    2: ("attention_norm", "mlp_norm"),
    3: ("attention_norm", "cross_norm", "mlp_norm"),
}


class Rows(nn.Module):
    """A layer on x, which comes as [B, D, T] (channels first), -> [B, T D]."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return self.run(x.mT).flatten(1)


class SelfAttention(Rows):
    def __init__(self):
        super().__init__(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True))

    def run(self, x):
        return self.block(x, x, x)[0]


def layer(kind):
    return kind(
        WIDTH,
        HEADS,
        dim_feedforward=4 * WIDTH,
        dropout=0.0,
        # a function: given nn.GELU, torch's fast path computes the exact form
        activation=functools.partial(functional.gelu, approximate="tanh"),
        batch_first=True,
        norm_first=True,
    )


def causal(x):
    """True where torch must not look."""
    return torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)


class Encoder(Rows):
    def __init__(self):
        super().__init__(layer(nn.TransformerEncoderLayer))

    def run(self, x):
        return self.block(x, src_mask=causal(x))


class Decoder(Rows):
    """The first half of x looks at itself and at the second half."""

    def __init__(self):
        super().__init__(layer(nn.TransformerDecoderLayer))

    def run(self, x):
        x, memory = x.chunk(2, 1)
        return self.block(x, memory, tgt_mask=causal(x))


CASES = {
    "multi_head": (SelfAttention, golden.squared, (WIDTH, 4), 6, 4 * WIDTH),
    "transformer_encoder": (Encoder, golden.squared, (WIDTH, 4), 6, 4 * WIDTH),
    "transformer_decoder": (Decoder, golden.squared, (WIDTH, 6), 6, 3 * WIDTH),
}


def parameters(network):
    """(path in Flax's tree, torch parameter, function into Flax's layout)."""
    norms = sum(isinstance(part, nn.LayerNorm) for part in network.modules())
    for name, value in network.named_parameters():
        path = name.split(".")
        *path, kind = (NAMES.get(part, part) for part in path)
        if kind.startswith("in_proj"):
            kind = kind.removeprefix("in_proj_")
            for i, part in enumerate(PARTS):
                yield "/".join([*path, part, RENAME[kind]]), value, third(i)
        elif path[-1].startswith("norm"):
            path[-1] = NORMS[norms][int(path[-1][-1]) - 1]
            kind = {"weight": "scale"}.get(kind, kind)
            yield "/".join([*path, kind]), value, lambda v: v
        else:
            path[-1] = {"out_proj": "out"}.get(path[-1], path[-1])
            yield "/".join([*path, RENAME[kind]]), value, transposed


def transposed(v):
    """[out, in] -> [in, out]; a bias as it is."""
    return v.mT if v.ndim > 1 else v


def third(i):
    return lambda v: transposed(v.chunk(3)[i])


def randomize(network, rng, linear=golden.randomize):
    """As in make_golden, for the layers that it does not know too."""
    linear(network, rng)

    def put(tensor, values):
        tensor.data = torch.tensor(values.astype(np.float32), dtype=torch.float64)

    for part in network.modules():
        if isinstance(part, nn.LayerNorm):
            put(part.weight, rng.uniform(0.7, 1.3, part.weight.shape))
            put(part.bias, rng.normal(0, 0.3, part.bias.shape))
        elif isinstance(part, nn.MultiheadAttention):
            # larger than usual, so that no weight is nearly uniform
            put(part.in_proj_weight, rng.normal(0, 0.7, part.in_proj_weight.shape))
            put(part.in_proj_bias, rng.normal(0, 0.3, part.in_proj_bias.shape))
    return network


def smallest_slope(network):
    """As in make_golden; a key's bias adds the same to all scores: no gradient."""
    grads = [
        layout(value.grad).ravel()
        for path, value, layout in parameters(network)
        if not path.endswith("key/bias")
    ]
    sizes = torch.cat(grads).abs()
    return float(sizes[sizes > 0].min() / sizes.max())


def torch_arrays():
    x = np.round(4 * np.random.default_rng(0).normal(size=(2, 6, WIDTH))) / 4
    arrays = {"x": x}
    for name, (build, *_) in CASES.items():
        network = randomize(build().double(), np.random.default_rng(1)).eval()
        for key, value in network.block.state_dict().items():
            arrays[f"{name}/{key}"] = value.numpy().astype(np.float32)
        with torch.no_grad():
            arrays[f"outputs/{name}"] = network.run(torch.tensor(x)).numpy()
    return arrays


def main():
    golden.CASES = CASES
    golden.parameters = parameters
    golden.randomize = randomize
    golden.smallest_slope = smallest_slope
    golden.main([])
    path = Path(__file__).with_name("torch_attention.npz")
    np.savez_compressed(path, **torch_arrays())


if __name__ == "__main__":
    main()
