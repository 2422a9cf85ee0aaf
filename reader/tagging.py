"""Tagged sentences: tags that mark entities, the official files, and the model inputs made of them.

    words   U.N.   official  Ekeus   heads    for      Baghdad
    IOB1    I-ORG  O         I-PER   O        O        I-LOC     B- only between two neighbours of one type
    IOB2    B-ORG  O         B-PER   O        O        B-LOC     B- at the beginning of every entity
    IOE     E-ORG  O         E-PER   O        O        E-LOC     E- at the end of every entity, I- before it
    IOBES   S-ORG  O         S-PER   O        O        S-LOC     B-, I-, E-; S- is an entity of one word

An entity begins at each B-, and at an I- whose type differs from that of the word before. conlleval reads
tags this way, which gives every sequence of tags one meaning.

    pieces  [CLS] ▁Eke us ▁head s ▁for [SEP]      (--label_pieces first)
    labels    -   B-PER -   O   -   O    -        - : no loss here

A sentence that does not fit is cut between words into windows that overlap by a quarter. In the overlap, a
word belongs to the window whose edge is farther away: it is labelled and predicted only there.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reader.batching import pad
from reader.tokenization import Tokenizer
from reader.tsv import map_bytes, parse_header, parse_row
from utils.errors import UserError

OUTSIDE = "O"
# scheme -> the letters of its tags; IOB: IOB1 or IOB2
SCHEMES = {"IOB": "BI", "IOE": "IE", "IOBES": "BIES"}
JOINT = "\x02"  # between the words of a sentence, and between its tags
IGNORED = -100  # the label of a token without a loss
_OVERLAP = 4  # windows share one part in four
_COLUMNS = "text_a, label; tokens and tags are joined by U+0002"


class EntityStart(NamedTuple):
    """The number and the tag of the first word of an entity."""

    position: int
    tag: str


def entity_starts(tags: Sequence[str]) -> Iterator[EntityStart]:
    """Where entities begin in the tags of one sentence, in any scheme; IOB as conlleval reads it."""
    open_type = ""
    for position, tag in enumerate(tags):
        type_ = tag[2:]  # empty for O
        if type_ and (tag[0] in "BS" or type_ != open_type):
            yield EntityStart(position, tag)
        open_type = "" if tag[0] in "ES" else type_


def to_iob2(tags: Sequence[str]) -> list[str]:
    """The same entities in IOB2."""
    written = [f"I-{tag[2:]}" if tag[2:] else tag for tag in tags]
    for start in entity_starts(tags):
        written[start.position] = f"B-{start.tag[2:]}"
    return written


def inside(labels: Sequence[str]) -> list[int]:
    """For each label id the label id of further pieces of the word: I-X for B-X and I-X, else the same."""
    ids = {label: id_ for id_, label in enumerate(labels)}
    return [ids.get(f"I-{label[2:]}", id_) for id_, label in enumerate(labels)]


def is_tag(tag: str, scheme: str = "IOB") -> bool:
    """Whether `tag` is O, or a letter of the scheme, "-" and a type."""
    return tag == OUTSIDE or (tag[:1] in [*SCHEMES[scheme]] and tag[1:2] == "-" and len(tag) > 2)


def check_tag_map(label_map: Mapping[str, int], path: str | os.PathLike) -> None:
    """Check that a label map has B- and I- of each type, and O with the last id. UserError: it has not."""
    for tag in label_map:
        other = ("I-" if tag[:1] == "B" else "B-") + tag[2:]
        if not is_tag(tag) or (tag != OUTSIDE and other not in label_map):
            raise UserError(f"{path}: the label '{tag}': there must be B-<type> and I-<type> of each type")
    if label_map.get(OUTSIDE) != len(label_map) - 1:
        raise UserError(f"{path}: O must have the last id, {len(label_map) - 1}")


class Sentence(NamedTuple):
    """One row. `text`: its words joined by U+0002; `labels`: an id per word, None without a label column."""

    text: str
    labels: tuple[int, ...] | None

    @property
    def words(self) -> list[str]:
        return self.text.split(JOINT)


def read_columns(
    lines: Iterable[str], path: str | os.PathLike, cells_of: Callable[[str], list[str]], form: str
) -> Iterator[tuple[int, list[list[str]]]]:
    """Yield each sentence of a file in CoNLL form: the number of its first line, and the cells of its lines.

    Args:
        cells_of: the cells of a line; none ends a sentence.
        form: what a line holds, for the error when the number of columns changes or is 1.
    """
    rows: list[list[str]] = []
    width = 0
    for number, line in enumerate([*lines, ""], 1):
        if cells := cells_of(line):
            width = width or len(cells)
            if len(cells) != width or width < 2:
                fault = f"{len(cells)} columns, not {max(width, 2)}"
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
        label_map: tag -> id, with B- and I- of each type.
        scheme: that of the tags, a key of `SCHEMES`.
        labels: False accepts a file without tags.

    Raises:
        UserError: the file cannot be read, a line has another form, or a tag is unknown.
    """
    path = Path(path)
    rows = map_bytes(path)[:].rstrip(b"\r\n").split(b"\n")
    header = parse_header(rows[0], path, ["text_a", *["label"] * labels], _COLUMNS)
    sentences = []
    for number, row in enumerate(rows[1:], 2):
        cells = dict(zip(header, parse_row(row, path, number, header)))
        text, where = cells["text_a"], f"{path}, line {number}"
        words = text.split(JOINT)
        if "" in words:
            raise UserError(f"{where}: token {words.index('') + 1} of {len(words)} is empty")
        found = None
        if "label" in cells:
            found = _labels(cells["label"].split(JOINT), len(words), label_map, scheme, where)
        sentences.append(Sentence(text, found))
    if not sentences:
        raise UserError(f"{path}: no rows after the header")
    return sentences


