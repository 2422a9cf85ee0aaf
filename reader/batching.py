"""Batches of examples in an order that (seed, epoch) decides.

An epoch is a permutation of the examples, cut into global batches. It is read in windows: a window is
tokenized when it is reached, so a large file is never tokenized up front.

A global batch is what one optimizer step sees over all processes. What is in it does not depend on how many
processes there are: each takes every n-th of its examples by length, and cuts them into micro-batches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from reader.features import EncodeExamples

WINDOW_EXAMPLES = 2048  # that are tokenized at a time, rounded up to whole batches


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
