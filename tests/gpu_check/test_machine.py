"""The machine: a wheel for other cards, a version of flash attention without dropout, an old driver."""

import paddle
import pytest

from model import device
from scripts.gpu import machine


@pytest.fixture
def healthy(gpu, monkeypatch):
    """A machine on which all goes together."""
    monkeypatch.setattr(device, "capability", lambda: (9, 0))
    monkeypatch.setattr("training.card.capability", lambda: (9, 0))
    monkeypatch.setattr(device, "summary", lambda precision, processes: "device: gpu:0")
    monkeypatch.setattr(paddle.device.cuda, "get_device_name", lambda: "NVIDIA H100")
    monkeypatch.setattr(paddle.version, "cuda_archs", lambda: [75, 80, 86, 89, 90])
    monkeypatch.setattr(paddle.version, "cuda", lambda: "12.6")
    monkeypatch.setattr(paddle, "get_flags", lambda names: {names[0]: 2})  # the version of flash attention
    monkeypatch.setattr(machine, "output_of", lambda *command: "560.35.05")


def test_a_healthy_machine(healthy, check):
    code, message = check("device")
    assert code == 0 and "driver 560.35.05; bf16 and FlashMask allowed" in message


def test_a_wheel_for_other_cards(healthy, check, monkeypatch):
    monkeypatch.setattr(paddle.version, "cuda_archs", lambda: [61, 70, 75, 80])
    code, message = check("device")
    assert code == 1 and "H100 has compute capability 9.0" in message and "stable/cu126/" in message


def test_version_3_of_flash_attention(healthy, check, monkeypatch):
    monkeypatch.setattr(paddle, "get_flags", lambda names: {names[0]: 3})
    code, message = check("device")
    assert code == 1 and "FLAGS_flash_attn_version is 3, which refuses dropout: unset it" in message


def test_a_flash_mask_that_does_not_work(healthy, check, monkeypatch):
    monkeypatch.setattr(device, "uses_flash_mask", lambda half: False)
    code, message = check("device")
    assert code == 1 and "FlashMask does not work here" in message


def test_an_old_driver(healthy, check, monkeypatch):
    monkeypatch.setattr(machine, "output_of", lambda *command: "470.82.01")
    code, message = check("device")
    assert code == 1 and "driver 470.82.01: CUDA 12 needs 525 or newer" in message


def test_the_output_of_a_program():
    assert machine.output_of("nvidia-smi-that-is-not-there", "-q") == "no nvidia-smi-that-is-not-there"
    assert machine.output_of("false") == "false fails"
    assert machine.output_of("printf", "a\\nb\\n") == "a; b"
