"""A model that has learned rows with labels: a head on vectors that stay as they are, or the whole model.

The head is scikit-learn's logistic regression. The whole model is trained by the loop of run_classifier, once
without a fifth of the rows, which are then scored, and once with all. No step is selected, and rates and
epochs follow from the start and the number of all rows. Until the output is there, both trainings are in
<output>.training, where a later call goes on.
"""

import gc
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from ernie_m.finetune.command import pace_of
from ernie_m.finetune.flags import FinetuneFlags
from ernie_m.finetune.labelled_task import KEPT, FineTuning
from ernie_m.finetune.open_model import OpenedModel, open_model, settle
from ernie_m.finetune.own_labels import MANY_TWINS, Rows
from ernie_m.finetune.own_scores import Scored
from ernie_m.finetune.prediction import LanguageFile, predict_files
from ernie_m.finetune.tasks.classification import sigmoid, softmax
from ernie_m.inference.load import LoadedModel, load
from ernie_m.inference.tasks import PredictionOptions, make_answerer
from ernie_m.model.checkpoint.load import load_from, unread
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.checkpoint.write import model_files
from ernie_m.model.conventions import GIVEN, NEITHER, READING
from ernie_m.model.heads import SequenceClassifier
from ernie_m.model.tasks import CLASSIFICATION, EMBEDDING, MEAN_OF_TOKENS, MULTI_LABEL
from ernie_m.tokenizer.tokenizer_files import write_ours
from ernie_m.training import distributed
from ernie_m.training.run import Trainer
from ernie_m.training.run_folder import FolderRules, RunFolder
from ernie_m.training.stop_requests import StopSignal
from ernie_m.utils.errors import UserError
from ernie_m.utils.files import atomic_dir, remove
from ernie_m.utils.logging import logger

_LONGEST = 256  # tokens of a text, or of a pair, that a whole model learns
_SURE = 20.0  # the logit of a label that every row has; less, that of one that none has
_SEED = 1


def fit_model(
    loaded: LoadedModel,
    rows: Rows,
    output: Path | None,
    whole: bool = False,
    layer: str | int | None = None,
    name: str = "fit",
    stop: StopSignal | None = None,
) -> tuple[LoadedModel, Scored | None] | None:
    """Learn from rows, and write the model to a new folder; None: it is not written.

    Args:
        whole: whether the whole model is trained; always, if the rows are pairs or have numbers.
        layer: that of the vectors; see `PredictionOptions`.
        name: what has the rows, for warnings.
        stop: tells whether the process was asked to stop.

    Returns:
        the model, and what models that had not learned a row answer to it, None if that cannot be scored
        (`Rows.faults`); None alone: the process shall stop.

    Raises:
        UserError: the model was exported, or there is no folder for a whole model.
    """
    whole = whole or rows.needs_whole_model
    if loaded.model is None:
        raise UserError(f"{loaded.folder}: it was exported; fit learns from the checkpoint")
    if whole and (output is None or layer is not None):
        raise UserError(
            "a whole model is trained, in a folder and with all layers: give a folder, and no layer"
        )
    options = PredictionOptions(pooling=MEAN_OF_TOKENS, layer=layer, normalize=False, centre=False)
    encode = make_answerer(EMBEDDING, loaded, options)
    limit = min(_LONGEST, loaded.longest) if whole else encode.max_seq_len
    prompt = "" if whole else loaded.reading.prompt(NEITHER)
    rows.task(loaded.tokenizer, limit, prompt).warn_of_texts(name, rows.examples)
    vectors = encode.vectors([" ".join(filter(None, example[:2])) for example in rows.examples])
    if len(np.unique(rows.languages)) > 1:
        rows = rows.with_translations(vectors)
    elif not rows.are_pairs and (share := rows.twins(vectors)) > MANY_TWINS:
        logger.warning(
            "%s: %.0f %% of the texts are near another one; if they are translations or copies, the score is "
            "too high: give --language or --group",
            name,
            100 * share,
        )
    if whole:
        stop = StopSignal(active=False) if stop is None else stop
        return _fit_whole(loaded, rows, output, name, stop)
    scored = None if rows.faults() else Scored(rows, _held_out_answers(vectors, rows))
    classifier = _classifier_of(loaded, rows, *_head(vectors, rows), encode.layer)
    if output is not None:
        _save(classifier, rows, output)
        classifier = load(output)
    return classifier, scored


