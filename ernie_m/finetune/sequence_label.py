"""Token classification of words, such as entities and parts of speech, with output in CoNLL format."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.finetune.finetuning_task import FinetuningTask
from ernie_m.finetune.metrics import accuracy, count_entity_matches
from ernie_m.model.checkpoint.open import Checkpoint
from ernie_m.model.pipeline_config import PipelineConfig
from ernie_m.model.tasks import TOKEN_CLASSIFICATION
from ernie_m.reader.batching import WINDOW_EXAMPLES, iter_chunks
from ernie_m.reader.files.official_tags import (
    Script,
    Sentence,
    compute_punctuation_entity_rate,
    find_character_scripts,
    has_separate_punctuation,
    read_tagged_tsv,
)
from ernie_m.reader.labels import hash_input, read_label_map
from ernie_m.reader.tag_schemes import check_tag_map, get_inside_labels
from ernie_m.reader.tagging_featurizer import (
    IGNORED,
    OfficialTaggingFeaturizer,
    TaggedBatch,
    TaggingFeaturizer,
    compute_word_scores,
)
from ernie_m.reader.text_featurizer import log_truncation
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import atomic_file
from ernie_m.utils.logging import logger

if TYPE_CHECKING:
    from paddle import Tensor

    from ernie_m.model.packed_batch import LabeledBatch

_MOST_ON_MARKS = 0.05  # maximum fraction of entities that start with a punctuation mark without a warning


class TaggedSentence(NamedTuple):
    """The words of a sentence, with their gold tags (None if unknown) and their predicted tags."""

    words: Sequence[str]
    gold: Sequence[str] | None
    predicted: Sequence[str]


class Tagging(FinetuningTask[Sequence[Sentence]]):
    """Token classification of words; the metric is entity F1, as in conlleval.

    With the scheme NONE, the metric is XTREME's F1; see `ernie_m.reader.tag_schemes.find_entities`.

    Args:
        labels: the tags in the order of their ids.
        max_seq_len: maximum length of a window in tokens.
        label_pieces: see `ernie_m.reader.tagging_featurizer.TaggingFeaturizer`.
        scheme: the tagging scheme of the files, a key of `ernie_m.reader.tag_schemes.SCHEMES`.
    """

    name = TOKEN_CLASSIFICATION
    metric = "f1"
    gold = "entities"
    labels: list[str]
    encode: TaggingFeaturizer
    # How prediction splits a text into words; see `split_words`.
    marks_apart = True
    character_scripts: Sequence[Script] = ()

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
        # The id of I-X for that of B-X. Tags without prefixes have no inside tags.
        self.inside_label = [*range(len(labels))] if scheme == "NONE" else get_inside_labels(self.labels)
        encode_class = OfficialTaggingFeaturizer if self.official else TaggingFeaturizer
        self.encode = encode_class(tokenizer, max_seq_len, self.inside_label, label_pieces)

    @classmethod
    def from_flags(cls, flags: FinetuneFlags, tokenizer: Tokenizer, start: Checkpoint | None = None) -> Self:
        """Create the task with the tags of --label_map_config, or otherwise of the initial checkpoint.

        Raises:
            UserError: the tags are missing or invalid.
        """
        if cls.official and flags.chunk_scheme == "NONE":
            raise UserError("--chunk_scheme NONE requires --official_compat false")
        if flags.label_map_config is not None:
            ids = read_label_map(flags.label_map_config, flags.num_labels)
            if flags.chunk_scheme != "NONE":
                check_tag_map(ids, flags.label_map_config)
            labels = sorted(ids, key=ids.__getitem__)
        elif flags.init_checkpoint and start and start.labels:
            labels = start.labels
        else:
            raise UserError("missing --label_map_config: label_map.json with all tags and their ids, O last")
        return cls(tokenizer, labels, flags.max_seq_len, flags.label_pieces, flags.chunk_scheme)

    @classmethod
    def from_pipeline_config(
        cls, pipeline_config: PipelineConfig, tokenizer: Tokenizer, labels: Sequence[str], max_seq_len: int
    ) -> Self:
        """Create the task for prediction from the pipeline settings of a model.

        Sentences are split into windows, not truncated, also after training with --official_compat true.
        """
        # `OfficialTagging.decode` reads the tag of a word at its leading subword.
        label_pieces = "leading" if pipeline_config.official_compat else pipeline_config.label_pieces
        return cls(tokenizer, labels, max_seq_len, label_pieces, pipeline_config.chunk_scheme or "IOB")

    def get_pipeline_settings(self) -> dict[str, Any]:
        # The tags of a model are IOB2, regardless of the scheme of its files, or have no prefixes.
        scheme = self.scheme if self.scheme == "NONE" else None
        return {
            "label_pieces": self.encode.label_pieces,
            "official_compat": self.official,
            "chunk_scheme": scheme,
            "marks_apart": self.marks_apart,
            "character_scripts": [*self.character_scripts],
        }

    def read(self, path: str | os.PathLike, purpose: str) -> list[Sentence]:
        """Read and validate a file; training files are also checked by `check_words`."""
        ids = {label: id_ for id_, label in enumerate(self.labels)}
        sentences = read_tagged_tsv(path, ids, self.scheme, labels=purpose != "test")
        if purpose == "train":
            self.check_words(sentences, path)
        return sentences

    def check_words(self, sentences: Sequence[Sentence], path: str | os.PathLike) -> None:
        """Find out what words are in training sentences, and log a warning if their tags seem misaligned."""
        self.marks_apart = has_separate_punctuation(sentences)
        self.character_scripts = find_character_scripts(sentences)
        begins = [id_ for id_, label in enumerate(self.labels) if label.startswith("B-")]
        share = compute_punctuation_entity_rate(sentences, begins)
        if share > _MOST_ON_MARKS:
            line = "%s: %.0f %% of the entities start with a punctuation mark, so the tags may be misaligned"
            logger.warning(line, path, 100 * share)

    def hash_inputs(self, data: Sequence[Sentence]) -> np.ndarray:
        return np.array([hash_input(" ".join(sentence.words)) for sentence in data], np.int64)

    def compute_loss_and_counts(
        self, on_device: "LabeledBatch", outputs: dict[str, "Tensor"]
    ) -> tuple["Tensor", "Tensor", Any]:
        """Compute the summed cross-entropy of labeled tokens; see `FinetuningTask`."""
        import paddle.nn.functional as F

        logits = outputs["logits"]  # [R, T, C]
        labels = on_device.targets  # [R, T]
        loss = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
        correct = (logits.argmax(-1) == labels).sum()
        return loss, correct, (labels != IGNORED).sum()

    def compute_evaluation_loss(
        self, batch: TaggedBatch, outputs: dict[str, "Tensor"], on_device: "LabeledBatch"
    ) -> float:
        """Compute the mean loss over the labeled tokens of each sentence, summed over the sentences."""
        logits = outputs["logits"].numpy().astype(np.float64)  # [R, T, C]
        logits -= logits.max(-1, keepdims=True)  # so that exp does not overflow
        log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        is_labeled = batch.labels != IGNORED  # [R, T]
        labels = np.where(is_labeled, batch.labels, 0)[..., None]  # [R, T, 1]; any id where ignored
        log_likelihoods = np.take_along_axis(log_probabilities, labels, -1)[..., 0]  # [R, T]
        losses = -log_likelihoods * is_labeled  # [R, T]
        sums = np.bincount(batch.sentences, weights=losses.sum(1))  # [B]
        counts = np.bincount(batch.sentences, weights=is_labeled.sum(1))  # [B]
        return float((sums / counts).sum())

    def decode(self, batch: TaggedBatch, outputs: Mapping[str, np.ndarray]) -> list[Any]:
        """Return the predicted label ids of each sentence, [words].

        If several tokens of a word are labeled, the word has the tag whose expansion (B-X I-X I-X ...) is the
        most probable.
        """
        # [R, T, C], in float64 because `compute_word_scores` sums along T.
        logits = outputs["logits"].astype(np.float64)
        scores = compute_word_scores(logits, batch.words, self.inside_label)  # [W, C]
        return _split_by_sentence(scores.argmax(-1), batch)

    def has_score(self, data: Sequence[Sentence]) -> bool:
        tags = self.get_gold_values(data)
        return count_entity_matches(tags, tags).f1 is not None

    def score(self, data: Sequence[Sentence], predictions: list, language: str) -> dict[str, float | None]:
        gold = [sentence.labels for sentence in data if sentence.labels is not None]
        return self.compute_metrics(gold, predictions)

    def get_predicted_values(self, data: Sequence[Sentence], predictions: list) -> list[Sequence[str]]:
        return [sentence.predicted for sentence in self.iter_tagged_sentences(data, predictions)]

    def get_gold_values(self, data: Sequence[Sentence]) -> list[list[str]]:
        return [self.convert_ids_to_tags(sentence.labels) for sentence in data if sentence.labels is not None]

    def compute_metrics(
        self, gold: Sequence[Sequence[int]], predicted: Sequence[Sequence[int]]
    ) -> dict[str, float | None]:
        """Compute the metrics from the label ids of sentences: metric -> percent."""
        gold_tags = [self.convert_ids_to_tags(labels) for labels in gold]
        predicted_tags = [self.convert_ids_to_tags(labels) for labels in predicted]
        scores = count_entity_matches(gold_tags, predicted_tags)
        if self.scheme == "NONE":  # no entities: XTREME's metrics
            accuracy_of_words = accuracy(list(chain(*predicted_tags)), list(chain(*gold_tags)))
            return {"f1": scores.f1, "acc": accuracy_of_words}
        return {"f1": scores.f1, "precision": scores.precision, "recall": scores.recall}

    def write(self, path: str | os.PathLike, data: Sequence[Sentence], predictions: list) -> None:
        """Write the words with their tags by `write_conll`, and log the number of truncated words."""
        write_conll(path, self.iter_tagged_sentences(data, predictions))
        total = sum(len(sentence.words) for sentence in data)
        cut = sum(
            feature.cut for window in iter_chunks(data, WINDOW_EXAMPLES) for feature in self.encode(window)
        )
        log_truncation(path, cut, total, "words", self.encode.max_seq_len)

    def iter_tagged_sentences(self, data: Sequence[Sentence], predictions: list) -> Iterator[TaggedSentence]:
        """Yield each sentence with its gold and predicted tags."""
        for sentence, labels in zip(data, predictions, strict=True):
            gold = None if sentence.labels is None else self.convert_ids_to_tags(sentence.labels)
            yield TaggedSentence(sentence.words, gold, self.convert_ids_to_tags(labels))

    def convert_ids_to_tags(self, label_ids: Sequence[int]) -> list[str]:
        """Convert label ids to tags."""
        return [self.labels[label] for label in label_ids]


class OfficialPrediction(NamedTuple):
    """The predicted and gold label ids of a sentence's tokens, [t] each, and the predicted ids of words."""

    predicted: np.ndarray
    gold: np.ndarray
    words: np.ndarray


