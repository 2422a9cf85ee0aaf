"""The names of ERNIE-M's tensors in every format: one table of modules, and one of model classes.

Linear weights are [in, out] here, in the official files and in PaddleNLP, and [out, in] in torch's formats.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ernie_m.model.tasks import CLASSIFICATION, QUESTION_ANSWERING, SEARCH, TOKEN_CLASSIFICATION

# The formats.
OURS = "ernie-m"
OFFICIAL = "official"
PADDLENLP = "paddlenlp"
HUGGING_FACE = "huggingface"
XLM_R = "xlm-r"
FAIRSEQ = "fairseq"
STATIC = "static"  # a table of pieces as the StaticEmbedding of sentence-transformers; it is only written
BERT = "bert"  # with XLM-R's vocabulary, as multilingual E5-small and multilingual MiniLM have it
_TORCH = (HUGGING_FACE, XLM_R, FAIRSEQ, BERT)
_NAMED_AS = {BERT: XLM_R}  # the format that has the same names in the encoder

# The axes of a tensor: the config's key for their size, if it has one.
VOCAB = "vocab_size"
POSITION = "max_position_embeddings"
HIDDEN = "hidden_size"
FFN = "intermediate_size"
LABELS = "num_labels"
LANGUAGES = "languages"
ONE = "one"

# The kinds of modules.
TABLE = "table"
NORM = "norm"
LINEAR = "linear"
OUTPUT = "output"  # a linear layer at the end of a task's head
BIAS = "bias"
# Kind of module -> how the names of its tensors end: (in official files, in all other formats).
_ENDINGS = {
    TABLE: [("", ".weight")],
    NORM: [("_scale", ".weight"), ("_bias", ".bias")],
    LINEAR: [(".w_0", ".weight"), (".b_0", ".bias")],
    OUTPUT: [("_w", ".weight"), ("_b", ".bias")],
    BIAS: [(".b_0", ".bias")],
}


class Module(NamedTuple):
    """A module of the encoder, and its names. `{i}` stands for the number of the layer, from 0.

    Attributes:
        axes: the axes of its weight.
        canonical: our name, which PaddleNLP has, too.
        elsewhere: format -> the name there, if it is another one; None: the format has no such module.
    """

    kind: str
    axes: tuple[str, ...]
    canonical: str
    elsewhere: Mapping[str, str | None]

    def name_in(self, format_name: str) -> str | None:
        """The module's name in a format; None: the format has no such module."""
        return self.elsewhere.get(_NAMED_AS.get(format_name, format_name), self.canonical)


