"""What is odd about labelled rows, in words: one function for every way in."""

import difflib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import chain, combinations

import numpy as np

from ernie_m.reader.files.labels import split_labels
from ernie_m.utils.errors import listed

FEW_ROWS = 3  # a label with fewer training rows may be a slip, and is hardly learned
_MOST_RARE = 10  # so many of them are named
_MOST_COMPARED = 200  # labels that are compared with each other
_MOST_OF_ONE = 0.95  # the greatest share of one label without a warning


def check_labels(
    inputs: np.ndarray,
    targets: np.ndarray,
    place: Callable[[int], str],
    trained: Counter[str] | None = None,
    evaluated: Counter[str] | None = None,
    labels: Sequence[str] = (),
    trained_inputs: np.ndarray | None = None,
    noun: str = "rows",
) -> list[str]:
    """What is odd about the rows of a file, and about the labels that are learned from them.

    Args:
        inputs: `input_hash` of each row, int64 [N].
        targets: a number for the label, or the labels, of each row, int64 [N]; [0]: there are none.
        place: the number of a row -> where it stands, in words.
        trained: label -> number of rows, if these rows are trained on.
        evaluated: the same of the rows that select a step; none: nothing does.
        labels: all that the model has, in alphabetical order; none: those that are trained on.
        trained_inputs: if rows are evaluated on, `input_hash` of each that is trained on, int64 [M].
        noun: what the rows are called.
    """
    found = []
    if len(targets):
        order = np.lexsort((targets, inputs))  # rows of one input stand together, by their labels
        # Of each row and the next in this order: whether the input is the same, and the label another.
        is_same_input = np.diff(inputs[order]) == 0
        is_other_label = np.diff(targets[order]) != 0
        conflicts = np.flatnonzero(is_same_input & is_other_label)
        if len(conflicts):
            count = len(np.unique(inputs[order][conflicts]))
            first, second = sorted(order[conflicts[0] : conflicts[0] + 2].tolist())
            texts = "1 text has" if count == 1 else f"{count:,} texts have"
            found.append(
                f"{texts} two labels, as in {place(first)} and {place(second)}; no model can learn both"
            )
        share = np.unique(targets, return_counts=True)[1].max() / len(targets)
        if share > _MOST_OF_ONE:
            found.append(
                f"{100 * share:.1f} % of the rows have one label: a model that knows nothing else seems good"
            )
    if trained:
        found += _oddities(trained, evaluated or Counter(), labels or sorted(trained))
    known = 0 if trained_inputs is None else int(np.isin(inputs, trained_inputs).sum())
    if known:
        count = f"{known:,} of {len(inputs):,} {noun}"
        found.append(f"{count} have a text that is trained on, so scores on them are too good")
    return found


def count_labels(targets: np.ndarray, labels_of: Mapping[int, Sequence[str]]) -> Counter[str]:
    """Label -> number of rows.

    Args:
        targets: a number for the labels of each row, int64 [N].
        labels_of: such a number -> the labels.
    """
    counts: Counter[str] = Counter()
    for target, count in zip(*np.unique(targets, return_counts=True)):
        counts.update(dict.fromkeys(labels_of[target], int(count)))
    return counts


def _oddities(trained: Counter[str], evaluated: Counter[str], labels: Sequence[str]) -> list[str]:
    """What is odd about labels, in words: they may be misspelt, or no score covers them."""
    found = []
    same: dict[str, list[str]] = {}  # a label in small letters -> the labels that are equal to it in these
    for label in labels:
        same.setdefault(label.casefold(), []).append(f"'{label}'")
    for group in same.values():
        if len(group) > 1:
            found.append(f"the labels {', '.join(group)} differ only in case")
    found += [f"the labels '{one}' and '{other}' differ in one letter only" for one, other in _near(labels)]
    several = several_in(labels)
    if several:
        found.append(f"if '{several}' are several labels of a text, add --multi_label true")
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


def several_in(labels: Collection[str]) -> str | None:
    """The first label that may be several, as "billing,service"; None: there is none.

    One of its parts is a label, too, or a part of another label.
    """
    parts_of = {label: split_labels(label) for label in labels}
    counts = Counter(chain.from_iterable(parts_of.values()))
    for label, parts in parts_of.items():
        if label not in parts and any(counts[part] > 1 or part in parts_of for part in parts):
            return label
    return None


def _near(labels: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The pairs of labels that differ in one letter, which may be missing, but for case and digits."""
    if len(labels) > _MOST_COMPARED:
        return
    for one, other in combinations(labels, 2):
        shorter, longer = sorted((one.casefold(), other.casefold()), key=len)
        are_same = [letter == other_letter for letter, other_letter in zip(shorter, longer)]
        same = [*are_same, False].index(False)  # so many letters at the beginning
        is_one_missing = shorter[same:] == longer[same + 1 :]
        is_one_changed = shorter[same + 1 :] == longer[same + 1 :]
        is_near = shorter != longer and (is_one_missing or is_one_changed)
        if is_near and len(shorter) > 3 and longer[same].isalpha():
            yield one, other
