"""A tokenizer's files: vocab.txt, read in both of its forms, and the forms of other libraries.

ErnieM of PaddleNLP and Hugging Face: vocab.txt with one token per line, whose id is the line number.
XLM-R: the piece model, from which the ids are derived, and tokenizer.json, which also has the official
normalisation, so that current libraries give our ids. transformers 5 writes tokenizer.json alone: it has all
pieces with their scores, so a piece model can be made of it. The format of tokenizer.json is described in the
documentation of Hugging Face tokenizers.
"""

import base64
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import UserError
from utils.files import as_json, atomic_file, read_bytes, read_json

if TYPE_CHECKING:
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    from reader.tokenization import Tokenizer

CLS = "[CLS]"
PAD = "[PAD]"
SEP = "[SEP]"
UNK = "[UNK]"
MASK = "[MASK]"
SPECIAL_TOKENS = (CLS, PAD, SEP, UNK, MASK)
QUOTES = {"“": '"', "”": '"', "‘": "'", "’": "'", "—": "-"}  # rule 1 of `reader.tokenization`
# The name of the piece model beside the weights: of ERNIE-M in PaddleNLP and Hugging Face, and of XLM-R.
ERNIE_M_PIECES = "sentencepiece.bpe.model"
XLM_R_PIECES = "sentencepiece.bpe.model"
TOKENIZER_JSON = "tokenizer.json"
XLM_R_NAMES = {CLS: "<s>", PAD: "<pad>", SEP: "</s>", UNK: "<unk>", MASK: "<mask>"}
_MAX_IDS = 1 << 24  # more would be a mistake: the embedding has a row for each id up to the highest
_UNIGRAM = 1  # sentencepiece's number for the model type of XLM-R
_WHERE_PIECES_ARE = (
    f"XLM-R has {XLM_R_PIECES} where it is published, and sh scripts/data/get_weights.sh vocab fetches "
    "ERNIE-M's, which gives the same ids; put it beside the weights, or name it with --piece_model_path"
)


def read_vocab(path: str | os.PathLike) -> dict[str, int]:
    """Read token -> id from a file with one token a line, or one `token<TAB>id` a line.

    The id of a bare token is its line number, from 0. Tokens of white space are kept; the official reader
    loses them.

    Raises:
        UserError: the file is missing or malformed, or one of the five special tokens is missing.
    """
    content = read_bytes(path, ending="; see --vocab_path")
    vocab: dict[str, int] = {}
    ids: set[int] = set()
    for number, line_bytes in enumerate(content.removesuffix(b"\n").split(b"\n")):
        place = f"{path}, line {number + 1}"
        encoding = "utf-8-sig" if number == 0 else "utf-8"  # the first line may begin with a byte order mark
        try:
            line = line_bytes.removesuffix(b"\r").decode(encoding)
        except UnicodeDecodeError as error:
            raise UserError(f"{place}: not UTF-8 (byte {error.start + 1} of the line)") from error
        token, tab, id_text = line.rpartition("\t")
        if not tab:
            token = line
            id_text = str(number)
        id_text = id_text.strip()
        is_number = id_text.isdecimal() and len(id_text) < 10  # int() refuses thousands of digits
        if not is_number or int(id_text) >= _MAX_IDS:
            raise UserError(
                f"{place}: the id is '{id_text}', but must be from 0 to {_MAX_IDS - 1:,} (token<TAB>id)"
            )
        id_ = int(id_text)
        if token in vocab or id_ in ids:
            raise UserError(f"{place}: the token '{token}' or its id {id_text} occurs twice")
        vocab[token] = id_
        ids.add(id_)
    missing = [token for token in SPECIAL_TOKENS if token not in vocab]
    if missing:
        raise UserError(
            f"{path}: no {' '.join(missing)} among its {len(vocab)} tokens; not an ERNIE-M vocabulary. Use "
            "the official vocab.txt, or --piece_model_path alone, from which the vocabulary is derived"
        )
    return vocab


