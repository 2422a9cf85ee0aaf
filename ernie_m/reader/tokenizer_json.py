"""XLM-R's tokenizer.json, in the format of Hugging Face tokenizers.

The file can include the official ERNIE-M normalization, so that other libraries produce the same ids.
transformers 5 writes it without a SentencePiece model, which can be rebuilt from its subwords and scores.
"""

import base64
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from ernie_m.reader.tokenizer_rules import QUOTES
from ernie_m.reader.vocabulary import CLS, MASK, PAD, SEP, UNK
from ernie_m.utils.errors import UserError, format_value, get_command_name
from ernie_m.utils.files import Folder, read_object

TOKENIZER_JSON = "tokenizer.json"
BPE_MODEL = "sentencepiece.bpe.model"  # the SentencePiece model's name in PaddleNLP and Hugging Face
XLM_R_NAMES = {CLS: "<s>", PAD: "<pad>", SEP: "</s>", UNK: "<unk>", MASK: "<mask>"}
UNIGRAM = 1  # model type of XLM-R in SentencePiece
OTHER_KIND = (
    "its ids differ from XLM-R's; only models with the vocabulary of XLM-R or ERNIE-M are supported, such "
    "as multilingual E5 and BGE-M3"
)
_FIRST_TOKENS = ["<s>", "<pad>", "</s>", "<unk>"]


def _describe_model_sources() -> str:
    """Return how to get a missing SentencePiece model, for errors."""
    return (
        f"Download XLM-R's {BPE_MODEL}, or ERNIE-M's, which gives the same ids ({get_command_name()} "
        "download weights vocab), and put it next to the weights or set --piece_model_path"
    )


def make_missing_model_error(folder: str | os.PathLike) -> UserError:
    """Return the error for a model directory without a tokenizer."""
    return UserError(
        f"{folder}: missing piece.model, {BPE_MODEL} or {TOKENIZER_JSON}. {_describe_model_sources()}"
    )


def build_piece_model_from_json(folder: Folder, name: str) -> bytes:
    """Build a serialized SentencePiece model from XLM-R's tokenizer.json, with the same subwords and ids.

    Args:
        folder: the folder of the file, which may have been parsed there already.
        name: the name of the file.

    Raises:
        UserError: the file is corrupt, or its rules are not XLM-R's.
    """
    path = folder.path / name
    contents = folder.read(name, partial(read_object, advice=_describe_model_sources()))
    check_parts(path, contents)
    model = _parse_model(b"")
    try:
        *subwords, (last, _score) = contents["model"]["vocab"][len(_FIRST_TOKENS) :]
        if last != XLM_R_NAMES[MASK]:
            raise ValueError(f"its vocab ends with {format_value(last)}")
        model.trainer_spec.model_type = UNIGRAM
        model.normalizer_spec.precompiled_charsmap = _get_charsmap(contents)
        # In the JSON four special tokens are first and <mask> is last.
        add_subwords(model, subwords)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path}: corrupt, or not XLM-R's ({error!r}). {_describe_model_sources()}"
        ) from error
    content = model.SerializeToString(deterministic=True)
    check_parts(path, contents, content)
    return content


def add_subwords(model: Any, scored_subwords: Iterable[tuple[str, float]]) -> None:
    """Add SentencePiece's special symbols to a `ModelProto`, and then subwords with their scores.

    Args:
        model: a `ModelProto` without subwords.
        scored_subwords: the subwords with their scores (log probabilities).
    """
    for name, kind in (("<unk>", "UNKNOWN"), ("<s>", "CONTROL"), ("</s>", "CONTROL")):
        model.pieces.add(piece=name, score=0.0, type=kind)
    for subword, score in scored_subwords:
        model.pieces.add(piece=subword, score=score)


def check_parts(
    path: str | os.PathLike,
    contents: dict[str, Any],
    piece_model: bytes | None = None,
    separators: Sequence[int] = (1, 2),
) -> None:
    """Check that the parts of a tokenizer.json (model, normalizer, ...) are XLM-R's or ERNIE-M's.

    Args:
        path: the path of the file, for errors.
        contents: the contents of the file.
        piece_model: the serialized SentencePiece model whose settings the file must have; None: any settings.
        separators: the accepted numbers of </s> between two texts.

    Raises:
        UserError: a part would produce different ids, or the file is corrupt.
    """
    try:
        for difference in _find_unsupported_parts(contents, separators, piece_model):
            raise UserError(
                f"{path}: unsupported {difference}: {OTHER_KIND}. If the model was trained with XLM-R's "
                f"vocabulary, replace {TOKENIZER_JSON} by {BPE_MODEL}"
            )
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        raise UserError(f"{path}: corrupt ({error!r}). Restore or download it again") from error


