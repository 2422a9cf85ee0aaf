"""Predictors of fine-tuned models: classification, tagging, question answering, zero-shot classification.

Tokenization and decoding are those of the training tasks in `ernie_m.finetune`, with the stored settings.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ernie_m.finetune.classifier import Classification, MultiLabelClassification, Regression, softmax
from ernie_m.finetune.finetuning_task import FinetuningTask
from ernie_m.finetune.mrc import Answer, QuestionAnswering
from ernie_m.finetune.sequence_label import Tagging
from ernie_m.inference.load import LoadedModel
from ernie_m.inference.prediction_options import PredictionOptions
from ernie_m.inference.tasks import (
    OPTIONAL_TEXT,
    REQUIRED_TEXT,
    Fields,
    get_caveats,
    get_flag,
    is_text,
    read_text_key,
)
from ernie_m.model.pipeline_config import NEITHER
from ernie_m.reader.batching import BATCH_TOKENS
from ernie_m.reader.files.official_tags import JOINT, Sentence, find_unknown_words, split_words
from ernie_m.reader.files.squad import Question, QuestionFile
from ernie_m.reader.mrc_reader import make_windows
from ernie_m.reader.tag_schemes import NO_ENTITIES, find_entities, map_labels_to_iobes
from ernie_m.reader.text_featurizer import Example
from ernie_m.utils.errors import UserError, format_value
from ernie_m.utils.files import is_valid_unicode
from ernie_m.vectors.pooling import make_batches

ANSWER_WINDOW = 384  # tokens
# Number of candidates in the softmax of answer probabilities, as in run_mrc.py; top_k if that is more.
RANKED = 20


class HeadPredictor:
    """Base class of predictors with a head, which combine a training task and an inference engine."""

    def __init__(self, model: LoadedModel, task: FinetuningTask):
        self.task = task
        self.model = model
        self.engine = model.get_engine(task.name)

    def predict_features(self, features: Sequence[Any]) -> list[Any]:
        """Return the prediction for each feature, computed in batches of similar length."""
        predictions: list[Any] = [None] * len(features)
        for indices, batch, outputs in self.iter_outputs(features):
            for number, prediction in zip(indices, self.task.decode(batch, outputs), strict=True):
                predictions[number] = prediction
        return predictions

    def iter_outputs(self, features: Sequence[Any]) -> Iterator[tuple[list[int], Any, dict[str, np.ndarray]]]:
        """Run the model in batches, and yield the feature indices, the batch, and the outputs of each."""

        def compute_batch(indices: list[int]) -> tuple[list[int], Any, dict[str, np.ndarray]]:
            features_of_batch = [features[number] for number in indices]
            batch = self.task.encode.collate(features_of_batch, indices, count=len(indices))
            # A feature may have many windows, each one a row, so the engine runs on some rows at a time.
            rows_at_once = max(1, BATCH_TOKENS // batch.input_ids.shape[1])
            starts = range(0, len(batch.input_ids), rows_at_once)
            parts = [self.engine(batch.input_ids[start : start + rows_at_once]) for start in starts]
            outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            return indices, batch, outputs

        ids = [feature.ids for feature in features]
        workers = self.model.get_workers()
        return workers.map(compute_batch, make_batches(workers, ids, BATCH_TOKENS))


class ClassificationPredictor(HeadPredictor):
    """Classifier of texts or pairs: {"text"} or {"text_a", "text_b"} -> {"label", "probabilities"}.

    A multi-label model returns {"labels", "probabilities"}, and a model with one output, such as a
    regression, {"score"}. The caveats "truncated" and "unknown_words" are added.
    """

    # Requires one of the first two.
    fields: ClassVar[Fields] = {"text": OPTIONAL_TEXT, "text_a": OPTIONAL_TEXT, "text_b": OPTIONAL_TEXT}

    def __init__(self, model: LoadedModel, options: PredictionOptions):
        limit = model.resolve_max_seq_len(options.max_seq_len, model.training_max_length)
        if model.has_single_output:
            task = Regression(model.tokenizer, limit, is_logit=not model.pipeline_config.regression)
        else:
            task_class = MultiLabelClassification if model.pipeline_config.multi_label else Classification
            prompt = model.pipeline_config.get_prompt(NEITHER)
            labels = model.given_labels if options.given_labels else model.labels
            task = task_class(model.tokenizer, labels, limit, prompt=prompt)
        super().__init__(model, task)

    def parse(self, request: dict) -> Example:
        key = "text" if "text" in request else "text_a"
        example = Example(read_text_key(request, key), read_text_key(request, "text_b", optional=True))
        if request.get("text_a", example.text_a) != example.text_a:
            raise UserError("'text' and 'text_a' are the same key but differ. Send one of them")
        if self.model.pipeline_config.pairs not in (None, example.text_b is not None):
            reads = "single texts. Remove 'text_b'" if example.text_b else "pairs of texts. Add 'text_b'"
            raise UserError(f"'text_b': the model expects {reads}")
        return example

    def predict(self, examples: list[Example]) -> list[dict]:
        features = self.task.encode(examples)
        tokenizer = self.task.encode.tokenizer
        return [
            self.task.to_json(prediction)
            | get_caveats(tokenizer, example.text_a, example.text_b or "", is_truncated=feature.cut)
            for example, feature, prediction in zip(examples, features, self.predict_features(features))
        ]


class InferenceLabels(NamedTuple):
    """The ids of the labels entailment and contradiction of an NLI model; None if missing."""

    entailment: int | None
    contradiction: int | None

    @classmethod
    def from_labels(cls, labels: list[str]) -> "InferenceLabels":
        """Find the ids of the labels whose names begin with "entail" and "contra".

        With two labels, such as entailment and not_entailment, the other label is used as contradiction.
        """
        ids: dict[str, int] = {}  # the first six letters of a name -> the first label with them
        for id_, label in enumerate(labels):
            ids.setdefault(label.lower()[:6], id_)
        entailment = ids.get("entail")
        if entailment is not None and len(labels) == 2:
            return cls(entailment, 1 - entailment)
        return cls(entailment, ids.get("contra"))


class TaggingRequest(NamedTuple):
    """A sentence to tag.

    Attributes:
        text: the text that was split into words; None if the request contained words.
        spans: the character span (start, end) of each word in the text.
    """

    words: list[str]
    text: str | None = None
    spans: Sequence[tuple[int, int]] = ()


class TaggingPredictor(HeadPredictor):
    """Tagger of words: {"words"}, or {"text"} split like the training data -> {"words", "tags", "entities"}.

    The key "tokens" is also accepted for words. Long sentences are split into overlapping windows of
    `max_seq_len` tokens. The caveats "truncated", if a word exceeds a window, and "unknown_words" are added.
    """

    # A request has one of the two.
    fields: ClassVar[Fields] = {
        "text": OPTIONAL_TEXT,
        "words": (list[str] | None, None),
    }

    def __init__(self, model: LoadedModel, options: PredictionOptions):
        limit = model.resolve_max_seq_len(options.max_seq_len, model.training_max_length)
        super().__init__(
            model, Tagging.from_pipeline_config(model.pipeline_config, model.tokenizer, model.labels, limit)
        )
        marks_entities = model.pipeline_config.chunk_scheme != NO_ENTITIES
        self.iobes = map_labels_to_iobes(model.labels) if marks_entities else {}  # label -> its tag

    def parse(self, request: dict) -> TaggingRequest:
        key = next((key for key in ("words", "tokens") if key in request), None)
        if key is not None:
            words = TaggingRequest(request[key])
        else:
            text = read_text_key(request, "text")
            pipeline_config = self.model.pipeline_config
            scripts = pipeline_config.character_scripts
            if unknown := find_unknown_words(text, scripts):
                script, characters = unknown
                raise UserError(
                    f"'text': cannot split '{format_value(characters)}' into words: the model does not "
                    f"record that {script} characters were words in training. Pass a list of words, as in "
                    '{"words": ["a", "b"]}'
                )
            spans = split_words(text, pipeline_config.marks_apart, scripts)
            words = TaggingRequest([text[start:end] for start, end in spans], text, spans)
            key = "text"
        _check_words(words.words, key)
        return words

    def predict(self, sentences: list[TaggingRequest]) -> list[dict]:
        features = self.task.encode(
            [Sentence(JOINT.join(sentence.words), labels=None) for sentence in sentences]
        )
        predictions = []
        for sentence, feature, label_ids in zip(sentences, features, self.predict_features(features)):
            tags = self.task.convert_ids_to_tags(label_ids)
            iobes = [self.iobes.get(tag, "O") for tag in tags]
            answer = {"words": sentence.words, "tags": tags, "entities": _entities_to_json(sentence, iobes)}
            caveats = get_caveats(self.task.encode.tokenizer, *sentence.words, is_truncated=feature.cut)
            predictions.append({**answer, **caveats})
        return predictions


def _check_words(words: Any, key: str) -> None:
    """Check that a value of a request is a list of words.

    Args:
        key: the key of the value, for errors.

    Raises:
        UserError: the value is not a list, the list is empty, or an item is not a word.
    """
    if not isinstance(words, list) or not words:
        raise UserError(f"'{key}': expected a non-empty list of strings")
    for number, word in enumerate(words, 1):
        if not isinstance(word, str) or not word or JOINT in word or not is_valid_unicode(word):
            raise UserError(
                f"'{key}': invalid word {number} of {len(words)} (expected a non-empty string, without "
                "U+0002 and lone surrogates)"
            )


def _entities_to_json(sentence: TaggingRequest, tags: list[str]) -> list[dict[str, Any]]:
    """Return the entities of a sentence in order, as JSON values.

    Spans are in characters if the request contained a text, otherwise in words. The end is exclusive.

    Args:
        tags: the tags of the words, in the IOBES scheme.
    """
    spans = [(first, last, kind) for kind, first, last in find_entities(tags)]
    predictions = []
    for first, last, kind in sorted(spans):
        if sentence.text is None:
            span = {"words": sentence.words[first : last + 1], "first": first, "last": last + 1}
        else:
            start, _ = sentence.spans[first]
            _, end = sentence.spans[last]
            span = {"text": sentence.text[start:end], "start": start, "end": end}
        predictions.append({"type": kind, **span})
    return predictions


class AnsweringPredictor(HeadPredictor):
    """Extractive answerer: {"question", "context"} -> {"answer", "start", "probability", "candidates"}.

    Long contexts are split into overlapping windows of `max_seq_len` tokens. The caveats "truncated", if the
    question is too long, and "unknown_words" are added.
    """

    fields: ClassVar[Fields] = {"question": REQUIRED_TEXT, "context": REQUIRED_TEXT}

    def __init__(self, model: LoadedModel, options: PredictionOptions):
        window = model.pipeline_config.max_seq_len or min(ANSWER_WINDOW, model.max_length)
        limit = model.resolve_max_seq_len(options.max_seq_len, window)
        self.top_k = options.top_k
        n_best = max(RANKED, options.top_k)
        task = QuestionAnswering.from_pipeline_config(model.pipeline_config, model.tokenizer, limit, n_best)
        super().__init__(model, task)

    def parse(self, request: dict) -> tuple[str, str]:
        return read_text_key(request, "question"), read_text_key(request, "context")

    def predict(self, requests: list[tuple[str, str]]) -> list[dict]:
        questions = []
        contexts = []  # one per question
        for number, (question, context) in enumerate(requests):
            questions.append(Question(id=str(number), text=question, context=number, answers=(), span=None))
            contexts.append(context)
        file = QuestionFile(path=None, contexts=contexts, questions=questions)
        windows = make_windows(file, self.task.tokenizer, self.task.window_config)
        scores = self.predict_features(self.task.encode(windows))  # `SpanScores` of each window
        predictions = []
        ranked_of_requests = self.task.rank(windows, scores)
        for request, is_cut, ranked in zip(requests, windows.cut, ranked_of_requests, strict=True):
            caveats = get_caveats(self.task.tokenizer, *request, is_truncated=is_cut)
            predictions.append({**_answers_to_json(ranked[: self.top_k]), **caveats})
        return predictions


def _answers_to_json(ranked: list[Answer]) -> dict[str, Any]:
    """Convert the candidate answers to a question, best first, to JSON values; there may be no candidates."""
    candidates = [
        {
            "text": answer.text,
            "start": answer.start,
            "end": answer.start + len(answer.text),
            "probability": round(answer.probability, 6),
        }
        for answer in ranked
    ]
    if not candidates:
        return {"answer": "", "start": None, "probability": 0.0, "candidates": []}
    best = candidates[0]
    return {
        "answer": best["text"],
        "start": best["start"],
        "probability": best["probability"],
        "candidates": candidates,
    }


LABEL_SLOT = "{}"  # the label in a template
MOST_LABELS = 100  # maximum number of labels of a request to the server


class ZeroShotRequest(NamedTuple):
    """A request for zero-shot classification.

    Attributes:
        hypothesis_template: a sentence with `LABEL_SLOT` for the label.
        multi_label: whether several labels can apply.
    """

    text: str
    labels: tuple[str, ...]
    hypothesis_template: str
    multi_label: bool


class ZeroShotPredictor(HeadPredictor):
    """Zero-shot classifier: {"text", "labels", "hypothesis_template", "multi_label"} -> {"label", ...}.

    The prediction is {"label", "probabilities"}, with the most probable label first. By default, the
    probabilities are a softmax over the entailment logits of all labels. With `multi_label` or a single
    label, the probability of a label is a softmax over its entailment and contradiction logits.

    Raises:
        UserError: the model has no label for entailment.
    """

    fields: ClassVar[Fields] = {
        "text": REQUIRED_TEXT,
        "labels": (str | list[str] | None, None),
        "hypothesis_template": OPTIONAL_TEXT,
        "multi_label": (bool | None, None),
    }

    def __init__(self, model: LoadedModel, options: PredictionOptions):
        limit = model.resolve_max_seq_len(options.max_seq_len, model.training_max_length)
        super().__init__(model, Classification(model.tokenizer, model.labels, limit))
        self.options = options
        self.inference_labels = InferenceLabels.from_labels(model.labels)
        if self.inference_labels.entailment is None:
            raise UserError(
                f"{model.folder}: zero-shot requires an NLI model with a label named entailment (found: "
                f"{', '.join(model.labels)}). If these are ids, write the names into config.json under "
                "id2label (or labels, in a checkpoint of this project)"
            )

    def parse(self, request: dict) -> ZeroShotRequest:
        labels = request.get("labels")
        if labels is None:
            labels = self.options.labels
        if labels is None:
            raise UserError("'labels': missing. Set --labels, or 'labels' in the request")
        template = (
            read_text_key(request, "hypothesis_template", optional=True) or self.options.hypothesis_template
        )
        if template.count(LABEL_SLOT) != 1:
            raise UserError(
                f"invalid hypothesis_template '{template}' (expected exactly one {LABEL_SLOT} for the label)"
            )
        multi_label = get_flag(request, "multi_label", self.options.multi_label)
        parsed = ZeroShotRequest(read_text_key(request, "text"), parse_labels(labels), template, multi_label)
        if _scores_contradiction(parsed) and self.inference_labels.contradiction is None:
            raise UserError(
                "'labels': multi_label or a single label requires a model with a label named contradiction"
            )
        return parsed

    def check_length(self, request: ZeroShotRequest) -> None:
        """Check that a request has at most `MOST_LABELS` labels, to bound its computation in the server.

        Raises:
            UserError: there are too many labels.
        """
        if len(request.labels) > MOST_LABELS:
            raise UserError(f"'labels' has {len(request.labels)} labels (maximum: {MOST_LABELS}). Send fewer")

    def predict(self, requests: list[ZeroShotRequest]) -> list[dict]:
        # A text with each of its labels, of all requests one after the other.
        pairs = [
            Example(request.text, request.hypothesis_template.replace(LABEL_SLOT, label))
            for request in requests
            for label in request.labels
        ]
        features = self.task.encode(pairs)
        logits = np.empty((len(pairs), len(self.task.labels)), np.float32)  # [pairs, classes]
        for indices, _, outputs in self.iter_outputs(features):
            logits[indices] = outputs["logits"]
        rows = zip(features, logits)
        predictions = []
        for request in requests:
            features_of_labels, logits_of_labels = zip(*islice(rows, len(request.labels)))
            is_cut = any(feature.cut for feature in features_of_labels)
            caveats = get_caveats(
                self.task.encode.tokenizer, request.text, *request.labels, is_truncated=is_cut
            )
            predictions.append(self._compute_prediction(request, np.array(logits_of_labels)) | caveats)
        return predictions

    def _compute_prediction(self, request: ZeroShotRequest, logits: np.ndarray) -> dict[str, Any]:
        """Compute the prediction for a request from the NLI logits of each label, [labels, C]."""
        if _scores_contradiction(request):
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


def _scores_contradiction(request: ZeroShotRequest) -> bool:
    """Return whether labels are scored by entailment against contradiction: with multi_label or one label.

    A softmax over the entailment of a single label would always be 1.
    """
    return request.multi_label or len(request.labels) == 1


def parse_labels(labels: Any) -> tuple[str, ...]:
    """Parse candidate labels, given as a list or a comma-separated string.

    Raises:
        UserError: the value has the wrong type, the list is empty, or a label is blank or duplicate.
    """
    if isinstance(labels, str):
        labels = [label.strip() for label in labels.split(",")]
    if not isinstance(labels, list | tuple) or not labels:
        raise UserError(f"invalid labels {labels!r} (expected a list or a comma-separated string)")
    for label in labels:
        if not is_text(label):
            raise UserError(f"labels: invalid label {label!r} (expected a text that is not blank)")
    if len(set(labels)) < len(labels):
        raise UserError(f"labels: duplicate label in {', '.join(labels)}. Remove it")
    return tuple(labels)
