"""Classification of sentences and sentence pairs: XNLI, PAWS-X."""

import argparse
import os

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from finetune.metrics import accuracy
from model.ernie_m import ErnieMConfig
from model.heads import SequenceClassifier
from reader.features import Batch, EncodePairs
from reader.task_reader import Examples, read_classification, read_label_map
from reader.tokenization import Tokenizer
from utils.files import atomic_file


class Classification:
    """`finetune.task.Task` on the pooled first token; the metric is accuracy.

    Raises:
        UserError: the label map disagrees with --num_labels.
    """

    name = "classification"
    metric = "acc"
    xtreme_ending = "tsv"

    def __init__(self, args: argparse.Namespace, tokenizer: Tokenizer):
        self.num_labels = args.num_labels
        self.label_map = None
        if args.label_map_config is not None:
            self.label_map = read_label_map(args.label_map_config, args.num_labels)
        ids = self.label_map or {str(i): i for i in range(args.num_labels)}
        self.labels = sorted(ids, key=ids.get)
        self.encode = EncodePairs(tokenizer, args.max_seq_len, args.pad_to_multiple_of)

    def make_model(self, config: ErnieMConfig) -> SequenceClassifier:
        return SequenceClassifier(config, self.num_labels)

    def read(self, path: str | os.PathLike, purpose: str) -> Examples:
        return read_classification(path, self.label_map, self.num_labels, labels=purpose != "test")

    def loss(self, model: SequenceClassifier, batch: Batch) -> tuple[Tensor, dict[str, Tensor | float]]:
        logits = model(paddle.to_tensor(batch.input_ids))  # [B, C]
        labels = paddle.to_tensor(batch.labels)  # [B]
        loss = F.cross_entropy(logits, labels, reduction="sum") / batch.count
        return loss, {"correct": (logits.argmax(-1) == labels).sum(), "count": len(batch.labels)}

    def predict(self, model: SequenceClassifier, batch: Batch, labelled: bool) -> tuple[list, float]:
        """The class probabilities of each row, [C] float."""
        logits = model(paddle.to_tensor(batch.input_ids))
        logits = logits if logits.dtype == paddle.float64 else logits.astype("float32")
        loss = 0.0
        if labelled:
            loss = F.cross_entropy(logits, paddle.to_tensor(batch.labels), reduction="sum").item()
        return list(F.softmax(logits).numpy()), loss

    def score(self, data: Examples, predictions: list, language: str) -> dict[str, float]:
        labels = [example.label for example in data]
        return {self.metric: accuracy([int(row.argmax()) for row in predictions], labels)}

    def write(self, path: str | os.PathLike, data: Examples, predictions: list) -> None:
        """Per line: qid (where there is one), predicted label id, probabilities; tabs between."""
        with atomic_file(path, "w") as file:
            for example, row in zip(data, predictions, strict=True):
                cells = [str(int(row.argmax())), *(f"{probability:.6f}" for probability in row)]
                file.write("\t".join(cells if example.qid is None else [example.qid, *cells]) + "\n")

    def write_xtreme(self, path: str | os.PathLike, data: Examples, predictions: list) -> None:
        """The predicted label's name, a line each."""
        with atomic_file(path, "w", newline="\n") as file:
            file.writelines(f"{self.labels[int(row.argmax())]}\n" for row in predictions)
