"""Bitexts to vectors, vectors to what is found, at a layer or at all of them."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from evaluation.encode import encode, encode_layer
from evaluation.retrieval import SplitResult, choose_on_half
from evaluation.search import Found, search_both
from finetune.retrieval.flags import RetrievalFlags
from model.ernie_m import ErnieMModel
from reader.bitext import Bitext
from reader.tokenization import Tokenizer
from training import distributed
from utils.errors import UserError
from utils.logging import Progress, logger

T = TypeVar("T")


class Searcher:
    """Searches bitexts with one model; they are shared among the processes, every process gets all results.

    Args:
        flags: pooling, score and sizes.
    """

    def __init__(self, flags: RetrievalFlags, model: ErnieMModel, tokenizer: Tokenizer):
        self.flags, self.model, self.tokenizer = flags, model, tokenizer

    def at(self, layer: int, bitexts: list[Bitext]) -> dict[str, Found]:
        """Language -> what was found, by the vectors of one layer."""

        def search(bitext: Bitext, shown: Progress) -> Found:
            sides = [
                encode_layer(
                    self.model, self._ids(side), layer, self.flags.pooling,
                    batch_tokens=self.flags.batch_tokens, done=shown.update,
                )
                for side in (bitext.translations, bitext.sentences)
            ]  # fmt: skip
            return self._found(*sides)

        return self._each(bitexts, search)

    def by_layer(self, bitexts: list[Bitext]) -> dict[str, tuple[np.ndarray, SplitResult]]:
        """Language -> per cent [L + 1, 2], English queries first; and the layer that one half chooses.

        Raises:
            UserError: a bitext of one pair, which has no two halves.
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
        """The layer with the best mean over languages and both directions; of equal ones the lowest."""
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
