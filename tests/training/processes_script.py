"""What `test_processes.py` runs on several processes: <folder> <sharding stage> <proof> ..."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import paddle

from model.checkpoint.folder import model_weights
from model.checkpoint.training_state import load_training_state
from tests.training.toy_training import STEPS, load, make, run, state_of, weights, write_parts
from training import distributed
from training.guard import StallWatch
from utils import logging
from utils.errors import UserError

FOLDER, STAGE, PROOFS = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]


def collectives() -> None:
    """Every process writes its results to <rank>.json."""
    rank = distributed.rank()
    parameters = [paddle.create_parameter([2, 3], "float64"), paddle.create_parameter([4], "float32")]
    parameters[0].grad = paddle.full([2, 3], 10.0 ** -(rank + 9), dtype="float64")
    parameters[1].grad = paddle.full([4], float(rank + 1))
    distributed.sum_gradients(parameters)
    weight = paddle.full([3], float(rank + 7))
    distributed.broadcast_([weight])
    results = {
        "is_main": distributed.is_main(),
        "world": distributed.world_size(),
        "all_sum": distributed.all_sum([0.1 * (rank + 1), 1e-12, 1.0]),
        "gather": distributed.gather({"rank": rank, "text": "é"}),
        "gradients": [parameter.grad.tolist() for parameter in parameters],
        "weight": weight.tolist(),
    }
    (FOLDER / f"{rank}.json").write_text(json.dumps(results))


def stall() -> None:
    """Process 0 waits in a sum for process 1."""
    logging.setup(FOLDER, distributed.rank())
    with StallWatch(0.5) as stalls:
        distributed.barrier()
        if distributed.rank() == 1:
            time.sleep(3)
        with stalls.during("step 1"):
            distributed.barrier()


def lost() -> None:
    """Process 1 is killed, and process 0 writes what it is told in its next sum."""
    distributed.barrier()
    if distributed.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        distributed.barrier()
    except UserError as error:
        (FOLDER / "lost.txt").write_text(str(error))


def masters() -> None:
    """O2 with stand-ins for the GPU: process 0 writes the weights that it would export to masters.npz."""

    def decorate(model, optimizer, **options):
        model.to(dtype="bfloat16")

    with mock.patch.object(paddle.amp, "decorate", decorate):
        engine = make("float32", sharding_stage=STAGE, seed=3 if distributed.is_main() else 4)
        engine.precision.amp, engine.precision.level = "bf16", "O2"
        engine._decorate()
    master_weights = list(engine.optimizer._master_weights.values())
    assert 0 < len(master_weights) < len(engine.parameters)
    for master in master_weights:  # what AdamW does in bfloat16 only a GPU can do
        master.set_value(master + 1e-4)
    exported = model_weights(engine.model, engine.masters())
    if distributed.is_main():
        np.savez(FOLDER / "masters.npz", **exported)


def train(name: str, steps: int) -> None:
    """Train, from <name>.start.npy or from the parts in <name>.start if there are any, and write <name>.*."""
    # The second process has another seed: the engine must make the weights equal.
    engine = make(sharding_stage=STAGE, seed=3 if distributed.is_main() else 4)
    start = FOLDER / f"{name}.start.npy"
    if start.exists():
        saved = np.load(start, allow_pickle=True).item()
        load(engine, saved["weights"], saved["state"])
    elif start.with_suffix("").exists():
        engine.load_state_dict(load_training_state(start.with_suffix("")))
    if STAGE:
        write_parts(engine, FOLDER / f"{name}.loaded")
    steps_done = [vars(step) for step in run(engine, steps)]
    table_counts = distributed.gather(sum(len(table) for table in engine.optimizer._accumulators.values()))
    end = {"steps": steps_done, "weights": weights(engine), "state": state_of(engine), "held": table_counts}
    if distributed.is_main():
        np.save(FOLDER / f"{name}.npy", end)
    if STAGE:
        write_parts(engine, FOLDER / f"{name}.parts")


if __name__ == "__main__":
    device = distributed.init(sharding_stage=STAGE)
    assert device == "cpu"
    functions = {"collectives": collectives, "stall": stall, "masters": masters, "lost": lost}
    for proof in PROOFS:
        if proof in functions:
            functions[proof]()
        else:
            train(proof, 8 if proof.endswith("three") else STEPS)
