"""Fine-tuning on labelled files: classification, tagging, question answering."""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import paddle
from paddle import Tensor, nn

from finetune import report
from finetune.flags import LAST, MEAN, FinetuneFlags
from finetune.run_folder import SELECTED, digest_of_files
from finetune.setup import make_engine, make_model, make_tokenizer, model_config, open_start, open_step
from finetune.task import Task
from finetune.trainer import STALL_SECONDS, Evaluation, FineTuningRun, FineTuningTrainer, Scores, Training
from model.checkpoint.read import open_checkpoint
from reader.batching import Batches, GlobalBatch, stream_all
from reader.task_files import expand, read_languages
from training import distributed
from training.engine import Engine
from training.guard import StallWatch, StopSignal
from training.prefetch import prefetch
from utils.errors import UserError
from utils.files import read_json
from utils.logging import Progress, logger


class EvalFile(NamedTuple):
    """The file of one language that matches a pattern such as `dev.%s.tsv`, and its items."""

    pattern: str
    language: str
    path: Path
    data: Sequence[Any]


def predict_files(
    task: Task, engine: Engine, files: Sequence[EvalFile], flags: FinetuneFlags, labelled: bool,
    stop: StopSignal | None = None,
) -> list[tuple[EvalFile, list[Any], float, float]] | None:  # fmt: skip
    """Predict every file. The processes divide each batch; every one gets all predictions.

    Args:
        labelled: whether the files have labels, so that there is a loss.
        stop: return None on all processes as soon as one of them is asked to stop.

    Returns:
        Each file, its predictions in the order of its items, the mean loss of an item, the time in seconds.
    """
    rank, world = distributed.rank(), distributed.world_size()
    size = flags.predict_batch_size or flags.batch_size  # items (padded tokens with in_tokens) per process
    how = {"shuffle": False, "rank": rank, "world_size": world}
    parts = [Batches(one.data, task.encode, size * world, size, flags.in_tokens, **how) for one in files]
    found: list[list[tuple[int, Any]]] = [[] for _ in files]
    losses, seconds = [0.0] * len(files), [0.0] * len(files)
    engine.model.eval()
    shown = Progress(sum(len(file.data) for file in files), "evaluation", unit="items")
    with prefetch(partial(stream_all, parts)) as batches, paddle.no_grad(), engine.autocast():
        last = time.monotonic()
        for number, global_batch in batches:  # the same number of batches on every process
            if stop is not None and stop.anywhere():
                shown.close()
                return None
            for batch in global_batch.micro_batches:
                rows, loss = task.predict(engine.model, batch, labelled)
                found[number] += zip(batch.indices.tolist(), rows)
                losses[number] += loss
            last, before = time.monotonic(), last
            seconds[number] += last - before
            shown.update(global_batch.count)
    shown.close()
    done = []
    for file, mine, loss, spent in zip(files, found, distributed.all_sum(losses), seconds):
        everyone = [item for part in distributed.gather(mine) for item in part]
        rows = [row for _, row in sorted(everyone, key=lambda item: item[0])]
        done.append((file, rows, loss / len(file.data), spent))
    return done


def evaluate(
    task: Task, engine: Engine, files: Sequence[EvalFile], flags: FinetuneFlags, epoch: int = 0,
    stop: StopSignal | None = None,
) -> Scores | None:  # fmt: skip
    """Score labelled files, and log one line for each. Arguments and None: see `predict_files`."""
    predicted = predict_files(task, engine, files, flags, labelled=True, stop=stop)
    if predicted is None:
        return None
    scores: Scores = {}
    for file, predictions, loss, seconds in predicted:
        by_metric = dict(task.score(file.data, predictions, file.language))
        scores.setdefault(file.pattern, {})[file.language] = by_metric
        shown = ", ".join(f"{file.language} {metric}: {value / 100:f}" for metric, value in by_metric.items())
        logger.info(
            "[dev evaluation] ave loss: %f, %s, data_num: %d, elapsed time: %f s file: %s, epoch: %d, "
            "steps: %d",
            loss, shown, len(file.data), seconds, file.path, epoch, engine.steps,
        )  # fmt: skip
    return scores


