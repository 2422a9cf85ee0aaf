"""What a task is: one class that makes features and decodes, in training, evaluation and prediction alike.

`from_flags` makes a task for training. For prediction it is made from the labels and the "reading" in the
config.json of a model. Prediction may run without Paddle, so only the methods that train import it.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from model.config import ErnieMConfig
from model.task_names import MODEL_CLASSES, OUTPUTS
from reader.features import Encode
from reader.tokenization import Tokenizer

if TYPE_CHECKING:
    from typing import Self  # Python 3.10 has none

    from paddle import Tensor, nn


class Task(Protocol):
    """Features, model, loss, decoding and metric of one task; a subclass defines the methods without a body.

    Attributes:
        name: of `model.task_names`; goes into config.json and the model card.
        metric: the score that selects a step, a key of what `score` returns; larger is better.
        xtreme_ending: of the files that `write_xtreme` writes: "tsv" or "json".
        labels: the label names in the order of their ids; None where there are none.
        encode: items of a data set -> features -> batches.
    """

    name: str
    metric: str
    xtreme_ending: str = "tsv"
    labels: list[str] | None = None
    encode: Encode

    @classmethod
    def from_flags(cls, args: argparse.Namespace, tokenizer: Tokenizer) -> "Self":
        """The task as the flags of `utils.args` say. UserError: flags that it cannot work with."""

    def reading(self) -> dict[str, Any]:
        """What prediction must know of how inputs were read: "reading" in config.json."""
        return {}

    def read(self, path: str | os.PathLike, purpose: str) -> Sequence[Any]:
        """The data set in a file, checked. `purpose`: "train", "dev" or "test" (no labels needed).

        Raises:
            UserError: names the file and the line.
        """

    def losses(self, batch: Any, outputs: dict[str, "Tensor"]) -> tuple["Tensor", "Tensor", int]:
        """The sum of the losses of a batch, and for the log how many decisions are right, of how many."""

    def decode(self, batch: Any, outputs: Mapping[str, np.ndarray]) -> list[Any]:
        """A prediction (numpy or plain values) for each feature of a batch, from the model's outputs."""

    def score(self, data: Sequence[Any], predictions: list[Any], language: str) -> Mapping[str, float]:
        """Metric -> per cent, for a whole file whose predictions are in the order of its items."""

    def write(self, path: str | os.PathLike, data: Sequence[Any], predictions: list[Any]) -> None:
        """Write the predictions of a file in the official form, atomically."""

    def write_xtreme(self, path: str | os.PathLike, data: Sequence[Any], predictions: list[Any]) -> None:
        """Write them as XTREME takes them, atomically; see docs/finetune.md."""

    def make_model(self, config: ErnieMConfig) -> "nn.Layer":
        """A fresh model with `.ernie_m` and `.classifier`."""
        from model import heads

        sizes = [len(self.labels)] if self.labels else []
        return getattr(heads, MODEL_CLASSES[self.name])(config, *sizes)

    def run(self, model: "nn.Layer", batch: Any) -> dict[str, "Tensor"]:
        """The model's outputs for a batch by name, float32 (float64 of a model in float64)."""
        import paddle

        found = model(batch.input_ids)
        found = found if isinstance(found, tuple) else (found,)
        single = [x if x.dtype in (paddle.float32, paddle.float64) else x.astype("float32") for x in found]
        return dict(zip(OUTPUTS[self.name], single, strict=True))

    def loss(self, model: "nn.Layer", batch: Any) -> tuple["Tensor", dict[str, "Tensor | float"]]:
        """The training loss divided by `batch.count`, and "correct" and "count" for the log."""
        total, correct, count = self.losses(batch, self.run(model, batch))
        return total / batch.count, {"correct": correct, "count": count}

    def evaluation_loss(self, batch: Any, outputs: dict[str, "Tensor"]) -> float:
        """The sum of the losses of a batch's items."""
        return self.losses(batch, outputs)[0].item()

    def predict(self, model: "nn.Layer", batch: Any, labelled: bool) -> tuple[list[Any], float]:
        """`decode` of what a model says, and `evaluation_loss` (0 without labels)."""
        outputs = self.run(model, batch)
        loss = self.evaluation_loss(batch, outputs) if labelled else 0.0
        return self.decode(batch, {name: values.numpy() for name, values in outputs.items()}), loss
