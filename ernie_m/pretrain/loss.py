"""Micro-batches on the device, and their loss: of all masked words together, then of each other objective."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor

from ernie_m.model.config import NO_LANGUAGE
from ernie_m.model.device import Uploadable, upload
from ernie_m.model.lm_head import MaskedLoss, PreTrainingModel
from ernie_m.model.packed_batch import TokenBatch
from ernie_m.pretrain.objective import class_of
from ernie_m.pretrain.objectives import OBJECTIVES
from ernie_m.pretrain.packing import MicroBatch, Packed


@dataclass(frozen=True)
class OtherTargets(Uploadable):
    """The targets of an objective that has a loss of its own.

    Attributes:
        rows: int64 [m], which of `MaskedTargets.positions` they are.
        groups: int64 [m], the group of each target.
        weight: the weight of each loss in the sum.
    """

    rows: Tensor
    groups: Tensor
    weight: float


@dataclass(frozen=True)
class MaskedTargets(Uploadable):
    """What M masked tokens are, and how their losses count.

    Attributes:
        count: M.
        positions: int64, indices into the N tokens: those of the M masked tokens, ascending, then those of
            `others`. If there are none at all, one index of any token.
        ids: int64 [M].
        weights: float64 [M], the weight of each loss in the sum; None: 1.
        by_objective: objective -> int64, which of the M tokens serve it. Objectives without any are absent.
        others: the objectives with a loss of their own.
    """

    count: int
    positions: Tensor
    ids: Tensor
    weights: Tensor | None
    by_objective: dict[str, Tensor]
    others: dict[str, OtherTargets]


@dataclass(frozen=True)
class DeviceStage1(Uploadable):
    """BTMLM's first pass on the device; see `ernie_m.pretrain.packing.Stage1`.

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
    """A micro-batch on the device; see `ernie_m.pretrain.packing.MicroBatch`.

    Attributes:
        inputs: N tokens. BTMLM's slots hold [MASK] until `PseudoTokenGenerator.fill` has filled them.
        targets: what is to be predicted.
        stage1: BTMLM's first pass; None without BTMLM sequences.
    """

    inputs: TokenBatch
    targets: MaskedTargets
    stage1: DeviceStage1 | None


def to_device(batches: Sequence[MicroBatch], weights: Mapping[str, float] | None = None) -> list[DeviceBatch]:
    """Copy micro-batches to the device, all of them in one copy. Call it within autocast.

    Args:
        weights: objective -> the factor of its losses in the loss of a batch; None: 1. In training it is the
            objective's share divided by the number of its losses in the whole step, so that the losses of the
            step add up to the share times their mean.
    """
    device_batches = []
    for batch in batches:
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
        device_batches.append(DeviceBatch(_inputs(batch), _targets(batch, weights), device_stage1))
    return upload(device_batches)


def _targets(batch: MicroBatch, weights: Mapping[str, float] | None) -> MaskedTargets:
    """What is to be predicted, and which of it serves each objective; still on the host."""
    # The masked words come first, then the targets of objectives with a loss of their own.
    numbers = np.unique(batch.target_objectives).tolist()  # places in `OBJECTIVES`
    with_own_loss = [number for number in numbers if class_of(OBJECTIVES[number]).loss is not None]
    is_other = np.isin(batch.target_objectives, with_own_loss)  # bool, for each target
    order = np.argsort(is_other, kind="stable")
    target_objectives = batch.target_objectives[order]
    count = int((~is_other).sum())  # M, the number of masked words
    by_objective = {}
    others = {}
    for number in numbers:
        objective = OBJECTIVES[number]
        rows = np.flatnonzero(target_objectives == number)
        if number in with_own_loss:
            weight = 1.0 if weights is None else weights[objective]
            others[objective] = OtherTargets(rows, batch.target_groups[order][rows], weight)
        else:
            by_objective[objective] = rows
    weights_of_words = None
    if weights is not None:
        weight_of_number = np.array([weights.get(objective, 0.0) for objective in OBJECTIVES])
        weights_of_words = weight_of_number[target_objectives[:count]]  # [M]
    positions = batch.targets[order]
    if not len(positions):
        # Paddle has no gradients of products without rows: any token serves where none is masked.
        positions = np.zeros(1, np.int64)
    return MaskedTargets(
        count=count,
        positions=positions,
        ids=batch.target_ids[order[:count]],
        weights=weights_of_words,
        by_objective=by_objective,
        others=others,
    )


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
    targets = batch.targets
    states = model.encode(batch.inputs, targets.positions)
    total, losses, correct = loss_of_words(model, targets, states)  # scalar, [M], bool [M]
    parts = {}  # objective -> its losses, and whether each is solved
    for objective, rows in targets.by_objective.items():
        parts[objective] = (
            paddle.gather(losses.astype("float64"), rows),
            paddle.gather(correct.astype("float64"), rows),
        )
    for objective, other in targets.others.items():
        own_states = paddle.gather(states, other.rows)
        own_losses, own_correct = class_of(objective).loss(model, own_states, other.groups)  # [n] each
        total = total + other.weight * own_losses.sum()
        parts[objective] = (own_losses.detach().astype("float64"), own_correct.astype("float64"))
    sums: dict[str, Tensor | int] = {}
    for objective, (losses_of_part, correct_of_part) in parts.items():
        sums[f"{objective}.loss"] = losses_of_part.sum()
        sums[f"{objective}.correct"] = correct_of_part.sum()
        sums[f"{objective}.count"] = losses_of_part.shape[0]
    return total, sums


def loss_of_words(model: PreTrainingModel, targets: MaskedTargets, states: Tensor) -> MaskedLoss:
    """The loss of the masked words, in their order, given the states at `targets.positions`, [m, H]."""
    # The states of `targets.others` follow. A batch without any target has one state, which is not read.
    if targets.count < states.shape[0]:
        states = states[: targets.count]
    return model.lm_head.loss(states, targets.ids, targets.weights)
