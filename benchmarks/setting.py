"""How a comparison is run: device, precision, threads, batch size; known to all peers.

"float32" is exact to its 24 bits on every device; "tf32" lets a GPU round the factors
of a product to 11 bits; "bfloat16" is mixed precision: parameters and optimizer in
float32, products in bfloat16.
"""

import json
import os
from typing import NamedTuple

from benchmarks.families import FAMILIES, Family, sized

DEVICES = ("cpu", "gpu")
# The largest relative difference of two losses after the same updates.
# On CPU purezoo and torch differ by up to 1e-4 in float32 (batch 128) and 1.2e-3 in
# bfloat16 (batch 64); an update that is left out changes most of them by 7e-3 to 7e-2.
TOLERANCES = {"float32": 1e-3, "tf32": 2e-3, "bfloat16": 5e-3}
# What jax calls them; a GPU may round, by default, all that is float32.
MATMUL = {"float32": "highest", "tf32": "default", "bfloat16": "default"}
# FLOP/s of dense products as the maker states them, of the SXM boards.
PEAKS = {
    "H100": {"bfloat16": 989e12, "tf32": 494e12, "float32": 67e12},
    "H200": {"bfloat16": 989e12, "tf32": 494e12, "float32": 67e12},
}
PLAIN = ("linear",)  # has no bfloat16 of its own, and no work to gain by it


class Setting(NamedTuple):
    """What all processes of one comparison have in common."""

    device: str = "cpu"
    precision: str = "float32"
    threads: int = 2
    batch: int = 0  # 0: each family's own

    @property
    def gpu(self) -> bool:
        """Whether it runs on one."""
        return self.device == "gpu"

    @property
    def tolerance(self) -> float:
        """Relative; beyond it two peers did not train the same thing."""
        return TOLERANCES[self.precision]

    def family(self, name: str) -> Family:
        """With the batch size that was asked for."""
        return sized(FAMILIES[name], self.batch) if self.batch else FAMILIES[name]

    def text(self) -> str:
        """For `read`, as an argument of a process."""
        return json.dumps(self._asdict())

    def environment(self) -> dict[str, str]:
        """Variables that the libraries read when they start."""
        if self.gpu:
            return {
                "JAX_PLATFORMS": "cuda,cpu",
                "JAX_DEFAULT_MATMUL_PRECISION": MATMUL[self.precision],
                # several processes are on the device, one computes
                "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            }
        return {
            "JAX_PLATFORMS": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": str(self.threads),
        }


def read(text: str) -> Setting:
    """What `Setting.text` gave."""
    return Setting(**json.loads(text))


def cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak(kind: str, precision: str) -> float | None:
    """The device's FLOP/s on paper, None if it is not in the table."""
    if "PCIe" in kind or "NVL" in kind:
        return None
    return next((rates[precision] for k, rates in PEAKS.items() if k in kind), None)
