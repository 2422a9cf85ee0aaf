"""The rows of the official TSV files, texts with a label, and the model inputs of sentences with tags.

    pieces  [CLS] ▁Eke us ▁head s ▁for [SEP]      (--label_pieces first)
    labels    -   B-PER -   O   -   O    -        - : no loss here

A sentence that does not fit is cut between words into windows that overlap by a quarter. In the overlap, a
word belongs to the window whose edge is farther away: it is labeled and predicted only there.
"""

import os
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ernie_m.reader.batching import Example, pad
from ernie_m.reader.files.official_tags import Sentence
from ernie_m.reader.files.official_tsv import (
    OFFICIAL,
    FileLines,
    has_quotes,
    open_lines,
    parse_header,
    parse_row,
    say_quoted,
    split_cells,
    without_blank_end,
)
from ernie_m.reader.files.row_errors import RowErrors
from ernie_m.reader.labels import NO_LABEL, input_hash, normal_label, number_in
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import FileVersion
from ernie_m.utils.logging import logger

# What the header should be, for the error.
_FORM = "text_a, text_b, label, optional qid"
_OTHERS = "only the official form is read here; ernie-m fit learns from any other table"


class Examples(FileLines, Sequence[Example]):
    """The rows of an official file; made by `read_classification`, which checks them.

    Args:
        path, version, starts: see `FileLines`.
        columns: name -> place of the columns that are read.
        inputs: `input_hash` of each row, int64 [N].
        targets: the label of each row: ids, int64 [N], or numbers, float64 [N]; [0]: labels are not read.
    """

    def __init__(
        self,
        path: Path,
        version: FileVersion,
        starts: np.ndarray,
        columns: Mapping[str, int],
        inputs: np.ndarray,
        targets: np.ndarray,
    ):
        super().__init__(path, version, starts)
        self.inputs = inputs
        self.targets = targets
        self._columns = columns

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]  # nobody asks for a slice
        # `read_classification` has checked the line already.
        cells = split_cells(self.line(index).decode("utf-8"))
        row = {name: cells[place] for name, place in self._columns.items()}
        label = {"label": self.targets[index].item()} if len(self.targets) else {}
        return Example(row["text_a"], row.get("text_b"), qid=row.get("qid"), **label)

    def place(self, index: int) -> str:
        """Where a row stands, for messages."""
        return f"line {index + 2}"


