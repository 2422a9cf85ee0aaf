"""Accuracy, correlations, F1 of entities, and of the chunks that XTREME scores parts of speech by."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ernie_m.reader.tag_schemes import entities


class MatchCounts(NamedTuple):
    """Numbers of gold items, of predicted items, and of items that are both."""

    gold: int
    predicted: int
    correct: int

    @property
    def precision(self) -> float:
        """Per cent of the predicted items that are correct; 0 if none is predicted."""
        return 100 * self.correct / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """Per cent of the gold items that are predicted; 0 if there are none."""
        return 100 * self.correct / self.gold if self.gold else 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall; 0 if both are 0."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def seqeval_chunks(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """The (type, first, last) of each chunk that seqeval 1.2.2 finds in tags without B- and I-.

    XTREME's evaluate.py gives it such tags, and seqeval takes the first letter of a tag for a prefix and the
    rest for a type: NOUN is an N-OUN. This has consequences, which are kept:
      A run of equal tags is one chunk.
      Each SCONJ and SYM is one chunk by itself, because S- is a chunk of one word in IOBES.
      SCONJ and CCONJ have the same type, CONJ.
      X has the empty type of O: no chunk ends at an X before an O, and none begins at an X behind an O.
    """
    spans = set()
    first = 0  # the first word of the chunk that is being read
    last_prefix = "O"
    last_type = ""
    for index, tag in enumerate([*tags, "O"]):  # the last O ends a chunk at the end
        prefix = tag[0]
        # "OUN" of NOUN; of a tag with a "-" what is behind it; "_" is seqeval's empty type.
        type_ = tag[1:].split("-", 1)[-1] or "_"
        is_other_type = type_ != last_type
        # seqeval's rules for the prefixes of IOBES. It has two prefixes outside of chunks, "O" and ".".
        ends_before = last_prefix in "ES" or (last_prefix in "BI" and prefix in "BSO")
        starts_here = prefix in "BS" or (last_prefix in "ESO" and prefix in "EI")
        if ends_before or (is_other_type and last_prefix not in "O."):
            spans.add((last_type, first, index - 1))
        if starts_here or (is_other_type and prefix not in "O."):
            first = index
        last_prefix = prefix
        last_type = type_
    return spans


def entity_scores(
    gold: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str]],
    find: Callable[[Sequence[str]], set[tuple[str, int, int]]] = entities,
) -> MatchCounts:
    """Compare the tags of sentences: an entity is correct if its first word, its last and its type are.

    Args:
        find: tags -> the (type, first, last) of each entity. `entities` is for tags that mark entities, as
            conlleval has it, the script of CoNLL-2002 and 2003; `seqeval_chunks` for tags without B- and I-,
            such as parts of speech, as XTREME has it.
    """
    gold_entities = find(_in_a_row(gold))
    predicted_entities = find(_in_a_row(predicted))
    return MatchCounts(len(gold_entities), len(predicted_entities), len(gold_entities & predicted_entities))


def _in_a_row(sentences: Sequence[Sequence[str]]) -> list[str]:
    """The tags of all sentences, one after the other; an O behind each ends its entities."""
    return list(chain.from_iterable([*tags, "O"] for tags in sentences))


def accuracy(predicted: Sequence, labels: Sequence) -> float:
    """Per cent of `predicted` that equal `labels`; as many of both, at least one."""
    correct = sum(int(prediction == label) for prediction, label in zip(predicted, labels, strict=True))
    return correct / len(labels) * 100  # in this order, as XTREME's evaluate.py: the last digit depends on it


def pearson(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Pearson's correlation, in per cent; 0 if all numbers of one side are equal."""
    x = np.subtract(predicted, np.mean(np.asarray(predicted)))
    y = np.subtract(labels, np.mean(np.asarray(labels)))
    product_of_norms = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / product_of_norms) * 100 if product_of_norms else 0.0


def spearman(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Spearman's correlation, in per cent: that of the ranks, where equal numbers share their mean rank."""
    return pearson(_ranks(predicted), _ranks(labels))


def _ranks(values: ArrayLike) -> np.ndarray:
    """The rank of each number, from 1, float64 [n]. Equal numbers share the mean of their ranks."""
    # `distinct_places`: of each number, its place among the distinct ones in ascending order.
    _, distinct_places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last_ranks = np.cumsum(counts)  # the greatest rank of each distinct number
    return (last_ranks - (counts - 1) / 2)[distinct_places]  # the last rank less half of the others
