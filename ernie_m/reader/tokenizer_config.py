"""Tokenizer settings in model directories of transformers and compatible libraries.

tokenizer_config.json     class, maximum length, added tokens
tokenizer.json            subwords, rules and added tokens of the fast tokenizers
added_tokens.json, special_tokens_map.json
vocab.txt                 the vocabulary of BERT's WordPiece; not used by XLM-R
"""

import math
from collections.abc import Iterator, Mapping
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.tokenizer_json import (
    OTHER_KIND,
    TOKENIZER_JSON,
    XLM_R_NAMES,
    check_parts,
    keeps_trailing_space,
    list_steps,
    make_normalizer_steps,
)
from ernie_m.reader.tokenizer_rules import PIPELINE
from ernie_m.reader.vocabulary import CONFIG, VOCAB
from ernie_m.utils.errors import UserError, format_value
from ernie_m.utils.files import Folder, read_bytes
from ernie_m.utils.logging import logger

TOKENIZER_CONFIG = "tokenizer_config.json"
_ADDED = "added_tokens.json"
_SPECIALS_MAP = "special_tokens_map.json"
_KEYS = {"bos_token_id": "<s>", "eos_token_id": "</s>"}  # of config.json
_ROUNDING = 1e-5  # of a score, which is float32 in the SentencePiece model
_CLASSES = (
    "XLMRobertaTokenizer",
    "XLMRobertaTokenizerFast",
    "ErnieMTokenizer",
    "PreTrainedTokenizerFast",  # any tokenizer.json
    "TokenizersBackend",  # the same, from transformers 5 on
)
# Tokens that every model has.
_SPECIAL = (*XLM_R_NAMES.values(), *XLM_R_NAMES)


def check_tokenizer_type(
    folder: Folder, model_config: Mapping[str, Any], model_config_path: Path | None
) -> None:
    """Check that the tokenizer of a model directory is XLM-R's or ERNIE-M's.

    tokenizer.json takes precedence, because libraries use it with any class: the tokenizer of
    paraphrase-multilingual-MiniLM-L12-v2 is XLM-R's, but after saving it again its class is BertTokenizer.

    Args:
        model_config: the content of config.json, which may also contain the class.
        model_config_path: the path of config.json, for errors.

    Raises:
        UserError: the tokenizer is not supported, or a file is corrupt.
    """
    if TOKENIZER_JSON in folder:
        # In a folder of this project, a question may have one </s> before its context.
        separators = (1, 2) if PIPELINE in model_config else (2,)
        check_parts(folder.path / TOKENIZER_JSON, folder.read_object(TOKENIZER_JSON), separators=separators)
        return
    for path, settings in (
        (folder.path / TOKENIZER_CONFIG, folder.read_object(TOKENIZER_CONFIG)),
        (model_config_path, model_config),
    ):
        class_name = settings.get("tokenizer_class")
        if class_name not in (None, "", *_CLASSES):
            raise UserError(f"{path}: unsupported tokenizer_class {format_value(class_name)}: {OTHER_KIND}")
    # In every SentencePiece vocabulary some tokens begin with "▁".
    if VOCAB in folder and "▁".encode() not in folder.read(VOCAB, read_bytes):
        raise UserError(f"{folder.path / VOCAB}: not a SentencePiece vocabulary: {OTHER_KIND}")


def has_official_rules(folder: Folder) -> bool:
    """Return whether the normalizer in tokenizer.json applies the official ERNIE-M rules."""
    steps = list_steps(folder.read_object(TOKENIZER_JSON)["normalizer"], "normalizers")
    return make_normalizer_steps()[0] in steps  # `check_parts` accepts all of them or none


def read_max_length(folder: Folder) -> int | None:
    """Return the maximum length of an input in tokens from tokenizer_config.json; None if missing or invalid.

    10^30, which transformers writes for no limit, is returned unchanged.
    """
    length = folder.read_object(TOKENIZER_CONFIG).get("model_max_length")
    return length if type(length) is int and length > 0 else None