ENCODER = (
    Module(
        TABLE,
        (VOCAB, HIDDEN),
        "embeddings.word_embeddings",
        {OFFICIAL: "word_embedding", FAIRSEQ: "embed_tokens", STATIC: "embedding"},
    ),
    Module(
        TABLE,
        (POSITION, HIDDEN),
        "embeddings.position_embeddings",
        {OFFICIAL: "pos_embedding", FAIRSEQ: "embed_positions"},
    ),
    Module(
        NORM,
        (HIDDEN,),
        "embeddings.layer_norm",
        {
            OFFICIAL: "pre_encoder_layer_norm",
            XLM_R: "embeddings.LayerNorm",
            FAIRSEQ: "emb_layer_norm",
        },
    ),
    Module(
        LINEAR,
        (HIDDEN, HIDDEN),
        "encoder.layers.{i}.self_attn.q_proj",
        {
            OFFICIAL: "encoder_layer_{i}_multi_head_att_query_fc",
            HUGGING_FACE: "encoder.layers.{i}.self_attn.self_attn.q_proj",  # doubled for q, k and v only
            XLM_R: "encoder.layer.{i}.attention.self.query",
            FAIRSEQ: "layers.{i}.self_attn.q_proj",
        },
    ),
    Module(
        LINEAR,
        (HIDDEN, HIDDEN),
        "encoder.layers.{i}.self_attn.k_proj",
        {
            OFFICIAL: "encoder_layer_{i}_multi_head_att_key_fc",
            HUGGING_FACE: "encoder.layers.{i}.self_attn.self_attn.k_proj",
            XLM_R: "encoder.layer.{i}.attention.self.key",
            FAIRSEQ: "layers.{i}.self_attn.k_proj",
        },
    ),
    Module(
        LINEAR,
        (HIDDEN, HIDDEN),
        "encoder.layers.{i}.self_attn.v_proj",
        {
            OFFICIAL: "encoder_layer_{i}_multi_head_att_value_fc",
            HUGGING_FACE: "encoder.layers.{i}.self_attn.self_attn.v_proj",
            XLM_R: "encoder.layer.{i}.attention.self.value",
            FAIRSEQ: "layers.{i}.self_attn.v_proj",
        },
    ),
    Module(
        LINEAR,
        (HIDDEN, HIDDEN),
        "encoder.layers.{i}.self_attn.out_proj",
        {
            OFFICIAL: "encoder_layer_{i}_multi_head_att_output_fc",
            XLM_R: "encoder.layer.{i}.attention.output.dense",
            FAIRSEQ: "layers.{i}.self_attn.out_proj",
        },
    ),
    Module(
        NORM,
        (HIDDEN,),
        "encoder.layers.{i}.norm1",
        {
            OFFICIAL: "encoder_layer_{i}_post_att_layer_norm",
            XLM_R: "encoder.layer.{i}.attention.output.LayerNorm",
            FAIRSEQ: "layers.{i}.self_attn_layer_norm",
        },
    ),
    Module(
        LINEAR,
        (HIDDEN, FFN),
        "encoder.layers.{i}.linear1",
        {
            OFFICIAL: "encoder_layer_{i}_ffn_fc_0",
            XLM_R: "encoder.layer.{i}.intermediate.dense",
            FAIRSEQ: "layers.{i}.fc1",
        },
    ),
    Module(
        LINEAR,
        (FFN, HIDDEN),
        "encoder.layers.{i}.linear2",
        {
            OFFICIAL: "encoder_layer_{i}_ffn_fc_1",
            XLM_R: "encoder.layer.{i}.output.dense",
            FAIRSEQ: "layers.{i}.fc2",
        },
    ),
    Module(
        NORM,
        (HIDDEN,),
        "encoder.layers.{i}.norm2",
        {
            OFFICIAL: "encoder_layer_{i}_post_ffn_layer_norm",
            XLM_R: "encoder.layer.{i}.output.LayerNorm",
            FAIRSEQ: "layers.{i}.final_layer_norm",
        },
    ),
    Module(LINEAR, (HIDDEN, HIDDEN), "pooler.dense", {OFFICIAL: "pooled_fc", FAIRSEQ: None}),
)
POOLER = "pooler.dense"

# The modules of heads: our name -> kind, axes of the weight. `CLASSES` has their names elsewhere.
HEAD_MODULES = {
    POOLER: (LINEAR, (HIDDEN, HIDDEN)),  # the first layer of XLM-R's classifier
    "classifier": (OUTPUT, (HIDDEN, LABELS)),
    "lm_head.dense": (LINEAR, (HIDDEN, HIDDEN)),
    "lm_head.layer_norm": (NORM, (HIDDEN,)),
    "lm_head": (BIAS, (VOCAB,)),
    "linear_start": (OUTPUT, (HIDDEN, ONE)),
    "linear_end": (OUTPUT, (HIDDEN, ONE)),
    "language_embeddings": (TABLE, (LANGUAGES, HIDDEN)),
}

# What a model is for, in addition to `ernie_m.model.tasks`: classes that other libraries have.
CHOICE = "choice"  # the classifier scores each choice with one number
EXTRACT = "uie"
LM = "lm"
TASKS = (CLASSIFICATION, TOKEN_CLASSIFICATION, QUESTION_ANSWERING, SEARCH, CHOICE, EXTRACT)


class ModelClass(NamedTuple):
    """A library's class.

    Attributes:
        name: "" if the format has no classes.
        has_pooler: whether the pooler is among its tensors, under the encoder's name for it.
        head: (our name, the name there) of the modules of its head.
    """

    name: str
    has_pooler: bool = True
    head: tuple[tuple[str, str], ...] = ()


_CLASSIFIER = (("classifier", "classifier"),)
_QA_OUTPUTS = (("classifier", "qa_outputs"),)
_EXTRACTION = (("linear_start", "linear_start"), ("linear_end", "linear_end"))
_LM_HEAD = (
    ("lm_head.dense", "lm_head.dense"),
    ("lm_head.layer_norm", "lm_head.layer_norm"),
    ("lm_head", "lm_head"),
)
# A linear layer with tanh on the first token, which is our pooler, and the output layer.
_XLM_R_CLASSIFIER = (("pooler.dense", "classifier.dense"), ("classifier", "classifier.out_proj"))
# transformers 4 initialises the bias afresh, without a warning, if only one of its two names is there.
_XLM_R_LM_HEAD = (*_LM_HEAD, ("lm_head", "lm_head.decoder"))
_BERT_LM_HEAD = (
    ("lm_head.dense", "cls.predictions.transform.dense"),
    ("lm_head.layer_norm", "cls.predictions.transform.LayerNorm"),
    ("lm_head", "cls.predictions"),
    ("lm_head", "cls.predictions.decoder"),  # its second name
)
_ALL_OF_OURS = tuple((name, name) for name in HEAD_MODULES if name != POOLER)

