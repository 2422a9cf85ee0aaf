"""Classification of sentences and sentence pairs: XNLI, PAWS-X."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from finetune.flags import FinetuneFlags
from finetune.metrics import accuracy
from finetune.task import SupervisedTask
from model.task_names import CLASSIFICATION
from reader.batching import EncodePairs, TaskBatch
from reader.classification import Examples, read_classification
from reader.task_files import read_label_map
from reader.tokenization import Tokenizer
from utils.files import atomic_file

if TYPE_CHECKING:
    from paddle import Tensor, nn

    from model.batch import LabelledBatch


class Classification(SupervisedTask):
    """Classify the pooled first token; the metric is accuracy.

    Args:
        labels: label names in the order of their ids.
        max_seq_len: longest input in tokens.
        named: the label column of a file holds names instead of ids.
    """

    name = CLASSIFICATION
    metric = "acc"

    def __init__(
        self, tokenizer: Tokenizer, labels: Sequence[str], max_seq_len: int,
        named: bool = True,
    ):  # fmt: skip
        self.labels, self.named = list(labels), named
        self.encode = EncodePairs(tokenizer, max_seq_len)

    @classmethod
    def from_flags(cls, flags: FinetuneFlags, tokenizer: Tokenizer) -> Self:
        named = flags.label_map_config is not None
        labels = [str(i) for i in range(flags.num_labels)]
        if named:
            ids = read_label_map(flags.label_map_config, flags.num_labels)
            labels = sorted(ids, key=ids.get)
        return cls(tokenizer, labels, flags.max_seq_len, named)

    def read(self, path: str | os.PathLike, purpose: str) -> Examples:
        ids = {label: i for i, label in enumerate(self.labels)} if self.named else None
        return read_classification(path, ids, len(self.labels), labels=purpose != "test")

    def outputs(self, model: "nn.Layer", sent: "LabelledBatch") -> dict[str, "Tensor"]:
        """Return logits and probabilities. NumPy's softmax could differ from Paddle's in the last digit."""
        import paddle.nn.functional as F

        outputs = super().outputs(model, sent)
        return {**outputs, "probabilities": F.softmax(outputs["logits"])}

    def losses(self, sent: "LabelledBatch", outputs: dict[str, "Tensor"]) -> tuple["Tensor", "Tensor", Any]:
        import paddle.nn.functional as F

        logits, labels = outputs["logits"], sent.targets  # [B, C], [B]
        correct = (logits.argmax(-1) == labels).sum()
        return F.cross_entropy(logits, labels, reduction="sum"), correct, len(labels)

    def decode(self, batch: TaskBatch, outputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the class probabilities of each input, [C] float."""
        return list(outputs["probabilities"] if "probabilities" in outputs else softmax(outputs["logits"]))

    def score(self, data: Examples, predictions: list[np.ndarray], language: str) -> dict[str, float]:
        labels = [example.label for example in data]
        return {self.metric: accuracy([int(row.argmax()) for row in predictions], labels)}

    def write(self, path: str | os.PathLike, data: Examples, predictions: list[np.ndarray]) -> None:
        """Write a line per input: qid (if there is one), label id and probabilities, separated by tabs."""
        with atomic_file(path, "w") as file:
            for example, row in zip(data, predictions, strict=True):
                cells = [str(int(row.argmax())), *(f"{probability:.6f}" for probability in row)]
                file.write("\t".join(cells if example.qid is None else [example.qid, *cells]) + "\n")


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in float64."""
    logits = logits.astype(np.float64)
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)
