"""Questions with contexts that hold their answers, from which `fit` learns to answer."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ernie_m.finetune.fit.units import ANSWERS, Units, known_languages, language_of
from ernie_m.finetune.flags import FinetuneFlags
from ernie_m.finetune.open_model import OpenedModel
from ernie_m.finetune.tasks.answer_scores import answer_scores, normalize, rules_language
from ernie_m.finetune.tasks.question_answering import QuestionAnswering
from ernie_m.reader.files.own_files import LabelledFile
from ernie_m.reader.files.squad import Question, QuestionFile, read_squad
from ernie_m.reader.label_map import named_language
from ernie_m.reader.question_answering import AnswerWindows, make_windows
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger

_MOST_MISPLACED = 0.1  # the greatest share of questions whose answers are not at their places
_SHOWN = 5  # so many of them are named
_WINDOW = 384  # tokens of a question and a part of its context, as in the official recipe


@dataclass
class Questions(Units):
    """Questions with contexts that hold their answers. `items`: the `Question`s of all `contexts`.

    Attributes:
        left_out: questions of the files, none of whose answers stands in the context.
    """

    contexts: Sequence[str] = ()
    left_out: Sequence[Question] = ()
    kind = ANSWERS
    noun = "questions"
    max_seq_len = _WINDOW

    def check(self, name: str) -> None:
        super().check(name)
        questions = [*self.left_out, *self.items]
        misplaced = [question for question in questions if question.span is None]
        if len(misplaced) > _MOST_MISPLACED * len(questions):
            shown = ", ".join(question.id for question in misplaced[:_SHOWN])
            raise UserError(
                f"{name}: {len(misplaced):,} of {len(questions):,} questions have no answer that stands in "
                f"the context at its answer_start, as {shown}; it counts characters, from 0"
            )

    def open(self, opened: OpenedModel, flags: FinetuneFlags) -> None:
        self.task = QuestionAnswering.from_flags(flags, opened.tokenizer, opened.checkpoint)

    def inputs(self) -> list[Sequence[str]]:
        """The contexts, so that no question is held out while another one on its context is learned."""
        return [[self.contexts[question.context]] for question in self.items]

    def training(self, numbers: Sequence[int]) -> AnswerWindows:
        return self._windows(numbers, keep_all=False)

    def to_predict(self, numbers: Sequence[int]) -> AnswerWindows:
        return self._windows(numbers, keep_all=True)

    def _windows(self, numbers: Sequence[int], keep_all: bool) -> AnswerWindows:
        """The windows of some questions; with `keep_all` also those without the answer."""
        places: dict[int, int] = {}  # the number of a context -> its number among those that are used
        questions: list[Question] = []
        for number in numbers:
            question = self.items[number]
            place = places.setdefault(question.context, len(places))
            questions.append(question._replace(context=place))
        file = QuestionFile(None, [self.contexts[context] for context in places], questions)
        return make_windows(file, self.task.tokenizer, self.task.cut, keep_all)

    def outcomes(self, data: AnswerWindows, predictions: Sequence[Any]) -> list[str]:
        return self.task.texts(data, predictions)

    def measures(self, numbers: Sequence[int], outcomes: Sequence[Any]) -> Mapping[str, float]:
        """F1 and exact match are means over questions, by the rules of the language of each."""
        rows_of: dict[str, list] = {}  # language -> (predicted text, accepted answers)
        for number, text in zip(numbers, outcomes, strict=True):
            language = self.languages[number] if self.languages else ""
            rows_of.setdefault(language, []).append((text, self.items[number].answers))
        sums: Counter[str] = Counter()
        for language, rows in rows_of.items():
            scores = answer_scores(rows, language or "en")
            # The update of a Counter adds.
            sums.update({name: score * len(rows) / len(numbers) for name, score in scores.items()})
        return dict(sums)


def read(files: Sequence[LabelledFile]) -> Questions:
    """The questions of files; see `ernie_m.finetune.fit.read_units.read_units`.

    One without an answer that stands in the context, as the scorers compare texts, is left out: no model that
    answers from the context could be right. run_mrc counts it as wrong, as the official scorers do.

    Raises:
        UserError: as `read_squad`, or no question of a file is left.
    """
    contexts: list[str] = []
    items: list[Question] = []
    left_out: list[Question] = []
    counts = []
    files = [file._replace(language=named_language(file.path.name) or file.language) for file in files]
    for file in files:
        read = read_squad(file.path)
        language = rules_language(language_of(file) or file.path.name)
        kept: list[Question] = []
        others: list[Question] = []
        for question in read.questions:
            stands = _stands_in(question, read.contexts[question.context], language)
            (kept if stands else others).append(question)
        if not kept:
            raise UserError(f"{file.path}: no question has an answer that stands in its context")
        if others:
            logger.warning(
                "%s: %d of %d questions are left out, and not scored: no answer stands in the context; the "
                "first: %s",
                file.path,
                len(others),
                len(read.questions),
                others[0].id,
            )
        items += [question._replace(context=question.context + len(contexts)) for question in kept]
        left_out += others
        contexts += read.contexts
        counts.append(len(kept))
    return Questions(items, known_languages(files, counts), contexts=contexts, left_out=left_out)


def _stands_in(question: Question, context: str, language: str) -> bool:
    """Whether an answer to a question stands anywhere in its context, as the scorers compare texts."""
    texts = question.answers
    if not any(text.strip() and text in context for text in texts):  # which is quick
        context, *texts = (f" {' '.join(normalize(text, language))} " for text in (context, *texts))
    return any(text.strip() and text in context for text in texts)


def of(texts: Sequence[tuple[str, str]], labels: Sequence[str], languages: Sequence[str]) -> Questions:
    """Questions, each with its context, and the answer to each as its context has it, to learn from."""
    items = []
    for number, ((question, context), answer) in enumerate(zip(texts, labels)):
        start = context.find(answer)
        items.append(Question(str(number), question, number, (answer,), (start, start + len(answer))))
    return Questions(items, languages, contexts=[context for _, context in texts])