# Format -> task -> class. None is the encoder alone.
CLASSES: dict[str, dict[str | None, ModelClass]] = {
    OURS: {None: ModelClass("", head=_ALL_OF_OURS)},
    OFFICIAL: {
        None: ModelClass(""),
        CLASSIFICATION: ModelClass("", head=(("classifier", "cls_out"),)),
        TOKEN_CLASSIFICATION: ModelClass("", head=(("classifier", "cls_seq_label_out"),)),
        QUESTION_ANSWERING: ModelClass("", head=(("classifier", "cls_mrc_out"),)),
    },
    PADDLENLP: {
        None: ModelClass("ErnieMModel"),
        CLASSIFICATION: ModelClass("ErnieMForSequenceClassification", head=_CLASSIFIER),
        TOKEN_CLASSIFICATION: ModelClass("ErnieMForTokenClassification", head=_CLASSIFIER),
        QUESTION_ANSWERING: ModelClass("ErnieMForQuestionAnswering", head=_CLASSIFIER),
        CHOICE: ModelClass("ErnieMForMultipleChoice", head=_CLASSIFIER),
        EXTRACT: ModelClass("UIEM", head=_EXTRACTION),
    },
    HUGGING_FACE: {
        None: ModelClass("ErnieMModel"),
        CLASSIFICATION: ModelClass("ErnieMForSequenceClassification", head=_CLASSIFIER),
        TOKEN_CLASSIFICATION: ModelClass("ErnieMForTokenClassification", has_pooler=False, head=_CLASSIFIER),
        QUESTION_ANSWERING: ModelClass("ErnieMForQuestionAnswering", has_pooler=False, head=_QA_OUTPUTS),
        CHOICE: ModelClass("ErnieMForMultipleChoice", head=_CLASSIFIER),
        EXTRACT: ModelClass("ErnieMForInformationExtraction", head=_EXTRACTION),
    },
    XLM_R: {
        None: ModelClass("XLMRobertaModel"),
        LM: ModelClass("XLMRobertaForMaskedLM", has_pooler=False, head=_XLM_R_LM_HEAD),
        CLASSIFICATION: ModelClass(
            "XLMRobertaForSequenceClassification", has_pooler=False, head=_XLM_R_CLASSIFIER
        ),
        TOKEN_CLASSIFICATION: ModelClass(
            "XLMRobertaForTokenClassification", has_pooler=False, head=_CLASSIFIER
        ),
        QUESTION_ANSWERING: ModelClass("XLMRobertaForQuestionAnswering", has_pooler=False, head=_QA_OUTPUTS),
        CHOICE: ModelClass("XLMRobertaForMultipleChoice", head=_CLASSIFIER),
    },
    FAIRSEQ: {None: ModelClass("", has_pooler=False)},
    STATIC: {None: ModelClass("", has_pooler=False)},
    BERT: {
        None: ModelClass("BertModel"),
        LM: ModelClass("BertForMaskedLM", has_pooler=False, head=_BERT_LM_HEAD),
        CLASSIFICATION: ModelClass("BertForSequenceClassification", head=_CLASSIFIER),
        TOKEN_CLASSIFICATION: ModelClass("BertForTokenClassification", has_pooler=False, head=_CLASSIFIER),
        QUESTION_ANSWERING: ModelClass("BertForQuestionAnswering", has_pooler=False, head=_QA_OUTPUTS),
        CHOICE: ModelClass("BertForMultipleChoice", head=_CLASSIFIER),
    },
}
# Modules that may be beside any head. The official masked-LM head was never released: its names are those of
# other models of the family.
BESIDE_ANY_HEAD = {
    OFFICIAL: (
        ("lm_head.dense", "mask_lm_trans_fc"),
        ("lm_head.layer_norm", "mask_lm_trans_layer_norm"),
        ("lm_head", "mask_lm_out_fc"),
    ),
    FAIRSEQ: _LM_HEAD,
}

WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
TOKEN_TYPES = "embeddings.token_type_embeddings.weight"  # in XLM-R and BERT; row 0 is added to each position
LM_BIAS = "lm_head.bias"

