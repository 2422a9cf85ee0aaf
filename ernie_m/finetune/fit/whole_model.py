"""Fine-tune a whole model on the units of a table, and score it on units that it was not trained on.

Beside the output, until it is there, <output>.training holds what a later call goes on from:

    run.json       what decides the result
    groups.npy     the group of each unit; units of a group are in one fold
    precision.json the precision that is faster on this machine, and the seconds of a step
    fold_0.json    what the model that was trained without fold 0 predicts of it
    fold_1/        the run that is at work; all/ is that on all units

No step is selected, and rates and epochs follow from the start and the number of units alone. So nothing of a
fold decides how the model that predicts it is trained.
"""

import gc
import hashlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ernie_m.finetune.command import pace_of
from ernie_m.finetune.fit.folds import FOLDS, folds_of
from ernie_m.finetune.fit.groups import groups_of
from ernie_m.finetune.fit.scored import Scored
from ernie_m.finetune.fit.units import Units
from ernie_m.finetune.flags import FinetuneFlags
from ernie_m.finetune.labelled_task import KEPT, FineTuning
from ernie_m.finetune.open_model import OpenedModel, open_model, settle
from ernie_m.finetune.prediction import TaskFile, predict_files
from ernie_m.finetune.tasks.classification import Classification
from ernie_m.model.checkpoint.load import HEADS, load_from
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.encoder import ErnieMModel
from ernie_m.model.tasks import MEAN_OF_TOKENS
from ernie_m.reader.batching import Example
from ernie_m.training import distributed
from ernie_m.training.claim import claim_file, only_run_in
from ernie_m.training.engine import Engine
from ernie_m.training.log.meter import Interval
from ernie_m.training.precision import is_bf16_on_cpu
from ernie_m.training.run import Trainer
from ernie_m.training.run_folder import RUN, FolderRules, RunFolder
from ernie_m.training.stop_requests import StopSignal
from ernie_m.utils.files import atomic_dir, atomic_file, read_json, remove, write_json
from ernie_m.utils.logging import as_time, logger
from ernie_m.vectors.encode import PaddleEncoder

# With so many units or more, a single fold is held out: it has at least 80 of them, and a training for each
# of the five folds would take long.
MANY_ROWS = 400
AUTO = "auto"  # the faster precision of none and bf16
_TIMED_STEPS = 3  # of each precision, after one that is not timed
# bf16 is taken only if its steps take less than this part of the seconds of float32, because times vary.
_CLEARLY = 0.9
_SEED = 1


class _Training(FineTuning):
    """One of the trainings of a call. Its lines say how long all of them take.

    Args:
        numbers: those of the units to learn from, int64 [N].
        to_come: how many units later trainings learn from.
    """

    record = None  # nobody looks at the curves of a fold
    reads_head = False  # that of the start may have learned from what a fold is scored on

    def __init__(self, work: "_Work", numbers: np.ndarray, title: str, to_come: int):
        super().__init__(work.units.task, work.flags, work.opened, work.units.training(numbers))
        self._title = title
        self._to_come = to_come

    def line(self, interval: Interval) -> str:
        loss = interval.sums["loss"] / max(interval.sums["steps"], 1)
        steps = self.total_steps - interval.steps
        steps += self.total_steps * self._to_come / len(self.train_set)
        left = as_time(steps / max(interval.steps_per_second, 1e-9))
        return (
            f"{self._title}: step {interval.steps} of {self.total_steps}, loss {loss:.3f}; {left} left of all"
        )


