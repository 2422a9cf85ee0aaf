"""XLM-R's tokenizer.json, whose format the documentation of Hugging Face tokenizers describes.

It also has the official normalization, so that current libraries give our ids. transformers 5 writes it
without the piece model: it has all pieces with their scores, so a piece model can be made of it.
"""

import base64
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ernie_m.reader.tokenizer_rules import QUOTES
from ernie_m.reader.vocabulary import CLS, MASK, PAD, SEP, UNK
from ernie_m.utils.errors import UserError, command_name, shown
from ernie_m.utils.files import read_json

TOKENIZER_JSON = "tokenizer.json"
BPE_MODEL = "sentencepiece.bpe.model"  # the name that PaddleNLP and Hugging Face give the piece model
XLM_R_NAMES = {CLS: "<s>", PAD: "<pad>", SEP: "</s>", UNK: "<unk>", MASK: "<mask>"}
UNIGRAM = 1  # sentencepiece's number for the model type of XLM-R
OTHER_KIND = (
    "a tokenizer of another kind, which has other ids than XLM-R's pieces; only models with the vocabulary "
    "of XLM-R or ERNIE-M can be read, such as multilingual E5 and BGE-M3"
)
_FIRST_PIECES = ["<s>", "<pad>", "</s>", "<unk>"]


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


def piece_model_from_json(path: str | os.PathLike) -> bytes:
    """Make the piece model of XLM-R's tokenizer.json, which gives the same pieces and ids.

    Raises:
        UserError: the file is damaged, or its rules are not those of XLM-R.
    """
    contents = read_json(path, _where_pieces_are())
    check_parts(path, contents)
    model = _parsed(b"")
    try:
        *pieces, (last, _score) = contents["model"]["vocab"][len(_FIRST_PIECES) :]
        if last != XLM_R_NAMES[MASK]:
            raise ValueError(f"its vocab ends with {shown(last)}")
        model.trainer_spec.model_type = UNIGRAM
        model.normalizer_spec.precompiled_charsmap = _charsmap(contents)
        # In the JSON four special pieces are first and <mask> is last.
        add_pieces(model, pieces)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: corrupt, or not XLM-R's ({error!r}). {_where_pieces_are()}") from error
    content = model.SerializeToString(deterministic=True)
    check_parts(path, contents, content)
    return content


def add_pieces(model: Any, scored: Iterable[tuple[str, float]]) -> None:
    """Add sentencepiece's own special pieces to a `ModelProto`, and then pieces with their scores."""
    for name, kind in (("<unk>", "UNKNOWN"), ("<s>", "CONTROL"), ("</s>", "CONTROL")):
        model.pieces.add(piece=name, score=0.0, type=kind)
    for piece, score in scored:
        model.pieces.add(piece=piece, score=score)


def check_parts(
    path: str | os.PathLike,
    contents: dict[str, Any],
    piece_model: bytes | None = None,
    separators: Sequence[int] = (1, 2),
) -> None:
    """Compare the parts of a tokenizer.json with XLM-R's, and with ERNIE-M's, which is written here.

    Args:
        path: of the file, which has these contents.
        piece_model: whose settings it must have; None: those of any.
        separators: how many </s> it may have between two texts.

    Raises:
        UserError: libraries make other ids by one of its parts, or it is damaged.
    """
    try:
        for fault in _other_parts(contents, separators, piece_model):
            raise UserError(
                f"{path}: its {fault}: {OTHER_KIND}. If the model was trained with XLM-R's own pieces, put "
                f"{BPE_MODEL} in place of {TOKENIZER_JSON}"
            )
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        raise UserError(f"{path}: corrupt ({error!r}). Restore or download it again") from error


