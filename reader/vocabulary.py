"""vocab.txt, the id of each token: read in both of its forms, written, or derived from a piece model."""

import os
from collections.abc import Iterable
from pathlib import Path

from utils.errors import UserError
from utils.files import atomic_file

CLS, PAD, SEP, UNK, MASK = "[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"
SPECIAL_TOKENS = (CLS, PAD, SEP, UNK, MASK)
_MAX_IDS = 1 << 24  # the embedding has a row for each id up to the highest


def read_vocab(path: str | os.PathLike) -> dict[str, int]:
    """Read token -> id from a file with one token a line, or one `token<TAB>id` a line.

    The id of a bare token is its line number, from 0. Tokens of white space are kept; the official reader
    loses them.

    Raises:
        UserError: the file is missing or not UTF-8, an id is no number, a token or an id occurs twice, or one
            of the five special tokens is missing.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: cannot read the vocabulary ({error.strerror}); see --vocab_path") from error
    if lines[-1] == b"":
        lines.pop()
    vocab: dict[str, int] = {}
    owner: dict[int, str] = {}
    for number, raw in enumerate(lines):
        where = f"{path}, line {number + 1}"
        try:
            line = raw.removesuffix(b"\r").decode("utf-8" if number else "utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: not UTF-8 (byte {error.start} of the line)") from error
        token, tab, id_text = line.rpartition("\t")
        if not tab:
            token, id_ = line, number
        elif id_text.strip().isdecimal() and len(id_text.strip()) < 10 and int(id_text.strip()) < _MAX_IDS:
            id_ = int(id_text.strip())
        else:
            raise UserError(f"{where}: '{id_text}' is no id below {_MAX_IDS:,} (token<TAB>id)")
        if token in vocab:
            raise UserError(f"{where}: the token '{token}' occurs twice (ids {vocab[token]} and {id_})")
        if id_ in owner:
            raise UserError(f"{where}: the id {id_} is given to both '{owner[id_]}' and '{token}'")
        vocab[token] = id_
        owner[id_] = token
    missing = [token for token in SPECIAL_TOKENS if token not in vocab]
    if missing:
        raise UserError(
            f"{path}: no {' '.join(missing)} among its {len(vocab)} tokens; not an ERNIE-M vocabulary. Use "
            "the official vocab.txt, or --piece_model_path alone, from which the vocabulary is derived"
        )
    return vocab


def derive_vocab(pieces: Iterable[str]) -> dict[str, int]:
    """The ids of XLM-R and ERNIE-M for a piece model: [CLS] [PAD] [SEP] [UNK], the pieces, [MASK].

    Args:
        pieces: the ordinary pieces of the model in its own order, without unknown and control pieces.

    With the 249,997 ordinary pieces of XLM-R's model this gives the 250,002 ids of the paper (appendix A.2).
    """
    tokens = [CLS, PAD, SEP, UNK, *pieces, MASK]
    vocab = {token: id_ for id_, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise UserError("the piece model has a piece twice, or one named like a special token ([CLS], ...)")
    return vocab


def write_vocab(vocab: dict[str, int], path: str | os.PathLike) -> None:
    """Write `token<TAB>id` lines in the order of the ids, atomically."""
    with atomic_file(path, "w", newline="\n") as file:
        file.writelines(f"{token}\t{id_}\n" for token, id_ in sorted(vocab.items(), key=lambda item: item[1]))
