"""Vocabularies (token -> id): special tokens, vocab.txt, dict.txt of fairseq, and the ids of XLM-R."""

import codecs
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from ernie_m.utils.errors import UserError, format_value
from ernie_m.utils.files import atomic_file
from ernie_m.utils.logging import logger

CLS = "[CLS]"
PAD = "[PAD]"
SEP = "[SEP]"
UNK = "[UNK]"
MASK = "[MASK]"
SPECIAL_TOKENS = (CLS, PAD, SEP, UNK, MASK)
CONFIG = "config.json"
VOCAB = "vocab.txt"
DICT = "dict.txt"  # the vocabulary of fairseq
FILLER = "madeupword"  # prefix of fairseq's filler tokens, which pad the vocabulary to a multiple of 8
LARGEST_VOCAB = 1 << 28  # bytes
_MAX_IDS = 1 << 24  # upper bound, because the embedding has a row for each id
_MOST_REPEATED = 5  # lines listed in a warning


def parse_vocab(content: bytes, path: str | os.PathLike) -> dict[str, int]:
    """Parse a vocabulary, token -> id, with a token or `token<TAB>id` per line, or fairseq's dict.txt.

    The id of a token without an id is its line number, from 0. Tokens that are white space are kept, unlike
    in the official reader. A duplicate token has its last id, as in the official code; duplicates are logged.

    Args:
        path: path of the file, for its format and for errors.

    Raises:
        UserError: the content is invalid, a special token is missing, or two of them have the same id.
    """
    if Path(path).name == DICT:
        return _parse_dict(content, path)
    vocab: dict[str, int] = {}
    ids: set[int] = set()
    repeated: list[str] = []  # lines with a duplicate token or id
    for number, line in enumerate(_decode_lines(content, path)):
        location = f"{path}, line {number + 1}"
        token, tab, id_text = line.rpartition("\t")
        if not tab:
            token = line
            id_text = str(number)
        id_text = id_text.strip()
        is_number = id_text.isdecimal() and len(id_text) < 10  # int() rejects thousands of digits
        if not is_number or int(id_text) >= _MAX_IDS:
            raise UserError(
                f"{location}: invalid id '{id_text}' (expected 0 to {_MAX_IDS - 1:,}; token<TAB>id)"
            )
        id_ = int(id_text)
        if token in vocab or id_ in ids:
            repeated.append(f"{number + 1} ('{token}', {id_})")
        vocab[token] = id_
        ids.add(id_)
    missing = [token for token in SPECIAL_TOKENS if token not in vocab]
    if missing:
        raise UserError(
            f"{path}: missing {' '.join(missing)} among {len(vocab)} tokens; not an ERNIE-M vocabulary. "
            "Use the official vocab.txt, or set only --piece_model_path to derive the vocabulary"
        )
    if len({vocab[token] for token in SPECIAL_TOKENS}) < len(SPECIAL_TOKENS):
        raise UserError(
            f"{path}: two of {' '.join(SPECIAL_TOKENS)} have the same id. Use the official vocab.txt"
        )
    if repeated:
        logger.warning(
            "%s: %d duplicate tokens or ids; using the last one, as the official code does. If the vocab.txt "
            "used in training has none, restore it. Duplicates: line %s",
            path,
            len(repeated),
            ", ".join(repeated[:_MOST_REPEATED]),
        )
    return vocab


def _decode_lines(content: bytes, path: str | os.PathLike) -> Iterator[str]:
    """Yield the lines of a UTF-8 text, which may begin with a byte order mark, without line ends.

    Raises:
        UserError: a line is not UTF-8.
    """
    for number, line in enumerate(content.removeprefix(codecs.BOM_UTF8).removesuffix(b"\n").split(b"\n"), 1):
        try:
            yield line.removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}, line {number}: not UTF-8 (byte {error.start + 1} of the line)"
            ) from error


def _parse_dict(content: bytes, path: str | os.PathLike) -> dict[str, int]:
    """Parse a vocabulary, token -> id, in a dict.txt of fairseq-preprocess, with `token count` per line.

    Ids are assigned in order to `<s> <pad> </s> <unk>`, the tokens of the file, and `<mask>`, unless the file
    contains it.

    Raises:
        UserError: a line is invalid, or a token is duplicate.
    """
    vocab = {CLS: 0, PAD: 1, SEP: 2, UNK: 3}
    for number, line in enumerate(_decode_lines(content, path), 1):
        token, _, count = line.rstrip().rpartition(" ")
        if not (token and count.isdecimal()) or token in vocab:
            raise UserError(
                f"{path}, line {number}: invalid or duplicate {format_value(line)} (expected a token and its "
                "count). Restore the dict.txt of the training, as fairseq-preprocess wrote it"
            )
        vocab[token] = number + 3
    vocab[MASK] = vocab.pop("<mask>", number + 4)
    return vocab


def derive_vocab(subwords: Mapping[int, str], size: int) -> dict[str, int]:
    """Return the vocabulary, token -> id, that XLM-R and ERNIE-M derive from a SentencePiece model.

    The ids are those of [CLS] [PAD] [SEP] [UNK], then the subwords, then [MASK]. The id of a subword is its
    index in the model + 1. The 249,997 ordinary subwords of XLM-R's model, which follow three special
    symbols, result in the 250,002 ids of the paper (appendix A.2).

    Args:
        subwords: index in the model -> subword, without unknown and control symbols.
        size: the number of subwords in the model, including unknown and control symbols.

    Raises:
        UserError: a subword is duplicate, or has the name or id of a special token.
    """
    vocab = {CLS: 0, PAD: 1, SEP: 2, UNK: 3, MASK: size + 1}
    vocab |= {subword: number + 1 for number, subword in subwords.items()}
    if len(set(vocab.values())) < len(SPECIAL_TOKENS) + len(subwords):
        raise UserError(
            "unsupported SentencePiece model (expected unique subwords, none named as a special token such "
            "as [CLS], after the three special ones <unk>, <s> and </s>)"
        )
    return vocab


def write_vocab(vocab: Mapping[str, int], path: str | os.PathLike) -> None:
    """Write a vocabulary as `token<TAB>id` lines in the order of the ids, atomically."""
    with atomic_file(path, "w", newline="\n") as file:
        for token in sorted(vocab, key=vocab.__getitem__):
            file.write(f"{token}\t{vocab[token]}\n")


def list_tokens_by_id(vocab: Mapping[str, int]) -> list[str]:
    """Return the token of each id from 0 to the highest, and a placeholder for an id without a token.

    Raises:
        UserError: two tokens have the same id.
    """
    token_of: dict[int, str] = {}
    for token, id_ in vocab.items():
        if id_ in token_of:
            raise UserError(
                f"duplicate id {id_} in the vocabulary ('{token_of[id_]}' and '{token}'), which other "
                "formats cannot represent. Remove one of them from vocab.txt"
            )
        token_of[id_] = token
    return [token_of.get(id_, f"<no token {id_}>") for id_ in range(max(token_of) + 1)]
