"""The sentence pairs of each training step. The reader process imports this file, so it has no Paddle."""

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
    """One process's share of a step.

    Attributes:
        sentences: ids of its b pairs, [CLS] S [SEP]: b sources, then b translations.
        negative: [B, B] bool over the whole step: whether the source of pair i and the translation of pair j
            are a negative. Pairs that share a sentence, on any side, are not.
        position: with it `StepPairs` goes on after this step, a JSON value.
    """

    sentences: list[np.ndarray]
    negative: np.ndarray
    position: dict[str, Any]

    @property
    def micro_batches(self) -> list["PairStep"]:
        """A step is one micro-batch, because each of its pairs is a negative of all others."""
        return [self]


@dataclass(frozen=True)
class StepPairs:
    """Endless steps; call it to get the iterator. It can be pickled.

    The pairs of a step depend only on the seed and the number of the step. Each process takes its share.

    Args:
        path: folder of the corpus.
        batch_size: pairs of a step, over all processes.
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
        """Open the corpus. UserError: there is none, or it has no parallel text."""
        corpus = Corpus(self.path, self.tokenizer.digest)
        if not corpus.parallel:
            raise UserError(f"{self.path}: no parallel text in this corpus; build one with --parallel")
        return corpus

    def __call__(self) -> Iterator[PairStep]:
        streams = {"-".join(pair): pairs for pair, pairs in self.open().parallel.items()}
        sizes = {name: len(pairs) for name, pairs in streams.items()}
        sampler = Sampler(sizes, sizes, self.alpha, self.seed, "retrieval")
        if self.position is not None:
            sampler.restore(self.position)
        mine = slice(*(self.batch_size * part // self.world_size for part in (self.rank, self.rank + 1)))
        while True:
            draws = sampler.draw(self.batch_size)
            pairs = [streams[sampler.names[s]][int(i)] for s, i in zip(draws.stream, draws.item)]
            # Half of them are reversed, so that English is on both sides.
            pairs = [pair[::-1] if reverse else pair for pair, reverse in zip(pairs, draws.reverse)]
            sides = zip(*pairs)
            sources, translations = (self.tokenizer.sentences(side, self.max_seq_len) for side in sides)
            sentences = sources[mine] + translations[mine]
            yield PairStep(sentences, negatives(sources, translations), sampler.state())


def negatives(sources: list[np.ndarray], translations: list[np.ndarray]) -> np.ndarray:
    """[B, B] bool: whether pairs i and j have no sentence in common.

    Pairs are read in both directions, so the source of one can be the translation of another.
    """
    numbers: dict[bytes, int] = {}
    a, b = (
        np.array([numbers.setdefault(ids.tobytes(), len(numbers)) for ids in side])
        for side in (sources, translations)
    )
    return ~((a[:, None] == a) | (a[:, None] == b) | (b[:, None] == a) | (b[:, None] == b))
