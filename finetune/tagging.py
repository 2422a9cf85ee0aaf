"""Tagging of words: CoNLL, PAN-X; and files of tagged words in CoNLL form."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from finetune.flags import FinetuneFlags
from finetune.metrics import entity_scores
from finetune.task import SupervisedTask
from model.task_names import TAGGING
from reader import tagging
from reader.tagging import Sentence, TaggedBatch
from reader.task_files import read_label_map
from reader.tokenization import Tokenizer
from reader.tsv import decode, read_all
from utils.errors import UserError
from utils.files import atomic_file

if TYPE_CHECKING:
    from paddle import Tensor

    from model.batch import LabelledBatch


class TaggedSentence(NamedTuple):
    """The words of a sentence, their gold tags (None if unknown) and their predicted tags."""

    words: Sequence[str]
    gold: Sequence[str] | None
    predicted: Sequence[str]


class Tagging(SupervisedTask):
    """Classify every token; the metric is entity F1 over words, as conlleval counts it.

    Args:
        labels: the tags in the order of their ids.
        max_seq_len: length of a window in tokens.
        label_pieces: see `reader.tagging.EncodeTagged`.
        scheme: tag scheme of the files; see `reader.tagging.SCHEMES`.
    """

    name = TAGGING
    metric = "f1"
    official = False

    def __init__(
        self, tokenizer: Tokenizer, labels: Sequence[str], max_seq_len: int, label_pieces: str = "first",
        scheme: str = "IOB",
    ):  # fmt: skip
        self.labels, self.max_seq_len, self.scheme = list(labels), max_seq_len, scheme
        self.inside = tagging.inside(self.labels)
        encode = tagging.EncodeTaggedOfficially if self.official else tagging.EncodeTagged
        self.encode = encode(tokenizer, max_seq_len, self.inside, label_pieces)

    @classmethod
    def from_flags(cls, flags: FinetuneFlags, tokenizer: Tokenizer) -> Self:
        if flags.label_map_config is None:
            raise UserError("--label_map_config is needed: the tags and their ids, O last (label_map.json)")
        ids = read_label_map(flags.label_map_config, flags.num_labels)
        tagging.check_tag_map(ids, flags.label_map_config)
        labels = sorted(ids, key=ids.get)
        return cls(tokenizer, labels, flags.max_seq_len, flags.label_pieces, flags.chunk_scheme)

    @classmethod
    def from_reading(
        cls, reading: Mapping[str, Any], tokenizer: Tokenizer, labels: Sequence[str], max_seq_len: int
    ) -> Self:
        """Make the task for prediction. Text is never cut off, even after training with --official_compat."""
        pieces = reading.get("label_pieces", "first")
        return cls(tokenizer, labels, max_seq_len, "leading" if reading.get("official_compat") else pieces)

    def reading(self) -> dict[str, Any]:
        pieces = self.encode.label_pieces
        return {"max_seq_len": self.max_seq_len, "label_pieces": pieces, "official_compat": self.official}

    def read(self, path: str | os.PathLike, purpose: str) -> list[Sentence]:
        ids = {label: i for i, label in enumerate(self.labels)}
        return tagging.read_tagged(path, ids, self.scheme, labels=purpose != "test")

    def losses(self, sent: "LabelledBatch", outputs: dict[str, "Tensor"]) -> tuple["Tensor", "Tensor", Any]:
        """Return the loss and the correct decisions over the labelled pieces."""
        import paddle.nn.functional as F

        logits, labels = outputs["logits"], sent.targets  # [R, T, C], [R, T]
        total = F.cross_entropy(logits, labels, ignore_index=tagging.IGNORED, reduction="sum")
        return total, (logits.argmax(-1) == labels).sum(), (labels != tagging.IGNORED).sum()

    def evaluation_loss(
        self, batch: TaggedBatch, outputs: dict[str, "Tensor"], sent: "LabelledBatch"
    ) -> float:
        """Sum over the sentences the mean loss of their labelled pieces."""
        logits = outputs["logits"].numpy().astype(np.float64)  # [R, T, C]
        logits -= logits.max(-1, keepdims=True)
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        learned = batch.labels != tagging.IGNORED  # [R, T]
        labels = np.where(learned, batch.labels, 0)[..., None]
        losses = -np.take_along_axis(logs, labels, -1)[..., 0] * learned  # [R, T]
        sums = np.bincount(batch.sentences, losses.sum(1))  # [B]
        return float((sums / np.bincount(batch.sentences, learned.sum(1))).sum())

    def decode(self, batch: TaggedBatch, outputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the label ids of the words of each sentence, [words].

        If several pieces of a word are labelled, the word gets the tag whose expansion (B-X I-X I-X ...) is
        the most likely one.
        """
        # float64, so that sums along T keep their digits
        scores = tagging.word_scores(outputs["logits"].astype(np.float64), batch.words, self.inside)  # [W, C]
        return np.split(scores.argmax(-1), np.cumsum(batch.lengths)[:-1])

    def score(self, data: Sequence[Sentence], predictions: list, language: str) -> dict[str, float]:
        return self.measures([sentence.labels for sentence in data], predictions)

    def measures(self, gold: Sequence[Sequence[int]], predicted: Sequence[Sequence[int]]) -> dict[str, float]:
        """Compare the label ids of sentences: metric -> per cent."""
        found = entity_scores(list(map(self.tags, gold)), list(map(self.tags, predicted)))
        return {self.metric: found.f1, "precision": found.precision, "recall": found.recall}

    def write(self, path: str | os.PathLike, data: Sequence[Sentence], predictions: list) -> None:
        """Write a word per line, its gold tag (if it is known) and its predicted tag: conlleval's form.

        A blank line follows each sentence. White space inside a word becomes "_".
        """
        with atomic_file(path, "w", newline="\n") as file:
            for words, gold, predicted in self.tagged(data, predictions):
                plain = ["_".join(word.split()) or "_" for word in words]
                columns = (plain, predicted) if gold is None else (plain, gold, predicted)
                file.writelines(f"{' '.join(cells)}\n" for cells in zip(*columns, strict=True))
                file.write("\n")

    def tagged(self, data: Sequence[Sentence], predictions: list) -> Iterator[TaggedSentence]:
        """Yield each sentence with its predicted tags."""
        for sentence, found in zip(data, predictions, strict=True):
            gold = sentence.labels and self.tags(sentence.labels)
            yield TaggedSentence(sentence.words, gold, self.tags(found))

    def tags(self, labels: Sequence[int]) -> list[str]:
        """Turn label ids into tags."""
        return [self.labels[label] for label in labels]


