"""Pickles of numbers, strings, lists, dicts and numpy arrays, read without running code.

The standard `pickle.Unpickler` imports and calls whatever a file names. Here every name is looked up in a
table of allowed names, which maps it to a stand-in of our own, and any other name is refused. No stand-in
copies its arguments, because a pickle can use one large object any number of times. The base class is the
Python form of the unpickler, whose table of opcodes can be changed: long strings stay in the file until they
are needed, and dictionary keys are checked.

Protocols 2 to 4 are read, which paddle.save and torch.save write.
"""

import math
import os
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from utils.errors import UserError

# The exceptions that a damaged or hostile pickle, or an archive of one, raises.
BROKEN = (
    pickle.UnpicklingError, struct.error, EOFError, ValueError, TypeError, LookupError, AttributeError,
    OverflowError, MemoryError, RuntimeError, zipfile.BadZipFile,
)  # fmt: skip
MOST_AXES = 64  # as in numpy 2
_LARGEST_SIZE = 1 << 62  # of an axis, a stride or an offset
_LONG = 4096  # strings of at least this many bytes stay in the file
_SCALARS = (str, int, float, bool, bytes, type(None))
_DTYPE = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248])")


@contextmanager
def refusing_damage(path: Path, library: str) -> Iterator[None]:
    """Turn what a file of `library` that is damaged or cannot be read raises into a `UserError`."""
    try:
        yield
    except BROKEN as error:
        raise UserError(
            f"{path}: damaged, cut short or not a file of {library} ({type(error).__name__}: {error}); copy "
            "or download the file again"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def load(
    file: IO[bytes], path: Path, known: Mapping[str, Any] = {},
    persistent_load: Callable[[Any], Any] | None = None,
) -> Any:  # fmt: skip
    """Read one pickle, from the file's position to the pickle's end.

    Args:
        file: a seekable file.
        path: for messages.
        known: further allowed names and their stand-ins. Only a stand-in that is callable can be called.
        persistent_load: resolves references to data outside the pickle; None: there may be none.

    Returns:
        Numbers, strings, lists, tuples, dicts, `Array`, `LongString`, and what the stand-ins return.

    Raises:
        UserError: the pickle holds a name that is not allowed.
        One of `BROKEN`: it is damaged, or not a pickle.
    """
    return _WeightsUnpickler(file, path, {**_KNOWN, **known}, persistent_load).load()


class LongString(NamedTuple):
    """A string left in the file. If it `is_text`, it is UTF-8 there, and stands for bytes in latin-1."""

    offset: int
    length: int
    is_text: bool


class Attributes:
    """A stand-in for an object of which only the attributes are kept."""

    def __init__(self):
        self.fields: dict[str, Any] = {}

    def set_state(self, state: Any) -> None:
        if type(state) is not dict:
            raise ValueError("attributes that are not a dict")
        self.fields = state


class _Dtype:
    """A stand-in for a numpy dtype. Its state holds the byte order."""

    def __init__(self, code: Any, *_):
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise ValueError(f"an array of dtype {_shown(code)}")
        self.numpy = np.dtype(code.lstrip("<>|="))

    def set_state(self, state: Any) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise ValueError(f"byte order {_shown(state[1])}")
        self.numpy = self.numpy.newbyteorder(state[1])


class Array:
    """A stand-in for a numpy array. Its shape is known; `read` reads its data."""

    def __init__(self, *_):
        self.shape: tuple[int, ...] = (0,)
        self.dtype, self.order, self.data = np.dtype("f4"), "C", b""

    def set_state(self, state: Any) -> None:
        _version, shape, dtype, fortran, data = state
        if isinstance(data, str):  # of Python 2
            data = data.encode("latin1")
        if not isinstance(data, bytes | LongString) or not isinstance(dtype, _Dtype):
            raise ValueError("an array without data")
        self.shape, self.dtype, self.data = sizes_of(shape), dtype.numpy, data
        self.order = "F" if fortran else "C"
        length = data.length if isinstance(data, LongString) else len(data)
        is_text = isinstance(data, LongString) and data.is_text  # then `read` compares the length
        if not is_text and length != math.prod(self.shape) * self.dtype.itemsize:
            raise ValueError(f"{length} bytes for an array of shape {list(self.shape)}")

    def read(self, file: IO[bytes]) -> np.ndarray:
        """Read the array from the pickle's file. ValueError: its data does not fit its shape."""
        data, count = self.data, math.prod(self.shape)
        if isinstance(data, LongString):
            file.seek(data.offset)
            data = file.read(data.length).decode().encode("latin1") if data.is_text else b""
        flat = np.frombuffer(data, self.dtype) if data else np.fromfile(file, self.dtype, count)
        if flat.size != count:
            raise ValueError(f"{flat.size} elements for an array of shape {list(self.shape)}")
        return flat.reshape(self.shape, order=self.order)


def sizes_of(axes: Any) -> tuple[int, ...]:
    """The argument, a shape or strides. ValueError: it is none, or has a size below 0 or too large."""
    if not isinstance(axes, tuple) or len(axes) > MOST_AXES:
        raise ValueError("an array without a shape")
    if not all(type(size) is int and 0 <= size < _LARGEST_SIZE for size in axes):
        raise ValueError("an array with a negative or very large size")
    return axes


def _encode(text: Any, encoding: Any) -> bytes | LongString:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"text in {_shown(encoding)}")
    return text if isinstance(text, LongString) else text.encode("latin1")


