"""The names of ERNIE-M's tensors in every format: one table of modules, and one of model classes.

Linear weights are [in, out] here, in the official files and in PaddleNLP, and [out, in] in torch's formats.
PaddleNLP uses our names, with "ernie_m." before the encoder in a model with a head.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from model.task_names import CLASSIFICATION, QUESTION_ANSWERING, TAGGING

OURS, OFFICIAL, PADDLENLP = "ours", "official", "paddlenlp"
HUGGING_FACE, XLM_R, FAIRSEQ = "huggingface", "xlm-r", "fairseq"
TORCH = (HUGGING_FACE, XLM_R, FAIRSEQ)  # linear weights are [out, in]

# The config key behind each axis.
V, P, H, F = "vocab_size", "max_position_embeddings", "hidden_size", "intermediate_size"
LABELS, LANGUAGES, ONE = "num_labels", "languages", "one"

# The kinds of modules, and the names of their tensors: everywhere but in official files, and there.
TABLE, NORM, LINEAR, HEAD, BIAS = "table", "norm", "linear", "head", "bias"
SUFFIXES = {TABLE: (".weight",), NORM: (".weight", ".bias"), LINEAR: (".weight", ".bias"),
            HEAD: (".weight", ".bias"), BIAS: (".bias",)}  # fmt: skip
OFFICIAL_SUFFIXES = {TABLE: ("",), NORM: ("_scale", "_bias"), LINEAR: (".w_0", ".b_0"),
                     HEAD: ("_w", "_b"), BIAS: (".b_0",)}  # fmt: skip


class Module(NamedTuple):
    """A module of the encoder: our name (PaddleNLP uses the same), its kind, the axes of its weight, and its
    names in other formats."""

    ours: str
    kind: str
    axes: tuple[str, ...]
    official: str
    huggingface: str
    xlm_r: str
    fairseq: str | None

    def named(self, layout: str) -> str | None:
        place = {OFFICIAL: 3, HUGGING_FACE: 4, XLM_R: 5, FAIRSEQ: 6}
        return self[place.get(layout, 0)]


_E, _O, _X, _F = "encoder.layers.{i}.", "encoder_layer_{i}_", "encoder.layer.{i}.", "layers.{i}."
_ATTENTION = _O + "multi_head_att_"
# fmt: off
MODULES = (
    Module("embeddings.word_embeddings", TABLE, (V, H), "word_embedding",
           "embeddings.word_embeddings", "embeddings.word_embeddings", "embed_tokens"),
    Module("embeddings.position_embeddings", TABLE, (P, H), "pos_embedding",
           "embeddings.position_embeddings", "embeddings.position_embeddings", "embed_positions"),
    Module("embeddings.layer_norm", NORM, (H,), "pre_encoder_layer_norm",
           "embeddings.layer_norm", "embeddings.LayerNorm", "emb_layer_norm"),
    # ErnieM of transformers doubles the name of the attention for q, k and v only
    Module(_E + "self_attn.q_proj", LINEAR, (H, H), _ATTENTION + "query_fc",
           _E + "self_attn.self_attn.q_proj", _X + "attention.self.query", _F + "self_attn.q_proj"),
    Module(_E + "self_attn.k_proj", LINEAR, (H, H), _ATTENTION + "key_fc",
           _E + "self_attn.self_attn.k_proj", _X + "attention.self.key", _F + "self_attn.k_proj"),
    Module(_E + "self_attn.v_proj", LINEAR, (H, H), _ATTENTION + "value_fc",
           _E + "self_attn.self_attn.v_proj", _X + "attention.self.value", _F + "self_attn.v_proj"),
    Module(_E + "self_attn.out_proj", LINEAR, (H, H), _ATTENTION + "output_fc",
           _E + "self_attn.out_proj", _X + "attention.output.dense", _F + "self_attn.out_proj"),
    Module(_E + "norm1", NORM, (H,), _O + "post_att_layer_norm",
           _E + "norm1", _X + "attention.output.LayerNorm", _F + "self_attn_layer_norm"),
    Module(_E + "linear1", LINEAR, (H, F), _O + "ffn_fc_0",
           _E + "linear1", _X + "intermediate.dense", _F + "fc1"),
    Module(_E + "linear2", LINEAR, (F, H), _O + "ffn_fc_1",
           _E + "linear2", _X + "output.dense", _F + "fc2"),
    Module(_E + "norm2", NORM, (H,), _O + "post_ffn_layer_norm",
           _E + "norm2", _X + "output.LayerNorm", _F + "final_layer_norm"),
    Module("pooler.dense", LINEAR, (H, H), "pooled_fc", "pooler.dense", "pooler.dense", None),
)
# fmt: on
# Modules outside the encoder: our name -> kind, axes of the weight. `CLASSES` holds their names elsewhere.
HEAD_MODULES = {
    "pooler.dense": (LINEAR, (H, H)),  # of XLM-R's classifier
    "classifier": (HEAD, (H, LABELS)),
    "lm_head.dense": (LINEAR, (H, H)),
    "lm_head.layer_norm": (NORM, (H,)),
    "lm_head": (BIAS, (V,)),
    "linear_start": (HEAD, (H, ONE)),
    "linear_end": (HEAD, (H, ONE)),
    "language_embeddings": (TABLE, (LANGUAGES, H)),
}

# What a model is for, in addition to `model.task_names`: classes that other libraries have.
CHOICE, EXTRACT, LM = "choice", "uie", "lm"


class ModelClass(NamedTuple):
    """A library's class: whether it has a pooler, and (our name, their name) of its head modules."""

    name: str
    pooler: bool = True
    head: tuple[tuple[str, str], ...] = ()


