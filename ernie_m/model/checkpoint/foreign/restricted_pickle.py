"""Pickles of numbers, strings, containers and numpy arrays, read without running code; `.pdparams` files.

Every name in a pickle is looked up in a table of stand-ins; other names are rejected. No stand-in copies its
arguments, because a pickle can use one large object any number of times. The Python version of the standard
unpickler is the base, because its table of opcodes can be changed.
A `.pdparams` file of paddle.save is a pickle of {name: array}; bfloat16 is stored as its bits in uint16.
"""

import math
import os
import pickle
import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np

from ernie_m.model.checkpoint.weights import Weights, WeightsFile, check_shape, read_numbers, write_data
from ernie_m.utils.errors import UserError

_FORM = "a file of paddle.save"
_LONG = 4096  # bytes objects of at least this length stay in the file
_TOO_LARGE = 1 << 62  # sizes and strides of an array are below this
_KEY_TYPES = (str, int, float, bool, bytes, type(None))
_DTYPE = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248])")


def load(
    file: IO[bytes],
    path: Path,
    more_stand_ins: Mapping[str, Any] = {},
    persistent_load: Callable[[Any], Any] | None = None,
) -> Any:
    """Read one pickle of protocol 2 to 4, from a seekable file's position to the pickle's end.

    Args:
        more_stand_ins: additional allowed names: name -> stand-in. A pickle can call callable ones, and use
            the others as values.
        persistent_load: resolves references to data outside the pickle; None: not allowed.

    Raises:
        UserError: the pickle contains a name that is not allowed.
        One of `weights.BROKEN`: it is corrupt, or not a pickle.
    """
    return _WeightsUnpickler(file, path, {**_STAND_INS, **more_stand_ins}, persistent_load).load()


class LongBytes(NamedTuple):
    """A bytes object that stays in the file."""

    offset: int
    length: int


class Attributes(dict):
    """A stand-in for an object, with only its attributes."""


class _Dtype:
    """A stand-in for a NumPy dtype. Its state contains the byte order."""

    def __init__(self, code: Any, *_: Any):
        """Take NumPy's code, such as "f4"; `_` takes two constant flags.

        Raises:
            ValueError: not a numeric dtype.
        """
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise ValueError("an array with a non-numeric dtype")
        self.numpy_dtype = np.dtype(code.lstrip("<>|="))

    def set_state(self, state: Any) -> None:
        """Set the byte order."""
        self.numpy_dtype = self.numpy_dtype.newbyteorder(state[1])  # state[0] is a version


class Array:
    """A stand-in for a NumPy array. A pickle creates it empty, and then sets its state.

    Then the shape is known, and `read` reads the data.
    """

    def __init__(self, *_: Any) -> None:
        """Make an empty array, as NumPy's `_reconstruct`; `_` takes its arguments."""
        self.shape: tuple[int, ...] = (0,)
        self.dtype = np.dtype("f4")
        self.order: Literal["C", "F"] = "C"
        self.data: bytes | LongBytes = b""

    def set_state(self, state: Any) -> None:
        """Take shape, dtype and data from the array's state in the pickle.

        Raises:
            ValueError: the state is not that of a numeric array.
        """
        _version, shape, dtype, is_fortran, data = state
        if not isinstance(data, bytes | LongBytes) or not isinstance(dtype, _Dtype):
            raise ValueError("an array without data")
        self.shape = check_sizes(shape)
        self.dtype = dtype.numpy_dtype
        self.order = "F" if is_fortran else "C"
        self.data = data
        check_shape(self.shape, self.dtype)
        length = data.length if isinstance(data, LongBytes) else len(data)
        if length != math.prod(self.shape) * self.dtype.itemsize:
            raise ValueError(f"{length} bytes for an array of shape {list(self.shape)}")

    def read(self, file: IO[bytes]) -> np.ndarray:
        """Read the array from the pickle's file."""
        if isinstance(self.data, LongBytes):
            flat = read_numbers(file, self.dtype, math.prod(self.shape), self.data.offset)
        else:
            flat = np.frombuffer(self.data, self.dtype)
        return flat.reshape(self.shape, order=self.order)


