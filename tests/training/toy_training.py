"""A toy training on the engine, in one process by the tests and in several by `processes_script.py`."""

import json
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from ernie_m.model.checkpoint import safetensors
from ernie_m.model.checkpoint.write import ModelFiles
from ernie_m.model.layers import dropout
from ernie_m.model.optimization import build_optimizer, linear_warmup_decay
from ernie_m.training import distributed
from ernie_m.training.checkpoint import read_state, write_checkpoint
from ernie_m.training.engine import Engine, StepResult
from ernie_m.utils.checksums import MANIFEST, make_manifest_entry
from tests.helpers.dtypes import default_dtype

STEPS = 20
FILES = ModelFiles({"weight": np.ones(3, np.float32)}, {"hidden_size": 3}, "a card", {})
BATCH = 12


class Toy(nn.Layer):
    """Even ids go through `even`, odd ids through `odd`; nothing uses `spare`."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.embeddings = nn.Embedding(11, 6)
        self.dropout_rate = dropout
        self.even = nn.Linear(6, 3)
        self.odd = nn.Linear(6, 3)
        self.spare = nn.Linear(6, 3)

    def forward(self, ids, is_odd):
        x = dropout(self.embeddings(ids), self.dropout_rate, self.training)
        return self.odd(x) if is_odd else self.even(x)


def make_micro_batches(step: int, count: int) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """The batch of a step as `count` (2 or 3) micro-batches of unequal size, each all even or all odd ids.

    Returns:
        for each (ids, labels, 1 if the ids are odd, otherwise 0).
    """
    ids = np.random.default_rng([7, step]).integers(0, 11, BATCH)
    even = ids[ids % 2 == 0]
    odd = ids[ids % 2 == 1]
    if count == 2:
        parts = [(even, 0), (odd, 1)]
    else:
        parts = [(even[:1], 0), (even[1:], 0), (odd, 1)]
    return [(part, part % 3, is_odd) for part, is_odd in parts]  # a label is the remainder of its id by 3


def make(dtype: str = "float64", dropout: float = 0.0, seed: int = 3, **options) -> Engine:
    """An engine whose weights depend on `seed`."""
    with default_dtype(dtype):
        paddle.seed(seed)
        model = Toy(dropout)
        optimizer = build_optimizer(model, 0.05, linear_warmup_decay(4, STEPS), weight_decay=0.01)
    return Engine(model, optimizer, seed=seed, sums=("correct", "count"), **options)


def make_loss():
    """The function for `Engine.step`: cross-entropy divided by the global count, and two sums."""

    def loss(model, micro_batch):
        ids, labels, is_odd = micro_batch
        logits = model(paddle.to_tensor(ids), is_odd)
        labels = paddle.to_tensor(labels)
        sums = {"correct": (logits.argmax(-1) == labels).sum(), "count": len(ids)}
        return F.cross_entropy(logits, labels, reduction="sum") / BATCH, sums

    return loss


def run(engine: Engine, steps: int, micro_batches: int = 2) -> list[StepResult]:
    """Train up to step `steps`; process r takes every world_size-th micro-batch."""
    rank = distributed.rank()
    world = distributed.world_size()
    results = []
    for step in range(engine.steps, steps):
        of_this_process = make_micro_batches(step, micro_batches)[rank::world]
        results.append(engine.step(of_this_process, make_loss()))
    return results


def weights(engine: Engine) -> dict[str, np.ndarray]:
    """Copies of all parameters, by name. `numpy` copies."""
    return {name: parameter.numpy() for name, parameter in engine.parameters.items()}


def get_state(engine: Engine) -> dict:
    """The `engine.state_dict()` of all processes, with copies, which later steps do not change."""
    state = engine.state_dict()
    arrays = {key: tensor.numpy() for key, tensor in state["optimizer"].items()}
    optimizer = {}
    for part in distributed.gather(arrays):
        optimizer |= part
    return {**state, "optimizer": optimizer}


def load(engine: Engine, saved_weights: dict, state: dict) -> None:
    """Load what `weights` and `get_state` returned."""
    for name, parameter in engine.parameters.items():
        parameter.set_value(saved_weights[name])
    engine.load_state_dict(state)


def write_step(engine: Engine, folder: Path) -> None:
    """Every process writes what it has of the state into a checkpoint, as in a training."""
    values = engine.state_dict()
    arrays = values.pop("optimizer")
    if distributed.is_main():
        write_checkpoint(folder, FILES, arrays, values)
    else:
        write_checkpoint(folder, None, arrays if engine.is_sharded else None)


def read_step(folder: Path) -> dict:
    """The `engine.state_dict()` that `write_step` wrote."""
    arrays, values = read_state(folder)
    return {**values, "optimizer": arrays}


def add_part(step: Path, rank: int, arrays: dict[str, np.ndarray]) -> None:
    """Add the arrays of another process to a checkpoint, as if it had written its part."""
    path = step / "training_state" / f"arrays-{rank}.safetensors"
    safetensors.write(path, arrays)
    manifest = json.loads((path.parent / MANIFEST).read_text())
    manifest["files"][path.name] = make_manifest_entry(path)
    (path.parent / MANIFEST).write_text(json.dumps(manifest))