def _labels(
    tags: list[str], words: int, label_map: Mapping[str, int], scheme: str, where: str
) -> tuple[int, ...]:
    """The label ids of the words of a sentence."""
    if len(tags) != words:
        raise UserError(f"{where}: {words} tokens but {len(tags)} tags; U+0002 joins both")
    iob2 = to_iob2(tags)
    for position, tag in enumerate(tags):
        if not is_tag(tag, scheme) or iob2[position] not in label_map:
            raise UserError(
                f"{where}, token {position + 1}: unknown tag '{tag}'; --chunk_scheme {scheme} has "
                f"{', '.join(SCHEMES[scheme])}, and the label map has {', '.join(label_map)}"
            )
    return tuple(label_map[tag] for tag in iob2)


class TaggedFeature(NamedTuple):
    """One sentence, the ids of its windows one after the other."""

    ids: list[int]
    labels: list[int]  # IGNORED where there is nothing to learn
    widths: list[int]  # ids of each window; mostly there is one
    words: list[tuple[int, int]]  # of each word its place in `ids`, and how many pieces are labelled there


@dataclass(frozen=True)
class TaggedBatch:
    """What one process feeds the model at once: R windows of B sentences with W words, in int64."""

    input_ids: np.ndarray  # [R, T], padded on the right
    labels: np.ndarray  # [R, T]
    sentences: np.ndarray  # [R], ascending, the sentence of each window: 0 to B - 1
    words: np.ndarray  # [W, 3], of each word its window, its first labelled piece, and how many there are
    lengths: np.ndarray  # [B], words of each sentence
    indices: np.ndarray  # [B], the place of each sentence in the data set
    count: int  # what the loss of the whole step is divided by, over all micro-batches and processes