class SupervisedTraining(Training):
    """One seed on labelled files."""

    def __init__(self, run: "SupervisedRun", seed: int):
        flags, task, train_set, dev_files = run.flags, run.task, run.train_set, run.dev_files
        self.flags, self.task, self.dev_files, self.seed = flags, task, dev_files, seed
        self.config, self.tokenizer = run.config, run.tokenizer
        world = distributed.world_size()
        self.batches = Batches(
            train_set, task.encode, global_batch(flags), flags.batch_size, flags.in_tokens, flags.shuffle,
            seed, distributed.rank(), world,
        )  # fmt: skip
        self.steps_of_epoch = [self.batches.count(epoch) for epoch in range(flags.epoch)]
        self.total_steps = min(sum(self.steps_of_epoch), flags.max_steps or sum(self.steps_of_epoch))
        self.ends = list(accumulate(self.steps_of_epoch))  # the last step of each epoch
        self.evaluations = []
        if dev_files:
            regular = {*range(flags.validation_steps, self.total_steps, flags.validation_steps), *self.ends}
            due = {step for step in regular if step < self.total_steps and flags.select_on != LAST}
            self.evaluations = sorted(due | {self.total_steps})
        logger.info(
            "seed %d: %d examples, %d optimiser steps of %d %s (batch %d x accumulation %d x processes %d)",
            seed, len(train_set), self.total_steps, global_batch(flags),
            "tokens" if flags.in_tokens else "examples", flags.batch_size, flags.gradient_accumulation_steps,
            world,
        )  # fmt: skip
        reading = task.reading()
        self.settings = {"task": task.name, "labels": task.labels} | ({"reading": reading} if reading else {})
        self.facts = {
            "name": f"ERNIE-M, {task.name}", "task": task.name, "data": flags.train_set,
            "languages": list(dict.fromkeys(file.language for file in dev_files)) or None,
            "initialised_from": flags.init_checkpoint or flags.init_pretraining_params or "random weights",
            "epochs": None if flags.max_steps else flags.epoch,
            "selected_by": f"{task.metric}, {flags.select_on}, {dev_files[0].pattern}" if dev_files else None,
        }  # fmt: skip

    def stream(self, position: Any) -> Callable[[], Iterator[GlobalBatch]]:
        return partial(self.batches.stream, self.flags.epoch, *(position or (0, 0)))

    def after(self, work: GlobalBatch) -> list[int]:
        return [work.epoch, work.index + 1]

    def place(self, work: GlobalBatch) -> str:
        examples = len(self.batches.examples)
        done = round((work.index + 1) / self.steps_of_epoch[work.epoch] * examples)
        return f"epoch: {work.epoch}, progress: {done}/{examples}, "

    def send(self, model: nn.Layer, micro_batches: list[Any]) -> list[Any]:
        return self.task.send(model, micro_batches)

    def loss(self, model: nn.Layer, micro_batch: Any) -> tuple[Tensor, dict[str, Tensor | float]]:
        return self.task.loss(model, *micro_batch)

    def evaluate(self, engine: Engine, stop: StopSignal) -> Evaluation | None:
        """Score all files; the first pattern selects the best step."""
        epoch, select_on = self.epoch_at(engine.steps), self.flags.select_on
        scores = evaluate(self.task, engine, self.dev_files, self.flags, epoch, stop)
        if scores is None:
            return None
        first = next(iter(scores.values()))
        of_metric = {language: found[self.task.metric] for language, found in first.items()}
        selected_by = report.average(of_metric) if select_on in (MEAN, LAST) else of_metric[select_on]
        return Evaluation(engine.steps, epoch, selected_by, scores)

    def epoch_at(self, step: int) -> int:
        """The epoch of a step."""
        return bisect_left(self.ends, step)


def global_batch(flags: FinetuneFlags) -> int:
    """Examples (padded tokens with --in_tokens) of a step, over all processes."""
    return flags.batch_size * flags.gradient_accumulation_steps * distributed.world_size()


