"""Where each token of a text is in it: the characters that answers and tags are about."""

import itertools
import unicodedata
from collections.abc import Mapping

from ernie_m.reader.tokenization import Tokenizer, rules_1_to_3
from ernie_m.reader.tokenizer_rules import LIBRARY_RULES

Span = tuple[int, int]  # start and end in characters


def encode_with_offsets(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[Span]]:
    """`Tokenizer.encode`, and the (start, end) of each token's characters in `text`, without white space.

    Starts and ends never decrease. A "▁" that stands for a space alone has an empty span. A span may
    contain dropped characters. If NFKC turns one character into several (½) and these end up in different
    tokens, the span of each of them contains the whole character.
    """
    ids: list[int] = []
    spans: list[Span] = []
    for start, part in tokenizer.parts(text):
        if part in tokenizer.added_tokens:
            ids.append(tokenizer.added_tokens[part])
            spans.append((start, start + len(part)))
            continue
        ids_of_part, spans_of_part = _encode_part(tokenizer, part)
        ids += ids_of_part
        spans += [(start + first, start + last) for first, last in spans_of_part]
    return ids, spans


def _encode_part(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[Span]]:
    """`encode_with_offsets` for a text without added tokens."""
    normal = tokenizer.normalize(text)
    mapping = tokenizer.processor.EncodeAsOffsetMapping(normal)
    numbers = mapping["ids"]  # the piece model's numbers, which are not ids of the vocabulary
    pieces = mapping["pieces"]
    spans = _clean_spans(normal, pieces, mapping["offsets"])
    if tokenizer.text_rules in LIBRARY_RULES:
        tokens_of_pieces = tokenizer.cut(pieces, numbers)
        ids = tokenizer.convert_tokens_to_ids(itertools.chain(*tokens_of_pieces))
        spans_of_tokens: list[Span] = []
        for tokens, (start, end) in zip(tokens_of_pieces, spans):
            spans_of_tokens += _locate_parts(tokens, start, end)
        return ids, spans_of_tokens
    ids = tokenizer.to_ids(numbers)
    if len(ids) != len(spans):  # rule 5 put several tokens in the place of one
        spans = _cut_spans(tokenizer.digit_comma, numbers, spans)
    sources = sources_of(text, normal)
    if sources is not None:
        spans = [_in_source(span, sources) for span in spans]
    return ids, spans


def _cut_spans(digit_comma: Mapping[int, list[str]], numbers: list[int], spans: list[Span]) -> list[Span]:
    """Rule 5 for the spans of a text's pieces, whose numbers are given."""
    cut_spans = []
    for number, span in zip(numbers, spans):
        if number in digit_comma:
            start, end = span
            before_comma = digit_comma[number][:-1]  # all tokens but the last, which is the comma
            cut_spans += [*_locate_parts(before_comma, start, end - 1), (end - 1, end)]
        else:
            cut_spans.append(span)
    return cut_spans


def sources_of(text: str, normal: str) -> list[int] | None:
    """Where each character of `normalize(text)`, which is `normal`, is in `text`.

    Returns:
        The index in `text` of each character of `normal`, and then the length of `text`. None if no character
        was dropped, so that the indices are the same in both.
    """
    if len(normal) == len(text):
        return None
    table = rules_1_to_3()  # it has None for a character that is dropped
    sources = [index for index, character in enumerate(text) if table.get(ord(character), "") is not None]
    return [*sources, len(text)]


def _clean_spans(text: str, pieces: list[str], spans: list[Span]) -> list[Span]:
    """Extend spans of `text` to whole characters and strip white space from their ends.

    Args:
        text: normalized text.
        pieces: the pieces that sentencepiece cuts it into.
        spans: those that sentencepiece gives the pieces.
    """
    cleaned = []
    for piece, (start, end) in zip(pieces, _whole_characters(text, pieces, spans)):
        while start < end and _is_space(text[start]):
            start += 1
        while start < end and _is_space(text[end - 1]):
            end -= 1
        stands_for_text = piece.strip("▁") != ""
        if start == end and stands_for_text and end < len(text):
            # A byte of a character that the model spells in bytes. sentencepiece gives the character to the
            # last byte alone; here every byte gets it.
            end += 1
        cleaned.append((start, end))
    return cleaned


def _is_space(character: str) -> bool:
    """Whether a character is white space, or "▁", which stands for a space."""
    return character.isspace() or character == "▁"


def _whole_characters(text: str, pieces: list[str], spans: list[Span]) -> list[Span]:
    """Extend each span over the character that it ends inside.

    NFKC turns some characters into several (½ becomes 1⁄2). If these end up in different pieces,
    sentencepiece gives the source character to the last piece only. See `_clean_spans` for the arguments.
    """
    if unicodedata.is_normalized("NFKC", text):
        return spans
    joined = "".join(pieces)
    position = 0  # the end of a piece in `joined`
    widened = []
    for piece, (start, end) in zip(pieces, spans):
        position += len(piece)
        if end < len(text):
            # If later pieces lack a part of what NFKC makes of the next character, this one has that part.
            expansion = unicodedata.normalize("NFKC", text[end]).replace(" ", "▁")
            is_in_later_pieces = joined.startswith(expansion, position)
            if len(expansion) > 1 and not is_in_later_pieces:
                end += 1
        widened.append((start, end))
    return widened


def _locate_parts(parts: list[str], start: int, end: int) -> list[Span]:
    """The spans of the tokens that follow each other at (start, end)."""
    lengths = [len(part.lstrip("▁")) for part in parts]
    if sum(lengths) != end - start:
        # NFKC changed the length, so nobody knows which characters belong to which token: each gets all.
        return [(start, end)] * len(parts)
    borders = itertools.accumulate(lengths, initial=start)  # the start, and the end of each token
    return list(itertools.pairwise(borders))


def _in_source(span: Span, sources: list[int]) -> Span:
    """A span of a normalized text as a span of its source; `sources` is that of `sources_of`."""
    start, end = span
    if start == end:
        return sources[start], sources[start]
    # It ends after its last character, and not at the next one: dropped characters may be between them.
    return sources[start], sources[end - 1] + 1
