"""Verify released weights: names, shapes and finite values; for base also the output in PaddleNLP's tests.

    sh scripts/verify_weights.sh configs/base/params
    sh scripts/verify_weights.sh configs/large/params

The exit code is 0 if the output agrees, 1 if it does not, and 2 if the weights are not complete weights of
base or large.
"""

from ernie_m.utils.first_import import run

import sys
from dataclasses import dataclass

import numpy as np

from ernie_m.model.checkpoint.check_weights import HEADS
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.packed_layout import PackedLayout
from ernie_m.model.positions import FIRST_POSITION
from ernie_m.utils.args import option, parse_options
from ernie_m.utils.errors import UserError
from ernie_m.utils.paddle_settings import prepare

SIZES = {
    "base": {"vocab_size": 250002, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "large": {"vocab_size": 250002, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
}
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
    """Command-line options of verify_weights.py."""

    path: str = option(positional=True)
    """Official params directory, a checkpoint of this project, or a model name on the Hugging Face Hub."""


def main() -> None:
    flags = parse_options(VerifyFlags, None, __name__)
    prepare()
    size, model = load_released(flags.path)
    print(f"verify: names and shapes match ernie-m-{size}; all values are finite")
    if size != "base":
        print("verify: no values of this size are published")
    elif check_hidden_states(compute_hidden_states(model, IDS, masked=1)[1:4, 1:4]):  # the part in `EXPECTED`
        print("verify: all values agree")
    else:
        print("verify: FAILED: these weights do not produce the published values")
        sys.exit(1)


def check_hidden_states(numbers: np.ndarray) -> bool:
    """Print hidden states [3, 3] next to the expected values, and return whether all agree."""
    is_close = np.abs(numbers - np.array(EXPECTED)) <= TOLERANCE  # False for nan
    for (row, column), number in np.ndenumerate(numbers):
        verdict = "ok" if is_close[row, column] else "OFF"
        expected = f"expected {EXPECTED[row][column]: .8f}"
        # `numbers` is [0, 1:4, 1:4] of the published array.
        print(f"  [0, {row + 1}, {column + 1}]  {number: .8f}  {expected}  {verdict}")
    return bool(is_close.all())


def load_released(path: str):
    """Load the encoder of released weights.

    Returns:
        "base" or "large", and the encoder.

    Raises:
        UserError: the weights are missing or have an unknown size, or a tensor is missing or not finite.
    """
    # Paddle reads its CPU settings, which `prepare` makes, at import.
    from ernie_m.model.checkpoint.load import load_weights
    from ernie_m.model.ernie import ErnieMModel

    checkpoint = open_checkpoint(path)
    width = checkpoint.tensors.shape("embeddings.word_embeddings.weight")[1]
    size = "large" if width == SIZES["large"]["hidden_size"] else "base"
    config = checkpoint.config or ErnieMConfig.from_dict(SIZES[size])
    other_sizes = [key for key, number in SIZES[size].items() if getattr(config, key) != number]
    differences = [f"{key} {getattr(config, key)}" for key in other_sizes]
    if differences:
        raise UserError(f"{path}: not the {size} size ({', '.join(differences)})")
    model = ErnieMModel(config)
    load_weights(model, checkpoint, optional=(), ignore=HEADS)
    return size, model.eval()


def compute_hidden_states(model, ids: list[int], masked: int = 0) -> np.ndarray:
    """Compute the last hidden states [T, H] of a sequence, without attention to the first `masked` positions.

    A masked position still attends to itself, unlike in PaddleNLP, so its own hidden state differs.
    """
    import paddle

    from ernie_m.model.device_transfer import upload
    from ernie_m.model.packed_batch import PackedBatch

    # A masked position is a placeholder, visible only to itself. Placeholders come last, so the first
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
