"""Finds lines that occurred before, in bounded memory.

The key of a line is its 64-bit hash. Each unit writes its keys sorted to disk. One range of keys of all units
is loaded at a time. Keys are spread evenly, so the ranges fit in memory however many lines there are. Among
lines with equal keys, the first in reading order stays. Among n different lines, about n^2 / 2^65 are dropped
by a chance collision: less than one in a stream of 5 billion lines.
"""

from pathlib import Path

import numpy as np

from pretrain.corpus.work import SCAN, StreamWork
from utils.files import atomic_file

KEYS_IN_MEMORY = 1 << 21  # of one part; about 50 bytes each while the part is processed
_COUNTS, _KEY_AND_ROW = 16, 12  # bytes


def write_keys(path: Path, lines: int, documents: int, keys: np.ndarray) -> None:
    """Write the file of a unit: its counts, uint64 [2]; its keys, uint64 ascending; their lines, uint32.

    Args:
        keys: of its lines in reading order, uint64 [lines]; none without deduplication.
    """
    order = np.argsort(keys, kind="stable")
    with atomic_file(path) as file:
        file.write(np.array([lines, documents], "<u8").tobytes())
        file.write(keys[order].astype("<u8").tobytes())
        file.write(order.astype("<u4").tobytes())


def read_counts(path: Path) -> list[int]:
    """Lines and documents of a unit."""
    return np.fromfile(path, "<u8", 2).tolist()


def number_of_parts(work: StreamWork) -> int:
    """The number of ranges in which the keys of a stream are compared."""
    return -(-work.lines // KEYS_IN_MEMORY) if work.options.deduplicate else 0


def part_file(work: StreamWork, part: int) -> Path:
    """The file that `find_duplicates` writes."""
    return work.folder("duplicates") / f"{part:05d}"


def find_duplicates(work: StreamWork, part: int) -> None:
    """Write the file of a part: uint64 [units + 1] offsets, then the uint32 lines to drop of each unit."""
    paths, parts = work.unit_paths(SCAN), number_of_parts(work)
    bounds = [number * (1 << 64) // parts for number in (part, part + 1)]
    keys, rows = zip(*(_read_range(path, *bounds) for path in paths))
    units = np.repeat(np.arange(len(paths)), [len(found) for found in keys])
    keys, rows = np.concatenate(keys), np.concatenate(rows)
    # Units are in reading order, and so are the equal keys of a unit: a stable sort keeps the first in front.
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    repeated = order[1:][ordered[1:] == ordered[:-1]]
    repeated = repeated[np.lexsort([rows[repeated], units[repeated]])]
    counts = np.bincount(units[repeated], minlength=len(paths))
    with atomic_file(part_file(work, part)) as file:
        file.write(np.concatenate([[0], np.cumsum(counts)]).astype("<u8").tobytes())
        file.write(rows[repeated].astype("<u4").tobytes())


def is_duplicate(work: StreamWork, unit: int, lines: int) -> np.ndarray:
    """Whether each line of unit number `unit` of a stream occurred before. bool [lines]."""
    repeated = np.zeros(lines, bool)
    for part in range(number_of_parts(work)):
        path = part_file(work, part)
        first, last = np.fromfile(path, "<u8", 2, offset=8 * unit).tolist()
        offset = 8 * (sum(work.units) + 1) + 4 * first
        repeated[np.fromfile(path, "<u4", last - first, offset=offset)] = True
    return repeated


def _read_range(path: Path, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """The keys of a unit within low <= key < high, and their line numbers."""
    count = (path.stat().st_size - _COUNTS) // _KEY_AND_ROW
    if not count:
        return np.zeros(0, np.uint64), np.zeros(0, np.uint32)
    keys = np.memmap(path, "<u8", "r", _COUNTS, count)
    first = int(np.searchsorted(keys, np.uint64(low)))
    last = int(np.searchsorted(keys, np.uint64(high - 1), side="right"))
    return np.array(keys[first:last]), np.fromfile(
        path, "<u4", last - first, offset=_COUNTS + 8 * count + 4 * first
    )