def _find_unsupported_parts(
    contents: dict[str, Any], separators: Sequence[int], piece_model: bytes | None
) -> Iterator[str]:
    """Yield each unsupported part of a tokenizer.json with its value, for errors; see `check_parts`."""
    model = contents["model"]
    vocab = model["vocab"] if model.get("type") == "Unigram" else []
    first_tokens = [subword for subword, score in vocab if math.isfinite(score)][: len(_FIRST_TOKENS)]
    if first_tokens != _FIRST_TOKENS or model["unk_id"] != _FIRST_TOKENS.index("<unk>"):
        yield (
            f"model {format_value(model.get('type'))} with a vocab that "
            f"begins with {format_value(first_tokens)}"
        )

    steps = list_steps(contents["normalizer"], "normalizers")
    about_spaces = (make_space_step(" "), make_space_step("▁"))  # as Strip
    rules = [step for step in steps if step["type"] != "Strip" and step not in about_spaces]
    tables = [step for step in rules if step["type"] == "Precompiled"]
    endings: tuple[list[Any], ...] = ([], tables[:1], [{"type": "NFC"}, *tables[:1]] if tables else [])
    if rules not in [[*first, *ending] for first in ([], make_normalizer_steps()) for ending in endings]:
        yield f"normalizer {format_value([step['type'] for step in steps])}"

    *splits, metaspace = list_steps(contents["pre_tokenizer"], "pretokenizers")
    scheme = metaspace.get("prepend_scheme", "always")  # whether to prepend "▁" to a text
    if (
        (metaspace["type"], metaspace.get("replacement")) != ("Metaspace", "▁")
        or scheme not in ("always", "never")
        or metaspace.get("add_prefix_space", scheme == "always") != (scheme == "always")  # in older files
        or (splits and (splits, scheme) != ([{"type": "WhitespaceSplit"}], "always"))
    ):
        yield f"pre_tokenizer {format_value(contents['pre_tokenizer'])}"

    inputs = contents["post_processor"] or {}
    templates = (inputs.get("single", []), inputs.get("pair", []))
    forms = [" ".join(part["id"] for step in steps for part in step.values()) for steps in templates]
    pairs = [f"<s> A{' </s>' * count} B </s>" for count in separators]
    ids = {name: inputs.get("special_tokens", {}).get(name, {}).get("ids") for name in ("<s>", "</s>")}
    if forms[0] != "<s> A </s>" or forms[1] not in pairs or ids != {"<s>": [0], "</s>": [2]}:
        yield f"post_processor {format_value(forms)}, with {ids}"

    if piece_model is None:
        return
    subwords = _parse_model(piece_model)
    if _get_charsmap(contents) != subwords.normalizer_spec.precompiled_charsmap:
        yield f"normalizer (its character map differs from {BPE_MODEL})"
    if (scheme == "always") != subwords.normalizer_spec.add_dummy_prefix:
        yield f"pre_tokenizer (prepend_scheme {scheme} differs from {BPE_MODEL})"
    if bool(model.get("byte_fallback")) != subwords.trainer_spec.byte_fallback:
        yield f"model (byte_fallback differs from {BPE_MODEL})"


def keeps_trailing_space(contents: dict[str, Any], is_normalized: bool) -> bool:
    """Return whether the fast tokenizer turns a trailing space into a token, unlike SentencePiece.

    Args:
        contents: the contents of tokenizer.json.
        is_normalized: whether the text was split at an added token after normalization; then only the
            pre-tokenizer can remove the space.
    """
    steps = list_steps(contents["normalizer"], "normalizers")
    is_stripped = not is_normalized and any(step.get("strip_right") for step in steps)
    return len(list_steps(contents["pre_tokenizer"], "pretokenizers")) == 1 and not is_stripped


def _parse_model(piece_model: bytes) -> Any:
    """Parse a serialized SentencePiece model into a `ModelProto`.

    Raises:
        ValueError: the model is corrupt.
    """
    # Imported here, because the reader process does not use it.
    from google.protobuf.message import DecodeError
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    try:
        return ModelProto.FromString(piece_model)
    except DecodeError as error:  # the SentencePiece library is less strict
        raise ValueError(f"SentencePiece model: {error}") from error


def _get_charsmap(contents: dict[str, Any]) -> bytes:
    """Return the precompiled character map in the normalizer of a tokenizer.json; b"" without one."""
    steps = list_steps(contents["normalizer"], "normalizers")
    tables = [step["precompiled_charsmap"] for step in steps if step["type"] == "Precompiled"]
    return b"".join(base64.b64decode(table, validate=True) for table in tables)


def list_steps(part: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """Return the steps of a normalizer or pre-tokenizer in tokenizer.json.

    Args:
        part: a step, a Sequence of steps, or None.
        key: the key of the steps in a Sequence.
    """
    if part is None:
        return []
    return part[key] if part["type"] == "Sequence" else [part]


def make_normalizer_steps() -> list[dict[str, Any]]:
    """Return rules 1 to 3 of `ernie_m.reader.tokenization` as normalizer steps of tokenizer.json."""
    return [
        *(_make_replace_step({"String": old}, new) for old, new in QUOTES.items()),  # rule 1
        _make_replace_step({"Regex": r"[\p{Cc}\p{Cf}&&[^\t\n\r]]"}, ""),  # rule 2: && is "and"
        _make_replace_step({"Regex": r"[\t\n\r\p{Zs}]"}, " "),  # rule 3
    ]


def make_space_step(space: str) -> dict[str, Any]:
    """Return the normalizer step that collapses repeated spaces into `space`, which is " " or "▁"."""
    return _make_replace_step({"Regex": " {2,}"}, space)


def _make_replace_step(pattern: dict[str, str], content: str) -> dict[str, Any]:
    """Return the normalizer step that replaces {"String": text} or {"Regex": pattern} with `content`."""
    return {"type": "Replace", "pattern": pattern, "content": content}
