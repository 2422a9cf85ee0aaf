"""A fine-tuning command from start to end: the files, one run per seed, the table, the predictions."""

import argparse
import dataclasses
import gc
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paddle

from finetune import report
from finetune import report as paper
from finetune.datasets import EvalFile, open_files
from finetune.evaluation import evaluate, predict_files
from finetune.report import submission_file
from finetune.run_folder import (
    digest_of_files,
    has_state,
    owned_by,
    seed_folders,
    step_to_resume,
    weights_of,
)
from finetune.setup import make_engine, make_model, make_tokenizer, model_config
from finetune.task import Task
from finetune.trainer import LAST, MEAN, Record, Supervised, Trainer, global_batch
from model.checkpoint.folder import load_from
from model.ernie_m import ErnieMConfig
from reader.classification import read_languages
from reader.features import round_up
from reader.tokenization import Tokenizer
from training import distributed
from training.engine import Engine
from utils.args import deciding, log_unused, to_yaml
from utils.errors import UserError
from utils.files import atomic_file, read_dataclass
from utils.logging import logger, setup

SELECTED = "selected.json"


@dataclass(frozen=True)
class Inputs:
    """What the flags name, read and checked."""

    task: Task
    tokenizer: Tokenizer
    config: ErnieMConfig
    train_set: list
    dev_files: list[EvalFile]
    test_files: list[EvalFile]


def run_task(args: argparse.Namespace, make_task: Callable[[argparse.Namespace, Tokenizer], Task]) -> None:
    """Do with a task what the flags say.

    Raises:
        UserError: anything in the flags or files that the user can put right, before a step is computed.
    """
    check_flags(args)
    device = distributed.init(args.use_cuda)
    setup(rank=distributed.rank())
    logger.info("command: %s", shlex.join(sys.argv))
    logger.info("device: %s, processes: %d, paddle %s", device, distributed.world_size(), paddle.__version__)
    log_unused(args)
    inputs = read_inputs(args, make_task)
    if args.do_train:
        train_seeds(args, inputs)
    else:
        evaluate_only(args, inputs)


def check_flags(args: argparse.Namespace) -> None:
    """Refuse flags that do not go together, before any file is read."""
    needed = []
    if not (args.do_train or args.do_val or args.do_test):
        raise UserError("--do_train, --do_val and --do_test are all false: there is nothing to do")
    if args.do_train:
        needed.append(("train_set", "--do_train true"))
    elif not args.init_checkpoint:
        raise UserError("--init_checkpoint is needed with --do_train false: the fine-tuned model")
    if args.do_val:
        needed.append(("dev_set", "--do_val true"))
    if args.do_test:
        needed += [("test_set", "--do_test true"), ("test_save", "--do_test true")]
    for name, reason in needed:
        if not getattr(args, name):
            raise UserError(f"--{name} is needed with {reason}")
    if args.xtreme_save and not (args.do_test and args.lang_map_config and "," not in args.test_set):
        raise UserError(
            "--xtreme_save needs --do_test true, one pattern in --test_set, and --lang_map_config for names"
        )
    paper.check_recipe(args.paper)
    if args.do_test and len(args.test_set.split(",")) != len(args.test_save.split(",")):
        raise UserError("--test_set and --test_save must name the same number of patterns")
    if args.in_tokens and args.batch_size < round_up(args.max_seq_len, args.pad_to_multiple_of):
        raise UserError(
            f"--batch_size {args.batch_size}: with --in_tokens true it counts tokens: at least "
            "--max_seq_len, rounded up to --pad_to_multiple_of"
        )


def read_inputs(
    args: argparse.Namespace, make_task: Callable[[argparse.Namespace, Tokenizer], Task]
) -> Inputs:
    """Open everything that the flags name."""
    tokenizer = make_tokenizer(args)
    task = make_task(args, tokenizer)
    config = model_config(args, tokenizer)
    languages = read_languages(args.lang_map_config) if args.lang_map_config else None
    train_set = task.read(args.train_set, "train") if args.do_train else []
    dev_files, test_files = [], []
    if args.do_val:
        dev_files = open_files(args.dev_set, languages, "--dev_set", lambda path: task.read(path, "dev"))
        known = [file.language for file in dev_files]
        if args.select_on not in (MEAN, LAST, *known):
            raise UserError(
                f"--select_on {args.select_on}: {MEAN}, {LAST}, or a language of --dev_set "
                f"({', '.join(known)})"
            )
    if args.do_test:
        test_files = open_files(args.test_set, languages, "--test_set", lambda path: task.read(path, "test"))
        if len({file.language for file in test_files}) > 1 and "%s" not in args.test_save:
            raise UserError(f"--test_save {args.test_save}: no %s in it, but there are several languages")
    return Inputs(task, tokenizer, config, train_set, dev_files, test_files)


def identity(args: argparse.Namespace, inputs: Inputs) -> dict[str, Any]:
    """What makes two runs the same: flags that decide what is learned, digests of data and weights."""
    return {
        "task": inputs.task.name,
        **deciding(args),
        "global_batch": global_batch(args),
        "labels": inputs.task.labels,
        "model": inputs.config.to_dict(),
        "vocabulary": inputs.tokenizer.digest,
        "train_set": digest_of_files([args.train_set]),
        "dev_set": digest_of_files(file.path for file in inputs.dev_files),
        "weights": weights_of(args, seeds_of(args)),
    }


def seeds_of(args: argparse.Namespace) -> tuple[int, ...]:
    """The seeds that are run in turn."""
    return args.random_seed or (1,)


