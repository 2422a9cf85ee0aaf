"""Train a classifier of few labelled texts: logistic regression on the vectors that a checkpoint makes."""

import itertools
import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F

from ernie_m.finetune.fit.folds import folds_of, single_text
from ernie_m.finetune.fit.groups import groups_of
from ernie_m.finetune.fit.scored import Scored
from ernie_m.finetune.fit.units import (
    ANSWERS,
    LABELS,
    SCORE,
    TAGS,
    TASKS,
    Classes,
    Numbers,
    SeveralLabels,
    Units,
)
from ernie_m.finetune.tasks.classification import sigmoid, softmax
from ernie_m.inference.load import LoadedModel
from ernie_m.inference.tasks import TaskOptions, make_answerer
from ernie_m.model.checkpoint.load import load_from, unread
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.checkpoint.write import model_files
from ernie_m.model.conventions import GIVEN, NEITHER, READING
from ernie_m.model.heads import SequenceClassifier
from ernie_m.model.tasks import CLASSIFICATION, EMBEDDING, MEAN_OF_TOKENS
from ernie_m.reader.files.labels import NO_LABEL, normal_label
from ernie_m.reader.files.tables import in_one_line
from ernie_m.tokenizer.tokenizer_files import write_ours
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import atomic_dir
from ernie_m.utils.logging import logger
from ernie_m.utils.options import refusal

_MOST_ITERATIONS = 100


def learn(
    loaded: LoadedModel,
    units: Classes,
    name: str,
    layer: str | int | None = None,
    folder: str | os.PathLike | None = None,
    say: Callable[[str], None] = logger.info,
) -> tuple[LoadedModel, Scored | None]:
    """Train a classifier on single texts, and score it.

    Args:
        name: of the file of the units, for warnings.
        layer: see `ernie_m.inference.tasks.TaskOptions`.
        folder: a new one, for the classifier; None: it is not saved.
        say: see `groups_of`.

    Returns:
        the classifier, and its scores, unless a label has one text.

    Raises:
        UserError: the folder exists, or as `classifier_of`.
    """
    options = TaskOptions(pooling=MEAN_OF_TOKENS, layer=layer, normalize=False, centre=False)
    encode = make_answerer(EMBEDDING, loaded, options)
    units.make_task(loaded.tokenizer, encode.max_seq_len, loaded.reading.prompt(NEITHER))
    inputs = units.inputs()
    texts = [text for (text,) in inputs]
    units.task.warn_of_texts(name, units.items)
    units.warn_of_labels(name)
    vectors = encode.vectors(texts)
    classifier = classifier_of(loaded, vectors, units, encode.layer)
    scored = None
    if units.kind == LABELS or single_text(inputs, units.labels()) is None:
        groups = groups_of(inputs, units.labels(), vectors, units.languages, units.ids, say=say)
        scored = cross_validated(vectors, groups, units)
    if folder is not None:
        save(classifier, folder, units, scored)
        classifier = replace(classifier, folder=Path(folder), is_saved=True)
    return classifier, scored


def predicted_by(classifier: LoadedModel, units: Classes, name: str) -> Scored:
    """What a classifier predicts of further rows, to be scored. `name`: that of their file."""
    answerer = make_answerer(CLASSIFICATION, classifier)
    answerer.task.warn_of_texts(name, units.items)
    units.make_task(classifier.tokenizer, classifier.longest)
    outcomes = answerer.predictions(answerer.task.encode(units.items))
    every = np.arange(len(units))
    return Scored(units, every, outcomes, every, folds=0)


def units_of(
    texts: Sequence[Any], labels: Sequence[Any], languages: Sequence[str] = (), task: str | None = None
) -> Units:
    """What a user of Python gives to learn from.

    Args:
        texts, labels, task: as of `ernie_m.interface.Model.finetune`.
        languages: the language of each text; none: they are not known.

    Raises:
        UserError: there is not one label for each text, or one of the two is not what the task needs.
    """
    if task not in (None, *TASKS):
        choices = f"one of {', '.join(TASKS)}"
        raise UserError(f"task {task!r}: {refusal(task, TASKS, choices)}")
    if len(labels) != len(texts):
        raise UserError(f"{len(texts)} texts have {len(labels)} labels; give one for each text")
    if task is None and labels and all(isinstance(label, list | tuple | set) for label in labels):
        task = TAGS if isinstance(texts[0], list) else LABELS
    for number, (text, label) in enumerate(zip(texts, labels)):
        if needed := _needed(text, label, task):
            raise UserError(f"index {number}: {text!r} with the label {label!r}: give {needed}")
    if task in (TAGS, ANSWERS):
        module = import_module(
            f"ernie_m.finetune.fit.{'tags' if task == TAGS else 'answers'}"
        )  # here, because labels do not need it
        return module.of(texts, labels, languages)
    inputs = [[text] if isinstance(text, str) else list(text) for text in texts]
    inputs = [[in_one_line(text) for text in row] for row in inputs]
    if task == SCORE:
        return Numbers.of(inputs, labels, languages=languages)
    several = task == LABELS
    names = list(map(_normal_labels, labels)) if several else _normal_labels(labels)
    flat = list(itertools.chain(*labels)) if several else labels
    # Of labels that are the same, the first one.
    given = {normal_label(str(label)): np.asarray(label).item() for label in reversed(flat)}
    if len(set(given.values())) < len(given):
        raise UserError("two labels are equal for Python, as 1 and True are; give texts")
    return (SeveralLabels if several else Classes).of(inputs, names, languages=languages, given=given)


