"""A micro-batch through the model: hidden states at the masked tokens, and their loss."""

from collections.abc import Sequence

import numpy as np
import paddle
from paddle import Tensor

from model import device
from model.attention import Layout
from model.heads import PreTrainingModel
from model.word_table import MaskedLoss
from pretrain.batch import Batch, Packed


def hidden_at(model: PreTrainingModel, batch: Packed, positions: np.ndarray) -> Tensor:
    """The last layer at `positions`, indices into N: [M, H]."""
    hidden = _hidden_at(model, batch, *_uploaded(*_arrays(batch, positions)))
    return hidden if len(positions) else hidden[:0]


def _arrays(batch: Packed, positions: np.ndarray) -> list[np.ndarray]:
    any_position = np.zeros(1, np.int64)  # Paddle has no gradients of products without rows
    positions = positions if len(positions) else any_position
    return [batch.input_ids, batch.position_ids, batch.language_ids, positions]


def _uploaded(*arrays: np.ndarray) -> list[Tensor]:
    """int64 arrays [n] as tensors, with one copy to a GPU: each copy waits for it."""
    if not device.on_gpu():
        return [paddle.to_tensor(array) for array in arrays]
    return paddle.split(paddle.to_tensor(np.concatenate(arrays)), [len(array) for array in arrays])


def _hidden_at(model: PreTrainingModel, batch: Packed, ids, places, languages, positions) -> Tensor:
    carries_language = bool((batch.language_ids >= 0).any())
    layout = Layout(batch.lengths, batch.contexts)
    return model(ids, places, languages if carries_language else None, layout, positions)


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
    if not len(batch.targets):
        return model.lm_head.loss(hidden_at(model, batch, batch.targets), paddle.to_tensor(batch.target_ids))
    *arrays, labels = _uploaded(*_arrays(batch, batch.targets), batch.target_ids)
    hidden = _hidden_at(model, batch, *arrays)  # [M, H]
    of_targets = None if weights is None else paddle.to_tensor(np.asarray(weights)[batch.target_objectives])
    return model.lm_head.loss(hidden, labels, of_targets)
