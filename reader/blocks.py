"""Blocks of text for MMLM and BTMLM: consecutive lines of one document, up to a maximum length."""

import os
from pathlib import Path

import numpy as np

from reader.corpus import CorpusText, locate, map_array, starts
from utils.files import atomic_file


def pack_lines(line_offsets: np.ndarray, document_offsets: np.ndarray, max_tokens: int) -> np.ndarray:
    """Cut documents into blocks of as many whole lines as fit. A line longer than a block is cut.

    All documents advance together, one block per round, so the number of rounds is that of the blocks of the
    longest document.

    Args:
        line_offsets: integer [lines + 1], where each line begins.
        document_offsets: integer [documents + 1], the line each document begins with.
        max_tokens: longest block, without special tokens.

    Returns:
        uint32 [blocks, 2], start and end of each block, ascending. Blocks cover the text without gaps, and no
        block crosses a document boundary.
    """
    line_offsets = line_offsets.astype(np.int64)
    begins = line_offsets[document_offsets[:-1]]
    stops = line_offsets[document_offsets[1:]]
    rounds = []
    while begins.size:
        limits = begins + max_tokens
        last_line_end = line_offsets[np.searchsorted(line_offsets, limits, side="right") - 1]
        ends = np.minimum(np.where(last_line_end > begins, last_line_end, limits), stops)
        rounds.append(np.stack([begins, ends], axis=1))
        open_ = ends < stops
        begins, stops = ends[open_], stops[open_]
    blocks = np.concatenate(rounds) if rounds else np.zeros((0, 2), np.int64)
    return blocks[np.argsort(blocks[:, 0], kind="stable")].astype(np.uint32)


class Blocks:
    """The blocks of a language's text. `len(blocks)` is their number, `blocks[i]` the ids of one, int64 [n].

    Args:
        text: a text of the corpus.
        max_tokens: longest block, without special tokens.
        one_line: put each line into a block of its own; longer lines are still cut.
        cache: a folder that keeps the block boundaries for the next run. None computes them each time (about
            a second per 100 million tokens) and keeps them in memory, 8 bytes per block.
    """

    def __init__(
        self, text: CorpusText, max_tokens: int, one_line: bool = False,
        cache: str | os.PathLike | None = None,
    ):  # fmt: skip
        self.text, how = text, (max_tokens, one_line, cache)
        self._blocks = [_shard_blocks(text, shard, *how) for shard in range(len(text.shards))]
        self._starts = starts(map(len, self._blocks))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, number: int) -> np.ndarray:
        shard, block = locate(self._starts, number)
        return self.text.read_ids(shard, *self._blocks[shard][block], f"block {block}")


def _shard_blocks(
    text: CorpusText, shard: int, max_tokens: int, one_line: bool, cache: str | os.PathLike | None
) -> np.ndarray:
    """The blocks of one shard, computed or from the cache. uint32 [blocks, 2]."""

    def pack() -> np.ndarray:
        lines = text.line_offsets(shard)
        documents = np.arange(len(lines)) if one_line else text.document_offsets(shard)
        return pack_lines(lines, documents, max_tokens)

    if cache is None:
        return pack()
    found = text.shards[shard]
    # The digest of the shard is part of the name, so a rebuilt corpus never gets the blocks of the old one.
    key = f"{text.folder.name}-{found['name']}-{found['index'][:16]}-{max_tokens}"
    path = Path(cache) / f"{key}{'-lines' if one_line else ''}.blocks.npy"
    if not path.is_file():
        with atomic_file(path) as file:
            np.save(file, pack().reshape(-1))
    bounds = map_array(path, "delete it, and the next run makes it again").view(np.ndarray)
    return bounds.reshape(-1, 2)
