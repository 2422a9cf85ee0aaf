"""A pickle read without running it: numbers, strings, containers, numpy arrays; all else is refused by name.

The standard library's unpickler imports and calls what a file names. Here `model.formats.pickle_machine` goes
through the opcodes, and a name in the file is only compared with `KNOWN` and what the caller adds to it. The
data of large arrays stays in the file until one is asked for. What an array is made of: numpy's
`ndarray.__reduce__`.
"""

import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from model.formats.pickle_machine import Blob, Machine, Stateful, shown, store

# What a pickle that is cut short, altered or hostile makes the machine raise.
BROKEN = (
    EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError,
    UnicodeError, RecursionError, struct.error,
)  # fmt: skip
MOST_AXES = 64  # as in numpy 2
_DTYPE = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248])")


class Dtype(Stateful):
    """A numpy dtype on its way; `order` comes with its state."""

    def __init__(self, code: str, order: str = "<"):
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise ValueError(f"an array of dtype {shown(code)}")
        self.code, self.order = code.lstrip("<>|="), order

    def set_state(self, state) -> None:
        self.order = state[1]

    def numpy(self) -> np.dtype:
        if self.order not in tuple("<>|="):
            raise ValueError(f"byte order {shown(self.order)}")
        return np.dtype(self.code).newbyteorder(self.order)


class Array(Stateful):
    """A numpy array: its shape is known, its data is read by `read_array`."""

    def __init__(self):
        self.shape: tuple[int, ...] = ()
        self.dtype = np.dtype("f4")
        self.fortran = False
        self.data: bytes | Blob = b""

    def set_state(self, state) -> None:
        self.set(*state[1:5])

    def set(self, shape, dtype: Dtype, fortran, data) -> "Array":
        if isinstance(data, str):  # of Python 2
            data = data.encode("latin1")
        if not isinstance(dtype, Dtype) or not isinstance(data, bytes | bytearray | Blob | _Latin):
            raise ValueError("an array without data")
        if not isinstance(shape, tuple) or len(shape) > MOST_AXES:
            raise ValueError("an array of no shape")
        self.shape, self.dtype = tuple(int(size) for size in shape), dtype.numpy()
        self.fortran, self.data = bool(fortran), data
        if min(self.shape, default=0) < 0:
            raise ValueError(f"an array of shape {list(self.shape)}")
        return self


class _Latin(NamedTuple):
    """Bytes that protocol 2 wrote as the text that latin-1 makes of them."""

    blob: Blob


def _encode(text, encoding="utf-8"):
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"text in {shown(encoding)}")
    return _Latin(text) if isinstance(text, Blob) else text.encode("latin1")


def _ordered(pairs=()):
    result = OrderedDict()
    for key, value in pairs:
        store(result, key, value)
    return result


def _scalar(dtype: Dtype, data: bytes):
    return np.frombuffer(data, dtype.numpy(), count=1)[0].item()


# All names there are, and what stands behind each. None: it is named, but never called.
KNOWN: dict[str, Callable | None] = {
    "collections.OrderedDict": _ordered,
    "_codecs.encode": _encode,
    "builtins.tuple": tuple,
    "__builtin__.tuple": tuple,
    "__builtin__.bytes": lambda: b"",  # how protocol 2 writes no bytes
    "numpy.ndarray": None,
    "numpy.dtype": lambda code, *_: Dtype(code),
    **{f"numpy.{core}.multiarray._reconstruct": lambda *_: Array() for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{
        f"numpy.{core}.numeric._frombuffer": lambda data, dtype, shape, order: Array().set(
            shape, dtype, order == "F", data
        )
        for core in ("core", "_core")
    },
}


def load(
    file: IO[bytes],
    path: Path,
    known: Mapping[str, Callable | None] = {},
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Read one pickle; afterwards the file stands behind it.

    Args:
        file: can seek.
        path: for messages.
        known: further names, and what is called in their place.
        persistent: what a reference to outside stands for; None: there may be none.

    Returns:
        Numbers, strings, containers, `Array`, `Blob`, `Record` and what `known` makes. Keys are scalars.

    Raises:
        UserError: a name that is not known.
        One of `BROKEN`: not a pickle, or damaged.
    """
    return Machine(file, path, {**KNOWN, **known}, persistent).run()


def read_array(array: Array, file: IO[bytes]) -> np.ndarray:
    """The array; its data from `file` where it was left there. ValueError: the data is not of its shape."""
    count = int(np.prod(array.shape, dtype=object))
    if isinstance(array.data, Blob):
        if array.data.text or array.data.length != count * array.dtype.itemsize:
            raise ValueError(f"{array.data.length} bytes for an array of shape {list(array.shape)}")
        file.seek(array.data.offset)
        flat = np.fromfile(file, array.dtype, count)
    else:
        data = array.data
        if isinstance(data, _Latin):
            file.seek(data.blob.offset)
            data = file.read(data.blob.length).decode("utf-8").encode("latin1")
        flat = np.frombuffer(data, array.dtype)
    if flat.size != count:
        raise ValueError(f"{flat.size} elements for an array of shape {list(array.shape)}")
    return flat.reshape(array.shape, order="F" if array.fortran else "C")
