"""Sentence vectors: of some sentences, or of any number of texts, written to .npy files in bounded memory.

No Paddle here.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from evaluation.centring import LanguageMeans
from model.config import ErnieMConfig
from reader.batching import BATCH_TOKENS, WINDOW_TEXTS, EncodeExamples, encode_in_windows, padded_batches
from training.prefetch import prefetch
from utils.logging import Progress

_HEADER_BYTES = 128  # what numpy writes before the data of an array of two dimensions


class SentenceEncoder:
    """Makes a vector of each sentence. A subclass runs the model.

    Args:
        config: the model's shape.
        pooling: one of `evaluation.pooling.POOLINGS`.
        layer: 0 .. L; None: every layer, which has no "pooled" vectors.
    """

    def __init__(self, config: ErnieMConfig, pooling: str, layer: int | None):
        self.config = config
        self.pooling = pooling
        self.layer = layer

    def batch(self, ids: np.ndarray) -> np.ndarray:
        """The vectors of sentences, float32 [B, H]; of every layer [L + 1, B, H].

        Args:
            ids: int64 [B, T]; each row is [CLS] ... [SEP], padded on the right.
        """
        raise NotImplementedError

    def states(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The top layer's pooled first tokens, [B, H], and its states of all tokens, [B, T, H].

        Args:
            ids: [B, T], as `batch` takes them.
        """
        raise NotImplementedError

    def vectors(self, sentences: Sequence[Sequence[int]], batch_tokens: int = BATCH_TOKENS) -> np.ndarray:
        """The vectors of sentences in the given order, float32 [N, H].

        Those of every layer are [L + 1, N, H]; index 0 is the embedding output.

        Args:
            sentences: ids with special tokens, [CLS] S [SEP] each.
            batch_tokens: padded tokens in one forward pass.
        """
        shape = (len(sentences), self.config.hidden_size)
        if self.layer is None:
            shape = (self.config.num_hidden_layers + 1, *shape)
        vectors = np.empty(shape, np.float32)
        for rows, ids in padded_batches(sentences, self.config.pad_token_id, batch_tokens):
            vectors[..., rows, :] = self.batch(ids)
        return vectors


class ArrayFile:
    """A new .npy file that grows: an array [rows, width]. `np.load` reads it after the `with` statement.

    The header, which holds the number of rows, is written at the end.
    """

    def __init__(self, path: str | os.PathLike, width: int, dtype: str):
        self.width = width
        self.dtype = np.dtype(dtype)
        self.rows = 0
        self._file = open(path, "xb+")  # noqa: SIM115 - closed by __exit__

    def grow(self, rows: int) -> np.ndarray:
        """Append rows, and return them as an array [rows, width] that the caller fills."""
        if rows == 0:  # a memory map cannot be empty
            return np.empty([0, self.width], self.dtype)
        start = self._end()
        self.rows += rows
        new_bytes = self._end() - start
        # Reserve the space: a full disk is an error here, not a signal while the memory map is written.
        if hasattr(os, "posix_fallocate"):  # macOS has none
            os.posix_fallocate(self._file.fileno(), start, new_bytes)
        shape = (rows, self.width)
        return np.memmap(self._file, self.dtype, mode="r+", offset=start, shape=shape).view(np.ndarray)

    def _end(self) -> int:
        """The number of bytes of the header and of all rows."""
        return _HEADER_BYTES + self.rows * self.width * self.dtype.itemsize

    def __enter__(self) -> "ArrayFile":
        return self

    def __exit__(self, error: type[BaseException] | None, *_) -> None:
        if error is None:  # the `with` block ended without one
            self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        """Write the beginning of the file, with the number of rows that it has in the end."""
        description = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.rows, self.width)}
        self._file.seek(0)
        # numpy pads the header to _HEADER_BYTES for any number of rows.
        np.lib.format.write_array_header_1_0(self._file, description)


@dataclass
class VectorWriter:
    """Encodes texts, in the given order, into the files of a folder.

    Args:
        encoder: makes vectors of ids, of one layer.
        texts: what `encode` takes.
        encode: makes ids of texts, in the reader process.
        folder: the files must not be there yet.
        dtype: type of the files, "float32" or "float16".
        batch_tokens: padded tokens in one forward pass.
        window: number of texts in memory at a time.
        means: `vectors` takes the nearest of them from each vector; None: vectors stay plain.
    """

    encoder: SentenceEncoder
    texts: Sequence
    encode: EncodeExamples
    folder: Path
    dtype: str = "float32"
    batch_tokens: int = BATCH_TOKENS
    window: int = WINDOW_TEXTS
    means: LanguageMeans | None = None

    def official(self) -> None:
        """Write cls_emb.npy and top_layer_emb.npy, as the official script does.

        cls_emb.npy has the pooled first tokens, [N, H]. top_layer_emb.npy has the top layer's states of all
        tokens without pads, one text after the other, [sum of lengths, H].
        """
        with self._file("cls_emb") as cls_file, self._file("top_layer_emb") as token_file:
            for window in self._windows():
                lengths = [len(ids) for ids in window]
                ends = np.cumsum(lengths)  # where each text ends in `token_vectors`
                cls_vectors = cls_file.grow(len(window))  # [texts, H]
                token_vectors = token_file.grow(int(ends[-1]))  # [tokens, H]
                for rows, ids in self._batches(window):
                    pooled, sequences = self.encoder.states(ids)  # [B, H], [B, T, H]
                    cls_vectors[rows] = pooled
                    for row, states in zip(rows, sequences):
                        length = lengths[row]
                        end = ends[row]
                        token_vectors[end - length : end] = states[:length]  # without the pads

    def vectors(self) -> None:
        """Write vectors.npy, [N, H]."""
        with self._file("vectors") as file:
            for window in self._windows():
                vectors = file.grow(len(window))
                for rows, ids in self._batches(window):
                    batch = self.encoder.batch(ids)
                    vectors[rows] = batch if self.means is None else self.means.centred(batch)

    def _batches(self, window: list[np.ndarray]) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield batches of texts of similar length: their numbers in the window, and their ids [B, T]."""
        for rows, ids in padded_batches(window, self.encoder.config.pad_token_id, self.batch_tokens):
            yield rows, ids
            self._progress.update(len(rows))

    def _windows(self) -> Iterator[list[np.ndarray]]:
        """Yield the ids of `self.window` texts at a time, which another process makes.

        The progress bar advances in `_batches`.
        """
        self._progress = Progress(len(self.texts), "encoding", unit="texts")
        with prefetch(partial(encode_in_windows, self.texts, self.encode, self.window), ahead=2) as windows:
            yield from windows
        self._progress.close()

    def _file(self, name: str) -> ArrayFile:
        """A new file of the folder."""
        return ArrayFile(self.folder / f"{name}.npy", self.encoder.config.hidden_size, self.dtype)
