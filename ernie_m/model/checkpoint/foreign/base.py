"""Base class of third-party formats: config.json, tokenizer files, pipeline settings.

`ernie-m convert` stores the pipeline settings under "pipeline" in config.json. Without this key they are
those of the format's library. Other files add settings, which must not contradict "pipeline".
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ernie_m.model.checkpoint import safetensors
from ernie_m.model.checkpoint.convert_names import LM
from ernie_m.model.checkpoint.foreign import restricted_pickle, sentence_transformers, torch_files
from ernie_m.model.checkpoint.format import Checkpoint, Format, Source, make_numbered_labels
from ernie_m.model.checkpoint.native_names import WORDS
from ernie_m.model.checkpoint.weights import CONFIG, WEIGHTS, WITHOUT_UNKNOWN, Weights, open_weights
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.pipeline_config import (
    ERNIE_M_RULES,
    NO_RULES,
    PIPELINE,
    PipelineConfig,
    get_pipeline_values,
    get_stored_pipeline_config,
    read_pipeline_config,
)
from ernie_m.model.tasks import CLASSIFICATION, TOKEN_CLASSIFICATION
from ernie_m.reader.tag_schemes import NO_ENTITIES, map_labels_to_iobes
from ernie_m.reader.tokenizer_config import (
    TOKENIZER_CONFIG,
    check_tokenizer_type,
    has_official_rules,
    read_added_tokens,
    read_max_length,
)
from ernie_m.reader.tokenizer_json import TOKENIZER_JSON
from ernie_m.utils.errors import UserError, format_value, join_items
from ernie_m.utils.files import Folder, format_json
from ernie_m.utils.logging import logger

_CONFIGS = (CONFIG, "model_config.json")  # the second one: old PaddleNLP
# File extension of weights -> reader.
READERS = {
    ".safetensors": safetensors.read,
    ".bin": torch_files.read,
    ".pt": torch_files.read,
    ".pdparams": restricted_pickle.read_pdparams,
}
# problem_type in transformers -> the field of PipelineConfig that it sets.
_REGRESSION = "regression"
_KINDS = {
    "single_label_classification": None,
    "multi_label_classification": "multi_label",
    _REGRESSION: "regression",
}
# Keys that the native format shares with all libraries.
_SHARED_KEYS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "initializer_range",
    "pad_token_id",
)
# Field name -> value, and the file that contains it.
_Fields = dict[str, tuple[Any, Path | None]]


class ThirdPartyFormat(Format):
    """Base class of the formats of other libraries.

    Attributes:
        older_queries: names of the first layer's query weights in earlier versions of the library.
        model_types: accepted values of "model_type"; None: the key may be missing. The first one is written.
        is_ernie_m: whether the model class is ErnieM, whose files contain neither the text rules nor, if
            written by this project, the maximum length.
        own_keys: keys of config.json that only this library has, with their values.
        further_keys: native keys that the library's config has besides the shared ones.
    """

    needs_config = True
    older_queries: tuple[str, ...] = ()
    model_types: tuple[str | None, ...]
    is_ernie_m = False
    own_keys: Mapping[str, Any] = {}
    further_keys: tuple[str, ...] = ("layer_norm_eps",)

    def find(self, folder: Folder) -> Source | None:
        """Return the files of a checkpoint of this format in a folder; None: no such checkpoint.

        Raises:
            UserError: the tokenizer in the folder is of an unsupported kind.
        """
        weights = open_weights(folder, READERS)
        if weights is None:
            return None
        config_path = folder.find_first(_CONFIGS)
        raw_config = self.read_raw_config(folder, weights)
        if not self.matches(weights, raw_config):
            return None
        tasks = self._infer_tasks(weights, raw_config, config_path)
        check_tokenizer_type(folder, raw_config, config_path)
        return Source(
            folder=folder,
            weights=weights,
            raw_config=raw_config,
            config_path=config_path,
            tokenizer_folders=(folder,),
            tasks=tasks,
            root=folder,
        )

    def matches(self, weights: Weights, raw_config: Mapping[str, Any]) -> bool:
        """Return whether weights and config are in this format, by tensor names and "model_type"."""
        bare_names = {self.strip_prefix(name) for name in weights}
        marks = [f"{self.query_name.format(i=0)}.weight", *self.older_queries]
        if not any(re.search(r"\.[0-9]+\.", name) for name in bare_names):  # no layers
            marks = [WORDS]
        is_named = raw_config.get("model_type") in self.model_types
        return is_named and not bare_names.isdisjoint(marks)

    def read_raw_config(self, folder: Folder, weights: Weights) -> dict[str, Any]:
        """Read the config of a folder; empty without a config file."""
        return flatten_config(folder.read_object(next((name for name in _CONFIGS if name in folder), CONFIG)))

    def _infer_tasks(
        self, weights: Weights, raw_config: Mapping[str, Any], config_path: Path | None
    ) -> list[str]:
        """Return the tasks that the head of a model may be for; warn about an unknown class name."""
        names = raw_config.get("architectures")
        first = names[0] if isinstance(names, list) and names else names
        class_name = str(first) if first else None
        tasks = self.find_tasks(weights, class_name)
        if class_name and class_name not in {known.name for known in self.classes.values()}:
            logger.warning(
                "%s: unknown architectures %s. Inferred from the tensors: %s",
                config_path,
                format_value(class_name),
                " or ".join(tasks) or "embeddings",
            )
        return tasks

    def read_pipeline_config(
        self,
        source: Source,
        weights: Weights,
        config: ErnieMConfig | None,
        labels: list[str],
        drop_unknown: bool,
    ) -> tuple[PipelineConfig, list[str]]:
        """Read the pipeline settings, as in `Format.read_pipeline_config`.

        Without stored settings, XLM-R and BERT models use the settings of XLM-R, an ErnieM with a task head
        those of its library's tokenizer, and an ErnieM without a head those of ERNIE-M.
        """
        assert config is not None  # these formats require one
        if not drop_unknown:
            _check_problem_type(source, weights)
        has_head = any(task != LM for task in source.tasks)
        has_key = get_pipeline_values(source.raw_config, source.config_path) is not None
        if has_key:
            pipeline_config = read_pipeline_config(source.raw_config, source.config_path)
        elif self.text_rules is not None:  # an ErnieM
            pipeline_config = (
                replace(PipelineConfig.for_xlm_r(), text_rules=self.text_rules)
                if has_head
                else PipelineConfig()
            )
        else:
            pipeline_config = PipelineConfig.for_xlm_r()
        # The library's key of config.json, and the other files.
        fields: _Fields = {}
        problem_type = source.raw_config.get("problem_type")
        if problem_type in tuple(_KINDS):
            fields = {
                name: (kind == problem_type, source.config_path) for kind, name in _KINDS.items() if name
            }
        if weights.shapes.get("classifier.bias") == (1,):
            fields |= sentence_transformers.read_score_scale(
                source.root, source.raw_config, source.config_path, drop_unknown
            )
        fields |= self._read_tokenizer_fields(source.folder, has_key)
        errors: list[str] = []
        if has_head and has_key:  # the tokenizer has the model's maximum, the native key that of the training
            fields.pop("max_seq_len", None)
        elif not has_head:  # only embedding models have files of sentence-transformers
            vector_fields, errors = sentence_transformers.read_embedding_fields(source.root, config)
            fields |= vector_fields
        if source.folder.read_object(TOKENIZER_CONFIG).get("truncation_side") == "left":
            errors.append(f"{source.folder.path / TOKENIZER_CONFIG}: truncation_side left")
        for error in errors if has_head else ():  # those of embeddings matter only for embeddings
            logger.warning("%s is not supported; long texts are truncated at the end", error)
        if "max_seq_len" in fields:
            length, path = fields["max_seq_len"]
            fields["max_seq_len"] = (_normalize_max_length(length, config), path)
        if has_key:
            fields = self._select_missing_fields(pipeline_config, fields, config, source.config_path)
        pipeline_config = replace(pipeline_config, **{name: value for name, (value, _path) in fields.items()})
        tags = map_labels_to_iobes(labels if source.task == TOKEN_CLASSIFICATION else ())
        others = [label for label in labels if tags and label not in tags]
        if others and not drop_unknown:
            raise UserError(
                f"{source.config_path}: id2label: unknown tag scheme (labels {join_items(others)} "
                "next to tags with B- or I-). Run ernie-m convert FOLDER NEW --drop_unknown for a "
                "model whose tags mark no entities"
            )
        if others:
            pipeline_config = replace(pipeline_config, chunk_scheme=NO_ENTITIES)
        return pipeline_config, errors

    def _read_tokenizer_fields(self, folder: Folder, has_key: bool) -> _Fields:
        """Return the pipeline settings in the tokenizer's files: field -> value and file.

        Args:
            has_key: whether config.json has the key "pipeline", so that this project wrote the folder.
        """
        fields: _Fields = {}
        tokens, path = read_added_tokens(folder)
        if path is not None:
            fields["added_tokens"] = (tokens, path)
        longest = read_max_length(folder)
        if longest is not None and not (self.is_ernie_m and has_key):
            fields["max_seq_len"] = (longest, folder.path / TOKENIZER_CONFIG)
        if TOKENIZER_JSON in folder and not self.is_ernie_m:
            rules = ERNIE_M_RULES if has_official_rules(folder) else NO_RULES
            fields["text_rules"] = (rules, folder.path / TOKENIZER_JSON)
        return fields

    def _select_missing_fields(
        self,
        pipeline_config: PipelineConfig,
        fields: _Fields,
        config: ErnieMConfig,
        config_path: Path | None,
    ) -> _Fields:
        """Return the settings from other files that are missing under the key "pipeline" of config.json.

        Args:
            pipeline_config: settings under the key "pipeline".
            fields: settings in other files: field -> value and file.

        Raises:
            UserError: a file contradicts "pipeline".
        """
        written = sentence_transformers.get_written_settings(pipeline_config, config)
        written = replace(written, max_seq_len=_normalize_max_length(pipeline_config.max_seq_len, config))
        if pipeline_config.text_rules != ERNIE_M_RULES:  # tokenizer.json cannot represent a library's rules
            written = replace(written, text_rules=NO_RULES)
        if self.is_ernie_m:  # nor added tokens in that format
            written = replace(written, added_tokens={})
        added: _Fields = {}
        for name, (value, path) in fields.items():
            if value == getattr(written, name):
                continue
            in_key = getattr(pipeline_config, name)
            if in_key is not None or name == "default_prompt":
                raise UserError(
                    f"{config_path}: '{PIPELINE}' has {name} {format_value(in_key)}, but {path} has "
                    f"{format_value(value)}. Correct the wrong one, or remove '{PIPELINE}' to use "
                    "the other files"
                )
            added[name] = (value, path)
        return added

    def write(self, folder: Path, checkpoint: Checkpoint, weights: Weights, task: str | None) -> list[str]:
        """Write config.json and model.safetensors, with the header metadata that transformers requires."""
        self.write_config(folder, checkpoint, task)
        safetensors.write(folder / WEIGHTS, weights, dtype=np.float32, metadata={"format": "pt"})
        return []

    def write_config(self, folder: Path, checkpoint: Checkpoint, task: str | None) -> None:
        """Write config.json.

        Raises:
            UserError: the library does not support a value of the model config.
        """
        self.check(checkpoint.required_config)
        values = checkpoint.required_config.to_dict()
        model_class = self.classes[task]
        written: dict[str, Any] = {"architectures": [model_class.name], "model_type": self.model_types[0]}
        written |= {key: values[key] for key in _SHARED_KEYS} | dict(self.own_keys)
        written |= {key: values[key] for key in self.further_keys}
        if "classifier" in dict(model_class.head):
            (count,) = checkpoint.tensors.shape("classifier.bias")
            labels = checkpoint.labels if len(checkpoint.labels) == count else make_numbered_labels(count)
            written["id2label"] = {str(i): label for i, label in enumerate(labels)}
            written["label2id"] = {label: i for i, label in enumerate(labels)}
            if (task, count) == (CLASSIFICATION, 1):
                written["sentence_transformers"] = {
                    "activation_fn": sentence_transformers.ACTIVATIONS[checkpoint.pipeline_config.regression]
                }
        # ERNIE-M's settings are written as well: without the key, a folder has those of its library.
        written[PIPELINE] = get_stored_pipeline_config(checkpoint.pipeline_config)
        for problem_type, field in _KINDS.items():
            if field and getattr(checkpoint.pipeline_config, field):
                written["problem_type"] = problem_type
        (folder / CONFIG).write_text(format_json(written), encoding="utf-8")


def flatten_config(raw_config: dict[str, Any]) -> dict[str, Any]:
    """Flatten the nested config of old PaddleNLP versions; other configs are returned unchanged."""
    if "init_class" not in raw_config:
        return raw_config
    # model_config.json: the encoder's keys are in the dicts of `init_args`, and the class in `init_class`.
    arguments = raw_config.get("init_args")
    flat: dict[str, Any] = {}
    for values in arguments if isinstance(arguments, list) else ():
        flat |= values if isinstance(values, dict) else {}
    return {**flat, **raw_config, "architectures": [raw_config["init_class"]]}


def _check_problem_type(source: Source, weights: Weights) -> None:
    """Check the problem_type of a classifier, a key of transformers.

    Raises:
        UserError: the value is unknown, or the classifier is a regression with several outputs.
    """
    problem_type = source.raw_config.get("problem_type")
    if problem_type is None or "classifier.bias" not in weights:
        return
    location = f"{source.config_path}: problem_type {problem_type!r}"
    if problem_type not in tuple(_KINDS):
        raise UserError(f"{location}: unknown (expected {', '.join(_KINDS)}). {WITHOUT_UNKNOWN}")
    (outputs,) = weights.shape("classifier.bias")
    if problem_type == _REGRESSION and outputs > 1:
        raise UserError(f"{location}: {outputs} outputs (expected 1 for regression). {WITHOUT_UNKNOWN}")


def _normalize_max_length(max_length: int | None, config: ErnieMConfig) -> int | None:
    """Return a maximum length, or None if it is at least the model's, as is transformers' 10^30."""
    return None if max_length is None or max_length >= config.max_input_length else max_length
