"""Sentence retrieval as a fine-tuning task: train if asked to, then search the bitexts."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import paddle

from evaluation.encode import encode, encode_layer
from evaluation.pooling import layer_number
from evaluation.retrieval import SplitResult, choose_on_half
from evaluation.search import Found, search_both
from finetune import report
from finetune.flags import RetrievalFlags
from finetune.retrieval.training import RetrievalTraining
from finetune.run_folder import digest_of_files, has_state, identity, weights_of
from finetune.setup import make_engine, make_tokenizer, model_config, open_encoder
from finetune.trainer import FineTuningRun, FineTuningTrainer
from model.checkpoint.folder import load_from, read_weights
from model.device import summary
from model.ernie_m import ErnieMModel
from model.task_names import task_named
from reader.bitext import Bitext, read_bitext, read_bitexts
from reader.corpus import MANIFEST, Corpus
from reader.tokenization import Tokenizer
from training import distributed
from utils.args import deciding
from utils.errors import UserError
from utils.files import atomic_file
from utils.logging import Progress, logger

T = TypeVar("T")
DIRECTIONS = ("en -> xx", "xx -> en")
OF_TWO_FILES = ("tgt_file -> src_file", "src_file -> tgt_file")  # of any languages
Swept = Mapping[str, tuple[np.ndarray, SplitResult]]


class Searcher:
    """Searches bitexts with one model. The processes share the bitexts, and every process gets all results.

    Args:
        flags: pooling, score and sizes are read.
    """

    def __init__(self, flags: RetrievalFlags, model: ErnieMModel, tokenizer: Tokenizer):
        self.flags, self.model, self.tokenizer = flags, model, tokenizer

    def at(self, layer: int, bitexts: list[Bitext]) -> dict[str, Found]:
        """Search by the vectors of one layer: language -> what was found."""

        def search(bitext: Bitext, shown: Progress) -> Found:
            how = {"batch_tokens": self.flags.batch_tokens, "done": shown.update}
            ids = map(self._ids, (bitext.translations, bitext.sentences))
            return self._found(
                *(encode_layer(self.model, side, layer, self.flags.pooling, **how) for side in ids)
            )

        return self._each(bitexts, search)

    def by_layer(self, bitexts: list[Bitext]) -> Swept:
        """language -> per cent [L + 1, 2] (English queries first), and the layer that one half chooses.

        Raises:
            UserError: a bitext has one pair, which cannot be halved.
        """
        if short := [bitext.language for bitext in bitexts if len(bitext.sentences) < 2]:
            raise UserError(f"--layer sweep: one pair alone in {', '.join(short)}: name a layer")

        def sweep(bitext: Bitext, shown: Progress) -> tuple[np.ndarray, SplitResult]:
            sides = self._layers(bitext, shown)
            split = choose_on_half(*sides, search=lambda a, b: self._found(a, b).hits())
            return self._accuracies(sides), split

        return self._each(bitexts, sweep)

    def choose_layer(self, bitexts: list[Bitext]) -> int:
        """The layer with the best mean over languages and directions; the lowest one of equal layers."""
        tables = self._each(bitexts, lambda bitext, shown: self._accuracies(self._layers(bitext, shown)))
        scores = np.mean(list(tables.values()), axis=(0, 2))  # [L + 1]
        layer = int(scores.argmax())
        logger.info("layer %d is best on the dev pairs: %.2f", layer, scores[layer])
        return layer

    def _layers(self, bitext: Bitext, shown: Progress) -> list[np.ndarray]:
        """The vectors of the English sentences and of the others, each [L + 1, N, H]."""
        specials, sides = self.flags.pooling == "specials", []
        for side in (bitext.translations, bitext.sentences):
            ids = self._ids(side)
            sides.append(encode(self.model, ids, specials=specials, batch_tokens=self.flags.batch_tokens))
            shown.update(len(side))
        return sides

    def _accuracies(self, sides: list[np.ndarray]) -> np.ndarray:
        """Per cent of each layer, [L + 1, 2], English queries first."""
        return np.array([self._found(*layer).accuracies() for layer in zip(*sides)])

    def _found(self, english: np.ndarray, other: np.ndarray) -> Found:
        return search_both(english, other, self.flags.score, self.flags.neighbours)

    def _each(self, bitexts: list[Bitext], work: Callable[[Bitext, Progress], T]) -> dict[str, T]:
        mine = bitexts[distributed.rank() :: distributed.world_size()]
        shown = Progress(2 * sum(len(bitext.sentences) for bitext in mine), "encoding", unit="sentences")
        found = {bitext.language: work(bitext, shown) for bitext in mine}
        shown.close()
        everywhere = {name: one for part in distributed.gather(found) for name, one in part.items()}
        return {bitext.language: everywhere[bitext.language] for bitext in bitexts}

    def _ids(self, texts: list[str]) -> list[np.ndarray]:
        build, longest = self.tokenizer.build_from_ids, self.flags.max_seq_len
        return [np.asarray(build(ids, None, longest)) for ids in self.tokenizer.encode_batch(texts)]


@dataclasses.dataclass(frozen=True)
class SweepTable(report.ShownTable):
    """A row per layer and a column per language, then the average; per cent."""

    title: str
    rows: Mapping[str, Mapping[str, float]]

    def cells(self, markdown: bool = False) -> list[list[str]]:
        lines = [["", *next(iter(self.rows.values())), report.AVERAGE]]
        for name, row in self.rows.items():
            lines.append([name, *(f"{value:.2f}" for value in row.values()), f"{report.average(row):.2f}"])
        return lines


def write_sweep(folder: Path, title: str, by_layer: Swept, untrained: Swept) -> None:
    """Write sweep.{txt,md,json}: a row per layer with the mean of both directions.

    The last rows score, on the odd pairs, the layer that was chosen on the even pairs.

    Args:
        by_layer: from `Searcher.by_layer`.
        untrained: the same with random weights; may be empty.
    """
    rows = {
        f"layer {layer}": {name: float(table[layer].mean()) for name, (table, _) in by_layer.items()}
        for layer in range(len(next(iter(by_layer.values()))[0]))
    }
    for label, swept in (("chosen, odd pairs", by_layer), ("untrained, chosen, odd pairs", untrained)):
        if swept:
            rows[label] = {name: 100.0 * split.mean for name, (_, split) in swept.items()}
    chosen = {name: split.layer for name, (_, split) in by_layer.items()}
    logger.info("layers chosen on the even pairs: %s", chosen)
    table = SweepTable(title, rows)
    logger.info("%s", report.to_text([table]))
    report.write_tables(folder, "sweep", [table], {"title": title, "rows": rows, "chosen": chosen})


def write_predictions(
    folder: str | Path, bitexts: list[Bitext], found: Mapping[str, Found], seed: int | None = None
) -> None:
    """Write <folder>/test-<language>.tsv: for each English sentence the line, from 0, of the other side.

    The English sentences are in alphabetical order, as in XTREME's files.

    Args:
        seed: one of several; see `report.submission_file`.
    """
    for bitext in bitexts:
        english = [text.strip() for text in bitext.translations]
        order = sorted(range(len(english)), key=english.__getitem__)
        path = report.submission_file(folder, bitext.language, "tsv", seed)
        with atomic_file(path, "w", newline="\n") as file:
            file.writelines(f"{found[bitext.language].forward[row]}\n" for row in order)


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
                raise UserError(f"{flags.init_checkpoint}: no training_state there to resume from")
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

    def report(self, records: dict[int, SearchRecord]) -> tuple[str, list[report.Table], dict[str, Any]]:
        """A table for each direction."""
        flags = self.flags
        layers = {str(seed): record.layer for seed, record in records.items()}
        how = f"{flags.score}, {flags.pooling}, layer {', '.join(map(str, dict.fromkeys(layers.values())))}"

        def accuracies(found: dict[str, Found], side: int) -> dict[str, float]:
            return {language: one.accuracies()[side] for language, one in found.items()}

        tables = []
        for side, direction in enumerate(OF_TWO_FILES if flags.src_file else DIRECTIONS):
            rows = {seed: accuracies(record.found, side) for seed, record in records.items()}
            paper = report.figures(flags.paper, direction, list(next(iter(rows.values()))))
            untrained = accuracies(records[self.seeds[0]].untrained, side)
            tables.append(report.Table(f"{direction}, {how}", rows, paper, untrained=untrained))
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
        raise UserError(f'{path}: its weights {found}, and --init_task wants {wanted} ("": any)')
