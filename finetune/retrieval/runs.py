"""A retrieval command from start to end: bitexts, one model per seed, the tables, the predictions."""

import dataclasses
import gc
import json
import shlex
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from evaluation.pooling import layer_number
from finetune import report
from finetune.encoder import open_encoder
from finetune.retrieval.flags import RetrievalFlags
from finetune.retrieval.report import Scores, scores_of, tables_of, write_predictions, write_sweep
from finetune.retrieval.search import Searcher
from finetune.retrieval.trainer import RetrievalTrainer
from finetune.setup import has_state, state_of
from model.checkpoint import load_from, read_weights
from reader.sentences import Bitext, read_bitext, read_bitexts
from training import distributed
from training.guard import only_run_in
from utils.config import save_config
from utils.errors import UserError
from utils.files import atomic_file
from utils.json_files import read_dataclass
from utils.logging import logger, setup

SELECTED = "selected.json"


@dataclass(frozen=True)
class Record:
    """What one seed's model finds at one layer."""

    layer: int
    scores: Scores


def run_retrieval(flags: RetrievalFlags) -> None:
    """Do what the flags say: train where asked, search the bitexts, with every seed in turn.

    Raises:
        UserError: anything in the flags or files that the user can put right; another run trains in the
            folder.
    """
    device = distributed.init(flags.use_cuda)
    setup(rank=distributed.rank())
    logger.info("command: %s", shlex.join(sys.argv))
    logger.info("device: %s, processes: %d", device, distributed.world_size())
    bitexts = open_bitexts(flags)
    dev_bitexts = read_bitexts(flags.dev_pairs) if flags.layer == "dev" else []
    resumed = resumed_seed(flags)
    with only_run_in(flags.checkpoints) if flags.do_train else nullcontext():
        if flags.do_train and distributed.is_main():
            save_config(flags, Path(flags.checkpoints) / "flags.yaml")
        records: dict[int, Record] = {}
        for number, seed in enumerate(flags.seeds):
            of_seed = flags.of_seed(seed, resumed)
            folder = Path(of_seed.checkpoints)
            if resumed is not None and number < flags.seeds.index(resumed):
                record = read_record(folder) if bitexts else None
            else:
                record = run_seed(of_seed, bitexts, dev_bitexts, seed if len(flags.seeds) > 1 else None)
                gc.collect()  # the model and its moments, before the next seed's are made
            if record is not None:
                records[seed] = record
        if records:
            write_report(flags, records)


def open_bitexts(flags: RetrievalFlags) -> list[Bitext]:
    """What --pairs, or --src_file and --tgt_file, name."""
    if flags.src_file:
        return [read_bitext("bitext", flags.src_file, flags.tgt_file)]
    languages = flags.languages.split(",") if flags.languages else []
    return read_bitexts(flags.pairs, languages) if flags.pairs else []


def resumed_seed(flags: RetrievalFlags) -> int | None:
    """The seed of --init_checkpoint; None where nothing is resumed."""
    if not flags.init_checkpoint:
        return None
    read_weights(flags.init_checkpoint)  # it says so where there is no such folder
    if not has_state(flags.init_checkpoint):
        raise UserError(
            f"{flags.init_checkpoint}: no training_state there; name weights with --init_pretraining_params"
        )
    seed = state_of(flags.init_checkpoint, "settings")["settings"]["random_seed"]
    if seed not in flags.seeds:
        raise UserError(
            f"{flags.init_checkpoint} is of --random_seed {seed}, which is not among {flags.random_seed}"
        )
    return seed


def run_seed(
    flags: RetrievalFlags, bitexts: list[Bitext], dev_bitexts: list[Bitext], seed: int | None
) -> Record | None:
    """Train where asked, then search; None without bitexts and for a sweep of the layers.

    Args:
        flags: of this seed.
        seed: of several; stands in the names of predictions.
    """
    folder = Path(flags.checkpoints)
    model, tokenizer = open_encoder(flags, flags.dtype, flags.random_seed)
    layers = model.config.num_hidden_layers
    layer = None if flags.layer in ("dev", "sweep") else layer_number(flags.layer, layers)
    if flags.pooling == "pooled":
        layer = layers
    if flags.do_train:
        load_from(model, RetrievalTrainer(flags, model, tokenizer, layer).train())
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
    record = Record(layer, scores_of(found))
    if distributed.is_main():
        if flags.xtreme_save:
            write_predictions(flags.xtreme_save, bitexts, found, seed)
        else:  # in the folder of the seed already
            write_predictions(folder / "predictions" / "tatoeba", bitexts, found)
        with atomic_file(folder / SELECTED, "w") as file:
            json.dump(dataclasses.asdict(record), file, indent=2)
    return record


def read_record(folder: Path) -> Record:
    """What a seed found that ran before the interruption."""
    return read_dataclass(folder / SELECTED, Record, "run this seed again")


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
