"""Tagged sentences as model inputs: words in pieces, a label where one is learned, long sentences in windows.

    words    Ekeus           heads     for        (--label_pieces first)
    pieces   [CLS] ▁Eke us ▁head s ▁for [SEP]
    labels     -   B-PER -   O   -   O    -       - : no loss here

A sentence that does not fit is cut between words into windows that overlap by a quarter. In the overlap a
word belongs to the window where it stands farther from the edge: it is labelled and predicted there alone, so
every word has one tag and counts once in the loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from reader.features import pad
from reader.tagged_text import Sentence
from reader.tokenization import Tokenizer

IGNORED = -100  # the label of a token that is not learned
_OVERLAP = 4  # windows share one part in so many


class TaggedFeature(NamedTuple):
    """One sentence.

    Attributes:
        ids: of all its windows, one after the other, each with its special tokens.
        labels: as many; IGNORED where there is nothing to learn.
        widths: ids of each window; mostly there is one.
        words: (place in `ids`, labelled pieces from there on) of each word.
    """

    ids: list[int]
    labels: list[int]
    widths: list[int]
    words: list[tuple[int, int]]


@dataclass(frozen=True)
class TaggedBatch:
    """What one process feeds the model at once: R windows of B sentences with W words.

    Attributes:
        input_ids: int64 [R, T], padded on the right.
        labels: int64 [R, T].
        sentences: int64 [R], ascending, the sentence of each window: 0 to B - 1.
        words: int64 [W, 3], of each word its window, its first labelled piece, and how many there are.
        lengths: int64 [B], words of each sentence.
        indices: int64 [B], the place of each sentence in the data set.
        count: what the loss of the whole step is divided by, over all micro-batches and processes.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    sentences: np.ndarray
    words: np.ndarray
    lengths: np.ndarray
    indices: np.ndarray
    count: int


class EncodeTagged:
    """`reader.features.Encode` for tagged sentences.

    Args:
        tokenizer: cuts each word by itself.
        max_seq_len: of a window, special tokens included.
        inside: label -> the label of a further piece of a word that has it: B-X and I-X -> I-X, O -> O.
        label_pieces: "first": a word's first piece is labelled (a "▁" that stands alone before it is passed
            over); "leading": its first piece, whatever that is; "all": every piece, by `inside`.
        multiple: T of a batch is a multiple of it.
    """

    def __init__(
        self, tokenizer: Tokenizer, max_seq_len: int, inside: Sequence[int], label_pieces: str = "first",
        multiple: int = 1,
    ):  # fmt: skip
        self.tokenizer = tokenizer
        self.room = max_seq_len - 2
        self.inside = list(inside)
        self.label_pieces = label_pieces
        self.multiple = multiple
        self._space = tokenizer.vocab.get("▁")

    def __call__(self, sentences: Sequence[Sentence]) -> list[TaggedFeature]:
        by_sentence = [sentence.words for sentence in sentences]
        pieces = iter(self.tokenizer.encode_batch([word for words in by_sentence for word in words]))
        return [
            self._feature([next(pieces) for _ in words], sentence.labels)
            for sentence, words in zip(sentences, by_sentence)
        ]

    def count(self, features: Sequence[TaggedFeature]) -> int:
        """Labelled pieces."""
        return sum(count for feature in features for _, count in feature.words)

    def collate(self, features: Sequence[TaggedFeature], indices: np.ndarray, count: int) -> TaggedBatch:
        ids, labels, sentences, words = [], [], [], []
        for number, feature in enumerate(features):
            bounds = np.cumsum([0, *feature.widths])
            first_row = len(ids)
            for a, b in pairwise(bounds):
                ids.append(feature.ids[a:b])
                labels.append(feature.labels[a:b])
                sentences.append(number)
            places = np.asarray(feature.words, np.int64).reshape(-1, 2)  # [words, 2]
            window = np.searchsorted(bounds, places[:, 0], side="right") - 1
            words.append(np.stack([first_row + window, places[:, 0] - bounds[window], places[:, 1]], axis=1))
        return TaggedBatch(
            pad(ids, self.tokenizer.pad_id, self.multiple),
            pad(labels, IGNORED, self.multiple),
            np.asarray(sentences, np.int64),
            np.concatenate(words),
            np.asarray([len(feature.words) for feature in features], np.int64),
            np.asarray(indices, np.int64),
            count,
        )

    def _feature(self, pieces: list[list[int]], labels: tuple[int, ...] | None) -> TaggedFeature:
        # A word of which the tokenizer leaves nothing is [UNK]: it needs a place for its tag.
        pieces = [word[: self.room] or [self.tokenizer.unk_id] for word in pieces]
        ids: list[int] = []
        widths: list[int] = []
        words: list[tuple[int, int]] = []
        for window in cut_windows([len(word) for word in pieces], self.room):
            start = len(ids)
            ids.append(self.tokenizer.cls_id)
            for number in range(window.first, window.last):
                if window.own_first <= number < window.own_last:
                    words.append(self._labelled(pieces[number], len(ids)))
                ids += pieces[number]
            ids.append(self.tokenizer.sep_id)
            widths.append(len(ids) - start)
        targets = [IGNORED] * len(ids)
        for (start, count), label in zip(words, labels or ()):
            targets[start : start + count] = expanded(label, count, self.inside)
        return TaggedFeature(ids, targets, widths, words)

    def _labelled(self, word: list[int], start: int) -> tuple[int, int]:
        if self.label_pieces == "all":
            return start, len(word)
        passed_over = self.label_pieces == "first" and len(word) > 1 and word[0] == self._space
        return start + passed_over, 1


