"""Which tokens are masked, and what stands in their place. Every draw comes from a given generator."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

_STREAM = 0x4D41534B  # keeps these draws apart from any other Philox stream of the same seed

_MASKED, _RANDOM = 0.8, 0.1


@dataclass(frozen=True)
class Vocabulary:
    """What masking needs to know of a tokenizer: the special ids and the size V."""

    cls_id: int
    pad_id: int
    sep_id: int
    unk_id: int
    mask_id: int
    size: int

    @classmethod
    def of(cls, tokenizer) -> "Vocabulary":
        """From any object with these attributes and `vocab_size`."""
        names = ("cls_id", "pad_id", "sep_id", "unk_id", "mask_id")
        return cls(*(int(getattr(tokenizer, name)) for name in names), int(tokenizer.vocab_size))

    @cached_property
    def special_ids(self) -> np.ndarray:
        """The special ids, sorted, int64 [5]; [UNK] is one of them."""
        return np.unique([self.cls_id, self.pad_id, self.sep_id, self.unk_id, self.mask_id])

    @cached_property
    def ordinary_ids(self) -> np.ndarray:
        """Every id that is not special, sorted, int64 [V - 5]."""
        return np.setdiff1d(np.arange(self.size), self.special_ids)


def generator(seed: int, step: int, index: int) -> np.random.Generator:
    """The generator of one sequence: `index` is its number within the optimiser step's whole batch.

    Streams of different (seed, step, index) never overlap (Philox: seed is the key, step and index are
    counter words of their own), so masks do not depend on how a step is divided over processes and
    micro-batches.
    """
    key = np.array([seed, _STREAM], dtype=np.uint64)
    counter = np.array([0, 0, index, step], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def number_chosen(n: int, rate: float) -> int:
    """max(1, round(rate n)) of n tokens, none of none, never more than n."""
    return min(n, max(1, round(rate * n)))


def choose(n: int, rate: float, rng: np.random.Generator) -> np.ndarray:
    """`number_chosen(n, rate)` of the positions 0 .. n-1, each set equally likely. Sorted, int64 [m]."""
    chosen = rng.permutation(n)[: number_chosen(n, rate)]
    chosen.sort()
    return chosen


def replace(tokens: np.ndarray, rng: np.random.Generator, vocabulary: Vocabulary) -> np.ndarray:
    """What stands in place of the chosen tokens [m], int64 [m], as in BERT: with chance 0.8 [MASK], with 0.1
    a random token that is not special, else the token itself."""
    draw = rng.random(len(tokens))
    random = vocabulary.ordinary_ids[rng.integers(len(vocabulary.ordinary_ids), size=len(tokens))]
    unmasked = np.where(draw < _MASKED + _RANDOM, random, tokens)
    return np.where(draw < _MASKED, vocabulary.mask_id, unmasked)
