"""Training batches from a file or corpus of pairs, built in a separate process without Paddle."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from ernie_m.finetune.retrieval.split_pairs import DedupedPairs
from ernie_m.reader.corpus import Corpus
from ernie_m.reader.equal_texts import hash_token_ids
from ernie_m.reader.sampling import Sampler
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.errors import UserError

_MOST_DRAWS = 100  # draws per row of a step; if they do not fill the step, too many rows share a text


@dataclass(frozen=True)
class PairStep:
    """The part of a global batch that one process encodes.

    Attributes:
        sentences: the ids, [CLS] S [SEP], of b sources, b translations, and their hard negatives.
        negative: bool [B, C], over the whole step: whether candidate j is a negative of source i. The
            candidates are B translations and the hard negatives. Pairs that share a sentence on any side are
            not negatives of each other.
        position: the state from which training resumes after this step, a JSON value.
        pair_count: b.
    """

    sentences: list[np.ndarray]
    negative: np.ndarray
    position: dict[str, Any]
    pair_count: int

    @property
    def micro_batches(self) -> list["PairStep"]:
        """The step as the only micro-batch, because each pair is a negative of all others."""
        return [self]


@dataclass(frozen=True, kw_only=True)
class PairBatches(ABC):
    """Base class of infinite iterables of global batches. Picklable; a call returns the iterator.

    Args:
        batch_size: number of pairs per step, over all processes.
        max_seq_len: maximum length of a sentence in tokens, including [CLS] and [SEP].
        position: `PairStep.position` of the last step; None: start with the first step.
    """

    tokenizer: Tokenizer
    batch_size: int
    max_seq_len: int
    seed: int
    rank: int = 0
    world_size: int = 1
    position: dict[str, Any] | None = None

    @abstractmethod
    def __call__(self) -> Iterator[PairStep]:
        """Yield this process's part of each global batch, endlessly."""

    def make_sampler(self, sizes: dict[str, int], alpha: float, purpose: str) -> Sampler:
        """Return the sampler of pairs at `position`.

        Args:
            sizes: stream -> number of pairs.
            alpha, purpose: see `Sampler`.
        """
        sampler = Sampler(items=sizes, amounts=sizes, alpha=alpha, seed=self.seed, purpose=purpose)
        if self.position is not None:
            sampler.restore(self.position)
        return sampler

    @property
    def share(self) -> slice:
        """The slice of a step's pairs for this process; slice lengths differ by at most one pair."""
        return slice(
            self.batch_size * self.rank // self.world_size,
            self.batch_size * (self.rank + 1) // self.world_size,
        )


