"""Micro-batches on the device, and their loss: of all masked words together, then of each other objective."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from ernie_m.model.config import NO_LANGUAGE
from ernie_m.model.device import upload
from ernie_m.model.lm_head import MaskedLoss, PreTrainingModel
from ernie_m.model.packed_batch import TokenBatch
from ernie_m.pretrain.objectives import class_of
from ernie_m.pretrain.packing import HostBatch, MicroBatch, Packed, Stage1

DeviceBatch = MicroBatch[TokenBatch, Tensor]


def to_device(batches: Sequence[HostBatch], weights: Mapping[str, float] | None = None) -> list[DeviceBatch]:
    """Copy micro-batches to the device, all of them in one copy. Call it within autocast.

    Args:
        weights: objective -> the factor of its losses in the loss of a batch; None: 1. In training it is the
            objective's share divided by the number of its losses in the whole step, so that the losses of the
            step add up to the share times their mean.
    """
    for_device: list[Any] = []  # the records of the result, still with arrays
    for batch in batches:
        changes: dict[str, Any] = {"inputs": _inputs(batch.inputs)}
        if batch.stage1 is not None:
            changes["stage1"] = Stage1(**vars(batch.stage1) | {"inputs": _inputs(batch.stage1.inputs)})
        if weights is not None:
            of_words = np.zeros(len(batch.target_ids))
            for objective in batch.rows.keys() - batch.groups.keys():
                of_words[batch.rows[objective]] = weights[objective]
            changes |= {"weights": weights, "word_weights": of_words}
        if not len(batch.targets):
            # Paddle has no gradients of products without rows: any token serves where none is masked.
            changes["targets"] = np.zeros(1, np.int64)
        for_device.append(replace(batch, **changes))
    return upload(for_device)


def _inputs(packed: Packed) -> TokenBatch:
    """The tokens, still on the host; `upload` copies them."""
    has_languages = (packed.language_ids != NO_LANGUAGE).any()
    language_ids = packed.language_ids if has_languages else None
    return TokenBatch.from_packed(packed.input_ids, packed.layout, packed.position_ids, language_ids)


def batch_loss(model: PreTrainingModel, batch: DeviceBatch) -> tuple[Tensor, dict[str, Tensor | int]]:
    """The loss of a micro-batch of any objectives. BTMLM's slots must be filled.

    Returns:
        The weighted sum of all losses; and for each objective the sum of its losses, without weights, the
        number of those that are solved, and their number: "camlm.loss", "camlm.correct", "camlm.count".
    """
    states = model.encode(batch.inputs, batch.targets)  # [M, H]
    total, losses, correct = loss_of_words(model, batch, states)  # scalar, [W], bool [W]
    losses = losses.astype("float64")
    correct = correct.astype("float64")
    sums: dict[str, Tensor | int] = {}
    for objective, rows in batch.rows.items():
        if objective in batch.groups:
            own_states = paddle.gather(states, rows)
            own_loss = class_of(objective).loss
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


def loss_of_words(model: PreTrainingModel, batch: DeviceBatch, states: Tensor) -> MaskedLoss:
    """The loss of the masked words, in their order, given the states at `batch.targets`, [M, H]."""
    # Other targets follow. A batch without any target has one state, which is not read.
    words = batch.target_ids.shape[0]
    if words < states.shape[0]:
        states = states[:words]
    return model.lm_head.loss(states, batch.target_ids, batch.word_weights)
