"""Windows of questions and contexts as padded arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from reader.answer_windows import NO_ANSWER, Window
from reader.features import pad
from reader.tokenization import Tokenizer


class AnswerFeature(NamedTuple):
    """One input.

    Attributes:
        ids: `[CLS] question [SEP] context [SEP]`.
        length: how many of them are not padding.
        first: where the context begins in them.
        start: the number of the context's token there.
        own, answer: as in `Window`, but places in `ids`.
    """

    ids: list[int]
    length: int
    first: int
    start: int
    own: tuple[int, int]
    answer: tuple[int, int]


@dataclass(frozen=True)
class AnswerBatch:
    """What one process feeds the model at once.

    Attributes:
        input_ids: int64 [B, T], padded on the right.
        answers: int64 [B, 2], the places of the answer's first and last token; -1: no answer here, no loss.
        own: int64 [B, 2], (from, to), the places where an answer may begin.
        ends: int64 [B], the place behind the context.
        shift: int64 [B], what makes of a place a token's number in the whole context.
        indices: int64 [B], the place of each window in the data set.
        count: windows of the whole step, over all micro-batches and processes.
    """

    input_ids: np.ndarray
    answers: np.ndarray
    own: np.ndarray
    ends: np.ndarray
    shift: np.ndarray
    indices: np.ndarray
    count: int


class EncodeWindows:
    """`reader.features.Encode` for `AnswerWindows`. It holds three ids, not the tokenizer.

    Args:
        multiple: T of a batch is a multiple of it.
    """

    def __init__(self, tokenizer: Tokenizer, multiple: int = 1):
        self.cls_id, self.sep_id, self.pad_id = tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id
        self.multiple = multiple

    def __call__(self, windows: Sequence[Window]) -> list[AnswerFeature]:
        return [self._feature(window) for window in windows]

    def count(self, features: Sequence[AnswerFeature]) -> int:
        return len(features)

    def collate(self, features: Sequence[AnswerFeature], indices: np.ndarray, count: int) -> AnswerBatch:
        return AnswerBatch(
            pad([feature.ids[: feature.length] for feature in features], self.pad_id, self.multiple),
            np.asarray([feature.answer for feature in features], np.int64),
            np.asarray([feature.own for feature in features], np.int64),
            np.asarray([feature.length - 1 for feature in features], np.int64),
            np.asarray([feature.start - feature.first for feature in features], np.int64),
            np.asarray(indices, np.int64),
            count,
        )

    def _feature(self, window: Window) -> AnswerFeature:
        question, context = window.question_ids.tolist(), window.context_ids.tolist()
        ids = [self.cls_id, *question, self.sep_id, *context, self.sep_id]
        first = len(question) + 2
        shift = first - window.start
        own = window.own[0] + shift, window.own[1] + shift
        answer = window.answer
        if answer[0] != NO_ANSWER:
            answer = answer[0] + shift, answer[1] + shift
        return AnswerFeature(ids, len(ids), first, window.start, own, answer)


class EncodeInOrder(EncodeWindows):
    """The official code's training inputs: in the order of the file, without the answer trained to (0, 0).

    Args:
        max_seq_len: every input is filled up to it, so that sorting by length leaves the order alone;
            `collate` takes the padding off again.
    """

    def __init__(self, tokenizer: Tokenizer, max_seq_len: int, multiple: int = 1):
        super().__init__(tokenizer, multiple)
        self.max_seq_len = max_seq_len

    def _feature(self, window: Window) -> AnswerFeature:
        feature = super()._feature(window)
        filled = feature.ids + [self.pad_id] * (self.max_seq_len - feature.length)
        answer = (0, 0) if feature.answer[0] == NO_ANSWER else feature.answer
        return feature._replace(ids=filled, answer=answer)