def train_seeds(args: argparse.Namespace, inputs: Inputs) -> None:
    """Run every seed in turn, each from where it stands; then write the table."""
    run = identity(args, inputs)
    sources = (args.init_checkpoint, args.init_pretraining_params)
    with owned_by(args.checkpoints, run, args.overwrite, sources):
        if distributed.is_main():
            with atomic_file(Path(args.checkpoints) / "flags.yaml", "w") as file:
                file.write(to_yaml(args))
        records = {}
        for seed, folder in seed_folders(args.checkpoints, seeds_of(args)).items():
            if (record := train_one(args, inputs, run, seed, folder)) is not None:
                records[seed] = record
            gc.collect()  # the model and its moments, before the next seed's are made
        if records:
            write_report(args, inputs.task, records)


def train_one(
    args: argparse.Namespace, inputs: Inputs, run: dict[str, Any], seed: int, folder: Path
) -> Record | None:
    """One seed: train, then predict the test files with the selected weights (no dev files: the last)."""
    if (folder / SELECTED).is_file() and not inputs.test_files:
        logger.info("seed %d is finished: %s", seed, folder / SELECTED)
        return read_record(folder)
    start = step_to_resume(folder, run, seed, args.init_checkpoint)
    of_seed = argparse.Namespace(**vars(args))
    if has_state(args.init_checkpoint):  # it is the start, or of no use for this seed
        of_seed.init_checkpoint = None
    training = Supervised(args, inputs.task, inputs.train_set, inputs.dev_files, seed)
    model = make_model(of_seed, inputs.task, inputs.config, seed, start and start[0])
    engine = make_engine(args, model, training.total_steps, seed)
    trainer = Trainer(args, training, engine, inputs.config, inputs.tokenizer, run, folder)
    if start:
        trainer.resume(*start)
    trainer.train()
    best = trainer.state.best
    if best is not None:
        logger.info("seed %d: best step %d, epoch %d: %.2f", seed, best.step, best.epoch, best.selected_by)
        if distributed.is_main():
            with atomic_file(folder / SELECTED, "w") as file:
                json.dump(dataclasses.asdict(best), file, indent=2)
    if inputs.test_files:
        if best is not None and best.step != engine.steps:
            if distributed.is_main():
                load_from(model, folder / "best")
            distributed.broadcast_(model.state_dict().values())
        step, epoch = (best.step, best.epoch) if best else (engine.steps, args.epoch - 1)
        one_of_many = seed if len(seeds_of(args)) > 1 else None
        write_predictions(args, inputs, engine, f".{epoch}.{step}", one_of_many)
    return best


def read_record(folder: Path) -> Record:
    """The selected evaluation of a seed that is finished."""
    return read_dataclass(folder / SELECTED, Record, "remove it, and the same command makes it again")


def evaluate_only(args: argparse.Namespace, inputs: Inputs) -> None:
    """--do_train false: score the dev files and predict the test files with --init_checkpoint."""
    model = make_model(args, inputs.task, inputs.config, seed=0)
    engine = make_engine(args, model, total_steps=1, seed=0)
    if inputs.test_files:
        write_predictions(args, inputs, engine, ".0.0")
    if inputs.dev_files:
        size = args.predict_batch_size or args.batch_size
        scores = evaluate(inputs.task, engine, inputs.dev_files, size, args.in_tokens, epoch=0)
        write_report(args, inputs.task, {0: Record(0, 0, 0.0, scores)})


def write_predictions(
    args: argparse.Namespace, inputs: Inputs, engine: Engine, suffix: str, seed: int | None = None
) -> None:
    """Predict the test files into --test_save, with `suffix` (.<epoch>.<step>) appended, and --xtreme_save.

    Args:
        seed: of several; stands in the names.
    """
    suffix = suffix if seed is None else f".seed_{seed}{suffix}"
    size = args.predict_batch_size or args.batch_size
    patterns = dict(zip(dict.fromkeys(file.pattern for file in inputs.test_files), args.test_save.split(",")))
    for done in predict_files(inputs.task, engine, inputs.test_files, size, args.in_tokens, labelled=False):
        path = patterns[done.file.pattern].strip().replace("%s", done.file.language) + suffix
        logger.info("testing %s, save to %s", done.file.path, path)
        if distributed.is_main():
            inputs.task.write(path, done.file.data, done.predictions)
            if args.xtreme_save:
                ending = inputs.task.xtreme_ending
                path = submission_file(args.xtreme_save, done.file.language, ending, seed)
                inputs.task.write_xtreme(path, done.file.data, done.predictions)
    distributed.barrier()


def write_report(args: argparse.Namespace, task: Task, records: dict[int, Record]) -> None:
    """The final table: on the console and in the log, and results.{txt,md,json,png} in --checkpoints.

    The paper's figures are of test sets, so they stand beside the last pattern of --dev_set.
    """
    first = next(iter(records.values())).scores
    tables = []
    for pattern, by_language in first.items():
        recipe = args.paper if pattern == list(first)[-1] else None
        for metric in next(iter(by_language.values())):
            rows = {
                seed: {language: found[metric] for language, found in record.scores[pattern].items()}
                for seed, record in records.items()
            }
            figures = paper.figures(recipe, metric, list(by_language))
            tables.append(report.Table(f"{metric}, {pattern}", rows, figures, bars=metric == task.metric))
    logger.info("results\n%s", report.to_text(tables))
    selected = {
        str(seed): {"step": record.step, "epoch": record.epoch, "selected_by": record.selected_by}
        for seed, record in records.items()
    }
    facts = {"task": task.name, "metric": task.metric, "select_on": args.select_on, "selected": selected}
    if distributed.is_main():
        report.write_report(Path(args.checkpoints), "results", tables, facts)
