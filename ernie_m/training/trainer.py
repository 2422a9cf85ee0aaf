"""The training loop of pre-training and all fine-tuning tasks.

    evaluate -> save -> read -> step -> log -> evaluate -> ...

A run that was stopped or killed resumes from the last complete checkpoint, and computes the same numbers as
an uninterrupted run.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import paddle
from paddle import Tensor

from ernie_m.model.checkpoint.write import ModelFiles
from ernie_m.model.kernel_selection import is_on_gpu
from ernie_m.training import distributed
from ernie_m.training.best_checkpoint import BEST, is_better, save_best, write_selected
from ernie_m.training.engine import Engine, Model, StepResult
from ernie_m.training.log import (
    CURVES,
    HELD_OUT,
    METRICS,
    Evaluation,
    Interval,
    MetricsFile,
    make_curve_writer,
)
from ernie_m.training.output_dir import OutputDir
from ernie_m.training.prefetch import PrefetchIterator
from ernie_m.training.resume import LoopState, find_saved_run, restore
from ernie_m.training.stop_requests import ShutdownHandler, StallWatchdog
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import Progress, logger


class StepData(Protocol):
    """The data of a step for one process.

    Attributes:
        micro_batches: micro-batches of this process; may be empty.
        position: position in the training data after this step, a JSON value for
            `Trainable.make_batch_iterator`.
    """

    @property
    def micro_batches(self) -> Sequence[Any]: ...

    @property
    def position(self) -> Any: ...


Data = TypeVar("Data", bound=StepData)


@dataclass(frozen=True)
class EvaluationSteps:
    """The steps after which a seed is evaluated. Their number may be a large number of the config.

    Attributes:
        regular: steps at a constant interval.
        others: further steps.
    """

    regular: range = range(0)
    others: frozenset[int] = frozenset()

    def __contains__(self, step: int) -> bool:
        return step in self.regular or step in self.others

    def count_from(self, step: int) -> int:
        """Return the number of evaluation steps from a step on, which may be one of them."""
        further = [other for other in self.others if other >= step and other not in self.regular]
        return len(self.regular) - bisect_left(self.regular, step) + len(further)


class Trainable(Protocol[Model, Data]):
    """A task that `Trainer` can train: pre-training or a fine-tuning task.

    A task does not keep a model: the `Trainer` of a seed owns the model.

    Attributes:
        fingerprint: settings and digests that determine the result, as JSON values.
        divisible: whether a process may stop within a step, between two micro-batches. False if processes
            communicate within the loss, because the others would wait.
        total_steps: number of optimizer steps of the seed passed to `begin`.
        evaluation_steps: steps after which this seed is evaluated.
        memory_advice: advice on how to reduce the GPU memory of a step.
    """

    fingerprint: dict[str, Any]
    divisible: bool
    total_steps: int
    evaluation_steps: EvaluationSteps
    memory_advice: str

    def begin(self, seed: int, checkpoint: Path | None) -> Engine[Model]:
        """Make model and optimizer for training with a seed.

        Args:
            checkpoint: path of the checkpoint to resume from; None: load the initial weights.
        """

    def make_batch_iterator(self, position: Any) -> Callable[[], Iterator[Data]]:
        """Return a picklable function that iterates over the data of each step, for `PrefetchIterator`.

        Args:
            position: `StepData.position` of the last step; None: start at the beginning.
        """

    def copy_to_device(self, model: Model, data: Data) -> Sequence[Any]:
        """Copy the micro-batches of a step to the device in one transfer. Called under autocast."""

    def loss(self, model: Model, micro_batch: Any) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Compute the loss of a micro-batch from `copy_to_device`, and the values to sum for the log.

        The loss must be divided by the count of the whole step, over all processes and micro-batches.
        """

    def evaluate(self, engine: Engine[Model], stop: ShutdownHandler) -> Evaluation | None:
        """Evaluate the model on held-out data, and log the scores. Called on every process.

        Returns:
            The evaluation, the same on all processes; None: a process has received a shutdown request.
        """

    def log_interval(self, interval: Interval) -> dict[str, Any]:
        """Log a log interval, and return its entry of metrics.jsonl."""

    def collect_files(
        self, engine: Engine[Model], master_weights: Mapping[str, Tensor], evaluation: Evaluation | None
    ) -> ModelFiles:
        """Collect the model files of a checkpoint: weights, config, tokenizer, model card.

        Args:
            master_weights: `parameter.name` -> float32 master weight, from `Engine.master_weights`.
            evaluation: the evaluation of the current step, if any.
        """


@dataclass(frozen=True)
class LoopConfig:
    """Options of the training loop.

    Attributes:
        log_steps: number of steps between log lines.
        save_steps: number of steps between checkpoints.
        last_step: step at which to save and stop, without changing the schedule; None: run to the end.
        stall_ends_seconds: in multi-process training, maximum seconds per operation; 0: no limit.
        tensorboard: whether to also write the metrics as TensorBoard event files.
    """

    log_steps: int
    save_steps: int
    last_step: int | None = None
    stall_ends_seconds: float = 0.0
    tensorboard: bool = False


