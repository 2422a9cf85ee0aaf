"""Make the official layout, `ernie_config.json` and `params/`, with random weights, one tensor at a time."""

import zlib
from pathlib import Path

import numpy as np

from model.checkpoint.formats import fluid, tables

_COMMON = {
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 514,
    "initializer_range": 0.02,
}
SIZES = {
    "tiny": {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2},
    "base": {"vocab_size": 250002, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
}


def official_config(size: str, **changes) -> dict:
    """The official config of a size in `SIZES`, with some keys changed."""
    return {**_COMMON, **SIZES[size], **changes}


def make_official_weights(
    folder: str | Path,
    config: dict,
    seed: int,
    heads: dict[str, int] | None = None,
    lm_head: bool = False,
    pooler: bool = True,
) -> Path:
    """Write `folder/ernie_config.json` and `folder/params/`, and return the latter.

    The weights are drawn from normal distributions with the deviation initializer_range. The mean is 1 for
    the scales of layer norms, else 0, for biases, too, so that mixed-up tensors change the outputs. Each
    tensor depends only on the seed and its name.

    Args:
        config: the official keys (`official_config`).
        heads: "classification", "tagging" or "question_answering" -> number of labels.
    """
    folder = Path(folder)
    params = folder / "params"
    params.mkdir(parents=True, exist_ok=True)
    fluid.write_config(folder / fluid.CONFIG, config)
    sizes = {**config, "intermediate_size": 4 * config["hidden_size"]}
    # The official name of a tensor -> its row in the table of names, and the sizes of axes by their names.
    # `rows_of` gives the encoder's rows with each head; the first time counts.
    rows_and_sizes = {}
    labels_of_heads = {None: None} | (heads or {})  # None: the encoder without a head
    for head, num_labels in labels_of_heads.items():
        for row in tables.rows_of(tables.OFFICIAL, config["num_hidden_layers"], head):
            rows_and_sizes.setdefault(row.foreign, (row, {**sizes, "num_labels": num_labels}))
    left_out = set()
    if not lm_head:
        left_out.add("lm_head")
    if not pooler:
        left_out.add("pooler")
    for row, sizes_of_axes in rows_and_sizes.values():
        if row.canonical.split(".")[0] in left_out:
            continue
        shape = tuple(sizes_of_axes[axis] for axis in row.axes)
        fluid.write(params / row.foreign, _random(row, shape, config["initializer_range"], seed))
    return params


def _random(row: tables.Row, shape: tuple[int, ...], deviation: float, seed: int) -> np.ndarray:
    """The random weights of one tensor, float32."""
    source = np.random.SeedSequence([seed, zlib.crc32(row.foreign.encode())])
    random = np.random.Generator(np.random.Philox(source))
    array = random.standard_normal(shape, dtype=np.float32)
    array *= np.float32(deviation)
    if "norm" in row.canonical and row.canonical.endswith(".weight"):
        array += 1
    return array
