"""XLM-R's tokenizer.json, whose format the documentation of Hugging Face tokenizers describes.

It also has the official normalisation, so that current libraries give our ids. transformers 5 writes it
without the piece model: it has all pieces with their scores, so a piece model can be made of it.
"""

import base64
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ernie_m.tokenizer.text_rules import QUOTES
from ernie_m.tokenizer.vocabulary import CLS, MASK, PAD, SEP, SPECIAL_TOKENS, UNK, tokens_by_id
from ernie_m.utils.errors import UserError, command_name
from ernie_m.utils.files import read_json

if TYPE_CHECKING:
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

TOKENIZER_JSON = "tokenizer.json"
BPE_MODEL = "sentencepiece.bpe.model"  # the name that PaddleNLP and Hugging Face give the piece model
XLM_R_NAMES = {CLS: "<s>", PAD: "<pad>", SEP: "</s>", UNK: "<unk>", MASK: "<mask>"}
UNIGRAM = 1  # sentencepiece's number for the model type of XLM-R


def _where_pieces_are() -> str:
    """What to do without a piece model, for the end of an error."""
    return (
        f"XLM-R has {BPE_MODEL} where it is published, and {command_name()} download weights vocab fetches "
        "ERNIE-M's, which gives the same ids; put it beside the weights, or name it with --piece_model_path"
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
        raise UserError(f"{path}: damaged, or not XLM-R's ({error!r}); {_where_pieces_are()}") from error
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
    rules = [*_rules_1_to_3(), _one_space(" "), _one_space("▁")]
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


def tokenizer_json(
    vocab: Mapping[str, int],
    model: "ModelProto",
    has_official_rules: bool,
    added_tokens: Mapping[str, int],
    separators: int,
) -> dict[str, Any]:
    """The content of tokenizer.json for a vocabulary and its piece model.

    Args:
        vocab: with the added tokens.
        model: one whose settings `check_settings` accepts.
        has_official_rules: whether the tokenizer applies the official rules 1 to 3 before sentencepiece.
        added_tokens: token -> id, from behind the pieces on.
        separators: the number of [SEP] between two texts.
    """
    pieces = {token: id_ for token, id_ in vocab.items() if token not in added_tokens}
    rules = _rules_1_to_3() if has_official_rules else []
    charsmap = model.normalizer_spec.precompiled_charsmap
    if charsmap:
        # The table has composed letters only, and sentencepiece finds the longest entry, so that it composes
        # a letter and its marks; the library looks up each by itself.
        rules.append({"type": "NFC"})
        rules.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()})
    rules.append(_one_space(" "))
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    pre_tokenizer: dict[str, Any] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace],
    }
    if not model.normalizer_spec.add_dummy_prefix:  # then a word has a "▁" only if a space stands before it
        rules.append({"type": "Strip", "strip_left": True, "strip_right": True})
        metaspace["prepend_scheme"] = "never"
        pre_tokenizer = metaspace
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(vocab, added_tokens),
        "normalizer": {"type": "Sequence", "normalizers": rules},
        "pre_tokenizer": pre_tokenizer,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": _template(f"{CLS} A {SEP}"),
            "pair": _template(f"{CLS} A {' '.join([SEP] * separators)} B {SEP}"),
            "special_tokens": {
                name: {"id": name, "ids": [vocab[token]], "tokens": [name]}
                for token, name in XLM_R_NAMES.items()
                if token in (CLS, SEP)
            },
        },
        "decoder": metaspace,
        "model": {
            "type": "Unigram",
            "unk_id": vocab[UNK],
            "vocab": _scored_pieces(pieces, model),
            "byte_fallback": model.trainer_spec.byte_fallback,
        },
    }


def _added_tokens(vocab: Mapping[str, int], added_tokens: Mapping[str, int]) -> list[dict[str, Any]]:
    """The special tokens and those that were added, in the order of their ids."""
    return [
        {
            "id": vocab[token],
            "content": XLM_R_NAMES.get(token, token),
            "single_word": False,
            "lstrip": token == MASK,  # as XLM-R's: the space before a mask belongs to it
            "rstrip": False,
            "normalized": False,
            "special": token in XLM_R_NAMES,
        }
        for token in sorted([*XLM_R_NAMES, *added_tokens], key=vocab.get)
    ]


def check_settings(model: "ModelProto", path: str | os.PathLike) -> None:
    """Check that tokenizer.json can say how a piece model cuts text.

    Args:
        path: of the piece model, for the error.

    Raises:
        UserError: it cannot.
    """
    settings = {
        "remove_extra_whitespaces": (model.normalizer_spec.remove_extra_whitespaces, True),
        "escape_whitespaces": (model.normalizer_spec.escape_whitespaces, True),
        "treat_whitespace_as_suffix": (model.trainer_spec.treat_whitespace_as_suffix, False),
    }
    for name, (value, expected) in settings.items():
        if value != expected:
            raise UserError(
                f"{path}: its {name} is {str(value).lower()}, which {TOKENIZER_JSON} of XLM-R's form cannot "
                "say; --to ernie-m keeps it"
            )


def _scored_pieces(vocab: Mapping[str, int], model: "ModelProto") -> list[list[Any]]:
    """[piece, score] for each id. A token that the piece model lacks has a score with which it never wins.

    The special tokens have the score 0, as in XLM-R's own file; text is never cut into them.
    """
    scores = {piece.piece: piece.score for piece in model.pieces}  # negative: logarithms of probabilities
    unknown_letter = min(scores.values()) - 10  # the score that sentencepiece gives a letter without a piece
    scores |= dict.fromkeys(SPECIAL_TOKENS, 0.0)
    scored_pieces = []
    for token in tokens_by_id(vocab):
        score = scores.get(token, len(token) * unknown_letter - 10)  # below that of its letters alone
        scored_pieces.append([XLM_R_NAMES.get(token, token), score])
    return scored_pieces


def _rules_1_to_3() -> list[dict[str, Any]]:
    """Rules 1 to 3 of `ernie_m.tokenizer.tokenizer`."""
    return [
        *(_replace({"String": old}, new) for old, new in QUOTES.items()),  # rule 1
        _replace({"Regex": r"[\p{Cc}\p{Cf}&&[^\t\n\r]]"}, ""),  # rule 2: && is "and"
        _replace({"Regex": r"[\t\n\r\p{Zs}]"}, " "),  # rule 3
    ]


def _one_space(space: str) -> dict[str, Any]:
    """The rule that makes one space of several, as sentencepiece does; libraries write it as " " or "▁"."""
    return _replace({"Regex": " {2,}"}, space)


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    """The rule that replaces a pattern, {"String": text} or {"Regex": expression}, by `content`."""
    return {"type": "Replace", "pattern": pattern, "content": content}


def _template(form: str) -> list[dict[str, Any]]:
    """An input as tokenizer.json describes it.

    Args:
        form: its parts, such as "[CLS] A [SEP]": special tokens, and A and B for the texts.
    """
    parts = []
    for name in form.split():
        if name in ("A", "B"):  # the first and the second text
            parts.append({"Sequence": {"id": name, "type_id": 0}})
        else:
            parts.append({"SpecialToken": {"id": XLM_R_NAMES[name], "type_id": 0}})
    return parts
