"""The loop that fine-tunes every task: steps, log lines, evaluations, the best step, checkpoints."""

import argparse
import dataclasses
import math
import shlex
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from paddle import Tensor, nn

from finetune.datasets import EvalFile
from finetune.evaluation import evaluate
from finetune.report import average
from finetune.run_folder import bring_best
from finetune.task import Task
from model.checkpoint.folder import keep_last, save_model
from model.ernie_m import ErnieMConfig
from reader.batching import Batches, GlobalBatch
from reader.tokenization import Tokenizer
from training import distributed
from training.engine import Engine, Step
from training.guard import StopSignal
from training.prefetch import prefetch
from training.progress import RemainingTime
from utils.logging import Progress, Scalars, logger

Scores = dict[str, dict[str, dict[str, float]]]  # pattern -> language -> metric -> per cent
SUMS = ("correct", "count")  # what `Training.loss` returns beside the loss, summed over a step


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        epoch: of the last step.
        selected_by: the score that selects the best step; larger is better.
        scores: everything that was measured.
        curves: name -> value, for VisualDL.
    """

    epoch: int
    selected_by: float
    scores: Scores
    curves: dict[str, float]


class Training(Protocol):
    """Data, loss and evaluation of one seed: `finetune.trainer.Supervised` or `RetrievalTraining`.

    Attributes:
        seed: of everything that is random.
        total_steps: optimiser steps from the first one to the end.
        evaluations: the numbers of steps after which the model is evaluated, in ascending order.
        divisible: a step may be given up between two micro-batches, on each process at another one.
        measured: the name of the curve of "correct" / "count", and its form in the log.
        settings: more keys for config.json: "task", "labels", "reading".
        facts: for the model cards.
    """

    seed: int
    total_steps: int
    evaluations: list[int]
    divisible: bool
    measured: tuple[str, str]
    settings: dict[str, Any]
    facts: dict[str, Any]

    def stream(self, position: Any) -> Callable[[], Iterator[Any]]:
        """A function for `prefetch` that yields this process's share of each step, with `.micro_batches`.

        Args:
            position: what `after` returned for the last step that was done; None: start at the beginning.
        """

    def after(self, work: Any) -> Any:
        """The position after a step, a JSON value."""

    def place(self, work: Any) -> str:
        """How far the epoch is, as the line of the log begins."""

    def loss(self, model: nn.Layer, micro_batch: Any) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The loss divided by the count of the whole step, and `SUMS`."""

    def evaluate(self, engine: Engine, stop: StopSignal) -> Evaluation | None:
        """Score the model; None if any process was asked to stop, on all processes alike."""


@dataclass
class Record:
    """One evaluation."""

    step: int
    epoch: int
    selected_by: float  # the score that selects
    scores: Scores


@dataclass
class State:
    """Where a run is, beside weights and engine: what a resumed run goes on from."""

    position: Any = None  # in the training data
    evaluated: int = -1  # the last step that was evaluated
    best: Record | None = None
    window: dict[str, float] = field(default_factory=dict)  # sums since the last line of the log

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "State":
        """Read back what `dataclasses.asdict` gave."""
        best = values["best"]
        return cls(**{**values, "best": None if best is None else Record(**best)})


