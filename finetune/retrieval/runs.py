"""A retrieval command from start to end: bitexts, one model per seed, the tables, the predictions."""

import contextlib
import dataclasses
import gc
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.pooling import layer_number
from finetune import report
from finetune.encoder import open_encoder
from finetune.retrieval.flags import FREE, RetrievalFlags
from finetune.retrieval.report import Scores, scores_of, tables_of, write_predictions, write_sweep
from finetune.retrieval.search import Searcher
from finetune.retrieval.training import RetrievalTraining
from finetune.run_folder import (
    digest_of_files,
    has_state,
    owned_by,
    seed_folders,
    step_to_resume,
    weights_of,
)
from finetune.setup import make_tokenizer, model_config
from finetune.trainer import SUMS, Trainer
from model.checkpoint.folder import load_from, read_weights
from model.ernie_m import ErnieMModel
from model.task_names import task_named
from reader.bitext import Bitext, read_bitext, read_bitexts
from reader.corpus import MANIFEST, Corpus
from reader.tokenization import Tokenizer
from training import distributed
from training.engine import Engine
from training.optimizer import build_optimizer, linear_warmup_decay
from training.precision import Precision
from utils.config import save_config
from utils.errors import UserError
from utils.logging import logger, setup


@dataclass(frozen=True)
class Record:
    """What one seed's model finds at one layer."""

    layer: int
    scores: Scores


def run_retrieval(flags: RetrievalFlags) -> None:
    """Do what the flags say: train where asked, search the bitexts, with every seed in turn.

    Raises:
        UserError: anything in the flags or files that the user can put right; another run trains in the
            folder, or has trained there.
    """
    device = distributed.init(flags.use_cuda)
    setup(rank=distributed.rank())
    logger.info("command: %s", shlex.join(sys.argv))
    logger.info("device: %s, processes: %d", device, distributed.world_size())
    with contextlib.ExitStack() as stack:
        bitexts = open_bitexts(flags)
        dev_bitexts = read_bitexts(flags.dev_pairs) if flags.layer == "dev" else []
        check_weights(flags)
        run: dict[str, Any] = {}
        if flags.do_train:
            run = identity(flags)
            sources = (flags.init_checkpoint, flags.init_pretraining_params)
            stack.enter_context(owned_by(flags.checkpoints, run, flags.overwrite, sources))
            if distributed.is_main():
                save_config(flags, Path(flags.checkpoints) / "flags.yaml")
        records: dict[int, Record] = {}
        for seed, folder in seed_folders(flags.checkpoints, flags.seeds).items():
            record = run_seed(flags.of_seed(seed), run, folder, bitexts, dev_bitexts, len(flags.seeds) > 1)
            gc.collect()  # the model and its moments, before the next seed's are made
            if record is not None:
                records[seed] = record
        if records:
            write_report(flags, records)


def identity(flags: RetrievalFlags) -> dict[str, Any]:
    """What makes two runs the same: flags that decide what is learned, digests of data and weights."""
    first = flags.of_seed(flags.seeds[0])
    if flags.init_checkpoint:
        read_weights(flags.init_checkpoint)  # it says so where there is no such folder
        if not has_state(flags.init_checkpoint):
            raise UserError(
                f"{flags.init_checkpoint}: no training_state there; name weights with "
                "--init_pretraining_params"
            )
    tokenizer = make_tokenizer(first)
    config = model_config(first, tokenizer)
    layer_of(flags, config.num_hidden_layers)
    corpus = Corpus(flags.train_set, tokenizer.digest)
    return {
        "task": "retrieval",
        **{name: value for name, value in dataclasses.asdict(flags).items() if name not in FREE},
        "random_seed": list(flags.seeds),
        "model": config.to_dict(),
        "vocabulary": tokenizer.digest,
        "train_set": digest_of_files([corpus.path / MANIFEST]),
        "weights": weights_of(flags, flags.seeds),
    }


def layer_of(flags: RetrievalFlags, layers: int) -> int | None:
    """The layer that is trained and searched with; None: it is chosen later."""
    if flags.pooling == "pooled":
        return layers
    return None if flags.layer in ("dev", "sweep") else layer_number(flags.layer, layers)


