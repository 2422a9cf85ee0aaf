"""Rows of pairs, of which some are held out for a score; what shares a text with these is not trained on."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np

from ernie_m.model.open_model import OpenedModel
from ernie_m.reader.equal_texts import hash_contents, text_ids
from ernie_m.reader.files.pairs import PairRows
from ernie_m.utils.errors import UserError

_HELD_OUT = 0x484F4C44  # "HOLD"; keeps these draws apart from any other of the same seed


def keys_by(opened: OpenedModel, max_seq_len: int) -> Callable[[Iterable[str]], np.ndarray]:
    """The keys of texts by which they are equal for a model: by the ids of which it makes a vector.

    They are cut to the length of its inputs, less [CLS], [SEP] and the longest prompt.
    """
    prompts = opened.tokenizer.encode_batch(list(opened.preprocessing.prompts.values()))
    length = max_seq_len - 2 - max(map(len, prompts), default=0)
    return partial(text_ids, tokenizer=opened.tokenizer, length=max(0, length))


@dataclass(frozen=True)
class DedupedPairs:
    """Rows with the keys of their texts, by which texts are compared: see `ernie_m.reader.equal_texts`.

    Attributes:
        keys: uint64 [rows, 2 + n], of query, positive and up to n negatives; that of "" where there is none.
        positives: the key of a query -> those of all of its positives; only of queries in several rows.
    """

    rows: PairRows
    keys: np.ndarray
    positives: Mapping[int, Set[int]]

    @classmethod
    def of(cls, rows: PairRows, keys_of: Callable[[Iterable[str]], np.ndarray]) -> "DedupedPairs":
        """Compare all texts of some rows.

        Args:
            keys_of: the keys of texts: `text_ids`, or that of `keys_by`.
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
        indices = [
            index
            for index, key in enumerate(keys[: len(texts)])
            if index < 2 or not (key in held_out or self._is_right(keys, key))
        ]
        return [keys[index] for index in indices], [texts[index] for index in indices]

    def _is_right(self, keys: Sequence[int], key: int) -> bool:
        """Whether a text is the query of a row, or a right answer to it. `keys`: of the row."""
        return key in keys[:2] or key in self.positives.get(keys[0], ())


def hold_out(rows: DedupedPairs, most: int, seed: int | None = None, side: int = 0) -> list[int]:
    """The numbers of `most` rows of a file, but at most of a tenth.

    With a seed they are drawn by lot. Without one they have the least hashes of the text on a side, and no
    two have a text in common; so files with the same sentences hold out the same, and lose few to each other.
    """
    count = min(most, len(rows.keys) // 10)
    if seed is not None:
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, _HELD_OUT])))
        return np.sort(random.choice(len(rows.keys), count, replace=False)).tolist()
    hashes = hash_contents(row[side].encode() for row in rows.rows).byteswap()  # in the order of their bytes
    chosen: list[int] = []
    taken: set[int] = set()  # the keys of their texts
    for number in np.argsort(hashes, kind="stable").tolist():
        query, positive = rows.keys[number, :2].tolist()
        if len(chosen) < count and query != positive and taken.isdisjoint((query, positive)):
            chosen.append(number)
            taken.update((query, positive))
    return chosen


def divide(
    files: Sequence[DedupedPairs], held_out: Sequence[Sequence[int]]
) -> tuple[frozenset[int], list[np.ndarray]]:
    """Keep from the training what shares a query or a positive with a held-out row of any file.

    Args:
        held_out: the numbers of the held-out rows of each file.

    Returns:
        The keys of the queries and positives that are held out; and the numbers of the rows of each file that
        are trained on, int64 [n].

    Raises:
        UserError: no rows are left to train on.
    """
    keys = np.concatenate([rows.keys[list(numbers), :2].ravel() for rows, numbers in zip(files, held_out)])
    trained = [np.flatnonzero(~np.isin(rows.keys[:, :2], keys).any(axis=1)) for rows in files]
    if not any(map(len, trained)):
        names = ", ".join(rows.rows.name for rows in files)
        raise UserError(f"{names}: every row shares a text with a validation row. Provide more pairs")
    return frozenset(keys.tolist()), trained
