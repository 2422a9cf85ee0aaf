"""scripts/gpu_check.py on a CPU: what it runs and skips; with a planted fault it ends with 1."""

import contextlib
import json

import paddle
import pytest

from model import attention, device, layout
from scripts import gpu_check
from tests.launching import ROOT, run_script
from utils import __version__

DOUBLE = """
import sys
sys.path.insert(0, {root!r})
from scripts import gpu_check
from training import distributed
once = distributed.sum_gradients
def twice(parameters):
    once(parameters)
    for parameter in parameters:
        parameter.grad.scale_(2.0)
distributed.sum_gradients = twice
gpu_check.main()
"""


def results(output: str) -> dict[str, dict]:
    """The JSON in the last line, by check."""
    *lines, last = output.splitlines()
    report = json.loads(last)
    # The log shows on the console where another test has set it up.
    lines = [line for line in lines if not line.startswith("device: ")]
    assert len(lines) == len(report["checks"])
    assert report["ok"] == all(result["result"] != "failed" for result in report["checks"])
    return {result["check"]: result for result in report["checks"]}


@pytest.mark.slow
def test_a_cpu_passes(tmp_path):
    process = run_script([ROOT / "scripts" / "gpu_check.py", "--quick"], tmp_path)
    assert process.returncode == 0, process.stdout + process.stderr
    of_checks = results(process.stdout)
    assert len(of_checks) == 9
    for name, result in of_checks.items():
        assert result["result"] == ("skipped" if name in ("device", "step") else "ok"), name
    assert "one is killed: the other ends" in of_checks["processes"]["said"]
    assert "% of the speed of a large product" in of_checks["speed"]["said"]
    for fact in (f"ernie-m {__version__}, commit ", "paddlepaddle ", " cores, ", "OMP_NUM_THREADS="):
        assert fact in of_checks["environment"]["said"]


@pytest.fixture
def check(capsys):
    """check(name): exit code and result of one check."""

    def run(name: str) -> tuple[int, dict]:
        code = gpu_check.run_checks(True, {name: gpu_check.CHECKS[name]})
        return code, results(capsys.readouterr().out)[name]

    return run


def test_a_wrong_scale(check, monkeypatch):
    apply = attention.AttentionOnCpu.apply
    monkeypatch.setattr(attention.AttentionOnCpu, "apply", lambda query, *rest: apply(query * 1.01, *rest))
    code, result = check("attention")
    assert code == 1 and result["result"] == "failed"
    assert "full in float64 is off by" in result["said"] and "; train in float32" in result["said"]


def test_a_mask_that_leaks(check, monkeypatch):
    monkeypatch.setattr(layout.Group, "masked", None)
    code, result = check("attention")
    assert code == 1 and "packed in float64 is off by" in result["said"]


def test_attention_without_the_fused_kernel(check, monkeypatch):
    """On a card that has FlashMask a step must use it, and in half precision."""
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    monkeypatch.setattr(device, "flash_in", lambda half: True)
    monkeypatch.setattr(gpu_check, "profiled", lambda work: [("Kernel", "gemm"), ("Memcpy", "MEMCPY_HtoD")])
    monkeypatch.setattr(gpu_check, "engine_of", lambda *_: None)
    monkeypatch.setattr(gpu_check, "Precision", lambda amp: None)
    dtype = [paddle.float32]

    def train(*_):
        query = paddle.ones([1, 64, 2, 8], dtype[0])
        with contextlib.suppress(Exception):  # a CPU has no such kernel
            paddle.nn.functional.flashmask_attention(query, query, query, None)

    monkeypatch.setattr(gpu_check, "train", train)
    code, result = check("step")
    assert code == 1 and "are ['paddle.float32'], not bfloat16" in result["said"]
    dtype[0] = paddle.bfloat16
    code, result = check("step")
    assert code == 1 and "1 kernels, none of flash attention" in result["said"]
    monkeypatch.setattr(gpu_check, "profiled", lambda work: [("Kernel", "flash_fwd")] * 2)
    assert check("step")[0] == 0


def test_what_the_profiler_shows():
    x = paddle.ones([3, 3])
    assert any("matmul" in name for _, name in gpu_check.profiled(lambda: paddle.matmul(x, x)))


@pytest.mark.parametrize(("name", "tflops"), [("NVIDIA H200", 989), ("NVIDIA L4", 121), ("NVIDIA L40S", 0)])
def test_the_peak_of_a_card(monkeypatch, name, tflops):
    monkeypatch.setattr(device, "on_gpu", lambda: bool(tflops))
    monkeypatch.setattr(paddle.device.cuda, "get_device_name", lambda: name)
    peak, source = gpu_check.peak_of_the_device()
    assert peak > 1e8
    if tflops:
        assert (peak, source) == (tflops * 1e12, f"the {name.split()[1]}'s {tflops} TFLOP/s")
    else:
        assert source == "the speed of a large product"


@pytest.mark.slow
def test_a_process_that_adds_twice(check, monkeypatch, tmp_path):
    script = tmp_path / "double.py"
    script.write_text(DOUBLE.format(root=str(ROOT)))
    monkeypatch.setitem(
        gpu_check.CHECKS, "processes", lambda quick: gpu_check.check_processes(quick, str(script))
    )
    code, result = check("processes")
    assert code == 1 and "mmlm on two processes, stage 0, is off by" in result["said"]
