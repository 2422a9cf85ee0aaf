"""Time each layer that model/layers.py does in its own way beside Paddle's, in training on a CPU.

    python benchmarks/layers.py

Milliseconds of a forward and a backward pass over 16 x 128 tokens of the base shape, float32, the least of
some, all threads: the table of docs/cpu.md. The last line is JSON: {"layers": {name: {"paddle": [forward,
backward], "ours": [forward, backward]}}, "ratio": of the sums}.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.runtime import prepare

HIDDEN, WIDE, REPEATS = [16, 128, 768], [16, 128, 3072], 15
SCORES = [16, 12, 128, 128]


def layers() -> dict[str, tuple[Callable, Callable, list[list[int]]]]:
    """Name -> (Paddle's, ours, the shapes of their inputs)."""
    import paddle
    import paddle.nn.functional as F
    from paddle import nn

    from model import layers as ops

    bias = paddle.zeros(SCORES)
    return {
        "linear 768 -> 768": (nn.Linear(768, 768), ops.Linear(768, 768), [HIDDEN]),
        "linear 768 -> 3072": (nn.Linear(768, 3072), ops.Linear(768, 3072), [HIDDEN]),
        "linear 3072 -> 768": (nn.Linear(3072, 768), ops.Linear(3072, 768), [WIDE]),
        "layer norm": (nn.LayerNorm(768, 1e-5), ops.LayerNorm(768, 1e-5), [HIDDEN]),
        "gelu of [16, 128, 3072]": (F.gelu, ops.gelu, [WIDE]),
        "softmax of [16, 12, 128, 128] + mask": (
            lambda x: F.softmax(x + bias), lambda x: ops.softmax(x, bias), [SCORES],
        ),
        "dropout of [16, 12, 128, 128]": (
            lambda x: F.dropout(x, 0.1), lambda x: ops.dropout(x, 0.1, True), [SCORES],
        ),
        "dropout of [16, 128, 768] + residual": (
            lambda x, y: F.dropout(x, 0.1) + y, lambda x, y: ops.dropout(x, 0.1, True, y), [HIDDEN, HIDDEN],
        ),
    }  # fmt: skip


def milliseconds(function: Callable, shapes: list[list[int]]) -> list[float]:
    """Of the fastest forward and the fastest backward pass."""
    import paddle

    inputs = [paddle.randn(shape) for shape in shapes]
    for tensor in inputs:
        tensor.stop_gradient = False
    gradient = paddle.randn(function(*inputs).shape)
    learned = function.parameters() if isinstance(function, paddle.nn.Layer) else []
    fastest = [float("inf")] * 2
    for _ in range(REPEATS):
        start = time.perf_counter()
        result = function(*inputs)
        middle = time.perf_counter()
        paddle.autograd.backward([result], [gradient])
        end = time.perf_counter()
        fastest = [min(fastest[0], middle - start), min(fastest[1], end - middle)]
        for tensor in (*inputs, *learned):
            tensor.grad = None
    return [round(1e3 * seconds, 2) for seconds in fastest]


def main() -> None:
    prepare(quiet=True)
    import paddle

    paddle.set_device("cpu")  # the other devices have Paddle's layers
    found = {
        name: {"paddle": milliseconds(theirs, shapes), "ours": milliseconds(ours, shapes)}
        for name, (theirs, ours, shapes) in layers().items()
    }
    print(f"{'milliseconds: forward, backward':<40}{'Paddle':>18}{'ours':>18}")
    for name, row in found.items():
        print(f"{name:<40}" + "".join(f"{f'{a:.1f}, {b:.1f}':>18}" for a, b in row.values()))
    theirs, ours = (sum(sum(row[whose]) for row in found.values()) for whose in ("paddle", "ours"))
    print(json.dumps({"layers": found, "ratio": round(theirs / ours, 2)}))


if __name__ == "__main__":
    main()
