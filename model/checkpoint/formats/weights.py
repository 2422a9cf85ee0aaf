"""Named weights that stay on disk until one is asked for."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np


class Weights(Mapping[str, np.ndarray]):
    """A read-only mapping from name to array: names and shapes are known, data is read at each access.

    A large model (2.2 GB) is so loaded one tensor at a time. `dict(weights)` reads everything.

    Attributes:
        source: the file or folder, for messages.
        metadata: what else the file says of itself, where its format has a place for that.
        others: names in the file that stand for something else than a tensor.
    """

    def __init__(
        self,
        source: str | os.PathLike,
        shapes: Mapping[str, tuple[int, ...]],
        fetch: Callable[[str], np.ndarray],
        metadata: Mapping[str, Any] | None = None,
        others: Sequence[str] = (),
    ):
        self.source = source
        self.metadata = dict(metadata or {})
        self.others = list(others)
        self._shapes = dict(shapes)
        self._fetch = fetch

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], source: str = "the given weights") -> "Weights":
        """Wrap arrays that are in memory; what is a `Weights` already is returned as it is."""
        if isinstance(arrays, cls):
            return arrays
        return cls(source, {name: np.shape(array) for name, array in arrays.items()}, arrays.__getitem__)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it. KeyError: no such name."""
        return self._shapes[name]

    def __getitem__(self, name: str) -> np.ndarray:
        if (
            name not in self._shapes
        ):  # so that `in` never reads data, and a foreign fetch never sees foreign names
            raise KeyError(name)
        return self._fetch(name)

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """uint16 bits of bfloat16 -> float32: it is the upper half of one."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
