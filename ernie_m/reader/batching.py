"""Examples as model inputs: ids with their special tokens, in batches whose order (seed, epoch) decides.

An epoch is a permutation of the examples, cut into global batches. It is read in windows: a window is
tokenized when it is reached, so a large file is never tokenized up front.

A global batch is what one optimizer step sees over all processes. What is in it does not depend on how many
processes there are: each takes every n-th of its examples by length, and cuts them into micro-batches.
"""

import math
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from ernie_m.reader.tokenization import Tokenizer
from ernie_m.reader.vocabulary_coverage import warn_if_unsuited
from ernie_m.utils.logging import logger

T = TypeVar("T")
BATCH_TOKENS = 4096  # padded, in one forward pass
WINDOW_TEXTS = 16384  # texts that are encoded at once: enough to find many of equal length
_MOST_MEASURED = 10_000  # rows whose length is looked at
WINDOW_EXAMPLES = 2048  # examples that are tokenized at a time, rounded up to whole batches


class Example(NamedTuple):
    """A text or a pair, with its label. `text_b` and `qid` are None if it has none.

    `label` is -1 if labels are not read. In a regression it is the number that is to be predicted, a float.
    Where a text may have several labels it is a tuple with a 1 or 0 for each label id.
    """

    text_a: str
    text_b: str | None = None
    label: int | float | tuple[int, ...] = -1
    qid: str | None = None

    @property
    def lacks_text(self) -> bool:
        """Whether one of its texts is blank."""
        return not (self.text_a.strip() and (self.text_b is None or self.text_b.strip()))


class Feature(NamedTuple):
    """One model input."""

    ids: list[int]  # with special tokens
    label: int | float | tuple[int, ...]  # `Example.label`
    cut: bool = False  # whether the texts were cut to fit


class EncodeExamples(Protocol):
    """What `Batches` needs of a task. Can be pickled: it runs in the reader process."""

    def __call__(self, items: Sequence[Any], /) -> list:
        """Items of a data set -> features, each with `.ids`, its model input."""

    def count(self, features: Sequence[Any]) -> int:
        """What the loss over these features is divided by: their number, or that of their labeled tokens."""

    def collate(self, features: Sequence[Any], indices: np.ndarray, count: int) -> Any:
        """Features as padded arrays, in a class such as `ExampleBatch`.

        Args:
            indices: int64 [B], the number of each example in the data set; becomes `.indices`.
            count: what `count` returns for all features of the step; becomes `.count`.
        """


@dataclass(frozen=True)
class ExampleBatch:
    """What one process feeds the model at once."""

    input_ids: np.ndarray  # int64 [B, T], padded on the right; T is the longest input of the batch
    labels: np.ndarray  # int64 [B]; float32 [B] in a regression, and [B, labels] if a text has several
    indices: np.ndarray  # int64 [B], the number of each row in the data set
    count: int  # what a loss is divided by: examples of the whole step, over all processes


class EncodePairs:
    """Examples to features, many at once: `[CLS] A [SEP] [SEP] B [SEP]`, without text_b `[CLS] A [SEP]`.

    Args:
        label_type: the dtype of `ExampleBatch.labels`.
        prompt: what is put before every text_a.
    """

    def __init__(self, tokenizer: Tokenizer, max_seq_len: int, label_type: type = np.int64, prompt: str = ""):
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.max_seq_len = max_seq_len
        self._label_type = label_type

    def __call__(self, examples: Sequence[Example]) -> list[Feature]:
        """The features of examples, whose texts are tokenized in one call, each once."""
        warn_if_prompted(self.prompt, [example.text_a for example in examples])
        first_texts = [self.prompt + example.text_a for example in examples]
        second_texts = [example.text_b or "" for example in examples]
        distinct = list(dict.fromkeys(first_texts + second_texts))  # the query of many documents once
        ids_of = dict(zip(distinct, self.tokenizer.encode_batch(distinct)))
        features = []
        for example, text_a, text_b in zip(examples, first_texts, second_texts):
            ids_a = ids_of[text_a]
            ids_b = ids_of[text_b]
            input_ids = self.tokenizer.build_from_ids(ids_a, ids_b, self.max_seq_len)
            special_tokens = 4 if ids_b else 2
            is_cut = len(input_ids) < len(ids_a) + len(ids_b) + special_tokens
            features.append(Feature(input_ids, example.label, is_cut))
        return features

    def count(self, features: Sequence[Feature]) -> int:
        return len(features)

    def collate(self, features: Sequence[Feature], indices: np.ndarray, count: int) -> ExampleBatch:
        """Features as a batch; see `EncodeExamples`."""
        input_ids = pad([feature.ids for feature in features], self.tokenizer.pad_id)
        labels: np.ndarray = np.asarray([feature.label for feature in features], self._label_type)
        return ExampleBatch(input_ids, labels, np.asarray(indices, np.int64), count)


