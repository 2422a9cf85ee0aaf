"""The names of ERNIE-M's tensors in every format: one table of modules, and one of model classes.

Linear weights are [in, out] here, in the official files and in PaddleNLP, and [out, in] in torch's formats.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from model.task_names import CLASSIFICATION, QUESTION_ANSWERING, RETRIEVAL, TAGGING

OURS, OFFICIAL, PADDLENLP = "ours", "official", "paddlenlp"
HUGGING_FACE, XLM_R, FAIRSEQ = "huggingface", "xlm-r", "fairseq"
TORCH = (HUGGING_FACE, XLM_R, FAIRSEQ)  # linear weights are [out, in]

# The config key behind each axis.
V, P, H, F = "vocab_size", "max_position_embeddings", "hidden_size", "intermediate_size"
LABELS, LANGUAGES, ONE = "num_labels", "languages", "one"

# Kind of module -> the suffixes of its tensors' names: (in official files, in all other formats).
TABLE, NORM, LINEAR, HEAD, BIAS = "table", "norm", "linear", "head", "bias"
SUFFIXES = {
    TABLE: (("", ".weight"),),
    NORM: (("_scale", ".weight"), ("_bias", ".bias")),
    LINEAR: ((".w_0", ".weight"), (".b_0", ".bias")),
    HEAD: (("_w", ".weight"), ("_b", ".bias")),
    BIAS: ((".b_0", ".bias"),),
}
_E, _O, _X, _F = "encoder.layers.{i}.", "encoder_layer_{i}_", "encoder.layer.{i}.", "layers.{i}."
_ATTENTION = _O + "multi_head_att_"
# The modules of the encoder: kind, axes of the weight, and the names in the order of `_COLUMNS`.
# fmt: off
MODULES = (
    (TABLE, (V, H), "embeddings.word_embeddings", "word_embedding",
     "embeddings.word_embeddings", "embeddings.word_embeddings", "embed_tokens"),
    (TABLE, (P, H), "embeddings.position_embeddings", "pos_embedding",
     "embeddings.position_embeddings", "embeddings.position_embeddings", "embed_positions"),
    (NORM, (H,), "embeddings.layer_norm", "pre_encoder_layer_norm",
     "embeddings.layer_norm", "embeddings.LayerNorm", "emb_layer_norm"),
    # ErnieM of transformers doubles the name of the attention for q, k and v only
    (LINEAR, (H, H), _E + "self_attn.q_proj", _ATTENTION + "query_fc",
     _E + "self_attn.self_attn.q_proj", _X + "attention.self.query", _F + "self_attn.q_proj"),
    (LINEAR, (H, H), _E + "self_attn.k_proj", _ATTENTION + "key_fc",
     _E + "self_attn.self_attn.k_proj", _X + "attention.self.key", _F + "self_attn.k_proj"),
    (LINEAR, (H, H), _E + "self_attn.v_proj", _ATTENTION + "value_fc",
     _E + "self_attn.self_attn.v_proj", _X + "attention.self.value", _F + "self_attn.v_proj"),
    (LINEAR, (H, H), _E + "self_attn.out_proj", _ATTENTION + "output_fc",
     _E + "self_attn.out_proj", _X + "attention.output.dense", _F + "self_attn.out_proj"),
    (NORM, (H,), _E + "norm1", _O + "post_att_layer_norm",
     _E + "norm1", _X + "attention.output.LayerNorm", _F + "self_attn_layer_norm"),
    (LINEAR, (H, F), _E + "linear1", _O + "ffn_fc_0", _E + "linear1", _X + "intermediate.dense", _F + "fc1"),
    (LINEAR, (F, H), _E + "linear2", _O + "ffn_fc_1", _E + "linear2", _X + "output.dense", _F + "fc2"),
    (NORM, (H,), _E + "norm2", _O + "post_ffn_layer_norm",
     _E + "norm2", _X + "output.LayerNorm", _F + "final_layer_norm"),
    (LINEAR, (H, H), "pooler.dense", "pooled_fc", "pooler.dense", "pooler.dense", None),
)
# fmt: on
_COLUMNS = {OURS: 0, PADDLENLP: 0, OFFICIAL: 1, HUGGING_FACE: 2, XLM_R: 3, FAIRSEQ: 4}
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
TASKS = (CLASSIFICATION, TAGGING, QUESTION_ANSWERING, RETRIEVAL, CHOICE, EXTRACT)


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
# Head modules that may be beside any other head. The official one was never released: its names are those of
# other models of the family.
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

# Names of the first layer's queries, which show whose names a file has.
SIGNATURES = {
    "encoder.layers.0.self_attn.self_attn.q_proj.weight": HUGGING_FACE,
    "encoder.layer.0.attention.self.query.weight": XLM_R,
    "layers.0.self_attn.q_proj.weight": FAIRSEQ,
    "layers.0.self_attn.in_proj_weight": FAIRSEQ,
    "encoder.layers.0.self_attn.q_proj.weight": PADDLENLP,
}
# What may be before their names; fairseq renamed its model from decoder to encoder.
PREFIX = re.compile(r"^(ernie_m\.|roberta\.|(en|de)coder\.sentence_encoder\.|(en|de)coder\.(?=lm_head\.))")
# Old fairseq files: other names of tensors, and q, k and v above each other in one tensor.
ALIASES = {
    "layernorm_embedding.weight": "emb_layer_norm.weight",
    "layernorm_embedding.bias": "emb_layer_norm.bias",
}
FUSED = {".self_attn.in_proj_weight": "weight", ".self_attn.in_proj_bias": "bias"}
# Tensors that are not taken: the start of their name -> the reason.
DROPPED = {
    "embeddings.position_ids": "0, 1, 2, ...",
    "embeddings.token_type_ids": "zeros",
    "lm_head.decoder.weight": "the word embeddings once more",
    "lm_head.weight": "the word embeddings once more",
    "version": "a number",
    "embed_positions._float_tensor": "a marker",
}
UNTRAINED_POOLER = "beside a masked-LM head: it was never trained"


class Row(NamedTuple):
    """One tensor of a format."""

    ours: str
    theirs: str
    axes: tuple[str, ...]  # the config key behind each axis of our tensor
    transposed: bool  # whether our [in, out] is [out, in] there
    third: int | None = None  # 0, 1 or 2 if it is that third of a fused tensor


def rows_of(layout: str, num_layers: int, head: str | None = None, prefix: str = "") -> list[Row]:
    """The tensors of a format with a head of `CLASSES[layout]`; `prefix` goes before the encoder's names."""
    model_class, rows = CLASSES[layout][head], []
    for kind, axes, *names in MODULES:
        ours, theirs = names[0], names[_COLUMNS[layout]]
        if theirs is not None and (model_class.pooler or ours != "pooler.dense"):
            for i in range(num_layers if "{i}" in ours else 1):
                rows += _module_rows(layout, ours.format(i=i), prefix + theirs.format(i=i), kind, axes)
    for ours, theirs in (*model_class.head, *ALWAYS.get(layout, ())):
        rows += _module_rows(layout, ours, theirs, *HEAD_MODULES[ours])
    return rows


