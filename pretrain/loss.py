"""A batch through the model: inputs, hidden states at the masked positions, their loss."""

from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor

from model.attention import CompactMask
from model.heads import PreTrainingModel
from model.word_table import row_parts
from pretrain.batch import Batch, Stage1


@dataclass
class MaskedLoss:
    """What a batch's M masked tokens gave.

    Args:
        total: sum of the losses, a scalar with a gradient. Divide it by the step's count, over all devices
            and micro-batches, to get the objective's mean.
        count: M.
        losses: each token's loss [M], detached, in the order of `batch.target_positions`.
        correct: whether the arg max is the token, bool [M]; None where it was not asked for.
    """

    total: Tensor
    count: int
    losses: Tensor
    correct: Tensor | None

    def per_language(self, batch: Batch, languages: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sum of losses, count, and number correct (zeros where not asked for), each float64 [languages]."""

        def sums(weights) -> np.ndarray:
            return np.bincount(batch.target_languages, weights, minlength=languages).astype(np.float64)

        correct = np.zeros(self.count) if self.correct is None else self.correct.numpy()
        return sums(self.losses.astype("float64").numpy()), sums(None), sums(correct)


def model_inputs(batch: Batch | Stage1) -> dict:
    """The keyword arguments of `PreTrainingModel.forward`."""
    valid = paddle.to_tensor(batch.valid)  # [B, T]
    if batch.context_length is not None:
        mask = CompactMask(batch.context_length, valid)
    elif getattr(batch, "dense", None) is not None:
        mask = paddle.to_tensor(batch.dense)  # [B, 1, T, T]
    else:
        mask = valid
    carries_language = bool((batch.language_ids >= 0).any())
    return {
        "input_ids": paddle.to_tensor(batch.input_ids),
        "position_ids": paddle.to_tensor(batch.position_ids),
        "language_ids": paddle.to_tensor(batch.language_ids) if carries_language else None,
        "attention_mask": mask,
    }


def hidden_at(model: PreTrainingModel, batch: Batch | Stage1, positions: np.ndarray) -> Tensor:
    """The last layer at flat `positions` (into B*T): [M, H]."""
    any_position = np.zeros(1, np.int64)  # Paddle has no gradients of products without rows
    wanted = paddle.to_tensor(positions if len(positions) else any_position)
    hidden = model(**model_inputs(batch), positions=wanted)
    return hidden if len(positions) else hidden[:0]


def masked_lm_loss(model: PreTrainingModel, batch: Batch, accuracy: bool = False) -> MaskedLoss:
    """Cross-entropy at the batch's masked positions, summed.

    Args:
        batch: of any objective; a BTMLM batch must have its pseudo-tokens.
        accuracy: also compare the arg max; it costs the head's product a second time, so not at every step.
    """
    hidden = hidden_at(model, batch, batch.target_positions)  # [M, H]
    target_ids = paddle.to_tensor(batch.target_ids)
    losses = model.lm_head.loss(hidden, target_ids)  # [M]
    correct = predict(model, hidden) == target_ids if accuracy else None
    return MaskedLoss(losses.sum(), batch.masked, losses.detach(), correct)


@paddle.no_grad()
def predict(model: PreTrainingModel, hidden: Tensor) -> Tensor:
    """The most likely id at each masked position: hidden [M, H] -> int64 [M]."""
    parts = row_parts(hidden.shape[0], model.lm_head.bias.shape[0])
    if not parts:
        return paddle.zeros([0], dtype="int64")
    return paddle.concat([model.lm_head(hidden[part]).argmax(-1) for part in parts])
