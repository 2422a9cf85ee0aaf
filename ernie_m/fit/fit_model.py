"""Training of classifiers on labeled rows: a linear head on frozen embeddings, or full fine-tuning.

The head is a logistic regression of scikit-learn. `ernie_m.fit.whole_model` fine-tunes all weights.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from ernie_m.finetune.classifier import sigmoid, softmax
from ernie_m.fit.labeled_rows import LabeledDataset
from ernie_m.fit.scores import EvaluationResult
from ernie_m.fit.split_rows import (
    MANY_NEAR_DUPLICATES,
    estimate_near_duplicate_share,
    group_translations,
    split_rows,
)
from ernie_m.inference.load import LoadedModel, load
from ernie_m.inference.prediction_options import PredictionOptions
from ernie_m.inference.tasks.predictors import make_predictor
from ernie_m.model.checkpoint.native_names import encoder_shapes
from ernie_m.model.checkpoint.weights import Weights
from ernie_m.model.checkpoint.write import make_model_files
from ernie_m.model.open_model import OpenedModel
from ernie_m.model.pipeline_config import MEAN_OF_TOKENS, NEITHER, PIPELINE, get_stored_pipeline_config
from ernie_m.model.tasks import CLASSIFICATION, EMBEDDING, MULTI_LABEL, TASKS
from ernie_m.reader.text_featurizer import UNKNOWN
from ernie_m.reader.write_tokenizer import write_native
from ernie_m.training.stop_requests import ShutdownHandler
from ernie_m.utils.errors import UserError, join_items
from ernie_m.utils.files import atomic_dir
from ernie_m.utils.logging import logger
from ernie_m.utils.paddle_settings import prepare

_LONGEST = 256  # maximum length in tokens of a text or pair in fine-tuning
_SURE = 20.0  # logit of a label that every row has; negative for a label that no row has


def fit_model(
    loaded: LoadedModel,
    rows: LabeledDataset,
    output: Path | None,
    finetunes_all_weights: bool = False,
    layer: str | int | None = None,
    name: str = "fit",
    stop: ShutdownHandler | None = None,
) -> tuple[LoadedModel, EvaluationResult | None] | None:
    """Train a classifier or regression model on labeled rows, and evaluate it on held-out rows.

    Args:
        loaded: the embedding model to train on.
        output: the new directory of the trained model; None: do not save it.
        finetunes_all_weights: whether to fine-tune all weights; always done for pairs and for regression.
        layer: the layer of the embeddings; see `PredictionOptions`.
        name: the source of the rows, for warnings.
        stop: is true after a stop request.

    Returns:
        The trained model, and the predictions for held-out rows, which are None if the rows cannot be split
        (`LabeledDataset.find_split_errors`). After a stop request, a single None.

    Raises:
        UserError: the model is an export, or fine-tuning has no output directory.
    """
    finetunes_all_weights = finetunes_all_weights or rows.needs_finetuning
    if loaded.exported_layer is not None:
        raise UserError(f"{loaded.folder} is an export. Use the checkpoint it was made from")
    if finetunes_all_weights and (output is None or layer is not None):
        raise UserError(
            "full fine-tuning requires an output folder and all layers. Set a folder, and no layer"
        )
    dropped = [label for label in loaded.labels if label not in rows.names]
    if 0 < len(dropped) < len(loaded.labels):  # with none in common, it is of another task
        logger.warning(
            "%s: no rows with %s of %s; the new model will not predict them. To keep them, add rows",
            name,
            join_items(dropped),
            loaded.folder,
        )
    options = PredictionOptions(
        pooling=MEAN_OF_TOKENS,
        layer=layer,
        normalize=False,
        center_by_language=False,
        prompt=loaded.pipeline_config.default_prompt or "",
    )
    encode = make_predictor(EMBEDDING, loaded, options)
    limit = min(_LONGEST, loaded.max_length) if finetunes_all_weights else encode.max_seq_len
    prompt = "" if finetunes_all_weights else loaded.pipeline_config.get_prompt(NEITHER)
    rows.make_task(loaded.tokenizer, limit, prompt).warn_if_truncated(name, rows.examples)
    embeddings = encode.encode_texts([" ".join(filter(None, example[:2])) for example in rows.examples])
    if len(np.unique(rows.languages)) > 1:
        rows = rows._replace(groups=group_translations(rows.groups, rows.languages, embeddings))
    elif (
        not rows.are_pairs
        and (share := estimate_near_duplicate_share(rows.groups, embeddings)) > MANY_NEAR_DUPLICATES
    ):
        logger.warning(
            "%s: %.0f %% of the texts are near-duplicates; scores may be inflated by leakage. "
            "Set --group or --language",
            name,
            100 * share,
        )
    if finetunes_all_weights:
        prepare()
        from ernie_m.fit.whole_model import finetune_model  # imported here, because it imports Paddle

        stop = ShutdownHandler(is_active=False) if stop is None else stop
        return finetune_model(loaded, rows, output, limit, name, stop)
    scored = None if rows.find_split_errors() else _cross_validate(embeddings, rows)
    fitted = _build_classifier(loaded, rows, *_fit_head(embeddings, rows), encode.layer)
    if output is None:
        return loaded.share_encoder(fitted), scored
    _save(fitted, rows, output)
    return load(output, engine=loaded.engine_name), scored


def evaluate_labels(loaded: LoadedModel, rows: LabeledDataset, name: str) -> EvaluationResult:
    """Predict labeled rows with a classifier, for its evaluation.

    Args:
        name: the source of the rows, for warnings.
    """
    predictor = make_predictor(CLASSIFICATION, loaded)
    predictor.task.warn_if_truncated(name, rows.examples)
    return EvaluationResult(rows, np.array(predictor.predict_features(predictor.task.encode(rows.examples))))


def _cross_validate(vectors: np.ndarray, rows: LabeledDataset) -> EvaluationResult:
    """Return cross-validated probabilities: each row is predicted by a head trained on the other folds.

    Args:
        vectors: the embedding of each row, float32 [N, H].
    """
    outcomes = np.zeros((len(vectors), len(rows.names)))
    parts = split_rows(rows.kind, rows.targets, rows.groups)
    for part in parts:
        others = np.setdiff1d(np.arange(len(vectors)), part)
        weight, bias = _fit_head(vectors[others], rows.select_rows(others))
        outcomes[part] = (sigmoid if rows.kind == MULTI_LABEL else softmax)(vectors[part] @ weight + bias)
    groups = len(np.unique(rows.groups))  # duplicates and translations are in one fold
    return EvaluationResult(rows, outcomes, f"{len(parts)}-fold cross-validation over {groups:,} groups")


def _fit_head(vectors: np.ndarray, rows: LabeledDataset) -> tuple[np.ndarray, np.ndarray]:
    """Fit a logistic regression on embeddings, and return its weight [H, C] and bias [C], float32.

    A label that all rows have is always predicted, and a label without rows never. For each label of a
    multi-label dataset, rows are left out if it is unknown whether they have it.

    Args:
        vectors: the embedding of each row, float32 [N, H].
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    targets = rows.targets
    marks = targets if rows.kind == MULTI_LABEL else np.eye(len(rows.names), dtype=int)[targets]  # [N, C]
    has_some, lacks_some = (marks == 1).any(axis=0), (marks == 0).any(axis=0)
    weight = np.zeros((vectors.shape[1], len(rows.names)), np.float32)
    bias = np.where(has_some & ~lacks_some, _SURE, -_SURE).astype(np.float32)
    regression = LogisticRegression(max_iter=1000)
    known = np.flatnonzero(has_some & lacks_some)
    with threadpool_limits(1, user_api="blas"):  # several threads are slower than one here
        if rows.kind == MULTI_LABEL:
            for label in known:
                is_known = targets[:, label] != UNKNOWN
                regression.fit(vectors[is_known], targets[is_known, label])
                weight[:, label], bias[label] = regression.coef_[0], regression.intercept_[0]
        elif len(known):
            regression.fit(vectors, targets)
            coefficients, intercepts = regression.coef_, regression.intercept_  # [C, H] and [C]
            if len(known) == 2:  # binary: scikit-learn stores the difference of the two
                coefficients = np.concatenate([-coefficients, coefficients]) / 2
                intercepts = np.concatenate([-intercepts, intercepts]) / 2
            weight[:, known], bias[known] = coefficients.T, intercepts
    return weight, bias


