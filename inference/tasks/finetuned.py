"""Answers of fine-tuned models: classes, tags, and answers to questions.

Features and decoding are those of the training tasks in `finetune`, with the settings that training recorded.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from finetune.classification import Classification
from finetune.metrics import entities
from finetune.question_answering import Answer, QuestionAnswering
from finetune.regression import Regression
from finetune.tagging import Tagging
from finetune.task import SupervisedTask
from inference.loading import LoadedModel
from inference.tasks import TaskOptions, text_of
from reader.batching import BATCH_TOKENS, batches_by_length
from reader.classification import Example
from reader.question_answering import Question, QuestionFile, make_windows
from reader.tagging import JOINT, Sentence
from utils.errors import UserError

ANSWER_WINDOW = 384  # tokens
RANKED = 20  # the softmax is over this many candidates, as in run_mrc.py, or over top_k if that is more


class FineTunedTask:
    """The base of all: a training task, whose features and decoding are used, and an engine for its head."""

    def __init__(self, model: LoadedModel, task: SupervisedTask):
        self.task, self.engine = task, model.engine(task.name)

    def predictions(self, features: Sequence[Any]) -> list[Any]:
        """The task's prediction for each feature. Features of similar length are run in one batch."""
        found: list[Any] = [None] * len(features)
        for numbers in batches_by_length([len(feature.ids) for feature in features], BATCH_TOKENS):
            batch = self.task.encode.collate([features[number] for number in numbers], numbers, len(numbers))
            ids = batch.input_ids  # [R, T]: the windows of one long text may be many rows
            step = max(1, BATCH_TOKENS // ids.shape[1])
            parts = [self.engine(ids[first : first + step]) for first in range(0, len(ids), step)]
            outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            for number, prediction in zip(numbers, self.task.decode(batch, outputs), strict=True):
                found[number] = prediction
        return found


class ClassifyTexts(FineTunedTask):
    """{"text_a", "text_b"} or {"text"} -> {"label", "probabilities"}, and "cut" if the text was too long.

    A model that was trained with --is_regression true answers {"score"} instead.
    """

    def __init__(self, model: LoadedModel, options: TaskOptions):
        limit = model.limit(options.max_seq_len, model.longest)
        if model.reading.get("regression"):
            task = Regression(model.tokenizer, limit)
        else:
            task = Classification(model.tokenizer, model.labels, limit)
        super().__init__(model, task)

    def parse(self, request: dict) -> Example:
        key = "text" if "text" in request else "text_a"
        return Example(text_of(request, key), text_of(request, "text_b", optional=True))

    def answer(self, examples: list[Example]) -> list[dict]:
        features, answers = self.task.encode(examples), []
        for feature, row in zip(features, self.predictions(features)):
            if isinstance(self.task, Regression):
                answers.append({"score": round(row, 6)})
            else:
                shares = {label: round(float(share), 6) for label, share in zip(self.task.labels, row)}
                answers.append({"label": self.task.labels[int(row.argmax())], "probabilities": shares})
            if feature.cut:
                answers[-1]["cut"] = True
        return answers


class Words(NamedTuple):
    """Words to tag; with the text that they are of, unless the user gave the words."""

    words: list[str]
    text: str | None = None


class TagWords(FineTunedTask):
    """{"words"}, or {"text"} split at white space -> {"words", "tags", "entities"}.

    Long sentences are read in overlapping windows of `max_seq_len` tokens.
    """

    def __init__(self, model: LoadedModel, options: TaskOptions):
        limit = model.limit(options.max_seq_len, model.reading.get("max_seq_len", model.longest))
        super().__init__(model, Tagging.from_reading(model.reading, model.tokenizer, model.labels, limit))

    def parse(self, request: dict) -> Words:
        key, text = ("words", None) if "words" in request else ("text", text_of(request, "text"))
        words = request["words"] if text is None else text.split()
        if not isinstance(words, list) or not words:
            raise UserError("'words' must be a list of strings that is not empty")
        for number, word in enumerate(words, 1):
            if not isinstance(word, str) or not word.strip() or JOINT in word:
                raise UserError(f"'{key}': word {number} of {len(words)} is empty, no string, or has U+0002")
        return Words(words, text)

    def answer(self, sentences: list[Words]) -> list[dict]:
        features = self.task.encode([Sentence(JOINT.join(sentence.words), None) for sentence in sentences])
        answers = []
        for sentence, found in zip(sentences, self.predictions(features)):
            tags = self.task.tags(found)
            spans = [match.span() for match in re.finditer(r"\S+", sentence.text or "")]
            named = [one for one in entities(tags) if one[0] != "_"]  # "_": the tags are bare ids
            places = sorted((first, last + 1, kind) for kind, first, last in named)
            found = [{"type": kind} | _where(sentence, spans, *place) for *place, kind in places]
            answers.append({"words": sentence.words, "tags": tags, "entities": found})
        return answers


def _where(sentence: Words, spans: list[tuple[int, int]], first: int, last: int) -> dict[str, Any]:
    """The words from `first` to before `last`, with their place: in characters if there is a text.

    `spans`: start and end of each word in the text.
    """
    if sentence.text is None:
        return {"words": sentence.words[first:last], "first": first, "last": last}
    start, end = spans[first][0], spans[last - 1][1]
    return {"text": sentence.text[start:end], "start": start, "end": end}


class AnswerQuestions(FineTunedTask):
    """{"question", "context"} -> {"answer", "start", "probability", "candidates"}.

    Long contexts are read in overlapping windows of `max_seq_len` tokens.
    """

    def __init__(self, model: LoadedModel, options: TaskOptions):
        usual = model.reading.get("max_seq_len", min(ANSWER_WINDOW, model.longest))
        limit = model.limit(options.max_seq_len, usual)
        n_best, self.top_k = max(RANKED, options.top_k), options.top_k
        task = QuestionAnswering.from_reading(model.reading, model.tokenizer, limit, n_best)
        super().__init__(model, task)

    def parse(self, request: dict) -> tuple[str, str]:
        return text_of(request, "question"), text_of(request, "context")

    def answer(self, asked: list[tuple[str, str]]) -> list[dict]:
        questions = [Question(str(i), question, i, (), None) for i, (question, _) in enumerate(asked)]
        file = QuestionFile(None, [context for _, context in asked], questions)
        windows = make_windows(file, self.task.tokenizer, self.task.cut)
        spans = self.predictions(self.task.encode(windows))
        return [_as_json(ranked[: self.top_k]) for ranked in self.task.rank(windows, spans)]


def _as_json(ranked: list[Answer]) -> dict[str, Any]:
    found = []
    for text, start, probability, *_ in ranked:
        place = {"text": text, "start": start, "end": start + len(text)}
        found.append(place | {"probability": round(probability, 6)})
    best = found[0] if found else {"text": "", "start": None, "probability": 0.0}
    answer = {"answer": best["text"], "start": best["start"], "probability": best["probability"]}
    return answer | {"candidates": found}
