"""The model inputs of tagged sentences.

    tokens  [CLS] ▁Eke us ▁head s ▁for [SEP]      (--label_pieces first)
    labels    -   B-PER -   O   -   O    -        - : ignored by the loss

A sentence that exceeds the maximum length is split between words into windows that overlap by a quarter. In
the overlap, a word is labeled and predicted only in the window whose edge is farther away.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from typing import NamedTuple

import numpy as np

from ernie_m.reader.batching import pad
from ernie_m.reader.files.official_tags import Sentence
from ernie_m.reader.tokenization import Tokenizer

IGNORED = -100  # the label of tokens without a loss
_OVERLAP = 4  # windows share one part in four


class TaggedFeature(NamedTuple):
    """A tokenized sentence. The ids of its windows, with special tokens, are concatenated."""

    ids: list[int]
    labels: list[int]  # IGNORED for tokens without a label
    widths: list[int]  # number of ids of each window; usually one
    words: list[tuple[int, int]]  # for each word: first labeled token in `ids`, number of labeled tokens
    cut: int  # number of truncated words


@dataclass(frozen=True)
class TaggedBatch:
    """A micro-batch of B tagged sentences with R windows and W words. All arrays are int64."""

    input_ids: np.ndarray  # [R, T], padded on the right
    labels: np.ndarray  # [R, T]
    sentences: np.ndarray  # [R], ascending, the sentence index of each window
    # [W, 3], for each word: row of its window, first labeled token, number of labeled tokens.
    words: np.ndarray
    lengths: np.ndarray  # [B], number of words of each sentence
    indices: np.ndarray  # [B], the index of each sentence in the data set
    count: int  # the divisor of the loss of the whole step, over all micro-batches and processes


class TaggingFeaturizer:
    """Featurizer of tagged sentences, which tokenizes each word separately; see `Featurizer`.

    Args:
        max_seq_len: maximum length of a window in tokens, including special tokens.
        inside_label: for each label id of a word, the label id of its tokens after the first, I-X for B-X;
            see `get_inside_labels`.
        label_pieces: "first": label the first token of a word, skipping a lone "▁"; "leading": the first
            token; "all": every token, by `inside_label`.
    """

    def __init__(
        self, tokenizer: Tokenizer, max_seq_len: int, inside_label: Sequence[int], label_pieces: str = "first"
    ):
        self.tokenizer = tokenizer
        self.max_seq_len = max_seq_len
        self.inside_label = list(inside_label)
        self.label_pieces = label_pieces
        self._space = tokenizer.vocab.get("▁")  # the id of a lone "▁", if any

    def __call__(self, sentences: Sequence[Sentence]) -> list[TaggedFeature]:
        """Tokenize sentences, and split them into windows."""
        # One call for all words is faster.
        words_of = [sentence.words for sentence in sentences]
        tokens = iter(self.tokenizer.encode_batch([*chain.from_iterable(words_of)]))  # the ids of each word
        return [
            self._make_feature([*islice(tokens, len(words))], sentence.labels)
            for sentence, words in zip(sentences, words_of)
        ]

    def count_targets(self, features: Sequence[TaggedFeature]) -> int:
        """Return the divisor of the loss: the number of labeled tokens."""
        return sum(token_count for feature in features for _, token_count in feature.words)

    def collate(self, features: Sequence[TaggedFeature], indices: np.ndarray, count: int) -> TaggedBatch:
        """Collate features into a padded batch with a row per window; see `Featurizer`."""
        ids: list[list[int]] = []  # one list for each window
        labels: list[list[int]] = []
        words: list[np.ndarray] = []
        for feature in features:
            bounds = np.cumsum([0, *feature.widths])  # the offsets of windows in `feature.ids`
            word_table = np.asarray(feature.words, np.int64).reshape(-1, 2)  # [words, 2]
            starts = word_table[:, 0]
            token_counts = word_table[:, 1]
            # The window of each word in this sentence. [words]
            windows = np.searchsorted(bounds, starts, side="right") - 1
            windows_before = len(ids)  # the windows of earlier sentences
            columns = [windows_before + windows, starts - bounds[windows], token_counts]
            words.append(np.stack(columns, axis=1))  # [words, 3]: window, first token in it, number of tokens
            for start, end in pairwise(bounds):
                ids.append(feature.ids[start:end])
                labels.append(feature.labels[start:end])
        window_counts = [len(feature.widths) for feature in features]
        lengths = [len(feature.words) for feature in features]
        return TaggedBatch(
            input_ids=pad(ids, self.tokenizer.pad_id),
            labels=pad(labels, IGNORED),
            sentences=np.repeat(np.arange(len(features)), window_counts),
            words=np.concatenate(words),
            lengths=np.asarray(lengths, np.int64),
            indices=np.asarray(indices, np.int64),
            count=count,
        )

    def _make_feature(self, ids_of_words: list[list[int]], labels: tuple[int, ...] | None) -> TaggedFeature:
        """Build the windows of a sentence, with the labels of their tokens.

        Args:
            ids_of_words: the token ids of each word.
            labels: the label id of each word; None: without labels.
        """
        budget = self.max_seq_len - 2  # without [CLS] and [SEP]
        cut = sum(len(word_ids) > budget for word_ids in ids_of_words)
        # A word is truncated to one window. A word without tokens becomes [UNK], because its tag requires a
        # position.
        ids_of_words = [word_ids[:budget] or [self.tokenizer.unk_id] for word_ids in ids_of_words]
        ids: list[int] = []
        widths: list[int] = []
        words: list[tuple[int, int]] = []
        for window in split_into_windows([len(word_ids) for word_ids in ids_of_words], budget):
            window_start = len(ids)
            ids.append(self.tokenizer.cls_id)
            for number in range(window.start, window.end):
                # A word in an overlap is in two windows, and labeled in one.
                if window.tagged_start <= number < window.tagged_end:
                    words.append(self._find_labeled_tokens(ids_of_words[number], start=len(ids)))
                ids += ids_of_words[number]
            ids.append(self.tokenizer.sep_id)
            widths.append(len(ids) - window_start)
        targets = [IGNORED] * len(ids)
        if labels is not None:
            for (start, count), label in zip(words, labels):
                targets[start : start + count] = expand_label(label, count, self.inside_label)
        return TaggedFeature(ids, targets, widths, words, cut)

    def _find_labeled_tokens(self, word_ids: list[int], start: int) -> tuple[int, int]:
        """Return the index of the first labeled token of a word, and the number of its labeled tokens.

        Args:
            word_ids: the ids of the word's tokens.
            start: the index of the word's first token.
        """
        if self.label_pieces == "all":
            return start, len(word_ids)
        if self.label_pieces == "first" and len(word_ids) > 1 and word_ids[0] == self._space:
            return start + 1, 1  # skip a lone "▁" before the word
        return start, 1


def expand_label(label: int, count: int, inside_label: Sequence[int]) -> list[int]:
    """Return the label ids of the `count` tokens of a word with label B-X: B-X I-X I-X ...

    Args:
        inside_label: see `TaggingFeaturizer`.
    """
    if count == 0:
        return []
    return [label] + [inside_label[label]] * (count - 1)


def compute_word_scores(scores: np.ndarray, words: np.ndarray, inside_label: Sequence[int]) -> np.ndarray:
    """Compute the score of each of C tags for each of W words, summed over the word's labeled tokens.

    For tag B-X, the tokens after the first count with their score of I-X.

    Args:
        scores: [R, T, C], logits or log probabilities, in float64, so that cumulative sums along T are exact.
        words: [W, 3], see `TaggedBatch`.
        inside_label: see `TaggingFeaturizer`.

    Returns:
        float64 [W, C].
    """
    window, first, token_counts = words.T  # each [W]
    last = first + token_counts - 1
    inside_scores = scores[:, :, inside_label]  # [R, T, C]: for B-X and I-X, the score of I-X
    running = inside_scores.cumsum(axis=1)  # [R, T, C]: the sums up to each token
    further = running[window, last] - running[window, first]  # [W, C]: of all tokens except the first
    return scores[window, first] + further


class SentenceWindow(NamedTuple):
    """A window of a sentence: words start .. end - 1.

    Words tagged_start .. tagged_end - 1 are labeled and predicted in this window.
    """

    start: int
    end: int
    tagged_start: int
    tagged_end: int


def split_into_windows(sizes: Sequence[int], budget: int) -> list[SentenceWindow]:
    """Split a sentence between words into the fewest overlapping windows.

    Args:
        sizes: the number of tokens of each word, at most `budget`.
        budget: maximum number of tokens of a window, without special tokens.
    """
    spans = []  # (start, end) of each window: the words start .. end - 1
    start = 0
    end = 0
    while True:
        used = sum(sizes[start:end])  # tokens of the overlap with the previous window
        while end < len(sizes) and used + sizes[end] <= budget:
            used += sizes[end]
            end += 1
        spans.append((start, end))
        if end == len(sizes):
            break
        # The next window begins with the last words that fit into the overlap, with room for a new word. This
        # window has more tokens, so `start` stays in it.
        overlap = min(budget // _OVERLAP, budget - sizes[end])
        start = end
        while sizes[start - 1] <= overlap:
            start -= 1
            overlap -= sizes[start]
    # In an overlap, the first half of the words is tagged in the previous window, the second in the next one.
    middles = [_find_middle(sizes, next_start, end) for (_, end), (next_start, _) in pairwise(spans)]
    tagged_ranges = pairwise([0, *middles, len(sizes)])  # (start, end) as in `spans`
    return [SentenceWindow(*span, *tagged_range) for span, tagged_range in zip(spans, tagged_ranges)]


def _find_middle(sizes: Sequence[int], start: int, end: int) -> int:
    """Return the index of the first word in the second half of words start .. end - 1, by number of tokens.

    A word across the middle is in the half with more of its tokens; on a tie, in the first. The result is
    `end` if the second half is empty.
    """
    remaining = sum(sizes[start:end]) / 2  # tokens of the first half from `word` on
    word = start
    while word < end and remaining >= sizes[word] / 2:
        remaining -= sizes[word]
        word += 1
    return word


class OfficialTaggingFeaturizer(TaggingFeaturizer):
    """Featurizer of tagged sentences like the official reader (--official_compat true).

        tokens   [CLS] ▁Eke us   ▁head s      ▁for [SEP]
        labels   O     B-PER I-PER O    O      O    O

    The loss is divided by B x T, including padding. A sentence is truncated to one window. Truncated tokens
    have no label.
    """

    def count_targets(self, features: Sequence[TaggedFeature]) -> int:
        """Return the divisor of the loss: B x T of the whole step, including padding."""
        return len(features) * max(len(feature.ids) for feature in features)

    def _make_feature(self, ids_of_words: list[list[int]], labels: tuple[int, ...] | None) -> TaggedFeature:
        """Build the only window of a sentence; without labels, every label is O."""
        outside = len(self.inside_label) - 1  # O has the last id
        if labels is None:
            labels = (outside,) * len(ids_of_words)
        ids = [self.tokenizer.cls_id]
        targets = [outside]
        words = []
        for word_ids, label in zip(ids_of_words, labels):
            budget = self.max_seq_len - 1 - len(ids)  # `ids` has [CLS]; [SEP] follows
            part = word_ids[:budget]
            start = len(ids) if part else 0  # 0: without labeled tokens
            words.append((start, len(part)))
            ids += part
            targets += expand_label(label, len(part), self.inside_label)
        ids.append(self.tokenizer.sep_id)
        targets.append(outside)
        cut = sum(count < len(word_ids) for (_, count), word_ids in zip(words, ids_of_words))
        return TaggedFeature(ids, targets, [len(ids)], words, cut)
