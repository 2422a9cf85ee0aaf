"""One of the two processes of test_processes.py: worker.py FOLDER STAGE."""

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

from paddle import Tensor

from ernie_m.model.device_capabilities import has_bf16
from ernie_m.model.kernel_selection import get_services, is_on_gpu
from ernie_m.model.lm_head import PreTrainingModel
from ernie_m.pretrain.btmlm_pseudo_tokens import PseudoTokenGenerator
from ernie_m.pretrain.objectives import OF_THE_PAPER
from ernie_m.pretrain.packing import MicroBatch
from ernie_m.pretrain.pretraining import compute_objectives_loss
from ernie_m.training import distributed
from ernie_m.training.precision import Precision
from tests.gpu import toys

RESULTS = "results.json"
STEPS = 4


def compute_losses(stage: int) -> dict[str, list[float]]:
    """Losses and gradient norms of each objective and of a task in float64, with this stage of sharding."""
    losses = {"fine-tuning": toys.train_task("classification", stage, STEPS)}
    for name in OF_THE_PAPER:
        losses[name] = toys.train(toys.engine_for(toys.make_model("float64"), stage=stage), name, last=STEPS)
    return losses


def compute_bf16_losses(stage: int) -> list[float]:
    """Losses and gradient norms of MMLM in bfloat16; [] on a device without it."""
    has = has_bf16() if is_on_gpu() else get_services().find_missing_bf16_requirement() is None
    if not has:
        return []
    return toys.train(
        toys.engine_for(toys.make_model("float32"), Precision("bf16"), stage), "mmlm", last=STEPS
    )


def overflow_on_process_1(stage: int) -> list[bool]:
    """Which of three steps process 0 skipped, where the loss of process 1 is infinite in the second."""
    precision = Precision("fp16" if is_on_gpu() else "none", loss_scaling=toys.SCALING)
    engine = toys.engine_for(toys.make_model("float32"), precision, stage)
    skipped = []
    for number in range(3):
        factor = float("inf") if number == 1 and not distributed.is_main() else 1.0
        micro_batches = toys.send_micro_batches(engine, "mmlm")
        skipped.append(engine.step(micro_batches, partial(_scaled_loss, factor=factor)).skipped)
    return skipped


def _scaled_loss(model: PreTrainingModel, batch: MicroBatch, factor: float) -> tuple[Tensor, dict]:
    """The loss of a micro-batch of MMLM times a factor."""
    total, sums = compute_objectives_loss(model, PseudoTokenGenerator([]), batch)
    return total * factor, sums


def main() -> None:
    """Process 0 writes the results; then process 1 dies."""
    folder, stage = Path(sys.argv[1]), int(sys.argv[2])
    distributed.init()
    results = {
        "losses": compute_losses(stage),
        "bf16": compute_bf16_losses(stage),
        "skipped": overflow_on_process_1(stage),
    }
    engine = toys.engine_for(toys.make_model("float64"), stage=stage)  # the processes exchange its weights
    if distributed.is_main():
        (folder / RESULTS).write_text(json.dumps(results))
    toys.train(engine, "mmlm", last=1)  # so that process 1 dies in the middle of a training
    if not distributed.is_main():
        os.kill(os.getpid(), signal.SIGKILL)
    toys.train(engine, "mmlm", last=2)  # process 0 waits for process 1 here, until the launcher ends it


if __name__ == "__main__":
    main()
