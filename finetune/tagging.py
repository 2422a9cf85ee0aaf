"""Tagged files in CoNLL form: a word a line with its tags, a blank line after each sentence.

    python -m finetune.tagging output/test.de.tsv.3.1200
    python -m finetune.tagging output/test.de.tsv.3.1200 --xtreme panx/test-de.tsv

The columns are word, gold tag (where it is known) and predicted tag, with a space between. The first command
prints what conlleval prints, the second also writes the predicted tags alone, as XTREME wants them.
"""

import argparse
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from finetune.task import Task
from model.task_names import TAGGING
from reader.classification import read_label_map
from reader.tagging import (
    IGNORED,
    EncodeTagged,
    EncodeTaggedOfficially,
    Sentence,
    TaggedBatch,
    check_tag_map,
    inside,
    read_tagged,
    word_scores,
)
from reader.tokenization import Tokenizer
from utils.errors import UserError, run
from utils.files import atomic_file


class Tagged(NamedTuple):
    """A sentence; `gold` is None where it is not known."""

    words: Sequence[str]
    gold: Sequence[str] | None
    predicted: Sequence[str]


def write_conll(path: str | os.PathLike, sentences: Iterable[Tagged]) -> None:
    """Write sentences, atomically. White space inside a word becomes "_", so that columns stay columns."""
    with atomic_file(path, "w", newline="\n") as file:
        for words, gold, predicted in sentences:
            plain = ["_".join(word.split()) or "_" for word in words]
            columns = (plain, predicted) if gold is None else (plain, gold, predicted)
            file.writelines(f"{' '.join(cells)}\n" for cells in zip(*columns, strict=True))
            file.write("\n")


def write_xtreme(path: str | os.PathLike, sentences: Iterable[Tagged]) -> None:
    """XTREME's submission layout, panx/test-<language>.tsv: the predicted tags alone, atomically.

    A blank line stands between sentences, none after the last.
    """
    with atomic_file(path, "w", newline="\n") as file:
        file.write("\n".join("".join(f"{tag}\n" for tag in one.predicted) for one in sentences))


def read_conll(path: str | os.PathLike) -> list[Tagged]:
    """Read a file as `write_conll` writes it. Columns between the word and the last two are not read.

    Raises:
        UserError: no such file, or a line with another number of columns; names the file and the line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot read it ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start + 1}); convert the file to UTF-8") from error
    width = 0
    sentences: list[list[list[str]]] = [[]]
    for number, line in enumerate(text.split("\n"), 1):
        cells = line.split()
        if not cells:
            sentences.append([])
            continue
        width = width or len(cells)
        if len(cells) != width or width < 2:
            raise UserError(
                f"{path}, line {number}: {len(cells)} columns, not {max(width, 2)}; a line is a word, its "
                "gold tag if it is known, and its predicted tag"
            )
        sentences[-1].append(cells)
    if not width:
        raise UserError(f"{path}: no words in it")
    columns = [list(zip(*sentence)) for sentence in sentences if sentence]
    return [Tagged(found[0], found[-2] if width > 2 else None, found[-1]) for found in columns]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("file", help="predictions in CoNLL form")
    parser.add_argument("--xtreme", metavar="FILE", help="write the predicted tags there")
    options = parser.parse_args(arguments)
    sentences = read_conll(options.file)
    gold = [one.gold for one in sentences if one.gold is not None]
    if gold:
        print(entity_scores(gold, [one.predicted for one in sentences]).report(), end="")
    elif not options.xtreme:
        raise UserError(f"{options.file}: two columns, so no gold tags to compare with")
    if options.xtreme:
        write_xtreme(options.xtreme, sentences)
        print(f"written: {options.xtreme}")


if __name__ == "__main__":
    run(main)


# Entity precision, recall and F1, counted and printed as conlleval does, the script of CoNLL-2002 and 2003.
#
# What an entity is, in regular and irregular sequences of tags, is seqeval's reading, which is
# conlleval's: it
# begins at a B-, and at an I- that continues nothing of its type. An entity is right when its first word, its
# last word and its type are.


@dataclass(frozen=True)
class Counts:
    """Entities: those there are, those predicted, those that are both."""

    gold: int
    predicted: int
    right: int

    @property
    def precision(self) -> float:
        """Per cent of the predicted that are right; 0 where nothing is predicted."""
        return 100 * self.right / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """Per cent of the gold that were found; 0 where there are none."""
        return 100 * self.right / self.gold if self.gold else 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of both; 0 where both are."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


@dataclass(frozen=True)
class EntityScores:
    """What conlleval knows of a file. `right_tags`: words whose tag is the same to the letter."""

    words: int
    right_tags: int
    by_type: dict[str, Counts] = field(default_factory=dict)

    @property
    def overall(self) -> Counts:
        counts = self.by_type.values()
        return Counts(*(sum(getattr(one, name) for one in counts) for name in ("gold", "predicted", "right")))

    def report(self) -> str:
        """conlleval's output, to the letter."""
        total = self.overall
        accuracy = 100 * self.right_tags / self.words if self.words else 0.0
        lines = [
            f"processed {self.words} tokens with {total.gold} phrases; found: {total.predicted} phrases; "
            f"correct: {total.right}.",
            f"accuracy: {accuracy:6.2f}%; {_shares(total)}",
        ]
        for type_, counts in self.by_type.items():
            lines.append(f"{type_:>17}: {_shares(counts)}  {counts.predicted}")
        return "\n".join(lines) + "\n"


