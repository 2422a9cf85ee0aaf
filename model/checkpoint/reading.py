"""How a folder says that its model reads: in config.json, tokenizer files, those of sentence-transformers."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from model.checkpoint.formats import configs, sentence_transformers
from model.checkpoint.formats.tables import HUGGING_FACE, OFFICIAL, OURS, PADDLENLP
from model.config import ErnieMConfig
from model.reading import ERNIE_M_RULES, NO_RULES, Reading
from utils.errors import UserError, shown
from utils.files import read_object

READING = "reading"  # our key of config.json; other libraries ignore it
_TOKENIZER_JSON = "tokenizer.json"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_ADDED = "added_tokens.json"
_SPECIALS_MAP = "special_tokens_map.json"
# problem_type -> the field that it sets.
_KINDS = {configs.MULTI_LABEL: "multi_label", configs.REGRESSION: "regression"}
# Tokens that every model has.
_SPECIAL = {"<s>", "<pad>", "</s>", "<unk>", "<mask>", "[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"}


class ReadingOfFolder(NamedTuple):
    """What a folder says.

    Attributes:
        reading: how the model reads, as far as this project can.
        faults: what its makers did in another way than this project can, in words; mostly nothing.
    """

    reading: Reading
    faults: list[str]


def own_reading(raw_config: Mapping[str, Any], path: Path | None) -> Reading:
    """What our key of a config.json says; without it, ERNIE-M's own reading.

    Raises:
        UserError: it is damaged.
    """
    try:
        values = raw_config.get(READING)
        return Reading() if values is None else Reading.from_json(values)
    except UserError as error:
        raise UserError(
            f"{path}: '{READING}' does not say how inputs were read in training ({error}); put back a good "
            "copy of the file, or leave this key out"
        ) from error


def reading_of(
    format_name: str,
    raw_config: Mapping[str, Any],
    config_path: Path | None,
    folder: Path,
    root: Path,
    has_head: bool,
    config: ErnieMConfig | None,
) -> ReadingOfFolder:
    """How the model in a folder reads.

    A folder that this project wrote has the key "reading" in config.json, which decides. Without it, the
    names of the tensors decide: a model with those of XLM-R or BERT reads as XLM-R does. An ErnieM of
    PaddleNLP or transformers reads as the tokenizer of its library does, if it has the head of a task;
    otherwise it is ERNIE-M itself.

    Args:
        format_name: one of `model.checkpoint.formats.tables`.
        folder: the one that has the tokenizer's files.
        root: the one that has modules.json, if there is any.
        has_head: whether the model was fine-tuned for a task.
        config: the model's shape; None: unknown.

    Raises:
        UserError: a file is damaged, or two files disagree.
    """
    if raw_config.get(READING) is not None or format_name in (OURS, OFFICIAL):
        reading = own_reading(raw_config, config_path)
    elif format_name in (PADDLENLP, HUGGING_FACE):
        rules = {PADDLENLP: "paddlenlp", HUGGING_FACE: "transformers"}[format_name]
        reading = Reading.of_library(rules) if has_head else Reading()
    else:
        reading = replace(Reading.of_xlm_r(), text_rules=_rules_of_tokenizer(folder))
    if format_name in (OURS, OFFICIAL):
        return ReadingOfFolder(reading, [])
    kind = _KINDS.get(raw_config.get("problem_type"))
    if kind:
        reading = replace(reading, **{kind: True})
    own_length = reading.max_seq_len
    reading = replace(reading, added_tokens=_added_tokens(folder))
    if READING not in raw_config:
        reading = replace(reading, max_seq_len=_longest(folder))
    faults: list[str] = []
    if not has_head:  # only models of vectors have files of sentence-transformers
        reading_of_files, faults = sentence_transformers.read(root, reading, config.num_hidden_layers)
        if READING not in raw_config or not _wrote(reading, reading_of_files):
            reading = reading_of_files
    length = reading.max_seq_len
    # A length of the files that limits nothing is left out; transformers writes 10^30 for "no limit".
    if length != own_length and length >= config.longest_input:
        reading = replace(reading, max_seq_len=None)
    return ReadingOfFolder(reading, faults)


def _wrote(reading: Reading, reading_of_files: Reading) -> bool:
    """Whether the files of sentence-transformers say of vectors what this project writes for a reading."""
    # `sentence_transformers.write` writes "specials" for a model that does not say its pooling.
    written = replace(reading, pooling=reading.pooling or "specials")
    names = ("pooling", "normalize", "prompts", "default_prompt")
    return all(getattr(written, name) == getattr(reading_of_files, name) for name in names)


def _rules_of_tokenizer(folder: Path) -> str:
    """The text rules of an XLM-R: tokenizer.json has ERNIE-M's if this project wrote it so."""
    path = folder / _TOKENIZER_JSON
    if not path.is_file():
        return NO_RULES
    normalizer = read_object(path).get("normalizer")
    steps = normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else []
    patterns = [step.get("pattern") for step in steps if isinstance(step, dict)]
    return ERNIE_M_RULES if {"String": "“"} in patterns else NO_RULES


