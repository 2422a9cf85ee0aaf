"""Pickles of numbers, strings, containers and numpy arrays, read without running code.

The standard `pickle.Unpickler` imports and calls whatever a file names. Here every name is looked up in a
table of allowed names, which maps it to a stand-in of our own, and any other name is refused. The Python
form of the unpickler is the base class because it takes opcode handlers from a table: long strings can stay
in the file until they are needed, and dictionary keys, calls and memory can be checked.
"""

import math
import os
import pickle
import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sized
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from utils.errors import UserError

# The exceptions that a damaged or hostile pickle raises.
BROKEN = (
    pickle.UnpicklingError, struct.error, EOFError, ValueError, TypeError, LookupError, AttributeError,
    OverflowError, MemoryError, RecursionError,
)  # fmt: skip
LARGEST_SIZE = 1 << 62  # of an axis, a stride or an offset
MOST_AXES = 64  # as in numpy 2
_LONG = 4096  # strings of at least this many bytes stay in the file
_LEAST_ROOM = 1 << 16  # items that the calls of any file may copy; a large file may copy as many as its bytes
_SCALARS = (str, int, float, bool, bytes, type(None))
# Opcodes that create instances or look something up, and that no file of weights has.
_UNUSED = {pickle.INST[0], pickle.OBJ[0], pickle.NEWOBJ_EX[0], pickle.EXT1[0], pickle.EXT2[0], pickle.EXT4[0],
           pickle.PERSID[0]}  # fmt: skip
_DTYPE = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248])")


def load(
    file: IO[bytes],
    path: Path,
    known: Mapping[str, Callable | None] = {},
    persistent_load: Callable[[Any], Any] | None = None,
) -> Any:
    """Read one pickle, from the file's position to the pickle's end.

    Args:
        file: a seekable file.
        path: for messages.
        known: further allowed names and the functions called in their place; None: the name is never called.
        persistent_load: resolves references to data outside the pickle; None: there may be none.

    Returns:
        Numbers, strings, containers, `Array`, `Blob`, `Attributes`, and what the functions in `known` return.

    Raises:
        UserError: the pickle holds a name that is not allowed.
        One of `BROKEN`: it is damaged, or not a pickle.
    """
    return _WeightsUnpickler(file, path, {**_KNOWN, **known}, persistent_load).load()


class Blob(NamedTuple):
    """A long string left in the file. kind: "bytes", "text", or "latin" (bytes as latin-1 text)."""

    offset: int
    length: int
    kind: str


class Name(NamedTuple):
    """An allowed name and the function called in its place; None: it is not called."""

    dotted: str
    make: Callable | None


class Attributes:
    """A stand-in for an object of which only the attributes are kept."""

    def __init__(self):
        self.fields: dict[str, Any] = {}

    def set_state(self, state: Any) -> None:
        if type(state) is not dict:
            raise ValueError("attributes that are not a dict")
        self.fields.update(state)


class _Dtype:
    """A stand-in for a numpy dtype. Its state holds the byte order."""

    def __init__(self, code: Any, *_):
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise ValueError(f"an array of dtype {_shown(code)}")
        self.code, self.order = code.lstrip("<>|="), "<"

    def set_state(self, state: Any) -> None:
        self.order = state[1]

    def numpy(self) -> np.dtype:
        if self.order not in tuple("<>|="):
            raise ValueError(f"byte order {_shown(self.order)}")
        return np.dtype(self.code).newbyteorder(self.order)