def _other_parts(
    contents: dict[str, Any], separators: Sequence[int], piece_model: bytes | None
) -> Iterator[str]:
    """The parts that `check_parts` refuses, with what they are."""
    model = contents["model"]
    vocab = model["vocab"] if model.get("type") == "Unigram" else []
    first_pieces = [piece for piece, score in vocab if math.isfinite(score)][: len(_FIRST_PIECES)]
    if first_pieces != _FIRST_PIECES or model["unk_id"] != _FIRST_PIECES.index("<unk>"):
        yield f"model is {shown(model.get('type'))}, and its vocab begins with {shown(first_pieces)}"

    steps = list_steps(contents["normalizer"], "normalizers")
    about_spaces = (one_space(" "), one_space("▁"))  # as Strip
    rules = [step for step in steps if step["type"] != "Strip" and step not in about_spaces]
    tables = [step for step in rules if step["type"] == "Precompiled"]
    endings: tuple[list[Any], ...] = ([], tables[:1], [{"type": "NFC"}, *tables[:1]] if tables else [])
    if rules not in [[*first, *ending] for first in ([], rules_1_to_3()) for ending in endings]:
        yield f"normalizer is {shown([step['type'] for step in steps])}"

    *splits, metaspace = list_steps(contents["pre_tokenizer"], "pretokenizers")
    scheme = metaspace.get("prepend_scheme", "always")  # whether a text begins with "▁"
    if (
        (metaspace["type"], metaspace.get("replacement")) != ("Metaspace", "▁")
        or scheme not in ("always", "never")
        or metaspace.get("add_prefix_space", scheme == "always") != (scheme == "always")  # in older files
        or (splits and (splits, scheme) != ([{"type": "WhitespaceSplit"}], "always"))
    ):
        yield f"pre_tokenizer is {shown(contents['pre_tokenizer'])}"

    inputs = contents["post_processor"] or {}
    templates = (inputs.get("single", []), inputs.get("pair", []))
    forms = [" ".join(part["id"] for step in steps for part in step.values()) for steps in templates]
    pairs = [f"<s> A{' </s>' * count} B </s>" for count in separators]
    ids = {name: inputs.get("special_tokens", {}).get(name, {}).get("ids") for name in ("<s>", "</s>")}
    if forms[0] != "<s> A </s>" or forms[1] not in pairs or ids != {"<s>": [0], "</s>": [2]}:
        yield f"post_processor makes {shown(forms)}, with {ids}"

    if piece_model is None:
        return
    pieces = _parsed(piece_model)
    if _charsmap(contents) != pieces.normalizer_spec.precompiled_charsmap:
        yield f"normalizer has another table of characters than {BPE_MODEL}"
    if (scheme == "always") != pieces.normalizer_spec.add_dummy_prefix:
        yield f"pre_tokenizer has prepend_scheme {scheme}, unlike {BPE_MODEL}"
    if bool(model.get("byte_fallback")) != pieces.trainer_spec.byte_fallback:
        yield f"model has another byte_fallback than {BPE_MODEL}"


def keeps_space(contents: dict[str, Any], is_normalized: bool) -> bool:
    """Whether a space at the end of a text is a piece of its own, which sentencepiece never makes.

    Args:
        is_normalized: whether the text is a part, cut off where an added token was found after the
            normalizer; then only the pre-tokenizer could take its space away.
    """
    steps = list_steps(contents["normalizer"], "normalizers")
    is_stripped = not is_normalized and any(step.get("strip_right") for step in steps)
    return len(list_steps(contents["pre_tokenizer"], "pretokenizers")) == 1 and not is_stripped


def _parsed(piece_model: bytes) -> Any:
    """A sentencepiece model.

    Raises:
        ValueError: it is damaged.
    """
    # Imported here, because the process that reads ahead for a training has no use for it.
    from google.protobuf.message import DecodeError
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    try:
        return ModelProto.FromString(piece_model)
    except DecodeError as error:  # sentencepiece itself is less strict
        raise ValueError(f"the piece model: {error}") from error


def _charsmap(contents: dict[str, Any]) -> bytes:
    """The table of characters in a normalizer."""
    steps = list_steps(contents["normalizer"], "normalizers")
    tables = [step["precompiled_charsmap"] for step in steps if step["type"] == "Precompiled"]
    return b"".join(base64.b64decode(table, validate=True) for table in tables)


def list_steps(part: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """The steps of a part of tokenizer.json, which are below `key` if they are several."""
    if part is None:
        return []
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
