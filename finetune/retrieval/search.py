"""Search bitexts by the vectors of one layer or of all layers, and write what was found."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from evaluation.encode import encode, encode_layer
from evaluation.retrieval import SplitResult, choose_on_half
from evaluation.search import Found, search_both
from finetune.flags import RetrievalFlags
from finetune.report import AVERAGE, ShownTable, average, submission_file, to_text, write_tables
from model.ernie_m import ErnieMModel
from reader.bitext import Bitext
from reader.tokenization import Tokenizer
from training import distributed
from utils.errors import UserError
from utils.files import atomic_file
from utils.logging import Progress, logger

T = TypeVar("T")
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
        how = {"batch_tokens": self.flags.batch_tokens}

        def search(bitext: Bitext, shown: Progress) -> Found:
            sides = (self._ids(side) for side in (bitext.translations, bitext.sentences))
            return self._found(
                *(
                    encode_layer(self.model, side, layer, self.flags.pooling, done=shown.update, **how)
                    for side in sides
                )
            )

        return self._each(bitexts, search)

    def by_layer(self, bitexts: list[Bitext]) -> Swept:
        """language -> per cent [L + 1, 2] (English queries first), and the layer that one half chooses.

        Raises:
            UserError: a bitext has one pair, which cannot be halved.
        """
        if short := [bitext.language for bitext in bitexts if len(bitext.sentences) < 2]:
            raise UserError(
                f"--layer sweep: one pair alone in {', '.join(short)}; half of the pairs choose a layer for "
                "the others: leave it out by --languages, or name a layer"
            )

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


@dataclass(frozen=True)
class SweepTable(ShownTable):
    """A row per layer and a column per language, then the average; per cent."""

    title: str
    rows: Mapping[str, Mapping[str, float]]

    def cells(self, markdown: bool = False) -> list[list[str]]:
        lines = [["", *next(iter(self.rows.values())), AVERAGE]]
        for name, row in self.rows.items():
            lines.append([name, *(f"{value:.2f}" for value in row.values()), f"{average(row):.2f}"])
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
    logger.info("%s", to_text([table]))
    write_tables(folder, "sweep", [table], {"title": title, "rows": rows, "chosen": chosen})


def write_predictions(
    folder: str | Path, bitexts: list[Bitext], found: Mapping[str, Found], seed: int | None = None
) -> None:
    """Write <folder>/test-<language>.tsv: for each English sentence the line, from 0, of the other side.

    The English sentences are in alphabetical order, as in XTREME's files.

    Args:
        seed: one of several; see `submission_file`.
    """
    for bitext in bitexts:
        english = [text.strip() for text in bitext.translations]
        order = sorted(range(len(english)), key=english.__getitem__)
        with atomic_file(submission_file(folder, bitext.language, "tsv", seed), "w", newline="\n") as file:
            file.writelines(f"{found[bitext.language].forward[row]}\n" for row in order)
