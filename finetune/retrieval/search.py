"""Bitexts to vectors, vectors to what is found, at a layer or at all of them."""

import numpy as np

from evaluation.encode import encode, encode_layer
from evaluation.retrieval import SplitResult, choose_on_half
from evaluation.search import Found, search_both
from finetune.retrieval.flags import RetrievalFlags
from model.ernie_m import ErnieMModel
from reader.sentences import Bitext
from reader.tokenization import Tokenizer
from utils import distributed
from utils.logging import Progress, logger


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
            return search_both(*sides, self.flags.score, self.flags.neighbours)

        return self._each(bitexts, search)

    def by_layer(self, bitexts: list[Bitext]) -> dict[str, tuple[np.ndarray, SplitResult]]:
        """Language -> per cent [L + 1, 2], English queries first; and the layer that one half chooses."""

        def sweep(bitext: Bitext, shown: Progress) -> tuple[np.ndarray, SplitResult]:
            sides = []
            for side in (bitext.translations, bitext.sentences):
                specials = self.flags.pooling == "specials"
                sides.append(
                    encode(
                        self.model, self._ids(side), specials=specials, batch_tokens=self.flags.batch_tokens
                    )
                )
                shown.update(len(side))
            found = [search_both(*layer, self.flags.score, self.flags.neighbours) for layer in zip(*sides)]
            return np.array([one.accuracies() for one in found]), choose_on_half(*sides)

        return self._each(bitexts, sweep)

    def choose_layer(self, bitexts: list[Bitext]) -> int:
        """The layer with the best mean over languages and both directions; of equal ones the lowest."""
        scores = np.mean([table for table, _ in self.by_layer(bitexts).values()], axis=(0, 2))  # [L + 1]
        layer = int(scores.argmax())
        logger.info("layer %d is best on the dev pairs: %.2f", layer, scores[layer])
        return layer

    def _each(self, bitexts: list[Bitext], work) -> dict:
        mine = bitexts[distributed.rank() :: distributed.world_size()]
        shown = Progress(2 * sum(len(bitext.sentences) for bitext in mine), "encoding", unit="sentences")
        found = {bitext.language: work(bitext, shown) for bitext in mine}
        shown.close()
        everywhere = {name: one for part in distributed.gather(found) for name, one in part.items()}
        return {bitext.language: everywhere[bitext.language] for bitext in bitexts}

    def _ids(self, texts: list[str]) -> list[np.ndarray]:
        build, longest = self.tokenizer.build_from_ids, self.flags.max_seq_len
        return [np.asarray(build(ids, None, longest)) for ids in self.tokenizer.encode_batch(texts)]
