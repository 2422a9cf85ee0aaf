"""Which tokens are masked, and what stands in their place. Every draw comes from a given generator."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

_STREAM = 0x4D41534B  # "MASK"; keeps these draws apart from any other Philox stream of the same seed
# BERT's shares of the chosen tokens: 80 % become [MASK], 10 % a random token, the others stay.
_MASKED = 0.8
_RANDOM = 0.1


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
        return cls(
            cls_id=int(tokenizer.cls_id),
            pad_id=int(tokenizer.pad_id),
            sep_id=int(tokenizer.sep_id),
            unk_id=int(tokenizer.unk_id),
            mask_id=int(tokenizer.mask_id),
            size=int(tokenizer.vocab_size),
        )

    @cached_property
    def special_ids(self) -> np.ndarray:
        """The special ids, sorted, int64 [5]; [UNK] is one of them."""
        return np.unique([self.cls_id, self.pad_id, self.sep_id, self.unk_id, self.mask_id])

    @cached_property
    def ordinary_ids(self) -> np.ndarray:
        """Every id that is not special, sorted, int64 [V - 5]."""
        return np.setdiff1d(np.arange(self.size), self.special_ids)


def generator(seed: int, step: int, index: int) -> np.random.Generator:
    """The generator of one example: `index` is its number within the optimizer step's whole batch.

    Streams of different (seed, step, index) never overlap, so masks do not depend on how a step is divided
    over processes and micro-batches.
    """
    key = np.array([seed, _STREAM], dtype=np.uint64)
    # The draws of a Philox generator count up the first two of its four counter words.
    counter = np.array([0, 0, index, step], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def number_chosen(n: int, rate: float) -> int:
    """How many of n tokens are chosen: the share `rate`, rounded, but at least one if there is one."""
    return min(n, max(1, round(rate * n)))


def choose(n: int, rate: float, rng: np.random.Generator) -> np.ndarray:
    """m positions chosen from 0 .. n - 1, int64 [m], ascending. Every set of m is equally likely."""
    chosen = rng.permutation(n)[: number_chosen(n, rate)]
    chosen.sort()
    return chosen


def replace(tokens: np.ndarray, rng: np.random.Generator, vocabulary: Vocabulary) -> np.ndarray:
    """What the model sees in place of the chosen tokens, as in BERT: [MASK], a random token, or the token.

    Args:
        tokens: the chosen tokens, int64 [m].

    Returns:
        int64 [m]: with probability 0.8 [MASK], with 0.1 a random token that is not special, else the token.
    """
    draws = rng.random(len(tokens))
    ordinary_ids = vocabulary.ordinary_ids
    random_ids = ordinary_ids[rng.integers(len(ordinary_ids), size=len(tokens))]
    random_or_same = np.where(draws < _MASKED + _RANDOM, random_ids, tokens)
    return np.where(draws < _MASKED, vocabulary.mask_id, random_or_same)
