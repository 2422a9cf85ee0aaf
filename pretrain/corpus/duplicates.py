"""Finding lines that occurred before: their hashes lie on disk, and one range of them at a time is sorted.

A unit's hashes lie in its file sorted, with an index of 4096 ranges of equal width in front. As hashes are
even, a range of all units together holds a known share of all lines, however many there are, and so fits in
memory. Of equal lines the first in reading order stays. Hashes have 64 bits: among n different lines about
n^2 / 2^65 are taken for another one, less than one in a stream of 5 billion.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pretrain.corpus.work import unit_paths
from utils.errors import UserError
from utils.files import atomic_file

_RANGES = 4096
_HEADER_BYTES = 3 * 8
_INDEX_BYTES = 4 * (_RANGES + 1)
HASHES_IN_MEMORY = 1 << 21  # of one part; about 50 bytes each while it is worked on


class PartTask(NamedTuple):
    """A part of a stream's hashes: ranges `number` * 4096 / `parts` and on.

    Args:
        scan: folder of the files of `write_scan`.
        units: how many of them each source has.
        folder: where `part_file` goes.
        number, parts: which part of how many.
    """

    scan: Path
    units: Sequence[int]
    folder: Path
    number: int
    parts: int


class Duplicates(NamedTuple):
    """The duplicates of a stream: `parts` files in `folder`, over `units` units."""

    folder: Path
    parts: int
    units: int


def parts_for(lines: int) -> int:
    """Into how many parts the hashes of so many lines are divided. A power of two."""
    parts = 1
    while parts < _RANGES and lines / parts > HASHES_IN_MEMORY:
        parts *= 2
    return parts


def part_file(folder: Path, number: int) -> Path:
    """Where a part's duplicates stand."""
    return folder / f"{number:05d}"


def write_scan(path: Path, lines: int, documents: int, hashes: np.ndarray | None) -> None:
    """Write a unit's file.

    It has uint64 [3]: lines, documents, n; then, if n > 0, index uint32 [4097], hashes uint64 [n] ascending,
    their line numbers uint32 [n].

    Args:
        lines, documents: what the unit holds.
        hashes: of its lines in reading order, uint64 [n]; None: duplicates are not looked for.
    """
    hashes = np.zeros(0, np.uint64) if hashes is None else hashes
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    width = (1 << 64) // _RANGES
    bounds = np.arange(1, _RANGES, dtype=np.uint64) * np.uint64(width)
    index = np.concatenate([[0], np.searchsorted(ordered, bounds), [len(ordered)]])
    with atomic_file(path) as file:
        file.write(np.array([lines, documents, len(hashes)], "<u8").tobytes())
        if len(hashes):
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
            lines, documents, hashes = (int(count) for count in _read(file, path, "<u8", 0, 3))
    except FileNotFoundError:
        return None
    whole = _HEADER_BYTES + (_INDEX_BYTES + 12 * hashes if hashes else 0)
    return (lines, documents) if size == whole else None


def find_duplicates(task: PartTask) -> int:
    """Write a part's file: index uint64 [units + 1], then each unit's lines to leave out, uint32, ascending.

    Returns:
        The number of lines to leave out.
    """
    paths = unit_paths(task.scan, task.units)
    hashes, rows = zip(*(_read_range(path, task.number, task.parts) for path in paths))
    units = np.repeat(np.arange(len(paths)), [len(part) for part in hashes])
    hashes, rows = np.concatenate(hashes), np.concatenate(rows)
    # Units are in reading order, and so are a unit's equal hashes: a stable sort keeps the first in front.
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    repeated = order[1:][ordered[1:] == ordered[:-1]]
    repeated = repeated[np.lexsort([rows[repeated], units[repeated]])]
    counts = np.bincount(units[repeated], minlength=len(paths))
    with atomic_file(part_file(task.folder, task.number)) as file:
        file.write(np.concatenate([[0], np.cumsum(counts)]).astype("<u8").tobytes())
        file.write(rows[repeated].astype("<u4").tobytes())
    return len(repeated)


def lines_to_drop(found: Duplicates, unit: int) -> np.ndarray:
    """Numbers of a unit's lines that occurred before. int64 [n].

    Args:
        unit: number of the unit in the stream.
    """
    rows = [np.zeros(0, np.int64)]
    for number in range(found.parts):
        path = part_file(found.folder, number)
        with open(path, "rb", buffering=0) as file:
            first, last = (int(at) for at in _read(file, path, "<u8", 8 * unit, 2))
            rows.append(
                _read(file, path, "<u4", 8 * (found.units + 1) + 4 * first, last - first).astype(np.int64)
            )
    return np.concatenate(rows)


def _read_range(path: Path, number: int, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """A unit's hashes within a part, and their line numbers."""
    width = _RANGES // parts
    with open(path, "rb", buffering=0) as file:
        total = int(_read(file, path, "<u8", 16, 1)[0])
        if total == 0:
            return np.zeros(0, np.uint64), np.zeros(0, np.uint32)
        first = int(_read(file, path, "<u4", _HEADER_BYTES + 4 * number * width, 1)[0])
        last = int(_read(file, path, "<u4", _HEADER_BYTES + 4 * (number + 1) * width, 1)[0])
        start = _HEADER_BYTES + _INDEX_BYTES
        hashes = _read(file, path, "<u8", start + 8 * first, last - first)
        rows = _read(file, path, "<u4", start + 8 * total + 4 * first, last - first)
    return hashes, rows


def _read(file, path: Path, dtype: str, offset: int, count: int) -> np.ndarray:
    size = count * np.dtype(dtype).itemsize
    data = os.pread(file.fileno(), size, offset)
    if len(data) != size:
        raise UserError(f"{path}: cut short; start the build afresh with --overwrite true")
    return np.frombuffer(data, dtype)
