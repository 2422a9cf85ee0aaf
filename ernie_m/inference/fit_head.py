"""Train a classifier of few labelled texts: logistic regression on the vectors that a checkpoint makes."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F

from ernie_m.finetune.fit.folds import FOLDS, Scored, folds_of
from ernie_m.finetune.tasks.classification import softmax
from ernie_m.inference.load import LoadedModel
from ernie_m.model.checkpoint.load import load_from
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.checkpoint.write import model_files
from ernie_m.model.conventions import NEITHER, READING
from ernie_m.model.heads import SequenceClassifier
from ernie_m.model.tasks import CLASSIFICATION, MEAN_OF_TOKENS
from ernie_m.reader.files.labels import NO_LABEL, input_hash, normal_label
from ernie_m.reader.files.table.check_labels import check_labels
from ernie_m.tokenizer.tokenizer_files import write_ours
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import atomic_dir
from ernie_m.utils.logging import logger

_MOST_ITERATIONS = 100


def checked_labels(texts: Sequence[Any], labels: Sequence[Any]) -> list[str]:
    """The labels in their normal form. Warns of what is odd about them.

    Raises:
        UserError: as for `normal_labels`.
    """
    names = normal_labels(texts, labels)
    inputs = (input_hash(str(text)) for text in texts)
    for fault in check_labels(inputs, [[name] for name in names], range(len(names)), "index"):
        logger.warning("fit: %s", fault)
    return names


def normal_labels(texts: Sequence[Any], labels: Sequence[Any]) -> list[str]:
    """The labels in their normal form.

    Raises:
        UserError: there is not one for each text, or a label is no text or number, or stands for none.
    """
    names = []
    for number, label in enumerate(labels):
        name = normal_label(str(label)) if isinstance(label, str | Real | np.bool_) else ""
        if not name or name.lower() in NO_LABEL:
            raise UserError(
                f"label {number + 1:,} (index {number}) is {label!r}; give a text, or leave its text out"
            )
        names.append(name)
    if len(names) != len(texts):
        raise UserError(f"{len(texts)} texts have {len(names)} labels; give one for each text")
    return names


def cross_validated(vectors: np.ndarray, groups: np.ndarray, labels: Sequence[str]) -> Scored:
    """Predict each row by a logistic regression that was trained on the other folds.

    Args:
        vectors: the vectors of the rows, [N, H].
        groups, labels: as for `folds_of`; each label has at least two different texts (`single_text`).
    """
    names = sorted(set(labels))
    ids = np.array([names.index(label) for label in labels])
    folds = folds_of(groups, labels)
    probabilities = np.zeros((len(labels), len(names)))
    for fold in np.unique(folds):
        held_out = folds == fold
        weight, bias = logistic_regression(vectors[~held_out], ids[~held_out])
        # A label whose texts also have other labels may be in this fold alone. If it is one of the last
        # labels, the weight has no column for it.
        probabilities[held_out, : weight.shape[1]] = softmax(vectors[held_out] @ weight + bias)
    return Scored.of(probabilities, labels, groups, names, FOLDS)


def classifier_of(loaded: LoadedModel, vectors: np.ndarray, labels: Sequence[str], layer: int) -> LoadedModel:
    """A classifier with the encoder of a checkpoint up to a layer, and a head that fits these vectors.

    Args:
        vectors: the vectors of the labelled texts at this layer, with `MEAN_OF_TOKENS`, [N, H].
        labels: the label of each text.

    Raises:
        UserError: all labels are the same, or the layer is 0.
    """
    names = sorted(set(labels))
    if len(names) < 2:
        raise UserError(f"{len(labels)} texts have {len(names)} different labels; two are needed at least")
    if layer == 0 and not loaded.config.is_table:
        raise UserError("layer 0: a classifier needs a layer of the encoder, at least 1")
    config = replace(loaded.config, num_hidden_layers=layer)
    model = SequenceClassifier(config, len(names), MEAN_OF_TOKENS)
    checkpoint = open_checkpoint(loaded.folder)  # it may have more layers than a classifier that was fitted
    layers_above = range(layer, checkpoint.config.num_hidden_layers)
    ignored = ("classifier.", *(f"encoder.layers.{number}." for number in layers_above))
    if not loaded.has_pooler:  # and the mean of the tokens needs none
        ignored += ("pooler.",)
    load_from(model, checkpoint, ignore=ignored)
    weight, bias = logistic_regression(vectors, np.array([names.index(label) for label in labels]))
    model.classifier.weight.set_value(weight)
    model.classifier.bias.set_value(bias)
    return LoadedModel(
        folder=loaded.folder,
        task=CLASSIFICATION,
        config=config,
        tokenizer=loaded.tokenizer,
        labels=names,
        engine_name=loaded.engine_name,
        reading=loaded.reading.for_task(loaded.reading.prompt(NEITHER), pooling=MEAN_OF_TOKENS),
        has_pooler=loaded.has_pooler,
        model=model.eval(),
    )


def logistic_regression(vectors: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weight [H, C] and bias [C], float32, of the classes 0 to C - 1.

    They minimise the sum of the cross-entropies and half the square of the weight, as scikit-learn does by
    default, and do not depend on a seed. For two classes scikit-learn has a single vector of weights, which
    it penalises twice as much.

    Args:
        vectors: [N, H].
        ids: the number of the class of each vector, int64 [N].
    """
    inputs = paddle.to_tensor(vectors, "float64")
    targets = paddle.to_tensor(ids)
    classes = int(ids.max()) + 1
    weight = paddle.zeros([vectors.shape[1], classes], "float64")
    bias = paddle.zeros([classes], "float64")
    weight.stop_gradient = bias.stop_gradient = False
    optimizer = paddle.optimizer.LBFGS(
        max_iter=_MOST_ITERATIONS, line_search_fn="strong_wolfe", parameters=[weight, bias]
    )

    def loss() -> paddle.Tensor:
        optimizer.clear_grad()
        penalty = 0.5 * (weight**2).sum()
        # cross_entropy is a mean over the texts, so the penalty is divided by their number too.
        value = F.cross_entropy(inputs @ weight + bias, targets) + penalty / len(ids)
        value.backward()
        return value

    with warnings.catch_warnings():
        # Paddle's optimizer copies tensors in a way that Paddle advises against.
        warnings.simplefilter("ignore")
        optimizer.step(loss)
    return weight.numpy().astype(np.float32), bias.numpy().astype(np.float32)


def save(classifier: LoadedModel, folder: str | os.PathLike, rows: int) -> None:
    """Write a classifier to a new folder.

    Args:
        rows: how many texts it was trained on, for the model card.

    Raises:
        UserError: there is something of that name, or it cannot be written.
    """
    if Path(folder).exists():
        raise UserError(f"{folder}: it exists already; name a new folder")
    settings = {"task": CLASSIFICATION, "labels": classifier.labels, READING: classifier.reading.to_json()}
    facts = {
        "name": f"ERNIE-M, {CLASSIFICATION}",
        "task": CLASSIFICATION,
        "initialised_from": str(classifier.folder),
        "trained_on": f"{rows} texts, logistic regression on their vectors",
    }
    leave_out = () if classifier.has_pooler else ("pooler.",)  # a fresh pooler is random, so it is not saved
    files = model_files(
        classifier.model, classifier.config, settings=settings, facts=facts, leave_out=leave_out
    )
    with atomic_dir(folder) as new:
        write_ours(new, classifier.tokenizer)
        files.write(new)
