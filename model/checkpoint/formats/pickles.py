"""The stack machine that a pickle is a program for, less the opcodes and names that would make it run code.

Nothing that a file names is ever looked up: a name is only compared with those that the caller knows. Long
strings are left where they are (`Blob`). A pickle can use what it made again and again, so what its calls
copy is counted, and nothing of its containers is printed. Source of the opcodes: Python's Lib/pickletools.py.
"""

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

_LONG = 4096  # bytes from which a string stays in the file
_LEAST_ROOM = 1 << 16  # items that any file's calls may copy; a larger file's as many as it has bytes
_SCALARS = (str, int, float, bool, bytes, type(None))


class Blob(NamedTuple):
    """A long string that is left in the file. text: it is UTF-8 and not bytes."""

    offset: int
    length: int
    text: bool


class Name(NamedTuple):
    """A function or class that the file names and the reader knows; never the thing itself."""

    dotted: str


class Stateful:
    """An object that takes what a pickle sets on it."""

    def set_state(self, state: Any) -> None:
        raise NotImplementedError


class Record(Stateful):
    """An object of which only the attributes are kept."""

    def __init__(self):
        self.fields: dict[str, Any] = {}

    def set_state(self, state: Any) -> None:
        self.fields.update(state)


def store(target: dict, key, value) -> None:
    """Set an item. ValueError: the key is no scalar; the hash of a deep tuple would end the process."""
    if type(key) not in _SCALARS:
        raise ValueError(f"a key of type {type(key).__name__}")
    target[key] = value


def shown(value) -> str:
    """A value for a message: a string, cut and printable, of anything else the type. Not repr: a list that
    holds another one twice, and so on, would be printed without end."""
    if not isinstance(value, str):
        return f"a {type(value).__name__}"
    return "".join(c if c.isprintable() else "?" for c in value[:100])


