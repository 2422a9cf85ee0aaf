"""Finding what occurred before: keys lie on disk, and one range of them at a time is sorted.

A row is a line with its hash as key, or a document with a key for each band of its signature
(pretrain/corpus/duplicates.py). A unit's keys lie in its file sorted, with an index of 4096 ranges of
equal width in front of those of each band. As keys are even, a range of all units together holds a known
share of all rows, however many there are, and so fits in memory. Of rows with an equal key the first in
reading order stays. Hashes have 64 bits: among n different lines about n^2 / 2^65 are taken for another one,
less than one in a stream of 5 billion.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pretrain.corpus.work import unit_paths
from utils.errors import UserError
from utils.files import atomic_file

_RANGES = 4096
_HEADER_BYTES = 4 * 8
_INDEX_BYTES = 4 * (_RANGES + 1)
HASHES_IN_MEMORY = 1 << 21  # of one part; about 50 bytes each while it is worked on


class Duplicates(NamedTuple):
    """The rows of a stream that are to go, and where they are found.

    Args:
        scan: folder of the files of `write_scan`.
        units: how many of them each source has.
        folder: of the part files: for each of `bands` bands, `parts` parts.
    """

    scan: Path
    units: Sequence[int]
    folder: Path
    bands: int
    parts: int

    def part_file(self, band: int, part: int) -> Path:
        """Where a part's rows stand."""
        return self.folder / f"{band * self.parts + part:05d}"


class PartTask(NamedTuple):
    """A part of a band's keys: ranges `part` * 4096 / parts and on."""

    found: Duplicates
    band: int
    part: int


def parts_for(rows: int) -> int:
    """Into how many parts the keys of so many rows are divided. A power of two."""
    parts = 1
    while parts < _RANGES and rows / parts > HASHES_IN_MEMORY:
        parts *= 2
    return parts


