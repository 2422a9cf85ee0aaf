"""Question answering on a given text: MLQA, XQuAD, SQuAD v1.1, TyDi QA GoldP."""

import argparse
import os
from functools import partial

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from finetune.answer_metrics import mean_scores
from finetune.answers import (
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
from model.ernie_m import ErnieMConfig
from model.heads import SpanClassifier
from reader.answer_features import AnswerBatch, EncodeInOrder, EncodeWindows
from reader.answer_windows import NO_ANSWER, AnswerWindows, Cut, read_windows
from reader.task_reader import ALL_LANGUAGES
from reader.tokenization import Tokenizer

# A logit that no softmax gives anything to, in float32 and in float64.
_CLOSED = -1e30


class QuestionAnswering:
    """`finetune.task.Task` that finds the first and the last token of the answer; F1 selects.

    An item is a window of a question's context. Training windows without the answer are left out.

    Raises:
        UserError: --max_seq_len has no room for a context.
    """

    name = "question answering"
    metric = "f1"
    labels = None
    xtreme_ending = "json"

    def __init__(self, args: argparse.Namespace, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.cut = Cut(args.max_seq_len, args.max_query_length, args.doc_stride, args.split_han)
        self.max_answer_length, self.n_best = args.max_answer_length, args.n_best_size
        self.rules = args.answer_rules
        self.encode = EncodeWindows(tokenizer, args.pad_to_multiple_of)

    def make_model(self, config: ErnieMConfig) -> SpanClassifier:
        return SpanClassifier(config)

    def read(self, path: str | os.PathLike, purpose: str) -> AnswerWindows:
        return read_windows(path, purpose, self.tokenizer, self.cut)

    def loss(self, model: SpanClassifier, batch: AnswerBatch) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The mean of the losses of start and end; "correct" where both are right."""
        starts, ends = self._logits(model, batch)  # [B, T] each
        answers = paddle.to_tensor(batch.answers)  # [B, 2]
        right = (starts.argmax(-1) == answers[:, 0]) & (ends.argmax(-1) == answers[:, 1])
        loss = _span_loss(starts, ends, answers) / batch.count
        return loss, {"correct": right.sum(), "count": len(batch.answers)}

    def predict(self, model: SpanClassifier, batch: AnswerBatch, labelled: bool) -> tuple[list[Spans], float]:
        """The best spans of each window. A window without the answer has no loss."""
        starts, ends = self._logits(model, batch)
        loss = _span_loss(starts, ends, paddle.to_tensor(batch.answers)).item() if labelled else 0.0
        rows = zip(starts.numpy(), ends.numpy(), batch.own, batch.ends, batch.shift)
        return [self._best_spans(*row) for row in rows], loss

    def score(self, data: AnswerWindows, predictions: list[Spans], language: str) -> dict[str, float]:
        """F1 and exact match ("em") over the questions, by --answer_rules and the contexts' language."""
        texts = best_texts(self.rank(data, predictions))
        answers = [question.answers for question in data.file.questions]
        rows = list(zip(texts, answers, strict=True))
        return mean_scores(rows, language_of_contexts(language), self.rules)

    def write(self, path: str | os.PathLike, data: AnswerWindows, predictions: list[Spans]) -> None:
        """{id: text} as JSON, and the candidates in `nbest_<name>` beside it."""
        write_answers(path, [question.id for question in data.file.questions], self.rank(data, predictions))

    def write_xtreme(self, path: str | os.PathLike, data: AnswerWindows, predictions: list[Spans]) -> None:
        """{id: text} as JSON."""
        ids = (question.id for question in data.file.questions)
        write_json(path, dict(zip(ids, best_texts(self.rank(data, predictions)), strict=True)))

    def rank(self, data: AnswerWindows, predictions: list[Spans]) -> list[list[Answer]]:
        """The best answers to each question of the file."""
        return rank(data, predictions, self.n_best, partial(text_in_context, data))

    def _logits(self, model: SpanClassifier, batch: AnswerBatch) -> tuple[Tensor, Tensor]:
        input_ids = paddle.to_tensor(batch.input_ids)  # [B, T]
        padding = input_ids == self.tokenizer.pad_id
        logits = (x if x.dtype == paddle.float64 else x.astype("float32") for x in model(input_ids))
        # So that a loss does not depend on what else is in the batch.
        starts, ends = (paddle.where(padding, paddle.full_like(x, _CLOSED), x) for x in logits)
        return starts, ends

    def _best_spans(
        self, starts: np.ndarray, ends: np.ndarray, own: np.ndarray, end: int, shift: int
    ) -> Spans:
        return best_spans(starts, ends, own, end, self.max_answer_length, self.n_best, shift)


class OfficialAnswering(QuestionAnswering):
    """--official_compat true: what the official code does, its faults included; see docs/qa.md."""

    def __init__(self, args: argparse.Namespace, tokenizer: Tokenizer):
        super().__init__(args, tokenizer)
        self.cut = Cut(args.max_seq_len, args.max_query_length, args.doc_stride, split_han=False)
        self.encode = EncodeInOrder(tokenizer, args.max_seq_len, args.pad_to_multiple_of)

    def read(self, path: str | os.PathLike, purpose: str) -> AnswerWindows:
        return read_windows(path, purpose, self.tokenizer, self.cut, keep_all=True)

    def rank(self, data: AnswerWindows, predictions: list[Spans]) -> list[list[Answer]]:
        """The texts are joined pieces, that is normalised text, not characters of the context."""
        pieces: dict[int, list[str]] = {}

        def text_of(number: int, first: int, last: int) -> tuple[str, int]:
            context = data.file.questions[number].context
            if context not in pieces:
                pieces.clear()  # the questions of a context stand together
                pieces[context] = self.tokenizer.tokenize(data.file.contexts[context])
            text = "".join(pieces[context][first : last + 1]).replace("▁", " ").strip()
            return text, int(data.spans[context][first, 0])

        return rank(data, predictions, self.n_best, text_of)

    def _best_spans(self, starts: np.ndarray, ends: np.ndarray, *place) -> Spans:
        """Only the n best starts and the n best ends of the input, question included, are combined."""
        return super()._best_spans(
            only_the_best(starts, self.n_best), only_the_best(ends, self.n_best), *place
        )


def language_of_contexts(language: str) -> str:
    """The language of the contexts, and so of the answers, of an evaluation file.

    `en-de` are English contexts with German questions, `zh-cn` is `zh`. Without a language map it is English.
    """
    return "en" if language == ALL_LANGUAGES else language.split("-")[0]


def _span_loss(starts: Tensor, ends: Tensor, answers: Tensor) -> Tensor:
    """The sum over windows [B] of the mean of the losses of start and end; 0 where the answer is -1."""
    losses = [
        F.cross_entropy(logits, answers[:, i], reduction="sum", ignore_index=NO_ANSWER)
        for i, logits in enumerate((starts, ends))
    ]
    return (losses[0] + losses[1]) / 2
