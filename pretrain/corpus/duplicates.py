"""Finds lines and documents that occurred before, in bounded memory.

A key set holds one 64-bit key per row: the hash of each line, or the key of each document in one band of its
signature (`near_duplicates`). Each unit writes its keys sorted to disk. One range of keys of all units is
loaded at a time. Keys are spread evenly, so the ranges fit in memory however many rows there are. Among rows
with equal keys, the first in reading order stays. Among n different lines, about n^2 / 2^65 are dropped by a
chance collision: less than one in a stream of 5 billion lines.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pretrain.corpus.work import unit_paths
from utils.errors import UserError
from utils.files import atomic_file

KEYS_IN_MEMORY = 1 << 21  # of one part; about 50 bytes each while the part is processed


class KeySets(NamedTuple):
    """Consecutive key sets of a stream with equally many rows, and where their duplicates are stored.

    Args:
        scan: folder of the units' files, written by `write_keys`.
        units: number of units of each source.
        folder: of the results.
        first, count: numbers of the key sets in each unit's file.
        rows: keys of each set, over all units.
    """

    scan: Path
    units: Sequence[int]
    folder: Path
    first: int
    count: int
    rows: int

    def parts(self) -> list[tuple[int, int]]:
        """(key set, part) of each piece of work."""
        ranges = -(-self.rows // KEYS_IN_MEMORY)
        return list(itertools.product(range(self.first, self.first + self.count), range(ranges)))

    def part_file(self, key_set: int, part: int) -> Path:
        """Where the duplicates of a part are stored."""
        return self.folder / f"{key_set:03d}-{part:05d}"


def write_keys(path: Path, lines: int, documents: int, key_sets: Sequence[np.ndarray]) -> None:
    """Write the file of a unit.

    It holds uint64 [3 + sets]: lines, documents, sets, rows of each set; then for each set its keys, uint64
    [rows] ascending, and their row numbers, uint32 [rows].

    Args:
        lines, documents: number of lines and documents in the unit.
        key_sets: the keys of its rows in reading order, uint64 [rows] each.
    """
    with atomic_file(path) as file:
        header = [lines, documents, len(key_sets), *map(len, key_sets)]
        file.write(np.array(header, "<u8").tobytes())
        for keys in key_sets:
            order = np.argsort(keys, kind="stable")
            file.write(keys[order].astype("<u8").tobytes())
            file.write(order.astype("<u4").tobytes())


def read_counts(path: Path) -> tuple[int, int] | None:
    """Lines and documents of a unit; None if its file is missing or incomplete."""
    try:
        lines, documents, sets = np.fromfile(path, "<u8", 3).tolist()
        rows = np.fromfile(path, "<u8", sets, offset=24)
    except (FileNotFoundError, ValueError):
        return None
    return (lines, documents) if path.stat().st_size == 8 * (3 + sets) + 12 * int(rows.sum()) else None


def find_duplicates(task: tuple[KeySets, int, int]) -> None:
    """Write the file of a (key sets, key set, part): uint64 [units + 1] offsets, then uint32 rows to drop."""
    key_sets, key_set, part = task
    paths = unit_paths(key_sets.scan, key_sets.units)
    ranges = key_sets.parts()[-1][1] + 1
    bounds = [number * (1 << 64) // ranges for number in (part, part + 1)]
    keys, rows = zip(*(_read_range(path, key_set, *bounds) for path in paths))
    units = np.repeat(np.arange(len(paths)), [len(found) for found in keys])
    keys, rows = np.concatenate(keys), np.concatenate(rows)
    # Units are in reading order, and so are the equal keys of a unit: a stable sort keeps the first in front.
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    repeated = order[1:][ordered[1:] == ordered[:-1]]
    repeated = repeated[np.lexsort([rows[repeated], units[repeated]])]
    counts = np.bincount(units[repeated], minlength=len(paths))
    with atomic_file(key_sets.part_file(key_set, part)) as file:
        file.write(np.concatenate([[0], np.cumsum(counts)]).astype("<u8").tobytes())
        file.write(rows[repeated].astype("<u4").tobytes())


def duplicate_rows(key_sets: KeySets, unit: int) -> np.ndarray:
    """The rows of a unit that occurred before in any of the key sets. int64 [rows], ascending.

    Args:
        unit: number of the unit in the stream.
    """
    rows = [np.zeros(0, np.int64)]
    for key_set, part in key_sets.parts():
        path = key_sets.part_file(key_set, part)
        first, last = _read(path, "<u8", 8 * unit, 2).tolist()
        rows.append(_read(path, "<u4", 8 * (sum(key_sets.units) + 1) + 4 * first, last - first))
    return np.unique(np.concatenate(rows)).astype(np.int64)


def _read_range(path: Path, key_set: int, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """The keys of a unit within low <= key < high, and their row numbers."""
    sets = int(_read(path, "<u8", 16, 1)[0])
    rows = _read(path, "<u8", 24, sets).tolist()
    start = 8 * (3 + sets) + 12 * sum(rows[:key_set])
    if rows[key_set] == 0:
        return np.zeros(0, np.uint64), np.zeros(0, np.uint32)
    keys = np.memmap(path, "<u8", "r", start, rows[key_set])
    first = int(np.searchsorted(keys, np.uint64(low)))
    last = len(keys) if high == 1 << 64 else int(np.searchsorted(keys, np.uint64(high)))
    numbers = _read(path, "<u4", start + 8 * len(keys) + 4 * first, last - first)
    return np.array(keys[first:last]), numbers


def _read(path: Path, dtype: str, offset: int, count: int) -> np.ndarray:
    values = np.fromfile(path, dtype, count, offset=offset)
    if len(values) != count:
        raise UserError(f"{path}: cut short; start the build afresh with --overwrite true")
    return values