@dataclass
class Trainer:
    """One run with one seed.

    Args:
        flags: `save_steps`, `skip_steps` and `keep_checkpoints` are read.
        engine: of the model; its `sums` are `SUMS`.
        config, tokenizer: are saved with the model.
        run: what makes two runs the same (`finetune.run_folder`); every step folder holds it.
        folder: gets step_N and best.
    """

    flags: Any
    training: Training
    engine: Engine
    config: ErnieMConfig
    tokenizer: Tokenizer
    run: dict[str, Any]
    folder: Path
    state: State = field(default_factory=State)
    saved: tuple[int, int] | None = None  # steps and last evaluated step of the newest step folder
    latest: Record | None = None

    def resume(self, step: Path, saved: dict[str, Any]) -> None:
        """Continue from a step folder whose weights are loaded; `saved` is its training state."""
        self.engine.load_state_dict(saved["engine"])
        self.engine.set_last_checkpoint(step)
        self.state = State.from_dict(saved["state"])
        self.saved = (self.engine.steps, self.state.evaluated)
        if not bring_best(self.folder, step, self.state.best and self.state.best.step):
            self.state.best = None
        logger.info("resumed from %s: step %d of %d", step, self.engine.steps, self.training.total_steps)

    def train(self) -> None:
        """Train to the last step.

        Raises:
            SystemExit: after Ctrl-C with 130, after SIGTERM with 0; a checkpoint was saved first.
        """
        engine, state, training, flags = self.engine, self.state, self.training, self.flags
        total = training.total_steps
        self.scalars = Scalars(self.folder / "visualdl")
        self.progress = Progress(total, "training", engine.steps, unit="steps", lines=False)
        self.remaining = RemainingTime(total, engine.steps)
        with StopSignal() as stop, prefetch(training.stream(state.position)) as stream:
            work = None
            while True:
                # Before the step, so that a resumed run takes up an evaluation that was broken off.
                if engine.steps in training.evaluations and state.evaluated < engine.steps:
                    with self.remaining.evaluation():
                        evaluation = training.evaluate(engine, stop)
                    if evaluation is not None:
                        self._keep_if_best(evaluation)
                if work is None and engine.steps < total:
                    work = stream.next_unless(stop)
                stopped = stop.anywhere()
                ends = stopped or engine.steps == total
                due = engine.steps > 0 and (ends or engine.steps % flags.save_steps == 0)
                if due and self.saved != (engine.steps, state.evaluated):
                    self._save_step()
                if ends:
                    break
                loss, may_end = partial(training.loss, engine.model), stop if training.divisible else None
                step = engine.step(work.micro_batches, loss, may_end)
                if step is None:  # given up half way: a process was asked to stop
                    continue
                state.position = training.after(work)
                self._log(step, work)
                work = None
        self.progress.close()
        self.scalars.close()
        if stopped:
            logger.info("stopped at step %d of %d; the same command goes on from there", engine.steps, total)
            stop.exit_as_asked()
            raise SystemExit(0)

    def _log(self, step: Step, work: Any) -> None:
        """Add the step to the window; at its end a line with means over the window."""
        window, engine, total = self.state.window, self.engine, self.training.total_steps
        if not step.skipped:
            for name, value in {"steps": 1, "loss": step.loss, **step.sums}.items():
                window[name] = window.get(name, 0.0) + value
        self.progress.update(1, loss=f"{step.loss:.4f}")
        if engine.steps % self.flags.skip_steps and engine.steps != total:
            return
        # Steps that are not finite are skipped; a window of such steps alone has no mean.
        loss = window["loss"] / window["steps"] if window else math.nan
        share = window["correct"] / max(window["count"], 1) if window else math.nan
        curve, form = self.training.measured
        to_come = self.training.evaluations[bisect_left(self.training.evaluations, engine.steps) :]
        logger.info(
            f"%sstep: %d/%d, ave loss: %f, {form}, lr: %.3e, grad norm: %.3f, speed: %.3f steps/s, %s left",
            self.training.place(work), engine.steps, total, loss, share, step.lr, step.grad_norm,
            self.progress.speed(), self.remaining.eta(engine.steps, len(to_come)),
        )  # fmt: skip
        if window:
            values = {"loss": loss, curve: share, "lr": step.lr, "grad_norm": step.grad_norm}
            self.scalars.add(engine.steps, {f"train/{name}": value for name, value in values.items()})
        window.clear()

    def _keep_if_best(self, evaluation: Evaluation) -> None:
        """Note an evaluation, and save the weights if it is the best so far."""
        state, steps = self.state, self.engine.steps
        state.evaluated = steps
        self.latest = Record(steps, evaluation.epoch, evaluation.selected_by, evaluation.scores)
        self.scalars.add(steps, evaluation.curves)
        if state.best is None or evaluation.selected_by > state.best.selected_by:
            state.best = self.latest
            logger.info("best so far: %.2f at step %d", evaluation.selected_by, steps)
            self._save(self.folder / "best", None)

    def _save_step(self) -> None:
        """step_N with everything a resumed run needs."""
        # On every process: with sharded moments they are collected here.
        state = {
            "engine": self.engine.state_dict(), "state": dataclasses.asdict(self.state), "run": self.run,
            "seed": self.training.seed,
        }  # fmt: skip
        path = self.folder / f"step_{self.engine.steps}"
        self._save(path, state)
        self.engine.set_last_checkpoint(path)
        self.saved = (self.engine.steps, self.state.evaluated)
        if distributed.is_main():
            # What the command names must still be there when the same command is given again.
            named = (self.flags.init_checkpoint,) if self.flags.init_checkpoint else ()
            keep_last(self.folder, self.flags.keep_checkpoints, keep=named)
        logger.info("saved %s", path)

    def _save(self, path: Path, training_state: dict[str, Any] | None) -> None:
        steps, latest = self.engine.steps, self.latest
        facts = {
            **self.training.facts, "steps": steps, "seed": self.training.seed, "command": shlex.join(sys.argv)
        }  # fmt: skip
        if latest is not None and latest.step == steps:
            facts["scores"] = {
                f"{metric}, {pattern}": {language: found[metric] for language, found in by_language.items()}
                for pattern, by_language in latest.scores.items()
                for metric in next(iter(by_language.values()))
            }
        if distributed.is_main():
            save_model(
                path, self.engine.model, self.config, vocab_path=self.tokenizer.vocab_path,
                piece_model_path=self.tokenizer.piece_model_path, facts=facts,
                extra={**self.training.settings, "step": steps}, training_state=training_state,
            )  # fmt: skip
        distributed.barrier()


