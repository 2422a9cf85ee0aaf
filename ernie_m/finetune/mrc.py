"""Extractive question answering: MLQA, XQuAD, SQuAD v1.1."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from ernie_m.finetune.classifier import softmax
from ernie_m.finetune.eval_mlqa import has_answers, score_answers
from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.finetune.finetuning_task import FinetuningTask
from ernie_m.model.checkpoint.open import Checkpoint
from ernie_m.model.pipeline_config import PipelineConfig
from ernie_m.model.tasks import QUESTION_ANSWERING
from ernie_m.reader import mrc_reader as windows
from ernie_m.reader.labels import ALL_LANGUAGES, hash_input
from ernie_m.reader.mrc_reader import (
    AnswerBatch,
    ContextWindows,
    OfficialWindowFeaturizer,
    WindowConfig,
    WindowFeaturizer,
    make_official_windows,
    split_words,
    tokenize_words,
)
from ernie_m.reader.text_featurizer import log_truncation, sample_evenly
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.vocabulary_coverage import warn_if_not_covered
from ernie_m.utils.files import write_json

if TYPE_CHECKING:
    from paddle import Tensor

    from ernie_m.model.packed_batch import LabeledBatch

# A logit whose probability is 0 in float32 and in float64.
_MASKED = -1e30
# The values of the official recipe, for models that do not record theirs.
_MAX_QUERY_LENGTH = 64
_DOC_STRIDE = 128
_MAX_ANSWER_LENGTH = 100


class SpanScores(NamedTuple):
    """The logits of the answer spans in one window.

    Attributes:
        start_logits: float32 [S], of the S tokens at which an answer in this window may start.
        end_logits: float32 [E], E >= S, of the tokens at which it may end, from the same first token on.
        first_token: the index of the first of these tokens in the context.
    """

    start_logits: np.ndarray
    end_logits: np.ndarray
    first_token: int


class Spans(NamedTuple):
    """K answer spans of a context, best first: token indices, int32 [K], and logits, float32 [K]."""

    first: np.ndarray
    last: np.ndarray
    start_logits: np.ndarray
    end_logits: np.ndarray


class Answer(NamedTuple):
    """A candidate answer to a question.

    Attributes:
        text: the characters of the context.
        start: the index of the first character in the context.
        probability: the softmax, over the candidates of the question, of the sum of both logits.
        start_logit, end_logit: the logits of the first and the last token.
    """

    text: str
    start: int
    probability: float
    start_logit: float
    end_logit: float


def find_best_spans(scores: SpanScores, max_length: int, count: int) -> Spans:
    """Return the `count` spans of a window with the highest sums of logits, or all if there are fewer.

    Args:
        max_length: maximum span length in tokens.
    """
    start_count = len(scores.start_logits)  # S
    # At most the context length; at least 1, even without tokens.
    max_length = max(1, min(max_length, len(scores.end_logits)))
    behind_the_last = np.full(max_length - 1, -np.inf, scores.end_logits.dtype)
    end_logits = np.concatenate([scores.end_logits, behind_the_last])  # [E + max_length - 1]
    # Column k has the end logit of the span with this start and k + 1 tokens: [S, max_length]
    ends_of_starts = np.lib.stride_tricks.sliding_window_view(end_logits, max_length)[:start_count]
    sums = (scores.start_logits[:, None] + ends_of_starts).ravel()  # [S * max_length]
    # `best`: indices of the largest sums, unordered; argpartition is faster than sorting everything.
    best = np.argpartition(-sums, count - 1)[:count] if count < len(sums) else np.arange(len(sums))
    best = best[np.isfinite(sums[best])]  # drop spans that end after the last token
    best = best[np.lexsort((best, -sums[best]))]  # largest sum first, ties in order of position
    start, column = np.divmod(best, max_length)  # sums[start * max_length + column]
    end = start + column
    return Spans(
        (start + scores.first_token).astype(np.int32),
        (end + scores.first_token).astype(np.int32),
        scores.start_logits[start].astype(np.float32),
        scores.end_logits[end].astype(np.float32),
    )


def select_best_spans(spans_of_windows: Sequence[Spans], count: int) -> Spans:
    """Return the `count` best spans of all windows, or all if there are fewer; ties keep their order."""
    # Concatenate each field of `Spans` over the windows.
    first, last, start_logits, end_logits = map(np.concatenate, zip(*spans_of_windows))
    order = np.argsort(-(start_logits + end_logits), kind="stable")[:count]
    return Spans(first[order], last[order], start_logits[order], end_logits[order])


class QuestionAnswering(FinetuningTask[ContextWindows]):
    """Extractive question answering: predicts the first and last token of the answer; the metric is F1.

    An item is a window of a question's context. Training skips windows without the answer.

    Args:
        window_config: the configuration of the windows.
        max_answer_length: maximum length of an answer in tokens.
        n_best: maximum number of candidate answers per question.
        rules: the answer normalization, "mlqa" or "squad"; see `ernie_m.finetune.eval_mlqa`.
    """

    name = QUESTION_ANSWERING
    metric = "f1"
    gold = "answers"

    def __init__(
        self,
        tokenizer: Tokenizer,
        window_config: WindowConfig,
        max_answer_length: int,
        n_best: int,
        rules: str = "mlqa",
    ):
        self.tokenizer = tokenizer
        self.window_config = window_config
        self.max_answer_length = max_answer_length
        self.n_best = n_best
        self.rules = rules
        self.encode = (
            OfficialWindowFeaturizer(tokenizer, window_config)
            if self.official
            else WindowFeaturizer(tokenizer, window_config)
        )
        self.make_windows = make_official_windows if self.official else windows.make_windows

    @classmethod
    def from_flags(cls, flags: FinetuneFlags, tokenizer: Tokenizer, start: Checkpoint | None = None) -> Self:
        split_han = flags.split_han and not cls.official  # the official code never splits
        separators = (start.pipeline_config if start else PipelineConfig()).separators
        cut = WindowConfig(flags.max_seq_len, flags.max_query_length, flags.doc_stride, split_han, separators)
        return cls(tokenizer, cut, flags.max_answer_length, flags.n_best_size, flags.answer_rules)

    @classmethod
    def from_pipeline_config(
        cls, pipeline_config: PipelineConfig, tokenizer: Tokenizer, max_seq_len: int, n_best: int
    ) -> Self:
        """Create the task for prediction from the pipeline settings of a model.

        Args:
            pipeline_config: the settings; the defaults of missing values are those of the official recipe.
            max_seq_len: maximum length of a window in tokens.
            n_best: maximum number of candidate answers per question.
        """
        # A question has at most half of a window.
        half_window = (max_seq_len - windows.count_special_tokens(pipeline_config.separators)) // 2
        max_query_length = min(pipeline_config.max_query_length or _MAX_QUERY_LENGTH, half_window)
        doc_stride = pipeline_config.doc_stride or _DOC_STRIDE
        cut = WindowConfig(
            max_seq_len, max_query_length, doc_stride, pipeline_config.split_han, pipeline_config.separators
        )
        return cls(tokenizer, cut, pipeline_config.max_answer_length or _MAX_ANSWER_LENGTH, n_best)

    def get_pipeline_settings(self) -> dict[str, Any]:
        return {
            **vars(self.window_config),
            "max_answer_length": self.max_answer_length,
            "official_compat": self.official,
        }

    def read(self, path: str | os.PathLike, purpose: str) -> ContextWindows:
        return windows.read_windows(path, purpose, self.tokenizer, self.window_config, self.make_windows)

    def warn_if_truncated(self, name: str | os.PathLike, data: ContextWindows) -> None:
        """Log warnings about truncated questions, and about contexts that the vocabulary does not cover."""
        warn_if_not_covered(name, self.tokenizer, [window.context_ids for window in sample_evenly(data)])
        most = self.window_config.max_query_length
        log_truncation(name, sum(data.cut), len(data.cut), "questions", most, "max_query_length")

    def hash_inputs(self, data: ContextWindows) -> np.ndarray:
        file = data.file
        hashes = [hash_input(question.text, file.contexts[question.context]) for question in file.questions]
        return np.array(hashes, np.int64)

    def get_targets(self, batch: AnswerBatch) -> np.ndarray:
        return batch.answers

    def compute_loss_and_counts(
        self, on_device: "LabeledBatch", outputs: dict[str, "Tensor"]
    ) -> tuple["Tensor", "Tensor", Any]:
        """Compute the mean of start and end loss, summed over the batch; see `FinetuningTask`.

        Windows without an answer have no loss. A prediction is correct if both start and end are correct.
        """
        import paddle
        import paddle.nn.functional as F

        is_pad = on_device.inputs.get_padding_mask()  # [B, T]
        answers = on_device.targets  # [B, 2], the positions of start and end

        def compute_loss(logits: "Tensor", positions: "Tensor") -> tuple["Tensor", "Tensor"]:
            """Return the summed loss of the positions [B], and whether each is predicted correctly [B]."""
            # Padding is excluded, so that the loss does not depend on the other inputs of the batch.
            logits = paddle.where(is_pad, paddle.full_like(logits, _MASKED), logits)  # [B, T]
            loss = F.cross_entropy(logits, positions, reduction="sum", ignore_index=windows.NO_ANSWER)
            return loss, logits.argmax(-1) == positions

        start_loss, start_correct = compute_loss(outputs["start_logits"], answers[:, 0])
        end_loss, end_correct = compute_loss(outputs["end_logits"], answers[:, 1])
        return (start_loss + end_loss) / 2, (start_correct & end_correct).sum(), len(answers)

    def decode(self, batch: AnswerBatch, outputs: Mapping[str, np.ndarray]) -> list[Any]:
        """Return the logits of each window as `SpanScores`."""
        predictions = []
        for row, (first_start, behind_starts) in enumerate(batch.start_ranges.tolist()):
            behind_context = int(batch.ends[row])
            # The input ends with one [SEP] after the context; the rest is padding.
            start_logits = outputs["start_logits"][row][: behind_context + 1]
            end_logits = outputs["end_logits"][row][: behind_context + 1]
            # Copies, because a view would keep the arrays of the whole batch alive.
            scores = SpanScores(
                start_logits[first_start:behind_starts].copy(),
                end_logits[first_start:behind_context].copy(),
                first_token=first_start + int(batch.shift[row]),  # its index in the context
            )
            predictions.append(scores)
        return predictions

    def has_score(self, data: ContextWindows) -> bool:
        return has_answers(self.get_gold_values(data))

    def score(self, data: ContextWindows, predictions: list[Any], language: str) -> dict[str, float | None]:
        """Compute F1 ("f1") and exact match ("em") over the questions, in %.

        Answers are normalized by the rules for the language of the contexts.
        """
        rows = list(
            zip(self.get_predicted_values(data, predictions), self.get_gold_values(data), strict=True)
        )
        # Without a language map, the file name contains the language.
        path = data.file.path
        name = path.name if path and language == ALL_LANGUAGES else language
        return score_answers(rows, name, self.rules)

    def write(self, path: str | os.PathLike, data: ContextWindows, predictions: list[Any]) -> None:
        """Write {question id: answer} as JSON, and {question id: candidates} to nbest_<name> beside it."""
        path = Path(path)
        texts = {}
        candidates = {}
        for question, answers in zip(data.file.questions, self.rank(data, predictions), strict=True):
            texts[question.id] = answers[0].text if answers else ""
            candidates[question.id] = [
                {
                    "text": answer.text,
                    "answer_start": answer.start,
                    "probability": round(answer.probability, 6),
                    "start_logit": round(answer.start_logit, 4),
                    "end_logit": round(answer.end_logit, 4),
                }
                for answer in answers
            ]
        write_json(path.with_name(f"nbest_{path.name}"), candidates)
        write_json(path, texts)

    def get_gold_values(self, data: ContextWindows) -> list[tuple[str, ...]]:
        return [question.answers for question in data.file.questions]

    def get_predicted_values(self, data: ContextWindows, predictions: list[Any]) -> list[str]:
        """Return the text of the best answer to each question; "" without candidates."""
        return [answers[0].text if answers else "" for answers in self.rank(data, predictions)]

    def rank(self, data: ContextWindows, predictions: list[Any]) -> list[list[Answer]]:
        """Return the `n_best` best answers to each question of a file, with distinct texts, best first.

        Args:
            predictions: the result of `decode` for each window.
        """
        return [
            self._rank_question(
                data, question, [predictions[window] for window in data.get_question_windows(question)]
            )
            for question in range(len(data.file.questions))
        ]

    def _rank_question(
        self, data: ContextWindows, question: int, scores_of_windows: list[Any]
    ) -> list[Answer]:
        """Return the `n_best` best answers to a question, with distinct texts, best first.

        Args:
            question: the index of the question.
            scores_of_windows: the result of `decode` for each window of the question.
        """
        if not scores_of_windows:
            return []
        # Spans may share a text or have none (a single space). So consider more spans than answers, until
        # there are enough texts or no more spans.
        count = 4 * self.n_best
        while True:
            spans_of_windows = [
                find_best_spans(scores, self.max_answer_length, count) for scores in scores_of_windows
            ]
            spans = select_best_spans(spans_of_windows, count)
            answers = self._find_distinct_answers(data, question, spans)
            if len(answers) == self.n_best or len(spans.first) < count:
                break
            count *= 4
        if not answers:
            return []
        sums = np.array([answer.start_logit + answer.end_logit for answer in answers])
        probabilities = softmax(sums).tolist()
        return [
            answer._replace(probability=probability)
            for answer, probability in zip(answers, probabilities, strict=True)
        ]

    def _find_distinct_answers(self, data: ContextWindows, question: int, spans: Spans) -> list[Answer]:
        """Return answers with the first `n_best` distinct texts of spans, with probability 0."""
        answers: dict[str, Answer] = {}
        columns = [array.tolist() for array in spans]  # the four fields of `Spans`
        for first, last, start_logit, end_logit in zip(*columns):
            text, start = self.get_text(data, question, first, last)
            if text and text not in answers:
                answers[text] = Answer(
                    text, start, probability=0.0, start_logit=start_logit, end_logit=end_logit
                )
                if len(answers) == self.n_best:
                    break
        return list(answers.values())

    def get_text(self, data: ContextWindows, question: int, first: int, last: int) -> tuple[str, int]:
        """Return the context's text from token `first` to `last`, and the index of its first character."""
        context = data.file.questions[question].context
        spans = data.spans[context]  # [tokens, 2], the character range of each token
        start = int(spans[first, 0])
        end = int(spans[last, 1])
        text = data.file.contexts[context][start:end]
        leading_space = len(text) - len(text.lstrip())
        return text.strip(), start + leading_space


