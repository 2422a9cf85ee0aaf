"""Accuracy, correlations, entity F1, and the chunk F1 by which XTREME scores part-of-speech tags."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ernie_m.reader.tag_schemes import entities


class MatchCounts(NamedTuple):
    """Number of gold items, predicted items and correct items (true positives)."""

    gold: int
    predicted: int
    correct: int

    @property
    def precision(self) -> float:
        """Precision in percent; 0 without predicted items."""
        return 100 * self.correct / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """Recall in percent; 0 without gold items."""
        return 100 * self.correct / self.gold if self.gold else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, in percent; 0 if both are 0."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def seqeval_chunks(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Return (type, first, last) of each chunk that seqeval 1.2.2 finds in tags without B- and I-.
    XTREME's evaluate.py passes it such tags. seqeval takes the first letter as the prefix and the rest
    as its type, so NOUN is an N-OUN. The consequences are kept:
      A run of equal tags is one chunk.
      Each SCONJ and SYM is a chunk of its own, because S- is a one-word chunk in IOBES.
      SCONJ and CCONJ have the same type, CONJ.
      X has the same empty type as O: no chunk ends at an X before an O, and none begins at an X after an O.
    """
    spans = set()
    first = 0  # the first word of the current chunk
    last_prefix = "O"
    last_type = ""
    for index, tag in enumerate([*tags, "O"]):  # the added O closes the last chunk
        prefix = tag[0]
        # "OUN" of NOUN; the part after "-", if any; "_" is seqeval's empty type.
        type_ = tag[1:].split("-", 1)[-1] or "_"
        is_other_type = type_ != last_type
        # seqeval's rules for IOBES prefixes; "O" and "." are outside of chunks.
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
    """Count matching entities. An entity is correct if its first word, last word and type are.

    Args:
        find: tags -> (type, first, last) of each entity: `entities` as in conlleval, the script of CoNLL-2002
            and 2003, or `seqeval_chunks` for tags without B- and I-, such as parts of speech, as in XTREME.
    """
    gold_entities = find(_concatenate_tags(gold))
    predicted_entities = find(_concatenate_tags(predicted))
    return MatchCounts(len(gold_entities), len(predicted_entities), len(gold_entities & predicted_entities))


def _concatenate_tags(sentences: Sequence[Sequence[str]]) -> list[str]:
    """Return the tags of all sentences, concatenated, with an O after each sentence to close its entities."""
    return list(chain.from_iterable([*tags, "O"] for tags in sentences))


def accuracy(predicted: Sequence, labels: Sequence) -> float:
    """Return the accuracy in percent. Both sequences have the same length, at least one."""
    correct = sum(int(prediction == label) for prediction, label in zip(predicted, labels, strict=True))
    return correct / len(labels) * 100  # in XTREME's order, which the last digit depends on


def pearson(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Return Pearson's correlation in percent; 0 if either side is constant."""
    x = np.subtract(predicted, np.mean(np.asarray(predicted)))
    y = np.subtract(labels, np.mean(np.asarray(labels)))
    product_of_norms = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / product_of_norms) * 100 if product_of_norms else 0.0


def spearman(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Return Spearman's rank correlation in percent; ties get their mean rank."""
    return pearson(_ranks(predicted), _ranks(labels))


def _ranks(values: ArrayLike) -> np.ndarray:
    """Return the rank of each number, from 1, float64 [n]; ties get their mean rank."""
    # `distinct_indices`: the index of each number among the distinct ones in ascending order.
    _, distinct_indices, counts = np.unique(values, return_inverse=True, return_counts=True)
    last_ranks = np.cumsum(counts)  # the highest rank of each distinct number
    return (last_ranks - (counts - 1) / 2)[distinct_indices]  # the mean of the ranks of ties
