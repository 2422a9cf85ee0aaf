"""Examples as model inputs: ids with their special tokens, padded to arrays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from reader.bitext import BATCH_TOKENS, batches_by_length
from reader.classification import Example
from reader.tokenization import Tokenizer


class Feature(NamedTuple):
    """One model input: its ids with special tokens, its label id, and whether its texts were cut to fit."""

    ids: list[int]
    label: int
    cut: bool = False


class EncodeExamples(Protocol):
    """What `reader.batching.Batches` needs of a task. Can be pickled: it runs in the reader process."""

    def __call__(self, items: Sequence[Any]) -> list:
        """Items of a data set -> features, each with `.ids`, its model input."""

    def count(self, features: Sequence[Any]) -> int:
        """What the loss over these features is divided by: their number, or that of their labelled tokens."""

    def collate(self, features: Sequence[Any], indices: np.ndarray, count: int) -> Any:
        """Features as padded arrays, with `.indices`, int64 [B], and `.count`; see `TaskBatch`."""


@dataclass(frozen=True)
class TaskBatch:
    """What one process feeds the model at once."""

    input_ids: np.ndarray  # int64 [B, T], padded on the right; T is the longest input of the batch
    labels: np.ndarray  # int64 [B]
    indices: np.ndarray  # int64 [B], the place of each row in the data set
    count: int  # what a loss is divided by: examples of the whole step, over all processes


class EncodePairs:
    """Examples to features, many at once: `[CLS] A [SEP] [SEP] B [SEP]`, without text_b `[CLS] A [SEP]`."""

    def __init__(self, tokenizer: Tokenizer, max_seq_len: int):
        self.tokenizer = tokenizer
        self.max_seq_len = max_seq_len

    def __call__(self, examples: Sequence[Example]) -> list[Feature]:
        tokenizer = self.tokenizer
        texts = [example.text_a for example in examples] + [example.text_b or "" for example in examples]
        ids = tokenizer.encode_batch(texts)
        features = []
        for example, a, b in zip(examples, ids, ids[len(examples) :]):
            pair = None if example.text_b is None else b
            whole = len(a) + (len(pair) + 4 if pair else 2)
            kept = tokenizer.build_from_ids(a, pair, self.max_seq_len)
            features.append(Feature(kept, example.label, len(kept) < whole))
        return features

    def count(self, features: Sequence[Feature]) -> int:
        return len(features)

    def collate(self, features: Sequence[Feature], indices: np.ndarray, count: int) -> TaskBatch:
        input_ids = pad([feature.ids for feature in features], self.tokenizer.pad_id)
        labels = np.asarray([feature.label for feature in features], np.int64)  # [B]
        return TaskBatch(input_ids, labels, np.asarray(indices, np.int64), count)


def pad(rows: Sequence[Sequence[int]], value: int) -> np.ndarray:
    """Rows of different lengths as one array, filled up with `value` on the right: int64 [B, T]."""
    padded = np.full([len(rows), max(map(len, rows))], value, np.int64)
    for filled, row in zip(padded, rows):
        filled[: len(row)] = row
    return padded


def padded_batches(
    rows: Sequence[Sequence[int]], pad_id: int, batch_tokens: int = BATCH_TOKENS
) -> Iterator[tuple[list[int], np.ndarray]]:
    """`batches_by_length` with their ids: (numbers of the rows, ids [B, T] int64)."""
    for numbers in batches_by_length([len(row) for row in rows], batch_tokens):
        yield numbers, pad([rows[number] for number in numbers], pad_id)
