"""Classification by labels of one's own, with a model of natural language inference (Yin et al., 2019).

For each label, the model says whether a text entails a sentence with the label, such as "This example is
sport."
"""

from itertools import islice
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ernie_m.finetune.tasks.classification import Classification, softmax
from ernie_m.inference.load import LoadedModel
from ernie_m.inference.tasks import (
    OPTIONAL_TEXT,
    REQUIRED_TEXT,
    Fields,
    PredictionOptions,
    flag_of,
    is_text,
    remarks,
    text_of,
)
from ernie_m.inference.tasks.finetuned import HeadPredictor, InferenceLabels
from ernie_m.reader.batching import Example
from ernie_m.utils.errors import UserError

PLACE = "{}"  # stands in a template where the label goes
MOST_LABELS = 100  # how many labels a request to the server may have


class LabelRequest(NamedTuple):
    """A request.

    Attributes:
        template: a sentence with `PLACE` where a label goes.
        several: whether several labels can be true.
    """

    text: str
    labels: tuple[str, ...]
    template: str
    several: bool


class ClassifyByLabels(HeadPredictor):
    """{"text", "labels", "template", "several"} -> {"label", "probabilities"}, the likeliest label first.

    If one label is true, the probabilities are a softmax over the entailment logits of all labels. If several
    can be true, the probability of a label is a softmax over its entailment and its contradiction. That is
    also done for a single label.

    Raises:
        UserError: the model has no label for entailment.
    """

    fields: ClassVar[Fields] = {
        "text": REQUIRED_TEXT,
        "labels": (str | list[str] | None, None),
        "template": OPTIONAL_TEXT,
        "several": (bool | None, None),
    }

    def __init__(self, model: LoadedModel, options: PredictionOptions):
        limit = model.limit(options.max_seq_len, model.longest_in_training)
        super().__init__(model, Classification(model.tokenizer, model.labels, limit))
        self.options = options
        self.inference_labels = InferenceLabels.of(model.labels)
        if self.inference_labels.entailment is None:
            raise UserError(
                f"{model.folder}: zero-shot needs a model of natural language inference, with a label named "
                f"entailment; this one has {', '.join(model.labels)}. If these are ids, write the names into "
                "config.json, under the key id2label (in a folder that this project wrote: labels)"
            )

    def parse(self, request: dict) -> LabelRequest:
        labels = request.get("labels")
        if labels is None:
            labels = self.options.labels
        if labels is None:
            raise UserError("there are no labels; give --labels, or 'labels' in the request")
        template = text_of(request, "template", optional=True) or self.options.template
        if template.count(PLACE) != 1:
            raise UserError(f"template '{template}': it needs one {PLACE}, where the label goes")
        several = flag_of(request, "several", self.options.several)
        parsed = LabelRequest(text_of(request, "text"), parse_labels(labels), template, several)
        if _is_by_contradiction(parsed) and self.inference_labels.contradiction is None:
            raise UserError(
                "a single label, or several that can be true, need a model with a label named contradiction"
            )
        return parsed

    def check_length(self, request: LabelRequest) -> None:
        """Refuse so many labels that other users of the server would wait.

        Raises:
            UserError: there are so many.
        """
        if len(request.labels) > MOST_LABELS:
            raise UserError(f"'labels' has {len(request.labels)} labels, at most {MOST_LABELS} fit")

    def answer(self, requests: list[LabelRequest]) -> list[dict]:
        pairs = [
            Example(request.text, request.template.replace(PLACE, label))
            for request in requests
            for label in request.labels
        ]  # a text with each of its labels, of all requests one after the other
        features = self.task.encode(pairs)
        logits = np.empty((len(pairs), len(self.task.labels)), np.float32)  # [pairs, classes]
        for numbers, _, outputs in self.batches(features):
            logits[numbers] = outputs["logits"]
        rows = zip(features, logits)
        answers = []
        for request in requests:
            features_of_labels, logits_of_labels = zip(*islice(rows, len(request.labels)))
            is_cut = any(feature.cut for feature in features_of_labels)
            said = remarks(self.task.encode.tokenizer, request.text, *request.labels, cut=is_cut)
            answers.append(self._answer(request, np.array(logits_of_labels)) | said)
        return answers

    def _answer(self, request: LabelRequest, logits: np.ndarray) -> dict[str, Any]:
        """The answer from the logits for each label, [labels, C]."""
        if _is_by_contradiction(request):
            columns = [self.inference_labels.contradiction, self.inference_labels.entailment]
            probabilities = softmax(logits[:, columns])[:, 1]  # [labels], of entailment
        else:
            probabilities = softmax(logits[:, self.inference_labels.entailment])  # over the labels, [labels]
        best_first = np.argsort(-probabilities, kind="stable")
        return {
            "label": request.labels[best_first[0]],
            "probabilities": {
                request.labels[number]: round(float(probabilities[number]), 6) for number in best_first
            },
        }


def _is_by_contradiction(request: LabelRequest) -> bool:
    """Whether each label is compared with its contradiction: if several can be true, or there is only one.

    A softmax over a single label would always give 1.
    """
    return request.several or len(request.labels) == 1


def parse_labels(labels: Any) -> tuple[str, ...]:
    """Labels as a list, or as a text with commas between them.

    Raises:
        UserError: they are neither, there is none, or one is empty or there twice.
    """
    if isinstance(labels, str):
        labels = [label.strip() for label in labels.split(",")]
    if not isinstance(labels, list | tuple) or not labels:
        raise UserError(f"labels {labels!r}: give a list, or a text with commas between them")
    for label in labels:
        if not is_text(label):
            raise UserError(f"labels: {label!r} is empty or no text")
    if len(set(labels)) < len(labels):
        raise UserError(f"labels: one of {', '.join(labels)} is there twice")
    return tuple(labels)
