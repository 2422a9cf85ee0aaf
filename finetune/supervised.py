"""The command of a task with labelled files: fine-tune each seed, predict, evaluate, as the flags say."""

import gc
from typing import Any

from finetune import report
from finetune.command import begin, pace_of, run_folder, write_report
from finetune.flags import FinetuneFlags
from finetune.prediction import evaluate_files, predict_files
from finetune.setup import make_engine, make_model, make_tokenizer, model_config, open_start
from finetune.task import SupervisedTask
from model.checkpoint.read import Checkpoint, open_checkpoint
from training import distributed
from training.engine import Engine
from training.guard import StallWatch, StopSignal
from training.run import Trainer
from training.run_folder import BEST, SELECTED, RunFolder
from training.task import Evaluation
from utils.errors import UserError
from utils.logging import logger


def fine_tune(task_class: type[SupervisedTask], flags: FinetuneFlags, stop: StopSignal) -> None:
    """Run the command. It returns early if it is asked to stop; the same command then goes on."""
    flags.check()
    begin(flags)
    start = open_start(flags)
    tokenizer = make_tokenizer(flags, start)
    task = task_class.from_flags(flags, tokenizer)
    task.open(flags, start, tokenizer, model_config(flags, start, tokenizer))
    test_paths = prediction_paths(task)
    if not flags.do_train:
        evaluate_and_predict(task, test_paths)
        return
    evaluations: dict[int, Evaluation] = {}
    with run_folder(flags, task.identity) as folder:
        for seed in flags.seeds:
            several = len(flags.seeds) > 1
            seed_folder = folder.of_seed(seed) if several else folder
            suffix = f".seed_{seed}" if several else ""
            if not run_seed(task, seed, seed_folder, [path + suffix for path in test_paths], stop):
                return
            if task.dev_files:
                evaluations[seed] = seed_folder.selected()
        if evaluations:
            report_seeds(task, evaluations, "results")


def run_seed(
    task: SupervisedTask, seed: int, folder: RunFolder, test_paths: list[str], stop: StopSignal
) -> bool:
    """Train a seed unless it is finished, and predict the test files with its best model.

    Args:
        test_paths: for each test file, the file of predictions; .<epoch>.<step> is appended.

    Returns:
        False if a process was asked to stop.
    """
    if folder.is_finished():
        logger.info("seed %d is finished: %s", seed, folder.path / SELECTED)
    else:
        trainer = Trainer(task, folder, seed, pace_of(task.flags))
        if not trainer.run(stop):
            return False
        if not task.dev_files:  # nothing selects a step: the last one predicts
            step = trainer.engine.steps
            return predict_tests(task, trainer.engine, test_paths, task.epoch_of(step), step, stop)
        best = trainer.best
        logger.info("seed %d: best step %d, epoch %d: %.2f", seed, best.step, best.epoch, best.selected_by)
        # The model and its moments go before those of the next one are made.
        del trainer
        gc.collect()
    if not test_paths:
        return True
    best = folder.selected()
    engine = trained_engine(task, open_checkpoint(folder.path / BEST))
    return predict_tests(task, engine, test_paths, best.epoch, best.step, stop)


def evaluate_and_predict(task: SupervisedTask, test_paths: list[str]) -> None:
    """Predict the test files and score the dev files with the model of --init_checkpoint."""
    engine = trained_engine(task, task.start)
    predict_tests(task, engine, test_paths, epoch=0, step=0)
    if task.dev_files:
        scores = evaluate_files(task, engine, task.dev_files)
        report_seeds(task, {0: Evaluation(0, 0, 0.0, scores)}, "evaluation")


def trained_engine(task: SupervisedTask, checkpoint: Checkpoint) -> Engine:
    """An engine that predicts with a fine-tuned model."""
    model = make_model(task.flags, task, task.config, 0, checkpoint, fine_tuned=True)
    return make_engine(task.flags, model, total_steps=1, seed=0)


def prediction_paths(task: SupervisedTask) -> list[str]:
    """For each test file the path of its predictions, from --test_save.

    Raises:
        UserError: two files would have the same path.
    """
    flags, files = task.flags, task.test_files
    patterns = dict.fromkeys(file.pattern for file in files)
    save_patterns = dict(zip(patterns, flags.test_save.split(",")))
    paths = [save_patterns[file.pattern].strip().replace("%s", file.language) for file in files]
    if len(set(paths)) < len(paths):
        raise UserError(
            f"--test_save {flags.test_save}: several test files would get the same name; %s stands for the "
            "language"
        )
    return paths


def predict_tests(
    task: SupervisedTask,
    engine: Engine,
    test_paths: list[str],
    epoch: int,
    step: int,
    stop: StopSignal | None = None,
) -> bool:
    """Write the predictions of the test files. False: a process was asked to stop."""
    if not task.test_files:
        return True
    watch = StallWatch(60.0, task.flags.stall_ends_seconds)
    with watch, watch.during("the prediction of --test_set"):
        predicted = predict_files(task, engine, task.test_files, labelled=False, stop=stop)
    if predicted is None:
        return False
    for (file, predictions, *_), path in zip(predicted, test_paths, strict=True):
        path = f"{path}.{epoch}.{step}"
        logger.info("testing %s, save to %s", file.path, path)
        if distributed.is_main():
            task.write(path, file.data, predictions)
    distributed.barrier()
    return True


def report_seeds(task: SupervisedTask, evaluations: dict[int, Evaluation], name: str) -> None:
    """Write the tables. The paper's figures are of test sets, the last pattern of a recipe's --dev_set."""
    flags = task.flags
    first = next(iter(evaluations.values())).scores
    # By place: seeds that an earlier command evaluated may have the same files under another pattern.
    scores_by_seed = {seed: list(evaluation.scores.values()) for seed, evaluation in evaluations.items()}
    tables = []
    for place, (pattern, by_language) in enumerate(first.items()):
        recipe = flags.paper if place == len(first) - 1 else None
        for metric in next(iter(by_language.values())):
            rows = {
                seed: {language: metrics[metric] for language, metrics in scores[place].items()}
                for seed, scores in scores_by_seed.items()
            }
            figures = report.figures(recipe, metric, list(by_language))
            tables.append(report.Table(f"{metric}, {pattern}", rows, figures))
    selected = {
        str(seed): {
            "step": evaluation.step,
            "epoch": evaluation.epoch,
            "selected_by": evaluation.selected_by,
        }
        for seed, evaluation in evaluations.items()
    }
    facts: dict[str, Any] = {
        "task": task.name,
        "metric": task.metric,
        "select_on": flags.select_on,
        "selected": selected,
    }
    write_report(flags, name, tables, facts)
