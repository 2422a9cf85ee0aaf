"""Batches of examples, in an order determined by (seed, epoch).

An epoch is a permutation of the examples, divided into global batches. Examples are tokenized on demand, a
window of examples at a time, so a large file is never tokenized up front.

A global batch is the input of one optimizer step over all processes. It does not depend on the number of
processes: each of n processes takes every n-th example by length, and divides them into micro-batches.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import numpy as np

T = TypeVar("T")
BATCH_TOKENS = 4096  # maximum number of padded tokens in a forward pass
WINDOW_TEXTS = 16384  # texts encoded together: enough to find many of equal length
WINDOW_EXAMPLES = 2048  # examples tokenized together, rounded up to whole batches


class Featurizer(Protocol):
    """Protocol of the tokenization and collation of a task, used by `Batches`.

    Instances are picklable, because batches are built in a separate process.
    """

    def __call__(self, items: Sequence[Any], /) -> list:
        """Tokenize items of a data set; each resulting feature has `.ids`, the ids of its model input."""

    def count_targets(self, features: Sequence[Any]) -> int:
        """Return the divisor of the loss: the number of features, or of their labeled tokens."""

    def collate(self, features: Sequence[Any], indices: np.ndarray, count: int) -> Any:
        """Collate features into padded arrays, such as `ernie_m.reader.text_featurizer.ExampleBatch`.

        Args:
            indices: int64 [B], the index of each example in the data set; becomes `.indices`.
            count: the result of `count_targets` for all features of the step; becomes `.count`.
        """


def pad(rows: Sequence[Collection[int]], value: int) -> np.ndarray:
    """Pad rows with `value` on the right into one array: int64 [B, T]."""
    padded = np.full([len(rows), max(map(len, rows))], value, np.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = np.asarray(row, np.int64)
    return padded


def batch_by_length(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Divide sequences into batches of similar length, shortest first, to minimize padding.

    Args:
        lengths: the length of each sequence in tokens.
        batch_tokens: maximum number of tokens in a batch, including padding; a longer sequence is a batch by
            itself.

    Returns:
        The indices of the sequences in each batch.
    """
    batches: list[list[int]] = []
    for row in np.argsort(np.asarray(lengths), kind="stable").tolist():
        # The row is the longest so far, so the batch would be padded to its length.
        if not batches or (len(batches[-1]) + 1) * lengths[row] > batch_tokens:
            batches.append([])
        batches[-1].append(row)
    return batches