_KNOWN: dict[str, Any] = {
    "collections.OrderedDict": lambda: OrderedDict(),
    "_codecs.encode": _encode,  # how protocol 2 writes bytes
    "__builtin__.bytes": lambda: b"",
    "numpy.ndarray": "numpy.ndarray",
    "numpy.dtype": _Dtype,
}
for _core in ("numpy.core", "numpy._core"):
    _KNOWN[f"{_core}.multiarray._reconstruct"] = Array
    _KNOWN[f"{_core}.multiarray.scalar"] = lambda dtype, data: np.frombuffer(data, dtype.numpy, 1)[0].item()


class _Stream:
    """A file that is never asked for more bytes than it has, whatever length a pickle gives."""

    def __init__(self, file: IO[bytes]):
        here = file.tell()
        self.file, self.size = file, file.seek(0, os.SEEK_END)
        file.seek(here)

    def read(self, count: int) -> bytes:
        if not 0 <= count <= self.size - self.file.tell():
            raise EOFError("it ends too early")
        return self.file.read(count)

    def readline(self) -> bytes:
        return self.file.readline(_LONG)


class _WeightsUnpickler(pickle._Unpickler):
    """An unpickler that calls only what is in `known`."""

    def __init__(self, file: IO[bytes], path: Path, known: Mapping, persistent_load: Callable | None):
        self.stream, self.path, self.known = _Stream(file), path, known
        super().__init__(self.stream, encoding="latin1")
        if persistent_load is not None:
            self.persistent_load = persistent_load

    def find_class(self, module: str, name: str) -> Any:
        dotted = f"{module}.{name}"
        if dotted not in self.known:
            raise UserError(
                f"{self.path}: holds {_shown(dotted)}, and only arrays and plain containers are read "
                "here; save the weights alone, best as model.safetensors"
            )
        return self.known[dotted]

    def _skip_frame(self) -> None:
        self.stream.read(8)  # the base class would read the whole frame into memory

    def _string(self, form: str, is_text: bool) -> None:
        (length,) = struct.unpack(form, self.stream.read(struct.calcsize(form)))
        if length < _LONG:
            data = self.stream.read(length)
            self.append(data.decode("utf-8", "surrogatepass") if is_text else data)
            return
        start = self.stream.file.tell()
        if length > self.stream.size - start:
            raise EOFError("it ends too early")
        self.stream.file.seek(start + length)
        self.append(LongString(start, length, is_text))

    def _call(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        if not callable(function) or not isinstance(arguments, tuple):
            raise ValueError("a call of something that is not an allowed function")
        self.stack[-1] = function(*arguments)

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Attributes | _Dtype | Array):
            target.set_state(state)
        elif not isinstance(target, OrderedDict):  # torch sets attributes on its dict; they are not needed
            raise ValueError(f"a state for a {type(target).__name__}")

    def _set_items(self, items: list) -> None:
        for key in items[::2]:
            if type(key) not in _SCALARS:  # the hash of a deeply nested tuple would crash Python
                raise ValueError(f"a key of type {type(key).__name__}")
        if not isinstance(self.stack[-1], dict):
            raise ValueError("items for something that is not a dict")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    dispatch = pickle._Unpickler.dispatch | {
        pickle.FRAME[0]: _skip_frame,
        pickle.BINBYTES[0]: lambda self: self._string("<I", False),
        pickle.BINBYTES8[0]: lambda self: self._string("<Q", False),
        pickle.BINUNICODE[0]: lambda self: self._string("<I", True),
        pickle.BINUNICODE8[0]: lambda self: self._string("<Q", True),
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: lambda self: self._set_items(self.pop_mark()),
        pickle.REDUCE[0]: _call,
        pickle.NEWOBJ[0]: _call,
        pickle.BUILD[0]: _build,
    }
    # Other ways to make objects or to look something up, sets, and the opcodes of protocols 0 and 5.
    for _code in (
        pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID,
        pickle.DICT, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.BYTEARRAY8,
        pickle.NEXT_BUFFER, pickle.READONLY_BUFFER,
    ):  # fmt: skip
        del dispatch[_code[0]]


def _shown(value: Any) -> str:
    # The repr of a list that holds another one twice, and so on, would never end.
    if not isinstance(value, str):
        return f"a {type(value).__name__}"
    return "".join(c if c.isprintable() else "?" for c in value[:100])
