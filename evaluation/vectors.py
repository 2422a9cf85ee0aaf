"""A .npy file that grows: rows are written through memory maps, so they need not fit in memory."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np

from reader.bitext import BATCH_TOKENS
from reader.blocks import WINDOW, Window, windows
from reader.features import Encode, padded_batches
from training.prefetch import prefetch
from utils.logging import Progress

_HEADER_BYTES = 128  # numpy aligns the data to 64; the shape is filled in at the end


class ArrayFile:
    """An array [rows, width] on disk; use it in a `with` statement, after which `np.load` reads the file.

    Args:
        path: a new file.
        width: of a row.
        dtype: "float32" or "float16".
    """

    def __init__(self, path: str | os.PathLike, width: int, dtype: str):
        self.width, self.dtype, self.rows = width, np.dtype(dtype), 0
        self._file = open(path, "xb+")  # noqa: SIM115 - closed by __exit__
        self._file.truncate(_HEADER_BYTES)

    def grow(self, rows: int) -> np.ndarray:
        """Room for so many more rows: [rows, width], to be written into."""
        start = _HEADER_BYTES + self.rows * self.width * self.dtype.itemsize
        # Given out at once: a disk that is full says so here, and not as a signal while the map is written.
        os.posix_fallocate(self._file.fileno(), start, max(1, rows * self.width * self.dtype.itemsize))
        self.rows += rows
        if not rows:
            return np.empty([0, self.width], self.dtype)
        return np.memmap(self._file, self.dtype, "r+", start, (rows, self.width)).view(np.ndarray)

    def close(self) -> None:
        """Write the header."""
        shape = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.rows, self.width)}
        magic = np.lib.format.magic(1, 0)
        room = _HEADER_BYTES - len(magic) - 2
        header = repr(shape).ljust(room - 1).encode("latin-1") + b"\n"
        self._file.truncate(_HEADER_BYTES + self.rows * self.width * self.dtype.itemsize)
        self._file.seek(0)
        self._file.write(magic + room.to_bytes(2, "little") + header)
        self._file.close()

    def __enter__(self) -> "ArrayFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()


# Any number of texts to .npy files of vectors, in bounded memory.


class Encoder(Protocol):
    """What runs the encoder; ids are int64 [B, T], padded with `pad_id` on the right.

    `evaluation.encode.PaddleEncoder` is one, `inference.tasks.encode.ExportedEncoder` another.
    """

    hidden_size: int
    pad_id: int

    def vectors(self, ids: np.ndarray, layer: int, pooling: str) -> np.ndarray:
        """[B, H]; see `evaluation.pooling`."""

    def states(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the top layer: pooled [B, H], all tokens [B, T, H]."""


@dataclass
class VectorWriter:
    """Encodes texts into files of a folder, in the order given, with progress.

    Args:
        encoder: makes the vectors.
        texts: whatever `encode` takes.
        encode: makes ids of texts; runs in the reader process.
        folder: for the files.
        dtype: "float32" or "float16", of the files.
        batch_tokens: padded tokens in one forward pass.
        window: texts that are in memory at a time.
    """

    encoder: Encoder
    texts: Sequence
    encode: Encode
    folder: Path
    dtype: str = "float32"
    batch_tokens: int = BATCH_TOKENS
    window: int = WINDOW

    def official(self) -> None:
        """cls_emb.npy, pooled [N, H], and top_layer_emb.npy, all real tokens in order [sum of lengths, H]."""
        with self._file("cls_emb") as pooled, self._file("top_layer_emb") as tokens:
            for window in self._windows():
                self._official(window, pooled.grow(len(window.lengths)), tokens.grow(len(window.ids)))

    def vectors(self, layer: int, pooling: str) -> None:
        """vectors.npy, [N, H]; see `evaluation.pooling`."""
        with self._file("vectors") as file:
            for window in self._windows():
                vectors = file.grow(len(window.lengths))
                for rows, ids in self._batches(window):
                    vectors[rows] = self.encoder.vectors(ids, layer, pooling)

    def _official(self, window: Window, pooled: np.ndarray, tokens: np.ndarray) -> None:
        """One window into its rows of both files."""
        ends = np.cumsum(window.lengths)
        for rows, ids in self._batches(window):
            pooled[rows], sequence = self.encoder.states(ids)
            for row, states in zip(rows, sequence):
                length = window.lengths[row]
                tokens[ends[row] - length : ends[row]] = states[:length]

    def _batches(self, window: Window) -> Iterator[tuple[list[int], np.ndarray]]:
        """Texts of similar length: the numbers of their rows, and their ids [B, T]."""
        for rows, ids in padded_batches(window.sentences(), self.encoder.pad_id, self.batch_tokens):
            yield rows, ids
            self._shown.update(len(rows))

    def _windows(self) -> Iterator[Window]:
        self._shown = Progress(len(self.texts), "encoding", unit="texts")
        with prefetch(partial(windows, self.texts, self.encode, self.window), ahead=2) as stream:
            yield from stream
        self._shown.close()

    def _file(self, name: str) -> ArrayFile:
        return ArrayFile(self.folder / f"{name}.npy", self.encoder.hidden_size, self.dtype)
