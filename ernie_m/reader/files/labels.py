"""A label as people write it: its normal form, several in a cell, or what stands for none."""

import math
import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache

from ernie_m.tokenizer.equal_texts import normal_form

# How tables write that a row has no label: pandas, and SNLI where its annotators did not agree.
NO_LABEL = ("nan", "<na>", "-", "\\n")  # the last as databases write it, \\N
_JOINERS = "\u200c\u200d"  # zero width, but letters look different without them
_HIDDEN = "-1"  # that a row has no label, in Hugging Face's data sets; but a sentiment may be -1, 0 or 1
_RARE = 10  # it is no label if it is so many times rarer than the others are on average
# Cells by which a row has the label of their column, or has it not.
_YES_OR_NO = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False, "": False}


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


def is_no_label(label: str) -> bool:
    """Whether a label in its normal form says that there is none."""
    return label.lower() in ("", *NO_LABEL)


def number_in(cell: str) -> float | None:
    """The finite number in a cell; None: it has none."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def is_marked(cell: object) -> bool | None:
    """Whether a cell in a column for one label says that the row has it; None: it says neither."""
    return _YES_OR_NO.get(str(cell).strip().lower())


def split_labels(cell: str) -> list[str]:
    """The labels in a cell such as "a,b", "a;b", "['a', 'b']" or "[1 2]", each once, in their normal form.

    An empty cell has none.
    """
    labels = re.split(r"[,;|]|(?<=\w)#(?=\w)", cell)
    if is_list(cell):
        inside = cell[cell.index("[") + 1 : cell.rindex("]")]
        quoted = [single or double for single, double in re.findall(r"'([^']*)'|\"([^\"]*)\"", inside)]
        labels = quoted or re.split("," if "," in inside else r"\s+", inside)
    return list(dict.fromkeys(filter(None, map(normal_label, labels))))


def is_list(cell: str) -> bool:
    """Whether a cell is a list, as Python, numpy and Label Studio print it: "['a']", "[]", and not "[a]"."""
    return re.fullmatch(r"\[(|\d+|.*['\",\s].*)\]|\{\"choices\":\s*\[.*\]\}", cell.strip()) is not None


def labels_for_none(counts: Mapping[str, int]) -> set[str]:
    """Which labels say that a row has none.

    Args:
        counts: label -> number of rows.
    """
    none = set(filter(is_no_label, counts))
    others = [count for label, count in counts.items() if label not in none | {_HIDDEN}]
    is_rare = counts.get(_HIDDEN, 0) * len(others) * _RARE < sum(others)
    return none | {_HIDDEN} if _HIDDEN in counts and is_rare else none


def input_hash(text_a: str, text_b: str | None = None) -> int:
    """An int64 that is equal for equal inputs of this process, whose texts are compared by `normal_form`."""
    return hash(tuple(map(normal_form, [text_a] if text_b is None else [text_a, text_b])))
