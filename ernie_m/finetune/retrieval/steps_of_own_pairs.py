"""The training steps of a file of pairs. The reader process imports this file: no Paddle."""

from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from ernie_m.finetune.retrieval.keyed_rows import KeyedRows
from ernie_m.finetune.retrieval.steps_of_bitexts import PairStep, share_of_step
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
    earlier row of the step is passed over, and comes again in the next epoch. Nor are texts negatives of a
    query that another row names as a positive of it.

    Args:
        numbers: int64 [n], the rows that are trained on.
        held_out: the keys of texts that are never read. A row with one as a negative is read without it.
        batch_size: rows of a step, over all processes.
        max_seq_len: longest sentence in tokens, [CLS] and [SEP] included.
        prompts: what is put before a query, and before a positive or a negative.
        position: `PairStep.position` of the last step; None starts at the beginning.
    """

    tokenizer: Tokenizer
    rows: KeyedRows
    numbers: np.ndarray
    held_out: Set[int]
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
            keys_of_rows, rows = zip(*self._draw(sampler))  # all rows of the step, on every process
            # The positives, and then the negatives behind query and positive: the key of each candidate, [C].
            candidates = [keys[1] for keys in keys_of_rows]
            candidates += chain.from_iterable(keys[2:] for keys in keys_of_rows)
            # The rows have no text in common, so all candidates but its positive are negatives of a query,
            # unless another row of the file names them as its positives.
            negative = ~np.eye(self.batch_size, len(candidates), dtype=bool)  # [B, C]
            in_step = set(candidates)
            for place, (query, *_) in enumerate(keys_of_rows):
                known = self.rows.positives.get(query, frozenset()) & in_step
                if len(known) > 1:  # its own positive is one
                    negative[place] &= [key not in known for key in candidates]
            own_rows = rows[share]
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
        """The keys and the texts of each row of the next step.

        Raises:
            UserError: there are too few rows without a text in common.
        """
        rows: list[tuple[list[int], list[str]]] = []
        taken: set[int] = set()  # the keys of all texts of `rows`
        shared: Counter[str] = Counter()  # text -> how many rows were passed over because of it
        draws = 0
        while len(rows) < self.batch_size and draws < _MOST_DRAWS * self.batch_size:
            missing = self.batch_size - len(rows)  # all of them may be taken, so none is drawn too many
            draws += missing
            places = sampler.draw(missing).item  # in `self.numbers`
            for number in self.numbers[places].tolist():
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
            f"{self.rows.rows.name}: too few rows without a text in common for --batch_size "
            f"{self.batch_size}, as many have '{text}'; lower it, or name the columns in a first line: "
            "query, positive, negative"
        )


def divide(
    rows: KeyedRows, validation_pairs: int, seed: int
) -> tuple[np.ndarray, frozenset[int], np.ndarray]:
    """Hold out `validation_pairs` rows, at most a tenth, drawn at random.

    Returns:
        The numbers of the rows that are held out, int64 [n]; the keys of their queries and positives; and the
        numbers of the rows whose query and positive are not among these, int64 [n].

    Raises:
        UserError: no rows are left to train on.
    """
    pairs = rows.keys[:, :2]
    count = min(validation_pairs, len(pairs) // 10)
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, _HELD_OUT])))
    held_out = np.sort(random.choice(len(pairs), count, replace=False))
    keys = pairs[held_out]
    trained = np.flatnonzero(~np.isin(pairs, keys).any(axis=1))
    if not len(trained):
        raise UserError(
            f"{rows.rows.name}: all rows have a query or a positive that the model cannot tell from one of a "
            "held-out row"
        )
    return held_out, frozenset(keys.ravel().tolist()), trained
