"""Writes a tokenizer's files in the forms of other libraries.

ErnieM of PaddleNLP and Hugging Face: vocab.txt with one token per line, whose id is the line number.
XLM-R: the piece model, from which the ids are derived, and tokenizer.json, which also has the official
normalisation, so that current libraries give our ids. The format of tokenizer.json is described in the
documentation of Hugging Face tokenizers.
"""

import base64
import shutil
from pathlib import Path
from typing import Any

from reader.tokenization import QUOTES, Tokenizer
from reader.vocabulary import CLS, MASK, PAD, SEP, SPECIAL_TOKENS, UNK, derive_vocab
from utils.errors import UserError
from utils.files import write_json

ERNIE_M_PIECES = XLM_R_PIECES = "sentencepiece.bpe.model"
XLM_R_NAMES = {CLS: "<s>", PAD: "<pad>", SEP: "</s>", UNK: "<unk>", MASK: "<mask>"}
_UNIGRAM = 1  # sentencepiece's number for the model type of XLM-R
_NO_TOKEN = "<no token {}>"


def write_ours(folder: Path, tokenizer: Tokenizer) -> list[str]:
    """Write vocab.txt (token<TAB>id) and piece.model, the official layout; return their names."""
    tokenizer.write_vocab(folder / "vocab.txt")
    shutil.copyfile(tokenizer.piece_model_path, folder / "piece.model")
    return ["vocab.txt", "piece.model"]


def write_ernie_m(folder: Path, tokenizer: Tokenizer) -> list[str]:
    """Write vocab.txt, sentencepiece.bpe.model and tokenizer_config.json for PaddleNLP and Hugging Face."""
    lines = _token_list(tokenizer)
    (folder / "vocab.txt").write_bytes("".join(f"{token}\n" for token in lines).encode())
    shutil.copyfile(tokenizer.piece_model_path, folder / ERNIE_M_PIECES)
    settings = {
        "tokenizer_class": "ErnieMTokenizer", "do_lower_case": False, "cls_token": CLS, "sep_token": SEP,
        "pad_token": PAD, "unk_token": UNK, "mask_token": MASK,
    }  # fmt: skip
    write_json(folder / "tokenizer_config.json", settings)
    return ["vocab.txt", ERNIE_M_PIECES, "tokenizer_config.json"]


def write_xlm_r(folder: Path, tokenizer: Tokenizer, max_length: int) -> list[str]:
    """Write tokenizer.json, tokenizer_config.json and sentencepiece.bpe.model for XLM-R.

    The piece model is left out if XLM-R would derive another vocabulary from it, and tokenizer.json if the
    model is not a unigram model.

    Args:
        max_length: maximum tokens of an input, as the position table allows.

    Raises:
        UserError: neither of the two can be written.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    try:
        model.ParseFromString(tokenizer.piece_model_path.read_bytes())
    except DecodeError as error:  # sentencepiece itself is less strict
        raise UserError(f"{tokenizer.piece_model_path}: damaged ({error}); fetch or copy it again") from error
    written = []
    if tokenizer.vocab == derive_vocab(tokenizer.ordinary_pieces()):
        shutil.copyfile(tokenizer.piece_model_path, folder / XLM_R_PIECES)
        written.append(XLM_R_PIECES)
    if model.trainer_spec.model_type == _UNIGRAM:
        write_json(folder / "tokenizer.json", _tokenizer_json(tokenizer, model))
        written.append("tokenizer.json")
    if not written:
        raise UserError(
            f"{tokenizer.vocab_path}: XLM-R has no form for these ids: they do not derive from the piece "
            "model, which is no unigram model; convert the weights without --piece_model_path"
        )
    names = {kind: XLM_R_NAMES[token] for kind, token in
             (("bos_token", CLS), ("cls_token", CLS), ("eos_token", SEP), ("sep_token", SEP),
              ("pad_token", PAD), ("unk_token", UNK), ("mask_token", MASK))}  # fmt: skip
    # The general class uses tokenizer.json as it is; that of XLM-R would replace the normalisation.
    kind = "PreTrainedTokenizerFast" if "tokenizer.json" in written else "XLMRobertaTokenizer"
    settings = {"tokenizer_class": kind, "model_max_length": max_length, **names}
    write_json(folder / "tokenizer_config.json", settings)
    return [*written, "tokenizer_config.json"]


def _token_list(tokenizer: Tokenizer) -> list[str]:
    tokens = [_NO_TOKEN.format(i) for i in range(tokenizer.vocab_size)]
    for token, id_ in tokenizer.vocab.items():
        tokens[id_] = token
    return tokens


def _tokenizer_json(tokenizer: Tokenizer, model) -> dict[str, Any]:
    scores = {piece.piece: piece.score for piece in model.pieces}
    lowest = min(scores.values())
    scores |= dict.fromkeys(SPECIAL_TOKENS, 0.0)
    tokens = _token_list(tokenizer)
    pieces = [[XLM_R_NAMES.get(token, token), scores.get(token, 10 * lowest - 10)] for token in tokens]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": tokenizer.vocab[token], "content": name, "single_word": False, "lstrip": token == MASK,
             "rstrip": False, "normalized": False, "special": True}
            for token, name in sorted(XLM_R_NAMES.items(), key=lambda item: tokenizer.vocab[item[0]])
        ],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(model)},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "WhitespaceSplit"},
                {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": _template(f"{CLS} A {SEP}"),
            "pair": _template(f"{CLS} A {SEP} {SEP} B {SEP}"),
            "special_tokens": {
                XLM_R_NAMES[token]: {"id": XLM_R_NAMES[token], "ids": [tokenizer.vocab[token]],
                                     "tokens": [XLM_R_NAMES[token]]}
                for token in (CLS, SEP)
            },
        },
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        "model": {"type": "Unigram", "unk_id": tokenizer.unk_id, "vocab": pieces, "byte_fallback": False},
    }  # fmt: skip


def _normalizers(model) -> list[dict[str, Any]]:
    """Rules 1 to 3 of `reader.tokenization`, then the piece model's own."""
    rules = [_replace({"String": old}, new) for old, new in QUOTES.items()]
    rules.append(_replace({"Regex": r"[\p{Cc}\p{Cf}&&[^\t\n\r]]"}, ""))
    rules.append(_replace({"Regex": r"[\t\n\r\p{Zs}]"}, " "))
    charsmap = model.normalizer_spec.precompiled_charsmap
    if charsmap:
        rules.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()})
    return [*rules, _replace({"Regex": " {2,}"}, " ")]


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _template(form: str) -> list[dict[str, Any]]:
    kinds = (("Sequence", one) if one in "AB" else ("SpecialToken", XLM_R_NAMES[one]) for one in form.split())
    return [{kind: {"id": id_, "type_id": 0}} for kind, id_ in kinds]
