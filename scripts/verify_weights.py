"""Compare ernie-m-base weights with the numbers that PaddleNLP's tests have for them.

Usage: sh scripts/verify_weights.sh PATH      (an official params directory, or a checkpoint folder of ours)

Ends with 0 if every number agrees, 1 if one does not, 2 if there are no such weights.
"""

import sys
from pathlib import Path

import numpy as np

from utils.errors import UserError, run
from utils.runtime import prepare

BASE = {"vocab_size": 250002, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
# tests/transformers/ernie_m/test_modeling.py: last_hidden_state[0, 1:4, 1:4], with position 0 masked.
IDS = [0, 345, 232, 328, 740, 140, 1695, 69, 6078, 1588, 2]
EXPECTED = [
    [-0.02920425, -0.00768885, -0.10219190],
    [-0.10798159, 0.02311476, -0.17285497],
    [0.05675533, 0.01330730, -0.06826267],
]  # fmt: skip
TOLERANCE = 1e-4


def main() -> None:
    path = sys.argv[1] if len(sys.argv) == 2 else ""
    if not path or not Path(path).is_dir():
        raise UserError(f"'{path}': no weights here; sh scripts/data/get_weights.sh fetches released ones")
    prepare()
    if not agrees(hidden_states(load_base(path), IDS, hidden=1)[1:4, 1:4]):
        print("verify: FAILED, these weights do not give the published numbers")
        sys.exit(1)
    print("verify: all numbers agree")


def agrees(found: np.ndarray) -> bool:
    """Print the numbers beside the expected ones; True if all agree within the tolerance."""
    fits = np.abs(found - np.array(EXPECTED)) <= TOLERANCE  # False for nan
    for (row, column), number in np.ndenumerate(found):
        verdict = "ok" if fits[row, column] else "OFF"
        expected = f"expected {EXPECTED[row][column]: .8f}"
        print(f"  [0, {row + 1}, {column + 1}]  {number: .8f}  {expected}  {verdict}")
    return bool(fits.all())


def load_base(path: str):
    """The encoder of base weights at `path`. UserError: no weights there, or not of the base size."""
    from model.checkpoint.load import load_from
    from model.checkpoint.read import open_checkpoint
    from model.ernie_m import ErnieMConfig, ErnieMModel

    checkpoint = open_checkpoint(path)
    config = checkpoint.config or ErnieMConfig.from_dict(BASE)
    other = [f"{key} {getattr(config, key)}" for key, size in BASE.items() if getattr(config, key) != size]
    if other:
        raise UserError(f"{path}: not the base size ({', '.join(other)}); the numbers are of ernie-m-base")
    model = ErnieMModel(config)
    load_from(model, checkpoint, ignore=("classifier.", "lm_head.", "language_embeddings."))
    model.eval()
    return model


def hidden_states(model, ids: list[int], hidden: int = 0) -> np.ndarray:
    """The last layer [T, H] of one sequence, with the first `hidden` positions masked.

    Here a masked position still sees itself, and in PaddleNLP it does not.
    """
    import paddle

    from model.batch import TokenBatch
    from model.device import upload
    from model.layout import Layout

    # A hidden position is a placeholder, which nothing else sees. Placeholders come last.
    order = np.roll(np.arange(len(ids)), -hidden)
    layout = Layout([len(ids)], [len(ids) - hidden])
    position_ids = np.arange(2, len(ids) + 2)[order]
    batch = upload(TokenBatch.from_packed(np.asarray(ids)[order], layout, position_ids))
    with paddle.no_grad():
        states = model.encode(batch).sequence
    return states.numpy()[np.argsort(order)]


if __name__ == "__main__":
    run(main)
