"""Extractive question answering: MLQA, XQuAD, SQuAD v1.1, TyDi QA GoldP."""

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from finetune.flags import FinetuneFlags
from finetune.metrics import answer_scores
from finetune.span_decoding import (
    Answer,
    Spans,
    best_spans,
    best_texts,
    only_the_best,
    rank,
    text_in_context,
    write_answers,
    write_json,
)
from finetune.task import Task
from model.task_names import QUESTION_ANSWERING
from reader.classification import ALL_LANGUAGES
from reader.question_answering import (
    INPUT_SPECIAL_TOKENS,
    NO_ANSWER,
    AnswerBatch,
    AnswerWindows,
    Cut,
    EncodeInOrder,
    EncodeWindows,
    read_windows,
)
from reader.tokenization import Tokenizer

if TYPE_CHECKING:
    from paddle import Tensor

# A logit whose probability is 0 in float32 and in float64.
_CLOSED = -1e30
# The values of the official recipe, for a model whose folder does not say how it was trained.
_QUERY, _STRIDE, _ANSWER = 64, 128, 100


class QuestionAnswering(Task):
    """Find the first and the last token of the answer; the metric is F1.

    An item is a window of a question's context. Training windows without the answer are left out.

    Args:
        cut: how contexts are cut into windows.
        max_answer_length: longest answer in tokens.
        n_best: largest number of candidates for a question.
        rules: "mlqa" or "squad"; see `finetune.metrics`.
    """

    name = QUESTION_ANSWERING
    metric = "f1"
    xtreme_ending = "json"
    keep_all = False  # whether training windows without the answer are kept

    def __init__(
        self, tokenizer: Tokenizer, cut: Cut, max_answer_length: int, n_best: int, rules: str = "mlqa",
    ):  # fmt: skip
        self.tokenizer, self.cut = tokenizer, cut
        self.max_answer_length, self.n_best, self.rules = max_answer_length, n_best, rules
        self.encode = EncodeWindows(tokenizer)

    @classmethod
    def from_flags(cls, flags: FinetuneFlags, tokenizer: Tokenizer) -> Self:
        cut = Cut(flags.max_seq_len, flags.max_query_length, flags.doc_stride, flags.split_han)
        decoding = flags.max_answer_length, flags.n_best_size, flags.answer_rules
        return cls(tokenizer, cut, *decoding)

    @classmethod
    def from_reading(
        cls, reading: Mapping[str, Any], tokenizer: Tokenizer, max_seq_len: int, n_best: int
    ) -> Self:
        """Make the task for prediction, with windows of at most `max_seq_len` tokens."""
        query = min(reading.get("max_query_length", _QUERY), (max_seq_len - INPUT_SPECIAL_TOKENS) // 2)
        cut = Cut(max_seq_len, query, reading.get("doc_stride", _STRIDE), reading.get("split_han", True))
        return cls(tokenizer, cut, reading.get("max_answer_length", _ANSWER), n_best)

    def reading(self) -> dict[str, Any]:
        return {**vars(self.cut), "max_answer_length": self.max_answer_length}

    def read(self, path: str | os.PathLike, purpose: str) -> AnswerWindows:
        return read_windows(path, purpose, self.tokenizer, self.cut, self.keep_all)

    def losses(self, batch: AnswerBatch, outputs: dict[str, "Tensor"]) -> tuple["Tensor", "Tensor", int]:
        """Average the losses of start and end; a window without an answer has none.

        A decision is correct if both start and end are correct.
        """
        import paddle
        import paddle.nn.functional as F

        padding = paddle.to_tensor(batch.input_ids == self.tokenizer.pad_id)  # [B, T]
        answers = paddle.to_tensor(batch.answers)  # [B, 2]
        losses, correct = [], []
        for i, logits in enumerate(outputs.values()):  # of starts, of ends
            # Padding is excluded, so that a loss does not depend on the other inputs of the batch.
            logits = paddle.where(padding, paddle.full_like(logits, _CLOSED), logits)
            losses.append(F.cross_entropy(logits, answers[:, i], reduction="sum", ignore_index=NO_ANSWER))
            correct.append(logits.argmax(-1) == answers[:, i])
        return (losses[0] + losses[1]) / 2, (correct[0] & correct[1]).sum(), len(answers)

    def decode(self, batch: AnswerBatch, outputs: Mapping[str, np.ndarray]) -> list[Spans]:
        """Return the best spans of each window."""
        rows = zip(outputs["start_logits"], outputs["end_logits"], batch.own, batch.ends, batch.shift)
        return [
            self.best_spans(starts[: end + 1], ends[: end + 1], own, end, shift)
            for starts, ends, own, end, shift in rows
        ]

    def best_spans(
        self, starts: np.ndarray, ends: np.ndarray, own: np.ndarray, end: int, shift: int
    ) -> Spans:
        """Return the best spans of one window, from the logits of its tokens [t]."""
        return best_spans(starts, ends, own, end, self.max_answer_length, self.n_best, shift)

    def score(self, data: AnswerWindows, predictions: list[Spans], language: str) -> dict[str, float]:
        """F1 and exact match ("em") over the questions, by the rules for the language of the contexts."""
        texts = best_texts(self.rank(data, predictions))
        rows = zip(texts, [question.answers for question in data.file.questions], strict=True)
        return answer_scores(list(rows), language_of_contexts(language), self.rules)

    def write(self, path: str | os.PathLike, data: AnswerWindows, predictions: list[Spans]) -> None:
        """Write {id: text} as JSON, and the candidates to `nbest_<name>` in the same folder."""
        write_answers(path, [question.id for question in data.file.questions], self.rank(data, predictions))

    def write_xtreme(self, path: str | os.PathLike, data: AnswerWindows, predictions: list[Spans]) -> None:
        """Write {id: text} as JSON."""
        ids = (question.id for question in data.file.questions)
        write_json(path, dict(zip(ids, best_texts(self.rank(data, predictions)), strict=True)))

    def rank(self, data: AnswerWindows, predictions: list[Spans]) -> list[list[Answer]]:
        """Return the best answers to each question of the file."""
        return rank(data, predictions, self.n_best, partial(text_in_context, data))


class OfficialAnswering(QuestionAnswering):
    """The behaviour of the official code, its faults included (--official_compat true; docs/qa.md)."""

    keep_all = True

    def __init__(
        self, tokenizer: Tokenizer, cut: Cut, max_answer_length: int, n_best: int, rules: str = "mlqa",
    ):  # fmt: skip
        super().__init__(tokenizer, replace(cut, split_han=False), max_answer_length, n_best, rules)
        self.encode = EncodeInOrder(tokenizer, cut.max_seq_len)

    def rank(self, data: AnswerWindows, predictions: list[Spans]) -> list[list[Answer]]:
        """The text of an answer is its joined pieces, which are normalised, not characters of the context."""
        pieces: dict[int, list[str]] = {}

        def text_of(number: int, first: int, last: int) -> tuple[str, int]:
            context = data.file.questions[number].context
            if context not in pieces:
                pieces.clear()  # the questions on a context follow each other
                pieces[context] = self.tokenizer.tokenize(data.file.contexts[context])
            text = "".join(pieces[context][first : last + 1]).replace("▁", " ").strip()
            return text, int(data.spans[context][first, 0])

        return rank(data, predictions, self.n_best, text_of)

    def best_spans(self, starts: np.ndarray, ends: np.ndarray, *place) -> Spans:
        """Combine only the n best starts and the n best ends of the input, question included."""
        return super().best_spans(
            only_the_best(starts, self.n_best), only_the_best(ends, self.n_best), *place
        )


def language_of_contexts(language: str) -> str:
    """The language of the contexts, and so of the answers, of an evaluation file.

    `en-de` means English contexts with German questions; `zh-cn` is `zh`. Without a language map: English.
    """
    return "en" if language == ALL_LANGUAGES else language.split("-")[0]
