"""Entity precision, recall and F1, counted and printed as conlleval does, the script of CoNLL-2002 and 2003.

What an entity is, in regular and irregular sequences of tags, is seqeval's reading, which is conlleval's: it
begins at a B-, and at an I- that continues nothing of its type. An entity is right when its first word, its
last word and its type are.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Counts:
    """Entities: those there are, those predicted, those that are both."""

    gold: int
    predicted: int
    right: int

    @property
    def precision(self) -> float:
        """Per cent of the predicted that are right; 0 where nothing is predicted."""
        return 100 * self.right / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """Per cent of the gold that were found; 0 where there are none."""
        return 100 * self.right / self.gold if self.gold else 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of both; 0 where both are."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


@dataclass(frozen=True)
class EntityScores:
    """What conlleval knows of a file. `right_tags`: words whose tag is the same to the letter."""

    words: int
    right_tags: int
    by_type: dict[str, Counts] = field(default_factory=dict)

    @property
    def overall(self) -> Counts:
        counts = self.by_type.values()
        return Counts(*(sum(getattr(one, name) for one in counts) for name in ("gold", "predicted", "right")))

    def report(self) -> str:
        """conlleval's output, to the letter."""
        total = self.overall
        accuracy = 100 * self.right_tags / self.words if self.words else 0.0
        lines = [
            f"processed {self.words} tokens with {total.gold} phrases; found: {total.predicted} phrases; "
            f"correct: {total.right}.",
            f"accuracy: {accuracy:6.2f}%; {_shares(total)}",
        ]
        for type_, counts in self.by_type.items():
            lines.append(f"{type_:>17}: {_shares(counts)}  {counts.predicted}")
        return "\n".join(lines) + "\n"


def entity_scores(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> EntityScores:
    """Compare the tags of sentences. Types are in alphabetical order.

    Raises:
        ValueError: other numbers of sentences or tags in one than in the other.
    """
    if [len(tags) for tags in gold] != [len(tags) for tags in predicted]:
        raise ValueError("gold and predicted tags differ in number")
    there, found = _entities(gold), _entities(predicted)
    of_type = [Counter(type_ for type_, _, _ in entities) for entities in (there, found, there & found)]
    return EntityScores(
        sum(len(tags) for tags in gold),
        sum(a == b for ours, theirs in zip(gold, predicted) for a, b in zip(ours, theirs)),
        {type_: Counts(*(counts[type_] for counts in of_type)) for type_ in sorted(of_type[0] | of_type[1])},
    )


def _entities(sentences: Sequence[Sequence[str]]) -> set[tuple[str, int, int]]:
    """(type, first, last) with positions in the text as a whole; between two sentences stands an O."""
    # Imported here: it takes a second, and prediction does without it.
    from seqeval.metrics.sequence_labeling import get_entities

    return set(get_entities([tag for tags in sentences for tag in (*tags, "O")]))


def _shares(counts: Counts) -> str:
    return f"precision: {counts.precision:6.2f}%; recall: {counts.recall:6.2f}%; FB1: {counts.f1:6.2f}"
