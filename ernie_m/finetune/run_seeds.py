"""Fine-tuning of all tasks except retrieval: train each seed, evaluate, predict, and write reports."""

import gc
from collections.abc import Mapping
from functools import partial
from typing import Any

from ernie_m.finetune import score_tables
from ernie_m.finetune.checkpoint_selection import add_metric, check_selection
from ernie_m.finetune.evaluate import LanguageFile, get_output_paths, predict_test_files
from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.finetune.finetuning_run import FinetuningRun
from ernie_m.finetune.finetuning_task import KEPT, RECORDED, FinetuningTask, make_task
from ernie_m.finetune.hyperparameters import choose_hyperparameters
from ernie_m.finetune.labeled_files import check_rows, read_files
from ernie_m.finetune.reuse_head import check_head, find_fine_tuned
from ernie_m.finetune.run_setup import (
    digest_files,
    log_and_write_report,
    make_loop_config,
    open_output_dir,
    set_up_command,
)
from ernie_m.finetune.score_tables import get_paper_rows
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.open_model import apply_model_defaults, open_model
from ernie_m.model.tasks import get_stored_name
from ernie_m.training.best_checkpoint import BEST, SELECTED, is_finished, read_selected
from ernie_m.training.engine import Engine
from ernie_m.training.log import Evaluation, as_json_values
from ernie_m.training.output_dir import OutputDir
from ernie_m.training.stop_requests import ShutdownHandler
from ernie_m.training.trainer import Trainer
from ernie_m.utils.logging import logger


def run_finetuning(
    task_class: type[FinetuningTask],
    flags: FinetuneFlags,
    stop: ShutdownHandler,
    official_class: type[FinetuningTask] | None = None,
) -> None:
    """Run a fine-tuning command. After a stop request, return early; the same command resumes training.

    Args:
        task_class: the task.
        official_class: the task as in the official code (--official_compat true); None: `task_class`.

    Raises:
        UserError: a flag or a file is invalid.
    """
    set_up_command(flags)

    # Open the model. Its checkpoint provides settings that no flag gives, and perhaps a head for the task.
    start = open_checkpoint(flags.initial_checkpoint) if flags.initial_checkpoint else None
    opened = open_model(start, *flags.model_file_paths)
    recorded = KEPT[task_class.name] if flags.do_train else RECORDED
    if official_class and not flags.do_train:
        recorded = (*recorded, "official_compat")
    flags = apply_model_defaults(flags, opened, recorded)
    task = make_task(task_class, official_class, flags, opened)
    fine_tuned = (
        check_head(task, start, flags.label_map_config)
        if start and flags.init_checkpoint
        else find_fine_tuned(task, start)
    )

    # Read the files.
    train_path = flags.train_set if flags.do_train else None
    dev_set = flags.dev_set if flags.do_val else None
    test_set = flags.test_set if flags.do_test else None
    train_set = task.read(train_path, "train") if train_path else []
    dev_files = read_files(task, dev_set, "dev", flags.lang_map_config) if dev_set else []
    test_files = read_files(task, test_set, "test", flags.lang_map_config) if test_set else []

    if not flags.metric.isidentifier():  # official names are identifiers
        add_metric(task, flags.metric, dev_files)

    if flags.do_train:
        check_selection(task, dev_files, flags.select_on)

    # Plan the run.
    if flags.do_train and flags.auto_hyperparameters:
        flags = choose_hyperparameters(flags, opened.config, len(train_set), task.name)
    train_paths = [train_path] if train_path else []
    check_rows(task, train_paths, train_set, [*dev_files, *test_files])
    fine_tuning = FinetuningRun(
        task, flags, opened, train_set, digest_files(train_paths), dev_files, fine_tuned
    )
    tests = get_output_paths(test_files, test_set, flags.test_save) if test_set else {}

    # Train each seed, or use --init_checkpoint. Both evaluate, predict and write the report.
    if flags.do_train:
        train_seeds(fine_tuning, tests, stop)
    else:
        evaluate_and_predict(fine_tuning, tests, stop)


def train_seeds(fine_tuning: FinetuningRun, tests: Mapping[str, LanguageFile], stop: ShutdownHandler) -> None:
    """Train and evaluate each seed, predict the test files with its best checkpoint, and write the report."""
    flags = fine_tuning.flags
    evaluations: dict[int, Evaluation] = {}
    with open_output_dir(flags, fine_tuning.fingerprint) as folder:
        several = len(flags.seeds) > 1
        for seed in flags.seeds:
            seed_folder = folder.make_seed_dir(seed) if several else folder
            ending = f".seed_{seed}" if several else ""
            tests_of_seed = {path + ending: file for path, file in tests.items()}
            if not run_seed(fine_tuning, seed, seed_folder, tests_of_seed, stop):
                return
            if fine_tuning.dev_files:
                evaluations[seed] = read_selected(seed_folder.path)
        if evaluations:
            report_seeds(fine_tuning, evaluations)


