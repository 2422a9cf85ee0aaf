"""Two processes compute what one does, skip together and end together; and how fast they add gradients."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import paddle
from paddle import Tensor

from model import device
from model.heads import PreTrainingModel
from pretrain.config import OBJECTIVES
from pretrain.loss import DeviceBatch
from pretrain.task import objectives_loss
from scripts.gpu import toys
from scripts.gpu.report import BOUNDS, REPORT, Failed, Skipped, compare
from training import distributed
from training.precision import Precision

ROOT = Path(__file__).resolve().parents[2]
ADVICE = "use one process, try NCCL_DEBUG=INFO and NCCL_P2P_DISABLE=1"
RESULTS = "results.json"
TIME_LIMIT = 600  # seconds
STEPS = 4
SUM_BYTES = 768 << 20  # the gradient of the word table of base
SUMS = 5  # sums of gradients that are timed


def losses_of(stage: int) -> dict[str, list[float]]:
    """Objective -> its losses and gradient norms in float64, with this stage of sharding."""
    losses = {}
    for name in OBJECTIVES:
        losses[name] = toys.train(toys.engine_of("float64", stage=stage), name, last=STEPS)
    return losses


def work(folder: Path, stage: int) -> None:
    """One process of `check_processes`: process 0 writes the results, then process 1 dies."""
    distributed.init(sharding_stage=stage)
    results: dict[str, Any] = {"losses": losses_of(stage), "skipped": overflow_on_process_1(stage)}
    if device.on_gpu():
        results["GB/s"] = sum_speed()
    engine = toys.engine_of("float64", stage=stage)  # made by both processes, which exchange its weights
    if distributed.is_main():
        (folder / RESULTS).write_text(json.dumps(results))
    toys.train(engine, "mmlm", last=1)  # so that process 1 dies in the middle of a training
    if not distributed.is_main():
        os.kill(os.getpid(), signal.SIGKILL)
    toys.train(engine, "mmlm", last=2)  # process 0 waits for process 1 here, until the launcher ends it


def overflow_on_process_1(stage: int) -> list[bool]:
    """Which of three steps process 0 skipped, where the loss of process 1 is infinite in the second."""
    engine = toys.engine_of("float32", Precision("fp16" if device.on_gpu() else "none"), stage)
    skipped = []
    for number in range(3):
        overflows_here = number == 1 and not distributed.is_main()
        factor = float("inf") if overflows_here else 1.0
        micro_batches = toys.send_micro_batches(engine, "mmlm")
        step = engine.step(micro_batches, partial(_scaled_loss, engine.model, factor))
        skipped.append(step.skipped)
    return skipped


def _scaled_loss(model: PreTrainingModel, factor: float, batch: DeviceBatch) -> tuple[Tensor, dict]:
    """The loss of a micro-batch of MMLM times a factor."""
    total, sums = objectives_loss(model, pseudo_token_generator=None, batch=batch)
    return total * factor, sums


def sum_speed() -> float:
    """GB/s that a card sends while a gradient as large as base's word table is summed.

    In a ring of n cards, each sends 2 (n - 1) / n times the gradient.
    """
    gradient = paddle.ones([SUM_BYTES // 4])  # float32
    paddle.distributed.all_reduce(gradient)
    paddle.device.synchronize()
    began = time.perf_counter()
    for _ in range(SUMS):
        paddle.distributed.all_reduce(gradient)
    paddle.device.synchronize()
    seconds = (time.perf_counter() - began) / SUMS
    world_size = distributed.world_size()
    bytes_sent = 2 * (world_size - 1) / world_size * SUM_BYTES
    return bytes_sent / seconds / 1e9


def check_processes(quick: bool, script: str | Path = ROOT / "scripts" / "gpu_check.py") -> str:
    """Two processes in float64, stages 0 and 1 of sharding.

    Args:
        script: calls `work` with --worker FOLDER --stage N.
    """
    if device.on_gpu() and paddle.device.cuda.device_count() < 2:
        raise Skipped("one GPU; NCCL needs two")
    exact = losses_of(stage=0)
    speed = ""
    for stage in (0, 1):
        results = run_two(str(script), stage)
        for name, losses in exact.items():
            case = f"{name} on two processes, stage {stage},"
            compare(case, results["losses"][name], losses, bound=BOUNDS["float64"], advice=ADVICE)
        if results["skipped"] != [False, True, False]:
            raise Failed(
                f"an overflow on process 1 alone, stage {stage}: process 0 skipped {results['skipped']} of "
                f"three steps, not the second; train in bf16, and {REPORT}"
            )
        if "GB/s" in results:
            speed = f"; a sum of 768 MB at {results['GB/s']:.0f} GB/s"
    backend = "NCCL" if device.on_gpu() else "gloo"
    return (
        f"{backend}, float64, stages 0 and 1: two processes equal one, skip together, and when one is killed "
        f"the other ends{speed}"
    )


def run_two(script: str, stage: int) -> dict[str, Any]:
    """Run `work` in two processes, and return what process 0 wrote.

    Raises:
        Failed: they do not end, end too early, or the launcher ends without an error, although process 1 was
            killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "launch.py", "--nproc_per_node", "2", "--split_log_path", folder]
        command += [script, "--worker", folder, "--stage", str(stage)]
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as launcher:
            try:
                _no_output, errors = launcher.communicate(timeout=TIME_LIMIT)
            except subprocess.TimeoutExpired:
                launcher.terminate()  # it hands the signal on to both
                raise Failed(f"two processes of stage {stage} do not end; {ADVICE}") from None
        path = Path(folder, RESULTS)
        if not path.is_file():
            raise Failed(f"two processes of stage {stage} ended with: {errors.strip()[-300:]}; {ADVICE}")
        results = json.loads(path.read_text())
    if launcher.returncode == 0:
        raise Failed(f"a process of stage {stage} was killed, and the run ended without error; {REPORT}")
    return results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `work`."""
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--stage", type=int, default=0, help=argparse.SUPPRESS)
