"""Input files of `ernie-m predict` in the formats of training data: tagged words, and questions."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any, Self

from ernie_m.finetune.eval_mlqa import has_answers, score_answers
from ernie_m.finetune.metrics import count_entity_matches, format_score
from ernie_m.inference.tasks import InputFile, Predictor
from ernie_m.inference.tasks.finetuned import TaggingPredictor
from ernie_m.reader.files.conll import read_lines, read_tagged_words
from ernie_m.reader.files.labeled_tables import is_question_file, is_tagged_file
from ernie_m.reader.files.plain_text import LINES, OBJECTS, TAGS, detect_format
from ernie_m.reader.files.row_errors import RowErrors
from ernie_m.reader.files.squad import read_squad
from ernie_m.reader.files.table_options import TableOptions
from ernie_m.reader.tag_schemes import JOINT, OUTSIDE, find_entities
from ernie_m.utils.errors import join_items
from ernie_m.utils.files import read_bytes

_TAGS = "predicted_tags"  # the key or column added to a line of tagged words


class TaggedFile(InputFile):
    """A file of tagged words, written with the predicted tags as an additional column.

    In JSON lines and in the official format, with one sentence per line, a cell has the tags of all words. A
    JSON list becomes JSON lines of words and predicted tags.

    Args:
        labels: the labels of the model.
        iobes: predicted tag -> its tag in the IOBES scheme; empty: the tags do not mark entities.
        options: the options for reading the file.

    Raises:
        UserError: see `read_tagged_words`.
    """

    def __init__(
        self, path: Path, labels: Sequence[str], iobes: Mapping[str, str], options: TableOptions
    ) -> None:
        # Words without tags may be predicted. An entity tag O is not scored, nor is another tag "".
        missing_tag = OUTSIDE if iobes else ""
        self._sentences = read_tagged_words(path, iobes.keys() or None, options, missing_tag)
        self._lines = read_lines(path, options)
        self._locations = [sentence.lines[0] for sentence in self._sentences]
        is_list = detect_format(path) == OBJECTS and self._lines[0].lstrip().startswith("[")
        if is_list:  # a line may have several of its objects
            self._lines = [json.dumps({"words": each.words}, ensure_ascii=False) for each in self._sentences]
            self._sentences = [
                sentence._replace(lines=[number] * len(sentence.words))
                for number, sentence in enumerate(self._sentences, 1)
            ]
        self._iobes = iobes
        self._labels = labels
        self.formats = (OBJECTS,) if detect_format(path) == OBJECTS else (TAGS, detect_format(path) or LINES)
        self._written: dict[str, str] = {}  # tag in the IOBES scheme -> tag in the scheme of the file
        for sentence in self._sentences:
            self._written |= zip(sentence.tags, sentence.written)
        self._tags: list[list[str]] = []  # predicted tags of each sentence with a prediction
        self._gold: list[list[str]] = []

    @classmethod
    def try_open(cls, path: Path, options: TableOptions, predictor: TaggingPredictor) -> Self | None:
        """Open the file if it contains tagged words; otherwise return None."""
        is_one = options.columns or is_tagged_file(path)
        return cls(path, predictor.model.labels, predictor.iobes, options) if is_one else None

    def iter_requests(self, errors: RowErrors) -> Iterator[tuple[int, dict, dict]]:
        for line, sentence in zip(self._locations, self._sentences):
            yield line, {}, {"words": sentence.words}

    def write(self, rows: Iterable[tuple[Any, dict]], file: IO[str]) -> None:
        added: dict[int, list[str]] = {}  # line number -> the predicted tags of its words
        for sentence, (_, prediction) in zip(self._sentences, rows, strict=True):
            if prediction:
                self._tags.append(prediction["tags"])
                self._gold.append(sentence.tags)
            for line, tag in zip(sentence.lines, self._convert_to_file_scheme(prediction.get("tags", ()))):
                added.setdefault(line, []).append(tag)
        words = {sentence.lines[0]: sentence.words for sentence in self._sentences}
        for number, line in enumerate(self._lines, 1):
            if number in added and line.startswith("{"):
                values = json.loads(line)
                if words[number] not in values.values():  # spans of an annotation tool
                    values["words"] = words[number]
                line = json.dumps({**values, _TAGS: added[number]}, ensure_ascii=False)
            elif number in added:
                line += ("\t" if "\t" in line else " ") + JOINT.join(added[number])
            elif number == 1 and JOINT in "".join(self._lines[1:2]):  # the header of the official format
                line += f"\t{_TAGS}"
            file.write(f"{line}\n")

    def _convert_to_file_scheme(self, tags: Sequence[str]) -> list[str]:
        """Convert predicted tags to the scheme of the file; tags that do not occur in it are kept."""
        iobes = [self._iobes.get(tag, OUTSIDE) for tag in tags]
        written = [self._written.get(in_iobes, tag) for in_iobes, tag in zip(iobes, tags)]
        for type_, first, last in find_entities(iobes):
            letters = ["SBEI"] if first == last else ["BI", *["I"] * (last - first - 1), "EI"]
            for index, choices in enumerate(letters, first):  # in order of preference
                cells = [self._written.get(f"{letter}-{type_}") for letter in choices]
                written[index] = next(filter(None, cells), tags[index])
        return written

    def format_summary(self) -> list[str]:
        """Return the number of sentences, the metrics of the predicted tags, and the unknown gold tags."""
        count = f"{len(self._tags):,} sentences"
        start = 2 if self._iobes else 0  # of the type in a tag
        trained = {tag[start:] for tag in [*self._iobes.values()] or self._labels}
        given = {tag[start:] for tag in chain.from_iterable(self._gold)} - {""}
        unknown = sorted(given - trained)
        names = join_items(sorted(trained - {""}))
        end = f"; unknown: {join_items(unknown)} (trained on: {names})" * bool(unknown)
        if unknown and given.isdisjoint(trained):
            return [f"{count}: no score{end}"]
        if self._iobes:
            tags = [[self._iobes.get(tag, OUTSIDE) for tag in sentence] for sentence in self._tags]
            scores = count_entity_matches(self._gold, tags)
            if not scores.gold:
                return [f"{count}, {scores.predicted:,} entities"]
            more = f"precision {format_score(scores.precision)} %, recall {format_score(scores.recall)} %"
            return [f"{count}: F1 {format_score(scores.f1)} % ({scores.gold:,} entities), {more}{end}"]
        pairs = zip(chain.from_iterable(self._tags), chain.from_iterable(self._gold), strict=True)
        are_right = [tag == gold for tag, gold in pairs if gold]
        if not are_right:
            return [count]
        share = 100 * sum(are_right) / len(are_right)
        return [f"{count}: accuracy {share:.1f} % of the words{end}"]


class QuestionsFile(InputFile):
    """A file of questions in SQuAD format. Predictions are written as JSON lines with the question ids.

    Raises:
        UserError: see `read_squad`.
    """

    def __init__(self, path: Path, options: TableOptions):
        options.reject_unused(path, "questions in SQuAD format")
        has_answers = re.search(rb'"answers"\s*:\s*\[?\s*\{', read_bytes(path))
        self._file = read_squad(path, "dev" if has_answers else "test")
        self._rows: list[tuple[str, tuple[str, ...]]] = []  # predicted answer, and gold answers

    @classmethod
    def try_open(cls, path: Path, options: TableOptions, predictor: Predictor) -> Self | None:
        """Open the file if it contains questions in SQuAD format; otherwise return None."""
        return cls(path, options) if is_question_file(path, squad_only=True) else None

    def iter_requests(self, errors: RowErrors) -> Iterator[tuple[int, dict, dict]]:
        for number, question in enumerate(self._file.questions, 1):
            context = self._file.contexts[question.context]
            yield number, {"id": question.id}, {"question": question.text, "context": context}

    def write(self, rows: Iterable[tuple[Any, dict]], file: IO[str]) -> None:
        for question, (request, prediction) in zip(self._file.questions, rows, strict=True):
            file.write(json.dumps(request.entry | prediction, ensure_ascii=False) + "\n")
            if prediction and question.answers:
                self._rows.append((prediction["answer"], question.answers))

    def format_summary(self) -> list[str]:
        """Return the number of questions, and MLQA's F1 and exact match if there are gold answers."""
        count = f"{len(self._file.questions):,} questions"
        if not has_answers(answers for _, answers in self._rows):
            return [count]
        scores = score_answers(self._rows, self._file.path.name)
        return [f"{count}: F1 {format_score(scores['f1'])} %, exact match {format_score(scores['em'])} %"]
