"""Two processes compute what one does, skip together and end together."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import paddle
import pytest

from tests.gpu import worker
from tests.gpu.conftest import BOUNDS, difference, has_card
from tests.launching import ROOT

BOUND = 1e-9  # in float64
TIME_LIMIT = 600  # seconds


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1])
def test_two_processes_with_sharding_stage(check, location, tmp_path, stage):
    if location == "stand_in":
        pytest.skip("the stand-in has no collectives")
    if has_card() and paddle.device.cuda.device_count() < 2:
        pytest.skip("one GPU; NCCL needs two")
    exact = worker.compute_losses(stage=0)
    results = run_two(tmp_path, stage)
    assert results["skipped"] == [False, True, False], "an overflow on process 1 alone"
    if results["bf16"]:
        check(difference([results["bf16"]], [exact["mmlm"]]), BOUNDS["bfloat16"])
    check(max(difference([results["losses"][name]], [losses]) for name, losses in exact.items()), BOUND)


def run_two(folder: Path, stage: int) -> dict[str, Any]:
    """Run the worker in two processes, and return what process 0 wrote."""
    command = [sys.executable, "launch.py", "--nproc_per_node", "2", "--split_log_path", str(folder)]
    command += [worker.__file__, str(folder), str(stage)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as launcher:
        try:
            _no_output, errors = launcher.communicate(timeout=TIME_LIMIT)
        except subprocess.TimeoutExpired:
            launcher.terminate()  # it hands the signal on to both
            raise
    path = folder / worker.RESULTS
    assert path.is_file(), errors.strip()[-300:]
    assert launcher.returncode != 0, "a process was killed, and the run ended without an error"
    return json.loads(path.read_text())
