"""Which texts of own pairs are equal. Reader processes import this file: no Paddle."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np

from ernie_m.finetune.open_model import OpenedModel
from ernie_m.reader.files.pairs import PairRows
from ernie_m.tokenizer.equal_texts import text_keys


def keys_by(opened: OpenedModel, max_seq_len: int) -> Callable[[Iterable[str]], np.ndarray]:
    """The keys of texts by which they are equal for a model: by the ids of which it makes a vector.

    They are cut to the length of its inputs, less [CLS], [SEP] and the longest prompt.
    """
    prompts = opened.tokenizer.encode_batch(list(opened.reading.prompts.values()))
    length = max_seq_len - 2 - max(map(len, prompts), default=0)
    return partial(text_keys, tokenizer=opened.tokenizer, length=max(0, length))


@dataclass(frozen=True)
class KeyedRows:
    """Rows with the keys of their texts, by which texts are compared: see `ernie_m.tokenizer.equal_texts`.

    Attributes:
        keys: uint64 [rows, 2 + n], of query, positive and up to n negatives; that of "" where there is none.
        positives: the key of a query -> those of all of its positives; only of queries in several rows.
    """

    rows: PairRows
    keys: np.ndarray
    positives: Mapping[int, Set[int]]

    @classmethod
    def of(cls, rows: PairRows, keys_of: Callable[[Iterable[str]], np.ndarray]) -> "KeyedRows":
        """Compare all texts of some rows.

        Args:
            keys_of: the keys of texts: `text_keys`, or that of `keys_by`.
        """
        width = rows.most_texts
        padded_rows = (row + [""] * (width - len(row)) for row in rows)
        keys = keys_of(chain.from_iterable(padded_rows)).reshape(-1, width)
        _, number, occurrences = np.unique(keys[:, 0], return_inverse=True, return_counts=True)
        positives = defaultdict(set)
        for query, positive in keys[occurrences[number] > 1, :2].tolist():
            positives[query].add(positive)
        return cls(rows, keys, dict(positives))

    @property
    def right_negatives(self) -> int:
        """How many given negatives are right answers, which `read` leaves out."""
        return sum(self._is_right(keys, key) for keys in self.keys.tolist() for key in keys[2:])

    def read(self, number: int, held_out: Set[int] = frozenset()) -> tuple[list[int], list[str]]:
        """The keys and the texts of a row: query, positive, and its negatives.

        Negatives are left out that are in `held_out`, equal the query, or are a positive of it in any row.
        """
        texts = self.rows[number]
        keys = self.keys[number].tolist()
        places = [
            place
            for place, key in enumerate(keys[: len(texts)])
            if place < 2 or not (key in held_out or self._is_right(keys, key))
        ]
        return [keys[place] for place in places], [texts[place] for place in places]

    def _is_right(self, keys: Sequence[int], key: int) -> bool:
        """Whether a text is the query of a row, or a right answer to it. `keys`: of the row."""
        return key in keys[:2] or key in self.positives.get(keys[0], ())
