"""Our tensors: the modules of a model, the kinds of their tensors and the axes. Linear weights are [in, out].

What other formats call them is in the file of each format.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from ernie_m.model.config import ErnieMConfig
from ernie_m.model.tasks import CLASSIFICATION, QUESTION_ANSWERING, SEARCH, TOKEN_CLASSIFICATION

# The axes of a tensor: the config's key for their size, if it has one.
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
OUTPUT = "output"  # a linear layer at the end of a task's head
BIAS = "bias"

# Module -> its kind, and the axes of its weight. `{i}` stands for the number of the layer, from 0.
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

# What a model is for, in addition to `ernie_m.model.tasks`: classes that other libraries have.
CHOICE = "choice"  # the classifier scores each choice with one number
LM = "lm"
TASKS = (CLASSIFICATION, TOKEN_CLASSIFICATION, QUESTION_ANSWERING, SEARCH, CHOICE)


def encoder_shapes(config: ErnieMConfig) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of an encoder, with a pooler."""
    shapes = {}
    for module, (kind, axes) in ENCODER.items():
        sizes = tuple(getattr(config, axis) for axis in axes)
        for number in range(config.num_hidden_layers if "{i}" in module else 1):
            name = module.format(i=number)
            shapes[f"{name}.weight"] = sizes
            if kind != TABLE:
                shapes[f"{name}.bias"] = sizes[-1:]
    return {WORDS: shapes[WORDS]} if config.is_static else shapes


def count_layers(names: Iterable[str], queries: str = QUERIES) -> int:
    """The highest number of a layer in names without a prefix, plus one; 0 without layers.

    Args:
        queries: what the queries of layer `{i}` are called there; by default the names are ours.
    """
    before, _, behind = queries.partition("{i}")
    # At most four digits: a damaged file may name any layer, and the tables get rows for all layers up to it.
    number = re.compile(f"{re.escape(before)}([0-9]{{1,4}}){re.escape(behind[:1])}")
    return max((int(match[1]) for match in map(number.match, names) if match), default=-1) + 1


def axes_of(name: str) -> tuple[str, ...]:
    """The axes of one of our tensors; () for a name that is none of ours."""
    module, _, ending = re.sub(r"^encoder\.layers\.\d+\.", f"{_LAYER}.", name).rpartition(".")
    _kind, axes = MODULES.get(module, (None, ()))
    return axes if ending == "weight" else axes[-1:]


class ModelClass(NamedTuple):
    """A library's class.

    Attributes:
        name: "" if the format has no classes.
        has_pooler: whether the pooler is among its tensors, under the encoder's name for it.
        head: (our name, the name there) of the modules of its head.
    """

    name: str = ""
    has_pooler: bool = True
    head: tuple[tuple[str, str], ...] = ()


# Heads that several libraries name alike.
CLASSIFIER = (("classifier", "classifier"),)
QA_OUTPUTS = (("classifier", "qa_outputs"),)
LM_HEAD = (
    ("lm_head.dense", "lm_head.dense"),
    ("lm_head.layer_norm", "lm_head.layer_norm"),
    ("lm_head", "lm_head"),
)
