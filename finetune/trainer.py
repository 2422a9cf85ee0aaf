"""The training loop of every fine-tuning task: steps, evaluations, the best step, checkpoints."""

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from finetune.datasets import EvalFile
from finetune.evaluation import evaluate
from finetune.metrics import average
from finetune.task import Task
from model.checkpoint import keep_last, save_model
from model.ernie_m import ErnieMConfig
from reader.batching import Batches, GlobalBatch
from reader.tokenization import Tokenizer
from training import distributed
from training.engine import Engine, Step
from training.guard import StopSignal
from training.prefetch import prefetch
from utils.logging import Progress, Scalars, logger

# Values of --select_on beside the languages. LAST: dev files are scored at the end alone, and decide nothing.
MEAN, LAST = "mean", "last"

Scores = dict[str, dict[str, dict[str, float]]]  # pattern -> language -> metric -> per cent


@dataclass
class Record:
    """One evaluation."""

    step: int
    epoch: int
    selected_by: float  # the score that selects
    scores: Scores


@dataclass
class State:
    """Where a run stands, beside weights and engine: what a resumed run goes on from.

    `epoch` and `index` are those of the next global batch.
    """

    seed: int
    epoch: int = 0
    index: int = 0
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
        steps_of_epoch: optimiser steps in each epoch.
        total_steps: optimiser steps in all, from the first epoch on.
        flags: what a checkpoint must share with the run that resumes it.
        folder: gets step_N and best.
        facts: for the model cards.
    """

    args: argparse.Namespace
    task: Task
    config: ErnieMConfig
    tokenizer: Tokenizer
    engine: Engine
    batches: Batches
    dev_files: Sequence[EvalFile]
    steps_of_epoch: list[int]
    total_steps: int
    folder: Path
    flags: dict[str, Any]
    facts: dict[str, Any]
    state: State

    def train(self) -> None:
        """Train from `self.state` to `total_steps`.

        Raises:
            KeyboardInterrupt: SIGTERM or Ctrl-C came; a checkpoint was saved first.
        """
        args, engine, state = self.args, self.engine, self.state
        self.latest: Record | None = None
        self.scalars = Scalars(self.folder / "visualdl")
        self.progress = Progress(self.total_steps, "training", engine.steps, unit="steps", lines=False)
        make_batches = partial(self.batches.stream, args.epoch, state.epoch, state.index)
        with prefetch(make_batches) as stream, StopSignal() as stop:
            for batch in stream:
                if engine.steps == self.total_steps:
                    break
                step = engine.step(batch.micro_batches, self._loss)
                epoch_ends = batch.index + 1 == self.steps_of_epoch[batch.epoch]
                state.epoch, state.index = (batch.epoch + epoch_ends, 0 if epoch_ends else batch.index + 1)
                self._log(step, batch)
                end = engine.steps == self.total_steps
                due = epoch_ends or engine.steps % args.validation_steps == 0
                if self.dev_files and (end or (due and args.select_on != LAST)):
                    self._evaluate(batch.epoch)
                stopped = stop.anywhere()  # at the end too: other seeds may follow
                if engine.steps % args.save_steps == 0 or end or stopped:
                    self._save_step()
                if stopped:
                    logger.info("stopped; go on with --init_checkpoint %s", engine.last_checkpoint)
                    raise KeyboardInterrupt
        self.progress.close()
        self.scalars.close()

    def _loss(self, batch: Any) -> tuple:
        return self.task.loss(self.engine.model, batch)

    def _log(self, step: Step, batch: GlobalBatch) -> None:
        """Add the step to the window; at its end a line with means over the window."""
        window, every = self.state.window, self.args.skip_steps
        if not step.skipped:
            for name, value in {"steps": 1, "loss": step.loss, **step.sums}.items():
                window[name] = window.get(name, 0.0) + value
        self.progress.update(1, loss=f"{step.loss:.4f}")
        if self.engine.steps % every and self.engine.steps != self.total_steps:
            return
        loss = window.get("loss", 0.0) / max(window.get("steps", 0), 1)
        correct = window.get("correct", 0.0) / max(window.get("count", 0), 1)
        examples = len(self.batches.examples)
        logger.info(
            "epoch: %d, progress: %d/%d, step: %d/%d, ave loss: %f, ave acc: %f, lr: %.3e, grad norm: %.3f, "
            "speed: %.3f steps/s, %s left",
            batch.epoch, round((batch.index + 1) / self.steps_of_epoch[batch.epoch] * examples), examples,
            self.engine.steps, self.total_steps, loss, correct, step.lr,
            step.grad_norm, self.progress.speed(), self.progress.eta(),
        )  # fmt: skip
        values = {"loss": loss, "acc": correct, "lr": step.lr, "grad_norm": step.grad_norm}
        self.scalars.add(self.engine.steps, {f"train/{name}": value for name, value in values.items()})
        window.clear()

    def _evaluate(self, epoch: int) -> None:
        """Score all files; the first pattern decides whether this step is the best so far."""
        args, engine, state = self.args, self.engine, self.state
        scores = evaluate(
            self.task,
            engine,
            self.dev_files,
            args.predict_batch_size or args.batch_size,
            args.in_tokens,
            epoch,
        )
        first = {lang: metrics[self.task.metric] for lang, metrics in next(iter(scores.values())).items()}
        decides = average(first) if args.select_on in (MEAN, LAST) else first[args.select_on]
        for pattern, by_language in scores.items():
            path = Path(pattern)  # dev.%s.tsv and dev/%s.tsv: the curves of "dev"
            name = path.name.split("%s")[0].rstrip("._-") or path.parent.name
            curves = {f"{name}/{lang}": found[self.task.metric] for lang, found in by_language.items()}
            self.scalars.add(engine.steps, curves)
        self.latest = Record(engine.steps, epoch, decides, scores)
        if state.best is None or decides > state.best.selected_by:
            state.best = self.latest
            logger.info("best so far: %.2f at step %d", decides, engine.steps)
            self._save(self.folder / "best", None)

    def _save_step(self) -> None:
        """step_N with everything a resumed run needs."""
        # On every process: with sharded moments they are collected here.
        state = {
            "engine": self.engine.state_dict(),
            "run": dataclasses.asdict(self.state),
            "flags": self.flags,
        }
        path = self.folder / f"step_{self.engine.steps}"
        self._save(path, state)
        self.engine.last_checkpoint = str(path)
        if distributed.is_main():
            # Kept by name: an earlier run may have left steps of higher numbers in the folder.
            keep_last(self.folder, self.args.keep_checkpoints, keep=(path,))
        logger.info("saved %s", path)

    def _save(self, path: Path, training_state: dict | None) -> None:
        latest, steps = self.latest, self.engine.steps
        facts = {
            **self.facts, "steps": steps, "seed": self.state.seed, "command": shlex.join(sys.argv),
        }  # fmt: skip
        if latest is not None and latest.step == steps:
            facts["scores"] = {
                f"{metric}, {pattern}": {language: found[metric] for language, found in by_language.items()}
                for pattern, by_language in latest.scores.items()
                for metric in next(iter(by_language.values()))
            }
        extra = {"task": self.task.name, "labels": self.task.labels, "step": steps}
        if reading := self.task.reading():
            extra["reading"] = reading
        if distributed.is_main():
            save_model(
                path, self.engine.model, self.config, vocab_path=self.tokenizer.vocab_path,
                piece_model_path=self.tokenizer.piece_model_path, extra=extra, facts=facts,
                training_state=training_state,
            )  # fmt: skip
        distributed.barrier()
