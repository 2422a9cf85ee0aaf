"""The sentence pairs of each training step. The reader process imports this file, so it has no Paddle."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ernie_m.reader.corpus import Corpus
from ernie_m.reader.sampling import Sampler
from ernie_m.tokenizer.equal_texts import keys_of_ids
from ernie_m.tokenizer.tokenizer import Tokenizer
from ernie_m.utils.errors import UserError


@dataclass(frozen=True)
class PairStep:
    """One process's share of a step.

    Attributes:
        sentences: ids of its b pairs, [CLS] S [SEP]: b sources, b translations, then the given negatives.
        negative: [B, C] bool over the whole step: whether source i and candidate j are a negative. The
            candidates are B translations, then the given negatives. Pairs that share a sentence, on any side,
            are no negatives of each other.
        position: where the steps go on after this one, a JSON value.
        pair_count: b.
    """

    sentences: list[np.ndarray]
    negative: np.ndarray
    position: dict[str, Any]
    pair_count: int

    @property
    def micro_batches(self) -> list["PairStep"]:
        """The step itself is the only micro-batch, because each of its pairs is a negative of all others."""
        return [self]


@dataclass(frozen=True)
class StepPairs:
    """Endless steps; call it to get the iterator. It can be pickled.

    The pairs of a step depend only on the seed and the number of the step. Each process takes its share.

    Args:
        path: folder of the corpus.
        batch_size: pairs of a step, over all processes.
        max_seq_len: longest sentence in tokens, [CLS] and [SEP] included.
        alpha: language pairs are drawn in proportion to their number of pairs to this power.
        position: `PairStep.position` of the last step; None starts at the beginning.
    """

    tokenizer: Tokenizer
    path: str
    batch_size: int
    max_seq_len: int
    alpha: float
    seed: int
    rank: int = 0
    world_size: int = 1
    position: dict[str, Any] | None = None

    def open(self) -> Corpus:
        """Open the corpus.

        Raises:
            UserError: there is none, or it has no parallel text.
        """
        corpus = Corpus(self.path, self.tokenizer)
        if not corpus.parallel:
            raise UserError(f"{self.path}: no parallel text in this corpus; build one with --parallel")
        return corpus

    def __call__(self) -> Iterator[PairStep]:
        """Yield this process's share of one step after the other, without end."""
        pairs_by_name = {"-".join(pair): pairs for pair, pairs in self.open().parallel.items()}
        sizes = {name: len(pairs) for name, pairs in pairs_by_name.items()}
        # The amount of a language pair is its number of pairs.
        sampler = Sampler(items=sizes, amounts=sizes, alpha=self.alpha, seed=self.seed, purpose="retrieval")
        if self.position is not None:
            sampler.restore(self.position)
        share = share_of_step(self.batch_size, self.rank, self.world_size)
        while True:
            draws = sampler.draw(self.batch_size)
            source_ids = []
            translation_ids = []
            for name_index, item, reverse in zip(draws.stream, draws.item, draws.reverse):
                pairs = pairs_by_name[sampler.names[name_index]]
                source, translation = pairs[int(item)]
                if reverse:  # half of the pairs, so that English is on both sides
                    source, translation = translation, source
                source_ids.append(source)
                translation_ids.append(translation)
            sources = self.tokenizer.sentences(source_ids, self.max_seq_len)
            translations = self.tokenizer.sentences(translation_ids, self.max_seq_len)
            yield PairStep(
                sentences=sources[share] + translations[share],
                negative=negatives(sources, translations),
                position=sampler.state(),
                pair_count=len(sources[share]),
            )


def share_of_step(pairs: int, rank: int, world_size: int) -> slice:
    """Which pairs of a step process `rank` encodes; the shares differ by one pair at most."""
    return slice(pairs * rank // world_size, pairs * (rank + 1) // world_size)


def negatives(sources: list[np.ndarray], translations: list[np.ndarray]) -> np.ndarray:
    """[B, B] bool: whether pairs i and j have no sentence in common.

    Pairs are read in both directions, so the source of one can be the translation of another.
    """
    source, translation = keys_of_ids(sources), keys_of_ids(translations)  # [B] each
    share_a_sentence = (
        (source[:, None] == source)
        | (source[:, None] == translation)
        | (translation[:, None] == source)
        | (translation[:, None] == translation)
    )  # [B, B]
    return ~share_a_sentence