class Machine:
    """Reads one pickle from where `file` stands; see `model.checkpoint.formats.pickles.load` for the
    arguments."""

    def __init__(
        self,
        file: IO[bytes],
        path: Path,
        known: Mapping[str, Callable | None],
        persistent: Callable[[Any], Any] | None,
    ):
        self.file, self.path, self.known, self.persistent = file, path, known, persistent
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        here = file.tell()
        self.size = file.seek(0, os.SEEK_END)
        file.seek(here)
        self.room = max(self.size, _LEAST_ROOM)

    def run(self) -> Any:
        while True:
            code = self.take(1)
            if code == pickle.STOP:
                return self.stack.pop()
            if code not in _STEPS:
                raise ValueError(f"opcode {code!r}")
            _STEPS[code](self)

    def push(self, value: Any) -> None:
        self.stack.append(value)

    # --- reading

    def take(self, count: int) -> bytes:
        if not 0 <= count <= self.size - self.file.tell():
            raise EOFError("it ends too early")
        return self.file.read(count)

    def number(self, form: str) -> int:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self, encoding: str = "utf-8") -> str:
        line = self.file.readline(_LONG)
        if not line.endswith(b"\n"):
            raise EOFError("it ends too early")
        return line[:-1].decode(encoding)

    def string(self, form: str, text: bool) -> None:
        length = self.number(form)
        if length < _LONG:
            data = self.take(length)
            self.stack.append(data.decode("utf-8", "surrogatepass") if text else data)
            return
        offset = self.file.tell()
        if length > self.size - offset:
            raise EOFError("it ends too early")
        self.file.seek(length, os.SEEK_CUR)
        self.stack.append(Blob(offset, length, text))

    def old_string(self, form: str) -> None:
        """A string of Python 2, which is text or data."""
        self.string(form, text=False)
        if isinstance(self.stack[-1], bytes):
            try:
                self.stack[-1] = self.stack[-1].decode("ascii")
            except UnicodeDecodeError:
                return

    # --- containers

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def above_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def make_tuple(self, count: int) -> None:
        items = self.stack[len(self.stack) - count :]
        if len(items) != count:
            raise IndexError("the stack is empty")
        del self.stack[len(self.stack) - count :]
        self.stack.append(tuple(items))

    def append(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError("items for something that is no list")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise ValueError("items for something that is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            store(self.stack[-1], key, value)

    def set_one(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def new_dict(self) -> None:
        items = self.above_mark()
        self.stack.append({})
        self.set_items(items)

    def add(self, target: set | None = None) -> None:
        items = self.above_mark()
        if any(type(item) not in _SCALARS for item in items):
            raise ValueError("a set of containers")
        if target is None:
            target = self.stack[-1]
            if not isinstance(target, set):
                raise ValueError("items for something that is no set")
        else:
            self.stack.append(target)
        target.update(items)

    # --- names and what they make

    def name(self, module, name) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name that is no string")
        dotted = f"{module}.{name}"
        if dotted not in self.known:
            raise UserError(
                f"{self.path}: holds {shown(dotted)}, and only arrays and plain containers are read "
                "here; save the weights alone, best as model.safetensors"
            )
        self.stack.append(Name(dotted))

    def name_from_stack(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.name(module, name)

    def call(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise ValueError("a call of something that has no name")
        make = self.known[name.dotted]
        if make is None:
            raise ValueError(f"a call of {name.dotted}")
        self.count(arguments)
        self.stack.append(make(*arguments))

    def count(self, values: Iterable) -> None:
        """What may be copied now. ValueError: it is more than the file could hold."""
        self.room -= sum(len(value) for value in values if isinstance(value, Sized))
        if self.room < 0:
            raise ValueError("it would grow far beyond the size of its file")

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Stateful):
            self.count(state if isinstance(state, tuple) else (state,))
            target.set_state(state)
        elif not isinstance(
            target, OrderedDict
        ):  # torch hangs notes on its dict of weights, which nobody needs
            raise ValueError(f"a state for a {type(target).__name__}")

    def outside(self) -> None:
        if self.persistent is None:
            raise ValueError("a reference to something outside")
        self.stack.append(self.persistent(self.stack.pop()))

    def refuse_instance(self) -> None:
        self.name(self.line(), self.line())
        raise ValueError("an instance of an old class")


def _push(make: Callable[[Machine], Any]) -> Callable[[Machine], None]:
    return lambda m: m.push(make(m))


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _decimal(m: Machine) -> int | bool:
    text = m.line()
    return {"00": False, "01": True}.get(text) if text in ("00", "01") else int(text.rstrip("L"))


_STEPS: dict[bytes, Callable[[Machine], Any]] = {
    pickle.PROTO: lambda m: m.take(1),
    pickle.FRAME: lambda m: m.take(8),
    pickle.MARK: Machine.mark,
    pickle.POP: lambda m: m.stack.pop() if m.stack else m.above_mark(),
    pickle.POP_MARK: Machine.above_mark,
    pickle.DUP: _push(lambda m: m.stack[-1]),
    pickle.NONE: _push(lambda m: None),
    pickle.NEWTRUE: _push(lambda m: True),
    pickle.NEWFALSE: _push(lambda m: False),
    pickle.INT: _push(_decimal),
    pickle.LONG: _push(_decimal),
    pickle.BININT: _push(lambda m: m.number("<i")),
    pickle.BININT1: _push(lambda m: m.number("<B")),
    pickle.BININT2: _push(lambda m: m.number("<H")),
    pickle.LONG1: _push(lambda m: _integer(m.take(m.number("<B")))),
    pickle.LONG4: _push(lambda m: _integer(m.take(m.number("<i")))),
    pickle.FLOAT: _push(lambda m: float(m.line())),
    pickle.BINFLOAT: _push(lambda m: m.number(">d")),
    pickle.SHORT_BINUNICODE: lambda m: m.string("<B", text=True),
    pickle.BINUNICODE: lambda m: m.string("<I", text=True),
    pickle.BINUNICODE8: lambda m: m.string("<Q", text=True),
    pickle.SHORT_BINBYTES: lambda m: m.string("<B", text=False),
    pickle.BINBYTES: lambda m: m.string("<I", text=False),
    pickle.BINBYTES8: lambda m: m.string("<Q", text=False),
    pickle.BYTEARRAY8: lambda m: m.string("<Q", text=False),
    pickle.SHORT_BINSTRING: lambda m: m.old_string("<B"),
    pickle.BINSTRING: lambda m: m.old_string("<i"),
    pickle.UNICODE: _push(lambda m: m.line("raw-unicode-escape")),
    pickle.EMPTY_TUPLE: _push(lambda m: ()),
    pickle.TUPLE1: lambda m: m.make_tuple(1),
    pickle.TUPLE2: lambda m: m.make_tuple(2),
    pickle.TUPLE3: lambda m: m.make_tuple(3),
    pickle.TUPLE: lambda m: m.push(tuple(m.above_mark())),
    pickle.EMPTY_LIST: _push(lambda m: []),
    pickle.LIST: lambda m: m.push(m.above_mark()),
    pickle.APPEND: lambda m: m.append([m.stack.pop()]),
    pickle.APPENDS: lambda m: m.append(m.above_mark()),
    pickle.EMPTY_DICT: _push(lambda m: {}),
    pickle.DICT: Machine.new_dict,
    pickle.SETITEM: Machine.set_one,
    pickle.SETITEMS: lambda m: m.set_items(m.above_mark()),
    pickle.EMPTY_SET: _push(lambda m: set()),
    pickle.ADDITEMS: lambda m: m.add(),
    pickle.FROZENSET: lambda m: m.add(set()),
    pickle.GLOBAL: lambda m: m.name(m.line(), m.line()),
    pickle.STACK_GLOBAL: Machine.name_from_stack,
    pickle.REDUCE: Machine.call,
    pickle.NEWOBJ: Machine.call,
    pickle.BUILD: Machine.build,
    pickle.INST: Machine.refuse_instance,
    pickle.BINPERSID: Machine.outside,
    pickle.MEMOIZE: lambda m: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    pickle.BINPUT: lambda m: m.memo.__setitem__(m.number("<B"), m.stack[-1]),
    pickle.LONG_BINPUT: lambda m: m.memo.__setitem__(m.number("<I"), m.stack[-1]),
    pickle.PUT: lambda m: m.memo.__setitem__(int(m.line()), m.stack[-1]),
    pickle.BINGET: _push(lambda m: m.memo[m.number("<B")]),
    pickle.LONG_BINGET: _push(lambda m: m.memo[m.number("<I")]),
    pickle.GET: _push(lambda m: m.memo[int(m.line())]),
}


# A pickle read without running it: numbers, strings, containers, numpy arrays; all else is refused by name.
#
# The standard library's unpickler imports and calls what a file names. Here `this module` goes
# through the opcodes, and a name in the file is only compared with `KNOWN` and what the caller adds to it.
# The
# data of large arrays stays in the file until one is asked for. What an array is made of: numpy's
# `ndarray.__reduce__`.

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