def check_sizes(axes: Any) -> tuple[int, ...]:
    """Return the argument, if it is a shape or strides.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(axes, tuple) and all(type(size) is int and 0 <= size < _TOO_LARGE for size in axes):
        return axes
    raise ValueError("an array without a shape, or with a negative or very large size")


_STAND_INS: dict[str, Any] = {
    "collections.OrderedDict": lambda: OrderedDict(),  # without items, which the class would copy
    "numpy.ndarray": "numpy.ndarray",  # not callable; an argument of `_reconstruct`
    "numpy.dtype": _Dtype,
    "numpy.core.multiarray._reconstruct": Array,  # its name up to NumPy 1
    "numpy._core.multiarray._reconstruct": Array,
}


class _Stream:
    """A file that is never asked for more bytes than it has, whatever length a pickle contains."""

    def __init__(self, file: IO[bytes]):
        position = file.tell()
        self.file = file
        self.size = file.seek(0, os.SEEK_END)
        file.seek(position)

    def check(self, count: int) -> None:
        """Check that at least `count` bytes follow.

        Raises:
            EOFError: there are fewer, or `count` is negative.
        """
        if count < 0 or count > self.size - self.file.tell():
            raise EOFError("unexpected end of file")

    def read(self, count: int) -> bytes:
        """Return the next bytes; an EOFError if there are fewer."""
        self.check(count)
        return self.file.read(count)

    def readline(self) -> bytes:
        """Return a line, which is a name in a pickle, shorter than _LONG."""
        return self.file.readline(_LONG)


class _WeightsUnpickler(pickle._Unpickler):
    """An unpickler that only calls `stand_ins`."""

    stack: list[Any]  # the base class sets both when loading starts
    append: Callable[[Any], None]

    def __init__(self, file: IO[bytes], path: Path, stand_ins: Mapping, persistent_load: Callable | None):
        self.stream = _Stream(file)
        self.path = path
        self.stand_ins = stand_ins
        super().__init__(self.stream)
        if persistent_load is not None:
            self.persistent_load = persistent_load  # type: ignore[method-assign]  # pickle looks it up on the object

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name that the pickle refers to.

        Raises:
            UserError: the name is not allowed.
        """
        dotted = f"{module}.{name}"
        if dotted not in self.stand_ins:
            raise UserError(
                f"{self.path}: contains {dotted[:100]}; only arrays and plain containers are allowed. "
                "Save the weights only, preferably as model.safetensors"
            )
        return self.stand_ins[dotted]

    def _skip_frame(self) -> None:
        """Skip the length of a frame, 8 bytes. The base class would read the whole frame into memory."""
        self.stream.read(8)

    def _bytes(self, struct_format: str) -> None:
        """Push a bytes object on the stack. Its length comes first, in this `struct` format."""
        (length,) = struct.unpack(struct_format, self.stream.read(struct.calcsize(struct_format)))
        if length < _LONG:
            self.append(self.stream.read(length))
        else:
            self.stream.check(length)
            self.append(LongBytes(self.stream.file.tell(), length))
            self.stream.file.seek(length, os.SEEK_CUR)

    def _call(self) -> None:
        """Replace a function and its arguments on the stack with the result."""
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not callable(function) or not isinstance(arguments, tuple):
            raise ValueError("call of a function that is not allowed")
        self.stack[-1] = function(*arguments)

    def _build(self) -> None:
        """Set the state, at the top of the stack, of the object below it."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, _Dtype | Array):
            target.set_state(state)
        elif isinstance(target, Attributes) and type(state) is dict:
            target.update(state)
        elif not isinstance(target, OrderedDict):  # torch sets attributes on its dict, which are ignored
            raise ValueError(f"a state for a {type(target).__name__}")

    def _set_items(self, keys_and_values: list) -> None:
        """Put alternating keys and values into the dict on the stack."""
        keys = keys_and_values[::2]
        values = keys_and_values[1::2]
        for key in keys:
            if type(key) not in _KEY_TYPES:  # hashing a deeply nested tuple would crash Python
                raise ValueError(f"a key of type {type(key).__name__}")
        if not isinstance(self.stack[-1], dict):
            raise ValueError("items set on an object that is not a dict")
        self.stack[-1].update(zip(keys, values, strict=True))

    def _set_item(self) -> None:
        """Put the key and the value on the stack into the dict below them."""
        value = self.stack.pop()
        key = self.stack.pop()
        self._set_items([key, value])

    # Opcode -> the method that executes it. `pickle` has each opcode as a bytes object of one byte; [0] is
    # the byte as a number.
    dispatch = pickle._Unpickler.dispatch | {
        pickle.FRAME[0]: _skip_frame,
        pickle.BINBYTES[0]: lambda self: self._bytes("<I"),
        pickle.BINBYTES8[0]: lambda self: self._bytes("<Q"),
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: lambda self: self._set_items(self.pop_mark()),
        pickle.REDUCE[0]: _call,
        pickle.NEWOBJ[0]: _call,
        pickle.BUILD[0]: _build,
    }
    # Other ways of creating or looking up objects, sets, and the opcodes of protocols 0 and 5.
    for _code in (
        pickle.INST,
        pickle.OBJ,
        pickle.NEWOBJ_EX,
        pickle.EXT1,
        pickle.EXT2,
        pickle.EXT4,
        pickle.PERSID,
        pickle.DICT,
        pickle.EMPTY_SET,
        pickle.ADDITEMS,
        pickle.FROZENSET,
        pickle.BYTEARRAY8,
        pickle.NEXT_BUFFER,
        pickle.READONLY_BUFFER,
    ):
        del dispatch[_code[0]]


def read_pdparams(path: Path) -> Weights:
    """Open a state dict; each array is read when it is accessed. bfloat16 is returned as its bits, uint16.

    Raises:
        UserError: the file is missing, truncated, modified, not a dict of arrays, or contains anything else
            than arrays and plain containers; the message names the first unknown name.
    """
    opened = WeightsFile(path, _FORM)
    with opened.open_binary() as pickled:
        state = load(pickled, path)
        is_state_dict = isinstance(state, dict) and all(isinstance(name, str) for name in state)
        if not is_state_dict:
            raise ValueError("not a state dict")
    state.pop("StructuredToParameterName@@", None)  # Paddle's internal names
    # A tensor within containers is a pair: its name and its array.
    values = {
        name: value[1] if isinstance(value, tuple) and len(value) == 2 else value
        for name, value in state.items()
    }
    arrays = {name: value for name, value in values.items() if isinstance(value, Array)}

    def fetch(name: str) -> np.ndarray:
        with opened.open_binary() as file:
            return arrays[name].read(file)

    shapes = {name: array.shape for name, array in arrays.items()}
    other_names = [name for name in state if name not in arrays]
    return Weights(path, shapes, fetch, other_names=other_names)


# The pickle is written manually, because the pickle library would need every array in memory at once.
_BEGIN_PICKLE = pickle.PROTO + b"\x04" + pickle.EMPTY_DICT + pickle.MARK
_END_PICKLE = pickle.SETITEMS + pickle.STOP  # all items since the mark
# NumPy's _reconstruct(ndarray, (0,), b"b"); NumPy 1 and 2 both know the name.
_RECONSTRUCT = b"\x8c\x15numpy.core.multiarray\x8c\x0c_reconstruct\x93"
_NEW_ARRAY = _RECONSTRUCT + b"\x8c\x05numpy\x8c\x07ndarray\x93K\x00\x85C\x01b\x87R"
# dtype("f4", False, True), and its state (3, "<", None, None, None, -1, -1, 0).
_DTYPE_F4 = b"\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02f4\x89\x88\x87R"
_LITTLE_ENDIAN = b"(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def write_pdparams(path: str | os.PathLike, weights: Mapping[str, np.ndarray]) -> None:
    """Write weights as float32, one at a time, so that paddle.load reads them. Not atomic."""
    with open(path, "wb") as file:
        file.write(_BEGIN_PICKLE)
        for name in weights:
            array = np.asarray(weights[name], dtype="<f4", order="C")
            encoded_name = name.encode("utf-8")
            file.write(pickle.BINUNICODE + struct.pack("<I", len(encoded_name)) + encoded_name)
            file.write(_NEW_ARRAY)
            # The array's state is the tuple (1, shape, dtype, False, data); False: C order.
            file.write(pickle.MARK + pickle.BININT1 + b"\x01")
            shape = b"".join(pickle.LONG1 + b"\x08" + struct.pack("<q", size) for size in array.shape)
            file.write(pickle.MARK + shape + pickle.TUPLE)
            file.write(_DTYPE_F4 + _LITTLE_ENDIAN)
            file.write(pickle.NEWFALSE)
            file.write(pickle.BINBYTES8 + struct.pack("<Q", array.nbytes))
            write_data(file, array)
            file.write(pickle.TUPLE + pickle.BUILD)
        file.write(_END_PICKLE)
