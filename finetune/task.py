"""The base class of the tasks with labelled files: classification, tagging, question answering.

One class makes the features and decodes the outputs in training, evaluation and prediction. Training makes a
task from the flags. Prediction makes it from the labels and the "reading" in the model's config.json. It may
run without Paddle, and it needs nothing of `training`, so the methods of training import what they need.
"""

import math
import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from finetune.flags import LAST, MEAN, FinetuneFlags
from finetune.report import average
from model.config import ErnieMConfig
from model.tasks import TASKS
from reader.batching import Batches, EncodeExamples, GlobalBatch
from reader.task_files import expand, read_languages
from reader.tokenization import Tokenizer
from utils.errors import UserError
from utils.logging import logger
from utils.runtime import rank, world_size

if TYPE_CHECKING:
    from paddle import Tensor, nn

    from model.batch import LabelledBatch
    from model.checkpoint.folder import ModelFiles
    from model.checkpoint.read import Checkpoint
    from training.engine import Engine
    from training.guard import StopSignal
    from training.meter import Interval
    from training.task import Evaluation


class TaskFile(NamedTuple):
    """The file of one language that matches a pattern such as `dev.%s.tsv`, and its items."""

    pattern: str
    language: str
    path: Path
    data: Sequence[Any]


class SupervisedTask:
    """Features, model, loss, decoding and metric of one task; its files and their order in training.

    A subclass defines the methods of the first part. Those of the last part are of `training.task.Task`.

    Attributes:
        name: one of `model.tasks`; written to config.json and to the model card.
        metric: the key of `score` that selects a step; larger is better.
        labels: label names in the order of their ids; None if the task has none.
        encode: turns items of a data set into features, and features into batches.
        train_set: the items of --train_set.
        dev_files, test_files: the files of --dev_set and --test_set.
    """

    name: str
    metric: str
    labels: list[str] | None = None
    encode: EncodeExamples
    divisible = True
    memory_advice = "lower --batch_size and raise --gradient_accumulation_steps, or add --recompute true"

    # What a task defines

    @classmethod
    def from_flags(
        cls, flags: FinetuneFlags, tokenizer: Tokenizer, start: "Checkpoint | None" = None
    ) -> Self:
        """Make the task from the command line. `start`: the weights that the flags name."""
        raise NotImplementedError

    def reading(self) -> dict[str, Any]:
        """How the inputs were read, for prediction: "reading" in config.json."""
        return {}

    def read(self, path: str | os.PathLike, purpose: str) -> Sequence[Any]:
        """Read and check a data file. `purpose`: "train", "dev" or "test" (labels are not needed)."""
        raise NotImplementedError

    def targets(self, batch: Any) -> np.ndarray:
        """Return what is to be predicted; it travels to the device with the ids."""
        return batch.labels

    def losses(self, sent: "LabelledBatch", outputs: dict[str, "Tensor"]) -> tuple["Tensor", "Tensor", Any]:
        """Return the summed loss of a batch, the number of correct decisions, and the number of decisions.

        Args:
            sent: the batch on the device, with what `targets` returned.
            outputs: those of the model, by the names in `model.tasks`.
        """
        raise NotImplementedError

    def decode(self, batch: Any, outputs: Mapping[str, np.ndarray]) -> list[Any]:
        """Turn the model's outputs into one prediction (numpy or plain values) for each feature."""
        raise NotImplementedError

    def score(self, data: Sequence[Any], predictions: list[Any], language: str) -> Mapping[str, float]:
        """Score the predictions of a whole file, in the order of its items: metric -> per cent."""
        raise NotImplementedError

    def confusion(self, data: Sequence[Any], predictions: list[Any]) -> dict[str, dict[str, int]]:
        """Of a classification: label of a row -> predicted label -> number of rows, without zeros."""
        return {}

    def write(self, path: str | os.PathLike, data: Sequence[Any], predictions: list[Any]) -> None:
        """Write the predictions of a file in the official form, atomically."""
        raise NotImplementedError

    # The model, its loss and its predictions

    def make_model(self, config: ErnieMConfig) -> "nn.Layer":
        """Make a new model with the layers `.ernie_m` and `.classifier`."""
        from model import heads

        model_class = getattr(heads, TASKS[self.name].model_class)
        if not self.labels:
            return model_class(config)
        return model_class(config, len(self.labels))

    def send_batches(self, model: "nn.Layer", batches: Sequence[Any]) -> list[tuple[Any, "LabelledBatch"]]:
        """Send batches to the device in one copy. Return (batch, what was sent) for each of them."""
        from model.batch import LabelledBatch, TokenBatch
        from model.device import upload
        from model.word_rows import words_of_step

        pad_id = model.ernie_m.config.pad_token_id
        words = words_of_step([batch.input_ids for batch in batches])
        labelled = [
            LabelledBatch(TokenBatch.from_padded(batch.input_ids, pad_id, words), self.targets(batch))
            for batch in batches
        ]
        return list(zip(batches, upload(labelled), strict=True))

    def outputs(self, model: "nn.Layer", sent: "LabelledBatch") -> dict[str, "Tensor"]:
        """Run the model: output name -> float32 tensor (float64 if the model is float64)."""
        import paddle

        tensors = model(sent.inputs)
        if not isinstance(tensors, tuple):
            tensors = (tensors,)
        outputs = {}
        for name, tensor in zip(TASKS[self.name].outputs, tensors, strict=True):
            is_half = tensor.dtype not in (paddle.float32, paddle.float64)
            outputs[name] = tensor.astype("float32") if is_half else tensor
        return outputs

    def evaluation_loss(self, batch: Any, outputs: dict[str, "Tensor"], sent: "LabelledBatch") -> float:
        """Return the sum of the losses of the items of a batch, for the mean over a file."""
        total, _, _ = self.losses(sent, outputs)
        return total.item()

    def predict(self, model: "nn.Layer", batch: Any, labelled: bool) -> tuple[list[Any], float]:
        """Return the predictions for a batch, and its `evaluation_loss` (0 without labels)."""
        _, sent = self.send_batches(model, [batch])[0]
        outputs = self.outputs(model, sent)
        loss = self.evaluation_loss(batch, outputs, sent) if labelled else 0.0
        arrays = {name: tensor.numpy() for name, tensor in outputs.items()}
        return self.decode(batch, arrays), loss

    # Training on files: the methods of `training.task.Task`

    def open(
        self,
        flags: FinetuneFlags,
        start: "Checkpoint | None",
        tokenizer: Tokenizer,
        config: ErnieMConfig,
    ) -> None:
        """Read and check the files that the flags name. Training on files begins with this.

        A task that only predicts single inputs, as `predict.py` does, has no files and skips it.

        Args:
            start: the weights that the flags name; None: random ones.

        Raises:
            UserError: a file is missing or damaged, or --select_on names a language without a file.
        """
        self.flags = flags
        self.start = start
        self.tokenizer = tokenizer
        self.config = config
        self.train_set = self.read(flags.train_set, "train") if flags.do_train else []
        self.dev_files = self._read_files(flags.dev_set, "dev") if flags.do_val else []
        self.test_files = self._read_files(flags.test_set, "test") if flags.do_test else []
        languages = [file.language for file in self.dev_files]
        if flags.do_val and flags.select_on not in (MEAN, LAST, *languages):
            raise UserError(f"--select_on {flags.select_on}: {MEAN}, {LAST} or {', '.join(languages)}")

    def _read_files(self, patterns: str, purpose: str) -> list[TaskFile]:
        """Read all files of --dev_set or --test_set, in the order of the patterns, then of the languages."""
        languages = None
        language_map = self.flags.lang_map_config
        if language_map:
            languages = read_languages(language_map)
        files = []
        for pattern, path_of_language in expand(patterns, languages, f"--{purpose}_set").items():
            advice = f"give --do_{'val' if purpose == 'dev' else 'test'} false"
            for language, path in path_of_language.items():
                if languages and not path.exists():
                    if any(other.exists() for other in path_of_language.values()):
                        advice = f"take {language} out of {language_map}"
                    raise UserError(f"{path}: no such file; add it, or {advice}")
                files.append(TaskFile(pattern, language, path, self.read(path, purpose)))
        return files

    @cached_property
    def identity(self) -> dict[str, Any]:
        from finetune.identity import digest_of_files, identity_of

        return identity_of(
            self.flags,
            self.name,
            [self.start],
            self.config,
            self.tokenizer,
            global_batch=global_batch(self.flags),
            labels=self.labels,
            train_set=digest_of_files([self.flags.train_set]),
            dev_set=digest_of_files(file.path for file in self.dev_files),
        )

    def begin(self, seed: int, checkpoint: Path | None) -> "Engine":
        from finetune.setup import make_engine, make_model, open_step

        flags = self.flags
        self.seed = seed
        self._batches = Batches(
            self.train_set,
            self.encode,
            batch_size=global_batch(flags),
            micro_batch_size=flags.batch_size,
            in_tokens=flags.in_tokens,
            shuffle=flags.shuffle,
            seed=seed,
            rank=rank(),
            world_size=world_size(),
        )
        self._steps_of_epoch = [self._batches.count(epoch) for epoch in range(flags.epoch)]
        self._epoch_ends = list(accumulate(self._steps_of_epoch))  # the number of the last step of each
        self.total_steps = self._epoch_ends[-1]
        if flags.max_steps is not None:
            self.total_steps = min(self.total_steps, flags.max_steps)
        self.evaluation_steps = self._evaluation_steps()
        logger.info(
            "seed %d: %d examples, %d optimiser steps of %d %s (batch %d x accumulation %d x processes %d)",
            seed,
            len(self.train_set),
            self.total_steps,
            global_batch(flags),
            "tokens" if flags.in_tokens else "examples",
            flags.batch_size,
            flags.gradient_accumulation_steps,
            world_size(),
        )
        # Step folders and --init_checkpoint have this task's classifier; --init_pretraining_params has none.
        fine_tuned = checkpoint is not None or flags.init_checkpoint is not None
        weights = open_step(checkpoint, self.start)
        model = make_model(flags, self, self.config, seed, weights, fine_tuned)
        return make_engine(flags, model, total_steps=self.total_steps, seed=seed)

    def _evaluation_steps(self) -> list[int]:
        """The steps after which the dev files are scored, in ascending order.

        They are every --validation_steps-th step, the last step of each epoch, and the last of all; with
        --select_on last only that one.
        """
        if not self.dev_files:
            return []
        steps = {self.total_steps}
        if self.flags.select_on != LAST:
            interval = self.flags.validation_steps
            steps |= {*range(interval, self.total_steps, interval)}
            steps |= {end for end in self._epoch_ends if end < self.total_steps}
        return sorted(steps)

    def batches(self, position: list[int] | None) -> Callable[[], Iterator[GlobalBatch]]:
        epoch, index = position or (0, 0)  # `GlobalBatch.position`
        return partial(self._batches.stream, epochs=self.flags.epoch, epoch=epoch, index=index)

    def send(self, model: "nn.Layer", data: GlobalBatch) -> list[tuple[Any, "LabelledBatch"]]:
        return self.send_batches(model, data.micro_batches)

    def loss(
        self, model: "nn.Layer", micro_batch: tuple[Any, "LabelledBatch"]
    ) -> tuple["Tensor", dict[str, "Tensor | float"]]:
        batch, sent = micro_batch
        # `batch.count` is that of the whole step, `count` that of this micro-batch.
        total, correct, count = self.losses(sent, self.outputs(model, sent))
        return total / batch.count, {"correct": correct, "count": count}

    def evaluate(self, engine: "Engine", stop: "StopSignal") -> "Evaluation | None":
        """Score the dev files of all languages; those of the first pattern select the best step."""
        from finetune.prediction import evaluate_files
        from training.task import Evaluation

        epoch = self.epoch_of(engine.steps)
        evaluated = evaluate_files(self, engine, self.dev_files, epoch, stop)
        if evaluated is None:
            return None
        scores, confusion = evaluated
        first_pattern = next(iter(scores.values()))
        by_language = {language: metrics[self.metric] for language, metrics in first_pattern.items()}
        if self.flags.select_on in (MEAN, LAST):
            selected_by = average(by_language)
        else:
            selected_by = by_language[self.flags.select_on]
        return Evaluation(engine.steps, epoch, selected_by, scores, confusion)

    def epoch_of(self, step: int) -> int:
        """The epoch, from 0, of an optimizer step, from 1."""
        return bisect_left(self._epoch_ends, step)  # the first epoch that ends with this step or later

    def line(self, interval: "Interval") -> str:
        batch: GlobalBatch = interval.data
        examples = len(self.train_set)
        share_of_epoch = (batch.index + 1) / self._steps_of_epoch[batch.epoch]
        progress = f"epoch: {batch.epoch}, progress: {round(share_of_epoch * examples)}/{examples}"
        accuracy = f"ave acc: {accuracy_of(interval):f}"
        return f"{progress}, {official_line(interval, self.total_steps, accuracy)}"

    def files(
        self, engine: "Engine", masters: Mapping[str, "Tensor"], evaluation: "Evaluation | None"
    ) -> "ModelFiles":
        from finetune.setup import files_of_checkpoint

        flags = self.flags
        settings = {"task": self.name, "labels": self.labels}
        if reading := self.reading():
            settings["reading"] = reading
        facts = {
            "name": f"ERNIE-M, {self.name}",
            "task": self.name,
            "data": flags.train_set,
            "languages": list(dict.fromkeys(file.language for file in self.dev_files)) or None,
            "initialised_from": flags.init_checkpoint or flags.init_pretraining_params or "random weights",
            "epochs": None if flags.max_steps else flags.epoch,
            "selected_by": None,
        }
        if self.dev_files:
            facts["selected_by"] = f"{self.metric}, {flags.select_on}, {self.dev_files[0].pattern}"
        return files_of_checkpoint(self, engine, masters, evaluation, settings, facts)


def global_batch(flags: FinetuneFlags) -> int:
    """Examples (padded tokens with --in_tokens) of a step, over all processes."""
    return flags.batch_size * flags.gradient_accumulation_steps * world_size()


def accuracy_of(interval: "Interval") -> float:
    """The share of correct decisions in an interval; nan if all of its steps were skipped.

    It is 0 if there was nothing to decide.
    """
    if not interval.sums["steps"]:
        return math.nan
    return interval.sums["correct"] / max(interval.sums["count"], 1)


def official_line(interval: "Interval", total_steps: int, measure: str) -> str:
    """A line of the log as the official code writes it. `measure`: such as "ave acc: 0.912"."""
    steps = interval.sums["steps"]
    loss = interval.sums["loss"] / steps if steps else math.nan
    return (
        f"step: {interval.steps}/{total_steps}, ave loss: {loss:f}, {measure}, lr: {interval.step.lr:.3e}, "
        f"grad norm: {interval.step.grad_norm:.3f}, speed: {interval.steps_per_second:.3f} steps/s, "
        f"{interval.remaining} left"
    )
