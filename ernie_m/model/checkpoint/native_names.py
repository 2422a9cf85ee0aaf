"""The tensor names of native checkpoints, with the kind of each module and the axes of its weight.

Linear weights are [in, out].
"""

import re
from collections.abc import Iterable

from ernie_m.model.config import ErnieMConfig

# The axes of a tensor: the config key of their size, if any.
VOCAB = "vocab_size"
POSITION = "max_position_embeddings"
HIDDEN = "hidden_size"
FFN = "intermediate_size"
LABELS = "num_labels"
LANGUAGES = "languages"
# The kinds of modules.
TABLE = "table"
NORM = "norm"
LINEAR = "linear"
OUTPUT = "output"  # the last linear layer of a task's head
BIAS = "bias"
# Module -> its kind, and the axes of its weight. `{i}` is the layer index, from 0.
_LAYER = "encoder.layers.{i}"
ENCODER = {
    "embeddings.word_embeddings": (TABLE, (VOCAB, HIDDEN)),
    "embeddings.position_embeddings": (TABLE, (POSITION, HIDDEN)),
    "embeddings.layer_norm": (NORM, (HIDDEN,)),
    f"{_LAYER}.self_attn.q_proj": (LINEAR, (HIDDEN, HIDDEN)),
    f"{_LAYER}.self_attn.k_proj": (LINEAR, (HIDDEN, HIDDEN)),
    f"{_LAYER}.self_attn.v_proj": (LINEAR, (HIDDEN, HIDDEN)),
    f"{_LAYER}.self_attn.out_proj": (LINEAR, (HIDDEN, HIDDEN)),
    f"{_LAYER}.norm1": (NORM, (HIDDEN,)),
    f"{_LAYER}.linear1": (LINEAR, (HIDDEN, FFN)),
    f"{_LAYER}.linear2": (LINEAR, (FFN, HIDDEN)),
    f"{_LAYER}.norm2": (NORM, (HIDDEN,)),
    "pooler.dense": (LINEAR, (HIDDEN, HIDDEN)),
}
HEADS = {
    "classifier": (OUTPUT, (HIDDEN, LABELS)),
    "lm_head.dense": (LINEAR, (HIDDEN, HIDDEN)),
    "lm_head.layer_norm": (NORM, (HIDDEN,)),
    "lm_head": (BIAS, (VOCAB,)),
    "language_embeddings": (TABLE, (LANGUAGES, HIDDEN)),
}
MODULES = ENCODER | HEADS
QUERIES = f"{_LAYER}.self_attn.q_proj"
POOLER = "pooler.dense"
WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
LM_BIAS = "lm_head.bias"


def encoder_shapes(config: ErnieMConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of an encoder with this config, by native name."""
    shapes = {}
    for module, (kind, axes) in ENCODER.items():
        sizes = tuple(getattr(config, axis) for axis in axes)
        for number in range(config.num_hidden_layers if "{i}" in module else 1):
            name = module.format(i=number)
            shapes[f"{name}.weight"] = sizes
            if kind != TABLE:
                shapes[f"{name}.bias"] = sizes[-1:]
    return {WORDS: shapes[WORDS]} if config.is_static else shapes


def count_layers(names: Iterable[str], query_name: str = QUERIES) -> int:
    """Return the number of layers of an encoder: the highest layer index in its tensor names, plus one.

    Args:
        names: tensor names, without the prefix of a model with a head.
        query_name: name of the query projection of layer `{i}`; by default the native name.
    """
    before, _, behind = query_name.partition("{i}")
    # At most four digits: a corrupt file may name any layer, and the tables get rows for all lower layers.
    number = re.compile(f"{re.escape(before)}([0-9]{{1,4}}){re.escape(behind[:1])}")
    return max((int(match[1]) for match in map(number.match, names) if match), default=-1) + 1


def find_axes(name: str) -> tuple[str, ...]:
    """Return the axes of a native tensor as config keys, such as ("vocab_size", "hidden_size").

    () for a name that is not native.
    """
    module, _, ending = re.sub(r"^encoder\.layers\.\d+\.", f"{_LAYER}.", name).rpartition(".")
    _kind, axes = MODULES.get(module, (None, ()))
    return axes if ending == "weight" else axes[-1:]
