"""From the spans of sentencepiece to those a reader wants: whole characters, no white space at the ends."""

import unicodedata

Span = tuple[int, int]


def clean(text: str, pieces: list[str], spans: list[Span]) -> list[Span]:
    """Spans of whole characters, without the white space at their ends; starts and ends never decrease.

    Args:
        text: what was cut into `pieces`.
        spans: of sentencepiece; they tile `text`, a piece that begins with "▁" owning the space before it.
    """
    cleaned = []
    last_end = 0
    for piece, (start, end) in zip(pieces, _whole_characters(text, pieces, spans)):
        while start < end and (text[start].isspace() or text[start] == "▁"):
            start += 1
        while start < end and (text[end - 1].isspace() or text[end - 1] == "▁"):
            end -= 1
        if start == end < len(text) and piece.strip("▁"):
            end += 1  # a byte of a character that the model spells in bytes: only the last has its span
        if end < last_end:
            end = last_end  # a space that came out of the middle of a character
        last_end = end
        cleaned.append((start, end))
    return cleaned


def _whole_characters(text: str, pieces: list[str], spans: list[Span]) -> list[Span]:
    """Widen each span over the character that it ends inside of.

    NFKC makes several characters of one (½ becomes 1⁄2, ㍿ four characters). When those end up in different
    pieces, sentencepiece gives the source character to the last piece only; here every piece that holds a
    part of it has it.
    """
    if unicodedata.is_normalized("NFKC", text):
        return spans
    joined = "".join(pieces)
    position = 0
    widened = []
    for piece, (start, end) in zip(pieces, spans):
        position += len(piece)
        if end < len(text):
            expanded = unicodedata.normalize("NFKC", text[end]).replace(" ", "▁")
            if len(expanded) > 1 and not joined.startswith(expanded, position):
                end += 1
        widened.append((start, end))
    return widened


def cut(pieces: list[str] | None, start: int, end: int) -> list[Span]:
    """The spans of `pieces`, which the digit-comma rule puts in the place of the one at (start, end)."""
    if pieces is None:
        return [(start, end)]
    comma = (end - 1, end)
    lengths = [len(piece.lstrip("▁")) for piece in pieces[:-1]]
    if sum(lengths) != end - 1 - start:  # NFKC changed the length: no telling which character is whose
        return [(start, end - 1)] * len(lengths) + [comma]
    result = []
    for length in lengths:
        result.append((start, start + length))
        start += length
    return [*result, comma]


def to_sources(spans: list[Span], sources: list[int]) -> list[Span]:
    """Spans of the normalised text as spans of the text it was made from; see `normalize_with_sources`."""
    return [
        (sources[start], sources[end - 1] + 1) if start < end else (sources[start], sources[start])
        for start, end in spans
    ]
