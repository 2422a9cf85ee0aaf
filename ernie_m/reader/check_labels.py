"""What is odd about labelled rows, in words: one function for every way in."""

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, combinations

import numpy as np

from ernie_m.reader.files.labels import oddities, split_labels
from ernie_m.utils.errors import listed

FEW_ROWS = 3  # a label with fewer training rows may be a slip, and is hardly learned
_MOST_RARE = 10  # so many of them are named
_MOST_COMPARED = 200  # labels that are compared with each other


def check_labels(
    inputs: Iterable[int], labels: Sequence[Sequence[str]], numbers: Sequence[int], unit: str = "line"
) -> list[str]:
    """What is odd about rows that are trained on, in words: the rows, and then their labels.

    Args:
        inputs: `input_hash` of each row, [N].
        labels: the labels of each row, [N].
        numbers: those of the rows, [N]; `unit` says what they count.
    """
    ids: dict[tuple[str, ...], int] = {}  # labels of a row -> a number for them
    targets = [ids.setdefault(tuple(sorted(row)), len(ids)) for row in labels]
    counts = Counter(chain.from_iterable(labels))
    found = oddities(np.fromiter(inputs, np.int64), np.array(targets, np.int64), numbers, unit)
    return found + label_oddities(counts, Counter(), sorted(counts))


def label_oddities(trained: Counter[str], evaluated: Counter[str], labels: Sequence[str]) -> list[str]:
    """What is odd about labels, in words: they may be misspelt, or no score covers them.

    Args:
        trained, evaluated: label -> number of rows; empty: nothing is evaluated.
        labels: all of them, in alphabetical order.
    """
    found = []
    same: dict[str, list[str]] = {}  # a label in small letters -> the labels that are equal to it in these
    for label in labels:
        same.setdefault(label.casefold(), []).append(f"'{label}'")
    for group in same.values():
        if len(group) > 1:
            found.append(f"the labels {', '.join(group)} differ only in case")
    found += [f"the labels '{one}' and '{other}' differ in one letter only" for one, other in _near(labels)]
    for label in labels:
        parts = split_labels(label)
        if label not in parts and not set(parts).isdisjoint(labels):
            found.append(f"if '{label}' are several labels of a text, add --multi_label true")
            break  # the first such label is an example enough
    absent = [f"'{label}'" for label in labels if label not in evaluated]
    if evaluated and absent:
        found.append(f"no dev row has one of these labels, so no score covers them: {listed(absent)}")
    rare = [label for label in labels if trained[label] < FEW_ROWS]
    for label in rare[:_MOST_RARE]:
        occurs = ("never occurs", "occurs once", "occurs twice")[trained[label]]
        larger_labels = [name for name in labels if trained[name] > trained[label]]
        similar = difflib.get_close_matches(label, larger_labels, n=1, cutoff=0.8)
        advice = f"; did you mean '{similar[0]}'?" if similar else ""
        found.append(f"the label '{label}' {occurs} in the training rows{advice}")
    if len(rare) > _MOST_RARE:
        found.append(f"{len(rare) - _MOST_RARE} more labels have fewer than {FEW_ROWS} training rows")
    return found


def _near(labels: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The pairs of labels that differ in one letter, which may be missing, but for case and digits."""
    if len(labels) > _MOST_COMPARED:
        return
    for one, other in combinations(labels, 2):
        shorter, longer = sorted((one.casefold(), other.casefold()), key=len)
        same = next((at for at, pair in enumerate(zip(shorter, longer)) if len({*pair}) > 1), len(shorter))
        is_near = shorter[same:] == longer[same + 1 :] or shorter[same + 1 :] == longer[same + 1 :]
        if shorter != longer and is_near and len(shorter) > 3 and longer[same].isalpha():
            yield one, other
