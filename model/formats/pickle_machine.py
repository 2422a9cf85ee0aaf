"""The stack machine that a pickle is a program for, less the opcodes and names that would make it run code.

Nothing that a file names is ever looked up: a name is only compared with those that the caller knows. Long
strings are left where they are (`Blob`). A pickle can use what it made again and again, so what its calls
copy is counted, and nothing of its containers is printed. Source of the opcodes: Python's Lib/pickletools.py.
"""

import os
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sized
from pathlib import Path
from typing import IO, Any, NamedTuple

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
    """Reads one pickle from where `file` stands; see `model.formats.pickles.load` for the arguments."""

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
