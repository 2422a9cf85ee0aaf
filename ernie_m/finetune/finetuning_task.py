"""Base class of the fine-tuning tasks: classification, tagging, question answering.

The same class encodes inputs and decodes outputs in training, evaluation and prediction. Training creates it
from the flags, prediction from the labels and the key "pipeline" of the model's config.json. Exported models
run without Paddle, so only methods that run a Paddle model import it.
"""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import numpy as np

from ernie_m.finetune.custom_metric import CustomMetric
from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.model.checkpoint.open import Checkpoint
from ernie_m.model.open_model import OpenedModel
from ernie_m.model.tasks import CLASSIFICATION, QUESTION_ANSWERING, TASKS, TOKEN_CLASSIFICATION
from ernie_m.reader.batching import Featurizer
from ernie_m.reader.text_featurizer import warn_if_truncated
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger

if TYPE_CHECKING:
    from paddle import Tensor, nn

    from ernie_m.model.packed_batch import LabeledBatch


Data = TypeVar("Data", bound=Sequence[Any])  # the items of a file
# The flags that `get_pipeline_settings` of the tasks records in config.json.
RECORDED = (
    "max_seq_len",
    "label_pieces",
    "max_query_length",
    "doc_stride",
    "split_han",
    "chunk_scheme",
    "max_answer_length",
)
# The flags of `RECORDED` that training takes from the initial checkpoint.
KEPT = {CLASSIFICATION: (), TOKEN_CLASSIFICATION: ("label_pieces",), QUESTION_ANSWERING: ("split_han",)}
# --official_compat -> its description in the log.
PROCEDURES = {
    True: "labels, loss, windows and scores as in the official code; for custom data add "
    "--official_compat false",
    False: "labels, loss, windows and scores as in this project; to compare with the paper add "
    "--official_compat true",
}


