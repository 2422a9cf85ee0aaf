"""Tagging of words: named entities, CoNLL-2002 and 2003, PAN-X."""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from finetune.conll import Tagged, write_conll, write_xtreme
from finetune.entities import entity_scores
from finetune.task import Task
from model.task_names import TAGGING
from reader.tag_schemes import check_tag_map, inside
from reader.tagged_features import IGNORED, EncodeTagged, TaggedBatch, word_scores
from reader.tagged_official import EncodeTaggedOfficially
from reader.tagged_text import Sentence, read_tagged
from reader.task_reader import read_label_map
from reader.tokenization import Tokenizer
from utils.errors import UserError

if TYPE_CHECKING:
    from typing import Self  # Python 3.10 has none

    from paddle import Tensor


class Tagging(Task):
    """The task on every token; the metric is entity F1 over words, as conlleval counts it.

    Args:
        labels: the tags, in the order of the ids.
        max_seq_len: of a window, in tokens.
        label_pieces: see `reader.tagged_features.EncodeTagged`.
        multiple: the length of a batch is a multiple of it.
        scheme: of the tags in files; see `reader.tag_schemes.SCHEMES`.
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

    Inputs are laid out as in `reader.tagged_official`. F1 is counted over pieces, [CLS] and [SEP] among them,
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
