"""Keys that texts share if they are nearly the same: MinHash signatures cut into bands.

A text is the set of its runs of 5 characters, case folded, within its first million characters. If two sets
have the Jaccard similarity s, each of the 128 numbers of their signatures is equal with probability s. The
signature is cut into b bands of r numbers. Two texts match if all numbers of a band are equal, which has the
probability 1 - (1 - s^r)^b: a step that is steepest near s = (1/b)^(1/r). See A. Broder, On the resemblance
and containment of documents, 1997, and Leskovec et al., Mining of Massive Datasets, chapter 3.
"""

import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_NUMBERS = 128  # of a signature
_CHARACTERS = 5  # of a run
_SEED = 1
_CHARACTERS_AT_ONCE = 1 << 20  # about 60 bytes of memory each
_TEXTS_AT_ONCE = 1 << 13  # about 5 KB of memory each
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it is a permutation


class Bands(NamedTuple):
    """How a signature is cut: `count` bands of `rows` numbers."""

    count: int
    rows: int


def bands_for(similarity: float) -> Bands:
    """The cut whose step is nearest to a similarity between 0 and 1."""
    cuts = [Bands(_NUMBERS // rows, rows) for rows in range(1, _NUMBERS + 1)]
    return min(cuts, key=lambda cut: abs((1 / cut.count) ** (1 / cut.rows) - similarity))


def band_keys(texts: list[str], bands: Bands) -> list[np.ndarray]:
    """For each band a key of each text, uint64 [texts]. No text may be empty."""
    parts = [_combine(_signatures(batch), bands) for batch in _batches(texts)]
    return [np.concatenate([part[band] for part in parts]) for band in range(bands.count)]


def _batches(texts: list[str]) -> Iterator[list[str]]:
    batch, size = [], 0
    for text in texts:
        batch.append(text[:_CHARACTERS_AT_ONCE].casefold())
        size += len(batch[-1])
        if size >= _CHARACTERS_AT_ONCE or len(batch) == _TEXTS_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch or not texts:
        yield batch


def _signatures(texts: list[str]) -> np.ndarray:
    """uint64 [texts, _NUMBERS]; each number has 32 bits."""
    # Each worker has one core. Rayon reads the variable when it is first used.
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    from rensa import RMinHash

    if not texts:
        return np.zeros((0, _NUMBERS), np.uint64)
    runs, offsets = _runs(texts)
    signatures = RMinHash.digest_matrix_from_flat_token_hashes(runs, offsets, _NUMBERS, _SEED)
    return np.array(signatures.to_rows(), np.uint64)


def _runs(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """A hash of each run of characters, text after text, and where the runs of each text begin and end.

    A text that is shorter than a run counts as one run.

    Returns:
        uint64 [runs], uint64 [texts + 1].
    """
    gap = _CHARACTERS - 1
    filling = "\0" * gap
    codes = np.frombuffer((filling.join(texts) + filling).encode("utf-32-le"), "<u4").astype(np.uint64)
    hashes = np.zeros(len(codes) - gap, np.uint64)
    for place in range(_CHARACTERS):
        hashes = _mix(hashes + codes[place : place + len(hashes)])
    lengths = np.array([len(text) for text in texts])
    starts = np.cumsum(lengths + gap) - (lengths + gap)
    counts = np.maximum(lengths - gap, 1)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    chosen = np.repeat(starts - offsets[:-1], counts) + np.arange(offsets[-1])
    return hashes[chosen], offsets.astype(np.uint64)


def _combine(signatures: np.ndarray, bands: Bands) -> list[np.ndarray]:
    """One key for the numbers of each band."""
    keys = []
    for band in range(bands.count):
        key = np.zeros(len(signatures), np.uint64)
        for column in range(band * bands.rows, (band + 1) * bands.rows):
            key = _mix(key + signatures[:, column])
        keys.append(key)
    return keys


def _mix(values: np.ndarray) -> np.ndarray:
    """A permutation of the 64-bit numbers that spreads every bit."""
    values = values * _FACTOR
    values ^= values >> np.uint64(32)
    values *= _FACTOR
    values ^= values >> np.uint64(29)
    return values