def write_scan(path: Path, lines: int, documents: int, bands: Sequence[np.ndarray]) -> None:
    """Write a unit's file.

    It has uint64 [4]: lines, documents, bands, rows n; then for each band, if n > 0: index uint32 [4097],
    keys uint64 [n] ascending, their row numbers uint32 [n].

    Args:
        lines, documents: what the unit holds.
        bands: keys of its rows in reading order, uint64 [n] each.
    """
    bounds = np.arange(1, _RANGES, dtype=np.uint64) * np.uint64((1 << 64) // _RANGES)
    rows = len(bands[0]) if bands else 0
    with atomic_file(path) as file:
        file.write(np.array([lines, documents, len(bands), rows], "<u8").tobytes())
        for keys in bands if rows else ():
            order = np.argsort(keys, kind="stable")
            ordered = keys[order]
            index = np.concatenate([[0], np.searchsorted(ordered, bounds), [rows]])
            file.write(index.astype("<u4").tobytes())
            file.write(ordered.astype("<u8").tobytes())
            file.write(order.astype("<u4").tobytes())


def read_counts(path: Path) -> tuple[int, int] | None:
    """Lines and documents of a unit; None if its file is not there or not whole."""
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size < _HEADER_BYTES:
                return None
            lines, documents, bands, rows = (int(count) for count in _read(file, path, "<u8", 0, 4))
    except FileNotFoundError:
        return None
    return (lines, documents) if size == _HEADER_BYTES + bands * _band_bytes(rows) else None


def find_duplicates(task: PartTask) -> int:
    """Write a part's file: index uint64 [units + 1], then each unit's rows to leave out, uint32, ascending.

    Returns:
        The number of rows to leave out.
    """
    paths = unit_paths(task.found.scan, task.found.units)
    keys, rows = zip(*(_read_range(path, task) for path in paths))
    units = np.repeat(np.arange(len(paths)), [len(part) for part in keys])
    keys, rows = np.concatenate(keys), np.concatenate(rows)
    # Units are in reading order, and so are a unit's equal keys: a stable sort keeps the first in front.
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    repeated = order[1:][ordered[1:] == ordered[:-1]]
    repeated = repeated[np.lexsort([rows[repeated], units[repeated]])]
    counts = np.bincount(units[repeated], minlength=len(paths))
    with atomic_file(task.found.part_file(task.band, task.part)) as file:
        file.write(np.concatenate([[0], np.cumsum(counts)]).astype("<u8").tobytes())
        file.write(rows[repeated].astype("<u4").tobytes())
    return len(repeated)


def rows_to_drop(found: Duplicates, unit: int) -> np.ndarray:
    """Numbers of a unit's rows that occurred before in any band. int64 [n], ascending.

    Args:
        unit: number of the unit in the stream.
    """
    rows = [np.zeros(0, np.int64)]
    index_bytes = 8 * (sum(found.units) + 1)
    for band, part in itertools.product(range(found.bands), range(found.parts)):
        path = found.part_file(band, part)
        with open(path, "rb", buffering=0) as file:
            first, last = (int(at) for at in _read(file, path, "<u8", 8 * unit, 2))
            rows.append(_read(file, path, "<u4", index_bytes + 4 * first, last - first).astype(np.int64))
    return np.unique(np.concatenate(rows))


def _band_bytes(rows: int) -> int:
    return _INDEX_BYTES + 12 * rows if rows else 0


def _read_range(path: Path, task: PartTask) -> tuple[np.ndarray, np.ndarray]:
    """A unit's keys within a part, and their row numbers."""
    width = _RANGES // task.found.parts
    with open(path, "rb", buffering=0) as file:
        total = int(_read(file, path, "<u8", 24, 1)[0])
        if total == 0:
            return np.zeros(0, np.uint64), np.zeros(0, np.uint32)
        start = _HEADER_BYTES + task.band * _band_bytes(total)
        first = int(_read(file, path, "<u4", start + 4 * task.part * width, 1)[0])
        last = int(_read(file, path, "<u4", start + 4 * (task.part + 1) * width, 1)[0])
        start += _INDEX_BYTES
        keys = _read(file, path, "<u8", start + 8 * first, last - first)
        rows = _read(file, path, "<u4", start + 8 * total + 4 * first, last - first)
    return keys, rows


def _read(file, path: Path, dtype: str, offset: int, count: int) -> np.ndarray:
    size = count * np.dtype(dtype).itemsize
    data = os.pread(file.fileno(), size, offset)
    if len(data) != size:
        raise UserError(f"{path}: cut short; start the build afresh with --overwrite true")
    return np.frombuffer(data, dtype)


# Keys under which texts that are nearly the same meet: MinHash signatures, cut into bands.
#
# A text is the set of its runs of 5 characters, case folded, within its first million characters. Of two
# texts
# whose sets share the part s of what either has (Jaccard), each of the 128 numbers of a signature is equal
# with
# probability s. The signature is cut into b bands of r numbers; two texts meet if all numbers of a band are
# equal, with probability 1 - (1 - s^r)^b: a step that is steepest near s = (1/b)^(1/r).
# (A. Broder, On the resemblance and containment of documents, 1997; Leskovec et al., Mining of Massive
# Datasets, chapter 3.)

_NUMBERS = 128  # of a signature
_CHARACTERS = 5  # of a run
_SEED = 1
_CHARACTERS_AT_ONCE = 1 << 20  # worked on at a time, about 60 bytes each
_TEXTS_AT_ONCE = 1 << 13  # the same, about 5 KB each
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd: multiplying by it loses nothing


class Bands(NamedTuple):
    """How a signature is cut: `count` bands of `rows` numbers."""

    count: int
    rows: int


def bands_for(similarity: float) -> Bands:
    """The cut whose step lies nearest to a similarity within 0 and 1."""
    cuts = [Bands(_NUMBERS // rows, rows) for rows in range(1, _NUMBERS + 1)]
    return min(cuts, key=lambda cut: abs((1 / cut.count) ** (1 / cut.rows) - similarity))


def band_keys(texts: list[str], bands: Bands) -> list[np.ndarray]:
    """For each band, a key of each text. uint64 [texts] each. No text is empty."""
    parts = [_mix_columns(_signatures(batch), bands) for batch in _batches(texts)]
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
    # A worker has one core. Rust's thread pool asks the environment when it is first used.
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    from rensa import RMinHash

    if not texts:
        return np.zeros((0, _NUMBERS), np.uint64)
    runs, offsets = _runs(texts)
    signatures = RMinHash.digest_matrix_from_flat_token_hashes(runs, offsets, _NUMBERS, _SEED)
    return np.array(signatures.to_rows(), np.uint64)


def _runs(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """A hash of each run of characters, text after text, and where each text's runs begin and end.

    A text that is shorter than a run is one run.

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


def _mix_columns(signatures: np.ndarray, bands: Bands) -> list[np.ndarray]:
    keys = []
    for band in range(bands.count):
        key = np.zeros(len(signatures), np.uint64)
        for column in range(band * bands.rows, (band + 1) * bands.rows):
            key = _mix(key + signatures[:, column])
        keys.append(key)
    return keys


def _mix(values: np.ndarray) -> np.ndarray:
    """A permutation of 64-bit numbers under which no bit stays where it was."""
    values = values * _FACTOR
    values ^= values >> np.uint64(32)
    values *= _FACTOR
    values ^= values >> np.uint64(29)
    return values