def _needed(text: Any, label: Any, task: str | None) -> str:
    """What a task needs instead of such a text with such a label; "": the two are right.

    A label that is a class is not looked at: see `_normal_labels`.
    """
    parts = text if isinstance(text, list | tuple) else [text]
    are_texts = 1 <= len(parts) <= 2 and all(map(_is_text, parts))
    are_words = isinstance(text, list | tuple) and len(text) > 0 and all(map(_is_text, text))
    are_tags = isinstance(label, list | tuple) and len(label) == len(parts) and all(map(_is_text, label))
    is_number = isinstance(label, Real) and math.isfinite(label)
    needs = {
        TAGS: (are_words and are_tags, "a list of words, and a list with a tag for each word"),
        ANSWERS: (
            are_texts and len(parts) == 2 and _is_text(label) and label in parts[1],
            "a pair of question and context, and the answer as the context has it",
        ),
        LABELS: (
            are_texts and isinstance(label, list | tuple | set),
            "a text, or a pair of texts, and a list of labels, which may be empty",
        ),
        SCORE: (are_texts and is_number, "a text, or a pair of texts, and a finite number"),
    }
    is_right, needed = needs.get(task, (are_texts, "a text, or a pair of texts"))
    return "" if is_right else needed


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _normal_labels(labels: Sequence[Any]) -> list[str]:
    """Labels in their normal form.

    Raises:
        UserError: one is no text or number, or stands for none.
    """
    names = []
    for number, label in enumerate(labels):
        name = normal_label(str(label)) if isinstance(label, str | Real | np.bool_) else ""
        if not name or name.lower() in NO_LABEL:
            raise UserError(
                f"label {number + 1:,} (index {number}) is {label!r}; give a text, or leave its text out"
            )
        names.append(name)
    return names


def cross_validated(vectors: np.ndarray, groups: np.ndarray, units: Classes) -> Scored:
    """Predict each row by a logistic regression that was trained on the other folds.

    Args:
        vectors: the vectors of the rows, [N, H].
        groups: as for `folds_of`.
        units: the rows; each label has at least two different texts (`single_text`).
    """
    folds = folds_of(groups, units.labels())
    targets = targets_of(units)
    probabilities = np.zeros((len(units), len(units.names)))
    for fold in np.unique(folds):
        held_out = folds == fold
        weight, bias = logistic_regression(
            vectors[~held_out], targets[~held_out], several=units.kind == LABELS
        )
        # A label whose texts also have other labels may be in this fold alone. Its probability is then 0.
        known = targets[~held_out].any(axis=0)
        activation = sigmoid if units.kind == LABELS else softmax
        probabilities[np.ix_(held_out, known)] = activation((vectors[held_out] @ weight + bias)[:, known])
    return Scored(units, np.arange(len(units)), probabilities, groups, len(np.unique(folds)))


def targets_of(units: Classes) -> np.ndarray:
    """Whether each row has each label, float64 [N, C]."""
    ids = np.array([item.label for item in units.items])
    return ids.astype(float) if units.kind == LABELS else np.eye(len(units.names))[ids]


