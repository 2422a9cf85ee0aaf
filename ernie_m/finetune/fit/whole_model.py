"""Fine-tune a whole model on labelled rows, and score it on rows that it was not trained on.

Beside the output, until it is there, <output>.training holds what a later call goes on from:

    rows.tsv      the rows
    run.json      what decides the result
    groups.npy    the group of each row; rows of a group are in one fold
    fold_0.npy    what the model that was trained without fold 0 predicts of it
    fold_1/       the run that is at work; all/ is that on all rows

No step is selected, and rates and epochs follow from the start and the number of rows alone. So nothing of a
fold decides how the model that predicts it is trained.
"""

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ernie_m.finetune.command import pace_of
from ernie_m.finetune.fit.folds import FOLDS, Scored, folds_of
from ernie_m.finetune.fit.groups import groups_of
from ernie_m.finetune.flags import ClassifierFlags
from ernie_m.finetune.labelled_task import FineTuning
from ernie_m.finetune.open_model import OpenedModel, open_model
from ernie_m.finetune.prediction import TaskFile, predict_files
from ernie_m.finetune.tasks.classification import Classification
from ernie_m.model.checkpoint.load import HEADS, load_from
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.encoder import ErnieMModel
from ernie_m.model.tasks import MEAN_OF_TOKENS
from ernie_m.reader.classification import Examples, SomeExamples
from ernie_m.tokenizer.tokenizer import Tokenizer
from ernie_m.training import distributed
from ernie_m.training.claim import claim_file, only_run_in
from ernie_m.training.run import Trainer
from ernie_m.training.run_folder import RUN, FolderRules, RunFolder
from ernie_m.training.stop_requests import StopSignal
from ernie_m.utils.files import atomic_dir, atomic_file, remove
from ernie_m.utils.logging import logger
from ernie_m.vectors.encode import PaddleEncoder

MAX_SEQ_LEN = 256  # tokens
# With so many rows or more, a single fold is held out: it has at least 200 rows, and a training for each of
# the five folds would take long.
MANY_ROWS = 1000
_SEED = 1


class OfRows(Classification):
    """Classification whose training set is some rows of a file that was read, and checked, before."""

    def __init__(self, rows: SomeExamples, tokenizer: Tokenizer, labels: Sequence[str], max_seq_len: int):
        super().__init__(tokenizer, labels, max_seq_len)
        self.rows = rows

    def read_training(self, path: str) -> SomeExamples:
        return self.rows


@dataclass(frozen=True)
class _Work:
    """What all runs on a table share. `folder` has a folder for each run."""

    folder: Path
    opened: OpenedModel
    flags: ClassifierFlags
    names: Sequence[str]
    examples: Examples
    stop: StopSignal

    def fine_tuning(self, numbers: np.ndarray) -> FineTuning:
        """The training on the rows with these numbers, int64 [N]."""
        rows = SomeExamples([self.examples], numbers)
        task = OfRows(rows, self.opened.tokenizer, self.names, self.flags.max_seq_len)
        return FineTuning(task, self.flags, self.opened)

    def trained(self, name: str, numbers: np.ndarray) -> Trainer | None:
        """Train on the rows with these numbers, in a folder of this name. None: the process shall stop."""
        rules = FolderRules(ways_out=f"delete {self.folder}", contents=())
        folder = RunFolder(self.folder / name, rules, self.flags.keep_checkpoints)
        with folder.locked():
            trainer = Trainer(self.fine_tuning(numbers), folder, _SEED, pace_of(self.flags))
            return trainer if trainer.run(self.stop) else None

    def groups(
        self,
        inputs: Sequence[Sequence[str]],
        labels: Sequence[str],
        languages: Sequence[str],
        ids: Sequence[str],
    ) -> np.ndarray:
        """The group of each row, int64 [N]; see `groups_of`. The start makes the vectors, as in `fit`."""
        path = self.folder / "groups.npy"
        if not path.is_file():
            began = time.monotonic()
            config = self.opened.config
            model = ErnieMModel(config)
            load_from(model, self.opened.checkpoint, ignore=(*HEADS, "pooler."))
            layer = self.opened.reading.layer
            layer = config.num_hidden_layers if layer is None else layer
            task = Classification(self.opened.tokenizer, self.names, self.flags.max_seq_len)
            features = task.encode([*self.examples])
            encoder = PaddleEncoder(model, MEAN_OF_TOKENS, layer)
            vectors = encoder.vectors([feature.ids for feature in features])
            logger.info(
                "vectors of %d rows, by which those that belong together are found: %.0f s",
                len(vectors),
                time.monotonic() - began,
            )
            groups = groups_of(inputs, labels, vectors, languages, ids)
            with atomic_file(path) as file:
                np.save(file, groups)
        return np.load(path)

    def predictions(self, fold: int, held_out: np.ndarray) -> np.ndarray | None:
        """The probabilities of the rows of a fold, float [N, C], from a model of all other rows.

        Args:
            held_out: whether each row of the table is in the fold, bool.

        Returns:
            None if the process shall stop.
        """
        path = self.folder / f"fold_{fold}.npy"
        if not path.is_file():
            trainer = self.trained(path.stem, np.flatnonzero(~held_out))
            if trainer is None:
                return None
            files = [TaskFile("", "", path, SomeExamples([self.examples], np.flatnonzero(held_out)))]
            predicted = predict_files(
                trainer.task.task, trainer.engine, files, self.flags, labelled=False, stop=self.stop
            )
            if predicted is None:
                return None
            with atomic_file(path) as file:
                np.save(file, np.stack(predicted[0].predictions))
            del trainer
            gc.collect()  # before the next model is made
            remove(self.folder / path.stem)
        return np.load(path)


