"""Token batches of small arrays, and what a GPU would compute with them."""

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ernie_m.model import attention, kernel_selection
from ernie_m.model.attention import PaddedMask
from ernie_m.model.attention_mask import AttentionMask
from ernie_m.model.device_transfer import upload
from ernie_m.model.heads import SequenceClassifier
from ernie_m.model.packed_batch import PackedBatch
from ernie_m.model.packed_layout import PackedLayout

PAD = 1


def padded_batch(ids) -> PackedBatch:
    """The only batch of a step, from an array of ids with pads, [B, T], on the device."""
    ids = np.asarray(ids)
    return upload(PackedBatch.from_padded(ids, PAD))


def packed_batch(ids, layout: PackedLayout, **arrays: np.ndarray) -> PackedBatch:
    """The only batch of a step, from sequences whose ids are one after the other already, [N], on the device.

    `arrays`: further arguments of `PackedBatch.from_packed`, such as `position_ids`.
    """
    ids = np.asarray(ids)
    return upload(PackedBatch.from_packed(ids, layout, **arrays))


def compute_classifier_loss(
    model: SequenceClassifier, batch: tuple[np.ndarray, np.ndarray]
) -> tuple[Tensor, dict]:
    """The loss of ids with pads, [B, T], and labels, [B], as `Engine.step` asks for it."""
    ids, labels = batch
    return F.cross_entropy(model(padded_batch(ids)), paddle.to_tensor(labels)), {}


def compute_as_on_a_gpu(monkeypatch, mask: type[AttentionMask] = PaddedMask) -> None:
    """Until the test ends, the network takes the operations that it takes on a GPU, and this kind of mask.

    They are Paddle's own, which a CPU has.
    """
    monkeypatch.setattr(kernel_selection, "_load_cpu", lambda: kernel_selection._PLAIN)
    monkeypatch.setattr(attention, "select_mask_class", lambda: mask)
