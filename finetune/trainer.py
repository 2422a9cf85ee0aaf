"""The loop of every fine-tuning task: steps, log lines, evaluations, the best step, checkpoints."""

import contextlib
import gc
import math
import shlex
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from paddle import Tensor, nn

from finetune import report
from finetune.flags import TrainingFlags
from finetune.run_folder import SELECTED, bring_best, owned_by, step_to_resume, weights_of
from finetune.setup import begin
from model.checkpoint.folder import save_model
from model.checkpoint.read import Checkpoint
from model.checkpoint.step_folders import keep_last
from model.config import ErnieMConfig
from reader.tokenization import Tokenizer
from training import distributed
from training.engine import Engine, Step
from training.guard import StallWatch, StopSignal
from training.prefetch import prefetch
from utils.command_line import log_no_effect
from utils.files import write_json
from utils.logging import Progress, logger
from utils.options import deciding

STALL_SECONDS = 60.0  # after which a step, an evaluation or a checkpoint is mentioned in the log
Scores = dict[str, dict[str, dict[str, float]]]  # pattern -> language -> metric -> per cent


@dataclass
class Evaluation:
    """The result of an evaluation after a step; checkpoints and selected.json store it.

    `selected_by` is the score that selects the best step; larger is better.
    """

    step: int
    epoch: int
    selected_by: float
    scores: Scores