class OfficialScores(NamedTuple):
    """The logits of one window, and the spans that the official code ranks.

    Attributes:
        scores: the logits from which `QuestionAnswering` ranks answers.
        spans: the `n_best` best starts of the whole input, including the question, each with the `n_best`
            best ends, best start first; float64. Spans that are not answers in this window are dropped.
    """

    scores: SpanScores
    spans: Spans


class OfficialAnswering(QuestionAnswering):
    """Question answering as in the official code, including bugs (--official_compat true; docs/tasks.md).

    An answer consists of joined, normalized subwords. The metrics of `QuestionAnswering`, whose answers are
    spans of the original text, are reported in addition.
    """

    metric = "f1 of subwords"
    official = True
    shuffles = False  # the official code shuffles a list that it does not train on

    @cached_property
    def text_task(self) -> QuestionAnswering:
        """The task whose answers are spans of the original text."""
        return QuestionAnswering(
            self.tokenizer, self.window_config, self.max_answer_length, self.n_best, self.rules
        )

    @cached_property
    def tokenize_context(self) -> Callable[[str], list[str]]:
        """A function that tokenizes a context; the last result is cached, as questions share contexts."""

        @lru_cache(maxsize=1)
        def tokenize(context: str) -> list[str]:
            return tokenize_words(self.tokenizer, split_words(context))

        return tokenize

    def decode(self, batch: AnswerBatch, outputs: Mapping[str, np.ndarray]) -> list[OfficialScores]:
        """Return the logits of each window, with the spans that the official code ranks."""
        predictions = []
        for row, scores in enumerate(super().decode(batch, outputs)):
            behind_context = int(batch.ends[row])
            indices = []  # the positions of the best starts, then of the best ends: [n_best] each
            logits = []  # their logits
            for name in ("start_logits", "end_logits"):
                # The official code also ranks the [SEP] after the context; its spans are dropped below.
                input_logits = outputs[name][row][: behind_context + 1].astype(np.float64)
                best = np.argsort(-input_logits, kind="stable")[: self.n_best]
                indices.append(best)
                logits.append(input_logits[best])
            # All pairs of best starts and best ends, [n_best, n_best] each.
            starts, ends = np.meshgrid(*indices, indexing="ij")
            first_start, behind_starts = batch.start_ranges[row]
            begins_here = (first_start <= starts) & (starts < behind_starts)
            lengths = ends - starts + 1
            is_answer = begins_here & (ends < behind_context) & (lengths >= 1)
            is_answer &= lengths <= self.max_answer_length
            start_logits, end_logits = np.meshgrid(*logits, indexing="ij")
            shift = int(batch.shift[row])
            spans = Spans(
                starts[is_answer] + shift,
                ends[is_answer] + shift,
                start_logits[is_answer],
                end_logits[is_answer],
            )
            predictions.append(OfficialScores(scores, spans))
        return predictions

    def score(self, data: ContextWindows, predictions: list[Any], language: str) -> dict[str, float | None]:
        """Compute F1 and exact match, in %, of answers joined from subwords, and of spans of the text."""
        of_subwords = super().score(data, predictions, language)
        of_text = self.text_task.score(data, [prediction.scores for prediction in predictions], language)
        return {
            **{f"{metric} of subwords": score for metric, score in of_subwords.items()},
            **{f"{metric} of text": score for metric, score in of_text.items()},
        }

    def _rank_question(
        self, data: ContextWindows, question: int, scores_of_windows: list[Any]
    ) -> list[Answer]:
        """Return the `n_best` best answers to a question, best first, as the official code does.

        Texts may repeat or be empty. Without any span, the answer is "empty".
        """
        spans = [scores.spans for scores in scores_of_windows]
        if not any(len(spans_of_window.first) for spans_of_window in spans):
            return [Answer("empty", start=0, probability=1.0, start_logit=0.0, end_logit=0.0)]
        best = select_best_spans(spans, self.n_best)
        probabilities = softmax(best.start_logits + best.end_logits)
        columns = [array.tolist() for array in (*best, probabilities)]  # `Spans` has the first four
        return [
            Answer(*self.get_text(data, question, first, last), probability, start_logit, end_logit)
            for first, last, start_logit, end_logit, probability in zip(*columns)
        ]

    def get_text(self, data: ContextWindows, question: int, first: int, last: int) -> tuple[str, int]:
        """Return the joined subwords from token `first` to `last`, and their start in the context."""
        context = data.file.questions[question].context
        subwords = self.tokenize_context(data.file.contexts[context])[first : last + 1]
        text = "".join(subword.replace("▁", " ", 1) for subword in subwords).strip()
        return text, int(data.spans[context][first, 0])
