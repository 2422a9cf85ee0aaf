"""Fine-tuning on labelled files: classification, tagging, question answering."""

import argparse
import json
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from paddle import Tensor, nn

from finetune import report
from finetune.datasets import EvalFile, open_files
from finetune.evaluation import evaluate, predict_files
from finetune.run_folder import digest_of_files, has_state, identity, weights_of
from finetune.runs import SELECTED, fine_tune, read_record, run_command
from finetune.setup import make_engine, make_model, make_tokenizer, model_config
from finetune.task import Task
from finetune.trainer import Evaluation, stall_watch
from model.checkpoint.folder import load_from
from model.config import ErnieMConfig
from reader.batching import Batches, GlobalBatch
from reader.classification import read_languages
from reader.tokenization import Tokenizer
from training import distributed
from training.engine import Engine
from training.guard import StopSignal
from utils.args import deciding, log_unused, to_yaml
from utils.errors import UserError
from utils.files import atomic_file
from utils.logging import logger

# Values of --select_on beside the languages. LAST: the dev files are scored only at the end.
MEAN, LAST = "mean", "last"


class SupervisedTraining:
    """`finetune.trainer.Training` of one seed on labelled files."""

    divisible = True
    measured = ("acc", "ave acc: %f")

    def __init__(
        self, args: argparse.Namespace, task: Task, config: ErnieMConfig, tokenizer: Tokenizer,
        train_set: Sequence[Any], dev_files: Sequence[EvalFile], seed: int,
    ):  # fmt: skip
        self.args, self.task, self.dev_files, self.seed = args, task, dev_files, seed
        self.config, self.tokenizer = config, tokenizer
        world = distributed.world_size()
        self.batches = Batches(
            train_set, task.encode, global_batch(args), args.batch_size, args.in_tokens, args.shuffle, seed,
            distributed.rank(), world,
        )  # fmt: skip
        if args.in_tokens:
            logger.info("counting the tokens of %d examples", len(train_set))
        self.steps_of_epoch = [self.batches.count(epoch) for epoch in range(args.epoch)]
        self.total_steps = min(sum(self.steps_of_epoch), args.max_steps or sum(self.steps_of_epoch))
        self.ends = list(accumulate(self.steps_of_epoch))  # the last step of each epoch
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

    def evaluate(self, engine: Engine, stop: StopSignal) -> tuple[Evaluation, dict[str, float]] | None:
        """Score all files; the first pattern selects the best step."""
        args, metric = self.args, self.task.metric
        size, epoch = args.predict_batch_size or args.batch_size, bisect_left(self.ends, engine.steps)
        scores = evaluate(self.task, engine, self.dev_files, size, args.in_tokens, epoch, stop)
        if scores is None:
            return None
        first = {language: found[metric] for language, found in next(iter(scores.values())).items()}
        selected_by = report.average(first) if args.select_on in (MEAN, LAST) else first[args.select_on]
        curves = {}
        for pattern, by_language in scores.items():
            path = Path(pattern)  # "dev" is the name of the curves of both dev.%s.tsv and dev/%s.tsv
            name = path.name.split("%s")[0].rstrip("._-") or path.parent.name
            curves |= {f"{name}/{language}": found[metric] for language, found in by_language.items()}
        return Evaluation(engine.steps, epoch, selected_by, scores), curves


def global_batch(args: argparse.Namespace) -> int:
    """Examples (padded tokens with --in_tokens) of a step, over all processes."""
    return args.batch_size * args.gradient_accumulation_steps * distributed.world_size()


