"""The logits of the masked-LM loss in memory; `cpu/test_masked_lm_loss.py` has the loss."""

from ernie_m.model import lm_head


def test_base_chunk_has_536_positions():
    """Their logits take 512 MB in float32, and are fewer than 2^31; in float64 half of them."""
    chunks = [lm_head.split_into_logit_chunks(10_000, 250_002, dtype) for dtype in ("float32", "float64")]
    assert [(first, last.stop) for first, *_, last in chunks] == [
        (slice(0, 536), 10_000),
        (slice(0, 268), 10_000),
    ]
