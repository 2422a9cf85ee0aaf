"""Exact match and F1 of answers, by one of two sets of rules.

mlqa (Lewis et al., 2020): punctuation is what Unicode calls so; articles and words are those of the language.
squad (SQuAD v1.1): punctuation is ASCII's, articles are English, words stand at white space, whatever the
language; XTREME (Hu et al., 2020) compares the answers to XQuAD and TyDi QA so.
"""

import argparse
import functools
import os
import re
import string
import sys
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

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

# What is taken out of an answer as an article. Hindi and Chinese have none; nor have other languages here.
ARTICLES = {
    "en": re.compile(r"\b(?:a|an|the)\b"),
    "es": re.compile(r"\b(?:un|una|unos|unas|el|la|los|las)\b"),
    "vi": re.compile(r"\b(?:của|là|cái|chiếc|những)\b"),
    "de": re.compile(r"\b(?:ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b"),
    "ar": re.compile("ال"),  # wherever it stands, inside a word too: MLQA's script does so
}
# Languages in which each of these characters is a word of its own, and white space parts the rest.
_MIXED = {"zh": re.compile("[\u4e00-\u9fa5]")}
_ASCII_PUNCTUATION = dict.fromkeys(map(ord, string.punctuation))


def exact_match(prediction: str, answers: Sequence[str], language: str, rules: str = "mlqa") -> float:
    """1.0 if the prediction equals one of the answers once all are normalised, else 0.0."""
    words = normalize(prediction, language, rules)
    return float(any(words == normalize(answer, language, rules) for answer in answers))


def f1(prediction: str, answers: Sequence[str], language: str, rules: str = "mlqa") -> float:
    """The best F1 over the answers, of words as multisets; 0.0 where no word is shared."""
    words = Counter(normalize(prediction, language, rules))
    return max(_f1(words, Counter(normalize(answer, language, rules))) for answer in answers)


def mean_scores(
    rows: Sequence[tuple[str, Sequence[str]]], language: str, rules: str = "mlqa"
) -> dict[str, float]:
    """{"f1": ..., "em": ...} over (prediction, answers), per cent. `rules`: of `utils.args.ANSWER_RULES`."""
    matched = sum(exact_match(prediction, answers, language, rules) for prediction, answers in rows)
    shared = 0.0
    for prediction, answers in rows:  # one after the other: the last digit depends on the order
        shared += f1(prediction, answers, language, rules)
    return {"f1": 100.0 * shared / len(rows), "em": 100.0 * matched / len(rows)}


def normalize(text: str, language: str, rules: str = "mlqa") -> list[str]:
    """The words of an answer: lower case, no punctuation, no articles. squad's rules have one language."""
    text = text.lower()
    if rules == "squad":
        return ARTICLES["en"].sub(" ", text.translate(_ASCII_PUNCTUATION)).split()
    text = text.translate(_punctuation())
    if language in ARTICLES:
        text = ARTICLES[language].sub(" ", text)
    if language in _MIXED:
        text = _MIXED[language].sub(r" \g<0> ", text)
    return text.split()


def _f1(prediction: Counter, answer: Counter) -> float:
    shared = (prediction & answer).total()
    if not shared:
        return 0.0
    precision, recall = shared / prediction.total(), shared / answer.total()
    return 2 * precision * recall / (precision + recall)


@functools.cache
def _punctuation() -> dict[int, None]:
    """Every character that Unicode calls punctuation (P*), and ASCII's symbols such as $ + < = >."""
    codes = (code for code in range(sys.maxunicode) if unicodedata.category(chr(code)).startswith("P"))
    return dict.fromkeys([*codes, *map(ord, string.punctuation)])


# Question answering on a given text: MLQA, XQuAD, SQuAD v1.1, TyDi QA GoldP.

if TYPE_CHECKING:
    from typing import Self  # Python 3.10 has none

    from paddle import Tensor

# A logit that no softmax gives anything to, in float32 and in float64.
_CLOSED = -1e30
# Where a model's folder does not say how it was trained: the official recipe.
_QUERY, _STRIDE, _ANSWER = 64, 128, 100


