"""--amp bf16 on a CPU: a training resumes exactly."""

from tests.helpers.checkpoints import assert_same_weights
from tests.launching import error_of


def test_it_resumes_exactly(classify, tmp_path, cpu_with_bf16):
    """Dropout is on. A run in float32 does not resume it."""
    options = {"save_steps": 10, "keep_checkpoints": 9}
    classify(amp="bf16", **options)
    start = tmp_path / "out" / "step_10"
    classify(out="again", init_checkpoint=start, amp="bf16", **options)
    assert_same_weights(tmp_path / "again" / "step_24", tmp_path / "out" / "step_24")
    assert "amp: bf16 -> none" in error_of(classify, out="float32", init_checkpoint=start, **options)
