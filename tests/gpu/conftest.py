"""The device of the tests in this folder, which `sh scripts/gpu_check.sh` runs, too."""

from collections.abc import Callable, Iterator
from functools import partial

import paddle
import pytest

from model import device as model_device
from tests.gpu.device import A100, CPU, V100, Device
from tests.training.conftest import fp16  # noqa: F401  a fixture


@pytest.fixture
def device() -> Iterator[Device]:
    """The card, if there is one, and otherwise this CPU."""
    if not (paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count()):
        yield CPU
        return
    device_before = paddle.device.get_device()
    paddle.set_device("gpu")
    yield A100 if model_device.has_bf16() else V100
    paddle.set_device(device_before)


@pytest.fixture
def card(device: Device) -> Device:
    """A card; without one the test is skipped."""
    if not device.is_card:
        pytest.skip("no GPU; a machine that has one needs `sh scripts/setup.sh gpu`")
    return device


@pytest.fixture
def quick(request: pytest.FixtureRequest) -> bool:
    """Whether shapes are tiny: always, but for `sh scripts/gpu_check.sh` without --quick."""
    return request.config.getoption("quick", True)


@pytest.fixture
def fact(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """fact(text): the line of the check in `sh scripts/gpu_check.sh` says so."""
    return partial(record_property, "fact")


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Device:
    """The project takes this CPU for a GPU with bfloat16 and FlashMask."""
    monkeypatch.setattr(model_device, "on_gpu", lambda: True)
    monkeypatch.setattr(model_device, "has_bf16", lambda: True)
    monkeypatch.setattr(model_device, "capability", lambda: (8, 0))
    monkeypatch.setattr(model_device, "memory", lambda: 80 << 30)  # bytes
    monkeypatch.setattr(model_device, "uses_flash_mask", lambda half: half)
    monkeypatch.setattr(paddle.device.cuda, "get_device_name", lambda: "NVIDIA A100-SXM4-80GB")
    monkeypatch.setattr(paddle.device, "synchronize", lambda: None)
    return A100