class EncodeTagged:
    """`reader.batching.EncodeExamples` for tagged sentences, of which each word is tokenised by itself.

    Args:
        max_seq_len: of a window, special tokens included.
        inside: label -> the label of a further piece of a word that has it: B-X and I-X -> I-X, O -> O.
        label_pieces: "first": a word's first piece is labelled (a "▁" that stands alone before it is passed
            over); "leading": its first piece, whatever that is; "all": every piece, by `inside`.
    """

    def __init__(
        self, tokenizer: Tokenizer, max_seq_len: int, inside: Sequence[int], label_pieces: str = "first",
    ):  # fmt: skip
        self.tokenizer, self.room = tokenizer, max_seq_len - 2
        self.inside, self.label_pieces = list(inside), label_pieces
        self._space = tokenizer.vocab.get("▁")

    def __call__(self, sentences: Sequence[Sentence]) -> list[TaggedFeature]:
        words = [word for sentence in sentences for word in sentence.words]
        pieces = iter(self.tokenizer.encode_batch(words))
        return [self._feature([next(pieces) for _ in one.words], one.labels) for one in sentences]

    def count(self, features: Sequence[TaggedFeature]) -> int:
        """Labelled pieces."""
        return sum(count for feature in features for _, count in feature.words)

    def collate(self, features: Sequence[TaggedFeature], indices: np.ndarray, count: int) -> TaggedBatch:
        ids, labels, words = [], [], []
        for feature in features:
            bounds = np.cumsum([0, *feature.widths])
            places, pieces = np.asarray(feature.words, np.int64).reshape(-1, 2).T  # [words] each
            window = np.searchsorted(bounds, places, side="right") - 1
            words.append(np.stack([len(ids) + window, places - bounds[window], pieces], axis=1))
            ids += [feature.ids[a:b] for a, b in pairwise(bounds)]
            labels += [feature.labels[a:b] for a, b in pairwise(bounds)]
        rows, lengths = np.asarray([[len(one.widths), len(one.words)] for one in features], np.int64).T
        return TaggedBatch(
            pad(ids, self.tokenizer.pad_id), pad(labels, IGNORED), np.repeat(np.arange(len(rows)), rows),
            np.concatenate(words), lengths, np.asarray(indices, np.int64), count,
        )  # fmt: skip

    def _feature(self, pieces: list[list[int]], labels: tuple[int, ...] | None) -> TaggedFeature:
        # A word without pieces becomes [UNK], because it needs a place for its tag.
        pieces = [word[: self.room] or [self.tokenizer.unk_id] for word in pieces]
        ids, widths, words = [], [], []
        for first, last, own_first, own_last in cut_windows([len(word) for word in pieces], self.room):
            start = len(ids)
            ids.append(self.tokenizer.cls_id)
            for number in range(first, last):
                if own_first <= number < own_last:
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
    """The score of each tag for each word: that of its expansion B-X I-X I-X ... over all pieces of the word.

    `scores` [R, T, C] are logits or log probabilities, in float64, so that sums along T stay exact; `words`
    as in `TaggedBatch`. Returns [W, C].
    """
    row, start, pieces = words.T  # each [W]
    further = scores[:, :, inside].cumsum(1)  # [R, T, C]
    return scores[row, start] + (further[row, start + pieces - 1] - further[row, start])


def cut_windows(sizes: Sequence[int], room: int) -> list[tuple[int, int, int, int]]:
    """Cut a sentence between words into as few overlapping windows as fit.

    `sizes` are the pieces of each word, at most `room`, the pieces that fit into a window. A window (first,
    last, own_first, own_last) has the words first .. last - 1, of which own_first .. own_last - 1 are tagged
    in it.
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
    return [(*span, *own) for span, own in zip(spans, pairwise([0, *middles, len(sizes)]))]


def _middle(sizes: Sequence[int], first: int, last: int) -> int:
    """The word among first .. last - 1 at which the second half of their pieces begins."""
    half = sum(sizes[first:last]) / 2
    while first < last and half >= sizes[first] / 2:
        half -= sizes[first]
        first += 1
    return first


class EncodeTaggedOfficially(EncodeTagged):
    """The inputs of the official reader (--official_compat true).

        pieces   [CLS] ▁Eke us   ▁head s      ▁for [SEP]
        labels   O     B-PER I-PER O    O      O    O

    The loss is divided by B x T, with the padding in T. A sentence has one window; the rest is cut off. A
    word that is cut off, or has no pieces, has 0 labelled pieces.
    """

    def count(self, features: Sequence[TaggedFeature]) -> int:
        """B x T of the whole step."""
        return len(features) * max(len(feature.ids) for feature in features)

    def _feature(self, pieces: list[list[int]], labels: tuple[int, ...] | None) -> TaggedFeature:
        outside = len(self.inside) - 1
        ids, targets, words = [self.tokenizer.cls_id], [outside], []
        for number, word in enumerate(pieces):
            kept = word[: self.room + 1 - len(ids)]
            words.append((len(ids) if kept else 0, len(kept)))
            ids += kept
            targets += expanded(outside if labels is None else labels[number], len(kept), self.inside)
        return TaggedFeature([*ids, self.tokenizer.sep_id], [*targets, outside], [len(ids) + 1], words)
