"""How the folder of another library says that its model reads: in its config, its tokenizer, its modules."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ernie_m.model.checkpoint import configs, sentence_transformers
from ernie_m.model.checkpoint.tensor_names import HUGGING_FACE, PADDLENLP
from ernie_m.model.config import ErnieMConfig
from ernie_m.model.conventions import ERNIE_M_RULES, NO_RULES, READING, Reading, own_reading
from ernie_m.tokenizer.foreign_files import TokenizerFiles
from ernie_m.utils.errors import UserError, shown

# problem_type -> the field that it sets.
_KINDS = {configs.MULTI_LABEL: "multi_label", configs.REGRESSION: "regression"}
# The name of a field -> its value, and the file that says it.
_Fields = dict[str, tuple[Any, Path | None]]


def reading_of(
    format_name: str,
    raw_config: Mapping[str, Any],
    config_path: Path | None,
    tokenizer_files: TokenizerFiles,
    root: Path,
    has_head: bool,
    config: ErnieMConfig | None,
) -> tuple[Reading, list[str]]:
    """How the model in a folder reads.

    A folder that `ernie-m convert` wrote has the key "reading" in config.json. Without it, the names of the
    tensors decide: a model with those of XLM-R or BERT reads as XLM-R does. An ErnieM of PaddleNLP or
    transformers reads as the tokenizer of its library does, if it has the head of a task; otherwise it is
    ERNIE-M itself. The other files add what they say. What "reading" and they both say must agree.

    Args:
        format_name: one of `ernie_m.model.checkpoint.tensor_names`, but not ours or the official one.
        root: the one that has modules.json, if there is any.
        has_head: whether the model was fine-tuned for a task.
        config: the model's shape; None: unknown.

    Returns:
        reading: how the model reads, as far as this project can.
        faults: what its makers did in another way than this project can, in words; mostly nothing.

    Raises:
        UserError: a file is damaged, or two files disagree.
    """
    has_key = raw_config.get(READING) is not None
    is_ernie_m = format_name in (PADDLENLP, HUGGING_FACE)
    if has_key:
        reading = own_reading(raw_config, config_path)
    elif is_ernie_m:
        rules = {PADDLENLP: "paddlenlp", HUGGING_FACE: "transformers"}[format_name]
        reading = Reading.of_library(rules) if has_head else Reading()
    else:
        reading = Reading.of_xlm_r()
    # What the library's own key of config.json, and the other files, say.
    fields: _Fields = {}
    problem_type = raw_config.get("problem_type")
    if problem_type in configs.PROBLEM_TYPES:
        fields = {name: (kind == problem_type, config_path) for kind, name in _KINDS.items()}
    fields |= _of_tokenizer(tokenizer_files, is_ernie_m, has_key)
    faults: list[str] = []
    if not has_head:  # only models of vectors have files of sentence-transformers
        vector_fields, faults = sentence_transformers.read(root, config)
        fields |= vector_fields
    if has_head and has_key:  # the tokenizer's length is the model's, and ours that of the training
        fields.pop("max_seq_len", None)
    if "max_seq_len" in fields:
        length, length_path = fields["max_seq_len"]
        fields["max_seq_len"] = (_limiting(length, config), length_path)
    if has_key:
        fields = _not_in_key(reading, fields, is_ernie_m, config, config_path)
    value_of = {name: value for name, (value, _path) in fields.items()}
    return replace(reading, **value_of), faults


def _limiting(length: int | None, config: ErnieMConfig) -> int | None:
    """A longest input, or None if it limits nothing; transformers writes 10^30 for "no limit"."""
    return None if length is None or length >= config.longest_input else length


def _of_tokenizer(files: TokenizerFiles, is_ernie_m: bool, has_key: bool) -> _Fields:
    """What the tokenizer's files say.

    Args:
        is_ernie_m: whether it is an ErnieM of a library, whose files do not say the text rules; nor, in the
            form that this project writes, the longest input.
        has_key: whether this project wrote the folder.
    """
    fields: _Fields = {}
    added_tokens, path = files.added_tokens()
    if path is not None:
        fields["added_tokens"] = (added_tokens, path)
    if files.longest is not None and not (is_ernie_m and has_key):
        fields["max_seq_len"] = (files.longest, files.config_path)
    if files.has_official_rules is not None and not is_ernie_m:
        rules = ERNIE_M_RULES if files.has_official_rules else NO_RULES
        fields["text_rules"] = (rules, files.json_path)
    return fields


def _not_in_key(
    reading: Reading, fields: _Fields, is_ernie_m: bool, config: ErnieMConfig, config_path: Path | None
) -> _Fields:
    """The fields of other files of which our key of config.json says nothing.

    Args:
        reading: what our key says.
        fields: what the other files say.
        is_ernie_m: as for `_of_tokenizer`.

    Raises:
        UserError: they say another thing than this project writes for the reading.
    """
    written = sentence_transformers.as_written(reading, config)
    written = replace(written, max_seq_len=_limiting(reading.max_seq_len, config))
    if reading.text_rules != ERNIE_M_RULES:  # a library's rules have no place in tokenizer.json
        written = replace(written, text_rules=NO_RULES)
    if is_ernie_m:  # nor have added tokens in that form
        written = replace(written, added_tokens={})
    added: _Fields = {}
    for name, (value, path) in fields.items():
        if value == getattr(written, name):
            continue
        in_key = getattr(reading, name)
        if in_key is not None or name == "default_prompt":
            raise UserError(
                f"{config_path}: '{READING}' says that {name} is {shown(in_key)}, but {path} says "
                f"{shown(value)}; correct the one that is wrong (without '{READING}' the other files count)"
            )
        added[name] = (value, path)
    return added
