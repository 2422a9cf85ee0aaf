"""Writers of tokenizer files, in the formats of this project and of other libraries.

ErnieMTokenizer of PaddleNLP and transformers reads vocab.txt with one token per line, whose id is the line
number. XLM-R's tokenizer reads the SentencePiece model, from which the ids are derived, or tokenizer.json.
"""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.tokenizer_json import (
    BPE_MODEL,
    TOKENIZER_JSON,
    UNIGRAM,
    XLM_R_NAMES,
    make_normalizer_steps,
    make_space_step,
)
from ernie_m.reader.tokenizer_rules import ERNIE_M
from ernie_m.reader.vocabulary import CLS, MASK, PAD, SEP, SPECIAL_TOKENS, UNK, list_tokens_by_id
from ernie_m.utils.errors import UserError, get_command_name
from ernie_m.utils.files import format_json


def write_native(folder: Path, tokenizer: Tokenizer) -> list[str]:
    """Write vocab.txt (token<TAB>id per line) and piece.model, like the official ones; return their names."""
    tokenizer.write_vocab(folder / "vocab.txt")
    (folder / "piece.model").write_bytes(tokenizer.piece_model)
    return ["vocab.txt", "piece.model"]


def write_ernie_m(folder: Path, tokenizer: Tokenizer) -> list[str]:
    """Write the tokenizer files of ErnieM in PaddleNLP and transformers; return their names.

    They are vocab.txt, sentencepiece.bpe.model and tokenizer_config.json.
    """
    vocab = "".join(f"{token}\n" for token in list_tokens_by_id(tokenizer.vocab))
    (folder / "vocab.txt").write_bytes(vocab.encode())
    (folder / BPE_MODEL).write_bytes(tokenizer.piece_model)
    settings = {
        "tokenizer_class": "ErnieMTokenizer",
        "do_lower_case": False,
        "cls_token": CLS,
        "sep_token": SEP,
        "pad_token": PAD,
        "unk_token": UNK,
        "mask_token": MASK,
    }
    (folder / "tokenizer_config.json").write_text(format_json(settings), encoding="utf-8")
    return ["vocab.txt", BPE_MODEL, "tokenizer_config.json"]


def write_xlm_r(folder: Path, tokenizer: Tokenizer, max_length: int, separators: int = 2) -> list[str]:
    """Write tokenizer.json, tokenizer_config.json and sentencepiece.bpe.model for XLM-R; return their names.

    The SentencePiece model is omitted if XLM-R would derive another vocabulary from it.

    Args:
        max_length: maximum length of an input in tokens, limited by the position embeddings.
        separators: the number of [SEP] between two texts.

    Raises:
        UserError: the SentencePiece model is corrupt, not a unigram model, or has settings that
            tokenizer.json cannot represent; or the ids of added tokens do not follow those of the subwords.
    """
    contents = _build_xlm_r_json(tokenizer, separators)
    names = [TOKENIZER_JSON, "tokenizer_config.json"]
    if tokenizer.vocab == tokenizer.derive_vocab() | tokenizer.added_tokens:
        (folder / BPE_MODEL).write_bytes(tokenizer.piece_model)
        names.append(BPE_MODEL)
    (folder / TOKENIZER_JSON).write_text(format_json(contents), encoding="utf-8")
    # The generic class uses tokenizer.json unchanged; XLM-R's class would replace the normalization.
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_length}
    # In XLM-R, [CLS] is also bos, and [SEP] is also eos.
    roles = {"bos": CLS, "cls": CLS, "eos": SEP, "sep": SEP, "pad": PAD, "unk": UNK, "mask": MASK}
    settings |= {f"{role}_token": XLM_R_NAMES[token] for role, token in roles.items()}
    (folder / "tokenizer_config.json").write_text(format_json(settings), encoding="utf-8")
    return names


def write_static_tokenizer(folder: Path, tokenizer: Tokenizer, max_length: int) -> list[str]:
    """Write tokenizer.json for StaticEmbedding of sentence-transformers; return its name.

    Args:
        max_length: maximum length in tokens, including [CLS] and [SEP], which StaticEmbedding does not add.

    Raises:
        UserError: see `write_xlm_r`.
    """
    contents = _build_xlm_r_json(tokenizer, separators=2)
    limit = {"direction": "Right", "max_length": max_length - 2, "strategy": "LongestFirst", "stride": 0}
    (folder / TOKENIZER_JSON).write_text(format_json(contents | {"truncation": limit}), encoding="utf-8")
    return [TOKENIZER_JSON]


