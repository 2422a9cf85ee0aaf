"""Sentence retrieval as a fine-tuning task: train if asked to, then search the bitexts."""

import dataclasses
from pathlib import Path
from typing import Any

import paddle

from evaluation.pooling import layer_number
from evaluation.search import Found
from finetune.flags import RetrievalFlags
from finetune.report import Table, figures
from finetune.retrieval.search import Searcher, write_predictions, write_sweep
from finetune.retrieval.training import RetrievalTraining
from finetune.run_folder import digest_of_files, has_state, identity, weights_of
from finetune.setup import make_engine, make_tokenizer, model_config, open_encoder
from finetune.trainer import FineTuningRun, FineTuningTrainer
from model.checkpoint.folder import load_from, read_weights
from model.device import summary
from model.ernie_m import ErnieMModel
from model.task_names import task_named
from reader.bitext import read_bitext, read_bitexts
from reader.corpus import MANIFEST, Corpus
from reader.tokenization import Tokenizer
from training import distributed
from utils.args import deciding
from utils.errors import UserError
from utils.logging import logger

DIRECTIONS = ("en -> xx", "xx -> en")


@dataclasses.dataclass(frozen=True)
class SearchRecord:
    """What the model of one seed finds at one layer, and a model with random weights: language -> result."""

    layer: int
    found: dict[str, Found]
    untrained: dict[str, Found]


class RetrievalRun(FineTuningRun):
    """The command run_retrieval.py."""

    def __init__(self, flags: RetrievalFlags):
        super().__init__(flags)
        self.bitexts = []
        if flags.src_file:
            self.bitexts = [read_bitext("bitext", flags.src_file, flags.tgt_file)]
        elif flags.pairs:
            self.bitexts = read_bitexts(flags.pairs, flags.languages.split(",") if flags.languages else [])
        self.dev_bitexts = read_bitexts(flags.dev_pairs) if flags.dev_pairs else []
        if flags.init_task and flags.init_pretraining_params:
            for seed in self.seeds:
                check_weights(flags.of_seed(seed).init_pretraining_params, flags.init_task)

    def identity(self) -> dict[str, Any]:
        flags = self.flags
        if flags.init_checkpoint:
            read_weights(flags.init_checkpoint)  # raises an error if there is no such folder
            if not has_state(flags.init_checkpoint):
                raise UserError(
                    f"{flags.init_checkpoint}: no training_state there; name weights with "
                    "--init_pretraining_params"
                )
        first = flags.of_seed(self.seeds[0])
        tokenizer = make_tokenizer(first)
        config = model_config(first, tokenizer)
        layer_of(flags, config.num_hidden_layers)
        corpus = Corpus(flags.train_set, tokenizer.digest)
        return identity(
            "retrieval", {**deciding(flags), "random_seed": list(self.seeds)}, config, tokenizer,
            train_set=digest_of_files([corpus.path / MANIFEST]), weights=weights_of(flags, self.seeds),
        )  # fmt: skip

    def run_seed(self, seed: int, folder: Path, identity: dict[str, Any]) -> SearchRecord | None:
        """Train if asked to, and search with the best weights; None without bitexts, and after a sweep."""
        flags = self.flags.of_seed(seed)
        if flags.do_train:
            model, tokenizer = self._train(flags, seed, folder, identity)
        else:
            model, tokenizer = open_encoder(flags, flags.dtype, seed)
            logger.info("%s", summary(flags.dtype, distributed.world_size()))
        layer = layer_of(flags, model.config.num_hidden_layers)
        if not self.bitexts:
            return None
        searcher, untrained = Searcher(flags, model, tokenizer), None
        has_weights = flags.do_train or flags.init_pretraining_params
        if flags.untrained and has_weights and seed == self.seeds[0]:
            paddle.seed(seed)
            untrained = Searcher(flags, ErnieMModel(model.config), tokenizer)
        if flags.layer == "sweep":
            swept, fresh = (one.by_layer(self.bitexts) if one else {} for one in (searcher, untrained))
            if distributed.is_main():
                how = f"{flags.score}, {flags.pooling}"
                write_sweep(folder, f"retrieval by layer: {how}, both directions", swept, fresh)
            return None
        layer, found = self._search(searcher, layer)
        if untrained:
            logger.info("the same search with random weights (--untrained false leaves it out)")
        fresh = self._search(untrained, layer)[1] if untrained else {}
        if distributed.is_main():
            place = flags.xtreme_save or folder / "predictions" / "tatoeba"
            several = seed if flags.xtreme_save and len(self.seeds) > 1 else None
            write_predictions(place, self.bitexts, found, several)
        return SearchRecord(layer, found, fresh)

    def _search(self, searcher: Searcher, layer: int | None) -> tuple[int, dict[str, Found]]:
        if self.dev_bitexts:
            layer = searcher.choose_layer(self.dev_bitexts)
        return layer, searcher.at(layer, self.bitexts)

    def _train(
        self, flags: RetrievalFlags, seed: int, folder: Path, identity: dict[str, Any]
    ) -> tuple[ErnieMModel, Tokenizer]:
        """Train a seed, and return its best weights."""

        def make(step: Path | None):
            of_start = dataclasses.replace(flags, init_checkpoint=step and str(step))
            model, tokenizer = open_encoder(of_start, flags.dtype, seed)
            layer = layer_of(flags, model.config.num_hidden_layers)
            model.use_recompute(flags.recompute)
            training = RetrievalTraining(flags, model, tokenizer, layer, seed)
            return training, make_engine(flags, model, flags.max_steps, seed)

        trainer = FineTuningTrainer(make, identity, seed, folder, flags)
        trainer.run()
        model = trainer.engine.model
        if trainer.best is not None:
            load_from(model, folder / "best")
        return model, trainer.training.tokenizer

    def report(self, records: dict[int, SearchRecord]) -> tuple[str, list[Table], dict[str, Any]]:
        """A table for each direction."""
        flags = self.flags
        layers = {str(seed): record.layer for seed, record in records.items()}
        how = f"{flags.score}, {flags.pooling}, layer {', '.join(map(str, dict.fromkeys(layers.values())))}"

        def accuracies(found: dict[str, Found], side: int) -> dict[str, float]:
            return {language: one.accuracies()[side] for language, one in found.items()}

        tables = []
        for side, direction in enumerate(DIRECTIONS):
            rows = {seed: accuracies(record.found, side) for seed, record in records.items()}
            paper = figures(flags.paper, direction, list(next(iter(rows.values()))))
            untrained = accuracies(records[self.seeds[0]].untrained, side)
            tables.append(Table(f"{direction}, {how}", rows, paper, untrained=untrained))
        facts = {"task": "retrieval", "pooling": flags.pooling, "score": flags.score, "layers": layers}
        return "retrieval", tables, facts


def layer_of(flags: RetrievalFlags, layers: int) -> int | None:
    """The layer that is trained and searched; None if it is chosen later."""
    if flags.pooling == "pooled":
        return layers
    return None if flags.layer in ("dev", "sweep") else layer_number(flags.layer, layers)


def check_weights(path: str, wanted: str) -> None:
    """Refuse weights that were not fine-tuned for --init_task."""
    checkpoint = read_weights(path)
    task = checkpoint.extra.get("task") or checkpoint.head
    if task is None or task_named(task) != wanted:
        found = "were not fine-tuned" if task is None else f"were fine-tuned for {task_named(task)}"
        raise UserError(
            f"{path}: its weights {found}, and --init_task wants {wanted}; name others with "
            '--init_pretraining_params, or take any weights with --init_task ""'
        )
