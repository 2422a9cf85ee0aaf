"""A micro-batch through the model: hidden states at the masked tokens, and their loss."""

from collections.abc import Sequence

import numpy as np
import paddle
from paddle import Tensor

from model.attention import Layout
from model.heads import PreTrainingModel
from model.word_table import MaskedLoss
from pretrain.batch import Batch, Packed


def hidden_at(model: PreTrainingModel, batch: Packed, positions: np.ndarray) -> Tensor:
    """The last layer at `positions`, indices into N: [M, H]."""
    any_position = np.zeros(1, np.int64)  # Paddle has no gradients of products without rows
    carries_language = bool((batch.language_ids >= 0).any())
    hidden = model(
        paddle.to_tensor(batch.input_ids),
        paddle.to_tensor(batch.position_ids),
        paddle.to_tensor(batch.language_ids) if carries_language else None,
        Layout(batch.lengths, batch.contexts),
        paddle.to_tensor(positions if len(positions) else any_position),
    )
    return hidden if len(positions) else hidden[:0]


def masked_lm_loss(
    model: PreTrainingModel, batch: Batch, weights: Sequence[float] | None = None
) -> MaskedLoss:
    """Cross-entropy at the batch's masked tokens.

    Args:
        batch: its BTMLM sequences must have their pseudo-tokens.
        weights: [4], what a loss of each objective is multiplied by in the sum; None: 1. For the objective's
            mean it is its share divided by its count over all devices and micro-batches.

    Returns:
        `losses` and `right` are in the order of `batch.targets`.
    """
    hidden = hidden_at(model, batch, batch.targets)  # [M, H]
    of_targets = None if weights is None else paddle.to_tensor(np.asarray(weights)[batch.target_objectives])
    return model.lm_head.loss(hidden, paddle.to_tensor(batch.target_ids), of_targets)
