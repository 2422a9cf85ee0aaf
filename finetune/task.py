"""The base class of a task with labelled files.

One class makes the features and decodes the outputs in training, evaluation and prediction. Training makes a
task from the flags. Prediction makes it from the labels and the "reading" in the model's config.json. It may
run without Paddle, so only the methods that compute a loss import Paddle.
"""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from finetune.flags import FinetuneFlags
from model.config import ErnieMConfig
from model.task_names import MODEL_CLASSES, OUTPUTS
from reader.batching import EncodeExamples
from reader.tokenization import Tokenizer

if TYPE_CHECKING:
    from paddle import Tensor, nn

    from model.batch import LabelledBatch


class Task:
    """Features, model, loss, decoding and metric of one task.

    A subclass defines the methods that raise NotImplementedError here.

    Attributes:
        name: one of `model.task_names`; written to config.json and to the model card.
        metric: the key of `score` that selects a step; larger is better.
        labels: label names in the order of their ids; None if the task has none.
        encode: turns items of a data set into features, and features into batches.
    """

    name: str
    metric: str
    labels: list[str] | None = None
    encode: EncodeExamples

    @classmethod
    def from_flags(cls, flags: FinetuneFlags, tokenizer: Tokenizer) -> Self:
        """Make the task from the command line."""
        raise NotImplementedError

    def reading(self) -> dict[str, Any]:
        """How the inputs were read, for prediction: "reading" in config.json."""
        return {}

    def read(self, path: str | os.PathLike, purpose: str) -> Sequence[Any]:
        """Read and check a data file. `purpose`: "train", "dev" or "test" (labels are not needed)."""
        raise NotImplementedError

    def targets(self, batch: Any) -> np.ndarray:
        """Return what is to be predicted; it travels to the device with the ids."""
        return batch.labels

    def losses(self, sent: "LabelledBatch", outputs: dict[str, "Tensor"]) -> tuple["Tensor", "Tensor", Any]:
        """Return the summed loss of a batch, the number of correct decisions, and the number of decisions."""
        raise NotImplementedError

    def decode(self, batch: Any, outputs: Mapping[str, np.ndarray]) -> list[Any]:
        """Turn the model's outputs into one prediction (numpy or plain values) for each feature."""
        raise NotImplementedError

    def score(self, data: Sequence[Any], predictions: list[Any], language: str) -> Mapping[str, float]:
        """Score the predictions of a whole file, in the order of its items: metric -> per cent."""
        raise NotImplementedError

    def write(self, path: str | os.PathLike, data: Sequence[Any], predictions: list[Any]) -> None:
        """Write the predictions of a file in the official form, atomically."""
        raise NotImplementedError

    def make_model(self, config: ErnieMConfig) -> "nn.Layer":
        """Make a new model with the layers `.ernie_m` and `.classifier`."""
        from model import heads

        sizes = [len(self.labels)] if self.labels else []
        return getattr(heads, MODEL_CLASSES[self.name])(config, *sizes)

    def send(self, model: "nn.Layer", batches: Sequence[Any]) -> list[tuple[Any, "LabelledBatch"]]:
        """Send batches to the device in one copy; return each with what was sent."""
        from model.batch import LabelledBatch, TokenBatch
        from model.device import upload

        pad_id = model.ernie_m.config.pad_token_id
        labelled = [
            LabelledBatch(TokenBatch.from_padded(batch.input_ids, pad_id), self.targets(batch))
            for batch in batches
        ]
        return list(zip(batches, upload(labelled), strict=True))

    def run(self, model: "nn.Layer", sent: "LabelledBatch") -> dict[str, "Tensor"]:
        """Run the model: output name -> float32 tensor (float64 if the model is float64)."""
        import paddle

        found = model(sent.inputs)
        found = found if isinstance(found, tuple) else (found,)
        single = [x if x.dtype in (paddle.float32, paddle.float64) else x.astype("float32") for x in found]
        return dict(zip(OUTPUTS[self.name], single, strict=True))

    def loss(
        self, model: "nn.Layer", batch: Any, sent: "LabelledBatch | None" = None
    ) -> tuple["Tensor", dict[str, "Tensor | float"]]:
        """Return the training loss divided by `batch.count`, and "correct" and "count" for the log."""
        sent = sent or self.send(model, [batch])[0][1]
        total, correct, count = self.losses(sent, self.run(model, sent))
        return total / batch.count, {"correct": correct, "count": count}

    def evaluation_loss(self, batch: Any, outputs: dict[str, "Tensor"], sent: "LabelledBatch") -> float:
        """Sum the losses of the items of a batch."""
        return self.losses(sent, outputs)[0].item()

    def predict(self, model: "nn.Layer", batch: Any, labelled: bool) -> tuple[list[Any], float]:
        """Return the predictions for a batch, and its `evaluation_loss` (0 without labels)."""
        ((_, sent),) = self.send(model, [batch])
        outputs = self.run(model, sent)
        loss = self.evaluation_loss(batch, outputs, sent) if labelled else 0.0
        return self.decode(batch, {name: values.numpy() for name, values in outputs.items()}), loss
