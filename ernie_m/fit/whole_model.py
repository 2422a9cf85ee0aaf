"""Full fine-tuning on labeled rows in Paddle, with the training loop of run_classifier.py.

The model is trained twice: on four fifths of the rows, to evaluate it on the others, and on all rows. The
last step is used. The initial checkpoint and the number of all rows determine the learning rate and epochs.
Until the output is complete, both runs are in <output>.training, from which a later call resumes.
"""

import gc
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from ernie_m.finetune.evaluate import LanguageFile, predict_files
from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.finetune.finetuning_run import FinetuningRun
from ernie_m.finetune.hyperparameters import choose_hyperparameters
from ernie_m.finetune.run_setup import make_loop_config
from ernie_m.fit.labeled_rows import LabeledDataset
from ernie_m.fit.scores import EvaluationResult
from ernie_m.fit.split_rows import split_rows
from ernie_m.inference.load import LoadedModel, load
from ernie_m.model.open_model import OpenedModel, open_model
from ernie_m.training import distributed
from ernie_m.training.output_dir import FolderRules, OutputDir
from ernie_m.training.stop_requests import ShutdownHandler
from ernie_m.training.trainer import Trainer
from ernie_m.utils.files import atomic_dir, remove
from ernie_m.utils.logging import logger

_SEED = 1


def finetune_model(
    loaded: LoadedModel,
    rows: LabeledDataset,
    output: Path,
    max_seq_len: int,
    name: str,
    stop: ShutdownHandler,
) -> tuple[LoadedModel, EvaluationResult | None] | None:
    """Fine-tune all weights without the first fold, evaluate on the first fold, and fine-tune on all rows.

    Args:
        max_seq_len: the maximum length of an input in tokens.
        loaded, rows, output, name, stop: see `ernie_m.fit.fit_model.fit_model`.

    Returns:
        See `ernie_m.fit.fit_model.fit_model`.
    """
    distributed.init()
    opened = open_model(loaded.reopen_checkpoint())
    flags = FinetuneFlags(
        init_pretraining_params=str(loaded.folder),
        train_set=name,
        max_seq_len=max_seq_len,
        amp=loaded.amp,
        do_val=False,
        do_test=False,
        save_steps=200,
        skip_steps=25,
        keep_checkpoints=1,
    )
    opened.check_length(max_seq_len)
    # Both runs use the learning rate, decay and epochs of the run on all rows.
    task = rows.make_task(opened.tokenizer, flags.max_seq_len)
    flags = choose_hyperparameters(flags, opened.config, len(rows.examples), task.name)
    folder = output.with_name(f"{output.name}.training")
    scored = None
    if not rows.find_split_errors():
        held_out = split_rows(rows.kind, rows.targets, rows.groups)[0]
        trained = rows.select_rows(np.setdiff1d(np.arange(len(rows.examples)), held_out))
        logger.info("training: 2 runs, first without %d held-out rows, then on all rows", len(held_out))
        trainer = _train(folder / "scores", flags, opened, trained, stop)
        if trainer is None:
            return None
        scored_rows = rows.select_rows(held_out)
        file = LanguageFile("", "", output, scored_rows.examples)
        predicted = predict_files(task, trainer.engine, [file], flags.prediction, labeled=False, stop=stop)
        if predicted is None:
            return None
        scored = EvaluationResult(
            scored_rows,
            np.array(predicted[0].predictions),
            "Held-out fifth, predicted by a model of the other rows",
        )
        del trainer
        gc.collect()  # the model and its optimizer
    trainer = _train(folder / "all", flags, opened, rows, stop)
    if trainer is None:
        return None
    files = trainer.task.collect_files(trainer.engine, trainer.engine.master_weights(), None)
    with atomic_dir(output) as new:
        replace(files, config_json={**files.config_json, **rows.to_settings()}).write(new)
    remove(folder)
    return load(output, engine=loaded.engine_name, amp=loaded.amp), scored


def _train(
    folder: Path, flags: FinetuneFlags, opened: OpenedModel, rows: LabeledDataset, stop: ShutdownHandler
) -> Trainer | None:
    """Fine-tune on labeled rows, resuming from the checkpoints in `folder` if there are any.

    Returns:
        The trainer, with the trained model; None after a stop request.
    """
    rules = FolderRules(ways_out=f"delete {folder.parent}", contents=())
    run = OutputDir(folder, rules, flags.keep_checkpoints)
    with run.lock():
        task = rows.make_task(opened.tokenizer, flags.max_seq_len)
        content = repr((rows.kind, rows.examples)).encode("utf-8", "surrogatepass")
        digest = hashlib.sha256(content).hexdigest()
        # The head is always new: that of the checkpoint may have been trained on the rows of the test.
        training = FinetuningRun(task, flags, opened, rows.examples, digest)
        trainer = Trainer(training, run, _SEED, make_loop_config(flags))
        return trainer if trainer.run(stop) else None
