"""Extractive question answering: MLQA, XQuAD, SQuAD v1.1, TyDi QA GoldP."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from finetune.flags import FinetuneFlags
from finetune.metrics import answer_scores
from finetune.task import Task
from model.task_names import QUESTION_ANSWERING
from reader import question_answering as windows
from reader.question_answering import AnswerBatch, AnswerWindows, Cut, EncodeWindows
from reader.task_files import ALL_LANGUAGES
from reader.tokenization import Tokenizer
from utils.files import write_json

if TYPE_CHECKING:
    from paddle import Tensor

    from model.ernie_m import SentBatch

# A logit whose probability is 0 in float32 and in float64.
_CLOSED = -1e30
# The values of the official recipe, for a model whose folder does not say how it was trained.
_QUERY, _STRIDE, _ANSWER = 64, 128, 100


class Spans(NamedTuple):
    """The best spans of a window, best first: token numbers in the context, int32 [K], logits float32 [K]."""

    first: np.ndarray
    last: np.ndarray
    start_logits: np.ndarray
    end_logits: np.ndarray


class Answer(NamedTuple):
    """One candidate for a question.

    Attributes:
        text: characters of the context.
        start: position of the first of them.
        probability: softmax over the candidates of the question, of the sum of the two logits.
        start_logit, end_logit: logits of the first and the last token.
    """

    text: str
    start: int
    probability: float
    start_logit: float
    end_logit: float


def best_spans(
    start_logits: np.ndarray, end_logits: np.ndarray, own: Sequence[int], end: int, max_length: int,
    n_best: int, shift: int = 0,
) -> Spans:  # fmt: skip
    """Return the spans with the highest sums of logits, out of all spans that are allowed.

    Args:
        start_logits, end_logits: float32 [T], for the positions of an input.
        own: (from, to), the positions at which a span may begin.
        end: the position behind the last one at which a span may end.
        max_length: longest span in tokens.
        n_best: largest number of spans.
        shift: number of a token = its position + shift.
    """
    first, behind = int(own[0]), int(own[1])
    filled = np.concatenate([end_logits[first:end], np.full(max_length - 1, -np.inf, end_logits.dtype)])
    # [starts, lengths]: the end logit of the span with this start and length
    by_length = np.lib.stride_tricks.sliding_window_view(filled, max_length)[: behind - first]
    sums = (start_logits[first:behind, None] + by_length).ravel()
    best = np.argpartition(-sums, n_best - 1)[:n_best] if n_best < len(sums) else np.arange(len(sums))
    best = best[np.isfinite(sums[best])]
    best = best[np.lexsort((best, -sums[best]))]
    starts = best // max_length + first
    ends = starts + best % max_length
    tokens = ((starts + shift).astype(np.int32), (ends + shift).astype(np.int32))
    return Spans(*tokens, start_logits[starts].astype(np.float32), end_logits[ends].astype(np.float32))


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
        query = min(
            reading.get("max_query_length", _QUERY), (max_seq_len - windows.INPUT_SPECIAL_TOKENS) // 2
        )
        cut = Cut(max_seq_len, query, reading.get("doc_stride", _STRIDE), reading.get("split_han", True))
        return cls(tokenizer, cut, reading.get("max_answer_length", _ANSWER), n_best)

    def reading(self) -> dict[str, Any]:
        return {**vars(self.cut), "max_answer_length": self.max_answer_length}

    def read(self, path: str | os.PathLike, purpose: str) -> AnswerWindows:
        return windows.read_windows(path, purpose, self.tokenizer, self.cut, self.keep_all)

    def targets(self, batch: AnswerBatch) -> dict[str, np.ndarray]:
        return {"answers": batch.answers}

    def losses(self, sent: "SentBatch", outputs: dict[str, "Tensor"]) -> tuple["Tensor", "Tensor", Any]:
        """Average the losses of start and end; a window without an answer has none.

        A decision is correct if both start and end are correct.
        """
        import paddle
        import paddle.nn.functional as F

        padding = sent.tensors["cells"] == sent.layout.tokens  # [B, T]
        answers = sent.tensors["answers"]  # [B, 2]
        losses, correct = [], []
        for i, logits in enumerate(outputs.values()):  # of starts, of ends
            # Padding is excluded, so that a loss does not depend on the other inputs of the batch.
            logits = paddle.where(padding, paddle.full_like(logits, _CLOSED), logits)
            losses.append(
                F.cross_entropy(logits, answers[:, i], reduction="sum", ignore_index=windows.NO_ANSWER)
            )
            correct.append(logits.argmax(-1) == answers[:, i])
        return (losses[0] + losses[1]) / 2, (correct[0] & correct[1]).sum(), len(answers)

    def decode(self, batch: AnswerBatch, outputs: Mapping[str, np.ndarray]) -> list[Spans]:
        """Return the best spans of each window."""
        limits, found = (self.max_answer_length, self.n_best), []
        rows = zip(outputs["start_logits"], outputs["end_logits"], batch.own, batch.ends, batch.shift)
        for *logits, own, end, shift in rows:
            starts, ends = (self.candidates(one[: end + 1]) for one in logits)
            found.append(best_spans(starts, ends, own, end, *limits, shift))
        return found

    def candidates(self, logits: np.ndarray) -> np.ndarray:
        """Return the logits of one window [t], -inf where no answer may begin or end."""
        return logits

    def score(self, data: AnswerWindows, predictions: list[Spans], language: str) -> dict[str, float]:
        """F1 and exact match ("em") over the questions, by the rules for the language of the contexts."""
        rows = zip(self.texts(data, predictions), data.file.questions, strict=True)
        answers = [(text, question.answers) for text, question in rows]
        return answer_scores(answers, language_of_contexts(language), self.rules)

    def write(self, path: str | os.PathLike, data: AnswerWindows, predictions: list[Spans]) -> None:
        """Write {id: text} as JSON, and {id: candidates} to `nbest_<name>` in the same folder."""
        path, candidates = Path(path), {}
        for question, answers in zip(data.file.questions, self.rank(data, predictions), strict=True):
            candidates[question.id] = [
                {
                    "text": answer.text, "answer_start": answer.start,
                    "probability": round(answer.probability, 6),
                    "start_logit": round(answer.start_logit, 4), "end_logit": round(answer.end_logit, 4),
                }
                for answer in answers
            ]  # fmt: skip
        write_json(path.with_name(f"nbest_{path.name}"), candidates)
        write_json(path, {id_: found[0]["text"] if found else "" for id_, found in candidates.items()})

    def texts(self, data: AnswerWindows, predictions: list[Spans]) -> list[str]:
        """Return the best answer to each question, "" if there is none."""
        return [answers[0].text if answers else "" for answers in self.rank(data, predictions)]

    def rank(self, data: AnswerWindows, predictions: list[Spans]) -> list[list[Answer]]:
        """Return the answers to each question of a file, the best one first. No text occurs twice."""
        ranked = []
        for number in range(len(data.file.questions)):
            found = [predictions[i] for i in data.of_question(number)]
            if not found:
                ranked.append([])
                continue
            first, last, start_logits, end_logits = map(np.concatenate, zip(*found))
            chosen: dict[str, tuple[int, float, float]] = {}
            for i in np.argsort(-(start_logits + end_logits), kind="stable").tolist():
                text, start = self.text_of(data, number, int(first[i]), int(last[i]))
                if text and text not in chosen:
                    chosen[text] = start, float(start_logits[i]), float(end_logits[i])
                    if len(chosen) == self.n_best:
                        break
            sums = np.asarray([a + b for _, a, b in chosen.values()])
            shares = np.exp(sums - sums.max(initial=-np.inf))
            answers = zip(chosen.items(), shares / shares.sum())
            ranked.append([Answer(text, start, float(p), a, b) for (text, (start, a, b)), p in answers])
        return ranked

    def text_of(self, data: AnswerWindows, question: int, first: int, last: int) -> tuple[str, int]:
        """Return the characters of the context from token `first` to `last`, and their position."""
        context = data.file.questions[question].context
        start, end = int(data.spans[context][first, 0]), int(data.spans[context][last, 1])
        found = data.file.contexts[context][start:end]
        return found.strip(), start + len(found) - len(found.lstrip())


class OfficialAnswering(QuestionAnswering):
    """The behaviour of the official code, its faults included (--official_compat true; docs/qa.md)."""

    keep_all = True

    def __init__(
        self, tokenizer: Tokenizer, cut: Cut, max_answer_length: int, n_best: int, rules: str = "mlqa",
    ):  # fmt: skip
        super().__init__(tokenizer, replace(cut, split_han=False), max_answer_length, n_best, rules)
        self.encode = windows.EncodeInOrder(tokenizer, cut.max_seq_len)
        self.tokenize = lru_cache(1)(tokenizer.tokenize)  # the questions on a context follow each other

    def text_of(self, data: AnswerWindows, question: int, first: int, last: int) -> tuple[str, int]:
        """The text of an answer is its joined pieces, which are normalised, not characters of the context."""
        context = data.file.questions[question].context
        pieces = self.tokenize(data.file.contexts[context])
        text = "".join(pieces[first : last + 1]).replace("▁", " ").strip()
        return text, int(data.spans[context][first, 0])

    def candidates(self, logits: np.ndarray) -> np.ndarray:
        """Only the n best starts and the n best ends of the input are combined, question included."""
        if self.n_best >= len(logits):
            return logits
        kept = np.full_like(logits, -np.inf)
        best = np.argpartition(-logits, self.n_best - 1)[: self.n_best]
        kept[best] = logits[best]
        return kept


def language_of_contexts(language: str) -> str:
    """The language of the contexts, and so of the answers, of an evaluation file.

    `en-question-de` means English contexts with German questions; `zh-cn` is `zh`. Without a language map:
    English.
    """
    return "en" if language == ALL_LANGUAGES else language.split("-")[0]
