"""The errors of every model against PyTorch as a Markdown table (a minute or two).

python -m tests.golden.table
"""

import numpy as np

from tests import test_golden as golden
from tests.test_golden import Error, worst

COLUMNS = ("model", "parameters", "forward", "gradient", *golden.OPTIMIZERS)
COLUMNS += ("statistics", "float64")


def cell(error: Error) -> str:
    if not error.relative:
        return "-"
    return f"{error.relative:.0e} ({error.absolute:.0e})".replace("e-0", "e-")


def errors(name: str, dtype) -> list[Error]:
    """Forward, gradient, each optimizer, running statistics after all of them."""
    with golden.precision(dtype):
        rules = [golden.steps(name, rule, dtype) for rule in golden.OPTIMIZERS]
        weights, stats, _ = zip(*rules, strict=True)
        return [*golden.once(name, dtype), *weights, worst(stats)]


def main() -> None:
    print("| " + " | ".join(COLUMNS) + " |")
    print("|---" + "|--:" * (len(COLUMNS) - 1) + "|")
    for name in golden.CASES:
        size = sum(array.size for array in golden.tree(name, "weights").values())
        cells = [*errors(name, np.float32), worst(errors(name, np.float64))]
        row = [name, str(size), *map(cell, cells)]
        print("| " + " | ".join(row) + " |", flush=True)
    print(
        "\nLargest error of an array relative to the largest entry of its reference, "
        "and (in brackets) absolute; each is the worst over all arrays. The reference "
        "is PyTorch in float64. The optimizers' columns are the parameters after "
        f"{golden.STEPS} steps, `statistics` the running mean and variance of batch "
        "norm then. All columns but the last are of the model in float32; `float64` "
        "is the worst of the same checks in float64. Adam's 1e-6 is the rounding of "
        "1 - 0.999^t in float32."
    )


if __name__ == "__main__":
    main()
