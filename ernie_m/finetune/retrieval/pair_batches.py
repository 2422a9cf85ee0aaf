"""Training steps from a file of pairs. The reader process imports this file: no Paddle."""

from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from ernie_m.finetune.retrieval.split_pairs import DedupedPairs
from ernie_m.reader.corpus import Corpus
from ernie_m.reader.equal_texts import hash_ids
from ernie_m.reader.sampling import Sampler
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.utils.errors import UserError

_MOST_DRAWS = 100  # draws per row of a step; if they do not fill it, too many rows share a text


@dataclass(frozen=True)
class PairStep:
    """The part of a step that one process encodes.

    Attributes:
        sentences: ids of its b pairs, [CLS] S [SEP]: b sources, b translations, then the given negatives.
        negative: [B, C] bool over the whole step: whether source i and candidate j are negatives. The
            candidates are B translations, then the given negatives. Pairs that share a sentence on any side
            are not negatives of each other.
        position: the state from which the steps resume after this one, a JSON value.
        pair_count: b.
    """

    sentences: list[np.ndarray]
    negative: np.ndarray
    position: dict[str, Any]
    pair_count: int

    @property
    def micro_batches(self) -> list["PairStep"]:
        """Return the step as the only micro-batch, because each of its pairs is a negative of all others."""
        return [self]


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Base class of endless training steps.

    Args:
        batch_size: pairs per step, over all processes.
        max_seq_len: maximum sentence length in tokens, including [CLS] and [SEP].
        position: `PairStep.position` of the last step; None: from the beginning.
    """

    tokenizer: Tokenizer
    batch_size: int
    max_seq_len: int
    seed: int
    rank: int = 0
    world_size: int = 1
    position: dict[str, Any] | None = None

    def sampler(self, sizes: dict[str, int], alpha: float, purpose: str) -> Sampler:
        """Return the sampler of the pairs, at the position."""
        sampler = Sampler(items=sizes, amounts=sizes, alpha=alpha, seed=self.seed, purpose=purpose)
        if self.position is not None:
            sampler.restore(self.position)
        return sampler

    @property
    def share(self) -> slice:
        """Return the slice of a step's pairs for this process; the sizes differ by at most one pair."""
        return slice(
            self.batch_size * self.rank // self.world_size,
            self.batch_size * (self.rank + 1) // self.world_size,
        )


@dataclass(frozen=True, kw_only=True)
class StepRows(Steps):
    """Endless steps from a file of pairs; call it to get the iterator. It can be pickled.

    The rows of a step depend only on the seed and the step number. No two of them share a text, because a
    negative that equals the positive would be a false negative: a row that shares a text with an earlier row
    of the step is skipped until the next epoch. A text is not a negative of a query if another row has it as
    a positive of that query.

    Args:
        numbers: int64 [n], the indices of the training rows.
        held_out: the keys of texts that are never read. A negative with such a key is dropped from its row.
        batch_size: rows per step, over all processes.
        max_seq_len: maximum sentence length in tokens, including [CLS] and [SEP].
        prompts: the prefix of a query, and that of a positive or a negative.
        position: `PairStep.position` of the last step; None: from the beginning.
    """

    rows: DedupedPairs
    numbers: np.ndarray
    held_out: Set[int]
    prompts: tuple[str, str] = ("", "")

    def __call__(self) -> Iterator[PairStep]:
        """Yield this process's part of one step after the other, without end."""
        sizes = {"rows": len(self.numbers)}
        # There is only one stream, so its size and alpha do not matter.
        sampler = self.sampler(sizes, 1.0, "own pairs")
        of_query, of_document = self.prompts
        while True:
            keys_of_rows, rows = zip(*self._draw(sampler))  # all rows of the step, on every process
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
                sentences=self.tokenizer.sentences(self.tokenizer.encode_batch(texts), self.max_seq_len),
                negative=negative,
                position=sampler.state(),
                pair_count=len(own_rows),
            )

    def _draw(self, sampler: Sampler) -> list[tuple[list[int], list[str]]]:
        """Draw the rows of the next step, and return the keys and the texts of each row.

        Raises:
            UserError: there are too few rows without a common text.
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
                keys, texts = self.rows.read(number, self.held_out)
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
            f"('{text}' is in as many rows). Reduce it, or add a header: "
            "query, positive, negative"
        )


@dataclass(frozen=True, kw_only=True)
class StepPairs(Steps):
    """Endless steps from the parallel text of a corpus; call it to get the iterator. It can be pickled.

    The pairs of a step depend only on the seed and the step number. The processes divide each step.

    Args:
        path: folder of the corpus.
        batch_size: pairs per step, over all processes.
        max_seq_len: maximum sentence length in tokens, including [CLS] and [SEP].
        alpha: language pairs are sampled in proportion to (number of pairs)^alpha.
        position: `PairStep.position` of the last step; None: from the beginning.
    """

    path: str
    alpha: float

    def open(self) -> Corpus:
        """Open the corpus.

        Raises:
            UserError: it is missing or has no parallel text.
        """
        corpus = Corpus(self.path, self.tokenizer)
        if not corpus.parallel:
            raise UserError(f"{self.path}: no parallel text in this corpus. Build one with --parallel")
        return corpus

    def __call__(self) -> Iterator[PairStep]:
        """Yield this process's part of one step after the other, without end."""
        pairs_by_name = {"-".join(pair): pairs for pair, pairs in self.open().parallel.items()}
        sizes = {name: len(pairs) for name, pairs in pairs_by_name.items()}
        # The size of a language pair is its number of pairs.
        sampler = self.sampler(sizes, self.alpha, "retrieval")
        while True:
            draws = sampler.draw(self.batch_size)
            source_ids = []
            translation_ids = []
            for name_index, item, reverse in zip(draws.stream, draws.item, draws.reverse):
                pairs = pairs_by_name[sampler.names[name_index]]
                source, translation = pairs[int(item)]
                if reverse:  # reverse half of the pairs, so that English is on both sides
                    source, translation = translation, source
                source_ids.append(source)
                translation_ids.append(translation)
            sources = self.tokenizer.sentences(source_ids, self.max_seq_len)
            translations = self.tokenizer.sentences(translation_ids, self.max_seq_len)
            yield PairStep(
                sentences=sources[self.share] + translations[self.share],
                negative=negatives(sources, translations),
                position=sampler.state(),
                pair_count=len(sources[self.share]),
            )


def negatives(sources: list[np.ndarray], translations: list[np.ndarray]) -> np.ndarray:
    """Return whether pairs i and j share no sentence, [B, B] bool.
    Pairs are used in both directions, so the source of one can be the translation of another.
    """
    source, translation = hash_ids(sources), hash_ids(translations)  # [B] each
    share_a_sentence = (
        (source[:, None] == source)
        | (source[:, None] == translation)
        | (translation[:, None] == source)
        | (translation[:, None] == translation)
    )  # [B, B]
    return ~share_a_sentence
