"""A run of fine-tuning with one seed, as a task of the training loop."""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import paddle
from paddle import Tensor, nn

from ernie_m.finetune.checkpoint_selection import compute_selection_score
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
from ernie_m.model.checkpoint.check_weights import list_unused_parts
from ernie_m.model.checkpoint.load import load_weights
from ernie_m.model.checkpoint.open import Checkpoint
from ernie_m.model.checkpoint.write import ModelFiles
from ernie_m.model.heads import make_model_with_head
from ernie_m.model.kernel_selection import get_services
from ernie_m.model.open_model import OpenedModel
from ernie_m.model.optimization import noam_decay
from ernie_m.model.packed_batch import LabeledBatch
from ernie_m.model.pipeline_config import MEAN_OF_TOKENS, PIPELINE, get_stored_pipeline_config
from ernie_m.model.tasks import CLASSIFICATION, POOLED, TASKS, get_stored_name
from ernie_m.reader.batching import Batches, GlobalBatch
from ernie_m.training import distributed
from ernie_m.training.engine import Engine
from ernie_m.training.log import Evaluation, Interval
from ernie_m.training.precision import LOSS_SCALING
from ernie_m.training.stop_requests import ShutdownHandler
from ernie_m.training.trainer import EvaluationSteps
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import logger


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
        selected_by = compute_selection_score(scores, self.task.metric, self.flags.select_on)
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
