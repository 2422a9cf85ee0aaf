"""What a task is to the trainer. One small class per task: finetune/classifier.py and its like."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from paddle import Tensor, nn

from model.ernie_m import ErnieMConfig
from reader.features import Encode


class Task(Protocol):
    """Features, model, loss, prediction and metric of one task.

    Attributes:
        name: "classification", ...; goes into config.json and the model card.
        metric: the score that selects a step, a key of what `score` returns; larger is better.
        labels: the label names in the order of their ids, for config.json; None where there are none.
        encode: items of a data set -> features -> batches.
        xtreme_ending: of the files that `write_xtreme` writes: "tsv" or "json".
    """

    name: str
    xtreme_ending: str
    metric: str
    labels: list[str] | None
    encode: Encode

    def make_model(self, config: ErnieMConfig) -> nn.Layer:
        """A fresh model with `.ernie_m` and `.classifier`."""

    def read(self, path: str | os.PathLike, purpose: str) -> Sequence[Any]:
        """The data set in a file, checked. `purpose`: "train", "dev" or "test" (no labels needed).

        Raises:
            UserError: names the file and the line.
        """

    def loss(self, model: nn.Layer, batch: Any) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The training loss divided by `batch.count`, and "correct" and "count" for the log."""

    def predict(self, model: nn.Layer, batch: Any, labelled: bool) -> tuple[list[Any], float]:
        """A prediction (numpy or plain values) per row, and the sum of their losses (0 without labels)."""

    def score(self, data: Sequence[Any], predictions: list[Any], language: str) -> Mapping[str, float]:
        """Metric -> per cent, for a whole file whose predictions are in the order of its items."""

    def write(self, path: str | os.PathLike, data: Sequence[Any], predictions: list[Any]) -> None:
        """Write the predictions of a file in the official form, atomically."""

    def write_xtreme(self, path: str | os.PathLike, data: Sequence[Any], predictions: list[Any]) -> None:
        """Write them as XTREME takes them, atomically; see docs/finetune.md."""
