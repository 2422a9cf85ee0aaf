"""What `test_distributed.py` runs on several processes: <folder> <proof> ...

A proof is the name of a function below that writes what it finds to the folder, or <stage>/<name>: a toy
training (`train`) with this stage of sharding.
"""

import json
import os
import signal
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import paddle

from ernie_m.model.checkpoint.write import get_weight_arrays
from ernie_m.training import distributed
from ernie_m.utils.errors import UserError
from tests.training.custom_loop import LOOPS, OPTIMIZERS, gradients
from tests.training.toy_training import STEPS, get_state, make, read_step, run, weights, write_step

FOLDER = Path(sys.argv[1])
PROOFS = sys.argv[2:]


def collectives() -> None:
    """Every process gives other numbers to each collective, and writes what it gets back to <rank>.json."""
    rank = distributed.rank()
    parameters = [paddle.create_parameter([2, 3], "float64"), paddle.create_parameter([4], "float32")]
    parameters[0].grad = paddle.full([2, 3], 10.0 ** -(rank + 9), dtype="float64")
    parameters[1].grad = paddle.full([4], float(rank + 1))
    parameters.append(paddle.create_parameter([1], "float32"))
    parameters[2].grad = paddle.full([1], float(rank + 2))
    # The first one is large; each of the others is a group of its own.
    with mock.patch.multiple(distributed, FUSED_BYTES=48, LAYER=1):
        distributed.sum_gradients(parameters)
    weight = paddle.full([3], float(rank + 7))
    distributed.broadcast_([weight])
    # Process 0 has one row, process 1 two.
    gathered = distributed.all_gather_rows(paddle.full([rank + 1, 3], 0.1 * (rank + 1)), rank + 5)
    results = {
        "is_main": distributed.is_main(),
        "world": distributed.world_size(),
        "all_reduce_sum": distributed.all_reduce_sum([0.1 * (rank + 1), 1e-12, 1.0]),
        "gather": distributed.gather({"rank": rank, "text": "é"}),
        "all_gather_rows": [(rows.tolist(), number) for rows, number in gathered],
        "gradients": [parameter.grad.tolist() for parameter in parameters],
        "weight": weight.tolist(),
    }
    (FOLDER / f"{rank}.json").write_text(json.dumps(results))


def own_loops() -> None:
    """Loops without the engine, by `paddle.DataParallel`: process 0 writes the gradients to own_loops.npz."""
    found = {
        f"{optimizer} {zeros}": gradients(LOOPS[1], optimizer, zeros, rank=distributed.rank(), processes=2)
        for optimizer in OPTIMIZERS
        for zeros in (True, False)
    }
    if distributed.is_main():
        np.savez(FOLDER / "own_loops.npz", **found)


def lost() -> None:
    """Process 1 is killed, and process 0 writes the error of its next barrier to lost.txt."""
    distributed.barrier()
    if distributed.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        distributed.barrier()
    except UserError as error:
        (FOLDER / "lost.txt").write_text(str(error))


def choose_seed() -> int:
    """The first process has another seed than the others: the engine must make their weights equal."""
    return 3 if distributed.is_main() else 4


def master_weights() -> None:
    """O2 with sharding and stand-ins for the GPU: process 0 writes the weights to export to a file."""

    def decorate(model, optimizer, **options):
        model.to(dtype="bfloat16")

    with mock.patch.object(paddle.amp, "decorate", decorate):
        engine = make("float32", sharding_stage=1, seed=choose_seed())
        engine.precision.amp = "bf16"  # `Precision` would refuse this without a GPU
        engine.precision.level = "O2"
        engine._decorate()
    master_weights = list(engine.optimizer.state_dict()["master_weights"].values())
    assert 0 < len(master_weights) < len(engine.parameters)
    for master in master_weights:  # what AdamW does in bfloat16 only a GPU can do
        master.set_value(master + 1e-4)
    exported = get_weight_arrays(engine.model, engine.master_weights())
    if distributed.is_main():
        np.savez(FOLDER / "master_weights.npz", **exported)


def train(name: str, steps: int) -> None:
    """Train up to step `steps`, and write the result to <name>.npy, where `name` is <stage>/<name>.

    It begins with the state in the folder <name>.start, if there is one. With sharding, the processes write
    their parts of the state to <name>.loaded before the first step, and to <name>.parts after the last one.
    """
    stage = int(name.split("/")[0])
    engine = make(sharding_stage=stage, seed=choose_seed())
    start_folder = FOLDER / f"{name}.start"
    if start_folder.exists():
        engine.load_state_dict(read_step(start_folder))
    if stage:
        write_step(engine, FOLDER / f"{name}.loaded")
    results = [vars(step) for step in run(engine, steps)]
    end = {
        "steps": results,
        "weights": weights(engine),
        "state": get_state(engine),
        # How many each process has.
        "accumulators": distributed.gather(len(engine.optimizer.get_state(engine.parameters))),
    }
    if distributed.is_main():
        np.save(FOLDER / f"{name}.npy", end)
    if stage:
        write_step(engine, FOLDER / f"{name}.parts")


if __name__ == "__main__":
    device = distributed.init()
    assert device == "cpu"
    functions = {
        "collectives": collectives,
        "master_weights": master_weights,
        "own_loops": own_loops,
        "lost": lost,
    }
    for proof in PROOFS:
        if proof in functions:
            functions[proof]()
        else:
            # "three" only loads and saves the state after step 8.
            train(proof, 8 if proof.endswith("three") else STEPS)