_SAME = (("classifier", "classifier"),)
_OUTPUTS = (("classifier", "qa_outputs"),)
_EXTRACTION = (("linear_start", "linear_start"), ("linear_end", "linear_end"))
_LM = tuple((name, name) for name in ("lm_head.dense", "lm_head.layer_norm", "lm_head"))
CLASSES: dict[str, dict[str | None, ModelClass]] = {
    OURS: {None: ModelClass("", True, tuple((name, name) for name in HEAD_MODULES if "pooler" not in name))},
    # Three names for the heads of three tasks. The pre-training head was never released: its names are those
    # of other models of the family.
    OFFICIAL: {
        None: ModelClass(""),
        CLASSIFICATION: ModelClass("", True, (("classifier", "cls_out"),)),
        TAGGING: ModelClass("", True, (("classifier", "cls_seq_label_out"),)),
        QUESTION_ANSWERING: ModelClass("", True, (("classifier", "cls_mrc_out"),)),
    },
    PADDLENLP: {
        None: ModelClass("ErnieMModel"),
        CLASSIFICATION: ModelClass("ErnieMForSequenceClassification", True, _SAME),
        TAGGING: ModelClass("ErnieMForTokenClassification", True, _SAME),
        QUESTION_ANSWERING: ModelClass("ErnieMForQuestionAnswering", True, _SAME),
        CHOICE: ModelClass("ErnieMForMultipleChoice", True, _SAME),
        EXTRACT: ModelClass("UIEM", True, _EXTRACTION),
    },
    HUGGING_FACE: {
        None: ModelClass("ErnieMModel"),
        CLASSIFICATION: ModelClass("ErnieMForSequenceClassification", True, _SAME),
        TAGGING: ModelClass("ErnieMForTokenClassification", False, _SAME),
        QUESTION_ANSWERING: ModelClass("ErnieMForQuestionAnswering", False, _OUTPUTS),
        CHOICE: ModelClass("ErnieMForMultipleChoice", True, _SAME),
        EXTRACT: ModelClass("ErnieMForInformationExtraction", True, _EXTRACTION),
    },
    XLM_R: {
        None: ModelClass("XLMRobertaModel"),
        # transformers 4 initialises the bias afresh, without a warning, if only one of its names is there
        LM: ModelClass("XLMRobertaForMaskedLM", False, (*_LM, ("lm_head", "lm_head.decoder"))),
        # its classifier is a dense layer with tanh on the first token, which is our pooler, and a linear one
        CLASSIFICATION: ModelClass(
            "XLMRobertaForSequenceClassification", False,
            (("pooler.dense", "classifier.dense"), ("classifier", "classifier.out_proj")),
        ),
        TAGGING: ModelClass("XLMRobertaForTokenClassification", False, _SAME),
        QUESTION_ANSWERING: ModelClass("XLMRobertaForQuestionAnswering", False, _OUTPUTS),
        CHOICE: ModelClass("XLMRobertaForMultipleChoice", True, _SAME),
    },
    FAIRSEQ: {None: ModelClass("", False)},
}  # fmt: skip
# Head modules that may be beside any other head.
ALWAYS = {
    OFFICIAL: (("lm_head.dense", "mask_lm_trans_fc"), ("lm_head.layer_norm", "mask_lm_trans_layer_norm"),
               ("lm_head", "mask_lm_out_fc")),
    FAIRSEQ: _LM,
}  # fmt: skip
ENCODER_PREFIX = {PADDLENLP: "ernie_m.", HUGGING_FACE: "ernie_m.", XLM_R: "roberta."}
LM_BIAS = "lm_head.bias"
TOKEN_TYPES = "embeddings.token_type_embeddings.weight"  # of XLM-R: one row, added to every position
POSITIONS = "embeddings.position_embeddings.weight"
WORDS = "embeddings.word_embeddings.weight"

# --- what only the reader of a file needs

