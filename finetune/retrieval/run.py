"""Sentence retrieval as a fine-tuning task: train if asked to, then search the bitexts."""

import dataclasses
from pathlib import Path
from typing import Any

import paddle

from evaluation.pooling import layer_number
from evaluation.search import Found
from finetune.report import Table, figures
from finetune.retrieval.flags import FREE, RetrievalFlags
from finetune.retrieval.search import Searcher, write_predictions, write_sweep
from finetune.retrieval.training import RetrievalTraining
from finetune.run_folder import digest_of_files, has_state, identity, weights_of
from finetune.runs import fine_tune
from finetune.setup import make_engine, make_tokenizer, model_config, open_encoder
from model.checkpoint.folder import load_from, read_weights
from model.ernie_m import ErnieMModel
from model.task_names import task_named
from reader.bitext import Bitext, read_bitext, read_bitexts
from reader.corpus import MANIFEST, Corpus
from reader.tokenization import Tokenizer
from training import distributed
from utils.config import to_yaml
from utils.errors import UserError
from utils.logging import logger

DIRECTIONS = ("en -> xx", "xx -> en")


@dataclasses.dataclass(frozen=True)
class SearchRecord:
    """What the model of one seed finds at one layer, and a model with random weights: language -> result."""

    layer: int
    found: dict[str, Found]
    untrained: dict[str, Found]


class RetrievalRun:
    """`finetune.runs.Run` of run_retrieval.py.

    Raises:
        UserError: a flag or a file is wrong.
    """

    def __init__(self, flags: RetrievalFlags):
        self.flags, self.seeds = flags, flags.seeds
        self.bitexts = open_bitexts(flags)
        self.dev_bitexts = read_bitexts(flags.dev_pairs) if flags.layer == "dev" else []
        check_weights(flags)

    def identity(self) -> dict[str, Any]:
        flags = self.flags
        if flags.init_checkpoint:
            read_weights(flags.init_checkpoint)  # raises an error if there is no such folder
            if not has_state(flags.init_checkpoint):
                raise UserError(
                    f"{flags.init_checkpoint}: no training_state there; name weights with "
                    "--init_pretraining_params"
                )
        first = flags.of_seed(flags.seeds[0])
        tokenizer = make_tokenizer(first)
        config = model_config(first, tokenizer)
        layer_of(flags, config.num_hidden_layers)
        corpus = Corpus(flags.train_set, tokenizer.digest)
        settings = {name: value for name, value in vars(flags).items() if name not in FREE}
        return identity(
            "retrieval", {**settings, "random_seed": list(flags.seeds)}, config, tokenizer,
            train_set=digest_of_files([corpus.path / MANIFEST]), weights=weights_of(flags, flags.seeds),
        )  # fmt: skip

    def flags_yaml(self) -> str:
        return to_yaml(self.flags)

    def run_seed(self, seed: int, folder: Path, run: dict[str, Any]) -> SearchRecord | None:
        """Train if asked to, and search with the best weights; None without bitexts, and after a sweep."""
        flags = self.flags.of_seed(seed)
        if flags.do_train:
            model, tokenizer = self._train(flags, folder, run)
        else:
            model, tokenizer = open_encoder(flags, flags.dtype, seed)
        layer = layer_of(flags, model.config.num_hidden_layers)
        if not self.bitexts:
            return None
        searcher = Searcher(flags, model, tokenizer)
        if flags.layer == "sweep":
            swept = searcher.by_layer(self.bitexts)
            untrained = self._untrained(flags, searcher)
            fresh = untrained.by_layer(self.bitexts) if untrained else {}
            if distributed.is_main():
                how = f"{flags.score}, {flags.pooling}"
                write_sweep(folder, f"retrieval by layer: {how}, both directions", swept, fresh)
            return None
        layer, found = self._search(searcher, layer)
        untrained = self._untrained(flags, searcher)
        fresh = self._search(untrained, layer)[1] if untrained else {}
        if distributed.is_main():
            if flags.xtreme_save:
                several = seed if len(self.seeds) > 1 else None
                write_predictions(flags.xtreme_save, self.bitexts, found, several)
            else:
                write_predictions(folder / "predictions" / "tatoeba", self.bitexts, found)
        return SearchRecord(layer, found, fresh)

    def _search(self, searcher: Searcher, layer: int | None) -> tuple[int, dict[str, Found]]:
        if self.flags.layer == "dev":
            layer = searcher.choose_layer(self.dev_bitexts)
        return layer, searcher.at(layer, self.bitexts)

    def _untrained(self, flags: RetrievalFlags, searcher: Searcher) -> Searcher | None:
        """The same with random weights, once for all seeds; None if the model has them anyway."""
        trained = flags.do_train or flags.init_pretraining_params or flags.init_checkpoint
        if not (flags.untrained and trained) or flags.random_seed != self.seeds[0]:
            return None
        logger.info("the same search with random weights (--untrained false leaves it out)")
        paddle.seed(flags.random_seed)
        return Searcher(flags, ErnieMModel(searcher.model.config), searcher.tokenizer)

    def _train(
        self, flags: RetrievalFlags, folder: Path, run: dict[str, Any]
    ) -> tuple[ErnieMModel, Tokenizer]:
        """Train the seed of `flags`, and return its best weights."""

        def make(step: Path | None):
            of_start = dataclasses.replace(flags, init_checkpoint=step and str(step))
            model, tokenizer = open_encoder(of_start, flags.dtype, flags.random_seed)
            layer = layer_of(flags, model.config.num_hidden_layers)
            model.use_recompute(flags.recompute)
            training = RetrievalTraining(flags, model, tokenizer, layer)
            return training, make_engine(flags, model, flags.max_steps, flags.random_seed)

        trainer = fine_tune(flags, make, run, flags.random_seed, folder)
        model = trainer.engine.model
        if trainer.best is not None:
            load_from(model, folder / "best")
        return model, trainer.training.tokenizer

    def report(self, records: dict[int, SearchRecord]) -> tuple[str, list[Table], dict[str, Any]]:
        """A table for each direction."""
        flags = self.flags
        layers = {str(seed): record.layer for seed, record in records.items()}
        how = f"{flags.score}, {flags.pooling}, layer {', '.join(map(str, dict.fromkeys(layers.values())))}"
        tables = []
        for side, direction in enumerate(DIRECTIONS):
            rows = {
                seed: {language: found.accuracies()[side] for language, found in record.found.items()}
                for seed, record in records.items()
            }
            paper = figures(flags.paper, direction, list(next(iter(rows.values()))))
            untrained = {
                language: found.accuracies()[side]
                for record in records.values()
                for language, found in record.untrained.items()
            }
            tables.append(Table(f"{direction}, {how}", rows, paper, untrained=untrained))
        facts = {"task": "retrieval", "pooling": flags.pooling, "score": flags.score, "layers": layers}
        return "retrieval", tables, facts


def layer_of(flags: RetrievalFlags, layers: int) -> int | None:
    """The layer that is trained and searched; None if it is chosen later."""
    if flags.pooling == "pooled":
        return layers
    return None if flags.layer in ("dev", "sweep") else layer_number(flags.layer, layers)


def check_weights(flags: RetrievalFlags) -> None:
    """Refuse weights that were not fine-tuned for --init_task."""
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
    """Read --pairs, or --src_file and --tgt_file."""
    if flags.src_file:
        return [read_bitext("bitext", flags.src_file, flags.tgt_file)]
    languages = flags.languages.split(",") if flags.languages else []
    return read_bitexts(flags.pairs, languages) if flags.pairs else []
