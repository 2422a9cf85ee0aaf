"""Micro-batches on the device, and the loss at their masked tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from paddle import Tensor

from model.batch import TokenBatch
from model.config import NO_LANGUAGE
from model.device import Uploadable, upload
from model.heads import PreTrainingModel
from model.masked_loss import MaskedLoss
from pretrain.config import OBJECTIVES
from pretrain.packing import Batch, Packed


@dataclass(frozen=True)
class MaskedTargets(Uploadable):
    """What M masked tokens are, and how their losses count.

    Attributes:
        count: M.
        positions: int64 [M], indices into the N tokens, ascending. If M is 0, one index of any token.
        ids: int64 [M].
        weights: float64 [M], of each loss in the sum; None: 1.
        by_objective: objective -> int64, which of the M tokens serve it. Objectives without any are absent.
    """

    count: int
    positions: Tensor
    ids: Tensor
    weights: Tensor | None
    by_objective: dict[str, Tensor]


@dataclass(frozen=True)
class DeviceStage1(Uploadable):
    """BTMLM's first pass on the device; see `pretrain.packing.Stage1`.

    Attributes:
        inputs: N' tokens, sentences and placeholders.
        placeholders: int64 [P], indices into N'.
        slots: int64 [P], where each prediction goes: indices into the N tokens of the second pass.
        slot_sentences: int64 [P], the sentence of each slot.
        slot_languages: int64 [P], on the host; ascending.
        draws: float64 [P], uniform in [0, 1).
        context_ids: int64 [C], the tokens that a pseudo-token may copy.
        context_sentences: int64 [C], the sentence of each.
    """

    inputs: TokenBatch
    placeholders: Tensor
    slots: Tensor
    slot_sentences: Tensor
    slot_languages: list[int]
    draws: Tensor
    context_ids: Tensor
    context_sentences: Tensor


@dataclass(frozen=True)
class DeviceBatch(Uploadable):
    """A micro-batch on the device; see `pretrain.packing.Batch`.

    Attributes:
        inputs: N tokens. BTMLM's slots hold [MASK] until `PseudoTokenGenerator.fill` has filled them.
        targets: what is to be predicted.
        stage1: BTMLM's first pass; None without BTMLM sequences.
    """

    inputs: TokenBatch
    targets: MaskedTargets
    stage1: DeviceStage1 | None


def to_device(batches: Sequence[Batch], weights: Sequence[float] | None = None) -> list[DeviceBatch]:
    """Copy micro-batches to the device, all of them in one copy. Call it within autocast.

    Args:
        weights: [4], the factor of each objective's losses in `masked_lm_loss`, in the order of `OBJECTIVES`;
            None: 1. In training it is the objective's share divided by the number of its masked tokens in the
            whole step, so that the losses of the step add up to the share times their mean.
    """
    device_batches = []
    for batch in batches:
        # What is to be predicted, and which of it serves each objective.
        by_objective = {}
        for number, objective in enumerate(OBJECTIVES):
            indices = np.flatnonzero(batch.target_objectives == number)
            if len(indices):
                by_objective[objective] = indices
        targets = MaskedTargets(
            count=len(batch.targets),
            # Paddle has no gradients of products without rows: any token serves where none is masked.
            positions=batch.targets if len(batch.targets) else np.zeros(1, np.int64),
            ids=batch.target_ids,
            weights=None if weights is None else np.asarray(weights, np.float64)[batch.target_objectives],
            by_objective=by_objective,
        )

        # BTMLM's first pass.
        device_stage1 = None
        if batch.stage1 is not None:
            stage1 = batch.stage1
            is_context = stage1.layout.is_context()  # bool [N']
            device_stage1 = DeviceStage1(
                inputs=_inputs(stage1),
                placeholders=stage1.placeholders,
                slots=stage1.slots,
                slot_sentences=stage1.slot_sentences,
                slot_languages=stage1.slot_languages.tolist(),
                draws=stage1.draws,
                context_ids=stage1.input_ids[is_context],
                context_sentences=stage1.layout.sequence_numbers()[is_context],
            )
        device_batches.append(DeviceBatch(_inputs(batch), targets, device_stage1))
    return upload(device_batches)


def _inputs(packed: Packed) -> TokenBatch:
    """The tokens, still on the host; `upload` copies them."""
    has_languages = (packed.language_ids != NO_LANGUAGE).any()
    return TokenBatch.from_packed(
        packed.input_ids,
        packed.layout,
        packed.position_ids,
        packed.language_ids if has_languages else None,
    )


def masked_lm_loss(model: PreTrainingModel, batch: DeviceBatch) -> MaskedLoss:
    """Cross-entropy at the batch's masked tokens, in the order of `batch.targets`.

    BTMLM's slots must be filled.
    """
    targets = batch.targets
    hidden = model.encode(batch.inputs, targets.positions)  # [M, H]
    if targets.count == 0:  # `positions` has an index all the same
        hidden = hidden[:0]
    return model.lm_head.loss(hidden, targets.ids, targets.weights)
