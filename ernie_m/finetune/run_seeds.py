"""The command of all tasks but retrieval: a run for each seed, evaluation, predictions, and the report."""

import gc
from functools import partial
from typing import Any

from ernie_m.finetune import score_tables
from ernie_m.finetune.evaluate import evaluate_files, predict_tests, prediction_paths
from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.finetune.finetuning import FineTuning, open_task
from ernie_m.finetune.head import Head
from ernie_m.finetune.run import (
    log_and_write_report,
    pace_of,
    run_folder,
    set_up,
)
from ernie_m.finetune.score_tables import figures
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.tasks import stored_name
from ernie_m.training.checkpoint import BEST, SELECTED, RunFolder
from ernie_m.training.engine import Engine
from ernie_m.training.log import Evaluation, as_json_values
from ernie_m.training.stop_requests import StopSignal
from ernie_m.training.trainer import Trainer
from ernie_m.utils.logging import logger


def fine_tune(
    task_class: type[Head],
    flags: FinetuneFlags,
    stop: StopSignal,
    official_class: type[Head] | None = None,
) -> None:
    """Run the command. It returns early if it is asked to stop; the same command then goes on.

    Args:
        official_class: the task as in the official code (--official_compat); None: there is no difference.
    """
    flags.check()
    set_up(flags)
    fine_tuning = open_task(task_class, flags, official_class)
    flags = fine_tuning.flags
    test_paths = prediction_paths(flags, fine_tuning.test_files)
    if not flags.do_train:
        evaluate_and_predict(fine_tuning, test_paths)
        return

    # Train each seed, and report.
    evaluations: dict[int, Evaluation] = {}
    with run_folder(flags, fine_tuning.identity) as folder:
        several = len(flags.seeds) > 1
        for seed in flags.seeds:
            seed_folder = folder.of_seed(seed) if several else folder
            paths_of_seed = [f"{path}.seed_{seed}" for path in test_paths] if several else test_paths
            if not run_seed(fine_tuning, seed, seed_folder, paths_of_seed, stop):
                return
            if fine_tuning.dev_files:
                evaluations[seed] = seed_folder.selected()
        if evaluations:
            report_seeds(fine_tuning, evaluations, name="results")


def run_seed(
    fine_tuning: "FineTuning", seed: int, folder: RunFolder, test_paths: list[str], stop: StopSignal
) -> bool:
    """Train a seed unless it is finished, and predict the test files with its best model.

    Args:
        test_paths: for each test file, the file of predictions; .<epoch>.<step> is appended.

    Returns:
        False if a process was asked to stop.
    """
    flags = fine_tuning.flags
    task = fine_tuning.task

    def predict(engine: Engine, epoch: int, step: int) -> bool:
        return predict_tests(task, flags, fine_tuning.test_files, test_paths, engine, epoch, step, stop)

    if folder.is_finished():
        logger.info("seed %d is finished: %s", seed, folder.path / SELECTED)
    else:
        trainer = Trainer(fine_tuning, folder, seed, pace_of(flags))
        if not trainer.run(stop):
            return False
        if not fine_tuning.dev_files:  # nothing selects a step: the last one predicts
            step = trainer.engine.steps
            return predict(trainer.engine, epoch=fine_tuning.epoch_of(step), step=step)
        best = trainer.best
        logger.info("seed %d: best step %d, epoch %d: %.2f", seed, best.step, best.epoch, best.selected_by)
        # Free the model and its moments before the next model is made.
        del trainer
        gc.collect()
    if not test_paths:
        return True
    selected = folder.selected()
    engine = fine_tuning.engine_of(open_checkpoint(folder.path / BEST))
    return predict(engine, epoch=selected.epoch, step=selected.step)


def evaluate_and_predict(fine_tuning: "FineTuning", test_paths: list[str]) -> None:
    """Predict the test files and score the dev files with the model of --init_checkpoint."""
    task = fine_tuning.task
    flags = fine_tuning.flags
    engine = fine_tuning.engine_of(fine_tuning.start)
    predict_tests(task, flags, fine_tuning.test_files, test_paths, engine, epoch=0, step=0)
    if fine_tuning.dev_files:
        scores = evaluate_files(task, engine, fine_tuning.dev_files, flags)
        evaluation = Evaluation(step=0, epoch=0, selected_by=0.0, scores=scores)
        # The seed of the training is not known.
        report_seeds(fine_tuning, {0: evaluation}, name="evaluation")


def report_seeds(fine_tuning: FineTuning, evaluations: dict[int, Evaluation], name: str) -> None:
    """Write the tables of `tables_of_seeds`, and after a training the selected step of each seed.

    Args:
        evaluations: seed -> the evaluation of its selected step.
        name: the name of the files: "results" or "evaluation".
    """
    flags = fine_tuning.flags
    task = fine_tuning.task
    baselines: dict[str, dict[str, dict[str, float]]] = {}  # pattern -> language -> metric -> per cent
    for file in fine_tuning.dev_files:
        baselines.setdefault(file.pattern, {})[file.language] = as_json_values(task.baseline(file.data))
    # The questions of a file are not counted in windows.
    examples = len(task.inputs(fine_tuning.train_set)) if flags.paper and flags.do_train else 0
    tables = score_tables.tables_of_seeds(
        evaluations, list(baselines.values()), partial(figures, flags.paper, fine_tuning.config, examples)
    )
    for table in tables:
        for language, always in table.beside[score_tables.MOST_FREQUENT].items():
            if min(row[language] for row in table.rows.values()) <= always:  # the labels may be shifted
                line = "%s, %s: no better than always saying the most frequent label, %.2f"
                logger.warning(line, table.title, language, always)
    facts: dict[str, Any] = {
        "task": stored_name(task.name),
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
    log_and_write_report(flags, name, tables, facts)
