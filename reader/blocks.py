"""Blocks of text for MMLM and BTMLM: consecutive lines of one document, up to a length."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reader.corpus import CheckedArray, PageSums, Text, map_array
from reader.features import Encode
from utils.files import atomic_file


def pack_lines(line_offsets: np.ndarray, document_offsets: np.ndarray, max_tokens: int) -> np.ndarray:
    """Cut documents into blocks: as many whole lines as fit; a line that is longer than a block is cut.

    All documents advance together, one block a round, so the rounds are as many as the longest document has
    blocks.

    Args:
        line_offsets: integer [lines + 1], where each line begins.
        document_offsets: integer [documents + 1], the line each document begins with.
        max_tokens: longest block, without special tokens.

    Returns:
        uint32 [blocks, 2], start and end of each block, ascending. Blocks tile the text and cross no
        document.
    """
    line_offsets = line_offsets.astype(np.int64)
    starts = line_offsets[document_offsets[:-1]]
    stops = line_offsets[document_offsets[1:]]
    rounds = []
    while starts.size:
        limits = starts + max_tokens
        last_line_end = line_offsets[np.searchsorted(line_offsets, limits, side="right") - 1]
        ends = np.minimum(np.where(last_line_end > starts, last_line_end, limits), stops)
        rounds.append(np.stack([starts, ends], axis=1))
        open_ = ends < stops
        starts, stops = ends[open_], stops[open_]
    blocks = np.concatenate(rounds) if rounds else np.zeros((0, 2), np.int64)
    return blocks[np.argsort(blocks[:, 0], kind="stable")].astype(np.uint32)


class Blocks:
    """The blocks of a language's text. `len(blocks)` is their number, `blocks[i]` the ids of one, int64 [n].

    Args:
        text: of the corpus.
        max_tokens: longest block, without special tokens.
        one_line: each line by itself; longer ones are still cut.
        cache: a folder that keeps the computed blocks for the next run; None computes them each time (about a
            second per 100 million tokens) and keeps them in memory, 8 bytes a block.
    """

    def __init__(
        self, text: Text, max_tokens: int, one_line: bool = False, cache: str | os.PathLike | None = None
    ):
        self.text = text
        self._blocks = [
            _cached(text, shard, max_tokens, one_line, None if cache is None else Path(cache))
            for shard in range(len(text.shards))
        ]
        self._starts = np.concatenate([[0], np.cumsum([len(blocks) for blocks in self._blocks])])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, number: int) -> np.ndarray:
        if not 0 <= number < len(self):
            raise IndexError(f"{number} is not in 0 .. {len(self) - 1}")
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        start, end = self._blocks[shard][number - self._starts[shard]]
        return self.text.read_ids(shard, start, end, f"block {number - self._starts[shard]}")


class _CachedBlocks:
    """Starts and ends as `_pack_shard` gives them, in a file beside which its checksums stand."""

    def __init__(self, path: Path):
        sums = map_array(_sums_file(path)).view(np.ndarray)
        self.bounds = CheckedArray(path, sums, "delete it, and the next run makes it again")

    def __len__(self) -> int:
        return len(self.bounds.array) // 2

    def __getitem__(self, number: int) -> np.ndarray:
        return self.bounds.read(2 * int(number), 2 * int(number) + 2, f"block {number}")


def _cached(
    text: Text, shard: int, max_tokens: int, one_line: bool, cache: Path | None
) -> "np.ndarray | _CachedBlocks":
    if cache is None:
        return _pack_shard(text, shard, max_tokens, one_line)
    found = text.shards[shard]
    # The digest of the index is part of the name: a rebuilt corpus finds no stale blocks.
    key = f"{text.folder.name}-{found['name']}-{found['index'][:16]}-{max_tokens}"
    if one_line:
        key += "-lines"
    path = cache / f"{key}.blocks.npy"
    if not (path.is_file() and _sums_file(path).is_file()):
        with atomic_file(path) as file:
            np.save(file, _pack_shard(text, shard, max_tokens, one_line).reshape(-1))
        sums = PageSums()
        sums.update(path.read_bytes())
        sums.end_file()
        with atomic_file(_sums_file(path)) as file:
            np.save(file, sums.array())
    return _CachedBlocks(path)


def _sums_file(path: Path) -> Path:
    return path.with_name(path.name.replace(".blocks.npy", ".sums.npy"))


def _pack_shard(text: Text, shard: int, max_tokens: int, one_line: bool) -> np.ndarray:
    lines = text.line_offsets(shard)
    documents = np.arange(len(lines)) if one_line else text.document_offsets(shard)
    return pack_lines(lines, documents, max_tokens)


# Texts as token ids in windows, made in the reader process, so that memory does not grow with the data.

WINDOW = 16384  # texts: enough to find many of equal length


class Window(NamedTuple):
    """The ids of some texts, one after the other: int32 [sum of lengths]; lengths int64 [texts]."""

    ids: np.ndarray
    lengths: np.ndarray

    def sentences(self) -> list[np.ndarray]:
        """The ids of each text."""
        return np.split(self.ids, np.cumsum(self.lengths)[:-1])


def windows(texts: Sequence, encode: Encode, size: int) -> Iterator[Window]:
    """All texts in order, `size` at a time."""
    for start in range(0, len(texts), size):
        features = encode([texts[i] for i in range(start, min(start + size, len(texts)))])
        lengths = np.array([len(feature.ids) for feature in features], np.int64)
        yield Window(np.concatenate([np.asarray(feature.ids, np.int32) for feature in features]), lengths)
