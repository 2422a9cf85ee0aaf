"""Any number of texts to .npy files of vectors, in bounded memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import paddle

from evaluation.array_file import ArrayFile
from evaluation.encode import BATCH_TOKENS, encode_layer, in_batches
from model.ernie_m import ErnieMModel
from reader.features import Encode
from reader.prefetch import prefetch
from reader.windows import WINDOW, Window, windows
from utils.logging import Progress


@dataclass
class VectorWriter:
    """Encodes texts into files of a folder, in the order given, with progress.

    Args:
        model: the encoder.
        texts: whatever `encode` takes.
        encode: makes ids of texts; runs in the reader process.
        folder: for the files.
        dtype: "float32" or "float16", of the files.
        batch_tokens: padded tokens in one forward pass.
        window: texts that are in memory at a time.
    """

    model: ErnieMModel
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
        """vectors.npy, [N, H]; see `evaluation.encode.sentence_vectors`."""
        with self._file("vectors") as file:
            for window in self._windows():
                encode_layer(
                    self.model, window.sentences(), layer, pooling, batch_tokens=self.batch_tokens,
                    out=file.grow(len(window.lengths)), done=self._shown.update,
                )  # fmt: skip

    def _official(self, window: Window, pooled: np.ndarray, tokens: np.ndarray) -> None:
        """One window into its rows of both files."""
        ends = np.cumsum(window.lengths)

        def keep(rows: list[int], ids: np.ndarray) -> None:
            output = self.model(paddle.to_tensor(ids))
            pooled[rows] = output.pooled.numpy()
            for row, states in zip(rows, output.sequence.numpy()):
                length = window.lengths[row]
                tokens[ends[row] - length : ends[row]] = states[:length]

        in_batches(self.model, window.sentences(), self.batch_tokens, keep, self._shown.update)

    def _windows(self) -> Iterator[Window]:
        self._shown = Progress(len(self.texts), "encoding", unit="texts")
        with prefetch(partial(windows, self.texts, self.encode, self.window), ahead=2) as stream:
            yield from stream
        self._shown.close()

    def _file(self, name: str) -> ArrayFile:
        return ArrayFile(self.folder / f"{name}.npy", self.model.config.hidden_size, self.dtype)
