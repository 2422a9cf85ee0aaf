"""What `fit` learns from, in units: rows of a table, tagged sentences, or questions.

A unit is held out, predicted and scored as a whole. The tasks and their measures are those of the `run_*`
commands.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ernie_m.finetune.base_task import SupervisedTask
from ernie_m.finetune.fit.folds import single_text
from ernie_m.finetune.flags import FinetuneFlags
from ernie_m.finetune.metrics import MACRO_F1, Confusion, macro_f1
from ernie_m.finetune.open_model import OpenedModel
from ernie_m.finetune.tasks.classification import Classification
from ernie_m.finetune.tasks.multi_label import MultiLabelClassification
from ernie_m.finetune.tasks.regression import Regression
from ernie_m.model.conventions import COLUMNS, GIVEN
from ernie_m.model.tasks import (
    CLASSIFICATION,
    MULTI_LABEL,
    QUESTION_ANSWERING,
    REGRESSION,
    TOKEN_CLASSIFICATION,
)
from ernie_m.reader.batching import Example
from ernie_m.reader.check_labels import check_labels, count_labels
from ernie_m.reader.files.labels import input_hash
from ernie_m.reader.files.own_files import LabelledFile
from ernie_m.reader.label_map import ALL_LANGUAGES
from ernie_m.tokenizer.tokenizer import Tokenizer
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger

# What --task names.
CLASSES, LABELS, TAGS, ANSWERS, SCORE = (
    CLASSIFICATION,
    MULTI_LABEL,
    TOKEN_CLASSIFICATION,
    QUESTION_ANSWERING,
    REGRESSION,
)
TASKS = (CLASSES, LABELS, TAGS, ANSWERS, SCORE)
MAX_SEQ_LEN = 256  # tokens of a text, or of a pair
_MOST_LABELS = 1000


@dataclass
class Units:
    """Units to learn from.

    Attributes:
        items: what each unit is.
        languages: the language of each unit; none: they are not known.
        ids: the id of each unit, "" if it has none; none: there are no ids.
        places: where each row stands, for messages: "line 3".
        given: a label -> what a user of Python gave for it; {}: labels are called as they are.
        columns: see `LabelledTable`.
        task: what is learned, made by `open`.
    """

    items: Sequence[Any]
    languages: Sequence[str] = ()
    ids: Sequence[str] = ()
    places: Sequence[str] = ()
    given: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    task: SupervisedTask = field(init=False, repr=False)

    kind: ClassVar[str]
    noun: ClassVar[str] = "rows"
    counted: ClassVar[tuple[str, str]] = ("label", "rows")  # what has scores of its own, and is counted
    max_seq_len: ClassVar[int] = MAX_SEQ_LEN

    def __len__(self) -> int:
        return len(self.items)

    def check(self, name: str) -> None:
        """Refuse units of which nothing could be learned, or scored.

        Args:
            name: what has them.

        Raises:
            UserError: begins with the name.
        """
        if single_text(self.inputs(), [""] * len(self)) is not None:
            raise UserError(
                f"{name}: all {len(self):,} {self.noun} have the same text; a score needs two texts at least"
            )

    def open(self, opened: OpenedModel, flags: FinetuneFlags) -> None:
        """Make the task for a model."""
        raise NotImplementedError

    def kept(self) -> dict[str, Any]:
        """What config.json keeps of the labels and of the columns of the table."""
        return {COLUMNS: dict(self.columns)} if self.columns else {}

    def inputs(self) -> list[Sequence[str]]:
        """The texts of each unit. Units with equal ones are held out together."""
        raise NotImplementedError

    def labels(self) -> list[str]:
        """The label of each unit, for labels are spread over the folds."""
        return [""] * len(self)

    def label_lists(self) -> list[list[str]]:
        """The labels of each unit, to be compared and counted; none: the units have no labels."""
        return []

    def about_labels(self) -> str:
        """What there is to learn, in words, with a comma before; "": nothing that is known."""
        return ""

    def place(self, number: int) -> str:
        """Where a unit stands, for messages."""
        return self.places[number] if self.places else f"index {number}"

    def hashes(self) -> np.ndarray:
        """`input_hash` of each unit, int64 [N]."""
        return np.array([input_hash(*texts) for texts in self.inputs()], np.int64)

    def warn_of_labels(self, name: str) -> None:
        """Warn of what is odd about units to learn from, and their labels. `name`: that of the file."""
        labels_of: dict[int, list[str]] = {}
        targets = []
        for labels in self.label_lists():
            targets.append(hash(tuple(sorted(labels))))
            labels_of[targets[-1]] = labels
        targets = np.array(targets, np.int64)
        for fault in check_labels(self.hashes(), targets, self.place, count_labels(targets, labels_of)):
            logger.warning("%s: %s", name, fault)

    def warn_of_learned(self, name: str, learned: "Units") -> None:
        """Warn of units of a test whose texts are learned from. `name`: that of the file."""
        hashes = learned.hashes()
        for fault in check_labels(self.hashes(), (), self.place, trained_inputs=hashes, noun=self.noun):
            logger.warning("%s: %s", name, fault)

    def training(self, numbers: Sequence[int]) -> Sequence[Any]:
        """The data set to train on, of the units with these numbers."""
        return [self.items[number] for number in numbers]

    def to_predict(self, numbers: Sequence[int]) -> Sequence[Any]:
        """The data set to predict, of the units with these numbers."""
        return self.training(numbers)

    def outcomes(self, data: Sequence[Any], predictions: Sequence[Any]) -> list[Any]:
        """What is predicted of each unit, as JSON values, from the predictions of the items of a data set."""
        return [np.asarray(prediction).tolist() for prediction in predictions]

    def measures(self, numbers: Sequence[int], outcomes: Sequence[Any]) -> Mapping[str, float]:
        """The scores of what was predicted of some units, in per cent; `task.metric` names the main one."""
        return self.task.score(self.training(numbers), outcomes, "")

    def confusion(self, numbers: Sequence[int], outcomes: Sequence[Any]) -> Confusion:
        """Which labels were predicted of which; {}: there are none."""
        return {}


@dataclass
class Classes(Units):
    """Texts, or pairs of texts, with a label each. `items`: `Example`s, whose label is an id.

    Attributes:
        names: all labels, in the order of their ids.
    """

    names: Sequence[str] = ()
    kind = CLASSES

    @classmethod
    def of(
        cls,
        inputs: Sequence[Sequence[str]],
        labels: Sequence[Any],
        names: Sequence[str] | None = None,
        **known: Any,
    ) -> "Classes":
        """Take texts, or pairs, and their labels in their normal form.

        Args:
            names: all labels; None: those that occur.
            known: further attributes.
        """
        names = sorted(cls.names_of(labels)) if names is None else names
        ids = {name: id_ for id_, name in enumerate(names)}
        items = [
            Example(*texts, label=cls.value(label, ids)) for texts, label in zip(inputs, labels, strict=True)
        ]
        return cls(items, names=names, **known)

    def check(self, name: str) -> None:
        count = len(self.names)
        if count < 2:
            only = f"the label '{self.names[0]}'" if count else "no label"
            raise UserError(f"{name}: all {len(self):,} rows have {only}; two labels are needed at least")
        if count > _MOST_LABELS:
            raise UserError(
                f"{name}: {count:,} labels in {len(self):,} rows, and {_MOST_LABELS:,} are possible; if "
                "another column has the labels, name it: --label COLUMN"
            )
        labels = self.labels()
        row = single_text(self.inputs(), labels)
        if row is not None:
            raise UserError(
                f"{name}, {self.place(row)}: the label '{labels[row]}' has one text, and a score needs two; "
                "add one, or remove the line"
            )

    @staticmethod
    def names_of(labels: Sequence[Any]) -> set[str]:
        return set(labels)

    @staticmethod
    def value(label: Any, ids: Mapping[str, int]) -> Any:
        """A label as `Example.label`."""
        return ids[label]

    def open(self, opened: OpenedModel, flags: FinetuneFlags) -> None:
        self.make_task(opened.tokenizer, flags.max_seq_len)
        self.task.look_at(self.items, flags.train_set)

    def label_lists(self) -> list[list[str]]:
        return [[label] for label in self.labels()]

    def about_labels(self) -> str:
        return f", {len(self.names)} labels"

    def make_task(self, tokenizer: Tokenizer, max_seq_len: int, prompt: str = "") -> None:
        self.task = Classification(tokenizer, self.names, max_seq_len, prompt=prompt)

    def kept(self) -> dict[str, Any]:
        labels = [self.given.get(name, name) for name in self.names]
        return super().kept() | ({} if labels == list(self.names) else {GIVEN: labels})

    def inputs(self) -> list[Sequence[str]]:
        return [[item.text_a] if item.text_b is None else [item.text_a, item.text_b] for item in self.items]

    def labels(self) -> list[str]:
        return [self.names[item.label] for item in self.items]

    def measures(self, numbers: Sequence[int], outcomes: Sequence[Any]) -> Mapping[str, float]:
        outcomes = list(np.asarray(outcomes))
        scores = self.task.score(self.training(numbers), outcomes, "")
        return {**scores, MACRO_F1: macro_f1(self.task.confusion(self.training(numbers), outcomes))}

    def confusion(self, numbers: Sequence[int], outcomes: Sequence[Any]) -> Confusion:
        return self.task.confusion(self.training(numbers), list(np.asarray(outcomes)))

    def sureness(self, outcomes: np.ndarray) -> np.ndarray:
        """The probability of what is predicted of each row, [N], from those of the labels, [N, C]."""
        return outcomes.max(axis=1)

    def chosen(self, outcomes: np.ndarray) -> np.ndarray:
        """What is predicted of each row, as `Example.label`: [N], or [N, C] of several labels."""
        return outcomes.argmax(axis=1)

    def are_right(self, numbers: Sequence[int], outcomes: np.ndarray) -> np.ndarray:
        """Whether what is predicted of each row is right, bool [N]."""
        labels = np.array([self.items[number].label for number in numbers])
        return (self.chosen(outcomes) == labels).reshape(len(labels), -1).all(axis=1)

    def in_words(self, label: Any) -> str:
        """The name of a label, or the names of several."""
        return self.names[label]


@dataclass
class SeveralLabels(Classes):
    """Texts, or pairs of texts, with any number of labels each: for each label whether the text has it."""

    kind = LABELS

    def check(self, name: str) -> None:
        Units.check(self, name)
        if not self.names:
            raise UserError(f"{name}: no row has a label")
        if all(all(item.label) for item in self.items):
            raise UserError(f"{name}: every row has every label; there is nothing to learn")

    @staticmethod
    def names_of(labels: Sequence[Any]) -> set[str]:
        return set().union(*labels)

    @staticmethod
    def value(label: Any, ids: Mapping[str, int]) -> Any:
        return tuple(int(name in label) for name in ids)

    def make_task(self, tokenizer: Tokenizer, max_seq_len: int, prompt: str = "") -> None:
        self.task = MultiLabelClassification(tokenizer, self.names, max_seq_len, prompt=prompt)

    def labels(self) -> list[str]:
        """The rarest label of each row; "": it has none."""
        labels_of = self.label_lists()
        counts = Counter(name for names in labels_of for name in names)
        return [min(names, key=counts.__getitem__, default="") for names in labels_of]

    def label_lists(self) -> list[list[str]]:
        return [[name for name, has in zip(self.names, item.label) if has] for item in self.items]

    def sureness(self, outcomes: np.ndarray) -> np.ndarray:
        """The probability of the least sure decision of each row."""
        return np.maximum(outcomes, 1 - outcomes).min(axis=1)

    def chosen(self, outcomes: np.ndarray) -> np.ndarray:
        return outcomes > 0.5

    def in_words(self, label: Any) -> str:
        return ", ".join(name for name, has in zip(self.names, label) if has) or "no label"


@dataclass
class Numbers(Classes):
    """Texts, or pairs of texts, with a number each, such as how well a text answers a query."""

    kind = SCORE

    def check(self, name: str) -> None:
        Units.check(self, name)
        if len({item.label for item in self.items}) < 2:
            raise UserError(
                f"{name}: every row has the number {self.items[0].label:g}; there is nothing to learn"
            )

    @staticmethod
    def names_of(labels: Sequence[Any]) -> set[str]:
        return set()

    @staticmethod
    def value(label: Any, ids: Mapping[str, int]) -> Any:
        return float(label)

    def make_task(self, tokenizer: Tokenizer, max_seq_len: int, prompt: str = "") -> None:
        self.task = Regression(tokenizer, max_seq_len)

    def about_labels(self) -> str:
        numbers = [item.label for item in self.items]
        return f", numbers from {min(numbers):g} to {max(numbers):g} (mean {np.mean(numbers):.3g})"

    # Numbers are no classes: they are neither spread over the folds nor counted label by label.
    labels = Units.labels
    label_lists = Units.label_lists
    measures = Units.measures


def language_of(file: LabelledFile) -> str:
    """The language of a file, as its name says it, or ""."""
    return "" if file.language == ALL_LANGUAGES else file.language


def known_languages(files: Sequence[LabelledFile], counts: Sequence[int]) -> list[str]:
    """The language of each unit, from the names of the files; none: no name says it."""
    languages = [language_of(file) for file in files]
    if not any(languages):
        return []
    return [language for language, count in zip(languages, counts) for _ in range(count)]
