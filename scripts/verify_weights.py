"""Compare ernie-m-base weights with numbers that others have published for them.

Usage: sh scripts/verify_weights.sh PATH      (an official params directory, or a checkpoint folder of ours)

Ends with 0 if every number agrees, 1 if one does not, 2 if there are no such weights.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.errors import UserError, run
from utils.runtime import prepare

# (ids, positions hidden from every other position) -> hidden states of the last layer [T, H]
Encode = Callable[[list[int], tuple[int, ...]], np.ndarray]
BASE = {"vocab_size": 250002, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}


class Golden(NamedTuple):
    """Published numbers: last_hidden_state[0] at `rows`, and at the columns of the same numbers.

    hidden: the masks under which they may have been computed. Where the source gives none, its library's
        default has changed over time, and the closest candidate counts.
    """

    source: str
    ids: list[int]
    hidden: list[tuple[int, ...]]
    rows: list[int]
    expected: list[list[float]]
    tolerance: float


GOLDENS = [
    Golden(
        "PaddleNLP, tests/transformers/ernie_m/test_modeling.py (position 0 masked)",
        [0, 345, 232, 328, 740, 140, 1695, 69, 6078, 1588, 2], [(0,)], [1, 2, 3],
        [[-0.02920425, -0.00768885, -0.10219190], [-0.10798159, 0.02311476, -0.17285497],
         [0.05675533, 0.01330730, -0.06826267]], 1e-4,
    ),
    Golden(
        # its first version masked id 0, its last the pad
        "Hugging Face transformers, test of ErnieM (no mask given)",
        [0, 1, 2, 3, 4, 5], [(0,), (1,), ()], [0, 1, 2],
        [[-0.0012, 0.1245, -0.0214], [-0.0742, 0.0244, -0.0771], [-0.0333, 0.1164, -0.1554]], 1e-3,
    ),
]  # fmt: skip


def main() -> None:
    path = sys.argv[1] if len(sys.argv) == 2 else ""
    if not Path(path).is_dir() or not path:
        raise UserError(
            f"'{path}': no weights here; sh scripts/data/get_weights.sh fetches the released ones"
        )
    prepare()
    encode = load_encoder(path)  # imports paddle, which must come after prepare()
    agree = [verify(golden, encode) for golden in GOLDENS]
    if not all(agree):
        print("verify: FAILED, these weights do not give the published numbers")
        sys.exit(1)
    print("verify: all numbers agree")


def verify(golden: Golden, encode: Encode) -> bool:
    """Print the numbers beside the expected ones; True if all agree within the tolerance."""
    print(f"{golden.source}\n  ids {golden.ids}")
    found, worst = {}, {}
    for hidden in golden.hidden:
        found[hidden] = encode(golden.ids, hidden)[np.ix_(golden.rows, golden.rows)]
        # Here a masked row still sees itself, and in the other libraries it does not: it says nothing.
        rows = [i for i, row in enumerate(golden.rows) if row not in hidden]
        difference = np.abs(found[hidden] - np.array(golden.expected))[rows]
        worst[hidden] = float(np.nan_to_num(difference, nan=np.inf).max())
        print(f"  positions masked: {[*hidden] or 'none'}; largest difference {worst[hidden]:.1e}")
    closest = min(worst, key=worst.get)
    for row, numbers, expected in zip(golden.rows, found[closest], golden.expected, strict=True):
        fits = np.abs(numbers - expected).max() <= golden.tolerance
        verdict = "not compared, a masked row" if row in closest else "ok" if fits else "OFF"
        print(f"  row {row}: {numbers.round(8).tolist()}, expected {expected}: {verdict}")
    return worst[closest] <= golden.tolerance


def load_encoder(path: str) -> Encode:
    """The encoder of base weights at `path`. UserError: no weights there, or not of the base size."""
    import paddle

    from model.checkpoint.folder import load_into, read_weights
    from model.ernie_m import ErnieMConfig, ErnieMModel

    checkpoint = read_weights(path)
    config = checkpoint.config or ErnieMConfig.from_dict(BASE)
    other = [f"{key} {getattr(config, key)}" for key, size in BASE.items() if getattr(config, key) != size]
    if other:
        raise UserError(f"{path}: not the base size ({', '.join(other)}); the numbers are of ernie-m-base")
    model = ErnieMModel(config)
    load_into(model, checkpoint.weights, ignore=("classifier.", "lm_head.", "language_embeddings."))
    model.eval()
    return paddle.no_grad()(partial(encode_with, model))


def encode_with(model, ids: list[int], hidden: tuple[int, ...]) -> np.ndarray:
    """Hidden states [T, H] of one sequence; positions 2, 3, ... over all ids, also over a pad's."""
    import paddle

    from model.attention import Layout

    # A hidden position is a placeholder: nothing else sees it.
    order = np.argsort([position in hidden for position in range(len(ids))], kind="stable")
    layout = Layout([len(ids)], [len(ids) - len(hidden)])
    row, position_ids = (paddle.to_tensor(x[order]) for x in (np.asarray(ids), np.arange(2, len(ids) + 2)))
    return model(row, position_ids, layout, pool=False).sequence.numpy()[np.argsort(order)]


if __name__ == "__main__":
    run(main)