def derive_vocab(pieces: Iterable[str]) -> dict[str, int]:
    """The ids of XLM-R and ERNIE-M for a piece model: [CLS] [PAD] [SEP] [UNK], the pieces, [MASK].

    With the 249,997 ordinary pieces of XLM-R's model this gives the 250,002 ids of the paper (appendix A.2).

    Args:
        pieces: the ordinary pieces of the model in its own order, without unknown and control pieces.

    Raises:
        UserError: a piece occurs twice, or has the name of a special token.
    """
    tokens = [CLS, PAD, SEP, UNK, *pieces, MASK]
    vocab = {token: id_ for id_, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise UserError("the piece model has a piece twice, or one named like a special token ([CLS], ...)")
    return vocab


def write_vocab(vocab: dict[str, int], path: str | os.PathLike) -> None:
    """Write `token<TAB>id` lines in the order of the ids; the file appears whole or not at all."""
    with atomic_file(path, "w", newline="\n") as file:
        for token in sorted(vocab, key=vocab.get):
            file.write(f"{token}\t{vocab[token]}\n")


def write_ours(folder: Path, tokenizer: "Tokenizer") -> list[str]:
    """Write vocab.txt (token<TAB>id) and piece.model, the official layout; return their names."""
    tokenizer.write_vocab(folder / "vocab.txt")
    (folder / "piece.model").write_bytes(tokenizer.piece_model)
    return ["vocab.txt", "piece.model"]


def write_ernie_m(folder: Path, tokenizer: "Tokenizer") -> list[str]:
    """Write the files of PaddleNLP and Hugging Face, and return their names.

    They are vocab.txt, sentencepiece.bpe.model and tokenizer_config.json.
    """
    vocab = "".join(f"{token}\n" for token in _token_list(tokenizer))
    (folder / "vocab.txt").write_bytes(vocab.encode())
    (folder / ERNIE_M_PIECES).write_bytes(tokenizer.piece_model)
    settings = {
        "tokenizer_class": "ErnieMTokenizer",
        "do_lower_case": False,
        "cls_token": CLS,
        "sep_token": SEP,
        "pad_token": PAD,
        "unk_token": UNK,
        "mask_token": MASK,
    }
    (folder / "tokenizer_config.json").write_text(as_json(settings), encoding="utf-8")
    return ["vocab.txt", ERNIE_M_PIECES, "tokenizer_config.json"]


def write_xlm_r(folder: Path, tokenizer: "Tokenizer", max_length: int) -> list[str]:
    """Write tokenizer.json, tokenizer_config.json and sentencepiece.bpe.model for XLM-R; return their names.

    The piece model is left out if XLM-R would derive another vocabulary from it.

    Args:
        max_length: maximum tokens of an input, as the position table allows.

    Raises:
        UserError: the piece model is damaged, or not a unigram model.
    """
    model = read_unigram(
        tokenizer,
        "XLM-R's tokenizer needs one. A model keeps the vocabulary that it was trained with: --to "
        "huggingface takes this one, or train a new model with a unigram vocabulary "
        "(sh scripts/data/train_vocab.sh)",
    )
    names = [TOKENIZER_JSON, "tokenizer_config.json"]
    if tokenizer.vocab == derive_vocab(tokenizer.ordinary_pieces()):
        (folder / XLM_R_PIECES).write_bytes(tokenizer.piece_model)
        names.append(XLM_R_PIECES)
    (folder / TOKENIZER_JSON).write_text(as_json(_tokenizer_json(tokenizer, model)), encoding="utf-8")
    # The general class uses tokenizer.json as it is; that of XLM-R would replace the normalisation.
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_length}
    # In XLM-R, [CLS] also begins a text (bos), and [SEP] also ends it (eos).
    roles = {"bos": CLS, "cls": CLS, "eos": SEP, "sep": SEP, "pad": PAD, "unk": UNK, "mask": MASK}
    for role, token in roles.items():
        settings[f"{role}_token"] = XLM_R_NAMES[token]
    (folder / "tokenizer_config.json").write_text(as_json(settings), encoding="utf-8")
    return names


