"""The variables of ERNIE-M: the official file name, our name and the meaning of each axis, as one table.

Official weights are stored [in, out], as `paddle.nn.Linear` keeps them, so nothing is transposed on the way.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from model.task_names import CLASSIFICATION, QUESTION_ANSWERING, TAGGING


class Variable(NamedTuple):
    """One tensor: its official name (None: it has none), our name, and the config key behind each axis."""

    official: str | None
    canonical: str
    axes: tuple[str, ...]


V, P, H, F = "vocab_size", "max_position_embeddings", "hidden_size", "intermediate_size"

EMBEDDINGS = (
    Variable("word_embedding", "embeddings.word_embeddings.weight", (V, H)),
    Variable("pos_embedding", "embeddings.position_embeddings.weight", (P, H)),
    Variable("pre_encoder_layer_norm_scale", "embeddings.layer_norm.weight", (H,)),
    Variable("pre_encoder_layer_norm_bias", "embeddings.layer_norm.bias", (H,)),
)
_LAYER_ROWS = (
    ("multi_head_att_query_fc.w_0", "self_attn.q_proj.weight", (H, H)),
    ("multi_head_att_query_fc.b_0", "self_attn.q_proj.bias", (H,)),
    ("multi_head_att_key_fc.w_0", "self_attn.k_proj.weight", (H, H)),
    ("multi_head_att_key_fc.b_0", "self_attn.k_proj.bias", (H,)),
    ("multi_head_att_value_fc.w_0", "self_attn.v_proj.weight", (H, H)),
    ("multi_head_att_value_fc.b_0", "self_attn.v_proj.bias", (H,)),
    ("multi_head_att_output_fc.w_0", "self_attn.out_proj.weight", (H, H)),
    ("multi_head_att_output_fc.b_0", "self_attn.out_proj.bias", (H,)),
    ("post_att_layer_norm_scale", "norm1.weight", (H,)),
    ("post_att_layer_norm_bias", "norm1.bias", (H,)),
    ("ffn_fc_0.w_0", "linear1.weight", (H, F)),
    ("ffn_fc_0.b_0", "linear1.bias", (F,)),
    ("ffn_fc_1.w_0", "linear2.weight", (F, H)),
    ("ffn_fc_1.b_0", "linear2.bias", (H,)),
    ("post_ffn_layer_norm_scale", "norm2.weight", (H,)),
    ("post_ffn_layer_norm_bias", "norm2.bias", (H,)),
)
LAYER = tuple(
    Variable("encoder_layer_{i}_" + theirs, "encoder.layers.{i}." + ours, axes)
    for theirs, ours, axes in _LAYER_ROWS
)
POOLER = (
    Variable("pooled_fc.w_0", "pooler.dense.weight", (H, H)),
    Variable("pooled_fc.b_0", "pooler.dense.bias", (H,)),
)
# Three official names for the three tasks, one name here: a model has one head.
HEADS = {
    CLASSIFICATION: (
        Variable("cls_out_w", "classifier.weight", (H, "num_labels")),
        Variable("cls_out_b", "classifier.bias", ("num_labels",)),
    ),
    TAGGING: (
        Variable("cls_seq_label_out_w", "classifier.weight", (H, "num_labels")),
        Variable("cls_seq_label_out_b", "classifier.bias", ("num_labels",)),
    ),
    QUESTION_ANSWERING: (
        Variable("cls_mrc_out_w", "classifier.weight", (H, "num_labels")),
        Variable("cls_mrc_out_b", "classifier.bias", ("num_labels",)),
    ),
}
# The head of pre-training was never released: these are the names of the same family's other models.
LM_HEAD = (
    Variable("mask_lm_trans_fc.w_0", "lm_head.dense.weight", (H, H)),
    Variable("mask_lm_trans_fc.b_0", "lm_head.dense.bias", (H,)),
    Variable("mask_lm_trans_layer_norm_scale", "lm_head.layer_norm.weight", (H,)),
    Variable("mask_lm_trans_layer_norm_bias", "lm_head.layer_norm.bias", (H,)),
    Variable("mask_lm_out_fc.b_0", "lm_head.bias", (V,)),
)
OURS_ONLY = (Variable(None, "language_embeddings.weight", ("languages", H)),)

# What an official fine-tuning checkpoint holds besides weights: Adam's state, counters, copies for fp16.
NOT_WEIGHTS = re.compile(
    r"_moment[12]_\d+$|_beta[12]_pow_acc_\d+$|\.master(_\d+)?$|^scheduled_learning_rate(_\d+)?$|^learning_rate_\d+$"
    r"|^loss_scaling_\d+$|^(num_)?(good|bad)_steps(_\d+)?$|^@LR_DECAY_COUNTER@$"
)

# Four digits: a file may name any layer, and every layer up to the last one is asked for.
_LAYER_INDEX = re.compile(r"^(?:encoder_layer_|encoder\.layers\.)([0-9]{1,4})[_.]")


def layer_index(name: str) -> int | None:
    """The layer that an official or canonical name belongs to; None outside the layers."""
    found = _LAYER_INDEX.match(name)
    return int(found[1]) if found else None


def count_layers(names: Iterable[str]) -> int:
    """The number of layers that the names speak of: the highest index plus one."""
    return 1 + max((index for name in names if (index := layer_index(name)) is not None), default=-1)


def variables(num_layers: int, head: str | None = None, lm_head: bool = False) -> list[Variable]:
    """The variables of a model of `num_layers` layers, with pooler.

    Args:
        num_layers: L.
        head: None, or a key of `HEADS`.
        lm_head: with the masked language model head.
    """
    layers = [
        Variable(v.official.format(i=i), v.canonical.format(i=i), v.axes)
        for i in range(num_layers)
        for v in LAYER
    ]
    return [*EMBEDDINGS, *layers, *POOLER, *(HEADS[head] if head else ()), *(LM_HEAD if lm_head else ())]


def axes_of(canonical: str) -> tuple[str, ...]:
    """The config key behind each axis of a canonical name; () for a name that is not in the table."""
    index = layer_index(canonical)
    template = canonical if index is None else canonical.replace(f".{index}.", ".{i}.", 1)
    table = (*EMBEDDINGS, *LAYER, *POOLER, *HEADS[CLASSIFICATION], *LM_HEAD, *OURS_ONLY)
    return next((v.axes for v in table if v.canonical == template), ())
