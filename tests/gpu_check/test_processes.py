"""The check finds two processes that add gradients twice, or that do not skip a step together."""

from functools import partial

import pytest

from scripts.gpu import processes
from tests.launching import ROOT

ADDS_TWICE = """
once = distributed.sum_gradients
def twice(parameters):
    once(parameters)
    for parameter in parameters:
        parameter.grad.scale_(2.0)
distributed.sum_gradients = twice
"""
# Process 0 reads 1 where the sum over the processes is not finite, so it does not skip the step.
SKIPS_ALONE = """
import math
import paddle
read = distributed.sum_and_read
def finite(tensors, numbers):
    return [value if math.isfinite(value) else 1.0 for value in read(tensors, numbers)]
if distributed.is_main():
    distributed.sum_and_read = finite
"""


@pytest.fixture
def check_with(check, tmp_path):
    """check_with(fault): run the check with two processes that first run the lines `fault`."""

    def run(fault: str) -> tuple[int, str]:
        script = tmp_path / "faulty.py"
        lines = ["import sys", f"sys.path.insert(0, {str(ROOT)!r})", "from scripts import gpu_check"]
        script.write_text("\n".join([*lines, "from training import distributed", fault, "gpu_check.main()"]))
        return check("processes", partial(processes.check_processes, script=script))

    return run


@pytest.mark.slow
def test_a_process_that_adds_twice(check_with):
    code, message = check_with(ADDS_TWICE)
    assert code == 1 and "mmlm on two processes, stage 0, is off by" in message


@pytest.mark.slow
def test_processes_that_do_not_skip_together(check_with):
    code, message = check_with(SKIPS_ALONE)
    assert code == 1 and "an overflow on process 1 alone, stage 0: process 0 skipped" in message


def test_a_sum_over_two_cards(monkeypatch):
    """A ring of two cards sends as many bytes as the gradient has, 1 MiB.

    By a false clock five sums take 5 s.
    """
    monkeypatch.setattr(processes, "SUM_BYTES", 1 << 20)
    monkeypatch.setattr(processes.paddle.distributed, "all_reduce", lambda tensor: None)
    monkeypatch.setattr(processes.paddle.device, "synchronize", lambda: None)
    monkeypatch.setattr(processes.distributed, "world_size", lambda: 2)
    assert processes.SUMS == 5
    clock = iter([0.0, 5.0])  # before and after the sums
    monkeypatch.setattr(processes.time, "perf_counter", lambda: next(clock))
    assert processes.sum_speed() == pytest.approx((1 << 20) / 1e9)  # GB/s
