"""Cross-entropy over the whole vocabulary, in memory that does not grow with the number of positions.

The masked positions are taken in chunks; the logits of one take at most LOGITS_BYTES. On a CPU
`model/loss_on_cpu.py` computes a chunk. On a GPU, and with plain kernels, a chunk is three operations of
Paddle, whose logits are computed again in the backward pass instead of being kept.
"""

from typing import NamedTuple

import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.distributed.fleet.utils import recompute

from model import device, loss_on_cpu
from model.word_table import WordEmbeddings

# Of the logits of a chunk: 512 MB. Paddle's cross-entropy on a GPU counts places in 32 bits, so a chunk must
# have fewer than 2^31 logits (`VectorizedSoftmaxForward` in paddle/phi/kernels/gpu/cross_entropy_kernel.cu).
LOGITS_BYTES = 1 << 29


class MaskedLoss(NamedTuple):
    """The loss of M masked positions."""

    total: Tensor  # the sum of the losses times their weights, [], with a gradient
    losses: Tensor  # [M], without their weights or a gradient, float32 (float64 of a model in float64)
    correct: Tensor  # bool [M], whether no logit is above the label's


def logits(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [M, H] times the table [V, H], plus bias [V]: [M, V]."""
    return paddle.matmul(x, weight, transpose_y=True) + bias


def logit_chunks(position_count: int, vocab_size: int, dtype: paddle.dtype) -> list[slice]:
    """Slices of the positions, such that the logits of a slice take at most LOGITS_BYTES.

    Args:
        position_count: M, the number of masked positions.
        vocab_size: V, the number of logits of a position.
        dtype: of the logits.
    """
    bytes_per_logit = paddle.empty([0], dtype).element_size()
    size = max(1, LOGITS_BYTES // (bytes_per_logit * vocab_size))  # positions of a slice
    return [slice(start, min(start + size, position_count)) for start in range(0, position_count, size)]


def cross_entropy(
    x: Tensor, table: WordEmbeddings, bias: Tensor, labels: Tensor, loss_weights: Tensor | None = None
) -> MaskedLoss:
    """-log softmax(logits)[label] of each position, without an array of [M, V].

    Args:
        x: [M, H], M at least 1.
        table: the word table [V, H].
        bias: [V], added to the logits.
        labels: [M] int64, from 0 to V - 1.
        loss_weights: [M] float, the factor of each loss in the sum; None: 1. They get no gradient.
    """
    precise = device.precise_dtype(x)
    if loss_weights is None:
        loss_weights = paddle.ones([x.shape[0]])
    loss_weights = loss_weights.astype(precise)
    chunks = logit_chunks(x.shape[0], bias.shape[0], precise)
    if device.on_cpu(x):
        return MaskedLoss(*loss_on_cpu.cross_entropy(x, table, bias, labels, loss_weights, chunks))

    all_frozen = x.stop_gradient and table.weight.stop_gradient and bias.stop_gradient
    has_backward = paddle.is_grad_enabled() and not all_frozen
    results = []
    for rows in chunks:
        inputs = (x[rows], table.weight, bias, labels[rows])
        if has_backward:
            # Nothing here is random, so no random state has to be kept.
            results.append(recompute(_losses_of_chunk, *inputs, preserve_rng_state=False))
        else:
            results.append(_losses_of_chunk(*inputs))
    losses, correct = (paddle.concat(parts) for parts in zip(*results))
    return MaskedLoss((losses * loss_weights).sum(), losses.detach(), correct.detach())


def _losses_of_chunk(x: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The losses of x [m, H], [m], and whether no logit is above the label's, bool [m].

    Within autocast the product is in half precision; the softmax is not.
    """
    scores = logits(x, weight, bias).astype(device.precise_dtype(x))  # [m, V]
    losses = F.cross_entropy(scores, labels, reduction="none")
    label_logit = paddle.take_along_axis(scores, labels.unsqueeze(1), axis=1).squeeze(1)
    return losses, label_logit >= scores.max(1)
