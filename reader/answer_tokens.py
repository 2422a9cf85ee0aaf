"""Tokens of questions and contexts whose character spans can stand for an answer."""

import re
import unicodedata

from reader.normalization import normalize
from reader.tokenization import Tokenizer

Span = tuple[int, int]

_HAN = "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
_HAS_HAN = re.compile(_HAN)
_PARTS = re.compile(f"{_HAN}|(?:(?!{_HAN}).)+", re.DOTALL)


def encode_for_answers(tokenizer: Tokenizer, text: str, split_han: bool) -> tuple[list[int], list[Span]]:
    """`Tokenizer.encode_with_offsets`, made for answers, which begin and end with whole tokens.

    The span of a token takes in the characters behind it that normalisation drops (a zero-width space after
    a footnote mark): they belong to what they follow, as they do in MLQA's answers.

    Args:
        split_han: each Han character is a token of its own. Pieces of Chinese text are no words (亿美元,
            年的): answers often begin or end inside of one.

    Returns:
        ids and as many (start, end) character spans of `text`; starts and ends never decrease.
    """
    ids, spans = tokenizer.encode_with_offsets(text)
    if split_han and _HAS_HAN.search(text):
        ids, spans = _split_han(tokenizer, text, ids, spans)
    return ids, _over_dropped(text, spans)


def _split_han(
    tokenizer: Tokenizer, text: str, ids: list[int], spans: list[Span]
) -> tuple[list[int], list[Span]]:
    new_ids: list[int] = []
    new_spans: list[Span] = []
    for id_, token, (start, end) in zip(ids, tokenizer.convert_ids_to_tokens(ids), spans):
        source = text[start:end]
        if end - start < 2 or not _HAS_HAN.search(source) or not _stays_as_it_is(source):
            new_ids.append(id_)
            new_spans.append((start, end))
            continue
        for piece, length in _pieces(tokenizer, source, token.startswith("▁")):
            new_ids.append(tokenizer.vocab.get(piece, tokenizer.unk_id))
            new_spans.append((start, start + length))
            start += length
    return new_ids, new_spans


def _pieces(tokenizer: Tokenizer, source: str, after_space: bool) -> list[tuple[str, int]]:
    """The pieces of the vocabulary for `source`, and how many of its characters each of them stands for."""
    pieces: list[tuple[str, int]] = []
    for part in _PARTS.findall(source):
        if after_space and not pieces:
            if "▁" + part in tokenizer.vocab:
                pieces.append(("▁" + part, len(part)))
                continue
            pieces.append(("▁", 0))
        known = part in tokenizer.vocab
        pieces += [(part, len(part))] if known else [(character, 1) for character in part]
    return pieces


def _stays_as_it_is(source: str) -> bool:
    """Whether the tokenizer cuts `source` itself, and not what normalisation makes of it."""
    return unicodedata.is_normalized("NFKC", source) and normalize(source) == source


def _over_dropped(text: str, spans: list[Span]) -> list[Span]:
    """Each span with the characters behind it that normalisation drops."""
    dropped = set()
    if not text.isprintable():
        dropped = {i for i, character in enumerate(text) if not normalize(character)}
    if not dropped:
        return spans
    widened = []
    for start, end in spans:
        while start < end and end in dropped:
            end += 1
        widened.append((start, end))
    return widened
