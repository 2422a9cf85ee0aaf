"""Any number of texts to .npy files of vectors, in bounded memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from evaluation.array_file import ArrayFile
from reader.features import Encode, padded_batches
from reader.sentences import BATCH_TOKENS
from reader.windows import WINDOW, Window, windows
from training.prefetch import prefetch
from utils.logging import Progress


class Encoder(Protocol):
    """What runs the encoder; ids are int64 [B, T], padded with `pad_id` on the right.

    `evaluation.encode.PaddleEncoder` is one, `inference.encoder.ExportedEncoder` another.
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
