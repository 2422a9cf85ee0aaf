"""The variables of ERNIE-M: the official file name, our name and the meaning of each axis, as one table.

Official weights are stored [in, out], as `paddle.nn.Linear` keeps them, so nothing is transposed on the way.
"""

import re
from collections.abc import Iterable, Mapping
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


# The names that other libraries give to ERNIE-M's tensors: one table of modules, one of model classes.
#
# PaddleNLP's names are ours, with "ernie_m." before the encoder in a model with a head, and its linear
# weights
# are [in, out] as here. Of the other three linear weights are torch's [out, in].

PADDLENLP, HUGGING_FACE, XLM_R, FAIRSEQ = "paddlenlp", "huggingface", "xlm-r", "fairseq"
TORCH = (HUGGING_FACE, XLM_R, FAIRSEQ)

TABLE, NORM, LINEAR = "table", "norm", "linear"


class Module(NamedTuple):
    """A module of the encoder: our name, its kind, and its names in the three others (None: not there)."""

    ours: str
    kind: str
    huggingface: str | None
    xlm_r: str | None
    fairseq: str | None

    def named(self, library: str) -> str | None:
        by_library = {HUGGING_FACE: self.huggingface, XLM_R: self.xlm_r, FAIRSEQ: self.fairseq}
        return by_library.get(library, self.ours)


_E, _HF, _X, _F = "encoder.layers.{i}.", "encoder.layers.{i}.", "encoder.layer.{i}.", "layers.{i}."
# fmt: off
MODULES = (
    Module("embeddings.word_embeddings", TABLE, "embeddings.word_embeddings", "embeddings.word_embeddings",
           "embed_tokens"),
    Module("embeddings.position_embeddings", TABLE, "embeddings.position_embeddings",
           "embeddings.position_embeddings", "embed_positions"),
    Module("embeddings.layer_norm", NORM, "embeddings.layer_norm", "embeddings.LayerNorm", "emb_layer_norm"),
    # ErnieM of transformers doubles the name of the attention for q, k and v only
    Module(_E + "self_attn.q_proj", LINEAR, _HF + "self_attn.self_attn.q_proj", _X + "attention.self.query",
           _F + "self_attn.q_proj"),
    Module(_E + "self_attn.k_proj", LINEAR, _HF + "self_attn.self_attn.k_proj", _X + "attention.self.key",
           _F + "self_attn.k_proj"),
    Module(_E + "self_attn.v_proj", LINEAR, _HF + "self_attn.self_attn.v_proj", _X + "attention.self.value",
           _F + "self_attn.v_proj"),
    Module(_E + "self_attn.out_proj", LINEAR, _HF + "self_attn.out_proj", _X + "attention.output.dense",
           _F + "self_attn.out_proj"),
    Module(_E + "norm1", NORM, _HF + "norm1", _X + "attention.output.LayerNorm", _F + "self_attn_layer_norm"),
    Module(_E + "linear1", LINEAR, _HF + "linear1", _X + "intermediate.dense", _F + "fc1"),
    Module(_E + "linear2", LINEAR, _HF + "linear2", _X + "output.dense", _F + "fc2"),
    Module(_E + "norm2", NORM, _HF + "norm2", _X + "output.LayerNorm", _F + "final_layer_norm"),
    Module("pooler.dense", LINEAR, "pooler.dense", "pooler.dense", None),
)
# Heads, outside the encoder's prefix; what a class calls them is in `CLASSES`.
HEAD_KINDS = {"classifier": LINEAR, "linear_start": LINEAR, "linear_end": LINEAR, "lm_head.dense": LINEAR,
              "lm_head.layer_norm": NORM, "pooler.dense": LINEAR}
# fmt: on

# What a model is for, beside `model.task_names`: classes that other libraries have.
CHOICE, EXTRACT, LM = "choice", "uie", "lm"


class ModelClass(NamedTuple):
    """A class of a library: whether its encoder has a pooler, and our head modules under its names."""

    name: str
    pooler: bool
    head: Mapping[str, str]