def _build_xlm_r_json(tokenizer: Tokenizer, separators: int) -> dict[str, Any]:
    """Build the contents of tokenizer.json.

    Args:
        separators: the number of [SEP] between two texts.

    Raises:
        UserError: see `write_xlm_r`.
    """
    model = parse_unigram_model(
        tokenizer,
        # In the error this follows "not a unigram model, and".
        reason_and_advice="XLM-R's tokenizer requires one. Set --to huggingface, or train a unigram model "
        f"({get_command_name()} train_vocab)",
    )
    settings = {
        "remove_extra_whitespaces": (model.normalizer_spec.remove_extra_whitespaces, True),
        "escape_whitespaces": (model.normalizer_spec.escape_whitespaces, True),
        "treat_whitespace_as_suffix": (model.trainer_spec.treat_whitespace_as_suffix, False),
    }
    for name, (value, expected) in settings.items():
        if value != expected:
            raise UserError(
                f"{tokenizer.piece_model_path}: {name} {str(value).lower()} is not representable in "
                f"XLM-R's {TOKENIZER_JSON}. Set --to ernie-m"
            )
    added_tokens = tokenizer.added_tokens
    token_count = len(tokenizer.vocab)
    subword_count = token_count - len(added_tokens)
    if list(added_tokens.values()) != list(range(subword_count, token_count)):
        raise UserError(
            f"{tokenizer.piece_model_path}: the ids of added tokens "
            f"({', '.join(map(str, added_tokens.values()))}) do not follow the {subword_count} tokens, which "
            "XLM-R's format requires. Set --to ernie-m"
        )
    subwords = {token: id_ for token, id_ in tokenizer.vocab.items() if token not in added_tokens}
    rules = make_normalizer_steps() if tokenizer.text_rules == ERNIE_M else []
    charsmap = model.normalizer_spec.precompiled_charsmap
    if charsmap:
        # The character map has composed letters only. SentencePiece matches the longest entry, a letter with
        # its marks; the library maps each character separately.
        rules.append({"type": "NFC"})
        rules.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()})
    rules.append(make_space_step(" "))
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    pre_tokenizer: dict[str, Any] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace],
    }
    if not model.normalizer_spec.add_dummy_prefix:  # then only words after a space have "▁"
        rules.append({"type": "Strip", "strip_left": True, "strip_right": True})
        metaspace["prepend_scheme"] = "never"
        pre_tokenizer = metaspace
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": tokenizer.vocab[token],
                "content": XLM_R_NAMES.get(token, token),
                "single_word": False,
                "lstrip": token == MASK,  # as in XLM-R: the mask includes the space before it
                "rstrip": False,
                "normalized": False,
                "special": token in XLM_R_NAMES,
            }
            for token in sorted([*XLM_R_NAMES, *added_tokens], key=tokenizer.vocab.__getitem__)
        ],
        "normalizer": {"type": "Sequence", "normalizers": rules},
        "pre_tokenizer": pre_tokenizer,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": _build_template(f"{CLS} A {SEP}"),
            "pair": _build_template(f"{CLS} A {' '.join([SEP] * separators)} B {SEP}"),
            "special_tokens": {
                name: {"id": name, "ids": [tokenizer.vocab[token]], "tokens": [name]}
                for token, name in XLM_R_NAMES.items()
                if token in (CLS, SEP)
            },
        },
        "decoder": metaspace,
        "model": {
            "type": "Unigram",
            "unk_id": tokenizer.vocab[UNK],
            "vocab": _list_scores(subwords, model),
            "byte_fallback": model.trainer_spec.byte_fallback,
        },
    }


def _list_scores(vocab: Mapping[str, int], model: ModelProto) -> list[list[Any]]:
    """Return [token, score] for each id, as in tokenizer.json.

    Scores are log probabilities. Tokens that are not in the SentencePiece model have a score too low to be
    chosen. Special tokens, which are never produced from text, have the score 0, as in XLM-R's file.
    """
    scores = {subword.piece: subword.score for subword in model.pieces}
    unknown_letter = min(scores.values()) - 10  # SentencePiece's score of an unknown letter
    scores |= dict.fromkeys(SPECIAL_TOKENS, 0.0)
    scored_tokens = []
    for token in list_tokens_by_id(vocab):
        score = scores.get(token, len(token) * unknown_letter - 10)  # below the score of its single letters
        scored_tokens.append([XLM_R_NAMES.get(token, token), score])
    return scored_tokens


def _build_template(layout: str) -> list[dict[str, Any]]:
    """Build a post-processor template of tokenizer.json.

    Args:
        layout: the model input, such as "[CLS] A [SEP]": special tokens, and A and B for the texts.
    """
    return [
        {"SpecialToken": {"id": XLM_R_NAMES[name], "type_id": 0}}
        if name in XLM_R_NAMES
        else {"Sequence": {"id": name, "type_id": 0}}  # A or B, the first or the second text
        for name in layout.split()
    ]


def parse_unigram_model(tokenizer: Tokenizer, reason_and_advice: str) -> ModelProto:
    """Parse the SentencePiece model of a tokenizer, which must be a unigram model.

    Args:
        reason_and_advice: why a unigram model is required, and what to do, for the error.

    Raises:
        UserError: the SentencePiece model is corrupt, or not a unigram model.
    """
    model = ModelProto()
    try:
        model.ParseFromString(tokenizer.piece_model)
    except DecodeError as error:  # sentencepiece itself is less strict
        raise UserError(
            f"{tokenizer.piece_model_path}: corrupt ({error}). Restore or download it again"
        ) from error
    if model.trainer_spec.model_type != UNIGRAM:
        raise UserError(f"{tokenizer.piece_model_path}: not a unigram model, and {reason_and_advice}")
    return model
