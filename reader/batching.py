"""Examples as model inputs: ids with their special tokens, in batches whose order (seed, epoch) decides.

An epoch is a permutation of the examples, cut into global batches. It is read in windows: a window is
tokenized when it is reached, so a large file is never tokenized up front.

A global batch is what one optimizer step sees over all processes. What is in it does not depend on how many
processes there are: each takes every n-th of its examples by length, and cuts them into micro-batches.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np

from reader.classification import Example
from reader.tokenization import Tokenizer

BATCH_TOKENS = 4096  # padded, in one forward pass
WINDOW_TEXTS = 16384  # texts that are encoded at once: enough to find many of equal length
WINDOW_EXAMPLES = 2048  # that are tokenized at a time, rounded up to whole batches


class Feature(NamedTuple):
    """One model input: its ids with special tokens, its label id, and whether its texts were cut to fit."""

    ids: list[int]
    label: int
    cut: bool = False


class EncodeExamples(Protocol):
    """What `Batches` needs of a task. Can be pickled: it runs in the reader process."""

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
            whole = len(a) + (len(b) + 4 if b else 2)
            kept = tokenizer.build_from_ids(a, b, self.max_seq_len)
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


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Put rows of similar length together, the shortest first, so that little is padded.

    A batch has at most `batch_tokens` padded tokens (rows x longest); a longer row is alone.
    """
    batches: list[list[int]] = []
    for row in np.argsort(np.asarray(lengths), kind="stable").tolist():
        if not batches or (len(batches[-1]) + 1) * lengths[row] > batch_tokens:
            batches.append([])
        batches[-1].append(row)
    return batches


def padded_batches(
    rows: Sequence[Sequence[int]], pad_id: int, batch_tokens: int = BATCH_TOKENS
) -> Iterator[tuple[list[int], np.ndarray]]:
    """`batches_by_length` with their ids: (numbers of the rows, ids [B, T] int64)."""
    for numbers in batches_by_length([len(row) for row in rows], batch_tokens):
        yield numbers, pad([rows[number] for number in numbers], pad_id)


def encode_in_windows(
    texts: Sequence, encode: Callable[[list], list], size: int = WINDOW_TEXTS
) -> Iterator[list[np.ndarray]]:
    """Encode texts in order, `size` at a time, so that memory does not grow with their number.

    `encode` is as `EncodeExamples`. Yields the ids of each text, int32 [n].
    """
    for start in range(0, len(texts), size):
        features = encode([texts[i] for i in range(start, min(start + size, len(texts)))])
        yield [np.asarray(feature.ids, np.int32) for feature in features]


@dataclass(frozen=True)
class GlobalBatch:
    """One optimizer step's share of this process; `Batches.stream` goes on from (epoch, index + 1)."""

    epoch: int
    index: int
    count: int  # examples in it, over all processes
    micro_batches: list[Any]  # of this process; none if the last batch is too short for all processes


