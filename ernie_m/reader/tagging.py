"""Tagged sentences: tags that mark entities, the official files, and the model inputs made of them.

    words   U.N.   official  Ekeus   heads    for      Baghdad
    IO      I-ORG  O         I-PER   O        O        I-LOC     every word of an entity has I-
    IOB1    I-ORG  O         I-PER   O        O        I-LOC     B- only between two neighbours of one type
    IOB2    B-ORG  O         B-PER   O        O        B-LOC     B- at the beginning of every entity
    IOE     E-ORG  O         E-PER   O        O        E-LOC     E- at the end of every entity, I- before it
    IOBES   S-ORG  O         S-PER   O        O        S-LOC     B-, I-, E-; S- is an entity of one word
    NONE    PROPN  ADJ       PROPN   VERB     ADP      PROPN     tags that stand for themselves

An entity begins at each B-, and at an I- whose type differs from that of the word before. conlleval reads
tags this way, which gives every sequence of tags one meaning.

    pieces  [CLS] ▁Eke us ▁head s ▁for [SEP]      (--label_pieces first)
    labels    -   B-PER -   O   -   O    -        - : no loss here

A sentence that does not fit is cut between words into windows that overlap by a quarter. In the overlap, a
word belongs to the window whose edge is farther away: it is labelled and predicted only there.
"""

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ernie_m.reader.batching import pad
from ernie_m.reader.files.labels import normal_label
from ernie_m.reader.files.official_tsv import parse_header, parse_row, read_all
from ernie_m.tokenizer.tokenizer import Tokenizer
from ernie_m.utils.errors import UserError

OUTSIDE = "O"
# scheme -> the letters of its tags; IOB: IOB1 or IOB2
SCHEMES = {"IO": "I", "IOB": "BI", "IOE": "IE", "IOBES": "BIES", "NONE": ""}
JOINT = "\x02"  # between the words of a sentence, and between its tags
IGNORED = -100  # the label of a token without a loss
_OVERLAP = 4  # windows share one part in four
_FORM = "text_a, label; tokens and tags are joined by U+0002"


# What stands beside a word and not inside it: brackets, quotation marks, and marks of sentences.
_MARKS = re.escape("()[]{}\"'`«»‹›„“”‚‘’¡¿.,;:!?…،؛؟。、，！？：；।॥")
_WITH_MARKS = re.compile(rf"([{_MARKS}]*)(.*?)([{_MARKS}]*)", re.DOTALL)
_EQUAL_MARKS = re.compile(r"(.)\1*")  # a mark, as often as it follows itself
_ABBREVIATION = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")  # without its last full stop: U.N, J