def reading_rows(layout: str, names: Iterable[str], head: str | None) -> list[Row]:
    """The tensors that files of a format may hold with this head, under all their names."""
    num_layers = count_layers(names)
    rows = rows_of(layout, num_layers, head)
    if not any(row.ours == "pooler.dense.weight" for row in rows):  # taken even if the class has none
        rows += _module_rows(layout, "pooler.dense", "pooler.dense", *HEAD_MODULES["pooler.dense"])
    if layout == FAIRSEQ:
        by_theirs = {row.theirs: row for row in rows}
        rows += [by_theirs[name]._replace(theirs=alias) for alias, name in ALIASES.items()]
        for i in range(num_layers):
            for end, part in FUSED.items():
                for third, letter in enumerate("qkv"):
                    ours = f"encoder.layers.{i}.self_attn.{letter}_proj.{part}"
                    rows.append(Row(ours, f"layers.{i}{end}", (), part == "weight", third))
    return rows


def official_names(files: Iterable[str]) -> list[str]:
    """Those of the files of a folder that are official variables, with any head."""
    files, rows = set(files), []
    for head in CLASSES[OFFICIAL]:
        rows += rows_of(OFFICIAL, count_layers(files), head)
    return [name for name in dict.fromkeys(row.theirs for row in rows) if name in files]


def _module_rows(layout: str, ours: str, theirs: str, kind: str, axes: tuple[str, ...]) -> list[Row]:
    rows = []
    for official, end in SUFFIXES[kind]:
        is_weight = end == ".weight"
        their_end = official if layout == OFFICIAL else end
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
    template = re.sub(r"^encoder\.layers\.\d+\.", "encoder.layers.0.", name)
    return next((row.axes for row in rows_of(OURS, 1) if row.ours == template), ())
