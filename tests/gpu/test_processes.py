"""Two processes compute what one does, skip together and end together; and how fast they add gradients."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import paddle
import pytest

from tests.gpu import worker
from tests.gpu.bounds import BOUNDS, REPORT, Failed, compare
from tests.gpu.device import Device
from tests.launching import ROOT

ADVICE = "use one process, try NCCL_DEBUG=INFO and NCCL_P2P_DISABLE=1"
TIME_LIMIT = 600  # seconds


@pytest.mark.slow
def test_processes(device, fact, tmp_path):
    """Two processes in float64, stages 0 and 1 of sharding."""
    if device.is_real_card and paddle.device.cuda.device_count() < 2:
        pytest.skip("one GPU; NCCL needs two")
    results = check_two(Path(worker.__file__), tmp_path, device)
    backend = "NCCL" if device.is_real_card else "gloo"
    fact(
        f"{backend}, float64, stages 0 and 1: two processes equal one, skip together, and when one is killed "
        "the other ends"
    )
    if "GB/s" in results:
        fact(f"a sum of 768 MB at {results['GB/s']:.0f} GB/s")


def check_two(script: Path, folder: Path, device: Device) -> dict[str, Any]:
    """Compare two processes with one; returns what process 0 wrote in stage 1.

    Args:
        script: what the processes run: worker.py, or one with a fault.
        folder: for what they write.
    """
    exact = worker.losses_of(stage=0)
    for stage in (0, 1):
        flags = ["--stand-in"] if device.is_card and not device.is_real_card else []
        results = run_two([str(script), str(folder / f"stage{stage}"), str(stage), *flags])
        for name, losses in exact.items():
            case = f"{name} on two processes, stage {stage},"
            compare(case, results["losses"][name], losses, bound=BOUNDS["float64"], advice=ADVICE)
        if results["skipped"] != [False, True, False]:
            raise Failed(
                f"an overflow on process 1 alone, stage {stage}: process 0 skipped {results['skipped']} of "
                f"three steps, not the second; train in bf16, and {REPORT}"
            )
    return results


def run_two(script_and_arguments: Sequence[str]) -> dict[str, Any]:
    """Run a worker in two processes, and return what process 0 wrote.

    Args:
        script_and_arguments: the worker, a new folder to write to, the stage, and flags.

    Raises:
        Failed: they do not end, end too early, or the launcher ends without an error, although process 1 was
            killed.
    """
    _, folder_name, stage, *_ = script_and_arguments
    folder = Path(folder_name)
    folder.mkdir()
    command = [sys.executable, "launch.py", "--nproc_per_node", "2", "--split_log_path", folder_name]
    command += script_and_arguments
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as launcher:
        try:
            _no_output, errors = launcher.communicate(timeout=TIME_LIMIT)
        except subprocess.TimeoutExpired:
            launcher.terminate()  # it hands the signal on to both
            raise Failed(f"two processes of stage {stage} do not end; {ADVICE}") from None
    path = folder / worker.RESULTS
    if not path.is_file():
        raise Failed(f"two processes of stage {stage} ended with: {errors.strip()[-300:]}; {ADVICE}")
    if launcher.returncode == 0:
        raise Failed(f"a process of stage {stage} was killed, and the run ended without error; {REPORT}")
    return json.loads(path.read_text())