class Batches:
    """Examples -> global batches. Can be pickled if its parts can, so that `prefetch` can run it.

    Args:
        examples, encode: the data, and what makes features and batches of it.
        batch_size: examples in a global batch; with `in_tokens`, examples times the longest, in tokens.
        micro_batch_size: the same for a micro-batch; None: one micro-batch per process.
        in_tokens: whether the sizes count tokens. A process may exceed its part by less than one example, and
            an example that is longer than a size is alone.
        shuffle, seed: whether the order is a new one in each epoch, and what decides it.
    """

    def __init__(
        self, examples: Sequence[Any], encode: EncodeExamples, batch_size: int,
        micro_batch_size: int | None = None, in_tokens: bool = False, shuffle: bool = True, seed: int = 0,
        rank: int = 0, world_size: int = 1,
    ):  # fmt: skip
        self.examples, self.encode = examples, encode
        self.batch_size, self.micro_batch_size, self.in_tokens = batch_size, micro_batch_size, in_tokens
        self.shuffle, self.seed, self.rank, self.world_size = shuffle, seed, rank, world_size

    def count(self, epoch: int = 0) -> int:
        """Global batches in an epoch. With `in_tokens` the first call tokenizes everything to know it."""
        return sum(map(self._count, self._windows(epoch)))

    def stream(self, epochs: int = 1, epoch: int = 0, index: int = 0) -> Iterator[GlobalBatch]:
        """The global batches from number `index` of `epoch` to the end of the last of `epochs` epochs.

        Windows that are skipped are not tokenized.
        """
        for number in range(epoch, epochs):
            yield from self._epoch(number, index if number == epoch else 0)

    def _epoch(self, epoch: int, start: int) -> Iterator[GlobalBatch]:
        index = 0
        for window in self._windows(epoch):
            if index < start and index + self._count(window) <= start:
                index += self._count(window)
                continue
            features = self._features(window)
            lengths = np.asarray([len(feature.ids) for feature in features])
            for first, last in pairwise(self._bounds(lengths, self.batch_size)):
                if index >= start:
                    micro_batches = self._micro_batches(window[first:last], features[first:last])
                    yield GlobalBatch(epoch, index, last - first, micro_batches)
                index += 1

    def _windows(self, epoch: int) -> Iterator[np.ndarray]:
        """The numbers of each window's examples, int64 [n]."""
        total = len(self.examples)
        order = np.arange(total)
        if self.shuffle:
            bits = np.random.Philox(np.random.SeedSequence([self.seed, epoch]))
            order = np.random.Generator(bits).permutation(total)
        size = WINDOW_EXAMPLES
        if not self.in_tokens:
            size = -(-WINDOW_EXAMPLES // self.batch_size) * self.batch_size
        for start in range(0, total, size):
            yield order[start : start + size]

    def _count(self, window: np.ndarray) -> int:
        """Global batches in a window."""
        if not self.in_tokens:
            return -(-len(window) // self.batch_size)
        return len(self._bounds(self._lengths[window], self.batch_size)) - 1

    @cached_property
    def _lengths(self) -> np.ndarray:
        """How many ids each example has, int64 [N]: one pass over everything."""
        total = len(self.examples)
        parts = np.split(np.arange(total), range(WINDOW_EXAMPLES, total, WINDOW_EXAMPLES))
        return np.asarray([len(feature.ids) for part in parts for feature in self._features(part)], np.int64)

    def _bounds(self, lengths: np.ndarray, size: int) -> list[int]:
        """Where to cut examples of these lengths: 0, ..., n."""
        if not self.in_tokens:
            return [*range(0, len(lengths), size), len(lengths)]
        bounds, longest = [0], 0
        for i, length in enumerate(lengths.tolist()):
            longest = max(longest, length)
            if i > bounds[-1] and (i + 1 - bounds[-1]) * longest > size:
                bounds.append(i)
                longest = length
        return [*bounds, len(lengths)]

    def _micro_batches(self, numbers: np.ndarray, features: list) -> list:
        """This process's part of a global batch: every n-th by length, so that all have equal work."""
        lengths = np.asarray([len(feature.ids) for feature in features])
        mine = np.argsort(lengths, kind="stable")[self.rank :: self.world_size]
        if not len(mine):
            return []
        bounds = [0, len(mine)]
        if self.micro_batch_size is not None:
            bounds = self._bounds(lengths[mine], self.micro_batch_size)
        count = self.encode.count(features)
        return [
            self.encode.collate([features[i] for i in mine[first:last]], numbers[mine[first:last]], count)
            for first, last in pairwise(bounds)
        ]

    def _features(self, indices: np.ndarray) -> list:
        return self.encode([self.examples[i] for i in indices.tolist()])


def stream_all(parts: Sequence[Batches]) -> Iterator[tuple[int, GlobalBatch]]:
    """Yield the global batches of several data sets one after the other, with the number of the data set."""
    for number, batches in enumerate(parts):
        for global_batch in batches.stream():
            yield number, global_batch
