"""The operations on tensors that a device may have faster, each by Paddle's public operations.

This page is the model's arithmetic: embedding, layers and loss. `ernie_m/model/ernie.py` defines the symbols.
Attention within packed sequences is in `ernie_m/model/attention.py`.

`ernie_m.model.kernel_selection.get_kernels` returns the kernels for a tensor: these, or those of a device
that overrides some of them with the same mathematics, equal up to rounding.
"""

from collections.abc import Callable, Sequence
from functools import partial

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.distributed.fleet.utils import recompute


class Kernels:
    """Paddle's public operations, on every device."""

    def apply_linear(self, x: Tensor, layers: Sequence[nn.Linear], dtype: str) -> Sequence[Tensor]:
        """Apply linear layers to the same input: x [..., I] -> [..., O] per layer.

        Args:
            dtype: dtype of the results, if a CPU computes layers with `in_bfloat16`; ignored here.
        """
        return [F.linear(x, layer.weight, layer.bias) for layer in layers]

    def layer_norm(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float) -> Tensor:
        """Normalize over the last axis: x [..., H], weight and bias [H] -> [..., H]."""
        return F.layer_norm(x, [x.shape[-1]], weight, bias, epsilon)

    def gelu(self, x: Tensor) -> Tensor:
        """Compute the exact GELU of each element: [..., H] -> [..., H]."""
        return F.gelu(x)

    def dropout(self, x: Tensor, probability: float, residual: Tensor | None) -> Tensor:
        """Apply inverted dropout to x [..., H], then add `residual` [..., H], if given."""
        x = F.dropout(x, probability, training=True)
        return x if residual is None else x + residual

    def look_up(self, table: nn.Embedding, ids: Tensor) -> Tensor:
        """Look up rows of an embedding matrix: ids int64 [N] -> [N, H]."""
        return F.embedding(ids, table.weight)

    def average_rows(self, table: nn.Embedding, ids: Tensor, lengths: Tensor) -> Tensor:
        """Average rows of an embedding matrix: ids int64 [N] of S texts of `lengths`, int64 [S] -> [S, H]."""
        text_of_token = paddle.repeat_interleave(paddle.arange(len(lengths)), lengths)  # [N]
        # Each text receives the mean of the rows of its tokens.
        return paddle.geometric.send_u_recv(table.weight, ids, text_of_token, "mean", len(lengths))

    def compute_cross_entropy(
        self,
        x: Tensor,
        table: nn.Embedding,
        bias: Tensor,
        labels: Tensor,
        loss_weights: Tensor,
        chunks: Sequence[slice],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the fields of `ernie_m.model.lm_head.MaskedLMLoss`, chunk by chunk.

        Args:
            x: [M, H].
            table: the embedding matrix [V, H].
            bias: [V], added to the logits.
            labels: int64 [M].
            loss_weights: [M], in the dtype of the losses; no gradient.
            chunks: slices of the M positions.
        """
        compute: Callable[..., tuple[Tensor, Tensor]] = _compute_chunk_losses
        # The backward pass computes the logits again: kept for all chunks, they would be an array [M, V].
        # Nothing here is random, so no state of a generator is saved.
        if is_recorded(x, table.weight, bias):
            compute = partial(recompute, _compute_chunk_losses, preserve_rng_state=False)
        constants = (table.weight, bias, loss_weights.dtype)
        return sum_chunk_losses([compute(x[rows], labels[rows], *constants) for rows in chunks], loss_weights)


def is_recorded(*tensors: Tensor) -> bool:
    """Return whether an operation on these tensors has a backward pass."""
    return paddle.is_grad_enabled() and not all(tensor.stop_gradient for tensor in tensors)


def sum_chunk_losses(
    results: Sequence[tuple[Tensor, Tensor]], loss_weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Join losses and correctness of chunks, [m] each: weighted total [], losses [M], correct [M]."""
    losses_of_chunks, correct_of_chunks = zip(*results)
    losses = paddle.concat(losses_of_chunks)  # [M]
    correct = paddle.concat(correct_of_chunks).detach()
    return (losses * loss_weights).sum(), losses.detach(), correct


def _compute_chunk_losses(
    x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, dtype: paddle.dtype
) -> tuple[Tensor, Tensor]:
    """Compute the cross-entropy of a chunk x [m, H] with Paddle's operations.

    Under autocast, the matrix product is in half precision, and the softmax in `dtype`.

    Returns:
        The losses, [m], and whether no logit exceeds the label's, bool [m].
    """
    scores = (paddle.matmul(x, weight, transpose_y=True) + bias).astype(dtype)  # [m, V]
    losses = F.cross_entropy(scores, labels, reduction="none")
    # A label whose logit ties with the highest one counts as correct.
    label_logit = paddle.take_along_axis(scores, labels.unsqueeze(1), axis=1).squeeze(1)
    return losses, label_logit >= scores.max(1)