_SAME = {"classifier": "classifier"}
_EXTRACTION = {"linear_start": "linear_start", "linear_end": "linear_end"}
CLASSES: dict[str, dict[str | None, ModelClass]] = {
    PADDLENLP: {
        None: ModelClass("ErnieMModel", True, {}),
        CLASSIFICATION: ModelClass("ErnieMForSequenceClassification", True, _SAME),
        TAGGING: ModelClass("ErnieMForTokenClassification", True, _SAME),
        QUESTION_ANSWERING: ModelClass("ErnieMForQuestionAnswering", True, _SAME),
        CHOICE: ModelClass("ErnieMForMultipleChoice", True, _SAME),
        EXTRACT: ModelClass("UIEM", True, _EXTRACTION),
    },
    HUGGING_FACE: {
        None: ModelClass("ErnieMModel", True, {}),
        CLASSIFICATION: ModelClass("ErnieMForSequenceClassification", True, _SAME),
        TAGGING: ModelClass("ErnieMForTokenClassification", False, _SAME),
        QUESTION_ANSWERING: ModelClass("ErnieMForQuestionAnswering", False, {"classifier": "qa_outputs"}),
        CHOICE: ModelClass("ErnieMForMultipleChoice", True, _SAME),
        EXTRACT: ModelClass("ErnieMForInformationExtraction", True, _EXTRACTION),
    },
    XLM_R: {
        None: ModelClass("XLMRobertaModel", True, {}),
        LM: ModelClass(
            "XLMRobertaForMaskedLM",
            False,
            {"lm_head.dense": "lm_head.dense", "lm_head.layer_norm": "lm_head.layer_norm"},
        ),
        # its classifier is a dense layer with tanh on the first token, which is our pooler, and a linear one
        CLASSIFICATION: ModelClass(
            "XLMRobertaForSequenceClassification",
            False,
            {"pooler.dense": "classifier.dense", "classifier": "classifier.out_proj"},
        ),
        TAGGING: ModelClass("XLMRobertaForTokenClassification", False, _SAME),
        QUESTION_ANSWERING: ModelClass("XLMRobertaForQuestionAnswering", False, {"classifier": "qa_outputs"}),
        CHOICE: ModelClass("XLMRobertaForMultipleChoice", True, _SAME),
    },
}
ENCODER_PREFIX = {PADDLENLP: "ernie_m.", HUGGING_FACE: "ernie_m.", XLM_R: "roberta."}
LM_BIAS = "lm_head.bias"  # of shape [V], with no module of its own
# Its names. transformers 4 starts it afresh, without a word, where only one of the two is there.
LM_BIASES = {XLM_R: (LM_BIAS, "lm_head.decoder.bias"), FAIRSEQ: (LM_BIAS,)}

# --- what only the reading of a file knows

# A name that shows whose names a file holds: the first layer's queries.
SIGNATURES = {
    HUGGING_FACE: ("encoder.layers.0.self_attn.self_attn.q_proj.weight",),
    XLM_R: ("encoder.layer.0.attention.self.query.weight",),
    FAIRSEQ: (
        "sentence_encoder.layers.0.self_attn.q_proj.weight",
        "sentence_encoder.layers.0.self_attn.in_proj_weight",
    ),
    PADDLENLP: ("encoder.layers.0.self_attn.q_proj.weight",),
}
# fairseq renamed its model from decoder to encoder.
PREFIXES = {
    PADDLENLP: ("ernie_m.",),
    HUGGING_FACE: ("ernie_m.",),
    XLM_R: ("roberta.",),
    FAIRSEQ: ("decoder.sentence_encoder.", "encoder.sentence_encoder.", "decoder.", "encoder."),
}
# Other names of the same tensors: (library, theirs, the name in the tables above).
ALIASES = {
    FAIRSEQ: {
        "layernorm_embedding.weight": "emb_layer_norm.weight",
        "layernorm_embedding.bias": "emb_layer_norm.bias",
    },
}
# q, k and v of old fairseq files are one tensor, one above the other.
FUSED = {
    "layers.{i}.self_attn.in_proj_weight": tuple(f"{_E}self_attn.{part}_proj.weight" for part in "qkv"),
    "layers.{i}.self_attn.in_proj_bias": tuple(f"{_E}self_attn.{part}_proj.bias" for part in "qkv"),
}
TOKEN_TYPES = "embeddings.token_type_embeddings.weight"  # of XLM-R: one row, added to every position
POSITIONS = "embeddings.position_embeddings.weight"
# Held and not taken, with the reason; a name that begins so.
_TIED = "the word embeddings once more"
DROPPED = {
    PADDLENLP: {},
    HUGGING_FACE: {"embeddings.position_ids": "0, 1, 2, ..."},
    XLM_R: {
        "embeddings.position_ids": "0, 1, 2, ...",
        "embeddings.token_type_ids": "zeros",
        "lm_head.decoder.weight": _TIED,
    },
    FAIRSEQ: {"lm_head.weight": _TIED, "version": "a number", "embed_positions._float_tensor": "a marker"},
}
UNTRAINED_POOLER = "beside a masked-LM head: it was never trained"