def read_added_tokens(folder: Folder) -> tuple[dict[str, int], Path | None]:
    """Read the added tokens of a model directory, without special tokens.

    Returns:
        Token -> id in the order of the ids, and the first file that lists any added token (None: no file).

    Raises:
        UserError: a file is corrupt, the id of a token is missing, or its settings are not supported.
    """
    entries = list(_iter_entries(folder))
    ids = {token: id_ for _path, token, id_ in reversed(entries) if token not in _SPECIAL}  # the first file's
    # Additional special tokens, whose ids must be in a file. The second key is of transformers 5.
    for name in (TOKENIZER_CONFIG, _SPECIALS_MAP):
        for key in ("additional_special_tokens", "extra_special_tokens"):
            tokens = folder.read_object(name).get(key)
            for token in tokens if isinstance(tokens, list) else ():
                text = token.get("content") if isinstance(token, dict) else token
                if text not in (*ids, *_SPECIAL):
                    raise UserError(
                        f"{folder.path / name}: missing id of the added token {format_value(text)}. Add "
                        "added_tokens.json or tokenizer.json of the model"
                    )
    in_order = dict(sorted(ids.items(), key=itemgetter(1)))
    return in_order, entries[0][0] if entries else None


def check_ids(folder: Folder, tokenizer: Tokenizer) -> None:
    """Check that a tokenizer has all tokens, ids and scores that are in the files of its model directory.

    Raises:
        UserError: an id or score differs, or the tokenizer lacks a token.
    """
    ids = tokenizer.vocab | {theirs: tokenizer.vocab[ours] for ours, theirs in XLM_R_NAMES.items()}
    ours_of: dict[str, Mapping[str, float]] = {"id": ids, "score": tokenizer.get_subword_scores()}
    json_path = folder.path / TOKENIZER_JSON
    contents = folder.read_object(TOKENIZER_JSON)
    subwords = contents["model"]["vocab"] if contents else []
    if contents:
        check_parts(json_path, contents, tokenizer.piece_model)
        if keeps_trailing_space(contents, is_normalized=False):
            logger.warning("%s: ignoring its token for a trailing space", json_path)
    # pad_token_id is checked with the model's configuration.
    config = {token: folder.read_object(CONFIG).get(key) for key, token in _KEYS.items()}
    said = chain(
        ((json_path, subword, id_, "id") for id_, (subword, _score) in enumerate(subwords)),
        ((path, token, id_, "id") for path, token, id_ in _iter_entries(folder)),
        ((folder.path / CONFIG, token, id_, "id") for token, id_ in config.items() if id_ is not None),
        ((json_path, *entry, "score") for entry in subwords if entry[0] in ours_of["score"]),
    )
    for path, token, theirs, what in said:
        ours: Any = ours_of[what].get(token, "none")
        if theirs != ours and not (what == "score" and math.isclose(theirs, ours, rel_tol=_ROUNDING)):
            other = tokenizer.vocab_path or tokenizer.piece_model_path
            raise UserError(
                f"{path}: conflicting {what} of token '{format_value(token)}' ({theirs}, but {ours} in "
                f"{other}). Keep the file of these weights, and fix or remove the other one "
                "(transformers uses tokenizer.json)"
            )


def _iter_entries(folder: Folder) -> Iterator[tuple[Path, str, int]]:
    """Yield the file, token and id of each entry for an added token in the files of a model directory.

    Raises:
        UserError: a file is corrupt, or the settings of a token are not supported.
    """
    for name in (_ADDED, TOKENIZER_CONFIG, TOKENIZER_JSON):
        contents = folder.read_object(name)
        path = folder.path / name
        try:
            if name == _ADDED:
                entries = [{"content": token, "id": id_} for token, id_ in contents.items()]
            elif name == TOKENIZER_CONFIG:
                decoder = contents.get("added_tokens_decoder") or {}
                entries = [{**token, "id": int(id_)} for id_, token in decoder.items()]
            else:
                entries = contents.get("added_tokens") or []
            for entry in entries:
                token, id_ = entry["content"], entry["id"]
                if not isinstance(token, str) or not token or type(id_) is not int or id_ < 0:
                    raise ValueError(f"the token {format_value(token)}")
                if entry.get("single_word") and token not in _SPECIAL:
                    raise UserError(
                        f"{path}: unsupported setting single_word of the added token "
                        f"{format_value(token)}. Train with single_word false"
                    )
                is_normalized = bool(entry.get("normalized"))
                if (
                    name == TOKENIZER_JSON
                    and token not in _SPECIAL
                    and keeps_trailing_space(contents, is_normalized)
                ):
                    raise UserError(
                        f"{path}: unsupported settings of the added token {format_value(token)}: the fast "
                        "tokenizer keeps the space before it as a token. Set its normalized to false, and "
                        "add Strip to the normalizer, as in the slow tokenizer"
                    )
                yield path, token, id_
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise UserError(
                f"{path}: corrupt added_tokens ({format_value(repr(error))}). Restore or download it again"
            ) from error
