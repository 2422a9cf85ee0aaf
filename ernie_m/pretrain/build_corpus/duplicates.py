"""Finds lines that occurred before, in bounded memory.

The key of a line is made of those of its texts; `ernie_m.tokenizer.equal_texts` says which texts are equal.
The keys of each unit are sorted on disk, and one range of keys of all units is loaded at a time. Keys are
spread evenly, so the ranges fit in memory however many lines there are. Among lines with equal keys, the
first in reading order stays. Among n different lines, about n^2 / 2^65 are dropped by a chance collision:
less than one in a stream of 5 billion lines.

The place of a line is one number: that of its unit * 2^32 + that of the line in the unit.
"""

import math
from pathlib import Path

import numpy as np

from ernie_m.pretrain.build_corpus.work_files import StreamWork, read_unit, save
from ernie_m.tokenizer.equal_texts import hashes_of

KEYS_IN_MEMORY = 1 << 21  # the keys of one range, each of which takes about 80 bytes while it is processed
_UNIT = 1 << 32


def number_of_ranges(lines: int) -> int:
    """The number of ranges in which the keys of so many lines are compared."""
    return math.ceil(lines / KEYS_IN_MEMORY)


def sort_keys(work: StreamWork, number: int, unit: Path) -> None:
    """Write the keys of a unit's lines, ascending, and their places. uint64 [2, lines].

    Args:
        number: the number of the unit in the stream.
        unit: its file.
    """
    (keys_of_texts,) = read_unit(unit, "keys")
    keys = hashes_of(line.tobytes() for line in keys_of_texts)
    order = np.argsort(keys, kind="stable")
    save(work.file("keys", number), np.stack([keys[order], number * _UNIT + order.astype("<u8")]))


def find_duplicates(work: StreamWork, number: int, units: int) -> None:
    """Write the places of the repeated lines of a range, uint64 [repeated], ascending.

    Args:
        number: the number of the range.
        units: how many units the stream has.
    """
    first_key = np.uint64(number * (1 << 64) // work.ranges)
    last_key = np.uint64((number + 1) * (1 << 64) // work.ranges - 1)
    rows = []  # of each unit: the keys in this range, and their places
    for unit in range(units):
        keys_and_places = np.load(work.file("keys", unit), mmap_mode="r")
        first = np.searchsorted(keys_and_places[0], first_key)
        end = np.searchsorted(keys_and_places[0], last_key, side="right")
        rows.append(np.array(keys_and_places[:, first:end]))
    keys, places = np.concatenate(rows, axis=1)
    # Units are in reading order, and so are the equal keys of a unit: a stable sort keeps the first in front.
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    save(work.file("repeated", number), np.sort(places[order[1:][keys[1:] == keys[:-1]]]))


def is_duplicate(work: StreamWork, number: int, lines: int) -> np.ndarray:
    """Whether each of the `lines` of a unit occurred before. bool [lines]."""
    is_repeated = np.zeros(lines, bool)
    for key_range in range(work.ranges):
        places = np.load(work.file("repeated", key_range), mmap_mode="r")
        first, end = np.searchsorted(places, np.array([number * _UNIT, (number + 1) * _UNIT], "<u8"))
        is_repeated[places[first:end] % _UNIT] = True
    return is_repeated
