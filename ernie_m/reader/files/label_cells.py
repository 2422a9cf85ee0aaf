"""What users write in place of one label: several in a cell, or none."""

import re
from collections.abc import Mapping

from ernie_m.reader.files.labels import NO_LABEL, normal_label

_HIDDEN = "-1"  # that a row has no label, in Hugging Face's data sets; but a sentiment may be -1, 0 or 1
_RARE = 10  # it is no label if it is so many times rarer than the others are on average


def split_labels(cell: str) -> list[str]:
    """The labels in a cell such as "a,b", "a;b", "['a', 'b']" or "[1 2]", each once, in their normal form.

    An empty cell has none.
    """
    cell = cell.strip()
    if is_list(cell):
        inside = cell[cell.index("[") + 1 : cell.rindex("]")]
        quoted = [single or double for single, double in re.findall(r"'([^']*)'|\"([^\"]*)\"", inside)]
        mark = "," if "," in inside else r"\s+"
        labels = quoted or re.split(mark, inside)
    else:
        labels = re.split(r"[,;|]|(?<=\w)#(?=\w)", cell)
    return list(dict.fromkeys(filter(None, map(normal_label, labels))))


def is_list(cell: str) -> bool:
    """Whether a cell is a list, as Python, numpy and Label Studio print it: "['a']", "[]", and not "[a]"."""
    return re.fullmatch(r"\[(|\d+|.*['\",\s].*)\]|\{\"choices\":\s*\[.*\]\}", cell.strip()) is not None


def labels_for_none(counts: Mapping[str, int]) -> set[str]:
    """Which labels say that a row has none.

    Args:
        counts: label -> number of rows.
    """
    none = {label for label in counts if label.lower() in NO_LABEL}
    others = [count for label, count in counts.items() if label not in none | {_HIDDEN}]
    if _HIDDEN in counts and others and counts[_HIDDEN] * len(others) * _RARE < sum(others):
        none.add(_HIDDEN)
    return none
