"""The masked-LM losses of chunks of positions, and how they are put together, on a CPU and on a GPU."""

from collections.abc import Sequence
from typing import NamedTuple

import paddle
from paddle import Tensor


class ChunkLoss(NamedTuple):
    """The losses of a chunk, m positions."""

    losses: Tensor  # [m], float32 (float64 of a model in float64)
    correct: Tensor  # bool [m], whether no logit is above the label's


def joined(chunks: Sequence[ChunkLoss], loss_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The weighted sum of the losses of all chunks, the losses [M], and whether each is correct [M].

    Args:
        loss_weights: [M], the factor of each loss in the sum.
    """
    losses = paddle.concat([chunk.losses for chunk in chunks])
    correct = paddle.concat([chunk.correct for chunk in chunks])
    return (losses * loss_weights).sum(), losses, correct


def loss_outputs(ctx, chunks: Sequence[ChunkLoss], loss_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `joined` returns, as the outputs of a `PyLayer` of which only the sum has a gradient."""
    total, losses, correct = joined(chunks, loss_weights)
    ctx.mark_non_differentiable(losses, correct)
    ctx.set_materialize_grads(False)  # the backward pass gets None for these two, not zeros
    return total, losses, correct
