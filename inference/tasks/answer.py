"""Answers in a text: {"question", "context"} -> {"answer", "start", "probability", "candidates"}.

Long contexts are read in overlapping windows, cut as in training.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finetune.answers import Spans, best_spans, rank, text_in_context
from inference.loading import Loaded
from inference.requests import text_of
from inference.rows import run
from reader.answer_features import EncodeWindows
from reader.answer_tokens import encode_for_answers
from reader.answer_windows import NO_ANSWER, SPECIAL_TOKENS, AnswerWindows, Cut, Ragged, cut_windows
from reader.squad import Question, QuestionFile

# Where the folder does not say how it was trained: the official recipe.
MAX_QUERY_LENGTH, DOC_STRIDE, MAX_ANSWER_LENGTH = 64, 128, 100


class Asked(NamedTuple):
    question: str
    context: str


class AnswerQuestions:
    """Args: model; max_seq_len: of a window; top_k: most candidates of a question."""

    def __init__(self, model: Loaded, max_seq_len: int, batch_tokens: int, top_k: int = 5):
        self.model, self.batch_tokens, self.top_k = model, batch_tokens, top_k
        self.engine = model.engine("answer")
        reading = model.reading
        query = min(reading.get("max_query_length", MAX_QUERY_LENGTH), (max_seq_len - SPECIAL_TOKENS) // 2)
        stride = reading.get("doc_stride", DOC_STRIDE)
        self.cut = Cut(max_seq_len, query, stride, reading.get("split_han", True))
        self.max_answer_length = reading.get("max_answer_length", MAX_ANSWER_LENGTH)
        self.encode = EncodeWindows(model.tokenizer)

    def parse(self, request: dict) -> Asked:
        return Asked(text_of(request, "question"), text_of(request, "context"))

    def answer(self, asked: list[Asked]) -> list[dict]:
        windows = self._windows(asked)
        if not len(windows):  # the tokenizer leaves nothing of any context
            return [self._answer([]) for _ in asked]
        features = self.encode(list(windows))
        batch = self.encode.collate(features, np.arange(len(features)), len(features))
        spans: list[Spans] = [None] * len(features)
        for numbers, _, outputs in run(
            self.engine, [feature.ids for feature in features], self.model, self.batch_tokens
        ):
            for number, starts, ends in zip(numbers, outputs["start_logits"], outputs["end_logits"]):
                place = batch.own[number], int(batch.ends[number])
                spans[number] = best_spans(
                    starts, ends, *place, self.max_answer_length, self.top_k, int(batch.shift[number])
                )
        ranked = rank(windows, spans, self.top_k, partial(text_in_context, windows))
        return [self._answer(found) for found in ranked]

    def _windows(self, asked: list[Asked]) -> AnswerWindows:
        tokenizer, cut = self.model.tokenizer, self.cut
        contexts, spans = zip(*(encode_for_answers(tokenizer, one.context, cut.split_han) for one in asked))
        questions = [
            encode_for_answers(tokenizer, one.question, cut.split_han)[0][: cut.max_query_length]
            for one in asked
        ]
        places = [
            (number, number, *place)
            for number, (question, context) in enumerate(zip(questions, contexts))
            for place in cut_windows(
                len(context), cut.max_seq_len - len(question) - SPECIAL_TOKENS, cut.doc_stride
            )
        ]
        file = QuestionFile(
            Path("-"),
            [one.context for one in asked],
            [Question(str(i), one.question, i, (), None) for i, one in enumerate(asked)],
        )
        return AnswerWindows(
            file, Ragged(questions), Ragged(contexts), Ragged(spans, (2,)),
            np.asarray(places, np.int32).reshape(-1, 6), np.full([len(places), 2], NO_ANSWER, np.int32),
        )  # fmt: skip

    def _answer(self, ranked: list) -> dict:
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
