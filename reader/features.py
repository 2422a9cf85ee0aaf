"""Examples as model inputs: ids with their special tokens, padded to arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from reader.task_reader import Example
from reader.tokenization import Tokenizer


class Feature(NamedTuple):
    """One model input: its ids with special tokens, and its label id."""

    ids: list[int]
    label: int


@dataclass(frozen=True)
class Batch:
    """What one process feeds the model at once.

    Attributes:
        input_ids: int64 [B, T], padded on the right; T is the longest input of the batch.
        labels: int64 [B].
        indices: int64 [B], the place of each row in the data set.
        count: examples of the whole step, over all micro-batches and processes: what a loss is divided by.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    count: int


class EncodePairs:
    """Examples to features, many at once: `[CLS] A [SEP] [SEP] B [SEP]`, without text_b `[CLS] A [SEP]`."""

    def __init__(self, tokenizer: Tokenizer, max_seq_len: int):
        self.tokenizer = tokenizer
        self.max_seq_len = max_seq_len

    @property
    def pad_id(self) -> int:
        return self.tokenizer.pad_id

    def __call__(self, examples: Sequence[Example]) -> list[Feature]:
        tokenizer = self.tokenizer
        texts = [example.text_a for example in examples] + [example.text_b or "" for example in examples]
        ids = tokenizer.encode_batch(texts)
        features = []
        for example, a, b in zip(examples, ids, ids[len(examples) :]):
            pair = None if example.text_b is None else b
            features.append(Feature(tokenizer.build_from_ids(a, pair, self.max_seq_len), example.label))
        return features


def pad(features: Sequence[Feature], indices: Sequence[int], pad_id: int, count: int) -> Batch:
    """Put features into arrays; see `Batch`."""
    longest = max(len(feature.ids) for feature in features)
    input_ids = np.full([len(features), longest], pad_id, np.int64)  # [B, T]
    for row, feature in zip(input_ids, features):
        row[: len(feature.ids)] = feature.ids
    labels = np.asarray([feature.label for feature in features], np.int64)  # [B]
    return Batch(input_ids, labels, np.asarray(indices, np.int64), count)
