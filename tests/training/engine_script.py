"""A toy training on the engine, by test_engine.py in one process and as a script in several.

Script: <folder> <dtype> <sharding stage> <steps>; starts from <folder>/start.npy (weights, state) or
<folder>/start (a state in parts) if one is there, and writes what it has taken up to <folder>/loaded; rank 0
writes <folder>/end.npy, and all their parts of the state <folder>/parts.
"""

import sys
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from model.checkpoint.training_state import load_training_state, write_part
from training import distributed
from training.engine import Engine
from training.optimizer import build_optimizer, linear_warmup_decay

STEPS, BATCH = 20, 12


class Toy(nn.Layer):
    """Two ways through: even items by `even`, odd items by `odd`; `spare` is never used."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.embeddings = nn.Embedding(11, 6)
        self.dropout = nn.Dropout(dropout)
        self.even, self.odd, self.spare = nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, ids, odd):
        return (self.odd if odd else self.even)(self.dropout(self.embeddings(ids)))


def batch_of(step: int) -> tuple[np.ndarray, np.ndarray]:
    """The step's ids [12] and labels [12], whoever asks."""
    rng = np.random.default_rng([7, step])
    ids = rng.integers(0, 11, BATCH)
    return ids, ids % 3


def pieces(step: int, count: int) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """The batch in `count` micro-batches of unequal size, each all even or all odd ids."""
    ids, labels = batch_of(step)
    parts = [(ids[ids % 2 == odd], labels[ids % 2 == odd], odd) for odd in (0, 1)]
    if count > 2:
        (first, labels_of_first, odd), rest = parts[0], parts[1:]
        parts = [(first[:1], labels_of_first[:1], odd), (first[1:], labels_of_first[1:], odd), *rest]
    return parts


def make(dtype: str = "float64", dropout: float = 0.0, seed: int = 3, **options) -> Engine:
    """The engine with weights drawn from `seed`."""
    paddle.set_default_dtype(dtype)
    try:
        paddle.seed(seed)
        model = Toy(dropout)
        optimizer = build_optimizer(model, 0.05, linear_warmup_decay(4, STEPS), weight_decay=0.01)
    finally:
        paddle.set_default_dtype("float32")
    return Engine(model, optimizer, seed=seed, sums=("correct", "count"), **options)


def loss_of(engine: Engine):
    """Cross-entropy divided by the global count."""

    def loss(piece):
        ids, labels, odd = piece
        logits = engine.model(paddle.to_tensor(ids), odd)
        labels = paddle.to_tensor(labels)
        correct = (logits.argmax(-1) == labels).sum()
        return F.cross_entropy(logits, labels, reduction="sum") / BATCH, {
            "correct": correct,
            "count": len(ids),
        }

    return loss


def run(engine: Engine, steps: int, micro_batches: int = 2) -> list:
    """Train up to step `steps`; process r takes every world_size-th micro-batch."""
    rank, world = distributed.rank(), distributed.world_size()
    return [
        engine.step(pieces(step, micro_batches)[rank::world], loss_of(engine))
        for step in range(engine.steps, steps)
    ]


def weights(engine: Engine) -> dict[str, np.ndarray]:
    return {name: parameter.numpy() for name, parameter in engine.parameters.items()}


def state_of(engine: Engine) -> dict:
    """`engine.state_dict()` of all processes, with copies, which later steps do not change."""
    state = engine.state_dict()
    mine = {key: tensor.numpy() for key, tensor in state["optimizer"].items()}
    whole = {key: array for part in distributed.gather(mine) for key, array in part.items()}
    return {**state, "optimizer": whole}


def write_parts(engine: Engine, folder: Path) -> None:
    """Each process its part, as a checkpoint of sharded state is written."""
    folder.mkdir(exist_ok=True)
    distributed.barrier()
    parts = distributed.world_size() if engine.is_sharded else 1
    if distributed.rank() < parts:
        write_part(folder, engine.state_dict(), distributed.rank(), parts)
    distributed.barrier()


def main() -> None:
    folder, dtype, stage = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    distributed.init(sharding_stage=stage)
    # Another seed on the second process: the engine must make the weights equal.
    engine = (
        make(dtype, sharding_stage=stage, seed=3)
        if distributed.is_main()
        else make(dtype, sharding_stage=stage, seed=4)
    )
    if (folder / "start.npy").exists():
        saved = np.load(folder / "start.npy", allow_pickle=True).item()
        for name, parameter in engine.parameters.items():
            parameter.set_value(saved["weights"][name])
        engine.load_state_dict(saved["state"])
        write_parts(engine, folder / "loaded")
    if (folder / "start").exists():
        engine.load_state_dict(load_training_state(folder / "start"))
        write_parts(engine, folder / "loaded")
    seen = run(engine, int(sys.argv[4]))
    state = state_of(engine)
    if distributed.is_main():
        np.save(
            folder / "end.npy", {"seen": [vars(s) for s in seen], "weights": weights(engine), "state": state}
        )
    write_parts(engine, folder / "parts")
    held = sum(len(table) for table in engine.optimizer._accumulators.values())
    (folder / f"held.{distributed.rank()}").write_text(str(held))


if __name__ == "__main__":
    main()
