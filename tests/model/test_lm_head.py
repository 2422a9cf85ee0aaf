"""The masked-LM loss by Paddle's operations; `cpu/test_masked_lm_loss.py` has that of a CPU."""

import paddle
import paddle.nn.functional as F
import pytest

from ernie_m.model import kernel_selection, lm_head
from ernie_m.model.word_embeddings import WordEmbeddings

WORDS = 23
SIZE = 6  # of a word's vector


@pytest.mark.parametrize("chunk", [1, 4, 9])
def test_loss_in_chunks_of_positions(monkeypatch, float64, chunk):
    """Nine positions have the losses and gradients that they have at once."""
    monkeypatch.setattr(kernel_selection, "_kernels", kernel_selection.PLAIN)
    monkeypatch.setattr(lm_head, "LOGITS_BYTES", chunk * WORDS * 8)
    table = WordEmbeddings(WORDS, SIZE)
    x, bias, weights = paddle.randn([9, SIZE]), paddle.randn([WORDS]), paddle.linspace(-1.0, 3.0, 9)
    logits = lm_head.compute_logits(x, table.weight, bias)
    labels = paddle.where(weights > 0, logits.argmax(1), paddle.full([9], 3, "int64"))
    inputs = [x, bias, table.weight]
    x.stop_gradient = bias.stop_gradient = False
    results = []
    for compute in (lm_head.compute_cross_entropy, compute_at_once):
        loss = lm_head.MaskedLMLoss(*compute(x, table, bias, labels, weights))
        results.append([*loss, *paddle.grad(loss.total * 2, inputs)])
    for result, expected in zip(*results, strict=True):
        assert result.shape == expected.shape
        assert (result.astype("float64") - expected.astype("float64")).abs().max() < 1e-12


def compute_at_once(x, table, bias, labels, weights):
    """`compute_cross_entropy` with all logits in memory."""
    scores = paddle.matmul(x, table.weight, transpose_y=True) + bias
    losses = F.cross_entropy(scores, labels, reduction="none").flatten()
    return (losses * weights).sum(), losses, scores.argmax(1) == labels


def test_base_chunk_has_536_positions():
    """Their logits take 512 MB in float32, and are fewer than 2^31; in float64 half of them."""
    chunks = [lm_head.split_into_logit_chunks(10_000, 250_002, dtype) for dtype in ("float32", "float64")]
    assert [(first, last.stop) for first, *_, last in chunks] == [
        (slice(0, 536), 10_000),
        (slice(0, 268), 10_000),
    ]