def _build_classifier(
    loaded: LoadedModel, rows: LabeledDataset, weight: np.ndarray, bias: np.ndarray, layer: int
) -> OpenedModel:
    """Build a classifier from the encoder of a checkpoint up to a layer, and a linear head.

    Args:
        weight, bias: the head, float32 [H, C] and [C].
        layer: the last encoder layer to keep.

    Raises:
        UserError: the layer is 0.
    """
    if layer == 0 and not loaded.config.is_static:
        raise UserError("invalid layer 0 (expected an encoder layer, at least 1)")
    config = replace(loaded.config, num_hidden_layers=layer)
    checkpoint = loaded.reopen_checkpoint()  # it may have more layers than a classifier from `fit`
    tensors = checkpoint.tensors
    head = {"classifier.weight": weight, "classifier.bias": bias}
    shapes = {name: tensors.shape(name) for name in encoder_shapes(config) if name in tensors}
    shapes |= {name: array.shape for name, array in head.items()}

    def fetch(name: str) -> np.ndarray:
        return head[name] if name in head else tensors[name]

    prompt = loaded.pipeline_config.get_prompt(NEITHER)
    several = rows.kind == MULTI_LABEL
    fitted = replace(
        checkpoint,
        tensors=Weights(tensors.source, shapes, fetch),
        config=config,
        task=CLASSIFICATION,
        labels=rows.names,
        settings=rows.to_settings(),
        pipeline_config=loaded.pipeline_config.adapt_for_task(
            prompt, pooling=MEAN_OF_TOKENS, multi_label=several, pairs=False
        ),
    )
    return OpenedModel(fitted, config, loaded.tokenizer, loaded.folder)


def _save(fitted: OpenedModel, rows: LabeledDataset, output: Path) -> None:
    """Save a classifier to a new directory."""
    settings = {
        "task": CLASSIFICATION,
        "labels": rows.names,
        PIPELINE: get_stored_pipeline_config(fitted.pipeline_config),
    }
    facts = {
        "name": f"ERNIE-M, {CLASSIFICATION}",
        "task": CLASSIFICATION,
        "initialized_from": str(fitted.source),
        "trained_on": f"{len(rows.examples)} texts, logistic regression on their vectors",
    }
    weights = {name: np.asarray(array, np.float32) for name, array in fitted.checkpoint.tensors.items()}
    architecture = TASKS[CLASSIFICATION].model_class
    files = make_model_files(weights, fitted.config, architecture, settings | rows.to_settings(), facts)
    with atomic_dir(output) as new:
        write_native(new, fitted.tokenizer)
        files.write(new)
