"""CAMLM's losses next to a model in NumPy that is given whole pairs: float64, one dense matrix a pair.

It follows docs/objectives.md and shares nothing with the batches and the model that it is compared with. Only
the words that are masked are those that the batch predicts.
"""

import math
from typing import NamedTuple

import numpy as np
import pytest

from ernie_m.model.attention import FlashMask, PaddedMask
from ernie_m.pretrain.loss import compute_word_loss, to_device
from ernie_m.pretrain.masking import Pair
from tests.helpers.batches import compute_as_on_a_gpu
from tests.helpers.dtypes import default_dtype
from tests.helpers.flash import flashmask
from tests.pretrain.examples import CLS, CONFIG, MASK, SEP, objectives, pairs, pretraining_model, rngs

CONTEXTS = ["unmasked", "with_masks"]
EPSILON = float(np.float32(1e-5))  # of the layer norms


class Row(NamedTuple):
    """A token that the oracle computes."""

    position: int  # in [CLS] S [SEP] [SEP] Y [SEP], from 0
    side: int  # 0 for the source
    is_predicted: bool  # the others are context


def make_rows(sides: list[int], masked: set[int], camlm_context: str) -> list[Row]:
    """The context of both sides, and a row for each masked position.

    Args:
        sides: of each position.
    """
    in_context = range(len(sides)) if camlm_context == "with_masks" else set(range(len(sides))) - masked
    context = [Row(position, sides[position], is_predicted=False) for position in sorted(in_context)]
    return context + [Row(position, sides[position], is_predicted=True) for position in sorted(masked)]


def attends(row: Row, column: Row) -> bool:
    if row == column:
        return True
    if column.is_predicted:
        return False
    return (row.side != column.side) if row.is_predicted else (row.side == column.side)


def linear(x, weights, name):
    return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]


def layer_norm(x, weights, name):
    centered = x - x.mean(-1, keepdims=True)
    scaled = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + EPSILON)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def log_softmax(x):
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def compute_losses(weights: dict[str, np.ndarray], pair: Pair, masked: set[int], camlm_context: str) -> dict:
    """The loss at each masked position of a pair, position -> loss."""
    ids = [CLS, *pair.source.ids.tolist(), SEP, SEP, *pair.target.ids.tolist(), SEP]
    sides = [0] * (len(pair.source.ids) + 2) + [1] * (len(pair.target.ids) + 2)
    rows = make_rows(sides, masked, camlm_context)
    visible = np.array([[attends(row, column) for column in rows] for row in rows])  # [T, T]

    x = np.zeros([len(rows), CONFIG.hidden_size])  # [T, H]
    for number, row in enumerate(rows):
        word = MASK if row.position in masked else ids[row.position]
        x[number] = weights["ernie_m.embeddings.word_embeddings.weight"][word]
        x[number] += weights["ernie_m.embeddings.position_embeddings.weight"][2 + row.position]
        if word == MASK:
            language = (pair.source, pair.target)[row.side].language
            x[number] += weights["language_embeddings.weight"][language]
    x = layer_norm(x, weights, "ernie_m.embeddings.layer_norm")
    for layer in range(CONFIG.num_hidden_layers):
        name = f"ernie_m.encoder.layers.{layer}"
        query, key, value = (linear(x, weights, f"{name}.self_attn.{part}_proj") for part in "qkv")
        heads = []
        size = CONFIG.hidden_size // CONFIG.num_attention_heads
        for head in range(CONFIG.num_attention_heads):
            part = slice(head * size, (head + 1) * size)
            scores = query[:, part] @ key[:, part].T / math.sqrt(size)
            attention = np.exp(log_softmax(np.where(visible, scores, -np.inf)))
            heads.append(attention @ value[:, part])
        attended = linear(np.concatenate(heads, axis=-1), weights, f"{name}.self_attn.out_proj")
        x = layer_norm(x + attended, weights, f"{name}.norm1")
        inner = gelu(linear(x, weights, f"{name}.linear1"))
        x = layer_norm(x + linear(inner, weights, f"{name}.linear2"), weights, f"{name}.norm2")
    x = layer_norm(gelu(linear(x, weights, "lm_head.dense")), weights, "lm_head.layer_norm")
    logits = x @ weights["ernie_m.embeddings.word_embeddings.weight"].T + weights["lm_head.bias"]  # [T, V]
    losses = -log_softmax(logits)
    return {
        row.position: losses[number, ids[row.position]] for number, row in enumerate(rows) if row.is_predicted
    }


@pytest.fixture(scope="module")
def model():
    with default_dtype("float64"):
        yield pretraining_model(seed=5)


@pytest.mark.parametrize("device", ["cpu", "padded", "flash"])
@pytest.mark.parametrize("camlm_context", CONTEXTS)
def test_losses_equal_the_oracle(model, monkeypatch, camlm_context, device):
    """Pairs of several lengths in one packed batch; also with the operations of a GPU."""
    if device != "cpu":
        compute_as_on_a_gpu(monkeypatch, PaddedMask if device == "padded" else FlashMask)
        monkeypatch.setattr("paddle.nn.functional.flashmask_attention", flashmask)
    examples = pairs([(13, 9), (5, 14), (2, 2), (30, 24)])
    maker = objectives(mask_rate=0.3, camlm_context=camlm_context)["camlm"]
    batch = maker.make_batch(examples, rngs(len(examples)))
    (on_device,) = to_device([batch])
    states = model.encode(on_device.inputs, on_device.targets)
    losses = compute_word_loss(model, on_device, states).losses.numpy()  # [M]

    weights = {name: parameter.numpy() for name, parameter in model.named_parameters()}
    pair_of_token = batch.inputs.layout.sequence_indices() // 2  # a pair is two sequences
    for number, pair in enumerate(examples):
        of_pair = np.flatnonzero(pair_of_token[batch.targets] == number)
        positions = batch.inputs.position_ids[batch.targets[of_pair]] - 2
        expected = compute_losses(weights, pair, set(positions.tolist()), camlm_context)
        assert len(expected) == maker.count_losses(pair)
        assert dict(zip(positions.tolist(), losses[of_pair])) == pytest.approx(expected, abs=1e-9, rel=0)
    assert batch.inputs.tokens == sum(maker.count_tokens(pair) for pair in examples)