# Names of the first layer's queries, which show whose names a file has.
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
# Other names of the same tensors in fairseq's files.
ALIASES = {
    "layernorm_embedding.weight": "emb_layer_norm.weight",
    "layernorm_embedding.bias": "emb_layer_norm.bias",
}
# In old fairseq files q, k and v are one tensor, one above the other: the end of its name -> that of ours.
FUSED = {".self_attn.in_proj_weight": "weight", ".self_attn.in_proj_bias": "bias"}
# Tensors that are not taken, by the start of their name, with the reason.
_TIED = "the word embeddings once more"
DROPPED = {
    HUGGING_FACE: {"embeddings.position_ids": "0, 1, 2, ..."},
    XLM_R: {
        "embeddings.position_ids": "0, 1, 2, ...",
        "embeddings.token_type_ids": "zeros",
        "lm_head.decoder.weight": _TIED,
    },
    FAIRSEQ: {"lm_head.weight": _TIED, "version": "a number", "embed_positions._float_tensor": "a marker"},
}
UNTRAINED_POOLER = "beside a masked-LM head: it was never trained"
# What an official fine-tuning checkpoint holds besides weights: Adam's state, counters, copies for fp16.
NOT_WEIGHTS = re.compile(
    r"_moment[12]_\d+$|_beta[12]_pow_acc_\d+$|\.master(_\d+)?$|^scheduled_learning_rate(_\d+)?$|^learning_rate_\d+$"
    r"|^loss_scaling_\d+$|^(num_)?(good|bad)_steps(_\d+)?$|^@LR_DECAY_COUNTER@$"
)


class Row(NamedTuple):
    """One tensor of a format.

    Attributes:
        ours, theirs: its names.
        axes: the config key behind each axis of our tensor.
        transposed: whether our [in, out] is [out, in] there.
        third: 0, 1 or 2 if it is that third of a fused tensor.
    """

    ours: str
    theirs: str
    axes: tuple[str, ...]
    transposed: bool
    third: int | None = None


def rows_of(layout: str, num_layers: int, head: str | None = None, prefix: str = "") -> list[Row]:
    """The table of one format.

    Args:
        layout: a key of `CLASSES`.
        num_layers: L.
        head: a key of `CLASSES[layout]`.
        prefix: put before their names of the encoder.
    """
    model_class, rows = CLASSES[layout][head], []
    for module in MODULES:
        theirs = module.named(layout)
        if theirs is not None and (model_class.pooler or module.ours != "pooler.dense"):
            for i in range(num_layers if "{i}" in module.ours else 1):
                names = module.ours.format(i=i), prefix + theirs.format(i=i)
                rows += _module_rows(layout, *names, module.kind, module.axes)
    return rows + head_rows(layout, model_class.head)


def head_rows(layout: str, head: Iterable[tuple[str, str]]) -> list[Row]:
    """The tensors of head modules, given as (our name, their name)."""
    return [row for names in head for row in _module_rows(layout, *names, *HEAD_MODULES[names[0]])]


def further_rows(layout: str) -> list[Row]:
    """The tensors that may be beside any head."""
    return head_rows(layout, ALWAYS.get(layout, ()))


def names_of(layout: str, num_layers: int) -> list[str]:
    """The names that the tensors of a format may have, with any head."""
    rows = [row for head in CLASSES[layout] for row in rows_of(layout, num_layers, head)]
    return list(dict.fromkeys(row.theirs for row in [*rows, *further_rows(layout)]))


def _module_rows(layout: str, ours: str, theirs: str, kind: str, axes: tuple[str, ...]) -> list[Row]:
    rows = []
    suffixes = OFFICIAL_SUFFIXES if layout == OFFICIAL else SUFFIXES
    for end, their_end in zip(SUFFIXES[kind], suffixes[kind]):
        is_weight = end == ".weight"
        transposed = is_weight and kind in (LINEAR, HEAD) and layout in TORCH
        rows.append(Row(ours + end, theirs + their_end, axes if is_weight else axes[-1:], transposed))
    return rows


# Four digits: a file may name any layer, and a model has every layer up to the last one.
_LAYER = re.compile(r"^(?:encoder_layer_|(?:encoder\.)?layers?\.)([0-9]{1,4})[_.]")


def count_layers(names: Iterable[str]) -> int:
    """The highest layer index in names of any format, without a prefix, plus one."""
    return 1 + max((int(found[1]) for name in names if (found := _LAYER.match(name))), default=-1)


def axes_of(name: str) -> tuple[str, ...]:
    """The config key behind each axis of one of our tensors; () for a name that is not in the table."""
    found = _LAYER.match(name)
    template = name.replace(f".{found[1]}.", ".0.", 1) if found else name
    return next((row.axes for row in rows_of(OURS, 1) if row.ours == template), ())