def classifier_of(loaded: LoadedModel, vectors: np.ndarray, units: Classes, layer: int) -> LoadedModel:
    """A classifier with the encoder of a checkpoint up to a layer, and a head that fits these vectors.

    Args:
        vectors: the vectors of the labelled texts at this layer, with `MEAN_OF_TOKENS`, [N, H].
        units: the labelled texts.

    Raises:
        UserError: all labels are the same, or the layer is 0.
    """
    names = list(units.names)
    if len(names) < 2 and units.kind != LABELS:
        raise UserError(f"{len(units)} texts have {len(names)} different labels; two are needed at least")
    if layer == 0 and not loaded.config.is_table:
        raise UserError("layer 0: a classifier needs a layer of the encoder, at least 1")
    config = replace(loaded.config, num_hidden_layers=layer)
    model = SequenceClassifier(config, len(names), MEAN_OF_TOKENS)
    checkpoint = open_checkpoint(loaded.folder)  # it may have more layers than a classifier that was fitted
    layers_above = range(layer, checkpoint.config.num_hidden_layers)
    ignored = ("classifier.", *(f"encoder.layers.{number}." for number in layers_above))
    load_from(model, checkpoint, ignore=(*ignored, *unread(checkpoint, reads_pooler=False)))
    weight, bias = logistic_regression(vectors, targets_of(units), several=units.kind == LABELS)
    model.classifier.weight.set_value(weight)
    model.classifier.bias.set_value(bias)
    return LoadedModel(
        folder=loaded.folder,
        task=CLASSIFICATION,
        config=config,
        tokenizer=loaded.tokenizer,
        labels=names,
        given_labels=units.kept().get(GIVEN, names),
        engine_name=loaded.engine_name,
        reading=loaded.reading.for_task(
            loaded.reading.prompt(NEITHER),
            pooling=MEAN_OF_TOKENS,
            multi_label=units.kind == LABELS,
            pairs=False,
        ),
        has_pooler=loaded.has_pooler,
        model=model.eval(),
        is_saved=False,
    )


def logistic_regression(
    vectors: np.ndarray, targets: np.ndarray, several: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Weight [H, C] and bias [C], float32, of the classes 0 to C - 1.

    They minimise the sum of the cross-entropies and half the square of the weight, as scikit-learn does by
    default, and do not depend on a seed. For two classes scikit-learn has a single vector of weights, which
    it penalises twice as much.

    Args:
        vectors: [N, H].
        targets: whether each vector is of each class, [N, C].
        several: whether a vector may be of several classes, or of none. The cross-entropy is then that of
            each class by itself, as in a logistic regression for each.
    """
    inputs = paddle.to_tensor(vectors, "float64")
    wanted = paddle.to_tensor(targets, "float64")
    weight = paddle.zeros([vectors.shape[1], targets.shape[1]], "float64")
    bias = paddle.zeros([targets.shape[1]], "float64")
    weight.stop_gradient = bias.stop_gradient = False
    optimizer = paddle.optimizer.LBFGS(
        max_iter=_MOST_ITERATIONS, line_search_fn="strong_wolfe", parameters=[weight, bias]
    )

    def loss() -> paddle.Tensor:
        optimizer.clear_grad()
        logits = inputs @ weight + bias
        if several:
            total = (F.softplus(logits) - wanted * logits).sum()
        else:
            total = F.cross_entropy(logits, wanted, soft_label=True, reduction="sum")
        # Divided by the number of the texts, so that the step that LBFGS begins with suits any number.
        value = (total + 0.5 * (weight**2).sum()) / len(targets)
        value.backward()
        return value

    with warnings.catch_warnings():
        # Paddle's optimizer copies tensors in a way that Paddle advises against.
        warnings.simplefilter("ignore")
        optimizer.step(loss)
    return weight.numpy().astype(np.float32), bias.numpy().astype(np.float32)


def save(
    classifier: LoadedModel,
    folder: str | os.PathLike,
    units: Classes,
    scored: Scored | None = None,
) -> None:
    """Write a classifier to a new folder.

    Args:
        units: the labelled texts that it was trained on.
        scored: its scores, which config.json keeps.

    Raises:
        UserError: there is something of that name, or it cannot be written.
    """
    if Path(folder).exists():
        raise UserError(f"{folder}: it exists already; name a new folder")
    settings = {"task": CLASSIFICATION, "labels": classifier.labels, READING: classifier.reading.to_json()}
    settings |= units.kept()
    if scored is not None:
        settings |= scored.kept()
    facts = {
        "name": f"ERNIE-M, {CLASSIFICATION}",
        "task": CLASSIFICATION,
        "initialised_from": str(classifier.folder),
        "trained_on": f"{len(units)} texts, logistic regression on their vectors",
    }
    start = open_checkpoint(classifier.folder)
    leave_out = unread(start, reads_pooler=False)
    files = model_files(
        classifier.model, classifier.config, settings=settings, facts=facts, leave_out=leave_out
    )
    with atomic_dir(folder) as new:
        write_ours(new, classifier.tokenizer)
        files.write(new)
