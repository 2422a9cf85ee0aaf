"""Training of a task with labelled files: classification, tagging, question answering."""

import argparse
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from paddle import Tensor, nn

from finetune.datasets import EvalFile
from finetune.evaluation import evaluate
from finetune.metrics import average
from finetune.task import Task
from finetune.trainer import Evaluation
from reader.batching import Batches, GlobalBatch
from training import distributed
from training.engine import Engine
from training.guard import StopSignal
from utils.logging import logger

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
