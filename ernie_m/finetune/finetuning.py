"""Fine-tuning on labeled files: setup of a task, reading of its files, and its training run."""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from ernie_m.finetune.custom_metric import load_metric
from ernie_m.finetune.evaluate import LanguageFile, evaluate_files
from ernie_m.finetune.finetune_args import LAST, MEAN, FinetuneFlags
from ernie_m.finetune.finetuning_task import FinetuningTask
from ernie_m.finetune.run_setup import (
    MultiSeedTraining,
    digest_files,
    format_official_line,
    make_engine,
    make_fingerprint,
    open_resumed_checkpoint,
)
from ernie_m.finetune.score_tables import average
from ernie_m.model.checkpoint.check_weights import list_unused_parts
from ernie_m.model.checkpoint.convert_names import CHOICE
from ernie_m.model.checkpoint.load import load_weights
from ernie_m.model.checkpoint.open import Checkpoint
from ernie_m.model.checkpoint.weights import Weights
from ernie_m.model.checkpoint.write import ModelFiles
from ernie_m.model.heads import make_model_with_head
from ernie_m.model.kernel_selection import get_services
from ernie_m.model.open_model import OpenedModel
from ernie_m.model.optimization import noam_decay
from ernie_m.model.packed_batch import LabeledBatch
from ernie_m.model.pipeline_config import MEAN_OF_TOKENS, NEITHER, PIPELINE, get_stored_pipeline_config
from ernie_m.model.tasks import (
    CLASSIFICATION,
    POOLED,
    QUESTION_ANSWERING,
    TASKS,
    TOKEN_CLASSIFICATION,
    get_stored_name,
    make_default_label_names,
)
from ernie_m.reader.batching import Batches, GlobalBatch
from ernie_m.reader.labels import expand_patterns, find_label_issues, read_languages
from ernie_m.training import distributed
from ernie_m.training.engine import Engine
from ernie_m.training.log import Evaluation, Interval
from ernie_m.training.precision import LOSS_SCALING
from ernie_m.training.stop_requests import ShutdownHandler
from ernie_m.training.trainer import EvaluationSteps
from ernie_m.utils.errors import UserError, join_items
from ernie_m.utils.logging import logger

# The flags that `get_pipeline_settings` of the tasks records in config.json.
RECORDED = (
    "max_seq_len",
    "label_pieces",
    "max_query_length",
    "doc_stride",
    "split_han",
    "chunk_scheme",
    "max_answer_length",
)
# The flags of `RECORDED` that training takes from the initial checkpoint.
KEPT = {CLASSIFICATION: (), TOKEN_CLASSIFICATION: ("label_pieces",), QUESTION_ANSWERING: ("split_han",)}
# --official_compat -> its description in the log.
PROCEDURES = {
    True: "labels, loss, windows and scores as in the official code; for custom data add "
    "--official_compat false",
    False: "labels, loss, windows and scores as in this project; to compare with the paper add "
    "--official_compat true",
}


def make_task(
    task_class: type[FinetuningTask],
    official_class: type[FinetuningTask] | None,
    flags: FinetuneFlags,
    opened: OpenedModel,
) -> FinetuningTask:
    """Create the task for the flags of a command.

    Args:
        task_class, official_class: see `run_finetuning`.
        flags: the flags after `apply_model_defaults`.
        opened: the initial model.

    Raises:
        UserError: a flag contradicts the model or another flag.
    """
    if official_class:
        logger.info("official_compat %s: %s", flags.official_compat, PROCEDURES[flags.official_compat])
        if flags.official_compat:
            task_class = official_class
        elif flags.paper:
            logger.warning("--paper %s ignored: its scores require --official_compat true", flags.paper)
    if flags.in_tokens and flags.batch_size < flags.max_seq_len:
        raise UserError(
            f"--batch_size {flags.batch_size}: with --in_tokens true, expected at "
            f"least --max_seq_len {flags.max_seq_len}"
        )
    return task_class.from_flags(flags, opened.tokenizer, opened.checkpoint)


