"""Answers of fine-tuned models: classes, tags, and answers to questions.

Features and decoding are those of the training tasks in `finetune`, with the settings that training recorded.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ernie_m.finetune.classifier import Classification, MultiLabelClassification, Regression, softmax
from ernie_m.finetune.head import Head
from ernie_m.finetune.mrc import Answer, QuestionAnswering
from ernie_m.finetune.sequence_label import Tagging
from ernie_m.inference.load import LoadedModel
from ernie_m.inference.tasks import (
    OPTIONAL_TEXT,
    REQUIRED_TEXT,
    Fields,
    PredictionOptions,
    get_flag,
    is_text,
    remarks,
    text_of,
)
from ernie_m.model.preprocessing import NEITHER
from ernie_m.reader.batching import BATCH_TOKENS, Example
from ernie_m.reader.files.official_tags import JOINT, Sentence, split_words
from ernie_m.reader.files.squad import Question, QuestionFile
from ernie_m.reader.mrc_reader import make_windows
from ernie_m.reader.tag_schemes import NO_ENTITIES, entities, entity_tags
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import is_whole_text
from ernie_m.vectors.pooling import batches_for

ANSWER_WINDOW = 384  # tokens
# The probabilities of answers are a softmax over so many candidates, as in run_mrc.py, or over top_k if that
# is more.
RANKED = 20


class HeadPredictor:
    """The base of the classes below: a training task, which makes features and decodes, and an engine."""

    def __init__(self, model: LoadedModel, task: Head):
        self.task = task
        self.model = model
        self.engine = model.engine(task.name)

    def predictions(self, features: Sequence[Any]) -> list[Any]:
        """The task's prediction for each feature. Features of similar length are run in one batch."""
        predictions: list[Any] = [None] * len(features)
        for numbers, batch, outputs in self.batches(features):
            for number, prediction in zip(numbers, self.task.decode(batch, outputs), strict=True):
                predictions[number] = prediction
        return predictions

    def batches(self, features: Sequence[Any]) -> Iterator[tuple[list[int], Any, dict[str, np.ndarray]]]:
        """Yield the numbers of some features, their batch, and the outputs of the model for it."""

        def compute(numbers: list[int]) -> tuple[list[int], Any, dict[str, np.ndarray]]:
            features_of_batch = [features[number] for number in numbers]
            batch = self.task.encode.collate(features_of_batch, numbers, count=len(numbers))
            # A feature may have many windows, each of them a row, so the engine gets some rows at a time.
            rows_at_once = max(1, BATCH_TOKENS // batch.input_ids.shape[1])
            starts = range(0, len(batch.input_ids), rows_at_once)
            parts = [self.engine(batch.input_ids[start : start + rows_at_once]) for start in starts]
            outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            return numbers, batch, outputs

        ids = [feature.ids for feature in features]
        workers = self.model.workers()
        return workers.map(compute, batches_for(workers, ids, BATCH_TOKENS))


class ClassifyTexts(HeadPredictor):
    """{"text_a", "text_b"} or {"text"} -> {"label", "probabilities"}, "truncated" if the text was too long,
    and the number of "unknown_words" if there are any.

    A model with one output, such as a regression, answers {"score"} instead, and one for several labels a
    text {"labels", "probabilities"}.
    """

    # One of the first two.
    fields: ClassVar[Fields] = {"text": OPTIONAL_TEXT, "text_a": OPTIONAL_TEXT, "text_b": OPTIONAL_TEXT}

    def __init__(self, model: LoadedModel, options: PredictionOptions):
        limit = model.limit(options.max_seq_len, model.longest_in_training)
        if model.predicts_numbers:
            task = Regression(model.tokenizer, limit)
        else:
            task_class = MultiLabelClassification if model.preprocessing.multi_label else Classification
            prompt = model.preprocessing.prompt(NEITHER)
            labels = model.given_labels if options.given_labels else model.labels
            task = task_class(model.tokenizer, labels, limit, prompt=prompt)
        super().__init__(model, task)

    def parse(self, request: dict) -> Example:
        key = "text" if "text" in request else "text_a"
        example = Example(text_of(request, key), text_of(request, "text_b", optional=True))
        if request.get("text_a", example.text_a) != example.text_a:
            raise UserError("'text' and 'text_a' differ, but are two names of one text; give one of them")
        if self.model.preprocessing.pairs not in (None, example.text_b is not None):
            reads = (
                "single texts: leave 'text_b' out" if example.text_b else "pairs of texts: give 'text_b', too"
            )
            raise UserError(f"the model reads {reads}")
        return example

    def answer(self, examples: list[Example]) -> list[dict]:
        features = self.task.encode(examples)
        answers = []
        for example, feature, prediction in zip(examples, features, self.predictions(features)):
            texts = (example.text_a, example.text_b or "")
            said = remarks(self.task.encode.tokenizer, *texts, cut=feature.cut)
            answers.append({**self.task.answer(prediction), **said})
        return answers


class InferenceLabels(NamedTuple):
    """The ids of two labels of natural language inference; None: the model has no such label."""

    entailment: int | None
    contradiction: int | None

    @classmethod
    def of(cls, labels: list[str]) -> "InferenceLabels":
        """Find them by their names, which begin with "entail" and "contra".

        Of two labels, such as entailment and not_entailment, the other one stands for contradiction.
        """
        ids: dict[str, int] = {}  # the first six letters of a name -> the first label with them
        for id_, label in enumerate(labels):
            ids.setdefault(label.lower()[:6], id_)
        entailment = ids.get("entail")
        if entailment is not None and len(labels) == 2:
            return cls(entailment, 1 - entailment)
        return cls(entailment, ids.get("contra"))


class Words(NamedTuple):
    """Words to tag.

    Attributes:
        text: what was split into them; None: the user gave words.
        spans: the characters (start, end) of each word in the text.
    """

    words: list[str]
    text: str | None = None
    spans: Sequence[tuple[int, int]] = ()


class TagWords(HeadPredictor):
    """{"words"}, or {"text"} split as in the training data -> {"words", "tags", "entities", "unknown_words"}.

    Of JSON lines "tokens" are words, too.
    Long sentences are read in overlapping windows of `max_seq_len` tokens; "truncated": one word is longer.
    """

    fields: ClassVar[Fields] = {"text": OPTIONAL_TEXT, "words": (list[str] | None, None)}  # one of them

    def __init__(self, model: LoadedModel, options: PredictionOptions):
        limit = model.limit(options.max_seq_len, model.longest_in_training)
        self.marks_apart = model.preprocessing.marks_apart
        super().__init__(
            model, Tagging.from_preprocessing(model.preprocessing, model.tokenizer, model.labels, limit)
        )
        marks_entities = model.preprocessing.chunk_scheme != NO_ENTITIES
        self.iobes = entity_tags(model.labels) if marks_entities else {}  # label -> its tag

    def parse(self, request: dict) -> Words:
        key = next((key for key in ("words", "tokens") if key in request), None)
        if key is not None:
            words = Words(request[key])
        else:
            text = text_of(request, "text")
            spans = split_words(text, self.marks_apart)
            words = Words([text[start:end] for start, end in spans], text, spans)
            key = "text"
        _check_words(words.words, key)
        return words

    def answer(self, sentences: list[Words]) -> list[dict]:
        features = self.task.encode(
            [Sentence(JOINT.join(sentence.words), labels=None) for sentence in sentences]
        )
        answers = []
        for sentence, feature, label_ids in zip(sentences, features, self.predictions(features)):
            tags = self.task.tags(label_ids)
            iobes = [self.iobes.get(tag, "O") for tag in tags]
            answer = {"words": sentence.words, "tags": tags, "entities": _entities_as_json(sentence, iobes)}
            said = remarks(self.task.encode.tokenizer, *sentence.words, cut=feature.cut)
            answers.append({**answer, **said})
        return answers


def _check_words(words: Any, key: str) -> None:
    """Refuse what is not a list of words.

    Args:
        key: the key of the request that they come from.

    Raises:
        UserError: they are no list, the list is empty, or something in it is no word.
    """
    if not isinstance(words, list) or not words:
        raise UserError(f"'{key}' must be a list of strings that is not empty")
    for number, word in enumerate(words, 1):
        if not isinstance(word, str) or not word or JOINT in word or not is_whole_text(word):
            raise UserError(
                f"'{key}': word {number} of {len(words)} is empty, is no string, or has the character U+0002 "
                "or half a character"
            )


def _entities_as_json(sentence: Words, tags: list[str]) -> list[dict[str, Any]]:
    """The entities of a sentence in their order, with their places.

    A place is in characters if there is a text, otherwise in words. Its end is behind the entity.

    Args:
        tags: the tags of the words, in the scheme IOBES.
    """
    spans = [(first, last, kind) for kind, first, last in entities(tags)]
    answers = []
    for first, last, kind in sorted(spans):
        if sentence.text is None:
            span = {"words": sentence.words[first : last + 1], "first": first, "last": last + 1}
        else:
            start, _ = sentence.spans[first]
            _, end = sentence.spans[last]
            span = {"text": sentence.text[start:end], "start": start, "end": end}
        answers.append({"type": kind, **span})
    return answers


class AnswerQuestions(HeadPredictor):
    """{"question", "context"} -> {"answer", "start", "probability", "candidates"}, "truncated" if the
    question was too long, and "unknown_words".

    Long contexts are read in overlapping windows of `max_seq_len` tokens.
    """

    fields: ClassVar[Fields] = {"question": REQUIRED_TEXT, "context": REQUIRED_TEXT}

    def __init__(self, model: LoadedModel, options: PredictionOptions):
        window = model.preprocessing.max_seq_len or min(ANSWER_WINDOW, model.longest)
        limit = model.limit(options.max_seq_len, window)
        self.top_k = options.top_k
        n_best = max(RANKED, options.top_k)
        task = QuestionAnswering.from_preprocessing(model.preprocessing, model.tokenizer, limit, n_best)
        super().__init__(model, task)

    def parse(self, request: dict) -> tuple[str, str]:
        return text_of(request, "question"), text_of(request, "context")

    def answer(self, requests: list[tuple[str, str]]) -> list[dict]:
        questions = []
        contexts = []  # one for each question
        for number, (question, context) in enumerate(requests):
            questions.append(Question(id=str(number), text=question, context=number, answers=(), span=None))
            contexts.append(context)
        file = QuestionFile(path=None, contexts=contexts, questions=questions)
        windows = make_windows(file, self.task.tokenizer, self.task.cut)
        scores = self.predictions(self.task.encode(windows))  # `SpanScores` of each window
        answers = []
        ranked_of_requests = self.task.rank(windows, scores)
        for request, is_cut, ranked in zip(requests, windows.cut, ranked_of_requests, strict=True):
            said = remarks(self.task.tokenizer, *request, cut=is_cut)
            answers.append({**_as_json(ranked[: self.top_k]), **said})
        return answers


def _as_json(ranked: list[Answer]) -> dict[str, Any]:
    """The answer to a question from its candidates, the best one first; there may be none."""
    candidates = []
    for answer in ranked:
        span = {"text": answer.text, "start": answer.start, "end": answer.start + len(answer.text)}
        candidates.append({**span, "probability": round(answer.probability, 6)})
    if not candidates:
        return {"answer": "", "start": None, "probability": 0.0, "candidates": []}
    best = candidates[0]
    return {
        "answer": best["text"],
        "start": best["start"],
        "probability": best["probability"],
        "candidates": candidates,
    }


PLACE = "{}"  # stands in a template where the label goes
MOST_LABELS = 100  # how many labels a request to the server may have


class LabelRequest(NamedTuple):
    """A request.

    Attributes:
        hypothesis_template: a sentence with `PLACE` where a label goes.
        multi_label: whether several labels can be true.
    """

    text: str
    labels: tuple[str, ...]
    hypothesis_template: str
    multi_label: bool


class ClassifyByLabels(HeadPredictor):
    """{"text", "labels", "hypothesis_template", "multi_label"} -> {"label", "probabilities"}.

    The likeliest label is first.

    If one label is true, the probabilities are a softmax over the entailment logits of all labels. If several
    can be true, the probability of a label is a softmax over its entailment and its contradiction. That is
    also done for a single label.

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
        template = text_of(request, "hypothesis_template", optional=True) or self.options.hypothesis_template
        if template.count(PLACE) != 1:
            raise UserError(f"hypothesis_template '{template}': it needs one {PLACE}, where the label goes")
        multi_label = get_flag(request, "multi_label", self.options.multi_label)
        parsed = LabelRequest(text_of(request, "text"), parse_labels(labels), template, multi_label)
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
            Example(request.text, request.hypothesis_template.replace(PLACE, label))
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
    return request.multi_label or len(request.labels) == 1


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
