"""Finds lines that occurred before, in bounded memory.

Each unit writes the keys of its lines sorted to disk; `ernie_m.tokenizer.equal_texts` says which texts are
equal. One range of keys of all units is loaded at a time. Keys are spread evenly, so the ranges fit in memory
however many lines there are. Among lines with equal keys, the first in reading order stays. Among n different
lines, about n^2 / 2^65 are dropped by a chance collision: less than one in a stream of 5 billion lines.
"""

import math
from pathlib import Path

import numpy as np

from ernie_m.pretrain.build_corpus.work_folder import SCAN, StreamWork
from ernie_m.tokenizer.equal_texts import hashes_of
from ernie_m.utils.checksums import write_digest
from ernie_m.utils.files import atomic_file

KEYS_IN_MEMORY = 1 << 21  # the keys of one part, each of which takes about 50 bytes while it is processed
_COUNTS_BYTES = 16  # a unit's file begins with two counts, each uint64


def write_hashes(path: Path, documents: int, hashes: np.ndarray, keys: np.ndarray) -> None:
    """Write the file of a unit: its numbers of lines and documents, uint64 [2]; hashes and keys.

    There follow the keys of its lines or pairs, uint64 ascending, and the numbers of these lines, uint32.

    Args:
        hashes: of the document of each line, of each side, uint64 [lines, sides].
        keys: of the text of each line, of each side, uint64 [lines, sides].
    """
    keys_of_lines = hashes_of(line.tobytes() for line in keys)
    order = np.argsort(keys_of_lines, kind="stable")  # the numbers of the lines
    with atomic_file(path) as file:
        file.write(np.array([len(keys), documents], "<u8").tobytes())
        file.write(np.stack([hashes, keys]).astype("<u8").tobytes())
        file.write(keys_of_lines[order].astype("<u8").tobytes())
        file.write(order.astype("<u4").tobytes())
    write_digest(path)


def read_hashes(path: Path, sides: int) -> np.ndarray:
    """The hashes and the keys that `write_hashes` wrote, uint64 [2, lines, sides]."""
    lines, _ = read_counts(path)
    hashes = np.fromfile(path, "<u8", count=2 * lines * sides, offset=_COUNTS_BYTES)
    return hashes.reshape(2, lines, sides)


def read_counts(path: Path) -> list[int]:
    """Lines and documents of a unit."""
    return np.fromfile(path, "<u8", count=2).tolist()


def number_of_parts(work: StreamWork) -> int:
    """The number of ranges in which the keys of a stream are compared."""
    return math.ceil(work.lines / KEYS_IN_MEMORY) if work.options.deduplicate else 0


def part_file(work: StreamWork, part: int) -> Path:
    """The file that `find_duplicates` writes."""
    return work.folder("duplicates") / f"{part:05d}"


def find_duplicates(work: StreamWork, part: int) -> None:
    """Write the file of a part: uint64 [units + 1] offsets, then the uint32 lines to drop of each unit."""
    parts = number_of_parts(work)
    # The keys of this part: low <= key < high.
    low = part * (1 << 64) // parts
    high = (part + 1) * (1 << 64) // parts
    keys_of_units = []
    lines_of_units = []
    for path in work.unit_paths(SCAN):
        unit_keys, unit_lines = _read_range(path, len(work.stream.languages), low, high)
        keys_of_units.append(unit_keys)
        lines_of_units.append(unit_lines)
    # The arrays have an element for each line in the range. The keys of a unit ascend.
    keys = np.concatenate(keys_of_units)
    lines = np.concatenate(lines_of_units)  # the number of the line in its unit
    keys_per_unit = [len(unit_keys) for unit_keys in keys_of_units]
    units = np.repeat(np.arange(len(keys_per_unit)), keys_per_unit)  # the number of the unit
    # Units are in reading order, and so are the equal keys of a unit: a stable sort keeps the first in front.
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    equals_previous = sorted_keys[1:] == sorted_keys[:-1]  # for each key but the first
    repeated = order[1:][equals_previous]  # indices into `keys`
    # By unit, then by line: `lexsort` sorts by its last key first.
    repeated = repeated[np.lexsort([lines[repeated], units[repeated]])]
    counts = np.bincount(units[repeated], minlength=len(keys_of_units))  # repeated lines of each unit
    offsets = np.concatenate([[0], np.cumsum(counts)])
    path = part_file(work, part)
    with atomic_file(path) as file:
        file.write(offsets.astype("<u8").tobytes())
        file.write(lines[repeated].astype("<u4").tobytes())
    write_digest(path)


def is_duplicate(work: StreamWork, unit: int, lines: int) -> np.ndarray:
    """Whether each line of unit number `unit` of a stream occurred before. bool [lines]."""
    is_repeated = np.zeros(lines, bool)
    for part in range(number_of_parts(work)):
        path = part_file(work, part)
        # Offsets of 8 bytes, then line numbers of 4 bytes. The lines of this unit lie between its offset and
        # the next one.
        first, end = np.fromfile(path, "<u8", count=2, offset=8 * unit).tolist()
        offsets_bytes = 8 * (sum(work.units_per_source) + 1)
        repeated_lines = np.fromfile(path, "<u4", count=end - first, offset=offsets_bytes + 4 * first)
        is_repeated[repeated_lines] = True
    return is_repeated


def _read_range(path: Path, sides: int, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """The keys of a unit within low <= key < high, uint64 [n], and their line numbers, uint32 [n]."""
    lines, _ = read_counts(path)
    if not lines:  # an empty array cannot be mapped
        return np.zeros(0, np.uint64), np.zeros(0, np.uint32)
    keys_offset = _COUNTS_BYTES + 8 * 2 * lines * sides
    keys = np.memmap(path, "<u8", mode="r", offset=keys_offset, shape=lines)
    first = int(np.searchsorted(keys, np.uint64(low)))
    end = int(np.searchsorted(keys, np.uint64(high - 1), side="right"))  # `high` itself may be 2^64
    offset = keys_offset + 8 * lines + 4 * first
    numbers = np.fromfile(path, "<u4", count=end - first, offset=offset)
    return np.array(keys[first:end]), numbers
