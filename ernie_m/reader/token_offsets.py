"""Character offsets of tokens, for answers and tags."""

import itertools
import unicodedata
from collections.abc import Mapping

from ernie_m.reader.tokenization import Tokenizer, make_normalization_table
from ernie_m.reader.tokenizer_rules import LIBRARY_RULES

Span = tuple[int, int]  # start and end in characters


def encode_with_offsets(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[Span]]:
    """Return the ids of a text's tokens, and the (start, end) of each in characters of `text`.

    Spans exclude leading and trailing white space. Starts and ends never decrease. A lone "▁" has an empty
    span. A span may contain characters that normalization removes. If NFKC expands a character (½) into
    several tokens, the span of each contains the whole character.
    """
    ids: list[int] = []
    spans: list[Span] = []
    for start, part in tokenizer.split_added_tokens(text):
        if part in tokenizer.added_tokens:
            ids.append(tokenizer.added_tokens[part])
            spans.append((start, start + len(part)))
            continue
        ids_of_part, spans_of_part = _encode_part(tokenizer, part)
        ids += ids_of_part
        spans += [(start + first, start + last) for first, last in spans_of_part]
    return ids, spans


def _encode_part(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[Span]]:
    """Return the ids and character spans of a text without added tokens; see `encode_with_offsets`."""
    normal = tokenizer.normalize(text)
    mapping = tokenizer.processor.EncodeAsOffsetMapping(normal)
    numbers = mapping["ids"]  # ids of the SentencePiece model, not of the vocabulary
    subwords = mapping["pieces"]
    spans = _clean_spans(normal, subwords, mapping["offsets"])
    if tokenizer.text_rules in LIBRARY_RULES:
        tokens_of_subwords = tokenizer.split_subwords(subwords, numbers)
        ids = tokenizer.convert_tokens_to_ids(itertools.chain(*tokens_of_subwords))
        spans_of_tokens: list[Span] = []
        for tokens, (start, end) in zip(tokens_of_subwords, spans):
            spans_of_tokens += _locate_parts(tokens, start, end)
        return ids, spans_of_tokens
    ids = tokenizer.to_ids(numbers)
    if len(ids) != len(spans):  # rule 5 replaced one subword by several tokens
        spans = _split_spans(tokenizer.digit_comma, numbers, spans)
    sources = map_to_source(text, normal)
    if sources is not None:
        spans = [_map_span_to_source(span, sources) for span in spans]
    return ids, spans


def _split_spans(
    digit_comma: Mapping[int, list[str]], subword_indices: list[int], spans: list[Span]
) -> list[Span]:
    """Return the spans of tokens after rule 5, which splits the comma from a subword that ends in "1,".

    Args:
        digit_comma: see `Tokenizer`.
        subword_indices: the indices of the subwords in the SentencePiece model.
        spans: the span of each subword.
    """
    cut_spans = []
    for number, span in zip(subword_indices, spans):
        if number in digit_comma:
            start, end = span
            before_comma = digit_comma[number][:-1]  # all tokens except the last, which is the comma
            cut_spans += [*_locate_parts(before_comma, start, end - 1), (end - 1, end)]
        else:
            cut_spans.append(span)
    return cut_spans


def map_to_source(text: str, normalized: str) -> list[int] | None:
    """Map each character of `normalized`, the normalized text, to its index in `text`.

    Returns:
        The index in `text` of each character of `normalized`, and then the length of `text`. None if no
        character was dropped, so that the indices are equal.
    """
    if len(normalized) == len(text):
        return None
    table = make_normalization_table()  # None for dropped characters
    sources = [index for index, character in enumerate(text) if table.get(ord(character), "") is not None]
    return [*sources, len(text)]


def _clean_spans(text: str, subwords: list[str], spans: list[Span]) -> list[Span]:
    """Extend the spans of subwords to whole characters, and strip white space from both ends.

    Args:
        text: the normalized text.
        subwords: the subwords of the text from SentencePiece.
        spans: the span of each subword in `text`, from SentencePiece.
    """
    cleaned = []
    for subword, (start, end) in zip(subwords, _extend_to_whole_characters(text, subwords, spans)):
        while start < end and _is_space(text[start]):
            start += 1
        while start < end and _is_space(text[end - 1]):
            end -= 1
        stands_for_text = subword.strip("▁") != ""
        if start == end and stands_for_text and end < len(text):
            # With byte fallback, SentencePiece assigns a character only to its last byte; here to every byte.
            end += 1
        cleaned.append((start, end))
    return cleaned


def _is_space(character: str) -> bool:
    """Return whether a character is white space or "▁"."""
    return character.isspace() or character == "▁"


def _extend_to_whole_characters(text: str, subwords: list[str], spans: list[Span]) -> list[Span]:
    """Extend the span of each subword to include the character in which the span ends.

    NFKC expands some characters (½ becomes 1⁄2). If the expansion is split into several subwords,
    SentencePiece assigns the source character only to the last one. See `_clean_spans` for the arguments.
    """
    if unicodedata.is_normalized("NFKC", text):
        return spans
    joined = "".join(subwords)
    position = 0  # the end of a subword in `joined`
    widened = []
    for subword, (start, end) in zip(subwords, spans):
        position += len(subword)
        if end < len(text):
            # This subword has a part of the expansion of the next character that later ones lack.
            expansion = unicodedata.normalize("NFKC", text[end]).replace(" ", "▁")
            is_in_later_subwords = joined.startswith(expansion, position)
            if len(expansion) > 1 and not is_in_later_subwords:
                end += 1
        widened.append((start, end))
    return widened


def _locate_parts(parts: list[str], start: int, end: int) -> list[Span]:
    """Compute the character spans of consecutive tokens of the text start .. end - 1."""
    lengths = [len(part.lstrip("▁")) for part in parts]
    if sum(lengths) != end - start:
        # NFKC changed the length, so each token gets the whole span.
        return [(start, end)] * len(parts)
    borders = itertools.accumulate(lengths, initial=start)  # the boundaries of the tokens
    return list(itertools.pairwise(borders))


def _map_span_to_source(span: Span, sources: list[int]) -> Span:
    """Map a character span of a normalized text to the original text.

    Args:
        sources: from `map_to_source`.
    """
    start, end = span
    if start == end:
        return sources[start], sources[start]
    # Ends after its last character, not at the next one, because of dropped characters.
    return sources[start], sources[end - 1] + 1
