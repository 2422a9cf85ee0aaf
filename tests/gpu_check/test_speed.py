"""The figures of speed: the card's peak, what is said to be slow, an exported graph that differs."""

import numpy as np
import paddle
import pytest

from model import device, fused_loss
from scripts.gpu import export, speed, toys


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("NVIDIA H200", "the H200's 989 TFLOP/s"),
        ("NVIDIA L4", "the L4's 121 TFLOP/s"),
        ("NVIDIA L40S", "the speed of a large product"),
    ],
)
def test_the_peak_of_a_card(gpu, monkeypatch, name, source):
    """That of its data sheet; for a card that is not in the list, the speed of a large product."""
    monkeypatch.setattr(paddle.device.cuda, "get_device_name", lambda: name)
    monkeypatch.setattr(speed, "seconds_of", lambda work: 0.5)
    _, source_of_peak = speed.peak_of_the_device()
    assert source_of_peak == source


def test_the_peak_is_in_operations_per_second(gpu, monkeypatch):
    """989 TFLOP/s of a data sheet; on a CPU 2 x 768^3 operations of a product in half a second."""
    monkeypatch.setattr(paddle.device.cuda, "get_device_name", lambda: "NVIDIA H200")
    peak_of_card, _ = speed.peak_of_the_device()
    assert peak_of_card == 989e12
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    monkeypatch.setattr(speed, "seconds_of", lambda work: 0.5)
    peak_of_cpu, _ = speed.peak_of_the_device()
    assert peak_of_cpu == 2 * 768**3 / 0.5


def test_warnings():
    assert speed.warnings_of(share=0.4, margin=9.0, memory=1.0, aligned=1.0) == []
    (slow,) = speed.warnings_of(share=0.1, margin=9.0, memory=1.0, aligned=1.0)
    assert slow.startswith("warning: low:")
    assert len(speed.warnings_of(share=0.1, margin=1.0, memory=1.4, aligned=0.4)) == 4


@pytest.fixture
def measured(gpu, check, monkeypatch):
    """measured(): the line of the check. A CPU takes the way of a GPU, in full precision and at tiny size."""
    monkeypatch.setattr(device, "on_cpu", lambda x: False)
    monkeypatch.setattr(device, "uses_flash_mask", lambda half: False)
    monkeypatch.setattr(speed, "amps", lambda: ["none"])
    monkeypatch.setattr(speed, "rows_of_a_micro_batch", lambda quick: (2, 32))
    monkeypatch.setattr(toys, "BASE_SHAPE", toys.SHAPE)
    monkeypatch.setattr(paddle.device.cuda, "reset_max_memory_allocated", lambda: None)
    monkeypatch.setattr(paddle.device.cuda, "max_memory_allocated", lambda: 10e9)  # bytes

    def line() -> str:
        code, message = check("speed", lambda quick: speed.check_speed(quick=False))
        assert code == 0, message
        return message

    return line


def test_the_line_of_a_gpu(measured):
    message = measured()
    assert "0% of the A100's 312 TFLOP/s; " in message and "; 10.0 GB, planned 0.0; " in message
    assert "the loss with a multiple of 64 words" in message
    assert "warning: more memory than benchmarks/plan.py computes" in message


def test_a_loss_with_a_table_that_is_not_padded(measured, monkeypatch):
    """A product takes three times as long if its rows are no multiple of 8 numbers."""
    matmul = paddle.matmul
    times = []

    def timed_matmul(x, y, **options):
        product = matmul(x, y, **options)
        is_aligned = all(tensor.shape[-1] % 8 == 0 for tensor in (x, y, product))
        times.append(1.0 if is_aligned else 3.0)
        return product

    def seconds_of(work, repeats=5):
        """The seconds of the products, and one for everything else."""
        times.clear()
        work()
        return sum(times) + 1.0

    monkeypatch.setattr(paddle, "matmul", timed_matmul)
    monkeypatch.setattr(speed, "seconds_of", seconds_of)
    # With a multiple of 64 words the loss is no faster, because it pads its table to such a multiple.
    message = measured()
    assert "words takes 100% of its time" in message and "the loss is slow" not in message

    def not_padded(weight, bias, dtype):
        return fused_loss.PaddedTable(weight, bias)

    monkeypatch.setattr(fused_loss, "padded_table", not_padded)
    assert "warning: the loss is slow although its word table is padded" in measured()


def test_rows_are_full_and_their_ids_are_those_of_text():
    batch = speed.full_rows(3, 32, 1000, seed=1)
    assert batch.lengths.tolist() == [32] * 3
    counts = np.bincount(batch.input_ids, minlength=1000)
    counts_of_words = counts[4:999]  # without the special tokens
    assert counts_of_words.max() > 5  # some words are frequent, as in text
    assert batch.input_ids.max() < 1000


def test_an_export_that_differs(check, monkeypatch):
    """Its outputs are 1 % too large."""
    run = export.PaddleEngine.__call__

    def faulty(engine, ids):
        return {name: values * 1.01 for name, values in run(engine, ids).items()}

    assert check("export")[0] == 0
    monkeypatch.setattr(export.PaddleEngine, "__call__", faulty)
    code, message = check("export")
    assert code == 1 and "an exported graph is off by 1.0e-02" in message
