"""Classification and regression of texts and pairs of texts, such as XNLI and PAWS-X."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.finetune.finetuning_task import FinetuningTask
from ernie_m.finetune.metrics import accuracy, pearson, spearman
from ernie_m.model.checkpoint.open import Checkpoint
from ernie_m.model.pipeline_config import NEITHER, PipelineConfig
from ernie_m.model.tasks import CLASSIFICATION, make_default_label_names
from ernie_m.reader.files.classification_tsv import ExampleFile, read_classification
from ernie_m.reader.labels import read_label_map
from ernie_m.reader.text_featurizer import Example, ExampleBatch, TextFeaturizer
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import atomic_file
from ernie_m.utils.logging import logger

if TYPE_CHECKING:
    from paddle import Tensor

    from ernie_m.model.packed_batch import LabeledBatch


class Classification(FinetuningTask[ExampleFile]):
    """Single-label classification of texts or pairs of texts; the metric is accuracy.

    Args:
        labels: label names in the order of their ids.
        max_seq_len: maximum length of an input in tokens.
        has_label_names: whether the label column of a file contains names instead of ids.
        prompt: the prompt prepended to every text_a.
        pairs: whether the rows must be pairs of texts; None: as in the first file.
    """

    name = CLASSIFICATION
    metric = "acc"
    labels: list[str]
    encode: TextFeaturizer
    multi_label = False  # whether a text may have several labels or none

    def __init__(
        self,
        tokenizer: Tokenizer,
        labels: Sequence[str],
        max_seq_len: int,
        has_label_names: bool = True,
        prompt: str = "",
        pairs: bool | None = None,
    ):
        self.labels = list(labels)
        self.has_label_names = has_label_names
        self.pairs = pairs
        self.prompt = prompt
        label_type = np.float32 if self.multi_label else np.int64
        self.encode = TextFeaturizer(tokenizer, max_seq_len, label_type, prompt)

    @classmethod
    def from_flags(cls, flags: FinetuneFlags, tokenizer: Tokenizer, start: Checkpoint | None = None) -> Self:
        labels, has_label_names = get_labels(flags, start)
        # A head of `ernie-m fit` keeps the prompt of its texts; a new head has none.
        fine_tuned = start.pipeline_config if start and flags.init_checkpoint else PipelineConfig()
        prompt = fine_tuned.get_prompt(NEITHER)
        return cls(tokenizer, labels, flags.max_seq_len, has_label_names, prompt, fine_tuned.pairs)

    def get_pipeline_settings(self) -> dict[str, Any]:
        return {"pairs": self.pairs, "multi_label": self.multi_label}

    def read(self, path: str | os.PathLike, purpose: str) -> ExampleFile:
        """Read and validate a file; log a warning about labels without training rows."""
        # None: the label column contains ids.
        label_map = {label: id_ for id_, label in enumerate(self.labels)} if self.has_label_names else None
        examples = read_classification(path, label_map, len(self.labels), labels=purpose != "test")
        self.check_pairs(examples, path)
        if purpose == "train":
            present = {*examples.targets.tolist()}
            absent = [label for id_, label in enumerate(self.labels) if id_ not in present]
            if absent:
                logger.warning("%s: labels without training rows: %s", path, ", ".join(absent))
        return examples

    def check_pairs(self, examples: Sequence[Example], path: str | os.PathLike) -> None:
        """Check that all files have pairs of texts, or all have single texts, and set `pairs`.

        Args:
            path: the file of the examples, for errors.

        Raises:
            UserError: the file has pairs and the previous ones single texts, or vice versa.
        """
        are_pairs = examples[0].text_b is not None
        if self.pairs not in (None, are_pairs):
            kinds = ("pairs of texts", "single texts")
            has, others = kinds if are_pairs else reversed(kinds)
            raise UserError(
                f"{path}: {has}, but the previous files (or --init_checkpoint) have {others}. Use "
                "files of one kind, or pass the model as --init_pretraining_params"
            )
        self.pairs = are_pairs

    def hash_inputs(self, data: ExampleFile) -> np.ndarray:
        return data.inputs

    def compute_loss_and_counts(
        self, on_device: "LabeledBatch", outputs: dict[str, "Tensor"]
    ) -> tuple["Tensor", "Tensor | float", Any]:
        """Compute the summed cross-entropy of a batch; see `FinetuningTask`."""
        import paddle.nn.functional as F

        logits = outputs["logits"]  # [B, C]
        labels = on_device.targets  # [B]
        loss = F.cross_entropy(logits, labels, reduction="sum")
        return loss, (logits.argmax(-1) == labels).sum(), len(labels)

    def decode(self, batch: ExampleBatch, outputs: Mapping[str, np.ndarray]) -> list[Any]:
        """Return the label probabilities of each input, float64 [C]."""
        activation = sigmoid if self.multi_label else softmax
        return list(activation(outputs["logits"]))

    def to_json(self, prediction: Any) -> dict[str, Any]:
        """Convert a prediction to JSON values, for ernie-m predict and the server."""
        return {
            "label": self.labels[prediction.argmax()],
            "probabilities": self.name_probabilities(prediction),
        }

    def name_probabilities(self, probabilities: np.ndarray) -> dict[str, float]:
        """Return label -> probability, rounded to six decimals, from the probabilities by label id."""
        return {label: round(float(value), 6) for label, value in zip(self.labels, probabilities)}

    def score(self, data: ExampleFile, predictions: list[Any], language: str) -> dict[str, float | None]:
        return {"acc": accuracy(self.get_predicted_values(data, predictions), self.get_gold_values(data))}

    def get_predicted_values(self, data: ExampleFile, predictions: list[Any]) -> list[Any]:
        return [self.labels[probabilities.argmax()] for probabilities in predictions]

    def get_gold_values(self, data: ExampleFile) -> list[Any]:
        return [self.labels[number] for number in np.array([example.label for example in data])]

    def compute_baseline(self, data: ExampleFile) -> dict[str, float | None]:
        labels = np.array([example.label for example in data])
        prediction = np.arange(len(self.labels)) == np.bincount(labels).argmax()
        return self.score(data, [prediction] * len(data), "")

    def write(self, path: str | os.PathLike, data: ExampleFile, predictions: list[Any]) -> None:
        """Write a tab-separated line per input: the qid, if any, and the `format_cells` of the prediction."""
        with atomic_file(path, "w") as file:
            for example, prediction in zip(data, predictions, strict=True):
                qid = [] if example.qid is None else [example.qid]
                file.write("\t".join([*qid, *self.format_cells(prediction)]) + "\n")

    def format_cells(self, prediction: Any) -> list[str]:
        """Format a prediction as cells of the official format: label id, then probabilities."""
        return [str(prediction.argmax()), *(f"{probability:.6f}" for probability in prediction)]


def get_labels(flags: FinetuneFlags, start: Checkpoint | None) -> tuple[list[str], bool]:
    """Return the labels in the order of their ids, and whether the label column contains names, not ids.

    Args:
        start: the initial checkpoint; None: random weights.

    Raises:
        UserError: there is only one label, or --num_labels contradicts --init_checkpoint.
    """
    if flags.label_map_config is not None:
        ids = read_label_map(flags.label_map_config, flags.num_labels)
        if len(ids) == 1:
            raise UserError(f"{flags.label_map_config}: only one label (a classifier requires two)")
        return sorted(ids, key=ids.__getitem__), True
    if flags.init_checkpoint and start and start.labels:
        count = len(start.labels)
        if "num_labels" in flags.on_command_line and flags.num_labels != count:
            raise UserError(
                f"--num_labels {flags.num_labels}: {start.path} has {count} labels "
                f"({', '.join(start.labels)}). Remove --num_labels"
            )
        # A model that was trained without a label map has ids instead of names.
        return start.labels, start.labels != make_default_label_names(count)
    if flags.num_labels == 1:
        raise UserError(
            "--num_labels 1: a classifier requires at least two labels. To predict "
            "numbers, set --is_regression true"
        )
    return make_default_label_names(flags.num_labels), False


def softmax(logits: np.ndarray) -> np.ndarray:
    """Compute the softmax over the last axis, in float64."""
    logits = logits.astype(np.float64)
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Compute the element-wise sigmoid, in float64."""
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


