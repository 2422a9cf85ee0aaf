"""Answers of fine-tuned models: classes, tags, and answers to questions.

Features and decoding are those of the training tasks in `finetune`, with the settings that training recorded.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from finetune.classification import Classification
from finetune.question_answering import Answer, QuestionAnswering
from finetune.tagging import Tagging
from finetune.task import Task
from inference.loading import Loaded
from inference.requests import text_of
from inference.tasks import ANSWER_WINDOW, TaskOptions
from reader.bitext import batches_by_length
from reader.classification import Example
from reader.question_answering import Question, QuestionFile, make_windows
from reader.tagging import JOINT, Sentence, entity_starts
from utils.errors import UserError


class FineTunedTask:
    """The base of all: a training task, whose features and decoding are used, and an engine for its head."""

    def __init__(self, model: Loaded, options: TaskOptions, task: Task):
        self.task, self.engine, self.batch_tokens = task, model.engine(task.name), options.batch_tokens

    def predictions(self, features: Sequence[Any]) -> list[Any]:
        """The task's prediction for each feature. Features of similar length are run in one batch."""
        found: list[Any] = [None] * len(features)
        for numbers in batches_by_length([len(feature.ids) for feature in features], self.batch_tokens):
            batch = self.task.encode.collate([features[number] for number in numbers], numbers, len(numbers))
            ids = batch.input_ids  # [R, T]: the windows of one long text may be many rows
            step = max(1, self.batch_tokens // ids.shape[1])
            parts = [self.engine(ids[first : first + step]) for first in range(0, len(ids), step)]
            outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            for number, prediction in zip(numbers, self.task.decode(batch, outputs), strict=True):
                found[number] = prediction
        return found


class ClassifyTexts(FineTunedTask):
    """{"text_a", "text_b"} or {"text"} -> {"label", "probabilities"}, and "cut" if the text was too long."""

    def __init__(self, model: Loaded, options: TaskOptions):
        limit = model.limit(options.max_seq_len, model.longest)
        super().__init__(model, options, Classification(model.tokenizer, model.labels, limit))

    def parse(self, request: dict) -> Example:
        key = "text" if "text" in request else "text_a"
        return Example(text_of(request, key), text_of(request, "text_b", optional=True))

    def answer(self, examples: list[Example]) -> list[dict]:
        labels, features = self.task.labels, self.task.encode(examples)
        found = self.predictions(features)
        return [
            {
                "label": labels[int(shares.argmax())],
                "probabilities": {label: round(float(share), 6) for label, share in zip(labels, shares)},
            }
            | ({"cut": True} if feature.cut else {})
            for feature, shares in zip(features, found)
        ]


class Words(NamedTuple):
    """Words to tag; with the text and each word's (start, end) in it, unless the user gave the words."""

    words: list[str]
    text: str | None
    places: list[tuple[int, int]] | None


class TagWords(FineTunedTask):
    """{"words"}, or {"text"} split at white space -> {"words", "tags", "entities"}.

    Long sentences are read in overlapping windows of `max_seq_len` tokens.
    """

    def __init__(self, model: Loaded, options: TaskOptions):
        limit = model.limit(options.max_seq_len, model.reading.get("max_seq_len", model.longest))
        super().__init__(
            model, options, Tagging.from_reading(model.reading, model.tokenizer, model.labels, limit)
        )

    def parse(self, request: dict) -> Words:
        if "words" not in request:
            text = text_of(request, "text")
            found = list(re.finditer(r"\S+", text))
            return Words([match[0] for match in found], text, [match.span() for match in found])
        words = request["words"]
        if not isinstance(words, list) or not words:
            raise UserError("'words' must be a list of strings that is not empty")
        for number, word in enumerate(words, 1):
            if not isinstance(word, str) or not word.strip() or JOINT in word:
                raise UserError(f"'words': word {number} of {len(words)} is empty or no string")
        return Words(words, None, None)

    def answer(self, sentences: list[Words]) -> list[dict]:
        features = self.task.encode([Sentence(JOINT.join(sentence.words), None) for sentence in sentences])
        found = self.predictions(features)
        return [self._answer(sentence, self.task.tags(tags)) for sentence, tags in zip(sentences, found)]

    def _answer(self, sentence: Words, tags: list[str]) -> dict:
        found = []
        for kind, first, last in entities(tags):
            if sentence.places is None:
                where = {"words": sentence.words[first:last], "first": first, "last": last}
            else:
                start, end = sentence.places[first][0], sentence.places[last - 1][1]
                where = {"text": sentence.text[start:end], "start": start, "end": end}
            found.append({"type": kind, **where})
        return {"words": sentence.words, "tags": tags, "entities": found}


def entities(tags: list[str]) -> list[tuple[str, int, int]]:
    """(type, first word, last word + 1) of each entity. An I- tag that continues none starts a new one."""
    found = []
    for start in entity_starts(tags):
        kind, last = start.tag[2:], start.position + 1
        while last < len(tags) and tags[last] == f"I-{kind}":
            last += 1
        found.append((kind, start.position, last))
    return found


class AnswerQuestions(FineTunedTask):
    """{"question", "context"} -> {"answer", "start", "probability", "candidates"}.

    Long contexts are read in overlapping windows of `max_seq_len` tokens.
    """

    def __init__(self, model: Loaded, options: TaskOptions):
        usual = model.reading.get("max_seq_len", min(ANSWER_WINDOW, model.longest))
        limit = model.limit(options.max_seq_len, usual)
        task = QuestionAnswering.from_reading(model.reading, model.tokenizer, limit, options.top_k)
        super().__init__(model, options, task)

    def parse(self, request: dict) -> tuple[str, str]:
        return text_of(request, "question"), text_of(request, "context")

    def answer(self, asked: list[tuple[str, str]]) -> list[dict]:
        questions = [Question(str(i), question, i, (), None) for i, (question, _) in enumerate(asked)]
        file = QuestionFile(None, [context for _, context in asked], questions)
        windows = make_windows(file, self.task.tokenizer, self.task.cut)
        features = self.task.encode(windows)
        spans = self.predictions(features)
        return [self._answer(ranked) for ranked in self.task.rank(windows, spans)]

    def _answer(self, ranked: list[Answer]) -> dict:
        found = [
            {
                "text": one.text, "start": one.start, "end": one.start + len(one.text),
                "probability": round(one.probability, 6),
            }
            for one in ranked
        ]  # fmt: skip
        best = found[0] if found else {"text": "", "start": None, "probability": 0.0}
        return {
            "answer": best["text"], "start": best["start"], "probability": best["probability"],
            "candidates": found,
        }  # fmt: skip
