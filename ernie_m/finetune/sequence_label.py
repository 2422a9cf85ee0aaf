"""Tagging of words: CoNLL, PAN-X, parts of speech; and files of tags as in CoNLL."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.finetune.head import Head
from ernie_m.finetune.metrics import accuracy, entity_scores, seqeval_chunks
from ernie_m.model.checkpoint.open import Checkpoint
from ernie_m.model.preprocessing import PreprocessingConfig
from ernie_m.model.tasks import TOKEN_CLASSIFICATION
from ernie_m.reader.batching import WINDOW_EXAMPLES, warn_if_cut, windows
from ernie_m.reader.files.official_tags import Sentence, entities_on_marks, has_marks_apart, read_tagged
from ernie_m.reader.labels import input_hash, read_label_map
from ernie_m.reader.tag_schemes import check_tag_map, inside_labels
from ernie_m.reader.task_reader import IGNORED, EncodeTagged, EncodeTaggedOfficially, TaggedBatch, word_scores
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import atomic_file
from ernie_m.utils.logging import logger

if TYPE_CHECKING:
    from paddle import Tensor

    from ernie_m.model.packed_batch import LabeledBatch

_MOST_ON_MARKS = 0.05  # the greatest share of entities that begin with a mark without a warning


class TaggedSentence(NamedTuple):
    """The words of a sentence, their gold tags (None if unknown) and their predicted tags.

    In a file as in CoNLL, a line has a word with its tags, and a blank line stands behind each sentence.
    """

    words: Sequence[str]
    gold: Sequence[str] | None
    predicted: Sequence[str]


class Tagging(Head[Sequence[Sentence]]):
    """Classify every token; the metric is entity F1 over words, as conlleval counts it.

    With the scheme NONE it is the F1 of XTREME; see `ernie_m.finetune.metrics.seqeval_chunks`.

    Args:
        labels: the tags in the order of their ids.
        max_seq_len: length of a window in tokens.
        label_pieces: see `ernie_m.reader.task_reader.EncodeTagged`.
        scheme: tag scheme of the files; see `ernie_m.reader.tag_schemes.SCHEMES`.
    """

    name = TOKEN_CLASSIFICATION
    metric = "f1"
    labels: list[str]
    encode: EncodeTagged
    marks_apart = True  # how prediction splits raw text into words; see `split_words`

    def __init__(
        self,
        tokenizer: Tokenizer,
        labels: Sequence[str],
        max_seq_len: int,
        label_pieces: str = "first",
        scheme: str = "IOB",
    ):
        self.labels = list(labels)
        self.scheme = scheme
        # The id of I-X for that of B-X. Of tags that mark no entities none is the inside of another.
        self.inside_label = [*range(len(labels))] if scheme == "NONE" else inside_labels(self.labels)
        encode_class = EncodeTaggedOfficially if self.official else EncodeTagged
        self.encode = encode_class(tokenizer, max_seq_len, self.inside_label, label_pieces)

    @classmethod
    def from_flags(cls, flags: FinetuneFlags, tokenizer: Tokenizer, start: Checkpoint | None = None) -> Self:
        """Make the task with the tags of the label map, or else of the weights."""
        if cls.official and flags.chunk_scheme == "NONE":
            raise UserError("--chunk_scheme NONE is not in the official code. Add --official_compat false")
        if flags.label_map_config is not None:
            ids = read_label_map(flags.label_map_config, flags.num_labels)
            if flags.chunk_scheme != "NONE":
                check_tag_map(ids, flags.label_map_config)
            labels = sorted(ids, key=ids.__getitem__)
        elif flags.init_checkpoint and start and start.labels:
            labels = start.labels
        else:
            raise UserError("missing --label_map_config: the tags and their ids, O last (label_map.json)")
        return cls(tokenizer, labels, flags.max_seq_len, flags.label_pieces, flags.chunk_scheme)

    @classmethod
    def from_preprocessing(
        cls, preprocessing: PreprocessingConfig, tokenizer: Tokenizer, labels: Sequence[str], max_seq_len: int
    ) -> Self:
        """Make the task for prediction. Text is never cut off, even after training with --official_compat."""
        # `OfficialTagging.decode` reads the tag of a word at its leading piece.
        label_pieces = "leading" if preprocessing.official_compat else preprocessing.label_pieces
        return cls(tokenizer, labels, max_seq_len, label_pieces, preprocessing.chunk_scheme or "IOB")

    def preprocessing(self) -> dict[str, Any]:
        # The tags of a model are IOB2, whatever scheme its files had, or mark no entities.
        scheme = self.scheme if self.scheme == "NONE" else None
        return {
            "label_pieces": self.encode.label_pieces,
            "official_compat": self.official,
            "chunk_scheme": scheme,
            "marks_apart": self.marks_apart,
        }

    def read(self, path: str | os.PathLike, purpose: str) -> list[Sentence]:
        """Read and check a file; sentences to train on are looked at, too."""
        ids = {label: id_ for id_, label in enumerate(self.labels)}
        sentences = read_tagged(path, ids, self.scheme, labels=purpose != "test")
        if purpose == "train":
            self.look_at(sentences, path)
        return sentences

    def look_at(self, sentences: Sequence[Sentence], path: str | os.PathLike) -> None:
        """See how the words of sentences to train on are split, and warn if their tags seem shifted."""
        self.marks_apart = has_marks_apart(sentences)
        begins = [id_ for id_, label in enumerate(self.labels) if label.startswith("B-")]
        share = entities_on_marks(sentences, begins)
        if share > _MOST_ON_MARKS:
            line = "%s: %.0f %% of the entities begin with a mark, such as a comma; are the tags shifted?"
            logger.warning(line, path, 100 * share)

    def inputs(self, data: Sequence[Sentence]) -> np.ndarray:
        return np.array([input_hash(" ".join(sentence.words)) for sentence in data], np.int64)

    def loss_and_counts(
        self, on_device: "LabeledBatch", outputs: dict[str, "Tensor"]
    ) -> tuple["Tensor", "Tensor", Any]:
        """Return the loss and the correct decisions over the labeled pieces."""
        import paddle.nn.functional as F

        logits = outputs["logits"]  # [R, T, C]
        labels = on_device.targets  # [R, T]
        loss = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
        correct = (logits.argmax(-1) == labels).sum()
        return loss, correct, (labels != IGNORED).sum()

    def evaluation_loss(
        self, batch: TaggedBatch, outputs: dict[str, "Tensor"], on_device: "LabeledBatch"
    ) -> float:
        """Return the sum, over the sentences, of the mean loss of their labeled pieces."""
        logits = outputs["logits"].numpy().astype(np.float64)  # [R, T, C]
        logits -= logits.max(-1, keepdims=True)  # so that exp does not overflow
        log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        is_labeled = batch.labels != IGNORED  # [R, T]
        labels = np.where(is_labeled, batch.labels, 0)[..., None]  # [R, T, 1]; an ignored one may be any
        log_likelihoods = np.take_along_axis(log_probabilities, labels, -1)[..., 0]  # [R, T]
        losses = -log_likelihoods * is_labeled  # [R, T]
        sums = np.bincount(batch.sentences, weights=losses.sum(1))  # [B]
        counts = np.bincount(batch.sentences, weights=is_labeled.sum(1))  # [B]
        return float((sums / counts).sum())

    def decode(self, batch: TaggedBatch, outputs: Mapping[str, np.ndarray]) -> list[Any]:
        """Return the label ids of the words of each sentence, [words].

        If several pieces of a word are labeled, the word gets the tag whose expansion (B-X I-X I-X ...) is
        the most likely one.
        """
        # [R, T, C], in float64 because `word_scores` sums along T.
        logits = outputs["logits"].astype(np.float64)
        scores = word_scores(logits, batch.words, self.inside_label)  # [W, C]
        return _by_sentence(scores.argmax(-1), batch)

    def score(self, data: Sequence[Sentence], predictions: list, language: str) -> dict[str, float]:
        gold = [sentence.labels for sentence in data if sentence.labels is not None]
        return self.measures(gold, predictions)

    def predicted(self, data: Sequence[Sentence], predictions: list) -> list[Sequence[str]]:
        return [sentence.predicted for sentence in self.tagged(data, predictions)]

    def gold(self, data: Sequence[Sentence]) -> list[list[str]]:
        return [self.tags(sentence.labels) for sentence in data if sentence.labels is not None]

    def measures(self, gold: Sequence[Sequence[int]], predicted: Sequence[Sequence[int]]) -> dict[str, float]:
        """Compare the label ids of sentences: metric -> per cent."""
        gold_tags = [self.tags(labels) for labels in gold]
        predicted_tags = [self.tags(labels) for labels in predicted]
        if self.scheme == "NONE":  # no entities: the measures of XTREME
            scores = entity_scores(gold_tags, predicted_tags, seqeval_chunks)
            accuracy_of_words = accuracy(list(chain(*predicted_tags)), list(chain(*gold_tags)))
            return {"f1": scores.f1, "acc": accuracy_of_words}
        scores = entity_scores(gold_tags, predicted_tags)
        return {"f1": scores.f1, "precision": scores.precision, "recall": scores.recall}

    def write(self, path: str | os.PathLike, data: Sequence[Sentence], predictions: list) -> None:
        """Write each word with its gold tag, if it is known, and its predicted tag; see `write_conll`.

        A warning says how many words are cut.
        """
        write_conll(path, self.tagged(data, predictions))
        total = sum(len(sentence.words) for sentence in data)
        cut = sum(feature.cut for window in windows(data, WINDOW_EXAMPLES) for feature in self.encode(window))
        warn_if_cut(path, cut, total, "words", self.encode.max_seq_len)

    def tagged(self, data: Sequence[Sentence], predictions: list) -> Iterator[TaggedSentence]:
        """Yield each sentence with its predicted tags."""
        for sentence, labels in zip(data, predictions, strict=True):
            gold = None if sentence.labels is None else self.tags(sentence.labels)
            yield TaggedSentence(sentence.words, gold, self.tags(labels))

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

    The metric is F1 over pieces, [CLS] and [SEP] included, of text that is cut off at --max_seq_len: its
    recall does not count entities behind the cut. F1 over words, as conlleval counts it, stands beside it.
    """

    metric = "f1 over pieces"
    official = True

    def decode(self, batch: TaggedBatch, outputs: Mapping[str, np.ndarray]) -> list[OfficialPrediction]:
        """A word gets the tag of its first piece, or O if it has no piece."""
        piece_labels = outputs["logits"].argmax(-1)  # [R, T]; one window for each sentence
        window, first_piece, piece_count = batch.words.T  # [W] each
        outside = len(self.labels) - 1  # O has the last id
        word_labels = np.where(piece_count > 0, piece_labels[window, first_piece], outside)  # [W]
        labels_of_sentences = _by_sentence(word_labels, batch)
        lengths = (batch.labels != IGNORED).sum(1)  # [R]; only pads are ignored
        return [
            OfficialPrediction(
                piece_labels[row, :length], batch.labels[row, :length], labels_of_sentences[row]
            )
            for row, length in enumerate(lengths)
        ]

    def score(self, data: Sequence[Sentence], predictions: list, language: str) -> dict[str, float]:
        over_pieces = self.measures(
            [prediction.gold for prediction in predictions],
            [prediction.predicted for prediction in predictions],
        )
        over_words = super().score(data, [prediction.words for prediction in predictions], language)
        return {
            **{f"{metric} over pieces": score for metric, score in over_pieces.items()},
            **{f"{metric} over words": score for metric, score in over_words.items()},
        }

    def tagged(self, data: Sequence[Sentence], predictions: list) -> Iterator[TaggedSentence]:
        return super().tagged(data, [prediction.words for prediction in predictions])


def _by_sentence(labels: np.ndarray, batch: TaggedBatch) -> list[np.ndarray]:
    """Divide the labels of the words of a batch, [W], among its sentences."""
    return np.split(labels, np.cumsum(batch.lengths)[:-1])


def write_conll(path: str | os.PathLike, sentences: Iterable[TaggedSentence]) -> None:
    """Write each word, its gold tag if it is known, and its predicted tag: the form that conlleval reads.

    White space inside a word becomes "_", and so does a word of white space alone.
    """
    with atomic_file(path, "w", newline="\n") as file:
        for words, gold, predicted in sentences:
            plain_words = ["_".join(word.split()) or "_" for word in words]
            columns = [plain_words, predicted] if gold is None else [plain_words, gold, predicted]
            for cells in zip(*columns, strict=True):
                file.write(f"{' '.join(cells)}\n")
            file.write("\n")