# Training of a task with labelled files: classification, tagging, question answering.

# Values of --select_on beside the languages. LAST: dev files are scored at the end alone, and decide nothing.
MEAN, LAST = "mean", "last"


class Supervised:
    """`finetune.trainer.Training` of one seed on the files that the flags name."""

    divisible = True
    measured = ("acc", "ave acc: %f")

    def __init__(
        self,
        args: argparse.Namespace,
        task: Task,
        train_set: Sequence[Any],
        dev_files: Sequence[EvalFile],
        seed: int,
    ):
        self.args, self.task, self.dev_files, self.seed = args, task, dev_files, seed
        world = distributed.world_size()
        self.batches = Batches(
            train_set, task.encode, global_batch(args), args.batch_size, args.in_tokens, args.shuffle, seed,
            distributed.rank(), world,
        )  # fmt: skip
        if args.in_tokens:
            logger.info("counting the tokens of %d examples", len(train_set))
        self.steps_of_epoch = [self.batches.count(epoch) for epoch in range(args.epoch)]
        self.total_steps = min(sum(self.steps_of_epoch), args.max_steps or sum(self.steps_of_epoch))
        self.ends = list(accumulate(self.steps_of_epoch))  # the step that each epoch ends with
        self.evaluations: list[int] = []
        if dev_files:
            regular = {*range(args.validation_steps, self.total_steps, args.validation_steps), *self.ends}
            due = {step for step in regular if step < self.total_steps and args.select_on != LAST}
            self.evaluations = sorted(due | {self.total_steps})
        logger.info(
            "seed %d: %d examples, %d optimiser steps of %d %s (batch %d x accumulation %d x processes %d)",
            seed, len(train_set), self.total_steps, global_batch(args),
            "tokens" if args.in_tokens else "examples", args.batch_size, args.gradient_accumulation_steps,
            world,
        )  # fmt: skip
        self.settings: dict[str, Any] = {"task": task.name, "labels": task.labels}
        if reading := task.reading():
            self.settings["reading"] = reading
        languages = list(dict.fromkeys(file.language for file in dev_files))
        self.facts = {
            "name": f"ERNIE-M, {task.name}", "task": task.name, "data": args.train_set,
            "languages": languages or None,
            "initialised_from": args.init_checkpoint or args.init_pretraining_params or "random weights",
            "epochs": None if args.max_steps else args.epoch,
            "selected_by": f"{task.metric}, {args.select_on}, {dev_files[0].pattern}" if dev_files else None,
        }  # fmt: skip

    def stream(self, position: Any) -> Callable[[], Iterator[GlobalBatch]]:
        epoch, index = position or (0, 0)
        return partial(self.batches.stream, self.args.epoch, epoch, index)

    def after(self, work: GlobalBatch) -> list[int]:
        return [work.epoch, work.index + 1]

    def place(self, work: GlobalBatch) -> str:
        examples = len(self.batches.examples)
        done = round((work.index + 1) / self.steps_of_epoch[work.epoch] * examples)
        return f"epoch: {work.epoch}, progress: {done}/{examples}, "

    def loss(self, model: nn.Layer, micro_batch: Any) -> tuple[Tensor, dict[str, Tensor | float]]:
        return self.task.loss(model, micro_batch)

    def evaluate(self, engine: Engine, stop: StopSignal) -> Evaluation | None:
        """Score all files; the first pattern decides whether this step is the best so far."""
        args, metric = self.args, self.task.metric
        size, epoch = args.predict_batch_size or args.batch_size, bisect_left(self.ends, engine.steps)
        scores = evaluate(self.task, engine, self.dev_files, size, args.in_tokens, epoch, stop)
        if scores is None:
            return None
        first = {language: found[metric] for language, found in next(iter(scores.values())).items()}
        selected_by = average(first) if args.select_on in (MEAN, LAST) else first[args.select_on]
        curves = {}
        for pattern, by_language in scores.items():
            path = Path(pattern)  # dev.%s.tsv and dev/%s.tsv: the curves of "dev"
            name = path.name.split("%s")[0].rstrip("._-") or path.parent.name
            curves |= {f"{name}/{language}": found[metric] for language, found in by_language.items()}
        return Evaluation(epoch, selected_by, scores, curves)


def global_batch(args: argparse.Namespace) -> int:
    """Examples (padded tokens with --in_tokens) of a step, over all processes."""
    return args.batch_size * args.gradient_accumulation_steps * distributed.world_size()
