"""Several labels a text, or none: multi-label classification."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ernie_m.finetune.metrics import MACRO_F1, MICRO_F1, NO_LABEL, macro_f1, micro_f1
from ernie_m.finetune.tasks.classification import Classification
from ernie_m.reader.classification import Examples

if TYPE_CHECKING:
    from paddle import Tensor

    from ernie_m.model.batch import LabelledBatch


class MultiLabelClassification(Classification):
    """Decide for each label by a sigmoid of its own whether the text has it.

    Micro F1 selects a step. "reading" in config.json says that a text has several labels.
    """

    metric = MICRO_F1
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

    def chosen(self, probabilities: np.ndarray) -> list[int]:
        """The ids of the labels with a probability above 0.5; there may be none."""
        return np.flatnonzero(probabilities > 0.5).tolist()

    def answer(self, prediction: np.ndarray) -> dict[str, Any]:
        labels = [self.labels[id_] for id_ in self.chosen(prediction)]
        return {"labels": labels, "probabilities": self.by_name(prediction)}

    def readable(self, prediction: np.ndarray) -> dict[str, Any]:
        return self.answer(prediction)

    def score(self, data: Examples, predictions: list[np.ndarray], language: str) -> dict[str, float]:
        """Micro and macro F1, and the share of the texts of which all labels are right."""
        confusion = self.confusion(data, predictions)
        gold, predicted = _decisions(data, predictions)
        is_right = (gold == predicted).all(axis=1)
        return {
            MICRO_F1: micro_f1(confusion),
            MACRO_F1: macro_f1(confusion),
            "acc": 100 * float(is_right.mean()),
        }

    def confusion(self, data: Examples, predictions: list[np.ndarray]) -> dict[str, dict[str, int]]:
        """The decisions for each label of each text, as `ernie_m.finetune.metrics.Confusion` has them."""
        gold, predicted = _decisions(data, predictions)
        confusion: dict[str, dict[str, int]] = {label: {} for label in [*self.labels, NO_LABEL]}
        for id_, label in enumerate(self.labels):
            has_label = gold[:, id_]
            gets_label = predicted[:, id_]
            confusion[label][label] = int((has_label & gets_label).sum())
            confusion[label][NO_LABEL] = int((has_label & ~gets_label).sum())
            confusion[NO_LABEL][label] = int((~has_label & gets_label).sum())
        confusion[NO_LABEL][NO_LABEL] = int((~gold & ~predicted).sum())
        # Counts of 0 are left out, as in the confusion of a classification.
        for label, row in confusion.items():
            confusion[label] = {predicted_label: count for predicted_label, count in row.items() if count}
        return confusion


def _decisions(data: Examples, predictions: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The labels that texts have, and those that are predicted: bool [N, C] each."""
    return np.array([example.label for example in data], bool), np.stack(predictions) > 0.5
