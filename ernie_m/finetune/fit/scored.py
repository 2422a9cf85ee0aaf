"""What models predict of units that they were not trained on: measures, how sure they are, and tables."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ernie_m.finetune.fit.units import CLASSES, LABELS, Units
from ernie_m.finetune.metrics import label_counts
from ernie_m.model.conventions import HELD_OUT
from ernie_m.utils.errors import printable
from ernie_m.utils.text_tables import in_columns

# What measures are called, if not as in reports.
_NAMES = {"acc": "accuracy", "f1": "F1", "macro f1": "macro F1", "micro f1": "micro F1", "em": "exact match"}
_NAMES |= {"pearson": "Pearson", "spearman": "Spearman"}
# Of so many parts at most each is left out once for the standard error; of fewer, if so many units are looked
# at in all.
_FEWEST_PARTS, _MOST_PARTS, _MOST_LOOKS = 20, 100, 100_000
_SURE = 0.95  # the share that is right of the rows whose label is sure
_FEWEST_SURE = 20  # rows, below which no such share is known
_LEAST_SURE = 5  # how many of the texts that a classifier is least sure of are shown
_WIDTH = 80  # how many characters of such a text are shown


@dataclass(frozen=True)
class Scored:
    """What models predict of units that they were not trained on.

    Attributes:
        units: all units of the table.
        numbers: the number of each unit that was predicted, int64 [N].
        outcomes: what is predicted of each; see `Units.outcomes`.
        groups: the number of each one's group, int64 [N]; see `ernie_m.finetune.fit.groups.groups_of`.
        folds: how many models there were; 0: one, of the whole table.
    """

    units: Units
    numbers: np.ndarray
    outcomes: Sequence[Any]
    groups: np.ndarray
    folds: int

    @property
    def labels(self) -> list[str]:
        """The label of each row, or its labels with commas between."""
        return [self.units.in_words(self.units.items[number].label) for number in self.numbers]

    @property
    def predicted(self) -> list[str]:
        """The predicted label of each row, or its labels with commas between."""
        return list(map(self.units.in_words, self.units.chosen(np.asarray(self.outcomes))))

    @property
    def probabilities(self) -> np.ndarray:
        """The probability of what is predicted of each row, [N]."""
        return self.units.sureness(np.asarray(self.outcomes))

    @cached_property
    def languages(self) -> list[str]:
        """The language of each unit; none: they are not known."""
        return [self.units.languages[number] for number in self.numbers] if self.units.languages else []

    def measures(self, places: Sequence[int] | None = None) -> dict[str, float]:
        """The measures of the units at these places, or of all, in per cent; the main one is first."""
        numbers, outcomes = self.numbers, self.outcomes
        if places is not None:
            numbers = numbers[places]
            outcomes = [outcomes[place] for place in places]
        measures = dict(self.units.measures(numbers, outcomes))
        main = self.units.task.metric
        return {main: measures.pop(main), **measures}

    @cached_property
    def standard_error(self) -> float:
        """That of the main measure: parts of the groups are left out in turn (a jackknife).

        The units of a group are right or wrong together, so they are left out together.
        """
        _, parts = np.unique(self.groups, return_inverse=True)
        count = parts.max() + 1
        most = min(_MOST_PARTS, max(_FEWEST_PARTS, _MOST_LOOKS // len(parts)))
        if count > most:
            parts = np.random.default_rng(1).permutation(count)[parts] % most
            count = most
        if count < 2:
            return float("nan")
        main = self.units.task.metric
        values = np.array([self.measures(np.flatnonzero(parts != part))[main] for part in range(count)])
        return float(np.sqrt((count - 1) * values.var()))

    def sure_from(self) -> float | None:
        """The least probability from which on 95 % of the rows are right; None: there is none, or no rows."""
        if self.units.kind not in (CLASSES, LABELS):
            return None
        probabilities = self.probabilities
        order = np.argsort(-probabilities, kind="stable")  # the surest row first
        is_right = self.units.are_right(self.numbers, np.asarray(self.outcomes))[order]
        descending = probabilities[order]
        counts = np.arange(1, len(order) + 1)  # of the rows up to each
        are_right = (is_right.cumsum() >= _SURE * counts) & (counts >= _FEWEST_SURE)
        is_last = np.append(np.diff(descending) != 0, True)  # the last of the rows with this probability
        chosen = descending[are_right & is_last]
        return float(chosen[-1]) if len(chosen) else None

    def summary(self) -> dict[str, Any]:
        """The measures, the standard error of the main one, and those of each label, or type of entities.

        Accuracy and macro F1 of classes have the keys "accuracy" and "macro_f1".
        """
        measures = {_key(name): value for name, value in self.measures().items()}
        counts = {"rows": len(self.numbers), "folds": self.folds}
        scores = {**measures, "standard_error": self.standard_error, **counts}
        confusion = self.units.confusion(self.numbers, self.outcomes)
        if confusion:
            scores["by_label"] = {
                self.units.given.get(label, label): {
                    self.units.counted[1]: counts.gold,
                    "precision": counts.precision,
                    "recall": counts.recall,
                    "f1": counts.f1,
                }
                for label, counts in sorted(label_counts(confusion).items())
            }
        return scores

    def kept(self) -> dict[str, Any]:
        """What config.json keeps of the scores, for `label`."""
        scores = {name: value for name, value in self.summary().items() if name != "by_label"}
        languages = sorted(set(self.languages))
        return {HELD_OUT: {**scores, "languages": languages, "sure_from": self.sure_from()}}


def _key(name: str) -> str:
    """The key of a measure in `Scored.summary`."""
    return _NAMES.get(name, name).lower().replace(" ", "_")


def tables_of_scores(scored: Scored, title: str = "") -> Iterator[str]:
    """The scores in words: of all units, by label or type, and by language if there are several.

    Args:
        title: what comes before the scores, such as "reviews.de.csv: ".
    """
    main, *others = scored.measures().items()
    more = "".join(f", {_shown(*measure)}" for measure in others)
    error = f"(standard error {scored.standard_error:.1f})"
    yield f"{title}{_shown(*main)} {error}{more}; {_origin_of_predictions(scored)}"
    by_label = scored.summary().get("by_label", {})
    lines = [
        [label, f"{count:,}", *(f"{share:.1f}" for share in shares)]
        for label, (count, *shares) in zip(by_label, map(dict.values, by_label.values()))
    ]
    if lines:
        yield in_columns([[*scored.units.counted, "precision", "recall", "F1"], *lines])
    if len(set(scored.languages)) > 1:
        yield in_columns(list(_lines_of_languages(scored)))


def _shown(name: str, value: float) -> str:
    return f"{_NAMES.get(name, name)} {value:.1f} %"


def _origin_of_predictions(scored: Scored) -> str:
    """Which models made the predictions, so that a reader sees that no model predicted its training texts."""
    count, noun = f"{len(scored.numbers):,}", scored.units.noun
    if not scored.folds:
        return f"of {count} {noun}"
    if scored.folds == 1:  # only one of the folds was held out
        return f"of {count} {noun} that a model of the others predicted"
    return f"each of {count} {noun} was predicted by a model of others, in {scored.folds} folds"


def _lines_of_languages(scored: Scored) -> Iterator[list[str]]:
    """The cells of the table by language."""
    yield ["language", scored.units.noun, *(_NAMES.get(name, name) for name in scored.measures())]
    for language, count in sorted(Counter(scored.languages).items()):
        places = [place for place, name in enumerate(scored.languages) if name == language]
        measures = scored.measures(places).values()
        yield [language or "(none)", f"{count:,}", *(f"{value:.1f}" for value in measures)]


def least_sure(scored: Scored) -> str:
    """The rows whose predicted label has the lowest probability."""
    units = scored.units
    inputs = units.inputs()
    labels = scored.labels
    predicted = scored.predicted
    shown = ["the texts that it is least sure of:"]
    for place in scored.probabilities.argsort(kind="stable")[:_LEAST_SURE]:
        number = scored.numbers[place]
        text = printable(inputs[number][0])
        text = text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"
        shown.append(
            f"  {units.place(number)}, {labels[place]}: {predicted[place]} with "
            f"{scored.probabilities[place]:.2f}: {text}"
        )
    return "\n".join(shown)


def words_of_warning(scored: Scored) -> Iterator[str]:
    """What the scores do not say: of which languages they are, and how sure a prediction is."""
    languages = sorted(set(scored.languages) - {""})
    if len(languages) < 2:
        if languages:
            whose = f"The score is of one language, {languages[0]}."
        else:
            whose = "No language is named, so the score is of the one that these texts are in."
        yield f"{whose} In others it is mostly lower: add {scored.units.noun} of each, and look with --test"
    if scored.units.kind in (CLASSES, LABELS):
        sure = scored.sure_from()
        percent = f"{100 * _SURE:.0f} %"
        if sure is None:
            yield f"No probability is sure: at none were {percent} of the rows right"
        else:
            yield f"Of the rows with a probability of {sure:.2f} or more {percent} were right"
