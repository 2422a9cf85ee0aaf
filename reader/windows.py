"""Texts as token ids in windows, made in the reader process, so that memory does not grow with the data."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from reader.features import Encode

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