class Trainer(Generic[Model, Data]):
    """Training of a task with one seed, which resumes from the last checkpoint, if any.

    Args:
        folder: output directory of the run, or of this seed.

    Attributes:
        engine: model and optimizer.
        first_step: number of steps of the run before this process.
        state: what a resumed run restores besides the engine.
        records: metrics.jsonl, on the main process; None if the task does not write the file.
        curves: TensorBoard writer from `make_curve_writer`, if any.

    Raises:
        UserError: the run cannot be resumed or started.
    """

    def __init__(self, task: Trainable[Model, Data], folder: OutputDir, seed: int, loop_config: LoopConfig):
        self.task = task
        self.folder = folder
        self.seed = seed
        self.loop_config = loop_config
        self.stalls = StallWatchdog(loop_config.stall_ends_seconds)

        # Resume from the last checkpoint, if the run has the same settings.
        saved = find_saved_run(folder, task.fingerprint)
        self.engine = task.begin(seed, saved and saved.folder)
        # Not earlier, because a run that fails to start must keep the old one.
        folder.remove_old_run()

        self.state = LoopState()
        if saved is not None:
            self.state = restore(saved, self.engine)
            logger.info("resuming from %s (step %d/%d)", saved.folder, self.engine.steps, task.total_steps)

        # One process writes the records, whose entries after the checkpoint will be written again.
        keeps_records = distributed.is_main()
        self.first_step = self.engine.steps
        self.curves = (
            make_curve_writer(folder.path / CURVES, self.first_step)
            if keeps_records and loop_config.tensorboard
            else None
        )
        self.records = MetricsFile(folder.path / METRICS, self.curves) if keeps_records else None
        # `engine.steps` and `evaluated_step` in the newest checkpoint.
        self._saved_at = (self.engine.steps, self.state.evaluated_step)
        self._evaluation: Evaluation | None = None  # last evaluation in this process
        if self.records is not None:
            dropped = self.records.truncate_after(self.first_step, self.state.evaluated_step)
            if dropped and self.first_step == 0:
                line = "%s: no checkpoint; starting at step 0 and deleting %d records from %s"
                logger.warning(line, folder.path, dropped, self.records.path.name)

    def run(self, stop: ShutdownHandler) -> bool:
        """Train to the last step, or until any process receives a shutdown request; save the state.

        Args:
            stop: handler of shutdown requests.

        Returns:
            Whether the run is finished; otherwise the same command resumes it.
        """
        engine = self.engine
        task = self.task
        last_step = min(task.total_steps, self.loop_config.last_step or task.total_steps)
        stopped = False
        self.progress = Progress(
            task.total_steps, "training", initial=self.first_step, unit="steps", lines=False
        )
        with (
            closing(self.progress),
            self.curves or nullcontext(),
            self.stalls as stalls,
            PrefetchIterator(task.make_batch_iterator(self.state.position)) as batches,
            translate_oom(task.memory_advice),
        ):
            while True:
                # Evaluate before the next step, so that a run with an interrupted evaluation repeats it.
                is_due = engine.steps in task.evaluation_steps and self.state.evaluated_step < engine.steps
                if is_due and not stopped:
                    # The last evaluation may fail in custom code, which must not lose the training.
                    if engine.steps >= last_step:
                        self._save()
                    with stalls.watch(f"the evaluation after step {engine.steps}"):
                        stopped = not self._evaluate(stop)

                # Each step tells all processes whether one of them received a request to stop. No step
                # follows the last one, so check here: the work after training may take long.
                if not stopped and engine.steps >= last_step:
                    with stalls.watch("the last step"):
                        stopped = stop.is_set_on_any_process()
                ends_now = stopped or engine.steps >= last_step

                # Save after the evaluation as well, so that the checkpoint contains its result.
                if ends_now or engine.steps % self.loop_config.save_steps == 0:
                    self._save()
                if ends_now:
                    break

                # Read. The reader process runs ahead, so this rarely waits. If a step may be abandoned
                # midway, a request to stop ends the wait without data. Otherwise the step must start, because
                # the other processes wait in it for this one.
                with stalls.watch(f"reading for step {engine.steps + 1}"):
                    data = batches.next_unless_stopped(stop if task.divisible else None)

                # Forward and backward passes, the sum over processes, and the update.
                with stalls.watch(f"step {engine.steps + 1}"):
                    step = self._step(data, stop)

                # An abandoned step does not count: the resumed run repeats it.
                if step is None or data is None:
                    stopped = True
                else:
                    self.state.position = data.position
                    self._log(step, data)
        if stopped or engine.steps < task.total_steps:
            # Without a request, the run ended at `loop_config.last_step` (run.stop_after_steps). With that
            # option the same command would stop here again.
            condition = "" if stopped else " without run.stop_after_steps"
            logger.info(
                "interrupted at step %d/%d; run the same command%s to resume",
                engine.steps,
                task.total_steps,
                condition,
            )
            return False

        # Only now the folder says that it is finished, and by which step: the same command will not train.
        if self.state.best is not None:
            if self.state.best.step == 0:
                logger.warning(
                    "no step was better than the initial checkpoint; %s is a copy of it",
                    self.folder.path / BEST,
                )
            write_selected(self.folder.path, self.state.best)
        return True

    def _evaluate(self, stop: ShutdownHandler) -> bool:
        """Evaluate the model, and save it to best/ if it is the best so far.

        Returns:
            False if the evaluation was stopped by a shutdown request.
        """
        with self.progress.exclude_evaluation():
            evaluation = self.task.evaluate(self.engine, stop)
        if evaluation is None:
            return False

        # An interrupted evaluation leaves no trace, so that the resumed run repeats it as a whole.
        self._evaluation = evaluation
        self.state.evaluated_step = evaluation.step
        if self.records is not None:
            self.records.append({"step": evaluation.step, HELD_OUT: evaluation.scores})
        if is_better(evaluation, self.state.best):
            self.state.best = evaluation
            logger.info("new best score: %.2f (step %d)", evaluation.selected_by, evaluation.step)
            save_best(self.folder.path, self._collect_files())
        return True

    def _save(self) -> None:
        """Write a checkpoint with the current training state, unless the last checkpoint has it."""
        steps = self.engine.steps
        if steps == 0 or self._saved_at == (steps, self.state.evaluated_step):
            return

        # Each process writes its part of a sharded optimizer state; otherwise the main process has it all.
        counters = self.engine.state_dict()
        arrays = counters.pop("optimizer")
        if not (distributed.is_main() or self.engine.is_sharded):
            arrays = None
        values = {
            "identity": self.task.fingerprint,
            "seed": self.seed,
            "engine": counters,
            "trainer": self.state.to_json(),
        }
        with self.stalls.watch(f"the checkpoint of step {steps}"):
            folder = self.folder.save_step(steps, self._collect_files(), arrays, values)
        if self._saved_at[0] != steps:  # not again after the evaluation
            logger.info("saved %s", folder)
        self._saved_at = (steps, self.state.evaluated_step)
        if is_on_gpu():
            logger.info("peak GPU memory: %.2f GiB", paddle.device.cuda.max_memory_allocated() / 2**30)

    def _collect_files(self) -> ModelFiles | None:
        """Collect the files of the model; None except on the main process. Call this on every process."""
        master_weights = self.engine.master_weights()
        if not distributed.is_main():
            return None
        evaluation = self._evaluation
        if evaluation is not None and evaluation.step != self.engine.steps:
            evaluation = None  # of an earlier step
        return self.task.collect_files(self.engine, master_weights, evaluation)

    def _step(self, data: Data | None, stop: ShutdownHandler) -> StepResult | None:
        """Copy the data of a step to the device, and perform the step.

        Args:
            data: the data of the step; None: this process received a shutdown request while waiting for it.

        Returns:
            The result; None, without any change, after a shutdown request on any process.
        """
        micro_batches: Sequence[Any] = ()
        if data is not None:
            with self.engine.autocast():  # attention uses other arrays in half precision
                micro_batches = self.task.copy_to_device(self.engine.model, data)
        # Also without data: the other processes wait for this one in the sum by which all agree on stopping.
        return self.engine.step(
            micro_batches,
            compute_loss=self.task.loss,
            stop=stop,
            divisible=self.task.divisible,
        )

    def _log(self, step: StepResult, data: Data) -> None:
        """Add a step to the current log interval, and log the interval if it ends."""
        steps = self.engine.steps
        self.state.meter.add(step)
        self.progress.update(1, loss=f"{step.loss:.4f}")
        interval_ends = steps % self.loop_config.log_steps == 0 or steps == self.task.total_steps
        if not interval_ends:
            return
        remaining = self.progress.eta(evaluations=self.task.evaluation_steps.count_from(steps))
        interval = self.state.meter.end_interval(
            seconds=self.progress.get_elapsed_seconds(),
            steps=steps,
            step=step,
            data=data,
            steps_per_second=self.progress.speed(),
            remaining=remaining,
        )
        record = self.task.log_interval(interval)
        if self.records is not None:
            self.records.append(record)


@contextmanager
def translate_oom(advice: str) -> Iterator[None]:
    """Translate out-of-memory errors within a `with` block into `UserError`.

    Args:
        advice: how to reduce memory, for the message.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:  # of Paddle, CUDA or a library
        if "out of memory" not in str(error).lower():
            raise
        raise UserError(
            f"out of memory on {paddle.device.get_device()}: {advice}; or another program uses the GPU "
            "(nvidia-smi shows it)"
        ) from error