@dataclass(frozen=True, kw_only=True)
class PairFileBatches(PairBatches):
    """Infinite iterable of global batches from a file of pairs.

    The rows of a step depend only on the seed and the step number. To avoid false negatives, no two rows of a
    step share a text: a row that shares a text with an earlier row of the step is skipped until the next
    epoch. A text that is a positive of a query in any row is not a negative of this query.

    Args:
        numbers: the indices of the training rows, int64 [n].
        held_out: the keys of validation texts; negatives with such a key are dropped.
        prompts: the prompt of queries, and that of positives and negatives.
        batch_size, max_seq_len, position: see `PairBatches`.
    """

    rows: DedupedPairs
    numbers: np.ndarray
    held_out: Set[int]
    prompts: tuple[str, str] = ("", "")

    def __call__(self) -> Iterator[PairStep]:
        sizes = {"rows": len(self.numbers)}
        # There is only one stream, so its size and alpha do not matter.
        sampler = self.make_sampler(sizes, 1.0, "own pairs")
        of_query, of_document = self.prompts
        while True:
            keys_of_rows, rows = zip(*self._sample_rows(sampler))  # all rows of the step, on every process
            # The positives, then the negatives: the key of each candidate, [C].
            candidates = [keys[1] for keys in keys_of_rows]
            candidates += chain.from_iterable(keys[2:] for keys in keys_of_rows)
            # The rows share no text, so all candidates except its positive are negatives of a query, unless
            # another row of the file has them as its positives.
            negative = ~np.eye(self.batch_size, len(candidates), dtype=bool)  # [B, C]
            in_step = set(candidates)
            for index, (query, *_) in enumerate(keys_of_rows):
                known = self.rows.positives.get(query, frozenset()) & in_step
                if len(known) > 1:  # its own positive is one
                    negative[index] &= [key not in known for key in candidates]
            own_rows = rows[self.share]
            texts = [of_query + row[0] for row in own_rows]
            texts += [of_document + row[1] for row in own_rows]
            texts += [of_document + text for row in own_rows for text in row[2:]]
            yield PairStep(
                sentences=self.tokenizer.build_sentence_inputs(
                    self.tokenizer.encode_batch(texts), self.max_seq_len
                ),
                negative=negative,
                position=sampler.state(),
                pair_count=len(own_rows),
            )

    def _sample_rows(self, sampler: Sampler) -> list[tuple[list[int], list[str]]]:
        """Sample the rows of the next step, and return the keys and the texts of each row.

        Raises:
            UserError: there are too few rows that share no text with each other.
        """
        rows: list[tuple[list[int], list[str]]] = []
        taken: set[int] = set()  # the keys of all texts of `rows`
        shared: Counter[str] = Counter()  # text -> number of rows that were skipped because of it
        draws = 0
        while len(rows) < self.batch_size and draws < _MOST_DRAWS * self.batch_size:
            missing = self.batch_size - len(rows)  # all of them may be used, so never draw more
            draws += missing
            indices = sampler.draw(missing).item  # in `self.numbers`
            for number in self.numbers[indices].tolist():
                keys, texts = self.rows.read_row(number, self.held_out)
                if taken.isdisjoint(keys):
                    taken.update(keys)
                    rows.append((keys, texts))
                else:
                    shared.update(text for key, text in zip(keys, texts) if key in taken)
        if len(rows) == self.batch_size:
            return rows
        text, _ = shared.most_common(1)[0]
        raise UserError(
            f"{self.rows.rows.name}: too few rows without a common text for --batch_size {self.batch_size} "
            f"('{text}' is in as many rows). Reduce it, or add a header: query, positive, negative"
        )


@dataclass(frozen=True, kw_only=True)
class CorpusPairBatches(PairBatches):
    """Infinite iterable of global batches from a corpus.

    The pairs of a step depend only on the seed and the step number, and are divided among the processes. They
    are the parallel text of the corpus.

    Args:
        path: the directory of the corpus.
        alpha: language pairs are sampled in proportion to (number of pairs)^alpha.
        batch_size, max_seq_len, position: see `PairBatches`.
    """

    path: str
    alpha: float

    def __call__(self) -> Iterator[PairStep]:
        parallel = Corpus(self.path, self.tokenizer).parallel
        pairs_by_name = {"-".join(languages): pairs for languages, pairs in parallel.items()}
        sizes = {name: len(pairs) for name, pairs in pairs_by_name.items()}
        # The size of a language pair is its number of pairs.
        sampler = self.make_sampler(sizes, self.alpha, "retrieval")
        while True:
            draws = sampler.draw(self.batch_size)
            # Half of the pairs are reversed, so that English is on both sides.
            pairs = [
                pairs_by_name[sampler.names[stream]][int(item)][:: -1 if reverse else 1]
                for stream, item, reverse in zip(draws.stream, draws.item, draws.reverse)
            ]
            sources, translations = (
                self.tokenizer.build_sentence_inputs(ids, self.max_seq_len) for ids in zip(*pairs)
            )
            yield PairStep(
                sentences=sources[self.share] + translations[self.share],
                negative=make_negative_mask(sources, translations),
                position=sampler.state(),
                pair_count=len(sources[self.share]),
            )


def make_negative_mask(sources: list[np.ndarray], translations: list[np.ndarray]) -> np.ndarray:
    """Return whether pairs i and j share no sentence, and so are negatives of each other: bool [B, B].

    Pairs are used in both directions, so the source of one pair can be the translation of another.
    """
    source, translation = hash_token_ids(sources), hash_token_ids(translations)  # [B] each
    # [B, B]: whether two pairs have a sentence in common.
    share_a_sentence = (
        (source[:, None] == source)
        | (source[:, None] == translation)
        | (translation[:, None] == source)
        | (translation[:, None] == translation)
    )
    return ~share_a_sentence
