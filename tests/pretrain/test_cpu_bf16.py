"""A run whose products are in bfloat16 resumes exactly, and learns what one in float32 learns."""

import pytest

from model.cpu import onednn
from tests.helpers.small_corpus import ROOT
from tests.launching import launch
from tests.pretrain.tiny_run import assert_equal_runs, flags, losses, pretrain

BFLOAT16 = {"run__amp": "bf16", "run__log_steps": 1}
NO_DROPOUT = {"model__hidden_dropout_prob": 0.0, "model__attention_probs_dropout_prob": 0.0}


def test_a_stopped_run_ends_with_the_same_bits(cpu_with_bf16, tiny_corpus, tmp_path):
    """The resumed run is the uninterrupted one, and its losses are near those of float32."""
    straight = pretrain(tiny_corpus, tmp_path / "straight", **BFLOAT16)
    resumed = pretrain(tiny_corpus, tmp_path / "resumed", run__stop_after_steps=5, **BFLOAT16)
    pretrain(tiny_corpus, resumed, **BFLOAT16)
    assert_equal_runs(straight, resumed)
    in_float32 = pretrain(tiny_corpus, tmp_path / "float32", **(BFLOAT16 | {"run__amp": "none"}))
    assert losses(straight) == pytest.approx(losses(in_float32), rel=0.01)
    assert losses(straight) != losses(in_float32)  # the products really were in bfloat16


@pytest.mark.skipif(onednn.missing() is not None, reason=f"needs {onednn.missing()}")
def test_two_processes_compute_what_one_computes(tiny_corpus, tmp_path):
    single = pretrain(tiny_corpus, tmp_path / "one", **BFLOAT16, **NO_DROPOUT)
    command = [ROOT / "run_pretrain.py", *flags(tiny_corpus, tmp_path / "two", **BFLOAT16, **NO_DROPOUT)]
    completed = launch(command, tmp_path)
    assert completed.returncode == 0, completed.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(single), rel=1e-3)