class Training:
    """Data, loss and evaluation of one seed; a subclass defines the methods.

    Attributes:
        config, tokenizer: are saved with the model.
        seed, total_steps: seed of everything that is random, and number of optimizer steps.
        evaluations: steps after which the model is evaluated, in ascending order.
        divisible: whether the processes may abandon a step at different micro-batches.
        measured: how the log shows "correct" / "count".
        settings: keys to add to config.json: "task", "labels", "reading".
        facts: values for the model card.
    """

    divisible = True
    measured = "ave acc: %f"
    config: ErnieMConfig
    tokenizer: Tokenizer
    seed: int
    total_steps: int
    evaluations: list[int]
    settings: dict[str, Any]
    facts: dict[str, Any]

    def stream(self, position: Any) -> Callable[[], Iterator[Any]]:
        """Return a function for `prefetch` that yields this process's share of each step (`.micro_batches`).

        It starts at a position that `after` returned, or at the beginning if that is None.
        """
        raise NotImplementedError

    def after(self, work: Any) -> Any:
        """The position after a step, a JSON value."""
        raise NotImplementedError

    def place(self, work: Any) -> str:
        """The beginning of a log line: the progress within the epoch."""
        return ""

    def send(self, model: nn.Layer, micro_batches: list[Any]) -> list[Any]:
        """Send the micro-batches of a step to the device in one copy; return what `loss` takes."""
        raise NotImplementedError

    def loss(self, model: nn.Layer, micro_batch: Any) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The loss divided by the count of the whole step, and `finetune.setup.SUMS`."""
        raise NotImplementedError

    def evaluate(self, engine: Engine, stop: StopSignal) -> Evaluation | None:
        """Score the model. None if any process was asked to stop."""
        raise NotImplementedError


class FineTuningRun:
    """A command: it runs every seed in turn, each from where it stopped, and reports them together.

    A subclass reads and checks all files when it is made, and defines the three methods.
    """

    def __init__(self, flags: TrainingFlags):
        begin(flags.use_cuda)
        log_no_effect(flags)
        self.flags, self.seeds = flags, flags.seeds

    def identity(self) -> dict[str, Any]:
        """What makes two runs the same, from `identity_of`."""
        raise NotImplementedError

    def run_seed(self, seed: int, folder: Path, identity: dict[str, Any]) -> Any:
        """Train and evaluate a seed; return what `report` needs, or None."""
        raise NotImplementedError

    def report(self, records: dict[int, Any]) -> tuple[str, list[report.Table], dict[str, Any]]:
        """Name of the files, tables, and facts for the JSON file, from what `run_seed` returned."""
        raise NotImplementedError

    def identity_of(
        self, task: str, starts: Iterable[Checkpoint], config: ErnieMConfig, tokenizer: Tokenizer, **more: Any
    ) -> dict:
        """The flags that decide what is learned, the model and digests: JSON values."""
        flags = deciding(self.flags) | {"random_seed": list(self.flags.seeds)}
        settings = {"task": task, **flags, **more, "weights": weights_of(self.flags, starts)}
        return {**settings, "model": config.to_dict(), "vocabulary": tokenizer.digest}

    def run(self) -> None:
        """Run every seed, and write the report into --checkpoints."""
        flags, records = self.flags, {}
        identity = self.identity() if flags.do_train else {}
        with owned_by(flags, identity) if flags.do_train else contextlib.nullcontext():
            for seed in self.seeds:
                folder = Path(flags.checkpoints, f"seed_{seed}" if len(self.seeds) > 1 else "")
                if (record := self.run_seed(seed, folder, identity)) is not None:
                    records[seed] = record
                gc.collect()  # the model and its moments, before those of the next seed are made
            if records:
                name, tables, facts = self.report(records)
                logger.info("results\n%s", report.to_text(tables))
                if distributed.is_main():
                    report.write_report(Path(flags.checkpoints), name, tables, facts)


class FineTuningTrainer:
    """Trains one seed, from the step where it stopped.

    Args:
        make: makes the training and the engine, with the weights of a step folder or, for None, those of the
            flags.
        identity: identity of the run; every step folder stores it.
        folder: receives step_N and best.
    """

    def __init__(
        self, make: Callable[[Path | None], tuple[Training, Engine]], identity: Mapping[str, Any],
        folder: Path, flags: TrainingFlags,
    ):  # fmt: skip
        self.identity, self.folder, self.flags = identity, folder, flags
        self.position: Any = None  # in the training data
        self.evaluated = -1  # the last step that was evaluated
        self.best: Evaluation | None = None
        self.latest: Evaluation | None = None
        self.window: dict[str, float] = {}  # sums since the last log line
        self.saved: tuple[int, int] | None = None  # steps and last evaluated step of the newest step folder
        start = step_to_resume(folder, identity, flags.init_checkpoint)
        self.training, self.engine = make(start[0] if start else None)
        if start:
            self._resume(*start)

    def _resume(self, step: Path, saved: dict[str, Any]) -> None:
        self.engine.load_state_dict(saved["engine"])
        state = saved["state"]
        self.position, self.evaluated, self.window = state["position"], state["evaluated"], state["window"]
        self.best = Evaluation(**state["best"]) if state["best"] else None
        if self.best and not bring_best(self.folder, step, self.best.step):
            logger.warning("%s is not the best so far: selection starts anew", step.parent / "best")
            self.best, self.evaluated = None, -1
        self.saved = (self.engine.steps, self.evaluated)
        logger.info("resumed from %s: step %d of %d", step, self.engine.steps, self.training.total_steps)

    def run(self) -> None:
        """Train to the last step.

        Raises:
            SystemExit: 130 after Ctrl-C, 0 after SIGTERM; a checkpoint is saved first.
        """
        engine, training, total = self.engine, self.training, self.training.total_steps
        self.progress = Progress(total, "training", engine.steps, unit="steps", lines=False)
        loss = partial(training.loss, engine.model)
        stopped, divisible = False, training.divisible
        with (
            StopSignal() as stop,
            StallWatch(STALL_SECONDS, self.flags.stall_ends_seconds) as stalls,
            prefetch(training.stream(self.position)) as stream,
        ):
            while True:
                # Before the step, so that a resumed run repeats an evaluation that was interrupted.
                if not stopped and engine.steps in training.evaluations and self.evaluated < engine.steps:
                    with stalls.during(f"the evaluation after step {engine.steps}"):
                        stopped = not self._evaluate(stop)
                if engine.steps == total:
                    stopped = stopped or stop.anywhere()
                ends = stopped or engine.steps == total
                if engine.steps and (ends or engine.steps % self.flags.save_steps == 0):
                    with stalls.during(f"the checkpoint of step {engine.steps}"):
                        self._save_step()
                if ends:
                    break
                with stalls.during(f"reading for step {engine.steps + 1}"):
                    work = stream.next_unless(stop if divisible else None)
                with engine.autocast():
                    micro_batches = [] if work is None else training.send(engine.model, work.micro_batches)
                with stalls.during(f"step {engine.steps + 1}"):
                    step = engine.step(micro_batches, loss, stop, divisible)
                if step is None:  # abandoned, because a process was asked to stop
                    stopped = True
                else:
                    self.position = training.after(work)
                    self._log(step, work)
        self.progress.close()
        if stopped:
            logger.info("stopped at step %d of %d; the same command goes on from there", engine.steps, total)
            stop.exit_as_asked()
            raise SystemExit(0)
        if self.best is not None and distributed.is_main():
            write_json(self.folder / SELECTED, asdict(self.best))

    def _evaluate(self, stop: StopSignal) -> bool:
        """Evaluate, and save the weights if they are the best so far. False: a process was asked to stop."""
        with self.progress.evaluation():
            found = self.training.evaluate(self.engine, stop)
        if found is None:
            return False
        self.latest, self.evaluated = found, found.step
        if self.best is None or found.selected_by > self.best.selected_by:
            self.best = found
            logger.info("best so far: %.2f at step %d", found.selected_by, found.step)
            self._save(self.folder / "best", None)
        return True

    def _log(self, step: Step, work: Any) -> None:
        """Add a step to the window; at the end of the window log the means over it."""
        window, engine, training = self.window, self.engine, self.training
        if not step.skipped:  # steps that are not finite have no mean
            for name, value in {"steps": 1, "loss": step.loss, **step.sums}.items():
                window[name] = window.get(name, 0.0) + value
        self.progress.update(1, loss=f"{step.loss:.4f}")
        if engine.steps % self.flags.skip_steps and engine.steps != training.total_steps:
            return
        loss = window["loss"] / window["steps"] if window else math.nan
        share = window["correct"] / max(window["count"], 1) if window else math.nan
        to_come = len(training.evaluations) - bisect_left(training.evaluations, engine.steps)
        logger.info(
            f"%sstep: %d/%d, ave loss: %f, {training.measured}, lr: %.3e, grad norm: %.3f, "
            "speed: %.3f steps/s, %s left",
            training.place(work), engine.steps, training.total_steps, loss, share, step.lr, step.grad_norm,
            self.progress.speed(), self.progress.eta(to_come),
        )  # fmt: skip
        window.clear()

    def _save_step(self) -> None:
        """Write step_N with everything that a resumed run needs, unless it is there."""
        if self.saved == (self.engine.steps, self.evaluated):
            return
        state = {
            "position": self.position, "evaluated": self.evaluated, "best": self.best and asdict(self.best),
            "window": self.window,
        }  # fmt: skip
        path = self.folder / f"step_{self.engine.steps}"
        identity = {"run": self.identity, "seed": self.training.seed}
        self._save(path, {"engine": self.engine.state_dict(), "state": state, **identity})
        self.saved = (self.engine.steps, self.evaluated)
        if distributed.is_main():
            # --init_checkpoint stays, so that the same command can be given again.
            keep_last(self.folder, self.flags.keep_checkpoints, keep=(self.flags.init_checkpoint or path,))
        logger.info("saved %s", path)

    def _save(self, path: Path, training_state: dict[str, Any] | None) -> None:
        steps, training, latest = self.engine.steps, self.training, self.latest
        facts = {**training.facts, "steps": steps, "seed": training.seed, "command": shlex.join(sys.argv)}
        if latest is not None and latest.step == steps:
            facts["scores"] = {
                f"{metric}, {pattern}": {language: found[metric] for language, found in by_language.items()}
                for pattern, by_language in latest.scores.items()
                for metric in next(iter(by_language.values()))
            }
        if distributed.is_main():
            save_model(
                path, self.engine.model, training.config, vocab_path=training.tokenizer.vocab_path,
                piece_model_path=training.tokenizer.piece_model_path, facts=facts,
                settings={**training.settings, "step": steps}, training_state=training_state,
            )  # fmt: skip
        distributed.barrier()