def check_weights(flags: RetrievalFlags) -> None:
    """Refuse weights that are not of --init_task."""
    if not (flags.init_task and flags.init_pretraining_params):
        return
    for seed in flags.seeds:
        path = flags.of_seed(seed).init_pretraining_params
        checkpoint = read_weights(path)
        task = checkpoint.extra.get("task") or checkpoint.head
        if task is None or task_named(task) != flags.init_task:
            found = "were not fine-tuned" if task is None else f"were fine-tuned for {task_named(task)}"
            raise UserError(
                f"{path}: its weights {found}, and --init_task wants {flags.init_task}; name others with "
                '--init_pretraining_params, or take any weights with --init_task ""'
            )


def open_bitexts(flags: RetrievalFlags) -> list[Bitext]:
    """What --pairs, or --src_file and --tgt_file, name."""
    if flags.src_file:
        return [read_bitext("bitext", flags.src_file, flags.tgt_file)]
    languages = flags.languages.split(",") if flags.languages else []
    return read_bitexts(flags.pairs, languages) if flags.pairs else []


def run_seed(
    flags: RetrievalFlags,
    run: dict[str, Any],
    folder: Path,
    bitexts: list[Bitext],
    dev_bitexts: list[Bitext],
    one_of_many: bool,
) -> Record | None:
    """Train where asked, then search; None without bitexts and for a sweep of the layers.

    Args:
        flags: of this seed.
        run: what makes two runs the same, of --do_train true.
        one_of_many: the names of predictions have the seed.
    """
    seed = flags.random_seed
    start = step_to_resume(folder, run, seed, flags.init_checkpoint) if flags.do_train else None
    of_start = dataclasses.replace(flags, init_checkpoint=str(start[0]) if start else None)
    model, tokenizer = open_encoder(of_start, flags.dtype, seed)
    layer = layer_of(flags, model.config.num_hidden_layers)
    if flags.do_train:
        trainer = make_trainer(flags, model, tokenizer, layer, run, folder)
        if start:
            trainer.resume(*start)
        trainer.train()
        if trainer.state.best is not None:
            load_from(model, folder / "best")
    if not bitexts:
        return None
    searcher = Searcher(flags, model, tokenizer)
    if flags.layer == "sweep":
        found = searcher.by_layer(bitexts)
        if distributed.is_main():
            how = f"{flags.score}, {flags.pooling}"
            write_sweep(folder, f"retrieval by layer: {how}, both directions", found)
        return None
    layer = searcher.choose_layer(dev_bitexts) if flags.layer == "dev" else layer
    found = searcher.at(layer, bitexts)
    if distributed.is_main():
        if flags.xtreme_save:
            write_predictions(flags.xtreme_save, bitexts, found, seed if one_of_many else None)
        else:  # in the folder of the seed already
            write_predictions(folder / "predictions" / "tatoeba", bitexts, found)
    return Record(layer, scores_of(found))


def make_trainer(
    flags: RetrievalFlags,
    model: ErnieMModel,
    tokenizer: Tokenizer,
    layer: int,
    run: dict[str, Any],
    folder: Path,
) -> Trainer:
    """Everything for one seed, at the first step."""
    training = RetrievalTraining(flags, model, tokenizer, layer)
    model.recompute = flags.recompute
    steps = flags.max_steps
    schedule = linear_warmup_decay(int(steps * flags.warmup_proportion), steps, flags.lr_schedule_style)
    optimizer = build_optimizer(
        model, flags.learning_rate, schedule, flags.weight_decay, flags.layerwise_lr_decay
    )
    engine = Engine(model, optimizer, flags.random_seed, precision=Precision(flags.amp), sums=SUMS)
    return Trainer(flags, training, engine, model.config, tokenizer, run, folder)


def write_report(flags: RetrievalFlags, records: dict[int, Record]) -> None:
    """The tables on the console and in the log, and retrieval.{txt,md,json,png} in --checkpoints."""
    layers = list(dict.fromkeys(record.layer for record in records.values()))
    how = f"{flags.score}, {flags.pooling}, layer {', '.join(map(str, layers))}"
    scores = {seed: record.scores for seed, record in records.items()}
    tables = tables_of(scores, how, flags.paper)
    logger.info("results\n%s", report.to_text(tables))
    facts = {
        "task": "retrieval", "pooling": flags.pooling, "score": flags.score,
        "layers": {str(seed): record.layer for seed, record in records.items()},
    }  # fmt: skip
    if distributed.is_main():
        report.write_report(Path(flags.checkpoints), "retrieval", tables, facts)
