"""The device of the tests in this folder, which `sh scripts/gpu_check.sh` runs, too."""

from collections.abc import Callable, Iterator
from functools import partial

import paddle
import pytest

from model import device as model_device
from tests.gpu import stand_in as stand_ins
from tests.gpu.device import A100, CPU, V100, Device

STAND_INS = {"a100": (A100, stand_ins.A100), "v100": (V100, stand_ins.V100)}


def has_card() -> bool:
    """Whether there is a card, so that no other device is checked."""
    return bool(paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a check on each stand-in, but not for `sh scripts/gpu_check.sh`, which checks what is there."""
    is_gpu_check = metafunc.config.getoption("quick", None) is not None
    if "device" in metafunc.fixturenames and not is_gpu_check and not has_card():
        metafunc.parametrize("device", STAND_INS, indirect=True)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    """The card, if there is one; otherwise a CPU that stands in for one, or this CPU as it is."""
    if hasattr(request, "param"):
        device, card = STAND_INS[request.param]
        with stand_ins.installed(card):
            yield device
    elif has_card():
        device_before = paddle.device.get_device()
        paddle.set_device("gpu")
        yield A100 if model_device.has_bf16() else V100
        paddle.set_device(device_before)
    else:
        yield CPU


@pytest.fixture
def card(device: Device) -> Device:
    """A card, or a stand-in; without one the test is skipped."""
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
def stand_in() -> Iterator[stand_ins.StandIn]:
    """This CPU stands in for an A100."""
    with stand_ins.installed(stand_ins.A100) as installed:
        yield installed