class SupervisedRun(FineTuningRun):
    """A command for a task with labelled files: fine-tune, evaluate and predict, as the flags say."""

    def __init__(self, flags: FinetuneFlags, task: type[Task]):
        flags.check()
        super().__init__(flags)
        if not flags.do_train:
            self.seeds = (0,)
        self.start = open_start(flags)
        self.tokenizer = make_tokenizer(flags, self.start)
        self.task = task.from_flags(flags, self.tokenizer)
        self.config = model_config(flags, self.start, self.tokenizer)
        self.train_set = self.task.read(flags.train_set, "train") if flags.do_train else []
        self.dev_files = self._open(flags.dev_set, "dev") if flags.do_val else []
        self.test_files = self._open(flags.test_set, "test") if flags.do_test else []
        known = [file.language for file in self.dev_files]
        if flags.do_val and flags.select_on not in (MEAN, LAST, *known):
            raise UserError(f"--select_on {flags.select_on}: {MEAN}, {LAST} or {', '.join(known)}")
        saved = dict(zip(dict.fromkeys(file.pattern for file in self.test_files), flags.test_save.split(",")))
        self.saved = [saved[file.pattern].strip().replace("%s", file.language) for file in self.test_files]
        if len(set(self.saved)) < len(self.saved):
            fault = "several test files would get the same name; %s stands for the language"
            raise UserError(f"--test_save {flags.test_save}: {fault}")

    def _open(self, patterns: str, purpose: str) -> list[EvalFile]:
        """Read all files of --dev_set or --test_set, in the order of the patterns, then of the languages."""
        languages = read_languages(self.flags.lang_map_config) if self.flags.lang_map_config else None
        return [
            EvalFile(pattern, language, path, self.task.read(path, purpose))
            for pattern, by_language in expand(patterns, languages, f"--{purpose}_set").items()
            for language, path in by_language.items()
        ]

    def identity(self) -> dict[str, Any]:
        flags, task = self.flags, self.task
        return self.identity_of(
            task.name, filter(None, [self.start]), self.config, self.tokenizer,
            global_batch=global_batch(flags), labels=task.labels,
            train_set=digest_of_files([flags.train_set]),
            dev_set=digest_of_files(file.path for file in self.dev_files),
        )  # fmt: skip

    def run_seed(self, seed: int, folder: Path, identity: dict[str, Any]) -> Evaluation | None:
        """Train if asked to, predict the test files, and return the scores of the dev files."""
        if not self.flags.do_train:
            engine = self._trained()
            self._write_predictions(engine, seed, epoch=0, step=0)
            if not self.dev_files:
                return None
            return Evaluation(0, 0, 0.0, evaluate(self.task, engine, self.dev_files, self.flags))
        if (folder / SELECTED).is_file():
            logger.info("seed %d is finished: %s", seed, folder / SELECTED)
            best = read_record(folder)
        else:
            best = self._train(seed, folder, identity)
        if best is not None and self.test_files:
            self._write_predictions(self._trained(folder / "best"), seed, best.epoch, best.step)
        return best

    def _trained(self, folder: Path | None = None) -> Engine:
        """Load a trained model for prediction, from a folder of the run or from --init_checkpoint."""
        checkpoint = open_checkpoint(folder) if folder else self.start
        model = make_model(self.flags, self.task, self.config, 0, checkpoint, fine_tuned=True)
        return make_engine(self.flags, model, total_steps=1, seed=0)

    def _train(self, seed: int, folder: Path, identity: dict[str, Any]) -> Evaluation | None:
        """Train a seed. Without dev files, predict the test files with the last weights; return None."""
        flags = self.flags

        def make(step: Path | None) -> tuple[SupervisedTraining, Engine]:
            training = SupervisedTraining(self, seed)
            checkpoint = open_step(step, self.start)
            fine_tuned = step is not None or flags.init_checkpoint is not None
            model = make_model(flags, self.task, self.config, seed, checkpoint, fine_tuned)
            return training, make_engine(flags, model, training.total_steps, seed)

        trainer = FineTuningTrainer(make, identity, folder, flags)
        trainer.run()
        best, step = trainer.best, trainer.engine.steps
        if best is None:
            self._write_predictions(trainer.engine, seed, trainer.training.epoch_at(step), step)
            return None
        logger.info("seed %d: best step %d, epoch %d: %.2f", seed, best.step, best.epoch, best.selected_by)
        return best

    def _write_predictions(self, engine: Engine, seed: int, epoch: int, step: int) -> None:
        """Write --test_save. The seed, if there are several, and .<epoch>.<step> are appended."""
        flags, files = self.flags, self.test_files
        if not files:
            return
        suffix = (f".seed_{seed}" if len(self.seeds) > 1 else "") + f".{epoch}.{step}"
        watch = StallWatch(STALL_SECONDS, flags.stall_ends_seconds)
        with watch, watch.during("the prediction of --test_set"):
            predicted = predict_files(self.task, engine, files, flags, labelled=False)
        for (file, predictions, *_), path in zip(predicted, (name + suffix for name in self.saved)):
            logger.info("testing %s, save to %s", file.path, path)
            if distributed.is_main():
                self.task.write(path, file.data, predictions)
        distributed.barrier()

    def report(self, records: dict[int, Evaluation]) -> tuple[str, list[report.Table], dict[str, Any]]:
        """The paper's figures are for test sets, so they are shown with the last pattern of --dev_set."""
        flags, task = self.flags, self.task
        first = next(iter(records.values())).scores
        tables = []
        for pattern, by_language in first.items():
            recipe = flags.paper if pattern == list(first)[-1] else None
            for metric in next(iter(by_language.values())):
                rows = {
                    seed: {language: found[metric] for language, found in record.scores[pattern].items()}
                    for seed, record in records.items()
                }
                figures = report.figures(recipe, metric, list(by_language))
                tables.append(report.Table(f"{metric}, {pattern}", rows, figures))
        selected = {
            str(seed): {"step": record.step, "epoch": record.epoch, "selected_by": record.selected_by}
            for seed, record in records.items()
        }
        facts = {"task": task.name, "metric": task.metric, "select_on": flags.select_on, "selected": selected}
        return "results" if flags.do_train else "evaluation", tables, facts


def read_record(folder: Path) -> Evaluation:
    """Read the selected evaluation of a finished seed. UserError: the file is damaged."""
    path, advice = folder / SELECTED, "remove it, and the same command makes it again"
    try:
        return Evaluation(**read_json(path, advice))
    except TypeError as error:
        raise UserError(f"{path}: holds no evaluation ({error}); {advice}") from error
