"""Labels as people write them: their normal form, cells with several of them, and rows that are odd."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

# How tables write that a row has no label: pandas, and SNLI where its annotators did not agree.
NO_LABEL = ("nan", "<na>", "-")
_HIDDEN = "-1"  # so do Hugging Face's data sets; but a sentiment may be -1, 0 or 1
_RARE = 10  # it is no label if it is so many times rarer than the others are on average
_JOINERS = "\u200c\u200d"  # zero width, but letters look different without them
_MOST_OF_ONE = 0.95  # the greatest share of one label without a warning


@lru_cache(maxsize=1 << 16)
def normal_label(label: str) -> str:
    """The one form of labels that a reader takes for the same.

    It is in NFC, without control characters and characters of zero width, with one space for white space
    inside and none around it; a whole number has no decimals, which pandas adds: "1.0" is "1".
    """
    spaced = " ".join(label.split())
    visible = [
        character
        for character in unicodedata.normalize("NFC", spaced)
        if character in _JOINERS or unicodedata.category(character) not in ("Cc", "Cf")
    ]
    return re.sub(r"^([+-]?\d+)\.0+$", r"\1", "".join(visible).strip())


def split_labels(cell: str) -> list[str]:
    """The labels in a cell such as "a,b", "a;b", "['a', 'b']" or "[1 2]", each once, in their normal form.

    An empty cell has none.
    """
    cell = cell.strip()
    if is_list(cell):
        inside = cell[cell.index("[") + 1 : cell.rindex("]")]
        quoted = [single or double for single, double in re.findall(r"'([^']*)'|\"([^\"]*)\"", inside)]
        labels = quoted or re.split("," if "," in inside else r"\s+", inside)
    else:
        labels = re.split(r"[,;]|(?<=\w)[#|](?=\w)", cell)
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


def input_hash(text_a: str, text_b: str | None = None) -> int:
    """An int64 that is equal for equal inputs of this process; white space does not count."""
    texts = [text_a] if text_b is None else [text_a, text_b]
    return hash(tuple(" ".join(text.split()) for text in texts))


def oddities(inputs: np.ndarray, labels: np.ndarray, lines: Sequence[int], unit: str = "line") -> list[str]:
    """What makes rows hard to learn from, in words: inputs with two labels, and one label nearly alone.

    Args:
        inputs: `input_hash` of each row, int64 [N].
        labels: a number for the label, or the labels, of each row, int64 [N].
        lines: the number of the line of each row, [N].
        unit: what these numbers count.
    """
    if not len(labels):
        return []
    found = []
    order = np.lexsort((labels, inputs))  # rows of one input stand together, in the order of their labels
    # Of each row and the next in this order: whether the input is the same, and the label another.
    is_same_input = np.diff(inputs[order]) == 0
    is_other_label = np.diff(labels[order]) != 0
    conflicts = np.flatnonzero(is_same_input & is_other_label)
    if len(conflicts):
        count = len(np.unique(inputs[order][conflicts]))
        place = conflicts[0]
        first, second = (lines[number] for number in sorted(order[place : place + 2].tolist()))
        texts = "1 text has" if count == 1 else f"{count:,} texts have"
        found.append(f"{texts} two labels, as in {unit} {first} and {second}; no model can learn both")
    share = np.unique(labels, return_counts=True)[1].max() / len(labels)
    if share > _MOST_OF_ONE:
        found.append(
            f"{100 * share:.1f} % of the rows have one label: a model that knows nothing else seems good"
        )
    return found


def overlap(train: np.ndarray, evaluated: np.ndarray) -> str | None:
    """How many rows to evaluate on were trained on, in words; None: none was.

    Args:
        train, evaluated: `input_hash` of each row, int64 [N] and [M].
    """
    count = int(np.isin(evaluated, train).sum())
    if not count:
        return None
    return f"{count:,} of {len(evaluated):,} rows are training rows, too; scores on them are too good"
