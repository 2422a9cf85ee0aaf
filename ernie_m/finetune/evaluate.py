"""Prediction and evaluation of files, with batches divided among the processes."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import paddle

from ernie_m.finetune.finetune_args import PredictionFlags
from ernie_m.finetune.finetuning_task import FinetuningTask
from ernie_m.reader.batching import Batches, stream_data_sets
from ernie_m.training import distributed
from ernie_m.training.engine import Engine
from ernie_m.training.prefetch import PrefetchIterator
from ernie_m.training.stop_requests import ShutdownHandler, StallWatchdog
from ernie_m.utils.errors import UserError
from ernie_m.utils.logging import Progress, logger

Scores = dict[str, dict[str, dict[str, float | None]]]  # pattern -> language -> metric -> percent


class LanguageFile(NamedTuple):
    """A data file of one language, which matches a pattern such as `dev.%s.tsv`, and its items."""

    pattern: str
    language: str
    path: Path
    data: Sequence[Any]


class FilePredictions(NamedTuple):
    """The predictions of a model for a file.

    Attributes:
        predictions: results of `FinetuningTask.decode`, in the order of the file's items.
        loss: the mean loss over the items; 0 without labels.
        seconds: the elapsed time.
    """

    file: LanguageFile
    predictions: list[Any]
    loss: float
    seconds: float


def predict_files(
    task: FinetuningTask,
    engine: Engine,
    files: Sequence[LanguageFile],
    flags: PredictionFlags,
    labeled: bool,
    stop: ShutdownHandler,
) -> list[FilePredictions] | None:
    """Predict files. Each batch is divided among the processes, and every process receives all predictions.

    Args:
        labeled: whether the files have labels, from which the loss is computed.
        stop: detects stop requests of any process.

    Returns:
        The predictions for each file; None on all processes after a stop request.
    """
    world_size = distributed.world_size()
    batches_of_files = [
        Batches(
            file.data,
            task.encode,
            batch_size=flags.batch_size * world_size,
            micro_batch_size=flags.batch_size,
            in_tokens=flags.in_tokens,
            shuffle=False,
            rank=distributed.rank(),
            world_size=world_size,
        )
        for file in files
    ]
    # This process's predictions for each file: (index of the item, prediction).
    rows: list[list[tuple[int, Any]]] = [[] for _ in files]
    losses = [0.0] * len(files)  # summed over the items of each file
    seconds = [0.0] * len(files)
    engine.model.eval()
    progress = Progress(sum(len(file.data) for file in files), "evaluation", unit="items")
    with (
        PrefetchIterator(partial(stream_data_sets, batches_of_files)) as batches,
        paddle.no_grad(),
        engine.autocast(),
    ):
        began = time.monotonic()
        for file_number, global_batch in batches:  # every process has the same number of batches
            # All processes return together, because each would wait for the others in `all_reduce_sum`.
            if stop.is_set_on_any_process():
                progress.close()
                return None
            for batch in global_batch.micro_batches:
                predictions, loss = task.predict(engine.model, batch, labeled)
                rows[file_number] += list(zip(batch.indices.tolist(), predictions))
                losses[file_number] += loss
            ended = time.monotonic()
            seconds[file_number] += ended - began
            began = ended
            progress.update(global_batch.count)
    progress.close()
    losses = distributed.all_reduce_sum(losses)
    results = []
    for file, own_rows, loss, file_seconds in zip(files, rows, losses, seconds, strict=True):
        prediction_of = dict(distributed.gather_items(own_rows))  # index of the item -> its prediction
        predictions = [prediction_of[item] for item in sorted(prediction_of)]
        results.append(FilePredictions(file, predictions, loss / len(file.data), file_seconds))
    return results


def evaluate_files(
    task: FinetuningTask,
    engine: Engine,
    files: Sequence[LanguageFile],
    flags: PredictionFlags,
    epoch: int,
    stop: ShutdownHandler,
) -> Scores | None:
    """Evaluate on labeled files, and log the official line for each file.

    Returns:
        The metrics; None on all processes after a stop request.
    """
    predicted = predict_files(task, engine, files, flags, labeled=True, stop=stop)
    if predicted is None:
        return None
    scores: Scores = {}
    for file, predictions, loss, seconds in predicted:
        metrics = dict(task.score(file.data, predictions, file.language))
        if task.custom_metric:
            custom = distributed.run_on_main(
                partial(
                    task.custom_metric,
                    task.get_predicted_values(file.data, predictions),
                    task.get_gold_values(file.data),
                )
            )
            metrics = {**custom, **metrics, **custom}  # first, also instead of one of the same name
        scores.setdefault(file.pattern, {})[file.language] = metrics
        # Fractions, not percent, as in the line of the official code.
        values = ", ".join(
            f"{file.language} {metric}: " + ("no score" if value is None else f"{value / 100:f}")
            for metric, value in metrics.items()
        )
        if None in metrics.values():
            logger.warning("%s has no %s: no score", file.path, task.gold)
        logger.info(
            "[dev evaluation] ave loss: %f, %s, data_num: %d, elapsed time: %f s file: %s, epoch: %d, "
            "steps: %d",
            loss,
            values,
            len(file.data),
            seconds,
            file.path,
            epoch,
            engine.steps,
        )
    return scores


def get_output_paths(
    test_files: Sequence[LanguageFile], test_set: str, test_save: str
) -> dict[str, LanguageFile]:
    """Return output path -> test file, by the patterns of --test_set and --test_save.

    Raises:
        UserError: two test files have the same output path.
    """
    patterns = [pattern.strip() for pattern in test_set.split(",")]
    save_pattern_of = dict(zip(patterns, test_save.split(",")))
    paths = [save_pattern_of[file.pattern].strip().replace("%s", file.language) for file in test_files]
    if len(set(paths)) < len(paths):
        raise UserError(
            f"--test_save {test_save}: several test files have the same name. Add %s for the language"
        )
    return dict(zip(paths, test_files))


def predict_test_files(
    task: FinetuningTask,
    engine: Engine,
    tests: Mapping[str, LanguageFile],
    flags: PredictionFlags,
    epoch: int,
    step: int,
    stop: ShutdownHandler,
) -> bool:
    """Predict the test files, and write the predictions.

    Args:
        tests: output path, to which .<epoch>.<step> is appended -> test file.
        epoch, step: the epoch and the step of the current weights.

    Returns:
        Whether the predictions were written; False after a stop request.
    """
    if not tests:
        return True
    with StallWatchdog(flags.stall_ends_seconds) as watch, watch.watch("the prediction of --test_set"):
        files = list(tests.values())
        predictions_of_files = predict_files(task, engine, files, flags, labeled=False, stop=stop)
    if predictions_of_files is None:
        return False
    for predicted, test_path in zip(predictions_of_files, tests, strict=True):
        path = f"{test_path}.{epoch}.{step}"
        logger.info("testing %s, save to %s", predicted.file.path, path)
        if distributed.is_main():
            task.write(path, predicted.file.data, predicted.predictions)
    distributed.barrier()
    return True
