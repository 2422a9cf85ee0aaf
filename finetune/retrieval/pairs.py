"""The pairs of each training step, from a corpus' parallel shards. No paddle: the reader process runs it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from reader.corpus import Corpus
from reader.sampling import Sampler
from reader.tokenization import Tokenizer
from utils.errors import UserError


@dataclass(frozen=True)
class PairStep:
    """What one process needs of a step.

    Attributes:
        sentences: the ids of its b pairs, [CLS] S [SEP]: b sources, then b translations.
        first: the number of its first pair in the step.
        negative: [B, B] bool over the whole step: pair i's source and pair j's translation do not belong
            together. Pairs that have a sentence in common, on whichever sides, are no negatives.
        state: for `StepPairs` to go on after this step.
    """

    sentences: list[np.ndarray]
    first: int
    negative: np.ndarray
    state: dict[str, Any]

    @property
    def micro_batches(self) -> list["PairStep"]:
        """A step is one micro-batch: each of its pairs is a negative of all others."""
        return [self]


@dataclass(frozen=True)
class StepPairs:
    """Endless steps; calling it makes the iterator. Can be pickled.

    A step's pairs are a function of the seed and its number; each process takes its share of them.

    Args:
        tokenizer: of the corpus.
        path: of the corpus.
        batch_size: pairs of a step, over all processes.
        max_seq_len: longest sentence, specials included.
        alpha: language pairs are drawn by their number of pairs to this power.
        state: `PairStep.state` to go on from; None: the beginning.
    """

    tokenizer: Tokenizer
    path: str
    batch_size: int
    max_seq_len: int
    alpha: float
    seed: int
    rank: int = 0
    world_size: int = 1
    state: dict[str, Any] | None = None

    def open(self) -> Corpus:
        """The corpus.

        Raises:
            UserError: as `Corpus`, or there is no parallel text in it.
        """
        corpus = Corpus(self.path, self.tokenizer.digest)
        if not corpus.parallel:
            raise UserError(f"{self.path}: no parallel text in this corpus; build one with --parallel")
        return corpus

    def __call__(self) -> Iterator[PairStep]:
        corpus = self.open()
        streams = {"-".join(pair): pairs for pair, pairs in corpus.parallel.items()}
        sizes = {name: len(pairs) for name, pairs in streams.items()}
        sampler = Sampler(sizes, sizes, self.alpha, self.seed, "retrieval")
        if self.state is not None:
            sampler.restore(self.state)
        while True:
            draws = sampler.draw(self.batch_size)
            pairs = [streams[sampler.names[s]][int(i)] for s, i in zip(draws.stream, draws.item)]
            # Half of them the other way round, so that English is on both sides.
            pairs = [pair[::-1] if reverse else pair for pair, reverse in zip(pairs, draws.reverse)]
            sources, translations = ([self._build(side) for side in sides] for sides in zip(*pairs))
            mine = slice(*(self.batch_size * part // self.world_size for part in (self.rank, self.rank + 1)))
            yield PairStep(
                sources[mine] + translations[mine],
                mine.start,
                _strangers(sources, translations),
                sampler.state(),
            )

    def _build(self, ids: np.ndarray) -> np.ndarray:
        return np.asarray(self.tokenizer.build_from_ids(ids.tolist(), None, self.max_seq_len))


def _strangers(sources: list[np.ndarray], translations: list[np.ndarray]) -> np.ndarray:
    """[B, B] bool: pairs i and j have no sentence in common.

    Pairs are read in either direction, so one's source can be the other's translation.
    """
    numbers: dict[bytes, int] = {}
    a, b = (
        np.array([numbers.setdefault(ids.tobytes(), len(numbers)) for ids in side])
        for side in (sources, translations)
    )
    return ~((a[:, None] == a) | (a[:, None] == b) | (b[:, None] == a) | (b[:, None] == b))
