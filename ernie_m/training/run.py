"""The loop of every training: pre-training and all fine-tuning tasks.

    evaluate -> save -> read -> step -> log -> evaluate -> ...

A run that was stopped, killed or damaged goes on from its newest checkpoint, and computes the same numbers as
one that was not interrupted.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import paddle

from ernie_m.model.checkpoint.write import ModelFiles
from ernie_m.training import distributed
from ernie_m.training.engine import Engine, Step
from ernie_m.training.log.evaluation import Evaluation
from ernie_m.training.log.meter import Meter
from ernie_m.training.log.metrics_jsonl import HELD_OUT, METRICS, Records
from ernie_m.training.prefetch import prefetch
from ernie_m.training.run_folder import RunFolder, SavedRun
from ernie_m.training.stop_requests import StallWatch, StopSignal
from ernie_m.training.trainable import StepData, Trainable
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import Progress, logger


@dataclass(frozen=True)
class Pace:
    """When a run logs, saves and stops, and what it draws.

    Attributes:
        log_steps: the number of steps between two lines of the log.
        save_steps: the number of steps between two checkpoints.
        last_step: save and stop after this step, without changing the schedule; None: run to the end.
        stall_ends_seconds: with several processes, end this one when a piece of work takes longer; 0: never.
    """

    log_steps: int
    save_steps: int
    last_step: int | None = None
    stall_ends_seconds: float = 0.0


class Trainer:
    """Trains a task on one seed, from the step where it stopped.

    Args:
        folder: the folder of the run, or of this seed.

    Attributes:
        engine: model and optimizer.
        first_step: the number of steps that were done before this process.
        position: in the training data, as `StepData.position`; None: at the beginning.
        evaluated_step: the last step after which the model was evaluated; -1: none.
        best: the evaluation of the best step so far.
        meter: what the run adds up for its log.
        records: metrics.jsonl, on the main process; None if the task makes no records.

    Raises:
        UserError: the run cannot go on (`RunFolder.resume`), or it cannot begin (`Trainable.begin`).
    """

    def __init__(self, task: Trainable, folder: RunFolder, seed: int, pace: Pace):
        self.task = task
        self.folder = folder
        self.seed = seed
        self.pace = pace
        saved = folder.resume(task.identity)
        checkpoint = None if saved is None else saved.folder
        self.engine: Engine = task.begin(seed, checkpoint)
        # Not earlier, because a run that cannot begin must leave the old one alone.
        folder.remove_old_run()
        self.position: Any = None
        self.evaluated_step = -1
        self.best: Evaluation | None = None
        self.meter = Meter()
        keeps_records = task.record is not None and distributed.is_main()
        self.records = Records(folder.path / METRICS) if keeps_records else None
        if saved is not None:
            self._resume(saved)
        self.first_step = self.engine.steps
        # `engine.steps` and `evaluated_step` in the newest step folder.
        self._saved_at = (self.engine.steps, self.evaluated_step)
        self._evaluation: Evaluation | None = None  # the last one of this process
        if self.records is not None:  # drop those of steps that this process will do again
            dropped = self.records.cut_back(self.first_step, self.evaluated_step)
            if dropped and self.first_step == 0:
                line = "%s: no checkpoint: the run begins at step 0, and the %d records of %s are dropped"
                logger.warning(line, folder.path, dropped, self.records.path.name)

    def _resume(self, saved: SavedRun) -> None:
        """Take over the state of a saved run, which `_save` wrote."""
        self.engine.load_state_dict({**saved.counters, "optimizer": saved.arrays})
        self.position = saved.trainer_state["position"]
        self.evaluated_step = saved.trainer_state["evaluated"]
        if saved.trainer_state["best"] is not None:
            self.best = Evaluation(**saved.trainer_state["best"])
        # The window: the sums since the last line of the log.
        self.meter = Meter(saved.trainer_state["window"], saved.trainer_state["tokens"])
        logger.info("going on from %s: step %d of %d", saved.folder, self.engine.steps, self.task.total_steps)

    def run(self, stop: StopSignal) -> bool:
        """Train to the last step, or until a process of the run is asked to stop. The state is saved.

        Returns:
            Whether the run is finished. Otherwise the same command goes on.
        """
        engine = self.engine
        task = self.task
        pace = self.pace
        last_step = min(task.total_steps, pace.last_step or task.total_steps)
        stopped = False
        self.progress = Progress(
            task.total_steps, "training", initial=self.first_step, unit="steps", lines=False
        )
        with (
            closing(self.progress),
            StallWatch(pace.stall_ends_seconds) as stalls,
            prefetch(task.batches(self.position)) as batches,
        ):
            while True:
                # Evaluate before the next step, so that a run whose evaluation was interrupted repeats it.
                is_due = engine.steps in task.evaluation_steps and self.evaluated_step < engine.steps
                if is_due and not stopped:
                    # The last one may fail, in code of the user's, and must not cost what was trained.
                    if engine.steps >= last_step:
                        with stalls.during(f"the checkpoint of step {engine.steps}"):
                            self._save()
                    with (
                        stalls.during(f"the evaluation after step {engine.steps}"),
                        out_of_memory_is_a_user_error(task.memory_advice),
                    ):
                        stopped = not self._evaluate(stop)

                # Each step tells all processes whether one of them was asked to stop. No step follows the
                # last one, so they ask here: the work after the training may take long.
                if not stopped and engine.steps >= last_step:
                    with stalls.during("the last step"):
                        stopped = stop.anywhere()
                ends_now = stopped or engine.steps >= last_step

                # Save after the evaluation, too, so that the checkpoint knows its result.
                if ends_now or engine.steps % pace.save_steps == 0:
                    with stalls.during(f"the checkpoint of step {engine.steps}"):
                        self._save()
                if ends_now:
                    break

                # Read. The reader process runs ahead, so this rarely waits. If a step may be abandoned
                # midway, a request to stop ends the wait without data. Any other step must begin, because
                # the other processes wait in it for what this one sends.
                with stalls.during(f"reading for step {engine.steps + 1}"):
                    data = batches.next_unless(stop if task.divisible else None)

                # Forward and backward passes, the sum over the processes, and the update.
                with (
                    stalls.during(f"step {engine.steps + 1}"),
                    out_of_memory_is_a_user_error(task.memory_advice),
                ):
                    step = self._step(data, stop)

                # A step that was abandoned does not count: the run does it when it goes on.
                if step is None:
                    stopped = True
                else:
                    self.position = data.position
                    self._log(step, data)
        if stopped or engine.steps < task.total_steps:
            # If nobody asked, the run ended at `pace.last_step`, which is run.stop_after_steps. With that
            # option the same command would stop here again.
            condition = "" if stopped else "without run.stop_after_steps "
            logger.info(
                "stopped at step %d of %d; %sthe same command goes on from there",
                engine.steps,
                task.total_steps,
                condition,
            )
            return False
        if self.best is not None:
            self.folder.finish(self.best)
        return True

    def _evaluate(self, stop: StopSignal) -> bool:
        """Evaluate, and save the model if it is the best so far. False: a process was asked to stop."""
        with self.progress.evaluation():
            evaluation = self.task.evaluate(self.engine, stop)
        if evaluation is None:
            return False
        self._evaluation = evaluation
        self.evaluated_step = evaluation.step
        if self.records is not None:
            self.records.append({"step": evaluation.step, HELD_OUT: evaluation.scores})
        if evaluation.selected_by is not None and (
            self.best is None or evaluation.selected_by > self.best.selected_by
        ):
            self.best = evaluation
            logger.info("best so far: %.2f at step %d", evaluation.selected_by, evaluation.step)
            self.folder.save_best(self._files())
        return True

    def _save(self) -> None:
        """Write a step folder with everything that a resumed run needs, unless the newest one has it."""
        steps = self.engine.steps
        if steps == 0 or self._saved_at == (steps, self.evaluated_step):
            return
        if self.records is not None:
            self.records.sync()
        counters = self.engine.state_dict()
        arrays = counters.pop("optimizer")
        values = None
        if distributed.is_main():
            state = {  # what `_resume` reads, as JSON values
                "position": self.position,
                "evaluated": self.evaluated_step,
                "best": None if self.best is None else asdict(self.best),
                "window": dict(self.meter.sums),  # since the last line of the log
                "tokens": self.meter.tokens,
            }
            values = {
                "identity": self.task.identity,
                "seed": self.seed,
                "engine": counters,
                "trainer": state,
            }
        elif not self.engine.is_sharded:
            arrays = None  # the main process has all of them
        folder = self.folder.save_step(steps, self._files(), arrays, values)
        self._saved_at = (steps, self.evaluated_step)
        logger.info("saved %s", folder)
        if paddle.device.get_device().startswith("gpu"):
            peak = paddle.device.cuda.max_memory_allocated() / 2**30
            logger.info("the most memory of the card that was used so far: %.2f GiB", peak)

    def _files(self) -> ModelFiles | None:
        """The files of the model, on the main process. Call it on every process."""
        masters = self.engine.masters()
        if not distributed.is_main():
            return None
        evaluation = self._evaluation
        if evaluation is not None and evaluation.step != self.engine.steps:
            evaluation = None  # it is of an earlier step
        return self.task.files(self.engine, masters, evaluation)

    def _step(self, data: StepData | None, stop: StopSignal) -> Step | None:
        """Send the data to the device, and do a step. None: a process was asked to stop, and nothing changed.

        Args:
            data: what was read for it; None: this process was asked to stop before.
        """
        micro_batches: Sequence[Any] = ()
        if data is not None:
            with self.engine.autocast():  # attention needs other arrays in half precision
                micro_batches = self.task.send(self.engine.model, data)
        # Also without data: the other processes wait for this one in the sum by which all agree on the stop.
        return self.engine.step(
            micro_batches,
            loss_of=self.task.loss,
            stop=stop,
            divisible=self.task.divisible,
        )

    def _log(self, step: Step, data: StepData) -> None:
        """Count a step, and log the interval that ends with it."""
        steps = self.engine.steps
        self.meter.add(step)
        self.progress.update(1, loss=f"{step.loss:.4f}")
        interval_ends = steps % self.pace.log_steps == 0 or steps == self.task.total_steps
        if not interval_ends:
            return
        to_come = [number for number in self.task.evaluation_steps if number >= steps]  # one may be due now
        interval = self.meter.end_interval(
            steps,
            step,
            data,
            seconds=self.progress.seconds(),
            steps_per_second=self.progress.speed(),
            remaining=self.progress.eta(evaluations=len(to_come)),
        )
        logger.info("%s", self.task.line(interval))
        if self.records is not None:
            self.records.append(self.task.record(interval))


@contextmanager
def out_of_memory_is_a_user_error(advice: str) -> Iterator[None]:
    """Turn the error of a card whose memory is full into a one-line `UserError`.

    Args:
        advice: what to lower.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:  # Paddle's own, CUDA's, a library's
        if "out of memory" not in str(error).lower():
            raise
        raise UserError(
            f"the memory of {paddle.device.get_device()} is full: {advice}; or another program uses the card "
            "(nvidia-smi shows it)"
        ) from error