class QuestionAnswering(Task):
    """The task of finding the first and the last token of the answer; F1 selects.

    An item is a window of a question's context. Training windows without the answer are left out.

    Args:
        cut: how windows are cut.
        max_answer_length: most tokens of an answer.
        n_best: most candidates of a question.
        rules: of `utils.args.ANSWER_RULES`.
        multiple: the length of a batch is a multiple of it.
    """

    name = QUESTION_ANSWERING
    metric = "f1"
    xtreme_ending = "json"
    keep_all = False  # of a training file the windows without the answer, too

    def __init__(
        self, tokenizer: Tokenizer, cut: Cut, max_answer_length: int, n_best: int, rules: str = "mlqa",
        multiple: int = 1,
    ):  # fmt: skip
        self.tokenizer, self.cut = tokenizer, cut
        self.max_answer_length, self.n_best, self.rules = max_answer_length, n_best, rules
        self.encode = EncodeWindows(tokenizer, multiple)

    @classmethod
    def from_flags(cls, args: argparse.Namespace, tokenizer: Tokenizer) -> "Self":
        cut = Cut(args.max_seq_len, args.max_query_length, args.doc_stride, args.split_han)
        of_decoding = args.max_answer_length, args.n_best_size, args.answer_rules
        return cls(tokenizer, cut, *of_decoding, args.pad_to_multiple_of)

    @classmethod
    def from_reading(
        cls, reading: Mapping[str, Any], tokenizer: Tokenizer, max_seq_len: int, n_best: int
    ) -> "Self":
        """The task as a model was trained, with windows of at most `max_seq_len` tokens."""
        query = min(reading.get("max_query_length", _QUERY), (max_seq_len - INPUT_SPECIAL_TOKENS) // 2)
        cut = Cut(max_seq_len, query, reading.get("doc_stride", _STRIDE), reading.get("split_han", True))
        return cls(tokenizer, cut, reading.get("max_answer_length", _ANSWER), n_best)

    def reading(self) -> dict[str, Any]:
        return {**vars(self.cut), "max_answer_length": self.max_answer_length}

    def read(self, path: str | os.PathLike, purpose: str) -> AnswerWindows:
        return read_windows(path, purpose, self.tokenizer, self.cut, self.keep_all)

    def losses(self, batch: AnswerBatch, outputs: dict[str, "Tensor"]) -> tuple["Tensor", "Tensor", int]:
        """The mean of the losses of start and end; none without the answer. Right is where both are."""
        import paddle
        import paddle.nn.functional as F

        padding = paddle.to_tensor(batch.input_ids == self.tokenizer.pad_id)  # [B, T]
        answers = paddle.to_tensor(batch.answers)  # [B, 2]
        losses, right = [], []
        for i, logits in enumerate(outputs.values()):  # of starts, of ends
            # Without pads, so that a loss does not depend on what else is in the batch.
            logits = paddle.where(padding, paddle.full_like(logits, _CLOSED), logits)
            losses.append(F.cross_entropy(logits, answers[:, i], reduction="sum", ignore_index=NO_ANSWER))
            right.append(logits.argmax(-1) == answers[:, i])
        return (losses[0] + losses[1]) / 2, (right[0] & right[1]).sum(), len(answers)

    def decode(self, batch: AnswerBatch, outputs: Mapping[str, np.ndarray]) -> list[Spans]:
        """The best spans of each window."""
        rows = zip(outputs["start_logits"], outputs["end_logits"], batch.own, batch.ends, batch.shift)
        return [
            self.best_spans(starts[: end + 1], ends[: end + 1], own, end, shift)
            for starts, ends, own, end, shift in rows
        ]

    def best_spans(
        self, starts: np.ndarray, ends: np.ndarray, own: np.ndarray, end: int, shift: int
    ) -> Spans:
        """The best spans of one window, from the logits of its tokens [t]."""
        return best_spans(starts, ends, own, end, self.max_answer_length, self.n_best, shift)

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


class OfficialAnswering(QuestionAnswering):
    """--official_compat true: what the official code does, its faults included; see docs/qa.md."""

    keep_all = True

    @classmethod
    def from_flags(cls, args: argparse.Namespace, tokenizer: Tokenizer) -> "Self":
        task = super().from_flags(args, tokenizer)
        task.cut = replace(task.cut, split_han=False)
        task.encode = EncodeInOrder(tokenizer, args.max_seq_len, args.pad_to_multiple_of)
        return task

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

    def best_spans(self, starts: np.ndarray, ends: np.ndarray, *place) -> Spans:
        """Only the n best starts and the n best ends of the input, question included, are combined."""
        return super().best_spans(
            only_the_best(starts, self.n_best), only_the_best(ends, self.n_best), *place
        )


def language_of_contexts(language: str) -> str:
    """The language of the contexts, and so of the answers, of an evaluation file.

    `en-de` are English contexts with German questions, `zh-cn` is `zh`. Without a language map it is English.
    """
    return "en" if language == ALL_LANGUAGES else language.split("-")[0]
