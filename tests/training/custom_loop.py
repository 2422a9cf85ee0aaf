"""A training loop without the engine: in one process by the tests, in two by `processes_script.py`."""

import copy
from collections.abc import Sequence

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ernie_m.model.config import ErnieMConfig
from ernie_m.model.lm_head import PreTrainingModel
from ernie_m.model.optimization import build_optimizer
from tests.helpers.batches import padded_batch

CONFIG = ErnieMConfig(
    vocab_size=60, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, hidden_dropout_prob=0.0
)
# What the steps of a loop use the table for, besides looking words up: the logits of all words, the loss of
# masked positions, nothing.
OPTIMIZERS = ("paddle", "ours")  # ours takes the table over
LOOPS = [("logits", "logits", "logits"), ("logits", "nothing", "loss"), ("nothing",) * 3, ("loss",) * 3]


class Loss(nn.Layer):
    """The loss of a batch of ids [B, T]."""

    def __init__(self):
        super().__init__()
        self.model = PreTrainingModel(CONFIG, ["en"])

    def forward(self, ids: np.ndarray, use: str):
        states = self.model.encode(padded_batch(ids))  # [N, H]
        labels = paddle.to_tensor(ids.ravel())
        if use == "logits":
            return F.cross_entropy(self.model.lm_head(states), labels)
        if use == "loss":
            return self.model.lm_head.loss(states, labels).total / len(labels)
        return states[:, 0].mean()


def gradients(
    uses: Sequence[str],
    optimizer: str,
    zeros: bool,
    copied: bool = False,
    rank: int = 0,
    processes: int = 1,
) -> list[np.ndarray]:
    """The gradient of the table [V, H] before each update.

    Args:
        uses: of `LOOPS`.
        optimizer: of `OPTIMIZERS`.
        zeros: clear gradients to zeros, Paddle's default, and not to None.
        copied: train a deep copy of the model.
        processes: how many share each batch, by `paddle.DataParallel`.
    """
    paddle.seed(0)
    layer = Loss()
    layer.eval()
    if copied:
        build_optimizer(layer, 1e-3)  # of the model that is copied
        layer = copy.deepcopy(layer)
    if optimizer == "ours":
        updates = build_optimizer(layer, 1e-2)
    else:
        updates = paddle.optimizer.AdamW(1e-2, parameters=layer.parameters())
    parallel = layer if processes == 1 else paddle.DataParallel(layer, find_unused_parameters=True)
    table = layer.model.ernie_m.embeddings.word_embeddings.weight
    found = []
    for step, use in enumerate(uses):
        ids = np.random.default_rng(step).integers(4, 9 + 20 * step, [4, 6])
        parallel(ids[rank::processes], use).backward()
        found.append(table.grad.numpy())
        updates.step()
        updates.clear_grad(set_to_zero=zeros)
    return found


def assert_same_gradients(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
    """The gradients of each step are equal but for rounding in float32."""
    for gradient, plain in zip(found, expected, strict=True):
        np.testing.assert_allclose(gradient, plain, rtol=1e-4, atol=1e-6 * np.abs(plain).max())
