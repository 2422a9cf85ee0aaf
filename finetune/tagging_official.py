"""Tagging as the official code does it (--official_compat true), to repeat its numbers.

Beside the layout of reader/tagged_official.py: F1 is counted over pieces, [CLS] and [SEP] among them, of text
that was cut at --max_seq_len, so an entity behind the cut is missing from the recall.
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from finetune.conll import Tagged
from finetune.tagging import Tagging, log_probabilities, mean_losses
from model.heads import TokenClassifier
from reader.tagged_features import IGNORED, TaggedBatch
from reader.tagged_official import EncodeTaggedOfficially
from reader.tagged_text import Sentence
from reader.tokenization import Tokenizer


class Pieces(NamedTuple):
    """A sentence's prediction: label ids of its pieces and what they should be [t], and of its words."""

    predicted: np.ndarray
    gold: np.ndarray
    words: np.ndarray


class OfficialTagging(Tagging):
    """`finetune.task.Task`; one window per sentence."""

    def make_encode(self, args: argparse.Namespace, tokenizer: Tokenizer) -> EncodeTaggedOfficially:
        # No multiple: the loss is divided by B x T, and more pads would change it.
        return EncodeTaggedOfficially(tokenizer, args.max_seq_len, self.inside)

    def predict(self, model: TokenClassifier, batch: TaggedBatch, labelled: bool) -> tuple[list, float]:
        """`Pieces` of each sentence; a word has the tag of its first piece, O without one."""
        logs = log_probabilities(model, batch)
        found = logs.argmax(-1)  # [R, T]
        row, start, pieces = batch.words.T
        tags = np.where(pieces > 0, found[row, start], len(self.labels) - 1)
        words = np.split(tags, np.cumsum(batch.lengths)[:-1])
        widths = (batch.labels != IGNORED).sum(1)
        predictions = [
            Pieces(ids[:width], gold[:width], own)
            for ids, gold, own, width in zip(found, batch.labels, words, widths)
        ]
        return predictions, mean_losses(logs, batch) if labelled else 0.0

    def score(self, data: Sequence[Sentence], predictions: list[Pieces], language: str) -> dict[str, float]:
        return self.measures([one.gold for one in predictions], [one.predicted for one in predictions])

    def tagged(self, data: Sequence[Sentence], predictions: list[Pieces]) -> Iterator[Tagged]:
        return super().tagged(data, [one.words for one in predictions])