class MultiLabelClassification(Classification):
    """Multi-label classification, with an independent sigmoid per label, trained by `ernie-m fit`.

    "pipeline" in config.json contains "multi_label".
    """

    multi_label = True

    def compute_loss_and_counts(
        self, on_device: "LabeledBatch", outputs: dict[str, "Tensor"]
    ) -> tuple["Tensor", "Tensor | float", Any]:
        """Compute the mean binary cross-entropy over the labels, summed over the texts of a batch.

        The cross-entropy of an unknown label is 0. A prediction is correct if all known labels of the text
        are correct.
        """
        import paddle.nn.functional as F

        logits = outputs["logits"]  # [B, C]
        targets = on_device.targets.astype(logits.dtype)  # [B, C]
        is_known = targets >= 0
        weight = is_known.astype(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits, targets, weight, reduction="none")
        is_right = ((logits > 0) == (targets > 0.5)) | ~is_known
        return losses.mean(axis=1).sum(), is_right.all(axis=1).sum(), len(targets)

    def to_json(self, prediction: Any) -> dict[str, Any]:
        """Convert a prediction to JSON values: the labels with a probability above 0.5, and probabilities."""
        labels = [label for label, probability in zip(self.labels, prediction) if probability > 0.5]
        return {"labels": labels, "probabilities": self.name_probabilities(prediction)}


