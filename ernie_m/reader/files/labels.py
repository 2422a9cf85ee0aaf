"""A label as people write it: its normal form."""

import math
import re
import unicodedata
from functools import lru_cache

from ernie_m.tokenizer.equal_texts import normal_form

# How tables write that a row has no label: pandas, and SNLI where its annotators did not agree.
NO_LABEL = ("nan", "<na>", "-", "\\n")  # the last as databases write it, \\N
_JOINERS = "\u200c\u200d"  # zero width, but letters look different without them


@lru_cache(maxsize=1 << 16)
def normal_label(label: str) -> str:
    """The one form of labels that a reader takes for the same.

    It is in NFC, without control characters and characters of zero width, with one space for white space
    inside and none around it; a whole number has no decimals, which pandas adds: "1.0" is "1". "1.000"
    may be a thousand.
    """
    spaced = " ".join(label.split())
    visible = [
        character
        for character in unicodedata.normalize("NFC", spaced)
        if character in _JOINERS or unicodedata.category(character) not in ("Cc", "Cf")
    ]
    return re.sub(r"^([+-]?\d+)\.00?$", r"\1", "".join(visible).strip())


def number_in(cell: str) -> float | None:
    """The finite number in a cell; None: it has none."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def input_hash(text_a: str, text_b: str | None = None) -> int:
    """An int64 that is equal for equal inputs of this process, whose texts are compared by `normal_form`."""
    texts = [text_a] if text_b is None else [text_a, text_b]
    return hash(tuple(map(normal_form, texts)))
