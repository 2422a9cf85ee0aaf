"""Compare ernie-m-base weights with the numbers that PaddleNLP's tests have for them.

    sh scripts/verify_weights.sh configs/base

Ends with 0 if every number agrees, 1 if one does not, 2 if there are no such weights.
"""

from ernie_m.utils.first_import import run

import sys
from dataclasses import dataclass

import numpy as np

from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.config import FIRST_POSITION, ErnieMConfig
from ernie_m.model.packed_layout import PackedLayout
from ernie_m.utils.args import option, parse_options
from ernie_m.utils.errors import UserError
from ernie_m.utils.paddle_settings import prepare

BASE = {"vocab_size": 250002, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
# tests/transformers/ernie_m/test_modeling.py: last_hidden_state[0, 1:4, 1:4], with position 0 masked.
IDS = [0, 345, 232, 328, 740, 140, 1695, 69, 6078, 1588, 2]
EXPECTED = [
    [-0.02920425, -0.00768885, -0.10219190],
    [-0.10798159, 0.02311476, -0.17285497],
    [0.05675533, 0.01330730, -0.06826267],
]
TOLERANCE = 1e-4


@dataclass
class VerifyFlags:
    """What is compared."""

    path: str = option(positional=True)
    """Official params directory, or a checkpoint of this project."""


def main() -> None:
    flags = parse_options(VerifyFlags, None, __name__)
    prepare()
    last_layer = hidden_states(load_base(flags.path), IDS, masked=1)
    if not agrees(last_layer[1:4, 1:4]):  # the part that `EXPECTED` has
        print("verify: FAILED, these weights do not give the published numbers")
        sys.exit(1)
    print("verify: all numbers agree")


def agrees(numbers: np.ndarray) -> bool:
    """Print the numbers [3, 3] next to the expected ones; True if all agree within the tolerance."""
    is_close = np.abs(numbers - np.array(EXPECTED)) <= TOLERANCE  # False for nan
    for (row, column), number in np.ndenumerate(numbers):
        verdict = "ok" if is_close[row, column] else "OFF"
        expected = f"expected {EXPECTED[row][column]: .8f}"
        # `numbers` is [0, 1:4, 1:4] of the published array.
        print(f"  [0, {row + 1}, {column + 1}]  {number: .8f}  {expected}  {verdict}")
    return bool(is_close.all())


def load_base(path: str):
    """Return the encoder of base weights at `path`.

    Raises:
        UserError: there are no weights, or they are not of the base size.
    """
    # Paddle reads its CPU settings, which `prepare` makes, when it is imported.
    from ernie_m.model.checkpoint.load import load_from
    from ernie_m.model.ernie import ErnieMModel

    checkpoint = open_checkpoint(path)
    config = checkpoint.config or ErnieMConfig.from_dict(BASE)
    other_sizes = [key for key, size in BASE.items() if getattr(config, key) != size]
    differences = [f"{key} {getattr(config, key)}" for key in other_sizes]
    if differences:
        raise UserError(
            f"{path}: not the base size ({', '.join(differences)}); the numbers are of ernie-m-base"
        )
    model = ErnieMModel(config)
    load_from(model, checkpoint, ignore=("classifier.", "lm_head.", "language_embeddings."))
    model.eval()
    return model


def hidden_states(model, ids: list[int], masked: int = 0) -> np.ndarray:
    """Return the last layer [T, H] of one sequence, of which no position sees the first `masked` ones.

    Here a masked position still sees itself, and in PaddleNLP it does not: its own vector is another one.
    """
    import paddle

    from ernie_m.model.device import upload
    from ernie_m.model.packed_batch import PackedBatch

    # A masked position is a placeholder, which nothing else sees. Placeholders come last, so the first
    # positions move to the end.
    order = np.roll(np.arange(len(ids)), -masked)
    layout = PackedLayout([len(ids)], context_lengths=[len(ids) - masked])
    position_ids = FIRST_POSITION + order
    batch = upload(PackedBatch.from_packed(np.asarray(ids)[order], layout, position_ids))
    with paddle.no_grad():
        states = model.encode(batch).sequence
    return states.numpy()[np.argsort(order)]  # back in the order of `ids`


if __name__ == "__main__":
    run(main)