class FinetuningTask(ABC, Generic[Data]):
    """Tokenization, loss, decoding and metrics of a fine-tuning task.

    Attributes:
        name: the name of the task in `ernie_m.model.tasks`, stored in config.json and in the model card.
        metric: the metric, of `score` or of `custom_metric`, that selects the best checkpoint; larger is
            better.
        custom_metric: the function of --metric; None: not set.
        metric_digest: the SHA-256 of its file, as it was run.
        labels: label names in the order of their ids; None if the task has no labels.
        shuffles: whether training may shuffle the examples (--shuffle).
        gold: what a file must have for a score, for messages.
        official: whether inputs, loss and scores follow the official code (--official_compat).
        encode: tokenizes examples, and collates features into batches.
        prompt: the prompt prepended to every text.
    """

    name: str
    metric: str
    custom_metric: CustomMetric | None = None
    metric_digest: str = ""
    labels: list[str] | None = None
    shuffles = True
    gold = "labels"
    official = False
    prompt = ""
    encode: Featurizer

    # Methods that each task defines

    @classmethod
    @abstractmethod
    def from_flags(cls, flags: FinetuneFlags, tokenizer: Tokenizer, start: Checkpoint | None = None) -> Self:
        """Create the task from the flags of a command.

        Args:
            start: the initial checkpoint in the flags; None: random weights.
        """

    @abstractmethod
    def get_pipeline_settings(self) -> dict[str, Any]:
        """Return the task's pipeline settings for "pipeline" in config.json, except `max_seq_len`."""

    @abstractmethod
    def read(self, path: str | os.PathLike, purpose: str) -> Data:
        """Read and validate a data file.

        Args:
            purpose: "train", "dev", or "test" (labels are not required).
        """

    def warn_if_truncated(self, name: str | os.PathLike, data: Data) -> None:
        """Log warnings about truncated rows, and about text that the vocabulary does not cover."""
        warn_if_truncated(name, data, self.encode, "rows")

    def compute_baseline(self, data: Data) -> dict[str, float | None]:
        """Return the scores of the majority baseline, metric -> percent; {} if the task has none."""
        return {}

    def get_targets(self, batch: Any) -> np.ndarray:
        """Return the target array of a batch, which is sent to the device with the ids."""
        return batch.labels

    @abstractmethod
    def hash_inputs(self, data: Data) -> np.ndarray:
        """Return the hash of each row, sentence or question of a file by `hash_input`, int64 [N]."""

    @abstractmethod
    def compute_loss_and_counts(
        self, on_device: "LabeledBatch", outputs: dict[str, "Tensor"]
    ) -> tuple["Tensor", "Tensor | float", Any]:
        """Compute the summed loss of a batch, and the numbers of correct and of all predictions.

        Args:
            on_device: the batch on the device, with its targets.
            outputs: the outputs of the model, by their names in `ernie_m.model.tasks`.
        """

    @abstractmethod
    def decode(self, batch: Any, outputs: Mapping[str, np.ndarray]) -> list[Any]:
        """Convert the model's outputs for a batch to one prediction (NumPy or Python values) per feature."""

    def has_score(self, data: Data) -> bool:
        """Return whether the gold values of a file have a score, whatever is predicted; see `gold`."""
        return True

    @abstractmethod
    def score(self, data: Data, predictions: list[Any], language: str) -> Mapping[str, float | None]:
        """Compute the metrics of a file, metric -> percent; None: the gold values have no score.

        Args:
            predictions: a result of `decode` for each item of the file, in order.
            language: the language of the file.
        """

    @abstractmethod
    def get_predicted_values(self, data: Data, predictions: list[Any]) -> list[Any]:
        """Convert the predictions for a file to labels, numbers, tags or texts, for `custom_metric`."""

    @abstractmethod
    def get_gold_values(self, data: Data) -> list[Any]:
        """Return the gold values of a file, like `get_predicted_values`; for a question, all answers."""

    @abstractmethod
    def write(self, path: str | os.PathLike, data: Data, predictions: list[Any]) -> None:
        """Write the predictions for a file in the official format, atomically."""

    # Running a model

    def send_batches(self, model: "nn.Layer", batches: Sequence[Any]) -> list[tuple[Any, "LabeledBatch"]]:
        """Send batches to the device in one copy, and return (batch, batch on the device) for each."""
        from ernie_m.model.device_transfer import upload
        from ernie_m.model.packed_batch import LabeledBatch, PackedBatch

        pad_id = model.ernie_m.config.pad_token_id
        labeled = [
            LabeledBatch(PackedBatch.from_padded(batch.input_ids, pad_id), self.get_targets(batch))
            for batch in batches
        ]
        return list(zip(batches, upload(labeled), strict=True))

    def compute_outputs(self, model: "nn.Layer", on_device: "LabeledBatch") -> dict[str, "Tensor"]:
        """Run the forward pass: output name -> tensor in float32, or in float64 if the model is float64."""
        import paddle

        tensors = model(on_device.inputs)
        if not isinstance(tensors, tuple):
            tensors = (tensors,)
        outputs = {}
        for name, tensor in zip(TASKS[self.name].outputs, tensors, strict=True):
            is_half = tensor.dtype not in (paddle.float32, paddle.float64)
            outputs[name] = tensor.astype("float32") if is_half else tensor
        return outputs

    def compute_evaluation_loss(
        self, batch: Any, outputs: dict[str, "Tensor"], on_device: "LabeledBatch"
    ) -> float:
        """Return the loss summed over the items of a batch, for the mean loss of a file."""
        total, _, _ = self.compute_loss_and_counts(on_device, outputs)
        return float(total)

    def loss(
        self, model: "nn.Layer", micro_batch: tuple[Any, "LabeledBatch"]
    ) -> tuple["Tensor", dict[str, "Tensor | float"]]:
        """Compute the loss of a micro-batch from `send_batches`; see `Trainable.loss`."""
        batch, on_device = micro_batch
        # `batch.count` is of the whole step, `count` of this micro-batch.
        total, correct, count = self.compute_loss_and_counts(
            on_device, self.compute_outputs(model, on_device)
        )
        return total / batch.count, {"correct": correct, "count": count}

    def format_training_metric(self, sums: Mapping[str, float]) -> str:
        """Return the training metric of a log line, from sums over the steps since the last line."""
        return f"ave acc: {compute_accuracy(sums):f}"

    def predict(self, model: "nn.Layer", batch: Any, labeled: bool) -> tuple[list[Any], float]:
        """Return the predictions for a batch and its evaluation loss, which is 0 without labels."""
        _, on_device = self.send_batches(model, [batch])[0]
        outputs = self.compute_outputs(model, on_device)
        loss = self.compute_evaluation_loss(batch, outputs, on_device) if labeled else 0.0
        return self.decode(batch, {name: tensor.numpy() for name, tensor in outputs.items()}), loss


def compute_accuracy(sums: Mapping[str, float]) -> float:
    """Compute the fraction of correct predictions from sums over steps.

    The result is 0 without predictions, and nan if all steps were skipped.
    """
    return sums["correct"] / max(sums["count"], 1) if sums["steps"] else math.nan


def make_task(
    task_class: type[FinetuningTask],
    official_class: type[FinetuningTask] | None,
    flags: FinetuneFlags,
    opened: OpenedModel,
) -> FinetuningTask:
    """Create the task for the flags of a command.

    Args:
        task_class, official_class: see `run_finetuning`.
        flags: the flags after `apply_model_defaults`.
        opened: the initial model.

    Raises:
        UserError: a flag contradicts the model or another flag.
    """
    if official_class:
        logger.info("official_compat %s: %s", flags.official_compat, PROCEDURES[flags.official_compat])
        if flags.official_compat:
            task_class = official_class
        elif flags.paper:
            logger.warning("--paper %s ignored: its scores require --official_compat true", flags.paper)
    if flags.in_tokens and flags.batch_size < flags.max_seq_len:
        raise UserError(
            f"--batch_size {flags.batch_size}: with --in_tokens true, expected at "
            f"least --max_seq_len {flags.max_seq_len}"
        )
    return task_class.from_flags(flags, opened.tokenizer, opened.checkpoint)