class Array:
    """A stand-in for a numpy array. Its shape is known; `read` reads its data."""

    def __init__(self, *_):
        self.shape: tuple[int, ...] = (0,)
        self.dtype, self.order, self.data = np.dtype("f4"), "C", b""

    def set_state(self, state: Any) -> None:
        _version, shape, dtype, fortran, data = state
        self.set(data, dtype, shape, "F" if fortran else "C")

    def set(self, data: Any, dtype: Any, shape: Any, order: Any) -> "Array":
        if isinstance(data, str):  # of Python 2
            data = data.encode("latin1")
        length = data.length if isinstance(data, Blob) and data.kind != "text" else None
        if isinstance(data, bytes):
            length = len(data)
        if length is None or not isinstance(dtype, _Dtype):
            raise ValueError("an array without data")
        self.shape, self.dtype, self.data = sizes_of(shape), dtype.numpy(), data
        self.order = "F" if order == "F" else "C"
        is_exact = not isinstance(data, Blob) or data.kind == "bytes"
        if is_exact and length != math.prod(self.shape) * self.dtype.itemsize:
            raise ValueError(f"{length} bytes for an array of shape {list(self.shape)}")
        return self

    def read(self, file: IO[bytes]) -> np.ndarray:
        """Read the array from the pickle's file. ValueError: its data does not fit its shape."""
        data, count = self.data, math.prod(self.shape)
        if isinstance(data, Blob):
            file.seek(data.offset)
            data = b"" if data.kind == "bytes" else file.read(data.length).decode().encode("latin1")
        flat = np.frombuffer(data, self.dtype) if data else np.fromfile(file, self.dtype, count)
        if flat.size != count:
            raise ValueError(f"{flat.size} elements for an array of shape {list(self.shape)}")
        return flat.reshape(self.shape, order=self.order)


def sizes_of(axes: Any) -> tuple[int, ...]:
    """A shape or strides as integers. ValueError: too many axes, or a size below 0 or too large."""
    if not isinstance(axes, tuple) or len(axes) > MOST_AXES:
        raise ValueError("an array without a shape")
    sizes = tuple(int(size) for size in axes)
    if not all(0 <= size < LARGEST_SIZE for size in sizes):
        raise ValueError("an array with a negative or very large size")
    return sizes


def _encode(text: Any, encoding: Any = "utf-8") -> bytes | Blob:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"text in {_shown(encoding)}")
    return text._replace(kind="latin") if isinstance(text, Blob) else text.encode("latin1")


def _ordered(pairs: Iterable = ()) -> OrderedDict:
    pairs = [(key, value) for key, value in pairs]
    return OrderedDict(zip(_scalars(key for key, _ in pairs), (value for _, value in pairs)))


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype.numpy(), count=1)[0].item()


# The allowed names and the functions called in their place.
_KNOWN: dict[str, Callable | None] = {
    "collections.OrderedDict": _ordered,
    "_codecs.encode": _encode,
    "builtins.tuple": tuple,
    "__builtin__.tuple": tuple,
    "__builtin__.bytes": lambda: b"",  # how protocol 2 writes empty bytes
    "numpy.ndarray": None,
    "numpy.dtype": _Dtype,
}
for _core in ("numpy.core", "numpy._core"):
    _KNOWN |= {f"{_core}.multiarray._reconstruct": Array, f"{_core}.multiarray.scalar": _scalar,
               f"{_core}.numeric._frombuffer": lambda *state: Array().set(*state)}  # fmt: skip


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
        line = self.file.readline(_LONG)
        if not line.endswith(b"\n"):
            raise EOFError("it ends too early")
        return line


