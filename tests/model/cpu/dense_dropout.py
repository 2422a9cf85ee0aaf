"""The dropout of attention on a CPU, as factors of the weights of all tokens by all tokens."""

import numpy as np

from ernie_m.model.cpu.layers import draw_dropout_mask
from ernie_m.model.packed_layout import PackedLayout


def draw_dense_dropout(layout: PackedLayout, heads: int, rate: float, is_float32: bool) -> np.ndarray:
    """The factors [heads, N, N] of the dropout mask that a CPU's attention draws next.

    `is_float32`: the mask has the blocks of all heads of the shortest sequence, then those of the next one,
    and a row of a block is a key. In bfloat16 the sequences are in order, and a row is a query.
    """
    mask = draw_dropout_mask([heads * (layout.lengths**2).sum()], rate)
    numbers = mask.stays * mask.scale
    factors = np.zeros([heads, layout.tokens, layout.tokens])
    for sequence in np.argsort(layout.lengths, kind="stable") if is_float32 else range(len(layout.lengths)):
        length = layout.lengths[sequence]
        tokens = slice(layout.starts[sequence], layout.starts[sequence] + length)
        blocks, numbers = np.split(numbers, [heads * length**2])
        blocks = blocks.reshape([heads, length, length])
        factors[:, tokens, tokens] = blocks.swapaxes(1, 2) if is_float32 else blocks
    return factors