def read_classification(
    path: str | os.PathLike,
    label_map: Mapping[str, int] | None = None,
    num_labels: int | None = None,
    labels: bool = True,
    regression: bool = False,
) -> Examples:
    """Check a table with the columns text_a, text_b (optional), label, qid (optional); return its rows.

    Other columns are ignored. A byte order mark, Windows line ends and blank lines at the end are accepted.
    Labels are compared in their normal form.

    Args:
        label_map: label -> id; without it the label column contains ids.
        num_labels: without a label map, the ids must be below it.
        labels: False ignores the label column (prediction).
        regression: the label column holds numbers.

    Raises:
        UserError: the file cannot be read, or lines have another form; names the file and all such lines.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: a folder; {_OTHERS}")
    required = ["text_a", "label"] if labels else ["text_a"]
    value_of = _numbers() if regression else _ids(label_map, num_labels)
    errors = RowErrors(path, may_skip=False)
    starts = array("q")  # the byte at which each row begins; at last the end of the rows
    inputs = array("q")
    targets: array[float] = array("d" if regression else "q")
    quoted = 0
    with open_lines(path) as (file, version):  # the version shows later whether the file was changed
        first_line = file.readline()
        try:
            header = parse_header(first_line, path, required, _FORM)
        except UserError as error:
            raise UserError(f"{error}; {_OTHERS}") from error
        columns = {name: index for index, name in enumerate(header) if name in OFFICIAL}
        place_b = columns.get("text_b")
        position = len(first_line)  # the byte at which the next row begins
        for number, line in enumerate(without_blank_end(file), 2):
            starts.append(position)
            position += len(line)
            with errors.of_line(number):
                cells = parse_row(line, path, number, header)
                if labels:
                    targets.append(value_of(cells[columns["label"]]))
                inputs.append(
                    input_hash(cells[columns["text_a"]], None if place_b is None else cells[place_b])
                )
                quoted += has_quotes(cells)
    errors.end(logger.warning)
    say_quoted(path, quoted, len(starts), logger.warning)
    if not starts:
        raise UserError(f"{path}: no rows after the header")
    starts.append(position)
    return Examples(path, version, np.array(starts), columns, np.array(inputs), np.array(targets))


def _numbers() -> Callable[[str], float]:
    """A cell of the label column -> its number. It raises a UserError if there is none."""

    def number(cell: str) -> float:
        value = number_in(cell)
        if value is None:
            raise UserError(f"invalid label '{cell}' (--is_regression true requires numbers)")
        return value

    return number


def _ids(label_map: Mapping[str, int] | None, num_labels: int | None) -> Callable[[str], int]:
    """A cell of the label column -> its id. It raises a UserError if that is not known.

    Args:
        label_map, num_labels: as of `read_classification`.
    """
    ids = {normal_label(label): id_ for label, id_ in (label_map or {}).items()}

    @cache
    def parse_id(cell: str) -> int:
        label = normal_label(cell)
        if label in ids:
            return ids[label]
        if label_map is not None:
            advice = f"the labels are {', '.join(label_map)}"
            if label.lower() in NO_LABEL:
                advice = "it stands for no label: remove the line"
            raise UserError(f"unknown label '{label}'; {advice}")
        is_id = label.isdecimal() and len(label) < 10  # int() refuses thousands of digits
        if not is_id or (num_labels is not None and int(label) >= num_labels):
            most = "or more" if num_labels is None else f"to {num_labels - 1} (--num_labels {num_labels})"
            raise UserError(
                f"invalid label '{label}' (expected a number, 0 {most}, without --label_map_config). "
                "ernie-m fit takes labels of any name"
            )
        return int(label)

    return parse_id


IGNORED = -100  # the label of a token without a loss
_OVERLAP = 4  # windows share one part in four


class TaggedFeature(NamedTuple):
    """One sentence, the ids of its windows one after the other."""

    ids: list[int]
    labels: list[int]  # IGNORED where there is nothing to learn
    widths: list[int]  # number of ids of each window; mostly there is one
    words: list[tuple[int, int]]  # for each word: where its labeled pieces begin in `ids`, and their number
    cut: int  # words of which pieces are left out to fit


@dataclass(frozen=True)
class TaggedBatch:
    """What one process feeds the model at once: R windows of B sentences with W words, in int64."""

    input_ids: np.ndarray  # [R, T], padded on the right
    labels: np.ndarray  # [R, T]
    sentences: np.ndarray  # [R], ascending, the sentence of each window: 0 to B - 1
    words: np.ndarray  # [W, 3], of each word: its window, its first labeled piece, the number of these
    lengths: np.ndarray  # [B], words of each sentence
    indices: np.ndarray  # [B], the number of each sentence in the data set
    count: int  # what the loss of the whole step is divided by, over all micro-batches and processes


class EncodeTagged:
    """`ernie_m.reader.batching.EncodeExamples` for tagged sentences: each word is tokenized by itself.

    Args:
        max_seq_len: of a window, special tokens included.
        inside_label: label id of a word -> that of its further pieces, I-X for B-X; see `inside_labels`.
        label_pieces: "first": a word's first piece is labeled (a "▁" that stands alone before it is passed
            over); "leading": its first piece, whatever that is; "all": every piece, by `inside_label`.
    """

    def __init__(
        self, tokenizer: Tokenizer, max_seq_len: int, inside_label: Sequence[int], label_pieces: str = "first"
    ):
        self.tokenizer = tokenizer
        self.max_seq_len = max_seq_len
        self.inside_label = list(inside_label)
        self.label_pieces = label_pieces
        self._space = tokenizer.vocab.get("▁")  # the id of a piece that is a space alone, if there is one

    def __call__(self, sentences: Sequence[Sentence]) -> list[TaggedFeature]:
        """The features of sentences."""
        # One call for all words is faster than one for each.
        words_of = [sentence.words for sentence in sentences]
        pieces = iter(self.tokenizer.encode_batch([*chain.from_iterable(words_of)]))  # the ids of each word
        return [
            self._feature([*islice(pieces, len(words))], sentence.labels)
            for sentence, words in zip(sentences, words_of)
        ]

    def count(self, features: Sequence[TaggedFeature]) -> int:
        """The number of labeled pieces."""
        return sum(piece_count for feature in features for _, piece_count in feature.words)

    def collate(self, features: Sequence[TaggedFeature], indices: np.ndarray, count: int) -> TaggedBatch:
        """Features as a batch; see `EncodeExamples`. Each window becomes a row."""
        ids: list[list[int]] = []  # one list for each window
        labels: list[list[int]] = []
        words: list[np.ndarray] = []
        for feature in features:
            bounds = np.cumsum([0, *feature.widths])  # where windows begin in `feature.ids`, and the end
            word_table = np.asarray(feature.words, np.int64).reshape(-1, 2)  # [words, 2]
            starts = word_table[:, 0]
            piece_counts = word_table[:, 1]
            # The window of each word in this sentence: the last one that does not begin after it. [words]
            windows = np.searchsorted(bounds, starts, side="right") - 1
            windows_before = len(ids)  # the windows of earlier sentences
            columns = [windows_before + windows, starts - bounds[windows], piece_counts]
            words.append(np.stack(columns, axis=1))  # [words, 3]: window, first piece in it, number of pieces
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

    def _feature(self, pieces: list[list[int]], labels: tuple[int, ...] | None) -> TaggedFeature:
        """A sentence as windows.

        Args:
            pieces: the ids of each word.
            labels: the label id of each word; None: there are none.
        """
        room = self.max_seq_len - 2  # beside [CLS] and [SEP]
        cut = sum(len(word_ids) > room for word_ids in pieces)
        # A word is cut to what fits into one window. A word without pieces becomes [UNK], because it needs a
        # place for its tag.
        pieces = [word_ids[:room] or [self.tokenizer.unk_id] for word_ids in pieces]
        ids: list[int] = []
        widths: list[int] = []
        words: list[tuple[int, int]] = []
        for window in cut_windows([len(word_ids) for word_ids in pieces], room):
            window_start = len(ids)
            ids.append(self.tokenizer.cls_id)
            for number in range(window.start, window.end):
                # A word in an overlap is in two windows, and labeled in one.
                if window.tagged_start <= number < window.tagged_end:
                    words.append(self._labeled_pieces(pieces[number], start=len(ids)))
                ids += pieces[number]
            ids.append(self.tokenizer.sep_id)
            widths.append(len(ids) - window_start)
        targets = [IGNORED] * len(ids)
        if labels is not None:
            for (start, count), label in zip(words, labels):
                targets[start : start + count] = expanded(label, count, self.inside_label)
        return TaggedFeature(ids, targets, widths, words, cut)

    def _labeled_pieces(self, word_ids: list[int], start: int) -> tuple[int, int]:
        """Where the labeled pieces of a word begin, and their number; see `label_pieces`.

        Args:
            word_ids: the ids of its pieces.
            start: where the word begins.
        """
        if self.label_pieces == "all":
            return start, len(word_ids)
        if self.label_pieces == "first" and len(word_ids) > 1 and word_ids[0] == self._space:
            return start + 1, 1  # a "▁" that stands alone before the word is passed over
        return start, 1


def expanded(label: int, count: int, inside_label: Sequence[int]) -> list[int]:
    """The label ids of the `count` pieces of a word: B-X I-X I-X ...; `inside_label` as in `EncodeTagged`."""
    if count == 0:
        return []
    return [label] + [inside_label[label]] * (count - 1)


def word_scores(scores: np.ndarray, words: np.ndarray, inside_label: Sequence[int]) -> np.ndarray:
    """The score of each tag for each word: that of its expansion B-X I-X I-X ... over all pieces of the word.

    Args:
        scores: [R, T, C], logits or log probabilities, in float64, so that sums along T stay exact.
        words: [W, 3], as in `TaggedBatch`.
        inside_label: as in `EncodeTagged`.

    Returns:
        [W, C].
    """
    window, first, piece_counts = words.T  # each [W]
    last = first + piece_counts - 1
    inside_scores = scores[:, :, inside_label]  # [R, T, C]: at the place of B-X and of I-X, the score of I-X
    running = inside_scores.cumsum(axis=1)  # [R, T, C]: the sums up to each piece
    further = running[window, last] - running[window, first]  # [W, C]: of all pieces but the first
    return scores[window, first] + further


class SentenceWindow(NamedTuple):
    """The words start .. end - 1, of which tagged_start .. tagged_end - 1 are tagged in this window."""

    start: int
    end: int
    tagged_start: int
    tagged_end: int


def cut_windows(sizes: Sequence[int], room: int) -> list[SentenceWindow]:
    """Cut a sentence between words into as few overlapping windows as fit.

    Args:
        sizes: number of pieces of each word, at most `room`.
        room: number of pieces that fit into a window.
    """
    spans = []  # (start, end) of each window: the words start .. end - 1
    start = 0
    end = 0
    while True:
        used = sum(sizes[start:end])  # pieces of the overlap with the window before
        while end < len(sizes) and used + sizes[end] <= room:
            used += sizes[end]
            end += 1
        spans.append((start, end))
        if end == len(sizes):
            break
        # The next window begins with as many of the last words as fit into the overlap, and has room for a
        # new word. All words of this window are more than that, so `start` stays in it.
        overlap = min(room // _OVERLAP, room - sizes[end])
        start = end
        while sizes[start - 1] <= overlap:
            start -= 1
            overlap -= sizes[start]
    # In an overlap, the words of its first half are tagged in the window before, the others in the next one.
    middles = [_middle(sizes, next_start, end) for (_, end), (next_start, _) in pairwise(spans)]
    tagged_ranges = pairwise([0, *middles, len(sizes)])  # (start, end) as in `spans`
    return [SentenceWindow(*span, *tagged_range) for span, tagged_range in zip(spans, tagged_ranges)]


def _middle(sizes: Sequence[int], start: int, end: int) -> int:
    """The first word of the second half, if the pieces of the words start .. end - 1 are divided in two.

    A word that lies in both halves belongs to the one that has more of its pieces; at equal numbers, to the
    first. The result is `end` if no word is left for the second.
    """
    remaining = sum(sizes[start:end]) / 2  # pieces of the first half that are not in the words before `word`
    word = start
    while word < end and remaining >= sizes[word] / 2:
        remaining -= sizes[word]
        word += 1
    return word


class EncodeTaggedOfficially(EncodeTagged):
    """The inputs of the official reader (--official_compat true).

        pieces   [CLS] ▁Eke us   ▁head s      ▁for [SEP]
        labels   O     B-PER I-PER O    O      O    O

    The loss is divided by B x T, with the padding in T. A sentence has one window; the rest is cut off. A
    word that is cut off, or has no pieces, has 0 labeled pieces.
    """

    def count(self, features: Sequence[TaggedFeature]) -> int:
        """B x T of the whole step, padding included."""
        return len(features) * max(len(feature.ids) for feature in features)

    def _feature(self, pieces: list[list[int]], labels: tuple[int, ...] | None) -> TaggedFeature:
        """A sentence as one window, with O in the place of labels that are not known."""
        outside = len(self.inside_label) - 1  # O has the last id
        if labels is None:
            labels = (outside,) * len(pieces)
        ids = [self.tokenizer.cls_id]
        targets = [outside]
        words = []
        for word_ids, label in zip(pieces, labels):
            room = self.max_seq_len - 1 - len(ids)  # `ids` has [CLS]; [SEP] follows
            part = word_ids[:room]
            start = len(ids) if part else 0  # 0: a word without labeled pieces is nowhere
            words.append((start, len(part)))
            ids += part
            targets += expanded(label, len(part), self.inside_label)
        ids.append(self.tokenizer.sep_id)
        targets.append(outside)
        cut = sum(count < len(word_ids) for (_, count), word_ids in zip(words, pieces))
        return TaggedFeature(ids, targets, [len(ids)], words, cut)
