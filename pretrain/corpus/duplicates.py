"""Finds lines and documents that occurred before, in bounded memory.

A key set holds one 64-bit key per row: the hash of each line, or the key of each document in one band of its
signature (`near_duplicates`). Each unit writes its keys sorted to disk. One range of keys of all units is
loaded at a time. Keys are spread evenly, so the ranges fit in memory however many rows there are. Among rows
with equal keys, the first in reading order stays. Among n different lines, about n^2 / 2^65 are dropped by a
chance collision: less than one in a stream of 5 billion lines.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pretrain.corpus.work import SCAN, KeySet, StreamWork
from utils.errors import UserError
from utils.files import atomic_file

KEYS_IN_MEMORY = 1 << 21  # of one part; about 50 bytes each while the part is processed


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


def read_counts(path: Path) -> list[int] | None:
    """Lines and documents of a unit; None if its file is missing or incomplete."""
    try:
        lines, documents, sets = np.fromfile(path, "<u8", 3).tolist()
        rows = np.fromfile(path, "<u8", sets, offset=24)
    except (FileNotFoundError, ValueError):
        return None
    return [lines, documents] if path.stat().st_size == 8 * (3 + sets) + 12 * int(rows.sum()) else None


def number_of_parts(key_set: KeySet) -> int:
    """The number of ranges in which the keys of a set are compared."""
    return -(-key_set.rows // KEYS_IN_MEMORY)


def part_file(work: StreamWork, key_set: KeySet, part: int) -> Path:
    """The file that `find_duplicates` writes."""
    return work.folder("duplicates") / f"{key_set.number:03d}-{part:05d}"


def find_duplicates(work: StreamWork, key_set: KeySet, part: int) -> None:
    """Write the file of a part: uint64 [units + 1] offsets, then the uint32 rows to drop."""
    paths, parts = work.unit_paths(SCAN), number_of_parts(key_set)
    bounds = [number * (1 << 64) // parts for number in (part, part + 1)]
    keys, rows = zip(*(_read_range(path, key_set.number, *bounds) for path in paths))
    units = np.repeat(np.arange(len(paths)), [len(found) for found in keys])
    keys, rows = np.concatenate(keys), np.concatenate(rows)
    # Units are in reading order, and so are the equal keys of a unit: a stable sort keeps the first in front.
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    repeated = order[1:][ordered[1:] == ordered[:-1]]
    repeated = repeated[np.lexsort([rows[repeated], units[repeated]])]
    counts = np.bincount(units[repeated], minlength=len(paths))
    with atomic_file(part_file(work, key_set, part)) as file:
        file.write(np.concatenate([[0], np.cumsum(counts)]).astype("<u8").tobytes())
        file.write(rows[repeated].astype("<u4").tobytes())


def is_duplicate(work: StreamWork, kind: str, unit: int, rows: int) -> np.ndarray:
    """Whether each line or document of a unit occurred before in any of the key sets. bool [rows].

    Args:
        kind: line or document.
        unit: number of the unit in the stream.
        rows: lines or documents of the unit.
    """
    repeated = np.zeros(rows, bool)
    for key_set in work.key_sets:
        for part in range(number_of_parts(key_set) if key_set.kind == kind else 0):
            path = part_file(work, key_set, part)
            first, last = _read(path, "<u8", 8 * unit, 2).tolist()
            repeated[_read(path, "<u4", 8 * (sum(work.units) + 1) + 4 * first, last - first)] = True
    return repeated


def _read_range(path: Path, number: int, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """The keys of a unit within low <= key < high in a key set, and their row numbers."""
    sets = int(_read(path, "<u8", 16, 1)[0])
    rows = _read(path, "<u8", 24, sets).tolist()
    start = 8 * (3 + sets) + 12 * sum(rows[:number])
    if rows[number] == 0:
        return np.zeros(0, np.uint64), np.zeros(0, np.uint32)
    keys = np.memmap(path, "<u8", "r", start, rows[number])
    first = int(np.searchsorted(keys, np.uint64(low)))
    last = len(keys) if high == 1 << 64 else int(np.searchsorted(keys, np.uint64(high)))
    return np.array(keys[first:last]), _read(path, "<u4", start + 8 * len(keys) + 4 * first, last - first)


def _read(path: Path, dtype: str, offset: int, count: int) -> np.ndarray:
    values = np.fromfile(path, dtype, count, offset=offset)
    if len(values) != count:
        raise UserError(f"{path}: cut short; start the build afresh with --overwrite true")
    return values
