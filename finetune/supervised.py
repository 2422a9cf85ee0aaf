"""The command of a task with labelled files: fine-tune each seed, predict, evaluate, as the flags say."""

import gc
from typing import Any

from finetune import report
from finetune.command import begin, log_and_write_report, pace_of, run_folder
from finetune.flags import FinetuneFlags
from finetune.opening import open_model, settle
from finetune.prediction import evaluate_files, predict_files
from finetune.setup import check_head, make_engine, make_model
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

# The flags that the method `reading` of the tasks records in config.json.
RECORDED = (
    "max_seq_len",
    "label_pieces",
    "max_query_length",
    "doc_stride",
    "split_han",
    "max_answer_length",
)


def fine_tune(task_class: type[SupervisedTask], flags: FinetuneFlags, stop: StopSignal) -> None:
    """Run the command. It returns early if it is asked to stop; the same command then goes on."""
    flags.check()
    begin(flags)
    path = flags.init_checkpoint or flags.init_pretraining_params
    start = open_checkpoint(path) if path else None
    opened = open_model(start, flags.ernie_config_path, flags.vocab_path, flags.piece_model_path)
    flags = settle(flags, opened, recorded=() if flags.do_train else RECORDED)
    task = task_class.from_flags(flags, opened.tokenizer, start)
    if flags.init_checkpoint:
        check_head(task, start)
    task.open(flags, start, opened.tokenizer, opened.config)
    test_paths = prediction_paths(task)
    if not flags.do_train:
        evaluate_and_predict(task, test_paths)
        return
    evaluations: dict[int, Evaluation] = {}
    with run_folder(flags, task.identity) as folder:
        for seed in flags.seeds:
            seed_folder = folder
            paths_of_seed = test_paths
            if len(flags.seeds) > 1:
                seed_folder = folder.of_seed(seed)
                paths_of_seed = [f"{path}.seed_{seed}" for path in test_paths]
            if not run_seed(task, seed, seed_folder, paths_of_seed, stop):
                return
            if task.dev_files:
                evaluations[seed] = seed_folder.selected()
        if evaluations:
            report_seeds(task, evaluations, name="results")


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
        # Free the model and its moments before the next model is made.
        del trainer
        gc.collect()
    if not test_paths:
        return True
    selected = folder.selected()
    engine = trained_engine(task, open_checkpoint(folder.path / BEST))
    return predict_tests(task, engine, test_paths, selected.epoch, selected.step, stop)


def evaluate_and_predict(task: SupervisedTask, test_paths: list[str]) -> None:
    """Predict the test files and score the dev files with the model of --init_checkpoint."""
    engine = trained_engine(task, task.start)
    predict_tests(task, engine, test_paths, epoch=0, step=0)
    if task.dev_files:
        scores, confusion = evaluate_files(task, engine, task.dev_files)
        evaluation = Evaluation(step=0, epoch=0, selected_by=0.0, scores=scores, confusion=confusion)
        # The seed of the training is not known.
        report_seeds(task, {0: evaluation}, name="evaluation")


def trained_engine(task: SupervisedTask, checkpoint: Checkpoint) -> Engine:
    """An engine that predicts with a fine-tuned model. No step is done with it."""
    model = make_model(task.flags, task, task.config, seed=0, checkpoint=checkpoint, fine_tuned=True)
    return make_engine(task.flags, model, total_steps=1, seed=0)


def prediction_paths(task: SupervisedTask) -> list[str]:
    """For each test file the path of its predictions, from --test_save.

    Raises:
        UserError: two files would have the same path.
    """
    flags = task.flags
    patterns = dict.fromkeys(file.pattern for file in task.test_files)  # each once, in order
    save_pattern_of = dict(zip(patterns, flags.test_save.split(",")))
    paths = []
    for file in task.test_files:
        paths.append(save_pattern_of[file.pattern].strip().replace("%s", file.language))
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
    """Write the predictions of the test files. False: a process was asked to stop.

    Args:
        test_paths: for each test file, the file of predictions; .<epoch>.<step> is appended.
        epoch, step: of the model in the engine.
    """
    if not task.test_files:
        return True
    pace = pace_of(task.flags)
    # It warns of a prediction that takes long, and ends a process that waits too long for another.
    watch = StallWatch(pace.stall_seconds, end_seconds=pace.stall_ends_seconds)
    with watch, watch.during("the prediction of --test_set"):
        predictions_of_files = predict_files(task, engine, task.test_files, labelled=False, stop=stop)
    if predictions_of_files is None:
        return False
    for predicted, test_path in zip(predictions_of_files, test_paths, strict=True):
        path = f"{test_path}.{epoch}.{step}"
        logger.info("testing %s, save to %s", predicted.file.path, path)
        if distributed.is_main():
            task.write(path, predicted.file.data, predicted.predictions)
    distributed.barrier()
    return True


def report_seeds(task: SupervisedTask, evaluations: dict[int, Evaluation], name: str) -> None:
    """Write a table for each pattern of --dev_set and each metric, and the selected step of each seed.

    Args:
        evaluations: seed -> the evaluation of its selected step.
        name: of the files: "results" or "evaluation".
    """
    flags = task.flags
    first_scores = next(iter(evaluations.values())).scores
    # By place, not by pattern: a seed that an earlier command evaluated may have the same files under another
    # pattern.
    scores_of_seed = {seed: list(evaluation.scores.values()) for seed, evaluation in evaluations.items()}
    confusions_of_seed = {
        seed: list(evaluation.confusion.values()) for seed, evaluation in evaluations.items()
    }
    has_confusion = all(confusions_of_seed.values())  # not of other tasks, nor of runs of earlier versions
    tables = []
    label_tables = []
    for place, (pattern, by_language) in enumerate(first_scores.items()):
        # The paper's figures are of test sets, which are the last pattern of a recipe's --dev_set.
        recipe = flags.paper if place == len(first_scores) - 1 else None
        beside = {}
        if has_confusion:
            confusions = {seed: of_seed[place] for seed, of_seed in confusions_of_seed.items()}
            beside = report.rows_of_labels(confusions)
            label_tables += report.tables_of_labels(pattern, confusions)
        metrics = next(iter(by_language.values()))  # every language has the same
        for metric in metrics:
            rows = {}
            for seed, scores in scores_of_seed.items():
                rows[seed] = {language: values[metric] for language, values in scores[place].items()}
            figures = report.figures(recipe, metric, list(by_language))
            tables.append(report.Table(f"{metric}, {pattern}", rows, figures, beside))
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
    log_and_write_report(flags, name, tables, facts, label_tables)