def entity_scores(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> EntityScores:
    """Compare the tags of sentences. Types are in alphabetical order.

    Raises:
        ValueError: other numbers of sentences or tags in one than in the other.
    """
    if [len(tags) for tags in gold] != [len(tags) for tags in predicted]:
        raise ValueError("gold and predicted tags differ in number")
    there, found = _entities(gold), _entities(predicted)
    of_type = [Counter(type_ for type_, _, _ in entities) for entities in (there, found, there & found)]
    return EntityScores(
        sum(len(tags) for tags in gold),
        sum(a == b for ours, theirs in zip(gold, predicted) for a, b in zip(ours, theirs)),
        {type_: Counts(*(counts[type_] for counts in of_type)) for type_ in sorted(of_type[0] | of_type[1])},
    )


def _entities(sentences: Sequence[Sequence[str]]) -> set[tuple[str, int, int]]:
    """(type, first, last) with positions in the text as a whole; between two sentences stands an O."""
    # Imported here: it takes a second, and prediction does without it.
    from seqeval.metrics.sequence_labeling import get_entities

    return set(get_entities([tag for tags in sentences for tag in (*tags, "O")]))


def _shares(counts: Counts) -> str:
    return f"precision: {counts.precision:6.2f}%; recall: {counts.recall:6.2f}%; FB1: {counts.f1:6.2f}"


# Tagging of words: named entities, CoNLL-2002 and 2003, PAN-X.

if TYPE_CHECKING:
    from typing import Self  # Python 3.10 has none

    from paddle import Tensor


class Tagging(Task):
    """The task on every token; the metric is entity F1 over words, as conlleval counts it.

    Args:
        labels: the tags, in the order of the ids.
        max_seq_len: of a window, in tokens.
        label_pieces: see `reader.tagging.EncodeTagged`.
        multiple: the length of a batch is a multiple of it.
        scheme: of the tags in files; see `reader.tagging.SCHEMES`.
    """

    name = TAGGING
    metric = "f1"
    official = False

    def __init__(
        self, tokenizer: Tokenizer, labels: Sequence[str], max_seq_len: int, label_pieces: str = "first",
        multiple: int = 1, scheme: str = "IOB",
    ):  # fmt: skip
        self.labels, self.max_seq_len, self.scheme = list(labels), max_seq_len, scheme
        self.inside = inside(self.labels)
        encode = EncodeTaggedOfficially if self.official else EncodeTagged
        # Officially no multiple: the loss is divided by B x T, and more pads would change it.
        multiple = 1 if self.official else multiple
        self.encode = encode(tokenizer, max_seq_len, self.inside, label_pieces, multiple)

    @classmethod
    def from_flags(cls, args: argparse.Namespace, tokenizer: Tokenizer) -> "Self":
        if args.label_map_config is None:
            raise UserError("--label_map_config is needed: the tags and their ids, O last (label_map.json)")
        ids = read_label_map(args.label_map_config, args.num_labels)
        check_tag_map(ids, args.label_map_config)
        labels, multiple = sorted(ids, key=ids.get), args.pad_to_multiple_of
        return cls(tokenizer, labels, args.max_seq_len, args.label_pieces, multiple, args.chunk_scheme)

    @classmethod
    def from_reading(
        cls, reading: Mapping[str, Any], tokenizer: Tokenizer, labels: Sequence[str], max_seq_len: int
    ) -> "Self":
        """The task as a model was trained. Where that was with --official_compat, no text is cut off here."""
        pieces = reading.get("label_pieces", "first")
        return cls(tokenizer, labels, max_seq_len, "leading" if reading.get("official_compat") else pieces)

    def reading(self) -> dict[str, Any]:
        pieces = self.encode.label_pieces
        return {
            "max_seq_len": self.max_seq_len, "label_pieces": pieces, "official_compat": self.official,
        }  # fmt: skip

    def read(self, path: str | os.PathLike, purpose: str) -> list[Sentence]:
        ids = {label: i for i, label in enumerate(self.labels)}
        return read_tagged(path, ids, self.scheme, labels=purpose != "test")

    def losses(self, batch: TaggedBatch, outputs: dict[str, "Tensor"]) -> tuple["Tensor", "Tensor", int]:
        """Over the labelled pieces."""
        import paddle
        import paddle.nn.functional as F

        logits, labels = outputs["logits"], paddle.to_tensor(batch.labels)  # [R, T, C], [R, T]
        total = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
        learned = int((batch.labels != IGNORED).sum())
        return total, (logits.argmax(-1) == labels).sum(), learned

    def evaluation_loss(self, batch: TaggedBatch, outputs: dict[str, "Tensor"]) -> float:
        """The sum over sentences of the mean loss of their labelled pieces."""
        logits = outputs["logits"].numpy().astype(np.float64)  # [R, T, C]
        logits -= logits.max(-1, keepdims=True)
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        learned = batch.labels != IGNORED  # [R, T]
        labels = np.where(learned, batch.labels, 0)[..., None]
        losses = -np.take_along_axis(logs, labels, -1)[..., 0] * learned  # [R, T]
        sums = np.bincount(batch.sentences, losses.sum(1))  # [B]
        return float((sums / np.bincount(batch.sentences, learned.sum(1))).sum())

    def decode(self, batch: TaggedBatch, outputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The label ids of the words of each sentence, [words].

        A word with several labelled pieces has the tag whose expansion (B-X I-X I-X ...) they find likeliest.
        """
        # float64, so that sums along T keep their digits
        scores = word_scores(outputs["logits"].astype(np.float64), batch.words, self.inside)  # [W, C]
        return np.split(scores.argmax(-1), np.cumsum(batch.lengths)[:-1])

    def score(self, data: Sequence[Sentence], predictions: list, language: str) -> dict[str, float]:
        return self.measures([sentence.labels for sentence in data], predictions)

    def measures(self, gold: Sequence[Sequence[int]], predicted: Sequence[Sequence[int]]) -> dict[str, float]:
        """Metric -> per cent, from the label ids of sentences."""
        found = entity_scores(list(map(self.tags, gold)), list(map(self.tags, predicted))).overall
        return {self.metric: found.f1, "precision": found.precision, "recall": found.recall}

    def write(self, path: str | os.PathLike, data: Sequence[Sentence], predictions: list) -> None:
        """CoNLL form: word, gold tag if there is one, predicted tag; a blank line after a sentence."""
        write_conll(path, self.tagged(data, predictions))

    def write_xtreme(self, path: str | os.PathLike, data: Sequence[Sentence], predictions: list) -> None:
        """The predicted tags, a line each; a blank line between sentences."""
        write_xtreme(path, self.tagged(data, predictions))

    def tagged(self, data: Sequence[Sentence], predictions: list) -> Iterator[Tagged]:
        """The sentences with their predicted tags, one for each word."""
        for sentence, found in zip(data, predictions, strict=True):
            gold = sentence.labels and self.tags(sentence.labels)
            yield Tagged(sentence.words, gold, self.tags(found))

    def tags(self, labels: Sequence[int]) -> list[str]:
        """Label ids as tags."""
        return [self.labels[label] for label in labels]


class Pieces(NamedTuple):
    """A sentence's prediction: label ids of its pieces and what they should be [t], and of its words."""

    predicted: np.ndarray
    gold: np.ndarray
    words: np.ndarray


class OfficialTagging(Tagging):
    """Training and evaluation as the official code does it (--official_compat true), to repeat its numbers.

    Inputs are laid out as in `reader.tagging`. F1 is counted over pieces, [CLS] and [SEP] among them,
    of text that was cut at --max_seq_len, so an entity behind the cut is missing from the recall.
    """

    official = True

    def decode(self, batch: TaggedBatch, outputs: Mapping[str, np.ndarray]) -> list[Pieces]:
        """A word has the tag of its first piece, O without one."""
        found = outputs["logits"].argmax(-1)  # [R, T]
        row, start, pieces = batch.words.T
        tags = np.where(pieces > 0, found[row, start], len(self.labels) - 1)
        words = np.split(tags, np.cumsum(batch.lengths)[:-1])
        widths = (batch.labels != IGNORED).sum(1)
        return [
            Pieces(ids[:width], gold[:width], own)
            for ids, gold, own, width in zip(found, batch.labels, words, widths)
        ]

    def score(self, data: Sequence[Sentence], predictions: list[Pieces], language: str) -> dict[str, float]:
        return self.measures([one.gold for one in predictions], [one.predicted for one in predictions])

    def tagged(self, data: Sequence[Sentence], predictions: list[Pieces]) -> Iterator[Tagged]:
        return super().tagged(data, [one.words for one in predictions])
