"""Several labels a text, or none: multi-label classification."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ernie_m.finetune.tasks.classification import Classification

if TYPE_CHECKING:
    from paddle import Tensor

    from ernie_m.model.batch import LabelledBatch


class MultiLabelClassification(Classification):
    """Decide for each label by a sigmoid of its own whether the text has it.

    `fit` trains and scores it. "reading" in config.json says that a text has several labels.
    """

    multi_label = True

    def loss_and_counts(
        self, on_device: "LabelledBatch", outputs: dict[str, "Tensor"]
    ) -> tuple["Tensor", "Tensor", Any]:
        """Return the summed losses of the texts, each the mean of the binary cross-entropies of its labels.

        A text is right if all of its labels are.
        """
        import paddle.nn.functional as F

        logits = outputs["logits"]  # [B, C]
        targets = on_device.targets.astype(logits.dtype)  # [B, C]
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        is_right = ((logits > 0) == (targets > 0.5)).all(axis=1)  # [B]
        return losses.mean(axis=1).sum(), is_right.sum(), len(targets)

    def answer(self, prediction: np.ndarray) -> dict[str, Any]:
        """As of one label. A label has a probability above 0.5; there may be none."""
        labels = [label for label, probability in zip(self.labels, prediction) if probability > 0.5]
        return {"labels": labels, "probabilities": self.by_name(prediction)}