def check_head(task: FinetuningTask, checkpoint: Checkpoint, label_map: str | None) -> Checkpoint:
    """Check that --init_checkpoint was fine-tuned for the task, and return its checkpoint.

    Args:
        label_map: the value of --label_map_config; None: the task has the labels of the checkpoint.

    Raises:
        UserError: the head or the labels do not match the task; see `find_head_error`.
    """
    if error := find_head_error(task, checkpoint):
        raise UserError(
            f"{checkpoint.path}: {error}. To train from its encoder, pass it as --init_pretraining_params"
        )
    labels = task.labels or []
    if label_map and _are_label_names(checkpoint.labels) and checkpoint.labels != labels:
        raise UserError(
            f"{label_map}: labels {', '.join(labels)} do not match those of {checkpoint.path}: "
            f"{', '.join(checkpoint.labels)}. Use the label map it was trained with"
        )
    if label_map and not _are_label_names(checkpoint.labels):
        names = ", ".join(f"{number}: {label}" for number, label in enumerate(labels))
        logger.warning("%s: no label names; %s assigns %s", checkpoint.path, label_map, names)
    return checkpoint


def find_head_error(task: FinetuningTask, checkpoint: Checkpoint) -> str:
    """Return the reason why a checkpoint has no usable classifier for a task; "" if it has one."""
    # A multiple-choice head has one output, as a regression head has.
    head_task = CLASSIFICATION if checkpoint.task == CHOICE else checkpoint.task
    if head_task not in (None, task.name):
        return f"its head is for {head_task}, not {task.name}"
    if checkpoint.pipeline_config.regression and not task.get_pipeline_settings().get("regression"):
        return "it is a regression model (--is_regression true)"
    if "classifier.weight" not in checkpoint.tensors:
        return "not fine-tuned (it has no classifier)"
    several = checkpoint.pipeline_config.multi_label
    if several != task.get_pipeline_settings().get("multi_label", False):
        kind = "multi-label" if several else "single-label"
        return f"it is a {kind} classifier of ernie-m fit"
    return ""


def _are_label_names(labels: Sequence[str]) -> bool:
    """Return whether the labels of a checkpoint are names, not ids (training without a label map)."""
    return labels not in ([], make_default_label_names(len(labels)))


def find_fine_tuned(task: FinetuningTask, start: Checkpoint | None) -> Checkpoint | None:
    """Return the checkpoint of --init_pretraining_params if its classifier matches the task, and log this.

    The official function loads every parameter with a matching name. Here, the classifier must also have the
    labels of the task, in any order.

    Returns:
        The checkpoint, with the outputs of its classifier in the order of the task's labels; None if the
        classifier is missing or does not match.
    """
    if start is None or "classifier.weight" not in start.tensors:
        return None
    tensors = start.tensors
    labels = task.labels or ["start", "end"]
    names = start.labels if _are_label_names(start.labels) and _are_label_names(labels) else labels
    error = find_head_error(task, start)
    if not error and (
        len(labels) != tensors.shape("classifier.weight")[-1] or sorted(names) != sorted(labels)
    ):
        error = f"its labels are not {join_items(labels)}"
    if not error and start.pipeline_config.get_prompt(NEITHER) != task.prompt:
        error = "it requires a prompt, which only --init_checkpoint keeps"
    if error:
        logger.warning("%s: ignoring its classifier and training a new one: %s", start.path, error)
        return None
    by_number = (
        " (by index: it has no label names)" if task.labels and not _are_label_names(start.labels) else ""
    )
    logger.info("%s: loading its classifier%s: %s", start.path, by_number, join_items(labels))
    order = [names.index(label) for label in labels]
    head = {name: tensors[name][..., order] for name in tensors if name.startswith("classifier.")}

    def fetch(name: str) -> np.ndarray:
        return head[name] if name in head else tensors[name]

    return replace(start, tensors=Weights(tensors.source, tensors.shapes, fetch))


def read_files(
    task: FinetuningTask, patterns: str, purpose: str, language_map: str | None
) -> list[LanguageFile]:
    """Read the files of --dev_set or --test_set, in the order of the patterns and then of the languages.

    Args:
        patterns: the value of --dev_set or --test_set.
        purpose: "dev" or "test".
        language_map: the value of --lang_map_config.

    Raises:
        UserError: a file is missing or invalid.
    """
    languages = read_languages(language_map) if language_map else None
    files = []
    file_sets = expand_patterns(patterns, languages, f"--{purpose}_set")
    for pattern, path_of_language in file_sets.items():
        for language, path in path_of_language.items():
            files.append(LanguageFile(pattern, language, path, task.read(path, purpose)))
    return files


