"""Named weights that stay on disk until one is accessed."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from utils.errors import UserError


class Weights(Mapping[str, np.ndarray]):
    """A read-only mapping from name to array. Names and shapes are known; data is read at each access.

    A large model (2.2 GB) can thus be processed one tensor at a time. `dict(weights)` reads everything.

    Attributes:
        source: the file or folder, for messages.
        shapes: name -> shape.
        metadata: what else the file says about itself, in formats that have a place for it.
        others: names in the file that are not tensors.
    """

    def __init__(
        self,
        source: str | os.PathLike,
        shapes: Mapping[str, tuple[int, ...]],
        fetch: Callable[[str], np.ndarray],
        metadata: Mapping[str, Any] | None = None,
        others: Sequence[str] = (),
    ):
        self.source, self.metadata, self.others = source, dict(metadata or {}), list(others)
        self.shapes, self._fetch = dict(shapes), fetch

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], source: str = "the given weights") -> "Weights":
        """Wrap arrays in memory; a `Weights` is returned unchanged."""
        if isinstance(arrays, cls):
            return arrays
        return cls(source, {name: np.shape(array) for name, array in arrays.items()}, arrays.__getitem__)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it. KeyError: no such name."""
        return self.shapes[name]

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.shapes:
            raise KeyError(name)
        return self._fetch(name)

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def finite(name: str, array: np.ndarray, source: str | os.PathLike) -> np.ndarray:
    """The array itself. UserError: it holds a NaN or an infinity, as after a run that diverged."""
    # min and max pass a NaN on, and make no copy.
    if array.size and array.dtype.kind == "f" and not (np.isfinite(array.min()) and np.isfinite(array.max())):
        raise UserError(
            f"{source}: {name} holds values that are not finite (NaN or infinity); use other weights"
        )
    return array


def widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """Convert the uint16 bits of bfloat16 to float32, whose upper half they are."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