def check_flags(args: argparse.Namespace) -> None:
    """Refuse flags that do not go together, before any file is read."""
    if not (args.do_train or args.do_val or args.do_test):
        raise UserError("--do_train, --do_val and --do_test are all false: there is nothing to do")
    if not (args.do_train or args.init_checkpoint):
        raise UserError("--init_checkpoint is needed with --do_train false: the fine-tuned model")
    needs = {"do_train": ["train_set"], "do_val": ["dev_set"], "do_test": ["test_set", "test_save"]}
    for asked, needed in needs.items():
        for name in needed:
            if getattr(args, asked) and not getattr(args, name):
                raise UserError(f"--{name} is needed with --{asked} true")
    if args.xtreme_save and not (args.do_test and args.lang_map_config and "," not in args.test_set):
        raise UserError(
            "--xtreme_save needs --do_test true, one pattern in --test_set, and --lang_map_config for names"
        )
    report.check_recipe(args.paper)
    if args.do_test and len(args.test_set.split(",")) != len(args.test_save.split(",")):
        raise UserError("--test_set and --test_save must name the same number of patterns")
    if args.in_tokens and args.batch_size < args.max_seq_len:
        raise UserError(
            f"--batch_size {args.batch_size}: with --in_tokens true it counts tokens; give at least "
            f"--max_seq_len, {args.max_seq_len}"
        )


def run_task(args: argparse.Namespace, make_task: Callable[[argparse.Namespace, Tokenizer], Task]) -> None:
    """Fine-tune, evaluate and predict, as the flags say."""
    check_flags(args)
    run_command(args.use_cuda, lambda: SupervisedRun(args, make_task))