def train_and_score(
    inputs: Sequence[Sequence[str]],
    labels: Sequence[str],
    start: str | Path,
    output: str | Path,
    name: str = "texts",
    amp: str = "none",
    stop: StopSignal | None = None,
    languages: Sequence[str] = (),
    ids: Sequence[str] = (),
) -> Scored | None:
    """Train a classifier on all rows, write it to a new folder, and score it; go on if that was interrupted.

    The scores are those of models that were trained in the same way on other rows: in `FOLDS` folds, or with
    `MANY_ROWS` rows or more by one model of four fifths, which predicts the last fifth.

    Args:
        inputs: a text, or a pair of texts, of each row, without tabs and line ends.
        labels: the label of each row, in its normal form.
        start: pre-trained weights.
        name: the name of the table, for the model card.
        amp: a value of run_classifier.py --amp.
        stop: tells whether the process was asked to stop.
        languages, ids: the language and the id of each row, without tabs and line ends, see `groups_of`.

    Returns:
        None if the process was asked to stop.

    Raises:
        UserError: the start cannot be trained, or the folder beside the output holds other work.
    """
    stop = StopSignal(active=False) if stop is None else stop
    distributed.init()
    opened = open_model(open_checkpoint(start))
    folder = Path(f"{output}.training")
    flags = ClassifierFlags(
        init_pretraining_params=str(start),
        train_set=str(folder / f"{name}.tsv"),
        do_val=False,
        do_test=False,
        max_seq_len=min(MAX_SEQ_LEN, opened.longest),
        rates_of_start=True,
        amp=amp,
        save_steps=200,
        keep_checkpoints=1,
    )
    with only_run_in(folder):
        columns = {
            "text_a": [texts[0] for texts in inputs],
            "text_b": [texts[1] for texts in inputs if texts[1:]],
        }
        columns["label"] = labels
        columns["qid"] = [" ".join(row) for row in zip(*filter(None, (languages, ids)))]
        columns = {name: cells for name, cells in columns.items() if cells}
        lines = ["\t".join(cells) for cells in [tuple(columns), *zip(*columns.values())]]
        with atomic_file(Path(flags.train_set), "w", encoding="utf-8") as file:
            file.write("\n".join([*lines, ""]))
        names = sorted(set(labels))
        # This reading warns of what is odd about the rows.
        examples = Classification(opened.tokenizer, names, flags.max_seq_len).read(flags.train_set, "train")
        work = _Work(folder, opened, flags, names, examples, stop)
        all_rows = np.arange(len(labels))
        identity = work.fine_tuning(all_rows).identity
        claim_file(folder / RUN, identity, f"choose another output, or delete {folder}")
        groups = work.groups(inputs, labels, languages, ids)
        folds = folds_of(groups, labels)
        count = FOLDS if len(labels) < MANY_ROWS else 1
        probabilities = np.full((len(labels), len(work.names)), np.nan)
        for fold in range(count):
            held_out = folds == fold
            if not held_out.any():
                continue
            logger.info("training %d of %d: it predicts %d rows", fold + 1, count + 1, held_out.sum())
            predicted = work.predictions(fold, held_out)
            if predicted is None:
                return None
            probabilities[held_out] = predicted
        logger.info("training %d of %d: on all rows", count + 1, count + 1)
        trainer = work.trained("all", all_rows)
        if trainer is None:
            return None
        with atomic_dir(output) as new:
            trainer.task.files(trainer.engine, trainer.engine.masters(), None).write(new)
    remove(folder)
    return Scored.of(probabilities, labels, groups, work.names, count)