def scored_by(loaded: LoadedModel, rows: Rows, name: str) -> Scored:
    """What a model answers to rows. `name`: what has them."""
    answerer = make_answerer(CLASSIFICATION, loaded)
    answerer.task.warn_of_texts(name, rows.examples)
    return Scored(rows, np.array(answerer.predictions(answerer.task.encode(rows.examples))))


def _held_out_answers(vectors: np.ndarray, rows: Rows) -> np.ndarray:
    """The probabilities of each row by a head that learned the other parts, [N, C]."""
    outcomes = np.zeros((len(vectors), len(rows.names)))
    for part in rows.parts():
        others = np.setdiff1d(np.arange(len(vectors)), part)
        weight, bias = _head(vectors[others], rows.some(others))
        outcomes[part] = (sigmoid if rows.kind == MULTI_LABEL else softmax)(vectors[part] @ weight + bias)
    return outcomes


def _head(vectors: np.ndarray, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Weight [H, C] and bias [C], float32, of a logistic regression on vectors [N, H].

    A label that every row has, or none, is predicted always, or never.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    targets = rows.targets
    has_label = targets if rows.kind == MULTI_LABEL else np.eye(len(rows.names), dtype=int)[targets]  # [N, C]
    weight = np.zeros((vectors.shape[1], len(rows.names)), np.float32)
    bias = np.where(has_label.all(axis=0), _SURE, -_SURE).astype(np.float32)
    regression = LogisticRegression(max_iter=1000)
    known = np.flatnonzero(has_label.any(axis=0) & ~has_label.all(axis=0))
    with threadpool_limits(1, user_api="blas"):  # threads that wait for each other take longer than one
        if rows.kind == MULTI_LABEL:
            for label in known:
                regression.fit(vectors, targets[:, label])
                weight[:, label], bias[label] = regression.coef_[0], regression.intercept_[0]
        elif len(known):
            regression.fit(vectors, targets)
            coefficients, intercepts = regression.coef_, regression.intercept_  # [C, H] and [C]
            if len(known) == 2:  # it has the difference of the two
                coefficients = np.concatenate([-coefficients, coefficients]) / 2
                intercepts = np.concatenate([-intercepts, intercepts]) / 2
            weight[:, known], bias[known] = coefficients.T, intercepts
    return weight, bias


def _classifier_of(
    loaded: LoadedModel, rows: Rows, weight: np.ndarray, bias: np.ndarray, layer: int
) -> LoadedModel:
    """A classifier with the encoder of a checkpoint up to a layer, and a head.

    Raises:
        UserError: the layer is 0.
    """
    if layer == 0 and not loaded.config.is_static:
        raise UserError("layer 0: a classifier needs a layer of the encoder, at least 1")
    config = replace(loaded.config, num_hidden_layers=layer)
    model = SequenceClassifier(config, len(rows.names), MEAN_OF_TOKENS)
    checkpoint = open_checkpoint(loaded.folder)  # it may have more layers than a classifier that was fitted
    above = [f"encoder.layers.{number}." for number in range(layer, checkpoint.config.num_hidden_layers)]
    load_from(model, checkpoint, ignore=("classifier.", *above, *unread(checkpoint, reads_pooler=False)))
    model.classifier.weight.set_value(weight)
    model.classifier.bias.set_value(bias)
    prompt = loaded.reading.prompt(NEITHER)
    several = rows.kind == MULTI_LABEL
    return LoadedModel(
        folder=loaded.folder,
        task=CLASSIFICATION,
        config=config,
        tokenizer=loaded.tokenizer,
        labels=rows.names,
        given_labels=rows.kept().get(GIVEN, rows.names),
        engine_name=loaded.engine_name,
        reading=loaded.reading.for_task(prompt, pooling=MEAN_OF_TOKENS, multi_label=several, pairs=False),
        has_pooler=loaded.has_pooler,
        model=model.eval(),
        is_saved=False,
    )


def _save(classifier: LoadedModel, rows: Rows, output: Path) -> None:
    """Write a classifier to a new folder."""
    settings = {"task": CLASSIFICATION, "labels": classifier.labels, READING: classifier.reading.to_json()}
    facts = {
        "name": f"ERNIE-M, {CLASSIFICATION}",
        "task": CLASSIFICATION,
        "initialised_from": str(classifier.folder),
        "trained_on": f"{len(rows.examples)} texts, logistic regression on their vectors",
    }
    files = model_files(
        classifier.model,
        classifier.config,
        settings=settings | rows.kept(),
        facts=facts,
        leave_out=unread(open_checkpoint(classifier.folder), reads_pooler=False),
    )
    with atomic_dir(output) as new:
        write_ours(new, classifier.tokenizer)
        files.write(new)


class _Training(FineTuning):
    """A training on rows."""

    record = None  # nobody looks at its curves
    reads_head = False  # that of the start may have learned from what is scored


def _fit_whole(
    loaded: LoadedModel, rows: Rows, output: Path, name: str, stop: StopSignal
) -> tuple[LoadedModel, Scored | None] | None:
    """Train the whole model without the first part of the rows, which it then answers, and with all."""
    distributed.init()
    opened = open_model(open_checkpoint(loaded.folder))
    flags = FinetuneFlags(
        init_pretraining_params=str(loaded.folder),
        train_set=name,
        max_seq_len=min(_LONGEST, opened.longest),
        on_command_line=("max_seq_len",),
        amp=loaded.amp,
        do_val=False,
        do_test=False,
        rates_of_start=True,
        save_steps=200,
        skip_steps=25,
        keep_checkpoints=1,
    )
    flags = settle(flags, opened, KEPT)
    # Both trainings have the rate, the decay and the epochs of the one on all rows.
    task = rows.task(opened.tokenizer, flags.max_seq_len)
    flags = replace(_Training(task, flags, opened, rows.examples).flags, rates_of_start=False)
    folder = output.with_name(f"{output.name}.training")
    scored = None
    if not rows.faults():
        held_out = rows.parts()[0]
        learned = rows.some(np.setdiff1d(np.arange(len(rows.examples)), held_out))
        logger.info("a training without %d rows, which are scored, and one with all", len(held_out))
        trainer = _train(folder / "scores", flags, opened, learned, stop)
        if trainer is None:
            return None
        scored_rows = rows.some(held_out)
        file = LanguageFile("", "", output, scored_rows.examples)
        predicted = predict_files(task, trainer.engine, [file], flags, labelled=False, stop=stop)
        if predicted is None:
            return None
        scored = Scored(scored_rows, np.array(predicted[0].predictions))
        del trainer
        gc.collect()  # the model and its optimizer
    trainer = _train(folder / "all", flags, opened, rows, stop)
    if trainer is None:
        return None
    files = trainer.task.files(trainer.engine, trainer.engine.masters(), None)
    with atomic_dir(output) as new:
        replace(files, config_json={**files.config_json, **rows.kept()}).write(new)
    remove(folder)
    return load(output, amp=loaded.amp), scored


def _train(
    folder: Path, flags: FinetuneFlags, opened: OpenedModel, rows: Rows, stop: StopSignal
) -> Trainer | None:
    """Train on rows by the loop of run_classifier, in a folder where it goes on. None: it shall stop."""
    rules = FolderRules(ways_out=lambda _: f"delete {folder.parent}", contents=())
    run = RunFolder(folder, rules, flags.keep_checkpoints)
    with run.locked():
        task = rows.task(opened.tokenizer, flags.max_seq_len)
        training = _Training(task, flags, opened, rows.examples)
        content = repr((rows.kind, rows.examples)).encode("utf-8", "surrogatepass")
        training.identity = {**training.identity, "rows": hashlib.sha256(content).hexdigest()}
        trainer = Trainer(training, run, _SEED, pace_of(flags))
        return trainer if trainer.run(stop) else None