class OfficialTagging(Tagging):
    """Token classification as in the official code (--official_compat true), to reproduce its results.

    The metric is F1 over subwords, including [CLS] and [SEP], of text truncated to --max_seq_len. The recall
    ignores truncated entities. F1 over words, as in conlleval, is reported in addition.
    """

    metric = "f1 over subwords"
    official = True

    def decode(self, batch: TaggedBatch, outputs: Mapping[str, np.ndarray]) -> list[OfficialPrediction]:
        """Return the predictions of each sentence; a word has the tag of its first token, or O."""
        subword_labels = outputs["logits"].argmax(-1)  # [R, T]; one window for each sentence
        window, first_subword, subword_count = batch.words.T  # [W] each
        outside = len(self.labels) - 1  # O has the last id
        word_labels = np.where(subword_count > 0, subword_labels[window, first_subword], outside)  # [W]
        labels_of_sentences = _split_by_sentence(word_labels, batch)
        lengths = (batch.labels != IGNORED).sum(1)  # [R]; only padding is ignored
        return [
            OfficialPrediction(
                subword_labels[row, :length], batch.labels[row, :length], labels_of_sentences[row]
            )
            for row, length in enumerate(lengths)
        ]

    def score(self, data: Sequence[Sentence], predictions: list, language: str) -> dict[str, float | None]:
        over_subwords = self.compute_metrics(
            [prediction.gold for prediction in predictions],
            [prediction.predicted for prediction in predictions],
        )
        over_words = super().score(data, [prediction.words for prediction in predictions], language)
        return {
            **{f"{metric} over subwords": score for metric, score in over_subwords.items()},
            **{f"{metric} over words": score for metric, score in over_words.items()},
        }

    def iter_tagged_sentences(self, data: Sequence[Sentence], predictions: list) -> Iterator[TaggedSentence]:
        return super().iter_tagged_sentences(data, [prediction.words for prediction in predictions])


def _split_by_sentence(labels: np.ndarray, batch: TaggedBatch) -> list[np.ndarray]:
    """Split the label ids of the words of a batch, [W], by sentence."""
    return np.split(labels, np.cumsum(batch.lengths)[:-1])


def write_conll(path: str | os.PathLike, sentences: Iterable[TaggedSentence]) -> None:
    """Write a line per word: the word, its gold tag if known, and its predicted tag, as for conlleval.

    A blank line ends each sentence. White space within a word becomes "_", as does a word of white
    space only.
    """
    with atomic_file(path, "w", newline="\n") as file:
        for words, gold, predicted in sentences:
            plain_words = ["_".join(word.split()) or "_" for word in words]
            columns = [plain_words, predicted] if gold is None else [plain_words, gold, predicted]
            for cells in zip(*columns, strict=True):
                file.write(f"{' '.join(cells)}\n")
            file.write("\n")