def read_unigram(tokenizer: "Tokenizer", need: str) -> "ModelProto":
    """The piece model of a tokenizer.

    Args:
        need: what needs a unigram model, and what to do instead; the end of an error.

    Raises:
        UserError: the piece model is damaged, or not a unigram model.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    model = ModelProto()
    try:
        model.ParseFromString(tokenizer.piece_model)
    except DecodeError as error:  # sentencepiece itself is less strict
        raise UserError(f"{tokenizer.piece_model_path}: damaged ({error}); fetch or copy it again") from error
    if model.trainer_spec.model_type != _UNIGRAM:
        raise UserError(f"{tokenizer.piece_model_path}: not a unigram model, and {need}")
    return model


def no_piece_model(folder: str | os.PathLike) -> UserError:
    """The error for a folder without a tokenizer."""
    return UserError(
        f"{folder}: no piece.model, {XLM_R_PIECES} or {TOKENIZER_JSON} is there; {_WHERE_PIECES_ARE}"
    )


def piece_model_of_json(path: str | os.PathLike) -> bytes:
    """Make the piece model of XLM-R's tokenizer.json, which gives the same pieces and ids.

    Raises:
        UserError: the file is damaged, or its rules are not those of XLM-R.
    """
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    contents = read_json(path, _WHERE_PIECES_ARE)
    try:
        foreign_key = _key_not_of_xlm_r(contents)
        if foreign_key:
            raise UserError(f"{path}: its {foreign_key} is not that of XLM-R; {_WHERE_PIECES_ARE}")
        (charsmap,) = _charsmaps(contents["normalizer"])
        model = ModelProto(
            trainer_spec={"model_type": _UNIGRAM},
            normalizer_spec={"precompiled_charsmap": base64.b64decode(charsmap, validate=True)},
        )
        for name, kind in (("<unk>", "UNKNOWN"), ("<s>", "CONTROL"), ("</s>", "CONTROL")):
            model.pieces.add(piece=name, score=0.0, type=kind)
        for piece, score in contents["model"]["vocab"][4:-1]:
            model.pieces.add(piece=piece, score=score)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged, or not XLM-R's ({error!r}); {_WHERE_PIECES_ARE}") from error
    return model.SerializeToString(deterministic=True)


def _key_not_of_xlm_r(contents: dict[str, Any]) -> str | None:
    """The key of tokenizer.json whose value is not that of XLM-R; None: there is none."""
    names = list(XLM_R_NAMES.values())
    unigram = contents["model"]
    if unigram["type"] != "Unigram" or unigram.get("byte_fallback"):
        return "model"
    ends = [*unigram["vocab"][:4], unigram["vocab"][-1]]
    if unigram["unk_id"] != names.index("<unk>") or [piece for piece, _ in ends] != names:
        return "vocab"
    if any(token["content"] not in names for token in contents["added_tokens"]):
        return "added_tokens"

    known_rules = [*_rules_1_to_3(), _one_space(" "), _one_space("▁")]
    for step in _steps(contents["normalizer"], "normalizers"):
        if step["type"] not in ("Precompiled", "Strip") and step not in known_rules:
            return "normalizer"
    if len(_charsmaps(contents["normalizer"])) != 1:
        return "normalizer"

    metaspace = _steps(contents["pre_tokenizer"], "pretokenizers")[-1]
    if metaspace["type"] != "Metaspace" or metaspace["replacement"] != "▁":
        return "pre_tokenizer"
    # Whether a text begins with "▁"; older files call it add_prefix_space.
    if metaspace.get("prepend_scheme", "always") != "always" or not metaspace.get("add_prefix_space", True):
        return "pre_tokenizer"
    return None


def _charsmaps(normalizer: dict[str, Any]) -> list[str]:
    """The tables of characters in a normalizer, base64."""
    steps = _steps(normalizer, "normalizers")
    return [step["precompiled_charsmap"] for step in steps if step["type"] == "Precompiled"]


def _steps(part: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """The steps of a part of tokenizer.json, which are below `key` if they are several."""
    return part[key] if part["type"] == "Sequence" else [part]


def _token_list(tokenizer: "Tokenizer") -> list[str]:
    """The token of each id, from 0; a made-up name for an id without a token."""
    tokens = [f"<no token {id_}>" for id_ in range(tokenizer.vocab_size)]
    for token, id_ in tokenizer.vocab.items():
        tokens[id_] = token
    return tokens


def _tokenizer_json(tokenizer: "Tokenizer", model: "ModelProto") -> dict[str, Any]:
    """The content of tokenizer.json for a piece model."""
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(tokenizer),
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(model)},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": _template(f"{CLS} A {SEP}"),
            "pair": _template(f"{CLS} A {SEP} {SEP} B {SEP}"),
            "special_tokens": {
                XLM_R_NAMES[token]: _template_token(XLM_R_NAMES[token], tokenizer.vocab[token])
                for token in (CLS, SEP)
            },
        },
        "decoder": metaspace,
        "model": {
            "type": "Unigram",
            "unk_id": tokenizer.unk_id,
            "vocab": _scored_pieces(tokenizer, model),
            "byte_fallback": False,
        },
    }


def _added_tokens(tokenizer: "Tokenizer") -> list[dict[str, Any]]:
    """The special tokens, in the order of their ids."""
    added_tokens = []
    for token in sorted(XLM_R_NAMES, key=tokenizer.vocab.get):
        added_tokens.append(
            {
                "id": tokenizer.vocab[token],
                "content": XLM_R_NAMES[token],
                "single_word": False,
                "lstrip": token == MASK,  # as XLM-R's: the space before a mask belongs to it
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        )
    return added_tokens


def _scored_pieces(tokenizer: "Tokenizer", model: "ModelProto") -> list[list[Any]]:
    """[piece, score] for each id. A token that the piece model lacks has a score with which it never wins.

    The special tokens have the score 0, as in XLM-R's own file; text is never cut into them.
    """
    scores = {piece.piece: piece.score for piece in model.pieces}  # negative: logarithms of probabilities
    losing_score = 10 * min(scores.values()) - 10
    scores |= dict.fromkeys(SPECIAL_TOKENS, 0.0)
    scored_pieces = []
    for token in _token_list(tokenizer):
        name = XLM_R_NAMES.get(token, token)
        scored_pieces.append([name, scores.get(token, losing_score)])
    return scored_pieces


def _normalizers(model: "ModelProto") -> list[dict[str, Any]]:
    """Rules 1 to 3 of `reader.tokenization`, then the piece model's own table of characters."""
    rules = _rules_1_to_3()
    charsmap = model.normalizer_spec.precompiled_charsmap
    if charsmap:
        rules.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()})
    rules.append(_one_space(" "))
    return rules


def _rules_1_to_3() -> list[dict[str, Any]]:
    """Rules 1 to 3 of `reader.tokenization`."""
    rules = [_replace({"String": old}, new) for old, new in QUOTES.items()]  # rule 1
    rules.append(_replace({"Regex": r"[\p{Cc}\p{Cf}&&[^\t\n\r]]"}, ""))  # rule 2: && is "and"
    rules.append(_replace({"Regex": r"[\t\n\r\p{Zs}]"}, " "))  # rule 3
    return rules


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


def _template_token(name: str, id_: int) -> dict[str, Any]:
    """A special token that the templates name, with its id."""
    return {"id": name, "ids": [id_], "tokens": [name]}