def add_metric(task: FinetuningTask, metric: str, dev_files: Sequence[LanguageFile]) -> None:
    """Set the function of --metric as the metric of a task, after testing it on gold labels.

    Raises:
        UserError: see `load_metric`.
    """
    task.metric, task.custom_metric, task.metric_digest = load_metric(metric)
    for file in dev_files[:1]:
        gold = task.get_gold_values(file.data)
        first = [answers[0] for answers in gold] if task.name == QUESTION_ANSWERING else gold
        task.custom_metric(first, gold)


def check_selection(task: FinetuningTask, dev_files: Sequence[LanguageFile], select_on: str) -> None:
    """Check that each file which selects the best checkpoint has a score.

    Args:
        select_on: --select_on.

    Raises:
        UserError: the gold values of such a file have no score; the message names all of them.
    """
    unscored = [
        str(file.path)
        for file in dev_files
        if file.pattern == dev_files[0].pattern
        and select_on in (MEAN, LAST, file.language)
        and not task.has_score(file.data)
    ]
    if unscored and not task.custom_metric:
        raise UserError(
            f"{join_items(unscored)}: no {task.gold}, so no score to select a checkpoint by. Use files "
            "with labels, remove these languages from --lang_map_config, or set --do_val false"
        )


def check_rows(
    task: FinetuningTask, train_paths: Sequence[str], train_set: Sequence[Any], files: Sequence[LanguageFile]
) -> None:
    """Log warnings about truncated rows, conflicting labels, and evaluation rows in the training data."""
    has_ids = task.name == CLASSIFICATION and not task.get_pipeline_settings().get("regression")
    named: list[tuple[str | Path, Any]] = [(path, train_set) for path in train_paths]  # one, or none
    trained = None  # `hash_input` of the training rows
    for name, data in [*named, *((file.path, file.data) for file in files)]:
        task.warn_if_truncated(name, data)
        inputs = task.hash_inputs(data)
        targets, location = (data.targets, data.get_location) if has_ids else (np.zeros(0), str)
        for error in find_label_issues(inputs, targets, location, trained_inputs=trained):
            logger.warning("%s: %s", name, error)
        trained = inputs if data is train_set else trained


