"""What matrix products of a training step cost, and how fast this machine's are at most."""

import time

# (rows, terms, columns) of the base model's products over 2,048 tokens, forward and backward, and squares
SHAPES = (
    (2048, 768, 768),
    (2048, 768, 3072),
    (2048, 3072, 768),
    (768, 2048, 3072),
    (768, 768, 768),
    (2048, 2048, 2048),
)
LARGE = (8192, 8192, 8192)  # to which a GPU's launch is nothing
REPEATS = 3
HIDDEN = 768


def measure_peak() -> float:
    """GFLOP/s of the fastest of some float32 products, on paddle's device with the threads it has here."""
    import paddle

    from benchmarks.side_by_side import wait_for_gpu
    from training.precision import on_gpu

    fastest = 0.0
    for rows, terms, columns in (*SHAPES, *([LARGE] if on_gpu() else [])):
        a, b = paddle.randn([rows, terms]), paddle.randn([terms, columns])
        for _ in range(REPEATS):
            wait_for_gpu()
            start = time.perf_counter()
            paddle.matmul(a, b)
            wait_for_gpu()
            fastest = max(fastest, 2 * rows * terms * columns / (time.perf_counter() - start))
    return fastest / 1e9


def encoder_operations(
    rows: int, length: int, layers: int, outputs: int | None = None, context: int | None = None
) -> float:
    """Multiplications and additions of a forward pass over [rows, length] tokens.

    Args:
        outputs: tokens whose last layer is read: the others need no more of it than their key and value, and
            are given a query; None: all.
        context: context tokens of each row, where there are placeholders; None: all are context.
    """
    context = length if context is None else context
    outputs = rows * length if outputs is None else outputs
    scores = length * context + length - context  # of a head; a placeholder has one more, its own
    whole = layers * rows * (24 * HIDDEN**2 * length + 4 * HIDDEN * scores)
    return whole - (rows * length - outputs) * 18 * HIDDEN**2


def head_operations(positions: int, columns: int) -> float:
    """Of an output layer: a product of its own, then `columns` logits for each position."""
    return 2 * positions * HIDDEN * (HIDDEN + columns)


def training_operations(forward: float) -> float:
    """Of a step: a backward pass has two products for each one of the forward pass."""
    return 3 * forward
