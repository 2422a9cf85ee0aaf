"""Copies micro-batches to the device, and computes their loss."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from ernie_m.model.config import NO_LANGUAGE
from ernie_m.model.device_transfer import upload
from ernie_m.model.lm_head import MaskedLMLoss, PreTrainingModel
from ernie_m.model.packed_batch import PackedBatch
from ernie_m.pretrain.objectives import OBJECTIVES, get_objective_class
from ernie_m.pretrain.packing import HostBatch, MicroBatch, PackedTokens, Stage1

DeviceBatch = MicroBatch[PackedBatch, Tensor]


def list_sum_names() -> list[str]:
    """Return the names of the logged values that a step sums over micro-batches and processes."""
    names = [f"{name}.{what}" for name in OBJECTIVES for what in ("loss", "count", "correct")]
    return [
        *names,
        "tokens",
        "flops",
        *(what for name in OBJECTIVES for what in get_objective_class(name).further_sums),
    ]


def to_device(batches: Sequence[HostBatch], weights: Mapping[str, float] | None = None) -> list[DeviceBatch]:
    """Copy micro-batches to the device in one transfer. Call this under autocast.

    Args:
        weights: objective -> weight of each of its losses in the total loss; None: 1. In training, the weight
            is the mixing ratio divided by the number of the objective's losses in the whole step, so that the
            weighted losses of the step sum to mixing ratio x mean loss.
    """
    for_device: list[Any] = []  # the results, still with arrays
    for batch in batches:
        changes: dict[str, Any] = {"inputs": _make_inputs(batch.inputs)}
        if batch.stage1 is not None:
            changes["stage1"] = Stage1(**vars(batch.stage1) | {"inputs": _make_inputs(batch.stage1.inputs)})
        # A masked token counts by its objective. Objectives with a loss of their own are weighted as a whole,
        # in `compute_batch_loss`.
        if weights is not None:
            word_weights = np.zeros(len(batch.target_ids))
            for objective in batch.rows.keys() - batch.groups.keys():
                word_weights[batch.rows[objective]] = weights[objective]
            changes |= {"weights": weights, "word_weights": word_weights}
        if not len(batch.targets):
            # Paddle has no gradients of products without rows, so use any token if none is masked.
            changes["targets"] = np.zeros(1, np.int64)
        for_device.append(replace(batch, **changes))
    return upload(for_device)


def _make_inputs(packed: PackedTokens) -> PackedBatch:
    """Make the encoder's input from packed tokens, with NumPy arrays that `upload` copies to the device."""
    has_languages = (packed.language_ids != NO_LANGUAGE).any()
    language_ids = packed.language_ids if has_languages else None
    return PackedBatch.from_packed(packed.input_ids, packed.layout, packed.position_ids, language_ids)


def compute_batch_loss(model: PreTrainingModel, batch: DeviceBatch) -> tuple[Tensor, dict[str, Tensor | int]]:
    """Compute the loss of a micro-batch, which may mix objectives.

    The pseudo-tokens of BTMLM sequences must have been generated (`PseudoTokenGenerator.fill_placeholders`).

    Returns:
        The weighted sum of all losses; and for each objective, such as camlm, the unweighted sum of its
        losses ("camlm.loss"), the number of correct predictions ("camlm.correct") and the number of losses
        ("camlm.count").
    """
    # One pass encodes the sequences of all objectives, and keeps the states of the targets alone.
    states = model.encode(batch.inputs, batch.targets)  # [M, H]
    total, losses, correct = compute_word_loss(model, batch, states)  # scalar, [W], bool [W]
    losses = losses.astype("float64")
    correct = correct.astype("float64")

    # The total has the masked tokens already; objectives with a loss of their own add theirs. The log gets
    # unweighted sums, which can be compared between mixing ratios.
    sums: dict[str, Tensor | int] = {}
    for objective, rows in batch.rows.items():
        if objective in batch.groups:
            own_states = paddle.gather(states, rows)
            own_loss = get_objective_class(objective).loss
            own_losses, own_correct = own_loss(model, own_states, batch.groups[objective])  # [n] each
            total = total + batch.weights.get(objective, 1.0) * own_losses.sum()
            losses_of_part = own_losses.detach().astype("float64")
            correct_of_part = own_correct.astype("float64")
        else:
            losses_of_part = paddle.gather(losses, rows)
            correct_of_part = paddle.gather(correct, rows)
        sums[f"{objective}.loss"] = losses_of_part.sum()
        sums[f"{objective}.correct"] = correct_of_part.sum()
        sums[f"{objective}.count"] = losses_of_part.shape[0]
    return total, sums


def compute_word_loss(model: PreTrainingModel, batch: DeviceBatch, states: Tensor) -> MaskedLMLoss:
    """Compute the masked-LM loss of the masked tokens of a micro-batch.

    Args:
        states: last hidden states at `batch.targets`, [M, H].
    """
    # Other targets follow. A batch without targets has one state, which is ignored.
    words = batch.target_ids.shape[0]
    if words < states.shape[0]:
        states = states[:words]
    return model.lm_head.loss(states, batch.target_ids, batch.word_weights)