def run_seed(
    fine_tuning: FinetuningRun,
    seed: int,
    folder: OutputDir,
    tests: Mapping[str, LanguageFile],
    stop: ShutdownHandler,
) -> bool:
    """Train a seed unless it is finished, and predict the test files with its best checkpoint.

    Args:
        folder: the output directory of the seed.
        tests: see `predict_test_files`.

    Returns:
        Whether the seed is complete; False after a stop request.
    """
    flags = fine_tuning.flags

    def predict(engine: Engine, epoch: int, step: int) -> bool:
        return predict_test_files(fine_tuning.task, engine, tests, flags.prediction, epoch, step, stop)

    if is_finished(folder.path):
        logger.info("seed %d: already finished (%s)", seed, folder.path / SELECTED)
    else:
        trainer = Trainer(fine_tuning, folder, seed, make_loop_config(flags))
        if not trainer.run(stop):
            return False
        best = trainer.state.best
        if best is None:  # without dev files the last step predicts
            step = trainer.engine.steps
            return predict(trainer.engine, epoch=fine_tuning.get_epoch(step), step=step)
        logger.info(
            "seed %d: best score %.2f (step %d, epoch %d)", seed, best.selected_by, best.step, best.epoch
        )
        # Free the model and its optimizer state before the next model is made.
        del trainer
        gc.collect()
    if not tests:
        return True
    selected = read_selected(folder.path)
    engine = fine_tuning.make_engine(open_checkpoint(folder.path / BEST))
    return predict(engine, epoch=selected.epoch, step=selected.step)


def evaluate_and_predict(
    fine_tuning: FinetuningRun, tests: Mapping[str, LanguageFile], stop: ShutdownHandler
) -> None:
    """Predict the test files, and evaluate on the dev files, with the model of --init_checkpoint."""
    engine = fine_tuning.make_engine(fine_tuning.start)
    predict_test_files(fine_tuning.task, engine, tests, fine_tuning.flags.prediction, 0, 0, stop)
    # Empty in other formats. The checkpoint is that of --init_checkpoint, which is required.
    settings = fine_tuning.start.settings  # type: ignore[union-attr]
    engine.steps = settings.get("step", 0)
    evaluation = fine_tuning.evaluate(engine, stop) if fine_tuning.dev_files else None
    if evaluation is not None:
        report_seeds(fine_tuning, {settings.get("seed", 0): evaluation})


def report_seeds(fine_tuning: FinetuningRun, evaluations: dict[int, Evaluation]) -> None:
    """Log and write the score tables of all seeds, and after training the best step of each seed.

    Args:
        evaluations: seed -> the evaluation of its best checkpoint.
    """
    flags = fine_tuning.flags
    task = fine_tuning.task
    baselines: dict[str, dict[str, dict[str, float]]] = {}  # pattern -> language -> metric -> percent
    for file in fine_tuning.dev_files:
        baselines.setdefault(file.pattern, {})[file.language] = as_json_values(
            task.compute_baseline(file.data)
        )
    # Count questions, not windows. A run from random weights is not comparable with the paper's.
    is_counted = flags.paper and flags.do_train and flags.initial_checkpoint
    examples = len(task.hash_inputs(fine_tuning.train_set)) if is_counted else 0
    tables = score_tables.make_seed_tables(
        evaluations,
        list(baselines.values()),
        partial(get_paper_rows, flags.paper, fine_tuning.config, examples),
    )
    for table in tables:
        majority = table.comparison[score_tables.MAJORITY]
        if below := [
            f"{language} ({score:.2f})"
            for language, score in majority.items()
            if min(row[language] for row in table.rows.values()) <= score  # the labels may be misaligned
        ]:
            logger.warning("%s: not above the majority baseline: %s", table.title, ", ".join(below))
    facts: dict[str, Any] = {
        "task": get_stored_name(task.name),
        "metric": task.metric,
        "select_on": flags.select_on,
    }
    if flags.do_train:
        facts["selected"] = {
            str(seed): {
                "step": evaluation.step,
                "epoch": evaluation.epoch,
                "selected_by": evaluation.selected_by,
            }
            for seed, evaluation in evaluations.items()
        }
    log_and_write_report(flags.checkpoints, "results" if flags.do_train else "evaluation", tables, facts)
