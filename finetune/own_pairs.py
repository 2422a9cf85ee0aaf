"""The training steps of a file of pairs (`reader.pairs`). The reader process imports this file: no Paddle."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.sentence_pairs import PairStep, share_of_step
from reader.pairs import PairRows
from reader.sampling import Sampler
from reader.tokenization import Tokenizer
from utils.errors import UserError

_MOST_DRAWS = 100  # for each row of a step; if they do not fill it, too many rows share a text


@dataclass(frozen=True)
class StepRows:
    """Endless steps of a file of pairs; call it to get the iterator. It can be pickled.

    The rows of a step depend only on the seed and the number of the step. No two of them have a text in
    common, because a negative that equals the positive would be false: a row that shares a text with an
    earlier row of the step is passed over, and comes again in the next epoch.

    Args:
        numbers: int64 [n], the rows that are trained on.
        batch_size: rows of a step, over all processes.
        max_seq_len: longest sentence in tokens, [CLS] and [SEP] included.
        teacher: a file of vectors, [rows, H], one for each row of the file; None: there is no teacher.
        position: `PairStep.position` of the last step; None starts at the beginning.
    """

    tokenizer: Tokenizer
    rows: PairRows
    numbers: np.ndarray
    batch_size: int
    max_seq_len: int
    teacher: Path | None
    seed: int
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
        teacher = None if self.teacher is None else np.load(self.teacher, mmap_mode="r")
        share = share_of_step(self.batch_size, self.rank, self.world_size)
        while True:
            numbers = self._draw(sampler)
            rows = [self.rows[number] for number in numbers]
            given_count = sum(len(row) - 2 for row in rows)  # the negatives behind query and positive
            # The rows have no text in common, so all candidates but its positive are negatives of a query.
            negative = ~np.eye(self.batch_size, self.batch_size + given_count, dtype=bool)  # [B, C]
            own_rows = rows[share]
            queries = [row[0] for row in own_rows]
            positives = [row[1] for row in own_rows]
            given_negatives = [text for row in own_rows for text in row[2:]]
            texts = queries + positives + given_negatives
            yield PairStep(
                sentences=self.tokenizer.sentences(self.tokenizer.encode_batch(texts), self.max_seq_len),
                negative=negative,
                position=sampler.state(),
                pair_count=len(own_rows),
                teacher=None if teacher is None else np.asarray(teacher[numbers]),
            )

    def _draw(self, sampler: Sampler) -> list[int]:
        """The numbers of the rows of the next step.

        Raises:
            UserError: there are too few rows without a text in common.
        """
        numbers: list[int] = []
        texts: set[str] = set()
        for _ in range(_MOST_DRAWS * self.batch_size):
            (place,) = sampler.draw(1).item  # in `numbers`
            number = int(self.numbers[place])
            row = self.rows[number]
            if texts.isdisjoint(row):
                texts.update(row)
                numbers.append(number)
            if len(numbers) == self.batch_size:
                return numbers
        raise UserError(
            f"{self.rows.path}: too few rows without a text in common for --batch_size {self.batch_size}; "
            "lower it"
        )


def divide(rows: PairRows, validation_pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose the rows that are held out and those that are trained on.

    Held out are `validation_pairs` rows, at most a tenth, at equal distances. Rows that have the query or the
    positive of one of them are not trained on.

    Returns:
        The numbers of the rows that are held out, and of those that are trained on: int64 [n] each.

    Raises:
        UserError: no rows are left to train on.
    """
    count = min(validation_pairs, len(rows) // 10)
    held_out = (np.arange(count) * len(rows)) // max(count, 1)  # `count` may be 0
    texts: set[str] = set()  # the queries and positives that are held out
    for number in held_out.tolist():
        query, positive, *_ = rows[number]
        texts |= {query, positive}
    trained = [number for number, row in enumerate(rows) if texts.isdisjoint(row)]
    if not trained:
        raise UserError(f"{rows.path}: all rows have a text in common with a held-out row")
    return held_out, np.array(trained)
