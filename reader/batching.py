"""Batches of similar length, in an order that (seed, epoch) decides.

An epoch is a permutation of the examples, read in windows. A window is tokenised when it is reached, sorted
by length and cut into global batches, whose order within the window is drawn again. So inputs of a batch are
about equally long, little is padded, and a corpus is never tokenised up front.

A global batch is what one optimiser step sees over all processes. What is in it does not depend on how many
processes there are: each takes every n-th of its examples, and cuts them into micro-batches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from reader.features import EncodeExamples, round_up

# Global batches to a window, unless batches are so small that a window would hold few examples.
WINDOW_BATCHES = 64
WINDOW_EXAMPLES = 2048
# What the random numbers of an epoch are drawn for.
_ORDER, _BATCHES = 0, 1


@dataclass(frozen=True)
class GlobalBatch:
    """One optimiser step's share of this process.

    Attributes:
        epoch, index: where it stands; `Batches.stream` goes on after it from (epoch, index + 1).
        count: examples in it, over all processes.
        micro_batches: of this process; none where the last batch is too short for all processes.
    """

    epoch: int
    index: int
    count: int
    micro_batches: list[Any]


class Batches:
    """Examples -> global batches. Can be pickled where its parts can, so that `prefetch` can run it.

    Args:
        examples: anything with a length whose items `encode` takes.
        encode: the task's; features and batches are what it makes of the examples.
        batch_size: examples in a global batch; with `in_tokens`, padded tokens (examples x longest).
        micro_batch_size: most examples (padded tokens) of a micro-batch; None: one micro-batch per process.
        in_tokens: what the sizes count, rounded up as `encode.multiple` says. A process may go over its part
            by less than one example, and an example that is longer than a size stands alone.
        shuffle: False keeps to the order of the data but for sorting within a window: for evaluation, once.
        seed: of the order.
        rank, world_size: this process and how many there are.
    """

    def __init__(
        self,
        examples: Sequence[Any],
        encode: EncodeExamples,
        batch_size: int,
        micro_batch_size: int | None = None,
        in_tokens: bool = False,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.examples, self.encode = examples, encode
        self.batch_size, self.micro_batch_size, self.in_tokens = batch_size, micro_batch_size, in_tokens
        self.shuffle, self.seed, self.rank, self.world_size = shuffle, seed, rank, world_size
        self._lengths: np.ndarray | None = None

    def count(self, epoch: int = 0) -> int:
        """Global batches in an epoch. With `in_tokens` the first call tokenises everything to know it."""
        if not self.in_tokens:
            return -(-len(self.examples) // self.batch_size)
        lengths = self.lengths()
        return sum(len(self._cut(epoch, number, lengths[window])) for number, window in self._windows(epoch))

    def lengths(self) -> np.ndarray:
        """How many ids each example has, int64 [N]: one pass over everything, whose answer is kept."""
        if self._lengths is None:
            lengths = np.zeros(len(self.examples), np.int64)
            for start in range(0, len(lengths), WINDOW_EXAMPLES):
                part = np.arange(start, min(start + WINDOW_EXAMPLES, len(lengths)))
                lengths[part] = [len(feature.ids) for feature in self._features(part)]
            self._lengths = lengths
        return self._lengths

    def stream(self, epochs: int = 1, epoch: int = 0, index: int = 0) -> Iterator[GlobalBatch]:
        """The global batches from number `index` of `epoch` to the end of the last of `epochs` epochs.

        Windows that are skipped are not tokenised, unless `in_tokens` is on and `lengths` was never called.
        """
        for number in range(epoch, epochs):
            yield from self._epoch(number, index if number == epoch else 0)

    def _epoch(self, epoch: int, start: int) -> Iterator[GlobalBatch]:
        index = 0
        for number, window in self._windows(epoch):
            known = self._known_count(epoch, number, window)
            if known is not None and index + known <= start:
                index += known
                continue
            features = self._features(window)
            for chosen in self._cut(epoch, number, np.asarray([len(feature.ids) for feature in features])):
                if index >= start:
                    yield GlobalBatch(
                        epoch, index, len(chosen), self._micro_batches(window, features, chosen)
                    )
                index += 1

    def _windows(self, epoch: int) -> Iterator[tuple[int, np.ndarray]]:
        """Number and examples, int64 [n], of each window."""
        total = len(self.examples)
        order = self._random(epoch, _ORDER).permutation(total) if self.shuffle else np.arange(total)
        size = WINDOW_EXAMPLES
        if not self.in_tokens:
            size = max(WINDOW_BATCHES, -(-WINDOW_EXAMPLES // self.batch_size)) * self.batch_size
        for number, start in enumerate(range(0, total, size)):
            yield number, order[start : start + size]

    def _known_count(self, epoch: int, number: int, window: np.ndarray) -> int | None:
        """Global batches in a window, or None where only tokenising it can tell."""
        if not self.in_tokens:
            return -(-len(window) // self.batch_size)
        return None if self._lengths is None else len(self._cut(epoch, number, self._lengths[window]))

    def _cut(self, epoch: int, number: int, lengths: np.ndarray) -> list[np.ndarray]:
        """The global batches of a window: positions in it, each batch by ascending length."""
        order = np.argsort(lengths, kind="stable")
        batches = [order[a:b] for a, b in pairwise(self._bounds(lengths[order], self.batch_size))]
        if not self.shuffle:
            return batches
        return [batches[i] for i in self._random(epoch, _BATCHES, number).permutation(len(batches))]

    def _bounds(self, lengths: np.ndarray, size: int) -> list[int]:
        """Where to cut examples of ascending length: 0, ..., n."""
        if not self.in_tokens:
            return [*range(0, len(lengths), size), len(lengths)]
        bounds = [0]
        for i, length in enumerate(round_up(lengths, self.encode.multiple).tolist()):
            if i > bounds[-1] and (i + 1 - bounds[-1]) * length > size:
                bounds.append(i)
        return [*bounds, len(lengths)]

    def _micro_batches(self, window: np.ndarray, features: list, chosen: np.ndarray) -> list:
        mine = chosen[self.rank :: self.world_size]  # strided: all processes get inputs of like length
        if not len(mine):
            return []
        bounds = [0, len(mine)]
        if self.micro_batch_size is not None:
            bounds = self._bounds(np.asarray([len(features[i].ids) for i in mine]), self.micro_batch_size)
        count = self.encode.count([features[i] for i in chosen])
        return [
            self.encode.collate([features[i] for i in mine[a:b]], window[mine[a:b]], count)
            for a, b in pairwise(bounds)
        ]

    def _features(self, indices: np.ndarray) -> list:
        return self.encode([self.examples[i] for i in indices.tolist()])

    def _random(self, epoch: int, *purpose: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, epoch, *purpose])))