# The name of the first layer's queries shows whose names a file has.
_FORMAT_BY_NAME = {
    "encoder.layers.0.self_attn.self_attn.q_proj.weight": HUGGING_FACE,
    "encoder.layer.0.attention.self.query.weight": XLM_R,  # or BERT, which only the config tells
    "layers.0.self_attn.q_proj.weight": FAIRSEQ,
    "layers.0.self_attn.in_proj_weight": FAIRSEQ,
    "encoder.layers.0.self_attn.q_proj.weight": PADDLENLP,
}
# What the encoder's names begin with in a task model.
ENCODER_PREFIX = {PADDLENLP: "ernie_m.", HUGGING_FACE: "ernie_m.", XLM_R: "roberta.", BERT: "bert."}
# What names in files may begin with. fairseq renamed its model from decoder to encoder.
_ANY_PREFIX = re.compile(
    r"^(ernie_m\.|roberta\.|bert\.|(en|de)coder\.sentence_encoder\.|(en|de)coder\.(?=lm_head\.))"
)
# Old fairseq files have other names for these tensors than `ENCODER`.
_FAIRSEQ_ALIASES = {
    "layernorm_embedding.weight": "emb_layer_norm.weight",
    "layernorm_embedding.bias": "emb_layer_norm.bias",
}
# They also have q, k and v of a layer below each other in one tensor: its name -> how our names of its three
# parts end.
_FAIRSEQ_FUSED = {"self_attn.in_proj_weight": "weight", "self_attn.in_proj_bias": "bias"}
FUSED_PARTS = ("q", "k", "v")
# Tensors that are not taken: the start of their name -> the reason.
_DROPPED = {
    "embeddings.position_ids": "0, 1, 2, ...",
    "embeddings.token_type_ids": "zeros",
    "lm_head.decoder.weight": "the word embeddings once more",
    "lm_head.weight": "the word embeddings once more",
    "cls.predictions.decoder.weight": "the word embeddings once more",
    "cls.seq_relationship": "the head of next sentence prediction",
    "version": "a number",
    "embed_positions._float_tensor": "a marker",
}
UNTRAINED_POOLER = "beside a masked-LM head: it was never trained"


class Row(NamedTuple):
    """One tensor of a format.

    Attributes:
        canonical: our name.
        in_format: the name there.
        axes: the axes of our tensor.
        transposed: whether our [in, out] is [out, in] there.
        fused_part: the index in `FUSED_PARTS` if it is one of the parts of a fused tensor.
    """

    canonical: str
    in_format: str
    axes: tuple[str, ...]
    transposed: bool
    fused_part: int | None = None


def rows_of(format_name: str, num_layers: int, task: str | None = None, prefix: str = "") -> list[Row]:
    """The tensors of a model, under our names and under those of a format.

    Args:
        task: what the model is for, a key of `CLASSES[format_name]`. None: an encoder, or any model of ours.
        prefix: what the encoder's names in the format begin with.
    """
    model_class = CLASSES[format_name][task]
    # A model of ours without layers is a table of pieces.
    is_table = format_name in (OURS, STATIC) and num_layers == 0
    rows = []
    for module in ENCODER:
        in_format = module.name_in(format_name)
        is_absent_pooler = module.canonical == POOLER and not model_class.has_pooler
        is_absent_in_table = is_table and f"{module.canonical}.weight" != WORDS
        if in_format is None or is_absent_pooler or is_absent_in_table:
            continue
        repeats = num_layers if "{i}" in module.canonical else 1  # a module of each layer, or of the encoder
        for i in range(repeats):
            name = prefix + in_format.format(i=i)
            rows += _rows_of_module(format_name, module.canonical.format(i=i), name, module.kind, module.axes)
    for canonical, in_format in (*model_class.head, *BESIDE_ANY_HEAD.get(format_name, ())):
        kind, axes = HEAD_MODULES[canonical]
        rows += _rows_of_module(format_name, canonical, in_format, kind, axes)
    return rows


def _rows_of_module(
    format_name: str, canonical: str, in_format: str, kind: str, weight_axes: tuple[str, ...]
) -> list[Row]:
    """The tensors of one module, under our names and under those of the format.

    Args:
        canonical, in_format: the module's name here and in the format.
        kind: a key of `_ENDINGS`.
    """
    rows = []
    for official_ending, ending in _ENDINGS[kind]:
        is_weight = ending == ".weight"
        ending_in_format = official_ending if format_name == OFFICIAL else ending
        axes = weight_axes if is_weight else weight_axes[-1:]  # a bias has the weight's last axis
        transposed = is_weight and kind in (LINEAR, OUTPUT) and format_name in _TORCH
        rows.append(Row(canonical + ending, in_format + ending_in_format, axes, transposed))
    return rows


