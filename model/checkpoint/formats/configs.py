"""Config files of other libraries, read into ours and written from it. The weights win."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.checkpoint.formats import tables
from model.checkpoint.formats.tables import HUGGING_FACE, PADDLENLP, XLM_R
from model.checkpoint.formats.weights import Weights
from model.config import ErnieMConfig
from utils import files
from utils.errors import UserError

MODEL_TYPES = {PADDLENLP: "ernie_m", HUGGING_FACE: "ernie_m", XLM_R: "xlm-roberta"}
_SHARED = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings",
    "initializer_range", "pad_token_id",
)  # fmt: skip
# Keys that only one library has.
_OWN = {
    PADDLENLP: {"type_vocab_size": 16, "dtype": "float32"},
    HUGGING_FACE: {"classifier_dropout": None, "act_dropout": 0.0, "torch_dtype": "float32"},
    XLM_R: {
        "type_vocab_size": 1, "position_embedding_type": "absolute", "bos_token_id": 0, "eos_token_id": 2,
        "classifier_dropout": None, "torch_dtype": "float32", "use_cache": True,
    },
}  # fmt: skip
# fairseq's flags for what no shape shows -> our keys.
_FAIRSEQ_FLAGS = {
    "encoder_attention_heads": "num_attention_heads", "activation_fn": "hidden_act",
    "dropout": "hidden_dropout_prob", "attention_dropout": "attention_probs_dropout_prob",
}  # fmt: skip
log = logging.getLogger(__name__)


def read_json(path: Path) -> dict[str, Any]:
    """Read a config file; the nested form of old PaddleNLP is flattened. UserError: not a JSON object."""
    found = files.read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"{path}: a JSON object is expected")
    if "init_class" not in found:
        return found
    # model_config.json: the encoder's keys are in `init_args`, and the class is `init_class`.
    inner = found.get("init_args")
    flat: dict[str, Any] = {}
    for value in inner if isinstance(inner, list) else ():
        flat |= value if isinstance(value, dict) else {}
    return flat | found | {"architectures": [found["init_class"]], "num_labels": found.get("num_classes")}


def of_fairseq(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Our config keys of the flags that fairseq saves with the weights."""
    return {ours: flags[theirs] for theirs, ours in _FAIRSEQ_FLAGS.items() if theirs in flags}


def class_of(raw: Mapping[str, Any]) -> str | None:
    """The model class that a config names."""
    names = raw.get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None


def labels_of(raw: Mapping[str, Any]) -> list[str] | None:
    """The names of the labels, in the order of their ids; None if a config has none but LABEL_0, ..."""
    table = raw.get("id2label")
    if not isinstance(table, dict) or not table or any(not re.fullmatch("[0-9]{1,9}", k) for k in table):
        return None
    labels = [str(table[key]) for key in sorted(table, key=int)]
    return None if labels == _numbered(len(labels)) else labels


def _numbered(count: int) -> list[str]:
    return [f"LABEL_{i}" for i in range(count)]


def settle(raw: Mapping[str, Any], weights: Weights, where: str, layout: str) -> ErnieMConfig:
    """Our config of a model. A key on which the file and the weights disagree is logged.

    UserError: another architecture, or a size that neither file nor weights show, such as the heads.
    """
    found = dict(raw)
    for key, size in _sizes_of(weights).items():
        given = raw.get(key)
        # PaddleNLP ignores its own key, and saves 3072 for every size.
        if given is not None and given != size and not (layout == PADDLENLP and key == "intermediate_size"):
            log.warning("%s: %s is %s, but %s in the weights; the weights win", where, key, given, size)
        found[key] = size
    try:
        return ErnieMConfig.from_dict(found)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _sizes_of(weights: Weights) -> dict[str, int]:
    """The config keys that the shapes show."""
    sizes = {"num_hidden_layers": tables.count_layers(weights)}
    for name in (tables.WORDS, tables.POSITIONS, "encoder.layers.0.linear1.weight"):
        axes = tables.axes_of(name)
        if name in weights and len(weights.shape(name)) == len(axes):
            sizes |= dict(zip(axes, weights.shape(name)))
    return sizes


def for_library(
    library: str, config: ErnieMConfig, class_name: str, labels: list[str], num_labels: int | None
) -> dict[str, Any]:
    """config.json of PaddleNLP, or of ErnieM or XLM-R in transformers.

    UserError: a size that the library cannot have.
    """
    if library == PADDLENLP:
        check_fixed_sizes(config, "PaddleNLP")
    if library == XLM_R and config.pad_token_id != 1:
        raise UserError(f"pad_token_id is {config.pad_token_id}; XLM-R needs 1: its positions begin after it")
    values = config.to_dict()
    written = {"architectures": [class_name], "model_type": MODEL_TYPES[library]}
    written |= {key: values[key] for key in _SHARED} | _OWN[library]
    if library != PADDLENLP:
        written["layer_norm_eps"] = config.layer_norm_eps
    if num_labels is not None:
        labels = labels if len(labels) == num_labels else _numbered(num_labels)
        written["id2label"] = dict(zip(map(str, range(num_labels)), labels))
        written["label2id"] = {label: i for i, label in enumerate(labels)}
    return written


def check_fixed_sizes(config: ErnieMConfig, format_name: str) -> None:
    """UserError: a size differs from the one that a format without a key for it always has."""
    for key, value in {"intermediate_size": 4 * config.hidden_size, "layer_norm_eps": 1e-5}.items():
        if getattr(config, key) != value:
            raise UserError(f"{key} is {getattr(config, key)}; {format_name} always has {value}")