def iter_padded_batches(
    rows: Sequence[Sequence[int]], pad_id: int, batch_tokens: int
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield each batch of `batch_by_length`: the indices of its sequences, and their ids, int64 [B, T].

    Args:
        rows: the ids of each sequence.
        pad_id: the id of [PAD].
    """
    for numbers in batch_by_length([len(row) for row in rows], batch_tokens):
        yield numbers, pad([rows[number] for number in numbers], pad_id)


def iter_chunks(items: Sequence[T], chunk_size: int) -> Iterator[list[T]]:
    """Yield lists of `chunk_size` consecutive items; the last list may be shorter.

    Items are indexed one by one, because sequences that read a file do not support slices.
    """
    for start in range(0, len(items), chunk_size):
        yield [items[number] for number in range(start, min(start + chunk_size, len(items)))]


@dataclass(frozen=True)
class GlobalBatch:
    """The batch of an optimizer step over all processes, with the micro-batches of this process."""

    epoch: int
    index: int  # its index in the epoch
    count: int  # examples in it, over all processes
    micro_batches: list[Any]  # of this process; empty if the last batch is too short
    progress: int  # examples of the epoch up to and including this batch

    @property
    def position(self) -> list[int]:
        """The epoch and index of the next global batch, from which `Batches.stream` resumes."""
        return [self.epoch, self.index + 1]


class Batches:
    """A data set divided into global batches. Picklable if `examples` and `encode` are.

    Args:
        examples: the data set.
        encode: tokenizes examples, and collates micro-batches.
        batch_size: number of examples in a global batch; with `in_tokens`, number of tokens with padding.
        micro_batch_size: the same for a micro-batch; None: one micro-batch per process.
        share_tokens: approximate number of tokens that one worker thread processes at a time; a micro-batch
            is divided accordingly. None: do not divide it.
        in_tokens: whether sizes are numbers of tokens. A process may exceed batch_size / world_size by less
            than one example. An example longer than a size is a batch by itself.
        shuffle: whether to shuffle in each epoch.
        seed: the seed of the order.
        rank, world_size: the rank of this process, and the number of processes.
    """

    def __init__(
        self,
        examples: Sequence[Any],
        encode: Featurizer,
        batch_size: int,
        micro_batch_size: int | None = None,
        share_tokens: int | None = None,
        in_tokens: bool = False,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.examples = examples
        self.encode = encode
        self.batch_size = batch_size
        self.micro_batch_size = micro_batch_size
        self.share_tokens = share_tokens
        self.in_tokens = in_tokens
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size

    def count_batches(self, epoch: int = 0) -> int:
        """Return the number of global batches of an epoch.

        With `in_tokens`, the first call tokenizes the whole data set.
        """
        return sum(self._count_batches(window) for window in self._iter_windows(epoch))

    def stream(self, epochs: int = 1, epoch: int = 0, index: int = 0) -> Iterator[GlobalBatch]:
        """Yield the global batches from batch `index` of `epoch` to the end of the last of `epochs` epochs.

        Examples of skipped windows are not tokenized.
        """
        for number in range(epoch, epochs):
            start = index if number == epoch else 0  # later epochs are complete
            yield from self._iter_epoch(number, start)

    def _iter_epoch(self, epoch: int, start: int) -> Iterator[GlobalBatch]:
        """Yield the global batches of an epoch from index `start` on."""
        index = 0
        examples = 0  # in earlier windows
        for window in self._iter_windows(epoch):
            # Only windows before `start` are counted: with `in_tokens` a count tokenizes everything.
            if index < start:
                count = self._count_batches(window)
                if index + count <= start:  # all batches of this window are skipped: do not tokenize it
                    index += count
                    examples += len(window)
                    continue
            features = self.encode([self.examples[number] for number in window.tolist()])
            lengths = np.asarray([len(feature.ids) for feature in features])
            for first, last in pairwise(self._compute_bounds(lengths, self.batch_size)):
                if index >= start:
                    micro_batches = self._make_micro_batches(window[first:last], features[first:last])
                    yield GlobalBatch(epoch, index, last - first, micro_batches, examples + last)
                index += 1
            examples += len(window)

    def _iter_windows(self, epoch: int) -> Iterator[np.ndarray]:
        """Yield the example indices of each window, int64 [n]."""
        total = len(self.examples)
        if self.shuffle:
            philox = np.random.Philox(np.random.SeedSequence([self.seed, epoch]))
            order = np.random.Generator(philox).permutation(total)
        else:
            order = np.arange(total)
        size = WINDOW_EXAMPLES
        if not self.in_tokens:  # a multiple of the batch size, so that only the last batch can be shorter
            size = math.ceil(WINDOW_EXAMPLES / self.batch_size) * self.batch_size
        for start in range(0, total, size):
            yield order[start : start + size]

    def _count_batches(self, indices: np.ndarray) -> int:
        """Return the number of global batches of a window, given by its example indices."""
        if not self.in_tokens:
            return math.ceil(len(indices) / self.batch_size)
        return len(self._compute_bounds(self._lengths[indices], self.batch_size)) - 1

    @cached_property
    def _lengths(self) -> np.ndarray:
        """The length of each example in tokens, int64 [N]; computed by tokenizing the whole data set."""
        encoded = map(self.encode, iter_chunks(self.examples, WINDOW_EXAMPLES))
        return np.asarray([len(feature.ids) for features in encoded for feature in features], np.int64)

    def _compute_bounds(self, lengths: np.ndarray, size: int) -> list[int]:
        """Return the boundaries 0, ..., n of the batches of n examples.

        Args:
            lengths: the length of each example in tokens, int64 [n].
            size: the maximum size of a batch, in examples or tokens like `batch_size`.
        """
        if not self.in_tokens:
            return [*range(0, len(lengths), size), len(lengths)]
        bounds = [0]
        longest = 0
        for number, length in enumerate(lengths.tolist()):
            longest = max(longest, length)
            examples = number + 1 - bounds[-1]  # in the batch, with this one
            # A batch is padded to its longest example. An example longer than `size` is a batch by itself.
            if examples > 1 and examples * longest > size:
                bounds.append(number)
                longest = length
        return [*bounds, len(lengths)]

    def _make_micro_batches(self, indices: np.ndarray, features: list) -> list:
        """Build the micro-batches of this process from the features of a global batch.

        Each of n processes takes every n-th example by length, which balances their work.

        Args:
            indices: the index of each example in the data set, int64 [examples].
            features: the feature of each example.
        """
        lengths = np.asarray([len(feature.ids) for feature in features])
        by_length = np.argsort(lengths, kind="stable")
        share = by_length[self.rank :: self.world_size]  # indices of `features`
        if not len(share):
            return []
        if self.micro_batch_size is None:
            bounds = [0, len(share)]  # one micro-batch
        else:
            bounds = self._compute_bounds(lengths[share], self.micro_batch_size)
        # The loss is divided by the count of the whole step, so it does not depend on the micro-batches.
        count = self.encode.count_targets(features)
        micro_batches = []
        for first, last in pairwise(bounds):
            for part in split_by_work(share[first:last], lengths, self.share_tokens):
                part_features = [features[index] for index in part]
                micro_batches.append(self.encode.collate(part_features, indices[part], count))
        return micro_batches


def split_by_work(indices: np.ndarray, lengths: np.ndarray, share_tokens: int | None) -> list[np.ndarray]:
    """Divide examples into parts with similar numbers of tokens, for worker threads.

    Args:
        indices: the indices of the examples, sorted by length.
        lengths: the length of each example in tokens, by index.
        share_tokens: approximate number of tokens per part; None: a single part.

    Returns:
        The indices of the examples of each part.
    """
    if share_tokens is None:
        return [indices]
    shares = lengths[indices].sum() / share_tokens
    # A power of 2, so that two or four workers have equal numbers.
    count = min(2 ** round(math.log2(max(1, shares))), len(indices))
    return [indices[first::count] for first in range(count)]


def stream_data_sets(data_sets: Sequence[Batches]) -> Iterator[tuple[int, GlobalBatch]]:
    """Yield the global batches of several data sets in order, each with the index of its data set."""
    for number, batches in enumerate(data_sets):
        for global_batch in batches.stream():
            yield number, global_batch
