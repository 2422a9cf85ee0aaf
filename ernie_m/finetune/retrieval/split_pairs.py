"""Splitting of pairs into training and validation rows that share no texts."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np

from ernie_m.model.open_model import OpenedModel
from ernie_m.reader.equal_texts import hash_contents, hash_texts
from ernie_m.reader.files.pairs import PairRows
from ernie_m.utils.errors import UserError

_HELD_OUT = 0x484F4C44  # "HOLD"; separates these draws from others with the same seed


def make_text_keys(opened: OpenedModel, max_seq_len: int) -> Callable[[Iterable[str]], np.ndarray]:
    """Return a function that hashes texts, like `hash_texts`. Texts with equal ids have equal hashes.

    The ids are truncated to the maximum length without [CLS], [SEP] and the longest prompt.
    """
    prompts = opened.tokenizer.encode_batch(list(opened.pipeline_config.prompts.values()))
    length = max_seq_len - 2 - max(map(len, prompts), default=0)
    return partial(hash_texts, tokenizer=opened.tokenizer, max_length=max(0, length))


@dataclass(frozen=True)
class DedupedPairs:
    """Rows of pairs with hashes (keys) of their texts; see `ernie_m.reader.equal_texts`.

    Attributes:
        keys: the keys of query, positive and up to n negatives, uint64 [rows, 2 + n]; missing negatives have
            the key of "".
        positives: the key of a query -> the keys of all its positives; only for queries in several rows.
    """

    rows: PairRows
    keys: np.ndarray
    positives: Mapping[int, Set[int]]

    @classmethod
    def from_rows(cls, rows: PairRows, hash_texts: Callable[[Iterable[str]], np.ndarray]) -> "DedupedPairs":
        """Compute the keys of all texts in rows of pairs.

        Args:
            hash_texts: function that computes the key of each text, such as the result of `make_text_keys`.
        """
        width = rows.most_texts
        padded_rows = (row + [""] * (width - len(row)) for row in rows)
        keys = hash_texts(chain.from_iterable(padded_rows)).reshape(-1, width)
        _, number, occurrences = np.unique(keys[:, 0], return_inverse=True, return_counts=True)
        positives = defaultdict(set)
        for query, positive in keys[occurrences[number] > 1, :2].tolist():
            positives[query].add(positive)
        return cls(rows, keys, dict(positives))

    @property
    def false_negatives(self) -> int:
        """The number of false negatives in the rows, which `read_row` drops."""
        return sum(self._is_false_negative(keys, key) for keys in self.keys.tolist() for key in keys[2:])

    def read_row(self, index: int, held_out: Set[int] = frozenset()) -> tuple[list[int], list[str]]:
        """Return the keys and the texts of row `index`: query, positive, and negatives.

        Negatives are dropped if they equal the query, or are a positive of the query in any row.

        Args:
            held_out: the keys of validation texts; negatives with such a key are also dropped.
        """
        texts = self.rows[index]
        keys = self.keys[index].tolist()
        indices = [
            index
            for index, key in enumerate(keys[: len(texts)])
            if index < 2 or not (key in held_out or self._is_false_negative(keys, key))
        ]
        return [keys[index] for index in indices], [texts[index] for index in indices]

    def _is_false_negative(self, keys: Sequence[int], key: int) -> bool:
        """Return whether a negative equals the query of its row, or a positive of this query.

        Args:
            keys: the keys of the row.
            key: the key of the negative.
        """
        return key in keys[:2] or key in self.positives.get(keys[0], ())


def hold_out_rows(rows: DedupedPairs, max_rows: int, seed: int | None = None, side: int = 0) -> list[int]:
    """Select the validation rows of a file, up to `max_rows` and a tenth of all, and return their indices.

    Args:
        seed: the seed of a random sample. None: select the rows with the lowest text hashes, without
            shared texts, so that files with the same sentences have the same validation sentences.
        side: the index of the hashed text in a row: 0, the query, or 1, the positive.
    """
    count = min(max_rows, len(rows.keys) // 10)
    if seed is not None:
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, _HELD_OUT])))
        return np.sort(random.choice(len(rows.keys), count, replace=False)).tolist()
    hashes = hash_contents(row[side].encode() for row in rows.rows).byteswap()  # in the order of their bytes
    chosen: list[int] = []
    taken: set[int] = set()  # keys of their texts
    for number in np.argsort(hashes, kind="stable").tolist():
        query, positive = rows.keys[number, :2].tolist()
        if len(chosen) < count and query != positive and taken.isdisjoint((query, positive)):
            chosen.append(number)
            taken.update((query, positive))
    return chosen


def select_training_rows(
    files: Sequence[DedupedPairs], held_out: Sequence[Sequence[int]]
) -> tuple[frozenset[int], list[np.ndarray]]:
    """Return the training rows: those that share no query or positive with a validation row of any file.

    Args:
        held_out: the indices of the validation rows of each file.

    Returns:
        The keys of the queries and positives of validation rows, and the indices of the training rows of each
        file, int64 [n].

    Raises:
        UserError: no training rows are left.
    """
    keys = np.concatenate([rows.keys[list(numbers), :2].ravel() for rows, numbers in zip(files, held_out)])
    trained = [np.flatnonzero(~np.isin(rows.keys[:, :2], keys).any(axis=1)) for rows in files]
    if not any(map(len, trained)):
        names = ", ".join(rows.rows.name for rows in files)
        raise UserError(f"{names}: every row shares a text with a validation row. Provide more pairs")
    return frozenset(keys.tolist()), trained