def warn_if_prompted(prompt: str, texts: Sequence[str], name: str | os.PathLike = "") -> None:
    """Log a warning, once in a process, if most texts begin with what is put before each of them.

    Args:
        prompt: what is put before the texts.
        name: the file of the texts; "" if there is none.
    """
    if prompt.strip() and 2 * sum(text.lstrip().startswith(prompt.strip()) for text in texts) > len(texts):
        _warn_prompt(prompt, f"{name}: " if name else "")


@cache
def _warn_prompt(prompt: str, location: str) -> None:
    logger.warning(
        "%smost texts already begin with the prompt %r, which is prepended to each text, so it occurs twice. "
        "Remove it from the texts",
        location,
        prompt,
    )


def pad(rows: Sequence[Collection[int]], value: int) -> np.ndarray:
    """Rows of different lengths as one array, filled up with `value` on the right: int64 [B, T]."""
    padded = np.full([len(rows), max(map(len, rows))], value, np.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = np.asarray(row, np.int64)
    return padded


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Put rows of similar length together, the shortest first, so that little is padded.

    Returns:
        for each batch the numbers of its rows. It has at most `batch_tokens` padded tokens (rows x longest);
        a longer row is alone.
    """
    batches: list[list[int]] = []
    for row in np.argsort(np.asarray(lengths), kind="stable").tolist():
        # The row is the longest so far, so the batch would be padded to its length.
        if not batches or (len(batches[-1]) + 1) * lengths[row] > batch_tokens:
            batches.append([])
        batches[-1].append(row)
    return batches


def padded_batches(
    rows: Sequence[Sequence[int]], pad_id: int, batch_tokens: int
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield the batches of `batches_by_length`: the numbers of the rows, and their ids, int64 [B, T]."""
    for numbers in batches_by_length([len(row) for row in rows], batch_tokens):
        yield numbers, pad([rows[number] for number in numbers], pad_id)


def windows(items: Sequence[T], size: int) -> Iterator[list[T]]:
    """Yield the items in order, `size` at a time. They are taken one by one, as items of a file must be."""
    for start in range(0, len(items), size):
        yield [items[number] for number in range(start, min(start + size, len(items)))]


def spread(items: Sequence[T]) -> list[T]:
    """Some of the items, from the first to the last at equal distances; all, if there are few."""
    indices = np.linspace(0, len(items) - 1, min(len(items), _MOST_MEASURED))
    return [items[round(index)] for index in indices.tolist()]


def warn_if_cut(
    name: object, count: int, total: int, noun: str, most: int, option: str = "max_seq_len"
) -> None:
    """Log a warning if texts are cut to fit.

    Args:
        name: what has the texts.
        count: how many of the `total` texts are cut.
        noun: what the texts are called.
        most: the tokens that fit, which the `option` sets.
    """
    if count:
        logger.warning(
            "%s: %d of %d %s are truncated to %d tokens (%s)", name, count, total, noun, most, option
        )


def warn_truncated(name: object, items: Sequence[Any], encode: Any, noun: str = "texts") -> None:
    """Log warnings if texts are cut, empty, or unknown to the vocabulary. Of many, some are looked at.

    Args:
        encode: such as `EncodePairs`; `cut` of a feature says whether it is cut.
    """
    items = spread(items)
    features = encode(items)
    cut = sum(bool(feature.cut) for feature in features)
    warn_if_cut(name, cut, len(items), f"{noun} looked at", encode.max_seq_len)
    empty = sum(isinstance(item, Example) and item.lacks_text for item in items)
    if empty:
        logger.warning("%s: %d of %d %s have an empty text", name, empty, len(items), noun)
    warn_if_unsuited(name, encode.tokenizer, [feature.ids for feature in features])


def encode_in_windows(texts: Sequence, encode: Callable[[list], list], size: int) -> Iterator[list[Feature]]:
    """Encode texts in order, `size` at a time, so that memory does not grow with their number.

    Args:
        encode: items -> features, as `EncodeExamples`.

    Yields:
        the features of `size` texts, with ids as int32 [n].
    """
    for window in windows(texts, size):
        yield [feature._replace(ids=np.asarray(feature.ids, np.int32)) for feature in encode(window)]


@dataclass(frozen=True)
class GlobalBatch:
    """The examples of one optimizer step, of which this process has a part."""

    epoch: int
    index: int  # its number in the epoch
    count: int  # examples in it, over all processes
    micro_batches: list[Any]  # this process's; none if the last batch is too short for all processes

    @property
    def position(self) -> list[int]:
        """The epoch and the index of the next global batch, with which `Batches.stream` goes on."""
        return [self.epoch, self.index + 1]


class Batches:
    """Examples -> global batches. Can be pickled if its parts can, so that `prefetch` can run it.

    Args:
        examples: the data set.
        encode: makes features of examples, and micro-batches of features.
        batch_size: examples in a global batch; with `in_tokens`, examples times the longest, in tokens.
        micro_batch_size: the same for a micro-batch; None: one micro-batch per process.
        share_tokens: about how many tokens a micro-batch is cut to, for workers; None: it is not cut.
        in_tokens: whether the sizes count tokens. A process may get more than batch_size / world_size of
            them, by less than one example. An example that is longer than a size is alone.
        shuffle: whether the order is a new one in each epoch.
        seed: decides that order.
        rank, world_size: the number of this process, and how many there are.
    """

    def __init__(
        self,
        examples: Sequence[Any],
        encode: EncodeExamples,
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

    def count(self, epoch: int = 0) -> int:
        """Global batches in an epoch. With `in_tokens` the first call tokenizes everything to know it."""
        return sum(self._batches_in(window) for window in self._windows(epoch))

    def stream(self, epochs: int = 1, epoch: int = 0, index: int = 0) -> Iterator[GlobalBatch]:
        """Yield global batches from number `index` of `epoch` on, until `epochs` epochs are complete.

        Windows that are skipped are not tokenized.
        """
        for number in range(epoch, epochs):
            start = index if number == epoch else 0  # later epochs are complete
            yield from self._epoch(number, start)

    def _epoch(self, epoch: int, start: int) -> Iterator[GlobalBatch]:
        """The global batches of an epoch from number `start` on."""
        index = 0
        for window in self._windows(epoch):
            # Only windows before `start` are counted: with `in_tokens` a count tokenizes everything.
            if index < start:
                count = self._batches_in(window)
                if index + count <= start:  # all batches of this window are skipped: do not tokenize it
                    index += count
                    continue
            features = self.encode([self.examples[number] for number in window.tolist()])
            lengths = np.asarray([len(feature.ids) for feature in features])
            for first, last in pairwise(self._bounds(lengths, self.batch_size)):
                if index >= start:
                    micro_batches = self._micro_batches(window[first:last], features[first:last])
                    yield GlobalBatch(epoch, index, last - first, micro_batches)
                index += 1

    def _windows(self, epoch: int) -> Iterator[np.ndarray]:
        """The numbers of each window's examples, int64 [n]."""
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

    def _batches_in(self, window: np.ndarray) -> int:
        """Global batches in a window."""
        if not self.in_tokens:
            return math.ceil(len(window) / self.batch_size)
        return len(self._bounds(self._lengths[window], self.batch_size)) - 1

    @cached_property
    def _lengths(self) -> np.ndarray:
        """How many ids each example has, int64 [N]: one pass over everything."""
        encoded = map(self.encode, windows(self.examples, WINDOW_EXAMPLES))
        return np.asarray([len(feature.ids) for features in encoded for feature in features], np.int64)

    def _bounds(self, lengths: np.ndarray, size: int) -> list[int]:
        """Where to cut n examples of these lengths into batches: 0, ..., n. `size` is as `batch_size`."""
        if not self.in_tokens:
            return [*range(0, len(lengths), size), len(lengths)]
        bounds = [0]
        longest = 0
        for number, length in enumerate(lengths.tolist()):
            longest = max(longest, length)
            examples = number + 1 - bounds[-1]  # in the batch, with this one
            # A batch is padded to its longest example. One that is longer than `size` is alone.
            if examples > 1 and examples * longest > size:
                bounds.append(number)
                longest = length
        return [*bounds, len(lengths)]

    def _micro_batches(self, numbers: np.ndarray, features: list) -> list:
        """This process's part of a global batch: of n processes each takes every n-th example by length.

        So all have about the same work.

        Args:
            numbers: those of the examples in the data set, int64 [examples].
            features: one for each example.
        """
        lengths = np.asarray([len(feature.ids) for feature in features])
        by_length = np.argsort(lengths, kind="stable")
        share = by_length[self.rank :: self.world_size]  # indices of `features`
        if not len(share):
            return []
        if self.micro_batch_size is None:
            bounds = [0, len(share)]  # one micro-batch
        else:
            bounds = self._bounds(lengths[share], self.micro_batch_size)
        # The loss is divided by the count of the whole step, so it does not depend on how a step is divided.
        count = self.encode.count(features)
        micro_batches = []
        for first, last in pairwise(bounds):
            for indices in in_shares(share[first:last], lengths, self.share_tokens):
                part = [features[index] for index in indices]
                micro_batches.append(self.encode.collate(part, numbers[indices], count))
        return micro_batches


def in_shares(indices: np.ndarray, lengths: np.ndarray, share_tokens: int | None) -> list[np.ndarray]:
    """Divide the indices of some examples, from the shortest to the longest, into shares of similar work.

    Args:
        lengths: that of each example in tokens, at its index.
        share_tokens: about how many tokens a share should have; None: all.
    """
    if share_tokens is None:
        return [indices]
    shares = lengths[indices].sum() / share_tokens
    # A power of 2, so that two workers, or four, have equally many.
    count = min(2 ** round(math.log2(max(1, shares))), len(indices))
    return [indices[first::count] for first in range(count)]


def stream_all(parts: Sequence[Batches]) -> Iterator[tuple[int, GlobalBatch]]:
    """Yield the global batches of several data sets one after the other, with the number of the data set."""
    for number, batches in enumerate(parts):
        for global_batch in batches.stream():
            yield number, global_batch
