"""The training steps of a file of pairs. The reader process imports this file: no Paddle."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from ernie_m.finetune.retrieval.steps_of_bitexts import PairStep, share_of_step
from ernie_m.reader.files.pairs import PairRows
from ernie_m.reader.sampling import Sampler
from ernie_m.tokenizer.tokenizer import Tokenizer
from ernie_m.utils.errors import UserError

_HELD_OUT = 0x484F4C44  # "HOLD"; keeps these draws apart from any other of the same seed
_MOST_DRAWS = 100  # draws for each row of a step; if they do not fill the step, too many rows share a text


@dataclass(frozen=True)
class StepRows:
    """Endless steps of a file of pairs; call it to get the iterator. It can be pickled.

    The rows of a step depend only on the seed and the number of the step. No two of them have a text in
    common, because a negative that equals the positive would be false: a row that shares a text with an
    earlier row of the step is passed over, and comes again in the next epoch.

    Args:
        numbers: int64 [n], the rows that are trained on.
        held_out: texts that are never read. A row that has one as a negative is read without it.
        batch_size: rows of a step, over all processes.
        max_seq_len: longest sentence in tokens, [CLS] and [SEP] included.
        prompts: what is put before a query, and before a positive or a negative.
        position: `PairStep.position` of the last step; None starts at the beginning.
    """

    tokenizer: Tokenizer
    rows: PairRows
    numbers: np.ndarray
    held_out: frozenset[str]
    batch_size: int
    max_seq_len: int
    seed: int
    prompts: tuple[str, str] = ("", "")
    rank: int = 0
    world_size: int = 1
    position: dict[str, Any] | None = None

    def __call__(self) -> Iterator[PairStep]:
        """Yield this process's share of one step after the other, without end."""
        sizes = {"rows": len(self.numbers)}
        # There is one stream, so its amount and alpha do not matter.
        sampler = Sampler(items=sizes, amounts=sizes, alpha=1.0, seed=self.seed, purpose="own pairs")
        if self.position is not None:
            sampler.restore(self.position)
        share = share_of_step(self.batch_size, self.rank, self.world_size)
        of_query, of_document = self.prompts
        while True:
            rows = self._draw(sampler)  # all rows of the step, on every process
            given_count = sum(len(row) - 2 for row in rows)  # the negatives behind query and positive
            # The rows have no text in common, so all candidates but its positive are negatives of a query.
            negative = ~np.eye(self.batch_size, self.batch_size + given_count, dtype=bool)  # [B, C]
            own_rows = rows[share]
            queries = [of_query + row[0] for row in own_rows]
            positives = [of_document + row[1] for row in own_rows]
            texts_of_negatives = chain.from_iterable(row[2:] for row in own_rows)
            given_negatives = [of_document + text for text in texts_of_negatives]
            texts = queries + positives + given_negatives
            yield PairStep(
                sentences=self.tokenizer.sentences(self.tokenizer.encode_batch(texts), self.max_seq_len),
                negative=negative,
                position=sampler.state(),
                pair_count=len(own_rows),
            )

    def _draw(self, sampler: Sampler) -> list[list[str]]:
        """The texts of each row of the next step.

        Raises:
            UserError: there are too few rows without a text in common.
        """
        rows: list[list[str]] = []
        texts: set[str] = set()  # all texts of `rows`
        shared: Counter[str] = Counter()  # text -> how many rows were passed over because of it
        draws = 0
        while len(rows) < self.batch_size and draws < _MOST_DRAWS * self.batch_size:
            missing = self.batch_size - len(rows)  # all of them may be taken, so none is drawn too many
            draws += missing
            places = sampler.draw(missing).item  # in `self.numbers`
            for number in self.numbers[places].tolist():
                query, positive, *negatives = self.rows[number]
                row = [query, positive, *(text for text in negatives if text not in self.held_out)]
                if texts.isdisjoint(row):
                    texts.update(row)
                    rows.append(row)
                else:
                    shared.update(texts.intersection(row))
        if len(rows) == self.batch_size:
            return rows
        text, _ = shared.most_common(1)[0]
        raise UserError(
            f"{self.rows.name}: too few rows without a text in common for --batch_size {self.batch_size}, as "
            f"many have '{text}'; lower it, or name the columns in a first line: query, positive, negative"
        )


class Division(NamedTuple):
    """Which rows of a file of pairs are trained on.

    Attributes:
        held_out: the numbers of the rows that are held out, int64 [n].
        texts: the queries and the positives of these rows.
        trained: the numbers of the rows whose query and positive are not among `texts`, int64 [n].
    """

    held_out: np.ndarray
    texts: frozenset[str]
    trained: np.ndarray


def divide(rows: PairRows, validation_pairs: int, seed: int) -> Division:
    """Hold out `validation_pairs` rows, at most a tenth, drawn at random.

    Raises:
        UserError: no rows are left to train on.
    """
    count = min(validation_pairs, len(rows) // 10)
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, _HELD_OUT])))
    held_out = np.sort(random.choice(len(rows), count, replace=False))
    held_out_pairs = [rows[number][:2] for number in held_out.tolist()]  # query and positive of each
    texts = frozenset(chain.from_iterable(held_out_pairs))
    trained = [number for number, row in enumerate(rows) if texts.isdisjoint(row[:2])]
    if not trained:
        raise UserError(f"{rows.name}: all rows have a query or a positive in common with a held-out row")
    return Division(held_out, texts, np.array(trained))
