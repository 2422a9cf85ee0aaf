"""Sharding stage 2 on a CPU, by test_group_sharding.py in each of two processes: Paddle's own code, without
its questions for a GPU. <folder>; rank 0 writes <folder>/end.npy, all write their parts of the state."""

import sys
from pathlib import Path

import numpy as np

from tests.helpers.lifted import lift
from tests.utils import engine_script
from tests.utils.engine_script import STEPS, make, run, state_of, weights, write_parts
from utils import distributed


class Used(engine_script.Toy):
    """Without the layer that training never uses."""

    def __init__(self, dropout: float = 0.0):
        super().__init__(dropout)
        del self.spare


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    distributed.init()
    lift()
    engine_script.Toy = Used
    engine = make("float32", sharding_stage=2)
    half = run(engine, STEPS // 2, micro_batches=3)  # two micro-batches on one process, one on the other
    write_parts(engine, folder / "half")
    seen = half + run(engine, STEPS, micro_batches=3)
    state = state_of(engine)
    if distributed.is_main():
        values = {"seen": [vars(step) for step in seen], "weights": weights(engine), "state": state}
        np.save(folder / "end.npy", values)
    held = sum(len(table) for table in engine.group.inner._accumulators.values())
    (folder / f"held.{distributed.rank()}").write_text(str(held))
