"""Tagging of words: named entities, CoNLL-2002 and 2003, PAN-X."""

import argparse
import os
from collections.abc import Iterator, Sequence

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from finetune.conll import Tagged, write_conll, write_xtreme
from finetune.entities import entity_scores
from model.ernie_m import ErnieMConfig
from model.heads import TokenClassifier
from reader.tag_schemes import check_tag_map, inside
from reader.tagged_features import IGNORED, EncodeTagged, TaggedBatch, word_scores
from reader.tagged_text import Sentence, read_tagged
from reader.task_reader import read_label_map
from reader.tokenization import Tokenizer
from utils.errors import UserError


class Tagging:
    """`finetune.task.Task` on every token; the metric is entity F1 over words, as conlleval counts it.

    Raises:
        UserError: no label map, or not one of tags with O last.
    """

    name = "sequence_labeling"
    metric = "f1"
    xtreme_ending = "tsv"

    def __init__(self, args: argparse.Namespace, tokenizer: Tokenizer):
        if args.label_map_config is None:
            raise UserError("--label_map_config is needed: the tags and their ids, O last (label_map.json)")
        self.label_map = read_label_map(args.label_map_config, args.num_labels)
        check_tag_map(self.label_map, args.label_map_config)
        self.labels = sorted(self.label_map, key=self.label_map.get)
        self.scheme = args.chunk_scheme
        self.inside = inside(self.labels)
        self.encode = self.make_encode(args, tokenizer)

    def make_encode(self, args: argparse.Namespace, tokenizer: Tokenizer) -> EncodeTagged:
        return EncodeTagged(
            tokenizer, args.max_seq_len, self.inside, args.label_pieces, args.pad_to_multiple_of
        )

    def make_model(self, config: ErnieMConfig) -> TokenClassifier:
        return TokenClassifier(config, len(self.labels))

    def read(self, path: str | os.PathLike, purpose: str) -> list[Sentence]:
        return read_tagged(path, self.label_map, self.scheme, labels=purpose != "test")

    def loss(self, model: TokenClassifier, batch: TaggedBatch) -> tuple[Tensor, dict[str, Tensor | float]]:
        logits = model(paddle.to_tensor(batch.input_ids))  # [R, T, C]
        labels = paddle.to_tensor(batch.labels)  # [R, T]
        loss = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum") / batch.count
        learned = int((batch.labels != IGNORED).sum())
        return loss, {"correct": (logits.argmax(-1) == labels).sum(), "count": learned}

    def predict(self, model: TokenClassifier, batch: TaggedBatch, labelled: bool) -> tuple[list, float]:
        """The label ids of the words of each sentence, [words]; its loss is the mean of its labelled pieces.

        A word with several labelled pieces has the tag whose expansion (B-X I-X I-X ...) they find likeliest.
        """
        logs = log_probabilities(model, batch)  # [R, T, C]
        scores = word_scores(logs, batch.words, self.inside)  # [W, C]
        predictions = np.split(scores.argmax(-1), np.cumsum(batch.lengths)[:-1])
        return predictions, mean_losses(logs, batch) if labelled else 0.0

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


def log_probabilities(model: TokenClassifier, batch: TaggedBatch) -> np.ndarray:
    """Those of every label at every token, [R, T, C] float64, so that sums along T keep their digits."""
    logits = model(paddle.to_tensor(batch.input_ids)).astype("float64").numpy()
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def mean_losses(logs: np.ndarray, batch: TaggedBatch) -> float:
    """The sum over sentences of the mean loss of their labelled pieces. `logs`: [R, T, C]."""
    learned = batch.labels != IGNORED  # [R, T]
    labels = np.where(learned, batch.labels, 0)[..., None]
    losses = -np.take_along_axis(logs, labels, -1)[..., 0] * learned  # [R, T]
    sums = np.bincount(batch.sentences, losses.sum(1))  # [B]
    return float((sums / np.bincount(batch.sentences, learned.sum(1))).sum())
