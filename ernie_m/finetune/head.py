"""Base class of the tasks with labeled files: classification, tagging, question answering.
One class encodes the inputs and decodes the outputs in training, evaluation and prediction. Training makes a
task from the flags. Prediction makes it from the labels and the key "reading" of the model's config.json. A
model of ernie-m export runs without Paddle, so only the methods that run a Paddle model import it.
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
from ernie_m.model.tasks import TASKS
from ernie_m.reader.batching import EncodeExamples, warn_truncated
from ernie_m.reader.tokenization import Tokenizer

if TYPE_CHECKING:
    from paddle import Tensor, nn

    from ernie_m.model.packed_batch import LabeledBatch


Data = TypeVar("Data", bound=Sequence[Any])  # the items of a file


class Head(ABC, Generic[Data]):
    """Features, loss, decoding and metric of one task. Subclasses define the methods of the first part.

    Attributes:
        name: one of `ernie_m.model.tasks`; stored in config.json and in the model card.
        metric: the key of `score`, or of the result of `custom_metric`, that selects the best checkpoint;
            larger is better.
        custom_metric: the custom function of --metric, if any.
        labels: label names in the order of their ids; None if the task has none.
        shuffles: whether training may shuffle the examples (--shuffle).
        official: whether inputs, loss and scores follow the official code (--official_compat).
        encode: turns examples into features, and features into batches.
        prompt: the prefix of every text.
    """

    name: str
    metric: str
    custom_metric: CustomMetric | None = None
    labels: list[str] | None = None
    shuffles = True
    official = False
    prompt = ""
    encode: EncodeExamples

    # Methods that each task defines

    @classmethod
    @abstractmethod
    def from_flags(cls, flags: FinetuneFlags, tokenizer: Tokenizer, start: Checkpoint | None = None) -> Self:
        """Make the task from the flags. `start`: the checkpoint that they name."""

    def preprocessing(self) -> dict[str, Any]:
        """Return the preprocessing settings except `max_seq_len`, for "reading" in config.json."""
        return {}

    @abstractmethod
    def read(self, path: str | os.PathLike, purpose: str) -> Data:
        """Read and check a data file. `purpose`: "train", "dev" or "test" (labels are not needed)."""

    def warn_truncated(self, name: str | os.PathLike, data: Data) -> None:
        """Warn of truncated rows and of text that the vocabulary does not cover."""
        warn_truncated(name, data, self.encode, "rows")

    def baseline(self, data: Data) -> dict[str, float]:
        """Return the scores of a model that always predicts the most frequent label; {} without labels."""
        return {}

    def targets(self, batch: Any) -> np.ndarray:
        """Return the targets of a batch, which are sent to the device with the ids."""
        return batch.labels

    @abstractmethod
    def inputs(self, data: Data) -> np.ndarray:
        """Return `input_hash` of each row, sentence or question of a file, int64 [N]."""

    @abstractmethod
    def loss_and_counts(
        self, on_device: "LabeledBatch", outputs: dict[str, "Tensor"]
    ) -> tuple["Tensor", "Tensor | float", Any]:
        """Return the summed loss of a batch, the number of correct decisions, and the number of decisions.

        Args:
            on_device: the batch on the device, with the result of `targets`.
            outputs: the outputs of the model, by their names in `ernie_m.model.tasks`.
        """

    @abstractmethod
    def decode(self, batch: Any, outputs: Mapping[str, np.ndarray]) -> list[Any]:
        """Turn the model's outputs into one prediction (numpy or plain values) per feature."""

    @abstractmethod
    def score(self, data: Data, predictions: list[Any], language: str) -> Mapping[str, float]:
        """Score the predictions of a whole file, in the order of its items: metric -> percent."""

    @abstractmethod
    def predicted(self, data: Data, predictions: list[Any]) -> list[Any]:
        """Return the predictions of a whole file for `custom_metric`: labels, numbers, tags or texts."""

    @abstractmethod
    def gold(self, data: Data) -> list[Any]:
        """Return the gold values of a whole file in the format of `predicted`; all answers to a question."""

    @abstractmethod
    def write(self, path: str | os.PathLike, data: Data, predictions: list[Any]) -> None:
        """Write the predictions of a file atomically, in the official format."""

    # Running a model

    def send_batches(self, model: "nn.Layer", batches: Sequence[Any]) -> list[tuple[Any, "LabeledBatch"]]:
        """Send batches to the device in one copy. Return (batch, batch on the device) for each."""
        from ernie_m.model.device import upload
        from ernie_m.model.packed_batch import LabeledBatch, PackedBatch

        pad_id = model.ernie_m.config.pad_token_id
        labeled = [
            LabeledBatch(PackedBatch.from_padded(batch.input_ids, pad_id), self.targets(batch))
            for batch in batches
        ]
        return list(zip(batches, upload(labeled), strict=True))

    def outputs(self, model: "nn.Layer", on_device: "LabeledBatch") -> dict[str, "Tensor"]:
        """Run the model: output name -> float32 tensor (float64 if the model is float64)."""
        import paddle

        tensors = model(on_device.inputs)
        if not isinstance(tensors, tuple):
            tensors = (tensors,)
        outputs = {}
        for name, tensor in zip(TASKS[self.name].outputs, tensors, strict=True):
            is_half = tensor.dtype not in (paddle.float32, paddle.float64)
            outputs[name] = tensor.astype("float32") if is_half else tensor
        return outputs

    def evaluation_loss(self, batch: Any, outputs: dict[str, "Tensor"], on_device: "LabeledBatch") -> float:
        """Return the summed loss of the items of a batch, from which the mean over a file is computed."""
        total, _, _ = self.loss_and_counts(on_device, outputs)
        return float(total)

    def loss(
        self, model: "nn.Layer", micro_batch: tuple[Any, "LabeledBatch"]
    ) -> tuple["Tensor", dict[str, "Tensor | float"]]:
        """Return the loss of a micro-batch from `send_batches`; see `Trainable.loss`."""
        batch, on_device = micro_batch
        # `batch.count` belongs to the whole step, `count` to this micro-batch.
        total, correct, count = self.loss_and_counts(on_device, self.outputs(model, on_device))
        return total / batch.count, {"correct": correct, "count": count}

    def measure(self, sums: Mapping[str, float]) -> str:
        """Return the metric of a log line, from the sums over some steps."""
        return f"ave acc: {compute_accuracy(sums):f}"

    def predict(self, model: "nn.Layer", batch: Any, labeled: bool) -> tuple[list[Any], float]:
        """Return the predictions for a batch, and its `evaluation_loss` (0 without labels)."""
        _, on_device = self.send_batches(model, [batch])[0]
        outputs = self.outputs(model, on_device)
        loss = self.evaluation_loss(batch, outputs, on_device) if labeled else 0.0
        return self.decode(batch, {name: tensor.numpy() for name, tensor in outputs.items()}), loss


def compute_accuracy(sums: Mapping[str, float]) -> float:
    """Return the fraction of correct decisions, from the sums over some steps.
    It is 0 without decisions, and nan if all steps were skipped.
    """
    return sums["correct"] / max(sums["count"], 1) if sums["steps"] else math.nan
