"""What a step must not do: attention without FlashMask, or wait for the card more often than it needs."""

import contextlib
import re

import paddle
import pytest

from model import device, half_weights, layers
from scripts.gpu import step

# Events as the profiler shows them: category and name. A step of two layers has up to five uploads.
UPLOAD = ("Memcpy", "MEMCPY_HtoD")
READ = ("Memcpy", "MEMCPY_DtoH")
HEALTHY = [*[UPLOAD] * 5, ("Kernel", "flash_fwd_kernel"), ("Kernel", "gemm"), READ]


@pytest.fixture
def stepping(gpu, monkeypatch):
    """stepping(dtype, events): from now on a step calls FlashMask with this dtype, and has these events."""

    def plant(dtype, events):
        def xnli_step(engine):
            query = paddle.ones([1, 64, 2, 8], dtype)
            with contextlib.suppress(Exception):  # a CPU has no such kernel
                paddle.nn.functional.flashmask_attention(query, query, query, None)

        def profiled(work):
            work()
            return events

        monkeypatch.setattr(step, "xnli_step", xnli_step)
        monkeypatch.setattr(step, "profiled", profiled)
        monkeypatch.setattr(step, "phases_of", lambda engine, step_kernels: {})

    return plant


def test_a_healthy_step(stepping, check):
    stepping("bfloat16", HEALTHY)
    code, message = check("step")
    assert code == 0 and message.startswith("FlashMask in bfloat16;") and "uploads 5, reads 1" in message


def test_flash_mask_in_float32(stepping, check):
    stepping("float32", HEALTHY)
    code, message = check("step")
    assert code == 1 and "are ['paddle.float32'], not bfloat16" in message


def test_no_flash_mask(stepping, check):
    stepping("bfloat16", [("Kernel", "gemm"), UPLOAD])
    code, message = check("step")
    assert code == 1 and "1 kernels, none of flash attention" in message


@pytest.mark.parametrize(
    ("more", "counts"), [([UPLOAD] * 4, "9 uploads and 1 reads"), ([READ], "5 uploads and 2 reads")]
)
def test_a_step_that_waits_too_often(stepping, check, more, counts):
    stepping("bfloat16", [*HEALTHY, *more])
    code, message = check("step")
    assert code == 1 and f"a step makes {counts}, at most 8 and 1 are needed" in message


@pytest.mark.parametrize(("amp", "uploads", "reads"), [("bf16", 13, 1), ("bf16", 15, 1), ("fp16", 6, 2)])
def test_the_copies_of_base(amp, uploads, reads):
    """Without and with clipping on an A100 in bf16; on a V100 in fp16, which has no FlashMask."""
    copies = ["MEMCPY_HtoD"] * uploads + ["MEMCPY_DtoH"] * reads
    assert step.check_copies(copies, amp, layers=12) == f"uploads {uploads}, reads {reads}"
    with pytest.raises(step.Failed, match=f"{uploads} uploads and {reads + 1} reads"):
        step.check_copies([*copies, "MEMCPY_DtoH"], amp, layers=12)


def test_the_phases_of_a_step(monkeypatch):
    """Kernels of the forward pass, of the backward pass, and of the rest of a step that has 100."""
    kernels = {"forward": 30, "forward_and_backward": 80}

    def count_kernels(work):
        work()
        return kernels[work.__name__]

    monkeypatch.setattr(paddle.device, "synchronize", lambda: None)
    monkeypatch.setattr(step, "_count_kernels", count_kernels)
    phases = step.phases_of(step.classifier_engine(True, "none"), step_kernels=100)
    counts = {name: phase.kernels for name, phase in phases.items()}
    assert counts == {"forward": 30, "backward": 50, "update": 20}


def test_fast_and_plain_kernels(check, monkeypatch):
    """They agree; and fast kernels that add three times the residual are found."""
    assert device.has_plain_kernels() is False
    code, message = check("kernels")
    assert code == 0 and re.search(r"fast within \de-\d\d of plain, [\d.]+ times as fast", message)
    add_to = layers.add_to

    def faulty(x, y):
        return add_to(x, y if device.has_plain_kernels() else 3.0 * y)

    monkeypatch.setattr(layers, "add_to", faulty)
    code, message = check("kernels")
    assert code == 1 and "training with fast kernels is off by" in message
    assert "train with kernels plain" in message and not device.has_plain_kernels()


def test_weights_that_are_cast_together_without_gradients(check, monkeypatch):
    """As on a GPU within autocast, where only the fast kernels cast together."""
    monkeypatch.setattr(device, "on_cpu", lambda x: False)
    monkeypatch.setattr(device, "uses_gpu_kernels", lambda: not device.has_plain_kernels())
    monkeypatch.setattr(device, "product_dtype", lambda x: paddle.float64)
    monkeypatch.setattr(half_weights, "cast_together", lambda tensors, dtype: tensors)
    assert check("kernels")[0] == 0
    monkeypatch.setattr(half_weights, "cast_together", lambda tensors, dtype: [x.detach() for x in tensors])
    code, message = check("kernels")
    assert code == 1 and "training with fast kernels is off by" in message


def test_what_the_profiler_shows():
    x = paddle.ones([3, 3])
    assert any("matmul" in name for _, name in step.profiled(lambda: paddle.matmul(x, x)))
