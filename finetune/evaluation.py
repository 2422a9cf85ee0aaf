"""Predict and score whole files. The processes divide each batch, and every process gets all results."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import paddle

from finetune.flags import FinetuneFlags
from finetune.task import Task
from reader.batching import Batches, stream_all
from training import distributed
from training.engine import Engine
from training.guard import StopSignal
from training.prefetch import prefetch
from utils.logging import Progress, logger

Scores = dict[str, dict[str, dict[str, float]]]  # pattern -> language -> metric -> per cent


@dataclass(frozen=True)
class EvalFile:
    """The file of one language that matches a pattern such as `dev.%s.tsv`, and its items."""

    pattern: str
    language: str
    path: Path
    data: Sequence[Any]


@dataclass(frozen=True)
class PredictedFile:
    """The predictions of a file in the order of its items, the mean loss of an item, the time in seconds."""

    file: EvalFile
    predictions: list[Any]
    loss: float
    seconds: float


def predict_files(
    task: Task, engine: Engine, files: Sequence[EvalFile], flags: FinetuneFlags, labelled: bool,
    stop: StopSignal | None = None,
) -> list[PredictedFile] | None:  # fmt: skip
    """Predict every file. All processes call it with the same files.

    Args:
        flags: the sizes of a batch are read.
        labelled: whether the files have labels, so that there is a loss.
        stop: return None on all processes as soon as one of them is asked to stop.
    """
    rank, world = distributed.rank(), distributed.world_size()
    size = flags.predict_batch_size or flags.batch_size  # items (padded tokens with in_tokens) per process
    parts = [
        Batches(
            file.data, task.encode, size * world, size, flags.in_tokens, shuffle=False, rank=rank,
            world_size=world,
        )
        for file in files
    ]  # fmt: skip
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
        done.append(PredictedFile(file, rows, loss / len(file.data), spent))
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
    for done in predicted:
        file = done.file
        by_metric = dict(task.score(file.data, done.predictions, file.language))
        scores.setdefault(file.pattern, {})[file.language] = by_metric
        shown = ", ".join(f"{file.language} {metric}: {value / 100:f}" for metric, value in by_metric.items())
        logger.info(
            "[dev evaluation] ave loss: %f, %s, data_num: %d, elapsed time: %f s file: %s, epoch: %d, "
            "steps: %d",
            done.loss, shown, len(file.data), done.seconds, file.path, epoch, engine.steps,
        )  # fmt: skip
    return scores
