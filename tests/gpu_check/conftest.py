"""Run one check as the command does, also on a CPU that the project takes for a GPU."""

import json

import paddle
import pytest

from model import device
from scripts import gpu_check
from scripts.gpu.report import run_checks
from tests.training.conftest import fp16  # noqa: F401  a fixture


def results(output: str) -> dict[str, dict]:
    """Check -> its result, from the JSON in the last line of the command's output."""
    *lines, last_line = output.splitlines()
    report = json.loads(last_line)
    # One line for each check, and lines of the log if another test has opened the log.
    lines_of_checks = [line for line in lines if not line.startswith(("device: ", "this GPU"))]
    assert len(lines_of_checks) == len(report["checks"])
    assert report["ok"] == all(result["result"] != "failed" for result in report["checks"])
    return {result["check"]: result for result in report["checks"]}


@pytest.fixture
def check(capsys):
    """check(name): exit code and message of one check; check(name, function): with another function."""

    def run(name: str, function=None) -> tuple[int, str]:
        function = function or gpu_check.CHECKS[name]
        code = run_checks(quick=True, checks={name: function})
        result = results(capsys.readouterr().out)[name]
        assert (result["result"] == "failed") == bool(code)
        return code, result["message"]

    return run


@pytest.fixture
def gpu(monkeypatch):
    """The project takes this CPU for a GPU with bfloat16 and FlashMask."""
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    monkeypatch.setattr(device, "has_bf16", lambda: True)
    monkeypatch.setattr(device, "capability", lambda: (8, 0))
    monkeypatch.setattr(device, "memory", lambda: 80 << 30)  # bytes
    monkeypatch.setattr(paddle.device.cuda, "get_device_name", lambda: "NVIDIA A100-SXM4-80GB")
    monkeypatch.setattr(device, "uses_flash_mask", lambda half: half)
    monkeypatch.setattr(paddle.device, "synchronize", lambda: None)