class FinetuningRun(MultiSeedTraining):
    """Fine-tuning of a task on labeled files; see `ernie_m.training.trainer.Trainable`.

    Args:
        task: the task.
        flags: the flags after `apply_model_defaults`.
        opened: the initial model of every seed.
        train_set: the training examples.
        train_digest: the digest of the training examples; None: the run does not train.
        dev_files: the files of --dev_set.
        fine_tuned: the checkpoint of `opened` with a classifier for the task; None: its classifier
            is initialized randomly.

    Raises:
        UserError: no dev file has the language of --select_on.
    """

    divisible = True
    memory_advice = (
        "lower --batch_size and raise --recipe_devices (their product is the batch size of a "
        "step), or add --recompute true"
    )

    def __init__(
        self,
        task: FinetuningTask,
        flags: FinetuneFlags,
        opened: OpenedModel,
        train_set: Sequence[Any],
        train_digest: str | None = None,
        dev_files: Sequence[LanguageFile] = (),
        fine_tuned: Checkpoint | None = None,
    ):
        self.task = task
        self.flags = flags
        self.start = fine_tuned or opened.checkpoint
        self.start_pipeline_config = opened.pipeline_config
        self.tokenizer = opened.tokenizer
        self.config = opened.config
        self.shuffle = flags.shuffle and task.shuffles
        self.global_batch = compute_effective_batch_size(flags, distributed.world_size())
        self.train_set = train_set
        self._train_digest = train_digest
        self.dev_files = dev_files
        self._epoch_ends: list[int] = []  # the last step of each epoch, once a seed begins
        self._is_fine_tuned = fine_tuned is not None
        # The pooling that the checkpoint's classifier was trained with. A new one gets the pooled first
        # token, if the model has a pooler (a static model does not).
        self.pooling: str | None = (
            fine_tuned.pipeline_config.pooling if fine_tuned and task.name == CLASSIFICATION else None
        )
        if opened.config.is_static and task.name == CLASSIFICATION:
            self.pooling = MEAN_OF_TOKENS
        languages = [file.language for file in self.dev_files]
        if flags.select_on not in (MEAN, LAST, *languages):
            raise UserError(
                f"--select_on {flags.select_on}: invalid choice (choose from "
                f"{', '.join([MEAN, LAST, *languages])})"
            )

    @cached_property
    def fingerprint(self) -> dict[str, Any]:  # type: ignore[override]  # a command may only predict
        """The settings and digests that determine the result of the run, as JSON values."""
        return make_fingerprint(
            self.flags,
            get_stored_name(self.task.name),
            [self.start],
            self.config,
            self.tokenizer,
            # Not the flags, which some tasks ignore.
            shuffle=self.shuffle,
            official_compat=self.task.official,
            global_batch=self.global_batch,
            labels=self.task.labels,
            train_set=self._train_digest,
            dev_set=digest_files(file.path for file in self.dev_files),
            # Of --metric the name and the file, which may move.
            metric=self.task.custom_metric and {self.task.metric: self.task.metric_digest},
        )

    def begin(self, seed: int, checkpoint: Path | None) -> Engine:
        """Divide the examples into steps, choose the evaluation steps, and build model and optimizer."""
        flags = self.flags
        self.seed = seed
        self._batches = Batches(
            self.train_set,
            self.task.encode,
            batch_size=self.global_batch,
            micro_batch_size=flags.batch_size,
            share_tokens=get_services().split_tokens,
            in_tokens=flags.in_tokens,
            shuffle=self.shuffle,
            seed=seed,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
        )
        self._epoch_ends = list(
            accumulate(self._batches.count_batches(epoch) for epoch in range(flags.epoch))
        )
        self.total_steps = self._epoch_ends[-1]
        schedule_steps = self.total_steps
        if self.task.official and not flags.in_tokens:
            # The official code rounds down once, so that the learning rate of the last steps may be 0.
            schedule_steps = max(1, flags.epoch * len(self.train_set) // self.global_batch)
        if flags.max_steps is not None:
            self.total_steps = min(self.total_steps, flags.max_steps)
            schedule_steps = min(schedule_steps, flags.max_steps)
        # The dev files are scored every --validation_steps steps and at the end of each epoch; with
        # --select_on last only after the last step.
        regular = range(0)
        steps = {self.total_steps} if self.dev_files else set()
        if self.dev_files and flags.select_on != LAST:
            regular = range(flags.validation_steps, self.total_steps, flags.validation_steps)
            steps |= {end for end in self._epoch_ends if end < self.total_steps}
        self.evaluation_steps = EvaluationSteps(regular, frozenset(steps))
        processes = distributed.world_size()
        share = math.ceil(self.global_batch / processes)  # the largest share of a process
        logger.info(
            "seed %d: %d examples, %d optimizer steps of %d %s (batch %d x accumulation %d x processes %d)",
            seed,
            len(self.train_set),
            self.total_steps,
            self.global_batch,
            "tokens" if flags.in_tokens else "examples",
            min(share, flags.batch_size),
            math.ceil(share / flags.batch_size),
            processes,
        )
        fine_tuned = checkpoint is not None or self._is_fine_tuned
        return self.make_engine(
            open_resumed_checkpoint(checkpoint, self.start), fine_tuned, schedule_steps, seed
        )

    def make_engine(
        self, weights: Checkpoint | None, fine_tuned: bool = True, schedule_steps: int = 1, seed: int = 0
    ) -> Engine:
        """Build a model in --dtype, identical on every process, and its engine.

        Args:
            weights: the checkpoint; None: random weights.
            fine_tuned: whether to load the classifier from the checkpoint; otherwise it is random.
            schedule_steps: the length of the learning-rate schedule; irrelevant for prediction.
        """
        flags = self.flags
        paddle.seed(seed)
        paddle.set_default_dtype(flags.dtype)
        model = make_model_with_head(self.task.name, self.config, len(self.task.labels or []), self.pooling)
        model.ernie_m.set_recompute(flags.recompute)
        if weights is None:
            logger.warning("no --init_pretraining_params: initializing all weights randomly")
        else:
            new = () if fine_tuned else ("classifier.",)
            load_weights(model, weights, ignore=(*new, *self._unused_prefixes))
        schedule = None
        if flags.lr_scheduler == "noam_decay":
            schedule = noam_decay(int(schedule_steps * flags.warmup_proportion))
        loss_scaling = {name: getattr(flags, name) for name in LOSS_SCALING}  # flags of the same names
        return make_engine(flags, model, schedule_steps, seed, schedule, loss_scaling)

    @property
    def _unused_prefixes(self) -> tuple[str, ...]:
        """The prefixes of weight names that are neither loaded nor saved; see `list_unused_parts`."""
        reads_pooler = TASKS[self.task.name].head_reads == POOLED and self.pooling != MEAN_OF_TOKENS
        return list_unused_parts(self.start, reads_pooler)

    def make_batch_iterator(self, position: list[int] | None) -> Callable[[], Iterator[GlobalBatch]]:
        """Return a function that yields the global batches from a saved position on; None: from the first."""
        epoch, index = position or (0, 0)  # `GlobalBatch.position`
        return partial(self._batches.stream, epochs=self.flags.epoch, epoch=epoch, index=index)

    def copy_to_device(self, model: nn.Layer, data: GlobalBatch) -> list[tuple[Any, LabeledBatch]]:
        """Send the micro-batches of a global batch to the device."""
        return self.task.send_batches(model, data.micro_batches)

    def loss(
        self, model: nn.Layer, micro_batch: tuple[Any, LabeledBatch]
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Compute the loss of a micro-batch; see `FinetuningTask.loss`."""
        return self.task.loss(model, micro_batch)

    def evaluate(self, engine: Engine, stop: ShutdownHandler) -> Evaluation | None:
        """Evaluate on the dev files of all languages; the first pattern selects the best checkpoint.

        Returns:
            None after a stop request.
        """
        epoch = self.get_epoch(engine.steps)
        scores = evaluate_files(self.task, engine, self.dev_files, self.flags.prediction, epoch, stop)
        if scores is None:
            return None
        first_pattern = next(iter(scores.values()))
        selected_by = None
        by_language = {language: metrics[self.task.metric] for language, metrics in first_pattern.items()}
        known = {language: score for language, score in by_language.items() if score is not None}
        if self.flags.select_on not in (MEAN, LAST):
            selected_by = by_language[self.flags.select_on]
        elif known == by_language:  # otherwise nothing is trained: `check_selection`
            selected_by = average(known)
        return Evaluation(engine.steps, epoch, selected_by, scores)

    def get_epoch(self, step: int) -> int:
        """Return the epoch, from 0, of an optimizer step, from 1."""
        if not self._epoch_ends:  # an evaluation: the checkpoint's
            return self.start.settings.get("epoch", 0)  # type: ignore[union-attr]  # --init_checkpoint
        return bisect_left(self._epoch_ends, step)  # the first epoch that ends with this step or later

    def log_line(self, interval: Interval) -> str:
        """Return the log line of an interval: epoch, progress in the epoch, and the official line."""
        batch: GlobalBatch = interval.data
        line = format_official_line(
            interval, self.total_steps, self.task.format_training_metric(interval.sums)
        )
        return f"epoch: {batch.epoch}, progress: {batch.progress}/{len(self.train_set)}, {line}"

    def collect_files(
        self, engine: Engine, master_weights: Mapping[str, Tensor], evaluation: Evaluation | None
    ) -> ModelFiles:
        """Return the files of the model, with its pipeline settings and its model card."""
        flags = self.flags
        task = self.task
        fields = {"max_seq_len": flags.max_seq_len, "pooling": self.pooling, **task.get_pipeline_settings()}
        pipeline_config = self.start_pipeline_config.adapt_for_task(task.prompt, **fields)
        name = get_stored_name(task.name)
        settings = {
            "task": name,
            "labels": task.labels,
            "epoch": self.get_epoch(engine.steps),
            PIPELINE: get_stored_pipeline_config(pipeline_config),
        }
        facts = {
            "name": f"ERNIE-M, {name}",
            "task": name,
            "data": flags.train_set,
            "languages": list(dict.fromkeys(file.language for file in self.dev_files)) or None,
            "initialized_from": flags.initial_checkpoint or "random weights",
            "epochs": None if flags.max_steps else flags.epoch,
            "selected_by": None,
        }
        if self.dev_files:
            facts["selected_by"] = f"{task.metric}, {flags.select_on}, {self.dev_files[0].pattern}"
        return self.collect_model_files(
            engine, master_weights, evaluation, settings, facts, self._unused_prefixes
        )


def compute_effective_batch_size(flags: FinetuneFlags, processes: int) -> int:
    """Return the batch size of an optimizer step over all processes, in examples or tokens (--in_tokens).

    Log a warning if it cannot be divided equally among the processes.
    """
    total = flags.batch_size * (flags.recipe_devices or processes)
    if total % processes and not flags.in_tokens:
        even = max(number for number in range(1, processes) if total % number == 0)
        logger.warning(
            "%d processes get unequal parts of the total batch size %d. Use %d processes for equal parts",
            processes,
            total,
            even,
        )
    return total
