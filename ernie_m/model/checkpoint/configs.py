"""Config files, ours and those of other libraries: read as ours, and written from ours.

Where a config and the weights disagree on a size, the weights win.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ernie_m.model.checkpoint import tensor_names
from ernie_m.model.checkpoint.lazy_weights import Weights
from ernie_m.model.checkpoint.tensor_names import BERT, HUGGING_FACE, PADDLENLP, XLM_R
from ernie_m.model.config import FIRST_POSITION, ErnieMConfig
from ernie_m.utils import files
from ernie_m.utils.errors import UserError, shown
from ernie_m.utils.logging import logger

# The value of "problem_type" in a classifier whose texts have several labels.
MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"
PROBLEM_TYPES = ("single_label_classification", MULTI_LABEL, REGRESSION)  # the names in transformers
MODEL_TYPES = {PADDLENLP: "ernie_m", HUGGING_FACE: "ernie_m", XLM_R: "xlm-roberta", BERT: "bert"}
# The values of keys that a config of these libraries may leave out, where ours are others.
_DEFAULTS = {XLM_R: {"layer_norm_eps": 1e-12}, BERT: {"layer_norm_eps": 1e-12}}
# The keys of these libraries for which our model has a single value.
_ONLY = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
XLM_R_PAD = 1  # the id of [PAD]
# fairseq's flag -> our key, for what no shape shows.
_FAIRSEQ_FLAGS = {
    "encoder_attention_heads": "num_attention_heads",
    "activation_fn": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}


def read_json(path: Path) -> dict[str, Any]:
    """Read a config file; the nested form of old PaddleNLP is flattened.

    Raises:
        UserError: the file is not a JSON object.
    """
    contents = files.read_object(path)
    if "init_class" not in contents:
        return contents
    # model_config.json: the encoder's keys are in the dicts of `init_args`, and the class is `init_class`.
    flat: dict[str, Any] = {}
    arguments = contents.get("init_args")
    if isinstance(arguments, list):
        for values in arguments:
            if isinstance(values, dict):
                flat |= values
    flat |= contents
    flat["architectures"] = [contents["init_class"]]
    return flat


def of_fairseq(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of our config that the flags of a fairseq run, saved with the weights, give."""
    return {key: flags[flag] for flag, key in _FAIRSEQ_FLAGS.items() if flag in flags}


def class_of(raw_config: Mapping[str, Any]) -> str | None:
    """The model class that a config names; None if it names none."""
    names = raw_config.get("architectures")
    first = names[0] if isinstance(names, list) and names else names
    return str(first) if first else None


def labels_of(raw_config: Mapping[str, Any]) -> list[str] | None:
    """The names of the labels, in the order of their ids; None if a config has none but LABEL_0, ..."""
    label_of = raw_config.get("id2label")
    if not label_of:
        return None
    if not isinstance(label_of, dict) or not all(re.fullmatch("[0-9]{1,9}", id_) for id_ in label_of):
        raise UserError(
            f"config.json: id2label is {shown(label_of)}; it must give each id, from 0, its label"
        )
    labels = [str(label_of[id_]) for id_ in sorted(label_of, key=int)]
    return None if labels == numbered(len(labels)) else labels


def numbered(count: int) -> list[str]:
    """The names that transformers gives to labels without names."""
    return [f"LABEL_{i}" for i in range(count)]


def config_of(raw_config: Mapping[str, Any], weights: Weights, path: Path, format_name: str) -> ErnieMConfig:
    """Our config of a model. A key on which the file and the weights disagree is logged.

    Args:
        path: what messages name.

    Raises:
        UserError: another architecture, or a size that neither file nor weights show, such as the heads.
    """
    for key, value in _ONLY.items():
        if raw_config.get(key, value) != value:
            raise UserError(f"{path}: {key} is {raw_config[key]!r}; only models with {value!r} can be read")
    if format_name == BERT:
        raw_config = _as_xlm_r(raw_config)
    settled = dict(_DEFAULTS.get(format_name, {}))
    settled |= {key: value for key, value in raw_config.items() if value is not None}
    for key, size in _sizes_of(weights).items():
        size_in_config = raw_config.get(key)
        # PaddleNLP ignores its own key, and saves 3072 for every size.
        is_ignored = format_name == PADDLENLP and key == "intermediate_size"
        if size_in_config is not None and size_in_config != size and not is_ignored:
            logger.warning(
                "%s: %s is %s, but %s in the weights; the weights win", path, key, size_in_config, size
            )
        settled[key] = size
    try:
        config = ErnieMConfig.from_dict(settled)
        if format_name in (XLM_R, BERT):
            check_first_position(config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return config


def _sizes_of(weights: Weights) -> dict[str, int]:
    """The config keys that the shapes show."""
    sizes = {}
    layers = tensor_names.count_layers(weights)
    if layers:  # otherwise it is a table of pieces, or incomplete
        sizes["num_hidden_layers"] = layers
    for name in (tensor_names.WORDS, tensor_names.POSITIONS, "encoder.layers.0.linear1.weight"):
        axes = tensor_names.axes_of(name)  # the config's keys for the sizes
        if name in weights and len(weights.shape(name)) == len(axes):
            sizes |= dict(zip(axes, weights.shape(name)))
    return sizes


def _as_xlm_r(bert_config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a BERT with XLM-R's vocabulary, with XLM-R's positions and its [PAD].

    BERT counts positions from 0. Its pad_token_id is 0 whatever the tokenizer says.
    """
    config = {**bert_config, "pad_token_id": XLM_R_PAD}
    positions = bert_config.get("max_position_embeddings")
    if isinstance(positions, int):
        config["max_position_embeddings"] = positions + FIRST_POSITION
    return config


def check_first_position(config: ErnieMConfig) -> None:
    """Refuse what XLM-R cannot have: its positions begin behind pad_token_id, ours always at 2."""
    if config.pad_token_id != XLM_R_PAD:
        raise UserError(f"pad_token_id is {config.pad_token_id}; XLM-R needs 1: its positions begin after it")
