"""Micro-batches on the device, and through the model: states at the masked tokens, and their loss."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor

from model import device
from model.attention import Layout
from model.heads import PreTrainingModel
from model.word_table import MaskedLoss
from pretrain.batch import Batch, Packed, Stage1
from pretrain.config import OBJECTIVES


class DeviceRow:
    """A packed row of N tokens, to be sent to the device.

    Args:
        batch: the row.
        positions: the tokens whose states are wanted, int64 [M], indices into N.
        more: further arrays [n] to send.

    Attributes:
        tensors: the arrays on the device, by name, once they are sent.
    """

    def __init__(self, batch: Packed, positions: np.ndarray, **more: np.ndarray):
        self.batch, self.count = batch, len(positions)
        self.layout = Layout(batch.lengths, batch.contexts)
        # Paddle has no gradients of products without rows: any position serves where none is wanted.
        positions = positions if len(positions) else np.zeros(1, np.int64)
        self.arrays = {"input_ids": batch.input_ids, "position_ids": batch.position_ids} | more
        self.arrays["positions"] = positions
        if (batch.language_ids >= 0).any():
            self.arrays["language_ids"] = batch.language_ids
        self.tensors: dict[str, Tensor] = {}

    def hidden(self, model: PreTrainingModel) -> Tensor:
        """The last layer at `positions`: [M, H]."""
        sent = self.tensors
        ids, languages = sent["input_ids"], sent.get("language_ids")
        hidden = model(ids, sent["position_ids"], languages, self.layout, sent["positions"])
        return hidden if self.count else hidden[:0]


@dataclass
class DeviceBatch:
    """A `Batch` on the device: its row, and that of BTMLM's first stage, if there is one."""

    row: DeviceRow
    stage1: DeviceRow | None


def to_device(batches: Sequence[Batch], weights: Sequence[float] | None = None) -> list[DeviceBatch]:
    """Send micro-batches to the device in one copy, within autocast. `weights` is as in `masked_lm_loss`."""
    found = []
    for batch in batches:
        of_objectives = {
            name: np.flatnonzero(batch.target_objectives == number) for number, name in enumerate(OBJECTIVES)
        }
        more = {name: places for name, places in of_objectives.items() if len(places)}
        if weights is not None:
            more["weights"] = np.asarray(weights, np.float64)[batch.target_objectives]
        row = DeviceRow(batch, batch.targets, target_ids=batch.target_ids, **more)
        found.append(DeviceBatch(row, batch.stage1 and _stage1_row(batch.stage1)))
    _send([row for one in found for row in (one.row, one.stage1) if row is not None])
    return found


def hidden_at(model: PreTrainingModel, batch: Packed, positions: np.ndarray) -> Tensor:
    """The last layer at `positions`, indices into N: [M, H]."""
    row = DeviceRow(batch, positions)
    _send([row])
    return row.hidden(model)


def masked_lm_loss(
    model: PreTrainingModel, batch: Batch | DeviceBatch, weights: Sequence[float] | None = None
) -> MaskedLoss:
    """Cross-entropy at the batch's masked tokens.

    Args:
        batch: its BTMLM sequences must have their pseudo-tokens.
        weights: [4], the factor of each objective's losses in the sum; None: 1. With an objective's share
            divided by its number of masked tokens in the whole step, the sum has the share times the mean
            loss. Ignored for a `DeviceBatch`, which was sent with its weights.

    Returns:
        `losses` and `right` are in the order of `batch.targets`.
    """
    if isinstance(batch, Batch):
        (batch,) = to_device([batch], weights)
    row = batch.row
    hidden = row.hidden(model)  # [M, H]
    return model.lm_head.loss(hidden, row.tensors["target_ids"], row.tensors.get("weights"))


def _send(rows: Sequence[DeviceRow]) -> None:
    """Send rows to the device in one copy, with what attention needs on a GPU."""
    layouts = [row.layout.rounded_up for row in rows] if device.on_gpu() else []
    flash = device.flash_in(half=paddle.amp.is_autocast_enabled())
    groups = [row.arrays for row in rows] + [layout.arrays(flash) for layout in layouts]
    for owner, tensors in zip([*rows, *layouts], device.upload(groups), strict=True):
        owner.tensors.update(tensors)


def _stage1_row(stage1: Stage1) -> DeviceRow:
    # The sentence of each token that a pseudo-token may copy: a context token; -1 for the others.
    columns = Layout(stage1.lengths).places()
    numbers = np.repeat(np.arange(len(stage1.lengths)), stage1.lengths)
    sentences = np.where(columns < stage1.contexts[numbers], numbers, -1)
    return DeviceRow(
        stage1, stage1.placeholders, slots=stage1.slots, slot_rows=stage1.slot_rows, draws=stage1.draws,
        sentences=sentences,
    )  # fmt: skip