class OfficialPrediction(NamedTuple):
    """Predicted and gold label ids of the pieces of a sentence, [t] each, and predicted ids of its words."""

    predicted: np.ndarray
    gold: np.ndarray
    words: np.ndarray


class OfficialTagging(Tagging):
    """Training and evaluation as in the official code (--official_compat true), to reproduce its numbers.

    F1 is counted over pieces, [CLS] and [SEP] included, of text that is cut off at --max_seq_len. The recall
    does not count entities behind the cut.
    """

    official = True

    def decode(self, batch: TaggedBatch, outputs: Mapping[str, np.ndarray]) -> list[OfficialPrediction]:
        """A word gets the tag of its first piece, or O if it has no piece."""
        found = outputs["logits"].argmax(-1)  # [R, T]
        row, start, pieces = batch.words.T
        tags = np.where(pieces > 0, found[row, start], len(self.labels) - 1)
        words = np.split(tags, np.cumsum(batch.lengths)[:-1])
        widths = (batch.labels != tagging.IGNORED).sum(1)
        return [
            OfficialPrediction(ids[:width], gold[:width], own)
            for ids, gold, own, width in zip(found, batch.labels, words, widths)
        ]

    def score(self, data: Sequence[Sentence], predictions: list, language: str) -> dict[str, float]:
        return self.measures([one.gold for one in predictions], [one.predicted for one in predictions])

    def tagged(self, data: Sequence[Sentence], predictions: list) -> Iterator[TaggedSentence]:
        return super().tagged(data, [one.words for one in predictions])


def read_conll(path: str | os.PathLike) -> list[TaggedSentence]:
    """Read a file that `Tagging.write` wrote. UserError: it cannot be read, or has another form."""
    lines = decode(read_all(Path(path)), path, 1).split("\n")
    form = "a word, its gold tag if it is known, and its predicted tag"
    found = [list(zip(*rows)) for _, rows in tagging.read_columns(lines, path, str.split, form)]
    return [TaggedSentence(one[0], one[-2] if len(one) > 2 else None, one[-1]) for one in found]
