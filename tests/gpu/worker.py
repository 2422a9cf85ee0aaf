"""One of the two processes of test_processes.py: worker.py FOLDER STAGE [--stand-in]."""

import contextlib
import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import paddle
from paddle import Tensor

from model.device import on_gpu
from model.heads import PreTrainingModel
from pretrain.config import OBJECTIVES
from pretrain.loss import DeviceBatch
from pretrain.task import objectives_loss
from tests.gpu import stand_in, toys
from training import distributed
from training.precision import Precision

RESULTS = "results.json"
STEPS = 4
SUM_BYTES = 768 << 20  # the gradient of the word table of base
SUMS = 5  # sums of gradients that are timed


def losses_of(stage: int) -> dict[str, list[float]]:
    """Objective or "fine-tuning" -> losses and gradient norms in float64, with this stage of sharding."""
    losses = {}
    for name in OBJECTIVES:
        losses[name] = toys.train(toys.engine_of("float64", stage=stage), name, last=STEPS)
    # Its gradient of the word table consists of rows, of other words on each process.
    engine = toys.engine_for(toys.task_models("float64")["classifier of 3"], stage=stage)
    steps = []
    for _ in range(STEPS):
        batches = toys.send_shared_sentences(engine)
        steps.append(engine.step(batches, partial(toys.distance_from_ones, engine.model)))
    losses["fine-tuning"] = toys.losses_and_norms(steps)
    return losses


def work(folder: Path, stage: int) -> None:
    """Process 0 writes the results; then process 1 dies."""
    results: dict[str, Any] = {"losses": losses_of(stage), "skipped": overflow_on_process_1(stage)}
    if paddle.is_compiled_with_cuda() and on_gpu():  # not on a stand-in
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
    engine = toys.engine_of("float32", Precision("fp16" if on_gpu() else "none"), stage)
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


def main() -> None:
    """Work with the arguments of the command line."""
    folder, stage, *flags = sys.argv[1:]
    distributed.init(sharding_stage=int(stage))
    with stand_in.installed() if flags else contextlib.nullcontext():
        work(Path(folder), int(stage))


if __name__ == "__main__":
    main()
