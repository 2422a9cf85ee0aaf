"""XLM-R's tokenizer.json, whose format the documentation of Hugging Face tokenizers describes.

It also has the official normalisation, so that current libraries give our ids. transformers 5 writes it
without the piece model: it has all pieces with their scores, so a piece model can be made of it.
"""

import base64
import os
from typing import Any

from ernie_m.reader.tokenizer_rules import QUOTES
from ernie_m.reader.vocabulary import CLS, MASK, PAD, SEP, UNK
from ernie_m.utils.errors import UserError, command_name
from ernie_m.utils.files import read_json

TOKENIZER_JSON = "tokenizer.json"
BPE_MODEL = "sentencepiece.bpe.model"  # the name that PaddleNLP and Hugging Face give the piece model
XLM_R_NAMES = {CLS: "<s>", PAD: "<pad>", SEP: "</s>", UNK: "<unk>", MASK: "<mask>"}
UNIGRAM = 1  # sentencepiece's number for the model type of XLM-R


def _where_pieces_are() -> str:
    """What to do without a piece model, for the end of an error."""
    return (
        f"Download XLM-R's {BPE_MODEL}, or ERNIE-M's, which gives the same ids ({command_name()} download "
        "weights vocab), and put it next to the weights or set --piece_model_path"
    )


def no_piece_model(folder: str | os.PathLike) -> UserError:
    """The error for a folder without a tokenizer."""
    return UserError(
        f"{folder}: no piece.model, {BPE_MODEL} or {TOKENIZER_JSON} is there; {_where_pieces_are()}"
    )


def piece_model_of_json(path: str | os.PathLike) -> bytes:
    """Make the piece model of XLM-R's tokenizer.json, which gives the same pieces and ids.

    Raises:
        UserError: the file is damaged, or its rules are not those of XLM-R.
    """
    # Imported here, because the process that reads ahead for a training has no use for it.
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    contents = read_json(path, _where_pieces_are())
    try:
        foreign_key = _key_not_of_xlm_r(contents)
        if foreign_key:
            raise UserError(f"{path}: its {foreign_key} is not that of XLM-R; {_where_pieces_are()}")
        (charsmap,) = _charsmaps(contents["normalizer"])
        model = ModelProto(
            trainer_spec={"model_type": UNIGRAM},
            normalizer_spec={"precompiled_charsmap": base64.b64decode(charsmap, validate=True)},
        )
        # sentencepiece's own special pieces come first. In the JSON four are first and <mask> last.
        for name, kind in (("<unk>", "UNKNOWN"), ("<s>", "CONTROL"), ("</s>", "CONTROL")):
            model.pieces.add(piece=name, score=0.0, type=kind)
        for piece, score in contents["model"]["vocab"][4:-1]:
            model.pieces.add(piece=piece, score=score)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"{path}: corrupt, or not XLM-R's ({error!r}). {_where_pieces_are()}") from error
    return model.SerializeToString(deterministic=True)


def _key_not_of_xlm_r(contents: dict[str, Any]) -> str | None:
    """The key of tokenizer.json whose value is not that of XLM-R; None: there is none."""
    names = list(XLM_R_NAMES.values())  # in the order of the ids: the first four, and the last one
    unigram = contents["model"]
    if unigram["type"] != "Unigram" or unigram.get("byte_fallback"):
        return "model"
    vocab = unigram["vocab"]
    special_pieces = [piece for piece, _score in (*vocab[:4], vocab[-1])]
    if unigram["unk_id"] != names.index("<unk>") or special_pieces != names:
        return "vocab"
    for key, _step in unknown_steps(contents):
        return key
    if len(_charsmaps(contents["normalizer"])) != 1:
        return "normalizer"

    metaspace = _steps(contents["pre_tokenizer"], "pretokenizers")[-1]
    if metaspace["type"] != "Metaspace" or metaspace["replacement"] != "▁":
        return "pre_tokenizer"
    # Whether a text begins with "▁"; older files call it add_prefix_space.
    if metaspace.get("prepend_scheme", "always") != "always" or not metaspace.get("add_prefix_space", True):
        return "pre_tokenizer"
    return None


def unknown_steps(contents: dict[str, Any]) -> list[tuple[str, Any]]:
    """The steps that neither XLM-R's tokenizer.json has nor that of ERNIE-M, written here, with their key."""
    rules = [*rules_1_to_3(), one_space(" "), one_space("▁")]
    return [
        (key, step)
        for key, below, kinds in (
            ("normalizer", "normalizers", ("Precompiled", "Strip", "NFC")),
            ("pre_tokenizer", "pretokenizers", ("WhitespaceSplit", "Metaspace")),
        )
        for step in (_steps(contents[key], below) if contents.get(key) else ())
        if step["type"] not in kinds and step not in rules
    ]


def _charsmaps(normalizer: dict[str, Any]) -> list[str]:
    """The tables of characters in a normalizer, base64."""
    return [
        step["precompiled_charsmap"]
        for step in _steps(normalizer, "normalizers")
        if step["type"] == "Precompiled"
    ]


def _steps(part: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """The steps of a part of tokenizer.json, which are below `key` if they are several."""
    return part[key] if part["type"] == "Sequence" else [part]


def rules_1_to_3() -> list[dict[str, Any]]:
    """Rules 1 to 3 of `ernie_m.reader.tokenization`."""
    return [
        *(_replace({"String": old}, new) for old, new in QUOTES.items()),  # rule 1
        _replace({"Regex": r"[\p{Cc}\p{Cf}&&[^\t\n\r]]"}, ""),  # rule 2: && is "and"
        _replace({"Regex": r"[\t\n\r\p{Zs}]"}, " "),  # rule 3
    ]


def one_space(space: str) -> dict[str, Any]:
    """The rule that makes one space of several, as sentencepiece does; libraries write it as " " or "▁"."""
    return _replace({"Regex": " {2,}"}, space)


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    """The rule that replaces a pattern, {"String": text} or {"Regex": expression}, by `content`."""
    return {"type": "Replace", "pattern": pattern, "content": content}