def expanded(label: int, count: int, inside: Sequence[int]) -> list[int]:
    """The labels of the `count` pieces of a word: B-X I-X I-X ..."""
    return [label] * min(count, 1) + [inside[label]] * (count - 1)


def word_scores(scores: np.ndarray, words: np.ndarray, inside: Sequence[int]) -> np.ndarray:
    """How likely the pieces of each word find each tag: its expansion B-X I-X I-X ... over all of them.

    Args:
        scores: [R, T, C] logits or log probabilities; float64, so that sums along T keep their digits.
        words: as in `TaggedBatch`.
        inside: as in `EncodeTagged`.

    Returns:
        [W, C].
    """
    row, start, pieces = words.T  # each [W]
    further = scores[:, :, inside].cumsum(1)  # [R, T, C]
    return scores[row, start] + (further[row, start + pieces - 1] - further[row, start])


class Window(NamedTuple):
    """Words first to last - 1, of which own_first to own_last - 1 are tagged here."""

    first: int
    last: int
    own_first: int
    own_last: int


def cut_windows(sizes: Sequence[int], room: int) -> list[Window]:
    """Cut a sentence between words into as few overlapping windows as fit.

    Args:
        sizes: pieces of each word, at most `room`.
        room: pieces in a window.

    Returns:
        windows whose own words, one window's after the other's, are all the words.
    """
    spans = []
    first = last = 0
    while True:
        used = sum(sizes[first:last])
        while last < len(sizes) and used + sizes[last] <= room:
            used += sizes[last]
            last += 1
        spans.append((first, last))
        if last == len(sizes):
            break
        shared = min(room // _OVERLAP, room - sizes[last])  # the next word must fit in the next window
        first = last
        while sizes[first - 1] <= shared:
            first -= 1
            shared -= sizes[first]
    middles = [_middle(sizes, after[0], before[1]) for before, after in pairwise(spans)]
    return [
        Window(*span, own_first, own_last)
        for span, (own_first, own_last) in zip(spans, pairwise([0, *middles, len(sizes)]))
    ]


def _middle(sizes: Sequence[int], first: int, last: int) -> int:
    """The word of first to last - 1 at which the second half of their pieces begins."""
    half = sum(sizes[first:last]) / 2
    while first < last and half >= sizes[first] / 2:
        half -= sizes[first]
        first += 1
    return first
