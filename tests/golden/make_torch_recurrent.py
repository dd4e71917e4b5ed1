"""Makes torch_recurrent.npz: torch's recurrent layers under torch's own names.

    python tests/golden/make_torch_recurrent.py

For the importers: KIND/x [B, T, D], KIND/y [B, T, H] (both directions: 2 H) and the
arrays of the layer's state_dict as KIND/NAME. Made with torch 2.13.0 (CPU).
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn

LAYERS = {
    "elman": lambda: nn.RNN(3, 4, 2, batch_first=True),
    "gru": lambda: nn.GRU(3, 4, 2, batch_first=True, bidirectional=True),
    "lstm": lambda: nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True),
}


def main():
    torch.manual_seed(0)
    arrays = {}
    for kind, build in LAYERS.items():
        layer, x = build(), torch.randn(2, 5, 3)
        arrays[f"{kind}/x"] = x.numpy()
        arrays[f"{kind}/y"] = layer(x)[0].detach().numpy()
        for name, value in layer.state_dict().items():
            arrays[f"{kind}/{name}"] = value.numpy()
    np.savez_compressed(Path(__file__).with_name("torch_recurrent.npz"), **arrays)


if __name__ == "__main__":
    main()