def readable_rows(format_name: str, num_layers: int, task: str | None) -> list[Row]:
    """The tensors that files of a format may hold, under every name that a version gave them; no prefix."""
    rows = rows_of(format_name, num_layers, task)
    # A file may have a pooler even if its class has none.
    if not any(row.canonical == "pooler.dense.weight" for row in rows):
        kind, axes = HEAD_MODULES[POOLER]
        rows += _rows_of_module(format_name, canonical=POOLER, in_format=POOLER, kind=kind, weight_axes=axes)
    if format_name == FAIRSEQ:
        row_of = {row.in_format: row for row in rows}
        rows += [row_of[name]._replace(in_format=alias) for alias, name in _FAIRSEQ_ALIASES.items()]
        for i in range(num_layers):
            rows += _fused_rows(i)
    return rows


def _fused_rows(layer: int) -> list[Row]:
    """q, k and v of a layer, each as a part of a fused tensor of fairseq."""
    rows = []
    for fused, ending in _FAIRSEQ_FUSED.items():
        for part, letter in enumerate(FUSED_PARTS):  # 0 and "q", 1 and "k", 2 and "v"
            canonical = f"encoder.layers.{layer}.self_attn.{letter}_proj.{ending}"
            in_format = f"layers.{layer}.{fused}"
            transposed = ending == "weight"  # a bias has one axis
            # Only reading has fused tensors, and reading needs no axes.
            rows.append(Row(canonical, in_format, axes=(), transposed=transposed, fused_part=part))
    return rows


def bare(name: str) -> str:
    """A name in a file without the prefix of a task model."""
    return _ANY_PREFIX.sub("", name)


def format_of_names(names: Iterable[str]) -> str | None:
    """The format that has these names, by the first layer; None: none of the known ones."""
    bare_names = {bare(name) for name in names}
    for name, format_name in _FORMAT_BY_NAME.items():
        if name in bare_names:
            return format_name
    return None


def tasks_of(format_name: str, names: Iterable[str], class_name: str | None) -> list[str]:
    """The tasks that a model may be for, by the name of its class, or else by the names of its head.

    Args:
        names: the names of the tensors in the file.
        class_name: from the model's config; None: the config names none.
    """
    names = set(names)
    ending = "_w" if format_name == OFFICIAL else ".weight"
    class_of_task = {}  # task -> class, for the tasks whose heads are in the file
    for task, model_class in CLASSES[format_name].items():
        modules = dict(model_class.head)  # our name -> the name there
        modules.pop("lm_head", None)  # it has only a bias: its weight is the word table
        if modules and {in_format + ending for in_format in modules.values()} <= names:
            class_of_task[task] = model_class.name
    tasks_of_class = [task for task, name in class_of_task.items() if name == class_name]
    return tasks_of_class or list(class_of_task)


def reason_to_drop(name: str) -> str | None:
    """Why a tensor is not taken; None: it is not known. The name has no prefix."""
    for start, reason in _DROPPED.items():
        if name.startswith(start):
            return reason
    return None


def official_names(files: set[str]) -> list[str]:
    """The names of the files of a folder that are official variables of the encoder or of any head."""
    num_layers = count_layers(files)
    rows = [row for task in CLASSES[OFFICIAL] for row in rows_of(OFFICIAL, num_layers, task)]
    names = dict.fromkeys(row.in_format for row in rows)  # each once: every task has the encoder's rows
    return [name for name in names if name in files]


# At most four digits: a damaged file may name any layer, and the tables get rows for all layers up to it.
_LAYER = re.compile(r"^(?:encoder_layer_|(?:encoder\.)?layers?\.)([0-9]{1,4})[_.]")


def count_layers(names: Iterable[str]) -> int:
    """The highest layer index in names of any format, without a prefix, plus one; 0 without layers."""
    indices = [int(match[1]) for match in map(_LAYER.match, names) if match]
    return max(indices, default=-1) + 1


def axes_of(name: str) -> tuple[str, ...]:
    """The axes of one of our tensors; () for a name that is not in the table."""
    in_first_layer = re.sub(r"^encoder\.layers\.\d+\.", "encoder.layers.0.", name)
    for row in rows_of(OURS, num_layers=1):
        if row.canonical == in_first_layer:
            return row.axes
    return ()