@dataclass(frozen=True)
class _Work:
    """What all runs on a table share. `folder` has a folder for each run."""

    folder: Path
    opened: OpenedModel
    flags: FinetuneFlags
    units: Units
    stop: StopSignal

    def on_all(self) -> _Training:
        """The training on all units."""
        return _Training(self, np.arange(len(self.units)), "training", 0)

    def trained(self, name: str, numbers: np.ndarray, title: str, to_come: int) -> Trainer | None:
        """Train in a folder of this name; see `_Training`. None: the process shall stop."""
        gc.collect()  # an earlier model and its optimizer
        rules = FolderRules(ways_out=lambda _: f"delete {self.folder}", contents=())
        folder = RunFolder(self.folder / name, rules, self.flags.keep_checkpoints)
        with folder.locked():
            training = _Training(self, numbers, title, to_come)
            trainer = Trainer(training, folder, _SEED, pace_of(self.flags))
            return trainer if trainer.run(self.stop) else None

    def groups(self) -> np.ndarray:
        """The group of each unit, int64 [N]; see `groups_of`. The start makes the vectors, as in `fit`."""
        path = self.folder / "groups.npy"
        if not path.is_file():
            units = self.units
            inputs = units.inputs()
            vectors = None
            # Sentences and contexts in one language that say nearly the same are of no harm.
            if units.noun == "rows" or len(set(units.languages)) > 1:
                vectors = self._vectors([Example(*texts) for texts in inputs])
            groups = groups_of(inputs, units.labels(), vectors, units.languages, units.ids)
            with atomic_file(path) as file:
                np.save(file, groups)
        return np.load(path)

    def _vectors(self, examples: Sequence[Example]) -> np.ndarray:
        """The vector of each text, or pair of texts, float32 [N, H]."""
        began = time.monotonic()
        config = self.opened.config
        model = ErnieMModel(config)
        load_from(model, self.opened.checkpoint, ignore=(*HEADS, "pooler."))
        layer = self.opened.reading.layer
        layer = config.num_hidden_layers if layer is None else layer
        encode = Classification(self.opened.tokenizer, [], self.flags.max_seq_len).encode
        encoder = PaddleEncoder(model, MEAN_OF_TOKENS, layer)
        vectors = encoder.vectors([feature.ids for feature in encode(examples)])
        logger.info(
            "vectors of %d %s, by which those that belong together are found: %.0f s",
            len(vectors),
            self.units.noun,
            time.monotonic() - began,
        )
        return vectors

    def with_precision(self) -> tuple["_Work", dict[str, float]]:
        """The same work in the precision that is faster here, unless one was asked for.

        Returns:
            also the seconds of a step in each precision that was tried.
        """
        path = self.folder / "precision.json"
        if not path.is_file():
            asked = self.flags.amp
            tried = [asked] if asked != AUTO else ["none", *(["bf16"] if is_bf16_on_cpu("bf16") else [])]
            seconds = {amp: self._seconds_of_a_step(amp) for amp in tried}
            is_faster = seconds[tried[-1]] < _CLEARLY * seconds[tried[0]]
            write_json(path, {"amp": tried[-1] if is_faster else tried[0], "seconds": seconds})
        measured = read_json(path)
        return replace(self, flags=replace(self.flags, amp=measured["amp"])), measured["seconds"]

    def _seconds_of_a_step(self, amp: str) -> float:
        """How long an optimizer step takes in this precision: the median of a few."""
        gc.collect()  # an earlier model and its optimizer
        work = replace(self, flags=replace(self.flags, amp=amp))
        training = work.on_all()
        with _no_log():
            engine = training.begin(_SEED, None)
        seconds = []
        for _, data in zip(range(1 + _TIMED_STEPS), training.batches(None)()):
            began = time.monotonic()
            with engine.autocast():
                micro_batches = training.send(engine.model, data)
            engine.step(micro_batches, training.loss)
            seconds.append(time.monotonic() - began)
        return statistics.median(seconds[1:] or seconds)

    def outcomes(self, engine: Engine, units: Units, numbers: np.ndarray) -> list[Any] | None:
        """What a model predicts of the units with these numbers. None: the process shall stop."""
        data = units.to_predict(numbers)
        file = TaskFile("", "", self.folder, data)
        predicted = predict_files(units.task, engine, [file], self.flags, labelled=False, stop=self.stop)
        return None if predicted is None else units.outcomes(data, predicted[0].predictions)

    def predictions(self, fold: int, held_out: np.ndarray, title: str, to_come: int) -> list[Any] | None:
        """What a model of all other units predicts of those of a fold; see `Units.outcomes`.

        Args:
            held_out: whether each unit is in the fold, bool.
            title, to_come: see `trained`.

        Returns:
            None if the process shall stop.
        """
        path = self.folder / f"fold_{fold}.json"
        if not path.is_file():
            trainer = self.trained(path.stem, np.flatnonzero(~held_out), title, to_come)
            if trainer is None:
                return None
            outcomes = self.outcomes(trainer.engine, self.units, np.flatnonzero(held_out))
            if outcomes is None:
                return None
            write_json(path, outcomes)
            remove(self.folder / path.stem)
        return read_json(path)


@contextmanager
def _no_log() -> Iterator[None]:
    """Keep lines out of the log that are of no training, or that each training has again."""
    level = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(level)