class SupervisedRun:
    """`finetune.runs.Run` of a task with labelled files.

    Raises:
        UserError: a flag or a file is wrong; raised before the first step.
    """

    def __init__(self, args: argparse.Namespace, make_task: Callable[[argparse.Namespace, Tokenizer], Task]):
        log_unused(args)
        self.flags = args
        self.seeds = (args.random_seed or (1,)) if args.do_train else (0,)
        self.tokenizer = make_tokenizer(args)
        self.task = task = make_task(args, self.tokenizer)
        self.config = model_config(args, self.tokenizer)
        self.train_set = task.read(args.train_set, "train") if args.do_train else []
        self.dev_files: list[EvalFile] = []
        self.test_files: list[EvalFile] = []
        languages = read_languages(args.lang_map_config) if args.lang_map_config else None
        if args.do_val:
            self.dev_files = open_files(
                args.dev_set, languages, "--dev_set", partial(task.read, purpose="dev")
            )
            known = [file.language for file in self.dev_files]
            if args.select_on not in (MEAN, LAST, *known):
                raise UserError(
                    f"--select_on {args.select_on}: {MEAN}, {LAST}, or a language of --dev_set "
                    f"({', '.join(known)})"
                )
        if args.do_test:
            read = partial(task.read, purpose="test")
            self.test_files = open_files(args.test_set, languages, "--test_set", read)
            if len({file.language for file in self.test_files}) > 1 and "%s" not in args.test_save:
                raise UserError(f"--test_save {args.test_save}: no %s in it, but there are several languages")

    def identity(self) -> dict[str, Any]:
        args, task = self.flags, self.task
        settings = {**deciding(args), "global_batch": global_batch(args), "labels": task.labels}
        return identity(
            task.name, settings, self.config, self.tokenizer,
            train_set=digest_of_files([args.train_set]),
            dev_set=digest_of_files(file.path for file in self.dev_files),
            weights=weights_of(args, self.seeds),
        )  # fmt: skip

    def flags_yaml(self) -> str:
        return to_yaml(self.flags)

    def run_seed(self, seed: int, folder: Path, run: dict[str, Any]) -> Evaluation | None:
        """Train if asked to, predict the test files, and return the scores of the dev files."""
        if self.flags.do_train:
            return self._train(seed, folder, run)
        model = make_model(self.flags, self.task, self.config, seed=0)
        engine = make_engine(self.flags, model, total_steps=1, seed=0)
        self._write_predictions(engine, ".0.0")
        if not self.dev_files:
            return None
        size = self.flags.predict_batch_size or self.flags.batch_size
        scores = evaluate(self.task, engine, self.dev_files, size, self.flags.in_tokens, epoch=0)
        return Evaluation(0, 0, 0.0, scores)

    def _train(self, seed: int, folder: Path, run: dict[str, Any]) -> Evaluation | None:
        """Train a seed, then predict the test files with the selected weights (the last ones without dev)."""
        args = self.flags
        if (folder / SELECTED).is_file() and not self.test_files:
            logger.info("seed %d is finished: %s", seed, folder / SELECTED)
            return read_record(folder)

        def make(step: Path | None):
            # A step folder as --init_checkpoint is `step`, or it belongs to another seed.
            start = None if has_state(args.init_checkpoint) else args.init_checkpoint
            of_seed = argparse.Namespace(**{**vars(args), "init_checkpoint": start})
            data = self.train_set, self.dev_files
            training = SupervisedTraining(args, self.task, self.config, self.tokenizer, *data, seed)
            model = make_model(of_seed, self.task, self.config, seed, step)
            return training, make_engine(args, model, training.total_steps, seed)

        trainer = fine_tune(args, make, run, seed, folder)
        best, engine = trainer.best, trainer.engine
        if best is not None:
            logger.info(
                "seed %d: best step %d, epoch %d: %.2f", seed, best.step, best.epoch, best.selected_by
            )
            if distributed.is_main():
                with atomic_file(folder / SELECTED, "w") as file:
                    json.dump(asdict(best), file, indent=2)
        if self.test_files:
            if best is not None and best.step != engine.steps:
                if distributed.is_main():
                    load_from(engine.model, folder / "best")
                distributed.broadcast_(engine.model.state_dict().values())
            step, epoch = (best.step, best.epoch) if best else (engine.steps, args.epoch - 1)
            self._write_predictions(engine, f".{epoch}.{step}", seed if len(self.seeds) > 1 else None)
        return best

    def _write_predictions(self, engine: Engine, suffix: str, seed: int | None = None) -> None:
        """Write --test_save, with `suffix` (.<epoch>.<step>) appended, and --xtreme_save.

        Args:
            seed: one of several; it becomes part of the names.
        """
        args, files = self.flags, self.test_files
        if not files:
            return
        suffix = suffix if seed is None else f".seed_{seed}{suffix}"
        size = args.predict_batch_size or args.batch_size
        patterns = dict(zip(dict.fromkeys(file.pattern for file in files), args.test_save.split(",")))
        with stall_watch(args) as stalls, stalls.during("the prediction of --test_set"):
            predicted = predict_files(self.task, engine, files, size, args.in_tokens, labelled=False)
        for done in predicted:
            path = patterns[done.file.pattern].strip().replace("%s", done.file.language) + suffix
            logger.info("testing %s, save to %s", done.file.path, path)
            if distributed.is_main():
                self.task.write(path, done.file.data, done.predictions)
                if args.xtreme_save:
                    ending = self.task.xtreme_ending
                    path = report.submission_file(args.xtreme_save, done.file.language, ending, seed)
                    self.task.write_xtreme(path, done.file.data, done.predictions)
        distributed.barrier()

    def report(self, records: dict[int, Evaluation]) -> tuple[str, list[report.Table], dict[str, Any]]:
        """The paper's figures are for test sets, so they are shown with the last pattern of --dev_set."""
        args, task = self.flags, self.task
        first = next(iter(records.values())).scores
        tables = []
        for pattern, by_language in first.items():
            recipe = args.paper if pattern == list(first)[-1] else None
            for metric in next(iter(by_language.values())):
                rows = {
                    seed: {language: found[metric] for language, found in record.scores[pattern].items()}
                    for seed, record in records.items()
                }
                figures = report.figures(recipe, metric, list(by_language))
                bars = metric == task.metric
                tables.append(report.Table(f"{metric}, {pattern}", rows, figures, bars))
        selected = {
            str(seed): {"step": record.step, "epoch": record.epoch, "selected_by": record.selected_by}
            for seed, record in records.items()
        }
        facts = {"task": task.name, "metric": task.metric, "select_on": args.select_on, "selected": selected}
        return "results", tables, facts