def _longest(folder: Path) -> int | None:
    """The longest input that the tokenizer's files say.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / _TOKENIZER_CONFIG
    length = read_object(path).get("model_max_length") if path.is_file() else None
    return length if type(length) is int and length > 0 else None


def _added_tokens(folder: Path) -> dict[str, int]:
    """The tokens beside the special ones that the tokenizer's files add to the piece model, with their ids.

    Raises:
        UserError: a file is damaged, two disagree, or a token has no id or asks for what is not done here.
    """
    added: dict[str, int] = {}
    file_of: dict[str, Path] = {}
    for path, token, id_ in _tokens_of_files(folder):
        if token in _SPECIAL:
            continue
        if added.get(token, id_) != id_:
            raise UserError(
                f"{path}: the token '{shown(token)}' has the id {id_}, and in {file_of[token]} "
                f"{added[token]}; put the tokenizer's files that belong to the weights there"
            )
        added[token] = id_
        file_of.setdefault(token, path)
    for name in (_TOKENIZER_CONFIG, _SPECIALS_MAP):
        path = folder / name
        special_tokens = read_object(path).get("additional_special_tokens") if path.is_file() else None
        if not isinstance(special_tokens, list):
            continue
        for token in special_tokens:
            text = token.get("content") if isinstance(token, dict) else token
            if not isinstance(text, str):
                raise UserError(f"{path}: additional_special_tokens must be texts")
            if text not in added and text not in _SPECIAL:
                raise UserError(
                    f"{path}: no file gives the id of the added token {shown(text)}; put added_tokens.json "
                    "or tokenizer.json of the model there"
                )
    return dict(sorted(added.items(), key=lambda item: item[1]))


def _tokens_of_files(folder: Path) -> Iterator[tuple[Path, str, int]]:
    """Each added token of each of the tokenizer's files, with its id.

    Raises:
        UserError: a file is damaged, or a token is to be found in whole words only.
    """
    for name in (_ADDED, _TOKENIZER_CONFIG, _TOKENIZER_JSON):
        path = folder / name
        if not path.is_file():
            continue
        contents = read_object(path)
        try:
            if name == _ADDED:
                entries = [{"content": token, "id": id_} for token, id_ in contents.items()]
            elif name == _TOKENIZER_CONFIG:
                decoder = contents.get("added_tokens_decoder") or {}
                entries = [{**token, "id": int(id_)} for id_, token in decoder.items()]
            else:
                entries = contents.get("added_tokens") or []
            for entry in entries:
                token, id_ = entry["content"], entry["id"]
                if not isinstance(token, str) or not token or type(id_) is not int or id_ < 0:
                    raise ValueError(f"the token {shown(token)}")
                if entry.get("single_word") and token not in _SPECIAL:
                    raise UserError(
                        f"{path}: the added token {shown(token)} is found in whole words only (single_word), "
                        "which is not done here; train with tokens that are found anywhere"
                    )
                yield path, token, id_
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise UserError(
                f"{path}: its added_tokens are damaged ({shown(repr(error))}); put back a good copy"
            ) from error