class _WeightsUnpickler(pickle._Unpickler):
    """An unpickler that calls only the functions in `known`, and copies no more than the file could hold."""

    def __init__(self, file: IO[bytes], path: Path, known: Mapping, persistent_load: Callable | None):
        self.stream, self.path, self.known = _Stream(file), path, known
        super().__init__(self.stream, encoding="latin1")
        if persistent_load is not None:
            self.persistent_load = persistent_load
        self.room = max(self.stream.size, _LEAST_ROOM)

    def find_class(self, module: str, name: str) -> Name:
        dotted = f"{module}.{name}"
        if dotted not in self.known:
            raise UserError(
                f"{self.path}: holds {_shown(dotted)}, and only arrays and plain containers are read "
                "here; save the weights alone, best as model.safetensors"
            )
        return Name(dotted, self.known[dotted])

    def _count(self, values: Iterable) -> None:
        # A pickle can use one large object any number of times, so the size of every copy is counted.
        self.room -= sum(len(value) for value in values if isinstance(value, Sized))
        if self.room < 0:
            raise ValueError("it would grow far beyond the size of its file")

    def _skip_frame(self) -> None:
        self.stream.read(8)  # the base class would read the whole frame into memory

    def _string(self, form: str, kind: str) -> None:
        (length,) = struct.unpack(form, self.stream.read(struct.calcsize(form)))
        offset = self.stream.file.tell()
        if length < _LONG:
            data = self.stream.read(length)
            self.append(data.decode("utf-8", "surrogatepass") if kind == "text" else data)
            return
        if length > self.stream.size - offset:
            raise EOFError("it ends too early")
        self.stream.file.seek(length, os.SEEK_CUR)
        self.append(Blob(offset, length, kind))

    def _call(self) -> None:
        arguments, name = self.stack.pop(), self.stack[-1]
        if not isinstance(name, Name) or name.make is None or not isinstance(arguments, tuple):
            raise ValueError("a call of something that is not an allowed function")
        self._count(arguments)
        self.stack[-1] = name.make(*arguments)

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        self._count(state if isinstance(state, tuple) else (state,))
        if isinstance(target, Attributes | _Dtype | Array):
            target.set_state(state)
        elif not isinstance(target, OrderedDict):  # torch sets attributes on its dict; they are not needed
            raise ValueError(f"a state for a {type(target).__name__}")

    def _set_items(self, target: Any, items: list) -> None:
        if not isinstance(target, dict):
            raise ValueError("items for something that is not a dict")
        target.update(zip(_scalars(items[::2]), items[1::2], strict=True))

    def _new_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set_items(self.stack[-1], items)

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items(self.stack[-1], [key, value])

    def _set_many(self) -> None:
        items = self.pop_mark()
        self._set_items(self.stack[-1], items)

    def _add_items(self) -> None:
        items = _scalars(self.pop_mark())
        if not isinstance(self.stack[-1], set):
            raise ValueError("items for something that is not a set")
        self.stack[-1].update(items)

    def _new_frozenset(self) -> None:
        items = self.pop_mark()
        self.append(frozenset(_scalars(items)))

    dispatch = {code: step for code, step in pickle._Unpickler.dispatch.items() if code not in _UNUSED} | {
        pickle.FRAME[0]: _skip_frame,
        pickle.BINBYTES[0]: lambda self: self._string("<I", "bytes"),
        pickle.BINBYTES8[0]: lambda self: self._string("<Q", "bytes"),
        pickle.BYTEARRAY8[0]: lambda self: self._string("<Q", "bytes"),
        pickle.BINUNICODE[0]: lambda self: self._string("<I", "text"),
        pickle.BINUNICODE8[0]: lambda self: self._string("<Q", "text"),
        pickle.DICT[0]: _new_dict,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_many,
        pickle.ADDITEMS[0]: _add_items,
        pickle.FROZENSET[0]: _new_frozenset,
        pickle.REDUCE[0]: _call,
        pickle.NEWOBJ[0]: _call,
        pickle.BUILD[0]: _build,
    }


def _scalars(keys: Iterable) -> list:
    """ValueError: a key is not a scalar; the hash of a deeply nested tuple would crash Python."""
    keys = list(keys)
    for key in keys:
        if type(key) not in _SCALARS:
            raise ValueError(f"a key of type {type(key).__name__}")
    return keys


def _shown(value: Any) -> str:
    # The repr of a list that holds another one twice, and so on, would never end.
    if not isinstance(value, str):
        return f"a {type(value).__name__}"
    return "".join(c if c.isprintable() else "?" for c in value[:100])
