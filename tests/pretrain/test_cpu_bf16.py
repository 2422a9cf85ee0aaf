"""A run whose products are in bfloat16 resumes exactly, and learns what one in float32 learns.

Two processes are in test_run_processes.py.
"""

import pytest

from tests.pretrain.tiny_run import assert_equal_runs, losses, pretrain

BFLOAT16 = {
    "run__amp": "bf16",
    "run__log_steps": 1,
    "run__eval_sequences": 2,
    "run__micro_batch_tokens": 512,
    "optimizer__steps": 4,
    "model__num_hidden_layers": 1,
}


def test_a_stopped_run_ends_with_the_same_bits(cpu_with_bf16, tiny_corpus, tmp_path):
    """The resumed run is the uninterrupted one, and its losses are near those of float32."""
    straight = pretrain(tiny_corpus, tmp_path / "straight", **BFLOAT16)
    resumed = pretrain(tiny_corpus, tmp_path / "resumed", run__stop_after_steps=2, **BFLOAT16)
    pretrain(tiny_corpus, resumed, **BFLOAT16)
    assert_equal_runs(straight, resumed, 4)
    in_float32 = pretrain(tiny_corpus, tmp_path / "float32", **(BFLOAT16 | {"run__amp": "none"}))
    assert losses(straight) == pytest.approx(losses(in_float32), rel=0.01)
    assert losses(straight) != losses(in_float32)  # the products really were in bfloat16