def entity_starts(tags: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield the number of the first word of each entity of a sentence, and the entity's type.

    Args:
        tags: one for each word, in any scheme; IOB is read as by conlleval.
    """
    open_type = ""  # the type of the entity that goes on after the word before; "" if none does
    for position, tag in enumerate(tags):
        letter = tag[0]
        type_ = tag[2:]  # "" for O
        begins_anew = letter in "BS" or type_ != open_type
        if type_ and begins_anew:
            yield position, type_
        open_type = "" if letter in "ES" else type_  # E- and S- end an entity


def to_iob2(tags: Sequence[str]) -> list[str]:
    """The same entities in IOB2."""
    iob2 = [f"I-{tag[2:]}" if tag[2:] else tag for tag in tags]  # O has no type
    for position, type_ in entity_starts(tags):
        iob2[position] = f"B-{type_}"
    return iob2


def inside_labels(labels: Sequence[str]) -> list[int]:
    """Label id of a word -> label id of its second and further pieces: I-X for B-X and I-X, else the same.

    Args:
        labels: the names of the labels, in the order of their ids.
    """
    ids = {label: id_ for id_, label in enumerate(labels)}
    inside = []
    for id_, label in enumerate(labels):
        type_ = label[2:]  # "" for O; no label is I- alone
        inside.append(ids.get(f"I-{type_}", id_))
    return inside


def is_tag(tag: str, scheme: str = "IOB") -> bool:
    """Whether `tag` is O, or a letter of the scheme, "-" and a type. With the scheme NONE any tag will do."""
    if tag == OUTSIDE or scheme == "NONE":
        return True
    return len(tag) > 2 and tag[0] in SCHEMES[scheme] and tag[1] == "-"


def check_tag_map(label_map: Mapping[str, int], path: str | os.PathLike) -> None:
    """Check the label map of a tagging task.

    Args:
        path: of the map, for the error.

    Raises:
        UserError: it does not have B- and I- of each type, or O does not have the last id.
    """
    for tag in label_map:
        if tag == OUTSIDE:
            continue
        type_ = tag[2:]
        partner = f"I-{type_}" if tag.startswith("B") else f"B-{type_}"
        if not is_tag(tag) or partner not in label_map:
            raise UserError(
                f"{path}: the label '{tag}': there must be B-<type> and I-<type> of each type; for tags that "
                "mark no entities give --chunk_scheme NONE"
            )
    if label_map.get(OUTSIDE) != len(label_map) - 1:
        raise UserError(f"{path}: O must have the last id, {len(label_map) - 1}")


def split_words(text: str, marks_apart: bool) -> list[tuple[int, int]]:
    """The words of a raw text: the characters [start, end) of each.

    White space of every kind separates words.

    Args:
        marks_apart: whether marks at the edge of a word are words themselves, as `has_marks_apart` finds
            it in training data: "(CDU)," is four words, "..." one, and "U.N." one.
    """
    spans = []
    for chunk in re.finditer(r"\S+", text):
        if not marks_apart:
            spans.append(chunk.span())
            continue
        before, word, after = _WITH_MARKS.fullmatch(chunk[0]).groups()
        if after.startswith(".") and _ABBREVIATION.fullmatch(word):
            word += "."
            after = after[1:]
        parts = [match[0] for match in _EQUAL_MARKS.finditer(before)]
        if word:
            parts.append(word)
        parts += [match[0] for match in _EQUAL_MARKS.finditer(after)]
        start = chunk.start()
        for part in parts:
            spans.append((start, start + len(part)))
            start += len(part)
    return spans


def has_marks_apart(sentences: Iterable["Sentence"]) -> bool:
    """Whether marks are words themselves in most places of a file, as in CoNLL and WikiANN."""
    apart = attached = 0
    for sentence in sentences:
        for word in sentence.words:
            # A full stop may belong to an abbreviation.
            ends_in_mark = word[-1] in ",;:!?)" and len(word) > 1
            apart += word in ",;:!?)."
            attached += ends_in_mark and word[0].isalnum()
    return apart >= attached


def entities_on_marks(sentences: Iterable["Sentence"], begins: Collection[int]) -> float:
    """The share of the entities that begin with a word of marks alone.

    In WikiANN it is at most 0.5 % in ten languages. If the tags are shifted by a word, it is 17 to 55 %, but
    for a shift to the right in Chinese (1 %).

    Args:
        begins: the ids of the tags with which entities begin.
    """
    count = on_marks = 0
    for sentence in sentences:
        for word, label in zip(sentence.words, sentence.labels or ()):
            if label in begins:
                count += 1
                on_marks += not any(map(str.isalnum, word))
    return on_marks / max(count, 1)


class Sentence(NamedTuple):
    """One row. `text`: its words joined by U+0002; `labels`: an id per word, None without a label column."""

    text: str
    labels: tuple[int, ...] | None

    @property
    def words(self) -> list[str]:
        """The words of the text."""
        return self.text.split(JOINT)


def read_columns(
    lines: Iterable[str], path: str | os.PathLike, cells_of: Callable[[str], list[str]], form: str
) -> Iterator[tuple[int, list[list[str]]]]:
    """Yield each sentence of a file in CoNLL form: the number of its first line, and the cells of its lines.

    Args:
        path: of the file, for the error.
        cells_of: line -> its cells; an empty list for a line that ends a sentence.
        form: what a line holds, for the error.

    Raises:
        UserError: the number of columns changes, or a line has only one.
    """
    rows: list[list[str]] = []  # the lines of this sentence
    width = 0  # the number of columns
    for number, line in enumerate([*lines, ""], 1):  # the empty line ends the last sentence
        cells = cells_of(line)
        if cells:
            width = width or len(cells)  # the first line decides
            if len(cells) != width or width < 2:
                expected = max(width, 2)  # there must be two at least
                fault = f"{len(cells)} columns, not {expected}"
                raise UserError(f"{path}, line {number}: {fault}; a line is {form}")
            rows.append(cells)
        elif rows:
            yield number - len(rows), rows
            rows = []


def read_tagged(
    path: str | os.PathLike, label_map: Mapping[str, int], scheme: str = "IOB", labels: bool = True
) -> list[Sentence]:
    """Read and check a TSV file with the columns text_a and label, each joined by U+0002; tags become IOB2.

    Args:
        label_map: tag -> id, with B- and I- of each type unless the scheme is NONE.
        scheme: that of the tags, a key of `SCHEMES`.
        labels: False accepts a file without tags.

    Raises:
        UserError: the file cannot be read, a line has another form, or a tag is unknown.
    """
    path = Path(path)
    label_map = {normal_label(label): id_ for label, id_ in label_map.items()}
    required = ["text_a", "label"] if labels else ["text_a"]
    lines = read_all(path).rstrip(b"\r\n").split(b"\n")
    header = parse_header(lines[0], path, required, _FORM)
    sentences = []
    for number, line in enumerate(lines[1:], 2):
        place = f"{path}, line {number}"
        row = dict(zip(header, parse_row(line, path, number, header)))
        words = row["text_a"].split(JOINT)
        if "" in words:
            raise UserError(f"{place}: token {words.index('') + 1} of {len(words)} is empty")
        label_ids = None
        if "label" in row:
            tags = [normal_label(tag) for tag in row["label"].split(JOINT)]
            label_ids = _label_ids(tags, len(words), label_map, scheme, place)
        sentences.append(Sentence(row["text_a"], label_ids))
    if not sentences:
        raise UserError(f"{path}: no rows after the header")
    return sentences


def _label_ids(
    tags: list[str], word_count: int, label_map: Mapping[str, int], scheme: str, place: str
) -> tuple[int, ...]:
    """The label ids of a sentence.

    Args:
        word_count: the number of words.
        place: the file and the line, the beginning of an error.

    Raises:
        UserError: there is not one tag for each word, or a tag is empty or unknown.
    """
    if len(tags) != word_count:
        raise UserError(f"{place}: {word_count} tokens but {len(tags)} tags; U+0002 joins both")
    if "" in tags:
        raise UserError(f"{place}: the tag of token {tags.index('') + 1} is empty")
    labels = tags if scheme == "NONE" else to_iob2(tags)
    for number, (tag, label) in enumerate(zip(tags, labels), 1):
        if not is_tag(tag, scheme) or label not in label_map:
            letters = ", ".join(SCHEMES[scheme]) or "no letters"
            raise UserError(
                f"{place}, token {number}: unknown tag '{tag}'; --chunk_scheme {scheme} has "
                f"{letters}, and the label map has {', '.join(label_map)}"
            )
    return tuple(label_map[label] for label in labels)


class TaggedFeature(NamedTuple):
    """One sentence, the ids of its windows one after the other."""

    ids: list[int]
    labels: list[int]  # IGNORED where there is nothing to learn
    widths: list[int]  # number of ids of each window; mostly there is one
    words: list[tuple[int, int]]  # for each word: where its labelled pieces begin in `ids`, and their number


@dataclass(frozen=True)
class TaggedBatch:
    """What one process feeds the model at once: R windows of B sentences with W words, in int64."""

    input_ids: np.ndarray  # [R, T], padded on the right
    labels: np.ndarray  # [R, T]
    sentences: np.ndarray  # [R], ascending, the sentence of each window: 0 to B - 1
    words: np.ndarray  # [W, 3], of each word: its window, its first labelled piece, the number of these
    lengths: np.ndarray  # [B], words of each sentence
    indices: np.ndarray  # [B], the number of each sentence in the data set
    count: int  # what the loss of the whole step is divided by, over all micro-batches and processes


class EncodeTagged:
    """`reader.batching.EncodeExamples` for tagged sentences, of which each word is tokenised by itself.

    Args:
        max_seq_len: of a window, special tokens included.
        inside_label: label id of a word -> that of its further pieces, I-X for B-X; see `inside_labels`.
        label_pieces: "first": a word's first piece is labelled (a "▁" that stands alone before it is passed
            over); "leading": its first piece, whatever that is; "all": every piece, by `inside_label`.
    """

    def __init__(
        self, tokenizer: Tokenizer, max_seq_len: int, inside_label: Sequence[int], label_pieces: str = "first"
    ):
        self.tokenizer = tokenizer
        self.room = max_seq_len - 2  # beside [CLS] and [SEP]
        self.inside_label = list(inside_label)
        self.label_pieces = label_pieces
        self._space = tokenizer.vocab.get("▁")  # the id of a piece that is a space alone, if there is one

    def __call__(self, sentences: Sequence[Sentence]) -> list[TaggedFeature]:
        # One call for all words is faster than one for each.
        words: list[str] = []
        for sentence in sentences:
            words += sentence.words
        pieces = self.tokenizer.encode_batch(words)  # the ids of each word
        features = []
        start = 0  # the first word of a sentence
        for sentence in sentences:
            end = start + len(sentence.words)
            features.append(self._feature(pieces[start:end], sentence.labels))
            start = end
        return features

    def count(self, features: Sequence[TaggedFeature]) -> int:
        """The number of labelled pieces."""
        total = 0
        for feature in features:
            total += sum(piece_count for _, piece_count in feature.words)
        return total

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
        # A word is cut to what fits into one window. A word without pieces becomes [UNK], because it needs a
        # place for its tag.
        pieces = [word_ids[: self.room] or [self.tokenizer.unk_id] for word_ids in pieces]
        ids: list[int] = []
        widths: list[int] = []
        words: list[tuple[int, int]] = []
        for window in cut_windows([len(word_ids) for word_ids in pieces], self.room):
            window_start = len(ids)
            ids.append(self.tokenizer.cls_id)
            for number in range(window.start, window.end):
                # A word in an overlap is in two windows, and labelled in one.
                if window.tagged_start <= number < window.tagged_end:
                    words.append(self._labelled_pieces(pieces[number], start=len(ids)))
                ids += pieces[number]
            ids.append(self.tokenizer.sep_id)
            widths.append(len(ids) - window_start)
        targets = [IGNORED] * len(ids)
        if labels is not None:
            for (start, count), label in zip(words, labels):
                targets[start : start + count] = expanded(label, count, self.inside_label)
        return TaggedFeature(ids, targets, widths, words)

    def _labelled_pieces(self, word_ids: list[int], start: int) -> tuple[int, int]:
        """Where the labelled pieces of a word begin, and their number; see `label_pieces`.

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
    further = [inside_label[label]] * (count - 1)
    return [label, *further]


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
    middles = []
    for (_, end), (next_start, _) in pairwise(spans):
        middles.append(_middle(sizes, next_start, end))
    tagged_ranges = pairwise([0, *middles, len(sizes)])  # (start, end) as in `spans`
    windows = []
    for (start, end), (tagged_start, tagged_end) in zip(spans, tagged_ranges):
        windows.append(SentenceWindow(start, end, tagged_start, tagged_end))
    return windows


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
    word that is cut off, or has no pieces, has 0 labelled pieces.
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
            room = self.room - (len(ids) - 1)  # `ids` also has [CLS]
            part = word_ids[:room]
            start = len(ids) if part else 0  # 0: a word without labelled pieces is nowhere
            words.append((start, len(part)))
            ids += part
            targets += expanded(label, len(part), self.inside_label)
        ids.append(self.tokenizer.sep_id)
        targets.append(outside)
        return TaggedFeature(ids, targets, [len(ids)], words)
