"""Fifty training steps have the same losses as plain paddle.nn with Paddle's own AdamW and clipping.

In float64, without dropout. Our side is the complete step: encoder, embedding matrix, the last layer at
the positions that are read, norm, clipping and AdamW by rows.
"""

from dataclasses import replace

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from ernie_m.model import lm_head
from ernie_m.model.lm_head import PreTrainingModel
from ernie_m.model.optimization import build_optimizer, is_decayed
from ernie_m.pretrain.loss import compute_batch_loss, to_device
from ernie_m.training.engine import Engine
from tests.helpers.batches import compute_as_on_a_gpu
from tests.helpers.dtypes import default_dtype
from tests.helpers.plain_model import PlainPretraining, padded, real_cells
from tests.pretrain import examples
from tests.pretrain.examples import LANGUAGES, objectives, rngs, texts

STEPS = 50
DIFFERENT = 10  # batches; they come again and again
RATE = 5e-3  # constant
DECAY = 0.05
NORM = 0.5  # gradients are clipped to it
CONFIG = replace(examples.CONFIG, initializer_range=0.2)


@pytest.fixture(autouse=True, params=["cpu", "elsewhere"])
def float64(request, monkeypatch):
    """float64, with the code for a CPU and with that for other devices."""
    # Memory holds the logits of 3 positions, with 100 words of 8 bytes each: the loss is computed in
    # several chunks.
    monkeypatch.setattr(lm_head, "LOGITS_BYTES", 3 * 100 * 8)
    if request.param == "elsewhere":
        compute_as_on_a_gpu(monkeypatch)
    with default_dtype("float64"):
        paddle.seed(4)
        yield


class Plain(PlainPretraining):
    """Plain layers with the parameter names of `PreTrainingModel`."""

    def predict_masked(self, ids, positions, labels):
        """The loss at some positions of the flattened ids [B * T]."""
        states = self.ernie_m(ids).sequence.reshape([-1, CONFIG.hidden_size])[positions]
        return F.cross_entropy(self.logits(states), labels)


def train_plainly(model: nn.Layer, compute_loss, batches: list) -> list[float]:
    """The losses of a training with Paddle's optimizer. `compute_loss` takes a batch as tensors."""
    decayed = {parameter.name for name, parameter in model.named_parameters() if is_decayed(name)}
    optimizer = paddle.optimizer.AdamW(
        RATE,
        parameters=model.parameters(),
        weight_decay=DECAY,
        grad_clip=nn.ClipGradByGlobalNorm(NORM),
        epsilon=1e-6,
        apply_decay_param_fun=lambda name: name in decayed,
    )
    losses = []
    for batch in batches:
        loss = compute_loss(*(paddle.to_tensor(array) for array in batch))
        loss.backward()
        optimizer.step()
        for parameter in model.parameters():
            parameter.grad = None
        losses.append(loss.item())
    return losses


def train(model: nn.Layer, compute_loss, batches: list) -> list[float]:
    """The losses of a training with our optimizer and engine. `compute_loss` takes a batch."""
    engine = Engine(model, build_optimizer(model, RATE, weight_decay=DECAY, eps=1e-6), clip_norm=NORM)
    steps = [engine.step([batch], lambda _, batch: (compute_loss(batch), {})) for batch in batches]
    assert any(step.grad_norm > NORM for step in steps)  # something is clipped
    return [step.loss for step in steps]


def test_masked_language_modeling():
    """MMLM, whose loss our model computes from packed sequences and the plain one from padded ones."""
    model = PreTrainingModel(CONFIG, LANGUAGES)
    plain = Plain(CONFIG)
    plain.set_state_dict(model.state_dict())
    maker = objectives(language_embedding="none")  # `Plain` has no language embeddings
    examples = texts([20, 9, 15])
    batches = [maker["mmlm"].make_batch(examples, rngs(3, step=step)) for step in range(DIFFERENT)]
    batches *= STEPS // DIFFERENT
    # The same batches as padded arrays, with the masked positions as indices into the flat array.
    arrays = []
    for batch in batches:
        cells = real_cells(batch.inputs.lengths)[batch.targets]
        arrays.append((padded(batch.inputs.input_ids, batch.inputs.lengths, 1), cells, batch.target_ids))

    def compute_loss(batch):
        (on_device,) = to_device([batch])
        total, _ = compute_batch_loss(model, on_device)
        return total / len(batch.targets)

    losses = train(model, compute_loss, batches)
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])  # something is learned
    plain_losses = train_plainly(plain, plain.predict_masked, arrays)
    np.testing.assert_allclose(losses, plain_losses, rtol=0, atol=1e-9)