class Regression(Classification):
    """Regression with mean squared error (--is_regression true); the metric is Pearson's correlation.

    The model is a classifier with one output, whose only label is "score". "pipeline" in config.json contains
    "regression".

    Args:
        is_logit: whether the output is a logit, with a sigmoid as score, as in most rerankers of other
            libraries.
    """

    metric = "pearson"
    gold = "different numbers"

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_seq_len: int,
        pairs: bool | None = None,
        is_logit: bool = False,
    ):
        self.labels = ["score"]
        self.pairs = pairs
        self.is_logit = is_logit
        self.encode = TextFeaturizer(tokenizer, max_seq_len, np.float32)

    @classmethod
    def from_flags(cls, flags: FinetuneFlags, tokenizer: Tokenizer, start: Checkpoint | None = None) -> Self:
        if flags.label_map_config is not None:
            raise UserError(
                "--label_map_config cannot be used with --is_regression true (labels are numbers). Remove one"
            )
        fine_tuned = start.pipeline_config if start and flags.init_checkpoint else PipelineConfig()
        return cls(tokenizer, flags.max_seq_len, fine_tuned.pairs)

    def get_pipeline_settings(self) -> dict[str, Any]:
        return {"pairs": self.pairs, "regression": True}

    def read(self, path: str | os.PathLike, purpose: str) -> ExampleFile:
        """Read and validate a file with numbers as labels."""
        examples = read_classification(path, labels=purpose != "test", regression=True)
        self.check_pairs(examples, path)
        return examples

    def compute_loss_and_counts(
        self, on_device: "LabeledBatch", outputs: dict[str, "Tensor"]
    ) -> tuple["Tensor", "Tensor | float", Any]:
        """Compute the sum of squared errors of a batch; the number of correct predictions is 0."""
        scores = outputs["logits"][:, 0]  # [B]
        errors = scores - on_device.targets.astype(scores.dtype)
        return errors.square().sum(), 0.0, len(scores)

    def format_training_metric(self, sums: Mapping[str, float]) -> str:
        """Return the root mean squared error for a log line; nan if all steps were skipped."""
        error = math.sqrt(sums["loss"] / sums["steps"]) if sums["steps"] else math.nan
        return f"root mean squared error: {error:f}"

    def decode(self, batch: ExampleBatch, outputs: Mapping[str, np.ndarray]) -> list[float]:
        """Return the score of each input, in the scale of the training."""
        values = outputs["logits"][:, 0]
        return (sigmoid(values) if self.is_logit else values).tolist()

    def to_json(self, prediction: float) -> dict[str, Any]:
        # The digits of float32. Six decimals would make low scores of a sigmoid equal.
        return {"score": float(f"{prediction:.7g}")}

    def has_score(self, data: ExampleFile) -> bool:
        return pearson(self.get_gold_values(data), self.get_gold_values(data)) is not None

    def score(self, data: ExampleFile, predictions: list[Any], language: str) -> dict[str, float | None]:
        labels = self.get_gold_values(data)
        return {"pearson": pearson(predictions, labels), "spearman": spearman(predictions, labels)}

    def get_predicted_values(self, data: ExampleFile, predictions: list[Any]) -> list[float]:
        return predictions

    def get_gold_values(self, data: ExampleFile) -> list[Any]:
        return [example.label for example in data]

    def compute_baseline(self, data: ExampleFile) -> dict[str, float | None]:
        return {}

    def format_cells(self, prediction: float) -> list[str]:
        """Format the predicted number as a cell."""
        return [f"{prediction:.6f}"]
