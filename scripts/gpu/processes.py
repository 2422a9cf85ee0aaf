"""Two processes: they compute what one does, skip together, end together; and how fast they add up."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import paddle

from model import device
from pretrain.config import OBJECTIVES
from pretrain.reader import StepBatches
from pretrain.task import objectives_loss, send_step
from scripts.gpu import toys
from scripts.gpu.report import REPORT, Failed, Skipped, compare
from training import distributed
from training.engine import Engine, Step
from training.precision import Precision

ROOT = Path(__file__).resolve().parents[2]
ADVICE = "use one process, try NCCL_DEBUG=INFO and NCCL_P2P_DISABLE=1"
RESULTS = "results.json"
TIME_LIMIT = 600  # seconds
STEPS = 4
SUM_BYTES = 768 << 20  # the gradient of the word table of base
SUMS = 5  # timed


def losses_of(stage: int) -> dict[str, list[float]]:
    """Losses and gradient norms of each objective, in float64."""
    losses = {}
    for name in OBJECTIVES:
        losses[name] = toys.train(toys.engine_of("float64", stage=stage), name, STEPS)
    return losses


def work(folder: Path, stage: int) -> None:
    """One process of `check_processes`: process 0 writes the results, then process 1 dies."""
    distributed.init(sharding_stage=stage)
    results: dict[str, Any] = {"losses": losses_of(stage), "skipped": overflow_on_process_1(stage)}
    if device.on_gpu():
        results["GB/s"] = sum_speed()
    engine = toys.engine_of("float64", stage=stage)
    if distributed.is_main():
        (folder / RESULTS).write_text(json.dumps(results))
    toys.train(engine, "mmlm", 1)
    if not distributed.is_main():
        os.kill(os.getpid(), signal.SIGKILL)
    toys.train(engine, "mmlm", 2)


def overflow_on_process_1(stage: int) -> list[bool]:
    """Which of three steps process 0 skipped, where the loss of process 1 is infinite in the second."""
    engine = toys.engine_of("float32", Precision("fp16" if device.on_gpu() else "none"), stage)
    skipped = []
    for number in range(3):
        factor = float("inf") if number == 1 and not distributed.is_main() else 1.0
        skipped.append(_scaled_step(engine, factor).skipped)
    return skipped


def _scaled_step(engine: Engine, factor: float) -> Step:
    batches = [toys.batch_of("mmlm", 2 * engine.steps + part, 4) for part in range(2)]
    masked = sum(batch.masked for batch in batches).tolist()
    with engine.autocast():
        own_batch = batches[distributed.rank()]
        micro_batches = send_step(StepBatches([own_batch], {"mmlm": 1.0}, masked, {}))

    def loss(batch: Any) -> tuple[paddle.Tensor, dict]:
        total, sums = objectives_loss(engine.model, None, batch)
        return total * factor, sums

    return engine.step(micro_batches, loss)


def sum_speed() -> float:
    """GB/s that a card sends while a gradient as large as base's word table is summed: a ring's share."""
    gradient = paddle.ones([SUM_BYTES // 4])
    paddle.distributed.all_reduce(gradient)
    paddle.device.synchronize()
    began = time.perf_counter()
    for _ in range(SUMS):
        paddle.distributed.all_reduce(gradient)
    paddle.device.synchronize()
    seconds = (time.perf_counter() - began) / SUMS
    world_size = distributed.world_size()
    return 2 * (world_size - 1) / world_size * SUM_BYTES / seconds / 1e9


def check_processes(quick: bool, script: str | Path = ROOT / "scripts" / "gpu_check.py") -> str:
    """Two processes in float64, stages 0 and 1 of sharding.

    Args:
        script: calls `work` with --worker FOLDER --stage N.
    """
    if device.on_gpu() and paddle.device.cuda.device_count() < 2:
        raise Skipped("one GPU; NCCL needs two")
    exact = losses_of(0)
    speed = ""
    for stage in (0, 1):
        results = run_two(str(script), stage)
        for name, losses in exact.items():
            compare(f"{name} on two processes, stage {stage},", results["losses"][name], losses, 1e-9, ADVICE)
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
        Failed: they do not end, end too early, or end without an error.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "launch.py", "--nproc_per_node", "2", "--split_log_path", folder]
        command += [script, "--worker", folder, "--stage", str(stage)]
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as launcher:
            try:
                errors = launcher.communicate(timeout=TIME_LIMIT)[1]
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
