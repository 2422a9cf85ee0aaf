"""Rules 1 to 3 of the official tokenizer (quotes, control characters, white space), and their way back."""

import functools
import sys
import unicodedata

QUOTES = {"“": '"', "”": '"', "‘": "'", "’": "'", "—": "-"}
_QUOTE_CHARACTERS = tuple(QUOTES)


@functools.cache
def _rules_1_to_3() -> dict[int, str | None]:
    """Code point -> its replacement, or None where it is dropped."""
    table: dict[int, str | None] = {}
    for code in range(sys.maxunicode + 1):
        category = unicodedata.category(chr(code))
        if category in ("Cc", "Cf"):
            table[code] = None
        elif category == "Zs":
            table[code] = " "
        elif category == "Cs":
            table[code] = "\ufffd"
    for character in "\t\n\r":
        table[ord(character)] = " "
    for character, replacement in QUOTES.items():
        table[ord(character)] = replacement
    del table[ord(" ")]
    return table


def _is_plain(text: str) -> bool:
    """Whether rules 1 to 3 leave `text` alone. isprintable(): one pass in C, false for Cc, Cf, Zs, Cs."""
    if not text.isprintable():
        return False
    if text.isascii():
        return True
    return not any(character in text for character in _QUOTE_CHARACTERS)


def normalize(text: str) -> str:
    """Rules 1 to 3. Every character becomes one character or none."""
    return text if _is_plain(text) else text.translate(_rules_1_to_3())


def normalize_with_sources(text: str) -> tuple[str, list[int] | None]:
    """`normalize`, and for each character of it the index in `text` that it came from, then `len(text)`.

    The list is None where it would be 0, 1, 2, ...: nothing was dropped.
    """
    if _is_plain(text):
        return text, None
    table = _rules_1_to_3()
    normal = text.translate(table)
    if len(normal) == len(text):
        return normal, None
    sources = [index for index, character in enumerate(text) if table.get(ord(character), "") is not None]
    return normal, [*sources, len(text)]
