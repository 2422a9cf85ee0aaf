"""Time the matrix products of a training step in Paddle and in torch: what a ratio owes to the library.

    python benchmarks/products.py

Float32, the shapes of benchmarks/gemm.py: those of the base model over 2,048 tokens, forward and backward,
and a square. "Ours" is Paddle's `matmul` with the settings that utils.runtime chooses.

How contenders are run: benchmarks/side_by_side.py. The last line is JSON (benchmarks/figures.py).
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gemm import SHAPES
from benchmarks.side_by_side import LATEST, Contender, compare, tell
from utils.runtime import prepare

REPEATS, WARM_UP = 10, 2
CONTENDERS = {
    "ours": Contender("Paddle", "ours", True),
    "paddle_installed": Contender("Paddle, as installed", "paddle", False, environment=".venv"),
    "torch": Contender("torch", "torch", True),
    "torch_latest": Contender("newest torch", "torch", True, environment=LATEST),
}


def time_products(random: Callable, matmul: Callable) -> None:
    pairs = [(random([rows, terms]), random([terms, columns])) for rows, terms, columns in SHAPES]
    seconds = []
    for _ in range(WARM_UP + REPEATS):
        start = time.perf_counter()
        for a, b in pairs:
            matmul(a, b)
        seconds.append(time.perf_counter() - start)
    tell(seconds[WARM_UP:])


def ours(*_) -> None:
    prepare(quiet=True)
    in_paddle()


def in_paddle(*_) -> None:
    import paddle

    paddle.set_device("cpu")
    time_products(paddle.randn, paddle.matmul)


def in_torch(*_) -> None:
    import torch

    time_products(torch.randn, torch.matmul)


WORKERS = {"ours": ours, "paddle": in_paddle, "torch": in_torch}

if __name__ == "__main__":
    compare(
        __doc__,
        CONTENDERS,
        WORKERS,
        {},
        "GFLOP/s",
        lambda args: sum(2 * rows * terms * columns for rows, terms, columns in SHAPES) / 1e9,
    )