def train_and_score(
    units: Units,
    start: str | Path,
    output: str | Path,
    name: str = "texts",
    amp: str = AUTO,
    stop: StopSignal | None = None,
    say: Callable[[Scored], None] = lambda scored: None,
    tests: Sequence[tuple[str, Units]] = (),
) -> tuple[Scored, list[Scored]] | None:
    """Train a model on all units, write it to a new folder, and score it; go on if that was interrupted.

    The scores are those of models that were trained in the same way on other units: in `FOLDS` folds, or with
    `MANY_ROWS` units or more by one model of four fifths, which predicts the last fifth.

    Args:
        start: pre-trained weights.
        name: the file of the units, for the model card.
        amp: a value of run_classifier.py --amp, or `AUTO`.
        stop: tells whether the process was asked to stop.
        say: is told the scores as soon as they are known.
        tests: names of files, and their units, which the written model predicts.

    Returns:
        the scores, and those of each test; None if the process was asked to stop.

    Raises:
        UserError: the start cannot be trained, or the folder beside the output holds other work.
    """
    stop = StopSignal(active=False) if stop is None else stop
    distributed.init()
    opened = open_model(open_checkpoint(start))
    folder = Path(f"{output}.training")
    flags = settle(_settings(units, opened.longest), opened, KEPT)
    flags = replace(flags, init_pretraining_params=str(start), train_set=name, amp=amp)
    for path, part in ((name, units), *tests):
        part.open(opened, replace(flags, train_set=path))
        part.task.warn_of_texts(path, part.to_predict(range(len(part))))
    units.warn_of_labels(name)
    work = _Work(folder, opened, flags, units, stop)
    training = work.on_all()
    # All trainings have the rate, the decay and the epochs of the one on all units.
    work = replace(work, flags=replace(training.flags, rates_of_start=False))
    with only_run_in(folder):
        all_units = np.arange(len(units))
        identity = {**training.identity, "rows": _digest(units)}
        claim_file(folder / RUN, identity, f"choose another output, or delete {folder}")
        groups = work.groups()
        folds = folds_of(groups, units.labels())
        count = FOLDS if len(units) < MANY_ROWS else 1
        held_out = [folds == fold for fold in range(count) if (folds == fold).any()]
        sizes = [*(int((~held).sum()) for held in held_out), len(units)]  # of the trainings
        work, seconds = work.with_precision()
        _log_plan(work, len(training.train_set), sizes, seconds)

        # The scores: trainings without a fold, each of which predicts its fold.
        outcomes: dict[int, Any] = {}
        for number, held in enumerate(held_out):
            title = f"training {number + 1} of {len(sizes)}, which predicts {held.sum()} {units.noun}"
            predicted = work.predictions(number, held, title, sum(sizes[number + 1 :]))
            if predicted is None:
                return None
            outcomes |= zip(np.flatnonzero(held).tolist(), predicted, strict=True)
        numbers = np.array(sorted(outcomes))
        ordered = [outcomes[number] for number in numbers.tolist()]
        scored = Scored(units, numbers, ordered, groups[numbers], len(held_out))
        say(scored)

        # The model: a training on all units.
        trainer = work.trained("all", all_units, f"training {len(sizes)} of {len(sizes)}, on all", 0)
        if trainer is None:
            return None
        scores_of_tests = []
        for _, part in tests:
            every = np.arange(len(part))
            predicted = work.outcomes(trainer.engine, part, every)
            if predicted is None:
                return None
            scores_of_tests.append(Scored(part, every, predicted, groups=every, folds=0))
        with atomic_dir(output) as new:
            files = trainer.task.files(trainer.engine, trainer.engine.masters(), None)
            kept = units.kept() | scored.kept()
            replace(files, config_json={**files.config_json, **kept}).write(new)
    remove(folder)
    return scored, scores_of_tests


def _settings(units: Units, longest: int) -> FinetuneFlags:
    """The settings of all trainings on some units, of a model for inputs of at most `longest` tokens."""
    return FinetuneFlags(
        max_seq_len=min(units.max_seq_len, longest),
        on_command_line=("max_seq_len",),
        do_val=False,
        do_test=False,
        rates_of_start=True,
        official_compat=False,
        save_steps=200,
        skip_steps=25,
        keep_checkpoints=1,
    )


def _digest(units: Units) -> str:
    """SHA-256 of what the units are."""
    content = repr((units.kind, units.items, getattr(units, "contexts", ()), units.languages, units.ids))
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def _log_plan(work: _Work, examples: int, sizes: Sequence[int], seconds: dict[str, float]) -> None:
    """Log what is trained, how long that takes, and in which precision.

    Args:
        examples: those of the training on all units.
        sizes: of each training, how many units it learns from.
    """
    flags = work.flags
    steps = examples * flags.epoch / flags.batch_size
    total = sum(sizes) / len(work.units) * steps * seconds[flags.amp]
    names = {"none": "float32", "bf16": "bfloat16", "fp16": "float16"}
    measured = ", ".join(f"{names[amp]} {value:.2f} s a step" for amp, value in seconds.items())
    logger.info(
        "%d trainings, about %s in all (%s: %s)", len(sizes), as_time(total), names[flags.amp], measured
    )
