"""Regression: a number for each text or pair of texts, such as the similarity of two sentences in STS-B."""

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ernie_m.finetune.flags import FinetuneFlags
from ernie_m.finetune.metrics import pearson, spearman
from ernie_m.finetune.tasks.classification import Classification
from ernie_m.model.checkpoint.open import Checkpoint
from ernie_m.reader.batching import EncodePairs, ExampleBatch
from ernie_m.reader.classification import Examples, read_classification
from ernie_m.tokenizer.tokenizer import Tokenizer
from ernie_m.utils.errors import UserError

if TYPE_CHECKING:
    from paddle import Tensor

    from ernie_m.model.batch import LabelledBatch


class Regression(Classification):
    """Predict a number from the pooled first token, by mean squared error (--is_regression true).

    Pearson's correlation selects a step. The model is a classifier with one output, its only label is
    "score", and "reading" in config.json says that it is a regression.
    """

    metric = "pearson"

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_seq_len: int,
        pairs: bool | None = None,
    ):
        self.labels = ["score"]
        self.pairs = pairs
        self.encode = EncodePairs(tokenizer, max_seq_len, np.float32)

    @classmethod
    def from_flags(cls, flags: FinetuneFlags, tokenizer: Tokenizer, start: Checkpoint | None = None) -> Self:
        if flags.label_map_config is not None:
            raise UserError("--label_map_config names labels, but with --is_regression true they are numbers")
        return cls(tokenizer, flags.max_seq_len, start.reading.pairs if flags.init_checkpoint else None)

    def reading(self) -> dict[str, Any]:
        return {"pairs": self.pairs, "regression": True}

    def read(self, path: str | os.PathLike, purpose: str) -> Examples:
        examples = read_classification(path, labels=purpose != "test", regression=True)
        self.look_at(examples, path)
        return examples

    def loss_and_counts(
        self, on_device: "LabelledBatch", outputs: dict[str, "Tensor"]
    ) -> tuple["Tensor", "Tensor", Any]:
        """Return the summed squared errors of a batch. No decision is right or wrong here."""
        scores = outputs["logits"][:, 0]  # [B]
        errors = scores - on_device.targets.astype(scores.dtype)
        return errors.square().sum(), 0.0, len(scores)

    def measure(self, sums: Mapping[str, float]) -> str:
        # nan if all steps were skipped
        error = math.sqrt(sums["loss"] / sums["steps"]) if sums["steps"] else math.nan
        return f"root mean squared error: {error:f}"

    def decode(self, batch: ExampleBatch, outputs: Mapping[str, np.ndarray]) -> list[float]:
        """Return the predicted number of each input."""
        return outputs["logits"][:, 0].tolist()

    def answer(self, prediction: float) -> dict[str, Any]:
        return {"score": round(prediction, 6)}

    def score(self, data: Examples, predictions: list[float], language: str) -> dict[str, float]:
        labels = [example.label for example in data]
        return {self.metric: pearson(predictions, labels), "spearman": spearman(predictions, labels)}

    def baseline(self, data: Examples) -> dict[str, float]:
        return {}

    def cells(self, prediction: float) -> list[str]:
        """The predicted number."""
        return [f"{prediction:.6f}"]
